"""Order the calls of the entry so that values live shortly and params are overwritten in place.

    w1: f32[64, 64] = call(w, graph="k0", ...)        h: ... = call(x, graph="k1", ...)
    h: f32[64, 64] = call(x, graph="k1", ...)   ==>   w1: ... = call(w, graph="k0", ...)
    y: f32[64, 64] = call(h, w1, graph="k2", ...)     y: ... = call(h, w1, graph="k2", ...)

A call sinks to just before its first reader if that keeps less in memory: the bytes it makes,
against those of its inputs that live longer for it. A call that overwrites a param comes after all
that read what was there (``dx = dh @ w`` before ``w`` is updated), where they do not depend on it.
Of the orders that do this the one with the least bytes copied, then (about) alive at once, then
alive for long, is taken.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from heapq import heapify, heappop, heappush

from vtc.ir.graph import Graph, Node, Program, users
from vtc.ir.ops.control import Item
from vtc.passes.cost import nbytes, nominal, value
from vtc.passes.memory import Layout
from vtc.passes.nested import nested
from vtc.passes.pipeline import Context
from vtc.passes.slots import floor

SMALL = 64
"""Bytes that do not count."""

CLOSE = 1.01
"""Times the least of the arena: an order that is so close and lets values live less is taken."""

Before = Mapping[Node, list[Node]]
"""For a call those that come before it although it does not read them."""


@nested
def schedule(program: Program, context: Context) -> Program:
    """See the module."""
    sizes = nominal(program, context.options.nominal)
    entry = program.entry
    before = readers_first(program)
    orders = [entry]
    if not _holds(entry, before):
        orders += [hoisted(entry, before), delayed(entry, before)]
    orders.append(prompt(entry, sizes, before))
    orders += [sunk(g, sizes, before) for g in orders if _holds(g, before)]
    costs = [cost(program.with_entry(g), sizes) for g in orders]
    copied, least, _ = min(costs)
    good = [c[0] == copied and c[1] <= least * CLOSE for c in costs]
    _, k = min((c[2], k) for k, c in enumerate(costs) if good[k])
    return program if orders[k] is entry else program.with_entry(orders[k])


def cost(program: Program, sizes: Mapping[str, int]) -> tuple[int, int, int]:
    """Bytes that are copied to outputs at the end; the most of the arena in use at once; bytes of
    all that is computed, times how long they are needed.
    """
    layout = Layout(program).place()
    copied = sum(nbytes(o.type, sizes) for o in layout.copied())
    most = floor((slot, value(slot.size, sizes)) for slot in layout.in_arena())
    last = {i: k for k, n in enumerate(program.entry.nodes) for i in n.inputs}
    return (
        copied,
        most,
        sum(
            nbytes(n.type, sizes) * max(last.get(n, k) - k, 0)
            for k, n in enumerate(program.entry.nodes)
        ),
    )


def readers_first(program: Program) -> Before:
    """For each call that overwrites a param the calls that read it before, where that can be."""
    graph = program.entry
    found: dict[Node, list[Node]] = {}
    late: list[tuple[Node, list[Node]]] = []
    readers = users(graph)
    for old, new in Layout(program).overwriting():
        others = dict.fromkeys(at for at, _ in old.reads if at != new.birth)
        if any(at == new.birth and new.result not in shares for at, shares in old.reads):
            continue  # copied, whatever the order
        writer, reads = graph.nodes[new.birth], [graph.nodes[at] for at in others]
        if all(at < new.birth for at in others):
            found.setdefault(writer, []).extend(reads)
        else:
            late.append((writer, reads))
    for writer, reads in late:
        after = _after(writer, readers, found)
        if after.isdisjoint(reads):
            found.setdefault(writer, []).extend(reads)
    return {writer: list(dict.fromkeys(reads)) for writer, reads in found.items() if reads}


def hoisted(graph: Graph, before: Before) -> Graph:
    """``graph`` with calls moved up to the first one they must come before."""
    done: dict[Node, None] = {}
    for node in graph.nodes:
        stack = [node]
        while stack:
            top = stack[-1]
            waiting = [] if top in done else [i for i in _first(top, before) if i not in done]
            if waiting:
                stack.extend(reversed(waiting))
            else:
                done.setdefault(stack.pop())
    return replace(graph, nodes=tuple(done))


def delayed(graph: Graph, before: Before) -> Graph:
    """``graph`` with calls moved down behind all that must come before them."""
    return _ordered(graph, before, {n: i for i, n in enumerate(graph.nodes)})


def prompt(graph: Graph, sizes: Mapping[str, int], before: Before) -> Graph:
    """``graph`` with calls that give outputs, or next to nothing, moved up to where they can run:
    what only they still need (the gradient of an update) is not kept until the end.
    """
    lasting = set(graph.outputs)
    readers = users(graph)
    place = {n: i for i, n in enumerate(graph.nodes)}
    for n in graph.nodes:
        results = [r for r in readers[n] if isinstance(r.op, Item)] or [n]
        if isinstance(n.op, Item) or all(
            r in lasting or nbytes(r.type, sizes) <= SMALL for r in results
        ):
            place[n] = -1
    return _ordered(graph, before, place)


def _ordered(graph: Graph, before: Before, place: Mapping[Node, int]) -> Graph:
    """``graph`` with calls in the order of ``place``, each behind all that must come before it."""
    position = {n: i for i, n in enumerate(graph.nodes)}
    missing = {n: len(_first(n, before)) for n in graph.nodes}
    followers: dict[Node, list[Node]] = {n: [] for n in graph.nodes}
    for n in graph.nodes:
        for i in _first(n, before):
            followers[i].append(n)
    ready = [(place[n], position[n]) for n, count in missing.items() if not count]
    heapify(ready)
    order: list[Node] = []
    while ready:
        node = graph.nodes[heappop(ready)[1]]
        order.append(node)
        for n in followers[node]:
            missing[n] -= 1
            if not missing[n]:
                heappush(ready, (place[n], position[n]))
    return replace(graph, nodes=tuple(order))


def sunk(graph: Graph, sizes: Mapping[str, int], before: Before) -> Graph:
    """``graph`` with calls moved down to their first reader where that saves memory."""
    position = {n: i for i, n in enumerate(graph.nodes)}
    anchor = dict(position)
    readers = users(graph)
    lasting = {*graph.params, *graph.outputs}
    awaited: dict[Node, list[Node]] = {}
    for writer, reads in before.items():
        for r in reads:
            awaited.setdefault(r, []).append(writer)
    for node in reversed(graph.nodes):
        if isinstance(node.op, Item):
            continue
        items = [r for r in readers[node] if isinstance(r.op, Item)]
        direct = [r for n in (node, *items) for r in readers[n] if r not in items]
        first = min((anchor[r] for r in (*direct, *awaited.get(node, []))), default=position[node])
        held = sum(
            nbytes(i.type, sizes)
            for i in set(node.inputs)
            if i not in lasting and _last(readers[i], node, anchor) < first
        )
        lasts = any(n in lasting for n in (node, *items))
        if not lasts and first > position[node] + 1 and nbytes(node.type, sizes) > held:
            anchor[node] = first
        anchor.update(dict.fromkeys(items, anchor[node]))
    order = sorted(graph.nodes, key=lambda n: (anchor[n], position[n]))
    return graph if order == list(graph.nodes) else replace(graph, nodes=tuple(order))


def _holds(graph: Graph, before: Before) -> bool:
    position = {n: i for i, n in enumerate(graph.nodes)}
    return all(position[r] < position[w] for w, reads in before.items() for r in reads)


def _first(node: Node, before: Before) -> list[Node]:
    """What comes before ``node``."""
    inputs = (i for i in node.inputs if i.op is not None)
    return list(dict.fromkeys((*inputs, *before.get(node, []))))


def _after(node: Node, readers: Mapping[Node, list[Node]], before: Before) -> set[Node]:
    """All that must come after ``node``, and itself."""
    awaited: dict[Node, list[Node]] = {}
    for writer, reads in before.items():
        for r in reads:
            awaited.setdefault(r, []).append(writer)
    found = {node}
    stack = [node]
    while stack:
        n = stack.pop()
        for r in (*readers[n], *awaited.get(n, [])):
            if r not in found:
                found.add(r)
                stack.append(r)
    return found


def _last(readers: Iterable[Node], but: Node, anchor: Mapping[Node, int]) -> int:
    """Where the last reader besides ``but`` stands; before everything if there is none."""
    return max((anchor[r] for r in readers if r is not but), default=-1)
