"""Fast directions and others: transforms, adjoints, bias, and how fast estimates converge."""

import pytest
import torch
from problems import clouds, generator

import rieszflow as rf
from rieszflow import directions
from rieszflow._infra import validate
from rieszflow.directions import HadamardDirections


@pytest.mark.parametrize(("P", "d"), [(64, 5), (100, 64), (200, 100), (128, 128), (40, 300)])
def test_hadamard_paths_agree(P, d):
    """Compiled and plain transforms, adjoints, parts; whole blocks keep lengths."""
    xi = directions.sample("hadamard", P, d, torch.zeros(1), generator(3))
    wide = HadamardDirections(xi.signs.double(), P, d)
    x, g = torch.randn(77, d, generator=generator(1)), torch.randn(P, 77, generator=generator(2))
    projected, back = wide.project(x.double()), wide.adjoint(g.double())
    torch.testing.assert_close(xi.project(x).double(), projected, rtol=0, atol=2e-5)
    torch.testing.assert_close(xi.adjoint(g).double(), back, rtol=0, atol=5e-5)
    torch.testing.assert_close((projected * g).sum(), (back * x).sum())
    for step in (1, 30, 64):
        parts = wide.split(step)
        torch.testing.assert_close(torch.cat([p.project(x.double()) for p in parts]), projected)
        pieces = g.double().split(step)
        torch.testing.assert_close(sum(p.adjoint(h) for p, h in zip(parts, pieces, strict=True)), back)
    if P % xi.n == 0:
        torch.testing.assert_close((projected**2).sum(0), (x.double() ** 2).sum(1) * P / xi.n)


@pytest.mark.parametrize("d", [2, 3, 8, 64, 100])
def test_hadamard_bias(d):
    """c_{n,1} E|⟨ξ, z⟩| = ‖z‖ for the worst z, a coordinate axis, up to O(1/n): measured over 4000 blocks, within 1 %."""
    z = torch.zeros(1, d)
    z[0, 0] = 1
    xi = directions.sample("hadamard", 4000 * max(64, 1 << (d - 1).bit_length()), d, z, generator(9))
    mean = xi.project(z).abs().double().mean().item()
    assert rf.Riesz(1.0).basis_constant(xi.n) * mean == pytest.approx(1, abs=0.01)


def test_sobol_beats_independent_directions():
    x, y = clouds(1, 40, 40, 3)
    exact = rf.mmd2(x, y)

    def error(kind):
        draws = [rf.sliced_mmd2(x, y, slices=256, directions=kind, seed=generator(s)) - exact for s in range(30)]
        return torch.stack(draws).square().mean().sqrt().item()

    assert error("sobol") < 0.5 * error("independent")


FUNCTIONS = {
    "sliced_mmd2": lambda x, P: rf.sliced_mmd2(x, x, slices=P),
    "hadamard": lambda x, P: rf.sliced_mmd2(x, x, slices=P, directions="hadamard"),
    "patches": lambda x, P: rf.sliced_mmd2(x, x, slices=P, directions=rf.PatchSlices((1, 8, 8), 4)),
    "sliced_mmd2_gradient": lambda x, P: rf.sliced_mmd2_gradient(x, x, slices=P, engine="sort"),
    "Target": lambda x, P: rf.Target(x, slices=P).gradient(x),
    "SlicedMMDLoss": lambda x, P: rf.SlicedMMDLoss(slices=P)(x, x),
    "SliceSketch": lambda x, P: rf.SliceSketch(x, slices=P),
    "two_sample_test": lambda x, P: rf.two_sample_test(x, x, slices=P),
    "compare": lambda x, P: rf.compare(x, x, slices=P),
    "pairwise_energy_distance": lambda x, P: rf.pairwise_energy_distance(x, [0, 1] * 10, slices=P),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_slices_that_do_not_fit_into_memory_are_refused_before_any_is_drawn(name, monkeypatch):
    """10^13 slices on any machine, and 10^7 where 1 MB is left."""
    x = torch.rand(20, 64, generator=generator(0))
    with pytest.raises(rf.errors.InputError, match=r"`slices` must fit into memory, got 10000000000000, which needs at least"):
        FUNCTIONS[name](x, 10**13)
    monkeypatch.setattr(validate, "_available_memory", lambda: 1e6)
    with pytest.raises(rf.errors.InputError, match=r"got 10000000, which needs at least .* GiB; 0\.0 GiB are available"):
        FUNCTIONS[name](x, 10**7)
