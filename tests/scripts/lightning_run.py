"""Train with Lightning, `SlicedMMDLoss` and `SlicedEnergyDistance`, and print what the trainer logged.

Run by tests/metrics/test_running.py: lightning_run.py PROCESSES
"""

import json
import sys

import lightning
import torch
from torch.utils.data import DataLoader, TensorDataset

import rieszflow as rf


def points(seed, n=512):
    return torch.randn(n, 6, generator=torch.Generator().manual_seed(seed))


class Shift(lightning.LightningModule):
    """Learns where the targets lie, and scores itself."""

    def __init__(self):
        super().__init__()
        self.shift = torch.nn.Parameter(torch.zeros(6))
        self.loss = rf.SlicedMMDLoss(slices=64, seed=0)
        self.score = rf.metrics.SlicedEnergyDistance(points(1)[:100], slices=64)

    def training_step(self, batch):
        return self.loss(batch[0] + self.shift, batch[1])

    def validation_step(self, batch):
        self.score.update(batch[1], real=True)
        self.score.update(batch[0], real=False)
        self.log("energy", self.score)

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), 0.05)


def main():
    trainer = lightning.Trainer(
        accelerator="cpu", devices=int(sys.argv[1]), strategy="ddp" if sys.argv[1] != "1" else "auto", max_epochs=2,
        logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    pairs = TensorDataset(points(2), points(1) + 0.5)
    model = Shift()
    trainer.fit(model, DataLoader(pairs, 64, shuffle=True), DataLoader(pairs, 32))
    if trainer.is_global_zero:
        found = {"energy": trainer.logged_metrics["energy"].item(), "shift": model.shift.mean().item()}
        print(json.dumps({**found, "calls": int(model.loss.calls), "world": trainer.world_size}))
    if torch.distributed.is_initialized():  # threads of gloo that outlive the interpreter would abort the process
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
