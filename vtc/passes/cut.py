"""The narrowest place between values that can only be kept and those who read them later.

Each value is an edge that costs what it takes to keep it, between what cannot be computed again and
what is read: a minimum cut (Chen et al. 2016; Jain et al., "Checkmate", 2020, for the general
problem). :mod:`~vtc.passes.partition` cuts between two programs, :mod:`~vtc.passes.recompute`
between early and late in one.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

from vtc import lazy
from vtc.ir.graph import GraphBuilder, Node
from vtc.ir.op import Op, Pointwise
from vtc.ir.ops.composite import Composite
from vtc.ir.ops.control import Item
from vtc.ir.ops.expr import Expr
from vtc.ir.ops.random import Random
from vtc.ir.types import Type

if TYPE_CHECKING:
    import networkx as nx
else:
    nx = lazy.module("networkx")


def cut(
    read: Sequence[Node],
    free: Collection[Node],
    cost: Callable[[Node], int | None],
    again: Callable[[Node], bool],
) -> set[Node]:
    """The cheapest values to keep so that ``read`` can be had from them and from ``free``.

    ``cost`` is None for what must not be kept; ``again`` says what may be computed again.
    """
    if not read:
        return set()
    flow: nx.DiGraph[object] = nx.DiGraph()
    for r in read:
        flow.add_edge((r, 1), "sink")
    seen = set(read)
    waiting = list(read)
    while waiting:
        n = waiting.pop()
        price = cost(n)
        if price is None:
            flow.add_edge((n, 0), (n, 1))
        else:
            flow.add_edge((n, 0), (n, 1), capacity=price)
        if not again(n):
            flow.add_edge("source", (n, 0))
            continue
        for i in n.inputs:
            if i not in free:
                flow.add_edge((i, 1), (n, 0))
                if i not in seen:
                    seen.add(i)
                    waiting.append(i)
    if "source" not in flow:
        return set()
    # The partition networkx gives is the one nearest to the sink: the least is computed again.
    _, (_, after) = nx.minimum_cut(
        flow, "source", "sink", flow_func=nx.algorithms.flow.boykov_kolmogorov
    )
    return {n for n in seen if (n, 1) in after and (n, 0) not in after}


def cheap(node: Node) -> bool:
    """Whether to compute ``node`` a second time is cheaper than to keep it: elementwise ops, views,
    casts; never products, reductions or random numbers."""
    if node.op is None:
        return False
    return isinstance(node.op, Item) or _cheap(node.op, tuple(i.type for i in node.inputs))


@lru_cache(maxsize=4096)
def _cheap(op: Op, types: tuple[Type, ...]) -> bool:
    if isinstance(op, Composite):
        b = GraphBuilder()
        op.decompose(*(Expr(b, b.param("x", t)) for t in types))
        return all(cheap(n) for n in b.nodes)
    return isinstance(op, Pointwise) and not isinstance(op, Random)
