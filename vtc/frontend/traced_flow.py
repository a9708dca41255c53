"""Control flow in a trace: functions become graphs, calls become ops that run them.

    def step(h: f32[4], x: f32[4], w: f32[4, 4]) -> (f32[4], f32[4]): ...

    t: (f32[4], f32[8, 4]) = for_loop(h, xs, w, body="step", length=8, carried=1, sliced=1, ...)

Values that a function reads from outside (``w``) are operands after those that it was given.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, final

from vtc.errors import CaptureError, TypeCheckError
from vtc.frontend.capture import Capture
from vtc.frontend.dispatch import state
from vtc.frontend.flow_values import Carried, Returned, returned, show_form
from vtc.frontend.frames import NO_DRAWS, Frame, free, inside
from vtc.frontend.inputs import Cell, common_place, place
from vtc.frontend.source import located
from vtc.frontend.tensor import Tensor
from vtc.frontend.tree import flatten, unflatten
from vtc.ir.dims import Size
from vtc.ir.graph import Graph, Node
from vtc.ir.ops.control import Item
from vtc.ir.ops.flow import Cond, Flow, ForLoop, WhileLoop
from vtc.ir.types import TensorType, TupleType
from vtc.runtime.device import Device

Step = Callable[[Any, Any], tuple[list[Tensor], Any]]


@final
@dataclass
class _Traced:
    """A function that was traced: its nodes and outputs, and the values that it reads from outside.

    ``requires`` says of the outputs whether a gradient flows to them; ``states`` are those that
    generators have at its end.
    """

    frame: Frame
    params: list[Node]
    outputs: list[Node]
    requires: list[bool]
    states: dict[Cell, Node]

    def reads(self) -> list[Node]:
        """Values from outside."""
        return self.frame.live([*self.outputs, *self.states.values()])[1]

    def graph(self, params: Sequence[Node], outputs: Sequence[Node]) -> Graph:
        """It as a graph."""
        nodes, _ = self.frame.live(outputs)
        return Graph("body", tuple(params), tuple(nodes), tuple(outputs))


def cond(
    capture: Capture,
    pred: Tensor,
    true_fn: Callable[..., Any],
    false_fn: Callable[..., Any],
    operands: Sequence[Any],
) -> Any:
    """The branch as a node of the trace."""
    both: list[_Traced] = []
    trees: list[Returned] = []

    for fn in (true_fn, false_fn):

        def run(given: list[Tensor], fn: Callable[..., Any] = fn) -> Sequence[Tensor]:
            del given
            trees.append(returned("cond", fn(*operands)))
            return trees[-1].tensors

        both.append(_trace(capture, "cond", run, []))
    _refuse_other(both, trees)
    cells = list(dict.fromkeys(c for t in both for c in t.states))
    outputs = [[*t.outputs, *(t.states.get(c, c.node) for c in cells)] for t in both]
    reads = free([_live(t, o) for t, o in zip(both, outputs, strict=True)])
    names = [
        _keep(capture, fn, hint, t.graph(reads, o))
        for t, o, fn, hint in zip(
            both, outputs, (true_fn, false_fn), ("then", "otherwise"), strict=True
        )
    ]
    types = TupleType(tuple(o.tensor for o in outputs[0]))
    if not types.items:
        return trees[0].tree([])
    op = Cond(names[0], names[1], types)
    needs = [any(r) for r in zip(*(t.requires for t in both), strict=True)]
    device = _device("cond", [x for tree in trees for x in tree.tensors])
    made = _apply(capture, op, [capture.node(pred), *reads], needs, device)
    _carry_on(capture, cells, made[len(needs) :])
    return trees[0].tree([x for x, _ in made[: len(needs)]])


def while_loop(
    capture: Capture,
    carried: Carried,
    test: Callable[[Any], Tensor],
    body: Callable[[Any], list[Tensor]],
    fn: Callable[..., Any],
) -> Any:
    """The loop as a node of the trace."""
    first = _trace(capture, "while_loop", lambda now: [test(carried.tree(now))], carried.start)
    if first.states:
        raise located(CaptureError, NO_DRAWS)
    each = _trace(capture, "while_loop", lambda now: body(carried.tree(now)), carried.start)
    cells = list(each.states)
    ends = [*each.outputs, *each.states.values()]
    states = [c.node for c in cells]
    reads = [n for n in free([_live(first, first.outputs), _live(each, ends)]) if n not in states]
    names = [
        _keep(capture, fn, "test", first.graph([*first.params, *states, *reads], first.outputs)),
        _keep(capture, fn, "body", each.graph([*each.params, *states, *reads], ends)),
    ]
    op = WhileLoop(names[0], names[1], len(carried.start) + len(cells))
    starts = [_flowing(capture, x) for x in carried.start]
    device = _device("while_loop", carried.start)
    needs = [True] * len(each.requires)
    made = _apply(capture, op, [*starts, *states, *reads], needs, device)
    _carry_on(capture, cells, made[len(needs) :])
    return carried.tree([x for x, _ in made[: len(needs)]])


def scan(
    carried: Carried, step: Step, xs: Any, length: Size, reverse: bool, f: Callable[..., Any]
) -> tuple[Any, Any]:
    """The loop as a node of the trace."""
    capture: Capture = state.capture
    leaves, form = flatten(xs)
    slices: list[Tensor] = [x for x in leaves if x is not None]
    count = len(carried.start)
    trees: list[Returned] = []

    def run(given: list[Tensor]) -> Sequence[Tensor]:
        rows = iter(given[count:])
        x = unflatten(form, [None if leaf is None else next(rows) for leaf in leaves])
        now, y = step(carried.tree(given[:count]), x)
        trees.append(returned(carried.name, y))
        return [*now, *trees[-1].tensors]

    each = _trace(capture, carried.name, run, carried.start, slices)
    cells = list(each.states)
    states = [c.node for c in cells]
    ends = [*each.outputs[:count], *each.states.values(), *each.outputs[count:]]
    reads = [n for n in _live(each, ends) if n not in states]
    params = [*each.params[:count], *states, *each.params[count:], *reads]
    name = _keep(capture, f, "body", each.graph(params, ends))
    grads = state.grad
    starts = [_flowing(capture, x) for x in carried.start]
    rows = [_flowing(capture, x) for x in slices]
    op = ForLoop(
        body=name,
        length=length,
        carried=count + len(cells),
        sliced=len(slices),
        stacked=tuple(o.tensor for o in each.outputs[count:]),
        reverse=reverse,
        saves=grads and any(n in capture.hot for n in (*starts, *rows, *reads)),
    )
    needs = [*(True for _ in carried.start), *(False for _ in cells), *each.requires[count:]]
    device = _device(carried.name, [*carried.start, *slices])
    if not op.carried and not op.stacked:
        return carried.tree([]), trees[0].tree([])
    made = _apply(capture, op, [*starts, *states, *rows, *reads], needs, device)
    _carry_on(capture, cells, made[count : count + len(cells)])
    results = [x for x, _ in made]
    ys = results[count + len(cells) : count + len(cells) + len(op.stacked)]
    return carried.tree(results[:count]), trees[0].tree(ys)


def _trace(
    capture: Capture,
    name: str,
    run: Callable[[list[Tensor]], Sequence[Tensor]],
    starts: Sequence[Tensor],
    slices: Sequence[Tensor] = (),
) -> _Traced:
    """``run`` on values like ``starts`` and like slices of ``slices``."""
    with inside(capture, name) as frame:
        given = [_param(capture, frame, x, x.type) for x in starts]
        given += [_param(capture, frame, x, _slice(x.type)) for x in slices]
        found = run(given)
        outputs = [_flowing(capture, x) for x in found]
        requires = [capture.requires(x) for x in found]
        states = {cell: cell.node for cell in frame.states}
    params = [n for n in frame.params]
    return _Traced(frame, params, outputs, requires, states)


def _param(capture: Capture, frame: Frame, like: Tensor, type: TensorType) -> Tensor:
    """A value that a function is given. Whether a gradient will flow to it is not known yet."""
    node = capture.builder.param(capture.node(like).name, type)
    frame.params.append(node)
    x = capture.tensor(node, requires=state.grad, device=place(like))
    x._cell.frame = None
    if x._cell.requires:
        capture.hot.add(node)
    return x


def _slice(type: TensorType) -> TensorType:
    return type.with_shape(type.shape[1:])


def _live(traced: _Traced, outputs: Sequence[Node]) -> list[Node]:
    return traced.frame.live(outputs)[1]


def _keep(capture: Capture, fn: Callable[..., Any], hint: str, graph: Graph) -> str:
    """Add ``graph``, which ``fn`` became; its name."""
    name = getattr(fn, "__name__", "")
    stem = name if name.isidentifier() else ""
    renamed = capture.final_names().rename(graph)
    return capture.frames.add(f"{stem}_{hint}" if stem else hint, renamed)


def _flowing(capture: Capture, x: Tensor) -> Node:
    """The node of ``x``, through which a gradient flows where ``x`` requires one."""
    return capture.flowing(x) if state.grad else capture.node(x)


def _device(name: str, values: Sequence[Tensor]) -> Device | None:
    return common_place(name, tuple(values))


def _apply(
    capture: Capture,
    op: Flow,
    nodes: Sequence[Node],
    needs: Sequence[bool],
    device: Device | None,
) -> list[tuple[Tensor, Node]]:
    """The results of ``op``; ``needs`` says of the first ones whether a gradient may flow."""
    flows = state.grad and any(n in capture.hot for n in nodes)
    node = capture.apply(op, *nodes)
    assert isinstance(node.type, TupleType)
    items = [capture.apply(Item(i), node) for i in range(len(node.type.items))]
    wanted = [*needs, *(False,) * (len(items) - len(needs))]
    return [
        (capture.tensor(i, requires=flows and n, device=device), i)
        for i, n in zip(items, wanted, strict=True)
    ]


def _carry_on(capture: Capture, cells: Sequence[Cell], made: Sequence[tuple[Tensor, Node]]) -> None:
    """Generators go on from the states that the loop or the branch ended with."""
    current = capture.frames.current
    for cell, (_, node) in zip(cells, made, strict=False):
        if current is not None:
            current.states.setdefault(cell, cell.node)
        cell.node = node
        cell.version += 1


def _refuse_other(both: Sequence[_Traced], trees: Sequence[Returned]) -> None:
    """TypeCheckError unless both branches give results of one structure and the same types."""
    (a, b), (one, two) = both, trees
    if (one.form, one.gaps) != (two.form, two.gaps):
        shown = f"{show_form(one.form)} and {show_form(two.form)}"
        message = f"cond: expected both functions to return the same structure, got {shown}"
        raise located(TypeCheckError, message)
    for k, (x, y) in enumerate(zip(a.outputs, b.outputs, strict=True)):
        if x.type != y.type:
            which = f" as result {k}" if len(a.outputs) > 1 else ""
            message = f"cond: expected both functions to return one type{which}, got {x.type} "
            raise located(TypeCheckError, f"{message}and {y.type}; cast one of them")
