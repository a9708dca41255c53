"""Compute what is constant, and use starts that are constant.

    a: f32[4] = full(shape=(4,), value=9.0, dtype=f32)
    b: f32[4] = sqrt(a)               ==>     b: f32[4] = full(shape=(4,), value=3.0, dtype=f32)

Only constants that are one number everywhere are folded, in the op's own dtype and rounding.
"""

from __future__ import annotations

from dataclasses import replace
from math import prod
from typing import cast

import numpy as np

from vtc.ir.dims import Size
from vtc.ir.graph import Program
from vtc.ir.ops.block import DynamicSlice, DynamicUpdate, SliceUpdate
from vtc.ir.ops.elementwise import Elementwise
from vtc.ir.ops.expr import Expr
from vtc.ir.ops.fill import Concat, Full, Iota
from vtc.ir.ops.reduce import Max, Min, Sum
from vtc.ir.rules import rewrite
from vtc.passes.expr_rules import computed, constant, made_by, number, simplify
from vtc.passes.pipeline import Context
from vtc.passes.splice import each_graph


def fold(program: Program, context: Context) -> Program:
    """See the module."""
    del context
    with np.errstate(all="ignore"):  # infinities and NaNs are what the program gives too
        return each_graph(program, lambda g: rewrite(g, RULES))


@simplify(Elementwise)
def elementwise(op: Elementwise, out: Expr, *inputs: Expr) -> Expr | None:
    """Of constants."""
    return computed(op, out, *inputs) if all(made_by(x, Full) for x in inputs) else None


@simplify(Sum)
def total(op: Sum, out: Expr, x: Expr) -> Expr | None:
    """Of a constant: a multiple, rounded once."""
    counts = [x.shape[a] for a in op.axes]
    c = constant(x)
    if c is None or not all(isinstance(n, int) for n in counts):
        return None
    count = prod(cast("list[int]", counts))
    if x.dtype.kind == "int":
        wrapped = number(c, x.dtype) * np.array(count).astype(x.dtype.numpy)
        return out.like(wrapped.item())
    exact = float(number(c, x.dtype)) * count if count else 0.0
    return out.like(number(exact, x.dtype).item())


@simplify(Max, Min)
def extreme(op: Max | Min, out: Expr, x: Expr) -> Expr | None:
    """Of a constant."""
    c = constant(x)
    return None if c is None else out.like(c)


@simplify(Concat)
def concat(op: Concat, out: Expr, *parts: Expr) -> Expr | None:
    """Of one constant."""
    ops = [made_by(p, Full) for p in parts]
    if None in ops or len({replace(f, shape=()) for f in ops if f}) != 1:
        return None
    return out.like(cast("Full", ops[0]).value)


@simplify(Iota)
def iota(op: Iota, out: Expr) -> Expr | None:
    """Along an axis of size 1."""
    return out.zeros() if op.shape[op.axis] == 1 else None


@simplify(DynamicSlice)
def dynamic_slice(op: DynamicSlice, out: Expr, x: Expr, *starts: Expr) -> Expr | None:
    """From constant starts."""
    at = _starts(x.shape, op.sizes, starts)
    if at is None:
        return None
    stops = tuple(a + n for a, n in zip(at, op.sizes, strict=True))
    return x.op("slice", starts=at, stops=stops, steps=(1,) * x.rank)


@simplify(DynamicUpdate)
def dynamic_update(
    op: DynamicUpdate, out: Expr, x: Expr, value: Expr, *starts: Expr
) -> Expr | None:
    """At constant starts."""
    at = _starts(x.shape, value.shape, starts)
    return None if at is None else x.apply(SliceUpdate(starts=at, steps=(1,) * x.rank), value)


RULES = (elementwise, total, extreme, concat, iota, dynamic_slice, dynamic_update)


def _starts(
    shape: tuple[Size, ...], sizes: tuple[Size, ...], starts: tuple[Expr, ...]
) -> tuple[Size, ...] | None:
    """Where a block that must fit begins, if that is known."""
    found: list[Size] = []
    for whole, size, start in zip(shape, sizes, starts, strict=True):
        c = constant(start)
        room = whole - size
        if room == 0 or (c is not None and c <= 0):
            found.append(0)
        elif c is None or not isinstance(room, int):
            return None
        else:
            found.append(min(int(c), room))
    return tuple(found)
