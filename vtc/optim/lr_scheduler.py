"""Schedules of the learning rate. Call ``step()`` once after each ``optimizer.step()``.

A compiled step reads ``lr`` anew at each call, so a schedule never makes it compile again. ::

    schedule = vtc.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=1000)
    for x, y in batches:
        step(x, y)
        schedule.step()
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, final

from vtc.errors import ArgumentError
from vtc.frontend.source import located
from vtc.optim.optimizer import Optimizer


class LRScheduler(ABC):
    """Sets ``lr`` of every group of an optimizer; ``last_epoch`` counts the steps, from 0."""

    def __init__(self, optimizer: Optimizer, last_epoch: int = -1) -> None:
        if not isinstance(optimizer, Optimizer):
            got = type(optimizer).__name__
            raise located(ArgumentError, f"{type(self).__name__}: expected an Optimizer, got {got}")
        self.optimizer = optimizer
        for i, group in enumerate(optimizer.param_groups):
            if last_epoch >= 0 and "initial_lr" not in group:
                raise located(
                    ArgumentError,
                    f"{type(self).__name__}: expected initial_lr in param_groups[{i}] to resume at "
                    f"last_epoch={last_epoch}, got none; load the optimizer's state first",
                )
            group.setdefault("initial_lr", group["lr"])
        self.base_lrs: list[float] = [g["initial_lr"] for g in optimizer.param_groups]
        self.last_epoch = last_epoch
        self.step()

    @abstractmethod
    def get_lr(self) -> list[float]:
        """The rate of each group at ``last_epoch``."""

    def step(self) -> None:
        """Go on to the next step and set its rates."""
        self.last_epoch += 1
        for group, lr in zip(self.optimizer.param_groups, self.get_lr(), strict=True):
            group["lr"] = lr

    def get_last_lr(self) -> list[float]:
        """The rates in force."""
        return [group["lr"] for group in self.optimizer.param_groups]

    def state_dict(self) -> dict[str, Any]:
        """What is needed to go on; functions are not, so give the same ones again."""
        state = {k: v for k, v in vars(self).items() if k not in ("optimizer", "lr_lambdas")}
        return {**state, "_last_lr": self.get_last_lr()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a saved state; the rates in force are the optimizer's to load."""
        known = set(self.state_dict()) - {"_last_lr"}
        vars(self).update({k: v for k, v in state_dict.items() if k in known})


@final
class LambdaLR(LRScheduler):
    """The initial rate times ``lr_lambda(step)``; one function for all groups, or one for each."""

    def __init__(
        self,
        optimizer: Optimizer,
        lr_lambda: Callable[[int], float] | Sequence[Callable[[int], float]],
        last_epoch: int = -1,
    ) -> None:
        groups = len(optimizer.param_groups)
        self.lr_lambdas = [lr_lambda] * groups if callable(lr_lambda) else list(lr_lambda)
        if len(self.lr_lambdas) != groups:
            got = len(self.lr_lambdas)
            raise located(ArgumentError, f"LambdaLR: expected {groups} functions, got {got}")
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float]:
        """The rate of each group at ``last_epoch``."""
        pairs = zip(self.base_lrs, self.lr_lambdas, strict=True)
        return [base * factor(self.last_epoch) for base, factor in pairs]


@final
class CosineAnnealingLR(LRScheduler):
    """From the initial rate to ``eta_min`` in ``T_max`` steps along half a cosine, then back."""

    def __init__(
        self,
        optimizer: Optimizer,
        T_max: int,  # PyTorch's name
        eta_min: float = 0.0,
        last_epoch: int = -1,
    ) -> None:
        if T_max < 1:
            raise located(ArgumentError, f"CosineAnnealingLR: expected T_max >= 1, got {T_max}")
        self.T_max, self.eta_min = T_max, eta_min
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float]:
        """The rate of each group at ``last_epoch``."""
        height = (1.0 + math.cos(math.pi * self.last_epoch / self.T_max)) / 2.0
        return [self.eta_min + (base - self.eta_min) * height for base in self.base_lrs]
