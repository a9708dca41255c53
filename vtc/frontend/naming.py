"""Values bear the names of the user's variables: ``h = x @ w`` makes a node called ``h``.

The bytecode after the call being traced tells whether its result is stored, and where.
"""

from __future__ import annotations

import dis
from dataclasses import dataclass
from functools import lru_cache
from types import CodeType

from vtc.frontend.source import user_frame
from vtc.ir.graph import Graph, GraphBuilder, Node, rebuild


@dataclass(frozen=True, slots=True)
class Site:
    """One evaluation of one expression in user code, and the variable its result goes to."""

    frame: int
    offset: int
    name: str


STORES = frozenset({"STORE_FAST", "STORE_NAME", "STORE_DEREF", "STORE_GLOBAL"})


@lru_cache(maxsize=1024)
def stored_names(code: CodeType) -> dict[int, str]:
    """The variable stored right after the instruction at each offset, its caches included."""
    found: dict[int, str] = {}
    previous: dis.Instruction | None = None
    for i in dis.get_instructions(code):
        name = str(i.argval)  # not an identifier where a tool made it, as pytest does
        stored = i.opname in STORES and name.isidentifier()
        if stored and previous is not None and not previous.opname.startswith("UNPACK"):
            for offset in range(previous.offset, i.offset):  # inline caches follow the call
                found[offset] = name
        previous = i
    return found


def site() -> Site | None:
    """Where in user code this runs, if its result is stored in a variable."""
    frame = user_frame()
    if frame is None:
        return None
    name = stored_names(frame.f_code).get(frame.f_lasti)
    return None if name is None else Site(id(frame), frame.f_lasti, name)


@dataclass(frozen=True, slots=True)
class Names:
    """The sites of a trace's nodes."""

    sites: dict[Node, Site]

    def rename(self, graph: Graph) -> Graph:
        """``graph`` with each variable's name on the last node made for it."""
        at = [self.sites.get(n) for n in graph.nodes]
        follows = [*at[1:], None][: len(at)]
        names = {
            n: here.name
            for n, here, after in zip(graph.nodes, at, follows, strict=True)
            if here is not None and here != after
        }

        def visit(b: GraphBuilder, node: Node, inputs: tuple[Node, ...]) -> Node:
            if node.op is None:
                raise ValueError(f"{node.name} is a parameter inside a body")
            return b.apply(node.op, *inputs, hint=names.get(node, node.name), loc=node.loc)

        return rebuild(graph, visit)
