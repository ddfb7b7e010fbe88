"""Samples that agree with what is known: labels, numbers beside the data, columns of a table, parts of images."""

import math
import re

import numpy as np
import pytest
import torch
from problems import content, generator, killed
from scipy.stats import rankdata
from torch import nn
from torch.nn import functional

import rieszflow as rf
from rieszflow.data import Dataset, load
from rieszflow.errors import ConfigError, DatasetError, InputError, RunError
from rieszflow.generative import Config
from rieszflow.generative.condition import Condition, describe_condition
from rieszflow.generative.processes import processes
from rieszflow.generative.rows import load_rows
from rieszflow.generative.run import Run
from rieszflow.generative.state import WATCHED, checked_levels, prepare
from rieszflow.generative.training_data import held_out_conditions, residual

RECORDED = {
    "model": "recorded", "particles": 1500, "stages": 4, "initial_steps": 30, "max_steps": 30, "slices": 64, "momentum": 0.7,
    "step_schedule": [10.0, 0.5], "device": "cpu",
}  # fmt: skip
NETWORKS = {
    "particles": 1500, "stages": 6, "initial_steps": 20, "max_step_increment": 20, "max_steps": 60, "slices": 64,
    "fit_steps": 400, "width": 64, "device": "cpu",
}  # fmt: skip
IMAGES = {
    "model": "recorded", "particles": 500, "stages": 3, "initial_steps": 6, "max_steps": 6, "slices": 64,
    "patch_slices": [[4, 2], [3, 1]], "step_schedule": [8.0, 2.0], "latents": "smooth", "clip": True, "device": "cpu",
    "checkpoint_seconds": 1e-9,
}  # fmt: skip
UNETS = {
    "particles": 200, "stages": 2, "initial_steps": 4, "slices": 32, "fit_steps": 12, "channels": [8, 16], "layers": 1,
    "device": "cpu", "checkpoint_seconds": 1e-9,
}  # fmt: skip
CENTRES = torch.tensor([[0.0, 0.0], [8.0, 0.0], [0.0, 8.0]])


def three(n, seed):
    """Points of spread 1 around three centres, labelled 2, 5 and 9."""
    g = generator(seed)
    c = torch.randint(3, (n,), generator=g)
    return CENTRES[c] + torch.randn(n, 2, generator=g), torch.tensor([2, 5, 9])[c]


@pytest.fixture(scope="module", params=[RECORDED, NETWORKS], ids=["recorded", "networks"])
def by_class(request):
    x, labels = three(2000, 0)
    return rf.GenerativeFlow(**request.param).fit(x, condition=labels)


def test_samples_of_a_label(by_class):
    """Centres are 8 apart and points within 4 of theirs, but for one in 3,000. A tenth of the samples may be on the wrong side
    or on their way. The mean of the others has an error of 0.06, and 0.5 is granted for what the flow leaves."""
    for label, centre in zip((2, 5, 9), CENTRES, strict=True):
        x = by_class.sample(300, condition=label, seed=1)
        near = (x - centre).norm(dim=1) < 4
        assert near.double().mean() > 0.9
        assert (x[near].mean(0) - centre).norm() < 0.5
    labels = torch.tensor([2, 5, 9]).repeat(50)
    x = by_class.sample(150, condition=labels, seed=1)
    assert torch.equal(x[1::3], by_class.sample(150, condition=labels.numpy(), seed=1)[1::3])
    # None: as often as in training; of 600 a third, with a standard deviation of 12, and five of them
    x = by_class.sample(600, seed=2)
    many = torch.cdist(x, CENTRES).argmin(1).bincount(minlength=3)
    assert (many > 200 - 60 - 60).all()


def test_saved_and_loaded(by_class, tmp_path):
    by_class.save(tmp_path / "run")
    again = rf.GenerativeFlow.load(tmp_path / "run")
    assert torch.equal(again.sample(20, condition=5, seed=3), by_class.sample(20, condition=5, seed=3))
    x, labels = three(2000, 0)
    rf.GenerativeFlow.resume(tmp_path / "run", x, condition=labels)
    with pytest.raises(RunError, match="was trained on other data"):
        rf.GenerativeFlow.resume(tmp_path / "run", x, condition=labels.roll(1))


@pytest.mark.parametrize(
    ("condition", "words"),
    [
        (3, "must be a label of the training data, 2, 5, 9, got 3"),
        ([2, 5], "one for each of 4, got 2"),
        ([2.0], "`condition` must be one label for all samples or 4 labels, got [2.0]"),
        (np.ones((4, 1), int), "one label for all samples"),
        ("two", "4 labels, got 'two'"),
    ],
)
def test_labels_that_are_refused(by_class, condition, words):
    with pytest.raises(InputError, match=re.escape(words)):
        by_class.sample(4, condition=condition)


@pytest.mark.parametrize("settings", [RECORDED, pytest.param(NETWORKS, marks=pytest.mark.slow)], ids=["recorded", "networks"])
def test_numbers_beside_the_data(settings):
    """y | c is Gaussian around c², with a spread that grows with c. At some c: the median of 400 samples has a standard error
    of a sixteenth of their spread, and so has half the distance from their 16th to their 84th percent, which is the spread of a
    Gaussian. On top the flow's own error after so few steps, with stragglers: 0.4 for medians, where values range over 4, and
    half of the spread."""
    g = generator(4)
    c = 2 * torch.rand(3000, 1, generator=g)
    y = c.square() + (0.1 + 0.4 * c) * torch.randn(3000, 1, generator=g)
    flow = rf.GenerativeFlow(**{**settings, "particles": 3000}).fit(y, condition=c)
    for at in (0.2, 1.0, 1.8):
        x = flow.sample(400, condition=[at], seed=5).flatten().sort().values
        spread = 0.1 + 0.4 * at
        assert abs(x[200] - at**2) < 0.4
        assert abs((x[336] - x[64]) / 2 - spread) < 0.5 * spread + spread / 4
    rows = torch.linspace(0.1, 1.9, 40)[:, None]
    assert flow.sample(40, condition=rows, seed=6).shape == (40, 1)
    with pytest.warns(rf.Notice, match=r"number 0 lies 1 outside .* range \[.*, .* times their interquartile"):
        flow.sample(3, condition=[c.max().item() + 1], seed=7)
    for wrong, words in (
        ([1.0, 2.0], "must have 1 numbers (number 0) for all or for each of 3, got [1.0, 2.0]"),
        (None, "must have 1 numbers (number 0) for all or for each of 3, got None"),
        ([[1.0]] * 2, "one for each of 3, got 2"),
        ([math.nan], "NaN"), ("x", "got 'x'"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=re.escape(words)):
            flow.sample(3, condition=wrong)


def test_a_mixture_whose_shares_depend_on_a_number():
    """y | c is around 2 with probability c and around −2 otherwise, with a spread of 0.2. The share of 400 samples above 0 has
    a standard error of 0.025 at most: four of these, and 0.05 for what the flow blurs from c to c. Between the modes, five
    spreads from both, there are but a flow's stragglers: 0.05."""
    g = generator(14)
    c = torch.rand(3000, 1, generator=g)
    y = torch.where(torch.rand(3000, 1, generator=g) < c, 2.0, -2.0) + 0.2 * torch.randn(3000, 1, generator=g)
    flow = rf.GenerativeFlow(**{**RECORDED, "particles": 3000}).fit(y, condition=c)
    for at in (0.1, 0.5, 0.9):
        x = flow.sample(400, condition=[at], seed=5).flatten()
        assert abs((x > 0).double().mean() - at) < 0.15
        assert (x.abs() < 1).double().mean() < 0.05


def table(path, n=400):
    g = np.random.default_rng(8)
    age, income = g.uniform(20, 60, n), g.uniform(1000, 5000, n)
    rows = np.stack([age, age / 10 + g.normal(size=n), income, income / 1000 + g.normal(size=n)], 1)
    np.savetxt(path, rows, delimiter=",", header="age,height,income,rent", comments="")
    return rows


def test_columns_of_a_table(tmp_path):
    pytest.importorskip("pyarrow")
    rows = table(tmp_path / "people.csv")
    content = load_rows(tmp_path / "people.csv", 0.15, 0, given=["income", "age"])
    assert content.shape == (2,) and content.train_condition.shape == (340, 2)
    # Heights and rents are those of a row, up to the precision of 200 quantiles; incomes and ages have its order.
    apart = np.abs(content.unscale(content.train).numpy()[:, None] - rows[None][:, :, [1, 3]]).max(2)
    assert apart.min(1).max() < 0.05
    matched = rows[apart.argmin(1)]
    for k, column in enumerate((2, 0)):
        assert np.corrcoef(rankdata(content.train_condition[:, k]), rankdata(matched[:, column]))[0, 1] > 0.99
    small = {**RECORDED, "particles": 300, "stages": 1, "initial_steps": 5}
    flow = rf.GenerativeFlow(**small).fit(str(tmp_path / "people.csv"), condition="income,age")
    assert flow.sample(6, condition={"income": 3000, "age": 40}, seed=1).shape == (6, 2)
    assert flow.config.condition_columns == ["income", "age"]
    with pytest.warns(rf.Notice, match="age lies"):
        flow.sample(2, condition={"income": 3000, "age": 99}, seed=1)
    for given, words in (
        ("age,shoes", "no column 'shoes'"), ("age,age", "must be different, got 'age' twice"),
        ("age,income,height,rent", "must be left for samples"),
    ):  # fmt: skip
        with pytest.raises(DatasetError, match=words):
            rf.GenerativeFlow(**small).fit(str(tmp_path / "people.csv"), condition=given)


MASK = torch.zeros(1, 8, 8, dtype=torch.bool)
MASK[:, ::2] = True
OBSERVED = ["left-half", "top-half", rf.Mask(MASK), rf.Pool((1, 8, 8), 2), "pool:4"]


@pytest.mark.parametrize("condition", OBSERVED, ids=str)
@pytest.mark.parametrize("settings", [IMAGES, {**UNETS, "clip": True}], ids=["recorded", "networks"])
def test_parts_of_images(condition, settings):
    """Pixels that are known come back bit for bit. Means of pixels do up to rounding in the flow; the last move of a sample is
    clipped to [0, 1], where means may give way. Six parts of six steps leave little of that."""
    data = load("digits")
    flow = rf.GenerativeFlow(**settings).fit(data, condition=condition)
    known = flow.sample(40, condition=data.held_out[:40], seed=1)
    assert known.shape == (40, 1, 8, 8)
    off = residual(flow.run, known, data.held_out[:40], data)
    if str(flow.config.condition).startswith("pool"):
        assert off < (0.05 if settings is IMAGES else 0.5)
        k = int(flow.config.condition[5:])
        small = functional.avg_pool2d(data.held_out[:40], k)
        # The known part is taken off and put on again: rounding, and what the flow makes of it.
        torch.testing.assert_close(flow.sample(40, condition=small, seed=1), known, rtol=0, atol=0.02)
    else:
        assert off == 0
    several = flow.sample(5, condition=data.held_out[0], seed=2)
    assert (several[0] - several[1]).abs().max() > 0.01
    assert held_out_conditions(flow.run, data, 9, 0).shape == (9, 1, 8, 8)


def test_what_is_not_known_does_not_matter():
    data = load("digits")
    flow = rf.GenerativeFlow(**IMAGES).fit(data, condition="left-half")
    hidden = data.held_out[:5].clone()
    hidden[..., 4:] = math.nan
    assert torch.equal(flow.sample(5, condition=hidden, seed=1), flow.sample(5, condition=data.held_out[:5], seed=1))
    hidden[..., :4] = math.nan
    for wrong, words in (
        (hidden, "must be finite where pixels are known"), (data.held_out[:3], "one for each of 5, got 3"),
        (np.array(7.0), "got a single number"),
        (data.held_out[0, 0], "got shape (8, 8)"), (None, "must be the known part of images"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=re.escape(words)):
            flow.sample(5, condition=wrong)
    for wrong in (7, "x", [[0.5]], np.array(["x"])):
        with pytest.raises(TypeError, match="condition: "):
            flow.sample(5, condition=wrong)
    swapped = data.held_out[:5].numpy().astype(">f8")
    torch.testing.assert_close(flow.sample(5, condition=swapped, seed=1), flow.sample(5, condition=data.held_out[:5], seed=1))
    with pytest.warns(rf.Notice, match="exceed the data's range"):
        flow.sample(5, condition=3 * data.held_out[:5], seed=1)


@pytest.mark.parametrize(
    ("settings", "condition"),
    [(IMAGES, "class"), (IMAGES, "left-half"), (UNETS, "class"), pytest.param(UNETS, "left-half", marks=pytest.mark.slow)],
    ids=["recorded-class", "recorded-left-half", "networks-class", "networks-left-half"],
)
def test_killed_and_resumed_is_bit_identical(settings, condition, tmp_path, monkeypatch):
    whole = rf.GenerativeFlow(**settings).fit(load("digits"), condition=condition)
    with killed(monkeypatch, after=10):
        rf.GenerativeFlow(**settings).fit(load("digits"), condition=condition, run=tmp_path / "run")
    rf.GenerativeFlow.resume(tmp_path / "run")
    for file in (whole.run.path / "networks").iterdir():
        assert content(tmp_path / "run" / "networks" / file.name) == content(file)


def test_levels_keep_the_label_before_the_image():
    settings = {**IMAGES, "levels": [{"factor": 2, "patch_slices": [[3, 1]]}, {"factor": 1, "stages": 1}], "noise_std": 0.05}
    data = load("digits")
    flow = rf.GenerativeFlow(**settings).fit(data, condition="class")
    assert flow.sample(10, condition=3, seed=1).shape == (10, 1, 8, 8)
    with pytest.raises(ConfigError, match="with levels"):
        Config(**settings, condition="left-half")


class Seen(nn.Module):
    """A network of one's own gets what is known as more channels."""

    def __init__(self):
        super().__init__()
        self.last = nn.Conv2d(11, 1, 1)

    def forward(self, x):
        labels = x[:, 1:, 0, 0]
        assert torch.equal(labels.sum(1), torch.ones(len(x))) and torch.equal(
            x[:, 1:], labels[..., None, None].expand(-1, -1, 8, 8)
        )
        return self.last(x)


def test_a_network_of_ones_own():
    settings = {k: v for k, v in UNETS.items() if k not in ("channels", "layers")}
    flow = rf.GenerativeFlow(**settings, network=Seen()).fit(load("digits"), condition="class")
    assert flow.sample(4, condition=1).shape == (4, 1, 8, 8)


def test_conditions_are_of_other_data_than_the_targets():
    """Where there are enough: 1,527 digits, 400 targets, 600 particles. Otherwise all are used."""
    data = load("digits")
    config = {**IMAGES, "targets": 400, "particles": 600}
    flow = rf.GenerativeFlow(**config).fit(data, condition="left-half")
    levels = checked_levels(flow.config, flow.run.data, None)
    context = prepare(flow.run, data, levels, None, processes(torch.device("cpu")))
    half = [t.view(-1, 8, 8)[..., :4].flatten(1) for t in (context.targets, context.conditions)]
    assert context.conditions.shape == (600 + WATCHED, 64)
    same = (torch.cdist(half[1][:600], half[0]) == 0).any(1)
    twins = (torch.cdist(*[data.train.view(-1, 8, 8)[..., :4].flatten(1)] * 2) == 0).sum(1) > 1
    assert same.double().mean() <= twins.double().mean()


def test_conditions_that_cannot_be():
    g = generator(3)
    x = torch.randn(100, 2, generator=g)
    small = {**RECORDED, "particles": 50, "stages": 1, "initial_steps": 1}
    for condition, error, words in (
        (torch.zeros(99, dtype=torch.int64), InputError, "must have a row for each of 100 data, got 99"),
        (torch.zeros(100, dtype=torch.int64), ConfigError, "must have at least two labels, got 0 for all data"),
        (torch.zeros(100, 1), ConfigError, "got number 0 that is the same in all training data"),
        (torch.zeros(100), InputError, "shape (100,)"),
        (torch.full((100, 1), math.inf), InputError, "NaN or infinity"),
        ("class", ConfigError, "it needs labels"),
        ("left-half", ConfigError, "it needs images"),
        ("age", ConfigError, "it needs numbers next to the data"),
        ([[1], [2, 3]], InputError, "`condition` must be an array, got [[1], [2, 3]] ("),
    ):  # fmt: skip
        with pytest.raises(error, match=re.escape(words)):
            rf.GenerativeFlow(**small).fit(x, condition=condition)
    flow = rf.GenerativeFlow(**small).fit(x)
    with pytest.raises(InputError, match="trained without one"):
        flow.sample(3, condition=1)
    digits = load("digits")
    with pytest.raises(InputError, match="must fit data of shape"):
        rf.GenerativeFlow(**small).fit(digits, condition=rf.Pool((1, 4, 4), 2))
    for wrong in (9, 60, 128):
        with pytest.raises(InputError, match="must fit data of shape"):
            rf.GenerativeFlow(**small).fit(digits, condition=rf.Mask(torch.arange(wrong) < 2))
    with pytest.raises(ConfigError, match="does not fit images"):
        rf.GenerativeFlow(**small).fit(digits, condition="pool:3")
    with pytest.raises(ConfigError, match="must be that of the settings, 'class', or None"):
        rf.GenerativeFlow(**small, condition="class").fit(digits, condition="left-half")
    with pytest.raises(InputError, match="`held_out_condition` must go with"):
        rf.GenerativeFlow(**small).fit(x, condition=torch.randn(100, 1), held_out=x[:20])
    for wrong in ("clas", "pool", 3, None):
        with pytest.raises(ConfigError, match="^`condition` must "):
            Config(condition=wrong)


@pytest.mark.parametrize(
    ("old", "new"),
    [("weight: ", "weight: -"), ("- 5\n", "- 2\n"), ("classes:", "klasses:"), ("condition: class", "condition: left-half")],
)
def test_an_edited_condition_is_refused(by_class, tmp_path, old, new):
    by_class.save(tmp_path / "run")
    file = tmp_path / "run" / "config.yaml"
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new, 1))
    with pytest.raises((RunError, ConfigError)):
        rf.GenerativeFlow.load(tmp_path / "run").sample(3, condition=2)


def test_pictures_of_what_was_asked_for(tmp_path):
    """What the report draws from: labels of the samples, and what was known of them."""
    drawn = []
    data = load("digits")
    settings = {**IMAGES, "stages": 1}
    flow = rf.GenerativeFlow(**settings).fit(data, condition="class", draw=lambda run, pictures: drawn.append(pictures))
    assert drawn[-1].labels.shape == (WATCHED,) and drawn[-1].known is None
    assert drawn[-1].samples.shape == (WATCHED, 64) and drawn[-1].path.shape[2] == 64
    rf.GenerativeFlow(**settings).fit(data, condition="left-half", draw=lambda run, pictures: drawn.append(pictures))
    left = drawn[-1].known.view(-1, 8, 8)
    assert torch.equal(left[..., :4], drawn[-1].samples.view(-1, 8, 8)[..., :4]) and not left[..., 4:].any()
    assert Run.open(flow.run.path).data["condition"]["classes"] == list(range(10))


@pytest.mark.parametrize("name", ["class", "values", "left-half", "label", "pool:4"])
def test_a_column_of_a_table_may_have_any_name(tmp_path, name):
    k = np.arange(90) % 3
    header = f"{name},v"
    np.savetxt(tmp_path / "t.csv", np.stack([k, k + 0.5], 1), delimiter=",", header=header, comments="")
    settings = {"model": "recorded", "particles": 50, "stages": 1, "initial_steps": 2, "slices": 4, "device": "cpu"}
    for condition in (name, f"columns:{name}"):
        flow = rf.GenerativeFlow(**settings).fit(tmp_path / "t.csv", condition=condition)
        assert flow.config.condition == f"columns:{name}" and flow.sample(2, condition=[1.0], seed=0).shape == (2, 1)


@pytest.mark.parametrize(
    ("condition", "says"),
    [
        (np.array([2**63, 2**63 + 1] * 20, np.uint64), "must have labels below 2.63, got 9223372036854775809"),
        (np.ma.masked_equal([1, 2] * 20, 2), "`condition` must have a value for every point, got a masked array"),
        (2**60 + np.arange(40)[:, None], "condition: column 0 holds numbers near .* float64 rounds them"),
        (np.array([1.0, 2.0] * 20), "must be integer labels .n,. or numbers .n, k."),
        (np.array([True, False] * 20), "must be integer labels .n,. or numbers .n, k."),
        ([True, 1, 2, 3] * 10, "must have integers as labels, got truth values"),
        (["a", "b"] * 20, "must be integer labels .n,. or numbers .n, k."),
    ],
)
def test_labels_and_numbers_that_are_not_what_they_seem(condition, says):
    x = np.random.default_rng(0).normal(size=(40, 2))
    with pytest.raises((InputError, DatasetError), match=says):
        rf.GenerativeFlow(**RECORDED).fit(x, condition=condition)


def test_labels_may_be_negative_and_large():
    x, labels = np.random.default_rng(0).normal(size=(40, 2)), np.array([-3, 2**53, 2**53 + 1, 2**62] * 10)
    settings = {"model": "recorded", "particles": 50, "stages": 1, "initial_steps": 2, "slices": 4, "device": "cpu"}
    flow = rf.GenerativeFlow(**settings).fit(x, condition=labels)
    for label in (-3, 2**53, 2**53 + 1, 2**62):
        assert flow.sample(2, condition=label, seed=0).shape == (2, 2)
    with pytest.raises(InputError, match="got 9007199254740994"):
        flow.sample(1, condition=2**53 + 2)


def test_a_heavy_tail_of_a_given_number_does_not_drown_another():
    """A log-normal number reaches thousands of its interquartile ranges, but only four in what networks see."""
    r = np.random.default_rng(0)
    given = np.stack([r.uniform(18, 90, 1000), r.lognormal(3, 2.5, 1000)], 1)
    data = Dataset.from_arrays("tensor", r.normal(size=(1000, 2)), condition=given)
    config = Config(model="recorded", condition="values")
    said = describe_condition(config, data)
    condition = Condition.from_config(config, data.shape, said)
    seen = condition.encode(data.train_condition) / condition.weight
    assert seen.abs().amax(0)[1].item() == pytest.approx(4, rel=1e-6)
    both, age = (torch.pdist(part).mean() for part in (seen, seen[:, :1]))
    assert age > both / 3  # else distances between conditions hardly depend on it; 1/30 without compression
    np.testing.assert_allclose(
        seen[:, 0], (data.train_condition[:, 0] - said["centre"][0]) / said["spread"][0], rtol=1e-6, atol=1e-6
    )
