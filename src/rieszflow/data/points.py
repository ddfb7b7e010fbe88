"""Conversion of arrays and tensors from any source to points with floating-point values; see `as_points`."""

from __future__ import annotations

from typing import overload

import numpy as np
import torch
from torch import Tensor
from torch.utils.dlpack import from_dlpack

from rieszflow._infra.messages import one_line
from rieszflow._types import Points
from rieszflow.errors import DatasetError, InputTypeError

MAX_ROUNDING = 1e-4  # largest rounding error, in units of a column's spread, before a wider type is used
# The first method that exists is suggested.
_CONVERSIONS = ("magnitude", "toarray", "to_numpy", "to_table", "compute", "collect", "__array__")
_ADVICE = {
    "c": "give .real and .imag as columns", "V": "give its fields as columns of one array",
    "O": "rows of different lengths, or of objects, make no array of numbers",
    "M": "subtract a date and divide by a time", "m": "divide by a time",
}  # fmt: skip


@overload
def as_points(array: np.ndarray, name: str) -> np.ndarray: ...
@overload
def as_points(array: Tensor, name: str) -> Tensor: ...
@overload
def as_points(array: object, name: str) -> Points: ...
def as_points(array: object, name: str) -> Points:
    """Convert numbers to floats, and images to shape (n, C, H, W) with values in [0, 1].

    Arrays with three axes are grey images (n, H, W). With four axes, axis 1, or otherwise axis 3, holds the channels if it has
    length 1 or 3; if both could hold them, that is an error. Images of uint8 are divided by 255, of uint16 by 65535; all other
    numbers keep their values. Types of up to 16 bits become float32, longer integers float64.

    Args:
        array: A NumPy array, a tensor, or an array (n, ...) of another library that supports DLPack.
        name: Name of the argument or file, for messages.

    Returns:
        A NumPy array if the input is one, otherwise a tensor; float32 or float64. NaN and infinity are kept.

    Raises:
        InputTypeError, DatasetError: Not a dense array of real numbers, channels that may be first or last, or integers that
            float64 cannot tell apart.

    Example:
        >>> as_points(np.full((2, 4, 5, 3), 51, np.uint8), "x").shape, as_points(np.full((2, 1, 1), 51, np.uint8), "x").max()
        ((2, 3, 4, 5), np.float32(0.2))
    """
    return to_unit(channels_first(plain_numbers(array, name), name), name)


def plain_numbers(x: object, name: str) -> Points:
    """Return an array of any library as a plain NumPy array or tensor of real numbers; refuse all else."""
    x = imported(x, name)
    found: Points = _plain_tensor(x, name) if isinstance(x, Tensor) else _plain_array(x, name)
    if found.ndim == 0:
        raise DatasetError(f"{name}: must hold points of shape (n, ...), got a single number")
    return found


def is_array(x: object) -> bool:
    """Return True for an array of NumPy, PyTorch, or any library that supports DLPack."""
    return hasattr(type(x), "__dlpack__")


def is_frame(x: object) -> bool:
    """Return True for a table in memory: of pandas, polars, Arrow, …"""
    # An xarray array exports itself to Arrow, too, but with one row per number, which loses its shape.
    return (hasattr(x, "__arrow_c_stream__") or hasattr(x, "__dataframe__")) and not hasattr(type(x), "dims")


def imported(x: object, name: str) -> Points:
    """Return a tensor or NumPy array as it is, and an array of another library as a tensor on the same memory."""
    if isinstance(x, (Tensor, np.ndarray)):
        return x
    if not is_array(x):
        accepted = "a torch.Tensor or numpy.ndarray of shape (n, ...)"
        raise InputTypeError(f"{name}: must be {accepted}, got {type(x).__name__}{conversion_hint(x)}")
    try:
        found: Tensor = from_dlpack(x)
    except Exception as error:  # any library may raise anything
        got = f"{type(x).__name__} ({one_line(error)}){conversion_hint(x)}"
        raise InputTypeError(f"{name}: must be an array that DLPack can export, got {got}") from None
    return found


def conversion_hint(x: object) -> str:
    """Return the end of a message that names the call that converts `x` to an array or a table, or ""."""
    call = next((name for name in _CONVERSIONS if hasattr(type(x), name)), None)
    how = {None: None, "__array__": "numpy.asarray(...)", "magnitude": ".magnitude"}.get(call, f".{call}()")
    return "" if how is None else f"; {how} converts it"


def _plain_tensor(x: Tensor, name: str) -> Tensor:
    for problem, got in (
        (x.layout != torch.strided or x.is_quantized or x.is_nested, "a sparse, nested or quantized one"),
        (type(x) not in (Tensor, torch.nn.Parameter, torch.nn.Buffer), f"the subclass {type(x).__name__}"),
        (x.is_meta, "one on the meta device"),
        (x.is_complex(), f"dtype {x.dtype}; give .real and .imag as columns"),
    ):
        if problem:
            raise InputTypeError(f"{name}: must be a plain tensor of real numbers, got {got}")
    return x.detach().resolve_neg()


def _plain_array(x: np.ndarray, name: str) -> np.ndarray:
    if isinstance(x, np.ma.MaskedArray):
        if masked := int(np.ma.getmaskarray(x).sum()):
            raise InputTypeError(f"{name}: must have no masked values, got a masked array with {masked}; fill or drop them")
        x = x.data
    if x.dtype.kind not in "fiub":
        advice = _ADVICE.get(x.dtype.kind, "convert text to numbers first")
        raise InputTypeError(f"{name}: must hold real numbers, got dtype {x.dtype}; {advice}")
    return np.asarray(x, dtype=x.dtype.newbyteorder("="))


def channels_first(x: Points, name: str) -> Points:
    """Return images (n, H, W), (n, C, H, W) or (n, H, W, C) as (n, C, H, W); other arrays unchanged."""
    if x.ndim == 3:
        return x[:, None]
    if x.ndim != 4:
        return x
    first, middle, last = x.shape[1:]
    if first not in (1, 3) and last in (1, 3):
        return x.transpose(0, 3, 1, 2) if isinstance(x, np.ndarray) else x.permute(0, 3, 1, 2)
    # (n, 64, 4, 4) are 64 channels; (n, 64, 64, 4) are probably not.
    if (first in (1, 3) and last in (1, 3)) or (last in (2, 4) and first > 4 and middle != last):
        accepted = f"images (n, C, H, W) with C = 1 or 3, or vectors (n, {first * middle * last})"
        raise DatasetError(f"{name}: must be {accepted}, got shape {tuple(x.shape)}, whose channels may be axis 1 or axis 3")
    return x


def to_unit(x: Points, name: str) -> Points:
    """Convert to floats, and divide images of uint8 and uint16 by the maximum of their type."""
    kind = str(x.dtype).removeprefix("torch.")
    if kind in ("float32", "float64"):
        return x
    if kind in ("int64", "uint64") and 0 not in x.shape:
        _check_integers(x, name)
    wide = "float64" if x.dtype.itemsize > 2 and kind != "bool" else "float32"
    found: Points = x.to(getattr(torch, wide)) if isinstance(x, Tensor) else x.astype(wide)
    if x.ndim == 4 and kind in ("uint8", "uint16"):
        found /= 255 if kind == "uint8" else 65535
    return found


def _check_integers(x: Points, name: str) -> None:
    """Refuse integers of 64 bits if float64 would round away too much of a column's spread."""
    own = np.asarray(x.cpu() if isinstance(x, Tensor) else x).reshape(len(x), -1)
    low, high = own.min(0), own.max(0)
    spread = (high.view(np.uint64) - low.view(np.uint64)).astype(np.float64)  # correct even if the difference overflows
    size = np.maximum(np.abs(low.astype(np.float64)), np.abs(high.astype(np.float64)))
    step = np.spacing(size)
    if (bad := (size > 2.0**53) & (spread > 0) & (step > MAX_ROUNDING * spread)).any():
        k = int(bad.argmax())
        problem = f"column {k} holds numbers near {size[k]:.6g} with a spread of {spread[k]:.6g}"
        raise DatasetError(f"{name}: {problem}; float64 rounds them to multiples of {step[k]:.6g}; subtract an offset first")
