"""
Use it as a loss
================

A network learns to turn noise into data, with nothing but the distance between its outputs and a batch.
"""

# %%
# `~rieszflow.SlicedMMDLoss` is a module. Every call takes fresh slices. With
# ``statistic="U"`` its value and its gradient are unbiased, for small batches too.

import matplotlib.pyplot as plt
import torch
from sklearn.datasets import make_moons

import rieszflow as rf

data = torch.tensor(
    make_moons(4000, noise=0.05, random_state=0)[0], dtype=torch.float32
)
generator = torch.Generator().manual_seed(0)
with torch.random.fork_rng():
    torch.manual_seed(0)
    network = torch.nn.Sequential(
        torch.nn.Linear(2, 128),
        torch.nn.SiLU(),
        torch.nn.Linear(128, 128),
        torch.nn.SiLU(),
        torch.nn.Linear(128, 128),
        torch.nn.SiLU(),
        torch.nn.Linear(128, 2),
    )
loss = rf.SlicedMMDLoss(slices=64, statistic="U", seed=0)
optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 1200)
values = []
for _ in range(1200):
    batch = data[torch.randint(len(data), (500,), generator=generator)]
    value = loss(network(torch.randn(500, 2, generator=generator)), batch)
    optimizer.zero_grad()
    value.backward()
    optimizer.step()
    schedule.step()
    values.append(value.item())
print(f"D² at first {values[0]:.4f}, at last {sum(values[-50:]) / 50:.5f}")

# %%
# What the network makes of new noise. It is continuous, so between the two moons some
# points are left on their way.

with torch.no_grad():
    made = network(torch.randn(1000, 2, generator=generator))
figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3), layout="constrained")
left.plot(values, linewidth=0.8)
left.set(xlabel="step", ylabel="D²")
left.set_yscale("symlog", linthresh=1e-3)
right.scatter(*data.T, s=1, color="lightgrey", label="data")
right.scatter(*made.T, s=2, color="#D55E00", label="made of noise")
right.legend()
plt.show()
print(rf.energy_distance(made, data, statistic="U").item())

# %%
# The loss works in ``torch.func.grad`` and ``vmap``, under ``torch.compile`` and
# autocast, and takes float16 and bfloat16. The dimensions behind the first make one
# point, so images go in as they are. To watch a distance and not to train by it,
# there is `~rieszflow.metrics.SlicedEnergyDistance`, a metric of torchmetrics that
# also adds up over processes.
