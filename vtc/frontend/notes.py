"""What a compiled function prints: ``debug.print`` keeps values as further results of the program,
and they are shown, in order, when a call has run.

    form = Form(Printing, (), (form_of_the_result, form_of_the_notes))
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, final

from vtc.errors import CaptureError
from vtc.frontend import dispatch
from vtc.frontend.dispatch import state
from vtc.frontend.functions.arguments import is_tensor
from vtc.frontend.source import located
from vtc.frontend.tree import Form, flatten


@final
class Printing:
    """The inner node of a tree that is made of a result and notes: making it shows the notes, and
    gives the result.
    """

    def __new__(cls, items: Sequence[Any]) -> Any:
        """The result, after the notes were shown."""
        result, notes = items
        for values in notes:
            show(values)
        return result


def show(values: Sequence[Any]) -> None:
    """Print ``values`` on a line."""
    print(*values)  # that is what it is for


def note(values: Sequence[Any]) -> None:
    """Show ``values``: now, or whenever the program that is being recorded has run.

    CaptureError where there is no such program: in a branch, in the body of a loop.
    """
    if state.capture is None:
        show(values)
        return
    notes = state.capture.notes
    if notes is None or state.capture.frames.current is not None:
        where = "expected to be called in a compiled function itself, not in a branch or a loop"
        raise located(CaptureError, f"debug.print: {where} of one")
    notes.append(tuple([_kept(v) for v in values]))


def _kept(value: Any) -> Any:
    """``value`` as it is now: what is written later does not show."""
    if not is_tensor(value) or value._weak:
        return value
    with dispatch.no_grad():
        return value.detach().clone()


def with_notes(leaves: list[Any], form: Form | None, notes: list[Any]) -> Form | None:
    """The form of a result and notes, whose leaves are added; that of the result if there are no
    notes.
    """
    if not notes:
        return form
    more, their = flatten(notes)
    leaves += more
    return Form(Printing, (), (form, their))
