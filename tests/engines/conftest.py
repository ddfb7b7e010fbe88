"""Fixtures for engines."""

import pytest

from rieszflow.histograms import backends


@pytest.fixture
def torch_backend(monkeypatch):
    """Count and look up with the backend of CUDA, here on the CPU."""
    for name in ("_FUSED", "_TILED"):
        monkeypatch.setattr(backends, name, backends.Backend())
