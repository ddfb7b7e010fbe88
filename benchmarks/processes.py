"""Time a flow step on several processes with equal threads in total, count the bytes sent, and fit a model (docs/scaling.md).

torchrun (gloo) starts every job with k processes of 2 / k threads. Particles and targets, N = M, are distributed over the
ranks; the histograms of the targets are cached. Seconds are the median over several steps on the slowest rank. Bytes are
counted in calls of torch.distributed.all_reduce.

The model is step = N · a + b + c, with a seconds per particle on two threads and b seconds per step, both fitted to one
process, and c seconds for one all-reduce of the histograms, measured separately. It predicts the time on two processes.

The model also estimates a step of 10⁹ particles on 1,000 processes of two such threads, with a ring all-reduce over 25 Gbit/s.

Run: python benchmarks/processes.py [--d 784] [--slices 1024] [--repeats 7] [--sizes 4000 20000 100000 300000]
     python benchmarks/processes.py --d 12288 --slices 16384 --sizes 500 1000 2000 4000
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
import torch.distributed as dist
from common import parser, save

import rieszflow as rf

LINK, DELAY = 25e9 / 8, 10e-6  # bytes per second and seconds per message between two processes


def job(out: str, N: int, d: int, slices: int, repeats: int) -> None:
    """Run the job of one process."""
    dist.init_process_group("gloo")
    rank, world = dist.get_rank(), dist.get_world_size()
    torch.set_num_threads(2 // world)
    # Every rank draws its own part; only the sizes of the parts matter.
    n = N // world
    g = torch.Generator().manual_seed(rank)
    x, y = torch.rand(n, d, generator=g), torch.rand(n, d, generator=g) ** 2
    group = dist.group.WORLD if world > 1 else None
    flow = rf.ParticleFlow(
        y, slices=slices, engine="bins", seed=g, refresh_every=None, group=group
    )  # one set of slices throughout
    flow.gradient(x)
    sent, seconds = 0, []
    original = dist.all_reduce

    def counting(tensor, *arguments, **more):
        nonlocal sent
        sent += tensor.numel() * tensor.element_size()
        return original(tensor, *arguments, **more)

    dist.all_reduce = counting
    for _ in range(repeats + 2):
        dist.barrier()
        sent, start = 0, time.perf_counter()
        flow.step(x)
        seconds.append(time.perf_counter() - start)
    dist.all_reduce = original
    slowest = torch.tensor(statistics.median(seconds[2:]))
    dist.all_reduce(slowest, dist.ReduceOp.MAX)
    table = torch.zeros(sent // 4 if world > 1 else 1)
    alone = []
    for _ in range(repeats + 2):
        dist.barrier()
        start = time.perf_counter()
        dist.all_reduce(table)
        alone.append(time.perf_counter() - start)
    if rank == 0:
        found = {"seconds": slowest.item(), "sent": sent, "reduce": statistics.median(alone[2:]) if world > 1 else 0.0}
        Path(out).write_text(json.dumps(found))
    dist.destroy_process_group()


def run(processes: int, N: int, options) -> dict:
    with tempfile.TemporaryDirectory() as folder:
        out = f"{folder}/out.json"
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes), __file__]
        # positional arguments, because torchrun would take some options as its own
        arguments = ["job", out, N, options.d, options.slices, options.repeats]
        environment = {**os.environ, "OMP_NUM_THREADS": str(2 // processes)}
        subprocess.run([*command, *map(str, arguments)], check=True, capture_output=True, env=environment)
        return json.loads(Path(out).read_text())


def main() -> None:
    if sys.argv[1:2] == ["job"]:
        job(sys.argv[2], *map(int, sys.argv[3:]))
        return
    command = parser(__doc__, d=784, slices=1024, repeats=7)
    command.add_argument("--sizes", type=int, nargs="+", default=[4_000, 20_000, 100_000, 300_000])
    options = command.parse_args()
    sizes = options.sizes
    rows = [{"N": N, **{f"processes {k}": run(k, N, options) for k in (1, 2)}} for N in sizes]
    # Least squares of relative errors: aN/s + b/s = 1 for the seconds s of one process.
    seconds = np.array([row["processes 1"]["seconds"] for row in rows])
    (a, b), *_ = np.linalg.lstsq(np.stack([np.array(sizes) / seconds, 1 / seconds], 1), np.ones(len(rows)), rcond=None)
    model = {"seconds_a_particle": a, "seconds_a_step": b}
    for row in rows:
        for k in (1, 2):
            found = row[f"processes {k}"]
            # two threads in total, so a is the same for one process and for two
            found["predicted"] = row["N"] * a + b + found["reduce"]
            off = found["predicted"] / found["seconds"] - 1
            print(
                f"N = M = {row['N']:>7,}, {k} process{'es' if k > 1 else '  '}: {1e3 * found['seconds']:7.1f} ms a step, "
                f"{found['sent'] / 1e6:5.2f} MB sent, predicted {1e3 * found['predicted']:7.1f} ms ({100 * off:+.0f} %)"
            )
    reduce = rows[-1]["processes 2"]["reduce"]
    print(f"model: {1e6 * a:.2f} µs a particle + {1e3 * b:.1f} ms a step + {1e3 * reduce:.1f} ms for all tables' all-reduce")
    table, k, N = rows[-1]["processes 2"]["sent"], 1000, 10**9
    ring = 2 * (k - 1) * (table / k / LINK + DELAY)
    large = {"particles": N, "processes": k, "compute": N / k * a, "all_reduce": ring, "sent_by_each": 2 * table}
    print(
        f"{N:,} particles on {k:,} processes: {large['compute']:.1f} s for the particles and {ring:.3f} s for tables of "
        f"{table / 1e6:.1f} MB, a step; one array of particles has {N / k * options.d * 4e-9:.1f} GB a process"
    )
    figure, axes = plt.subplots(figsize=(6, 3))
    for k, mark in ((1, "o"), (2, "s")):
        label = f"{k} process(es), {2 // k} thread(s) each"
        axes.loglog(sizes, [r[f"processes {k}"]["seconds"] for r in rows], mark, label=label)
        axes.loglog(sizes, [r[f"processes {k}"]["predicted"] for r in rows], "--", lw=1, color="grey")
    axes.set(xlabel="N = M", ylabel="seconds a flow step", title=f"d = {options.d}, P = {options.slices}; dashed: model")
    axes.legend()
    content = {"d": options.d, "slices": options.slices, "model": model, "rows": rows, "large": large}
    save(options, f"processes-{options.d}", content, figure)


if __name__ == "__main__":
    main()
