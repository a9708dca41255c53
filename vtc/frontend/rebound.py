"""A compiled entry for tensors that took the place of others under the names that the code reads.

A function that reads ``trainer.state`` has that very tensor as an input. Where a loop assigns a new
one before each call, the program of an old one serves it, as long as nothing else changed::

    trainer.state = step(x)        # by the third time, nothing is compiled

Both tensors must be alike, own their memory, and require no grad; and the new one must share memory
with nothing else that the function reads.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from vtc.frontend.entry import Entry
from vtc.frontend.guards import Guards, Watch
from vtc.frontend.inputs import Source
from vtc.frontend.keys import know
from vtc.frontend.parts import MISSING, parts_of, read_of, same
from vtc.frontend.tensor import Tensor
from vtc.frontend.trace import Given, Traced

Swaps = dict[int, tuple[Tensor, Tensor]]
"""By the id of a tensor: it, and what took its place."""


def rebound(entry: Entry, leaves: Sequence[Any]) -> Entry | None:
    """``entry`` for the tensors that are there now; None if that is not all that changed."""
    traced = entry.traced
    swaps = _swaps(traced.guards)
    if not swaps or not _apart(traced, swaps):
        return None
    sources = tuple([_source(s, swaps) for s in traced.sources])
    guards = _guards(traced.guards, swaps)
    kept = tuple([swaps[id(x)][1] if id(x) in swaps else x for x in traced.keep])
    again = Entry(
        replace(traced, sources=sources, guards=guards, keep=kept),
        entry.forward,
        entry.backward,
        entry.pair,
        entry.calls,
    )
    return again if again.miss(leaves) is None else None


def _swaps(guards: Guards) -> Swaps:
    """The tensors that were replaced everywhere; none if anything else changed."""
    found: Swaps = {}
    seen = list(_pairs(guards))
    for old, now in seen:
        if same(old, now):
            continue
        if not (type(old) is type(now) is Tensor and _alike(old, now)):
            return {}
        found[id(old)] = old, now
    whole = all(found[id(old)][1] is now for old, now in seen if id(old) in found)
    return found if whole and len({id(now) for _, now in found.values()}) == len(found) else {}


def _pairs(guards: Guards) -> Iterator[tuple[Any, Any]]:
    """Every value that the guards compare, and what it is now."""
    for b in guards.bindings:
        yield b.value, b.space.get(b.name, MISSING)
    for w in (*guards.light, *guards.heavy):
        names, now = parts_of(w.value) if w.names is None else read_of(w.value, w.names)
        old_names, old = w.parts
        yield old_names, names
        if old_names == names:
            yield from zip(old, now, strict=True)


def _alike(old: Tensor, new: Tensor) -> bool:
    """Whether a program made for ``old`` takes ``new``."""
    for x in (old, new):
        if x._array is None or x._link is not None or x._record is not None or x._requires:
            return False
    plain = old._grad is None and new._grad is None and old._kind == new._kind
    return plain and know(old)[3] is know(new)[3]


def _apart(traced: Traced, swaps: Swaps) -> bool:
    """Whether those that are swapped are inputs and nothing more, and share no memory."""
    special = [g.owner for g in traced.grads] + [s for s, _ in traced.asked] + [*traced.wrt]
    special += [p.source for p in traced.parts if isinstance(p, Given)]
    bound = [s.tensor for s in special] + [p.tensor for p in traced.pinned]
    if any(id(x) in swaps for x in bound):
        return False
    known = [w.value for w in traced.guards.heavy if isinstance(w.value, Tensor)]
    known += [s.tensor for s in traced.sources if s.tensor is not None]
    other = {id(x._storage) for x in known if id(x) not in swaps}
    both = [x for pair in swaps.values() for x in pair]
    storages = [id(x._storage) for x in both]
    return other.isdisjoint(storages) and len({*storages}) == len(both)


def _source(source: Source, swaps: Swaps) -> Source:
    if source.tensor is None or id(source.tensor) not in swaps:
        return source
    return replace(source, tensor=swaps[id(source.tensor)][1])


def _guards(guards: Guards, swaps: Swaps) -> Guards:
    """The same guards, on the new tensors."""

    def now(value: Any) -> Any:
        return swaps[id(value)][1] if id(value) in swaps else value

    def watch(w: Watch) -> Watch:
        names, values = w.parts
        return replace(w, value=now(w.value), parts=(names, tuple([now(v) for v in values])))

    return Guards(
        [replace(b, value=now(b.value)) for b in guards.bindings],
        [watch(w) for w in guards.light],
        [watch(w) for w in guards.heavy],
    )
