"""Looking inside compiled functions: ``vtc.debug.print``.

@vtc.compile
def f(x):
    h = x @ x
    vtc.debug.print("h", h)          # whenever f has run
    return h.sum()
"""

from __future__ import annotations

from typing import Any

from vtc.frontend.notes import note


def print(*values: Any) -> None:
    """Print ``values``, tensors among them, as Python's ``print`` does; in a compiled function
    whenever a call has run, in order, with the values they have at this place.

    CaptureError in a branch or in the body of a loop of a compiled function.
    """
    note(values)
