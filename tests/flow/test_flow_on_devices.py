"""Flows on other devices than the CPU do not wait for them."""

import pytest
import torch
from problems import generator
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import rieszflow as rf
from rieszflow._infra import validate

SHAPE = (3, 12, 12)
KINDS = ["hadamard", rf.PatchSlices(SHAPE, 5, 2), rf.PatchSlices(SHAPE, 4, by_colour=True)]
MASK = rf.Mask(torch.arange(432) < 9)


class Waits(TorchDispatchMode):
    """Counts the numbers that the host reads from the meta device, and refuses copies that wait for it.

    The device has no data, so that it refuses all other operations that copy to the host, or whose shapes depend on data.
    """

    reads = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function is torch.ops.aten._local_scalar_dense.default and args[0].device.type == "meta":
            self.reads += 1
            return False
        out = function(*args, **(kwargs or {}))
        tensors = [t for t in tree_leaves((args, kwargs, out)) if isinstance(t, torch.Tensor)]
        if len({t.device.type for t in tensors if t.ndim or t.device.type == "meta"}) == 2:  # numbers of the CPU are passed on
            assert function is torch.ops.aten._to_copy.default and kwargs["non_blocking"], (function, args, kwargs)
        return out


@pytest.fixture
def flow_on_meta(monkeypatch):
    """Return a function that counts the numbers that the host reads in a flow on the meta device."""
    monkeypatch.setattr(validate, "_misfit", lambda x: "")
    monkeypatch.setattr(validate, "_is_finite", lambda x: True)

    def reads(steps, **settings):
        x, y = torch.empty(700, 432, device="meta"), torch.empty(600, 432, device="meta")
        settings = {"slices": 600, "directions": KINDS, "momentum": 0.5, "bounds": (0.0, 1.0), "seed": generator(1), **settings}
        flow = rf.ParticleFlow(y, **settings)
        with Waits() as waits:
            for _ in range(steps):
                x = flow.step(x)
        assert x.shape == (700, 432) and x.device.type == "meta"
        return waits.reads

    return reads


@pytest.mark.parametrize("combine", ["alternate", "sum"])
@pytest.mark.parametrize("frozen", [0, 5, MASK, rf.Pool(SHAPE, 2)], ids=str)
@pytest.mark.parametrize("how", [{"engine": "sort"}, {"engine": "bins"}, {"record": True}], ids=str)
def test_no_step_waits_for_the_device(how, frozen, combine, flow_on_meta):
    assert flow_on_meta(4, target_batch_size=250, combine=combine, frozen=frozen, **how) == 0


@pytest.mark.parametrize("directions", ["orthogonal", "independent", "sobol"])
@pytest.mark.parametrize("engine", ["sort", "bins"])
def test_no_step_on_dense_directions_waits(engine, directions, flow_on_meta):
    assert flow_on_meta(2, engine=engine, directions=directions, slices=30) == 0


def test_cached_slices_wait_once(flow_on_meta):
    """For each kind the host asks once whether the particles have left the bins, and draws the slices again if they have."""
    assert flow_on_meta(6, engine="bins", refresh_every=2) == 6 * len(KINDS)
