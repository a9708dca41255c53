"""Control flow: ops that run graphs of the program once, several times, or one of two.

    def step(c: f32[4], x: f32[4], w: f32[4]) -> (f32[4], f32[4]): ...

    t: (f32[4], f32[8, 4]) = for_loop(
        h, xs, w, body="step", length=8, carried=1, sliced=1, stacked=(f32[4],))
    t: (f32[4],) = cond(p, x, then="double", otherwise="halve", type=(f32[4],))
    t: (i64[],) = while_loop(n, limit, condition="below", body="next", carried=1)

Operands are what is carried from step to step, then what is read slice by slice along the first
axis, then what every step reads whole. Results are a tuple: the carried values as they are in the
end, then what the steps gave, stacked. The gradient of a loop is a loop in the other direction,
which runs the body again; it reads the carried values that each step began with (``saves``). Sums
that it carries, of the cotangents of what all steps read, the pass ``hoist`` takes out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast, final

import numpy as np

from vtc.errors import GradientError
from vtc.ir.dims import Size, substitute
from vtc.ir.evaluate import Run, Value, bound_type
from vtc.ir.graph import Graph, GraphBuilder, Node
from vtc.ir.op import Needs, tensor_type
from vtc.ir.ops.control import Control, Gradient, Item, Library, entry_of, listed
from vtc.ir.ops.expr import Expr
from vtc.ir.reverse import reverse
from vtc.ir.types import Array, TensorType, TupleType, Type, bool_

Cotangents = Sequence[Expr | None]


@dataclass(frozen=True)
class Flow(Control, abstract=True):
    """An op that runs graphs of the program; its results are a tuple.

    ``at`` says where each result lies once memory is planned, as that of ``Call`` does.
    """

    @property
    def graphs(self) -> tuple[str, ...]:
        """The graphs it runs."""
        raise NotImplementedError

    @property
    def overwritten(self) -> Mapping[str, int]:
        """Of graphs that it runs again and again: how many of the first params the first outputs
        take the place of.
        """
        return {}

    @property
    def places(self) -> tuple[Size, ...]:
        """Where the results lie."""
        found: tuple[Size, ...] = vars(self)["at"]
        return found

    def may_replace(self, operand: int) -> frozenset[int]:
        """The results that may lie where ``operand`` does, if that is not needed later."""
        del operand
        return frozenset()

    def same(self, graph: Graph, takes: Sequence[Type], gives: Sequence[Type]) -> None:
        """TypeCheckError unless ``graph`` takes and gives values of these types."""
        have = tuple(p.type for p in graph.params)
        what = f"expected {graph.name} to take {listed(takes)}, got {listed(have)}"
        self.check(have == tuple(takes), what)
        what = f"expected {graph.name} to return {listed(gives)}, got {listed(graph.result)}"
        self.check(graph.result == tuple(gives), what)

    def named(self, name: str, graphs: Mapping[str, Graph]) -> Graph:
        """The graph called ``name``, which is defined before."""
        self.check(name in graphs, f"expected a graph defined above, got {name!r}")
        return graphs[name]


@final
@dataclass(frozen=True)
class Cond(Flow):
    """``cond(pred, *operands)``: what ``then`` gives for the operands where ``pred`` is true, else
    what ``otherwise`` gives. Only one of them runs.
    """

    then: str
    otherwise: str
    type: TupleType
    at: tuple[Size, ...] = ()

    @property
    def graphs(self) -> tuple[str, ...]:
        return self.then, self.otherwise

    def infer(self, pred: Type, *operands: Type) -> Type:
        self.check(pred == TensorType(bool_, ()), f"expected a predicate bool[()], got {pred}")
        return self.type

    def check_graphs(self, graphs: Mapping[str, Graph], inputs: Sequence[Type]) -> None:
        """Both take the operands and give ``type``."""
        for name in self.graphs:
            self.same(self.named(name, graphs), inputs[1:], self.type.items)

    def compute(self, run: Run, values: Sequence[Value]) -> Value:
        """The results of the branch taken."""
        pred, *operands = values
        return _arrays(run.call(self.then if cast("Array", pred) else self.otherwise, operands))

    def gradient(
        self, library: Library, g: Any, out: Any, inputs: Sequence[Expr], needs: Needs
    ) -> Cotangents:
        """Those of the branch that was taken, which is computed again."""
        wanted = [i for i, x in enumerate(inputs) if i and needs[i] and _flows(x.type)]
        seeds = [e for e in g if e is not None]
        if not wanted or not seeds:
            return [None] * len(inputs)
        names = [self._branch(library, name, g, wanted) for name in self.graphs]
        types = TupleType(tuple(inputs[i].tensor for i in wanted))
        op = Cond(names[0], names[1], types)
        made = inputs[0].apply(op, *inputs[1:], *seeds)
        return _spread(made, wanted, len(inputs))

    def _branch(self, library: Library, name: str, g: Cotangents, wanted: Sequence[int]) -> str:
        graph, b = library[name], GraphBuilder()
        params = _params(b, graph.params)
        seeds = [
            None if e is None else b.param(f"d_{o.name}", o.type)
            for o, e in zip(graph.outputs, g, strict=True)
        ]
        found = sweep(b, library, graph, params, seeds, [i - 1 for i in wanted])
        takes = (*params, *(s for s in seeds if s is not None))
        return library.add(b.graph(f"{name}_vjp", takes, [e.value for e in found]))


@final
@dataclass(frozen=True)
class WhileLoop(Flow):
    """``while_loop(*carried, *others)``: while ``condition`` gives true for these, ``body`` gives
    the carried values of the next step for them.
    """

    condition: str
    body: str
    carried: int
    at: tuple[Size, ...] = ()

    @property
    def graphs(self) -> tuple[str, ...]:
        return self.condition, self.body

    @property
    def overwritten(self) -> Mapping[str, int]:
        return {self.body: self.carried}

    def may_replace(self, operand: int) -> frozenset[int]:
        return frozenset({operand}) if operand < self.carried else frozenset()

    def infer(self, *inputs: Type) -> Type:
        self.check(1 <= self.carried <= len(inputs), f"expected {self.carried} carried values")
        return TupleType(tuple(tensor_type(self, x) for x in inputs[: self.carried]))

    def check_graphs(self, graphs: Mapping[str, Graph], inputs: Sequence[Type]) -> None:
        """Both take the operands; the condition gives a bool, the body what is carried."""
        test = TensorType(bool_, ())
        self.same(self.named(self.condition, graphs), inputs, (test,))
        self.same(self.named(self.body, graphs), inputs, inputs[: self.carried])

    def compute(self, run: Run, values: Sequence[Value]) -> Value:
        """The carried values once the condition is false."""
        carried, others = tuple(values[: self.carried]), tuple(values[self.carried :])
        while run.call(self.condition, (*carried, *others))[0]:
            carried = run.call(self.body, (*carried, *others))
        return _arrays(carried)

    def gradient(
        self, library: Library, g: Any, out: Any, inputs: Sequence[Expr], needs: Needs
    ) -> Cotangents:
        """GradientError: how many steps there are, and so what to keep, is not known."""
        raise GradientError(NO_GRADIENT)


NO_GRADIENT = (
    "while_loop: no gradient flows back through a loop whose number of steps is not known before "
    "it runs; use vtc.scan with a length, or call it under vtc.no_grad()"
)


@final
@dataclass(frozen=True)
class ForLoop(Flow):
    """``for_loop(*carried, *slices, *others)``: ``length`` steps of ``body``, the last slice first
    if ``reverse``.

    The body takes what is carried, a slice of each of the ``sliced`` next operands, and the others;
    it gives what is carried on, and values of types ``stacked``. With ``saves`` results also are,
    stacked, the carried values that each step began with.
    """

    body: str
    length: Size
    carried: int
    sliced: int
    stacked: tuple[TensorType, ...]
    reverse: bool = False
    saves: bool = False
    at: tuple[Size, ...] = ()

    @property
    def graphs(self) -> tuple[str, ...]:
        return (self.body,)

    @property
    def overwritten(self) -> Mapping[str, int]:
        return {self.body: self.carried}

    def may_replace(self, operand: int) -> frozenset[int]:
        return frozenset({operand}) if operand < self.carried else frozenset()

    def infer(self, *inputs: Type) -> Type:
        types = [tensor_type(self, x) for x in inputs]
        first = self.carried + self.sliced
        self.check(first <= len(types), f"expected {first} operands or more, got {len(types)}")
        for x in types[self.carried : first]:
            right = bool(x.shape) and x.shape[0] == self.length
            self.check(right, f"expected {self.length} slices along the first axis, got {x}")
        carried = types[: self.carried]
        rows = (*self.stacked, *(carried if self.saves else ()))
        return TupleType((*carried, *(_stack(t, self.length) for t in rows)))

    def check_graphs(self, graphs: Mapping[str, Graph], inputs: Sequence[Type]) -> None:
        """The body takes the operands, or slices of them."""
        carried, slices, others = self.parts([tensor_type(self, x) for x in inputs])
        takes = (*carried, *(t.with_shape(t.shape[1:]) for t in slices), *others)
        self.same(self.named(self.body, graphs), takes, (*carried, *self.stacked))

    def parts(self, operands: Sequence[Any]) -> tuple[Sequence[Any], Sequence[Any], Sequence[Any]]:
        """Operands that are carried, sliced, and others."""
        first = self.carried + self.sliced
        return operands[: self.carried], operands[self.carried : first], operands[first:]

    def compute(self, run: Run, values: Sequence[Value]) -> Value:
        """Step by step."""
        carried, slices, others = self.parts(values)
        carried = tuple(carried)
        length = cast("int", substitute(self.length, dict(run.sizes)))
        order = range(length)[::-1] if self.reverse else range(length)
        rows: dict[int, tuple[Value, ...]] = {}
        for i in order:
            before = carried
            out = run.call(self.body, (*carried, *(x[i] for x in slices), *others))
            carried = out[: self.carried]
            rows[i] = (*out[self.carried :], *(before if self.saves else ()))
        return (*_arrays(carried), *self._stacked(run, rows, carried, length))

    def _stacked(
        self, run: Run, rows: Mapping[int, Any], carried: Sequence[Any], length: int
    ) -> Iterator[Array]:
        if rows:
            columns = zip(*(rows[i] for i in range(length)), strict=True)
            yield from map(np.stack, columns)
            return
        for t in self.stacked:
            type = cast("TensorType", bound_type(t, run.sizes))
            wide = run.precision == "f64" and t.dtype.kind == "float"
            dtype = np.dtype(np.float64) if wide else t.dtype.numpy
            yield np.zeros((0, *cast("tuple[int, ...]", type.shape)), dtype)
        if self.saves:
            yield from (np.zeros((0, *c.shape), c.dtype) for c in carried)

    # gradients

    def gradient(
        self, library: Library, g: Any, out: Any, inputs: Sequence[Expr], needs: Needs
    ) -> Cotangents:
        """By a loop in the other direction, over the carried values that each step began with."""
        if not any(n and _flows(x.type) for n, x in zip(needs, inputs, strict=True)):
            return [None] * len(inputs)
        if not self.saves:
            out = inputs[0].apply(replace(self, saves=True), *inputs[1:])
            g = (*g, *(None,) * self.carried)
        back = _Back.of(self, library[self.body], g, inputs, needs)
        name = back.graph(library)
        first = self.carried + len(self.stacked)
        begun = [out.item(first + i) for i in range(self.carried)]
        _, slices, others = self.parts(inputs)
        starts = [inputs[i].zeros() if g[i] is None else g[i] for i in back.carried]
        sums = [inputs[i].zeros() for i in back.others]
        rows = [g[self.carried + k] for k in back.stacked] + [g[first + i] for i in back.saved]
        op = ForLoop(
            body=name,
            length=self.length,
            carried=len(starts) + len(sums),
            sliced=len(begun) + len(slices) + len(rows),
            stacked=tuple(_slice(inputs[i].tensor) for i in back.slices),
            reverse=not self.reverse,
            saves=True,
        )
        operands = [*starts, *sums, *begun, *slices, *rows, *others]
        made = operands[0].apply(op, *operands[1:])
        return _spread(made, [*back.carried, *back.others, *back.slices], len(inputs))


@final
@dataclass(frozen=True)
class _Back:
    """What the loop back computes. Operands whose cotangents it ``carried`` on, adds up (of
    ``others``), and gives one by one (of ``slices``); results that have one: those ``stacked``, and
    ``saved`` ones.
    """

    op: ForLoop
    body: Graph
    carried: Sequence[int]
    others: Sequence[int]
    slices: Sequence[int]
    stacked: Sequence[int]
    saved: Sequence[int]

    @classmethod
    def of(
        cls, op: ForLoop, body: Graph, g: Cotangents, inputs: Sequence[Expr], needs: Needs
    ) -> _Back:
        n, m, k = op.carried, op.sliced, len(op.stacked)
        flows = [_flows(x.type) for x in inputs]
        return cls(
            op,
            body,
            carried=[i for i in range(n) if flows[i]],
            others=[i for i in range(n + m, len(inputs)) if needs[i] and flows[i]],
            slices=[i for i in range(n, n + m) if needs[i] and flows[i]],
            stacked=[i for i in range(k) if g[n + i] is not None],
            saved=[i for i in range(n) if flows[i] and g[n + k + i] is not None],
        )

    def graph(self, library: Library) -> str:
        """The name of its body."""
        b, op, body = GraphBuilder(), self.op, self.body
        outputs = body.outputs
        flowing = {i: b.param(f"d_{outputs[i].name}", outputs[i].type) for i in self.carried}
        sums = [b.param(f"sum_{body.params[i].name}", body.params[i].type) for i in self.others]
        begun, slices, others = op.parts(_params(b, body.params))
        rows = {
            op.carried + k: b.param(f"d_{outputs[op.carried + k].name}", op.stacked[k])
            for k in self.stacked
        }
        more = {i: b.param(f"d_{body.params[i].name}", body.params[i].type) for i in self.saved}
        seeds = [(flowing | rows).get(i) for i in range(len(outputs))]
        wanted = [*self.carried, *self.others, *self.slices]
        found = sweep(b, library, body, [*begun, *slices, *others], seeds, wanted)
        by_operand = dict(zip(wanted, found, strict=True))
        for i, extra in more.items():
            by_operand[i] = by_operand[i] + Expr(b, extra)
        for i, total in zip(self.others, sums, strict=True):
            by_operand[i] = Expr(b, total) + by_operand[i]
        takes = (*flowing.values(), *sums, *begun, *slices, *rows.values(), *more.values(), *others)
        gives = [by_operand[i].value for i in wanted]
        return library.add(b.graph(f"{body.name}_vjp", takes, gives))


def sweep(
    b: GraphBuilder,
    library: Library,
    graph: Graph,
    params: Sequence[Node],
    seeds: Sequence[Node | None],
    wanted: Sequence[int],
) -> list[Expr]:
    """The cotangents of the ``wanted`` params of ``graph``, recorded with ``b``: ``graph`` on
    ``params``, then the reverse sweep from the cotangents ``seeds`` of its outputs.
    """
    env = _replayed(b, library, graph, params)
    starts: dict[Node, Expr] = {}
    for o, seed in zip(graph.outputs, seeds, strict=True):
        if seed is not None:
            e, at = Expr(b, seed), env[o]
            starts[at] = starts[at] + e if at in starts else e
    wrt = [params[i] for i in wanted]

    def enter(entry: Any, g: Any) -> None:
        b.loc = entry.output.loc

    tape = [entry_of(n, library) for n in tuple(b.nodes)]
    found = reverse(tape, starts, wrt, lambda n: Expr(b, n), enter)
    return [found[w] if w in found else Expr(b, w).zeros() for w in wrt]


def _replayed(
    b: GraphBuilder, library: Library, graph: Graph, params: Sequence[Node]
) -> dict[Node, Node]:
    """What stands for each node of ``graph`` on ``params``; gradients that it takes are spelled
    out.
    """
    env = dict(zip(graph.params, params, strict=True))
    taken: dict[Node, list[Expr]] = {}
    for n in graph.nodes:
        inputs = [env[i] for i in n.inputs if i in env]
        if isinstance(n.op, Gradient):
            taken[n] = n.op.expand(tuple(b.nodes), inputs, lambda i: Expr(b, i), library=library)
        elif isinstance(n.op, Item) and n.inputs[0] in taken:
            env[n] = taken[n.inputs[0]][n.op.index].value
        else:
            env[n] = b.copy(n, inputs)
    return env


def _params(b: GraphBuilder, params: Sequence[Node]) -> list[Node]:
    return [b.param(p.name, p.type, p.loc) for p in params]


def _spread(made: Expr, of: Sequence[int], count: int) -> list[Expr | None]:
    """The results of ``made`` as cotangents of the operands that they are ``of``."""
    found: list[Expr | None] = [None] * count
    for k, i in enumerate(of):
        found[i] = made.item(k)
    return found


def _flows(type: Type) -> bool:
    return isinstance(type, TensorType) and type.dtype.kind in ("float", "complex")


def _stack(type: TensorType, length: Size) -> TensorType:
    return type.with_shape((length, *type.shape))


def _slice(type: TensorType) -> TensorType:
    return type.with_shape(type.shape[1:])


def _arrays(values: Sequence[Value]) -> tuple[Array, ...]:
    return tuple(cast("Array", v) for v in values)
