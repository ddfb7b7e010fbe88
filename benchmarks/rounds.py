"""Compare the gradient error of two and three rounds of random signs and Hadamard transforms with that of Haar blocks.

Clouds are padded with zeros to n = 2^k, so that all three kinds are blocks of n dense directions in R^n. The worst case
of few sign patterns is measured as well: the deviation of the mean |ξ_j| over many blocks from that of the sphere, on a
coordinate axis.

Run: python benchmarks/rounds.py [--repeats 20]
"""

import math

import matplotlib.pyplot as plt
import torch
from common import parser, save

import rieszflow as rf
from rieszflow import directions
from rieszflow.data import load


def hadamard(n: int, rounds: int, g: torch.Generator) -> torch.Tensor:
    """Return the block H·D_k ⋯ H·D₁ as a matrix."""
    H = torch.ones(1, 1)
    while len(H) < n:
        H = torch.cat([torch.cat([H, H], 1), torch.cat([H, -H], 1)]) / math.sqrt(2)
    block = torch.eye(n)
    for _ in range(rounds):
        block = H @ ((2.0 * torch.randint(2, (n, 1), generator=g) - 1) * block)
    return block


def main() -> None:
    options = parser(__doc__, n=1000, repeats=20).parse_args()
    g = torch.Generator().manual_seed(0)
    digits, gauss = load("digits").train.flatten(1), torch.randn(2 * options.n, 100, generator=g)
    clouds = {
        "digits, d = 64": (digits[: len(digits) // 2], digits[len(digits) // 2 :]),
        "normal, shifted on one axis, d = 100": (gauss[: options.n] + torch.eye(100)[0], gauss[options.n :]),
        "one-hot, d = 256": tuple(torch.eye(256)[torch.randint(256, (options.n,), generator=g) // k] for k in (1, 2)),
        "uniform to its square, d = 784": tuple(torch.rand(options.n, 784, generator=g) ** k for k in (1, 2)),
    }
    kinds = {
        "two rounds": lambda n: hadamard(n, 2, g),
        "three rounds": lambda n: hadamard(n, 3, g),
        "Haar": lambda n: directions.sample("orthogonal", n, n, torch.zeros(1), g).xi,
    }
    rows = []
    for name, pair in clouds.items():
        n = 1 << (pair[0].shape[1] - 1).bit_length()
        x, y = (torch.nn.functional.pad(c, (0, n - c.shape[1])) for c in pair)
        exact = rf.mmd2_gradient(x, y)
        row = {"data": name, "n": n}
        for kind, block in kinds.items():
            squares, axis = [], torch.zeros(n, dtype=torch.float64)
            for _ in range(options.repeats):
                xi = block(n)
                got = rf.sliced_mmd2_gradient(x, y, directions=xi, engine="sort")
                squares.append((((got - exact).norm() / exact.norm()) ** 2).item())
                axis += xi.double().abs().mean(0) / options.repeats
            sphere = 1 / rf.Riesz(1.0).basis_constant(n)
            mean = sum(squares) / len(squares)
            spread = (sum((s - mean) ** 2 for s in squares) / (len(squares) - 1) / len(squares)) ** 0.5
            row[kind] = {
                "error": mean**0.5,
                "standard_error": spread / (2 * mean**0.5),
                "worst_axis": (axis / sphere - 1).abs().max().item(),
            }
        rows.append(row)
        for kind in kinds:
            r = row[kind]
            print(f"{name}, {kind}: {r['error']:.4f} ± {r['standard_error']:.4f}, axis off by {100 * r['worst_axis']:.1f} %")
    figure, axes = plt.subplots(figsize=(6, 2.6))
    for k, kind in enumerate(kinds):
        places = [i + 0.25 * (k - 1) for i in range(len(rows))]
        axes.barh(places, [r[kind]["error"] for r in rows], 0.22, xerr=[r[kind]["standard_error"] for r in rows], label=kind)
    axes.set_yticks(range(len(rows)), [r["data"] for r in rows])
    axes.set(xlabel="relative error of the gradient, one block of n directions")
    axes.invert_yaxis()
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    save(options, "rounds", {"repeats": options.repeats, "rows": rows}, figure)


if __name__ == "__main__":
    main()
