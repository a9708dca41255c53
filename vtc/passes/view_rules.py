"""Rules of ``canonicalize`` and ``fold`` about ops that move data: views, padding, sums of repeats,
casts.

All are exact, but that a sum of repeats is rounded once.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import cast

import numpy as np

from vtc.ir.dims import Size
from vtc.ir.op import Op
from vtc.ir.ops.bitcast import Bitcast
from vtc.ir.ops.block import DynamicSlice, DynamicUpdate, SliceUpdate
from vtc.ir.ops.contract import Matmul
from vtc.ir.ops.elementwise import Cast, Elementwise
from vtc.ir.ops.expr import Expr
from vtc.ir.ops.fill import Concat, Pad, Tril, Triu
from vtc.ir.ops.reduce import Max, Min, Prod, Sum
from vtc.ir.ops.view import Expand, Flip, Permute, Reshape, Slice
from vtc.ir.rules import Rule
from vtc.ir.types import DType
from vtc.passes.expr_rules import computed, constant, made_by, simplify, source, sources


@simplify(Reshape)
def reshape(op: Reshape, out: Expr, x: Expr) -> Expr | None:
    """Of the same shape; of a reshape; under an expand where only axes of size 1 come and go."""
    if x.shape == op.shape:
        return x
    if made_by(x, Reshape):
        return source(x).reshape(op.shape)
    if inner := made_by(x, Expand):
        return _reshape_expand(inner, x, op.shape)
    return None


def _reshape_expand(inner: Expand, x: Expr, shape: tuple[Size, ...]) -> Expr | None:
    old = [a for a, s in enumerate(x.shape) if s != 1]
    new = [a for a, s in enumerate(shape) if s != 1]
    if [x.shape[a] for a in old] != [shape[a] for a in new]:
        return None
    axes = tuple(b for a, b in zip(old, new, strict=True) if a in inner.axes)
    kept = [s for a, s in enumerate(shape) if a not in axes]
    return source(x).reshape(kept).expand(axes, [shape[a] for a in axes])


@simplify(Permute)
def permute(op: Permute, out: Expr, x: Expr) -> Expr | None:
    """The identity; of a permute; of an expand; of axes of size 1 only."""
    if op.axes == tuple(range(x.rank)):
        return x
    if inner := made_by(x, Permute):
        return source(x).permute([inner.axes[a] for a in op.axes])
    if inner_expand := made_by(x, Expand):
        return _permute_expand(inner_expand, x, op.axes)
    wide = [a for a in op.axes if x.shape[a] != 1]
    return x.reshape(out.shape) if wide == sorted(wide) else None


def _permute_expand(inner: Expand, x: Expr, axes: tuple[int, ...]) -> Expr:
    kept = [a for a in range(x.rank) if a not in inner.axes]
    order = [kept.index(a) for a in axes if a not in inner.axes]
    inserted = [i for i, a in enumerate(axes) if a in inner.axes]
    return source(x).permute(order).expand(inserted, [x.shape[axes[i]] for i in inserted])


@simplify(Expand)
def expand(op: Expand, out: Expr, x: Expr) -> Expr | None:
    """By nothing but axes of size 1; of an expand."""
    if all(s == 1 for s in op.sizes):
        return x.reshape(out.shape)
    if inner := made_by(x, Expand):
        # Where the axes of x are in the result: the places the outer expand leaves free.
        places = [a for a in range(out.rank) if a not in op.axes]
        sizes = dict(zip(op.axes, op.sizes, strict=True))
        sizes.update({places[a]: s for a, s in zip(inner.axes, inner.sizes, strict=True)})
        axes = sorted(sizes)
        return source(x).expand(axes, [sizes[a] for a in axes])
    return None


@simplify(Slice)
def slice_(op: Slice, out: Expr, x: Expr) -> Expr | None:
    """Of everything; of a slice; of exactly what was padded or written."""
    if out.shape == x.shape and not any(op.starts):
        return x
    if inner := made_by(x, Slice):
        return _slice_slice(op, inner, source(x))
    plain = all(k == 1 for k in op.steps)
    if pad := made_by(x, Pad):
        cut = plain and all(i == 0 for _, _, i in pad.pads)
        same = op.starts == tuple(low for low, _, _ in pad.pads)
        return source(x) if cut and same and out.shape == source(x).shape else None
    if update := made_by(x, SliceUpdate):
        value = source(x, 1)
        same = (op.starts, op.steps, out.shape) == (update.starts, update.steps, value.shape)
        return value if same else None
    return None


def _slice_slice(op: Slice, inner: Slice, x: Expr) -> Expr:
    starts, stops, steps = [], [], []
    outer = zip(op.starts, op.stops, op.steps, strict=True)
    for (start, stop, step), first, stride in zip(outer, inner.starts, inner.steps, strict=True):
        starts.append(first + start * stride)
        stops.append(starts[-1] if stop == start else first + (stop - 1) * stride + 1)
        steps.append(step * stride)
    return x.op("slice", starts=tuple(starts), stops=tuple(stops), steps=tuple(steps))


@simplify(Pad)
def pad(op: Pad, out: Expr, x: Expr) -> Expr | None:
    """By nothing; of a pad with the same value."""
    if all(p == (0, 0, 0) for p in op.pads):
        return x
    inner = made_by(x, Pad)
    if not inner or not _same(inner.value, op.value):
        return None
    if any(i for _, _, i in (*op.pads, *inner.pads)):
        return None
    pairs = zip(op.pads, inner.pads, strict=True)
    pads = tuple((a[0] + b[0], a[1] + b[1], 0) for a, b in pairs)
    return source(x).op("pad", pads=pads, value=op.value)


@simplify(Flip)
def flip(op: Flip, out: Expr, x: Expr) -> Expr | None:
    """Of axes of size 1; of a flip."""
    axes = {a for a in op.axes if x.shape[a] != 1}
    if len(axes) < len(op.axes):
        return x.op("flip", axes=tuple(sorted(axes))) if axes else x
    if inner := made_by(x, Flip):
        axes ^= set(inner.axes)
        return source(x).op("flip", axes=tuple(sorted(axes))) if axes else source(x)
    return None


@simplify(Concat)
def concat(op: Concat, out: Expr, *parts: Expr) -> Expr | None:
    """Of one part; of empty parts; of concats; of neighbouring slices, which is one slice."""
    if len(parts) == 1:
        return parts[0]
    kept = [p for p in parts if p.shape[op.axis] != 0]
    if len(kept) < len(parts):
        return _concat(op, kept) if kept else parts[0]
    if any(made_by(p, Concat) == op for p in parts):
        flat = [q for p in parts for q in (sources(p) if made_by(p, Concat) == op else (p,))]
        return _concat(op, flat)
    return _concat_slices(op, parts)


def _concat(op: Concat, parts: Sequence[Expr]) -> Expr:
    return parts[0].apply(op, *parts[1:]) if len(parts) > 1 else parts[0]


def _concat_slices(op: Concat, parts: Sequence[Expr]) -> Expr | None:
    cuts = [made_by(p, Slice) for p in parts]
    first, last = cuts[0], cuts[-1]
    if first is None or last is None or first.steps[op.axis] != 1:
        return None
    whole = source(parts[0])
    at = first.starts[op.axis]
    for cut, p in zip(cuts, parts, strict=True):
        if cut is None or source(p).value is not whole.value or cut.starts[op.axis] != at:
            return None
        if _but(cut, op.axis) != _but(first, op.axis):
            return None
        at = cut.stops[op.axis]
    stops = tuple(last.stops[a] if a == op.axis else s for a, s in enumerate(first.stops))
    return whole.op("slice", starts=first.starts, stops=stops, steps=first.steps)


def _but(cut: Slice, axis: int) -> list[tuple[Size, Size, int]]:
    found = list(zip(cut.starts, cut.stops, cut.steps, strict=True))
    found[axis] = (0, 0, cut.steps[axis])
    return found


@simplify(Reshape, Permute, Expand, Slice, Flip)
def move_full(op: Op, out: Expr, x: Expr) -> Expr | None:
    """A view of a constant is the constant in another shape."""
    c = constant(x)
    return None if c is None else out.like(c)


@simplify(Pad)
def pad_full(op: Pad, out: Expr, x: Expr) -> Expr | None:
    """A constant padded with itself."""
    c = constant(x)
    return out.like(c) if c is not None and _same(c, op.value) else None


@simplify(Tril, Triu)
def triangle_full(op: Tril | Triu, out: Expr, x: Expr) -> Expr | None:
    """A triangle of zeros."""
    return x if constant(x) == 0 else None


@simplify(Elementwise)
def before_repeat(op: Elementwise, out: Expr, *inputs: Expr) -> Expr | None:
    """Of operands that repeat alike, or gain axes of size 1 alike: done before they do."""
    if not any(type(x.value.op) in (Expand, Reshape) for x in inputs):
        return None
    views = [x for x in inputs if constant(x) is None]
    view = views[0].value.op
    if any(v.value.op != view for v in views):
        return None
    first = source(views[0]).shape
    if any(source(v).shape != first for v in views):
        return None
    if isinstance(view, Reshape) and not _adds_ones(first, view.shape):
        return None
    before = [source(x) if (c := constant(x)) is None else x.full(first, c) for x in inputs]
    return before[0].apply(op, *before[1:], hint=out.value.name).apply(view)


def _adds_ones(before: tuple[Size, ...], after: tuple[Size, ...]) -> bool:
    wide = [s for s in before if s != 1] == [s for s in after if s != 1]
    return wide and len(before) < len(after)


@simplify(Cast)
def cast_(op: Cast, out: Expr, x: Expr) -> Expr | None:
    """To the same dtype; of a constant; after a cast that lost nothing."""
    if x.dtype is op.dtype:
        return x
    if constant(x) is not None:
        return computed(op, out, x)
    if made_by(x, Cast) and lossless(source(x).dtype, x.dtype):
        return source(x).cast(op.dtype)
    return None


@simplify(Bitcast)
def bitcast(op: Bitcast, out: Expr, x: Expr) -> Expr | None:
    """To the same dtype; of a bitcast."""
    if x.dtype is op.dtype:
        return x
    if made_by(x, Bitcast):
        first = source(x)
        if first.tensor == out.tensor:
            return first
        same = first.dtype is not op.dtype and op.infer(first.tensor) == out.tensor
        return first.apply(op) if same else None
    return None


def lossless(a: DType, b: DType) -> bool:
    """Whether every value of ``a`` is one of ``b``."""
    if a is b or a.kind == "bool":
        return True
    match a.kind, b.kind:
        case ("float", "float"):
            return _DIGITS[a.name] <= _DIGITS[b.name] and _EXPONENT[a.name] <= _EXPONENT[b.name]
        case ("int", "int"):
            return bool(np.can_cast(a.numpy, b.numpy, "safe"))
        case ("int", "float"):
            return 8 * a.itemsize - (a.name != "u8") <= _DIGITS[b.name]
    return False


_DIGITS = {"f8e5m2": 3, "f8e4m3": 4, "bf16": 8, "f16": 11, "f32": 24, "f64": 53}
_EXPONENT = {"f8e5m2": 5, "f8e4m3": 4, "bf16": 8, "f16": 5, "f32": 8, "f64": 11}


@simplify(Matmul)
def matmul(op: Matmul, out: Expr, x: Expr, y: Expr) -> Expr | None:
    """A transposed operand becomes a flag."""
    flip_x, flip_y = _transposes(x), _transposes(y)
    if not flip_x and not flip_y:
        return None
    x, y = source(x) if flip_x else x, source(y) if flip_y else y
    return x.matmul(y, transpose_x=op.transpose_x != flip_x, transpose_y=op.transpose_y != flip_y)


def _transposes(x: Expr) -> bool:
    inner = made_by(x, Permute)
    front = tuple(range(x.rank - 2))
    return inner is not None and inner.axes == (*front, x.rank - 1, x.rank - 2)


@simplify(Sum, Prod, Max, Min)
def reduce_ones(op: Sum | Prod | Max | Min, out: Expr, x: Expr) -> Expr | None:
    """Over axes of size 1."""
    if not op.axes:
        return x
    ones = [a for a in op.axes if x.shape[a] == 1]
    if not ones:
        return None
    kept = [a for a in range(x.rank) if a not in ones]
    axes = tuple(i for i, a in enumerate(kept) if a in op.axes)
    x = x.reshape([x.shape[a] for a in kept])
    return x.apply(type(op)(axes=axes)) if axes else x


@simplify(Sum, Max, Min)
def reduce_expand(op: Sum | Max | Min, out: Expr, x: Expr) -> Expr | None:
    """Over axes along which the operand repeats: a multiple, or the operand itself."""
    inner = made_by(x, Expand)
    if inner is None:
        return None
    gone = [a for a in op.axes if a in inner.axes and isinstance(x.shape[a], int)]
    count = prod(cast("int", x.shape[a]) for a in gone)
    if not gone or count == 0:
        return None
    kept = [a for a in range(x.rank) if a not in gone]
    inserted = [i for i, a in enumerate(kept) if a in inner.axes]
    y = source(x)
    if isinstance(op, Sum):  # a narrow float can neither hold the count nor, maybe, the sum
        y = y.cast(y.dtype.accumulate)
    y = y.expand(inserted, [x.shape[kept[i]] for i in inserted])
    axes = tuple(i for i, a in enumerate(kept) if a in op.axes)
    y = y.apply(type(op)(axes=axes)) if axes else y
    return (y * count).cast(out.dtype) if isinstance(op, Sum) else y


@simplify(DynamicSlice)
def dynamic_slice(op: DynamicSlice, out: Expr, x: Expr, *starts: Expr) -> Expr | None:
    """Of everything; of what was just written there."""
    if op.sizes == x.shape:
        return x
    if not made_by(x, DynamicUpdate) or op.sizes != source(x, 1).shape:
        return None
    places = [i.value for i in starts]
    return source(x, 1) if places == [i.value for i in sources(x)[2:]] else None


@simplify(DynamicUpdate, SliceUpdate)
def update(
    op: DynamicUpdate | SliceUpdate, out: Expr, x: Expr, value: Expr, *starts: Expr
) -> Expr | None:
    """Of everything."""
    return value if value.shape == x.shape else None


def _same(a: float, b: float) -> bool:
    """Equal constants: zeros of one sign, and NaN like NaN."""
    return repr(float(a)) == repr(float(b))


RULES: tuple[Rule, ...] = (
    bitcast,
    move_full,
    reshape,
    permute,
    expand,
    slice_,
    pad,
    pad_full,
    triangle_full,
    flip,
    concat,
    cast_,
    before_repeat,
    matmul,
    reduce_ones,
    reduce_expand,
    dynamic_slice,
    update,
)
