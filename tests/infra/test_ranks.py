"""Clouds over the processes of torchrun (gloo): the same results as in one process."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from problems import relative

import rieszflow as rf
from rieszflow.generative import Run, RunError
from rieszflow.generative.processes import sigterm_as_error

SCRIPTS = Path(__file__).parents[1] / "scripts"


def torchrun(processes, *command, **options):
    """The finished `torchrun`; a hanging one is killed after five minutes, and raises."""
    full = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes), *command]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run([str(part) for part in full], capture_output=True, text=True, timeout=300, env=environment, **options)


def clouds(folder, N, M, d=70):
    g = np.random.default_rng(N)
    x, y = g.normal(size=(N, d)).astype(np.float32), (g.normal(size=(M, d)) * 1.5 + 0.3).astype(np.float32)
    a, b = (w / w.sum() for w in (g.random(N, np.float32), g.random(M, np.float32)))
    np.savez(folder / "in.npz", x=x, y=y, a=a, b=b)
    return tuple(torch.from_numpy(v) for v in (x, y, a, b))


@pytest.mark.parametrize("processes", [3, *(pytest.param(n, marks=pytest.mark.slow) for n in (1, 2, 4))])
def test_the_same_as_one_process(tmp_path, processes):
    """N and M that no number divides. A point's place in its tile changes with its rank, and the last bit of its projections
    with it; one that lies on a bin's edge is then counted next door: changes of one point in a bin of some, rarely."""
    x, y, a, b = clouds(tmp_path, 1009, 811)
    done = torchrun(processes, SCRIPTS / "flow_on_ranks.py", tmp_path / "in.npz", tmp_path / "out.npz")
    assert done.returncode == 0, done.stderr
    got = np.load(tmp_path / "out.npz")

    def target(**settings):
        return rf.Target(y, seed=torch.Generator().manual_seed(5), slices=130, engine="bins", **settings)

    assert relative(torch.as_tensor(got["V"]), target().gradient(x)) < 1e-3
    assert relative(torch.as_tensor(got["U"]), target().gradient(x, statistic="U")) < 1e-3
    assert relative(torch.as_tensor(got["weights"]), target(y_weights=b).gradient(x, x_weights=a)) < 1e-3
    assert relative(torch.as_tensor(got["kept"]), target(refresh_every=2).gradient(x)) < 1e-3
    assert (
        relative(torch.as_tensor(got["kernel"]), target(kernel=rf.Gaussian(5.0)).gradient(x)) < 1e-4
    )  # no jumps at bins' edges
    flow = rf.ParticleFlow(y, slices=130, momentum=0.5, seed=torch.Generator().manual_seed(9), refresh_every=2, engine="bins")
    moved = flow.run(x, steps=5)
    assert relative(torch.as_tensor(got["flow"]) - x, moved - x) < 1e-2  # five steps, each from where the last one ended
    pairs = rf.ParticleFlow(y, slices=130, momentum=0.5, seed=9, refresh_every=2, engine="bins", frozen=20).run(x, steps=5)
    assert np.array_equal(got["frozen"][:, :20], x[:, :20])
    assert relative(torch.as_tensor(got["frozen"]) - x, pairs - x) < 1e-2
    # What the ranks wrote down is one recording. It sees 500 targets, here not those that one process sees: the first ones
    # of every rank. The gradient on 500 of 811 is off by some 1/√500 of itself, and so may the way be.
    assert relative(torch.as_tensor(got["replayed"]), torch.as_tensor(got["recorded"])) < 1e-5
    alone = rf.ParticleFlow(
        y, slices=130, momentum=0.5, seed=torch.Generator().manual_seed(9), target_batch_size=500, record=True
    )
    assert relative(torch.as_tensor(got["recorded"]) - x, alone.run(x, steps=5) - x) < 0.1
    sketch = rf.SliceSketch(torch.cat([x, y]), slices=64).update(y)
    assert got["rows"] == sketch.n == 811
    assert float(got["sketch"]) == pytest.approx(sketch.distance(x), rel=1e-5)


@pytest.mark.slow
def test_bytes_sent_do_not_depend_on_the_number_of_points(tmp_path):
    sent = []
    for N in (5_000, 20_000):  # both large enough for all bins
        clouds(tmp_path, N, 4_000)
        done = torchrun(2, SCRIPTS / "flow_on_ranks.py", tmp_path / "in.npz", tmp_path / "out.npz")
        assert done.returncode == 0, done.stderr
        sent.append(np.load(tmp_path / "out.npz")["sent"])
    assert len(sent[0]) == len(sent[1]) and (sent[0] == sent[1]).all()
    tables = 130 * (1024 + 128) * 4
    # Five steps, and three sets of slices for two steps each, need eight tables; the rest is a few numbers and sampled rows.
    assert 8 * tables <= sent[0].sum() < 8.5 * tables


def test_group_refused():
    x = torch.zeros(4, 3)
    with pytest.raises(ValueError, match="torch.distributed is not initialised"):
        rf.Target(x, group="all")
    with pytest.raises(ValueError, match="`group` must not be given if slices is None"):
        rf.ParticleFlow(x, slices=None, group="all")


# The generative training, from the command line under torchrun.

SETTINGS = [
    "particles=2601", "stages=3", "initial_steps=8", "max_step_increment=8", "slices=64", "network=mlp", "width=32", "layers=2",
    "fit_steps=60", "checkpoint_seconds=0.000001", "ema=0.9",
]  # fmt: skip


def training(out, *more):
    settings = [part for item in (*SETTINGS, *more) for part in ("--set", item)]
    run = ["train", "digits", "--preset", "networks", "--out", out, "--seed", 3, "--device", "cpu"]
    return ["-m", "rieszflow", *run, *settings]


@pytest.mark.slow
def test_training_over_two_processes(tmp_path):
    alone = subprocess.run([sys.executable, *map(str, training(tmp_path / "one"))], capture_output=True, text=True)
    assert alone.returncode == 0, alone.stderr
    done = torchrun(2, *training(tmp_path / "two"))
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("stage   1") == 1  # one process speaks
    one, two = (Run.open(tmp_path / name).metrics() for name in ("one", "two"))
    assert len(two) == 3
    # The first flow sees the same particles, targets and slices; a step is some 0.3 of a distance, a point at a bin's edge
    # that is counted next door changes a force by one of some hundred.
    for key in ("particles", "training_data"):
        assert two[0].energy_distance[key] == pytest.approx(one[0].energy_distance[key], rel=1e-3, abs=1e-4)
    assert two[0].displacement_rms == pytest.approx(one[0].displacement_rms, rel=1e-3)
    # Then networks have seen other batches: as good, not the same.
    assert two[0].fit_error == pytest.approx(one[0].fit_error, rel=0.3)
    assert two[-1].energy_distance["fresh_samples"] < 2 * one[-1].energy_distance["fresh_samples"] + 0.02
    sample = subprocess.run(
        [sys.executable, "-m", "rieszflow", "sample", tmp_path / "two", "-n", "20", "--out", tmp_path / "s.npz"]
    )
    assert sample.returncode == 0


@pytest.mark.slow
@pytest.mark.parametrize("more", [[], ["condition=class"]], ids=["", "by-class"])
def test_recording_over_two_processes(tmp_path, more):
    """The same slices, particles and targets as one process has. Points at a bin's edge may be counted next door, and 24 long
    steps each go on from that: distances agree to some parts in a hundred of what they were at the start, about 0.1."""
    recorded = ["model=recorded", "step_schedule=[4.0, 1.0]", "patch_slices=[[4, 1]]", "clip=true", *more]
    alone = subprocess.run([sys.executable, *map(str, training(tmp_path / "one", *recorded))], capture_output=True, text=True)
    assert alone.returncode == 0, alone.stderr
    done = torchrun(2, *training(tmp_path / "two", *recorded))
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("stage   1") == 1  # one process speaks
    one, two = (Run.open(tmp_path / name).metrics() for name in ("one", "two"))
    assert len(two) == 3
    for key in ("particles", "fresh_samples", "training_data"):
        assert two[-1].energy_distance[key] == pytest.approx(one[-1].energy_distance[key], abs=3e-3)


@pytest.mark.slow
@pytest.mark.parametrize("resumed_by", [1, 3])
def test_one_process_killed_and_resumed_by_another_number(tmp_path, resumed_by):
    """SIGKILL of the second process in the second network: the job ends soon, not well; nothing is broken; resume goes on."""
    run = tmp_path / "run"
    command = training(run, "fit_steps=150")
    full = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *map(str, command)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    job = subprocess.Popen(full, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment)
    try:
        deadline = time.monotonic() + 120
        while not (run / "networks" / "0001.safetensors").exists():
            assert job.poll() is None and time.monotonic() < deadline
            time.sleep(0.05)
        ranks = [p for p in psutil.Process(job.pid).children() if "rieszflow" in p.cmdline()]
        assert len(ranks) == 2
        victim = next(p for p in ranks if p.environ()["RANK"] == "1")
        victim.kill()
        _, errors = job.communicate(timeout=60)
    finally:
        job.kill()
    assert job.returncode != 0 and ("SIGKILL" in errors or "another process of this run has ended" in errors)
    # The one that is left says what to do before torchrun, which ends it, prints its own pages.
    assert len(re.findall(r"(?m)^error: .*another process of this run has ended.*; resume the run$", errors)) == 1
    assert Run.open(run).finished() < 3
    resume = ["-m", "rieszflow", "resume", run]
    if resumed_by == 1:
        done = subprocess.run([sys.executable, *map(str, resume)], capture_output=True, text=True)
    else:
        done = torchrun(resumed_by, *resume)
    assert done.returncode == 0, done.stderr
    rows = Run.open(run).metrics()
    assert [row.stage for row in rows] == [1, 2, 3]
    assert rows[-1].energy_distance["fresh_samples"] < rows[0].energy_distance["fresh_samples"] + 0.02


def test_sigterm_as_error():
    """SIGTERM, which torchrun sends to the remaining processes, becomes an error while a training runs."""
    before = signal.getsignal(signal.SIGTERM)

    def training():
        with sigterm_as_error(Path("somewhere")):
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(10)

    with pytest.raises(RunError, match=r"somewhere: terminated \(SIGTERM\).*; resume the run"):
        training()
    assert signal.getsignal(signal.SIGTERM) == before


@pytest.mark.slow
def test_more_processes_than_particles(tmp_path):
    done = torchrun(3, *training(tmp_path / "run", "particles=2"))
    assert done.returncode != 0 and "3 processes given for 2 particles" in done.stderr
