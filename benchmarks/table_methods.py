"""Generate tables by rieszflow and other methods, for benchmarks/tables.py.

Each function takes training rows with the column "label", the other columns with categories, the task ("classification" or
"regression"), a number of rows and a seed, and yields one table after another. CPU time is measured until the first of them.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pandas as pd
from scipy.spatial.distance import cdist
from tables import encode


def rieszflow(train: pd.DataFrame, categorical: list[str], task: str, n: int, seed: int) -> Iterator[pd.DataFrame]:
    import rieszflow as rf

    flow = rf.GenerativeFlow(seed=seed).fit(train, label="label" if task == "classification" else None)
    for k in range(sys.maxsize):
        yield flow.sample_frame(n, seed=1000 * seed + k)


def training_rows(train: pd.DataFrame, categorical: list[str], task: str, n: int, seed: int) -> Iterator[pd.DataFrame]:
    """Yield the training rows themselves, which no method without copies should be expected to surpass."""
    while True:
        yield train


def gaussian_copula(train: pd.DataFrame, categorical: list[str], task: str, n: int, seed: int) -> Iterator[pd.DataFrame]:
    """Fit a Gaussian copula to normal scores; a category is a random point of its interval of the uniform distribution."""
    from scipy.stats import norm, rankdata

    rng = np.random.default_rng(seed)
    texts = {*categorical, *(["label"] if task == "classification" else [])}
    scores, shares = [], {}
    for name, column in train.items():
        if name in texts:
            shares[name] = column.value_counts(normalize=True).sort_index()
            high = shares[name].cumsum()
            scores.append((column.map(high) - rng.uniform(size=len(train)) * column.map(shares[name])).to_numpy(float))
        else:
            scores.append((rankdata(column) - 0.5) / len(train))
    covariance = np.corrcoef(norm.ppf(np.clip(scores, 1e-6, 1 - 1e-6)))
    while True:
        u = norm.cdf(rng.multivariate_normal(np.zeros(len(scores)), covariance, n, method="eigh"))
        columns: dict[str, Any] = {}
        for k, (name, column) in enumerate(train.items()):
            if name in texts:
                places = np.searchsorted(shares[name].cumsum().to_numpy()[:-1], u[:, k])
                columns[name] = shares[name].index.to_numpy()[places]
            else:
                whole = pd.api.types.is_integer_dtype(column)
                columns[name] = np.quantile(column, u[:, k], method="inverted_cdf" if whole else "linear")
        yield pd.DataFrame(columns)


def smote(train: pd.DataFrame, categorical: list[str], task: str, n: int, seed: int) -> Iterator[pd.DataFrame]:
    """Interpolate between a row and one of its five nearest rows of the same label; categories are those of the nearer row."""
    rng = np.random.default_rng(seed)
    x = encode(train, [train], [*categorical, *(["label"] if task == "classification" else [])])[0]
    distances = cdist(x, x, "cityblock")
    np.fill_diagonal(distances, np.inf)
    if task == "classification":
        label = train["label"].to_numpy()
        distances[label[:, None] != label] = np.inf
    near = np.argsort(distances, axis=1)[:, :5]
    while True:
        rows = rng.permutation(np.resize(rng.permutation(len(train)), n))
        a, b = train.iloc[rows].reset_index(drop=True), train.iloc[near[rows, rng.integers(5, size=n)]].reset_index(drop=True)
        share = rng.uniform(size=n)
        columns: dict[str, Any] = {}
        for name, column in train.items():
            if pd.api.types.is_numeric_dtype(column):
                between = a[name] + share * (b[name] - a[name])
                columns[name] = between.round().astype(int) if pd.api.types.is_integer_dtype(column) else between
            else:
                columns[name] = a[name].where(share < 0.5, b[name])
        yield pd.DataFrame(columns)


def forest_flow(
    train: pd.DataFrame, categorical: list[str], task: str, n: int, seed: int, n_t: int = 10, duplicate_K: int = 10
) -> Iterator[pd.DataFrame]:
    from ForestDiffusion import ForestDiffusionModel

    codes = train.copy()
    categories = {}
    for name in train.columns:
        if not pd.api.types.is_numeric_dtype(train[name]):
            codes[name], categories[name] = pd.factorize(train[name], sort=True)
    features = list(train.columns[:-1] if task == "classification" else train.columns)
    kinds = {k: len(categories[name]) if name in categories else 0 for k, name in enumerate(features)}
    model = ForestDiffusionModel(
        codes[features].to_numpy(float),
        label_y=codes["label"].to_numpy() if task == "classification" else None,
        n_t=n_t,
        duplicate_K=duplicate_K,
        diffusion_type="flow",
        bin_indexes=[k for k, count in kinds.items() if count == 2],
        cat_indexes=[k for k, count in kinds.items() if count > 2],
        int_indexes=[k for k, name in enumerate(features) if pd.api.types.is_integer_dtype(train[name])],
        n_jobs=1,
        seed=seed,
    )
    if any(count > 2 for count in kinds.values()):  # 1.0.6 takes the columns of "13_" for those of "3_"
        model.X_names_before = [f"c{name}" for name in model.X_names_before]
        model.X_names_after = model.X_names_after.map(lambda name: f"c{name}")
    while True:
        found = pd.DataFrame(model.generate(batch_size=n), columns=train.columns)
        for name, values in categories.items():
            found[name] = np.asarray(values, object)[found[name].astype(int)]
        yield found


def forest_flow_published(train: pd.DataFrame, categorical: list[str], task: str, n: int, seed: int) -> Iterator[pd.DataFrame]:
    yield from forest_flow(train, categorical, task, n, seed, n_t=50, duplicate_K=100)


def ctgan(
    train: pd.DataFrame, categorical: list[str], task: str, n: int, seed: int, model: str = "CTGAN"
) -> Iterator[pd.DataFrame]:
    import ctgan
    import torch

    torch.manual_seed(seed)
    np.random.seed(seed)  # noqa: NPY002 (ctgan draws from it)
    found = getattr(ctgan, model)(enable_gpu=False)  # 300 epochs
    found.fit(train, [*categorical, *(["label"] if task == "classification" else [])])
    while True:
        yield found.sample(n)


def tvae(train: pd.DataFrame, categorical: list[str], task: str, n: int, seed: int) -> Iterator[pd.DataFrame]:
    yield from ctgan(train, categorical, task, n, seed, "TVAE")


Method = Callable[[pd.DataFrame, list[str], str, int, int], Iterator[pd.DataFrame]]
METHODS: dict[str, tuple[Method, str]] = {  # the function, and a package to import before the clock starts
    "training rows": (training_rows, "scipy.stats"),
    "Gaussian copula": (gaussian_copula, "scipy.stats"),
    "SMOTE-like": (smote, "scipy.stats"),
    "rieszflow": (rieszflow, "rieszflow.generative"),
    "CTGAN": (ctgan, "ctgan"),
    "TVAE": (tvae, "ctgan"),
    "Forest-Flow, n_t 10, K 10": (forest_flow, "ForestDiffusion"),
    "Forest-Flow, n_t 50, K 100": (forest_flow_published, "ForestDiffusion"),
}
