"""How people spell norms: patterns for ``recognize``, over canonical programs.

The bare norm is found first; a product with a repeated weight and a sum with a repeated bias then
join it, one at a time.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from vtc.ir.dims import Size, product
from vtc.ir.graph import Node
from vtc.ir.ops.elementwise import Add, Div, Mul, Rsqrt, Sqrt, Sub
from vtc.ir.ops.fill import Full
from vtc.ir.ops.norm import LayerNorm, Norm, RmsNorm
from vtc.ir.ops.reduce import Sum
from vtc.ir.ops.view import Expand
from vtc.ir.rules import Match, Pattern, Rewriter, anything, either_way, of, spelled
from vtc.passes.activation_patterns import about

x = anything()
_eps = of(Full)


class Mean:
    """Patterns of the mean of a value: a sum times a constant, or divided by one."""

    def __init__(self, of_what: Pattern[Any]) -> None:
        self.total = of(Sum, of_what)
        self.share, self.count = of(Full), of(Full)
        self.patterns = (of(Mul, self.total, self.share), of(Div, self.total, self.count))

    def axes(self, m: Match) -> tuple[int, ...] | None:
        """The axes, if the constant is their size and they are the last ones."""
        axes = m.op(self.total).axes
        shape = m[self.total].inputs[0].tensor.shape
        n: Size = product(shape[a] for a in axes)
        trailing = axes == tuple(range(len(shape) - len(axes), len(shape)))
        if not isinstance(n, int) or n == 0 or not trailing:
            return None
        right = about(m, (self.share, 1.0 / n), (self.count, float(n)))
        return axes if right else None


def _normalised(value: Pattern[Any], mean: Mean) -> list[tuple[Pattern[Any], Pattern[Expand]]]:
    """``value`` over the root of ``mean + eps``, and where that is repeated."""
    found: list[tuple[Pattern[Any], Pattern[Expand]]] = []
    for square in mean.patterns:
        inside = of(Add, square, _eps)
        inverse, root = of(Expand, of(Rsqrt, inside)), of(Expand, of(Sqrt, inside))
        found.append((either_way(Mul, value, inverse), inverse))
        found.append((of(Div, value, root), root))
    return found


_square = Mean(of(Mul, x, x))
_rms = _normalised(x, _square)


@spelled(*(p for p, _ in _rms))
def rms_norm(b: Rewriter, m: Match) -> Node | None:
    """``x * rsqrt(mean(x * x) + eps)``."""
    axes = _square.axes(m)
    wide = next(w for _, w in _rms if w in m.bound)
    if axes is None or m.op(wide).axes != axes:
        return None
    return b.apply(RmsNorm(count=len(axes), eps=float(m.op(_eps).value)), m[x])


_mean = Mean(x)
_means_wide = [of(Expand, p) for p in _mean.patterns]
_layer: list[tuple[Pattern[Any], Pattern[Expand], Pattern[Expand], Mean]] = []
for _wide in _means_wide:
    _centred = of(Sub, x, _wide)
    _variance = Mean(of(Mul, _centred, _centred))
    _layer += [(p, w, _wide, _variance) for p, w in _normalised(_centred, _variance)]


@spelled(*(p for p, *_ in _layer))
def layer_norm(b: Rewriter, m: Match) -> Node | None:
    """``(x - mean(x)) * rsqrt(var(x) + eps)``."""
    _, wide, mean_wide, variance = next(found for found in _layer if found[1] in m.bound)
    axes = _mean.axes(m)
    if axes is None or variance.axes(m) != axes:
        return None
    if m.op(wide).axes != axes or m.op(mean_wide).axes != axes:
        return None
    return b.apply(LayerNorm(count=len(axes), eps=float(m.op(_eps).value)), m[x])


_bare, _weighted = of(Norm), of(LayerNorm)  # type: ignore[type-abstract]
_row = anything()
_rows = of(Expand, _row)


@spelled(either_way(Mul, _bare, _rows))
def weight(b: Rewriter, m: Match) -> Node | None:
    """A norm times a weight."""
    return _joined(b, m, _bare, arity=1)


@spelled(either_way(Add, _weighted, _rows))
def bias(b: Rewriter, m: Match) -> Node | None:
    """A layer norm with a weight, plus a bias."""
    return _joined(b, m, _weighted, arity=2)


def _joined(b: Rewriter, m: Match, norm: Pattern[Any], *, arity: int) -> Node | None:
    """The norm with the row as one input more, where it is of the shape that is normalised."""
    op, inputs = m.op(norm), m[norm].inputs
    leading = tuple(range(m.root.tensor.rank - op.count))
    if len(inputs) != arity or m.op(_rows).axes != leading or not b.only_there([m[norm]]):
        return None
    return b.apply(replace(op), *inputs, m[_row])
