"""Constraints: projections, flows and recordings, and Gaussian pairs with a known conditional distribution."""

import math

import pytest
import torch
from problems import generator

import rieszflow as rf
from rieszflow.constraints import Constraint, FixedPrefix, as_constraint
from rieszflow.errors import FileError, InputError, InputTypeError

SHAPE = (2, 6, 4)
D = 48
HALF = torch.zeros(SHAPE, dtype=torch.bool)
HALF[..., :2] = True
CONSTRAINTS = [FixedPrefix(5), rf.Mask(HALF), rf.Pool(SHAPE, 2)]
# With each, slices of whole points and of patches: leading numbers stand before the pixels.
CASES = [(5, FixedPrefix(5)), (0, rf.Mask(HALF)), (0, rf.Pool(SHAPE, 2))]


def kinds(k):
    return ["hadamard", rf.PatchSlices(SHAPE, 3, 1, condition=k), rf.PatchSlices(SHAPE, 2, 2, condition=k)]


@pytest.mark.parametrize("constraint", CONSTRAINTS)
def test_is_an_orthogonal_projection(constraint):
    """Sums of at most d numbers of size one, in float64."""
    g = generator(0)
    x, y = (torch.randn(7, D, generator=g, dtype=torch.float64) for _ in range(2))
    part = constraint.project(x)
    torch.testing.assert_close(constraint.project(part), part, rtol=0, atol=1e-13)
    torch.testing.assert_close((part * (y - constraint.project(y))).sum(1), torch.zeros(7).double(), rtol=0, atol=1e-13)
    torch.testing.assert_close(constraint.project_out(x.clone()), x - part, rtol=0, atol=1e-13)
    put = constraint.restore(x.clone(), y)
    torch.testing.assert_close(constraint.project(put), constraint.project(y), rtol=0, atol=1e-13)
    torch.testing.assert_close(put - constraint.project(put), x - part, rtol=0, atol=1e-13)
    assert Constraint.from_dict(constraint.to_dict()) == constraint


def test_pooled_means():
    x = torch.arange(float(D)).view(1, D)
    pool = rf.Pool(SHAPE, 2)
    seen = pool.pool(x).view(2, 3, 2)
    for c in range(2):
        for i in range(3):
            for j in range(2):
                block = [c * 24 + (2 * i + a) * 4 + 2 * j + b for a in range(2) for b in range(2)]
                assert seen[c, i, j].item() == pytest.approx(sum(block) / 4)
    assert torch.equal(pool.pool(pool.unpool(pool.pool(x))), pool.pool(x))


@pytest.mark.parametrize(("k", "frozen"), CASES)
@pytest.mark.parametrize("recording", [False, True])
@pytest.mark.parametrize("summed", [False, True])
def test_the_fixed_part_stays(k, frozen, recording, summed):
    """Bit for bit where it is some of the numbers; of means of pixels up to rounding, of 20 steps on numbers up to one. It is
    left alone by bounds, too."""
    g = generator(1)
    x, y = torch.rand(400, k + D, generator=g), torch.rand(500, k + D, generator=g).square()
    if k:
        x[:, :k], y[:, :k] = 3 * x[:, :k] - 1, 3 * y[:, :k] - 1
    flow = rf.ParticleFlow(y, slices=64, directions=kinds(k), step_size=None, momentum=0.7, bounds=(0.2, 0.8), seed=g,
                           frozen=frozen, record=recording, combine="sum" if summed else "alternate")  # fmt: skip
    end = flow.run(x, steps=20)
    assert (end - x).norm() > 1
    if isinstance(frozen, rf.Pool):
        torch.testing.assert_close(frozen.project(end), frozen.project(x), rtol=0, atol=1e-5)
    else:
        assert torch.equal(frozen.project(end), frozen.project(x))
        free = (frozen.project(torch.ones(1, k + D)) == 0)[0]
        assert end[:, free].min() >= 0.2 and end[:, free].max() <= 0.8
    if recording:
        # As in test_recording: the same operations, in places of a vector where sums may round in their own way.
        replay = flow.recorded()
        torch.testing.assert_close(replay.push(x), end, rtol=0, atol=1e-4)
        double = x.double() + 1e-12
        if not isinstance(frozen, rf.Pool):
            assert torch.equal(frozen.project(replay.push(double)), frozen.project(double))


def test_leading_numbers_are_a_mask():
    """5 leading numbers, and a mask of the first 5."""
    g = generator(2)
    x, y = torch.randn(300, 9, generator=g), torch.randn(200, 9, generator=g)
    mask = torch.arange(9) < 5
    ends = [rf.ParticleFlow(y, slices=32, seed=generator(3), frozen=frozen).run(x, steps=5) for frozen in (5, rf.Mask(mask))]
    assert torch.equal(*ends)


@pytest.mark.parametrize("slices", [None, 64])
def test_nothing_known_is_the_flow_without(slices):
    g = generator(4)
    x, y = torch.rand(300, D, generator=g), torch.rand(200, D, generator=g)
    ends = [rf.ParticleFlow(y, slices=slices, seed=generator(5), **more).run(x, steps=5) for more in ({}, {"frozen": 0})]
    assert torch.equal(*ends)


def test_the_gradient_is_that_of_the_rest():
    """Against brute force, and for a `Target`."""
    g = generator(6)
    x, y = torch.randn(40, 6, generator=g), torch.randn(50, 6, generator=g)
    target = rf.Target(y, slices=32, seed=generator(7), frozen=2)
    whole = rf.Target(y, slices=32, seed=generator(7)).gradient(x)
    assert torch.equal(target.gradient(x)[:, 2:], whole[:, 2:]) and not target.gradient(x)[:, :2].any()
    exact = rf.ParticleFlow(y, slices=None, frozen=2).gradient(x)
    assert torch.equal(exact[:, 2:], rf.mmd2_gradient(x, y)[:, 2:]) and not exact[:, :2].any()


def test_gaussian_pairs():
    """(c, x) of a Gaussian with E[x | c] = A c + b and Cov = S. 4,000 particles with conditions of their own, 200 steps.

    The line that least squares lay through the end of fresh points, replayed at new conditions, has coefficients with a
    standard error of 1/√n, 0.016: by the targets that were seen, and again by the points that were pushed. About five of each
    are granted: 0.1. Variances are estimated to √(2/n), 0.022
    of themselves, five times each, and blurred by the flow's last steps: 0.2.
    """
    g, n = generator(8), 4000
    A, b, spread = torch.tensor([[1.0], [-0.5]]), torch.tensor([0.3, 1.0]), torch.tensor([0.5, 1.0])

    def pairs(m):
        c = torch.randn(m, 1, generator=g)
        return c, torch.cat([c, c @ A.T + b + spread * torch.randn(m, 2, generator=g)], 1)

    def start(m):
        return torch.cat([torch.randn(m, 1, generator=g), torch.rand(m, 2, generator=g)], 1)

    schedule = rf.geometric_schedule(12, 0.3, 200)
    flow = rf.ParticleFlow(pairs(n)[1], slices=64, step_size=None, momentum=0.7, step_schedule=schedule, seed=g, frozen=1,
                           record=True)  # fmt: skip
    flow.run(start(n), steps=200)
    end = flow.recorded().push(start(n))
    c = torch.cat([end[:, :1], torch.ones(n, 1)], 1)
    line = torch.linalg.lstsq(c, end[:, 1:]).solution
    torch.testing.assert_close(line, torch.cat([A.T, b[None]]), rtol=0, atol=0.1)
    rest = end[:, 1:] - c @ line
    torch.testing.assert_close(torch.cov(rest.T), torch.diag(spread.square()), rtol=0, atol=0.2)
    for low, high in ((-2.0, -1.0), (-0.3, 0.3), (1.0, 2.0)):  # everywhere, and not on average only
        near = (end[:, 0] > low) & (end[:, 0] < high)
        wanted = end[near, :1] @ A.T + b
        error = 5 * spread / math.sqrt(int(near.sum())) + 0.1
        assert ((end[near, 1:] - wanted).mean(0).abs() < error).all()


def test_recording_of_other_points_is_refused(tmp_path):
    g = generator(9)
    y = torch.rand(300, D, generator=g)
    flow = rf.ParticleFlow(y, slices=64, seed=g, frozen=rf.Pool(SHAPE, 2), record=tmp_path / "parts")
    flow.run(torch.rand(300, D, generator=g), steps=2)
    found = flow.recorded()
    found.save(tmp_path / "one.safetensors")
    assert rf.RecordedFlow.load(tmp_path / "one.safetensors").plan.frozen == rf.Pool(SHAPE, 2)
    content = (tmp_path / "one.safetensors").read_bytes()
    assert b'"pool\\": 2' in content or b"pool" in content
    (tmp_path / "one.safetensors").write_bytes(content.replace(b"pool", b"poor", 1))
    with pytest.raises(FileError, match="damaged"):
        rf.RecordedFlow.load(tmp_path / "one.safetensors")


@pytest.mark.parametrize(
    ("frozen", "error", "words"),
    [
        (9, InputError, "`frozen` must be at least 0 and less than d = 9, got 9"),
        (-1, InputError, "`frozen` must .* got -1"),
        (True, InputTypeError, "`frozen` must .* got bool"),
        (1.0, InputTypeError, "`frozen` must .* got float"),
        (rf.Mask(HALF), InputError, "`frozen` must fit the points, which have d = 9"),
        (rf.Pool(SHAPE, 2), InputError, "`frozen` must fit the points, which have d = 9"),
    ],
)
def test_constraints_that_do_not_fit_are_refused(frozen, error, words):
    with pytest.raises(error, match=words):
        rf.ParticleFlow(torch.rand(20, 9), slices=8, frozen=frozen)
    with pytest.raises(error, match=words):
        as_constraint(frozen, 9)


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: rf.Mask(torch.ones(4, dtype=torch.bool)), InputError, "`mask` must .* got all"),
        (lambda: rf.Mask(torch.zeros(4, dtype=torch.bool)), InputError, "`mask` must .* got none"),
        (lambda: rf.Mask(torch.ones(4)), InputTypeError, "`mask` must be of bool"),
        (lambda: rf.Mask([True, False]), InputTypeError, "`mask` must .* got list"),
        (lambda: rf.Pool((1, 6, 4), 3), InputError, "images of 6 × 4, got 3"),
        (lambda: rf.Pool((1, 6, 4), 1), InputError, "at least 2"),
        (lambda: rf.Pool((6, 4), 2), InputError, "a shape"),
        (lambda: rf.PatchSlices((1, 6, 4), 3, condition=-1), InputError, "`condition` must be a non-negative integer, got -1"),
    ],
)
def test_bad_parts_are_refused(make, error, words):
    with pytest.raises(error, match=words):
        make()
