"""Two reductions of a row in one walk, where the second one needs the result of the first.

The sum of ``exp(x - max(x))`` is known relative to the maximum so far, and is scaled where that
grows: online softmax (Milakov and Gimelshein, "Online normalizer calculation for softmax", 2018).
The sum of ``(x - m)**2``, where ``m`` is made from the sum of ``x``, is known from sums about any
other number near it (Chan, Golub and LeVeque, "Algorithms for computing the sample variance",
1983). Both go block by block: the first reduction of a block, then its part of the second one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, final

from vtc.ir.graph import Node
from vtc.ir.ops.reduce import Sum
from vtc.ir.types import f32

_INDEXES = ("expand", "reshape", "stop_gradient")


Kind = Literal["exponentials", "squares"]


@final
@dataclass(frozen=True, slots=True)
class Chain:
    """A sum of f32 over what is made of ``centred``, which is ``x - about`` and ``about`` a row
    value.
    """

    kind: Kind
    x: Node
    about: Node
    centred: Node

    @property
    def row(self) -> Node:
        """``about`` before it was repeated along the row."""
        row = self.about
        while row.op is not None and row.op.name in _INDEXES:
            row = row.inputs[0]
        return row


@final
@dataclass(frozen=True, slots=True)
class Pair:
    """Meetings ``first`` and ``second`` can be one walk: the elements of the second are made of
    scalar ``centred``, which is relative to scalar ``about``.
    """

    kind: Kind
    first: int
    second: int
    about: str
    centred: str


def chain(node: Node) -> Chain | None:
    """How the elements of ``node`` are relative to a row value, if it is a sum of a known form."""
    if not isinstance(node.op, Sum) or node.tensor.dtype.accumulate is not f32:
        return None
    source = node.inputs[0]
    kinds: dict[str, Kind] = {"exp": "exponentials", "mul": "squares"}
    kind = kinds.get(source.op.name if source.op else "")
    centred = source.inputs[0] if kind else source
    if kind is None or any(i is not centred for i in source.inputs):
        return None
    if centred.op is None or centred.op.name != "sub":
        return None
    x, about = centred.inputs
    return Chain(kind, x, about, centred)
