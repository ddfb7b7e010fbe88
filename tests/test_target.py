"""Targets: their gradients, the slices they cache, and their state."""

import numpy as np
import pytest
import torch
from problems import clouds, generator

import rieszflow as rf


def test_target_is_the_plain_gradient():
    x, y = clouds(1, 3000, 2000, 70, torch.float32)
    fresh = rf.Target(y, slices=64, seed=generator(4), refresh_every=1).gradient(x)
    seed = int(torch.randint(2**62, (), generator=generator(4)))  # of a set of slices
    assert torch.equal(fresh, rf.sliced_mmd2_gradient(x, y, slices=64, seed=generator(seed)))
    assert torch.equal(fresh, rf.Target(y, slices=64, seed=generator(4), refresh_every=2).gradient(x))
    # Cached tables: the same gradient in every turn, and other slices in between.
    target = rf.Target(y, slices=64, seed=generator(4), refresh_every=3)
    first, second, third, again = (target.gradient(x) for _ in range(4))
    assert torch.equal(first, again) and not torch.equal(first, second) and not torch.equal(second, third)
    for _ in range(5):
        target.gradient(x)
    assert not torch.equal(target.gradient(x), first)  # three uses are over
    as_numpy = rf.Target(y.numpy(), slices=64, seed=generator(4), refresh_every=1).gradient(x.numpy())
    assert isinstance(as_numpy, np.ndarray) and np.array_equal(as_numpy, fresh.numpy())


def test_target_follows_points_that_move():
    """Tables for points far away would be coarse at the target, so they are rebuilt when the points leave their range."""
    _, y = clouds(1, 10, 3000, 10, torch.float32)
    target = rf.Target(y, slices=40, seed=generator(4), refresh_every=4, engine="bins")
    for shift in (0.0, 100.0, 100.0, 100.0, 100.0, 100.0, 100.0, 100.0, 100.0):
        x = clouds(2, 3000, 10, 10, torch.float32)[0] + shift
        gradient = target.gradient(x)
    outward = gradient.mean(0) * 3000
    torch.testing.assert_close(outward.norm() / 2, torch.tensor(1.0), rtol=0, atol=0.2)  # a unit vector, up to slice error
    assert all(outside < 0.05 for cached in target._cached for outside in cached._outside)


def test_target_goes_on_from_its_state():
    x, y = clouds(1, 3000, 2000, 70, torch.float32)
    g = generator(4)
    target = rf.Target(y, slices=100, seed=g, refresh_every=3)
    for _ in range(4):
        target.gradient(x)
    state, random = target.state(), g.get_state()
    wanted = [target.gradient(x) for _ in range(8)]
    h = torch.Generator()
    h.set_state(random)
    other = rf.Target(y, slices=100, seed=h, refresh_every=3)
    other.load_state(state)
    assert all(torch.equal(other.gradient(x), w) for w in wanted)


def test_bad_targets():
    y = torch.rand(10, 3)
    for key, value in {"refresh_every": 0, "slices": 0, "seed": "1", "kernel": "gauss", "engine": "fft"}.items():
        with pytest.raises((ValueError, TypeError), match=f"^`?{key}`?:? "):
            rf.Target(y, **{key: value})
    target = rf.Target(y, slices=4)
    for x in (torch.rand(5, 2), torch.rand(5, 3).double(), torch.full((5, 3), float("nan")), np.zeros((5, 3))):
        with pytest.raises((ValueError, TypeError), match="^`?[xy]`?:? "):
            target.gradient(x)


def test_the_same_slices_in_all_calls():
    x, y = clouds(1, 900, 1200, 70, torch.float32)
    target = rf.Target(y, slices=64, seed=generator(4), refresh_every=None)
    first = target.gradient(x)
    (first_cached,) = target._cached
    target.gradient(x[:500])
    assert torch.equal(target.gradient(x), first)
    assert target._cached == [first_cached] and first_cached.uses == 3
    seeded = rf.sliced_mmd2_gradient(x, y, slices=64, seed=generator(first_cached.seed), engine="bins")
    assert torch.equal(first, seeded)
    target.gradient(x + 100)  # out of the bins' range
    assert not target._cached
    for settings in ({"engine": "sort"}, {"kernel": rf.Gaussian(1.0)}):
        with pytest.raises(ValueError, match="^`refresh_every` must be an integer unless .*, got None"):
            rf.Target(y, refresh_every=None, **settings)
