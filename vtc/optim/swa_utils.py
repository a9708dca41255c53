"""Averages of weights over training (PyTorch's names): AveragedModel, SWALR, update_bn.

averaged = swa_utils.AveragedModel(model, avg_fn=swa_utils.get_ema_avg_fn(0.999))
averaged.update_parameters(model)                     # after each optimizer.step()
swa_utils.update_bn(batches, averaged)                # before it is used
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal, TypeAlias, final

from vtc.errors import ArgumentError
from vtc.frontend import dispatch
from vtc.frontend.functions.comparison import where
from vtc.frontend.functions.creation import zeros
from vtc.frontend.source import located
from vtc.frontend.tensor import Tensor
from vtc.ir.types import i64
from vtc.nn.batchnorm import BatchNorm
from vtc.nn.module import Module
from vtc.nn.parameter import Buffer
from vtc.optim.optimizer import Optimizer
from vtc.optim.schedule import LRScheduler, per_group
from vtc.runtime.device import Device

Average: TypeAlias = Callable[[Tensor, Tensor, Any], Tensor]
Averages: TypeAlias = Callable[[Sequence[Tensor], Sequence[Tensor], Any], None]


def get_swa_avg_fn() -> Average:
    """The mean of all: ``(averaged, current, count) -> averaged``."""

    def swa_update(averaged: Tensor, current: Tensor, num_averaged: Any) -> Tensor:
        moved: Tensor = averaged + (current - averaged) / (num_averaged + 1)
        return moved

    return swa_update


def get_ema_avg_fn(decay: float = 0.999) -> Average:
    """The running mean that keeps the share ``decay``; it is called as :func:`get_swa_avg_fn`."""
    _check_decay(decay)

    def ema_update(averaged: Tensor, current: Tensor, num_averaged: Any) -> Tensor:
        del num_averaged
        return decay * averaged + (1 - decay) * current

    return ema_update


def get_swa_multi_avg_fn() -> Averages:
    """:func:`get_swa_avg_fn` of several tensors, written into the averaged ones."""
    return _written(get_swa_avg_fn())


def get_ema_multi_avg_fn(decay: float = 0.999) -> Averages:
    """:func:`get_ema_avg_fn` of several tensors, written into the averaged ones."""
    return _written(get_ema_avg_fn(decay))


@final
class AveragedModel(Module):
    """A copy of a model, ``module``, whose parameters are averages of those it is shown.

    ``avg_fn(averaged, current, n_averaged)`` says how, by default the mean of all; ``multi_avg_fn``
    gets lists of them and writes the averages itself. The first model shown is copied. Buffers are
    copied each time, or averaged too if ``use_buffers``.
    """

    def __init__(
        self,
        model: Module,
        device: Device | str | None = None,
        avg_fn: Average | None = None,
        multi_avg_fn: Averages | None = None,
        use_buffers: bool = False,
    ) -> None:
        if avg_fn is not None and multi_avg_fn is not None:
            message = "expected one of avg_fn and multi_avg_fn, got both"
            raise located(ArgumentError, f"AveragedModel: {message}")
        self.module = copy.deepcopy(model)
        if device is not None:
            self.module.to(device)
        self.n_averaged = Buffer(zeros((), dtype=i64, device=device))
        self.avg_fn, self.multi_avg_fn, self.use_buffers = avg_fn, multi_avg_fn, use_buffers

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.module(*args, **kwargs)

    def update_parameters(self, model: Module) -> None:
        """Take in the parameters of ``model``. With ``multi_avg_fn`` not in a compiled function."""
        own, shown = list(self.module.parameters()), list(model.parameters())
        copied = list(zip(self.module.buffers(), model.buffers(), strict=True))
        if self.use_buffers:
            own, shown = [*own, *(b for b, _ in copied)], [*shown, *(b for _, b in copied)]
            copied = []
        with dispatch.no_grad():
            current = [x.detach().to(a.device) for a, x in zip(own, shown, strict=True)]
            self._average([a.detach() for a in own], current)
            for a, x in copied:
                dispatch.write(a, x.detach().to(a.device))
            dispatch.write(self.n_averaged, self.n_averaged + 1)

    def _average(self, own: Sequence[Tensor], current: Sequence[Tensor]) -> None:
        count = self.n_averaged
        if self.multi_avg_fn is None:
            average = self.avg_fn or get_swa_avg_fn()
            for a, x in zip(own, current, strict=True):
                n = count.to(a.device)
                dispatch.write(a, where(n == 0, x, average(a, x, n)).to(a.dtype))
        elif int(count) > 0:
            self.multi_avg_fn(own, current, count)
        else:
            for a, x in zip(own, current, strict=True):
                dispatch.write(a, x)


def update_bn(loader: Iterable[Any], model: Module, device: Device | str | None = None) -> None:
    """Let the running figures of batch normalizations be the means over all that ``loader`` gives.

    It gives inputs, or tuples and lists that begin with them.
    """
    norms = [m for m in model.modules() if isinstance(m, BatchNorm)]
    if not norms:
        return
    momenta, training = [m.momentum for m in norms], model.training
    with dispatch.no_grad():
        model.train()
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None
        for batch in loader:
            x = batch[0] if isinstance(batch, (list, tuple)) else batch
            model(x if device is None else x.to(device))
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        model.train(training)


@final
class SWALR(LRScheduler):
    """From the rate in force to ``swa_lr`` over ``anneal_epochs``, by a cosine or a line."""

    def __init__(
        self,
        optimizer: Optimizer,
        swa_lr: float | Sequence[float],
        anneal_epochs: int = 10,
        anneal_strategy: Literal["cos", "linear"] = "cos",
        last_epoch: int = -1,
    ) -> None:
        if anneal_strategy not in ("cos", "linear") or anneal_epochs < 0:
            message = "expected anneal_strategy 'cos' or 'linear' and anneal_epochs >= 0"
            got = f"got {anneal_strategy!r} and {anneal_epochs}"
            raise located(ArgumentError, f"SWALR: {message}, {got}")
        rates = per_group("SWALR", "swa_lr", optimizer, swa_lr)
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["swa_lr"] = rate
        self.anneal_epochs, self.strategy = anneal_epochs, anneal_strategy
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float]:
        """The rate of each group at ``last_epoch``, from those in force."""
        step = self._step_count - 1
        step = max(1, step) if self.anneal_epochs == 0 else step
        before, now = self._share(step - 1), self._share(step)
        groups = self.optimizer.param_groups
        return [self._rate(g["lr"], g["swa_lr"], before, now) for g in groups]

    def _share(self, step: int) -> float:
        """How much of the way is gone after ``step`` steps."""
        t = max(0.0, min(1.0, step / max(1, self.anneal_epochs)))
        return t if self.strategy == "linear" else (1 - math.cos(math.pi * t)) / 2

    def _rate(self, lr: float, swa_lr: float, before: float, now: float) -> float:
        start = swa_lr if before == 1 else (lr - before * swa_lr) / (1 - before)
        return swa_lr * now + start * (1 - now)


def _written(average: Average) -> Averages:
    def update(own: Sequence[Tensor], current: Sequence[Tensor], num_averaged: Any) -> None:
        with dispatch.no_grad():
            for a, x in zip(own, current, strict=True):
                n = num_averaged.to(a.device) if isinstance(num_averaged, Tensor) else num_averaged
                dispatch.write(a, average(a, x, n).to(a.dtype))

    return update


def _check_decay(decay: float) -> None:
    if not 0.0 <= decay <= 1.0:
        raise located(ArgumentError, f"get_ema_avg_fn: expected 0 <= decay <= 1, got {decay}")
