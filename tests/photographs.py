"""Small real colour images: patches of the two photographs that scikit-learn ships."""

from __future__ import annotations

import numpy as np
from sklearn.datasets import load_sample_images


def patches(n: int, height: int, width: int, seed: int = 0) -> np.ndarray:
    """(n, height, width, 3) bytes, cut out at random places."""
    photographs, rng = load_sample_images().images, np.random.default_rng(seed)
    found = []
    for _ in range(n):
        image = photographs[rng.integers(len(photographs))]
        top, left = (rng.integers(size - side + 1) for size, side in zip(image.shape, (height, width), strict=False))
        found.append(image[top : top + height, left : left + width])
    return np.stack(found)
