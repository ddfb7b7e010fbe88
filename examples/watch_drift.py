"""
Monitor drift
=============

Summarise reference data in a sketch of fixed size, and test every new batch against it.
"""

# %%
# The reference consists of handwritten digits with 64 pixels each. A scanner loses
# contrast from day 10 on, a little more every day. Each day's batch has 100 digits.

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits

import rieszflow as rf
from rieszflow.sklearn import EnergyDrift

digits = load_digits().data.astype("float32")
digits = digits[np.random.default_rng(0).permutation(len(digits))]
reference, rest = digits[:1000], digits[1000:]


def batch(day):
    contrast = 1 - 0.02 * max(0, day - 9)
    return contrast * np.random.default_rng(day).choice(rest, 100, replace=False)


# %%
# A `~rieszflow.SliceSketch` holds histograms of projections onto random lines, and a
# random sample of the points for tests. Its size does not depend on the number of
# points: `update` adds points, `merge` adds the sketch of another machine, and `save`
# writes a file. Pixels share one unit and need no scaling; without ``scale="none"`` a
# notice would report that some pixels vary much more than others.

sketch = rf.SliceSketch.from_points(reference, slices=256, seed=0, scale="none")
print(sketch)

# %%
# `~rieszflow.drift_test` computes the distance with a confidence interval, and a
# p-value that is exact even for small batches.

days = range(20)
found = [rf.drift_test(batch(day), sketch, seed=day) for day in days]
for day in days:
    distance, p = found[day].statistic, found[day].pvalue
    print(f"day {day:2}: energy distance {distance:7.4f}, p-value {p:.3f}")

# %%
# Filled dots are days with a p-value of at most 0.01. Without drift, one day in a
# hundred is expected.

figure, axes = plt.subplots(figsize=(7, 3), layout="constrained")
for day, test in zip(days, found, strict=True):
    low, high = test.confidence_interval
    drifted = test.pvalue <= 0.01
    axes.plot([day, day], [low, high], color="#0072B2")
    axes.plot(
        day,
        test.statistic,
        "o",
        color="#0072B2",
        markerfacecolor="#0072B2" if drifted else "white",
    )
axes.axhline(0, color="grey", linewidth=0.8)
axes.axvline(
    9.5, color="#D55E00", linestyle=":", label="contrast starts to decrease"
)
axes.set_xlabel("day")
axes.set_ylabel("energy distance")
axes.legend()
plt.show()

# %%
# Twenty tests at the level 0.01 give a false alarm in one of six such months. A
# `~rieszflow.DriftMonitor` adds up the evidence of all days; the probability that it
# ever gives a false alarm is at most ``alpha``.

monitor = rf.DriftMonitor(sketch, alpha=0.01)
steps = [monitor.update(batch(day)) for day in days]
print("first alarm on day", next(day for day in days if steps[day].alarm))

# %%
# The scikit-learn estimator `~rieszflow.sklearn.EnergyDrift` predicts the same label
# for all rows of a batch.

drift = EnergyDrift(alpha=0.01, permutations=199, scale="none").fit(reference)
print(set(drift.predict(batch(0)).tolist()), set(drift.predict(batch(19)).tolist()))

# %%
# On the command line: ``rieszflow sketch reference.parquet -o reference.sketch``, and
# every day ``rieszflow compare reference.sketch today.parquet``. :doc:`/scaling` shows
# how to build sketches on Dask and Spark workers.
