"""What a person looks at: pictures (`pictures.py`), and report.html (`page.py`)."""

from rieszflow.report.page import draw, write_report
from rieszflow.report.pictures import comparison, heat_map, picture, save_picture
from rieszflow.report.stages import noun, stage_table
from rieszflow.report.tensorboard import to_tensorboard

__all__ = ["comparison", "draw", "heat_map", "noun", "picture", "save_picture", "stage_table", "to_tensorboard", "write_report"]
