"""Detect drift in a Dask data frame: sketch every partition on its worker and add the sketches in a tree.

The only rows that leave their worker are the 256 that determine the bins and the random ones that a sketch keeps for tests.

Run: python examples/dask_drift.py
Needs: pip install 'dask[dataframe,distributed]' and rieszflow with the `tables` extra.
"""

from __future__ import annotations

import dask
import dask.dataframe as dd
import numpy as np
import pandas as pd
from dask.distributed import Client, LocalCluster

import rieszflow as rf


def sketch(frame: dd.DataFrame, slices: int = 256) -> rf.SliceSketch:
    """Sketch a Dask data frame with numeric columns."""
    # The rows should be typical: for a sorted table, use random ones (`frame.sample`).
    rows = frame.head(256, npartitions=-1)
    empty = rf.SliceSketch(
        rows.to_numpy(float), slices=slices, names=list(frame.columns)
    )
    return add_up(frame, empty)


def add_up(frame: dd.DataFrame, empty: rf.SliceSketch) -> rf.SliceSketch:
    """Sketch a frame on the slices and bins of an empty sketch, so that the sketches of several frames are comparable."""
    parts = [dask.delayed(count)(part, empty) for part in frame.to_delayed()]
    # Add four sketches at a time, so that no machine has to hold all of them.
    while len(parts) > 1:
        fours = [parts[k : k + 4] for k in range(0, len(parts), 4)]
        parts = [dask.delayed(total)(four) for four in fours]
    (whole,) = dask.compute(parts[0])
    return whole


def count(part: pd.DataFrame, empty: rf.SliceSketch) -> rf.SliceSketch:
    return empty.empty().update(part) if len(part) else empty.empty()


def total(parts: list[rf.SliceSketch]) -> rf.SliceSketch:
    first, *rest = parts
    for part in rest:
        first = first + part
    return first


def main() -> None:
    with (
        LocalCluster(
            n_workers=2, threads_per_worker=1, dashboard_address=None
        ) as cluster,
        Client(cluster),
    ):
        rng = np.random.default_rng(0)
        table = pd.DataFrame(rng.normal(size=(200_000, 6)), columns=list("abcdef"))
        reference = sketch(dd.from_pandas(table, npartitions=16))
        print(f"reference: {reference.n} rows from 16 partitions on 2 workers")
        today = pd.DataFrame(rng.normal(size=(20_000, 6)), columns=list("abcdef"))
        for name, frame in (
            ("no drift", today),
            ("column c shifted by 0.1", today.assign(c=today["c"] + 0.1)),
        ):
            test = rf.drift_test(frame, reference)
            print(
                f"{name}: energy distance {test.statistic:.5f}, p-value {test.pvalue:.3f}"
            )
        alone = reference.empty().update(table)
        print(
            f"equal to the sketch made on a single machine: {abs(alone.distance(reference)) < 1e-12}"
        )


if __name__ == "__main__":
    main()
