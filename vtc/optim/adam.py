"""Adam (Kingma and Ba 2015), by PyTorch's formulas; its update also serves AdamW.

optimizer = vtc.optim.Adam(model.parameters(), lr=1e-3, weight_decay=1e-4)
"""

from __future__ import annotations

from typing import Unpack, final

from vtc.frontend import dispatch
from vtc.frontend.hyper import hyperparameter
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
class Adam(Optimizer):
    """``p -= lr * m / (sqrt(v) + eps)``; ``weight_decay * p`` is part of the gradient.

    ``m`` and ``v`` are running means of the gradient and of its square, corrected for starting at
    zero. ``decoupled_weight_decay`` takes the decay from ``p`` instead, as AdamW does.
    """

    def __init__(
        self,
        params: Params,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
        decoupled_weight_decay: bool = False,
        **hints: Unpack[Hints],
    ) -> None:
        check_at_least("Adam", 0.0, lr=lr, eps=eps, weight_decay=weight_decay)
        check_betas("Adam", betas)
        numbers = {"lr": float(lr), "eps": float(eps), "weight_decay": float(weight_decay)}
        flags = {
            "amsgrad": amsgrad, "maximize": maximize,
            "decoupled_weight_decay": decoupled_weight_decay,
        }  # fmt: skip
        super().__init__(params, {**numbers, "betas": tuple(betas), **flags}, hints)

    def state_names(self, group: Group) -> tuple[str, ...]:
        """The two means, and the largest second one where ``amsgrad`` asks for it."""
        return adam_state(group)

    def structure(self, group: Group) -> tuple[object, ...]:
        """Which terms there are."""
        flags = (group["amsgrad"], group["maximize"], group["decoupled_weight_decay"])
        return (*flags, group["weight_decay"] != 0)

    def update(self, group: Group, pairs: Pairs) -> None:
        """One step of Adam."""
        if group["decoupled_weight_decay"]:
            down = [(p, -g if group["maximize"] else g) for p, g in pairs]
        else:
            down = [(p, downhill(group, p, g)) for p, g in pairs]
        adam_step(self, group, down, decoupled=group["decoupled_weight_decay"])


def adam_state(group: Group) -> tuple[str, ...]:
    """The names of what Adam keeps."""
    largest = ("max_exp_avg_sq",) if group["amsgrad"] else ()
    return ("exp_avg", "exp_avg_sq", *largest)


def adam_step(optimizer: Optimizer, group: Group, pairs: Pairs, *, decoupled: bool) -> None:
    """One step along the (parameter, direction) pairs; ``decoupled``: ``p`` decays by itself."""
    lr, eps = hyperparameter(group, "lr"), hyperparameter(group, "eps")
    beta1, beta2 = hyperparameter(group, "betas", 0), hyperparameter(group, "betas", 1)
    new1, new2 = 1.0 - beta1, 1.0 - beta2
    keep = 1.0 - lr * hyperparameter(group, "weight_decay") if decoupled else None
    steps = optimizer.steps(pairs[0][0])
    size = lr / (1.0 - beta1**steps)
    correction = (1.0 - beta2**steps).sqrt()
    for p, g in pairs:
        state = optimizer.state[p]
        m, v = state["exp_avg"], state["exp_avg_sq"]
        dispatch.write(m, (m + new1 * (g - m)).to(p.dtype))
        dispatch.write(v, (beta2 * v + new2 * g * g).to(p.dtype))
        if group["amsgrad"]:
            v = dispatch.write(state["max_exp_avg_sq"], state["max_exp_avg_sq"].maximum(v))
        step = size * m / (v.sqrt() / correction + eps)
        dispatch.write(p, ((p if keep is None else keep * p) - step).to(p.dtype))
