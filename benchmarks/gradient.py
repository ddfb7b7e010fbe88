"""One sliced gradient (r = 1): the sort engine against the usual implementation, timed in turn in one process.

The usual implementation, written plainly in torch: dense independent directions, a sort of the joined projections, a second
sort to invert it, a third for x. Both get the same directions, and their results are compared.

Run: python benchmarks/gradient.py [--n 20000] [--d 784] [--slices 1024] [--repeats 5] [--json OUT.json]
"""

import argparse
import json
import statistics
import time

import torch

import rieszflow as rf


def usual(x: torch.Tensor, y: torch.Tensor, xi: torch.Tensor) -> torch.Tensor:
    N, M = len(x), len(y)
    px, py = xi @ x.T, xi @ y.T
    order = torch.cat([px, py], 1).sort(dim=1).indices
    joined_rank = order.sort(dim=1).indices[:, :N]  # place of every x among all
    places = torch.arange(N).expand_as(px)
    own_rank = torch.empty_like(places).scatter_(1, px.sort(dim=1).indices, places)  # place of every x among x
    F, G = (own_rank + 0.5) / N, (joined_rank - own_rank) / M
    scale = rf.Riesz().slicing_constant(x.shape[1]) / len(xi)
    return scale / N * (2 * (G - F)).T @ xi


def main() -> None:
    parser = argparse.ArgumentParser()
    for name, default in (("n", 20_000), ("d", 784), ("slices", 1024), ("repeats", 5)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--json")
    options = parser.parse_args()
    g = torch.Generator().manual_seed(0)
    x = torch.rand(options.n, options.d, generator=g)
    y = torch.rand(options.n, options.d, generator=g) ** 2
    xi = torch.nn.functional.normalize(torch.randn(options.slices, options.d, generator=g), dim=1)
    ways = {
        "usual": lambda: usual(x, y, xi),
        "rieszflow sort": lambda: rf.sliced_mmd2_gradient(x, y, directions=xi),
    }
    results = {name: way() for name, way in ways.items()}  # warm-up, and the comparison
    error = ((results["usual"] - results["rieszflow sort"]).norm() / results["usual"].norm()).item()
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(options.repeats):
        for name, way in ways.items():
            start = time.perf_counter()
            way()
            seconds[name].append(time.perf_counter() - start)
    ratios = [a / b for a, b in zip(*seconds.values(), strict=True)]
    print(f"N = M = {options.n}, d = {options.d}, P = {options.slices}, float32, {torch.get_num_threads()} threads")
    for name, times in seconds.items():
        print(f"{name:>15}: median {statistics.median(times):.3f} s  (min {min(times):.3f}, max {max(times):.3f})")
    print(f"ratio, pair by pair: median {statistics.median(ratios):.1f}  (min {min(ratios):.1f}, max {max(ratios):.1f})")
    print(f"relative difference of the two gradients: {error:.1e}")
    if options.json:
        with open(options.json, "w") as file:
            json.dump({"options": vars(options), "seconds": seconds, "ratios": ratios, "difference": error}, file, indent=1)


if __name__ == "__main__":
    main()
