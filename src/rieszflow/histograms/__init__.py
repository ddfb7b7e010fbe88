"""Histograms on slices: the linear-time core below the engines, the sketches and the tests.

There are two passes over the points, a tile at a time: project and count; project again, look up, transform back. Memory is
O(P·B) for P slices and B bins; an array of size P × N never exists. Data goes through the files in this order:

    grid        how points are projected, and where the bins are
    choose      from points to grids
    backends    the passes over points, with their compiled `loops` and `patch_loops`
    histogram   from a grid and a cloud to counts, from two of these to MMD² and its gradients
    replay      a step of a flow as small tables
"""

from rieszflow.histograms.backends import select_backend
from rieszflow.histograms.choose import BINS, choose_bins, choose_grids, make_projectors, uses_cdf
from rieszflow.histograms.grid import BinGrid, split_directions
from rieszflow.histograms.histogram import CdfEvaluator, Evaluator, FftEvaluator, Histogram, count_batches
from rieszflow.histograms.loops import TAIL
from rieszflow.histograms.replay import StepTables, record_step, replay_step

__all__ = [
    "BINS", "TAIL", "BinGrid", "CdfEvaluator", "Evaluator", "FftEvaluator", "Histogram",
    "StepTables", "choose_bins", "choose_grids", "count_batches", "make_projectors", "record_step", "replay_step",
    "select_backend", "split_directions", "uses_cdf",
]  # fmt: skip
