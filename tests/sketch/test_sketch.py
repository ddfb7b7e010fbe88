"""Sketches against the functional on the same points."""

import itertools
import warnings

import numpy as np
import pytest
import torch
from problems import generator, relative

import rieszflow as rf
from rieszflow import SliceSketch
from rieszflow._infra.files import save_tensors
from rieszflow.generative.run import NETWORK


def clouds(n=3000, m=2000, d=5, dtype=torch.float32, seed=0):
    g = generator(seed)
    return torch.randn(n, d, generator=g).to(dtype), (torch.randn(m, d, generator=g) * 1.5 + 0.7).to(dtype)


def counts(sketch):
    return torch.cat([c.flatten() for c in sketch.counts])


def equal(a, b):
    return torch.equal(counts(a), counts(b)) and a.n == b.n


@pytest.mark.parametrize("d", [1, 3, 100])
@pytest.mark.parametrize("statistic", ["V", "U"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_distance_and_gradient_are_the_functionals(d, statistic, dtype):
    """On the same slices: values to the bins' error on values, gradients to about one of some 5 points a bin."""
    x, y = clouds(d=d, dtype=dtype)
    sketch = SliceSketch(torch.cat([x, y]), slices=256, seed=7).update(y)
    want = rf.sliced_mmd2(x, y, slices=256, engine="sort", statistic=statistic, seed=generator(7))
    assert sketch.distance(x, statistic=statistic) == pytest.approx(want.item(), rel=2e-3)
    exact = rf.sliced_mmd2_gradient(x, y, slices=256, engine="sort", statistic=statistic, seed=generator(7))
    got = sketch.gradient(x, statistic=statistic)
    assert got.dtype == dtype and relative(got, exact) < 0.01
    assert isinstance(sketch.gradient(x.numpy(), statistic=statistic), np.ndarray)


def test_distance_is_the_energy_distance():
    """Against brute force: 1,024 Haar slices of R³ leave some 3 % (1/√1024), squared blocks less."""
    x, y = clouds(d=3)
    sketch = SliceSketch.from_points(y)
    assert sketch.distance(x, statistic="U") == pytest.approx(rf.mmd2(x, y, statistic="U").item(), rel=0.03)
    each = sketch.slice_distances(x, statistic="U")
    assert each.shape == (1024,) and each.mean().item() == pytest.approx(sketch.distance(x, statistic="U"), rel=1e-9)


def test_weights():
    x, y = clouds()
    w = torch.rand(len(y), generator=generator(1))
    sketch = SliceSketch(torch.cat([x, y]), slices=128, seed=3).update(y, x_weights=5 * w)
    share = w / w.sum()
    want = rf.sliced_mmd2(x, y, slices=128, engine="sort", y_weights=share, statistic="U", seed=generator(3)).item()
    assert sketch.distance(x, statistic="U") == pytest.approx(want, rel=2e-3)
    exact = rf.sliced_mmd2_gradient(x, y, slices=128, engine="sort", y_weights=share, seed=generator(3))
    assert relative(sketch.gradient(x), exact) < 0.01
    a = torch.rand(len(x), generator=generator(2))
    a /= a.sum()
    exact = rf.sliced_mmd2_gradient(x, y, slices=128, engine="sort", x_weights=a, y_weights=share, seed=generator(3))
    assert relative(sketch.gradient(x, x_weights=a), exact) < 0.01


def test_parts_add_up_exactly_in_any_order():
    x, _ = clouds()
    whole = SliceSketch.from_points(x, slices=64)
    parts = [whole.empty().update(part) for part in x.split(700)]
    for order in itertools.permutations(range(len(parts)), len(parts)):
        total = whole.empty()
        for k in order:
            total.merge(parts[k])
        assert equal(total, whole)
    a, b, c = parts[:3]
    assert equal((a + b) + c, a + (b + c)) and equal(a + b, b + a)
    assert torch.equal((a + b).gradient(x), (b + a).gradient(x))
    shuffled = whole.empty().update(x[torch.randperm(len(x), generator=generator(1))])
    assert equal(shuffled, whole)


def test_distance_from_itself_is_zero_and_symmetric():
    x, y = clouds()
    one = SliceSketch.from_points(x, slices=64)
    other = one.empty().update(y)
    assert one.distance(one) == 0 and one.distance(x) == 0
    assert one.distance(other) == pytest.approx(other.distance(one), rel=1e-6)  # float32 masses


def test_outliers_and_far_data_are_counted():
    """Bins were laid for x; y is a thousand ranges away, where bins are half as wide as far: values know the mean in them."""
    x, _ = clouds(d=3)
    y = x + 1000
    sketch = SliceSketch.from_points(x, slices=128, seed=5)
    want = rf.sliced_mmd2(y, x, slices=128, engine="sort", seed=generator(5)).item()
    assert sketch.distance(y) == pytest.approx(want, rel=2e-3)


def test_features_that_differ():
    x, _ = clouds(d=6)
    y = clouds(d=6, seed=1)[0]
    y[:, 4] += 1
    found = SliceSketch.from_points(x, slices=64).feature_distances(y)
    assert found.shape == (6,) and int(found.argmax()) == 4
    for k in range(6):
        d2, mean = rf.mmd2(x[:, [k]], y[:, [k]]).item(), torch.cdist(x[:, [k]], y[:, [k]]).mean().item()
        # E|X − Y| is nearly the same for all; D² is off by the bins' error on values
        assert found[k].item() == pytest.approx(d2 / (2 * mean), rel=0.02, abs=1e-5)
    constant = SliceSketch.from_points(torch.zeros(5, 1))
    assert constant.feature_distances(torch.ones(3, 1)).item() == pytest.approx(1)
    assert constant.feature_distances(torch.zeros(3, 1)).item() == 0


def test_saved_and_loaded(tmp_path):
    x, y = clouds(d=80)
    sketch = SliceSketch(x, slices=200, names=[f"c{k}" for k in range(80)]).update(x)
    sketch.save(tmp_path / "a.sketch")
    again = SliceSketch.load(tmp_path / "a.sketch")
    assert equal(sketch, again) and again.names == sketch.names
    assert again.distance(y) == sketch.distance(y) and torch.equal(again.gradient(y), sketch.gradient(y))
    assert equal(sketch + again, again.merge(sketch))
    weighted = SliceSketch(x, slices=20).update(x, x_weights=torch.rand(len(x), generator=generator(0)))
    weighted.save(tmp_path / "w.sketch")
    assert equal(SliceSketch.load(tmp_path / "w.sketch"), weighted)


def test_a_large_reference_is_a_small_file(tmp_path):
    x, _ = clouds(d=10)
    small = SliceSketch.from_points(x, slices=256)
    small.save(tmp_path / "a.sketch")
    for _ in range(15):  # 3,000 · 2^15, nearly 10⁸ rows
        small.merge(small + small.empty())
    small.save(tmp_path / "b.sketch")
    assert small.n == 3000 * 2**15
    assert (tmp_path / "b.sketch").stat().st_size < 1.01 * (tmp_path / "a.sketch").stat().st_size < 3e6


def test_damaged_and_foreign_files(tmp_path):
    x, _ = clouds()
    SliceSketch.from_points(x, slices=8).save(tmp_path / "a.sketch")
    content = (tmp_path / "a.sketch").read_bytes()
    (tmp_path / "short.sketch").write_bytes(content[:-100])
    (tmp_path / "foreign.sketch").write_bytes(b"hello")
    changed = bytearray(content)
    changed[-5] ^= 1
    (tmp_path / "changed.sketch").write_bytes(bytes(changed))
    for name in ("short", "foreign", "changed"):
        with pytest.raises(ValueError, match=f"{name}.sketch: damaged"):
            SliceSketch.load(tmp_path / f"{name}.sketch")
    save_tensors(tmp_path / "n.sketch", NETWORK, {}, {})
    with pytest.raises(ValueError, match="must hold a sketch, got a network"):
        SliceSketch.load(tmp_path / "n.sketch")
    with pytest.raises(ValueError, match="no such file"):
        SliceSketch.load(tmp_path / "none.sketch")


def test_sketches_that_do_not_fit():
    x, y = clouds()
    one = SliceSketch.from_points(x, slices=8)
    with pytest.raises(ValueError, match="`other` must be a sketch with seed = 0, as this one, got seed = 1"):
        one.merge(SliceSketch.from_points(x, slices=8, seed=1))
    with pytest.raises(ValueError, match="with slices = 8, as this one, got slices = 9"):
        one.distance(SliceSketch.from_points(x, slices=9))
    with pytest.raises(ValueError, match="with the same bins, got bins that lie elsewhere"):
        one.merge(SliceSketch.from_points(y, slices=8))
    with pytest.raises(ValueError, match="`x` must have points of dimension d = 5, as the sketch has, got d = 4"):
        one.distance(x[:, :4])
    with pytest.raises(ValueError, match="`x_weights` must be given for all points of a sketch or for none"):
        one.update(y, x_weights=torch.ones(len(y)))
    with pytest.raises(ValueError, match="the sketch is empty"):
        one.empty().gradient(x)
    with pytest.raises(ValueError, match="`statistic` must be .*, got 'W'"):
        one.distance(y, statistic="W")
    with pytest.raises(ValueError, match="`directions` must be one of 'auto', .*, got 'haar'"):
        SliceSketch(x, directions="haar")
    with pytest.raises(ValueError, match="`names` must be 5 different names, one per column, got 2"):
        SliceSketch(x, names=["a", "b"])
    with pytest.raises(TypeError, match="`other` must be a SliceSketch, got Tensor"):
        one.merge(x)
    with pytest.raises(ValueError, match=r"`x_weights` must have shape \(2000,\), .*, got \(3,\)"):
        one.empty().update(y, x_weights=torch.ones(3))
    with pytest.raises(TypeError, match="weights: must have no masked values"):
        one.empty().update(y, x_weights=np.ma.masked_less(np.arange(len(y)) * 1.0, 5))
    with pytest.raises(TypeError, match="weights: .*<U1"):
        one.empty().update(y, x_weights=np.array(["a"] * len(y)))


def test_an_error_in_the_middle_leaves_the_sketch_as_it_was():
    x, _ = clouds()
    sketch = SliceSketch.from_points(x, slices=8)
    before = counts(sketch)
    bad = x.clone()
    bad[2000, 1] = float("nan")
    with pytest.raises(ValueError, match="batch 1 must be finite, got NaN"):
        sketch.update(list(bad.split(1500)))
    assert torch.equal(counts(sketch), before) and sketch.n == len(x)


# Streams.


def test_a_plan_of_another_sketch():
    """Takes its slices and bins, and nothing that would be of no use."""
    x, y = clouds()
    one = SliceSketch.from_points(x, slices=16, seed=3)
    other = SliceSketch(one.plan).update(y)
    assert other.distance(one) == one.empty().update(y).distance(one) and other.seed == 3
    with pytest.raises(rf.errors.InputError, match="`slices`, .* must be left out if `points` is a plan"):
        SliceSketch(one.plan, slices=32)


def test_bins_that_are_too_wide_are_told():
    """Of 256 normal points on 1,024 bins some 200 have a bin of their own; 1,000 times narrower, all share a few."""
    g = np.random.default_rng(1)
    wide = rf.SliceSketch(1e3 * g.normal(size=(500, 2)), slices=16)
    with pytest.warns(rf.Notice, match="distinct points share a bin on average"):
        wide.empty().update(g.normal(size=(500, 2)))
    few_values = g.integers(0, 3, (500, 2)).astype(float)
    with warnings.catch_warnings():
        warnings.simplefilter("error", rf.Notice)
        wide.empty().update(1e3 * g.normal(size=(500, 2)))
        wide.empty().update(300 * g.normal(size=(500, 2)))
        rf.SliceSketch(few_values, slices=16).update(few_values)  # equal points share bins rightly


def test_a_sketch_made_in_inference_mode_is_filled_outside_of_it():
    x = torch.randn(40, 2, generator=generator(9))
    with torch.inference_mode():
        sketch = SliceSketch(x, slices=8).update(x[:20])
    sketch.update(x[20:])
    want = SliceSketch(x, slices=8).update(x)
    assert torch.equal((sketch + sketch.empty()).gradient(x), want.gradient(x)) and sketch.n == 40
