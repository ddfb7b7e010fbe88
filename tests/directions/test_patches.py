"""Slices on patches of images: against patches cut out and stretched pixel by pixel, and against brute force on all patches."""

import itertools
import re

import pytest
import torch
from problems import generator

import rieszflow as rf
from rieszflow._types import Cloud, Need, Pair
from rieszflow.directions import DenseDirections, sample
from rieszflow.directions.hadamard import transform
from rieszflow.engines import ENGINES, Problem


def stretched(drawn):
    """The directions (P, d) of a draw, written pixel by pixel from the directions on patches."""
    kind = drawn.kind
    C, H, W = kind.shape
    s, k = kind.size, kind.stretch
    found, condition_scale = [], s * k / (H * W) ** 0.5
    for block, xi in zip(drawn.blocks, drawn.xi, strict=True):
        top, left = divmod(int(drawn.pixels[block.patch, 0, 0]) % (H * W), W)
        for direction in xi:
            many = len(direction) - kind.condition
            image, patch = torch.zeros(kind.shape, dtype=xi.dtype), direction[:many].view(-1, s, s)
            colour = block.patch % C if kind.by_colour else 0
            for c, i, j in itertools.product(range(len(patch)), range(s * k), range(s * k)):
                image[colour + c, (top + i) % H, (left + j) % W] = patch[c, i // k, j // k] / k
            if kind.by_colour and C == 3:  # brightness, red less green, and both less blue
                a, b, c = image[0] / 3**0.5, image[1] / 2**0.5, image[2] / 6**0.5
                image = torch.stack([a + b + c, a - b + c, a - 2 * c])
            found.append(torch.cat([condition_scale * direction[many:], image.flatten()]))
    return torch.stack(found)


KINDS = [rf.PatchSlices((3, 10, 8), 3, 2), rf.PatchSlices((1, 8, 8), 7, 1), rf.PatchSlices((2, 6, 6), 2, 3),
         rf.PatchSlices((3, 9, 10), 4, 2, by_colour=True), rf.PatchSlices((2, 6, 6), 3, 1, by_colour=True),
         rf.PatchSlices((3, 10, 8), 3, 2, single_patch=True),
         rf.PatchSlices((3, 9, 10), 4, 1, by_colour=True, single_patch=True),
         rf.PatchSlices((3, 10, 8), 3, 2, condition=4),
         rf.PatchSlices((3, 9, 10), 4, 2, by_colour=True, condition=1)]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("P", [1, 5, 40])
def test_are_the_stretched_patches(kind, P):
    d = kind.d
    drawn = sample(kind, P, d, torch.zeros(1, dtype=torch.float64), generator(P))
    dense = stretched(drawn)
    assert drawn.P == P and len(dense) == P
    # Sums of at most d products of numbers of size one, in float64, here and below.
    whole = torch.cat([transform(transform(torch.eye(drawn.n).to(s) * s[0]) * s[1])[:, : block.rows]
                       for s, block in zip(drawn.signs, drawn.blocks, strict=True)], 1).T / drawn.n  # fmt: skip
    torch.testing.assert_close(whole.norm(dim=1), torch.ones(P, dtype=torch.float64), rtol=0, atol=1e-11)
    torch.testing.assert_close(whole[:, : drawn.xi[0].shape[1]], torch.cat(drawn.xi), rtol=0, atol=1e-11)
    g = generator(1)
    x, weights = torch.randn(11, d, generator=g, dtype=torch.float64), torch.randn(P, 11, generator=g, dtype=torch.float64)
    torch.testing.assert_close(drawn.project(x), dense @ x.T, rtol=0, atol=1e-11)
    torch.testing.assert_close(drawn.project(x, x[:1], 0.5), dense @ (0.5 * (x - x[0])).T, rtol=0, atol=1e-11)
    torch.testing.assert_close(drawn.adjoint(weights), weights.T @ dense, rtol=0, atol=1e-11)
    batch = torch.stack([x, 2 * x])
    torch.testing.assert_close(drawn.project(batch), torch.stack([dense @ x.T, 2 * dense @ x.T]), rtol=0, atol=1e-11)
    parts = drawn.split(7)
    assert sum(p.P for p in parts) == P
    torch.testing.assert_close(torch.cat([p.project(x) for p in parts]), dense @ x.T, rtol=0, atol=1e-11)
    torch.testing.assert_close(sum(p.adjoint(w) for p, w in zip(parts, weights.split([p.P for p in parts]), strict=True)),
                               weights.T @ dense, rtol=0, atol=1e-11)  # fmt: skip


def test_every_pixel_is_seen():
    kind = rf.PatchSlices((1, 9, 13), 4, 1)
    drawn = sample(kind, 12, 9 * 13, torch.zeros(1), generator(0))
    assert set(drawn.pixels.flatten().tolist()) == set(range(9 * 13))
    assert {block.patch for block in drawn.blocks} == set(range(kind.n_patches)) and kind.n_patches == 12


@pytest.mark.parametrize("kind", [*KINDS, rf.PatchSlices((3, 12, 12), 5, 2), rf.PatchSlices((1, 30, 30), 10, 3)])
@pytest.mark.parametrize(("P", "weighted"), [
    (3, True), (70, False), (600, True),
    *(pytest.param(*more, marks=pytest.mark.slow) for more in [(3, False), (70, True), (600, False)]),
])  # fmt: skip
def test_compiled_passes_against_the_same_on_dense_directions(kind, P, weighted):
    """The same slices through the passes for patches, and as a matrix. Projections differ in their last bits, so a point may
    fall into the next bin; then F̂ moves by no more than rounding does, for it is continuous except at point masses."""
    d, g = kind.d, generator(P)
    x, y = torch.rand(150, d, generator=g), torch.rand(90, d, generator=g) ** 2
    a = torch.rand(150, generator=g) + 0.1 if weighted else None
    a = None if a is None else a / a.sum()
    drawn = sample(kind, P, d, x, generator(9))
    pair = Pair(Cloud(x, a), Cloud(y, None), False)
    problem = Problem(rf.Riesz(), Need(value=True, x=True, y=True))
    found = ENGINES["bins"].evaluate(pair, drawn, problem)
    expected = ENGINES["bins"].evaluate(pair, DenseDirections(stretched(drawn)), problem)
    # The matrix counts as directions of R^d, and not of the space that a patch is padded to.
    factor = rf.Riesz().basis_constant(drawn.n) / rf.Riesz().basis_constant(d)
    torch.testing.assert_close(found.value, factor * expected.value, rtol=1e-4, atol=1e-7)
    for mine, theirs in ((found.x, expected.x), (found.y, expected.y)):
        assert (mine - factor * theirs).norm() < 1e-3 * (factor * theirs).norm()


@pytest.mark.parametrize("engine", ["sort", "bins"])
def test_mean_over_all_places_by_brute_force(engine):
    """MMD² between patches, averaged over all places. 400 draws of 64 slices: relative spread of one slice about 1, so of the
    mean 1/√25,600 = 0.6 %, and 5 of those are granted; bins of 600 points are off by less than 1 % on top."""
    shape, s, k = (1, 6, 6), 2, 2
    g = generator(3)
    x, y = torch.rand(300, 36, generator=g), torch.rand(300, 36, generator=g) ** 2
    exact = []
    for top, left in itertools.product(range(6), range(6)):
        rows, columns = (top + torch.arange(4)) % 6, (left + torch.arange(4)) % 6
        cut = [z.view(-1, 6, 6)[:, rows][:, :, columns].view(-1, 2, 2, 2, 2).sum((2, 4)).flatten(1) / k for z in (x, y)]
        exact.append(rf.mmd2(*cut))
    kind = rf.PatchSlices(shape, s, k)
    found = [rf.sliced_mmd2(x, y, slices=64, directions=kind, engine=engine, seed=g).item() for _ in range(400)]
    assert sum(found) / 400 == pytest.approx(torch.stack(exact).mean().item(), rel=0.04)


@pytest.mark.parametrize("engine", ["sort", "bins"])
def test_gradient_by_autograd_of_the_dense_form(engine):
    kind = rf.PatchSlices((3, 8, 8), 3, 2)
    g = generator(4)
    x, y = torch.rand(200, 192, generator=g), torch.rand(150, 192, generator=g) ** 3
    drawn = sample(kind, 40, 192, x, generator(9))
    dense = stretched(drawn)
    px, py = (dense @ z.T for z in (x, y))
    per_slice = (torch.sign(px[:, :, None] - py[:, None]).mean(2) - torch.sign(px[:, :, None] - px[:, None]).mean(2)) / 200
    expected = 2 * rf.Riesz().basis_constant(drawn.n) / 40 * per_slice.T @ dense
    found = rf.sliced_mmd2_gradient(x, y, slices=40, directions=kind, engine=engine, seed=generator(9))
    # sort: ties that rounding makes or breaks, 1/150 of one slice of 40; bins: the share of points in a bin, some 1/200
    tolerance = 1e-3 if engine == "sort" else 2e-2
    assert (found - expected).norm() < tolerance * expected.norm()


def test_flow_with_patches_keeps_its_tables():
    g = generator(5)
    x, y = torch.rand(2500, 256, generator=g), 0.3 * torch.rand(2500, 256, generator=g)
    flow = rf.ParticleFlow(y, slices=256, step_size=1.0, directions=rf.PatchSlices((1, 16, 16), 7), refresh_every=8, seed=g)
    moved = flow.run(x, steps=60)
    assert len(flow.targets[0]._cached) == 8
    assert rf.mmd2(moved[:500], y[:500]) < 0.05 * rf.mmd2(x[:500], y[:500])


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: rf.PatchSlices((1, 8, 8), 7, 2), "`size` · `stretch` must be at most 8 for images of 8 × 8 pixels, got 7 · 2"),
        (lambda: rf.PatchSlices((1, 8), 7), "must be (C, H, W) and positive integers"),
        (lambda: rf.PatchSlices((3, 8, 8), 2, 1, "yes"), "`by_colour` must be True or False, got 'yes'"),
        (lambda: rf.PatchSlices((3, 8, 8), 2, 1, single_patch=1), "`single_patch` must be True or False, got 1"),
        (lambda: rf.PatchSlices((1, 8, 8), 0), "must be (C, H, W) and positive integers"),
        (
            lambda: rf.sliced_mmd2(torch.zeros(2, 5), torch.ones(2, 5), directions=rf.PatchSlices((1, 8, 8))),
            "must fit points of dimension d = 5",
        ),
    ],
)
def test_bad_input(make, says):
    with pytest.raises(ValueError, match=re.escape(says)):
        make()
