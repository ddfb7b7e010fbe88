"""Compute gradients and a flow of clouds that are split over the ranks of torchrun; rank 0 writes the results.

Run by tests/infra/test_ranks.py: flow_on_ranks.py IN.npz OUT.npz
"""

import sys

import numpy as np
import torch
import torch.distributed as dist

import rieszflow as rf

STEPS = 5


def main(source: str, out: str) -> None:
    dist.init_process_group("gloo")
    rank, world, group = dist.get_rank(), dist.get_world_size(), dist.group.WORLD
    torch.set_num_threads(1)
    data = np.load(source)
    x, y, a, b = (torch.from_numpy(np.array_split(data[name], world)[rank]) for name in ("x", "y", "a", "b"))
    found = {}

    def target(**settings):
        # Only the first rank's generator counts.
        return rf.Target(y, seed=torch.Generator().manual_seed(5 + 100 * rank), slices=130, group=group, **settings)

    found["V"] = target().gradient(x)
    found["U"] = target().gradient(x, statistic="U")
    found["weights"] = target(y_weights=b).gradient(x, x_weights=a)
    found["kept"] = target(refresh_every=2).gradient(x)
    found["kernel"] = target(kernel=rf.Gaussian(5.0)).gradient(x)
    sent = []
    original = dist.all_reduce
    dist.all_reduce = lambda t, *args, **more: sent.append(t.numel() * t.element_size()) or original(t, *args, **more)
    generator = torch.Generator().manual_seed(9)
    flow = rf.ParticleFlow(y, slices=130, momentum=0.5, seed=generator, refresh_every=2, group=group)
    found["flow"] = flow.run(x, steps=STEPS)
    dist.all_reduce = original
    generator = torch.Generator().manual_seed(9 + 100 * rank)
    recorded = rf.ParticleFlow(y, slices=130, momentum=0.5, seed=generator, target_batch_size=500, record=True, group=group)
    found["recorded"] = recorded.run(x, steps=STEPS)
    found["replayed"] = recorded.recorded().push(x)
    pairs = rf.ParticleFlow(y, slices=130, momentum=0.5, seed=9, refresh_every=2, group=group, frozen=20)
    found["frozen"] = pairs.run(x, steps=STEPS)
    whole = torch.from_numpy(np.concatenate([data["x"], data["y"]]))  # the same rows on all ranks say where bins are
    sketch = rf.SliceSketch(whole, slices=64).update(y).reduce(group)
    gathered: list = [None] * world
    dist.all_gather_object(gathered, {name: t.numpy() for name, t in found.items()})
    if rank == 0:
        results = {name: np.concatenate([part[name] for part in gathered]) for name in found}
        np.savez(out, sent=np.array(sent), sketch=sketch.distance(data["x"]), rows=sketch.n, **results)
    dist.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
