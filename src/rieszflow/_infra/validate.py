"""Checks of what users give, made once at the public door. Inside, code trusts its input.

Every check takes the argument's name for the message, and gives back the value in the one form that code inside works with.
"""

from __future__ import annotations

import contextlib
import math
import numbers
import os
import warnings
from collections.abc import Callable
from typing import TypeAlias, cast

import numpy as np
import torch
import torch.autograd.forward_ad as forward_ad
from torch import Tensor

from rieszflow._clouds import Cloud, Pair
from rieszflow._infra.ranks import Group, all_reduce_sum
from rieszflow._types import Points, PointsT, Seed, Statistic
from rieszflow.errors import InputError, InputTypeError

__all__ = [
    "Answer",
    "affordable",
    "clouds",
    "generator",
    "number",
    "pair",
    "plain_tensor",
    "points",
    "positive_float",
    "positive_int",
    "statistic",
    "weights",
    "whole_seed",
]

_SMALL = 1 << 24  # bytes that are always assumed to be available
_DTYPES = (torch.float32, torch.float64)

Answer: TypeAlias = Callable[[Tensor], PointsT]
"""Gives a result in kind: an array where all points came as arrays, else the tensor."""


def points(name: str, x: object, look: bool = True) -> Tensor:
    """`x` as a tensor (..., N, d), N and d at least 1, float32 or float64, finite.

    Args:
        name: of the argument.
        x: what was given.
        look: whether to look for NaN and infinity, a pass over the numbers.
    """
    x = plain_tensor(name, x, "(N, d)")
    if x.ndim < 2:
        raise InputError(f"{name}: shape {tuple(x.shape)} given; (N, d) is accepted, with batch dimensions in front")
    if x.shape[-1] == 0 or x.shape[-2] == 0:
        raise InputError(f"{name}: shape {tuple(x.shape)} is empty; at least one point and one dimension are needed")
    if look and not _finite(x.detach()):
        raise InputError(f"{name}: contains NaN or infinity; only finite values are accepted")
    return x


def plain_tensor(name: str, x: object, shape: str) -> Tensor:
    """A dense float32 or float64 tensor with the numbers of `x`, in the same memory where that is possible.

    Refused is what has no numbers, or means more than its numbers: a mask, a unit, an imaginary part.

    Args:
        name: of the argument.
        x: what was given.
        shape: the accepted shape, in words, for the message.
    """
    if isinstance(x, np.ndarray):
        return _of_array(name, x)
    if not isinstance(x, Tensor):
        advice = "; numpy.asarray(..., dtype=float) makes one" if isinstance(x, (list, tuple)) else ""
        raise InputTypeError(
            f"{name}: {type(x).__name__} given; a torch.Tensor or numpy.ndarray of shape {shape} is accepted{advice}"
        )
    if torch.nn.parameter.is_lazy(x):
        raise InputTypeError(f"{name}: {type(x).__name__} given, which has no values yet; a tensor with values is accepted")
    if torch._C._functorch.is_functorch_wrapped_tensor(x):
        raise InputTypeError(
            f"{name}: a tensor inside of torch.func (grad, vmap, jvp, …) given; plain tensors are accepted: derivatives come "
            "by backward() or torch.autograd.grad, batches by dimensions in front; rieszflow.SlicedMMDLoss works there"
        )
    if type(x) not in (Tensor, torch.nn.Parameter):
        if type(x).__torch_dispatch__ is not Tensor.__torch_dispatch__:
            raise InputTypeError(f"{name}: {type(x).__name__} given; a plain, dense torch.Tensor is accepted")
        x = x.as_subclass(Tensor)
    if x.is_nested:
        raise InputTypeError(f"{name}: a nested tensor given; a plain, dense torch.Tensor is accepted")
    if x.layout != torch.strided:
        raise InputTypeError(f"{name}: a tensor of layout {x.layout} given; a dense one is accepted (to_dense() makes one)")
    if x.device.type == "meta":
        raise InputTypeError(f"{name}: a tensor on the meta device given, which has no values; one with values is accepted")
    if x.dtype not in _DTYPES:
        raise InputTypeError(f"{name}: dtype {x.dtype} given; torch.float32 and torch.float64 are accepted")
    if forward_ad.unpack_dual(x).tangent is not None:
        raise InputTypeError(f"{name}: a tensor with a forward-mode derivative given; derivatives come by backward() only")
    return x.resolve_neg()


def _of_array(name: str, x: np.ndarray) -> Tensor:
    if isinstance(x, np.ma.MaskedArray):
        raise InputTypeError(f"{name}: a masked array given, whose mask would be lost; fill or leave out what is masked first")
    if type(x) not in (np.ndarray, np.memmap, np.matrix):
        raise InputTypeError(
            f"{name}: {type(x).__name__} given, an array that may mean more than its numbers; a plain numpy.ndarray is accepted"
        )
    if x.dtype.kind != "f" or x.dtype.itemsize not in (4, 8):
        raise InputTypeError(f"{name}: dtype {x.dtype} given; float32 and float64 are accepted")
    shape = x.shape
    if x.dtype.byteorder not in "=|":
        x = x.astype(x.dtype.newbyteorder("="))
    with warnings.catch_warnings():
        # Read-only memory: a file that is mapped, say. Nobody here writes to points, and it may be too large to copy.
        warnings.simplefilter("ignore")
        # Negative strides are foreign to torch. NumPy makes (1,) of a number's shape on the way.
        return torch.from_numpy(np.ascontiguousarray(x).reshape(shape))


def _finite(x: Tensor) -> bool:
    # A sum is finite only if everything in it is, and costs one pass without an array of answers; it may overflow, though.
    if x.device.type == "cpu":
        with np.errstate(all="ignore"):
            # NumPy's, for PyTorch's threads would go on spinning afterwards in the way of our own
            total = float(x.numpy().sum())
    else:
        total = x.sum().item()
    return math.isfinite(total) or bool(torch.isfinite(x).all())


def pair(x: PointsT, y: PointsT, look: bool = True) -> tuple[Tensor, Tensor, Answer[PointsT]]:
    """Two clouds of one dimension, batch, dtype and device, and the function that answers in kind."""
    arrays = isinstance(x, np.ndarray) and isinstance(y, np.ndarray)
    one, two = points("x", x, look), points("y", y, look)
    if one.shape[-1] != two.shape[-1]:
        raise InputError(f"y: points of dimension d = {two.shape[-1]} given, x has d = {one.shape[-1]}; they must be equal")
    if one.shape[:-2] != two.shape[:-2]:
        given, wanted = tuple(two.shape[:-2]), tuple(one.shape[:-2])
        raise InputError(f"y: batch dimensions {given} given, x has {wanted}; they must be equal")
    if one.dtype != two.dtype:
        raise InputTypeError(f"y: dtype {two.dtype} given, x has {one.dtype}; they must be equal")
    if one.device != two.device:
        raise InputError(f"y: on device {two.device}, x is on {one.device}; they must be on one device")
    return one, two, cast("Answer[PointsT]", _to_array if arrays else _to_tensor)


def _to_array(t: Tensor) -> np.ndarray:
    """An array, or for a single number NumPy's."""
    array: np.ndarray = t.detach().numpy()[()]
    return array


def _to_tensor(t: Tensor) -> Tensor:
    return t


def clouds(
    x: PointsT, y: PointsT, x_weights: Points | None = None, y_weights: Points | None = None, statistic_name: Statistic = "V"
) -> tuple[Pair, Answer[PointsT]]:
    """The arguments of a functional, checked and bundled, and the function that answers in kind."""
    one, two, answer = pair(x, y)
    a, b = weights("x_weights", x_weights, one), weights("y_weights", y_weights, two)
    unbiased = statistic(statistic_name, ("x", one, a), ("y", two, b)) == "U"
    return Pair(Cloud(one, a), Cloud(two, b), unbiased), answer


def weights(name: str, given: object, x: Tensor, group: Group = None) -> Tensor | None:
    """Non-negative weights of the points `x`, (N,) or (..., N), that sum to one. None stays None: 1/N each.

    Args:
        name: of the argument.
        given: what was given.
        x: the points, checked.
        group: the process group over whose ranks the sum is one. None: the sum here is.
    """
    if given is None:
        return None
    w = plain_tensor(name, given, "(N,)")
    if w.dtype != x.dtype or w.device != x.device:
        raise InputTypeError(f"{name}: {w.dtype} on {w.device} given; {x.dtype} on {x.device} is needed, like its points")
    if tuple(w.shape) not in (tuple(x.shape[-2:-1]), tuple(x.shape[:-1])):
        raise InputError(f"{name}: shape {tuple(w.shape)} given; {tuple(x.shape[:-1])} is needed, one weight per point")
    v = w.detach()
    if not torch.isfinite(v).all() or (v < 0).any():
        raise InputError(f"{name}: contains negative or non-finite values; weights must be finite and non-negative")
    total: Tensor = all_reduce_sum(v.double().sum(-1, keepdim=True), group).squeeze(-1)
    if ((total - 1).abs() > 1e-4).any():
        worst = total.flatten()[(total - 1).abs().argmax()].item()
        raise InputError(f"{name}: sum {worst:.6g} given; weights must sum to one (divide by the sum first)")
    return w


def statistic(name: object, *clouds: tuple[str, Tensor, Tensor | None]) -> Statistic:
    """`"V"` or `"U"`. U needs two points of positive weight, at least, in every cloud.

    Args:
        name: what was given.
        clouds: (name of the argument, points, weights) of every cloud.
    """
    if not isinstance(name, str) or name not in ("V", "U"):
        raise InputError(f'statistic: {name!r} given; "V" (non-negative) and "U" (unbiased) are accepted')
    if name == "U":
        for cloud, x, w in clouds:
            if x.shape[-2] < 2 or (w is not None and ((w.detach() > 0).sum(-1) < 2).any()):
                raise InputError(f'{cloud}: statistic="U" needs at least two points of positive weight')
    return cast("Statistic", name)


def positive_int(name: str, value: object) -> int:
    """A whole number of at least 1, Python's or NumPy's."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 1:
        raise InputError(f"{name}: {value!r} given; a whole number of at least 1 is accepted")
    return int(value)


def affordable(name: str, count: int, each: int) -> None:
    """Refuse a number of items that needs more memory than is available, before anything is allocated.

    Args:
        name: Name of the argument.
        count: Its value.
        each: Bytes that one item needs at least.
    """
    if count * each < _SMALL:
        return
    there = _available_memory()
    if count * each > there:
        raise InputError(
            f"`{name}` must fit into memory, got {count}, which needs at least {count * each / 2**30:,.1f} GiB; "
            f"{there / 2**30:,.1f} GiB are available"
        )


def _available_memory() -> float:
    """Return the available memory in bytes: the total memory if the system does not report it, infinity if that is unknown."""
    with contextlib.suppress(OSError, ValueError, IndexError), open("/proc/meminfo", encoding="ascii") as file:
        return 1024 * int(next((line for line in file if line.startswith("MemAvailable:")), "").split()[1])
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return math.inf


def whole_seed(value: object, name: str = "seed") -> int:
    """A `seed` that has to be a whole number, for it is saved."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or not 0 <= value < 2**63:
        raise InputError(f"{name}: {value!r} given; a whole number in [0, 2^63) is accepted")
    return int(value)


def number(value: object) -> float:
    """A real number of whatever kind (Python's, NumPy's, a fraction) as a float; NaN for all else."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        return math.nan
    try:
        return float(value)
    except OverflowError:
        return math.inf


def positive_float(name: str, value: object) -> float:
    """A real number above 0 and below infinity."""
    v = number(value)
    if not 0 < v < math.inf:
        raise InputError(f"{name}: {value!r} given; a finite positive number is accepted")
    return v


def generator(seed: Seed) -> torch.Generator | None:
    """The generator that a `seed` means: a whole number makes a new one, a generator goes on, and None is torch's default."""
    if seed is None or isinstance(seed, torch.Generator):
        return seed
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)):
        raise InputTypeError(f"seed: {type(seed).__name__} given; a whole number, a torch.Generator or None is accepted")
    return torch.Generator("cpu").manual_seed(whole_seed(seed))
