"""Mixed precision: ``autocast``, and ``GradScaler``, which keeps small f16 gradients from being 0.

    scaler = vtc.amp.GradScaler()

    @vtc.compile
    def step(x, y):
        with vtc.autocast("cuda", vtc.float16):
            loss = F.cross_entropy(model(x), y)
        scaler.scale(loss).backward()
        scaler.step(optimizer)                  # nothing changes where a gradient is infinite
        scaler.update()
        optimizer.zero_grad()
        return loss

The scale is a tensor, so a compiled step goes on adjusting it. bf16 has the range of f32 and needs
no scaler.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Mapping
from typing import Any, Protocol, final

from vtc.errors import ArgumentError
from vtc.frontend import dispatch
from vtc.frontend.autocast import autocast
from vtc.frontend.dispatch import state as thread
from vtc.frontend.functions.arguments import Where
from vtc.frontend.functions.comparison import isfinite, logical_not, logical_or, where
from vtc.frontend.functions.creation import full
from vtc.frontend.source import located
from vtc.frontend.tensor import Tensor
from vtc.ir.types import f32, i32

__all__ = ["GradScaler", "autocast"]


class _Optimizer(Protocol):
    """What a scaler needs of an optimizer."""

    param_groups: list[Any]
    state: dict[Tensor, dict[str, Tensor]]

    def step(self) -> Any:
        """Update the parameters."""


@final
class GradScaler:
    """Multiplies losses by a scale, and divides gradients by it before the optimizer sees them.

    After ``growth_interval`` steps without an infinite or NaN gradient the scale is multiplied by
    ``growth_factor``; after one with, by ``backoff_factor``. ``device`` is that of the parameters.
    """

    def __init__(
        self,
        device: Where = None,
        init_scale: float = 2.0**16,
        growth_factor: float = 2.0,
        backoff_factor: float = 0.5,
        growth_interval: int = 2000,
        enabled: bool = True,
    ) -> None:
        if growth_factor <= 1 or not 0 < backoff_factor < 1:
            got = f"got {growth_factor} and {backoff_factor}"
            want = "expected growth_factor > 1 and 0 < backoff_factor < 1"
            raise located(ArgumentError, f"GradScaler: {want}, {got}")
        self._enabled = enabled
        self._growth_factor, self._backoff_factor = growth_factor, backoff_factor
        self._growth_interval = growth_interval
        self._scale = full((), float(init_scale), dtype=f32, device=device)
        self._growth_tracker = full((), 0, dtype=i32, device=device)
        self._found: dict[int, Tensor] = {}
        """By optimizer, since the last update: whether a gradient was infinite or NaN."""
        self._stepped: set[int] = set()
        self._trace: weakref.ref[Any] | None = None

    def __guards__(self) -> tuple[object, ...]:
        """What a compiled step depends on besides the values of tensors."""
        numbers = (self._growth_factor, self._backoff_factor, self._growth_interval)
        return (self._enabled, *numbers)

    def scale(self, outputs: Any) -> Any:
        """``outputs``, a tensor or several, multiplied by the scale."""
        if not self._enabled:
            return outputs
        if isinstance(outputs, Tensor):
            return outputs * self._scale.to(outputs.dtype)
        if isinstance(outputs, Iterable):
            scaled = [self.scale(x) for x in outputs]
            return scaled if isinstance(outputs, list) else tuple(scaled)
        got = type(outputs).__name__
        raise located(ArgumentError, f"scale: expected a Tensor or several, got {got}")

    def unscale_(self, optimizer: _Optimizer) -> None:
        """Divide the gradients of ``optimizer`` by the scale now, to clip them before ``step``."""
        if not self._enabled:
            return
        self._renew()
        if id(optimizer) in self._found:
            message = "unscale_: was called for this optimizer since the last update()"
            raise located(ArgumentError, message)
        with dispatch.no_grad():
            inverse = 1.0 / self._scale
            found: Tensor | None = None
            for p in _parameters(optimizer):
                if p.grad is not None:
                    g = p.grad.detach()
                    wide = g.to(g.dtype.accumulate) * inverse
                    bad = logical_not(isfinite(wide)).any()
                    found = bad if found is None else logical_or(found, bad)
                    p.grad = wide.to(g.dtype)
        if found is None:
            raise located(ArgumentError, "unscale_: no parameter of the optimizer has a gradient")
        self._found[id(optimizer)] = found

    def step(self, optimizer: _Optimizer) -> Any:
        """Unscale the gradients if that was not done yet, and let the optimizer step unless one of
        them is infinite or NaN. ArgumentError if called twice before :meth:`update`.
        """
        if not self._enabled:
            return optimizer.step()
        self._renew()
        if id(optimizer) in self._stepped:
            raise located(ArgumentError, "step: was called for this optimizer since update()")
        if id(optimizer) not in self._found:
            self.unscale_(optimizer)
        self._stepped.add(id(optimizer))
        found = self._found[id(optimizer)]
        if thread.capture is None:
            return None if bool(found) else optimizer.step()
        return _step_unless(found, optimizer)

    def _renew(self) -> None:
        """Forget what a trace left that was given up halfway."""
        capture = thread.capture
        if self._trace is not None and self._trace() is not capture:
            self._found.clear()
            self._stepped.clear()
        self._trace = None if capture is None else weakref.ref(capture)

    def update(self, new_scale: float | Tensor | None = None) -> None:
        """Adjust the scale, or set it to ``new_scale``, and get ready for the next step."""
        if not self._enabled:
            return
        self._renew()
        with dispatch.no_grad():
            if new_scale is not None:
                self._scale.copy_(_full_of(new_scale, self._scale))
            elif not self._found:
                raise located(ArgumentError, "update: expected a step() or unscale_() before")
            else:
                self._adjust()
        self._found.clear()
        self._stepped.clear()

    def _adjust(self) -> None:
        found, *others = self._found.values()
        for other in others:
            found = logical_or(found, other)
        count = self._growth_tracker + 1
        due = count >= self._growth_interval
        grown = self._scale * self._growth_factor
        kept = where(due & isfinite(grown), grown, self._scale)
        scale = where(found, self._scale * self._backoff_factor, kept)
        dispatch.write(self._growth_tracker, where(found | due, 0, count).to(i32))
        dispatch.write(self._scale, scale)

    def get_scale(self) -> float:
        """The scale; 1 where scaling is off."""
        return float(self._scale) if self._enabled else 1.0

    def is_enabled(self) -> bool:
        """Whether anything is scaled."""
        return self._enabled

    def get_growth_factor(self) -> float:
        """What the scale grows by."""
        return self._growth_factor

    def get_backoff_factor(self) -> float:
        """What the scale shrinks by."""
        return self._backoff_factor

    def get_growth_interval(self) -> int:
        """After how many good steps the scale grows."""
        return self._growth_interval

    def state_dict(self) -> dict[str, Any]:
        """The scale and what it changes by, in PyTorch's form; empty where scaling is off."""
        if not self._enabled:
            return {}
        return {
            "scale": self.get_scale(),
            "growth_factor": self._growth_factor,
            "backoff_factor": self._backoff_factor,
            "growth_interval": self._growth_interval,
            "_growth_tracker": int(self._growth_tracker),
        }

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on from :meth:`state_dict`, of here or of PyTorch."""
        if not self._enabled:
            return
        if not state_dict:
            message = "load_state_dict: expected a state, got none: was it of a scaler that is off?"
            raise located(ArgumentError, message)
        self._growth_factor = state_dict["growth_factor"]
        self._backoff_factor = state_dict["backoff_factor"]
        self._growth_interval = state_dict["growth_interval"]
        with dispatch.no_grad():
            self._scale.fill_(float(state_dict["scale"]))
            self._growth_tracker.fill_(int(state_dict["_growth_tracker"]))


def _full_of(value: float | Tensor, like: Tensor) -> Tensor:
    """``value`` as a tensor of the type of ``like``."""
    if isinstance(value, Tensor):
        return value.detach().to(like.dtype)
    return full((), float(value), dtype=like.dtype, device=like.device)


def _parameters(optimizer: _Optimizer) -> list[Tensor]:
    return [p for group in optimizer.param_groups for p in group["params"]]


def _step_unless(found: Tensor, optimizer: _Optimizer) -> Any:
    """A step whose writes are undone where ``found``: a program does not branch on it."""
    with dispatch.no_grad():
        state = {id(t): t for entry in optimizer.state.values() for t in entry.values()}
        state |= {id(p): p for p in _parameters(optimizer)}
        before = [(t, t.detach().clone()) for t in state.values()]
    result = optimizer.step()
    with dispatch.no_grad():
        for tensor, old in before:
            dispatch.write(tensor, where(found, old, tensor.detach()))
    return result
