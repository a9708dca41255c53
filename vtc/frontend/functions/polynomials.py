"""Orthogonal polynomials, by their recurrences.

legendre_polynomial_p(x, 3)      # (5 * x**3 - 3 * x) / 2
chebyshev_polynomial_t(x, n)     # n is a Python int; 0 everywhere for a negative one
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from vtc.errors import ArgumentError
from vtc.frontend.functions.arguments import expect_tensor
from vtc.frontend.functions.promotion import number, to_float
from vtc.frontend.source import located

if TYPE_CHECKING:
    from vtc.frontend.tensor import Tensor

Polynomial = Callable[["Tensor", int], "Tensor"]
Next = Callable[["Tensor", int, "Tensor", "Tensor"], "Tensor"]
"""Of ``x``, ``k`` and the polynomials of degree ``k`` and ``k - 1``, that of degree ``k + 1``."""


def _family(
    name: str, what: str, first: Callable[[Tensor], Tensor], following: Next, *, shifted: bool
) -> Polynomial:
    """A function of ``x`` and a degree; ``shifted`` ones are those of ``2 * x - 1``."""

    def polynomial(input: Tensor, n: int) -> Tensor:
        expect_tensor(name, "input", input)
        if isinstance(n, bool) or not isinstance(n, int):
            raise located(ArgumentError, f"{name}: expected n to be an int, got {n!r}")
        x = to_float(input)
        x = x * 2 - 1 if shifted else x
        before, last = number(0, x.type.dtype, x.type.shape), x * 0 + 1
        if n < 0:
            return before.clone()
        for k in range(n):
            before, last = last, following(x, k, last, before) if k else first(x)
        return last

    polynomial.__name__ = polynomial.__qualname__ = name
    polynomial.__doc__ = f"The {what} of degree ``n`` at each element of ``input``."
    return polynomial


def _twice(x: Tensor, k: int, last: Tensor, before: Tensor) -> Tensor:
    del k
    return x * 2 * last - before


def _chebyshev(kind: str, first: Callable[[Tensor], Tensor], *, shifted: bool) -> Polynomial:
    prefix = "shifted_" if shifted else ""
    name = f"{prefix}chebyshev_polynomial_{kind}"
    what = f"{prefix.replace('_', ' ')}Chebyshev polynomial {kind.upper()}"
    return _family(name, what, first, _twice, shifted=shifted)


def _itself(x: Tensor) -> Tensor:
    return x


chebyshev_polynomial_t = _chebyshev("t", _itself, shifted=False)
chebyshev_polynomial_u = _chebyshev("u", lambda x: x * 2, shifted=False)
chebyshev_polynomial_v = _chebyshev("v", lambda x: x * 2 - 1, shifted=False)
chebyshev_polynomial_w = _chebyshev("w", lambda x: x * 2 + 1, shifted=False)
shifted_chebyshev_polynomial_t = _chebyshev("t", _itself, shifted=True)
shifted_chebyshev_polynomial_u = _chebyshev("u", lambda x: x * 2, shifted=True)
shifted_chebyshev_polynomial_v = _chebyshev("v", lambda x: x * 2 - 1, shifted=True)
shifted_chebyshev_polynomial_w = _chebyshev("w", lambda x: x * 2 + 1, shifted=True)
hermite_polynomial_h = _family(
    "hermite_polynomial_h",
    "Hermite polynomial of physics",
    lambda x: x * 2,
    lambda x, k, last, before: x * 2 * last - before * (2 * k),
    shifted=False,
)
hermite_polynomial_he = _family(
    "hermite_polynomial_he",
    "Hermite polynomial of probability",
    _itself,
    lambda x, k, last, before: x * last - before * k,
    shifted=False,
)
laguerre_polynomial_l = _family(
    "laguerre_polynomial_l",
    "Laguerre polynomial",
    lambda x: 1 - x,
    lambda x, k, last, before: ((2 * k + 1 - x) * last - before * k) / (k + 1),
    shifted=False,
)
legendre_polynomial_p = _family(
    "legendre_polynomial_p",
    "Legendre polynomial",
    _itself,
    lambda x, k, last, before: (x * (2 * k + 1) * last - before * k) / (k + 1),
    shifted=False,
)
