"""Invariants of programs, checked after every pass; a failure shows the node and its neighbours.

Graphs have distinct names and are defined before they are called; every graph is in SSA form, with
the types that its ops infer; symbols are declared; facts are about what exists. ``spec`` says what
a stage allows::

    verify(program, lambda n: "composites are gone by now" if isinstance(n.op, Composite) else None)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import final
from unicodedata import normalize

from vtc.errors import VerifyError, at_line
from vtc.ir.attribute import attributes, fits, show_value
from vtc.ir.dims import Sym, symbols
from vtc.ir.graph import RESERVED, Graph, Node, Program
from vtc.ir.op import REGISTRY, Op, infer
from vtc.ir.text import excerpt, show_node
from vtc.ir.types import TensorType, TupleType, Type

Spec = Callable[[Node], str | None]
"""Why a node may not be in a program of some stage; None if it may."""


def verify(program: Program, spec: Spec | None = None) -> None:
    """VerifyError unless ``program`` keeps the invariants and ``spec`` allows each of its nodes."""
    declared = _check_dims(program)
    defined: dict[str, Graph] = {}
    for graph in program.graphs:
        if not _is_name(graph.name) or graph.name in defined:
            raise VerifyError(f"expected a new name for a graph, got {graph.name!r}")
        _Check(graph, defined, declared, spec).run()
        defined[graph.name] = graph
    _check_facts(program)


def _check_dims(program: Program) -> frozenset[str]:
    declared: set[str] = set()
    for d in program.dims:
        if d.name in declared or d.name in RESERVED or not _is_name(d.name):
            raise VerifyError(f"expected a new name for a dim, got {d}")
        declared.add(d.name)
    return frozenset(declared)


def _check_facts(program: Program) -> None:
    entry, facts = program.entry, program.facts
    if len(facts) != len(entry.params):
        have = f"{len(facts)} for {len(entry.params)} params"
        raise VerifyError(f"{entry.name}: expected one fact per param, got {have}")
    overwriting: dict[int, Node] = {}
    for p, fact in zip(entry.params, facts, strict=True):
        if (output := fact.overwritten) is None:
            continue
        if why := _wrong_overwrite(entry, p, output, overwriting):
            raise _broken(entry, p, f"param: {why}")
        overwriting[output] = p


def _wrong_overwrite(
    entry: Graph, p: Node, output: int, overwriting: Mapping[int, Node]
) -> str | None:
    if not 0 <= output < len(entry.outputs):
        return f"expected {p.name} overwritten by one of {len(entry.outputs)} outputs, got {output}"
    o = entry.outputs[output]
    if output in overwriting:
        both = f"{overwriting[output].name} and {p.name}"
        return f"expected output {o.name} to overwrite one param, got {both}"
    if o.type != p.type:
        return f"expected {p.name} overwritten by {p.type}, got {o.name}: {o.type}"
    return None


@final
@dataclass(slots=True)
class _Check:
    """One graph being checked; ``defined`` are the graphs before it."""

    graph: Graph
    defined: Mapping[str, Graph]
    declared: frozenset[str]
    spec: Spec | None
    bound: set[Node] = field(default_factory=set)
    names: set[str] = field(default_factory=set)
    known: set[Type] = field(default_factory=set)

    def run(self) -> None:
        for p in self.graph.params:
            if p.op is not None or not isinstance(p.type, TensorType):
                raise self.broken(p, f"expected a param that is one tensor, got {show_node(p)}")
            self.bind(p)
        for node in self.graph.nodes:
            self.node(node)
            self.bind(node)
        for o in self.graph.outputs:
            if o not in self.bound or not isinstance(o.type, TensorType):
                what = o.type if o in self.bound else "which is not defined"
                raise _broken(self.graph, None, f"return: expected a tensor, got {o.name}, {what}")

    def node(self, node: Node) -> None:
        op = node.op
        if op is None:
            raise self.broken(node, f"expected an op, got the param {node.name} inside the body")
        for i in node.inputs:
            if i not in self.bound:
                raise self.broken(node, f"expected inputs defined above, got {i.name}")
        self.attributes(node, op)
        type = self.inferred(node, op)
        if type != node.type:
            raise self.broken(node, f"expected {node.name} to be {type}, got {node.type}")
        if self.spec is not None and (why := self.spec(node)) is not None:
            raise self.broken(node, why)

    def attributes(self, node: Node, op: Op) -> None:
        for name, attribute in attributes(type(op)).items():
            value = getattr(op, name)
            if not fits(value, attribute.kind):
                got = f"{name}={show_value(value)}"
                raise self.broken(node, f"expected {name}: {attribute.written}, got {got}")
            self.declare(node, value)

    def inferred(self, node: Node, op: Op) -> Type:
        types = [i.type for i in node.inputs]
        try:
            result = infer(op, types)
            if (check_graphs := getattr(op, "check_graphs", None)) is not None:
                check_graphs(self.defined, types)
        except Exception as e:  # an op's infer may trip over operands it does not expect
            why = str(e).removeprefix(f"{op.name}: ")
            raise self.broken(node, why) from e
        return result

    def bind(self, node: Node) -> None:
        name = node.name
        if not _is_name(name) or name in RESERVED or name in REGISTRY or name in self.names:
            raise self.broken(node, f"expected a new name, not reserved, got {name!r}")
        if node.type not in self.known:
            self.known.add(node.type)
            self.declare(node, node.type)
        self.bound.add(node)
        self.names.add(name)

    def declare(self, node: Node, value: object) -> None:
        """Every symbol in ``value`` is declared, and no size in a type is negative."""
        match value:
            case Sym() if not (names := symbols(value)) <= self.declared:
                unknown = ", ".join(sorted(names - self.declared))
                raise self.broken(node, f"expected declared dims, got {unknown}")
            case tuple():
                for v in value:
                    self.declare(node, v)
            case TensorType(shape=shape):
                if any(isinstance(s, int) and s < 0 for s in shape):
                    raise self.broken(node, f"expected sizes of at least 0, got {value}")
                self.declare(node, shape)
            case TupleType(items=items):
                self.declare(node, items)

    def broken(self, node: Node, why: str) -> VerifyError:
        return _broken(self.graph, node, f"{node.op.name if node.op else 'param'}: {why}")


def _is_name(name: str) -> bool:
    """Python's parser reads identifiers in normal form, so only those survive as text."""
    return name.isidentifier() and normalize("NFKC", name) == name


def _broken(graph: Graph, node: Node | None, why: str) -> VerifyError:
    if node is not None and node.loc is not None:
        why = at_line(why, node.loc.file, node.loc.line, node.loc.module)
    return VerifyError(f"{why}\n{excerpt(graph, node)}")
