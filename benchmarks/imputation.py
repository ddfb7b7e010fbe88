"""Compare imputations of tables in which 20 % of all cells are missing at random: rieszflow, IterativeImputer and a hot deck.

The figures are over missing cells, in the units of benchmarks/tables.py: numbers are divided by their range, and a different
category is at distance 1. They are the mean absolute error of the method's best guess and of its draws, and the energy score of
a row's draws, E‖X − x‖ − ½ E‖X − X'‖ with the Euclidean norm over the row's missing cells, averaged over rows, which also
judges the spread and the dependence of the draws. Lower is better in all.

Run: see benchmarks/tables.py; python benchmarks/imputation.py [--sets wine] [--methods rieszflow] [--again]
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
from sklearn.experimental import enable_iterative_imputer  # noqa: F401
from sklearn.impute import IterativeImputer
from tables import benchmark, cpu_seconds, load

SETS = ("contraceptive", "german", "wine", "diabetes")
Imputed = tuple[pd.DataFrame, list[pd.DataFrame]]  # the best guess, and draws


def with_holes(frame: pd.DataFrame, seed: int, share: float = 0.2) -> tuple[pd.DataFrame, np.ndarray]:
    """Remove cells of all columns at random, but not a whole row; return the table and the mask of missing cells."""
    rng = np.random.default_rng(seed)
    mask = rng.uniform(size=frame.shape) < share
    mask[mask.all(axis=1), 0] = False
    holes = frame.copy()
    for k, name in enumerate(frame.columns):
        numeric = pd.api.types.is_numeric_dtype(frame[name])
        holes[name] = (frame[name].astype(float) if numeric else frame[name]).mask(mask[:, k], np.nan if numeric else None)
    return holes, mask


class Encoding:
    """Numbers divided by their range in the incomplete table, and categories as one-hot; a missing cell is NaN throughout."""

    def __init__(self, frame: pd.DataFrame, categories: list[str]) -> None:
        self.columns = list(frame.columns)
        self.values = {name: np.sort(frame[name].dropna().unique()) for name in self.columns}
        self.categories = categories
        widths = [len(self.values[name]) if name in categories else 1 for name in self.columns]
        self.ends = np.cumsum([0, *widths])

    def encode(self, frame: pd.DataFrame) -> np.ndarray:
        parts = []
        for name in self.columns:
            missing = frame[name].isna().to_numpy()[:, None]
            if name in self.categories:
                part = (frame[name].to_numpy(object)[:, None] == self.values[name]).astype(float)
            else:
                part = (frame[[name]].to_numpy(float) - self.values[name][0]) / np.ptp(self.values[name])
            parts.append(np.where(missing, np.nan, part))
        return np.hstack(parts)

    def decode(self, x: np.ndarray) -> pd.DataFrame:
        columns = {}
        for k, name in enumerate(self.columns):
            part, values = x[:, self.ends[k] : self.ends[k + 1]], self.values[name]
            columns[name] = values[part.argmax(1)] if name in self.categories else values[0] + part[:, 0] * np.ptp(values)
        return pd.DataFrame(columns)


def rieszflow(holes: pd.DataFrame, categories: list[str], draws: int, seed: int) -> Imputed:
    from rieszflow.generative.impute import impute

    found = impute(holes, draws, seed=seed)
    return centre(found, categories), found


def iterative(holes: pd.DataFrame, categories: list[str], draws: int, seed: int, full: bool = False) -> Imputed:
    """Regress every column of the encoded table on all others (Bayesian ridge), with draws from its predictive distribution.

    With all columns of a one-hot category (`full`), each is determined by the others, which are missing in the same rows: such
    cells stay at the frequencies that they are filled with at first. So the first category has no column unless asked for.
    """
    encoding = Encoding(holes, categories)
    x = encoding.encode(holes)
    first = [encoding.ends[k] for k, name in enumerate(encoding.columns) if name in categories]
    kept = np.setdiff1d(np.arange(x.shape[1]), [] if full else first)

    def imputed(**options: Any) -> pd.DataFrame:
        whole = np.zeros(x.shape)
        whole[:, kept] = IterativeImputer(**options).fit_transform(x[:, kept])
        for begin in [] if full else first:
            whole[:, begin] = 1 - whole[:, begin : encoding.ends[np.searchsorted(encoding.ends, begin, "right")]].sum(axis=1)
        return encoding.decode(whole)

    return imputed(random_state=seed), [imputed(random_state=1000 * seed + k, sample_posterior=True) for k in range(draws)]


def iterative_one_hot(holes: pd.DataFrame, categories: list[str], draws: int, seed: int) -> Imputed:
    return iterative(holes, categories, draws, seed, full=True)


def hot_deck(holes: pd.DataFrame, categories: list[str], draws: int, seed: int, donors: int = 10) -> Imputed:
    """Copy missing cells from the nearest rows, by Gower's distance over the columns that both rows have.

    A draw starts at one of the ten nearest donors at random, and takes cells that this one lacks from the next that has them.
    The best guess is the median, or the most frequent category, of all draws.
    """
    rng = np.random.default_rng(seed)
    encoding = Encoding(holes, categories)
    halves = np.concatenate([[0.5] * n if n > 1 else [1.0] for n in np.diff(encoding.ends)])
    x, missing, n = encoding.encode(holes), holes.isna().to_numpy(), len(holes)
    total, known = np.zeros((n, n)), (~missing).astype(float)
    for k in range(x.shape[1]):
        total += halves[k] * np.nan_to_num(np.abs(x[:, k, None] - x[:, k]))
    distances = total / np.maximum(known @ known.T, 1)
    np.fill_diagonal(distances, np.inf)
    order = np.argsort(distances, axis=1)[:, :-1]
    found = []
    for _ in range(draws):
        table = holes.copy()
        first = rng.integers(donors, size=n)
        for k, name in enumerate(holes.columns):
            values, column = holes[name].to_numpy(), table[name].to_numpy(copy=True)
            for i in np.flatnonzero(missing[:, k]):
                rotated = np.concatenate([order[i, first[i] :], order[i, : first[i]][::-1]])
                column[i] = values[rotated[np.argmax(~missing[rotated, k])]]
            table[name] = column
        found.append(table)
    return centre(found, categories), found


def centre(tables: list[pd.DataFrame], categories: list[str]) -> pd.DataFrame:
    """Return the median of numbers and the most frequent category over tables with the same rows."""
    columns = {}
    for name in tables[0].columns:
        cells = pd.concat([table[name] for table in tables], axis=1)
        columns[name] = cells.mode(axis=1)[0] if name in categories else cells.median(axis=1)
    return pd.DataFrame(columns)


METHODS: dict[str, tuple[Callable[[pd.DataFrame, list[str], int, int], Imputed], str]] = {
    "IterativeImputer": (iterative, "sklearn.impute"),
    "IterativeImputer, full one-hot": (iterative_one_hot, "sklearn.impute"),
    "hot deck": (hot_deck, "sklearn.impute"),
    "rieszflow": (rieszflow, "rieszflow.generative"),
}


def errors(truth: pd.DataFrame, guess: pd.DataFrame, mask: np.ndarray, categories: list[str]) -> np.ndarray:
    """Return the errors of all cells, and 0 where no cell is missing: (n, columns)."""
    found = np.zeros(truth.shape)
    for k, name in enumerate(truth.columns):
        if name in categories:
            found[:, k] = truth[name].to_numpy(object) != guess[name].to_numpy(object)
        else:
            found[:, k] = np.abs(truth[name] - guess[name]) / np.ptp(truth[name])
    assert not np.isnan(found).any(), "every cell must be imputed"
    return np.where(mask, found, 0)


def job(name: str, method: str, seed: int, draws: int = 20) -> dict[str, Any]:
    frame, categorical, task = load(name)
    categories = [*categorical, *(["label"] if task == "classification" else [])]
    holes, mask = with_holes(frame, seed)
    function, package = METHODS[method]
    __import__(package)
    cpu, wall = cpu_seconds(), time.perf_counter()
    guess, tables = function(holes, categories, draws, seed)
    cost = {"cpu_seconds": cpu_seconds() - cpu, "wall_seconds": time.perf_counter() - wall}
    each = np.array([errors(frame, table, mask, categories) for table in tables])
    rows = mask.any(axis=1)
    far = np.sqrt((each**2).sum(2)).mean(0)
    spread = np.zeros(len(frame))
    for table in tables:
        for other in tables:  # unbiased: a draw is not compared with itself
            spread += np.sqrt((errors(table, other, mask, categories) ** 2).sum(1)) / (draws * (draws - 1))
    return {
        "mae": float(errors(frame, guess, mask, categories).sum() / mask.sum()),
        "mae_draws": float(each.mean(0).sum() / mask.sum()),
        "energy_score": float((far - spread / 2)[rows].mean()),
        **cost,
    }


def main() -> None:
    shown = {"mae": "MAE", "mae_draws": "MAE of a draw", "energy_score": "energy score", "cpu_seconds": "CPU s"}
    benchmark(__file__, __doc__, job, SETS, list(METHODS), list(METHODS), shown)


if __name__ == "__main__":
    main()
