"""Train on a mixed table of 10⁶ rows and 50 columns by the command line, and print seconds, peak memory and errors of columns.

Run: python benchmarks/large_table.py [--rows 1000000]
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq


def table(n: int) -> pa.Table:
    """Make 30 columns of decimals, 10 of whole numbers with heavy tails and 10 of categories from eight common factors."""
    g = np.random.default_rng(0)
    z = g.normal(size=(n, 8)).astype(np.float32)
    columns = {f"x{k}": (z @ g.normal(size=8) + g.normal(size=n)).round(3) for k in range(30)}
    columns |= {f"i{k}": np.floor(np.exp(z[:, k % 8] + 1) * 10).astype(np.int64) for k in range(10)}
    words = np.array(["north", "south", "east", "west"])
    columns |= {f"c{k}": words[np.argmax(z @ g.normal(size=(8, 4)) + g.gumbel(size=(n, 4)), 1)] for k in range(10)}
    return pa.table({**columns, "x3": pa.array(columns["x3"], mask=g.random(n) < 0.1)})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows = table(args.rows)
        pq.write_table(rows, f"{folder}/rows.parquet")
        command = [sys.executable, "-m", "rieszflow"]
        started = time.perf_counter()
        subprocess.run([*command, "train", f"{folder}/rows.parquet", "--out", f"{folder}/run"], check=True)
        seconds, used = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
        print(f"{seconds:.0f} s, {used.ru_utime + used.ru_stime:.0f} CPU s, {used.ru_maxrss / 1e6:.1f} GB")
        out = Path(folder) / "samples.parquet"
        subprocess.run([*command, "sample", f"{folder}/run", "-n", "100000", "--out", str(out)], check=True)
        samples = pq.read_table(out)
        for kind in "xi":
            own, theirs = (
                np.stack([t[name].to_numpy().astype(float) for name in rows.column_names if name[0] == kind and name != "x3"])
                for t in (rows, samples)
            )
            spread = own.std(1)
            print(
                f"columns {kind}: means apart by {(abs(theirs.mean(1) - own.mean(1)) / spread).max():.3f} standard deviations "
                f"at most, ratio of standard deviations {(theirs.std(1) / spread).mean():.3f} on average"
            )


if __name__ == "__main__":
    main()
