"""Schedules that are a formula of the step: by steps, lines, powers, cosines, functions.

StepLR(optimizer, step_size=30, gamma=0.1)
LinearLR(optimizer, start_factor=0.01, total_iters=500)      # warm-up
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import final

from vtc.errors import ArgumentError
from vtc.frontend.source import located
from vtc.optim.optimizer import Optimizer
from vtc.optim.schedule import Factor, LRScheduler, expect_optimizer


@final
class LambdaLR(LRScheduler):
    """The initial rate times ``lr_lambda(step)``; one function for all groups, or one for each."""

    def __init__(
        self, optimizer: Optimizer, lr_lambda: Factor | Sequence[Factor], last_epoch: int = -1
    ) -> None:
        self.lr_lambdas = _functions("LambdaLR", optimizer, lr_lambda)
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float]:
        """The rate of each group at ``last_epoch``."""
        pairs = zip(self.base_lrs, self.lr_lambdas, strict=True)
        return [base * factor(self.last_epoch) for base, factor in pairs]


@final
class MultiplicativeLR(LRScheduler):
    """The rate before times ``lr_lambda(step)``; one function for all groups, or one for each."""

    def __init__(
        self, optimizer: Optimizer, lr_lambda: Factor | Sequence[Factor], last_epoch: int = -1
    ) -> None:
        self.lr_lambdas = _functions("MultiplicativeLR", optimizer, lr_lambda)
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float]:
        """The rate of each group at ``last_epoch``."""
        if self.initial:
            return self.get_last_lr()
        pairs = zip(self.get_last_lr(), self.lr_lambdas, strict=True)
        return [lr * factor(self.last_epoch) for lr, factor in pairs]


@final
class StepLR(LRScheduler):
    """The rate times ``gamma`` every ``step_size`` steps."""

    def __init__(
        self, optimizer: Optimizer, step_size: int, gamma: float = 0.1, last_epoch: int = -1
    ) -> None:
        if step_size < 1:
            raise located(ArgumentError, f"StepLR: expected step_size >= 1, got {step_size}")
        self.step_size, self.gamma = step_size, gamma
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float]:
        """The rate of each group at ``last_epoch``."""
        at_edge = self.last_epoch > 0 and self.last_epoch % self.step_size == 0
        return self._times(self.gamma) if at_edge else self.get_last_lr()

    def closed_form(self) -> list[float]:
        """As ``get_lr``, from the initial rates."""
        factor = self.gamma ** (self.last_epoch // self.step_size)
        return [base * factor for base in self.base_lrs]


@final
class MultiStepLR(LRScheduler):
    """The rate times ``gamma`` at each of the steps ``milestones``."""

    def __init__(
        self,
        optimizer: Optimizer,
        milestones: Iterable[int],
        gamma: float = 0.1,
        last_epoch: int = -1,
    ) -> None:
        self.milestones, self.gamma = Counter(milestones), gamma
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float]:
        """The rate of each group at ``last_epoch``."""
        times = self.milestones[self.last_epoch]
        return self._times(self.gamma**times) if times else self.get_last_lr()

    def closed_form(self) -> list[float]:
        """As ``get_lr``, from the initial rates."""
        passed = bisect_right(sorted(self.milestones.elements()), self.last_epoch)
        return [base * self.gamma**passed for base in self.base_lrs]


@final
class ConstantLR(LRScheduler):
    """The rate times ``factor`` until step ``total_iters``, then the rate itself."""

    def __init__(
        self,
        optimizer: Optimizer,
        factor: float = 1.0 / 3.0,
        total_iters: int = 5,
        last_epoch: int = -1,
    ) -> None:
        _share("ConstantLR", factor=factor)
        self.factor, self.total_iters = factor, total_iters
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float]:
        """The rate of each group at ``last_epoch``."""
        if self.last_epoch == 0:
            return self._times(self.factor)
        if self.last_epoch != self.total_iters:
            return self.get_last_lr()
        return self._times(1.0 / self.factor)

    def closed_form(self) -> list[float]:
        """As ``get_lr``, from the initial rates."""
        factor = 1.0 if self.last_epoch >= self.total_iters else self.factor
        return [base * factor for base in self.base_lrs]


@final
class LinearLR(LRScheduler):
    """The rate times a factor that goes from ``start_factor`` to ``end_factor`` along a line."""

    def __init__(
        self,
        optimizer: Optimizer,
        start_factor: float = 1.0 / 3.0,
        end_factor: float = 1.0,
        total_iters: int = 5,
        last_epoch: int = -1,
    ) -> None:
        _share("LinearLR", start_factor=start_factor, end_factor=end_factor)
        if start_factor == 0:
            raise located(ArgumentError, "LinearLR: expected start_factor > 0, got 0")
        self.start_factor, self.end_factor = start_factor, end_factor
        self.total_iters = total_iters
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float]:
        """The rate of each group at ``last_epoch``."""
        if self.last_epoch == 0:
            return self._times(self.start_factor)
        if self.initial or self.last_epoch > self.total_iters:
            return self.get_last_lr()
        slope = self.end_factor - self.start_factor
        before = self.total_iters * self.start_factor + (self.last_epoch - 1) * slope
        return self._times(1.0 + slope / before)

    def closed_form(self) -> list[float]:
        """As ``get_lr``, from the initial rates."""
        passed = min(self.total_iters, self.last_epoch) / self.total_iters
        factor = self.start_factor + (self.end_factor - self.start_factor) * passed
        return [base * factor for base in self.base_lrs]


@final
class ExponentialLR(LRScheduler):
    """The rate times ``gamma`` at every step."""

    def __init__(self, optimizer: Optimizer, gamma: float, last_epoch: int = -1) -> None:
        self.gamma = gamma
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float]:
        """The rate of each group at ``last_epoch``."""
        return self.get_last_lr() if self.initial else self._times(self.gamma)

    def closed_form(self) -> list[float]:
        """As ``get_lr``, from the initial rates."""
        return [base * self.gamma**self.last_epoch for base in self.base_lrs]


@final
class PolynomialLR(LRScheduler):
    """The rate times ``(1 - step / total_iters) ** power``, zero from ``total_iters`` on."""

    def __init__(
        self,
        optimizer: Optimizer,
        total_iters: int = 5,
        power: float = 1.0,
        last_epoch: int = -1,
    ) -> None:
        self.total_iters, self.power = total_iters, power
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float]:
        """The rate of each group at ``last_epoch``."""
        if self.initial or self.last_epoch > self.total_iters:
            return self.get_last_lr()
        left = 1.0 - self.last_epoch / self.total_iters
        before = 1.0 - (self.last_epoch - 1) / self.total_iters
        return self._times((left / before) ** self.power)

    def closed_form(self) -> list[float]:
        """As ``get_lr``, from the initial rates."""
        left = 1.0 - min(self.total_iters, self.last_epoch) / self.total_iters
        return [base * left**self.power for base in self.base_lrs]


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
        if self.initial:
            return self.get_last_lr()
        if self._step_count == 1:
            return self.closed_form()
        if (self.last_epoch - 1 - self.T_max) % (2 * self.T_max) == 0:  # just after the valley
            rise = (1.0 - math.cos(math.pi / self.T_max)) / 2.0
            pairs = zip(self.get_last_lr(), self.base_lrs, strict=True)
            return [lr + (base - self.eta_min) * rise for lr, base in pairs]
        now, before = (self._height(self.last_epoch - k) for k in (0, 1))
        return [now / before * (lr - self.eta_min) + self.eta_min for lr in self.get_last_lr()]

    def closed_form(self) -> list[float]:
        """As ``get_lr``, from the initial rates."""
        height = self._height(self.last_epoch)
        return [self.eta_min + (base - self.eta_min) * height for base in self.base_lrs]

    def _height(self, step: int) -> float:
        return (1.0 + math.cos(math.pi * step / self.T_max)) / 2.0


def _functions(owner: str, optimizer: Optimizer, given: Factor | Sequence[Factor]) -> list[Factor]:
    groups = len(expect_optimizer(owner, optimizer).param_groups)
    found = [given] * groups if callable(given) else list(given)
    if len(found) != groups:
        raise located(ArgumentError, f"{owner}: expected {groups} functions, got {len(found)}")
    return found


def _share(owner: str, **factors: float) -> None:
    for name, factor in factors.items():
        if not 0.0 <= factor <= 1.0:
            raise located(ArgumentError, f"{owner}: expected {name} in [0, 1], got {factor}")
