"""The linear-time engine: projections are counted into bins, the tables become lines, and projections look them up.

Two passes over the particles, a tile at a time: project and count; project again, look up, transform back. An array of size
P × N never exists; memory is O(P·B) for P slices of a block and B bins.

The rooms, in the order in which data goes through them:

    layout      how a slice's table is laid out
    grid        where the bins are: frame (how points are projected) and range
    passes      the work over points: `cpu` with its compiled `loops`, and `device`
    settle      from points to grids
    table       from a grid and a cloud to what is counted
    cumulated   from two tables to D² and its gradients for r = 1, with the bound on errors
    convolved   the same for other kernels
    engine      all of it as an `Engine`
"""

from __future__ import annotations

from rieszflow.histograms.cdf import CdfEvaluator
from rieszflow.histograms.choose import BINS, choose_bins, frames
from rieszflow.histograms.grid import SPAN, BinGrid, Projector, grid_of, parts
from rieszflow.histograms.layout import TAIL, tail_edge
from rieszflow.histograms.table import Histogram, counted

__all__ = [
    "BINS",
    "SPAN",
    "TAIL",
    "BinGrid",
    "CdfEvaluator",
    "Histogram",
    "Projector",
    "choose_bins",
    "counted",
    "frames",
    "grid_of",
    "parts",
    "tail_edge",
]
