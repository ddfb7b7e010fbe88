"""Levels of resolution and slices on patches, from files in the true formats to samples; real photographs throughout."""

import pickle
import re

import numpy as np
import pytest
import torch
import yaml
from photographs import patches
from PIL import Image
from problems import generator
from safetensors.torch import load_file

import rieszflow as rf
from rieszflow import report
from rieszflow._infra.messages import Notice
from rieszflow.data import DatasetError, load
from rieszflow.flow.steps import default_step_sizes
from rieszflow.generative import Config, ConfigError, Run, presets
from rieszflow.generative.levels import levels, pool, upsample

TINY = {
    "particles": 150,
    "initial_steps": 4,
    "slices": 16,
    "fit_steps": 12,
    "fit_batch_size": 20,
    "channels": [8, 16],
    "layers": 1,
    "device": "cpu",
    "noise_std": 0.05,
}
PATCHES = {"patch_slices": [[7, 1], [7, 2]], "patches_only": True}
TWO = [
    {"factor": 4, "stages": 2, "slices": 48},
    {
        "factor": 1,
        "stages": 2,
        "patch_slices": [[7, 1], [7, 3]],
        "patches_only": True,
        "momentum": 0.0,
        "step_size": 4.0,
        "unet_patch_size": 4,
    },
]


def test_shrink_and_grow():
    x = torch.rand(5, 3 * 8 * 12, generator=generator(0))
    small = pool(x, (3, 8, 12), 4)
    # average pooling: the mean over blocks of 4 × 4 pixels; float32 sums of 16 numbers below 1
    blocks = x.view(5, 3, 2, 4, 3, 4).mean((3, 5)).flatten(1)
    torch.testing.assert_close(small, blocks, rtol=0, atol=1e-6)
    large = upsample(small, (3, 2, 3), (3, 8, 12), 0.0, None)
    assert torch.equal(large.view(5, 3, 8, 12)[:, :, 5, 9], small.view(5, 3, 2, 3)[:, :, 1, 2])
    torch.testing.assert_close(pool(large, (3, 8, 12), 4), small, rtol=0, atol=1e-6)
    noisy = upsample(small.repeat(100, 1), (3, 2, 3), (3, 8, 12), 0.08, generator(1)) - large.repeat(100, 1)
    # 144,000 Gaussian numbers: their standard deviation is off by 0.2 %, five of which are granted
    assert noisy.std().item() == pytest.approx(0.08, rel=0.01)
    assert upsample(x[None], (3, 8, 12), (3, 8, 12), 0.1, None) is not None


def test_grow_smoothly():
    """Bilinear interpolation leaves straight lines straight, but at the border, and constants constant."""
    down, across = torch.meshgrid(torch.arange(4.0), torch.arange(6.0), indexing="ij")
    small = (2 * down - 3 * across + 5)[None, None].repeat(2, 3, 1, 1)
    large = upsample(small.reshape(2, -1), (3, 4, 6), (3, 16, 24), 0.0, None, "smooth").view(2, 3, 16, 24)
    i, j = torch.meshgrid((torch.arange(16.0) + 0.5) / 4 - 0.5, (torch.arange(24.0) + 0.5) / 4 - 0.5, indexing="ij")
    # Sums of four float32 numbers of at most 20.
    torch.testing.assert_close(large[1, 2, 2:-2, 2:-2], (2 * i - 3 * j + 5)[2:-2, 2:-2], rtol=0, atol=1e-4)
    assert torch.equal(upsample(torch.ones(2, 12), (3, 2, 2), (3, 4, 4), 0.0, None, "smooth"), torch.ones(2, 48))


def write_cifar(folder, train, test):
    folder.mkdir()
    for name, x in [*((f"data_batch_{k + 1}", part) for k, part in enumerate(np.array_split(train, 5))), ("test_batch", test)]:
        rows = x.transpose(0, 3, 1, 2).reshape(len(x), -1)
        content = {b"data": rows, b"labels": [k % 10 for k in range(len(x))], b"batch_label": name.encode()}
        (folder / name).write_bytes(pickle.dumps(content, protocol=2))


def write_celeba(folder, train, test):
    (folder / "img_align_celeba").mkdir(parents=True)
    lines = []
    for k, (image, part) in enumerate([(i, 0) for i in train] + [(i, 2) for i in test], 1):
        Image.fromarray(image).save(folder / "img_align_celeba" / f"{k:06d}.jpg", quality=95)
        lines.append(f"{k:06d}.jpg {part}\n")
    (folder / "list_eval_partition.txt").write_text("".join(lines))


@pytest.mark.parametrize(("name", "side"), [("cifar10", 32), pytest.param("celeba", 64, marks=pytest.mark.slow)])
def test_colour_images_from_their_files_to_samples(tmp_path, name, side):
    if name == "cifar10":
        write_cifar(tmp_path / "data", patches(120, 32, 32), patches(30, 32, 32, 1))
    else:
        write_celeba(tmp_path / "data", patches(40, 218, 178), patches(10, 218, 178, 1))
    data = load(name, tmp_path / "data")
    assert data.shape == (3, side, side)
    flow = rf.GenerativeFlow(**TINY, levels=TWO).fit(data, run=tmp_path / "run", draw=report.draw)
    rows = Run.open(tmp_path / "run").metrics()
    assert [(row.stage, row.level, row.flow_steps) for row in rows] == [(1, 4, 4), (2, 4, 8), (3, 1, 4), (4, 1, 8)]
    x = flow.sample(20, seed=1)
    assert x.shape == (20, 3, side, side) and x.min() >= 0 and x.max() <= 1
    assert torch.equal(x, rf.GenerativeFlow.load(tmp_path / "run").sample(20, seed=1))
    picture = Image.open(tmp_path / "run" / "images" / "way.png")
    assert picture.mode == "RGB" and (tmp_path / "run" / "report.html").stat().st_size > 10_000


def test_celeba_is_cut_and_made_smaller(tmp_path):
    image = patches(1, 218, 178, 5)
    write_celeba(tmp_path / "data", np.repeat(image, 3, 0), image)
    found = load("celeba", tmp_path / "data").held_out[0]
    cut = torch.from_numpy(image[0]).permute(2, 0, 1)[None, :, 39:179, 19:159].float() / 255
    wanted = torch.nn.functional.interpolate(cut, size=(64, 64), mode="bicubic")[0].clamp(0, 1)
    # JPEG at quality 95 moves a value by a few of 255
    assert (found - wanted).abs().mean() < 5 / 255


@pytest.mark.slow
def test_the_flow_on_levels_learns():
    """Fresh samples through a pyramid of 4 and 16 pixels come at least ten times closer to held-out photographs than noise is.

    200 against 200 photographs of one law differ by some 0.03, the noise by 2.5.
    """
    photographs = torch.from_numpy(patches(700, 16, 16).transpose(0, 3, 1, 2).copy()).float() / 255
    flow = rf.GenerativeFlow(
        particles=500, initial_steps=24, slices=128, fit_steps=60, fit_batch_size=50, channels=[16, 32], layers=1, device="cpu",
        clip=True, latents="smooth", noise_std=0.03,
        levels=[{"factor": 4, "stages": 3}, {"factor": 1, "stages": 2, "momentum": 0.5, **PATCHES}],
    )  # fmt: skip
    train, held_out = photographs[:500], photographs[500:]
    samples = flow.fit(train, held_out=held_out).sample(200, seed=3)
    noise = torch.rand(200, 3 * 16 * 16, generator=generator(0))
    score, start = (rf.energy_distance(x.flatten(1), held_out.flatten(1), statistic="U").item() for x in (samples, noise))
    assert score < start / 10


def test_patches_improve_photographs_at_the_default_step():
    """Particles made of pooled photographs: slices on patches bring the detail back, and do not shake the particles apart.

    Real photographs, pooled and repeated, are the best particles that a coarser level could hand over.
    """
    photographs = torch.from_numpy(patches(1400, 32, 32).transpose(0, 3, 1, 2).copy()).float() / 255
    y, held_out, z = (part.flatten(1) for part in photographs.split([600, 400, 400]))
    x = upsample(pool(z, (3, 32, 32), 2), (3, 16, 16), (3, 32, 32), 0.05, generator(0))
    kinds = [rf.PatchSlices((3, 32, 32), 7, scale) for scale in (1, 2, 4)]
    flows = [
        rf.ParticleFlow(y, slices=512, step_size=step, directions=k, engine="bins",
                        seed=generator(1), bounds=(0.0, 1.0))
        for k, step in zip(kinds, default_step_sizes(y, kinds, [512] * len(kinds), [0.0] * len(kinds)), strict=True)
    ]  # fmt: skip
    before = rf.energy_distance(x, held_out, statistic="U")
    for _ in range(8):
        for flow in flows:
            x = flow.step(x)
    assert rf.energy_distance(x, held_out, statistic="U") < before


def test_patches_by_colour_see_noise_in_colours():
    """Photographs with noise in their colours, and none in their brightness. Of that noise, seen in differences of neighbours,
    slices by colour leave less than 0.7 of what slices of all channels leave in as many steps."""
    photographs = torch.from_numpy(patches(1200, 32, 32).transpose(0, 3, 1, 2).copy()).float() / 255
    y, z = (part.flatten(1) for part in photographs.split([600, 600]))
    noise = 0.1 * torch.randn(600, 3, 32, 32, generator=generator(0))
    x = z + (noise - noise.mean(1, keepdim=True)).flatten(1)

    def grain(images):
        images = images.view(-1, 3, 32, 32)
        red, green = (images[:, 0] - images[:, 1]).diff(dim=-1).var(), (images[:, 1] - images[:, 2]).diff(dim=-1).var()
        return (red + green).item()

    left = []
    for by_colour in (False, True):
        flow = rf.ParticleFlow(y, slices=1024, step_size=None, directions=rf.PatchSlices((3, 32, 32), 8, 1, by_colour),
                               engine="bins", seed=1)  # fmt: skip
        left.append(grain(flow.run(x, steps=30)) - grain(y))
    assert grain(x) - grain(y) > left[0] > left[1] / 0.7


class Stop(Exception):
    pass


@pytest.mark.parametrize(
    ("stop_at", "paper"),
    [((3, "flow", 2), False),
     *(pytest.param(*more, marks=pytest.mark.slow)
       for more in [((2, "fit", 5), False), ((4, "flow", 3), False), ((4, "flow", 2), True), ((4, "fit", 7), True)])],
)  # fmt: skip
def test_stopped_and_resumed_across_levels(tmp_path, stop_at, paper):
    data = torch.from_numpy(patches(100, 16, 16).transpose(0, 3, 1, 2).copy()).float() / 255
    settings = {**TINY, "levels": [{"factor": 2, "stages": 2}, {"factor": 1, "stages": 2, **PATCHES}],
                "checkpoint_seconds": 1e-9}  # fmt: skip
    if paper:
        settings["paper"] = {"reset_velocity": True, "first_targets": True, "sample_noise_std": 0.02, "fit": "plain"}
        settings |= {"network": "ddpm", "channels": [32, 32], "step_size": 1.0}
        settings["levels"][1] |= {"combine": "sum", "upsampling": "smooth"}
        settings["levels"][1]["paper"] = {"single_patch": True, "continue_from": "flow"}
    rf.GenerativeFlow(**settings).fit(data, run=tmp_path / "whole")

    def stop(p):
        if (p.stage, p.what, p.done) == stop_at:
            raise Stop

    with pytest.raises(Stop):
        rf.GenerativeFlow(**settings).fit(data, run=tmp_path / "stopped", progress=stop)
    rf.GenerativeFlow.resume(tmp_path / "stopped", data)
    for number in range(1, 5):
        a, b = (load_file(tmp_path / run / "networks" / f"{number:04d}.safetensors") for run in ("whole", "stopped"))
        assert all(torch.equal(a[key], b[key]) for key in a)
    x, y = (rf.GenerativeFlow.load(tmp_path / run).sample(3, seed=0) for run in ("whole", "stopped"))
    assert torch.equal(x, y)


def test_samples_of_a_run_that_is_on_its_way(tmp_path):
    data = torch.rand(60, 1, 32, 32, generator=generator(0))

    def stop(p):
        if p.stage == 3:
            raise Stop

    flow = rf.GenerativeFlow(**TINY, levels=TWO)
    with pytest.raises(Stop):
        flow.fit(data, run=tmp_path / "run", progress=stop)
    with pytest.warns(Notice, match="samples go through 2 of 4 stages"):
        x = rf.GenerativeFlow.load(tmp_path / "run").sample(3, seed=0)
    assert torch.equal(x, x[:, :, ::4, ::4].repeat_interleave(4, 2).repeat_interleave(4, 3))


def test_momentum_and_schedule_restart_in_every_level():
    """The presets of the paper set their own starts, see test_paper.py."""
    own = {"stages": 5, "momentum": 0.1, "paper": {"momentum_gain": 0.05}}
    config = Config(initial_steps=4, max_step_increment=8, max_steps=20, paper={"momentum_cap": 0.22},
                    levels=({"factor": 4, **own}, {"factor": 1, **own, "initial_steps": 2}))  # fmt: skip
    of_levels = levels(config, (3, 32, 32))
    assert [(v.factor, v.shape[1], v.first, v.last) for v in of_levels] == [(4, 8, 1, 5), (1, 32, 6, 10)]
    for level in of_levels:
        assert [level.config.momentum_of(k) for k in range(1, 6)] == pytest.approx([0.1, 0.15, 0.2, 0.22, 0.22])
    assert config.flow_steps() == [4, 8, 16, 20, 20, 2, 4, 8, 16, 20]


def test_every_preset_fits_its_data():
    shapes = {"digits": (1, 8, 8), "cifar10": (3, 32, 32), "celeba": (3, 64, 64), "images": (3, 24, 24), "vectors": (5,)}
    names = presets()
    assert {(d, n) for d in ("mnist", "fashion-mnist", "cifar10", "celeba") for n in ("cpu", "paper")} <= set(names)
    for dataset, name in names:
        assert levels(Config.preset(dataset, name), shapes.get(dataset, (1, 28, 28)))


def test_own_preset_in_ten_lines(tmp_path):
    own = tmp_path / "own.yaml"
    own.write_text("particles: 2000\nlatents: smooth\nlevels:\n  - {factor: 2, stages: 4}\n  - {factor: 1, stages: 3}\n")
    config = Config.preset("images", str(own))
    assert config.total_stages() == 7
    assert Config.from_dict(yaml.safe_load(yaml.safe_dump(config.to_dict())), "") == config


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"levels": [{"stages": 2}]}, "`levels[0].factor` must be a positive integer, got None"),
        (
            {"levels": [{"factor": 2, "sclices": 3}, {"factor": 1}]},
            "`levels[0].sclices` is not known; did you mean 'slices'?",
        ),
        (
            {"levels": [{"factor": 1, "particles": 3}]},
            "`levels[0].particles` must be set for the whole run",
        ),
        (
            {"levels": [{"factor": 2, "slices": -1}, {"factor": 1}]},
            "`levels[0].slices` must be greater than or equal to 0, got -1",
        ),
        ({"levels": [{"factor": 2}]}, "`levels` must have factors that decrease to 1 and divide one another, got [2]"),
        ({"levels": [{"factor": 3}, {"factor": 2}, {"factor": 1}]}, "divide one another, got [3, 2, 1]"),
        ({"levels": [{"factor": 0}]}, "`levels[0].factor` must be a positive integer, got 0"),
        ({"levels": "8, 4"}, "`levels` must be a list, got '8, 4'"),
        ({"patch_slices": [[7, 1], [7, 0]]}, "`patch_slices[1][1]` must be greater than or equal to 1, got 0"),
        (
            {"patch_slices": [[7, 1], [7, 2]], "patches_only": True, "paper": {"patch_step_sizes": [1.0]}},
            "`paper.patch_step_sizes` must have an entry for each of the `patch_slices`",
        ),
        ({"patches_only": True}, "`patch_slices` must not be empty with `patches_only`"),
        ({"noise_std": -1}, "`noise_std` must be greater than or equal to 0, got -1"),
        ({"paper": {"momentum_gain": 1.0}}, "`paper.momentum_gain` must be less than 1, got 1.0"),
    ],
)
def test_bad_settings(settings, says):
    with pytest.raises(ConfigError, match=re.escape(says)):
        rf.GenerativeFlow(**settings)


@pytest.mark.parametrize(
    ("settings", "shape", "says"),
    [
        (
            {"levels": [{"factor": 8}, {"factor": 1}]},
            (1, 28, 28),
            "`levels` must have factors that divide images of 28 × 28 pixels, got 8",
        ),
        ({"levels": [{"factor": 2}, {"factor": 1}]}, (6,), "`levels` must be empty"),
        ({"patch_slices": [[7, 1], [7, 5]], "patches_only": True}, (1, 28, 28), "for images of 28 × 28 pixels, got 7 · 5"),
        ({"patch_slices": [[7, 1]]}, (6,), "`patch_slices` must be empty"),
    ],
)
def test_settings_that_do_not_fit_the_data(tmp_path, settings, shape, says):
    with pytest.raises(ConfigError, match=re.escape(says)):
        rf.GenerativeFlow(**TINY, **settings).fit(torch.rand(20, *shape), run=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_bad_celeba(tmp_path):
    with pytest.raises(DatasetError, match="no folder given"):
        load("celeba")
    with pytest.raises(DatasetError, match="or no images"):
        load("celeba", tmp_path)
    write_celeba(tmp_path / "data", patches(3, 218, 178), patches(2, 218, 178))
    listing = tmp_path / "data" / "list_eval_partition.txt"
    good = listing.read_text()
    listing.write_text(good + "000001.jpg 7\n")
    with pytest.raises(DatasetError, match=r"line 6 must be .*, got '000001.jpg 7'"):
        load("celeba", tmp_path / "data")
    listing.write_text(good + "000099.jpg 0\n")
    with pytest.raises(DatasetError, match="000099.jpg: not a readable image"):
        load("celeba", tmp_path / "data")
    listing.write_text(good.replace(" 2", " 0"))
    with pytest.raises(DatasetError, match="must name training and test images, got 5 and 0"):
        load("celeba", tmp_path / "data")
    listing.write_text(good)
    Image.fromarray(patches(1, 64, 64)[0]).save(tmp_path / "data" / "img_align_celeba" / "000002.jpg")
    with pytest.raises(DatasetError, match="must have 178 × 218 pixels, got 64 × 64"):
        load("celeba", tmp_path / "data")
