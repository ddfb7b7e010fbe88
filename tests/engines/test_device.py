"""The backend of other devices, here on the CPU, against the compiled ones."""

import pytest
import torch
from problems import clouds, generator, relative, simplex

import rieszflow as rf
from rieszflow._infra.numerics import power_of_two, power_of_two_tensor
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


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_powers_of_two_without_waiting(dtype):
    limits = torch.finfo(dtype)
    for largest in (0.0, 1.0, 0.75, 6.5, limits.tiny, limits.smallest_normal / 8, limits.max):
        assert power_of_two_tensor(torch.tensor(largest, dtype=dtype)).item() == power_of_two(largest, dtype)


def test_tables_of_recorded_steps():
    """Rounding may move a value to the next integer."""
    f, g = (torch.rand(20, 2 * TAIL + 64, generator=generator(k)) for k in (1, 2))
    f[3] = g[3]
    f[4, :TAIL] += 100
    g[5, TAIL + 64 :] += 100
    tables = []
    for backend in (backends.Backend(), backends._FUSED):
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
