"""What an optimizer says of a step for which no parameter has a gradient. Nothing changes then.

optimizer.step()    # VtcWarning: SGD.step: no gradient reaches parameter weight: f32[2, 2] ...
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any
from weakref import WeakSet

from vtc.errors import VtcWarning
from vtc.frontend.dispatch import state as thread
from vtc.frontend.source import user_level

_said: WeakSet[object] = WeakSet()


def say_idle(optimizer: object, groups: Sequence[Mapping[str, Any]]) -> None:
    """Warn, once for ``optimizer``, which has ``groups``: in most cases it is a mistake."""
    if optimizer in _said:
        return
    _said.add(optimizer)
    group = next(g for g in groups if g["params"])
    p = group["params"][0]
    known = thread.capture.named.get(id(p)) if thread.capture is not None else None
    name = group.get("param_names", [known])[0]
    what = f"parameter {name}" if name is not None else "the first parameter"
    warnings.warn(
        f"{type(optimizer).__name__}.step: no gradient reaches {what}: {p.type}, nor any other; "
        "nothing changes. Call backward() on a loss that depends on them first",
        VtcWarning,
        stacklevel=user_level(),
    )
