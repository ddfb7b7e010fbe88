"""Figures, and report.html of a run."""

from rieszflow.report.figures import comparison, coverage, heat_map, picture, save_picture, to_tensorboard
from rieszflow.report.page import draw, write_report

__all__ = ["comparison", "coverage", "draw", "heat_map", "picture", "save_picture", "to_tensorboard", "write_report"]
