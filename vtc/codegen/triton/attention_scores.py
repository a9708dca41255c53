"""How products of queries and keys become scores, in attention and its gradient in Triton.

scores_of(tracer, 3).factor        # log2(e)/sqrt(64): scores count in powers of two
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

from vtc.codegen.attention_rows import Tracer
from vtc.codegen.triton.attention_blocks import precision
from vtc.codegen.triton.head import Block
from vtc.codegen.triton.scalars import NAMES
from vtc.ir.types import bool_

LOG2_E = 1 / math.log(2)


@final
@dataclass(frozen=True, slots=True)
class Scores:
    """How products of queries and keys become scores: times ``factor``, with a ``mask`` (which is
    ``"bool"``, ``"added"`` or none). Scores count in powers of two, but where a mask is added: it
    might overflow. A factor that is ``late`` is multiplied where exponentials are computed; that
    saves a step, but scores above 2**30 or so overflow, so it is for narrow types alone.
    """

    factor: float
    late: bool
    mask: str
    log2e: float
    ln2: float
    sum: str
    type: str
    precision: str


def scores_of(tracer: Tracer, mask: int) -> Scores:
    """How scores are computed; ``mask`` is the number of the operand that may be there."""
    dtype = tracer.root.inputs[0].tensor.dtype
    found = [n.tensor.dtype for n in tracer.root.inputs[mask:]]
    added = any(d is not bool_ for d in found)
    factor = tracer.op.scale if added else tracer.op.scale * LOG2_E
    return Scores(
        factor=factor,
        late=factor > 0 and not added and dtype.itemsize <= 2,
        mask="added" if added else "bool" if found else "",
        log2e=LOG2_E,
        ln2=math.log(2),
        sum=NAMES[dtype.accumulate.name],
        type=NAMES[dtype.name],
        precision=precision(dtype),
    )


def hole(tracer: Tracer, printer: Block) -> str:
    """The result of a row that attends to nothing: zero if there is a mask, or no key; else such a
    row has no finite score.
    """
    keys = tracer.shape(1)[-2]
    if len(tracer.root.inputs) > 3 or keys == 0:
        return "0.0"
    nan = 'float("nan")'
    return nan if isinstance(keys, int) else f"tl.where({printer.size(keys)} > 0, {nan}, 0.0)"
