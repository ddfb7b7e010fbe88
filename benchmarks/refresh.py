"""Does it pay to draw the particles anew after every network (`refresh`)? Digits, otherwise equal settings and seed.

Run: python benchmarks/refresh.py [--particles 4000] [--networks 7]
"""

import argparse

import torch

import rieszflow as rf
from rieszflow.data import load
from rieszflow.generative import Config


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--particles", type=int, default=4000)
    parser.add_argument("--networks", type=int, default=7)
    options = parser.parse_args()
    digits = load("digits")
    print(f"{torch.get_num_threads()} threads; energy distances (unbiased) to held-out digits after each network")
    for refresh in (0, 1):
        config = Config.preset("digits", "cpu", refresh=refresh, **vars(options))
        flow = rf.GenerativeFlow(config).fit(digits)
        assert flow.run is not None
        for row in flow.run.metrics():
            e = row["energy_distance"]
            print(
                f"refresh {refresh}  network {row['network']:>2}  its own particles {e['network_particles']:+.4f}"
                f"  fresh samples {e['fresh_samples']:+.4f}  (training data {e['training_data']:+.4f})",
                flush=True,
            )


if __name__ == "__main__":
    main()
