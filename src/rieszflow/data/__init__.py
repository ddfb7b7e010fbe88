"""Data: whole data sets (`load`), points in batches (`rieszflow.stream`), and arrays as points (`as_points`).

No file is ever executed, and nothing is downloaded unless a Hugging Face data set is requested by name (`hf:mnist`).
"""

from rieszflow.data.dataset import ColumnScaler, Dataset, scale_points, unscale_points
from rieszflow.data.datasets import NAMED, load
from rieszflow.data.files import read_idx
from rieszflow.data.labels import load_labelled
from rieszflow.data.points import as_points
from rieszflow.data.streams import Stream, stream
from rieszflow.errors import DatasetError

__all__ = [
    "NAMED", "ColumnScaler", "Dataset", "DatasetError", "Stream", "as_points", "load", "load_labelled", "read_idx",
    "scale_points", "stream", "unscale_points",
]  # fmt: skip
