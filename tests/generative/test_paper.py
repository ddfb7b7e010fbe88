"""The paper's recipes to the letter: schedules against its scripts' facts, and its steps against plain re-implementations."""

import copy
import itertools
import math

import numpy as np
import pytest
import torch
from problems import generator
from torch import nn

import rieszflow as rf
from rieszflow.directions import PatchSlices, sample
from rieszflow.generative import Config, PaperSettings
from rieszflow.generative.latents import draw_latents
from rieszflow.generative.levels import levels, step_sizes, upsample
from rieszflow.generative.networks import build

# What the published scripts say: particles (as many targets), Adam's steps, batch, rate, loss, noise of particles and samples;
# and of every level: factor, flow steps after which it ends, exponent of the first T, what T grows by and to, τ, P, scales.
SCRIPTS = {
    "cifar10": (30_000, 5000, 100, 5e-4, "absolute", 0.08, 0.06, [
        (8, 600_000, 5, 1024, 30_000, 0.5, 500, []),
        (4, 600_000, None, 1024, 30_000, 1.0, 500, []),
        (2, 600_000, None, 1024, 30_000, 1.0, 768, []),
        (1, 1_000_000, None, 1024, 30_000, 1.0, 500, [1, 2, 3, 4]),
    ]),
    "celeba": (20_000, 20_000, 10, 5e-4, "absolute", 0.02, 0.08, [
        (8, 700_000, 4, 8196, 100_000, 0.3, 500, []),
        (4, 900_000, 8, 8196, 100_000, 0.8, 768, []),
        (2, 700_000, 9, 8196, 100_000, 0.8, 400, [1, 2, 3, 4]),
        (1, 1_900_000, 10, 8196, 100_000, 1.0, 400, [1, 2, 3, 4, 5, 6, 7]),
    ]),
}  # fmt: skip
GAIN = {"cifar10": 0.01, "celeba": 0.05}


def c(d):
    """c_{d,1} = √π Γ((d + 1)/2) / Γ(d/2)."""
    return math.sqrt(math.pi) * math.exp(math.lgamma((d + 1) / 2) - math.lgamma(d / 2))


NETWORKS = {"cifar10": [40, 20, 20, 34], "celeba": [22, 20, 17, 28]}


def script_schedule(name):
    """T and momentum of every network of every level, by the scripts' own loop."""
    T, exponent, momentum, found = 32, 5, 0.0, []
    for _, end, first, cap, most, _, _, scales in SCRIPTS[name][-1]:
        if first is not None:
            T, exponent = 2**first, first
        done, level = 0, []
        while done < end:
            momentum = 0.0 if scales else momentum
            level.append((T, momentum))
            done += T
            T, momentum, exponent = min(T + min(2**exponent, cap), most), min(0.8, momentum + GAIN[name]), exponent + 1
        found.append(level)
    return found


@pytest.mark.parametrize("name", SCRIPTS)
def test_schedules_of_levels_are_those_of_the_scripts(name):
    M, fit_steps, batch, rate, loss, noise, sample_noise_std, facts = SCRIPTS[name]
    config = Config.preset(name, "paper")
    wanted = script_schedule(name)
    assert [len(level) for level in wanted] == NETWORKS[name]
    side = 32 if name == "cifar10" else 64
    found = levels(config, (3, side, side))
    assert config.paper.first_targets and (config.particles, config.targets) == (M, M)
    for level, schedule, (factor, _, _, _, _, tau, slices, scales) in zip(found, wanted, facts, strict=True):
        own = level.config
        assert (level.factor, own.slices, [k for _, k in own.patch_slices]) == (factor, slices, scales)
        assert own.flow_steps() == [T for T, _ in schedule]
        momenta = [own.momentum_of(number + 1) for number in range(own.stages)]
        assert momenta == pytest.approx([m for _, m in schedule], abs=1e-9)
        assert (own.fit_steps, own.fit_batch_size, own.learning_rate, own.loss) == (fit_steps, batch, rate, loss)
        assert (own.noise_std, level.sample_noise_std) == (noise, sample_noise_std) and own.paper.reset_velocity
        assert (own.paper.continue_from == "flow") == (name == "celeba" and factor == 1)
        assert (own.network, own.channels, own.layers, own.paper.fit, own.ema) == ("ddpm", (32, 64, 128), 2, "plain", 0)
        assert config.latents == "uniform" and not config.clip
        # Steps on patches have c_d of the whole image, and CelebA's scales are divided by their number.
        d = math.prod(level.shape)
        steps = step_sizes(level, torch.rand(3, d, generator=generator(0)))
        if scales:
            assert {size for size, _ in own.patch_slices} == {7} and own.patches_only
            assert own.paper.single_patch and own.combine == "sum"
            share = 1 / len(scales) if name == "celeba" else 1
            assert steps == pytest.approx([tau * share * c(d) / c(3 * 49)] * len(scales))
        else:
            assert steps == (tau,) and own.directions == "independent"


@pytest.mark.parametrize(("name", "momentum", "cap"), [("mnist", 0.7, 30_000), ("fashion-mnist", 0.8, 50_000)])
def test_schedule_without_an_end(name, momentum, cap):
    config = Config.preset(name, "paper")
    T, exponent, wanted = 32, 5, []
    for _ in range(config.stages):
        wanted.append(T)
        T, exponent = min(T + min(2**exponent, 2048), cap), exponent + 1
    assert config.flow_steps() == wanted
    assert (config.particles, config.targets, config.slices, config.step_size) == (20_000, 20_000, 1000, 1.0)
    assert (config.momentum, config.paper) == (momentum, PaperSettings(first_targets=True, fit="plain"))
    assert (config.fit_steps, config.fit_batch_size, config.learning_rate, config.loss) == (2000, 100, 1e-3, "squared")
    assert (config.network, config.channels, config.layers, config.paper.fit, config.ema) == (
        "ddpm",
        (32, 64, 128),
        2,
        "plain",
        0,
    )
    assert config.latents == "uniform" and config.directions == "independent" and not config.levels and not config.clip


def brute_gradient(s, t):
    """∂/∂s_i of D² of numbers, by all pairs: mean sign(s_i − t_j) − mean sign(s_i − s_k), over N."""
    return (torch.sign(s[:, None] - t).mean(1) - torch.sign(s[:, None] - s).mean(1)) / len(s)


def test_one_patch_a_step_is_the_papers_formula():
    """Two steps on two stretches, seed for seed: patches cut out pixel by pixel, gradients by brute force, added at the same x.

    Both sides are float32 sums of some hundred numbers of size one, times a step of some ten.
    """
    shape, N, M, P = (2, 8, 8), 7, 9, 12
    d, g = math.prod(shape), generator(0)
    x, y = torch.rand(N, d, generator=g), torch.rand(M, d, generator=g)
    config = Config(patch_slices=((2, 1), (2, 3)), patches_only=True, paper={"single_patch": True}, combine="sum",
                    step_size=0.7, slices=P, momentum=0.4)  # fmt: skip
    level = levels(config, shape)[0]
    assert [kind.single_patch for kind in level.kinds()] == [True, True]
    flow = rf.ParticleFlow(y, slices=P, step_size=list(step_sizes(level, y)), momentum=0.4, directions=level.kinds(),
                           combine="sum", engine="sort", seed=generator(5))  # fmt: skip
    found = flow.run(x, steps=2)
    source, plain, velocity = generator(5), x.double(), torch.zeros(N, d, dtype=torch.float64)
    for _ in range(2):
        total = torch.zeros(N, d, dtype=torch.float64)
        for scale in (1, 3):
            seed = int(torch.randint(2**62, (), generator=source))
            drawn = sample(
                PatchSlices(shape, 2, scale, single_patch=True), P, d, torch.zeros(1), torch.Generator().manual_seed(seed)
            )
            top, left = divmod(int(drawn.pixels[0, 0, 0]), 8)  # the place of the first of all pixels
            xi = torch.zeros(P, *shape, dtype=torch.float64)
            patch = torch.cat(drawn.xi).double().view(P, 2, 2, 2)
            for b, i, j in itertools.product(range(2), range(2 * scale), range(2 * scale)):
                xi[:, b, (top + i) % 8, (left + j) % 8] = patch[:, b, i // scale, j // scale] / scale
            xi = xi.flatten(1)
            forces = torch.stack([brute_gradient(s, t) for s, t in zip(xi @ plain.T, xi @ y.double().T, strict=True)])
            # Directions are those of the patch's 8 numbers, padded to 16 by the library: c_n makes up for it.
            scaled = c(d) / c(8) * c(drawn.n)
            total += scaled * forces.T @ xi / P
        velocity = total + 0.4 * velocity
        plain = plain - 0.7 * N * velocity
    torch.testing.assert_close(found, plain.float(), rtol=0, atol=2e-4)


@pytest.mark.parametrize("one", [True, False])
def test_expected_first_step_on_one_patch(one):
    """The paper's step is, in the mean, c_d / c_m times the mean over all places of the exact gradients between patches.

    So it is for patches that tile the image. Means of 600 draws, five standard errors for each of 36 coordinates.
    """
    shape, s, N, M, d = (1, 6, 6), 2, 4, 5, 36
    g = generator(1)
    x, y = (torch.rand(n, d, generator=g, dtype=torch.float64) for n in (N, M))
    factor = c(d) / c(s * s)
    wanted = torch.zeros(N, d, dtype=torch.float64)
    for top, left in itertools.product(range(6), range(6)):
        pixels = torch.tensor([(top + i) % 6 * 6 + (left + j) % 6 for i in range(s) for j in range(s)])
        wanted[:, pixels] += factor * rf.mmd2_gradient(x[:, pixels], y[:, pixels]) / 36
    kind, source = PatchSlices(shape, s, 1, single_patch=one), generator(2)
    found = torch.stack([
        factor * rf.sliced_mmd2_gradient(x, y, slices=32, directions=kind, seed=source, engine="sort") for _ in range(600)
    ])  # fmt: skip
    error = found.std(0) / 600**0.5
    assert ((found.mean(0) - wanted).abs() <= 5 * error).all()
    assert (wanted.abs() > 5 * error).any()  # the test could fail


def paper_unet_parameters(C, channels=(32, 64, 128), blocks=2):
    """Numbers in the scripts' UNet, counted from its layers."""

    def conv(a, b, k=3):
        return k * k * a * b + b

    def block(a, b):
        return 2 * a + conv(a, b) + 2 * b + conv(b, b) + (conv(a, b, 1) if a != b else 0)

    total, at, left = conv(C, channels[0]), channels[0], [channels[0]]
    for k, width in enumerate(channels):
        for _ in range(blocks):
            total, at = total + block(at, width), width
            left.append(at)
        if k < len(channels) - 1:
            total += conv(at, at)
            left.append(at)
    total += 2 * block(at, at) + 2 * at + 4 * conv(at, at, 1)
    for k, width in reversed(list(enumerate(channels))):
        for _ in range(blocks + 1):
            total, at = total + block(at + left.pop(), width), width
        total += conv(at, at) if k else 0
    return total + 2 * at + conv(at, C)


@pytest.mark.parametrize(("name", "shape"), [("mnist", (1, 28, 28)), ("cifar10", (3, 4, 4))])
def test_network_is_the_papers(name, shape):
    network = build(Config.preset(name, "paper"), shape)
    assert sum(p.numel() for p in network.parameters()) == paper_unet_parameters(shape[0])
    assert not any("time" in key for key in network.state_dict())
    assert {m.num_groups for m in network.modules() if isinstance(m, nn.GroupNorm)} == {32}
    x = torch.rand(3, math.prod(shape), generator=generator(0))
    assert torch.equal(network(x), torch.zeros_like(x))
    network(x).sum().backward()
    assert network.net.unet.conv_out.bias.grad.abs().min() > 0


def test_channels_of_the_papers_network():
    with pytest.raises(rf.errors.ConfigError, match=r"`channels` must be multiples of 32 .*got \[32, 48\]"):
        build(Config(network="ddpm", channels=(32, 48)), (1, 8, 8))


VECTORS = {"particles": 40, "stages": 3, "initial_steps": 1, "max_step_increment": 1, "max_steps": 1, "slices": 8,
           "fit_steps": 2, "fit_batch_size": 8, "step_size": 0.3, "device": "cpu", "seed": 4}  # fmt: skip


def trained(data, held_out=None, **settings):
    return rf.GenerativeFlow(**{**VECTORS, **settings}).fit(data, held_out=held_out)


def distances(flow):
    return [row.energy_distance["particles"] for row in flow.run.metrics()]


def test_at_rest_nothing_is_left_of_the_velocity():
    """One flow step a network: whatever the momentum is, at rest it is that of momentum 0."""
    data = torch.rand(60, 2, generator=generator(0))
    still = trained(data, momentum=0.0)
    assert distances(trained(data, momentum=0.8, paper={"reset_velocity": True})) == distances(still)
    assert distances(trained(data, momentum=0.8)) != distances(still)


def test_particles_go_on_from_the_flow():
    """Networks that learn nothing: particles go on from the flow as if there were none, or stay where they are."""
    data = torch.rand(60, 2, generator=generator(0)) ** 6  # most of it near 0, the noise is not
    idle = {"momentum": 0.0, "learning_rate": 1e-30, "ema": 0.0, "network": nn.Sequential(nn.Linear(2, 2)), "stages": 4}
    nn.init.zeros_(idle["network"][0].weight)
    nn.init.zeros_(idle["network"][0].bias)
    on, back = distances(trained(data, **idle, paper={"continue_from": "flow"})), distances(trained(data, **idle))
    assert on[0] == back[0]
    assert on[3] < on[2] < on[1] < on[0]
    # Every flow of the other run is a first step from the noise, on other slices: a quarter of it is left to chance.
    assert min(back) > 0.75 * back[0] > on[3]


def test_first_targets():
    """Targets near (0.1, 0.1) come first, others after them: the flow sees the first ones only."""
    near, far = torch.rand(80, 2, generator=generator(0)) * 0.2, torch.rand(80, 2, generator=generator(1)) * 0.2 + 0.8
    settings = {"model": "recorded", "initial_steps": 60, "max_steps": 60, "stages": 1, "slices": 16, "targets": 80,
                "momentum": 0.5, "step_size": None, "particles": 200}  # fmt: skip
    data, held_out = torch.cat([near, far]), torch.rand(50, 2, generator=generator(2))
    samples = trained(data, held_out, **settings, paper={"first_targets": True}).sample(100, seed=1)
    assert (samples.mean(0) - 0.1).abs().max() < 0.2  # all targets together have a mean of 0.5
    samples = trained(data, held_out, **settings).sample(100, seed=1)
    assert (samples.mean(0) - 0.5).abs().max() < 0.2


def test_noise_of_samples():
    """Networks that learn nothing: samples are latents of the small images, grown, with noise of their own size."""
    data = torch.rand(30, 1, 4, 4, generator=generator(0))
    flow = trained(data, network="ddpm", channels=[32], layers=1, learning_rate=1e-30, noise_std=0.3,
                   paper={"sample_noise_std": 0.01},
                   levels=[{"factor": 2, "stages": 1}, {"factor": 1, "stages": 1}])  # fmt: skip
    source = generator(7)
    latents = draw_latents(flow.config, (1, 2, 2), 20, source)
    wanted = upsample(latents, (1, 2, 2), (1, 4, 4), 0.01, source).clamp(0, 1)
    low, high = flow.run.data["low"], flow.run.data["high"]
    torch.testing.assert_close(flow.sample(20, seed=7).flatten(1), low + wanted * (high - low), rtol=0, atol=1e-5)


def test_plain_fit_is_the_scripts_loop():
    """Three steps of Adam at a constant rate on sums of squares, of displacements as they are: the same weights."""
    data, N, seed = torch.rand(50, 3, generator=generator(0)), 40, 4
    start = nn.Linear(3, 3)
    with torch.no_grad():
        for p in start.parameters():
            p.copy_(torch.randn(p.shape, generator=generator(1)))
    flow = trained(data, network=copy.deepcopy(start), paper={"fit": "plain", "first_targets": True}, fit_steps=3, stages=1,
                   targets=30, learning_rate=0.01, momentum=0.0)  # fmt: skip
    found = flow.run.load_network(1)
    # The same by hand: where particles were and went, and the batches, drawn as the run draws them.
    y = rf.generative.training_data.dataset(data, None, flow.config).train.flatten(1)[:30]
    source = generator(seed)
    x_old = draw_latents(flow.config, (3,), N, source)
    draw_latents(flow.config, (3,), 2000, source)
    x = rf.ParticleFlow(y, slices=8, step_size=0.3, seed=generator(seed + 1)).step(x_old)
    net = copy.deepcopy(start)
    optimiser = torch.optim.Adam(net.parameters(), lr=0.01)
    for _ in range(3):
        rows = torch.randint(N, (8,), generator=source)
        loss = ((net(x_old[rows]) - (x_old - x)[rows]) ** 2).sum() / 8
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert found["scale"] == 1
    for name, p in net.state_dict().items():
        torch.testing.assert_close(found[f"net.{name}"], p, rtol=0, atol=1e-6)


def test_what_recordings_do_not_have():
    with pytest.raises(rf.errors.ConfigError, match="^`paper.reset_velocity` must have its default"):
        Config(model="recorded", paper={"reset_velocity": True})
    with pytest.raises(rf.errors.ConfigError, match=r"`levels\[1\].paper.reset_velocity` must"):
        Config(model="recorded", levels=({"factor": 2}, {"factor": 1, "paper": {"reset_velocity": True}}))


def test_celeba_is_made_small_as_in_the_paper():
    """Bicubic interpolation without antialiasing (a = −0.75) of the middle 140 × 140, against its formula on a row of tones."""
    Image = pytest.importorskip("PIL.Image")
    from rieszflow.data.datasets import _resized_celeba

    tones = np.random.default_rng(0).integers(60, 200, 178)
    picture = np.broadcast_to(tones[None, :, None], (218, 178, 3)).astype(np.uint8)
    row = tones[19:159].astype(float)

    def weight(t, a=-0.75):
        t = abs(t)
        if t <= 1:
            return (a + 2) * t**3 - (a + 3) * t**2 + 1
        return a * (t**3 - 5 * t**2 + 8 * t - 4) if t < 2 else 0.0

    wanted = []
    for k in range(64):
        at = (k + 0.5) * 140 / 64 - 0.5
        near = math.floor(at)
        wanted.append(sum(row[min(139, max(0, j))] * weight(at - j) for j in range(near - 1, near + 3)))
    found = np.asarray(_resized_celeba(Image.fromarray(picture)))
    assert found.shape == (64, 64, 3)
    # Rounded to bytes, of numbers that float32 knows to 1e-4.
    assert np.abs(found[10, :, 1] - np.clip(wanted, 0, 255)).max() <= 0.51
