"""What every schedule of the learning rate shares: counting steps, setting rates, saving.

A schedule says in ``get_lr`` how the rates follow from those in force, so several can be chained;
one that knows its rates without them says so in ``closed_form`` too.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

from vtc.errors import ArgumentError, CaptureError
from vtc.frontend import dispatch
from vtc.frontend.hyper import hyperparameter
from vtc.frontend.source import located
from vtc.optim.optimizer import Group, Optimizer

Factor = Callable[[int], float]


class LRScheduler(ABC):
    """Sets ``lr`` of every group of an optimizer; ``last_epoch`` counts the steps, from 0."""

    optimizer: Optimizer
    base_lrs: list[float]
    last_epoch: int
    initial: bool = False
    """Whether this is the step that construction takes."""
    _step_count: int = 0

    def __init__(self, optimizer: Optimizer, last_epoch: int = -1) -> None:
        self.optimizer = expect_optimizer(type(self).__name__, optimizer)
        for i, group in enumerate(optimizer.param_groups):
            if last_epoch >= 0 and "initial_lr" not in group:
                raise located(
                    ArgumentError,
                    f"{type(self).__name__}: expected initial_lr in param_groups[{i}] to resume at "
                    f"last_epoch={last_epoch}, got none; load the optimizer's state first",
                )
            if last_epoch < 0:
                group.setdefault("initial_lr", group["lr"])
        self.base_lrs = [g["initial_lr"] for g in optimizer.param_groups]
        self.last_epoch = last_epoch
        self.first_step()

    def __setattr__(self, name: str, value: Any) -> None:
        if dispatch.is_capturing():
            raise located(
                CaptureError,
                f"{type(self).__name__}: expected its step() outside of the compiled function, "
                "whose calls would not take it; a new rate compiles nothing again",
            )
        super().__setattr__(name, value)

    @abstractmethod
    def get_lr(self) -> list[float]:
        """The rate of each group at ``last_epoch``, from those in force."""

    def closed_form(self) -> list[float] | None:
        """The rate of each group at ``last_epoch``, from the initial ones; None if not known."""
        return None

    def first_step(self) -> None:
        """The step to ``last_epoch + 1`` that construction takes."""
        self._step_count, self.initial = 0, True
        try:
            self.step()
        finally:
            del self.initial

    def step(self) -> None:
        """Go on to the next step and set its rates."""
        self._step_count += 1
        self.last_epoch += 1
        self._set(self.get_lr())

    def restart(self) -> None:
        """Go to step 0, whatever the rates in force."""
        self.last_epoch = 0
        found = self.closed_form()
        self._set(self.get_lr() if found is None else found)

    def undo(self) -> None:
        """Forget the last step; the rates stay."""
        self.last_epoch -= 1

    def get_last_lr(self) -> list[float]:
        """The rates in force."""
        return [hyperparameter(group, "lr") for group in self.optimizer.param_groups]

    def state_dict(self) -> dict[str, Any]:
        """What is needed to go on; functions are not, so give the same ones again."""
        state = {k: v for k, v in vars(self).items() if k != "optimizer" and not _is_code(v)}
        return {**state, "_last_lr": self.get_last_lr()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a saved state; the rates in force are the optimizer's to load."""
        known = set(self.state_dict()) - {"_last_lr"}
        vars(self).update({k: v for k, v in state_dict.items() if k in known})

    def _set(self, rates: Sequence[float]) -> None:
        for group, lr in zip(self.optimizer.param_groups, rates, strict=True):
            group["lr"] = lr

    def _times(self, factor: float) -> list[float]:
        """The rates in force times ``factor``."""
        return [lr * factor for lr in self.get_last_lr()]


def expect_optimizer(owner: str, value: object) -> Optimizer:
    """``value``; ArgumentError unless it is an Optimizer."""
    if isinstance(value, Optimizer):
        return value
    got = type(value).__name__
    raise located(ArgumentError, f"{owner}: expected an Optimizer, got {got}")


def per_group(owner: str, argument: str, optimizer: Optimizer, value: Any) -> list[Any]:
    """``value`` for each group, or as many values as there are groups."""
    groups = len(optimizer.param_groups)
    if not isinstance(value, (list, tuple)):
        return [value] * groups
    if len(value) != groups:
        raise located(
            ArgumentError, f"{owner}: expected {groups} values of {argument}, got {len(value)}"
        )
    return list(value)


def set_momentum(group: Group, value: float) -> None:
    """Set ``momentum``, or the first of ``betas`` where the optimizer has those."""
    if "betas" in group:
        group["betas"] = (value, *group["betas"][1:])
    else:
        group["momentum"] = value


def _is_code(value: Any) -> bool:
    return callable(value) or (
        isinstance(value, list) and bool(value) and all(map(callable, value))
    )
