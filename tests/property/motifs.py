"""What random graphs are written from: each motif adds a few nodes that belong together.

A motif takes the :class:`graphs.Author` and reads values of its graph, or new params.
TypeCheckError is how it says that the sizes at hand do not suit it.
"""

from view_motifs import apply, reshape, view

from vtc.ir.ops.expr import Expr
from vtc.ir.types import bf16, bool_, f16, f32, f64, i32, i64

SMOOTH = ("tanh", "sigmoid", "gelu", "silu", "sin", "cos", "erf", "neg", "abs", "relu", "sign")
ROUNDING = ("floor", "ceil", "trunc", "round")
BINARY = ("add", "sub", "mul", "maximum", "minimum", "add", "mul")
COMPARE = ("lt", "le", "gt", "ge", "eq", "ne")


def unary(a, x: Expr) -> Expr:
    """A function that keeps numbers small."""
    kind = a.rng.random()
    if kind < 0.6:
        name = a.choose(SMOOTH)
        return x.op(name, approximate=a.choose(("none", "tanh"))) if name == "gelu" else x.op(name)
    if kind < 0.7:
        return (x * 0.5 if a.chance(0.5) else x.tanh()).exp()
    if kind < 0.78:
        return (x * x + 0.25).op(a.choose(("sqrt", "rsqrt", "log")))
    if kind < 0.82:
        return (x * 4.0).op(a.choose(ROUNDING))
    if kind < 0.9:
        return x * a.choose((0.5, -1.0, 2.0, 1.0, 0.0)) + a.choose((0.0, 1.0, -0.5))
    return x / (x * x + 1.0)


def step(a, x: Expr) -> Expr:
    """One elementwise thing."""
    kind = a.rng.random()
    if kind < 0.45:
        return unary(a, x)
    y = a.like(x)
    if kind < 0.85:
        return x.op(a.choose(BINARY), y)
    if kind < 0.95:
        return x.op(a.choose(COMPARE), y).where(x, unary(a, y))
    return x / (y * y + 1.0)


def chain(a) -> None:
    x = a.pick()
    for _ in range(int(a.rng.integers(1, 7))):
        x = step(a, x)
        if a.chance(0.25):
            a.keep(x)
    a.keep(x)


def integers(a) -> None:
    x = a.pick("int")
    y = a.like(x)
    if a.chance(0.3):
        a.keep(x.op(a.choose(("floor_divide", "remainder")), y * y + 1))
    else:
        a.keep(x.op(a.choose(("add", "sub", "mul", "maximum", "minimum")), y))
    a.keep(x.op(a.choose(COMPARE), y))
    if a.chance(0.5) and x.rank:
        a.keep(x.op(a.choose(("sum", "max", "min")), axes=a.axes(x)))


def logic(a) -> None:
    x = a.pick("bool")
    y = a.like(x)
    z = x.op(a.choose(("logical_and", "logical_or", "logical_xor")), y)
    a.keep(z if a.chance(0.5) else ~z)
    if z.rank and a.chance(0.5):
        a.keep(z.op(a.choose(("max", "min")), axes=a.axes(z)))
    if a.chance(0.5):
        a.keep(z.cast(a.choose((i32, i64, *a.floats))))


def casts(a) -> None:
    """Not from float to int, which NumPy leaves open for what does not fit."""
    x = a.pick("float", "int", "bool")
    if x.dtype.kind == "float":
        to = a.choose((f16, bf16, f32, f64, bool_, i32))
        if to is i32:
            x = x.op("isnan").where(0.0, x).maximum(-50.0).minimum(50.0)
    else:
        to = a.choose((f16, bf16, f32, f64, i64, i32, bool_))
    a.keep(step(a, x.cast(to)) if to.kind == "float" else x.cast(to))


def views(a) -> None:
    x = a.pick("float", "float", "int", "bool")
    for _ in range(int(a.rng.integers(1, 4))):
        x = view(a, x)
        if a.chance(0.3):
            a.keep(x)
        if a.chance(0.4) and x.dtype.kind == "float":
            x = step(a, x)
    a.keep(x)


def reduce(a) -> None:
    x = a.pick("float", "float", "int", rank=1)
    axes = a.axes(x)
    if x.dtype.kind == "float" and a.chance(0.5):
        x = step(a, x)
    y = reduced(a, x, axes)
    a.keep(y)
    if y.dtype is x.dtype and a.chance(0.6):
        back = y.expand_like(x, axes)
        a.keep(x.op(a.choose(("sub", "mul", "maximum", "eq", "add")), back))
    if y.dtype.kind == "float" and a.chance(0.4):
        a.keep(step(a, y))


def reduced(a, x: Expr, axes) -> Expr:
    kind = a.rng.random()
    if kind < 0.12:
        return x.op(a.choose(("argmax", "argmin")), axis=axes[-1])
    if kind < 0.2 and x.dtype.kind == "float":
        return (x * 0.1 + 1.0).op("prod", axes=axes)
    return x.op(a.choose(("sum", "sum", "sum", "max", "min")), axes=axes)


def siblings(a) -> None:
    """Reductions of one value, or of functions of it, along the same axes."""
    x = a.pick(rank=1)
    axes = a.axes(x)
    for _ in range(int(a.rng.integers(2, 4))):
        y = a.choose((x, x * x, step(a, x), x * a.like(x)))
        a.keep(reduced(a, y, axes))
    if a.chance(0.4):
        others = a.axes(x)
        a.keep(x.sum(others))


def softmax_like(a) -> None:
    x = a.pick(rank=1)
    axes = a.axes(x)
    if a.chance(0.5):
        x = step(a, x)
    top = x.max(axes)
    e = (x - top.expand_like(x, axes)).exp()
    total = e.sum(axes)
    if a.chance(0.4):
        a.keep(total.log() + top)
    y = e / total.expand_like(x, axes)
    if a.chance(0.3):
        y = step(a, y)
    if a.chance(0.4):  # its backward
        g = a.like(y)
        dot = (g * y).sum(axes)
        a.keep((g - dot.expand_like(y, axes)) * y)
    a.keep(y)


def norm_like(a) -> None:
    x = a.pick(rank=1)
    axes = a.axes(x)
    if a.chance(0.4):
        x = x + a.like(x)
        a.keep(x)
    middle = x.mean(axes)
    c = x - middle.expand_like(x, axes) if a.chance(0.7) else x
    r = ((c * c).mean(axes) + 0.01).rsqrt()
    y = c * r.expand_like(x, axes)
    if a.chance(0.6):
        y = y * a.like(y) + a.like(y)
    if a.chance(0.4):
        a.keep(r)
    if a.chance(0.3):
        a.keep(middle)
    a.keep(y)


def two_spaces(a) -> None:
    """Reductions along different axes, one after the other."""
    x = a.pick(rank=2)
    first, second = a.axes(x, 2), a.axes(x, 2)
    y = x.sum(first).expand_like(x, first) * 0.1
    z = step(a, x + y)
    a.keep(z.op(a.choose(("sum", "max")), axes=second))
    if a.chance(0.5):
        a.keep(z)


def product(a) -> None:
    """A matrix product with what comes before and after."""
    x = a.pick(rank=2)
    if a.chance(0.2):  # longer than what is packed at a time
        x = a.param((a.choose((1, 4, 13, 40)), a.choose((257, 300, 520, 1030))))
    if a.chance(0.4):
        x = step(a, x)
    tx, ty = a.chance(0.3), a.chance(0.4)
    k = x.shape[-2 if tx else -1]
    n = a.choose(a.sizes)
    batch = x.shape[:-2]
    shape = (*batch, n, k) if ty else (*batch, k, n)
    count = 1
    for s in shape:
        count *= max(1, a.number(s))
    if count > 1 << 15:
        return
    w = a.param(shape, x.dtype)
    if batch and a.chance(0.5):
        w = a.param(shape[len(batch) :], x.dtype)
        w = apply(a, "expand", w, axes=tuple(range(len(batch))), sizes=batch)
    if a.chance(0.3):
        w = unary(a, w)
    y = x.op("matmul", w, transpose_x=tx, transpose_y=ty) * a.choose((1.0, 0.25))
    epilogue(a, y)


def epilogue(a, y: Expr) -> None:
    if a.chance(0.6):
        bias = a.param(y.shape[-1:], y.dtype)
        y = y + bias.expand_like(y, tuple(range(y.rank - 1)))
    for _ in range(int(a.rng.integers(0, 4))):
        if a.chance(0.3):
            a.keep(y)
        y = reshape(a, y) if a.chance(0.2) else step(a, y)
    a.keep(y)
    if a.chance(0.25):
        a.keep(reduced(a, y, a.axes(y)))


def square(a) -> None:
    """A value times itself, transposed."""
    x = a.pick(rank=2)
    flags = {"transpose_y": True} if a.chance(0.5) else {"transpose_x": True}
    a.keep(x.op("matmul", x, **flags) * 0.1)


def lookup(a) -> None:
    x = a.pick(rank=1)
    if a.chance(0.3):
        x = step(a, x)
    axis = int(a.rng.integers(0, x.rank))
    if a.chance(0.5):
        at = a.indices(a.shape(int(a.rng.integers(0, 3))), x.shape[axis])
        y = apply(a, "index", x, at, axes=(axis,))
    else:
        shape = [a.choose(a.sizes) if k == axis else s for k, s in enumerate(x.shape)]
        y = apply(a, "gather", x, a.indices(shape, x.shape[axis]), axis=axis)
    a.keep(y if a.chance(0.5) else step(a, y))


def write(a) -> None:
    x = a.pick(rank=1)
    axis = int(a.rng.integers(0, x.rank))
    shape = [a.choose(a.sizes) if k == axis else s for k, s in enumerate(x.shape)]
    at = a.indices(shape, x.shape[axis])
    src = a.param(shape, x.dtype)
    src = step(a, src) if a.chance(0.5) else src
    kind = a.rng.random()
    if kind < 0.4:
        a.keep(apply(a, "scatter_add", x, at, src, axis=axis))
    elif kind < 0.6:
        a.keep(apply(a, "scatter", x, at, src, axis=axis))
    else:
        rows = a.indices((a.choose(a.sizes),), x.shape[axis])
        value = a.param((*x.shape[:axis], *rows.shape, *x.shape[axis + 1 :]), x.dtype)
        op = {"axes": (axis,), "accumulate": a.chance(0.7)}
        a.keep(apply(a, "index_put", x, value, rows, **op))


def block(a) -> None:
    x = a.pick("float", "int", rank=1)
    sizes = tuple(max(1, s // 2) if isinstance(s, int) and s else s for s in x.shape)
    starts = [a.param((), i64) for _ in sizes]
    part = apply(a, "dynamic_slice", x, *starts, sizes=sizes)
    a.keep(part)
    value = step(a, part) if part.dtype.kind == "float" else part
    if a.chance(0.5):
        a.keep(apply(a, "dynamic_update", x, value, *starts))
    else:
        rank = len(sizes)
        a.keep(apply(a, "slice_update", x, value, starts=(0,) * rank, steps=(1,) * rank))


def attend(a) -> None:
    x = a.pick(rank=2, most=4)
    if x.rank == 4 and a.number(x.tensor.numel) > 1 << 12:
        return
    *batch, t, d = x.shape
    if a.number(t) > 70:
        return
    s = a.choose([s for s in a.sizes if a.number(s) <= 70] or [t])
    causal = a.chance(0.5)
    s = t if causal and a.chance(0.7) else s
    k = a.param((*batch, s, d), x.dtype)
    v = a.param((*batch, s, d if a.chance(0.7) else 4), x.dtype)
    masks = []
    if a.chance(0.3):
        mask = a.param((t, s), bool_) if a.chance(0.5) else a.param((1, s), x.dtype)
        masks.append(mask)
    q = step(a, x) if a.chance(0.3) else x
    found = apply(a, "scaled_dot_product_attention", q, k, v, *masks, is_causal=causal, scale=0.5)
    y = found.item(0)
    if a.chance(0.2):
        a.keep(found.item(1))
    if y.rank >= 3 and a.chance(0.5):
        order = (*range(y.rank - 3), y.rank - 2, y.rank - 3, y.rank - 1)
        y = apply(a, "permute", y, axes=order)
        y = y.reshape((*y.shape[:-2], y.shape[-2] * y.shape[-1]))
    a.keep(step(a, y) if a.chance(0.4) else y)


def composite(a) -> None:
    x = a.pick(rank=1)
    if a.chance(0.3):
        x = step(a, x)
    kind = a.choose(("softmax", "log_softmax", "layer_norm", "rms_norm", "dropout"))
    if kind in ("softmax", "log_softmax"):
        a.keep(x.op(kind, axis=int(a.rng.integers(0, x.rank))))
    elif kind == "dropout":
        state = a.param((2,), i64)
        y = x.op("dropout", state, p=0.25, offset=3)
        a.keep(y if isinstance(y.type, type(x.type)) else y.item(0))
    else:
        count = int(a.rng.integers(1, x.rank + 1))
        most = 3 if kind == "layer_norm" else 2
        extra = [a.param(x.shape[x.rank - count :], x.dtype) for _ in range(most - 1)]
        extra = extra[: int(a.rng.integers(0, most))]
        a.keep(x.op(kind, *extra, count=count, eps=0.01))


def loss(a) -> None:
    x = a.pick(rank=2, most=2)
    target = a.indices((x.shape[0],), x.shape[1]).cast(i64)
    smoothing = a.choose((0.0, 0.0, 0.1))
    kind = a.choose(("mean", "sum", "none"))
    op = {"reduction": kind, "label_smoothing": smoothing, "ignore_index": a.choose((-100, 1))}
    a.keep(x.op("cross_entropy", target, **op))


def rotary(a) -> None:
    d = 2 * int(a.rng.integers(1, 9))
    x = a.param((*a.shape(2), d))
    angle = a.param((x.shape[-2], d // 2), x.dtype)
    a.keep(x.op("rotary", angle.op("cos"), angle.op("sin")))


def draws(a) -> None:
    state = a.param((2,), i64)
    kind, shape = a.choose(("uniform", "normal", "bits")), a.shape()
    if kind == "bits":
        a.keep(state.op(kind, shape=shape, offset=5))
    else:
        dtype = a.choose(a.floats)
        a.keep(step(a, state.op(kind, shape=shape, dtype=dtype, offset=int(a.rng.integers(9)))))
    new = state.op("advance", count=7)
    if a.chance(0.5):
        a.updates.append((state, new))


def convolve(a) -> None:
    side, c, o = a.choose((5, 6, 8)), a.choose((1, 2, 4)), a.choose((1, 2, 4))
    x = a.param((a.choose((1, 2)), c, side, side))
    groups = 2 if c % 2 == 0 and o % 2 == 0 and a.chance(0.3) else 1
    w = a.param((o, c // groups, 3, a.choose((1, 3))), x.dtype)
    attributes = {"stride": (a.choose((1, 2)),) * 2, "padding": (1, a.choose((0, 1)))}
    bias = [a.param((o,), x.dtype)] if a.chance(0.5) else []
    y = x.op("conv2d", w, *bias, **attributes, dilation=(1, 1), groups=groups)
    y = step(a, y) if a.chance(0.6) else y
    a.keep(y)
    if a.chance(0.4):
        kind = a.choose(("max_pool2d", "avg_pool2d"))
        a.keep(y.op(kind, kernel=(2, 2), stride=(a.choose((1, 2)),) * 2, padding=(0, 0)))


def optimize(a) -> None:
    """Updates of several params, written over them."""
    rate = a.param((), f32)
    for _ in range(int(a.rng.integers(1, 5))):
        shape = a.shape(int(a.rng.integers(0, 3)))
        p, g = a.param(shape, f32), a.param(shape, f32)
        full = rate.expand_like(p, tuple(range(p.rank))) if p.rank else rate
        moment = a.param(shape, f32)
        new = moment * 0.9 + g * 0.1
        by = new
        if a.chance(0.5):
            second = a.param(shape, f32)
            square = second * 0.99 + g * g * 0.01
            a.updates.append((second, square))
            by = new / (square.op("abs").sqrt() + 1e-3)
        a.updates += [(moment, new), (p, p - full * by)]
        if a.chance(0.3):
            a.keep(p - full * by)


def gradient(a) -> None:
    """Cotangents of some params."""
    ys = [v for v in a.values if v.dtype.kind == "float" and v.value.op is not None]
    wrt = [p for p in a.params if p.dtype.kind == "float"]
    if not ys or not wrt:
        return
    y = ys[-1]
    wrt = [p for p in wrt if a.chance(0.6)] or wrt[:1]
    wrt = wrt[:4]
    seed = a.param(y.shape, y.dtype)
    found = apply(a, "gradient", y, seed, *wrt, seeded=True)
    a.keep(*(found.item(k) for k in range(len(wrt))))


MOTIFS = (
    chain,
    chain,
    chain,
    integers,
    logic,
    casts,
    casts,
    views,
    views,
    reduce,
    reduce,
    siblings,
    softmax_like,
    softmax_like,
    norm_like,
    norm_like,
    two_spaces,
    product,
    product,
    product,
    square,
    lookup,
    write,
    block,
    attend,
    composite,
    composite,
    loss,
    rotary,
    draws,
    convolve,
    optimize,
)
