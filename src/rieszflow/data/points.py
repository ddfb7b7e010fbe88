"""The one rule for numbers, wherever they come from: files, arrays and tensors in memory, batches of a loader.

- Arrays of three axes are grey pictures (n, H, W). Of four axes the one after the first, or else the last, holds the channels
  if its length is 1 or 3; the answer is always (n, C, H, W). Where both could be meant, that is an error.
- Pictures of bytes (uint8) are divided by 255, of uint16 by 65535: the unit of pictures is [0, 1]. All other numbers stay
  as they are, and so do bytes of the shape (n, d): a table of small whole numbers.
- Arrays of other libraries are read if they support DLPack (`__dlpack__`: JAX, CuPy, libraries of the Array API standard, Arrow
  arrays of numbers), in their own shape. Any other array-like object (a Series or Index of pandas, an xarray, a sparse matrix,
  a quantity with a unit) is refused, and the message names the call that converts it.
- Types of up to 16 bits become float32, whole numbers of 32 and 64 bits float64, which holds them up to 2^53. Beyond that, they
  are refused where rounding would flatten a column. Masked, complex, text, date and object arrays are refused.
"""

from __future__ import annotations

from typing import Literal, overload

import numpy as np
import torch
from torch import Tensor
from torch.utils.dlpack import from_dlpack

from rieszflow._infra.text import one_line
from rieszflow._types import Points
from rieszflow.errors import DatasetError, InputTypeError

__all__ = ["LOST", "as_points", "channels_first", "conversion", "imported", "in_unit", "is_array", "plain_numbers"]

LOST = 1e-4  # share of a column's spread that rounding may cost before more digits are taken
# The first that exists is suggested.
_CONVERSIONS = ("magnitude", "toarray", "to_numpy", "to_table", "compute", "collect", "__array__")


@overload
def as_points(array: np.ndarray, name: str) -> np.ndarray: ...
@overload
def as_points(array: Tensor, name: str) -> Tensor: ...
@overload
def as_points(array: object, name: str) -> Points: ...
def as_points(array: object, name: str) -> Points:
    """Numbers as floats in one unit, pictures with their channels first: the rule is at the top of this module.

    Args:
        array: a NumPy array, a tensor, or an array that supports DLPack, (n, ...).
        name: of what is read, for messages.

    Returns:
        A NumPy array if the input is one, otherwise a tensor: (n, C, H, W) for three and four axes, else the
        shape that was given; float32 or float64. Values are not looked at: NaN and infinity pass.

    Raises:
        TypeError: no array of real numbers, masked values, a tensor without values or a sparse one.
        ValueError: a single number, channels that may be first or last, whole numbers that float64 would flatten.

    Example:
        >>> as_points(np.full((2, 4, 5, 3), 51, np.uint8), "x").shape, as_points(np.full((2, 1, 1), 51, np.uint8), "x").max()
        ((2, 3, 4, 5), np.float32(0.2))
    """
    return in_unit(channels_first(plain_numbers(array, name), name), name)


@overload
def plain_numbers(x: np.ndarray, name: str) -> np.ndarray: ...
@overload
def plain_numbers(x: object, name: str) -> Points: ...
def plain_numbers(x: object, name: str) -> Points:
    """`x` if it holds real numbers that are all there, as a plain array or tensor."""
    x = imported(x, name)
    found: Points = _plain_tensor(x, name) if isinstance(x, Tensor) else _plain_array(x, name)
    if found.ndim == 0:
        raise DatasetError(f"{name}: a single number given; points (n, ...) are accepted")
    return found


def is_array(x: object) -> bool:
    """Return True for an array of NumPy, PyTorch, or any library that supports DLPack."""
    return hasattr(type(x), "__dlpack__")


def imported(x: object, name: str) -> Points:
    """Return `x` if it is a tensor or a NumPy array; convert an array of another library to a tensor on the same memory.

    Raises:
        InputTypeError: not an array, or one that DLPack cannot export.
    """
    if isinstance(x, (Tensor, np.ndarray)):
        return x
    if not is_array(x):
        raise InputTypeError(
            f"{name}: {type(x).__name__} given; a torch.Tensor or numpy.ndarray (n, ...) is accepted{conversion(x)}"
        )
    try:
        found: Tensor = from_dlpack(x)
    except Exception as error:  # any library may raise anything
        raise InputTypeError(
            f"{name}: must be an array that DLPack can export, got {type(x).__name__} ({one_line(error)}){conversion(x)}"
        ) from None
    return found


def conversion(x: object) -> str:
    """Return the end of a message that says how to convert `x` to an array or a table; empty if unknown."""
    call = next((name for name in _CONVERSIONS if hasattr(type(x), name)), None)
    how = {None: None, "__array__": "numpy.asarray(...)", "magnitude": ".magnitude"}.get(call, f".{call}()")
    return "" if how is None else f"; {how} converts it"


def _plain_tensor(x: Tensor, name: str) -> Tensor:
    if x.layout != torch.strided or x.is_quantized or x.is_nested:
        raise InputTypeError(f"{name}: a sparse, nested or quantized tensor given; a dense one of plain numbers is accepted")
    if type(x) not in (Tensor, torch.nn.Parameter, torch.nn.Buffer):
        raise InputTypeError(f"{name}: a {type(x).__name__} given, a tensor of a class of its own; a plain tensor is accepted")
    if x.is_meta:
        raise InputTypeError(f"{name}: a tensor on the meta device given, which holds no values; move the real one here")
    if x.is_complex():
        raise InputTypeError(f"{name}: dtype {x.dtype} given; real numbers are accepted: give .real and .imag as columns")
    return x.detach().resolve_neg()


def _plain_array(x: np.ndarray, name: str) -> np.ndarray:
    if isinstance(x, np.ma.MaskedArray):
        if np.ma.is_masked(x):
            raise InputTypeError(
                f"{name}: a masked array with {int(np.ma.getmaskarray(x).sum())} masked values given; fill or drop them"
            )
        x = x.data
    if x.dtype.kind not in "fiub":
        advice = {
            "c": "give .real and .imag as columns",
            "O": "rows of different lengths, or of objects, make no array of numbers",
            "V": "give its fields as columns of one array",
            "M": "subtract a date and divide by a time",
            "m": "divide by a time",
        }.get(x.dtype.kind, "turn text into numbers first")
        raise InputTypeError(f"{name}: dtype {x.dtype} given; real numbers are accepted: {advice}")
    return np.asarray(x, dtype=x.dtype.newbyteorder("="))


@overload
def channels_first(x: np.ndarray, name: str) -> np.ndarray: ...
@overload
def channels_first(x: Points, name: str) -> Points: ...
def channels_first(x: Points, name: str) -> Points:
    """(n, H, W), (n, C, H, W) or (n, H, W, C) as (n, C, H, W); other numbers of axes are left alone."""
    if x.ndim == 3:
        return x[:, None]
    if x.ndim != 4:
        return x
    first, middle, last = x.shape[1:]
    if first not in (1, 3) and last in (1, 3):
        return x.transpose(0, 3, 1, 2) if isinstance(x, np.ndarray) else x.permute(0, 3, 1, 2)
    # (n, 64, 4, 4) are 64 channels; (n, 64, 64, 4) are not meant to be.
    if (first in (1, 3) and last in (1, 3)) or (last in (2, 4) and first > 4 and middle != last):
        raise DatasetError(
            f"{name}: shape {tuple(x.shape)} given, where the channels may be axis 1 or axis 3; "
            f"pictures (n, C, H, W) with C = 1 or 3, or vectors (n, {first * middle * last}) are accepted"
        )
    return x


@overload
def in_unit(x: np.ndarray, name: str) -> np.ndarray: ...
@overload
def in_unit(x: Points, name: str) -> Points: ...
def in_unit(x: Points, name: str) -> Points:
    """Floats: pictures of bytes and of uint16 divided by the greatest value of their type, others in their own values."""
    kind = str(x.dtype).removeprefix("torch.")
    if kind in ("float32", "float64"):
        return x
    if x.dtype.itemsize > 2 and kind != "bool":
        _check_double(x, name)
        return _floats(x, 64)
    found = _floats(x, 32)
    if x.ndim == 4 and kind in ("uint8", "uint16"):
        found /= 255 if kind == "uint8" else 65535
    return found


@overload
def _floats(x: np.ndarray, bits: Literal[32, 64]) -> np.ndarray: ...
@overload
def _floats(x: Points, bits: Literal[32, 64]) -> Points: ...
def _floats(x: Points, bits: Literal[32, 64]) -> Points:
    if isinstance(x, Tensor):
        return x.to(torch.float32 if bits == 32 else torch.float64)
    return x.astype(np.float32 if bits == 32 else np.float64, copy=False)


def _check_double(x: Points, name: str) -> None:
    """Refuses whole numbers of 64 bits, and long doubles, where float64 would round too much of a column."""
    if x.dtype.itemsize == 4 or 0 in x.shape:
        return
    own = np.asarray(x.cpu() if isinstance(x, Tensor) else x).reshape(len(x), -1)
    low, high = own.min(0), own.max(0)
    with np.errstate(over="ignore", invalid="ignore"):
        # Unsigned, the difference of two whole numbers of 64 bits is right even where it would overflow.
        spread = (high - low if own.dtype.kind == "f" else high.view(np.uint64) - low.view(np.uint64)).astype(np.float64)
        size = np.maximum(np.abs(low.astype(np.float64)), np.abs(high.astype(np.float64)))
        step = np.spacing(size)
    if (np.isinf(size) & np.isfinite(low) & np.isfinite(high)).any():
        raise DatasetError(f"{name}: numbers beyond 1e308 given; divide them by a constant first")
    exact = (size <= 2.0**53) & (own.dtype.kind != "f")
    bad = ~exact & (spread > 0) & (step > LOST * spread)
    if bad.any():
        k = int(bad.argmax())
        raise DatasetError(
            f"{name}: column {k} holds numbers near {size[k]:.6g} with a spread of {spread[k]:.6g}; float64 rounds them to "
            f"multiples of {step[k]:.6g}: subtract an offset first"
        )
