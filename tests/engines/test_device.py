"""The backend of other devices, here on the CPU, against the compiled ones."""

import pytest
import torch
from problems import clouds, generator, relative, simplex

import rieszflow as rf
from rieszflow import directions, histograms
from rieszflow.histograms import TAIL, backends


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("kernel", [rf.Riesz(1.0), rf.Gaussian(8.0)], ids=str)
def test_torch_backend(kernel, weighted, monkeypatch, request):
    x, y = clouds(3, 700, 500, 70, torch.float32)
    x[5] *= 1000 if kernel == rf.Riesz(1.0) else 1
    a, b = (simplex(2, 700, torch.float32), simplex(3, 500, torch.float32)) if weighted else (None, None)
    options = {"kernel": kernel, "slices": 100, "engine": "bins", "x_weights": a, "y_weights": b}
    value = rf.sliced_mmd2(x, y, **options, seed=generator(1))
    gradient = rf.sliced_mmd2_gradient(x, y, **options, seed=generator(1))
    request.getfixturevalue("torch_backend")
    torch.testing.assert_close(rf.sliced_mmd2(x, y, **options, seed=generator(1)), value, rtol=1e-4, atol=1e-6)
    # A projection at the edge of a bin may fall to either side of it by rounding, which moves one count.
    assert relative(rf.sliced_mmd2_gradient(x, y, **options, seed=generator(1)), gradient) < 1e-3


@pytest.mark.parametrize(("dtype", "size"), [(torch.float32, 1e-30), (torch.float32, 1.0), (torch.float64, 1e200)], ids=str)
@pytest.mark.parametrize("kind", ["hadamard", "orthogonal", rf.PatchSlices((1, 7, 10), 4)], ids=str)
def test_bins_from_a_tensor_are_those_from_an_array(kind, dtype, size):
    points = size * torch.randn(128, 70, generator=generator(1), dtype=dtype)
    points[:, 60:] = size
    points[3] *= 1000
    for sample in (points, points[:1].expand(128, 70), torch.zeros(128, 70, dtype=dtype)):
        drawn = directions.sample(kind, 100, 70, points, generator(2))
        for mine, theirs in zip(
            histograms.make_projectors(drawn, sample, points),
            histograms.make_projectors(drawn, sample.numpy(), points),
            strict=True,
        ):
            assert torch.equal(mine.shift, theirs.shift) and float(mine.scale) == theirs.scale
            one, two = histograms.choose_bins(mine, sample, 64), histograms.choose_bins(theirs, sample.numpy(), 64)
            torch.testing.assert_close((one.low, one.inverse), (two.low, two.inverse))


def test_tables_of_recorded_steps():
    """Rounding may move a value to the next integer."""
    f, g = (torch.rand(20, 2 * TAIL + 64, generator=generator(k)) for k in (1, 2))
    f[3] = g[3]
    f[4, :TAIL] += 100
    g[5, TAIL + 64 :] += 100
    tables = []
    for backend in (backends.TorchBackend(), backends._FUSED):
        unit, table = torch.empty(20), torch.empty(20, 65, dtype=torch.int8)
        backend.encode(f, g, 0.25, unit, table)
        tables.append((unit, table))
    (unit, table), (expected_unit, expected) = tables
    torch.testing.assert_close(unit, expected_unit, rtol=1e-6, atol=0)
    torch.testing.assert_close(table, expected, rtol=0, atol=1)
    assert (table != expected).sum() < 10 and not table[3].any() and table.max() == 127


@pytest.mark.parametrize("record", [False, True])
def test_flow(record, request):
    """A projection at the edge of a bin may fall to either side of it, and then moves one count, as above."""
    x, y = clouds(3, 700, 500, 100, torch.float32)
    kinds = ["hadamard", rf.PatchSlices((1, 10, 10), 5, 2), rf.PatchSlices((1, 10, 10), 3)]
    options = {"slices": 100, "directions": kinds, "momentum": 0.5, "engine": "bins", "record": record}
    expected = rf.ParticleFlow(y, **options, seed=generator(1)).run(x, steps=5)
    request.getfixturevalue("torch_backend")
    found = rf.ParticleFlow(y, **options, seed=generator(1)).run(x, steps=5)
    assert relative(found - x, expected - x) < 1e-3
