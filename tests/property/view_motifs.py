"""Motifs that move elements: each takes the :class:`graphs.Author` and a value, and gives one."""

import math

from vtc.ir.op import REGISTRY
from vtc.ir.ops.expr import Expr


def apply(a, name, *inputs, **attributes) -> Expr:
    return Expr(a.b, a.b.apply(REGISTRY[name](**attributes), *(i.value for i in inputs)))


def view(a, x: Expr) -> Expr:
    made = a.choose((permute, reshape, expand, cut, pad, flip, concat, triangle, window, reshape))
    return made(a, x)


def permute(a, x: Expr) -> Expr:
    return apply(a, "permute", x, axes=tuple(int(k) for k in a.rng.permutation(x.rank)))


def reshape(a, x: Expr) -> Expr:
    """Merge two axes, split one, drop or add one of size 1."""
    shape, kind = list(x.shape), a.rng.random()
    if kind < 0.4 and x.rank >= 2:
        k = int(a.rng.integers(0, x.rank - 1))
        shape[k : k + 2] = [shape[k] * shape[k + 1]]
    elif kind < 0.7 and x.rank in (1, 2, 3):
        k = int(a.rng.integers(0, x.rank))
        by = [d for d in (2, 3, 4, 5, 8, 16) if isinstance(shape[k], int) and shape[k] % d == 0]
        if by and shape[k]:
            d = a.choose(by)
            shape[k : k + 1] = [shape[k] // d, d] if a.chance(0.5) else [d, shape[k] // d]
    elif 1 in shape and a.chance(0.6):
        shape.remove(1)
    elif x.rank < 4:
        shape.insert(int(a.rng.integers(0, x.rank + 1)), 1)
    return x.reshape(shape)


def expand(a, x: Expr) -> Expr:
    count = a.number(x.tensor.numel)
    fits = [s for s in a.sizes if a.number(s) * count <= 1 << 14]
    if x.rank > 3 or not fits:
        return x
    axis = int(a.rng.integers(0, x.rank + 1))
    return apply(a, "expand", x, axes=(axis,), sizes=(a.choose(fits),))


def cut(a, x: Expr) -> Expr:
    starts, stops, steps = [], [], []
    for s in x.shape:
        plain = not isinstance(s, int) or s < 2 or a.chance(0.5)
        starts.append(0 if plain else int(a.rng.integers(0, s)))
        stops.append(s if plain else int(a.rng.integers(starts[-1], s + 1)))
        if not plain and stops[-1] == starts[-1] and a.chance(0.9):
            stops[-1] += 1
        steps.append(int(a.rng.integers(1, 3)) if a.chance(0.3) else 1)
    return apply(a, "slice", x, starts=tuple(starts), stops=tuple(stops), steps=tuple(steps))


def pad(a, x: Expr) -> Expr:
    pads = []
    for s in x.shape:
        some = a.chance(0.5) and a.number(s) < 70
        pads.append(tuple(int(k) for k in a.rng.integers(0, 3, 3)) if some else (0, 0, 0))
    value = {"float": a.choose((0.0, 0.0, 1.5, -math.inf)), "int": 0, "bool": False}[x.dtype.kind]
    return apply(a, "pad", x, pads=tuple(pads), value=value)


def flip(a, x: Expr) -> Expr:
    return apply(a, "flip", x, axes=tuple(sorted(a.axes(x)))) if x.rank else x


def concat(a, x: Expr) -> Expr:
    if not x.rank:
        return x
    return apply(a, "concat", x, a.like(x), axis=int(a.rng.integers(0, x.rank)))


def triangle(a, x: Expr) -> Expr:
    if x.rank < 2:
        return x
    return x.op(a.choose(("tril", "triu")), diagonal=int(a.rng.integers(-2, 3)))


def window(a, x: Expr) -> Expr:
    axis = [k for k, s in enumerate(x.shape) if isinstance(s, int) and s >= 5]
    if not axis or x.rank > 3 or x.dtype.kind == "bool":
        return x
    k, stride, dilation = a.choose(axis), int(a.rng.integers(1, 3)), int(a.rng.integers(1, 3))
    w = apply(a, "window", x, axis=k, size=3, stride=stride, dilation=dilation)
    if a.chance(0.5):
        return w
    return apply(a, "unwindow", w, axis=k, length=x.shape[k], stride=stride, dilation=dilation)
