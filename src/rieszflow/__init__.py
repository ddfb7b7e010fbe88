"""Compare, move and generate distributions given by samples, with the Riesz kernel on one-dimensional slices."""

import importlib

import lazy_loader

__version__ = "0.1.0"
_ROOMS = [
    "cli", "constraints", "data", "directions", "engines", "errors", "exact", "flow", "generative", "histograms", "kernels",
    "loss", "metrics", "report", "scoring", "sketch", "sklearn", "sliced", "target", "two_sample",
]  # fmt: skip

# PyTorch takes seconds to import: `__init__.pyi` declares the public names, and each is imported on first access (PEP 562).
_import_name, _, __all__ = lazy_loader.attach_stub(__name__, __file__)


def __getattr__(name):
    return importlib.import_module(f"{__name__}.{name}") if name in _ROOMS else _import_name(name)


def __dir__():
    return sorted({*globals(), *__all__, *_ROOMS})
