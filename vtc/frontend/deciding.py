"""Numbers among the arguments that the code decides by: ``if temperature == 0: ...``.

A float among the arguments is an input of the program, so that one program serves all its values.
Where the code asks for it as a number of Python, it has none while it is traced: the trace begins
again, and that argument is guarded by value, as an int is::

    @vtc.compile
    def sample(logits, temperature):
        if temperature == 0:              # one program for 0.0, and one for each other value
            return logits.argmax(-1)
        return vtc.multinomial((logits / temperature).softmax(-1), 1)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from vtc.frontend.capture import Capture
    from vtc.frontend.inputs import Source
    from vtc.frontend.tensor import Tensor


class Decides(BaseException):  # not an error, and user code that catches errors lets it pass
    """Argument ``index``, a float, is asked for as a number: trace again with its value."""

    def __init__(self, index: int) -> None:
        super().__init__(f"argument {index} decides")
        self.index = index


def ask(capture: Capture, x: Tensor) -> None:
    """Decides if ``x`` is computed of floats among the arguments alone; not under export."""
    if capture.sizes.may_guard and (found := _numbers_below(capture, x)):
        raise Decides(min(found))


def value_key(leaf: float) -> tuple[Any, ...]:
    """What of a float is guarded that decides: NaN is NaN, and 0.0 is not -0.0."""
    return float, repr(float(leaf))


def _numbers_below(capture: Capture, x: Tensor) -> list[int]:
    """The places of the floats that ``x`` is computed of; none if there is anything else."""
    if x._cell is None:
        return []
    sources = {i.node: i.source for i in capture.inputs}
    found: list[int] = []
    seen, left = {x._cell.node}, [x._cell.node]
    while left:
        n = left.pop()
        if n.op is None:
            more = _numbers_of(capture, sources.get(n))
            if not more:
                return []
            found += more
        left += [i for i in n.inputs if i not in seen]
        seen.update(n.inputs)
    return found


def _numbers_of(capture: Capture, source: Source | None) -> list[int]:
    """The same of an input; that of a function traced inside another may be a value of that."""
    if source is None or source.kind == "number":
        return [] if source is None else [source.index]
    outer = None if source.tensor is None else source.tensor._cell
    if outer is None or outer.trace in (None, capture):
        return []
    return _numbers_below(cast("Capture", outer.trace), cast("Tensor", source.tensor))
