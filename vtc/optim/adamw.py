"""AdamW: Adam with decoupled weight decay (Loshchilov and Hutter 2019), by PyTorch's formulas."""

from __future__ import annotations

from typing import final

from vtc.errors import ArgumentError
from vtc.frontend import dispatch
from vtc.frontend.capture import hyperparameter
from vtc.frontend.source import located
from vtc.optim.optimizer import Group, Optimizer, Pairs, Params, check_at_least


@final
class AdamW(Optimizer):
    """``p -= lr * weight_decay * p``, then ``p -= lr * m / (sqrt(v) + eps)``.

    ``m`` and ``v`` are running means of the gradient and of its square, corrected for starting at
    zero; the correction follows the step counter that a group shares.
    """

    def __init__(
        self,
        params: Params,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
    ) -> None:
        check_at_least("AdamW", 0.0, lr=lr, eps=eps, weight_decay=weight_decay)
        if len(betas) != 2 or not all(0.0 <= b < 1.0 for b in betas):
            raise located(
                ArgumentError, f"AdamW: expected betas two numbers in [0, 1), got {betas}"
            )
        numbers = {"lr": float(lr), "eps": float(eps), "weight_decay": float(weight_decay)}
        flags = {"amsgrad": amsgrad, "maximize": maximize}
        super().__init__(params, {**numbers, "betas": tuple(betas), **flags})

    def state_names(self, group: Group) -> tuple[str, ...]:
        """The two means, and the largest second one where ``amsgrad`` asks for it."""
        largest = ("max_exp_avg_sq",) if group["amsgrad"] else ()
        return ("exp_avg", "exp_avg_sq", *largest)

    def structure(self, group: Group) -> tuple[object, ...]:
        """Which terms there are."""
        return (group["amsgrad"], group["maximize"])

    def update(self, group: Group, pairs: Pairs) -> None:
        """One step of AdamW."""
        lr, eps = hyperparameter(group, "lr"), hyperparameter(group, "eps")
        beta1, beta2 = hyperparameter(group, "betas", 0), hyperparameter(group, "betas", 1)
        new1, new2 = 1.0 - beta1, 1.0 - beta2
        keep = 1.0 - lr * hyperparameter(group, "weight_decay")
        steps = self.steps(group)
        size = lr / (1.0 - beta1**steps)
        correction = (1.0 - beta2**steps).sqrt()
        for p, gradient in pairs:
            state = self.state[p]
            g = -gradient if group["maximize"] else gradient
            m, v = state["exp_avg"], state["exp_avg_sq"]
            dispatch.write(m, (m + new1 * (g - m)).to(p.dtype))
            dispatch.write(v, (beta2 * v + new2 * g * g).to(p.dtype))
            if group["amsgrad"]:
                v = dispatch.write(state["max_exp_avg_sq"], state["max_exp_avg_sq"].maximum(v))
            step = size * m / (v.sqrt() / correction + eps)
            dispatch.write(p, (keep * p - step).to(p.dtype))
