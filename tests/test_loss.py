"""`SlicedMMDLoss`: the value and gradients of `sliced_mmd2`, in the hands of PyTorch's own tools."""

import copy
import pickle

import numpy as np
import pytest
import torch
from problems import clouds, generator
from torch.utils.checkpoint import checkpoint

import rieszflow as rf
from rieszflow import SlicedMMDLoss
from rieszflow.errors import DerivativeError, InputError, InputTypeError


def loss(**options):
    return SlicedMMDLoss(**{"slices": 32, "seed": 1, **options})


def gradient(f, *points):
    leaves = [p.clone().requires_grad_() for p in points]
    return torch.autograd.grad(f(*leaves), leaves)


@pytest.mark.parametrize("statistic", ["V", "U"])
@pytest.mark.parametrize("directions", ["auto", "independent", rf.PatchSlices((1, 4, 4), 2)])
def test_it_is_sliced_mmd2_of_the_flattened_points(directions, statistic):
    x, y = (t.float().view(-1, 1, 4, 4) for t in clouds(1, 30, 20, 16))
    options = {"slices": 32, "directions": directions, "statistic": statistic}
    f = lambda x, y: rf.sliced_mmd2(x.flatten(1), y.flatten(1), seed=1, **options)  # noqa: E731
    assert torch.equal(loss(**options)(x, y), f(x, y))
    for mine, theirs in zip(gradient(loss(**options), x, y), gradient(f, x, y), strict=True):
        assert torch.equal(mine, theirs)


@pytest.mark.parametrize("statistic", ["V", "U"])
@pytest.mark.parametrize(("few", "many", "d", "slices"), [(1024, 1025, 3, 258), (512, 513, 70, 256), (512, 513, 300, 512)])
def test_auto_is_brute_force_for_small_batches(few, many, d, slices, statistic):
    """And above, sliced_mmd2 on bins with whole blocks of slices."""
    y = torch.randn(20, d, generator=generator(1))
    f = loss(slices="auto", statistic=statistic)
    assert torch.equal(f(y[:5], y), f(y[:5], y)) and f.calls == 2
    for n in (few, many):
        x = torch.randn(n, d, generator=generator(2))
        options = {"slices": slices, "engine": "bins", "seed": 1} if n == many else {}
        g = lambda x, y: (rf.sliced_mmd2 if options else rf.mmd2)(x, y, statistic=statistic, **options)  # noqa: B023, E731
        for a, b in ((x, y), (y, x)):
            assert torch.equal(loss(slices="auto", statistic=statistic)(a, b), g(a, b))
            found = gradient(loss(slices="auto", statistic=statistic), a, b)
            assert all(torch.equal(mine, theirs) for mine, theirs in zip(found, gradient(g, a, b), strict=True))


def test_auto_looks_at_pairs_only_where_nothing_else_is_asked_for():
    x, y = (t.float() for t in clouds(1, 30, 20, 16))
    exact = rf.mmd2(x, y)
    assert SlicedMMDLoss()(x, y) == exact and SlicedMMDLoss(kernel=rf.Gaussian(3.0))(x, y) == rf.mmd2(
        x, y, kernel=rf.Gaussian(3.0)
    )
    for options in (
        {"engine": "sort"},
        {"engine": "bins"},
        {"directions": "independent"},
        {"directions": rf.PatchSlices((1, 4, 4), 2)},
    ):
        f = SlicedMMDLoss(seed=0, **options)
        assert f(x, y) != f(x, y)
    xs = torch.stack([x, 2 * x])
    torch.testing.assert_close(torch.vmap(lambda z: SlicedMMDLoss()(z, y))(xs), torch.stack([exact, rf.mmd2(2 * x, y)]))


def test_its_mean_over_calls_is_brute_force():
    """Fresh slices: values are independent and unbiased, so their mean is within 4 standard errors, once in 16,000 outside."""
    x, y = clouds(2, 40, 50, 7)
    f = loss(slices=7, directions="orthogonal")
    values = np.array([f(x, y).item() for _ in range(300)])
    assert len(set(values)) == 300
    assert abs(values.mean() - rf.mmd2(x, y).item()) < 4 * values.std() / 300**0.5


def test_equal_seeds_are_equal_and_a_training_goes_on():
    x, y = clouds(3, 9, 8, 5)
    one, two = loss(), loss()
    seen = [one(x, y) for _ in range(4)]
    assert seen == [two(x, y) for _ in range(4)] and len({v.item() for v in seen}) == 4
    assert loss(seed=2)(x, y) != seen[0]
    later = loss(seed=5)
    later.load_state_dict(one.state_dict())
    others = [copy.deepcopy(one), pickle.loads(pickle.dumps(one)), later]
    assert len({m(x, y).item() for m in (one, *others)}) == 1
    torch.manual_seed(0)
    drawn = SlicedMMDLoss()
    torch.manual_seed(0)
    assert SlicedMMDLoss().seed == drawn.seed and SlicedMMDLoss().seed != drawn.seed


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_narrow_numbers_are_made_wide_first(dtype):
    x, y = (t.to(dtype) for t in clouds(4, 30, 20, 6))
    assert torch.equal(loss()(x, y), loss()(x.float(), y.float())) and loss()(x, y.float()).dtype == torch.float32
    (mine,), (wide,) = gradient(lambda z: loss()(z, y), x), gradient(lambda z: loss()(z, y.float()), x.float())
    assert mine.dtype == dtype and torch.equal(mine, wide.to(dtype))


def test_autocast_changes_nothing():
    x, y = (t.float() for t in clouds(5, 30, 20, 6))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        (inside,) = gradient(lambda z: loss()(z, y), x)
        assert torch.equal(loss()(x, y), loss()(x, y))
    assert torch.equal(inside, gradient(lambda z: loss()(z, y), x)[0]) and inside.dtype == torch.float32


def test_torch_func():
    x, y = (t.float() for t in clouds(6, 12, 10, 4))
    f = lambda x, y: loss()(x, y)  # noqa: E731
    gx, gy = gradient(f, x, y)
    assert torch.equal(torch.func.grad(f)(x, y), gx) and torch.equal(torch.func.grad(f, argnums=1)(x, y), gy)
    assert torch.equal(torch.func.jacrev(f)(x, y), gx)
    xs, ys = torch.stack([x, 2 * x, x + 1]), torch.stack([y, y - 1, y])
    # A batch is dealt with at once: sums in another order, of a few roundings.
    near = {"rtol": 1e-5, "atol": 1e-6}
    for dims in ((0, 0), (0, None), (None, 0)):
        members = [[t[k] if d == 0 else t[0] for t, d in zip((xs, ys), dims, strict=True)] for k in range(3)]
        given = [t if d == 0 else t[0] for t, d in zip((xs, ys), dims, strict=True)]
        torch.testing.assert_close(torch.vmap(f, dims)(*given), torch.stack([f(*m) for m in members]), **near)
        both = torch.vmap(torch.func.grad(f, argnums=(0, 1)), dims)(*given)
        expected = [torch.stack(g) for g in zip(*(gradient(f, *m) for m in members), strict=True)]
        torch.testing.assert_close(list(both), expected, **near)
    torch.testing.assert_close(torch.vmap(f, 1)(xs.transpose(0, 1), ys.transpose(0, 1))[1], f(xs[1], ys[1]), **near)


def test_derivatives_through_vmap():
    """By `torch.func.grad`, `jacrev` and `backward`, outside of one or two `vmap`s, and by what is not batched."""
    x, y = (t.float() for t in clouds(6, 12, 10, 4))
    xs = torch.stack([x, 2 * x, x + 1])
    want = torch.stack([gradient(lambda z: loss()(z, y), z)[0] for z in xs])
    f = torch.vmap(lambda z: loss()(z, y))
    near = {"rtol": 1e-5, "atol": 1e-6}
    torch.testing.assert_close(torch.func.grad(lambda t: f(t).sum())(xs), want, **near)
    torch.testing.assert_close(torch.func.jacrev(f)(xs).sum(0), want, **near)
    torch.testing.assert_close(gradient(lambda t: f(t).sum(), xs)[0], want, **near)
    torch.testing.assert_close(gradient(lambda t: torch.vmap(f)(t[None]).sum(), xs)[0], want, **near)
    (by_y,) = gradient(lambda t: torch.vmap(lambda z: loss()(z, t))(xs).sum(), y)
    (each,) = gradient(lambda t: sum(loss()(z, t) for z in xs), y)
    torch.testing.assert_close(by_y, each, **near)


@pytest.mark.parametrize("reentrant", [True, False])
def test_an_activation_checkpoint_sees_the_same_slices(reentrant):
    """Three calls on equal points, whose slices differ: each in a checkpoint of its own, all in one, nested, batched."""
    x, y = clouds(11, 12, 10, 4)
    f = loss()
    (want,) = gradient(lambda z: f(z, y) + 2 * f(z, y) + 3 * f(z, y), x)

    def checkpointed(part, z):
        return checkpoint(part, z, use_reentrant=reentrant)

    def one_each(f):
        return lambda z: sum(k * checkpointed(lambda t: f(t, y), z) for k in (1, 2, 3))

    def together(f):
        return lambda z: checkpointed(lambda t: f(t, y) + 2 * f(t, y) + 3 * f(t, y), z)

    def nested(f):
        return lambda z: checkpointed(one_each(f), z)

    def batched(f):
        return lambda z: checkpointed(lambda t: sum(k * torch.vmap(lambda u: f(u, y))(t[None]).sum() for k in (1, 2, 3)), z)

    for way in (one_each, together, nested, batched):
        f, leaf = loss(), x.clone().requires_grad_()
        way(f)(leaf).backward()
        torch.testing.assert_close(leaf.grad, want, rtol=1e-12, atol=1e-15)
        assert f.calls == 3
        f.eval()
        with torch.no_grad():
            f(x, y)
        assert f.calls == 4
    f = loss()
    forgetful = checkpoint(lambda t: f(t, y), x.clone().requires_grad_(), use_reentrant=reentrant, preserve_rng_state=False)
    with pytest.raises(DerivativeError, match="must restore torch's random state"):
        forgetful.backward()
    again = checkpoint(
        lambda t: rf.sliced_mmd2(t, y, slices=8, seed=generator(1)) + rf.sliced_mmd2(t, y, slices=8),
        x.clone().requires_grad_(),
        use_reentrant=reentrant,
    )
    with pytest.raises(DerivativeError, match="`seed` must be an integer or None in an activation checkpoint"):
        again.backward()


def test_calls_draw_random_numbers_in_checkpoints_only():
    x, y = clouds(11, 12, 10, 4)
    before = torch.get_rng_state()
    f = loss()
    gradient(lambda z: f(z, y), x)
    with torch.inference_mode():
        f(x, y)
    assert torch.equal(torch.get_rng_state(), before) and f.calls == 2


def test_points_without_values():
    x, y = (torch.empty(n, 2, 3, device="meta") for n in (5, 4))
    f = loss()
    for module in (f, copy.deepcopy(f).to("meta")):
        leaf = x.clone().requires_grad_()
        value = module(leaf, y)
        value.backward()
        assert value.is_meta and value.shape == () and leaf.grad.is_meta and leaf.grad.shape == x.shape
        for a, b in ((x, torch.rand(4, 6)), (torch.rand(5, 6), y)):
            with pytest.raises(InputError, match="must both be on the meta device .*, got x on"):
                module(a, b)
        with pytest.raises(InputError, match="`y` must have points of dimension d = 6, as x has, got d = 3"):
            module(x, y[:, 0])
    with pytest.raises(InputError, match="the module on meta"):
        f.to("meta")(torch.rand(5, 6), torch.rand(4, 6))
    assert loss()(x, y).dtype == torch.float32 and loss()(x.double(), y).dtype == torch.float64


def test_a_second_derivative_is_an_error():
    x, y = clouds(7, 6, 5, 3)
    leaf = x.clone().requires_grad_()
    (first,) = torch.autograd.grad(loss()(leaf, y), leaf, create_graph=True)
    with pytest.raises(DerivativeError, match="`SlicedMMDLoss` can be differentiated once, got a second derivative"):
        (first**2).sum().backward()
    for second in (torch.func.hessian, lambda f: torch.func.jacrev(torch.func.jacrev(f)), lambda f: torch.func.jacfwd(f)):
        with pytest.raises(
            DerivativeError, match="(can be differentiated once, got a second|in reverse mode, got a forward-mode) derivative"
        ):
            second(lambda z: loss()(z, y))(x)
    # By the factor before it, it is a first one, and right.
    factor = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    (first,) = torch.autograd.grad(factor * loss()(leaf, y), leaf, create_graph=True)
    (by_factor,) = torch.autograd.grad(first.sum(), factor)
    torch.testing.assert_close(by_factor, gradient(lambda z: loss()(z, y), x)[0].sum())


def test_the_operator_is_what_torch_expects():
    x, y = (t.float().requires_grad_() for t in clouds(8, 6, 5, 3))
    number = loss()._index
    for needed in ((True, True), (True, False), (False, False)):
        args = (x, y, torch.tensor(3), number, *needed)
        # Not its test of all outputs' gradients: that is a second derivative here.
        names = ("test_schema", "test_autograd_registration", "test_faketensor")
        torch.library.opcheck(torch.ops.rieszflow.sliced_mmd2.default, args, test_utils=names)


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_a_compiled_step_is_one_graph_and_the_same(backend):
    x, y = (t.float() for t in clouds(9, 20, 15, 4))
    torch.manual_seed(0)
    network, f, g = torch.nn.Linear(4, 4), loss(), loss()
    step = torch.compile(lambda z: 3 * f(network(z), y) + network.bias.sum(), backend=backend, fullgraph=True)
    for _ in range(2):
        want = 3 * g(network(x), y) + network.bias.sum()
        wanted = torch.autograd.grad(want, network.weight)
        got = step(x)
        torch.testing.assert_close(got, want)
        torch.testing.assert_close(torch.autograd.grad(got, network.weight), wanted)
    assert f.calls == 2


def test_a_network_learns_by_it():
    """A linear map learns the moments of its targets: mean within 4 standard errors of 4,000 draws, and what is left of
    the stochastic descent, some 0.05."""
    g = generator(10)
    target = torch.tensor([[2.0, 0.0], [0.5, 0.7]])
    network, f = torch.nn.Linear(2, 2), loss(slices=64, statistic="U")
    with torch.no_grad():
        network.weight.copy_(torch.eye(2))
        network.bias.zero_()
    optimiser = torch.optim.Adam(network.parameters(), 0.03)
    for k in range(400):
        optimiser.param_groups[0]["lr"] = 0.03 * (1 - k / 400)
        optimiser.zero_grad()
        y = torch.randn(200, 2, generator=g) @ target.T + 1
        f(network(torch.randn(200, 2, generator=g)), y).backward()
        optimiser.step()
    covariance = network.weight @ network.weight.T
    torch.testing.assert_close(network.bias.detach(), torch.ones(2), rtol=0, atol=0.2)
    torch.testing.assert_close(covariance.detach(), target @ target.T, rtol=0, atol=0.6)


def test_what_is_refused():
    x, y = torch.rand(5, 3), torch.rand(4, 3)
    for options, says in (
        ({"slices": 0}, "`slices` must be a positive integer, got 0"),
        ({"directions": "hexagonal"}, "`directions` must be one of 'auto', .*, got 'hexagonal'"),
        ({"engine": "steam"}, "engine.*'steam'"),
        ({"statistic": "W"}, "`?statistic`? must be .*, got 'W'"),
        ({"seed": -1}, "seed"),
        ({"kernel": "riesz"}, "kernel"),
    ):
        with pytest.raises((InputError, InputTypeError), match=says):
            SlicedMMDLoss(**options)
    for a, b, error, says in (
        (x, y.numpy(), InputTypeError, "`y` must be a torch.Tensor .*, got ndarray"),
        (x.long(), y, InputTypeError, "`x` must have dtype .*, got torch.int64"),
        (x[0], y, InputError, r"`x` must .* got \(3,\)"),
        (x[:0], y, InputError, r"`x` must .* got empty shape \(0, 3\)"),
        (x, y[:, :2], InputError, "`y` must have points of dimension d = 3, as x has, got d = 2"),
        (x / 0, y, InputError, "`x` must be finite, got NaN or infinity"),
        (x.to(torch.complex64), y, InputTypeError, "`x` must have dtype .*, got torch.complex64"),
    ):
        with pytest.raises(error, match=says):
            loss()(a, b)
    with pytest.raises(InputError, match="no derivative|Riesz|sort"):
        loss(engine="sort", kernel=rf.Gaussian(1.0))(x, y)


def test_a_loss_made_in_inference_mode_counts_its_calls_outside_of_it():
    x, y = torch.randn(2, 20, 3, generator=generator(9))
    with torch.inference_mode():
        loss = rf.SlicedMMDLoss(slices=8, seed=0)
        first = loss(x, y)
    again = rf.SlicedMMDLoss(slices=8, seed=0)
    assert torch.equal(first, again(x, y)) and torch.equal(loss(x, y), again(x, y)) and loss.calls == 2
