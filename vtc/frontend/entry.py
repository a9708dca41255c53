"""A compiled entry: one traced program, built, with what is needed to call it again.

Calling gathers the inputs, runs, and puts results, written tensors and gradients where eager code
would have put them. Where results require grad, the entry is a pair: the forward also returns the
values that the backward needs, and backward runs when the user asks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from vtc.build import Built, compile_program, context_for, stage_program
from vtc.errors import GradientError, VersionError
from vtc.frontend import dispatch
from vtc.frontend.autograd import ENGINE
from vtc.frontend.inputs import KEPT, Source, base_of, layout
from vtc.frontend.source import located
from vtc.frontend.tape import BUILDER, Saved, restore, running
from vtc.frontend.tensor import Tensor, array_of, concrete_tensor
from vtc.frontend.trace import Given, Made, Part, Plain, Traced
from vtc.frontend.tree import unflatten
from vtc.ir.evaluate import bind
from vtc.ir.ops.expr import Expr
from vtc.ir.types import Array, TensorType
from vtc.passes.partition import Pair, partition
from vtc.passes.pipeline import Options
from vtc.runtime.device import Device

if TYPE_CHECKING:
    from vtc.ir.op import Needs


def give(leaf: Tensor, grad: Tensor | None) -> None:
    """Make ``grad`` the gradient of ``leaf``: on its device, of a number of the host there."""
    away = grad is not None and grad.device != leaf.device
    leaf._grad = grad.to(leaf.device) if grad is not None and away else grad


@dataclass(eq=False)
class Entry:
    """See the module."""

    traced: Traced
    forward: Built
    backward: Built | None = None
    pair: Pair | None = None
    calls: int = 0
    closures: frozenset[int] = field(init=False)
    overwritten: tuple[tuple[int, int], ...] = field(init=False)
    made: tuple[Made, ...] = field(init=False)
    pinned: frozenset[int] = field(init=False)
    read: tuple[int, ...] = ()
    """Inputs whose memory backward reads: those saved, and those overwritten with what is."""
    kept_outputs: tuple[int, ...] = ()
    """Results whose memory backward reads."""

    def __post_init__(self) -> None:
        held = [s.tensor for s in self.traced.sources if s.kind == "tensor"]
        self.closures = frozenset([id(x._storage) for x in held if x is not None])
        facts = self.traced.program.facts
        self.overwritten = tuple(
            (k, f.overwritten) for k, f in enumerate(facts) if f.overwritten is not None
        )
        self.pinned = frozenset([p.index for p in self.traced.pinned])
        values = (*self.traced.parts, *(g.value for g in self.traced.grads))
        self.made = tuple([p for p in values if isinstance(p, Made)])
        if self.pair is not None:
            entry, saved = self.pair.forward.entry, set(self.pair.saved)
            tensors = [k for k, s in enumerate(self.traced.sources) if s.kind in KEPT]
            outputs = [k for k, o in enumerate(entry.outputs) if o.name in saved]
            over = {k for k, o in self.overwritten if o in outputs}
            self.read = tuple([k for k in tensors if k in over or entry.params[k].name in saved])
            self.kept_outputs = tuple([k for k in outputs if k < self.traced.outputs])

    # is it the right one

    def miss(self, leaves: Sequence[Any]) -> str | None:
        """Why this entry cannot serve the call, or None. Argument types were compared before."""
        if not self.traced.guards.hold() and (why := self.traced.guards.miss()) is not None:
            return why
        for g in self.traced.grads:
            there = self.tensor_of(g.owner, leaves)._grad is not None
            if g.had is not None and there is not g.had:
                return f"a gradient was {'set' if g.had else 'None'} when traced, and is not now"
        if (why := self.other_memory(leaves)) is not None:
            return why
        if self.traced.size_guards:
            params = self.traced.program.entry.params[: len(self.traced.sources)]
            sizes = bind(params, [self.fetch(s, leaves).shape for s in self.traced.sources])
            for guard in self.traced.size_guards:
                if not guard.holds(sizes):
                    return f"size guard {guard} does not hold"
        return None

    def other_memory(self, leaves: Sequence[Any]) -> str | None:
        """Why tensors the function holds do not share memory with arguments as when traced."""
        for p in self.traced.pinned:
            leaf = leaves[p.index]
            if leaf._storage is not p.tensor._storage or layout(leaf) != p.at:
                return f"argument {p.index} shared memory with a tensor the function holds"
        if self.closures:
            for k, leaf in enumerate(leaves):
                if k in self.pinned or not isinstance(leaf, Tensor):
                    continue
                if id(leaf._storage) in self.closures:
                    return f"argument {k} now shares memory with a tensor the function holds"
        return None

    # running

    def fetch(self, source: Source, leaves: Sequence[Any]) -> Array:
        """The array of one input."""
        match source.kind:
            case "argument":
                array = leaves[source.index]._array
            case "number":
                array = np.asarray(leaves[source.index], dtype=np.float64)
            case "hyper":
                array = np.asarray(source.read() if source.read else 0.0, dtype=np.float32)
            case _:
                array = self.tensor_of(source, leaves)._array
        if array is None:
            raise located(GradientError, "an input of a compiled function has no value")
        found: Array = array
        return found

    def tensor_of(self, source: Source, leaves: Sequence[Any]) -> Tensor:
        """The tensor of one input."""
        found: Tensor | None = leaves[source.index] if source.index >= 0 else source.tensor
        if found is not None and source.kind == "base":
            return base_of(found)
        if found is not None and source.kind == "grad":
            found = found._grad
        if found is None:
            raise located(GradientError, "an input of a compiled function has no value")
        return found

    def run(self, leaves: Sequence[Any]) -> Any:
        """Call the program and put everything where it belongs."""
        self.calls += 1
        traced = self.traced
        for owner, requires in traced.asked:
            self.tensor_of(owner, leaves).requires_grad_(requires)
        saved_inputs = [ENGINE.save(self.tensor_of(s, leaves)) for s in traced.wrt]
        arrays = [self.fetch(s, leaves) for s in traced.sources]
        if running.segment is not None:
            for k, _ in self.overwritten:
                running.segment.writing(self.tensor_of(traced.sources[k], leaves))
        for k, _ in self.overwritten:  # before the call: it may be interrupted when it has written
            storage = self.tensor_of(traced.sources[k], leaves)._storage
            if storage is not None:
                storage.version += 1
        outs = self.forward.run(arrays)
        made = {p.output: concrete_tensor(outs[p.output]) for p in self.made}
        if self.backward is not None:
            self.attach(saved_inputs, leaves, arrays, outs, made)
        results = [self.result(p, leaves, made) for p in traced.parts]
        grads = [(self.tensor_of(g.owner, leaves), g.value) for g in traced.grads]
        for tensor, grad in [(t, self.result(value, leaves, made)) for t, value in grads]:
            give(tensor, grad)
        for change in traced.changes:
            change.apply()
        return unflatten(traced.form, results)

    def result(self, part: Part, leaves: Sequence[Any], made: dict[int, Tensor]) -> Any:
        """One result, as the user gets it."""
        match part:
            case Plain(value):
                return value
            case Made(output, _, ops, leaf, number, stale):
                x = made[output]
                if number:
                    return x.item()
                if stale:
                    ENGINE.record(Stale(stale), (_somewhere(),), x)
                if leaf:
                    x._requires = True
            case Given(source, ops):
                if source.kind == "number":
                    return leaves[source.index]
                if source.kind == "hyper":
                    return source.read() if source.read else None
                x = self.tensor_of(source, leaves)
        for op in ops:
            x = dispatch.view(op, x)
        return x

    # the compiled backward

    def attach(
        self,
        inputs: Sequence[Saved],
        leaves: Sequence[Any],
        arrays: Sequence[Array],
        outs: Sequence[Array],
        made: dict[int, Tensor],
    ) -> None:
        """Results that require grad remember this run."""
        wanted = sorted({p.output for p in self.made if p.requires})
        read = [self.tensor_of(self.traced.sources[k], leaves) for k in self.read]
        read += [made[k] for k in self.kept_outputs if k in made]
        step = CompiledBackward(self, tuple(arrays), tuple(outs), tuple(map(ENGINE.save, read)))
        ENGINE.record(step, tuple(inputs), tuple(made[o] for o in wanted))


@dataclass(eq=False, slots=True)
class CompiledBackward:
    """The backward half of an entry with what one forward run took and gave: an op on the tape."""

    entry: Entry
    inputs: tuple[Array, ...]
    results: tuple[Array, ...]
    read: tuple[Saved, ...]
    name: str = "compiled"

    def vjp(self, g: Any, out: Any, inputs: Any, needs: Needs) -> Sequence[Expr | None]:
        """Run the backward program."""
        if dispatch.grad_enabled():
            raise located(
                GradientError,
                "create_graph=True through a compiled function: "
                "compile the function that takes the gradient instead",
            )
        if self.entry.backward is None or self.entry.pair is None:
            raise located(GradientError, "this compiled entry has no backward")
        for saved in self.read:
            restore(saved)  # refuses what was written since
        given = (g,) if isinstance(g, Expr) else g
        sources = len(self.entry.traced.sources)
        types = [t.tensor for t in self.entry.traced.program.entry.params[sources:]]
        tangents = [
            _zeros(o.type, t, self.entry.traced.device) if gi is None else _array(gi)
            for gi, o, t in zip(given, out.value, types, strict=True)
        ]
        found = self.entry.backward.run(
            self.entry.pair.arguments(self.inputs, self.results, tangents)
        )
        return [Expr(BUILDER, concrete_tensor(a)) for a in found]


@dataclass(frozen=True, slots=True)
class Stale:
    """How a result came to be whose leaves were written since: an op on the tape."""

    why: str
    name: str = "compiled"

    def vjp(self, g: Any, out: Any, inputs: Any, needs: Needs) -> Sequence[Expr | None]:
        """Refuse: VersionError."""
        raise located(VersionError, self.why)


def _somewhere() -> Saved:
    """A leaf, so that a sweep comes by."""
    leaf = concrete_tensor(np.zeros((), np.float32))
    leaf._requires = True
    return ENGINE.save(leaf)


def _array(g: Expr) -> Array:
    value = g.value if isinstance(g.value, Tensor) else restore(g.value)
    return array_of(value)


def _zeros(shape: TensorType, type: TensorType, device: Device) -> Array:
    with dispatch.no_grad():
        return array_of(dispatch.constant(0, type.dtype, shape.shape, device))


def build_entry(traced: Traced, options: Options) -> Entry:
    """``traced``, compiled: one program, or a forward and backward pair."""
    device = traced.device
    context = context_for(device, options, deterministic=dispatch.deterministic())
    if not traced.tangents:
        return Entry(traced, compile_program(traced.program, context, device))
    joint = stage_program(traced.program, "joint", context)
    pair = partition(joint, traced.outputs, traced.tangents, context)
    forward, backward = (compile_program(p, context, device) for p in (pair.forward, pair.backward))
    return Entry(traced, forward, backward, pair)
