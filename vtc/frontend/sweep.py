"""The way back over the tape: gradients, the hooks that see them, and where they are put.

    Sweep(tape, wrt, {}, create_graph=False, adds=True).run([record_of_y], [y], [None])

As soon as all of a gradient is known its hooks run. That of a leaf is then added to ``.grad``,
and those hooks run that wait for this, before the sweep goes on.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, final

import numpy as np

from vtc.errors import GradientError
from vtc.frontend import dispatch
from vtc.frontend.gradient_rules import KnownRule
from vtc.frontend.hooks import Group, Hooks, call_after, hooks_of, through
from vtc.frontend.source import located
from vtc.frontend.tape import BUILDER, Record, Saved, Segment, restore, running
from vtc.frontend.tensor import Tensor, concrete_tensor
from vtc.ir.ops.expr import Expr
from vtc.ir.reverse import Entry, reverse
from vtc.runtime.device import Device

Key = Record | Tensor
"""What a sweep calls a value: its record, or the leaf."""


def tape_below(starts: Sequence[Key]) -> list[Record]:
    """The records below ``starts``, in execution order. GradientError if one was swept before."""
    found: dict[Record, None] = {}
    queue = [k for k in starts if isinstance(k, Record)]
    while queue:
        r = queue.pop()
        if r in found:
            continue
        if r.freed:
            restore(Saved(r.out.type))
        found[r] = None
        queue += [s.record for s in r.inputs if s.record is not None]
    return sorted(found, key=lambda r: r.order)


def leaves_below(tape: Sequence[Record], starts: Sequence[Key]) -> list[Tensor]:
    """The leaves that ``tape`` reads, then those among ``starts``."""
    found = {s.leaf: None for r in tape for s in r.inputs if s.leaf is not None}
    found.update({k: None for k in starts if isinstance(k, Tensor)})
    return list(found)


def free(tape: Sequence[Record]) -> None:
    """Drop what the records saved."""
    for r in tape:
        r.freed, r.segment = True, None
        for s in r.inputs:
            s.array = s.storage = None


@final
class Sweep:
    """One reverse sweep. ``adds``: into ``.grad`` of the leaves among ``wrt``; ``retaining``: who
    else gets a ``.grad`` from which record.
    """

    def __init__(
        self,
        tape: Sequence[Record],
        wrt: Sequence[Key],
        retaining: Mapping[Record, Sequence[Tensor]],
        *,
        create_graph: bool,
        adds: bool,
    ) -> None:
        self.tape, self.wrt, self.retaining = tape, wrt, retaining
        self.create_graph, self.adds = create_graph, adds
        self.grad_mode = dispatch.grad_enabled()
        self.asked = {k for k in wrt if isinstance(k, Record)}
        self.looked_at = self.asked.union(retaining)
        self.early: dict[Record, Tensor] = {}
        self.called: set[Group] = set()
        self.lent: dict[int, Tensor] = {}
        """By their storage: gradients that others hold, too."""

    def run(
        self, starts: Sequence[Key], roots: Sequence[Tensor], seeds: Sequence[Tensor | None]
    ) -> dict[Key, Tensor]:
        """The gradients of ``wrt`` (absent where there is none); ``seeds`` are those of ``roots``,
        which the sweep calls ``starts``.
        """
        values: dict[object, Any] = {s.key: s for r in self.tape for s in r.inputs}
        values.update({r: r for r in self.tape})
        opened = _Opened()
        # Each record is the op that gives its reads' gradients.
        rules: Sequence[Any] = self.tape if self.create_graph else [KnownRule(r) for r in self.tape]
        entries: list[Entry[Any]] = [
            Entry(rule, r, tuple([s.key for s in r.inputs]), r.index)
            for rule, r in zip(rules, self.tape, strict=True)
        ]
        with dispatch.set_grad_enabled(self.create_graph), _creating_on(roots[0].device):
            found = reverse(
                entries,
                self._starts(starts, roots, seeds),
                self.wrt,
                lambda k: Expr(BUILDER, _value(values[k])),
                lambda e, _: opened.enter(e.output.segment),
                self._watch,
            )
            dense = {k: _dense(e.value) for k, e in found.items()}
        opened.enter(None)
        return {**dense, **self.early}

    def _starts(
        self, starts: Sequence[Key], roots: Sequence[Tensor], seeds: Sequence[Tensor | None]
    ) -> dict[Any, Expr]:
        found: dict[Any, Expr] = {}
        for key, x, seed in zip(starts, roots, seeds, strict=True):
            e = Expr(BUILDER, seed_of(x, seed))
            if seed is not None:
                self.lent[id(seed._storage)] = seed
            found[key] = found[key] + e if key in found else e
        return found

    # hooks

    def _watch(self, key: Key, found: dict[Any, Any], active: Collection[Any]) -> None:
        """The cotangent of ``key`` is complete."""
        if isinstance(key, Tensor):
            if key in found:
                self._at_leaf(key, found)
        elif key.group is not None:
            self._at_group(key.group, found, active)
        elif key.hooks or key in self.looked_at:
            self._at_record(key, found, active)

    def _at_record(self, key: Record, found: dict[Any, Any], active: Collection[Any]) -> None:
        if key not in found:
            return
        g = _dense(found[key].value)
        if key in self.asked and any(s.key in active for s in key.inputs):
            self.early[key] = g  # as PyTorch: hooks come first only where the way ends
        g = self._hooked(key.hooks, g)
        for x in self.retaining.get(key, ()):
            x._grad = g.clone() if x._grad is None else x._grad + g
        found[key] = Expr(BUILDER, g)

    def _at_group(self, group: Group, found: dict[Any, Any], active: Collection[Any]) -> None:
        """None of its members depends on another, so with the first all are complete."""
        if group in self.called or not any(m in found for m in group.members):
            return
        self.called.add(group)
        for m in group.members:
            if m is not None:
                self._at_record(m, found, active)
        given = [_dense(found[m].value) if m in found else None for m in group.members]
        for m, g in zip(group.members, group.call(given), strict=True):
            if g is not None:
                found[m] = Expr(BUILDER, g)
            else:
                found.pop(m, None)

    def _at_leaf(self, leaf: Tensor, found: dict[Any, Any]) -> None:
        g = _dense(found[leaf].value)
        if g.device != leaf.device:  # a number of the host, in a program of a GPU
            g = g.to(leaf.device)
            found[leaf] = Expr(BUILDER, g)
        if leaf._hooks is None:
            if self.adds:
                self._add(leaf, g)
            return
        before, after = hooks_of(leaf)
        g = self._hooked(before, g)
        found[leaf] = Expr(BUILDER, g)
        if self.adds:
            if after:
                self.lent[id(g._storage)] = g  # they may write into .grad while the sweep reads on
            self._add(leaf, g)
            call_after(after, leaf)

    def _hooked(self, hooks: Hooks, g: Tensor) -> Tensor:
        if not hooks:
            return g
        out = through(hooks, g)
        for x in (g, out):
            self.lent[id(x._storage)] = x  # the hook may have kept it
        return out

    def _add(self, leaf: Tensor, g: Tensor) -> None:
        """Add ``g`` to ``.grad``."""
        old = leaf._grad
        if old is None:
            leaf._grad = g.clone() if id(g._storage) in self.lent else g
            self.lent[id(g._storage)] = g
        elif self.create_graph or old.requires_grad:
            with dispatch.set_grad_enabled(self.grad_mode):
                leaf._grad = old + g
        else:
            with dispatch.no_grad():
                dispatch.write(old, old + g)


def seed_of(x: Tensor, seed: Tensor | None) -> Tensor:
    """The gradient of ``x`` to begin with, in its dtype: 1 for a single element. GradientError if
    it has to be given, or does not fit.
    """
    if seed is None:
        if any(n != 1 for n in x.type.shape):
            message = f"expected a scalar, or a gradient argument, got {x.type}"
            raise located(GradientError, f"backward: {message}")
        if x._array.__class__ is np.ndarray and dispatch.state.capture is None:
            return concrete_tensor(np.ones(x._array.shape, x._array.dtype))
        return dispatch.constant(1.0, x.dtype, x.type.shape, device=x.device)
    casts = seed.dtype.kind == x.dtype.kind == "float"
    if seed.type != x.type and not (casts and seed.type.shape == x.type.shape):
        message = f"expected a gradient of type {x.type}, got {seed.type}"
        raise located(GradientError, f"backward: {message}")
    return seed if seed.dtype is x.dtype else seed.to(x.dtype)


def _value(value: Any) -> Any:
    """A record's result, or a value that was saved."""
    if not isinstance(value, Record):
        return value
    if value.several:
        return value.several
    out = value.out
    return Saved(out.type, out.array, out.storage, out.version, value)


def _dense(g: Any) -> Tensor:
    return restore(g).clone() if isinstance(g, Saved) else g


@contextmanager
def _creating_on(device: Device) -> Iterator[None]:
    """Gradient rules make their constants there."""
    before, running.device = running.device, device
    try:
        yield
    finally:
        running.device = before


class _Opened:
    """The checkpointed segments that a sweep is in, filled; those it leaves forget again."""

    def __init__(self) -> None:
        self.segments: list[Segment] = []

    def enter(self, segment: Segment | None) -> None:
        """The sweep reads a record of ``segment`` now."""
        wanted: list[Segment] = []
        while segment is not None:
            wanted.insert(0, segment)
            segment = segment.outer
        while self.segments and self.segments != wanted[: len(self.segments)]:
            self.segments.pop().drop()
        for p in wanted[len(self.segments) :]:
            if not p.forgotten:
                return  # it runs still
            p.fill()
            self.segments.append(p)
