"""Cut a program at the calls of libraries.

Between the calls of ops that no kernel computes (:class:`~vtc.ir.ops.vendor.Vendor`) are programs
that are compiled as any other. Such a stretch is as large as can be: it has all that needs no
result of a later call::

    a @ a.T -> cholesky -> (solve, sum)          # stretch, call, stretch
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast, final

import numpy as np

from vtc.ir.dims import Sym, symbols
from vtc.ir.evaluate import bind, bound_type, compute
from vtc.ir.graph import Fact, GraphBuilder, Node, Program
from vtc.ir.ops.control import Item
from vtc.ir.ops.vendor import Vendor
from vtc.ir.types import Array, TensorType, TupleType

Run = Callable[[Sequence[Array]], Sequence[Array]]
Compile = Callable[[Program], Run]


@final
@dataclass(frozen=True, slots=True)
class Stretch:
    """A program between calls, the values it is given, and those it makes."""

    program: Program
    inputs: tuple[Node, ...]
    outputs: tuple[Node, ...]


@final
@dataclass(frozen=True, slots=True)
class Call:
    """An op that a library computes."""

    node: Node


def calls_of(program: Program) -> tuple[Node, ...]:
    """What libraries compute in ``program``."""
    return tuple(n for n in program.entry.nodes if isinstance(n.op, Vendor))


def cut_at_calls(program: Program) -> list[Stretch | Call]:
    """What computes ``program``, in order."""
    level = _levels(program)
    found: list[Stretch | Call] = []
    for k in range(max(level.values(), default=0) + 1):
        stretch = _stretch(program, level, k)
        found += [stretch] if stretch.outputs else []
        found += [Call(n) for n in calls_of(program) if level[n] == k]
    return found


def _levels(program: Program) -> dict[Node, int]:
    """The stretch in which each value is computed; a call comes after that of its number."""
    level = dict.fromkeys(program.entry.params, 0)
    for n in program.entry.nodes:
        level[n] = max((level[i] + isinstance(i.op, Vendor) for i in n.inputs), default=0)
    return level


def _stretch(program: Program, level: dict[Node, int], k: int) -> Stretch:
    entry = program.entry
    mine = [n for n in entry.nodes if level[n] == k and not _is_call(n)]
    inside, wanted = set(mine), {o for o in entry.outputs if isinstance(o.type, TensorType)}
    for n in entry.nodes:
        if n not in inside:
            wanted.update(n.inputs)
    outputs = tuple(n for n in mine if n in wanted)
    inputs = list(dict.fromkeys(i for n in mine for i in n.inputs if i not in inside))
    inputs += _binding(program, [*inputs, *mine], inputs)
    b = GraphBuilder()
    env = {i: b.param(i.name, i.type, i.loc) for i in inputs}
    for n in mine:
        env[n] = b.copy(n, [env[i] for i in n.inputs])
    graph = b.graph(f"{entry.name}_{k}", [env[i] for i in inputs], [env[o] for o in outputs])
    known = dict(zip(entry.params, program.facts, strict=True))
    facts = tuple(replace(known.get(i, Fact()), overwritten=None, alias="") for i in inputs)
    bound = _bound(inputs)
    dims = tuple(d for d in program.dims if d.name in bound)
    made = replace(program.with_entry(graph), dims=dims, facts=facts)
    return Stretch(made, tuple(inputs), outputs)


def _is_call(n: Node) -> bool:
    """Whether ``n`` is a call, or one of its results."""
    return isinstance(n.op, Vendor) or (isinstance(n.op, Item) and _is_call(n.inputs[0]))


def _binding(program: Program, seen: Sequence[Node], inputs: Sequence[Node]) -> list[Node]:
    """Params of the program that say how large the symbols are which no input does."""
    need = {s for n in seen for t in _types(n) for size in t.shape for s in symbols(size)}
    need |= {s for n in seen if n.op is not None for s in _attributes(n.op)}
    need -= _bound(inputs)
    found: list[Node] = []
    for p in program.entry.params:
        if need & _bound([p]) and p not in inputs:
            found.append(p)
            need -= _bound([p])
    return found


def _types(n: Node) -> Sequence[TensorType]:
    return cast("Sequence[TensorType]", n.type.items if isinstance(n.type, TupleType) else [n.type])


def _attributes(value: Any) -> set[str]:
    """The symbols in the attributes of an op."""
    if isinstance(value, Sym):
        return set(symbols(value))
    if isinstance(value, tuple):
        return {s for v in value for s in _attributes(v)}
    slots = getattr(value, "__dataclass_fields__", {})
    return {s for name in slots for s in _attributes(getattr(value, name))}


def _bound(nodes: Sequence[Node]) -> set[str]:
    sizes = (size for n in nodes for t in _types(n) for size in t.shape)
    return {str(s) for s in sizes if isinstance(s, Sym) and symbols(s) == {str(s)}}


@final
class Stretches:
    """Runs a program stretch by stretch, with the calls between.

    ``down`` gives an array in the memory of the host, ``up`` takes one to the device (a copy on the
    CPU too), and ``write`` makes the elements of its first argument those of its second.
    """

    def __init__(
        self,
        program: Program,
        compile_stretch: Compile,
        down: Callable[[Array], Array],
        up: Callable[[Array], Array],
        write: Callable[[Array, Array], None],
    ) -> None:
        self._program = program
        self._steps = [
            (s, compile_stretch(s.program) if isinstance(s, Stretch) else None)
            for s in cut_at_calls(program)
        ]
        self._down, self._up, self._write = down, up, write

    def run(self, inputs: Sequence[Array]) -> list[Array]:
        """The outputs; what the program overwrites changes in place."""
        entry = self._program.entry
        values: dict[Node, Any] = dict(zip(entry.params, inputs, strict=True))
        sizes = bind(entry.params, [a.shape for a in inputs])
        for step, run in self._steps:
            if isinstance(step, Stretch):
                assert run is not None
                made = run([values[i] for i in step.inputs])
                values.update(zip(step.outputs, made, strict=True))
                continue
            node = step.node
            op, type = cast("Vendor", node.op).substitute(sizes), bound_type(node.type, sizes)
            out = compute(op, [self._down(values[i]) for i in node.inputs], type)
            several = tuple(map(self._up, out)) if isinstance(out, tuple) else self._up(out)
            values[node] = several
            if isinstance(several, tuple):
                for n in entry.nodes:
                    if isinstance(n.op, Item) and n.inputs[0] is node:
                        values[n] = several[n.op.index]
        return self._results(inputs, [values[o] for o in entry.outputs])

    def _results(self, inputs: Sequence[Array], outputs: list[Array]) -> list[Array]:
        """``outputs`` in memory of their own, or in that of the inputs they overwrite."""
        over = {f.overwritten: p for p, f in enumerate(self._program.facts)}
        seen: set[int] = set(map(id, inputs))
        for k, out in enumerate(outputs):
            if k not in over and id(out) in seen:
                outputs[k] = self._up(np.array(self._down(out), order="C"))
            seen.add(id(outputs[k]))
        fresh = {k: outputs[k] for k in over if k is not None}
        for k, out in fresh.items():
            target = inputs[over[k]]
            if any(out is a for a in inputs):
                out = self._up(np.array(self._down(out), order="C"))
            self._write(target, out)
            outputs[k] = target
        return outputs
