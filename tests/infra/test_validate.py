"""Bad input at every public door: the right exception, and a message that names the argument."""

import fractions

import numpy as np
import pytest
import torch
from problems import generator

import rieszflow as rf

GOOD = torch.rand(4, 3)
FUNCTIONS = [rf.mmd2, rf.energy_distance, rf.mmd2_gradient, rf.sliced_mmd2, rf.sliced_mmd2_gradient]


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda f: f.__name__)
@pytest.mark.parametrize(
    ("bad", "error", "says"),
    [
        ([[1.0]], TypeError, "list"),
        (None, TypeError, "NoneType"),
        (torch.ones(4, 3, dtype=torch.int64), TypeError, "int64"),
        (torch.ones(4, 3, dtype=torch.float16), TypeError, "float16"),
        (torch.ones(4, 3, dtype=torch.complex64), TypeError, "complex64"),
        (np.ones((4, 3), np.int32), TypeError, "int32"),
        (np.array([["a"]]), TypeError, "<U1"),
        (torch.ones(4), ValueError, r"\(4,\)"),
        (torch.ones(0, 3), ValueError, "empty"),
        (torch.ones(4, 0), ValueError, "empty"),
        (torch.full((4, 3), float("nan")), ValueError, "NaN"),
        (torch.full((4, 3), float("inf")), ValueError, "infinity"),
    ],
)
def test_bad_points(function, bad, error, says):
    with pytest.raises(error, match=f"^`x` must .*{says}"):
        function(bad, GOOD)
    with pytest.raises(error, match=f"^`y` must .*{says}"):
        function(GOOD, bad)


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda f: f.__name__)
def test_clouds_that_do_not_fit(function):
    with pytest.raises(ValueError, match="`y` must have points of dimension d = 3.* got d = 2"):
        function(GOOD, torch.rand(4, 2))
    with pytest.raises(TypeError, match="`y` must have dtype torch.float32.* got torch.float64"):
        function(GOOD, torch.rand(4, 3).double())
    with pytest.raises(ValueError, match="`y` must have batch dimensions"):
        function(GOOD, torch.rand(2, 4, 3))


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda f: f.__name__)
@pytest.mark.parametrize(
    ("weights", "error", "says"),
    [
        (torch.full((4,), 0.3), ValueError, "sum 1.2"),
        (torch.tensor([-0.5, 0.5, 0.5, 0.5]), ValueError, "negative"),
        (torch.tensor([float("nan")] * 4), ValueError, "non-finite"),
        (torch.full((5,), 0.2), ValueError, r"shape \(5,\)"),
        (torch.full((4,), 0.25).double(), TypeError, "float64"),
        ([0.25] * 4, TypeError, "list"),
    ],
)
def test_bad_weights(function, weights, error, says):
    with pytest.raises(error, match=f"^`x_weights` must .*{says}"):
        function(GOOD, GOOD, x_weights=weights)
    with pytest.raises(error, match=f"^`y_weights` must .*{says}"):
        function(GOOD, GOOD, y_weights=weights)


@pytest.mark.parametrize("r", [0, 2, -1, 2.5, float("nan"), float("inf"), "1", None, True])
def test_bad_exponent(r):
    with pytest.raises(ValueError, match=r"^`r` must be in the open interval \(0, 2\), got"):
        rf.Riesz(r)
    with pytest.raises(ValueError, match="^`r` must be "):
        rf.energy_distance(GOOD, GOOD, r=r)


def test_bad_kernels():
    for make in (lambda: rf.Gaussian(0), lambda: rf.Laplace(-1), lambda: rf.InverseMultiquadric(float("nan"))):
        with pytest.raises(ValueError, match="positive"):
            make()
    with pytest.raises(ValueError, match=r"^`nu` must be 0\.5, 1\.5 or 2\.5, got"):
        rf.Matern(1.0)
    with pytest.raises(TypeError, match="^`kernel` must be .*, got 'gauss'"):
        rf.mmd2(GOOD, GOOD, kernel="gauss")
    for function in (rf.sliced_mmd2, rf.sliced_mmd2_gradient):
        with pytest.raises(TypeError, match="^`kernel` must be .*, got 'gauss'"):
            function(GOOD, GOOD, kernel="gauss")
        with pytest.raises(ValueError, match=r"^`kernel` must be Riesz\(1.0\) .*got Gaussian"):
            function(GOOD, GOOD, kernel=rf.Gaussian(), engine="sort")
        with pytest.raises(ValueError, match="^`kernel` must be resolved by .*Gaussian"):
            function(GOOD, GOOD, kernel=rf.Gaussian(1e-5))


def test_bad_statistic():
    for function in (rf.mmd2, rf.mmd2_gradient, rf.sliced_mmd2, rf.sliced_mmd2_gradient):
        with pytest.raises(ValueError, match="^`statistic` must .* got 'W'"):
            function(GOOD, GOOD, statistic="W")
        with pytest.raises(ValueError, match="^`x` must .*two points"):
            function(GOOD[:1], GOOD, statistic="U")
        with pytest.raises(ValueError, match="^`y` must .*two points"):
            function(GOOD, GOOD, statistic="U", y_weights=torch.tensor([1.0, 0, 0, 0]))


@pytest.mark.parametrize("function", [rf.sliced_mmd2, rf.sliced_mmd2_gradient])
def test_bad_slices(function):
    for slices in (0, -3, 2.0, "8", True):
        with pytest.raises(ValueError, match="^`slices` must "):
            function(GOOD, GOOD, slices=slices)
    with pytest.raises(ValueError, match="^`directions` must be one of 'auto', 'independent', 'orthogonal', .* got 'haar'"):
        function(GOOD, GOOD, directions="haar")
    with pytest.raises(ValueError, match=r"^`directions` must be a tensor of shape \(P, 3\)"):
        function(GOOD, GOOD, directions=torch.ones(5, 2))
    with pytest.raises(ValueError, match="norm 1"):
        function(GOOD, GOOD, directions=torch.ones(5, 3))
    with pytest.raises(ValueError, match="^`engine` must be one of .*got 'fft'"):
        function(GOOD, GOOD, engine="fft")
    with pytest.raises(TypeError, match="^`seed` must .* got str"):
        function(GOOD, GOOD, seed="3")


def test_bad_flow():
    for key, value in {"step_size": 0, "momentum": 1.0, "slices": 0, "seed": "1", "bounds": (1.0, 0.0)}.items():
        with pytest.raises((ValueError, TypeError), match=f"^`{key}` must "):
            rf.ParticleFlow(GOOD, **{key: value})
    with pytest.raises(ValueError, match="^`y` must .*NaN"):
        rf.ParticleFlow(GOOD * float("nan"))
    flow = rf.ParticleFlow(GOOD, slices=3)
    with pytest.raises(ValueError, match="^`steps` must "):
        flow.run(GOOD, steps=0)
    with pytest.raises(ValueError, match="d = "):
        flow.run(torch.rand(4, 2), steps=1)
    flow.run(GOOD, steps=1)
    with pytest.raises(ValueError, match="velocity"):
        flow.run(torch.rand(5, 3), steps=1)


@pytest.mark.parametrize("make", [rf.Riesz, rf.Gaussian, rf.Laplace, rf.InverseMultiquadric, lambda v: rf.Matern(1.5, v)])
def test_numbers_of_all_kinds(make):
    for value in (1, np.float32(1), np.float64(1), np.int16(1), np.longdouble(1), fractions.Fraction(1)):
        kernel = make(value)
        assert kernel == make(1.0) and repr(kernel) == repr(make(1.0)) and hash(kernel) == hash(make(1.0))
    bad = (True, np.True_, "1", None, 1j, [1.0], np.ones(1), torch.ones(()), float("nan"), float("inf"), 10**400, -(10**400), 0)
    for value in bad:
        with pytest.raises(
            ValueError, match="^(`r` must be in the open interval .*|`(sigma|c)` must be a positive finite number)"
        ):
            make(value)


def test_numbers_of_other_arguments():
    assert rf.Matern(np.float32(1.5)) == rf.Matern(1.5)
    for value in (True, "1.5", None, np.ones(2), float("nan"), 10**400):
        with pytest.raises(ValueError, match="^`nu` must be "):
            rf.Matern(value)
    flow = rf.ParticleFlow(GOOD, slices=4, step_size=np.float32(0.5), momentum=np.float64(0.5), bounds=[np.float32(0), 1])
    assert (flow.step_sizes, flow.momenta, flow.bounds) == ([0.5], [0.5], (0.0, 1.0))
    for bounds in (5, "ab", ("a", "b"), (0.0, float("nan")), (0, 1, 2), (False, True)):
        with pytest.raises(ValueError, match="^`bounds` must "):
            rf.ParticleFlow(GOOD, bounds=bounds)
    assert rf.PatchSlices([np.int64(3), 16, 16], np.int32(3)) == rf.PatchSlices((3, 16, 16), 3)
    for shape in (5, None, "abc", (3, 8.0, 8), (3, True, 8)):
        with pytest.raises(ValueError, match=r"^`shape`, `size` and `stretch` must be .*, got PatchSlices"):
            rf.PatchSlices(shape)


def test_names_that_are_none():
    for statistic in (None, 1, ["V"], np.array(["V", "U"])):
        with pytest.raises(ValueError, match="^`statistic` must "):
            rf.mmd2(GOOD, GOOD, statistic=statistic)
    for value in (None, 1, ["sort"], np.ones(3)):
        with pytest.raises(ValueError, match="^`engine` must be "):
            rf.sliced_mmd2(GOOD, GOOD, engine=value)
        with pytest.raises(ValueError, match="^`directions` must be "):
            rf.sliced_mmd2(GOOD, GOOD, directions=value)
    eye = torch.eye(3)
    for value, says in ((eye + 0j, "complex64"), (eye.to_sparse(), "layout"), (eye.long(), "int64"), (eye.to("meta"), "meta")):
        with pytest.raises(TypeError, match=f"^`directions` must .*{says}"):
            rf.sliced_mmd2(GOOD, GOOD, directions=value)


def test_a_step_of_particles_that_need_gradients():
    """Detached, as the documentation says: no error of PyTorch's from within."""
    x = GOOD.clone().requires_grad_()
    one, two = (rf.ParticleFlow(GOOD + 1, slices=4, seed=generator(1)) for _ in range(2))
    moved = one.step(x)
    assert not moved.requires_grad and torch.equal(moved, two.step(GOOD))


def test_one_row_may_have_a_negative_stride():
    """NumPy ignores the stride of an axis of length one, PyTorch does not. Two points, √3 apart, have the distance 2 √3."""
    row = np.ones((1, 3))[::-1]
    assert row.strides[0] < 0
    assert rf.energy_distance(row, np.zeros((2, 3))) == pytest.approx(2 * 3**0.5, rel=1e-12)
