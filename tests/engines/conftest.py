"""Fixtures for engines."""

import pytest

from rieszflow.engines.bins import passes
from rieszflow.engines.bins.device import Device


@pytest.fixture
def on_device_passes(monkeypatch):
    """The passes that CUDA uses, here on the CPU."""
    monkeypatch.setattr(passes, "of", lambda frame: Device())
