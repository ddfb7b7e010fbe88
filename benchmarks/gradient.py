"""Time one gradient (r = 1) with each engine and with the usual implementation, in turn in one process.

The usual implementation in PyTorch (common.py) uses dense independent directions and three sorts: one of the joint projections,
a second to invert it, and a third for x.

Run: python benchmarks/gradient.py [--n 20000] [--d 784] [--slices 1024] [--repeats 5]
"""

import statistics

import matplotlib.pyplot as plt
import torch
from common import in_turn, independent, parser, ratios, save, usual

import rieszflow as rf


def main() -> None:
    options = parser(__doc__, n=20_000, d=784, slices=1024, repeats=5).parse_args()
    g = torch.Generator().manual_seed(0)
    x = torch.rand(options.n, options.d, generator=g)
    y = torch.rand(options.n, options.d, generator=g) ** 2
    xi = independent(options.slices, options.d, g)
    target = rf.Target(
        y, slices=options.slices, engine="bins", seed=g, refresh_every=None
    )  # cached slices, as in a flow towards a large target
    target.gradient(x)
    slow, exact = usual(x, y, xi), rf.sliced_mmd2_gradient(x, y, directions=xi, engine="sort")
    binned = rf.sliced_mmd2_gradient(x, y, directions=xi, engine="bins")
    of_sort, of_bins = ((a - b).norm().item() / b.norm().item() for a, b in ((exact, slow), (binned, exact)))
    print(f"on the same directions sort differs from the usual way by {of_sort:.1e}, bins from sort by {of_bins:.1e}")
    arguments = {"slices": options.slices, "directions": "hadamard", "seed": g}
    seconds = in_turn(
        {
            "usual": lambda: usual(x, y, independent(options.slices, options.d, g)),
            "sort": lambda: rf.sliced_mmd2_gradient(x, y, engine="sort", **arguments),
            "bins": lambda: rf.sliced_mmd2_gradient(x, y, engine="bins", **arguments),
            "bins, cached target": lambda: target.gradient(x),
        },
        options.repeats,
    )
    found = ratios(seconds, "usual")
    print(f"N = M = {options.n}, d = {options.d}, P = {options.slices}, float32, {torch.get_num_threads()} threads")
    for name, times in seconds.items():
        r, middle = found[name], statistics.median(times)
        print(f"{name:>18}: median {middle:.3f} s   usual/this {r['median']:5.1f} ({r['min']:.1f}–{r['max']:.1f})")
    figure, axes = plt.subplots(figsize=(6, 2.4))
    axes.barh(list(seconds), [statistics.median(t) for t in seconds.values()], color="tab:blue")
    axes.bar_label(axes.containers[0], [f" {found[name]['median']:.1f} ×" for name in seconds])
    axes.set(xlabel="seconds for one gradient", title=f"N = M = {options.n:,}, d = {options.d}, P = {options.slices}")
    axes.invert_yaxis()
    settings = {k: v for k, v in vars(options).items() if k != "out"}
    save(
        options,
        "gradient",
        {"options": settings, "differences": {"sort": of_sort, "bins": of_bins}, "seconds": seconds, "usual_over_this": found},
        figure,
    )


if __name__ == "__main__":
    main()
