"""Validation of arguments, done once, in public functions; code inside trusts its input.

Every check takes the argument's name for the message and returns the value in the form that the code inside works with.
"""

from __future__ import annotations

import contextlib
import math
import numbers
import os
import warnings
from collections.abc import Callable, Sequence
from typing import TypeAlias, TypeGuard, cast

import numpy as np
import torch
import torch.autograd.forward_ad as forward_ad
from torch import Tensor

from rieszflow._infra.ranks import Group, all_reduce_sum
from rieszflow._types import Cloud, Pair, Points, PointsT, Seed, Statistic
from rieszflow.errors import InputError, InputTypeError

_SMALL = 1 << 24  # bytes that are always assumed to be available

Answer: TypeAlias = Callable[[Tensor], PointsT]
"""Converts a result: to an array if all points were arrays, else not at all."""


def points(name: str, x: object, check_finite: bool = True) -> Tensor:
    """Return `x` as a float32 or float64 tensor of shape (..., N, d) with N, d ≥ 1; checking for NaN takes a pass over it."""
    x = plain_tensor(name, x, "(N, d)")
    if x.ndim < 2:
        raise InputError(f"{_quoted(name)} must have shape (N, d) or (..., N, d), got {tuple(x.shape)}")
    if x.shape[-1] == 0 or x.shape[-2] == 0:
        raise InputError(f"{_quoted(name)} must have at least one point and one dimension, got empty shape {tuple(x.shape)}")
    if check_finite and not _is_finite(x.detach()):
        raise InputError(f"{_quoted(name)} must be finite, got NaN or infinity")
    return x


def plain_tensor(name: str, x: object, shape: str) -> Tensor:
    """Return `x` as a dense float32 or float64 tensor, in the same memory if possible; refuse subclasses with extra data."""
    if isinstance(x, np.ndarray):
        return _from_array(name, x)
    if not isinstance(x, Tensor):
        advice = "; convert it with numpy.asarray(..., dtype=float)" if isinstance(x, (list, tuple)) else ""
        accepted = f"a torch.Tensor or numpy.ndarray of shape {shape}"
        raise InputTypeError(f"{_quoted(name)} must be {accepted}, got {type(x).__name__}{advice}")
    if found := _misfit(x):
        raise InputTypeError(f"{_quoted(name)} must be a dense float32 or float64 tensor with values, got {found}")
    if type(x) not in (Tensor, torch.nn.Parameter):
        x = x.as_subclass(Tensor)
    return x.resolve_neg()


def _misfit(x: Tensor) -> str:
    """Return the property of a tensor that makes it unusable, and what to do; or an empty string."""
    if torch.nn.parameter.is_lazy(x):
        return f"{type(x).__name__} without values"
    if torch._C._functorch.is_functorch_wrapped_tensor(x):
        return (
            "a tensor inside of torch.func (grad, vmap, jvp, …); take derivatives by backward() or torch.autograd.grad, use "
            "leading dimensions for batches, or call rieszflow.SlicedMMDLoss"
        )
    if type(x) not in (Tensor, torch.nn.Parameter):
        if type(x).__torch_dispatch__ is not Tensor.__torch_dispatch__:
            return type(x).__name__
        x = x.as_subclass(Tensor)
    if x.is_nested:
        return "a nested tensor"
    if x.layout != torch.strided:
        return f"layout {x.layout}; convert it with to_dense()"
    if x.device.type == "meta":
        return "a tensor on the meta device"
    if x.dtype not in (torch.float32, torch.float64):
        return f"dtype {x.dtype}"
    if forward_ad.unpack_dual(x).tangent is not None:
        return "a tensor with a forward-mode derivative; take derivatives by backward()"
    return ""


def _from_array(name: str, x: np.ndarray) -> Tensor:
    if isinstance(x, np.ma.MaskedArray):
        raise InputTypeError(f"{_quoted(name)} must not be masked, got a masked array; fill or drop the masked values")
    if type(x) not in (np.ndarray, np.memmap, np.matrix):
        raise InputTypeError(f"{_quoted(name)} must be a plain numpy.ndarray, got {type(x).__name__}")
    if x.dtype.kind != "f" or x.dtype.itemsize not in (4, 8):
        raise InputTypeError(f"{_quoted(name)} must be an array of float32 or float64, got dtype {x.dtype}")
    shape, x = x.shape, np.asarray(x, dtype=x.dtype.newbyteorder("="))
    x = np.array(x, order="C") if any(step < 0 for step in x.strides) else np.ascontiguousarray(x)  # torch has no such strides
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # read-only memory, such as a mapped file: we never write to points
        return torch.from_numpy(x.reshape(shape))


def _is_finite(x: Tensor) -> bool:
    # A finite sum proves that all terms are finite, without an array of booleans. A sum that overflows proves nothing.
    if x.device.type == "cpu":
        with np.errstate(all="ignore"):
            total = float(x.numpy().sum())  # in NumPy: PyTorch's threads would keep spinning and slow down ours
    else:
        total = x.sum().item()
    return math.isfinite(total) or bool(torch.isfinite(x).all())


def pair(x: PointsT, y: PointsT, check_finite: bool = True) -> tuple[Tensor, Tensor, Answer[PointsT]]:
    """Return two clouds as tensors of equal dimension, batch, dtype and device, and the function that converts results."""
    arrays = isinstance(x, np.ndarray) and isinstance(y, np.ndarray)
    one, two = points("x", x, check_finite), points("y", y, check_finite)
    for error, needed, a, b in (
        (InputError, "points of dimension", f"d = {one.shape[-1]}", f"d = {two.shape[-1]}"),
        (InputError, "batch dimensions", tuple(one.shape[:-2]), tuple(two.shape[:-2])),
        (InputTypeError, "dtype", one.dtype, two.dtype),
        (InputError, "device", one.device, two.device),
    ):
        if a != b:
            raise error(f"`y` must have {needed} {a}, as x has, got {b}")
    # Of a tensor without dimensions, [()] makes a NumPy scalar.
    return one, two, cast("Answer[PointsT]", (lambda t: t.detach().numpy()[()]) if arrays else (lambda t: t))


def clouds(
    x: PointsT, y: PointsT, x_weights: Points | None = None, y_weights: Points | None = None, statistic_name: Statistic = "V"
) -> tuple[Pair, Answer[PointsT]]:
    """Return the arguments of a functional as a pair of clouds, and the function that converts results."""
    one, two, answer = pair(x, y)
    a, b = weights("x_weights", x_weights, one), weights("y_weights", y_weights, two)
    unbiased = statistic(statistic_name, ("x", one, a), ("y", two, b)) == "U"
    return Pair(Cloud(one, a), Cloud(two, b), unbiased), answer


def weights(name: str, given: object, x: Tensor, group: Group = None) -> Tensor | None:
    """Return the weights of points (..., N, d), of shape (N,) or (..., N), which sum to one over all ranks; None stays None."""
    if given is None:
        return None
    w = plain_tensor(name, given, "(N,)")
    if w.dtype != x.dtype or w.device != x.device:
        raise InputTypeError(f"`{name}` must be {x.dtype} on {x.device}, like its points, got {w.dtype} on {w.device}")
    if tuple(w.shape) not in (tuple(x.shape[-2:-1]), tuple(x.shape[:-1])):
        raise InputError(f"`{name}` must have shape {tuple(x.shape[:-1])}, one weight per point, got shape {tuple(w.shape)}")
    v = w.detach()
    if not torch.isfinite(v).all() or (v < 0).any():
        raise InputError(f"`{name}` must be finite and non-negative, got negative or non-finite values")
    total: Tensor = all_reduce_sum(v.double().sum(-1, keepdim=True), group).squeeze(-1)
    if ((total - 1).abs() > 1e-4).any():
        worst = total.flatten()[(total - 1).abs().argmax()].item()
        raise InputError(f"`{name}` must sum to one, got sum {worst:.6g}; divide by the sum first")
    return w


def statistic(name: object, *clouds: tuple[str, Tensor, Tensor | None]) -> Statistic:
    """Return "V" or "U", if every cloud (name of the argument, points, weights) has enough points for it."""
    if not isinstance(name, str) or name not in ("V", "U"):
        raise InputError(f'`statistic` must be "V" (non-negative) or "U" (unbiased), got {name!r}')
    if name == "U":
        for cloud, x, w in clouds:
            if x.shape[-2] < 2 or (w is not None and ((w.detach() > 0).sum(-1) < 2).any()):
                raise InputError(f'`{cloud}` must have at least two points of positive weight for statistic="U", got fewer')
    return cast("Statistic", name)


def choice(name: str, value: object, choices: Sequence[str], others: str = "") -> str:
    """Return a value that is one of the choices; `others` describes values that are no strings, for the message."""
    if not isinstance(value, str) or value not in choices:
        raise InputError(f"`{name}` must be one of {', '.join(map(repr, choices))}{others}, got {value!r}")
    return value


def positive_int(name: str, value: object) -> int:
    """Return a positive integer of Python or NumPy as an int."""
    if not _is_integer(value) or value < 1:
        raise InputError(f"{_quoted(name)} must be a positive integer, got {value!r}")
    return int(value)


def nonnegative_int(name: str, value: object) -> int:
    """Return a non-negative integer of Python or NumPy as an int."""
    if not _is_integer(value) or value < 0:
        raise InputError(f"{_quoted(name)} must be a non-negative integer, got {value!r}")
    return int(value)


def _is_integer(value: object) -> TypeGuard[int | np.integer]:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


def fits_memory(name: str, count: int, each: int) -> None:
    """Refuse a number of items of `each` bytes or more that need more memory than is available, before allocating it."""
    if count * each < _SMALL:
        return
    needed, available = (size / 2**30 for size in (count * each, _available_memory()))
    if needed > available:
        sizes = f"which needs at least {needed:,.1f} GiB; {available:,.1f} GiB are available"
        raise InputError(f"`{name}` must fit into memory, got {count}, {sizes}")


def _available_memory() -> float:
    """Return the available memory in bytes; the total memory if the system does not report it."""
    with contextlib.suppress(OSError, ValueError, IndexError), open("/proc/meminfo", encoding="ascii") as file:
        return 1024 * int(next((line for line in file if line.startswith("MemAvailable:")), "").split()[1])
    return total_memory()


def total_memory() -> float:
    """Return the memory of the machine in bytes; infinity if that is unknown."""
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return math.inf


def integer_seed(value: object, name: str = "seed") -> int:
    """Return a seed that has to be an integer because it is saved."""
    if not _is_integer(value) or not 0 <= value < 2**63:
        raise InputError(f"`{name}` must be an integer in [0, 2^63), got {value!r}")
    return int(value)


def real(value: object) -> float:
    """Return a real number of any type (Python's, NumPy's, a fraction) as a float; NaN for everything else."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        return math.nan
    try:
        return float(value)
    except OverflowError:
        return math.inf


def positive_float(name: str, value: object) -> float:
    """Return a finite positive number as a float."""
    v = real(value)
    if not 0 < v < math.inf:
        raise InputError(f"{_quoted(name)} must be a positive finite number, got {value!r}")
    return v


def generator(seed: Seed) -> torch.Generator | None:
    """Return a new generator for an integer; a generator and None (torch's default generator) are returned as they are."""
    if seed is None or isinstance(seed, torch.Generator):
        return seed
    if not _is_integer(seed):
        raise InputTypeError(f"`seed` must be an integer, a torch.Generator or None, got {type(seed).__name__}")
    return torch.Generator("cpu").manual_seed(integer_seed(seed))


def _quoted(name: str) -> str:
    """Return the name of an argument in backticks, and a file or an option as it is."""
    return f"`{name}`" if name.isidentifier() else name
