"""Fixtures for engines."""

import pytest

from rieszflow.histograms import backends
from rieszflow.histograms.count_torch import Device


@pytest.fixture
def on_device_passes(monkeypatch):
    """The passes that CUDA uses, here on the CPU."""
    monkeypatch.setattr(backends, "of", lambda frame: Device())
