"""`table_scores`: scores of synthetic rows of a mixed table, each next to that of training or held-out rows."""

from __future__ import annotations

import math
import warnings
from itertools import combinations

import numpy as np
from numpy import ndarray
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist
from scipy.stats import ks_2samp

from rieszflow._infra import validate
from rieszflow._infra.extras import extra
from rieszflow._infra.files import Json
from rieszflow._infra.numerics import isolated_numerics
from rieszflow.data.encoding import TableEncoding
from rieszflow.errors import InputError

NOTE = "None of these scores guarantees privacy: rows that copy no training row can still disclose what is in one."
_ROWS, _PAIRED, _MATCHED, _COLUMNS = 10_000, 4_000, 1_000, 100  # rows in all, of models and of pairs, matched; columns of pairs


@isolated_numerics
def table_scores(
    encoding: TableEncoding, train: ndarray, held_out: ndarray, samples: ndarray, label: int | None = None, seed: int = 0
) -> Json:
    r"""Compute scores of synthetic rows, and of training rows in their place. They do not guarantee privacy.

    The distance of two rows is that of ForestDiffusion (AISTATS 2024): the sum of :math:`|x_j - y_j| / r_j` over numbers, with
    the range :math:`r_j` in training rows (the encoding's spread if it is 0) and of :math:`1[x_j \ne y_j]` over categories, one
    of which is a missing cell. A missing number is in the middle of the range, plus 1 if the other is not missing. At most
    10,000 random rows of each table are compared (4,000 for distances and models), and as many samples as training rows.

    Args:
        encoding: Encoding of the three tables.
        train, held_out, samples: Codes of shape (n, columns) of `encoding`, n ≥ 4.
        label: Position of the column that models predict; None for no models.
        seed: Seed of the choice of rows.

    Returns:
        A dict that JSON can represent, in which None is an undefined value:

        - {"samples": ..., "training_data": ...} for "w1", the exact 1-Wasserstein distance to held-out rows, a mean over
          disjoint parts of at most 1,000 rows; "coverage", the share of held-out rows whose k-nearest-neighbour ball in the
          held-out rows has a sample; "strays", the share farther from its nearest held-out row than the 99.9th percentile of
          that distance among held-out rows; "f1" (macro) or "r2", for a category or a number as label: the mean over a linear
          model and a random forest, trained on rows whose label is known, tested on held-out rows; "marginal_error", by column
          the Kolmogorov-Smirnov distance (missing numbers are the lowest) or the total variation distance of categories;
          "correlation_error", the mean absolute difference of correlations of numbers; "pair_error", the mean total variation
          distance of pairs of categories (both of at most 100 random columns);
        - {"samples": ..., "held_out": ...} for "closest_record", the median distance to the closest training row (of at most
          8,000), and "copies", the share of all rows that equal a training row;
        - "k", the least with which training rows cover 95 %; "label", its name; "rows" by table; "seed"; "note" on privacy.

    Raises:
        InputError: Fewer than 4 rows, other columns, numbers that are not codes of `encoding`, or no such label.
        MissingPackageError: scikit-learn is not installed and `label` needs it.
    """
    rng, columns = np.random.default_rng(validate.integer_seed(seed)), encoding.columns
    # Positions of a category: 0 for an unknown one, those of the encoding, and one for a missing cell. Numbers have none.
    sizes = np.array([len(column.categories) + 2 if column.kind == "category" else 0 for column in columns])
    tables = {"train": train, "held_out": held_out, "samples": samples}
    for name, codes in tables.items():
        if codes.ndim != 2 or codes.shape[1] != len(columns) or len(codes) < 4:
            raise InputError(f"`{name}` must have shape (n, {len(columns)}) with n ≥ 4, got {codes.shape}")
        wrong = np.isinf(codes) | (sizes > 0) & ((codes < 0) | (codes > sizes - 2) | (codes % 1 > 0))
        if wrong.any():
            i, j = np.argwhere(wrong)[0]
            raise InputError(f"`{name}` must have codes of `encoding`, got {codes[i, j]} in column {columns[j].name!r}")
    if label is not None and label not in range(len(columns)):
        raise InputError(f"`label` must be None or in [0, {len(columns)}), got {label!r}")
    low, high = np.fmin.reduce(train), np.fmax.reduce(train)  # NaN if all cells are missing
    half = np.where(high > low, high / 2 - low / 2, [column.spread / 2 for column in columns])  # the whole may overflow
    low = np.where(np.isnan(low), [column.centre for column in columns], low)

    def prepare(codes: ndarray, most: int) -> ndarray:
        rows = codes[rng.permutation(len(codes))[:most]]
        scaled = np.clip((rows / 2 - low / 2) / half, -1e9, 1e9)  # neither sums nor the float32 of forests overflow
        return np.where(sizes == 0, scaled, np.where(np.isnan(rows), sizes - 1, rows))

    n, records, held = min(len(samples), len(train), _ROWS), prepare(train, 2 * _PAIRED), prepare(held_out, _ROWS)
    sets = {"samples": prepare(samples, n), "training_data": prepare(train, n)}
    names = [column.name for column in columns]
    pairs = [[*combinations(rng.permutation(np.flatnonzero(k))[:_COLUMNS].tolist(), 2)] for k in (sizes == 0, sizes > 0)]
    found = {t: _usefulness(x, held, sizes, label) | _errors(x, held, sizes, pairs, names) for t, x in sets.items()}
    known, compared = set(_hashes(train)), ("samples", "held_out")
    return {
        **_distance_scores(sets, held, records, sizes),
        **{key: {t: values[key] for t, values in found.items()} for key in found["samples"]},
        "copies": {t: float(np.mean([row in known for row in _hashes(tables[t])])) for t in compared},
        "label": None if label is None else names[label], "rows": {t: len(codes) for t, codes in tables.items()},
        "seed": int(seed), "note": NOTE,
    }  # fmt: skip


def describe_scores(scores: Json) -> list[list[str]]:
    """Return rows [score, samples, training data], the latter held-out rows where it says so, without undefined scores."""
    models = f"models of {scores['label']!r}, tested on held-out rows"
    names = {
        "w1": "Wasserstein distance to held-out rows", "coverage": f"held-out rows covered (k = {scores['k']})",
        "f1": f"F1 of {models}", "r2": f"R² of {models}", "marginal_error": "error of columns, mean",
        "correlation_error": "error of correlations, mean", "pair_error": "error of pairs of categories, mean",
        "strays": "far from all held-out rows", "closest_record": "distance to closest training row, median",
        "copies": "equal to a training row",
    }  # fmt: skip
    table = []
    for key, name in names.items():
        form = ".1%" if key in ("coverage", "strays", "copies") else ".3g"
        means = (np.mean([*v.values()]) if isinstance(v, dict) else v for v in scores[key].values())
        texts = ["-" if mean is None else format(mean, form) for mean in means]
        if texts != ["-", "-"]:
            table.append([name, texts[0], texts[1] + " (held-out)" * ("held_out" in scores[key])])
    return table


def _points(rows: ndarray, sizes: ndarray) -> ndarray:
    """Return points whose L1 distance is that of rows, without coordinates that are equal in all rows."""
    parts = [np.zeros((len(rows), 1))]
    for v, size in zip(rows.T, sizes, strict=True):
        parts.append(np.eye(size)[v.astype(int)] / 2 if size else np.stack([np.nan_to_num(v, nan=0.5), np.isnan(v)], 1))
    points = np.concatenate(parts, 1)
    return points[:, np.append(True, (points != points[0]).any(0)[1:])]


def _hashes(codes: ndarray) -> list[int]:
    return [hash(row.tobytes()) for row in np.where(np.isnan(codes), np.nan, codes + 0.0)]  # one NaN and one zero


def _distance_scores(sets: dict[str, ndarray], held: ndarray, records: ndarray, sizes: ndarray) -> Json:
    """Return all scores that need distances; those of very many columns are computed from fewer rows."""
    most = max(100, min(_PAIRED, 400_000 // int(np.maximum(sizes, 2).sum())))
    parts = [held[:most], *(x[:most] for x in sets.values()), records[: 2 * most]]
    held, *compared, records = np.split(_points(np.concatenate(parts), sizes), np.cumsum([len(x) for x in parts])[:-1])
    radii = np.sort(cdist(held, held, "cityblock"), 1)[:, 1:]
    w1, ranks, strays = {}, {}, {}
    for name, x in zip(sets, compared, strict=True):
        D = cdist(held, x, "cityblock")
        m = min(*D.shape, _MATCHED)
        size = m * min(len(x) // m, _MATCHED // m)  # few held-out rows are matched several times
        costs = [np.resize(D[:m, i : i + size], (size, size)) for i in range(0, len(x) - size + 1, size)]
        w1[name] = float(np.mean([cost[linear_sum_assignment(cost)].mean() for cost in costs]))
        ranks[name] = 1 + (radii < D.min(1)[:, None]).sum(1)  # the least k with which each held-out row is covered
        strays[name] = float((D.min(0) > np.quantile(radii[:, 0], 0.999)).mean())
    k = min(int(np.sort(ranks["training_data"])[(19 * len(held) - 1) // 20]), len(held) - 1)  # covers 95 %
    nearest = [float(np.median(cdist(x[:_MATCHED], records, "cityblock").min(1))) for x in (compared[0], held)]
    return {
        "w1": w1, "coverage": {name: float((rank <= k).mean()) for name, rank in ranks.items()}, "k": k, "strays": strays,
        "closest_record": dict(zip(("samples", "held_out"), nearest, strict=True)),
    }  # fmt: skip


def _usefulness(x: ndarray, held: ndarray, sizes: ndarray, label: int | None) -> Json:
    """Return the mean score on held-out rows of two models that are trained on other rows, as "f1" or "r2"."""
    scores: dict[str, float | None] = {"f1": None, "r2": None}
    if label is None or len(sizes) < 2:
        return scores
    with extra("generative", "scores of models for a label"):
        from sklearn import ensemble, linear_model, metrics

    size, most = sizes[label], max(200, min(_PAIRED, 1_000_000 // int(np.maximum(sizes, 2).sum())))
    known = [~np.isnan(y) if size == 0 else (y > 0) & (y < size - 1) for y in (x[:, label], held[:, label])]
    x, held = x[known[0]][:most], held[known[1]][:most]
    y, truth = x[:, label], held[:, label]
    if not len(x) or len(np.unique(truth)) < 2:
        return scores
    points = _points(np.delete(np.concatenate([x, held]), label, 1), np.delete(sizes, label))
    models = [linear_model.Ridge(1e-3), ensemble.RandomForestRegressor(max_features=1 / 3, random_state=0)]
    if size:
        models = [linear_model.LogisticRegression(C=100.0, max_iter=500), ensemble.RandomForestClassifier(random_state=0)]
        models = models[len(np.unique(y)) < 2 :]  # only the forest can be trained on a single class
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a logistic regression that has not converged is good enough
        found = [model.fit(points[: len(x)], y).predict(points[len(x) :]) for model in models]
        values = [metrics.f1_score(truth, y, average="macro") if size else metrics.r2_score(truth, y) for y in found]
    scores["f1" if size else "r2"] = float(np.mean(values))
    return scores


def _errors(x: ndarray, y: ndarray, sizes: ndarray, pairs: list[list[tuple[int, int]]], names: list[str]) -> Json:
    def variation(a: ndarray, b: ndarray) -> float:
        size = int(max(a.max(), b.max())) + 1
        shares = (np.bincount(v.astype(np.int64), minlength=size) / len(v) for v in (a, b))
        return float(np.abs(np.subtract(*shares)).sum() / 2)

    def correlation(rows: ndarray, pair: tuple[int, int]) -> float:
        both = rows.T[[*pair]]
        a, b = both[:, ~np.isnan(both).any(0)]
        return float(np.corrcoef(a, b)[0, 1]) if len(a) and np.ptp(a) > 0 and np.ptp(b) > 0 else math.nan

    lowest = (np.where(np.isnan(v), -np.inf, v).T for v in (x, y))
    parts = zip(*lowest, sizes, strict=True)
    errors = [variation(a, b) if size else float(ks_2samp(a, b, method="asymp").statistic) for a, b, size in parts]
    joint = [variation(*(v[:, i] * sizes[j] + v[:, j] for v in (x, y))) for i, j in pairs[1]]
    defined = [(pair, r) for pair in pairs[0] if not math.isnan(r := correlation(y, pair))]
    correlations = [abs(np.nan_to_num(correlation(x, pair)) - r) for pair, r in defined]  # 0 for constant columns of samples
    means = [float(np.mean(values)) if values else None for values in (correlations, joint)]
    return {"marginal_error": dict(zip(names, errors, strict=True)), "correlation_error": means[0], "pair_error": means[1]}
