"""Dropout of whole channels, and dropout that keeps mean and variance.

dropout2d(x, 0.2)              # each [H, W] of [N, C, H, W] as a whole
alpha_dropout(x, 0.1)          # for networks of SELU
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from vtc.errors import ArgumentError, TypeCheckError
from vtc.frontend import dispatch
from vtc.frontend.functions import comparison, creation, elementwise
from vtc.frontend.functions.arguments import expect_tensor
from vtc.frontend.functions.random import dropout
from vtc.frontend.source import located

if TYPE_CHECKING:
    from vtc.frontend.tensor import Tensor

SATURATION = 1.7580993408473766
"""Where SELU goes far below zero, negated."""


def dropout1d(
    input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False
) -> Tensor:
    """Zeroes channels of ``[N, C, L]`` or ``[C, L]`` with probability ``p``, scales the others."""
    return _channels("dropout1d", input, p, training, inplace, (2, 3))


def dropout2d(
    input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False
) -> Tensor:
    """Zeroes channels of ``[N, C, H, W]`` with probability ``p``, scales the others."""
    return _channels("dropout2d", input, p, training, inplace, (4,))


def dropout3d(
    input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False
) -> Tensor:
    """Zeroes channels of ``[N, C, D, H, W]`` or ``[C, D, H, W]``, scales the others."""
    return _channels("dropout3d", input, p, training, inplace, (4, 5))


def alpha_dropout(
    input: Tensor, p: float = 0.5, training: bool = False, inplace: bool = False
) -> Tensor:
    """Sets elements to where SELU saturates, with probability ``p``; keeps mean and variance."""
    _check("alpha_dropout", input, p)
    return _saturated(input, p, training, inplace, input.type.rank)


def feature_alpha_dropout(
    input: Tensor, p: float = 0.5, training: bool = False, inplace: bool = False
) -> Tensor:
    """:func:`alpha_dropout` of whole channels of ``[N, C, ..]``."""
    _check("feature_alpha_dropout", input, p)
    return _saturated(input, p, training, inplace, 2)


def _channels(
    name: str, input: Tensor, p: float, training: bool, inplace: bool, ranks: tuple[int, ...]
) -> Tensor:
    _check(name, input, p)
    rank = input.type.rank
    if rank not in ranks:
        dims = " or ".join(map(str, ranks))
        raise located(TypeCheckError, f"{name}: expected {dims} dims, got {input.type}")
    if not training or p == 0:
        return input
    lead = 2 if rank == max(ranks) else 1
    out = elementwise.mul(input, dropout(_ones(input, lead), p))
    return dispatch.write(input, out) if inplace else out


def _saturated(input: Tensor, p: float, training: bool, inplace: bool, lead: int) -> Tensor:
    if not training or p == 0:
        return input
    if p == 1:
        out = elementwise.mul(input, 0.0)
    else:
        scale = 1.0 / math.sqrt((SATURATION**2 * p + 1.0) * (1.0 - p))
        kept = comparison.ne(dropout(_ones(input, lead), p), 0)
        chosen: Tensor = comparison.where(kept, input, -SATURATION)
        out = elementwise.add(elementwise.mul(chosen, scale), SATURATION * scale * p)
    return dispatch.write(input, out) if inplace else out


def _ones(input: Tensor, lead: int) -> Tensor:
    """One for each of what is dropped as a whole: the first ``lead`` dims count."""
    sizes = (*input.type.shape[:lead], *(1,) * (input.type.rank - lead))
    return creation.ones(sizes, dtype=input.type.dtype, device=input.device)


def _check(name: str, input: Tensor, p: float) -> None:
    expect_tensor(name, "input", input)
    if not 0 <= p <= 1:
        raise located(ArgumentError, f"{name}: expected 0 <= p <= 1, got {p}")
