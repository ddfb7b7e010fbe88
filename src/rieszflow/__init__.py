"""Compare, move and generate distributions given by samples, with the Riesz kernel on one-dimensional slices."""

import lazy_loader

__version__ = "0.1.0"

# PyTorch takes seconds to import: `__init__.pyi` declares the public names, and each is imported on first access (PEP 562).
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
