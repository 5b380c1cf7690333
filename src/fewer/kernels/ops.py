"""Operations on packed matrices: checked, then native where it is built and the input is float32, else the reference.

Native results have the same bits for a row whatever the number of rows, threads or the instruction set. All functions
raise TypeError (dtype) or ValueError (shape, layout, device) before any address reaches native code.
"""

from __future__ import annotations

import torch

from fewer.kernels import reference
from fewer.kernels.cpu import set_threads
from fewer.kernels.native import native
from fewer.kernels.pack import Packed

set_threads()


def check(name: str, t: torch.Tensor, shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> None:
    """Raise unless t is a contiguous CPU tensor of `shape` (-1: any) and `dtype`."""
    if t.dtype is not dtype:
        raise TypeError(f"{name} must be {dtype}, not {t.dtype}")
    if t.device.type != "cpu":
        raise ValueError(f"{name} must be on the CPU, not on {t.device}")
    if len(shape) != t.dim() or any(want not in (-1, got) for want, got in zip(shape, t.shape)):
        raise ValueError(f"{name} must have shape {shape}, not {tuple(t.shape)}")
    if not t.is_contiguous():
        raise ValueError(f"{name} must be contiguous")


def check_floats(name: str, t: torch.Tensor, shape: tuple[int, ...]) -> bool:
    """Check a float32 or float64 tensor. -> can the native op take it?"""
    check(name, t, shape, torch.float64 if t.dtype is torch.float64 else torch.float32)
    return native is not None and t.dtype is torch.float32


def linear(x: torch.Tensor, w: Packed, bias: torch.Tensor | None = None) -> torch.Tensor:
    """x (T, k) float32 -> x W^T + bias, (T, n); bias (n,). float64 input: the reference, float64 output."""
    fast = check_floats("x", x, (-1, w.k))
    if bias is not None:
        check("bias", bias, (w.n,), x.dtype)
    if not fast or native is None:
        return reference.linear(x, w, bias)
    y = x.new_empty(len(x), w.n)
    native.linear(w.handle, x.data_ptr(), len(x), 0 if bias is None else bias.data_ptr(), y.data_ptr())
    return y


def embed(w: Packed, ids: torch.Tensor) -> torch.Tensor:
    """ids (T,) int64 in [0, n) -> rows of w, (T, k) float32. Raises IndexError for an id outside."""
    check("ids", ids, (-1,), torch.int64)
    if native is None:
        if len(ids) and not 0 <= int(ids.min()) <= int(ids.max()) < w.n:
            raise IndexError(f"embed: an id is not in [0, {w.n})")
        return reference.embed(w, ids)
    out = torch.empty(len(ids), w.k)
    native.embed(w.handle, ids.data_ptr(), len(ids), out.data_ptr())
    return out


def logits(x: torch.Tensor, w: Packed, norm: torch.Tensor, eps: float, planes: int = 1) -> torch.Tensor:
    """RMSNorm(x; norm, eps) W^T: x (T, k) -> (T, n). planes: 1 or 2, of activations (reference.py)."""
    fast = check_floats("x", x, (-1, w.k))
    check("norm", norm, (w.k,), x.dtype)
    if not fast or native is None:
        return reference.logits(x, w, norm, eps, planes)
    out = x.new_empty(len(x), w.n)
    native.logits(w.handle, x.data_ptr(), len(x), norm.data_ptr(), eps, planes, out.data_ptr())
    return out


def best(
    x: torch.Tensor, w: Packed, norm: torch.Tensor, eps: float, k: int = 1, planes: int = 1
) -> tuple[torch.Tensor, torch.Tensor]:
    """The k largest of `logits` of each row, largest first and the first of equal ones first: ids (T, k) int64 and values
    (T, k) float32; no (T, n) array is made."""
    fast = check_floats("x", x, (-1, w.k))
    check("norm", norm, (w.k,), x.dtype)
    if not 1 <= k <= w.n:
        raise ValueError(f"k must be from 1 to {w.n}, not {k}")
    if not fast or native is None:
        return reference.best(x, w, norm, eps, k, planes)
    ids, values = torch.empty(len(x), k, dtype=torch.int64), torch.empty(len(x), k)
    native.best(w.handle, x.data_ptr(), len(x), norm.data_ptr(), eps, planes, k, ids.data_ptr(), values.data_ptr())
    return ids, values
