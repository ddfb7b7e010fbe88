"""Compare energy distances between groups of cells with those of scperturb on scanpy's bundled cells, and time both.

Run: pip install -r benchmarks/peers.txt; python benchmarks/pairwise.py [--cells 200000] [--groups 300] [--peer-cells 5000]
"""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import scanpy
import scperturb
from common import parser, save, seconds

import rieszflow as rf


def cells(n: int, groups: int) -> SimpleNamespace:
    """Draw cells in 50 dimensions, in groups of different sizes, some of them similar."""
    rng = np.random.default_rng(0)
    group = rng.choice(groups, n, p=rng.dirichlet(np.full(groups, 5.0)))
    middles = rng.normal(size=(groups // 2 + 1, 50)) * 0.3
    return SimpleNamespace(x=(middles[group // 2] + rng.normal(size=(n, 50))).astype(np.float32), group=group)


def theirs(data: scanpy.AnnData, by: str) -> np.ndarray:
    """Compute scperturb's E-distance with Euclidean distances and N − 1, which is the unbiased energy distance."""
    table = scperturb.edist(data, obs_key=by, dist="euclidean", sample_correct=True, verbose=False)
    return table.sort_index().sort_index(axis=1).to_numpy(float)


def main() -> None:
    options = parser(__doc__, cells=200_000, groups=300)
    options.add_argument("--peer-cells", type=int, nargs="+", default=[2_000, 5_000, 10_000])
    args = options.parse_args()
    found: dict[str, object] = {}

    data = scanpy.datasets.pbmc68k_reduced()
    for slices in (256, 4096):
        mine = rf.pairwise_energy_distance(data, "bulk_labels", obsm="X_pca", slices=slices, permutations=0)
        off = np.abs(mine.distances - theirs(data, "bulk_labels"))[np.triu_indices(len(mine), 1)]
        typical = np.median(mine.distances[np.triu_indices(len(mine), 1)])
        found[f"pbmc68k_reduced, {slices} slices"] = {
            "median_difference": float(np.median(off)),
            "median_distance": float(typical),
        }
        print(
            f"pbmc68k_reduced, {len(mine)} groups, {slices} slices: median distance {typical:.3f}, "
            f"differs from scperturb by {np.median(off):.4f} in the median, {off.max():.4f} at most"
        )

    many = cells(args.cells, args.groups)
    rf.pairwise_energy_distance(many.x[:3000], many.group[:3000] % 7, permutations=9)  # compiles
    for kernels, permutations in (("auto", 0), ("energy", 999), ("auto", 999)):
        took, _ = seconds(lambda: rf.pairwise_energy_distance(many.x, many.group, permutations=permutations, kernels=kernels))  # noqa: B023
        found[f"seconds, {permutations} permutations, {kernels}"] = took
        print(
            f"{args.cells} cells in {args.groups} groups, d = 50, {permutations} permutations, {kernels}: {took:.1f} s",
            flush=True,
        )
    for n in args.peer_cells:
        few = cells(n, 30)
        data = scanpy.AnnData(few.x, obs={"group": few.group.astype(str)})
        data.obsm["X_pca"] = few.x
        peer, want = seconds(lambda: theirs(data, "group"))  # noqa: B023
        own, mine = seconds(lambda: rf.pairwise_energy_distance(data, "group", obsm="X_pca", permutations=0))  # noqa: B023
        off = np.abs(mine.distances - want)[np.triu_indices(len(mine), 1)]
        found[f"{n} cells in 30 groups"] = {"scperturb": peer, "rieszflow": own, "median_difference": float(np.median(off))}
        print(
            f"{n} cells in 30 groups: scperturb {peer:.1f} s, rieszflow {own:.2f} s, off by {np.median(off):.4f} in the median"
        )
    save(args, "pairwise", found)


if __name__ == "__main__":
    main()
