"""The backend of other devices, here on the CPU, against the compiled ones."""

import pytest
import torch
from problems import clouds, generator, relative, simplex

import rieszflow as rf


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
