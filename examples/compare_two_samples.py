"""
Compare two samples
===================

Test whether two samples come from one distribution, and find the columns in which they differ.
"""

# %%
# The data are from scikit-learn: 442 patients with diabetes and nine measurements of
# each, in different units. Do the two sexes differ? Tables with named columns are
# scaled: every number is divided by its interquartile range in the pooled samples, so
# that the result does not depend on units. ``scale="none"`` keeps raw units.

import matplotlib.pyplot as plt
from sklearn.datasets import load_diabetes

import rieszflow as rf

table = load_diabetes(as_frame=True, scaled=False).data
sex = table.pop("sex")
one, two = table[sex == 1], table[sex == 2]
print(one.shape, two.shape)

# %%
# Columns of data frames are matched by name. Arrow tables, files, NumPy arrays and
# tensors are accepted as well.
#
# * The *statistic* is the unbiased energy distance, which is around 0 for equal
#   distributions and can be negative.
# * The *p-value* is exact; 0.001 is the smallest possible with 999 permutations.

found = rf.compare(one, two, seed=0)
low, high = found.confidence_interval
print(
    f"energy distance {found.statistic:.4f}, 95 % interval {low:.4f} to {high:.4f}"
)
print(f"p-value {found.pvalue}, scale {found.scale}")

# %%
# Which columns differ? The energy coefficient of a column is 0 for equal
# distributions and 1 for two different constants.

columns = found.columns()
figure, axes = plt.subplots(figsize=(6, 3.4), layout="constrained")
axes.barh(
    [name for name, _, _ in columns][::-1],
    [apart for _, apart, _ in columns][::-1],
    color="#0072B2",
)
axes.set_xlabel("energy coefficient")
plt.show()

# %%
# At which scale? The test combines the energy distance with Gaussian kernels of many
# widths, on whole rows and on single columns. `Comparison.scales` lists the clearest
# one for each column, with p-values that are adjusted for the number of kernels, and
# the *witness* of the kernel that decided is positive where the first sample has more
# points.

for name, width, pvalue in found.scales(3):
    kernel = "energy distance" if width is None else f"width {width:.3g}"
    print(f"{name}: {kernel}, adjusted p-value {pvalue}")

values, errors = found.test.witness(table)
figure, axes = plt.subplots(figsize=(5.4, 4), layout="constrained")
first, second = columns[0][0], columns[1][0]
limit = abs(values).max()
points = axes.scatter(
    table[first],
    table[second],
    c=values,
    s=9,
    cmap="RdBu_r",
    vmin=-limit,
    vmax=limit,
)
axes.set(xlabel=first, ylabel=second)
figure.colorbar(points, label="more of the first, or of the second sample")
plt.show()

# %%
# For comparison, two random halves of one sample:

halves = one.sample(frac=1, random_state=0)
same = rf.compare(halves[:117], halves[117:], seed=0)
low, high = same.confidence_interval
print(
    f"energy distance {same.statistic:.4f}, 95 % interval {low:.4f} to {high:.4f}"
)
print(f"p-value {same.pvalue}")

# %%
# On the command line, for files of any size: ``rieszflow compare one.parquet
# two.parquet``.
#
# `~rieszflow.energy_distance` and `~rieszflow.mmd2` compute the same number from all
# pairs and are differentiable. They do not scale columns, so we divide the columns by
# the same spreads first.

x, y = (sample.to_numpy() / found.x.plan.settings.spreads for sample in (one, two))
print(rf.energy_distance(x, y, statistic="U").item())
