"""A cloud's tables as an object that adds up, is saved, and is compared.

Rooms, in the order in which data flow: `plan` (where slices and bins are), `reservoir` (random points that are kept), `counts`
(what is counted), `sketch` (the object), `files`.
"""

from rieszflow.sketch.plan import Plan
from rieszflow.sketch.sketch import SliceSketch

__all__ = ["Plan", "SliceSketch"]
