"""Figures, and report.html of a run."""

from rieszflow.report.figures import comparison, heat_map, picture, save_picture, to_tensorboard
from rieszflow.report.page import draw, write_report

__all__ = ["comparison", "draw", "heat_map", "picture", "save_picture", "to_tensorboard", "write_report"]
