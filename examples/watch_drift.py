"""
Watch drift
===========

A reference is counted once, into a sketch of fixed size. Then every new batch is tested against it.
"""

# %%
# Let the reference be handwritten digits, 64 numbers each, and let a scanner lose
# contrast: from day 10 on, a little more every day. A batch of a day has 100
# digits.

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
# A `~rieszflow.SliceSketch` holds counts on random lines, and some random points
# for tests. It does not grow with the data: `update` adds points to it, `merge`
# adds up the sketches of several machines, and `save` writes it to a file. Pixels share
# one unit and need no scaling; without ``scale="none"`` a notice would say that some
# pixels vary much more than others.

sketch = rf.SliceSketch.from_points(reference, slices=256, seed=0, scale="none")
print(sketch)

# %%
# `~rieszflow.drift_test` gives the distance with an interval, and a p-value that is
# exact even for small batches.

days = range(20)
found = [rf.drift_test(batch(day), sketch, seed=day) for day in days]
for day in days:
    distance, p = found[day].statistic, found[day].pvalue
    print(f"day {day:2}: distance {distance:7.4f}, p-value {p:.3f}")

# %%
# In the picture, full dots are days with a p-value of 0.01 at most. Without drift,
# that is one day in a hundred.

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
axes.axvline(9.5, color="#D55E00", linestyle=":", label="contrast begins to fall")
axes.set_xlabel("day")
axes.set_ylabel("distance D²")
axes.legend()
plt.show()

# %%
# Who works with scikit-learn has the same as an estimator. Its verdict is one for
# all rows that are given together.

drift = EnergyDrift(alpha=0.01, permutations=199, scale="none").fit(reference)
print(set(drift.predict(batch(0)).tolist()), set(drift.predict(batch(19)).tolist()))

# %%
# At a terminal: ``rieszflow sketch reference.parquet -o reference.sketch``, and
# every day ``rieszflow compare reference.sketch today.parquet``. Sketches made by
# the workers of Dask are in :doc:`/scaling`.
