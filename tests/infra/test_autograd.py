"""Derivatives of derivatives are refused; first derivatives may be asked for with a graph."""

import pytest
import torch
from problems import clouds, generator, simplex

import rieszflow as rf

FUNCTIONALS = {
    "mmd2": lambda x, y, **w: rf.mmd2(x, y, kernel=rf.Gaussian(1.0), **w),
    "energy_distance": lambda x, y, **w: rf.energy_distance(x, y, r=1.5, **w),
    "sliced_mmd2": lambda x, y, **w: rf.sliced_mmd2(x, y, slices=8, seed=generator(1), **w),
    "sliced on bins": lambda x, y, **w: rf.sliced_mmd2(x, y, slices=8, engine="bins", seed=generator(1)),
}


@pytest.mark.parametrize("name", FUNCTIONALS)
def test_a_second_derivative_is_an_error(name):
    f = FUNCTIONALS[name]
    x, y = clouds(1, 6, 5, 3)
    says = "^`(mmd2|sliced_mmd2)` can be differentiated once, got a second derivative"
    for k in range(2):
        leaves = [t.clone().requires_grad_(i == k) for i, t in enumerate((x, y))]
        (first,) = torch.autograd.grad(f(*leaves), leaves[k], create_graph=True)
        torch.testing.assert_close(first.detach(), torch.autograd.grad(f(*leaves), leaves[k])[0])
        with pytest.raises(RuntimeError, match=says):
            (first**2).sum().backward()
    for second in (torch.autograd.functional.hessian, lambda g, z: torch.autograd.functional.hvp(g, z, torch.ones_like(z))):
        with pytest.raises(RuntimeError, match=says):
            second(lambda z: f(z, y), x)
    if name != "sliced on bins":
        w = simplex(1, 6).requires_grad_()
        (first,) = torch.autograd.grad(f(x, y, x_weights=w), w, create_graph=True)
        with pytest.raises(RuntimeError, match=says):
            (first**2).sum().backward()
    # By the upstream gradient, too, although that would be a first derivative.
    leaf, factor = x.clone().requires_grad_(), torch.ones((), dtype=torch.float64, requires_grad=True)
    (first,) = torch.autograd.grad(factor * f(leaf, y), leaf, create_graph=True)
    with pytest.raises(RuntimeError, match=says):
        first.sum().backward()


@pytest.mark.parametrize("name", FUNCTIONALS)
def test_the_first_derivative_may_be_asked_for_with_a_graph(name):
    """A graph that is built and not used changes nothing; nor does one that is used next to it."""
    x, y = clouds(1, 6, 5, 3)
    leaf = x.clone().requires_grad_()
    (first,) = torch.autograd.grad(FUNCTIONALS[name](leaf, y), leaf, create_graph=True)
    (second,) = torch.autograd.grad((first.detach() * leaf**2).sum(), leaf)
    torch.testing.assert_close(second, 2 * first.detach() * x)
