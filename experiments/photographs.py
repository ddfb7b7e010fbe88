"""Write small colour images: patches of the two photographs that are shipped with scikit-learn.

Run: python experiments/photographs.py [FILE.npz] [--side 32] [--n 6000]
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from sklearn.datasets import load_sample_images


def patches(n: int, height: int, width: int, seed: int = 0) -> np.ndarray:
    """Cut out patches at random positions; return bytes of shape (n, height, width, 3)."""
    photographs, rng = load_sample_images().images, np.random.default_rng(seed)
    found = []
    for _ in range(n):
        image = photographs[rng.integers(len(photographs))]
        top, left = (rng.integers(size - side + 1) for size, side in zip(image.shape, (height, width), strict=False))
        found.append(image[top : top + height, left : left + width])
    return np.stack(found)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", nargs="?", type=Path, default=Path("runs/photographs.npz"))
    parser.add_argument("--side", type=int, default=32, help="pixels along the side of a patch")
    parser.add_argument("--n", type=int, default=6000, help="number of patches")
    arguments = parser.parse_args()
    arguments.file.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(arguments.file, x=patches(arguments.n, arguments.side, arguments.side))
    print(arguments.file)
