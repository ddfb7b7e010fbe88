"""Check the theorems of the paper numerically: slicing (1), the bounds between D and W₁ (2), and the error of P slices (4).

D² = ½ MMD² is the functional of the paper. Theorem 1 is checked for several r and d: D² in R^d is compared with c_{d,r} times
its mean over random slices, with 95 % confidence intervals and their coverage. Theorem 2 is checked on random pairs of weighted
point measures in the unit ball, with exact W₁. For Theorem 4, the log-log slopes of the error in P and in d should be −½ and ½.

Run: pip install '.[experiments]'; python experiments/theorems.py [--full]
"""

import math

import numpy as np
import ot
import torch
from matplotlib.figure import Figure
from shared import options, save

import rieszflow as rf


def theorem1(repeats: int, P: int, g: torch.Generator) -> list[dict]:
    rows = []
    for r in (0.5, 1.0, 1.5):
        for d in (2, 3, 10, 100):
            kernel, held, deviations = rf.Riesz(r), 0, []
            c = kernel.basis_constant(d)
            for _ in range(repeats):
                x, y = torch.randn(8, d, generator=g).double(), 1 + torch.randn(9, d, generator=g).double()
                exact = rf.mmd2(x, y, kernel=kernel).item() / 2
                xi = torch.nn.functional.normalize(torch.randn(P, d, generator=g).double(), dim=1)
                px, py = (xi @ z.T for z in (x, y))
                xy, xx, yy = (((p[:, :, None] - q[:, None]).abs() ** r).mean((1, 2)) for p, q in ((px, py), (px, px), (py, py)))
                each = c * (xy - 0.5 * xx - 0.5 * yy)
                error = (each.mean().item() - exact) / (each.std().item() / math.sqrt(P))
                held += abs(error) <= 1.96
                deviations.append(each.mean().item() / exact - 1)
            spread = float(np.std(deviations)) / math.sqrt(repeats)
            rows.append(
                {"r": r, "d": d, "held": held / repeats, "mean_deviation": float(np.mean(deviations)), "its_error": spread}
            )
            print(f"Theorem 1, r = {r}, d = {d:>3}: {held} of {repeats} intervals hold D²; "
                  f"mean deviation {np.mean(deviations):+.1e} ± {spread:.0e}", flush=True)  # fmt: skip
    return rows


def theorem2(pairs: int, g: torch.Generator) -> list[dict]:
    rows = []
    for d in (1, 2, 5, 20):
        for k in range(pairs):
            n, m = (int(v) for v in torch.randint(1, 40, (2,), generator=g))
            spread = 10 ** (-2 * torch.rand(2, generator=g))
            x, y = (s * torch.randn(count, d, generator=g).double() for s, count in zip(spread, (n, m), strict=True))
            y = y + torch.rand(1, generator=g) * torch.randn(d, generator=g).double()
            largest = max(x.norm(dim=1).max(), y.norm(dim=1).max())
            x, y = x / largest, y / largest
            a, b = (w / w.sum() for w in (torch.rand(count, generator=g).double() + 1e-3 for count in (n, m)))
            if k == 0:  # two point masses: equality in the first bound
                x, y, a, b = x[:1], y[:1], torch.ones(1).double(), torch.ones(1).double()
            D2 = rf.mmd2(x, y, x_weights=a, y_weights=b).item() / 2
            W1 = ot.emd2(a.numpy(), b.numpy(), ot.dist(x.numpy(), y.numpy(), "euclidean"))
            rows.append({"d": d, "D2": D2, "W1": W1, "point_masses": k == 0})
        mine = [row for row in rows if row["d"] == d]
        largest = max(row["D2"] / row["W1"] for row in mine)
        constant = max(row["W1"] / row["D2"] ** (0.5 / (d + 1)) for row in mine)
        print(f"Theorem 2, d = {d:>2}: D²/W₁ at most {largest:.6f} (1 for point masses: {mine[0]['D2'] / mine[0]['W1']:.6f}); "
              f"W₁/D^(1/(d+1)) at most {constant:.3f}", flush=True)  # fmt: skip
        assert largest <= 1 + 1e-9
    return rows


def theorem4(draws: int, g: torch.Generator) -> dict:
    def error(d: int, P: int) -> float:
        x, y = torch.rand(300, d, generator=g), torch.rand(300, d, generator=g) ** 2
        exact = rf.mmd2_gradient(x, y)
        found = [rf.sliced_mmd2_gradient(x, y, slices=P, directions="independent", engine="sort", seed=g) for _ in range(draws)]
        return sum(((f - exact).norm() / exact.norm()).item() for f in found) / draws

    Ps, ds = [16, 64, 256, 1024, 4096], [8, 32, 128, 512]
    over_P, over_d = [error(100, P) for P in Ps], [error(d, 1024) for d in ds]
    slopes = [float(np.polyfit(np.log(a), np.log(b), 1)[0]) for a, b in ((Ps, over_P), (ds, over_d))]
    print(f"Theorem 4: the error falls like P^{slopes[0]:.3f} (−½) and grows like d^{slopes[1]:.3f} (½)", flush=True)
    return {"P": Ps, "error_over_P": over_P, "d": ds, "error_over_d": over_d, "slopes": slopes}


def main() -> None:
    given = options(__doc__)
    g = torch.Generator().manual_seed(0)
    first = theorem1(400, 20_000 if given.full else 5000, g)
    second = theorem2(1000 if given.full else 150, g)
    fourth = theorem4(30 if given.full else 8, g)
    figure = Figure(figsize=(14, 4), layout="tight")
    left, middle, right = figure.subplots(1, 3)
    places = range(len(first))
    left.errorbar(places, [r["mean_deviation"] for r in first], [1.96 * r["its_error"] for r in first], fmt="o")
    left.axhline(0, color="k", lw=0.8)
    left.set_xticks(places, [f"{r['r']}\n{r['d']}" for r in first], fontsize=7)
    left.set(title="Theorem 1: mean over slices / exact D² − 1", xlabel="r, d")
    for d in (1, 2, 5, 20):
        mine = [row for row in second if row["d"] == d]
        middle.loglog([row["W1"] for row in mine], [row["D2"] for row in mine], ".", ms=4, label=f"d = {d}")
    ends = [min(row["W1"] for row in second), max(row["W1"] for row in second)]
    middle.loglog(ends, ends, "k--", label="D² = W₁")
    middle.set(title="Theorem 2: D² ≤ W₁", xlabel="W₁", ylabel="D²")
    right.loglog(fourth["P"], fourth["error_over_P"], "o-", label=f"over P, d = 100: slope {fourth['slopes'][0]:.2f}")
    right.loglog(fourth["d"], fourth["error_over_d"], "s-", label=f"over d, P = 1,024: slope {fourth['slopes'][1]:.2f}")
    right.set(title="Theorem 4: error of the gradient", xlabel="P or d")
    for axes in (middle, right):
        axes.legend(fontsize=8)
    save(given, "theorems", {"theorem1": first, "theorem2": second, "theorem4": fourth}, figure)


if __name__ == "__main__":
    main()
