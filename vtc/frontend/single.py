"""One op as a program that serves many sizes: what eager code on a device runs.

Sizes become dims, neighbouring axes that every operand of an elementwise op steps through alike
become one, and an operand that is a permutation or a repetition of dense memory is read through
that view. What is left is a :class:`Form`: equal forms are one program::

    fit = symbolic(Add(), layouts)         # x[8, 5] + y[5] repeated 8 times
    program(fit.form)      # def add(x0: f32[n0, n1], x1: f32[n1]): y = expand(x1, ...); add(x0, y)

Sizes of 0 and 1 stay as they are. A size that no operand has (that of what is drawn, how far to
pad) is that of an operand without elements, which nothing reads: ``hidden``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from math import prod
from typing import Any, final

from vtc.ir.dims import Dim, Size, Sym
from vtc.ir.graph import GraphBuilder, Node, Program
from vtc.ir.op import Op
from vtc.ir.ops.activation import Dropout
from vtc.ir.ops.contract import Matmul
from vtc.ir.ops.control import Item
from vtc.ir.ops.elementwise import Elementwise
from vtc.ir.ops.pullback import Pullback
from vtc.ir.ops.random import Advance, Random
from vtc.ir.ops.view import Expand, Permute
from vtc.ir.types import DType, TensorType, TupleType, u8

Shape = tuple[int, ...]


@final
@dataclass(frozen=True, slots=True)
class Layout:
    """Where the elements of an operand lie. ``order``: the axes that step, the outermost first.

    Along all others it repeats, or has size 1. The elements are dense in that order.
    """

    dtype: DType
    shape: Shape
    order: tuple[int, ...]


@final
@dataclass(frozen=True, slots=True)
class Operand:
    """A :class:`Layout` with sizes that may be symbolic."""

    dtype: DType
    shape: tuple[Size, ...]
    order: tuple[int, ...]


@final
@dataclass(frozen=True, slots=True)
class Form:
    """See the module. ``hidden`` symbols are sizes that no operand has."""

    op: Op
    operands: tuple[Operand, ...]
    symbols: tuple[str, ...]
    hidden: tuple[str, ...]


@final
@dataclass(frozen=True, slots=True)
class Fit:
    """How operands become those of a form: shapes in memory order, and the hidden sizes."""

    form: Form
    shapes: tuple[Shape, ...]
    hidden: tuple[int, ...]


def order_of(shape: Shape, strides: Shape, itemsize: int) -> tuple[int, ...] | None:
    """The axes that step, the outermost first, if the elements are dense in that order."""
    live = [a for a, n in enumerate(shape) if n != 1 and (strides[a] or not n)]
    if 0 in shape:
        return tuple(live)
    live.sort(key=lambda a: -strides[a])
    step = itemsize
    for a in reversed(live):
        if strides[a] != step:
            return None
        step *= shape[a]
    return tuple(live)


def steps(shape: Shape, strides: Shape) -> tuple[int, ...]:
    """The axes that step, in order: those of a dense copy that repeats nothing."""
    return tuple(a for a, n in enumerate(shape) if n != 1 and strides[a])


def symbolic(op: Op, layouts: Sequence[Layout]) -> Fit:
    """``op`` on operands that lie so, for all sizes."""
    if _goes_along(op, layouts):
        layouts = _collapsed(layouts)
    if isinstance(op, Random):
        flat: dict[str, Any] = {"shape": (prod(vars(op)["shape"]),)} if "shape" in vars(op) else {}
        op = replace(op, **flat)
    names = _Names()
    labels = _labels(op, layouts)
    operands = tuple(
        Operand(x.dtype, tuple(map(names, of, x.shape)), x.order)
        for of, x in zip(labels, layouts, strict=True)
    )
    known = frozenset(s for x in operands for a in x.order if isinstance(s := x.shape[a], Sym))
    changed = _attributes(op, names)
    symbols = tuple(names.values)
    hidden = tuple(n for n in symbols if Sym.var(n) not in known)
    form = Form(changed, operands, symbols, hidden)
    return Fit(form, _dense(layouts), tuple(names.values[n] for n in hidden))


def static(op: Op, layouts: Sequence[Layout]) -> Fit:
    """``op`` on operands that lie so, for these sizes only."""
    operands = tuple(Operand(x.dtype, x.shape, x.order) for x in layouts)
    return Fit(Form(op, operands, (), ()), _dense(layouts), ())


def program(form: Form) -> Program:
    """The program of ``form``; TypeCheckError where the op does not take symbolic sizes so."""
    b = GraphBuilder()
    params = [
        b.param(f"x{k}", TensorType(x.dtype, tuple(x.shape[a] for a in x.order)))
        for k, x in enumerate(form.operands)
    ]
    sizes = [b.param(f"size_{n}", TensorType(u8, (0, Sym.var(n)))) for n in form.hidden]
    inputs = [_shown(b, p, x) for p, x in zip(params, form.operands, strict=True)]
    dims = tuple(Dim(n, 2) for n in form.symbols)
    graph = b.graph(f"eager_{_name(form.op)}", [*params, *sizes], _results(b, form.op, inputs))
    return Program((graph,), dims)


def _name(op: Op) -> str:
    return f"{op.op.name}_backward" if isinstance(op, Pullback) else op.name


def _results(b: GraphBuilder, op: Op, inputs: Sequence[Node]) -> list[Node]:
    if isinstance(op, Pullback):
        return op.spell(b, inputs)[1]
    node = b.apply(op, *inputs)
    if not isinstance(node.type, TupleType):
        return [node]
    return [b.apply(Item(i), node) for i in range(len(node.type.items))]


def _shown(b: GraphBuilder, x: Node, operand: Operand) -> Node:
    """The parameter ``x``, in memory order, as the op reads it."""
    order, ascending = operand.order, sorted(operand.order)
    if list(order) != ascending:
        x = b.apply(Permute(axes=tuple(map(order.index, ascending))), x)
    missing = tuple(a for a in range(len(operand.shape)) if a not in order)
    if missing:
        x = b.apply(Expand(axes=missing, sizes=tuple(operand.shape[a] for a in missing)), x)
    return x


def _dense(layouts: Sequence[Layout]) -> tuple[Shape, ...]:
    return tuple(tuple(x.shape[a] for a in x.order) for x in layouts)


# axes that are one


def _goes_along(op: Op, layouts: Sequence[Layout]) -> bool:
    """Whether ``op`` reads the same place of each operand; all have one shape."""
    if isinstance(op, Pullback):
        return isinstance(op.op, Elementwise) and all(x.shape == layouts[0].shape for x in layouts)
    return isinstance(op, Elementwise)


def _collapsed(layouts: Sequence[Layout]) -> list[Layout]:
    """Operands of one shape, with fewer axes."""
    shape = layouts[0].shape
    groups: list[list[int]] = []
    for a in (a for a, n in enumerate(shape) if n != 1):
        if groups and all(_follows(x, groups[-1][-1], a) for x in layouts):
            groups[-1].append(a)
        else:
            groups.append([a])
    sizes = tuple(prod(shape[a] for a in g) for g in groups)
    first = {g[0]: k for k, g in enumerate(groups)}
    return [Layout(x.dtype, sizes, tuple(first[a] for a in x.order if a in first)) for x in layouts]


def _follows(x: Layout, a: int, b: int) -> bool:
    """Whether axis ``b`` lies right inside ``a``, or ``x`` steps along neither."""
    if a not in x.order or b not in x.order:
        return a not in x.order and b not in x.order
    return x.order.index(b) == x.order.index(a) + 1


# sizes that are symbols


class _Names:
    """The symbol of each size, and its value.

    Called with a label: equal ones are one symbol, and what has none stays a number.
    """

    def __init__(self) -> None:
        self.values: dict[str, int] = {}
        self._known: dict[Any, str] = {}

    def __call__(self, label: Any, n: int) -> Size:
        if n < 2 or label is None:
            return n
        name = self._known.setdefault(label, f"n{len(self._known)}")
        self.values[name] = n
        return Sym.var(name)

    def fresh(self, n: int) -> Size:
        """A symbol of its own."""
        return self(object(), n)


def _labels(op: Op, layouts: Sequence[Layout]) -> list[Sequence[Any]]:
    """What each size is called: sizes of one label have to be equal."""
    if isinstance(op, (Random, Advance, Dropout)):  # the last operand is a generator's state
        return [*(range(len(x.shape)) for x in layouts[:-1]), [None]]
    if _goes_along(op, layouts) or len(layouts) == 1:
        return [range(len(x.shape)) for x in layouts]
    if isinstance(op, Matmul):
        batch = [*range(len(layouts[0].shape) - 2)]
        x, y = ("m", "k"), ("k", "n")
        return [
            [*batch, *(x[::-1] if op.transpose_x else x)],
            [*batch, *(y[::-1] if op.transpose_y else y)],
        ]
    return [[("size", n) for n in x.shape] for x in layouts]


def _attributes(op: Op, names: _Names) -> Op:
    """``op`` with the sizes among its attributes as symbols."""
    found: dict[str, Any] = {}
    if isinstance(op, Pullback):
        return replace(op, op=_attributes(op.op, names)) if isinstance(op.op, Op) else op
    for f in fields(op):
        value, kind = getattr(op, f.name), str(f.type)
        if "Padding" in kind:
            found[f.name] = tuple((names.fresh(a), names.fresh(b), k) for a, b, k in value)
        elif "Size" in kind:
            found[f.name] = _sized(value, names.fresh)
    return replace(op, **found) if found else op


def _sized(value: Any, fresh: Callable[[int], Size]) -> Any:
    if isinstance(value, tuple):
        return tuple(_sized(v, fresh) for v in value)
    return fresh(value) if isinstance(value, int) else value
