"""Detect drift in a Spark data frame: sketch every partition on its executor and add the sketches on the driver.

The only rows that leave their executor are the 256 that determine the bins and the random ones that a sketch keeps for tests.

Run: python examples/spark_drift.py
Needs: pip install pyspark pandas, Java, and rieszflow with the `tables` extra on every executor.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterator

import numpy as np
import pandas as pd
from pyspark.sql import DataFrame, SparkSession

import rieszflow as rf


def sketch(frame: DataFrame, slices: int = 256) -> rf.SliceSketch:
    """Sketch a Spark data frame with numeric columns."""
    # The rows should be typical: for a sorted table, use random ones (`frame.sample`).
    rows = frame.limit(256).toPandas()
    empty = rf.SliceSketch(
        rows.to_numpy(float), slices=slices, names=list(frame.columns)
    )
    return add_up(frame, empty)


def add_up(frame: DataFrame, empty: rf.SliceSketch) -> rf.SliceSketch:
    """Sketch a frame on the slices and bins of an empty sketch, so that the sketches of several frames are comparable."""

    def counted(batches: Iterator[pd.DataFrame]) -> Iterator[pd.DataFrame]:
        part = empty.empty()
        for batch in batches:
            if len(batch):
                part.update(batch)
        yield pd.DataFrame({"sketch": [pickle.dumps(part)]})

    whole = empty.empty()
    for row in frame.mapInPandas(counted, "sketch binary").collect():
        whole = whole + pickle.loads(row.sketch)
    return whole


def main() -> None:
    spark = (
        SparkSession.builder.master("local[2]").appName("rieszflow").getOrCreate()
    )
    rng = np.random.default_rng(0)
    table = pd.DataFrame(rng.normal(size=(200_000, 3)), columns=["a", "b", "c"])
    later = pd.DataFrame(rng.normal(size=(50_000, 3)), columns=["a", "b", "c"])
    later["b"] += 0.05
    reference = sketch(spark.createDataFrame(table).repartition(16))
    fresh = add_up(spark.createDataFrame(later).repartition(4), reference.empty())
    alone = reference.empty().update(table)
    for one, other in zip(reference.counts, alone.counts, strict=True):
        assert (one == other).all()
    distance = reference.distance(fresh, statistic="U")
    test = rf.drift_test(later, reference)
    print(f"{reference}, with the same counts as on a single machine")
    print(f"energy distance {distance:.6f}, p-value {test.pvalue}")
    print(
        f"largest difference in column {rf.compare(reference, fresh).columns(1)[0][0]}"
    )
    spark.stop()


if __name__ == "__main__":
    main()
