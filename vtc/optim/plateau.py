"""Schedules of schedules, and the one that watches a figure: SequentialLR, ChainedScheduler,
ReduceLROnPlateau.

warm = LinearLR(optimizer, total_iters=100)
SequentialLR(optimizer, [warm, CosineAnnealingLR(optimizer, 900)], milestones=[100])
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from typing import Any, Literal, SupportsFloat, final

from vtc.errors import ArgumentError
from vtc.frontend.source import located
from vtc.optim.optimizer import Optimizer
from vtc.optim.schedule import LRScheduler, expect_optimizer, per_group


@final
class SequentialLR(LRScheduler):
    """One schedule after another; ``milestones`` says at which steps the next begins."""

    def __init__(
        self,
        optimizer: Optimizer,
        schedulers: Sequence[LRScheduler],
        milestones: Sequence[int],
        last_epoch: int = -1,
    ) -> None:
        _check("SequentialLR", schedulers, optimizer)
        if len(milestones) != len(schedulers) - 1:
            raise located(
                ArgumentError,
                "SequentialLR: expected one milestone less than schedulers, got "
                f"{len(schedulers)} schedulers and {len(milestones)} milestones",
            )
        self.schedulers, self.milestones = list(schedulers), list(milestones)
        self.optimizer, self.last_epoch = optimizer, last_epoch + 1
        for group in optimizer.param_groups:
            group["lr"] = group["initial_lr"]
        self.undo_parts()
        self._current().first_step()

    def get_lr(self) -> list[float]:
        """The rates in force."""
        return self.get_last_lr()

    def undo_parts(self) -> None:
        """Forget the steps that construction of the parts took."""
        for part in self.schedulers:
            part.undo()

    def undo(self) -> None:
        """Forget the last step of the parts; the rates stay."""
        self.undo_parts()

    def step(self) -> None:
        """Go on to the next step of the schedule whose turn it is."""
        self.last_epoch += 1
        if self.last_epoch in self.milestones:
            self._current().restart()
        else:
            self._current().step()

    def _current(self) -> LRScheduler:
        return self.schedulers[bisect_right(self.milestones, self.last_epoch)]

    def state_dict(self) -> dict[str, Any]:
        """What is needed to go on, that of the parts included."""
        return _saved(self, self.schedulers)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a saved state."""
        _load(self, self.schedulers, state_dict)


@final
class ChainedScheduler(LRScheduler):
    """All of ``schedulers`` at every step, each on the rates that the one before set."""

    def __init__(
        self, schedulers: Sequence[LRScheduler], optimizer: Optimizer | None = None
    ) -> None:
        first = optimizer or (schedulers[0].optimizer if schedulers else None)
        _check("ChainedScheduler", schedulers, first)
        self.schedulers, self.optimizer = list(schedulers), schedulers[0].optimizer

    def get_lr(self) -> list[float]:
        """The rates in force."""
        return self.get_last_lr()

    def undo(self) -> None:
        """Forget the last step of the parts; the rates stay."""
        for part in self.schedulers:
            part.undo()

    def first_step(self) -> None:
        """A step of every schedule; as in PyTorch not the one that their construction took."""
        self.step()

    def step(self) -> None:
        """Go on to the next step of every schedule."""
        for part in self.schedulers:
            part.step()

    def state_dict(self) -> dict[str, Any]:
        """What is needed to go on, that of the parts included."""
        return _saved(self, self.schedulers)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a saved state."""
        _load(self, self.schedulers, state_dict)


def _check(owner: str, schedulers: Sequence[object], optimizer: object) -> None:
    if not schedulers:
        raise located(ArgumentError, f"{owner}: expected schedulers, got none")
    for i, part in enumerate(schedulers):
        if not isinstance(part, LRScheduler) or isinstance(part, ReduceLROnPlateau):
            got = type(part).__name__
            raise located(ArgumentError, f"{owner}: expected a schedule of steps at {i}, got {got}")
        if part.optimizer is not optimizer:
            raise located(ArgumentError, f"{owner}: expected one optimizer, got another at {i}")


def _saved(whole: LRScheduler, parts: Sequence[LRScheduler]) -> dict[str, Any]:
    own = {k: v for k, v in vars(whole).items() if k not in ("optimizer", "schedulers")}
    states = [part.state_dict() for part in parts]
    return {**own, "_last_lr": whole.get_last_lr(), "schedulers": states}


def _load(whole: LRScheduler, parts: Sequence[LRScheduler], state_dict: dict[str, Any]) -> None:
    states = state_dict["schedulers"]
    if len(states) != len(parts):
        name = type(whole).__name__
        got = f"expected {len(parts)} schedulers, got {len(states)}"
        raise located(ArgumentError, f"{name}.load_state_dict: {got}")
    left_out = ("schedulers", "_last_lr")
    vars(whole).update({k: v for k, v in state_dict.items() if k not in left_out})
    for part, state in zip(parts, states, strict=True):
        part.load_state_dict(state)


@final
class ReduceLROnPlateau(LRScheduler):
    """The rate times ``factor`` when a figure has not become better for ``patience`` steps.

    ``step(figure)`` tells it. Better is smaller (``mode="min"``) or larger by ``threshold``, a
    share of the best or ("abs") a difference. After a cut ``cooldown`` steps do not count. No rate
    goes below ``min_lr``, nor changes by less than ``eps``.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        mode: Literal["min", "max"] = "min",
        factor: float = 0.1,
        patience: int = 10,
        threshold: float = 1e-4,
        threshold_mode: Literal["rel", "abs"] = "rel",
        cooldown: int = 0,
        min_lr: float | Sequence[float] = 0.0,
        eps: float = 1e-8,
    ) -> None:
        name = "ReduceLROnPlateau"
        if factor >= 1.0:
            raise located(ArgumentError, f"{name}: expected factor < 1, got {factor}")
        if mode not in ("min", "max") or threshold_mode not in ("rel", "abs"):
            got = f"got {mode!r} and {threshold_mode!r}"
            raise located(
                ArgumentError,
                f"{name}: expected mode 'min' or 'max' and threshold_mode 'rel' or 'abs', {got}",
            )
        self.optimizer = expect_optimizer(name, optimizer)
        self.mode, self.factor, self.patience = mode, factor, patience
        self.threshold, self.threshold_mode = threshold, threshold_mode
        self.cooldown, self.eps = cooldown, eps
        self.min_lrs = per_group(name, "min_lr", optimizer, min_lr)
        self.best = math.inf if mode == "min" else -math.inf
        self.cooldown_counter = self.num_bad_epochs = self.last_epoch = 0

    def get_lr(self) -> list[float]:
        """The rates after a cut, where that is more than ``eps``."""
        pairs = zip(self.get_last_lr(), self.min_lrs, strict=True)
        cut = [(lr, max(lr * self.factor, least)) for lr, least in pairs]
        return [new if lr - new > self.eps else lr for lr, new in cut]

    def step(self, metrics: SupportsFloat) -> None:  # type: ignore[override]
        """Take the figure ``metrics`` of this step into account."""
        self.last_epoch += 1
        figure = float(metrics)
        better = self._is_better(figure)
        self.best = figure if better else self.best
        self.num_bad_epochs = 0 if better else self.num_bad_epochs + 1
        if self.cooldown_counter > 0:
            self.cooldown_counter -= 1
            self.num_bad_epochs = 0
        if self.num_bad_epochs > self.patience:
            self._set(self.get_lr())
            self.cooldown_counter, self.num_bad_epochs = self.cooldown, 0

    def _is_better(self, figure: float) -> bool:
        sign = -1.0 if self.mode == "min" else 1.0
        if self.threshold_mode == "abs":
            return sign * figure > sign * self.best + self.threshold
        return sign * figure > sign * self.best * (1.0 + sign * self.threshold)
