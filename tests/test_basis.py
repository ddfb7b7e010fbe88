"""One-dimensional basis functions of kernels: their means over directions are the kernels."""

import math

import numpy as np
import pytest
from problems import KERNELS, kernel_by_hand

import rieszflow as rf
from rieszflow import kernels


@pytest.mark.parametrize("kernel", KERNELS, ids=str)
@pytest.mark.parametrize("d", [1, 2, 3, 8, 50, 785])
def test_slices_average_to_the_kernel(kernel, d):
    """k(ρ) = ∫ f(ρ s) dμ(s) with the density of one coordinate of the sphere, ∝ sin^{d−2} θ at s = cos θ."""
    rho = np.array([0.1, 1.0, 3.0])
    if d == 1:
        mean = kernel.basis(rho, 1)
    else:
        nodes, weights = np.polynomial.legendre.leggauss(800)
        theta = (nodes + 1) * np.pi / 4
        density = weights * np.sin(theta) ** (d - 2)
        mean = (kernel.basis(rho[:, None] * np.cos(theta), d) * density).sum(1) / density.sum()
    wanted = [kernel_by_hand(kernel, np.array([0.0]), np.array([v])) for v in rho]
    # |t|^0.3 has a cusp at the end of the integral, which costs the quadrature digits
    np.testing.assert_allclose(mean, wanted, atol=1e-5 if kernel == rf.Riesz(0.3) else 1e-7)


@pytest.mark.parametrize("dof", [1, 3, 5])
@pytest.mark.parametrize("d", [1, 2, 7, 64])
def test_interpolation_is_the_quadrature(d, dof):
    """Between the nodes, at distances from 1e-4 to 1e4 lengths of the slice, and beyond the end where nothing is left."""
    t = 10 ** np.random.default_rng(d).uniform(-4, 4, 200) / math.sqrt(d)
    np.testing.assert_allclose(kernels._student_basis(t, d, dof), kernels._student_by_quadrature(t, d, dof), rtol=0, atol=1e-8)
    assert kernels._student_basis(np.array([0.0]), d, dof)[0] == pytest.approx(1, abs=1e-9)
    assert np.array_equal(kernels._student_basis(np.array([[1e7, np.inf]]), d, dof), [[0, 0]])
    # The interpolators are cached.
    before = kernels._student_interpolator.cache_info()
    kernels._student_basis(t, d, dof)
    after = kernels._student_interpolator.cache_info()
    assert after.hits == before.hits + 1 and after.misses == before.misses and after.maxsize is not None
