"""Targets that come in batches, and one that has no room in the address space: the gradient is the one from memory."""

import subprocess
import sys

import numpy as np
import pytest
import torch

import rieszflow as rf


def target(y, seed=1, **settings):
    return rf.Target(y, slices=128, seed=torch.Generator().manual_seed(seed), engine="bins", **settings)


def clouds(d=70):
    g = np.random.default_rng(0)
    return g.normal(size=(900, d)).astype(np.float32), (g.normal(size=(3000, d)) * 1.4).astype(np.float32)


@pytest.mark.parametrize("d", [3, 70])
def test_a_file_is_as_good_as_memory(tmp_path, d):
    """Its rows can be sampled as those of an array are: the same bins, and the same counts."""
    x, y = clouds(d)
    np.save(tmp_path / "y.npy", y)
    for statistic in ("V", "U"):
        want, got = (target(source).gradient(x, statistic=statistic) for source in (y, tmp_path / "y.npy"))
        np.testing.assert_array_equal(got, want)
    np.save(tmp_path / "y64.npy", y.astype(np.float64))
    # float64 rows are rounded to the particles' float32
    np.testing.assert_array_equal(target(tmp_path / "y64.npy").gradient(x), target(y).gradient(x))


def test_batches_are_nearly_as_good_as_memory():
    """The range comes from the first batch here: other bins, with the same bound."""
    x, y = (torch.from_numpy(c) for c in clouds())
    want, got = (target(source).gradient(x) for source in (y, list(y.split(700))))
    assert ((got - want).norm() / want.norm()).item() < 0.02  # bins hold some 5 points, and two gradients are off by about one


def test_read_only_memory_is_not_copied():
    x, y = clouds()
    y.flags.writeable = False
    assert target(y).y.data_ptr() == y.__array_interface__["data"][0]
    np.testing.assert_array_equal(target(y).gradient(x), target(y.copy()).gradient(x))


def test_a_flow_towards_batches_goes_on_exactly():
    x, y = (torch.from_numpy(c) for c in clouds())

    def flow():
        return rf.ParticleFlow(list(y.split(700)), slices=128, refresh_every=3, seed=torch.Generator().manual_seed(2))

    whole = flow()
    end = whole.run(x, steps=9)
    first, second = flow(), flow()
    half = first.run(x, steps=4)
    second.targets[0].load_state(first.targets[0].state())
    second.velocities = list(first.velocities)
    second.targets[0].generator.set_state(first.targets[0].generator.get_state())
    assert torch.equal(second.run(half, steps=5), end)
    far, near = rf.mmd2(x, y).item(), rf.mmd2(end, y).item()
    assert near < 0.5 * far


LIMITED = """
import resource, sys
import numpy as np, torch
import rieszflow as rf
x = np.load(sys.argv[2])
torch.set_num_threads(2)
def target(y):
    return rf.Target(y, slices=128, seed=torch.Generator().manual_seed(1), engine="bins")
target(x).gradient(x)  # threads, compiled code
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 200 * 2**20,) * 2)
if sys.argv[4] == "map":
    np.load(sys.argv[1], mmap_mode="r")
else:
    np.save(sys.argv[3], target(sys.argv[1]).gradient(x))
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_a_target_larger_than_the_address_space(tmp_path):
    """800 MB of target where there is room for 200 MB."""
    d, M = 100, 2_000_000
    g = np.random.default_rng(0)
    x = g.random((500, d), np.float32)
    np.save(tmp_path / "x.npy", x)
    y = np.lib.format.open_memmap(tmp_path / "y.npy", "w+", np.float32, (M, d))
    block = g.random((100_000, d), np.float32) ** 2
    for k in range(0, M, len(block)):
        y[k : k + len(block)] = block + 1e-6 * k / len(block)
    y.flush()
    (tmp_path / "run.py").write_text(LIMITED)
    command = [sys.executable, tmp_path / "run.py", tmp_path / "y.npy", tmp_path / "x.npy", tmp_path / "out.npy"]
    # The limit is one: the file cannot even be mapped.
    mapped = subprocess.run([*command, "map"], capture_output=True, text=True)
    assert mapped.returncode != 0 and "Cannot allocate memory" in mapped.stderr
    done = subprocess.run([*command, "stream"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    want = target(np.load(tmp_path / "y.npy", mmap_mode="r")).gradient(x)
    np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), want)


def test_bad_streamed_targets():
    _, y = clouds()
    for settings in ({"kernel": rf.Gaussian(1.0)}, {"engine": "sort"}, {"y_weights": np.ones(3)}):
        with pytest.raises(ValueError, match="^`y` must be a tensor or array unless .*, got batches"):
            rf.Target([y], **settings)
    with pytest.raises(ValueError, match="`y` must be a tensor or array if slices is None"):
        rf.ParticleFlow([y], slices=None)
    with pytest.raises(ValueError, match="must have at least one point, got none"):
        rf.Target([])


def test_a_pass_reports_where_it_is():
    x, y = clouds()
    seen = []
    source = rf.stream(torch.from_numpy(y).split(700), progress=lambda p: seen.append((p.done, p.total)))
    flow = rf.ParticleFlow(source, slices=64, seed=torch.Generator().manual_seed(2))
    seen.clear()  # to count the points of a list takes a pass
    flow.step(torch.from_numpy(x))
    assert [done for done, _ in seen][-5:] == [700, 1400, 2100, 2800, 3000]
    assert seen[-1] == (3000, 3000)
