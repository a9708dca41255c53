"""Attributes of objects that the code sets while it is traced: each call sets them again.

``model.train()`` or ``self.last = n`` in a compiled function leaves a mark that eager code would
leave at every call. So the trace puts attributes back as they were when it began (which is what
guards compare), and each call of the program leaves them as the code did::

    @vtc.compile
    def evaluate(x):
        model.eval()                  # a Change: model.training is False after each call
        return model(x)
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, final

from vtc.frontend.parts import MISSING, PLAIN, same


@final
@dataclass(frozen=True, slots=True)
class Change:
    """``owner.name`` becomes ``value``; ``MISSING`` where it is what the class says."""

    owner: Any
    name: str
    value: object

    def apply(self) -> None:
        """Set it, unless it is so."""
        if same(_own(self.owner, self.name), self.value):
            return
        if self.value is MISSING:
            delattr(self.owner, self.name)
        else:
            setattr(self.owner, self.name, self.value)


@final
@dataclass(eq=False)
class Changed:
    """What numbers, flags and strings were before the code set them, in the order it did."""

    before: dict[tuple[int, str], Change] = field(default_factory=dict)
    born: dict[int, Any] = field(default_factory=dict)
    """What was made during the trace: it is as it is."""

    def note(self, owner: Any, name: str) -> None:
        """``owner.name`` is about to change."""
        if not vars(owner) and name != "training":
            self.born[id(owner)] = owner
        if id(owner) not in self.born and (id(owner), name) not in self.before:
            self.before[id(owner), name] = Change(owner, name, _own(owner, name))

    def undo(self) -> tuple[Change, ...]:
        """Put everything back; what the code changed, where both values are plain."""
        found = []
        for was in list(self.before.values()):
            now = Change(was.owner, was.name, _own(was.owner, was.name))
            plain = all(c.value is MISSING or isinstance(c.value, PLAIN) for c in (was, now))
            if plain and not same(was.value, now.value):
                found.append(now)
                was.apply()
        self.before.clear()
        self.born.clear()
        return tuple(found)


def _own(owner: Any, name: str) -> object:
    return vars(owner).get(name, MISSING)
