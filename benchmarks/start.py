"""Time the start of a process up to its first gradient, including imports and loading compiled loops from disk.

Run: python benchmarks/start.py [--repeats 9]
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys

WAYS = {
    "import torch": "import torch",
    "import torch, rieszflow": "import torch, rieszflow",
    "and the name of the gradient": "import torch, rieszflow; rieszflow.sliced_mmd2_gradient",
    "and a first gradient": """
import torch, rieszflow
x, y = torch.randn(2000, 50), torch.randn(2000, 50)
rieszflow.sliced_mmd2_gradient(x, y)""",
}
TIMED = "import time; start = time.perf_counter(); exec({!r}); print(time.perf_counter() - start)"


def seconds(code: str) -> float:
    done = subprocess.run([sys.executable, "-c", TIMED.format(code)], capture_output=True, text=True, check=True)
    return float(done.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=9)
    repeats = parser.parse_args().repeats
    for code in WAYS.values():
        seconds(code)  # fills the file cache and compiles loops if necessary
    found: dict[str, list[float]] = {name: [] for name in WAYS}
    for _ in range(repeats):
        for name, code in WAYS.items():
            found[name].append(seconds(code))
    bare = statistics.median(found["import torch"])
    for name, took in found.items():
        middle = statistics.median(took)
        print(f"{name:30} median {middle:.2f} s ({min(took):.2f}–{max(took):.2f}), beyond import torch {middle - bare:+.2f} s")


if __name__ == "__main__":
    main()
