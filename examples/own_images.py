"""
Train on your own images
========================

Train a model that generates images like those in a folder.
"""

# %%
# The images here are scikit-learn's digits, written as PNG files.

import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from PIL import Image
from sklearn.datasets import load_digits

import rieszflow as rf

folder = Path(tempfile.mkdtemp()) / "photos"
folder.mkdir()
for k, image in enumerate(load_digits().images):
    Image.fromarray((image * 15.9).astype("uint8")).save(folder / f"{k:04}.png")

# %%
# `rieszflow.data.load` reads them as numbers between 0 and 1 and holds out some of
# them. A recorded flow needs no network: particles move from noise to the images, and
# every step is recorded. To generate samples, new noise follows the recording.

dataset = rf.data.load(folder, held_out=0.2, seed=0)
print(dataset.train.shape, dataset.held_out.shape)
settings = dict(
    particles=3000,
    slices=256,
    step_schedule=[12.0, 1.0],
    momentum=0.8,
    latents="smooth",
    clip=True,
)
flow = rf.GenerativeFlow(
    model="recorded", stages=8, initial_steps=25, max_steps=25, **settings
).fit(dataset)

# %%
# The top row shows new samples, the bottom row the nearest training image of each. The
# samples are not copies.

samples = flow.sample(12, seed=1)
nearest = dataset.train[
    torch.cdist(samples.flatten(1), dataset.train.flatten(1)).argmin(1)
]
figure, axes = plt.subplots(2, 12, figsize=(9, 1.7), layout="constrained")
for row, shown in zip(axes, (samples, nearest), strict=True):
    for ax, image in zip(row, shown, strict=True):
        ax.imshow(image[0], cmap="gray", vmin=0, vmax=1)
        ax.axis("off")
plt.show()

# %%
# Measure the quality by the unbiased energy distance to held-out images, and compare it
# with that of the training images. Values around 0 are as good as the data.

held = dataset.held_out.flatten(1)
fresh = flow.sample(1000, seed=2)
for name, x in (("samples", fresh), ("training images", dataset.train)):
    distance = rf.energy_distance(x.flatten(1), held, statistic="U")
    print(f"{name}: {distance.item():.4f}")

# %%
# Longer runs are best started from the command line, which shows progress and can
# resume an interrupted run:
#
# .. code-block:: sh
#
#    rieszflow train photos/ --out runs/photos
#    rieszflow evaluate runs/photos
#    rieszflow sample runs/photos -n 1000 --out samples.npz
#
# There are presets for larger images: see :doc:`/fashion-mnist` and
# :doc:`/photographs`.
