"""Curves and pictures for TensorBoard, beside metrics.jsonl and report.html."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from rieszflow._infra.extras import extra

if TYPE_CHECKING:
    from rieszflow.generative.context import Pictures
    from rieszflow.generative.run import Run

__all__ = ["to_tensorboard"]


def to_tensorboard(run: Run, pictures: Pictures) -> None:
    """Write the metrics and pictures of the last stage to the run's folder `tensorboard`: a `draw` callback, after `draw`.

    Scalars go by the number of flow steps so far; the pictures are those that `draw` has saved. A training that goes on from a
    checkpoint takes the place of what it did before.

    Raises:
        MissingPackageError: tensorboard is not installed.
    """
    with extra("tensorboard", "TensorBoard"):
        from torch.utils.tensorboard import SummaryWriter

    row = pictures.rows[-1]
    step = row.flow_steps_total
    with SummaryWriter(str(run.path / "tensorboard"), purge_step=step) as writer:
        add: Any = writer
        for name, value in _flat(row.to_dict()):
            add.add_scalar(name, value, step)
        for name in ("particles", "samples"):
            file = run.path / "images" / f"{name}-{row.stage:04d}.png"
            if file.is_file():
                with Image.open(file) as image:
                    add.add_image(name, np.asarray(image.convert("RGB")), step, dataformats="HWC")


def _flat(row: dict[str, Any], prefix: str = "") -> list[tuple[str, float]]:
    """The numbers of a line of metrics, by names like "energy_distance/particles"."""
    found = []
    for key, value in row.items():
        if isinstance(value, dict):
            found += _flat(value, f"{prefix}{key}/")
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            found.append((prefix + key, float(value)))
    return found
