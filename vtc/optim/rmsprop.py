"""Steps scaled by the history of squared gradients: RMSprop, Adagrad, Adadelta.

optimizer = vtc.optim.RMSprop(model.parameters(), lr=1e-2, momentum=0.9, centered=True)
"""

from __future__ import annotations

from typing import Unpack, final

from vtc.errors import ArgumentError
from vtc.frontend import dispatch
from vtc.frontend.hyper import hyperparameter
from vtc.frontend.source import located
from vtc.optim.optimizer import Group, Hints, Optimizer, Pairs, Params, check_at_least, downhill


@final
class RMSprop(Optimizer):
    """``p -= lr * g / (sqrt(v) + eps)``, ``v`` a running mean of ``g ** 2`` (Hinton 2012).

    ``centered`` takes the square of the mean gradient from ``v``; with ``momentum`` the scaled
    gradients add up in a buffer that decays.
    """

    def __init__(
        self,
        params: Params,
        lr: float = 1e-2,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        momentum: float = 0.0,
        centered: bool = False,
        *,
        maximize: bool = False,
        **hints: Unpack[Hints],
    ) -> None:
        numbers = {
            "lr": lr, "alpha": alpha, "eps": eps, "weight_decay": weight_decay,
            "momentum": momentum,
        }  # fmt: skip
        check_at_least("RMSprop", 0.0, **numbers)
        defaults = {k: float(v) for k, v in numbers.items()}
        super().__init__(params, {**defaults, "centered": centered, "maximize": maximize}, hints)

    def state_names(self, group: Group) -> tuple[str, ...]:
        """The mean square, and the mean and the buffer where options ask for them."""
        buffer = ("momentum_buffer",) if group["momentum"] != 0 else ()
        return ("square_avg", *(("grad_avg",) if group["centered"] else ()), *buffer)

    def structure(self, group: Group) -> tuple[object, ...]:
        """Which terms there are."""
        terms = (group["momentum"] != 0, group["weight_decay"] != 0)
        return (*terms, group["centered"], group["maximize"])

    def update(self, group: Group, pairs: Pairs) -> None:
        """One step of RMSprop."""
        lr, alpha = hyperparameter(group, "lr"), hyperparameter(group, "alpha")
        eps = hyperparameter(group, "eps")
        for p, gradient in pairs:
            g, state = downhill(group, p, gradient), self.state[p]
            square = state["square_avg"]
            dispatch.write(square, (alpha * square + (1.0 - alpha) * g * g).to(p.dtype))
            if group["centered"]:
                mean = state["grad_avg"]
                dispatch.write(mean, (mean + (1.0 - alpha) * (g - mean)).to(p.dtype))
                size = (square - mean * mean).sqrt() + eps
            else:
                size = square.sqrt() + eps
            step = g / size
            if group["momentum"] != 0:
                buffer, momentum = state["momentum_buffer"], hyperparameter(group, "momentum")
                step = dispatch.write(buffer, (momentum * buffer + step).to(p.dtype))
            dispatch.write(p, (p - lr * step).to(p.dtype))


@final
class Adagrad(Optimizer):
    """``p -= lr * g / (sqrt(s) + eps)``, ``s`` the sum of all ``g ** 2`` (Duchi et al. 2011)."""

    def __init__(
        self,
        params: Params,
        lr: float = 1e-2,
        lr_decay: float = 0.0,
        weight_decay: float = 0.0,
        initial_accumulator_value: float = 0.0,
        eps: float = 1e-10,
        *,
        maximize: bool = False,
        **hints: Unpack[Hints],
    ) -> None:
        numbers = {
            "lr": lr, "lr_decay": lr_decay, "weight_decay": weight_decay, "eps": eps,
            "initial_accumulator_value": initial_accumulator_value,
        }  # fmt: skip
        check_at_least("Adagrad", 0.0, **numbers)
        super().__init__(
            params, {**{k: float(v) for k, v in numbers.items()}, "maximize": maximize}, hints
        )

    def state_names(self, group: Group) -> tuple[str, ...]:
        """The sum of squares."""
        del group
        return ("sum",)

    def start(self, name: str, group: Group) -> float:
        """The sum may start above zero."""
        del name
        return float(group["initial_accumulator_value"])

    def structure(self, group: Group) -> tuple[object, ...]:
        """Which terms there are."""
        return (group["maximize"], group["weight_decay"] != 0)

    def update(self, group: Group, pairs: Pairs) -> None:
        """One step of Adagrad."""
        eps, decay = hyperparameter(group, "eps"), hyperparameter(group, "lr_decay")
        lr = hyperparameter(group, "lr") / (1.0 + (self.steps(pairs[0][0]) - 1.0) * decay)
        for p, gradient in pairs:
            g, total = downhill(group, p, gradient), self.state[p]["sum"]
            dispatch.write(total, (total + g * g).to(p.dtype))
            dispatch.write(p, (p - lr * g / (total.sqrt() + eps)).to(p.dtype))


@final
class Adadelta(Optimizer):
    """Steps in proportion to earlier steps over earlier gradients (Zeiler 2012)."""

    def __init__(
        self,
        params: Params,
        lr: float = 1.0,
        rho: float = 0.9,
        eps: float = 1e-6,
        weight_decay: float = 0.0,
        *,
        maximize: bool = False,
        **hints: Unpack[Hints],
    ) -> None:
        numbers = {"lr": lr, "rho": rho, "eps": eps, "weight_decay": weight_decay}
        check_at_least("Adadelta", 0.0, **numbers)
        if rho > 1.0:
            raise located(ArgumentError, f"Adadelta: expected rho <= 1, got {rho}")
        super().__init__(
            params, {**{k: float(v) for k, v in numbers.items()}, "maximize": maximize}, hints
        )

    def state_names(self, group: Group) -> tuple[str, ...]:
        """The mean squares of gradients and of steps."""
        del group
        return ("square_avg", "acc_delta")

    def structure(self, group: Group) -> tuple[object, ...]:
        """Which terms there are."""
        return (group["maximize"], group["weight_decay"] != 0)

    def update(self, group: Group, pairs: Pairs) -> None:
        """One step of Adadelta."""
        lr, rho = hyperparameter(group, "lr"), hyperparameter(group, "rho")
        eps = hyperparameter(group, "eps")
        for p, gradient in pairs:
            g, state = downhill(group, p, gradient), self.state[p]
            square, moved = state["square_avg"], state["acc_delta"]
            dispatch.write(square, (rho * square + (1.0 - rho) * g * g).to(p.dtype))
            step = (moved + eps).sqrt() / (square + eps).sqrt() * g
            dispatch.write(moved, (rho * moved + (1.0 - rho) * step * step).to(p.dtype))
            dispatch.write(p, (p - lr * step).to(p.dtype))
