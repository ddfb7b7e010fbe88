"""Bad input at every public door: the right exception, and a message that names the argument."""

import numpy as np
import pytest
import torch

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
    with pytest.raises(error, match=f"^x: .*{says}"):
        function(bad, GOOD)
    with pytest.raises(error, match=f"^y: .*{says}"):
        function(GOOD, bad)


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda f: f.__name__)
def test_clouds_that_do_not_fit(function):
    with pytest.raises(ValueError, match="y: .*d = 2"):
        function(GOOD, torch.rand(4, 2))
    with pytest.raises(TypeError, match="y: dtype torch.float64"):
        function(GOOD, torch.rand(4, 3).double())
    with pytest.raises(ValueError, match="y: batch dimensions"):
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
    with pytest.raises(error, match=f"^x_weights: .*{says}"):
        function(GOOD, GOOD, x_weights=weights)
    with pytest.raises(error, match=f"^y_weights: .*{says}"):
        function(GOOD, GOOD, y_weights=weights)


@pytest.mark.parametrize("r", [0, 2, -1, 2.5, float("nan"), float("inf"), "1", None, True])
def test_bad_exponent(r):
    with pytest.raises(ValueError, match=r"^r: .*\(0, 2\)"):
        rf.Riesz(r)
    with pytest.raises(ValueError, match="^r: "):
        rf.energy_distance(GOOD, GOOD, r)


def test_bad_kernels():
    for make in (lambda: rf.Gaussian(0), lambda: rf.Laplace(-1), lambda: rf.InverseMultiquadric(float("nan"))):
        with pytest.raises(ValueError, match="positive"):
            make()
    with pytest.raises(ValueError, match=r"^nu: .*0\.5, 1\.5 and 2\.5"):
        rf.Matern(1.0)
    with pytest.raises(TypeError, match="^kernel: 'gauss'"):
        rf.mmd2(GOOD, GOOD, "gauss")
    for function in (rf.sliced_mmd2, rf.sliced_mmd2_gradient):
        with pytest.raises(TypeError, match="^kernel: 'gauss'"):
            function(GOOD, GOOD, "gauss")
        with pytest.raises(ValueError, match=r"^kernel: Gaussian.*engine 'sort' accepts Riesz\(1.0\)"):
            function(GOOD, GOOD, rf.Gaussian(), engine="sort")
        with pytest.raises(ValueError, match="^kernel: Gaussian.*too narrow"):
            function(GOOD, GOOD, rf.Gaussian(1e-5))


def test_bad_statistic():
    for function in (rf.mmd2, rf.sliced_mmd2):
        with pytest.raises(ValueError, match="^statistic: 'W'"):
            function(GOOD, GOOD, statistic="W")
        with pytest.raises(ValueError, match="^x: .*two points"):
            function(GOOD[:1], GOOD, statistic="U")
        with pytest.raises(ValueError, match="^y: .*two points"):
            function(GOOD, GOOD, statistic="U", y_weights=torch.tensor([1.0, 0, 0, 0]))


@pytest.mark.parametrize("function", [rf.sliced_mmd2, rf.sliced_mmd2_gradient])
def test_bad_slices(function):
    for slices in (0, -3, 2.0, "8", True):
        with pytest.raises(ValueError, match="^slices: "):
            function(GOOD, GOOD, slices=slices)
    with pytest.raises(ValueError, match="^directions: 'haar' given; 'auto', 'independent', 'orthogonal'"):
        function(GOOD, GOOD, directions="haar")
    with pytest.raises(ValueError, match=r"^directions: .*\(P, 3\)"):
        function(GOOD, GOOD, directions=torch.ones(5, 2))
    with pytest.raises(ValueError, match="norm 1"):
        function(GOOD, GOOD, directions=torch.ones(5, 3))
    with pytest.raises(ValueError, match="^engine: 'fft'"):
        function(GOOD, GOOD, engine="fft")
    with pytest.raises(TypeError, match="^generator: int"):
        function(GOOD, GOOD, generator=3)


def test_bad_flow():
    for key, value in {"step_size": 0, "momentum": 1.0, "slices": 0, "generator": 1, "bounds": (1.0, 0.0)}.items():
        with pytest.raises((ValueError, TypeError), match=f"^{key}: "):
            rf.ParticleFlow(GOOD, **{key: value})
    with pytest.raises(ValueError, match="^target: .*NaN"):
        rf.ParticleFlow(GOOD * float("nan"))
    flow = rf.ParticleFlow(GOOD, slices=3)
    with pytest.raises(ValueError, match="^steps: "):
        flow.run(GOOD, 0)
    with pytest.raises(ValueError, match="d = "):
        flow.run(torch.rand(4, 2), 1)
    flow.run(GOOD, 1)
    with pytest.raises(ValueError, match="velocity"):
        flow.run(torch.rand(5, 3), 1)
