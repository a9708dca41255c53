"""How people spell softmax and activations: patterns for ``recognize``, over canonical programs."""

from __future__ import annotations

import math
from typing import Any

from vtc.ir.graph import Node
from vtc.ir.ops.activation import Gelu, LogSoftmax, Sigmoid, Silu, Softmax
from vtc.ir.ops.elementwise import Add, Div, Erf, Exp, Log, Mul, Neg, Pow, Sub, Tanh
from vtc.ir.ops.fill import Full
from vtc.ir.ops.reduce import Max, Sum
from vtc.ir.ops.view import Expand
from vtc.ir.rules import Match, Pattern, Rewriter, anything, either_way, of, spelled

CLOSE = 1e-4
"""How far, relatively, a constant may be from that of the formula: people round them."""

x = anything()


def about(m: Match, *values: tuple[Pattern[Full], float]) -> bool:
    """Whether each constant that was matched is about what it is paired with."""
    pairs = ((m.op(p).value, v) for p, v in values if p in m.bound)
    return all(math.isclose(found, v, rel_tol=CLOSE) for found, v in pairs)


# softmax

_top = of(Max, x)
_top_wide = of(Expand, _top)
_shifted = of(Sub, x, _top_wide)
_sums: list[Pattern[Any]] = [of(Sum, _e) for _e in (of(Exp, _shifted), of(Exp, x))]
_sums_wide = [of(Expand, s) for s in _sums]
_logs_wide = [of(Expand, of(Log, s)) for s in _sums]


def _axis(m: Match) -> int | None:
    """The one axis that everything is reduced and repeated along."""
    patterns: tuple[Pattern[Any], ...] = (_top, _top_wide, *_sums, *_sums_wide, *_logs_wide)
    places = {m.op(p).axes for p in patterns if p in m.bound}
    axes = places.pop()
    return None if places or len(axes) != 1 else axes[0]


@spelled(*(of(Div, s.inputs[0], wide) for s, wide in zip(_sums, _sums_wide, strict=True)))
def softmax(b: Rewriter, m: Match) -> Node | None:
    """``exp(x) / sum(exp(x))``, of ``x`` or of ``x - max(x)``."""
    axis = _axis(m)
    return None if axis is None else b.apply(Softmax(axis=axis), m[x])


@spelled(*(of(Sub, e, wide) for e, wide in zip((_shifted, x), _logs_wide, strict=True)))
def log_softmax(b: Rewriter, m: Match) -> Node | None:
    """``x - log(sum(exp(x)))``, of ``x`` or of ``x - max(x)``."""
    axis = _axis(m)
    return None if axis is None else b.apply(LogSoftmax(axis=axis), m[x])


# sigmoid and silu

_one, _other_one = of(Full), of(Full)
_below = of(Add, of(Exp, of(Neg, x)), _one)


@spelled(of(Div, _other_one, _below))
def sigmoid(b: Rewriter, m: Match) -> Node | None:
    """``1 / (1 + exp(-x))``."""
    ones = about(m, (_one, 1.0), (_other_one, 1.0))
    return b.apply(Sigmoid(), m[x]) if ones else None


@spelled(
    either_way(Mul, x, of(Sigmoid, x)),
    either_way(Mul, x, of(Div, _other_one, _below)),
    of(Div, x, _below),
)
def silu(b: Rewriter, m: Match) -> Node | None:
    """``x * sigmoid(x)``."""
    ones = about(m, (_one, 1.0), (_other_one, 1.0))
    return b.apply(Silu(), m[x]) if ones else None


# gelu

_half, _three, _cubic, _scale = of(Full), of(Full), of(Full), of(Full)
_root_two, _root_half = of(Full), of(Full)
_square = of(Mul, x, x)
_cubes = (either_way(Mul, _square, x), of(Pow, x, _three))
_polynomials: tuple[Pattern[Any], ...] = (
    *(either_way(Add, x, of(Mul, cube, _cubic)) for cube in _cubes),
    either_way(Mul, x, of(Add, of(Mul, _square, _cubic), _one)),
    either_way(Mul, x, of(Add, either_way(Mul, x, of(Mul, x, _cubic)), _one)),
)
_tanhs = tuple(of(Tanh, of(Mul, p, _scale)) for p in _polynomials)
_erfs = (of(Erf, of(Mul, x, _root_half)), of(Erf, of(Div, x, _root_two)))


def _halves(f: Pattern[Tanh] | Pattern[Erf]) -> tuple[Pattern[Mul], ...]:
    """``x * (1 + f) / 2`` in the orders it is written."""
    share = of(Add, f, _one)
    return (
        either_way(Mul, of(Mul, x, _half), share),
        either_way(Mul, x, of(Mul, share, _half)),
        of(Mul, either_way(Mul, x, share), _half),
    )


def _constants(m: Match) -> bool:
    return about(
        m,
        (_half, 0.5),
        (_one, 1.0),
        (_three, 3.0),
        (_cubic, 0.044715),
        (_scale, math.sqrt(2.0 / math.pi)),
        (_root_half, math.sqrt(0.5)),
        (_root_two, math.sqrt(2.0)),
    )


@spelled(*(p for f in _erfs for p in _halves(f)))
def gelu(b: Rewriter, m: Match) -> Node | None:
    """``x * (1 + erf(x / sqrt(2))) / 2``."""
    return b.apply(Gelu(approximate="none"), m[x]) if _constants(m) else None


@spelled(*(p for f in _tanhs for p in _halves(f)))
def gelu_tanh(b: Rewriter, m: Match) -> Node | None:
    """``x * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 * x**3))) / 2``."""
    return b.apply(Gelu(approximate="tanh"), m[x]) if _constants(m) else None
