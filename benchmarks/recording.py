"""Time the steps of a flow with and without a recording, in turn.

Particles are noise and targets are images of Fashion-MNIST. Slices are of whole images and of patches.

Run: python benchmarks/recording.py [--n 10000] [--slices 1024] [--steps 5] [--repeats 5]
"""

import tempfile

import torch
from common import images, in_turn, parser, ratios, save

import rieszflow as rf

KINDS = {"whole images": "hadamard", "patches 7 × 7": rf.PatchSlices((1, 28, 28), 7, 1)}


def main() -> None:
    args = parser(__doc__, n=10_000, slices=1024, steps=5, repeats=5).parse_args()
    g = torch.Generator().manual_seed(0)
    y, _, shape = images("fashion-mnist", args.n, g)
    x = torch.rand(len(y), y.shape[1], generator=g)
    found = {}
    for name, kind in KINDS.items():

        def steps(recording: bool | str, kind: object = kind) -> torch.Tensor:
            flow = rf.ParticleFlow(
                y, slices=args.slices, directions=kind, step_size=1.0, momentum=0.8, record=recording, seed=1
            )
            return flow.run(x, steps=args.steps)

        def on_disk() -> None:
            with tempfile.TemporaryDirectory() as folder:
                steps(folder)

        ways = {"not recorded": lambda: steps(False), "recorded": lambda: steps(True), "recorded, on disk": on_disk}
        times = in_turn(ways, args.repeats)
        of = {way: {"min": r["min"], "median": r["median"], "max": r["max"]} for way, r in ratios(times, "recorded").items()}
        found[name] = {"seconds": times, "recorded / way": of}
        print(name, {way: [round(t / args.steps, 4) for t in ts] for way, ts in times.items()}, flush=True)
        print("   recorded / not recorded:", {k: round(v, 3) for k, v in of["not recorded"].items()}, flush=True)
    save(args, "recording", {"n": args.n, "slices": args.slices, "shape": shape, **found})


if __name__ == "__main__":
    main()
