"""The narrowest place between values that can only be kept and those who read them later.

Each value is an edge that costs what it takes to keep it, between what cannot be computed again and
what is read; other edges cost what it takes to compute a value again. The choice is a minimum cut
(Chen et al. 2016; Jain et al., "Checkmate", 2020, for the general problem).
:mod:`~vtc.passes.partition` cuts between two programs, :mod:`~vtc.passes.recompute` between early
and late in one.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
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
    again: Callable[[Node], int | None],
    loads: Callable[[Node], Iterable[tuple[Node, int]]] = lambda node: (),
) -> set[Node]:
    """The cheapest values to keep so that ``read`` can be had from them and from ``free``.

    ``cost`` is that of keeping a value, None for what must not be kept; ``again`` that of computing
    it again, None for what must not be. ``loads`` says what more this costs for each of its sources
    that is not computed again itself.
    """
    if not read:
        return set()
    flow: nx.DiGraph[object] = nx.DiGraph()
    for r in read:
        flow.add_edge((r, 1), "sink")
    prices = _prices(read, free, again)
    for n, price in prices.items():
        _edge(flow, (n, 0), (n, 1), cost(n))
        if price != 0:
            _edge(flow, "source", (n, 0), price)
        if price is None:
            continue
        flow.add_edges_from(((i, 1), (n, 0)) for i in n.inputs if i in prices)
        for i, more in loads(n):
            if i in prices:
                _edge(flow, (i, 0), (n, 0), more)
    if "source" not in flow:
        return set()
    # The partition networkx gives is the one nearest to the sink: the least is computed again.
    _, (_, after) = nx.minimum_cut(
        flow, "source", "sink", flow_func=nx.algorithms.flow.boykov_kolmogorov
    )
    return {n for n in prices if (n, 1) in after and (n, 0) not in after}


def _prices(
    read: Sequence[Node], free: Collection[Node], again: Callable[[Node], int | None]
) -> dict[Node, int | None]:
    """What ``read`` may be computed from, no further than ``free``, and the price of each."""
    found: dict[Node, int | None] = {}
    waiting = list(read)
    while waiting:
        n = waiting.pop()
        if n in found:
            continue
        found[n] = again(n)
        if found[n] is not None:
            waiting.extend(i for i in n.inputs if i not in free)
    return found


def _edge(flow: nx.DiGraph[object], a: object, b: object, price: int | None) -> None:
    """An edge that can be cut for ``price``; never if that is None."""
    if price is None:
        flow.add_edge(a, b)
    else:
        flow.add_edge(a, b, capacity=price)


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
