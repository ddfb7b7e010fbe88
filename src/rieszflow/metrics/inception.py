"""The literature's FID and KID, with weights that the user has."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from rieszflow._infra.extras import extra
from rieszflow._infra.isolation import torch_defaults
from rieszflow.errors import InputError
from rieszflow.metrics.distances import frechet_distance, kernel_distance

__all__ = ["check_inception", "inception_distances"]


@torch_defaults
def inception_distances(x: Tensor, y: Tensor, weights: str | Path) -> dict[str, float]:
    """The literature's FID and KID (Inception features, 2048), of images (n, C, H, W) in [0, 1], C 1 or 3, with local weights.

    Args:
        x: images, float32 in [0, 1].
        y: images (m, C, H, W).
        weights: torch-fidelity's `weights-inception-2015-12-05-*.pth`. Needs torch-fidelity and torchmetrics, the extra `fid`.

    Returns:
        {"inception_fid": `frechet_distance`, "inception_kid": `kernel_distance`} of the features.

    Raises:
        InputError: no such file, or not images.
        MissingPackageError: the extra is not installed.
    """
    check_inception(x, weights)
    with extra("fid", "Inception FID"):
        from torchmetrics.image.fid import NoTrainInceptionV3

    network = NoTrainInceptionV3("inception-v3-compat", ["2048"], str(weights))

    def features(images: Tensor) -> Tensor:
        bytes_ = (images.clamp(0, 1).expand(-1, 3, -1, -1) * 255).byte()
        return torch.cat([network(part) for part in bytes_.split(100)])

    a, b = features(x), features(y)
    return {"inception_fid": frechet_distance(a, b), "inception_kid": kernel_distance(a, b)}


def check_inception(x: Tensor, weights: str | Path) -> None:
    if not Path(weights).is_file():
        raise InputError(f"inception_weights: no file {weights}; torch-fidelity's Inception weights are needed")
    if x.ndim != 4 or x.shape[1] not in (1, 3):
        raise InputError(
            f"inception_distances: data of shape {tuple(x.shape[1:])} given; images with 1 or 3 channels are needed"
        )
    with extra("fid", "Inception FID"):
        import torch_fidelity  # noqa: F401
