"""Take out of loops what can be done for all their steps at once.

    def step(h, x, w, v):                            def step(h, p, v):
        p = matmul(x, w)                      ==>        q = matmul(h, v)
        q = matmul(h, v)                                 ...
        ...                                          p = matmul(xs, w)       # [T * N, K] x [K, M]
                                                     t = for_loop(h, p, v, body="step_1", ...)

Ahead of the loop: products of slices and of what all steps read, where the product is no more to
read than what it is made of; and what is the same in all steps. After it: sums over the steps
(:mod:`vtc.passes.totals`), such as the gradients of weights. What a loop computes for nobody then
goes, and so do operands that its steps do not read.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from vtc.ir.graph import Graph, Node, Program, users
from vtc.ir.ops.contract import Matmul
from vtc.ir.ops.control import Item, Library
from vtc.ir.ops.flow import ForLoop
from vtc.passes.cost import nbytes, nominal, value
from vtc.passes.dce import dce
from vtc.passes.open_loop import OpenLoop, movable
from vtc.passes.pipeline import Context
from vtc.passes.regions import Decision
from vtc.passes.splice import Splice
from vtc.passes.totals import Totals
from vtc.passes.turn import only_index, source

MOVES = 2
"""How often a product that is computed ahead goes through memory: it is written and read."""
ONCE, EACH, STEP = range(3)
"""When a value can be known: once for all steps, for each of them ahead, or in the step alone."""


def hoist(program: Program, context: Context) -> Program:
    """See the module."""
    return hoisted(program, context)[0]


def hoisted(program: Program, context: Context) -> tuple[Program, tuple[Decision, ...]]:
    """The program, and what was taken out of loops and what was not."""
    taken: list[Decision] = []
    while True:  # a loop that reads less of another one leaves more to take out of that
        found: list[Decision] = []
        changed = _once(program, nominal(program, context.options.nominal), found)
        if changed is program:
            return program, (*taken, *found)
        taken += [d for d in found if d.taken]
        program = dce(changed, context)


def _once(program: Program, sizes: Mapping[str, int], found: list[Decision]) -> Program:
    library = Library(program.graphs)
    graphs: list[Graph] = []
    for graph in program.graphs:  # loops within a body come before the loop that runs it
        changed = _changed(graph, library, sizes, found)
        library.replace(changed)
        graphs += [*library.take(), changed]
    same = all(a is b for a, b in zip(graphs, program.graphs, strict=False))
    return program if same else replace(program, graphs=tuple(graphs))


def _changed(
    graph: Graph, library: Library, sizes: Mapping[str, int], found: list[Decision]
) -> Graph:
    if not any(isinstance(n.op, ForLoop) for n in graph.nodes):
        return graph
    readers = users(graph)
    splice = Splice(graph)
    for node in graph.nodes:
        items = readers[node]
        plain = all(isinstance(i.op, Item) for i in items) and node not in graph.outputs
        if node in splice.env:
            continue
        if not isinstance(node.op, ForLoop) or not plain:
            splice.keep(node)
            continue
        body = library[node.op.body]
        loop = OpenLoop.of(node, node.op, body, splice.inputs(node), items)
        if not _opened(loop, library, splice, sizes, found):
            splice.keep(node)
    return splice.result() if splice.env else graph


def _opened(
    loop: OpenLoop,
    library: Library,
    splice: Splice,
    sizes: Mapping[str, int],
    found: list[Decision],
) -> bool:
    """Whether something was taken out of ``loop``; it is written to ``splice`` then."""
    for decision in _ahead(loop, sizes):
        found.append(decision)
        if decision.taken:
            loop.ahead(decision.node)
    totals = Totals(loop, sizes)
    found.extend(totals.choose())
    if not loop.record(library):
        return False
    stands = dict(loop.replaced())
    for start, total in totals.record().items():
        stands.update(dict.fromkeys(loop.read["end", start], total))
    recorded = {n: n.name for n in loop.builder.nodes}
    heirs = {n: loop.name for n in recorded if isinstance(n.op, ForLoop)}
    for item, new in stands.items():
        if new in recorded:
            heirs.setdefault(new, item.name)
    copies = splice.insert(recorded, recorded, heirs)
    splice.env.update({item: copies.get(new, new) for item, new in stands.items()})
    return True


def _ahead(loop: OpenLoop, sizes: Mapping[str, int]) -> Iterator[Decision]:
    """What might be computed ahead of the loop, in order."""
    when = dict.fromkeys(loop.starts, STEP)
    when.update(dict.fromkeys(loop.slices, EACH))
    when.update(dict.fromkeys(loop.others, ONCE))
    steps = value(loop.op.length, sizes)
    saved: dict[Node, int] = {}
    for n in loop.body.nodes:
        when[n] = max((when[i] for i in n.inputs), default=ONCE) if movable(n) else STEP
        if isinstance(n.op, Matmul) and when[n] == EACH:
            once = sum(nbytes(i.type, sizes) for i in n.inputs if when[i] == ONCE)
            saved[n] = once - MOVES * nbytes(n.type, sizes)
            when[n] = EACH if saved[n] >= 0 else STEP
    same = dict(_same(loop, when, sizes))
    for n in loop.body.nodes:
        if n in same:
            yield Decision("same", n, True, steps * same[n], "it is the same in all steps")
        elif n in saved:
            why = "it is one product for all steps"
            why = why if saved[n] >= 0 else "all it gives is more than what steps read again"
            yield Decision("ahead", n, saved[n] >= 0, steps * saved[n], why)


def _same(
    loop: OpenLoop, when: Mapping[Node, int], sizes: Mapping[str, int]
) -> Iterator[tuple[Node, int]]:
    """What is the same in all steps, and no more to read than what it is made of; and how much less
    that is.
    """
    read = {*loop.ends.values(), *loop.rows}
    for n in reversed(loop.body.nodes):
        if when[n] != ONCE:
            read.update(n.inputs)
        elif n in read:
            less = sum(nbytes(source(i).type, sizes) for i in n.inputs) - nbytes(n.type, sizes)
            if not only_index(n) and less >= 0:
                yield n, less
            else:
                read.update(n.inputs)
