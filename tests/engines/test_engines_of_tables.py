"""Sketches made where large tables live: workers of Dask and Spark, batches of DuckDB, frames of polars."""

import sys
from pathlib import Path

import numpy as np
import pytest

import rieszflow as rf

sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))


@pytest.fixture
def table():
    pandas = pytest.importorskip("pandas")
    rng = np.random.default_rng(0)
    return pandas.DataFrame(rng.normal(size=(3000, 3)), columns=["a", "b", "c"])


def check_dask(table):
    """Counts are whole numbers, so their sums do not depend on the tree; the sample is random, but of the right size."""
    import dask.dataframe as dd
    import dask_drift

    found = dask_drift.sketch(dd.from_pandas(table, npartitions=7), slices=64)
    alone = found.empty().update(table)
    assert found.n == 3000 and found.names == ["a", "b", "c"] and len(found.reservoir) == found.reservoir_size
    for mine, theirs in zip(found.counts, alone.counts, strict=True):
        np.testing.assert_array_equal(mine, theirs)
    assert rf.drift_test(table + 0.3, found, permutations=99).pvalue == 0.01


def test_dask_on_threads(table):
    dask = pytest.importorskip("dask")
    with dask.config.set(scheduler="threads"):
        check_dask(table)


@pytest.mark.slow
def test_dask_on_several_workers(table):
    distributed = pytest.importorskip("distributed")
    options = {"n_workers": 2, "threads_per_worker": 1, "dashboard_address": None}
    with distributed.LocalCluster(**options) as cluster, distributed.Client(cluster):
        check_dask(table)


@pytest.mark.slow
def test_duckdb_batch_by_batch(table):
    """As docs/scaling.md says."""
    duckdb, pa = pytest.importorskip("duckdb"), pytest.importorskip("pyarrow")
    connection = duckdb.connect()
    connection.register("rows", table)
    rows = connection.sql("SELECT a, b, c FROM rows LIMIT 256").to_arrow_table()
    sketch = rf.SliceSketch(rows.to_pandas().to_numpy(), names=["a", "b", "c"], slices=64)
    reader = connection.sql("SELECT c, b, a FROM rows").to_arrow_reader(1000)
    for batch in reader:
        sketch.update(pa.Table.from_batches([batch]))
    assert sketch.n == 3000
    for mine, theirs in zip(sketch.counts, sketch.empty().update(table).counts, strict=True):
        np.testing.assert_array_equal(mine, theirs)


@pytest.mark.slow
def test_spark_on_two_threads(table):
    """Needs pyspark and Java, which the test environment does not bring."""
    pytest.importorskip("pyspark")
    import spark_drift
    from pyspark.sql import SparkSession

    spark = SparkSession.builder.master("local[2]").getOrCreate()
    try:
        found = spark_drift.sketch(spark.createDataFrame(table).repartition(7), slices=64)
    finally:
        spark.stop()
    assert found.n == 3000 and found.names == ["a", "b", "c"] and len(found.reservoir) == found.reservoir_size
    for mine, theirs in zip(found.counts, found.empty().update(table).counts, strict=True):
        np.testing.assert_array_equal(mine, theirs)


@pytest.mark.slow
def test_polars_is_matched_by_name(table):
    polars = pytest.importorskip("polars")
    one, other = polars.from_pandas(table), polars.from_pandas(table[["c", "b", "a"]])
    assert rf.compare(one, other, permutations=9, slices=16).statistic <= 0
    assert rf.SliceSketch.from_points(one, slices=16).names == ["a", "b", "c"]
