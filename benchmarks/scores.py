"""Time the CRPS and the energy score of ensembles in rieszflow and in scoringrules' Numba backend, in turn in one process.

Both are fair estimates in float64. Values are timed for both libraries; rieszflow is also timed with the gradient with respect
to the samples.

Run: python benchmarks/scores.py [--forecasts 10000] [--repeats 20] [--threads 0]
"""

import statistics

import numpy as np
import scoringrules
import torch
from common import in_turn, parser, ratios, save

import rieszflow as rf

SIZES = ((2, 1), (10, 1), (50, 1), (10, 3), (50, 3))  # members, dimensions


def gradient(samples: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    samples = samples.clone().requires_grad_()
    return torch.autograd.grad(rf.energy_score(samples, y).sum(), samples)[0]


def main() -> None:
    options = parser(__doc__, forecasts=10_000, repeats=20, threads=0).parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    scoringrules.backends.set_active("numba")
    rng, rows = np.random.default_rng(0), []
    for m, d in SIZES:
        n = options.forecasts if d == 1 else options.forecasts // 10
        samples, y = rng.normal(size=(n, m, d)), rng.normal(size=(n, d))
        line, at = samples[..., 0].copy(), y[:, 0].copy()
        tensors = torch.from_numpy(samples), torch.from_numpy(y)
        seconds = in_turn(
            {
                "scoringrules": lambda s=samples, y=y, line=line, at=at: (
                    scoringrules.crps_ensemble(at, line, estimator="fair")
                    if s.shape[-1] == 1
                    else scoringrules.energy_score(y, s, estimator="fair")
                ),
                "rieszflow": lambda s=samples, y=y: rf.energy_score(s, y),
                "with gradient": lambda tensors=tensors: gradient(*tensors),
            },
            options.repeats,
        )
        found = ratios(seconds, "scoringrules")
        rows.append({"members": m, "d": d, "forecasts": n, "seconds": seconds, "scoringrules_over_this": found})
        for name, times in seconds.items():
            print(
                f"m = {m:>2}, d = {d}, {n:>6} forecasts, {name:>13}: {1e3 * statistics.median(times):8.3f} ms   "
                f"{found[name]['median']:6.2f} ({found[name]['min']:.2f}–{found[name]['max']:.2f})",
                flush=True,
            )
    save(options, "scores", {"options": {k: v for k, v in vars(options).items() if k != "out"}, "rows": rows})


if __name__ == "__main__":
    main()
