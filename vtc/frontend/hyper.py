"""Numbers that an optimizer reads: inputs of a compiled step, so that a schedule compiles nothing.

lr = hyperparameter(group, "lr")  # the float itself, or a 0-d f32 input of the program
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vtc.frontend.dispatch import state
from vtc.frontend.inputs import Source
from vtc.ir.types import f32

if TYPE_CHECKING:
    from vtc.frontend.capture import Capture


def hyperparameter(group: dict[str, Any], key: str, index: int | None = None) -> Any:
    """A number an optimizer reads.

    Itself when eager; while tracing, a 0-d input refreshed at each call.
    """

    def read() -> float:
        value = dict.__getitem__(group, key)  # at each call
        return float(value if index is None else value[index])

    capture: Capture | None = state.capture
    if capture is None:
        return read()
    at = (id(group), key, -1 if index is None else index)
    if at not in capture.hypers:
        name = key if index is None else f"{key}_{index}"
        capture.hypers[at] = capture.number(name, Source("hyper", read=read, option=at), f32)
    return capture.hypers[at]
