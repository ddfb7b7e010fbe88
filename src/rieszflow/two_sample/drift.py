"""`drift_test` for one batch of points, and `DriftMonitor` for a stream of them."""

from __future__ import annotations

import math
import os
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from rieszflow._infra import validate
from rieszflow._infra.files import Format, as_file_error, load_tensors, save_tensors
from rieszflow._infra.numerics import isolated_numerics
from rieszflow._types import Kernels, PointSource, ProgressCallback, ScaleName
from rieszflow.data import Stream, stream
from rieszflow.data.encoding import TableEncoding
from rieszflow.data.streams import choose_spreads
from rieszflow.errors import InputError, InputTypeError
from rieszflow.sketch import SliceSketch
from rieszflow.sketch.plan import SliceSettings
from rieszflow.two_sample.api import TwoSampleTest, run_test
from rieszflow.two_sample.permutations import permutation_rng

_MAX_EVIDENCE = 1e300  # a finite number, which files can hold
MONITOR = Format("monitor", 1)
_POOL_ROWS, _POOL_NUMBERS = 10_000, 1 << 22  # points that a monitor keeps, and their coordinates
_POOL_RATIO, _MIN_POOL = 2, 128  # points of the pool for one of a batch, and for a small batch: more are not permuted
_SLICES = 256


@isolated_numerics
def drift_test(
    x: PointSource,
    reference: SliceSketch,
    *,
    permutations: int = 999,
    seed: int = 0,
    scale: ScaleName = "auto",
    kernels: Kernels = "auto",
    progress: ProgressCallback | None = None,
) -> TwoSampleTest:
    """Test whether points come from the distribution of a reference, of which only a sketch is left.

    Points are permuted with those in the sketch's `reservoir`, as in `two_sample_test`. The other points of the reference, of
    which the bins are known, keep their place in every permutation. The statistic and its interval compare x with all points
    of the reference. In raw units the p-value is exact. With scaled columns it is exact if the reservoir holds all points of
    the reference, because spreads are then computed from the pooled points; otherwise it is exact up to the sampling error of
    the reference's spreads, which is small for thousands of points.

    Args:
        x: Points of shape (n, d), n ≥ 1: anything that `rieszflow.stream` accepts, except iterators. The statistic of one point
            is the energy distance of a point mass.
        reference: A sketch of points without weights with at least two points in its reservoir.
        permutations, seed, kernels, progress: See `two_sample_test`.
        scale: "auto" or the scale of the reference, which is used.

    Raises:
        InputError, InputTypeError, DatasetError: As `two_sample_test`; a sketch that is empty, has weights or no reservoir.

    Example:
        >>> g = torch.Generator().manual_seed(0)
        >>> reference = SliceSketch.from_points(torch.randn(5000, 2, generator=g), slices=64)
        >>> same, other = torch.randn(300, 2, generator=g), torch.randn(300, 2, generator=g) + 0.5
        >>> drift_test(same, reference).pvalue > 0.05, drift_test(other, reference).pvalue
        (True, 0.001)
    """
    points = _reservoir(reference)
    cloud = reference.plan.settings.open(x, "the reference")
    permutations = validate.positive_int("permutations", permutations)
    reference.plan.settings.check_scale(scale, "reference has")
    sample, rng, settings = stream(points), permutation_rng(seed), reference.plan.settings
    if len(points) < reference.n:
        return run_test((cloud, sample), settings, permutations, rng, progress, kernels, reference=reference)
    return _pooled_test(cloud, sample, settings, reference.scale, permutations, rng, progress, kernels)


def _pooled_test(
    x: Stream,
    y: Stream,
    settings: SliceSettings,
    scale: ScaleName,
    permutations: int,
    rng: np.random.Generator,
    progress: ProgressCallback | None = None,
    kernels: Kernels = "auto",
) -> TwoSampleTest:
    """Test with the spreads of both samples: those of a reference alone would distinguish its points from those of x."""
    spreads = choose_spreads(scale, [x, y])
    if settings.encoding is not None and spreads is not None:
        spreads = tuple(s if numeric else 1.0 for s, numeric in zip(spreads, settings.encoding.numeric, strict=True))
    settings = replace(settings, seed=int(rng.integers(0, 2**63)), spreads=spreads)
    return run_test((x, y), settings, permutations, rng, progress, kernels)


class MonitorStep(NamedTuple):
    """The p-value of a batch, the evidence for drift after it, and whether the evidence suffices for an alarm."""

    pvalue: float
    evidence: float
    alarm: bool


class DriftMonitor:
    r"""Watch a stream of batches for drift, with at most a probability α of a false alarm, however long it runs.

    Each batch is tested against random points of a pool: the reference's reservoir and earlier batches, of which a random part
    is kept. Under the null hypothesis these p-values are independent, and f(p) = (1 − p + p log p) / (p log² p) has a mean of
    at most one. The monitor bets on drift from every batch on, with a share 1/(j(j + 1)) of its capital from batch j on. What
    it has won and staked,

    .. math:: S_t = (S_{t-1} + 1 / (t(t + 1))) f(p_t)

    ever exceeds 1/α with a probability of at most α (Ville's inequality). Small lasting drifts add up until the pool has filled
    with drifted points; start a new monitor after an alarm. The pool has at most 10,000 points (fewer if d > 419).

    Args:
        reference: A sketch of points without weights that keeps at least two of them in its reservoir.
        alpha: The largest probability of a false alarm.
        permutations: Number for every batch. The evidence of a batch is at most 21 for 999, and 117 for 9,999.
        seed: Seed of the tests and of the choice of points, an integer.

    Attributes:
        batches: Number t of batches so far.
        evidence: S_t.
        test: The test of the last batch; None before the first one and after loading.

    Example:
        >>> g = torch.Generator().manual_seed(0)
        >>> monitor = DriftMonitor(SliceSketch.from_points(torch.randn(5000, 2, generator=g), slices=64))
        >>> [monitor.update(torch.randn(300, 2, generator=g) + shift).alarm for shift in (0, 0, 0, 1, 1, 1)]
        [False, False, False, False, True, True]

    References:
        Vovk, Testing Randomness Online (2021); on f: Vovk and Wang, E-values: Calibration, combination and applications (2021);
        on bets from every batch on: Shin, Ramdas and Rinaldo, E-detectors (2023).
    """

    def __init__(self, reference: SliceSketch, *, alpha: float = 0.01, permutations: int = 999, seed: int = 0) -> None:
        pool = _reservoir(reference).numpy()
        settings = SliceSettings(reference.d, _SLICES, "auto", 0, reference.names, encoding=reference.plan.settings.encoding)
        self._set(pool, settings, reference.scale, alpha=alpha, permutations=permutations, seed=seed)

    def _set(
        self, pool: np.ndarray, settings: SliceSettings, scale: ScaleName, *,
        alpha: float, permutations: int, seed: int, batches: int = 0, evidence: float = 0.0,
    ) -> None:  # fmt: skip
        self.alpha = validate.positive_float("alpha", alpha)
        if self.alpha >= 1:
            raise InputError(f"`alpha` must be less than 1, got {alpha!r}")
        self.permutations, self.seed = validate.positive_int("permutations", permutations), validate.integer_seed(seed)
        self.pool, self.settings, self.scale = pool, settings, scale
        self.batches, self.evidence = validate.nonnegative_int("batches", batches), float(evidence)
        self.test: TwoSampleTest | None = None

    def update(self, x: PointSource) -> MonitorStep:
        """Test a batch of points (n, d), n ≥ 1, add it to the pool and return the evidence.

        Raises:
            InputError, InputTypeError, DatasetError: Points that `two_sample_test` refuses.
        """
        cloud = self.settings.open(x, "the reference")
        points = np.concatenate([batch.double().cpu().numpy() for batch in cloud])
        t, rng = self.batches + 1, np.random.default_rng([self.seed, self.batches, 0xD21F])
        others = rng.permutation(self.pool)[: max(_MIN_POOL, _POOL_RATIO * len(points))]
        self.test = _pooled_test(stream(points), stream(others), self.settings, self.scale, self.permutations, rng)
        # Which points are kept must not depend on the batch that they are from: then all p-values are independent.
        most = max(2, min(_POOL_ROWS, _POOL_NUMBERS // cloud.d))
        self.pool = rng.permutation(np.concatenate([self.pool, points]))[:most]
        p = self.test.pvalue
        evidence = 0.5 if p == 1 else (1 - p + p * math.log(p)) / (p * math.log(p) ** 2)
        self.batches, self.evidence = t, min((self.evidence + 1 / (t * (t + 1))) * evidence, _MAX_EVIDENCE)
        return MonitorStep(p, self.evidence, self.evidence >= 1 / self.alpha)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the monitor to a safetensors file, which appears as a whole or not at all."""
        encoding = self.settings.encoding and self.settings.encoding.to_dict()
        meta = {
            "alpha": self.alpha, "permutations": self.permutations, "seed": self.seed, "names": self.settings.names,
            "encoding": encoding, "scale": self.scale, "batches": self.batches, "evidence": self.evidence,
        }  # fmt: skip
        save_tensors(Path(path), MONITOR, {"pool": torch.from_numpy(self.pool)}, meta)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> DriftMonitor:
        """Read a monitor from a file of `save`; raise FileError if it is missing, damaged, foreign, or of another version."""
        tensors, meta = load_tensors(Path(path), MONITOR)
        found = cls.__new__(cls)
        with as_file_error(f"{path}: damaged: its parts do not fit together"):
            pool = validate.points("pool", tensors["pool"])
            if pool.ndim != 2 or len(pool) < 2 or pool.dtype != torch.float64 or not 0 <= meta["evidence"] < math.inf:
                raise InputError(f"a pool of shape {tuple(pool.shape)}, evidence {meta['evidence']!r}")
            content = meta.pop("encoding", None)
            encoding = None if content is None else TableEncoding.from_dict(content)
            settings = SliceSettings(pool.shape[1], _SLICES, "auto", 0, meta.pop("names"), encoding=encoding)
            validate.choice("scale", meta["scale"], ("columns", "none"))
            found._set(pool.numpy(), settings, **meta)
        return found


def _reservoir(reference: SliceSketch) -> torch.Tensor:
    """Return the points that a reference keeps."""
    if not isinstance(reference, SliceSketch):
        raise InputTypeError(f"`reference` must be a SliceSketch, got {type(reference).__name__}")
    if reference.n < 2 or reference.weighted:
        given = "one with weights" if reference.weighted else f"one of {reference.n}"
        raise InputError(f"`reference` must be a sketch of two or more points without weights, got {given}")
    points = reference.reservoir
    if points is None or len(points) < 2:
        raise InputError(
            "`reference` must be a sketch with at least two points in its reservoir, got one made with reservoir_size=0 or 1, "
            "by an earlier version, or merged with such a sketch; its distances are right, but a test needs a new sketch"
        )
    return points
