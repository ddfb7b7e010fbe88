"""
Train on your own images
========================

A folder of equally large pictures becomes a model that turns noise into more of them.
"""

# %%
# The pictures here are scikit-learn's digits, written out as PNG files, as yours
# may lie on a disk.

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
# `rieszflow.data.load` reads them as numbers between 0 and 1, and keeps some back.
# A recorded flow needs no network: particles move from noise to the images, and
# what moved them is written down. New noise then goes the same way.

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
# Fresh samples, and below each the training image that is nearest to it. Samples
# are not copies.

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
# How good are they? The energy distance to images that were kept back, unbiased,
# beside that of training images. Around 0 is as good as the data.

held = dataset.held_out.flatten(1)
fresh = flow.sample(1000, seed=2)
for name, x in (("samples", fresh), ("training images", dataset.train)):
    distance = rf.energy_distance(x.flatten(1), held, statistic="U")
    print(f"{name}: {distance.item():.4f}")

# %%
# A run of a few minutes is better made at a terminal, where it shows its progress
# and can be resumed after anything:
#
# .. code-block:: sh
#
#    rieszflow train photos/ --out runs/photos
#    rieszflow evaluate runs/photos
#    rieszflow sample runs/photos -n 1000 --out samples.npz
#
# Settings for larger images are in the presets: :doc:`/fashion-mnist` and :doc:`/photographs` show what they give.
