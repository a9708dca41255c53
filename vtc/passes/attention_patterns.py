"""How people spell attention: a pattern for ``recognize``, over canonical programs.

s: f32[H, T, S] = matmul(q, k, transpose_y=True)
h: f32[H, T, S] = mul(s, c)                  # or div, or nothing
m: f32[H, T, S] = where(mask, h, minus_inf)  # or add(h, mask), or nothing, or causal
p: f32[H, T, S] = softmax(m, axis=2)
o: f32[H, T, E] = matmul(p, v)
"""

from __future__ import annotations

import math
from typing import Any

from vtc.ir.graph import Node
from vtc.ir.ops.activation import Softmax
from vtc.ir.ops.attention import ScaledDotProductAttention
from vtc.ir.ops.contract import Matmul
from vtc.ir.ops.control import Item
from vtc.ir.ops.elementwise import Add, Cast, Div, Mul
from vtc.ir.ops.fill import Full, Iota, Tril
from vtc.ir.ops.logic import Eq, Ge, LogicalNot, Lt, Ne, Where
from vtc.ir.ops.view import Expand
from vtc.ir.rules import Match, Pattern, Rewriter, anything, either_way, of, spelled

q, k, v = anything(), anything(), anything()
_factor, _divisor, _never = of(Full), of(Full), of(Full)
_added, _where, _where_not = anything(), anything(), anything()
_raw = of(Matmul, q, k, transpose_x=False, transpose_y=True)


def _masked(scores: Pattern[Any]) -> tuple[Pattern[Any], ...]:
    return (
        of(Where, _where, scores, _never),
        of(Where, _where_not, _never, scores),
        either_way(Add, scores, _added),
        scores,
    )


_scaled: tuple[Pattern[Any], ...] = (of(Mul, _raw, _factor), of(Div, _raw, _divisor), _raw)
_softmaxes = [of(Softmax, s) for scores in _scaled for s in _masked(scores)]


@spelled(*(of(Matmul, p, v, transpose_x=False, transpose_y=False) for p in _softmaxes))
def attention(b: Rewriter, m: Match) -> Node | None:
    """``softmax(q @ k.T * scale + mask) @ v``."""
    last = m[_raw].tensor.rank - 1
    softmax = next(p for p in _softmaxes if p in m.bound)
    if m.op(softmax).axis != last:
        return None
    if _never in m.bound and m.op(_never).value != -math.inf:
        return None
    causal = _is_causal(m)
    masks = [] if causal else _masks(b, m)
    op = ScaledDotProductAttention(is_causal=causal, scale=_scale(m))
    return b.apply(Item(index=0), b.apply(op, m[q], m[k], m[v], *masks))


def _scale(m: Match) -> float:
    if _factor in m.bound:
        return float(m.op(_factor).value)
    return 1.0 / float(m.op(_divisor).value) if _divisor in m.bound else 1.0


def _masks(b: Rewriter, m: Match) -> list[Node]:
    if _added in m.bound:
        return [_unrepeated(m[_added])]
    if _where in m.bound:
        return [_unrepeated(m[_where])]
    return [b.apply(LogicalNot(), _unrepeated(m[_where_not]))] if _where_not in m.bound else []


def _unrepeated(mask: Node) -> Node:
    """What is repeated over leading axes, which attention does by itself."""
    op = mask.op
    leading = isinstance(op, Expand) and op.axes == tuple(range(len(op.axes)))
    return mask.inputs[0] if leading else mask


def _is_causal(m: Match) -> bool:
    """Whether the mask is the lower triangle, or what is masked the upper one."""
    if _where in m.bound:
        return _is_lower(_unrepeated(m[_where]))
    return _where_not in m.bound and _is_upper(_unrepeated(m[_where_not]))


def _is_lower(mask: Node) -> bool:
    match mask.op:
        case Ge():
            return _compares_places(mask)
        case Ne():
            triangle, zero = mask.inputs
            return isinstance(zero.op, Full) and zero.op.value == 0 and _is_triangle(triangle)
        case Cast():
            return _is_triangle(mask.inputs[0])
    return _is_triangle(mask)


def _is_upper(mask: Node) -> bool:
    match mask.op:
        case Lt():
            return _compares_places(mask)
        case Eq():
            triangle, zero = mask.inputs
            return isinstance(zero.op, Full) and zero.op.value == 0 and _is_triangle(triangle)
        case LogicalNot():
            return _is_lower(mask.inputs[0])
    return False


def _compares_places(mask: Node) -> bool:
    """Whether the row of each element is compared with its column."""
    row, column = (i.op for i in mask.inputs)
    if not isinstance(row, Iota) or not isinstance(column, Iota):
        return False
    rank = mask.tensor.rank
    return (row.axis, column.axis) == (rank - 2, rank - 1)


def _is_triangle(x: Node) -> bool:
    """Whether ``x`` is a lower triangle of one number that is not zero."""
    if not isinstance(x.op, Tril) or x.op.diagonal != 0:
        return False
    whole = x.inputs[0].op
    return isinstance(whole, Full) and whole.value != 0
