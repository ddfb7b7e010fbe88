"""
Use the distance as a loss
==========================

Train a network that turns noise into data, with the distance between its outputs and a batch as the only loss.
"""

# %%
# `~rieszflow.SlicedMMDLoss` is a module that draws new slices at every call. With
# ``statistic="U"`` its value and gradient are unbiased, even for small batches.

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
print(
    f"MMD²: first step {values[0]:.4f}, mean of last 50 {sum(values[-50:]) / 50:.5f}"
)

# %%
# Plot the output of the network for new noise. A network is a continuous map, so some
# points lie between the two moons.

with torch.no_grad():
    made = network(torch.randn(1000, 2, generator=generator))
figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3), layout="constrained")
left.plot(values, linewidth=0.8)
left.set(xlabel="step", ylabel="MMD²")
left.set_yscale("symlog", linthresh=1e-3)
right.scatter(*data.T, s=1, color="lightgrey", label="data")
right.scatter(*made.T, s=2, color="#D55E00", label="generated")
right.legend()
plt.show()
print(rf.energy_distance(made, data, statistic="U").item())

# %%
# The loss works with ``torch.func.grad`` and ``vmap``, ``torch.compile``, autocast,
# float16 and bfloat16. All dimensions after the first are flattened, so images need no
# reshaping. To monitor a distance during training, use
# `~rieszflow.metrics.SlicedEnergyDistance`, a torchmetrics metric that also works with
# several processes.
