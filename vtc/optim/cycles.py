"""Schedules in cycles: CyclicLR, OneCycleLR, CosineAnnealingWarmRestarts.

OneCycleLR(optimizer, max_lr=1e-2, total_steps=1000)

The first two also set the momentum (or the first beta), high while the rate is low.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, final

from vtc.errors import ArgumentError
from vtc.frontend.source import located
from vtc.optim.optimizer import Optimizer
from vtc.optim.schedule import LRScheduler, expect_optimizer, per_group, set_momentum

Rates = float | Sequence[float]


@final
class CyclicLR(LRScheduler):
    """Up from ``base_lr`` to ``max_lr`` and down again along lines (Smith 2017).

    ``mode`` "triangular2" halves each further cycle, "exp_range" multiplies it by
    ``gamma ** step``; ``scale_fn`` of the cycle or the step (``scale_mode``) replaces it.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        base_lr: Rates,
        max_lr: Rates,
        step_size_up: int = 2000,
        step_size_down: int | None = None,
        mode: Literal["triangular", "triangular2", "exp_range"] = "triangular",
        gamma: float = 1.0,
        scale_fn: Callable[[float], float] | None = None,
        scale_mode: Literal["cycle", "iterations"] = "cycle",
        cycle_momentum: bool = True,
        base_momentum: Rates = 0.8,
        max_momentum: Rates = 0.9,
        last_epoch: int = -1,
    ) -> None:
        if mode not in ("triangular", "triangular2", "exp_range") and scale_fn is None:
            raise located(
                ArgumentError,
                "CyclicLR: expected mode 'triangular', 'triangular2' or 'exp_range', or a "
                f"scale_fn, got {mode!r}",
            )
        base_lrs = per_group("CyclicLR", "base_lr", optimizer, base_lr)
        if last_epoch == -1:
            for lr, group in zip(base_lrs, optimizer.param_groups, strict=True):
                group["lr"] = lr
        self.max_lrs = per_group("CyclicLR", "max_lr", optimizer, max_lr)
        down = step_size_up if step_size_down is None else step_size_down
        self.total_size = float(step_size_up + down)
        self.step_ratio = step_size_up / self.total_size
        self.mode, self.gamma, self.scale_fn = mode, gamma, scale_fn
        by_step = mode == "exp_range" and scale_fn is None
        self.scale_mode = "iterations" if by_step else scale_mode
        self.cycle_momentum = cycle_momentum
        if cycle_momentum:
            momenta = _momenta("CyclicLR", optimizer, base_momentum, max_momentum, last_epoch)
            self.base_momentums, self.max_momentums = momenta
        super().__init__(optimizer, last_epoch)
        self.base_lrs = base_lrs

    def get_lr(self) -> list[float]:
        """The rate of each group at ``last_epoch``; sets the momentum too."""
        cycle = math.floor(1 + self.last_epoch / self.total_size)
        x = 1.0 + self.last_epoch / self.total_size - cycle
        rising = x <= self.step_ratio
        height = x / self.step_ratio if rising else (x - 1.0) / (self.step_ratio - 1.0)
        height *= self._scale(cycle if self.scale_mode == "cycle" else self.last_epoch)
        if self.cycle_momentum:
            bounds = zip(self.base_momentums, self.max_momentums, strict=True)
            for group, (low, high) in zip(self.optimizer.param_groups, bounds, strict=True):
                set_momentum(group, high - (high - low) * height)
        pairs = zip(self.base_lrs, self.max_lrs, strict=True)
        return [low + (high - low) * height for low, high in pairs]

    def _scale(self, x: int) -> float:
        if self.scale_fn is not None:
            return self.scale_fn(x)
        if self.mode == "exp_range":
            return float(self.gamma**x)
        return 1.0 if self.mode == "triangular" else 1.0 / 2.0 ** (x - 1)


@final
class OneCycleLR(LRScheduler):
    """Up to ``max_lr``, then down far below the start (Smith and Topin 2018).

    The rate starts at ``max_lr / div_factor``, is highest after ``pct_start`` of the steps, and
    ends at ``final_div_factor`` times less than it started; ``three_phase`` comes back to the start
    as slowly as it left it.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        max_lr: Rates,
        total_steps: int | None = None,
        epochs: int | None = None,
        steps_per_epoch: int | None = None,
        pct_start: float = 0.3,
        anneal_strategy: Literal["cos", "linear"] = "cos",
        cycle_momentum: bool = True,
        base_momentum: Rates = 0.85,
        max_momentum: Rates = 0.95,
        div_factor: float = 25.0,
        final_div_factor: float = 1e4,
        three_phase: bool = False,
        last_epoch: int = -1,
    ) -> None:
        expect_optimizer("OneCycleLR", optimizer)
        self.total_steps = _total(total_steps, epochs, steps_per_epoch)
        if not 0.0 <= pct_start <= 1.0:
            raise located(
                ArgumentError, f"OneCycleLR: expected 0 <= pct_start <= 1, got {pct_start}"
            )
        if anneal_strategy not in ("cos", "linear"):
            raise located(
                ArgumentError,
                f"OneCycleLR: expected anneal_strategy 'cos' or 'linear', got {anneal_strategy!r}",
            )
        self.anneal_strategy, self.cycle_momentum = anneal_strategy, cycle_momentum
        self.phases = _phases(pct_start * self.total_steps, self.total_steps, three_phase)
        if last_epoch == -1:
            rates = per_group("OneCycleLR", "max_lr", optimizer, max_lr)
            for group, lr in zip(optimizer.param_groups, rates, strict=True):
                first = lr / div_factor
                group.update(initial_lr=first, max_lr=lr, min_lr=first / final_div_factor)
        if cycle_momentum:
            _momenta("OneCycleLR", optimizer, base_momentum, max_momentum, last_epoch)
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float]:
        """The rate of each group at ``last_epoch``; sets the momentum too."""
        step = self.last_epoch
        if step > self.total_steps:
            raise located(
                ArgumentError,
                f"OneCycleLR: expected at most total_steps={self.total_steps} steps, got {step}",
            )
        before, last = 0.0, len(self.phases) - 1
        end, names = next(p for i, p in enumerate(self.phases) if step <= p[0] or i == last)
        at = self.phases.index((end, names))
        before = self.phases[at - 1][0] if at else 0.0
        passed = (step - before) / (end - before)
        rates = []
        for group in self.optimizer.param_groups:
            start, stop, first, then = (group.get(name) for name in names)
            rates.append(self._between(start, stop, passed))
            if self.cycle_momentum:
                set_momentum(group, self._between(first, then, passed))
        return rates

    def _between(self, start: Any, end: Any, passed: float) -> float:
        if self.anneal_strategy == "linear":
            return float((end - start) * passed + start)
        return float(end + (start - end) / 2.0 * (math.cos(math.pi * passed) + 1.0))


Phase = tuple[float, tuple[str, str, str, str]]


def _phases(rise: float, total: int, three_phase: bool) -> list[Phase]:
    """The last step of each phase; the names of its rates and momenta at start and end."""
    up = ("initial_lr", "max_lr", "max_momentum", "base_momentum")
    if not three_phase:
        return [(rise - 1.0, up), (total - 1.0, ("max_lr", "min_lr", *up[:1:-1]))]
    return [
        (rise - 1.0, up),
        (2.0 * rise - 2.0, ("max_lr", "initial_lr", "base_momentum", "max_momentum")),
        (total - 1.0, ("initial_lr", "min_lr", "max_momentum", "max_momentum")),
    ]


def _total(total_steps: int | None, epochs: int | None, steps_per_epoch: int | None) -> int:
    total = total_steps
    if total is None and epochs is not None and steps_per_epoch is not None:
        total = epochs * steps_per_epoch
    if total is None or total < 1:
        raise located(
            ArgumentError,
            "OneCycleLR: expected total_steps >= 1, or epochs and steps_per_epoch, got "
            f"{total_steps}, {epochs} and {steps_per_epoch}",
        )
    return total


def _momenta(
    owner: str, optimizer: Optimizer, low: Rates, high: Rates, last_epoch: int
) -> tuple[list[float], list[float]]:
    """The bounds of each group's momentum; its groups start at the upper ones."""
    if not {"momentum", "betas"} & set(optimizer.defaults):
        raise located(
            ArgumentError,
            f"{owner}: expected an optimizer with momentum or betas for cycle_momentum, got "
            f"{type(optimizer).__name__}",
        )
    lows = per_group(owner, "base_momentum", optimizer, low)
    highs = per_group(owner, "max_momentum", optimizer, high)
    if last_epoch == -1:
        for group, a, b in zip(optimizer.param_groups, lows, highs, strict=True):
            set_momentum(group, b)
            group.update(max_momentum=b, base_momentum=a)
    return lows, highs


@final
class CosineAnnealingWarmRestarts(LRScheduler):
    """Down to ``eta_min`` along half a cosine in ``T_0`` steps, then from the top again.

    Each cycle is ``T_mult`` times as long as the one before (Loshchilov and Hutter 2017).
    ``step(epoch)`` goes to any point, between steps too.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        T_0: int,  # PyTorch's name
        T_mult: int = 1,  # PyTorch's name
        eta_min: float = 0.0,
        last_epoch: int = -1,
    ) -> None:
        if T_0 < 1 or T_mult < 1:
            got = f"got {T_0} and {T_mult}"
            raise located(
                ArgumentError,
                f"CosineAnnealingWarmRestarts: expected T_0 >= 1 and T_mult >= 1, {got}",
            )
        self.T_0, self.T_i, self.T_mult = T_0, T_0, T_mult
        self.eta_min = eta_min
        self.T_cur: float = last_epoch
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float]:
        """The rate of each group at the point ``T_cur`` of a cycle of ``T_i`` steps."""
        height = (1.0 + math.cos(math.pi * self.T_cur / self.T_i)) / 2.0
        return [self.eta_min + (base - self.eta_min) * height for base in self.base_lrs]

    def step(self, epoch: float | None = None) -> None:
        """Go on to the next step, or to ``epoch``, and set the rates."""
        if epoch is None and self.last_epoch < 0:
            epoch = 0
        if epoch is None:
            self.T_cur += 1
            if self.T_cur >= self.T_i:
                self.T_cur, self.T_i = self.T_cur % self.T_i, self.T_i * self.T_mult
            self.last_epoch += 1
        else:
            self._go(epoch)
        self._set(self.get_lr())

    def _go(self, epoch: float) -> None:
        if epoch < 0:
            raise located(
                ArgumentError, f"CosineAnnealingWarmRestarts: expected epoch >= 0, got {epoch}"
            )
        self.last_epoch = math.floor(epoch)
        if epoch < self.T_0:
            self.T_i, self.T_cur = self.T_0, epoch
        elif self.T_mult == 1:
            self.T_cur = epoch % self.T_0
        else:
            cycles = int(math.log(epoch / self.T_0 * (self.T_mult - 1) + 1, self.T_mult))
            began = self.T_0 * (self.T_mult**cycles - 1) / (self.T_mult - 1)
            self.T_cur, self.T_i = epoch - began, self.T_0 * self.T_mult**cycles
