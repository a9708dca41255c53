"""Adam's relatives: NAdam (Dozat 2016), RAdam (Liu et al. 2020), Adamax (Kingma and Ba 2015).

optimizer = vtc.optim.NAdam(model.parameters(), lr=2e-3, momentum_decay=4e-3)
"""

from __future__ import annotations

from typing import Any, Unpack, final

from vtc.frontend import dispatch
from vtc.frontend.functions.comparison import where
from vtc.frontend.hyper import hyperparameter
from vtc.frontend.tensor import Tensor
from vtc.ir.types import f64
from vtc.optim.optimizer import (
    Group,
    Hints,
    Optimizer,
    Pairs,
    Params,
    check_at_least,
    check_betas,
    downhill,
)


@final
class NAdam(Optimizer):
    """Adam with Nesterov's momentum, which itself grows with the steps by ``momentum_decay``."""

    def __init__(
        self,
        params: Params,
        lr: float = 2e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        momentum_decay: float = 4e-3,
        decoupled_weight_decay: bool = False,
        *,
        maximize: bool = False,
        **hints: Unpack[Hints],
    ) -> None:
        numbers = {
            "lr": lr, "eps": eps, "weight_decay": weight_decay, "momentum_decay": momentum_decay
        }  # fmt: skip
        flags = {"decoupled_weight_decay": decoupled_weight_decay, "maximize": maximize}
        super().__init__(params, _defaults("NAdam", numbers, betas, flags), hints)

    def state_names(self, group: Group) -> tuple[str, ...]:
        """The two means."""
        del group
        return ("exp_avg", "exp_avg_sq")

    def shared(self, group: Group) -> dict[str, float]:
        """The product of all momenta so far."""
        del group
        return {"mu_product": 1.0}

    def structure(self, group: Group) -> tuple[object, ...]:
        """Which terms there are."""
        return _terms(group)

    def update(self, group: Group, pairs: Pairs) -> None:
        """One step of NAdam."""
        lr, eps = hyperparameter(group, "lr"), hyperparameter(group, "eps")
        beta1, beta2 = hyperparameter(group, "betas", 0), hyperparameter(group, "betas", 1)
        decay = hyperparameter(group, "momentum_decay")
        steps, product = self.steps(pairs[0][0]), self.number(pairs[0][0], "mu_product")
        mu = beta1 * (1.0 - 0.5 * 0.96 ** (steps * decay))
        mu_next = beta1 * (1.0 - 0.5 * 0.96 ** ((steps + 1.0) * decay))
        dispatch.write(product, product * mu)
        along = lr * (1.0 - mu) / (1.0 - product)
        ahead = lr * mu_next / (1.0 - product * mu_next)
        correction = 1.0 - beta2**steps
        for p, gradient in pairs:
            kept, g = _decayed(group, p, gradient)
            m, v = _means(self.state[p], p, g, beta1, beta2)
            size = (v / correction).sqrt() + eps
            dispatch.write(p, (kept - along * g / size - ahead * m / size).to(p.dtype))


@final
class RAdam(Optimizer):
    """Adam that goes along the mean alone until the variance of its step is known well enough.

    The betas are constants of a compiled step: changing them compiles again.
    """

    def __init__(
        self,
        params: Params,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        decoupled_weight_decay: bool = False,
        *,
        maximize: bool = False,
        **hints: Unpack[Hints],
    ) -> None:
        numbers = {"lr": lr, "eps": eps, "weight_decay": weight_decay}
        flags = {"decoupled_weight_decay": decoupled_weight_decay, "maximize": maximize}
        super().__init__(params, _defaults("RAdam", numbers, betas, flags), hints)

    def state_names(self, group: Group) -> tuple[str, ...]:
        """The two means."""
        del group
        return ("exp_avg", "exp_avg_sq")

    def structure(self, group: Group) -> tuple[object, ...]:
        """Which terms there are, and the betas."""
        return (*_terms(group), *map(float, group["betas"]))

    def update(self, group: Group, pairs: Pairs) -> None:
        """One step of RAdam."""
        lr, eps = hyperparameter(group, "lr"), hyperparameter(group, "eps")
        beta1, beta2 = group["betas"]
        steps = self.steps(pairs[0][0])
        rectified, factor = _rectification(steps.to(f64), beta2)
        size = lr / (1.0 - beta1**steps)
        factor = factor.to(steps.dtype)
        for p, gradient in pairs:
            kept, g = _decayed(group, p, gradient)
            m, v = _means(self.state[p], p, g, beta1, beta2)
            adaptive = where(rectified, factor / (v.sqrt() + eps), 1.0)
            dispatch.write(p, (kept - size * m * adaptive).to(p.dtype))


def _rectification(steps: Tensor, beta2: float) -> tuple[Tensor, Tensor]:
    """Whether the variance is known, and by what to multiply then.

    In f64: the length of the mean is the small difference of two large numbers.
    """
    most = 2.0 / (1.0 - beta2) - 1.0
    power = beta2**steps
    correction = 1.0 - power
    length = most - 2.0 * steps * power / correction
    ratio = (length - 4.0) * (length - 2.0) * most / ((most - 4.0) * (most - 2.0) * length)
    return length > 5.0, (ratio.clamp(min=0.0) * correction).sqrt()


@final
class Adamax(Optimizer):
    """Adam with the largest recent gradient in the place of the root of the mean square."""

    def __init__(
        self,
        params: Params,
        lr: float = 2e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        *,
        maximize: bool = False,
        **hints: Unpack[Hints],
    ) -> None:
        numbers = {"lr": lr, "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, _defaults("Adamax", numbers, betas, {"maximize": maximize}), hints)

    def state_names(self, group: Group) -> tuple[str, ...]:
        """The mean and the largest."""
        del group
        return ("exp_avg", "exp_inf")

    def structure(self, group: Group) -> tuple[object, ...]:
        """Which terms there are."""
        return (group["maximize"], group["weight_decay"] != 0)

    def update(self, group: Group, pairs: Pairs) -> None:
        """One step of Adamax."""
        eps = hyperparameter(group, "eps")
        beta1, beta2 = hyperparameter(group, "betas", 0), hyperparameter(group, "betas", 1)
        size = hyperparameter(group, "lr") / (1.0 - beta1 ** self.steps(pairs[0][0]))
        for p, gradient in pairs:
            g = downhill(group, p, gradient)
            m, largest = self.state[p]["exp_avg"], self.state[p]["exp_inf"]
            dispatch.write(m, (m + (1.0 - beta1) * (g - m)).to(p.dtype))
            dispatch.write(largest, (beta2 * largest).maximum(g.abs() + eps).to(p.dtype))
            dispatch.write(p, (p - size * m / largest).to(p.dtype))


def _defaults(
    owner: str, numbers: dict[str, float], betas: tuple[float, float], flags: dict[str, bool]
) -> dict[str, Any]:
    check_at_least(owner, 0.0, **numbers)
    check_betas(owner, betas)
    return {**{k: float(v) for k, v in numbers.items()}, "betas": tuple(betas), **flags}


def _terms(group: Group) -> tuple[object, ...]:
    return (group["maximize"], group["weight_decay"] != 0, group["decoupled_weight_decay"])


def _decayed(group: Group, p: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
    """``p`` and what to go down along, the weight decay in one of them."""
    if not group["decoupled_weight_decay"] or group["weight_decay"] == 0:
        return p, downhill(group, p, gradient)
    keep = 1.0 - hyperparameter(group, "lr") * hyperparameter(group, "weight_decay")
    return keep * p, -gradient if group["maximize"] else gradient


def _means(
    state: dict[str, Tensor], p: Tensor, g: Tensor, beta1: Any, beta2: Any
) -> tuple[Tensor, Tensor]:
    """The running means of ``g`` and of its square, moved on."""
    m, v = state["exp_avg"], state["exp_avg_sq"]
    dispatch.write(m, (m + (1.0 - beta1) * (g - m)).to(p.dtype))
    dispatch.write(v, (beta2 * v + (1.0 - beta2) * g * g).to(p.dtype))
    return m, v
