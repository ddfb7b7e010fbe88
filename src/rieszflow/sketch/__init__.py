"""Histograms of a point cloud as an object that can be merged, saved and compared.

In the order of data flow: `plan` (slices and bins), `counts` (counts in the bins, a random sample, their files), `sketch`.
"""

from rieszflow.sketch.plan import Plan
from rieszflow.sketch.sketch import SliceSketch

__all__ = ["Plan", "SliceSketch"]
