"""Particle flows: against the formulas, and towards known targets."""

import numpy as np
import pytest
import torch
from problems import clouds, generator

import rieszflow as rf


def test_one_step_is_the_formula():
    x, y = clouds(1, 6, 8, 3)
    flow = rf.ParticleFlow(y, slices=7, step_size=0.3, momentum=0.5, seed=generator(2))
    first = flow.step(x)
    second = flow.step(first)
    g = generator(2)

    def gradient(x):
        seed = int(torch.randint(2**62, (), generator=g))  # of a step's slices
        return rf.sliced_mmd2_gradient(x, y, slices=7, seed=generator(seed))

    v = gradient(x)
    torch.testing.assert_close(first, x - 0.5 * 0.3 * 6 * v)
    v = gradient(first) + 0.5 * v
    torch.testing.assert_close(second, first - 0.5 * 0.3 * 6 * v)
    torch.testing.assert_close(flow.velocities[0], v)


@pytest.mark.parametrize("momentum", [0.0, 0.8])
@pytest.mark.parametrize("slices", [32, None])
def test_reaches_a_far_target(momentum, slices):
    """The distance falls to a hundredth from 20 standard deviations away, without tuning."""
    g = generator(0)
    y = torch.randn(150, 2, generator=g) + 20
    x = torch.rand(100, 2, generator=g)
    flow = rf.ParticleFlow(y, slices=slices, momentum=momentum, seed=g, step_size=1.0)
    moved = flow.run(x, steps=150)
    assert rf.energy_distance(moved, y) < 0.01 * rf.energy_distance(x, y)


def test_momentum_is_faster():
    g = generator(0)
    y = torch.randn(200, 2, generator=g) * 3 + 10
    x = torch.rand(200, 2, generator=g)
    after = [rf.ParticleFlow(y, slices=16, momentum=m, step_size=0.5, seed=generator(1)).run(x, steps=15) for m in (0, 0.7)]
    assert rf.energy_distance(after[1], y) < rf.energy_distance(after[0], y)


def test_other_kernels_exactly():
    x, y = clouds(1, 20, 20, 2)
    for kernel in (rf.Riesz(1.5), rf.Gaussian(1.0), rf.Laplace(1.0)):
        moved = rf.ParticleFlow(y, kernel=kernel, slices=None, step_size=0.2).run(x, steps=60)
        assert rf.mmd2(moved, y, kernel=kernel) < 0.5 * rf.mmd2(x, y, kernel=kernel)


def test_weights_pull():
    """All weight on one of two targets draws every particle there."""
    y = torch.tensor([[5.0, 0.0], [-5.0, 0.0]])
    flow = rf.ParticleFlow(y, slices=8, y_weights=torch.tensor([1.0, 0.0]), seed=generator(0), step_size=0.2)
    assert (flow.run(torch.rand(10, 2, generator=generator(1)), steps=200)[:, 0] > 4).all()


def test_callback_record_numpy_and_batches():
    x, y = clouds(1, 6, 8, 3)
    seen = []
    flow = rf.ParticleFlow(y.numpy(), slices=4, seed=generator(0))
    start = x.numpy().copy()
    out = flow.run(x.numpy(), steps=10, callback=lambda k, p: seen.append(k) or k == 7, snapshots=[0, 3, 7, 9])
    assert isinstance(out, np.ndarray) and np.array_equal(x.numpy(), start)
    assert seen == list(range(1, 8))
    assert list(flow.trajectory) == [0, 3, 7]
    assert np.array_equal(flow.trajectory[0], start) and np.array_equal(flow.trajectory[7], out)
    batch = rf.ParticleFlow(y.expand(2, 8, 3), slices=4, seed=generator(0)).run(x.expand(2, 6, 3), steps=3)
    assert batch.shape == (2, 6, 3) and torch.allclose(batch[0], batch[1])


def test_continued_flow_is_the_same_flow():
    x, y = clouds(1, 6, 8, 3)
    whole = rf.ParticleFlow(y, slices=4, momentum=0.6, seed=generator(0)).run(x, steps=10)
    g = generator(0)
    first = rf.ParticleFlow(y, slices=4, momentum=0.6, seed=g)
    half = first.run(x, steps=4)
    second = rf.ParticleFlow(y, slices=4, momentum=0.6, seed=g)
    second.velocities = list(first.velocities)
    assert torch.equal(second.run(half, steps=6), whole)


def test_bounds():
    """Every step is clipped to the box, and nothing else changes."""
    x, y = clouds(1, 6, 8, 3)
    free, kept = (rf.ParticleFlow(y, slices=4, seed=generator(0), bounds=b) for b in (None, (-0.5, 0.5)))
    assert torch.equal(kept.step(x), free.step(x).clamp(-0.5, 0.5))


@pytest.mark.parametrize("refresh_every", [1, 2])
def test_memory_is_used_again_only_when_nobody_looks_at_it(refresh_every):
    """Kept particles, velocities, views and arrays stay what they were; dropped ones are where the next results go."""
    x, y = clouds(1, 3000, 2000, 70, torch.float32)

    def flow():
        return rf.ParticleFlow(y, slices=128, momentum=0.5, engine="bins", seed=generator(3), refresh_every=refresh_every)

    kept, copies, one = [], [], flow()
    end = x
    for _ in range(8):
        end = one.step(end)
        for t in (end, one.velocities[0][:5], end.numpy()[1:3]):
            kept.append(t)
            copies.append(torch.as_tensor(t).clone())
    assert all(torch.equal(torch.as_tensor(t), copy) for t, copy in zip(kept, copies, strict=True))
    again, places = x.clone(), set()
    two = flow()
    for _ in range(8):
        again = two.step(again)
        places.add(again.data_ptr())
    assert torch.equal(again, end)
    assert len(places) <= 3


def test_kinds_taking_turns_are_flows_in_turn():
    """Against two flows of one kind each, stepped by hand with the same generator."""
    y, x = torch.rand(300, 36, generator=generator(1)), torch.rand(200, 36, generator=generator(2)) ** 2
    kinds = ["hadamard", rf.PatchSlices((1, 6, 6), 2)]
    both = rf.ParticleFlow(y, slices=[64, 40], directions=kinds, step_size=[0.5, 0.2], momentum=[0.5, 0.0], seed=generator(3))
    g = generator(3)
    one = rf.ParticleFlow(y, slices=64, directions=kinds[0], step_size=0.5, momentum=0.5, seed=g)
    two = rf.ParticleFlow(y, slices=40, directions=kinds[1], step_size=0.2, momentum=0.0, seed=g)
    expected, found = x, x
    for _ in range(4):
        expected, found = two.step(one.step(expected)), both.step(found)
    assert torch.equal(found, expected)
    assert torch.equal(both.velocities[0], one.velocities[0]) and torch.equal(both.velocities[1], two.velocities[0])


def test_summed_kinds_see_the_same_particles():
    y, x = torch.rand(300, 36, generator=generator(1)), torch.rand(200, 36, generator=generator(2)) ** 2
    kinds = ["hadamard", rf.PatchSlices((1, 6, 6), 2)]
    both = rf.ParticleFlow(y, slices=64, directions=kinds, step_size=[0.5, 0.2], seed=generator(3), combine="sum")
    g = generator(3)
    gradients = [rf.Target(y, slices=64, directions=kind, seed=g).gradient(x) for kind in kinds]
    torch.testing.assert_close(both.step(x), x - 0.5 * 200 * (0.5 * gradients[0] + 0.2 * gradients[1]), rtol=0, atol=1e-5)


def test_step_schedule_multiplies_the_step_size():
    y, x = torch.rand(30, 3, generator=generator(1)), torch.rand(20, 3, generator=generator(2)) + 2
    scaled = rf.ParticleFlow(y, slices=8, step_size=0.1, step_schedule=rf.geometric_schedule(8, 2, 3), seed=generator(3))
    g = generator(3)
    expected = found = x
    for factor in (8, 4, 2, 2):
        expected = rf.ParticleFlow(y, slices=8, step_size=0.1 * factor, seed=g).step(expected)
        found = scaled.step(found)
    # the factor is a power of a quotient, right up to some last bits
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
    assert scaled.steps == 4
    with pytest.raises(ValueError, match="`step_schedule` must return finite numbers of at least 0, got -1.0 for step 0"):
        rf.ParticleFlow(y, slices=8, step_schedule=lambda step: -1.0).step(x)


def test_a_step_size_is_found():
    """0.4 (1 − m) E‖Y − Y′‖, so a flow of scaled data is the scaled flow."""
    y, x = torch.rand(300, 3, generator=generator(1)), torch.rand(200, 3, generator=generator(2)) + 2
    flow = rf.ParticleFlow(y, slices=8, step_size=None, momentum=0.5, seed=generator(3))
    assert flow.step_sizes == [pytest.approx(0.2 * torch.pdist(y).mean().item(), rel=1e-5)]
    scaled = rf.ParticleFlow(1024 * y, slices=8, step_size=None, momentum=0.5, seed=generator(3))
    # one sum of 44,850 distances in float32 is all that may round differently
    torch.testing.assert_close(scaled.run(1024 * x, steps=5), 1024 * flow.run(x, steps=5), rtol=1e-5, atol=1e-2)
    with pytest.raises(ValueError, match="`step_size` must be a number if all targets are equal"):
        rf.ParticleFlow(torch.ones(5, 3), step_size=None)


def test_batches_of_targets_take_turns():
    """Batches of 40 of 100: rows 0–39, 40–79, 80–19, 20–59, 60–99, and again. Equal slices see what they would see of those."""
    y, x = torch.rand(100, 3, generator=generator(1)), torch.rand(20, 3, generator=generator(2))
    g, h = generator(3), generator(3)
    target = rf.Target(y, slices=8, seed=g, target_batch_size=40)
    for call in range(7):
        rows = torch.arange(40 * call, 40 * call + 40) % 100
        assert torch.equal(target.gradient(x), rf.Target(y[rows], slices=8, seed=h).gradient(x))
    again = rf.Target(y, slices=8, seed=g, target_batch_size=40)
    again.load_state(target.state())
    rows = torch.arange(280, 320) % 100
    assert torch.equal(again.gradient(x), rf.Target(y[rows], slices=8, seed=h).gradient(x))


def test_lists_of_other_lengths_are_refused():
    y = torch.rand(30, 36)
    for name, value in (("slices", [3]), ("momentum", [0.1] * 3), ("step_size", [1.0])):
        with pytest.raises(
            ValueError, match=f"`{name}` must be one value, or one for each of 2 kinds of directions, got . values"
        ):
            rf.ParticleFlow(y, directions=["hadamard", "orthogonal"], **{name: value})
    with pytest.raises(ValueError, match="`directions` must not be given if slices is None"):
        rf.ParticleFlow(y, directions=["hadamard", "orthogonal"], slices=None)
    with pytest.raises(ValueError, match="`target_batch_size` must be None"):
        rf.Target(y, refresh_every=2, target_batch_size=3)


def test_progress():
    x, y = clouds(1, 6, 8, 3)
    seen = []
    rf.ParticleFlow(y, slices=4, seed=generator(0)).run(x, steps=3, progress=seen.append)
    assert seen == [rf.Progress("steps", k, 3) for k in (1, 2, 3)]
