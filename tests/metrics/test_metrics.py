"""Scores against closed forms and cases whose answer is known."""

import warnings

import numpy as np
import pytest
import scipy.linalg
import torch
from problems import generator

from rieszflow import Notice, metrics
from rieszflow.data import Dataset, load


def test_frechet_distance_against_scipy():
    g = generator(0)
    x = torch.randn(500, 5, generator=g, dtype=torch.float64) @ torch.randn(5, 5, generator=g, dtype=torch.float64) + 100
    y = torch.randn(400, 5, generator=g, dtype=torch.float64) @ torch.randn(5, 5, generator=g, dtype=torch.float64) + 101
    S, T = np.cov(x.numpy().T), np.cov(y.numpy().T)
    root = scipy.linalg.sqrtm(S @ T).real
    wanted = ((x.mean(0) - y.mean(0)) ** 2).sum().item() + np.trace(S + T - 2 * root)
    assert metrics.frechet_distance(x, y) == pytest.approx(wanted, rel=1e-8)
    assert metrics.frechet_distance(x, x) == pytest.approx(0, abs=1e-6)
    assert metrics.frechet_distance(x + 3, x) == pytest.approx(45, rel=1e-8)


def test_frechet_distance_in_more_dimensions_than_points():
    """tr (ST)^½ is the sum of the singular values of A Bᵀ, where S = AᵀA and T = BᵀB: a form that needs no d × d matrix."""
    g = generator(5)
    x, y = torch.randn(7, 90, generator=g, dtype=torch.float64), 2 * torch.randn(9, 90, generator=g, dtype=torch.float64) + 1
    A, B = ((z - z.mean(0)) / (len(z) - 1) ** 0.5 for z in (x, y))
    wanted = (x.mean(0) - y.mean(0)).square().sum() + A.square().sum() + B.square().sum()
    wanted -= 2 * torch.linalg.svdvals(A @ B.T).sum()
    # The library takes roots of eigenvalues, which rounding moves by 1e-16 of the greatest: of those that are 0, 1e-8 is left.
    assert metrics.frechet_distance(x, y) == pytest.approx(wanted.item(), rel=1e-6)


def test_kernel_distance_by_loops():
    g = generator(1)
    x, y = torch.randn(9, 4, generator=g, dtype=torch.float64), 1 + torch.randn(9, 4, generator=g, dtype=torch.float64)

    def mean(a, b, skip):
        pairs = [(i, j) for i in range(9) for j in range(9) if not (skip and i == j)]
        return sum((float(a[i] @ b[j]) / 4 + 1) ** 3 for i, j in pairs) / len(pairs)

    wanted = mean(x, x, True) + mean(y, y, True) - 2 * mean(x, y, False)
    assert metrics.kernel_distance(x, y) == pytest.approx(wanted, rel=1e-10)


def test_energy_p_value():
    """Uniform where the distributions are equal: the number of 200 p-values up to 0.1 is binomial, 20 ± 4.2; three of those
    are exceeded once in 500 times. As small as it can be where they are not."""
    g = generator(2)
    found = [
        metrics.energy_pvalue(torch.rand(20, 3, generator=g), torch.rand(30, 3, generator=g), permutations=99, seed=k)
        for k in range(200)
    ]
    assert 7 <= sum(p <= 0.1 for p in found) <= 33
    x = torch.randn(100, 5, generator=g)
    assert metrics.energy_pvalue(x, torch.randn(80, 5, generator=g) + 1, permutations=999) == pytest.approx(0.001)
    assert metrics.energy_pvalue(x, x.flip(0)) == 1.0


def test_precision_and_recall():
    g = generator(0)
    real = torch.randn(300, 2, generator=g)
    same = torch.randn(300, 2, generator=g)
    precision, recall = metrics.precision_recall(same, real)
    assert precision > 0.85 and recall > 0.85
    assert metrics.precision_recall(real + 100, real) == (0.0, 0.0)
    # One mode of two: realistic, but half is not covered.
    both = torch.cat([real, real + 50])
    precision, recall = metrics.precision_recall(same, both)
    assert precision > 0.85 and recall == pytest.approx(0.5, abs=0.08)


def test_nearest():
    g = generator(0)
    y = torch.randn(700, 6, generator=g)
    index, distance = metrics.nearest(y[[5, 600]] + 1e-3, y)
    assert index.tolist() == [5, 600]
    assert distance.tolist() == pytest.approx([1e-3 * 6**0.5] * 2, rel=1e-3)


@pytest.mark.slow
def test_evaluate_ranks_as_a_person_would(monkeypatch):
    digits = load("digits")
    trained = metrics.train_classifier(digits, seed=0)  # the same every time: trained once
    monkeypatch.setattr("rieszflow.metrics.scores.train_classifier", lambda data, *, seed: trained)
    g = generator(0)
    noise = torch.rand(270, 1, 8, 8, generator=g)
    blurred = (digits.train[:270] + 0.3 * torch.randn(270, 1, 8, 8, generator=g)).clamp(0, 1)
    results = [metrics.evaluate(x, digits) for x in (digits.train[-270:], blurred, noise)]
    for score in ("energy_distance_V", "energy_distance_U", "frechet_distance", "kernel_distance"):
        values = [r["scores"][score]["generated"] for r in results]
        assert values[0] < values[1] < values[2]
    for score in ("precision",):
        assert results[0]["scores"][score]["generated"] > results[2]["scores"][score]["generated"]
    p = [r["scores"]["energy_pvalue"]["generated"] for r in results]
    assert p[0] > 0.01 and p[2] == pytest.approx(1 / 500)
    assert results[0]["classifier_accuracy"] > 0.95
    # Training images given as samples are found out: they are their own nearest neighbours.
    assert results[0]["nearest_training_distance"]["generated"] == 0
    assert results[0]["nearest_training_distance"]["held_out"] > 0.5


def test_evaluate_without_labels():
    x = torch.randn(100, 3, generator=generator(0))
    with pytest.warns(Notice, match="40 held-out data are few") as said:
        scores = metrics.evaluate(x[:40], Dataset("points", x[:60], x[60:]), progress=(told := []).append)
    assert [(at.done, at.total) for at in told] == [(k, len(told) - 1) for k in range(len(told))]
    assert set(scores["scores"]) - {at.what for at in told} == {"recall"} and told[-1].what == "scores"
    assert scores["classifier_accuracy"] is None and scores["samples"] == 40
    assert scores["cautions"] == [str(w.message) for w in said if w.category is Notice] and len(scores["cautions"]) == 1
    assert scores["better"].keys() == scores["scores"].keys()


def test_few_data_make_frechet_distances_large():
    """What the caution says: between equal distributions the mean of 50 distances is above 0 and falls like 1/n. They scatter
    by 20 % around it (d = 8), their mean by 3 %; 1/n holds up to terms of 1/n², some 5 % at n = 100: 4 ± 0.7 is generous."""
    g = generator(3)

    def mean(n):
        pairs = [torch.randn(2, n, 8, generator=g) for _ in range(50)]
        return sum(metrics.frechet_distance(*pair) for pair in pairs) / len(pairs)

    assert mean(100) / mean(400) == pytest.approx(4, abs=0.7)


def test_no_caution_for_many(monkeypatch):
    monkeypatch.setattr("rieszflow.metrics.scores._FEW", 40)
    x = torch.randn(100, 3, generator=generator(0))
    with warnings.catch_warnings():
        warnings.simplefilter("error", Notice)
        scores = metrics.evaluate(x[:40], Dataset("points", x[:60], x[60:]))
    assert scores["cautions"] == []


def test_bad_input():
    x = torch.rand(10, 3)
    with pytest.raises(ValueError, match="`y` must have features of dimension d = 3, as x has, got d = 2"):
        metrics.frechet_distance(x, torch.rand(10, 2))
    with pytest.raises(ValueError, match="`x` must have shape"):
        metrics.frechet_distance(x[:1], x)
    with pytest.raises(ValueError, match="`k` must be less than the 10 points, got 10"):
        metrics.precision_recall(x, x, k=10)
    with pytest.raises(ValueError, match="`inception_weights` must be the file .*, got nowhere.pth"):
        metrics.inception_distances(torch.rand(4, 1, 8, 8), torch.rand(4, 1, 8, 8), "nowhere.pth")
    with pytest.raises(ValueError, match="^`permutations` must .* got 0"):
        metrics.energy_pvalue(x, x, permutations=0)
    with pytest.raises(ValueError, match="`y` must have features of dimension d = 3, as x has, got d = 2"):
        metrics.kernel_distance(x, torch.rand(10, 2))


@pytest.mark.slow
def test_inception_fid_with_local_weights(tmp_path, monkeypatch):
    """The whole path of the literature's FID with random weights in the true file format: no weights come with the library."""
    module = pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3")
    with monkeypatch.context() as patch:
        patch.setattr(module, "load_state_dict_from_url", lambda *_, **__: {})
        patch.setattr(module.FeatureExtractorInceptionV3, "load_state_dict", lambda *_: None)
        torch.save(module.FeatureExtractorInceptionV3("x", ["2048"]).state_dict(), tmp_path / "weights.pth")
    real = load("digits").held_out[:8]
    weights = tmp_path / "weights.pth"
    noise = torch.rand(8, 1, 8, 8, generator=generator(0))
    same, other = (metrics.inception_distances(x, real, weights) for x in (real, noise))
    assert abs(same["inception_fid"]) < 1e-3 * other["inception_fid"]
    assert same["inception_kid"] < other["inception_kid"]


@pytest.mark.parametrize("scale", [2.0**-560, 2.0**-400, 2.0**400, 2.0**515, 2.0**1000])
def test_scores_of_points_of_any_size(scale):
    """A power of two changes no digit of float64: what has no unit is the same, and lengths and their squares grow with it."""
    g = generator(0)
    x, y = torch.randn(40, 3, generator=g, dtype=torch.float64), torch.randn(30, 3, generator=g, dtype=torch.float64) + 0.4
    assert metrics.energy_pvalue(scale * x, scale * y, permutations=99) == metrics.energy_pvalue(x, y, permutations=99)
    assert metrics.precision_recall(scale * x, scale * y) == metrics.precision_recall(x, y)
    index, length = metrics.nearest(scale * x, scale * y)
    assert torch.equal(index, metrics.nearest(x, y)[0]) and torch.allclose(length / scale, metrics.nearest(x, y)[1], rtol=1e-12)
    if 2.0**-500 < scale < 2.0**500:  # else the square is beyond float64
        got = metrics.frechet_distance(scale * x, scale * y) / scale / scale
        assert got == pytest.approx(metrics.frechet_distance(x, y), rel=1e-9)
    if scale > 1:
        with pytest.raises(ValueError, match="so that the kernel does not overflow"):
            metrics.kernel_distance(scale * x, scale * y)


def test_scores_do_not_depend_on_torchs_defaults():
    g = generator(0)
    x, y = torch.randn(40, 3, generator=g), torch.randn(30, 3, generator=g)

    def scores():
        return metrics.energy_pvalue(x, y, permutations=99), metrics.precision_recall(x, y), metrics.frechet_distance(x, y)

    want = scores()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device("meta"), torch.inference_mode():
            assert scores() == want
    finally:
        torch.set_default_dtype(torch.float32)
