"""Rewrite rules: a pass states what to replace by what, one driver replaces it.

A rule is tried on each value whose op is of its root class. It returns the value to use instead,
recorded with the builder it is given, or None. What it records goes through the rules too, so one
sweep reaches the fixpoint of rules that look at operands only::

    @rule(Neg)
    def double_negation(b, node, inputs):
        (x,) = inputs
        return x.inputs[0] if isinstance(x.op, Neg) else None

For several ops at once there are patterns. One pattern object stands for one value, and is the key
to what it matched::

    x = anything()
    e = of(Exp, of(Sub, x, of(Expand, of(Max, x))))
    total = of(Sum, e)

    @spelled(of(Div, e, of(Expand, total)))
    def softmax(b, m):
        (axis,) = m.op(total).axes
        return b.apply(Softmax(axis), m[x])

    graph = rewrite(graph, (double_negation, softmax))

``spelled`` fires only where nothing inside the pattern is used outside it: the parts would be
computed beside the whole. A replacement takes the name and the place of what it replaces; what it
leaves without users is dropped.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar, cast, final

from vtc.errors import PassError
from vtc.ir.graph import Graph, GraphBuilder, Loc, Names, Node, users
from vtc.ir.op import Op
from vtc.ir.text import show_node
from vtc.ir.types import Type

SWEEPS = 16
"""Rules that still fire in a later sweep undo each other."""
DEPTH = 100
"""Rules that record values inside each other more deeply undo each other."""

Rewrite = Callable[["Rewriter", Node, tuple[Node, ...]], Node | None]
A = TypeVar("A", bound=Op)
_Bound = dict["Pattern[Any]", Node]


@final
@dataclass(frozen=True, slots=True)
class Rule:
    """``rewrite`` is tried on values whose op is of one of the classes ``roots``."""

    name: str
    roots: tuple[type[Op], ...]
    rewrite: Rewrite


def rule(*roots: type[Op]) -> Callable[[Rewrite], Rule]:
    """Make ``(b, node, inputs) -> Node | None`` a rule for ops of these (or abstract) classes."""
    return lambda rewrite: Rule(rewrite.__name__, roots, rewrite)


def rewrite(graph: Graph, rules: Sequence[Rule]) -> Graph:
    """``graph`` once no rule applies any more; itself if none did. Earlier rules come first."""
    for _ in range(SWEEPS):
        sweep = Rewriter(graph, rules)
        graph = sweep.run()
        if not sweep.fired:
            return graph
    last = ", ".join(sorted(sweep.fired))
    raise PassError(f"rewrite: expected a fixpoint in {SWEEPS} sweeps, got {last} still at work")


@final
@dataclass(frozen=True, slots=True, eq=False)
class Pattern(Generic[A]):
    """A value to recognise: any, or that of an op with these attributes (on these inputs)."""

    op: type[A] | None
    inputs: tuple[Pattern[Any], ...]
    attributes: Mapping[str, object]
    commutes: bool


def anything() -> Pattern[Any]:
    """Any value."""
    return Pattern(None, (), {}, commutes=False)


def of(op: type[A], *inputs: Pattern[Any], **attributes: object) -> Pattern[A]:
    """The value of ``op`` on ``inputs``; without inputs, on whatever it has."""
    return Pattern(op, inputs, attributes, commutes=False)


def either_way(op: type[A], x: Pattern[Any], y: Pattern[Any]) -> Pattern[A]:
    """The value of ``op`` on ``x`` and ``y`` in any order."""
    return Pattern(op, (x, y), {}, commutes=True)


@final
@dataclass(frozen=True, slots=True)
class Match:
    """Which value each pattern stands for. ``root`` is the value to replace."""

    root: Node
    bound: Mapping[Pattern[Any], Node]

    def __getitem__(self, pattern: Pattern[Any]) -> Node:
        return self.bound[pattern]

    def op(self, pattern: Pattern[A]) -> A:
        """The op that ``pattern`` matched, with its attributes."""
        return cast("A", self.bound[pattern].op)

    @property
    def inside(self) -> list[Node]:
        """The values between the root and what the pattern leaves open."""
        return [n for p, n in self.bound.items() if p.inputs and n is not self.root]


def match(pattern: Pattern[Any], node: Node) -> Match | None:
    """How ``node`` is what ``pattern`` says; None if it is not."""
    bound = next(_matches(pattern, node, {}), None)
    return None if bound is None else Match(node, bound)


def spelled(
    *patterns: Pattern[Any], shared: bool = False
) -> Callable[[Callable[[Rewriter, Match], Node | None]], Rule]:
    """Make ``(b, match) -> Node | None`` a rule for what any of ``patterns`` matches, in order.

    With ``shared`` it fires also where values inside the pattern are used outside it.
    """

    def decorate(replacement: Callable[[Rewriter, Match], Node | None]) -> Rule:
        def first(b: Rewriter, node: Node, inputs: tuple[Node, ...]) -> Node | None:
            for m in (m for p in patterns if (m := match(p, node)) is not None):
                found = replacement(b, m) if shared or b.only_there(m.inside) else None
                if found is not None:
                    return found
            return None

        return Rule(replacement.__name__, tuple(p.op for p in patterns if p.op is not None), first)

    return decorate


@final
class Rewriter:
    """The builder of rules, in one sweep over a graph. What it records has been through them."""

    def __init__(self, graph: Graph, rules: Sequence[Rule]) -> None:
        self.fired: set[str] = set()
        self._graph = graph
        self._rules = rules
        self._by_class: dict[type[Any], list[Rule]] = {}
        self._replaced: dict[Node, Node] = {p: p for p in graph.params}
        self._made: list[Node] = []
        self._uses: dict[Node, int] = {}  # by what is recorded, and by old nodes still to come
        self._dropped: set[Node] = set()
        self._titles: dict[Node, str] = {}  # the names of old nodes, for what took their places
        self._running: list[str] = []
        self._loc: Loc | None = None

    def apply(self, op: Op, *inputs: Node, hint: str = "", loc: Loc | None = None) -> Node:
        """The value of ``op`` on ``inputs``: recorded, or what the rules make of it."""
        type = op.infer(*(i.type for i in inputs))
        return self._reduced(Node(hint or f"{op.name}_1", type, op, inputs, loc or self._loc))

    def type_of(self, value: Node) -> Type:
        """The type of a value."""
        return value.type

    def only_there(self, nodes: Iterable[Node]) -> bool:
        """Whether only ``nodes`` themselves, and the value being replaced, use ``nodes``."""
        there = set(nodes)
        among = Counter(i for n in there for i in n.inputs)
        return all(self._uses[n] == among[n] for n in there)

    def run(self) -> Graph:
        """The graph after the sweep; the same one if no rule fired."""
        readers, returned = users(self._graph), Counter(self._graph.outputs)
        uses = {n: len(readers[n]) + returned[n] for n in readers}
        self._uses = {p: uses[p] for p in self._graph.params}
        for old in self._graph.nodes:
            self._visit(old, uses[old])
        return self._result() if self.fired else self._graph

    def _visit(self, old: Node, uses: int) -> None:
        self._loc = old.loc
        start = len(self._made)
        inputs = tuple(self._replaced[i] for i in old.inputs)
        for i in inputs:
            self._uses[i] -= 1
        node = old if inputs == old.inputs else replace(old, inputs=inputs)
        new = self._replaced[old] = self._reduced(node)
        self._uses[new] += uses
        recorded = self._made[start:]
        if new in recorded:
            self._titles[new] = old.name
        self._drop([*inputs, *recorded])

    def _reduced(self, node: Node) -> Node:
        cls = type(node.op)
        if cls not in self._by_class:
            self._by_class[cls] = [r for r in self._rules if issubclass(cls, r.roots)]
        for r in self._by_class[cls]:
            if (new := self._fire(r, node)) is not None:
                return new
        for i in node.inputs:
            if i not in self._uses:
                raise PassError(f"rewrite: expected inputs made by the sweep, got {show_node(i)}")
            self._uses[i] += 1
        self._made.append(node)
        self._uses[node] = 0
        return node

    def _fire(self, r: Rule, node: Node) -> Node | None:
        if len(self._running) == DEPTH:
            names = ", ".join(sorted(set(self._running)))
            raise PassError(f"rewrite: expected rules that come to an end, got {names} without one")
        self._running.append(r.name)
        new = r.rewrite(self, node, node.inputs)
        self._running.pop()
        if new is None or new is node:
            return None
        if new.type != node.type:
            raise PassError(f"{r.name}: expected {node.type}, got {new.type} for {show_node(node)}")
        self.fired.add(r.name)
        return new

    def _drop(self, candidates: list[Node]) -> None:
        """Forget those that nothing uses, and what only they used."""
        while candidates:
            node = candidates.pop()
            if self._uses[node] or node.op is None or node in self._dropped:
                continue
            self._dropped.add(node)
            for i in node.inputs:
                self._uses[i] -= 1
                candidates.append(i)

    def _result(self) -> Graph:
        live = [n for n in self._made if n not in self._dropped]
        b, names = GraphBuilder(), Names()
        made = {p: b.param(names.fresh(p.name), p.type, p.loc) for p in self._graph.params}
        titles = {n: names.fresh(self._titles[n]) for n in live if n in self._titles}
        for n in live:
            named = replace(n, name=titles.get(n) or names.fresh(n.name))
            made[n] = b.copy(named, [made[i] for i in n.inputs])
        params = [made[p] for p in self._graph.params]
        outputs = [made[self._replaced[o]] for o in self._graph.outputs]
        return b.graph(self._graph.name, params, outputs)


def _matches(p: Pattern[Any], node: Node, bound: _Bound) -> Iterator[_Bound]:
    """Every way in which ``node`` is what ``p`` says, given what is bound already."""
    if p in bound:
        if bound[p] is node:
            yield bound
        return
    if p.op is not None and not isinstance(node.op, p.op):
        return
    if any(getattr(node.op, name) != value for name, value in p.attributes.items()):
        return
    bound = {**bound, p: node}
    yield from _all_match(p.inputs, node.inputs, bound)
    if p.commutes:
        yield from _all_match(p.inputs[::-1], node.inputs, bound)


def _all_match(
    ps: tuple[Pattern[Any], ...], nodes: tuple[Node, ...], bound: _Bound
) -> Iterator[_Bound]:
    if not ps:
        yield bound
    elif len(ps) == len(nodes):
        for first in _matches(ps[0], nodes[0], bound):
            yield from _all_match(ps[1:], nodes[1:], first)
