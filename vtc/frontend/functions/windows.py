"""Windows of signal processing: vectors that rise from the edges to the middle.

hann_window(400)                         # periodic: 400 of a period of 400
hann_window(400, periodic=False)         # symmetric
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, TypedDict, Unpack

from vtc.errors import ArgumentError, TypeCheckError
from vtc.frontend import dispatch
from vtc.frontend.functions import bessel, elementwise
from vtc.frontend.functions.arguments import Where
from vtc.frontend.functions.creation import arange, ones
from vtc.frontend.functions.promotion import cast
from vtc.frontend.source import located
from vtc.ir.types import DType, f64

if TYPE_CHECKING:
    from vtc.frontend.tensor import Tensor


class Made(TypedDict, total=False):
    """How a window is made: its dtype, the default one if none is given, and where."""

    dtype: DType | None
    device: Where
    requires_grad: bool


def hann_window(
    window_length: int,
    periodic: bool = True,
    **made: Unpack[Made],
) -> Tensor:
    """``(1 - cos(2 pi k / N)) / 2`` for ``k`` below ``window_length``.

    ``N`` is the length, or one less where the window is not ``periodic``.
    """
    return _cosines("hann_window", (0.5, 0.5), window_length, periodic, **made)


def hamming_window(
    window_length: int,
    periodic: bool = True,
    alpha: float = 0.54,
    beta: float = 0.46,
    **made: Unpack[Made],
) -> Tensor:
    """``alpha - beta * cos(2 pi k / N)``; ``N`` is as in :func:`hann_window`."""
    return _cosines("hamming_window", (alpha, beta), window_length, periodic, **made)


def blackman_window(
    window_length: int,
    periodic: bool = True,
    **made: Unpack[Made],
) -> Tensor:
    """``0.42 - 0.5 cos(2 pi k / N) + 0.08 cos(4 pi k / N)``; see :func:`hann_window`."""
    return _cosines("blackman_window", (0.42, 0.5, 0.08), window_length, periodic, **made)


def bartlett_window(
    window_length: int,
    periodic: bool = True,
    **made: Unpack[Made],
) -> Tensor:
    """A triangle: ``1 - abs(2 k / N - 1)``; ``N`` is as in :func:`hann_window`."""

    def triangle(share: Tensor) -> Tensor:
        return 1 - elementwise.abs(2 * share - 1)

    return _window("bartlett_window", triangle, window_length, periodic, **made)


def kaiser_window(
    window_length: int,
    periodic: bool = True,
    beta: float = 12.0,
    **made: Unpack[Made],
) -> Tensor:
    """``i0(beta * sqrt(1 - (2 k / N - 1)**2)) / i0(beta)``; see :func:`hann_window`."""

    def bell(share: Tensor) -> Tensor:
        inside = elementwise.clamp(1 - elementwise.square(2 * share - 1), 0.0)
        top = dispatch.constant(beta, f64, (), share.device)
        return bessel.i0(beta * elementwise.sqrt(inside)) / bessel.i0(top)

    return _window("kaiser_window", bell, window_length, periodic, **made)


def _cosines(
    name: str,
    terms: tuple[float, ...],
    length: int,
    periodic: bool,
    **made: Unpack[Made],
) -> Tensor:
    """Cosines of multiples of a period, with signs in turn."""

    def sum_of_cosines(share: Tensor) -> Tensor:
        found: Tensor = share * 0 + terms[0]
        for k, weight in enumerate(terms[1:], start=1):
            found = found + (-1) ** k * weight * elementwise.cos(2 * math.pi * k * share)
        return found

    return _window(name, sum_of_cosines, length, periodic, **made)


def _window(
    name: str,
    function: Callable[[Tensor], Tensor],
    length: int,
    periodic: bool,
    *,
    dtype: DType | None = None,
    device: Where = None,
    requires_grad: bool = False,
) -> Tensor:
    """``function`` of where each element is in the period, in float64, rounded once."""
    want = dtype or dispatch.default_dtype()
    if not want.is_floating_point:
        raise located(TypeCheckError, f"{name}: expected a floating-point dtype, got {want}")
    if length < 0:
        raise located(ArgumentError, f"{name}: expected window_length >= 0, got {length}")
    if length <= 1:
        return ones(length, dtype=want, device=device, requires_grad=requires_grad)
    period = length if periodic else length - 1
    share = arange(length, dtype=f64, device=device) / period
    found = cast(function(share), want)
    return found.requires_grad_() if requires_grad else found
