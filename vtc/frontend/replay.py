"""A call like one before: arguments of the same kinds, nothing else changed.

The first such call is found by its key, and makes a :class:`Replay`. Those that follow compare the
kinds of the arguments with it one by one, and ask the guards; then addresses go straight to the
executable, and arrays come back as tensors. Whatever is unusual (arguments that share memory with
each other, memory that is not row-major) is left to :meth:`Entry.run`::

    result = replay.call(leaves)
    if result is not MISSED: ...
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, final

from vtc.errors import RunError
from vtc.frontend.deciding import value_key
from vtc.frontend.dispatch import _process as process
from vtc.frontend.dispatch import state
from vtc.frontend.entry import Entry, give
from vtc.frontend.keys import Kind, kind_of, know
from vtc.frontend.parts import PLAIN
from vtc.frontend.tape import running
from vtc.frontend.tensor import Storage, Tensor, concrete_tensor
from vtc.frontend.trace import Made, Plain, Traced
from vtc.frontend.tree import unflatten
from vtc.ir.types import Array
from vtc.runtime.cuda.executable import Bound as CudaBound
from vtc.runtime.cuda.executable import CudaExecutable
from vtc.runtime.executable import Bound, Executable

MISSED = object()


@final
class Replay:
    """See the module. ``wants`` is what the arguments must be, as ``keys.leaf_key`` says.

    ``by_kinds``: whether ``call`` can tell if arguments fit; else their key must be equal.
    """

    __slots__ = (
        "_bound", "_changed", "_closures", "_deterministic", "_device", "_dtype", "_epoch",
        "_fixed", "_grads", "_guards", "_has_grads", "_home", "_kinds", "_mode", "_numbers", "_one",
        "_outputs", "_pins", "_several", "_storages", "_wants", "_without", "_written", "by_kinds",
        "entry",
    )  # fmt: skip

    def __init__(self, entry: Entry, leaves: Sequence[Any], wants: Sequence[Any]) -> None:
        traced = entry.traced
        self.entry, self._wants, self._guards = entry, tuple(wants), traced.guards
        self._home = traced.device
        self._epoch = -1
        held = [s.tensor for s in traced.sources if s.tensor is not None]
        self._fixed = [(x, x._array) for x in held]
        self._closures = frozenset(entry.closures)
        self._pins = _pins(traced, wants)
        tensors = sum(isinstance(w, Kind) for w in wants)
        self._several = bool(self._closures or self._pins) or tensors > 1
        owners = [(g.owner, g.had) for g in traced.grads if g.had is not None]
        self._without = [s.tensor for s, had in owners if s.tensor is not None and not had]
        self._grads = [(s, had) for s, had in owners if s.tensor is None or had]
        self._has_grads = bool(owners)
        plain = [isinstance(w, Kind) or w is float or issubclass(w[0], PLAIN) for w in wants]
        self.by_kinds = all(plain) and self._pins is not None
        self._one = False
        self._bound = _bind(entry, leaves)
        if self._bound is not None:
            self._prepare(traced, self._bound)
        self.rearm()

    def _prepare(self, traced: Traced, bound: Bound | CudaBound) -> None:
        """Look up what running takes."""
        self._numbers = [s for s in traced.sources if s.kind in ("number", "hyper")]
        written = [traced.sources[k] for k, _ in self.entry.overwritten]
        self._storages = [_storage(s.tensor) for s in written if s.tensor is not None]
        self._written = [s.index for s in written if s.tensor is None]
        self._outputs = [i for i, *_ in bound.fresh]
        self._kinds = [
            kind_of(*what, False, False, self._home, True, True) for _, *what in bound.fresh
        ]
        self._changed = [g for g in traced.grads if g.had is not False or g.value != Plain(None)]
        one = traced.parts == (Made(0),) and self._outputs == [0] and traced.form is None
        self._one = one and not (bound.writes or self._numbers or self._changed or traced.changes)

    def rearm(self) -> None:
        """Expect what is switched on this thread, and the defaults, to be as they are now."""
        self._mode = dict(state.__dict__)
        self._dtype, self._device = process.dtype, process.device
        self._deterministic = process.deterministic

    def call(self, leaves: Sequence[Any]) -> Any:
        """What the call gives, or ``MISSED`` if it is not like the one before."""
        places = self._match(leaves)
        if places is None:
            return MISSED
        reads, bound = self._guards.reads, self._bound
        quick = process.epoch == self._epoch and not self._has_grads
        if not ((quick and reads is not None and reads.hold()) or self.holds(leaves)):
            return MISSED
        if not self._one or bound is None:
            return self.run(leaves, places)
        self.entry.calls += 1
        try:
            ((array, place),) = bound.call(places, ())
        except MemoryError as error:
            raise self._out_of_memory(leaves, error) from error
        x = Tensor()
        x._array, x._storage = array, Storage(self._home)
        x._known = array, False, place, self._kinds[0]
        return x

    def _match(self, leaves: Sequence[Any]) -> list[int] | None:
        """The addresses of the tensors among ``leaves``, if all are of the kinds wanted."""
        if (
            len(leaves) != len(self._wants)
            or state.__dict__ != self._mode
            or process.dtype is not self._dtype
            or process.device is not self._device
            or process.deterministic is not self._deterministic
        ):
            return None
        places: list[int] = []
        k = 0  # zip with its keyword costs more than the rest
        for want in self._wants:
            leaf = leaves[k]
            k += 1
            if type(leaf) is not Tensor:
                number = type(leaf) is float
                if (float if number else (type(leaf), leaf)) != want and not (
                    number and want == value_key(leaf)
                ):
                    return None
                continue
            known = leaf._known
            if (
                known is None
                or known[0] is not leaf._array
                or known[1] is not leaf._requires
                or leaf._record is not None
                or leaf._link is not None
            ):
                known = know(leaf)
            if known[3] is not want:
                return None
            places.append(known[2])
        return places if not self._several or self._apart(leaves, places) else None

    def _apart(self, leaves: Sequence[Any], places: Sequence[int]) -> bool:
        """Whether no tensor argument shares memory with another, and those that did with one the
        function holds do, and no other.
        """
        met = [id(leaf._storage) for leaf in leaves if type(leaf) is Tensor]
        if len({*met}) != len(met) or not self._closures.isdisjoint(met):
            return False
        for k, tensor, at in self._pins or ():
            if met[k] != id(tensor._storage) or places[k] != at:
                return False
        return True

    def holds(self, leaves: Sequence[Any]) -> bool:
        """Whether all that is not an argument, nor shares memory with one, is as it was."""
        now = process.epoch
        if not self._guards.hold():
            return False
        if self._epoch != now:
            if any([x._array is not array for x, array in self._fixed]):
                return False
            self._epoch = now
        for x in self._without:
            if x._grad is not None:
                return False
        for owner, had in self._grads:
            if (self.entry.tensor_of(owner, leaves)._grad is not None) is not had:
                return False
        return True

    def run(self, leaves: Sequence[Any], places: list[int]) -> Any:
        """Call the program with arguments that fit, and put everything where it belongs."""
        entry, bound = self.entry, self._bound
        if bound is None or (bound.writes and running.segment is not None):
            return entry.run(leaves)
        entry.calls += 1
        for storage in self._storages:  # before the call: it may be interrupted when it has written
            storage.version += 1
        for i in self._written:
            leaves[i]._storage.version += 1
        numbers = [leaves[s.index] if s.read is None else s.read() for s in self._numbers]
        try:
            made = bound.run(places, numbers)
        except MemoryError as error:
            raise self._out_of_memory(leaves, error) from error
        return self._results(leaves, made)

    def _out_of_memory(self, leaves: Sequence[Any], error: MemoryError) -> RunError:
        arrays = [self.entry.fetch(s, leaves) for s in self.entry.traced.sources]
        return self.entry.forward.out_of_memory(arrays, error)

    def _results(self, leaves: Sequence[Any], made: Sequence[tuple[Array, int]]) -> Any:
        entry, tensors = self.entry, {}
        for i, kind, (array, place) in zip(self._outputs, self._kinds, made, strict=True):
            tensors[i] = x = concrete_tensor(array)
            x._known = array, False, place, kind
        results = [entry.result(p, leaves, tensors) for p in entry.traced.parts]
        grads = [(entry.tensor_of(g.owner, leaves), g.value) for g in self._changed]
        for x, grad in [(x, entry.result(value, leaves, tensors)) for x, value in grads]:
            give(x, grad)
        for change in entry.traced.changes:
            change.apply()
        return unflatten(entry.traced.form, results)


def holding(replays: Sequence[Replay], leaves: Sequence[Any]) -> Replay | None:
    """The one that serves a call with these arguments, whose key is known."""
    for replay in replays:
        if replay.holds(leaves) and replay.entry.other_memory(leaves) is None:
            return replay
    return None


def _pins(traced: Traced, wants: Sequence[Any]) -> tuple[tuple[int, Tensor, int], ...] | None:
    """Of arguments that share memory with a tensor the function holds: which tensor argument it is,
    that tensor, and the address. None where the address does not say how the elements lie.
    """
    order = [k for k, want in enumerate(wants) if isinstance(want, Kind)]
    if not all(wants[p.index].dense for p in traced.pinned):
        return None
    return tuple([(order.index(p.index), p.tensor, p.at[0]) for p in traced.pinned])


def _bind(entry: Entry, leaves: Sequence[Any]) -> Bound | CudaBound | None:
    """The call of ``entry`` with arguments like ``leaves``; None where it takes a closer look."""
    traced, executable = entry.traced, entry.forward.executable
    kinds = {s.kind for s in traced.sources}
    usual = kinds <= {"argument", "tensor", "number", "hyper"} and entry.backward is None
    over = {o for _, o in entry.overwritten}
    if traced.asked or not usual or any(p.output in over for p in entry.made):
        return None
    if not isinstance(executable, (Executable, CudaExecutable)):
        return None
    sources = list(enumerate(traced.sources))
    order = [i for i, leaf in enumerate(leaves) if isinstance(leaf, Tensor)]
    varying = {k: order.index(s.index) for k, s in sources if s.kind == "argument"}
    numbers = [k for k, s in sources if s.kind in ("number", "hyper")]
    arrays = [entry.fetch(s, leaves) for _, s in sources]
    return executable.bind(arrays, varying, numbers)


def _storage(x: Tensor) -> Storage:
    assert x._storage is not None
    return x._storage
