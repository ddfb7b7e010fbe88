"""`SlicedEnergyDistance`: batches, processes and resets do not change what it gives; Lightning's Trainer can use it."""

import copy
import json
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from problems import generator
from torchmetrics import MetricCollection

import rieszflow as rf
from rieszflow.errors import InputError, InputTypeError
from rieszflow.metrics import SlicedEnergyDistance


def clouds(n=700, m=500, d=5):
    g = generator(1)
    return torch.randn(n, d, generator=g), 1.5 * torch.randn(m, d, generator=g) + 0.5


def filled(x, y, batch=128, **options):
    metric = SlicedEnergyDistance(y[:50], slices=64, **options)
    for part in y.split(batch):
        metric.update(part, real=True)
    for part in x.split(batch):
        metric.update(part, real=False)
    return metric


@pytest.mark.parametrize("statistic", ["V", "U"])
def test_it_is_the_energy_distance_on_its_slices(statistic):
    """Against the exact engine on the same slices; bins err by some 1e-3 in a value (docs/measured.md)."""
    x, y = clouds()
    exact = rf.sliced_mmd2(x, y, slices=64, seed=0, engine="sort", statistic=statistic)
    assert filled(x, y, statistic=statistic).compute().item() == pytest.approx(exact.item(), rel=5e-3)
    assert filled(y, x, statistic=statistic).compute().item() == pytest.approx(exact.item(), rel=5e-3)


def test_batches_order_and_shape_do_not_matter():
    x, y = clouds()
    want = filled(x, y).compute()
    assert torch.equal(filled(x, y, batch=1000).compute(), want)
    assert torch.equal(filled(x.flip(0), y, batch=77).compute(), filled(x, y).compute())
    images = SlicedEnergyDistance(y[:50].view(-1, 1, 5), slices=64)
    images.update(y.view(-1, 1, 5), real=True)
    images.update(x.view(-1, 5, 1), real=False)
    assert torch.equal(images.compute(), want)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(filled(x, y).compute(), want)
    narrow = filled(x.bfloat16(), y.bfloat16())
    assert torch.equal(narrow.compute(), filled(x.bfloat16().float(), y.bfloat16().float()).compute())


def test_memory_is_constant_and_states_travel():
    x, y = clouds()
    metric = filled(x, y)
    size = sum(v.numel() for v in (metric.real_counts, metric.real_tail_sums, metric.made_counts, metric.made_tail_sums))
    assert size == 64 * 2 * (1152 + 128) and metric.real_n == 500
    others = [copy.deepcopy(metric), pickle.loads(pickle.dumps(metric)), SlicedEnergyDistance(y[:50], slices=64)]
    metric.persistent(True)
    others[2].persistent(True)
    others[2].load_state_dict(metric.state_dict())
    assert all(torch.equal(other.compute(), metric.compute()) for other in others)


def test_reset():
    x, y = clouds()
    metric = filled(x, y)
    first = metric.compute()
    metric.reset()
    with pytest.raises(InputError, match="at least 2 points with real=True must have been seen, got 0"):
        metric.compute()
    kept = filled(x, y, reset_real=False)
    kept.reset()
    assert kept.real_n == 500 and kept.made_n == 0
    kept.update(x, real=False)
    assert torch.equal(kept.compute(), first)


@pytest.mark.parametrize("reset_real", [True, False])
@pytest.mark.parametrize("dist_sync_on_step", [True, False])
def test_forward_counts_every_batch_once_and_gives_its_distance_from_the_other_cloud(reset_real, dist_sync_on_step):
    x, y = clouds()
    options = {"reset_real": reset_real, "dist_sync_on_step": dist_sync_on_step}
    metric = SlicedEnergyDistance(y[:50], slices=64, **options)
    seen = torch.zeros(0, 5)
    for part in y.split(128):
        assert metric(part, real=True).isnan()  # of the other cloud, nothing has been seen
    for part in x.split(128):
        seen = torch.cat([seen, part])
        assert torch.equal(metric(part, real=False), filled(part, y, **options).compute())
        assert metric.real_n == 500 and metric.made_n == len(seen)
        assert torch.equal(metric.compute(), filled(seen, y, **options).compute())
    assert torch.equal(metric(y[:100], real=True), filled(x, y[:100], **options).compute())
    with pytest.raises(InputError, match="NaN"):
        metric(x / 0, real=False)
    assert (metric.real_n, metric.made_n) == (600, 700)


def test_states_of_other_bins_are_refused():
    x, y = clouds()
    metric = filled(x, y)
    want = filled(torch.cat([x, y]), torch.cat([y, x[:50]])).compute()
    others = [
        SlicedEnergyDistance(y[:50], slices=64, seed=1),
        SlicedEnergyDistance(y[1:51], slices=64),
        SlicedEnergyDistance(y[:50], slices=64, directions="sobol"),
    ]
    same = SlicedEnergyDistance(y[:50], slices=64)
    same.update(y, real=False)
    same.update(x[:50], real=True)
    before = metric.compute()
    metric.persistent(True)
    for other in others:
        other.update(y, real=True)
        other.persistent(True)
        state = other.state_dict()
        for added in (
            lambda other=other: metric.merge_state(other),
            lambda other=other: metric.merge_state(other.metric_state),
            lambda state=state: metric.load_state_dict(state),
            lambda other=other: metric.sync(
                lambda t, group: [t, getattr(other, name_of(metric, t))], distributed_available=lambda: True
            ),
        ):
            with pytest.raises(InputError, match="of a metric with equal `points`, `slices`"):
                added()
    assert torch.equal(metric.compute(), before) and metric.real_n == 500
    with pytest.raises(InputError, match="must have a state 'plan'"):
        metric.load_state_dict({"real_n": torch.tensor(3)})
    with pytest.raises(InputError, match=r"must have a state 'real_counts' of shape \(64"):
        metric.load_state_dict(metric.state_dict() | {"real_counts": torch.zeros(3, 4).double()})
    metric.merge_state(same)
    assert torch.equal(metric.compute(), want)


def name_of(metric, t):
    return next(name for name in metric.metric_state if getattr(metric, name) is t)


def test_states_stay_in_float64():
    x, y = clouds()
    want = filled(x, y).compute()
    for convert in (lambda m: m.half(), lambda m: m.set_dtype(torch.float16), lambda m: m.to(torch.bfloat16)):
        metric = filled(x, y)
        convert(metric)
        assert metric.real_counts.dtype == torch.float64 and torch.equal(metric.compute(), want)
        metric.reset()
        assert metric.real_counts.dtype == torch.float64


def test_plot():
    pytest.importorskip("matplotlib").use("Agg")
    x, y = clouds()
    metric = filled(x, y)
    for value in (None, [metric.compute(), metric.compute()]):
        figure, axes = metric.plot(value)
        assert axes.get_figure() is figure


def test_what_is_refused():
    x, y = clouds()
    metric = filled(x, y)
    before = metric.real_counts.clone()
    for given, real, error, says in (
        (x[:, :3], True, InputError, "`x` must have points of 5 numbers, as `points` had, got 3"),
        (x / 0, True, InputError, "`x` must be finite, got NaN or infinity"),
        (x.numpy(), True, InputTypeError, "`x` must be a torch.Tensor .*, got ndarray"),
        (x.long(), True, InputTypeError, "`x` must have dtype .*, got torch.int64"),
        (x, "yes", InputTypeError, "`real` must be True or False, got 'yes'"),
    ):
        with pytest.raises(error, match=says):
            metric.update(given, real=real)
    assert torch.equal(metric.real_counts, before)
    for options, says in (({"statistic": "W"}, "statistic"), ({"slices": 0}, "slices"), ({"directions": "x"}, "directions")):
        with pytest.raises(InputError, match=says):
            SlicedEnergyDistance(y, **options)


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_in_lightnings_trainer(processes, tmp_path):
    script = Path(__file__).parents[1] / "scripts" / "lightning_run.py"
    command = [sys.executable, str(script), str(processes)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.strip().splitlines()[-1])
    assert found["world"] == processes and found["calls"] == 2 * 512 // 64 // processes
    assert 0.1 < found["shift"] < 0.8  # on its way from 0 to 0.5
    sys.path.insert(0, str(script.parent))
    from lightning_run import points

    alone = SlicedEnergyDistance(points(1)[:100], slices=64)
    alone.update(points(1) + 0.5, real=True)
    alone.update(points(2), real=False)
    # Lightning keeps what it logs in float32.
    assert found["energy"] == pytest.approx(alone.compute().item(), rel=1e-6)


def test_a_synced_metric_takes_no_batch_and_keeps_its_own_real_points():
    x, y = clouds()
    for reset_real in (True, False):
        metric = filled(x, y, reset_real=reset_real)
        want = metric.compute()
        metric.sync(lambda t, group: [t, t], distributed_available=lambda: True)
        for count in (metric, metric.update):
            with pytest.raises(InputError, match="must not be synced"):
                count(x, real=False)
        assert metric.real_n == 1000
        metric.unsync()
        assert torch.equal(metric.compute(), want)
        metric.sync(lambda t, group: [t, t], distributed_available=lambda: True)
        metric.reset()
        assert metric.real_n == (0 if reset_real else 500) and metric.made_n == 0


def test_compute_leaves_the_states_of_this_process_where_it_raises():
    x, y = clouds()
    two = {"dist_sync_fn": lambda t, group: [t, t], "distributed_available_fn": lambda: True}
    metric = SlicedEnergyDistance(y[:50], slices=64, **two)
    metric.update(y, real=True)
    for _ in range(2):
        with pytest.raises(InputError, match="with real=False must have been seen, got 0"):
            metric.compute()
    metric.update(x, real=False)
    assert metric.real_n == 500
    assert torch.equal(metric.compute(), filled(x, y, **two).compute())


def test_states_made_in_inference_mode_are_filled_outside_of_it():
    x, y = clouds()
    with torch.inference_mode():
        metric = filled(x, y, reset_real=False)
        metric.reset()
    metric.update(y, real=True)
    metric.update(x, real=False)
    assert torch.equal(metric.compute(), filled(x, torch.cat([y, y])).compute())


def test_another_device_than_the_metrics_is_refused():
    """Metrics of torchmetrics are made on torch's default device."""
    x, y = clouds()
    metric = filled(x, y)
    metric.to("meta")
    with torch.device("meta"):
        default = SlicedEnergyDistance(y[:50], slices=64)
    assert default.device.type == default.real_counts.device.type == "meta"
    for other in (metric, default):
        with pytest.raises(InputError, match="`x` must be on the metric's device meta, got cpu"):
            other.update(x, real=False)


@pytest.mark.parametrize("first", ["kept", "reset"])
def test_metrics_of_one_collection_reset_each_by_its_own_setting(first):
    x, y = clouds()
    metrics = {
        "kept": SlicedEnergyDistance(y[:50], slices=64, reset_real=False),
        "reset": SlicedEnergyDistance(y[:50], slices=64),
    }
    collection = MetricCollection({f"{name != first}": metric for name, metric in metrics.items()})
    for _ in range(2):
        collection.update(y, real=True)
        collection.update(x, real=False)
        collection.compute()
        collection.reset()
    assert metrics["kept"].real_n == 1000 and metrics["reset"].real_n == 0
