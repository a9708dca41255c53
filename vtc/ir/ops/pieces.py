"""Regions that put whole values one after another: their results need no copies.

    q: f32[1, 8] = reshape(a, shape=(1, 8))
    k: f32[1, 8] = reshape(b, shape=(1, 8))
    r: f32[2, 8] = concat(q, k, axis=0)             # a lies at 0, b at byte 32

Where ``a`` and ``b`` are computed at those places at once, nothing is left to do (the pass
``memory``; a plan has no step for it).
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from math import prod

from vtc.ir.graph import Graph, Node
from vtc.ir.ops.fill import Concat
from vtc.ir.ops.view import Reshape


@lru_cache(1024)
def pieces(graph: Graph) -> tuple[int, ...]:
    """Where each param lies in the one result, in bytes; empty if there is more to the region."""
    if len(graph.outputs) != 1:
        return ()
    at, places = 0, dict[Node, int]()
    for part in _parts(graph.outputs[0]):
        size = None if part is None else part.tensor.nbytes
        if part is None or part in places or not isinstance(size, int):
            return ()
        places[part], at = at, at + size
    whole = len(places) > 1 and places.keys() == set(graph.params)
    return tuple(places[p] for p in graph.params) if whole else ()


def _parts(node: Node) -> Iterator[Node | None]:
    """The params that ``node`` consists of, in order; None for what is something else."""
    match node.op:
        case None:
            yield node
        case Reshape():
            yield from _parts(node.inputs[0])
        case Concat(axis=axis) if prod(n for n in node.tensor.shape[:axis] if n != 1) == 1:
            for i in node.inputs:
                yield from _parts(i)
        case _:
            yield None
