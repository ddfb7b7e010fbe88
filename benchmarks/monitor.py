"""Measure false alarms of `DriftMonitor` over 1,000 batches without drift, and how soon it notices drift.

Batches of 64 normal points of dimension 2 follow a reference of 2,000. Without drift, the share of streams with an alarm is at
most α = 0.05. Drifts are shifts of one coordinate by a share of its standard deviation, from some batch on; the delay is the
number of drifted batches until the alarm, for up to 200 of them. For comparison, the share of streams in which any p-value is
at most 0.05.

Streams are distributed over one single-threaded process per core.

Run: OMP_NUM_THREADS=1 python benchmarks/monitor.py [--streams 60] [--batches 1000] [--drifts 20]
"""

import itertools
from concurrent.futures import ProcessPoolExecutor

import numpy as np
from common import parser, save

import rieszflow as rf

ALPHA, ROWS, WAIT = 0.05, 64, 200


def watch(seed: int, batches: int, shift: float, start: int) -> tuple[int | None, int | None]:
    """Return the numbers of the batches of the first alarm and of the first p-value of at most α."""
    g = np.random.default_rng([seed, batches, start, round(100 * shift)])
    reference = rf.SliceSketch.from_points(g.normal(size=(2000, 2)), slices=1)
    monitor, alarm, small = rf.DriftMonitor(reference, alpha=ALPHA, permutations=199, seed=seed), None, None
    for t in range(1, batches + 1):
        x = g.normal(size=(ROWS, 2))
        x[:, 0] += shift * (t >= start)
        step = monitor.update(x)
        alarm = t if alarm is None and step.alarm else alarm
        small = t if small is None and step.pvalue <= ALPHA else small
        if alarm is not None:
            break
    return alarm, small


def main() -> None:
    options = parser(__doc__, streams=60, batches=1000, drifts=20).parse_args()
    drifts = list(itertools.product((0.25, 0.5, 1.0), (1, 101, 401)))
    with ProcessPoolExecutor() as pool:
        quiet = [pool.submit(watch, seed, options.batches, 0.0, 1) for seed in range(options.streams)]
        waiting = {
            (shift, start): [pool.submit(watch, seed, start + WAIT - 1, shift, start) for seed in range(options.drifts)]
            for shift, start in drifts
        }
        results = [stream.result() for stream in quiet]
        alarms = sum(alarm is not None for alarm, _ in results) / options.streams
        naive = sum(small is not None for _, small in results) / options.streams
        print(f"without drift: alarms in {alarms:.3f} of {options.streams} streams of {options.batches} batches")
        print(f"p-values of at most {ALPHA} in {naive:.3f} of them")
        rows = []
        print("| shift | from batch | noticed | median delay in batches | false alarms before |\n|---|---|---|---|---|")
        for (shift, start), streams in waiting.items():
            found = [stream.result()[0] for stream in streams]
            delays = [alarm - start + 1 if alarm is not None else np.inf for alarm in found if alarm is None or alarm >= start]
            early = sum(alarm is not None and alarm < start for alarm in found)
            rows.append({"shift": shift, "start": start, "noticed": float(np.mean(np.isfinite(delays))), "early": early})
            middle = float(np.median(delays))
            rows[-1]["delay"] = middle if np.isfinite(middle) else None
            print(f"| {shift} | {start} | {rows[-1]['noticed']:.2f} | {middle:.0f} | {early} |", flush=True)
    save(
        options,
        "monitor",
        {"alpha": ALPHA, "streams": options.streams, "alarms": alarms, "small_pvalues": naive, "drifts": rows},
    )


if __name__ == "__main__":
    main()
