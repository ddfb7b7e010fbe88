"""Recorded flows of vectors: labels that flow alone, targets between neighbours, whitening, latents, even drawing, strays."""

import numpy as np
import pytest
import torch
from problems import content, generator, killed

import rieszflow as rf
from rieszflow.constraints import Labels
from rieszflow.errors import InputError
from rieszflow.generative import Config, ConfigError, Run
from rieszflow.generative import loop as training
from rieszflow.generative.levels import levels
from rieszflow.generative.state import level_data
from rieszflow.generative.vectors import Gaussians, Support, Whitening, groups_of
from rieszflow.target import InterpolatedPoints

SMALL = {
    "particles": 300, "stages": 3, "initial_steps": 5, "max_steps": 5, "slices": 16, "patience": 0, "checkpoint_seconds": 1e-9
}  # fmt: skip


def labelled(n, K, d=3, seed=0):
    """K Gaussians of n points each with different means and spreads, sorted by label, which comes first."""
    x = [torch.randn(n, d, generator=generator(seed + k)) * (k + 1) + 3 * k for k in range(K)]
    return torch.cat([torch.arange(K).repeat_interleave(n)[:, None].float(), torch.cat(x)], 1)


@pytest.mark.parametrize("K", [2, 120])
def test_labels_flow_as_if_they_were_alone(K):
    """K flows with the same slices and seed: equal but for the rounding of the factor N_c / N."""
    n, settings = 60, {"slices": 8, "step_size": 0.5, "momentum": 0.5, "record": True, "seed": 0}
    y, x = labelled(n, K), labelled(n, K, seed=500)
    flow = rf.ParticleFlow(y, frozen=Labels(number=K), **settings)
    found = flow.run(x, steps=6)
    for k in {0, 1, K - 1}:
        rows = slice(k * n, (k + 1) * n)
        alone = rf.ParticleFlow(y[rows, 1:].clone(), **settings).run(x[rows, 1:].clone(), steps=6)
        torch.testing.assert_close(found[rows, 1:], alone, rtol=1e-5, atol=1e-5 * alone.abs().max().item())
    assert torch.equal(found[:, 0], x[:, 0])
    order = torch.randperm(len(x), generator=generator(1))
    torch.testing.assert_close(flow.recorded().push(x[order]), found[order], rtol=0, atol=1e-5 * (3 * K))


def test_recordings_with_labels_can_be_saved(tmp_path):
    y = labelled(50, 3)
    flow = rf.ParticleFlow(y, frozen=Labels(number=3), slices=8, record=True, seed=0)
    x = flow.run(labelled(50, 3, seed=9), steps=4)
    flow.recorded().save(tmp_path / "x")
    assert torch.equal(rf.RecordedFlow.load(tmp_path / "x").push(labelled(50, 3, seed=9)), x)
    with pytest.raises(InputError, match="^`frozen` must not be Labels for a flow that is not recorded"):
        rf.ParticleFlow(y, frozen=Labels(number=3), slices=8, seed=0).step(y)


@pytest.mark.parametrize("pool", [10_000, 40])
def test_targets_lie_between_neighbours(pool, monkeypatch):
    """Against brute force: on the segment from a point to one of its k nearest, of its label, and of equal number."""
    monkeypatch.setattr("rieszflow.target._POOL", pool)
    monkeypatch.setattr("rieszflow.target._ROWS", 30)
    y, k = labelled(70, 2), 4
    y = y[torch.randperm(140, generator=generator(0))][:110]
    source = InterpolatedPoints(y, k, Labels(number=2))
    points, sizes = source.points, source.points[:, 0].long().bincount().tolist()
    for first, size in ((0, sizes[0]), (sizes[0], sizes[1])):
        own, found = points[first : first + size], source.neighbours[first : first + size] - first
        distance = torch.cdist(own, own[:pool])
        distance[: len(distance[0])].fill_diagonal_(torch.inf)
        assert torch.equal(found.sort(1).values, distance.topk(k, largest=False).indices.sort(1).values)
    z = source.draw(400, seed=1)
    assert z[:, 0].long().bincount().tolist() == [200, 200] and torch.equal(z, source.draw(400, seed=1))
    assert not torch.equal(z, source.draw(400, seed=2))
    detour = torch.cdist(z, points)[:, :, None] + torch.cdist(z, points)[:, source.neighbours]
    detour -= (points[:, None] - points[source.neighbours]).norm(dim=2)
    assert detour.flatten(1).amin(1).max() < 1e-5 * points.abs().max()


def test_single_and_equal_points_have_neighbours():
    y = torch.tensor([[0.0, 1.0], [1.0, 2.0], [1.0, 2.0], [2.0, 3.0], [2.0, 5.0]])
    z = InterpolatedPoints(y, 5, Labels(number=3)).draw(300, 0)
    assert (z[z[:, 0] == 0] == y[0]).all() and (z[z[:, 0] == 1] == y[1]).all()
    assert z[z[:, 0] == 2, 1].min() >= 3 and z[z[:, 0] == 2, 1].max() <= 5 and len(z) == 300


@pytest.mark.parametrize(("n", "exponent"), [(500, 0.0), (500, 0.5), (500, 1.0), (10, 0.5)])
def test_whitening_has_the_covariance_of_its_formula_and_an_inverse(n, exponent):
    """Cov(z) = s² C^(1−p), by the eigenvalues of both; for fewer points than dimensions, only the inverse."""
    x = torch.randn(n, 20, generator=generator(0)) @ torch.randn(20, 20, generator=generator(1)) + 5
    map_ = Whitening.fit(x, exponent, [slice(None)])
    z = map_.transform(x)
    torch.testing.assert_close(map_.inverse(z), x, rtol=1e-4, atol=1e-4)
    if n > 20:
        w, v = (torch.linalg.eigvalsh(torch.cov(t.T.double())) for t in (x, z))
        kept = (w / w[-1]).clamp(min=1e-4)
        expected = w / w[-1] * kept**-exponent
        torch.testing.assert_close(v / v[-1], expected / expected.amax(), rtol=1e-3, atol=1e-5)
    assert torch.pdist(z).mean().item() == pytest.approx(torch.pdist(x).mean().item(), rel=0.05)


def test_every_label_has_the_mean_distance_of_the_data():
    points = labelled(200, 3)
    z = Whitening.fit(points[:, 1:], 0.5, groups_of(points, 3)).transform(points)
    spread = [torch.pdist(z[rows, 1:]).mean().item() for rows in groups_of(z, 3)]
    assert np.ptp(spread) < 1e-3 * spread[0]


def test_gaussian_latents_have_the_moments_of_each_label_and_follow_values():
    """Sobol points: moments of 4,096 are exact to about 1/100; random ones would be within 6/64."""
    points = labelled(300, 2)
    found = Gaussians.fit(points, 1, 2).draw(torch.tensor([0.0, 1.0]).repeat(4096)[:, None], generator(0))
    for k in (0, 1):
        own, x = points[points[:, 0] == k, 1:], found[k::2]
        assert (x.mean(0) - own.mean(0)).abs().max() < 0.02 * own.std()
        assert (torch.cov(x.T) - torch.cov(own.T)).abs().max() < 0.05 * own.var()
    c = torch.randn(2000, 1, generator=generator(1))
    y = torch.cat([c, 3 * c + 0.1 * torch.randn(2000, 1, generator=generator(2))], 1)
    x = Gaussians.fit(y, 1, 1).draw(torch.tensor([[-1.0], [2.0]]).repeat(500, 1), generator(0))
    assert abs(x[::2].mean() + 3) < 0.02 and abs(x[1::2].mean() - 6) < 0.02 and abs(x[::2].std() - 0.1) < 0.02


def test_strays_are_found_within_their_label():
    p, y = labelled(500, 2), labelled(500, 2, seed=50)
    support = Support.fit(torch.cat([p, torch.tensor([[1.0, 90, 90, 90]])])[torch.randperm(1001)], y, 2)
    assert support.points.shape[0] < 1001 and support.points.abs().max() < 50
    fresh = labelled(500, 2, seed=70)
    fresh[7, 0] = 1  # in the middle of label 0
    fresh[3, 1:] += 40
    strays = support.strays(fresh)
    assert 3 in strays and len(strays) < 20  # two per thousand are expected
    assert torch.cdist(fresh[strays, 1:], p[:, 1:]).amin(1).max() > 20


@pytest.fixture(scope="module")
def data():
    points = labelled(120, 3)[torch.randperm(360, generator=generator(4))][:300]
    return points[:, 1:].numpy(), 10 * points[:, 0].long() + 5


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    x, y = data
    return rf.GenerativeFlow(**SMALL).fit(x, condition=y, run=tmp_path_factory.mktemp("vectors") / "run")


def test_a_recorded_flow_is_the_default_for_vectors(whole, data):
    assert whole.config == Config.preset("vectors", "table", **SMALL, condition="class") and whole.config.neighbours == 5
    assert rf.GenerativeFlow(stages=1, particles=20, fit_steps=1, initial_steps=1).fit(data[0]).config.model == "networks"
    assert sorted(f.name[:4] for f in (whole.run.path / "networks").iterdir()) == ["0000", "0001", "0002", "0003"]


def test_labels_are_drawn_in_their_shares_and_samples_are_of_their_label(whole, data):
    x, y = (torch.as_tensor(t) for t in data)
    for label in (5, 15, 25):
        own, samples = x[y == label], whole.sample(400, condition=label, seed=1)
        assert ((samples.mean(0) - own.mean(0)).abs() < 0.3 * own.std(0)).all()
        assert (samples.std(0) / own.std(0) - 1).abs().max() < 0.3
    condition = training.prepare(whole.run, *_prepared(whole, data)).condition
    counts = torch.tensor(whole.run.data["condition"]["counts"])
    for n in (1, 7, 100):
        drawn = condition.parse(None, n, {}, generator(2))
        found = torch.stack([(drawn == label).sum() for label in (5, 15, 25)])
        assert ((found - n * counts / counts.sum()).abs() < 1).all()
    ones = torch.cat([condition.parse(None, 1, {}, g) for g in [generator(3)] for _ in range(200)])
    assert len(ones.unique()) == 3  # not always the most frequent one


def _prepared(flow, data):
    from rieszflow.generative.processes import Processes
    from rieszflow.generative.state import checked_levels
    from rieszflow.generative.training_data import dataset

    found = dataset(data[0], None, flow.config, data[1])
    return found, checked_levels(flow.config, flow.run.data, None), None, Processes(1, 0, torch.device("cpu"), None)


@pytest.mark.parametrize("stop", [1, 7, 13])
def test_killed_anywhere_and_resumed_is_bit_identical(whole, data, tmp_path, monkeypatch, stop):
    with killed(monkeypatch, after=stop):
        rf.GenerativeFlow(**SMALL).fit(data[0], condition=data[1], run=tmp_path / "run")
    rf.GenerativeFlow.resume(tmp_path / "run", data[0], condition=data[1])
    a, b = ({f.name: content(f) for f in (p / "networks").iterdir()} for p in (tmp_path / "run", whole.run.path))
    assert a == b
    assert Run.open(tmp_path / "run").metrics()[-1].energy_distance == whole.run.metrics()[-1].energy_distance


def test_few_particles_are_overfitted_and_that_is_reported(data):
    few = {"particles": 20, "initial_steps": 100, "max_steps": 100, "stages": 2, "slices": 32}
    with pytest.warns(rf.Notice, match="new samples are further from the held-out data than the particles"):
        rf.GenerativeFlow(**few).fit(data[0])


def test_settings_that_do_not_go_together():
    for change, match in (
        ({"whitening": 0.5}, "^`latents` must be 'gaussian'"),
        ({"flow_per_label": True, "latents": "gaussian", "model": "networks"}, "^`flow_per_label` needs"),
        ({"neighbours": 3, "refresh_every": 2}, "^`flow_per_label` needs"),
    ):
        with pytest.raises(ConfigError, match=match):
            Config(**change)
    with pytest.raises(ConfigError, match="^`latents` must not be 'gaussian' for data of shape"):
        rf.GenerativeFlow(latents="gaussian").fit(torch.rand(20, 1, 4, 4))


def test_slices_grow_with_the_dimension():
    """4 d from 64 to 512; where that is less than 3.2 d, steps are at most 2.5 P/d times the default."""
    for d, P, first in ((2, 64, 8.0), (30, 120, 8.0), (128, 512, 8.0), (640, 512, 2.0), (2560, 512, 0.5)):
        (level,) = levels(Config.preset("vectors", "table"), (d,))
        assert level.config.slices == level.plan().slices[0] == P
        assert level.config.step_schedule == (first, min(first, 1.0))
    assert levels(Config.preset("vectors", "table", slices=7), (640,))[0].config.step_schedule == (8.0, 1.0)


def test_flows_of_many_coordinates_stay_near_the_data():
    """With 64 slices of 80 coordinates, long steps drove the mean of the samples away by 0.4 of a standard deviation."""
    g = generator(4)
    x = torch.randn(3000, 8, generator=g) @ torch.randn(8, 80, generator=g) + torch.randn(3000, 80, generator=g)
    away, steps = {}, {"stages": 1, "initial_steps": 60, "max_steps": 60, "step_schedule": (8.0, 8.0)}
    for slices in (0, 64):
        config = Config.preset("vectors", "table", particles=2000, slices=slices, **steps)
        samples = rf.GenerativeFlow(config).fit(x).sample(2000, seed=0)
        away[slices] = ((samples.mean(0) - x.mean(0)) / x.std(0)).square().mean().sqrt().item()
    assert away[0] < 0.1 < away[64]  # 0.1 is five standard errors of a mean of 2,000 samples


def test_targets_that_outnumber_particles_are_the_data():
    x = torch.randn(300, 2, generator=generator(5))
    for particles, kind in ((255, InterpolatedPoints), (254, torch.Tensor)):  # 255 of 300 are not held out
        config = Config.preset("vectors", "table", particles=particles, stages=1, initial_steps=1, max_steps=1)
        flow = rf.GenerativeFlow(config).fit(x)
        context = training.prepare(flow.run, *_prepared(flow, (x, None)))
        assert isinstance(level_data(context, 1).targets, kind)
