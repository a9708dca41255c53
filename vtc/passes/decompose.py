"""Spell out the composites the target has no kernel for.

    y: bf16[4] = silu(x)    ==>     a: f32[4] = cast(x, dtype=f32)
                                    ...
                                    y: bf16[4] = cast(b, dtype=bf16)

A composite computes in its accumulation dtype and rounds once, so what is spelled out does too:
operands of a narrow float are cast to f32 first, and results are cast back.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import cast, final

from vtc.ir.graph import Graph, GraphBuilder, Node, Program
from vtc.ir.op import Op
from vtc.ir.ops.composite import Composite
from vtc.ir.ops.control import Item
from vtc.ir.ops.expr import Expr
from vtc.ir.target import Target
from vtc.ir.types import TensorType, TupleType, Type, f64
from vtc.passes.pipeline import Context
from vtc.passes.splice import Splice, each_graph

Value = Node | tuple[Node, ...]
"""A value while composites are spelled out: several results are a tuple of nodes."""


def decompose(program: Program, context: Context) -> Program:
    """See the module."""
    target = context.target
    return each_graph(program, lambda g: _spelled(g, target))


def _spelled(graph: Graph, target: Target) -> Graph:
    going = {n for n in graph.nodes if _goes(n.op, n.inputs, target)}
    if not going:
        return graph
    names = _result_names(graph, going)
    splice = Splice(graph)
    results: dict[Node, tuple[Node, ...]] = {}
    for node in graph.nodes:
        if node in going:
            results[node] = _record(splice, node, names, target)
            if isinstance(node.type, TensorType):
                (splice.env[node],) = results[node]
        elif isinstance(node.op, Item) and node.inputs[0] in results:
            splice.env[node] = results[node.inputs[0]][node.op.index]
        else:
            splice.keep(node)
    return splice.result()


def _goes(op: Op | None, inputs: Sequence[Node], target: Target) -> bool:
    if not isinstance(op, Composite):
        return False
    types = [i.tensor for i in inputs]
    # Triton 3.6 does not compile every product of f64 blocks that are computed on the way.
    wide = target.kind == "cuda" and any(t.dtype is f64 for t in types)
    return op.name not in target.keeps or wide or not op.whole(*types)


def _result_names(graph: Graph, going: set[Node]) -> dict[tuple[Node, int], str]:
    """The names that results of composites have now: their own, or those of projections."""
    names: dict[tuple[Node, int], str] = {}
    for n in graph.nodes:
        if n in going and isinstance(n.type, TensorType):
            names[n, 0] = n.name
        elif isinstance(n.op, Item) and n.inputs[0] in going:
            names.setdefault((n.inputs[0], n.op.index), n.name)
    return names


def _record(
    splice: Splice, node: Node, names: Mapping[tuple[Node, int], str], target: Target
) -> tuple[Node, ...]:
    """The results of the composite ``node``, spelled out at the end of ``splice``."""
    b = Speller(target, GraphBuilder(loc=node.loc))
    out = b.spell(cast("Composite", node.op), splice.inputs(node))
    results = out if isinstance(out, tuple) else (out,)
    heirs = {r: names[node, i] for i, r in enumerate(results) if (node, i) in names}
    copies = splice.insert(b.inner.nodes, {}, heirs)
    return tuple(copies.get(r, r) for r in results)


@final
@dataclass
class Speller:
    """The Builder composites are spelled out with: it records what the target knows, and spells the
    rest."""

    target: Target
    inner: GraphBuilder = field(default_factory=GraphBuilder)

    def apply(self, op: Op, *inputs: Value, hint: str = "") -> Value:
        """``op`` on ``inputs``."""
        if isinstance(op, Item) and isinstance(inputs[0], tuple):
            return inputs[0][op.index]
        nodes = cast("tuple[Node, ...]", inputs)
        if isinstance(op, Composite) and _goes(op, nodes, self.target):
            return self.spell(op, nodes)
        return self.inner.apply(op, *nodes, hint=hint)

    def type_of(self, value: Value) -> Type:
        """The type of a value."""
        if isinstance(value, tuple):
            return TupleType(tuple(v.tensor for v in value))
        return value.type

    def spell(self, op: Composite, inputs: tuple[Node, ...]) -> Value:
        """``op`` as the ops it is made of, in its accumulation dtype."""
        out = op.expand(*(Expr(self, i) for i in inputs))
        return tuple(o.value for o in out) if isinstance(out, tuple) else cast("Node", out.value)
