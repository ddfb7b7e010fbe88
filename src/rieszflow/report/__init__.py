"""Figures, and report.html of a run."""

from rieszflow.report.figures import comparison, heat_map, picture, save_picture, to_tensorboard
from rieszflow.report.page import draw, noun, score_notes, score_table, stage_caption, stage_table, write_report

__all__ = [
    "comparison", "draw", "heat_map", "noun", "picture", "save_picture", "score_notes", "score_table", "stage_caption",
    "stage_table", "to_tensorboard", "write_report",
]  # fmt: skip
