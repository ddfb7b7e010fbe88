"""The random points that a sketch keeps: each as likely, however they came."""

import numpy as np
import pytest
import scipy.stats
import torch
import torch.distributed as dist

from rieszflow import SliceSketch
from rieszflow.sketch.counts import Reservoir


def table(n, seed=0, d=2):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def numbered(first, n):
    """Rows that say which they are."""
    return torch.arange(first, first + n).double()[:, None]


def test_all_of_few_and_some_of_many():
    x = table(100)
    sketch = SliceSketch.from_points(x, slices=2)
    assert sketch.reservoir_size == 2048
    assert torch.equal(sketch.reservoir.sort(0).values, x.double().sort(0).values)
    few = SliceSketch.from_points(x, slices=2, reservoir_size=10)
    assert few.reservoir.shape == (10, 2) and all((row == x.double()).all(1).any() for row in few.reservoir)
    assert len(np.unique(few.reservoir.numpy(), axis=0)) == 10
    assert SliceSketch.from_points(x, slices=2, reservoir_size=0).reservoir is None
    assert SliceSketch.from_points(x, slices=2).empty().update(x, x_weights=torch.ones(100)).reservoir is None
    assert SliceSketch(torch.zeros(2, 100_000), slices=1).reservoir_size == 64
    for bad in (-1, 1.0, True, "all"):
        with pytest.raises(ValueError, match="`reservoir_size` must be a non-negative integer, got "):
            SliceSketch.from_points(x, slices=2, reservoir_size=bad)


def test_batches_do_not_matter_and_the_seed_does():
    x = table(3000)
    whole = SliceSketch.from_points(x, slices=2, reservoir_size=50)
    assert torch.equal(SliceSketch(x, slices=2, reservoir_size=50).update(x.split(7)).reservoir, whole.reservoir)
    assert torch.equal(
        SliceSketch(x, slices=2, reservoir_size=50).update(iter(x.double().split(1000))).reservoir, whole.reservoir
    )
    assert not torch.equal(SliceSketch.from_points(x, slices=2, reservoir_size=50, seed=1).reservoir, whole.reservoir)


@pytest.mark.parametrize("alike", [False, True])
def test_every_row_is_as_likely_and_so_is_every_pair(alike):
    """Of three files, added up, 30 of 90 rows, 2,000 times: chi-squared of how often each is kept, error 1e-6; a sample without
    replacement has less spread than the multinomial law, by the factor 1 − 30/90. The row's number is in a column that the
    keys do not know of, for d = 9 every second one: `alike` files have the same keys at first, but rows i of two files must be
    kept together as often as any two rows are, 30·29/(90·89)."""
    kept, together = np.zeros(90), 0
    g = torch.Generator().manual_seed(0)
    for seed in range(2000):
        rows = torch.zeros(90, 9, dtype=torch.float64)
        rows[:, 0] = 0 if alike else torch.randn(90, generator=g)
        rows[:, 1] = torch.arange(90)
        total = Reservoir(30, 9, seed)
        for part in rows.split(30):
            one = Reservoir(30, 9, seed)
            one.update(part[:13], part[:13])
            one.update(part[13:], part[13:])
            total.merge(one)
        mine = np.zeros(90, bool)
        mine[total.rows[:, 1].astype(int)] = True
        assert mine.sum() == 30 and total.seen == 90
        kept += mine
        together += (mine[:30] & mine[30:60]).sum()
    expected = 2000 * 30 / 90
    statistic = ((kept - expected) ** 2).sum() / expected / (1 - 30 / 90) * 89 / 90
    assert 1e-6 < scipy.stats.chi2.sf(statistic, 89) < 1 - 1e-6
    # Its variance is nearly the binomial one: pairs of a sample without replacement are all but independent.
    pairs = scipy.stats.binom(2000 * 30, 30 * 29 / (90 * 89))
    assert min(pairs.cdf(together), pairs.sf(together - 1)) > 1e-6


def test_merged_in_any_order():
    parts = [
        SliceSketch(table(10), slices=2, reservoir_size=40).update(table(n, seed)) for n, seed in ((300, 1), (20, 2), (500, 3))
    ]
    a, b, c = parts
    assert torch.equal(((a + b) + c).reservoir, (a + (c + b)).reservoir) and len((a + b + c).reservoir) == 40
    assert torch.equal((b + b.empty()).reservoir, b.reservoir)
    fewer = SliceSketch(table(10), slices=2, reservoir_size=15).update(table(100, 4))
    assert (a + fewer).reservoir_size == 15 and len((a + fewer).reservoir) == 15


def test_a_sketch_added_to_itself_keeps_different_rows():
    """The same rows again would come with the same keys, twice the least of them. Of 40 of twice 500 about 0.8 pairs are the
    same row: 12 have a probability below 1e-8."""
    one = SliceSketch.from_points(numbered(0, 500), slices=1, reservoir_size=40)
    twice = one + one
    assert len(twice.reservoir) == 40 and twice.n == 1000
    assert len(twice.reservoir.unique()) > 28


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_saved_and_loaded(tmp_path, dtype):
    x = table(500).to(dtype) + (1e-12 if dtype == torch.float64 else 0)
    sketch = SliceSketch.from_points(x, slices=2, reservoir_size=60)
    sketch.save(tmp_path / "a.sketch")
    again = SliceSketch.load(tmp_path / "a.sketch")
    assert again.reservoir_size == 60 and torch.equal(again.reservoir, sketch.reservoir)
    more = sketch.empty().update(table(90, 1).to(dtype))
    assert torch.equal((again + more).reservoir, (sketch + more).reservoir)
    assert sketch.empty().reservoir.shape == (0, 2)
    SliceSketch.from_points(x, slices=2, reservoir_size=60).save(tmp_path / "b.sketch")
    assert (tmp_path / "a.sketch").read_bytes() == (tmp_path / "b.sketch").read_bytes()


def test_reduced_over_a_group():
    store = dist.HashStore()
    dist.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        sketch = SliceSketch.from_points(table(300), slices=2, reservoir_size=20)
        want = sketch.reservoir.clone()
        sketch.reduce(dist.group.WORLD)
        assert torch.equal(sketch.reservoir, want)
    finally:
        dist.destroy_process_group()
