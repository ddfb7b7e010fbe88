"""Data in: data sets whole (`load`), points in batches (`rieszflow.stream`), numbers and pictures in one unit (`as_points`).

No file is ever executed, and nothing is fetched unless a Hugging Face data set is asked for by name (`hf:mnist`).

Rooms, in the order in which data flow: points, spreads, dataset (numbers in memory); paths, idx, pictures, npy, files (arrays
and pictures); options, columns, arrow, parts, csv_file, reader, tables (tables); batches, streams, scale, cells, labelled
(points in batches, the scales of their columns, and labels); named, loading (data sets).
"""

from rieszflow.data.columns import difference
from rieszflow.data.dataset import Dataset, from_arrays, scaled, unscaled
from rieszflow.data.files import read_all
from rieszflow.data.idx import read_idx
from rieszflow.data.labelled import labelled
from rieszflow.data.loading import load
from rieszflow.data.named import NAMED
from rieszflow.data.pictures import has_pictures
from rieszflow.data.points import as_points
from rieszflow.data.spreads import Columns
from rieszflow.data.streams import Stream, common, stream
from rieszflow.errors import DatasetError

__all__ = [
    "NAMED",
    "Columns",
    "Dataset",
    "DatasetError",
    "Stream",
    "as_points",
    "common",
    "difference",
    "from_arrays",
    "has_pictures",
    "labelled",
    "load",
    "read_all",
    "read_idx",
    "scaled",
    "stream",
    "unscaled",
]
