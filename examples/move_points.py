"""
Move points
===========

Move particles from a corner to two moons by gradient descent with momentum on the energy distance.
"""

import matplotlib.pyplot as plt
import torch
from sklearn.datasets import make_moons

import rieszflow as rf

STEPS = [0, 1, 4, 16, 64, 256]

generator = torch.Generator().manual_seed(0)
target = torch.tensor(
    make_moons(2000, noise=0.05, random_state=0)[0], dtype=torch.float32
)
start = 0.3 * torch.randn(1000, 2, generator=generator) + torch.tensor([-3.0, 2.0])
flow = rf.ParticleFlow(
    target, slices=32, step_size=0.1, momentum=0.8, seed=generator
)
moved = flow.run(start, steps=max(STEPS), snapshots=STEPS)

# %%
# With ``step_size=None`` the step size is chosen from the data.

figure, axes = plt.subplots(
    1, len(STEPS), figsize=(15, 2.8), sharex=True, sharey=True, layout="tight"
)
for ax, k in zip(axes, STEPS, strict=True):
    x = flow.trajectory[k]
    ax.scatter(*target.T, s=1, color="lightgrey")
    ax.scatter(*x.T, s=1, color="tab:red")
    ax.set_title(
        f"step {k}: energy distance {rf.energy_distance(x, target):.4f}", fontsize=9
    )
plt.show()
