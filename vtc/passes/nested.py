"""Passes over entries that also reach into the graphs that loops and branches run.

    @nested
    def fuse(program, context): ...     # is called for each of these graphs as if it was the entry

As an entry, the body of a loop overwrites the params that it carries on: memory is planned so.
"""

from __future__ import annotations

import functools
from dataclasses import replace

from vtc.ir.graph import Graph, Program
from vtc.ir.ops.bodies import bodies, body_program
from vtc.passes.pipeline import Context, Pass


def nested(change: Pass) -> Pass:
    """``change`` done to the graphs that flow ops run, one by one, and then to the entry."""

    @functools.wraps(change)
    def run(program: Program, context: Context) -> Program:
        for name, carried in bodies(program).items():
            program = _within(program, name, change(body_program(program, name, carried), context))
        return change(program, context)

    return run


def _within(program: Program, name: str, changed: Program) -> Program:
    """``program`` with the graph called ``name`` as it is in ``changed``, which may have more."""
    known = program.by_name
    more = [g for g in changed.graphs[:-1] if g.name not in known]
    graphs: list[Graph] = []
    for g in program.graphs:
        graphs += [*more, changed.entry] if g.name == name else [g]
    return replace(program, graphs=tuple(graphs))
