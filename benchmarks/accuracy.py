"""Compare the time to equal gradient error on Fashion-MNIST: bins on Hadamard blocks against the usual implementation.

Errors are relative to brute force. Both decrease like 1/√P (paper, Theorem 4), so the time to a given error is proportional to
seconds · error². They are measured at equal P, at a uniform start, halfway, and near the data; each brute-force gradient is
computed once.

Run: python benchmarks/accuracy.py [--n 20000] [--slices 1024] [--repeats 3]
"""

import statistics

import matplotlib.pyplot as plt
import torch
from common import in_turn, independent, parser, save, usual

import rieszflow as rf
from rieszflow.data import load


def main() -> None:
    command = parser(__doc__, n=20_000, slices=1024, repeats=3)
    command.add_argument("--data", default="fashion-mnist")
    options = command.parse_args()
    g = torch.Generator().manual_seed(0)
    images = load(options.data).train.flatten(1)
    images = images[torch.randperm(len(images), generator=g)]
    n = min(options.n, len(images) // 2)
    y, near = images[:n], images[n : 2 * n]
    start = torch.rand(n, y.shape[1], generator=g)
    places = {"uniform start": start, "half way": 0.5 * (start + near), "near the data": near}
    rows = []
    for place, x in places.items():
        exact = rf.mmd2_gradient(x, y)

        def error(way, exact=exact):
            results = [((way() - exact).norm() / exact.norm()).item() for _ in range(options.repeats)]
            return statistics.mean(e * e for e in results) ** 0.5

        ways = {
            "usual": lambda x=x: usual(x, y, independent(options.slices, y.shape[1], g)),
            "bins": lambda x=x: rf.sliced_mmd2_gradient(x, y, slices=options.slices, engine="bins", seed=g),
        }
        seconds = {name: statistics.median(t) for name, t in in_turn(ways, options.repeats).items()}
        errors = {name: error(way) for name, way in ways.items()}
        ratio = seconds["usual"] * errors["usual"] ** 2 / (seconds["bins"] * errors["bins"] ** 2)
        rows.append({"start": place, "seconds": seconds, "errors": errors, "time_to_same_error_ratio": ratio})
        print(
            f"{place:>14}: usual {seconds['usual']:.2f} s, error {errors['usual']:.2f}; bins {seconds['bins']:.3f} s, "
            f"error {errors['bins']:.2f}; time to the same error {ratio:.0f} times shorter"
        )
    figure, axes = plt.subplots(figsize=(6, 2.2))
    axes.barh([r["start"] for r in rows], [r["time_to_same_error_ratio"] for r in rows], color="tab:green")
    axes.bar_label(axes.containers[0], fmt=" %.0f ×")
    axes.set(xlabel="speed-up to equal error", title=f"{options.data}, N = M = {n:,}, P = {options.slices}")
    axes.invert_yaxis()
    save(options, f"accuracy-{options.data}-{n}", {"n": n, "slices": options.slices, "rows": rows}, figure)


if __name__ == "__main__":
    main()
