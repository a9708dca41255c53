"""Cut a joint program into a forward and a backward program, saving as few bytes in between as it
can.

    def f(x, w, d_y): ... return y, d_x, d_w
        ==>
    def f_forward(x, w): ... return y, h            # h is saved
    def f_backward(x, w, h, d_y): ... return d_x, d_w

What backward reads of forward's values is saved, or computed again from saved values where that is
cheap (elementwise, views, casts; never products, reductions or random numbers). Params of forward
cost nothing to save unless the program overwrites them. The choice is a minimum cut, in bytes:
:mod:`vtc.passes.cut`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import TypeVar, final

from vtc.errors import VerifyError
from vtc.ir.dims import Sym, symbols
from vtc.ir.graph import Fact, Graph, Node, Program
from vtc.ir.types import TensorType, tensors
from vtc.passes.canonicalize import canonicalize
from vtc.passes.cost import nbytes, nominal
from vtc.passes.cse import cse
from vtc.passes.cut import cheap, cut
from vtc.passes.dce import dce
from vtc.passes.decompose import decompose
from vtc.passes.pipeline import Context
from vtc.passes.splice import on

V = TypeVar("V")

RECOMPUTING = frozenset({"scaled_dot_product_attention", "attention_gradient"})
"""Composites that compute products again on purpose. The others are spelled out before the cut, so
that forward and backward are seen to share what they are made of."""


@final
@dataclass(frozen=True)
class Pair:
    """A forward program giving (outputs..., saved...) and a backward one taking (saved...,
    tangents...).

    ``saved`` names values in the order backward takes them; each is an output or a param of
    forward. Only those that are neither outputs of the joint program nor its params are outputs
    more.
    """

    forward: Program
    backward: Program
    saved: tuple[str, ...]

    def arguments(
        self, inputs: Sequence[V], results: Sequence[V], tangents: Sequence[V]
    ) -> list[V]:
        """What backward takes, given what forward took and gave."""
        entry = self.forward.entry
        named = dict(zip([p.name for p in entry.params], inputs, strict=True))
        named.update(zip([o.name for o in entry.outputs], results, strict=True))
        return [*(named[s] for s in self.saved), *tangents]


def partition(program: Program, outputs: int, tangents: int, context: Context) -> Pair:
    """See the module.

    The entry returns ``outputs`` results and then gradients; its last ``tangents`` params are the
    cotangents of results.
    """
    whole = replace(context.target, keeps=context.target.keeps | RECOMPUTING)
    for simplify in (decompose, canonicalize, cse, dce):
        program = simplify(program, replace(context, target=whole))
    joint = _Joint.of(program, outputs, tangents)
    saved = _bind_symbols(joint, _save(joint, nominal(program, context.options.nominal)))
    return Pair(
        dce(_forward(joint, saved), context),
        dce(_backward(joint, saved), context),
        tuple(s.name for s in saved),
    )


@final
@dataclass(frozen=True)
class _Joint:
    """The program, and where it falls apart: ``late`` nodes need tangents; ``read`` are early
    values they read."""

    program: Program
    params: tuple[Node, ...]
    tangents: tuple[Node, ...]
    outputs: tuple[Node, ...]
    gradients: tuple[Node, ...]
    late: frozenset[Node]
    read: tuple[Node, ...]

    @classmethod
    def of(cls, program: Program, outputs: int, tangents: int) -> _Joint:
        entry = program.entry
        count = len(entry.params) - tangents
        late = set(entry.params[count:])
        for n in entry.nodes:
            if not late.isdisjoint(n.inputs):
                late.add(n)
        if wrong := next((o for o in entry.outputs[:outputs] if o in late), None):
            raise VerifyError(
                f"partition: expected outputs that need no tangents, got {wrong.name}"
            )
        gradients = entry.outputs[outputs:]
        live = _ancestors(gradients, entry.nodes)
        read = {g: None for g in gradients if g not in late}
        for n in entry.nodes:
            if n in late and n in live:
                read.update({i: None for i in n.inputs if i not in late})
        return cls(
            program,
            entry.params[:count],
            entry.params[count:],
            entry.outputs[:outputs],
            gradients,
            frozenset(late),
            tuple(read),
        )

    def overwritten(self) -> set[Node]:
        """Params whose content forward replaces, so that backward cannot read them."""
        pairs = zip(self.params, self.program.facts, strict=False)
        return {p for p, fact in pairs if fact.overwritten is not None}


def _save(joint: _Joint, sizes: Mapping[str, int]) -> list[Node]:
    """The values to save, in program order."""

    def cost(n: Node) -> int | None:
        single = isinstance(n.type, TensorType)  # several results are saved one by one
        return max(1, nbytes(n.type, sizes)) if single else None

    def again(n: Node) -> int | None:
        return 0 if cheap(n) else None

    free = set(joint.params) - joint.overwritten()
    saved = {r for r in joint.read if r in free or not cheap(r)}
    free |= saved
    for n in joint.program.entry.nodes:
        if n not in joint.late and cheap(n) and all(i in free for i in n.inputs):
            free.add(n)
    saved |= cut([r for r in joint.read if r not in free], free, cost, again)
    saved = _needed(joint.read, saved | (free & set(joint.params)))
    order = (*joint.params, *joint.program.entry.nodes)
    return [n for n in order if n in saved]


def _needed(read: Iterable[Node], available: Collection[Node]) -> set[Node]:
    """What of ``available`` is met first on the way back from ``read``."""
    found: set[Node] = set()
    seen: set[Node] = set()
    waiting = list(read)
    while waiting:
        n = waiting.pop()
        if n in seen:
            continue
        seen.add(n)
        if n in available:
            found.add(n)
        else:
            waiting.extend(n.inputs)
    return found


def _bind_symbols(joint: _Joint, saved: list[Node]) -> list[Node]:
    """``saved``, and for each symbol no param of backward would bind, the smallest param that
    does."""
    program = joint.program
    if not program.dims:
        return saved
    used = {s for g in program.graphs for n in g.nodes for s in _symbols(n)}
    for name in sorted(used - _bound((*saved, *joint.tangents))):
        holders = [p for p in joint.params if name in _bound([p])]
        if holders and name not in _bound(saved):
            saved = [*saved, min(holders, key=lambda p: nbytes(p.type, {}))]
    order = {n: i for i, n in enumerate((*joint.params, *program.entry.nodes))}
    return sorted(saved, key=order.__getitem__)


def _symbols(node: Node) -> frozenset[str]:
    """The symbols in a node's type and attributes."""
    found = [symbols(s) for t in tensors(node.type) for s in t.shape]
    for f in fields(node.op) if node.op else ():
        values = getattr(node.op, f.name)
        sizes = values if isinstance(values, tuple) else (values,)
        found += [symbols(s) for s in sizes if isinstance(s, Sym)]
    return frozenset().union(*found)


def _bound(params: Iterable[Node]) -> set[str]:
    """Symbols that stand alone in the shape of a param."""
    sizes = (s for p in params for t in tensors(p.type) for s in t.shape)
    return {str(s) for s in sizes if isinstance(s, Sym) and symbols(s) == {str(s)}}


def _forward(joint: _Joint, saved: Sequence[Node]) -> Program:
    present = {*joint.outputs, *(set(joint.params) - joint.overwritten())}
    outputs = (*joint.outputs, *(s for s in saved if s not in present))
    live = _ancestors(outputs, joint.program.entry.nodes)
    nodes = tuple(n for n in joint.program.entry.nodes if n in live)
    entry = Graph(f"{joint.program.entry.name}_forward", joint.params, nodes, outputs)
    facts = joint.program.facts[: len(joint.params)]
    return replace(joint.program, graphs=(*joint.program.graphs[:-1], entry), facts=facts)


def _backward(joint: _Joint, saved: Sequence[Node]) -> Program:
    whole = joint.program.entry
    env = {s: Node(s.name, s.type, loc=s.loc) for s in saved}
    live = _ancestors(joint.gradients, whole.nodes, stop=env)
    nodes: list[Node] = []
    for n in whole.nodes:
        if n in live and n not in env:
            env[n] = on(n, tuple(env.get(i, i) for i in n.inputs))
            nodes.append(env[n])
    params = (*(env[s] for s in saved), *joint.tangents)
    outputs = tuple(env.get(g, g) for g in joint.gradients)
    facts = dict(zip(whole.params, joint.program.facts, strict=True))
    somewhere = Fact(device=next((f.device for f in facts.values()), Fact().device))
    kept = tuple(
        replace(facts.get(p, somewhere), overwritten=None) for p in (*saved, *joint.tangents)
    )
    entry = Graph(f"{whole.name}_backward", params, tuple(nodes), outputs)
    return replace(joint.program, graphs=(*joint.program.graphs[:-1], entry), facts=kept)


def _ancestors(of: Iterable[Node], nodes: Sequence[Node], stop: Collection[Node] = ()) -> set[Node]:
    """``of`` and what they are made of, no further than ``stop``."""
    live = set(of)
    for n in reversed(nodes):
        if n in live and n not in stop:
            live.update(n.inputs)
    return live
