"""All public routes report MMD², which is the energy distance for Riesz(1), on one pair of samples.

In one dimension every slice is the line itself, so only the errors of rounding and bins are left. A sum over P = 4,096 slices
in float32 is off by at most P · 2⁻²⁴ = 2.4e-4 of itself. A bin holds a few of 950 points, so that distribution functions are
off by a few thousandths and their difference, some tenths, by a few per cent: gradients by at most 3 %, values, in which errors
cancel, by 1 %. In five dimensions estimates over P slices are within five standard errors, taken from the slices themselves.
"""

import json

import numpy as np
import pytest
import torch
from problems import generator, relative
from scipy.stats import energy_distance as scipy_energy_distance
from typer.testing import CliRunner

import rieszflow as rf
from rieszflow.cli import app

P = 4096
EXACT, SUMS, BINS, BINS_GRADIENT = 1e-5, 2.4e-4, 1e-2, 3e-2


def samples(d):
    g = generator(d)
    return torch.randn(500, d, generator=g), 1.3 * torch.randn(450, d, generator=g) + 0.5


def by_hand(x, y, statistic="V"):
    """2E‖X − Y‖ − E‖X − X'‖ − E‖Y − Y'‖ in float64."""
    x, y = x.double(), y.double()
    xx, xy, yy = (torch.cdist(p, q, compute_mode="donot_use_mm_for_euclid_dist").sum() for p, q in ((x, x), (x, y), (y, y)))
    N, M = len(x), len(y)
    return 2 * xy / (N * M) - xx / (N * (N - (statistic == "U"))) - yy / (M * (M - (statistic == "U")))


def slicing_error(x, y):
    """Five standard errors of the mean over P independent slices; zero on the line. Other directions have smaller ones."""
    if x.shape[1] == 1:
        return 0.0
    shares = rf.SliceSketch.from_points(x, slices=P, directions="independent").slice_distances(y)
    return 5 * shares.std().item() / P**0.5


def metric(x, y):
    from rieszflow.metrics import SlicedEnergyDistance

    found = SlicedEnergyDistance(x, slices=P, statistic="V")
    found.update(x, real=True)
    found.update(y, real=False)
    return found.compute()


def sketch(x):
    return rf.SliceSketch.from_points(x, slices=P)


def paired(x, y, **options):
    labels = np.repeat(["x", "y"], [len(x), len(y)])
    return rf.pairwise_energy_distance(torch.cat([x, y]), labels, permutations=0, **options).distances[0, 1]


def test_the_formula_is_scipys():
    x, y = samples(1)
    wanted = scipy_energy_distance(x[:, 0].double().numpy(), y[:, 0].double().numpy()) ** 2
    assert by_hand(x, y).item() == pytest.approx(wanted, rel=1e-9)


VALUES = {  # statistic, on slices, tolerance, function
    "mmd2": ("V", False, EXACT, rf.mmd2),
    "energy_distance": ("V", False, EXACT, rf.energy_distance),
    "mmd2, U": ("U", False, EXACT, lambda x, y: rf.mmd2(x, y, statistic="U")),
    "energy_distance on slices": ("V", True, BINS, lambda x, y: rf.energy_distance(x, y, slices=P, seed=0)),
    "sliced_mmd2, sort": ("V", True, SUMS, lambda x, y: rf.sliced_mmd2(x, y, slices=P, engine="sort", seed=0)),
    "sliced_mmd2, bins": ("V", True, BINS, lambda x, y: rf.sliced_mmd2(x, y, slices=P, engine="bins", seed=0)),
    "SlicedMMDLoss": ("V", False, EXACT, lambda x, y: rf.SlicedMMDLoss()(x, y)),
    "SlicedMMDLoss on slices": ("V", True, BINS, lambda x, y: rf.SlicedMMDLoss(slices=P, engine="bins", seed=0)(x, y)),
    "SliceSketch.distance": ("V", True, BINS, lambda x, y: sketch(x).distance(y)),
    "SliceSketch.slice_distances": ("V", True, BINS, lambda x, y: sketch(x).slice_distances(y).mean()),
    "SlicedEnergyDistance": ("V", True, BINS, metric),
    "two_sample_test": ("U", False, EXACT, lambda x, y: rf.two_sample_test(x, y, permutations=19).statistic),
    "compare": ("U", False, EXACT, lambda x, y: rf.compare(x, y, permutations=19).statistic),
    "pairwise_energy_distance": ("V", False, EXACT, lambda x, y: paired(x, y, statistic="V")),
    "drift_test": ("U", True, BINS, lambda x, y: rf.drift_test(x, sketch(y), permutations=19).statistic),
    "compare with a sketch": ("U", True, BINS, lambda x, y: rf.compare(x, sketch(y), permutations=19).statistic),
    "compare of sketches": ("U", True, BINS, lambda x, y: rf.compare(sketch(x), sketch(x).empty().update(y)).statistic),
}


@pytest.mark.parametrize("d", [1, 5])
@pytest.mark.parametrize("name", VALUES)
def test_values(name, d):
    x, y = samples(d)
    statistic, sliced, tolerance, function = VALUES[name]
    wanted = by_hand(x, y, statistic).item()
    error = slicing_error(x, y) if sliced else 0.0
    assert float(function(x, y)) == pytest.approx(wanted, abs=tolerance * wanted + error, rel=0)


def test_sliced_tests_and_pairs(monkeypatch):
    """Samples that are small enough for all pairs, on slices nevertheless."""
    for module in ("api", "pairwise"):
        monkeypatch.setattr(f"rieszflow.two_sample.{module}.are_few", lambda n, d: False)
    for d in (1, 5):
        x, y = samples(d)
        error = BINS * by_hand(x, y).item() + slicing_error(x, y)
        found = rf.two_sample_test(x, y, slices=P, permutations=19)
        assert found.method == "sliced" and found.statistic == pytest.approx(by_hand(x, y, "U").item(), abs=error)
        assert paired(x, y, slices=P, statistic="V") == pytest.approx(by_hand(x, y).item(), abs=error)


@pytest.mark.parametrize("d", [1, 5])
def test_command_line(d, tmp_path):
    x, y = samples(d)
    for name, z in (("x", x), ("y", y)):
        np.save(tmp_path / f"{name}.npy", z.numpy())
    columns = [f"c{k}" for k in range(d)]
    rows = [",".join([*map(repr, row), name]) for name, z in (("x", x), ("y", y)) for row in z.tolist()]
    (tmp_path / "both.csv").write_text("\n".join([",".join([*columns, "group"]), *rows]))

    def output(*arguments):
        done = CliRunner().invoke(app, [*arguments, "--json", "--permutations", "19", "--scale", "none"])
        assert done.exit_code == 0, done.output
        return json.loads(done.stdout)

    wanted = pytest.approx(by_hand(x, y, "U").item(), rel=EXACT)
    assert output("compare", str(tmp_path / "x.npy"), str(tmp_path / "y.npy"))["distance"] == wanted
    (pair,) = output("pairwise", str(tmp_path / "both.csv"), "--by", "group")["pairs"]
    assert pair["distance"] == wanted


def gradient_of(function):
    def gradient(x, y):
        leaf = x.clone().requires_grad_()
        (found,) = torch.autograd.grad(function(leaf, y), leaf)
        return found

    return gradient


GRADIENTS = {  # on slices, tolerance, function
    "mmd2_gradient": (False, EXACT, rf.mmd2_gradient),
    "mmd2": (False, EXACT, gradient_of(rf.mmd2)),
    "sliced_mmd2_gradient, sort": (True, SUMS, lambda x, y: rf.sliced_mmd2_gradient(x, y, slices=P, engine="sort", seed=0)),
    "sliced_mmd2_gradient, bins": (
        True,
        BINS_GRADIENT,
        lambda x, y: rf.sliced_mmd2_gradient(x, y, slices=P, engine="bins", seed=0),
    ),
    "sliced_mmd2": (True, BINS_GRADIENT, gradient_of(lambda x, y: rf.sliced_mmd2(x, y, slices=P, engine="bins", seed=0))),
    "Target.gradient": (True, BINS_GRADIENT, lambda x, y: rf.Target(y, slices=P, engine="bins", seed=0).gradient(x)),
    "SliceSketch.gradient": (True, BINS_GRADIENT, lambda x, y: sketch(y).gradient(x)),
    "SlicedMMDLoss": (False, EXACT, gradient_of(rf.SlicedMMDLoss())),
    "SlicedMMDLoss on slices": (True, BINS_GRADIENT, gradient_of(rf.SlicedMMDLoss(slices=P, engine="bins", seed=0))),
}


@pytest.mark.parametrize("d", [1, 5])
@pytest.mark.parametrize("name", GRADIENTS)
def test_gradients(name, d):
    """A slice's gradient c_d (G − F) ξ has about the norm of the mean times c_d √d ~ d, so five standard errors are 5 d/√P."""
    x, y = samples(d)
    sliced, tolerance, function = GRADIENTS[name]
    wanted = gradient_of(by_hand)(x.double(), y.double())
    error = 5 * d / P**0.5 if sliced and d > 1 else 0.0
    assert relative(function(x, y).double(), wanted) < tolerance + error


@pytest.mark.parametrize("slices", [None, 64])
def test_a_flow_follows_half_of_it(slices):
    """A step is x − ½ τ N ∇MMD², up to a few roundings of numbers of size one."""
    x, y = samples(5)
    tau = 0.7
    if slices is None:
        gradient, options = rf.mmd2_gradient(x, y), {}
    else:
        gradient, options = rf.Target(y, slices=slices, seed=3).gradient(x), {"seed": 3}
    moved = rf.ParticleFlow(y, slices=slices, step_size=tau, **options).run(x, steps=1)
    torch.testing.assert_close(moved, x - 0.5 * tau * len(x) * gradient, rtol=0, atol=1e-5)
