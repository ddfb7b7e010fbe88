"""Results are bit for bit the same under any global setting of PyTorch and NumPy."""

import contextlib

import numpy as np
import pytest
import torch
from problems import clouds, generator

import rieszflow as rf
from rieszflow import directions


@contextlib.contextmanager
def default_dtype(dtype):
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextlib.contextmanager
def deterministic():
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


@contextlib.contextmanager
def low_precision_products():
    """Allow float32 products in lower precision; this changes nothing if the processor has none."""
    torch.set_float32_matmul_precision("medium")
    try:
        yield
        assert torch.get_float32_matmul_precision() == "medium"  # put back after every call
    finally:
        torch.set_float32_matmul_precision("highest")


SURROUNDINGS = {
    "float64": lambda: default_dtype(torch.float64),
    "bfloat16": lambda: default_dtype(torch.bfloat16),
    "float16": lambda: default_dtype(torch.float16),
    "meta": lambda: torch.device("meta"),
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "inference": torch.inference_mode,
    "no_grad": torch.no_grad,
    "deterministic": deterministic,
    "errstate": lambda: np.errstate(all="raise"),
    "products": low_precision_products,
}

X, Y = clouds(1, 70, 60, 64, torch.float32)
ONE_DIMENSION = [c[:, :1].contiguous() for c in (X, Y)]
KERNELS = [rf.Riesz(1.0), rf.Riesz(1.5), rf.Gaussian(8.0), rf.Laplace(8.0), rf.Matern(1.5, 8.0), rf.InverseMultiquadric(8.0)]
KINDS = [*directions.KINDS, rf.PatchSlices((1, 8, 8), 3, 2)]


def of(function):
    """Value and, where derivatives can be taken, derivatives by both clouds."""
    leaves = [c.clone().requires_grad_(torch.is_grad_enabled()) for c in (X, Y)]
    value = function(*leaves)
    if value.requires_grad:
        value.backward()
        return [value.detach(), *(leaf.grad for leaf in leaves)]
    return [value]


def flow(**settings):
    moving = rf.ParticleFlow(Y, slices=40, momentum=0.5, seed=generator(3), **settings)
    return [moving.run(X, steps=3), moving.velocities[0]]


def sketch():
    made = rf.SliceSketch.from_points(X, slices=40, seed=2)
    return [torch.tensor(made.distance(Y), dtype=torch.float64, device="cpu"), made.gradient(Y), *made.counts]


CALLS = {
    **{
        f"exact {k!r}": lambda k=k: [*of(lambda x, y: rf.mmd2(x, y, kernel=k, statistic="U")), rf.mmd2_gradient(X, Y, kernel=k)]
        for k in KERNELS
    },
    **{
        f"{kind} {engine}": lambda kind=kind, engine=engine: [
            *of(lambda x, y: rf.sliced_mmd2(x, y, slices=50, directions=kind, engine=engine, seed=generator(5))),
            rf.sliced_mmd2_gradient(X, Y, slices=50, directions=kind, engine=engine, seed=generator(5)),
        ]
        for kind in KINDS
        for engine in ("sort", "bins")
    },
    **{
        f"sliced {k!r}": lambda k=k: [
            *of(lambda x, y: rf.sliced_mmd2(x, y, kernel=k, slices=20, seed=generator(5))),
            rf.sliced_mmd2_gradient(X, Y, kernel=k, slices=20, seed=generator(5)),
        ]
        for k in KERNELS
    },
    "one slice": lambda: [
        rf.sliced_mmd2(*ONE_DIMENSION, slices=1, directions=kind, seed=generator(1)) for kind in directions.KINDS
    ],
    "target": lambda: [rf.Target(Y, slices=40, engine="bins", seed=generator(4), refresh_every=2).gradient(X)],
    "state": lambda: _after_state(),
    "flow": lambda: flow() + flow(engine="bins", refresh_every=2) + flow(bounds=(-1.0, 1.0)),
}


def _after_state():
    target = rf.Target(Y, slices=40, engine="bins", seed=generator(4), refresh_every=2)
    target.gradient(X)
    state = target.state()
    again = rf.Target(Y, slices=40, engine="bins", seed=generator(4), refresh_every=2)
    again.load_state(state)
    return [again.gradient(X), *(state[name] for name in sorted(state))]


@pytest.fixture(scope="module")
def plain():
    return {name: call() for name, call in CALLS.items()}


@pytest.mark.parametrize("surroundings", SURROUNDINGS)
def test_results_do_not_depend_on_surroundings(surroundings, plain):
    for name, call in CALLS.items():
        with SURROUNDINGS[surroundings]():
            got = call()
        # Without derivatives only the value is left of the first three.
        short = len(plain[name]) - len(got)
        wanted = plain[name] if not short else [plain[name][0], *plain[name][1 + short :]]
        for one, two in zip(got, wanted, strict=True):
            assert one.dtype == two.dtype and one.device == two.device, name
            assert torch.equal(one.detach(), two), name


@pytest.mark.parametrize("surroundings", SURROUNDINGS)
def test_sketches_do_not_depend_on_surroundings(surroundings):
    plain = sketch()
    with SURROUNDINGS[surroundings]():
        got = sketch()
    for one, two in zip(got, plain, strict=True):
        assert one.dtype == two.dtype and one.device == two.device
        assert torch.equal(one, two)


def test_generators_default_is_the_cpu():
    """No generator: torch's own one of the CPU is asked, which a seed of torch sets."""
    state = torch.get_rng_state()
    try:
        found = []
        for around in (contextlib.nullcontext(), torch.device("meta"), default_dtype(torch.float64)):
            torch.manual_seed(5)
            with around:
                found.append(rf.sliced_mmd2_gradient(X, Y, slices=8, directions="orthogonal"))
                found.append(rf.Target(Y, slices=8).gradient(X))
        assert all(torch.equal(found[0], g) for g in found[::2]) and all(torch.equal(found[1], g) for g in found[1::2])
    finally:
        torch.set_rng_state(state)


def test_derivatives_by_what_was_made_in_inference_mode():
    with torch.inference_mode():
        made = Y.clone()
    for function in (rf.mmd2, lambda x, y: rf.sliced_mmd2(x, y, slices=10, seed=generator(1))):
        leaves = [X.clone().requires_grad_() for _ in range(2)]
        for leaf, y in zip(leaves, (Y, made), strict=True):
            function(leaf, y).backward()
        assert torch.equal(leaves[0].grad, leaves[1].grad)


def test_directions_of_a_seed_are_those_that_saved_sketches_have():
    """The first numbers of every kind for seed 0, as the releases so far drew them: saved sketches hold counts on these."""
    wanted = {
        "independent": [0.5739809, -0.1092946, -0.8115422, 0.3057951, -0.5834332, -0.7523929],
        "orthogonal": [0.9111348, 0.3360927, 0.2384843, 0.0751304, -0.7044632, 0.7057529],
        "hadamard": [-1.0, 1.0, 1.0, -1.0, 1.0, 1.0],
        "sobol": [-0.1304129, -0.9488396, 0.287569, 0.6667603, 0.4811704, -0.5691272],
    }
    for kind, numbers in wanted.items():
        drawn = directions.sample(kind, 5, 3, torch.zeros(1, dtype=torch.float64), generator(0))
        found = (drawn.signs if kind == "hadamard" else drawn.xi).flatten()[:6]
        # the factorisation's last bits are the processor's
        torch.testing.assert_close(found, torch.tensor(numbers, dtype=torch.float64), rtol=0, atol=1e-6)
