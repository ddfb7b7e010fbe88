"""Checks made once, at the public door. Inside, code trusts its input."""

from __future__ import annotations

import math
import numbers
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.autograd.forward_ad as forward_ad
from torch import Tensor

from rieszflow._clouds import Cloud, Pair
from rieszflow._ranks import Group, summed
from rieszflow.errors import InputError, InputTypeError

DTYPES = (torch.float32, torch.float64)
Answer = Callable[[Tensor], Any]


def points(name: str, x: Any, look: bool = True) -> Tensor:
    """`x` as a tensor of shape (..., N, d), N and d at least 1, float32 or float64, finite (not checked without `look`)."""
    x = plain_tensor(name, x, "(N, d)")
    if x.ndim < 2:
        raise InputError(f"{name}: shape {tuple(x.shape)} given; (N, d) is accepted, with batch dimensions in front")
    if x.shape[-1] == 0 or x.shape[-2] == 0:
        raise InputError(f"{name}: shape {tuple(x.shape)} is empty; at least one point and one dimension are needed")
    if look and not _finite(x.detach()):
        raise InputError(f"{name}: contains NaN or infinity; only finite values are accepted")
    return x


def plain_tensor(name: str, x: Any, shape: str) -> Tensor:
    """A dense float32 or float64 tensor with the numbers of `x`, in its memory where that is possible.

    What means more than its numbers (a mask, a unit, an imaginary part) or has none is refused.
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
            "by backward() or torch.autograd.grad, batches by dimensions in front"
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
    if x.dtype not in DTYPES:
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


def pair(x: Any, y: Any, look: bool = True) -> tuple[Tensor, Tensor, Answer]:
    """Both point clouds, and the function that answers in kind: NumPy if both came as NumPy."""
    numpy = isinstance(x, np.ndarray) and isinstance(y, np.ndarray)
    x, y = points("x", x, look), points("y", y, look)
    if x.shape[-1] != y.shape[-1]:
        raise InputError(f"y: points of dimension d = {y.shape[-1]} given, x has d = {x.shape[-1]}; they must be equal")
    if x.shape[:-2] != y.shape[:-2]:
        raise InputError(f"y: batch dimensions {tuple(y.shape[:-2])} given, x has {tuple(x.shape[:-2])}; they must be equal")
    if x.dtype != y.dtype:
        raise InputTypeError(f"y: dtype {y.dtype} given, x has {x.dtype}; they must be equal")
    if x.device != y.device:
        raise InputError(f"y: on device {y.device}, x is on {x.device}; they must be on one device")
    return x, y, (lambda t: t.detach().numpy()[()]) if numpy else (lambda t: t)


def clouds(x: Any, y: Any, x_weights: Any = None, y_weights: Any = None, statistic_name: Any = "V") -> tuple[Pair, Answer]:
    """The arguments of a functional, checked and bundled, and the function that answers in kind."""
    x, y, answer = pair(x, y)
    a, b = weights("x_weights", x_weights, x), weights("y_weights", y_weights, y)
    unbiased = statistic(statistic_name, ("x", x, a), ("y", y, b)) == "U"
    return Pair(Cloud(x, a), Cloud(y, b), unbiased), answer


def weights(name: str, w: Any, x: Tensor, group: Group = None) -> Tensor | None:
    """Non-negative weights of the points `x` that sum to one, over all ranks of a group: (N,) or (..., N). None: all 1/N."""
    if w is None:
        return None
    w = plain_tensor(name, w, "(N,)")
    if w.dtype != x.dtype or w.device != x.device:
        raise InputTypeError(f"{name}: {w.dtype} on {w.device} given; {x.dtype} on {x.device} is needed, like its points")
    if tuple(w.shape) not in (tuple(x.shape[-2:-1]), tuple(x.shape[:-1])):
        raise InputError(f"{name}: shape {tuple(w.shape)} given; {tuple(x.shape[:-1])} is needed, one weight per point")
    v = w.detach()
    if not torch.isfinite(v).all() or (v < 0).any():
        raise InputError(f"{name}: contains negative or non-finite values; weights must be finite and non-negative")
    total = summed(v.double().sum(-1, keepdim=True), group).squeeze(-1)
    if ((total - 1).abs() > 1e-4).any():
        worst = total.flatten()[(total - 1).abs().argmax()].item()
        raise InputError(f"{name}: sum {worst:.6g} given; weights must sum to one (divide by the sum first)")
    return w


def statistic(name: Any, *clouds: tuple[str, Tensor, Tensor | None]) -> str:
    """`"V"` or `"U"`; U needs at least two points of positive weight in every cloud."""
    if not isinstance(name, str) or name not in ("V", "U"):
        raise InputError(f'statistic: {name!r} given; "V" (non-negative) and "U" (unbiased) are accepted')
    if name == "U":
        for cloud, x, w in clouds:
            if x.shape[-2] < 2 or (w is not None and ((w.detach() > 0).sum(-1) < 2).any()):
                raise InputError(f'{cloud}: statistic="U" needs at least two points of positive weight')
    return name


def positive_int(name: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 1:
        raise InputError(f"{name}: {value!r} given; a whole number of at least 1 is accepted")
    return int(value)


def whole_seed(value: Any) -> int:
    """A `seed` that has to be a whole number, for it is saved."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or not 0 <= value < 2**63:
        raise InputError(f"seed: {value!r} given; a whole number in [0, 2^63) is accepted")
    return int(value)


def number(value: Any) -> float:
    """A real number of whatever kind (Python's, NumPy's, a fraction) as a float; NaN for all else."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        return math.nan
    try:
        return float(value)
    except OverflowError:
        return math.inf


def positive_float(name: str, value: Any) -> float:
    v = number(value)
    if not 0 < v < math.inf:
        raise InputError(f"{name}: {value!r} given; a finite positive number is accepted")
    return v


def generator(seed: Any) -> torch.Generator | None:
    """The generator that a `seed` argument means: a whole number makes one, a generator goes on, None is torch's own."""
    if seed is None or isinstance(seed, torch.Generator):
        return seed
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)):
        raise InputTypeError(f"seed: {type(seed).__name__} given; a whole number, a torch.Generator or None is accepted")
    return torch.Generator("cpu").manual_seed(whole_seed(seed))
