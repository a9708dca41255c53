"""Which loops of a plan are spelled out on a GPU, turn by turn, and which are run as loops.

>>> weight((Loop(0, (copy, copy), count=8),))
16
>>> long(Loop(0, (copy, copy), count=8))
False

A spelled-out turn is the quickest there is: nothing is decided on the device, and slices are read
and written where they lie. But each of its launches is a node of the graph, which takes 4 us to
make and 8 KB to keep. So loops of up to ``SPELLED`` launches and copies in all are spelled out, and
longer ones are loops: their slices go through memory that does not move. That is for the plan to
say (``vtc.codegen.flow``) and for the runtime to do (``vtc.runtime.cuda.nodes``).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Final

from vtc.ir.dims import Size, substitute
from vtc.ir.plan import Launch, Loop, Moving, Ref, Step, flat, parts

SPELLED: Final = 1024
_NONE: Mapping[str, Size] = MappingProxyType({})


def long(loop: Loop, values: Mapping[str, Size] = _NONE) -> bool:
    """Whether ``loop``, which counts, is too long to be spelled out at the dims ``values``."""
    return weight((loop,), values) > SPELLED


def weight(steps: Iterable[Step], values: Mapping[str, Size] = _NONE) -> int:
    """The launches and copies of ``steps`` where loops that count are spelled out; one of a size
    that is not known is too long. At most one more than ``SPELLED``.
    """
    total = 0
    for step in steps:
        inner = sum(weight(some, values) for some in parts(step))
        if isinstance(step, Loop) and step.condition is None:
            count = substitute(step.count, values)
            total += inner * count if isinstance(count, int) else SPELLED + 1
        else:
            total += inner + 1
    return min(total, SPELLED + 1)


def moves(loop: Loop) -> bool:
    """Whether a kernel in ``loop`` takes an address that moves with it: then it must be spelled
    out, as the arguments of a node are the same in each turn.
    """
    launched = (s for s in flat(loop.steps) if isinstance(s, Launch))
    return any(loop.number in _moving(a) for s in launched for a in s.args)


def _moving(ref: Ref) -> Iterable[int]:
    while isinstance(ref, Moving):
        yield ref.loop
        ref = ref.base
