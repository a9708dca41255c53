"""AdamW: Adam with decoupled weight decay (Loshchilov and Hutter 2019), by PyTorch's formulas."""

from __future__ import annotations

from typing import Unpack, final

from vtc.optim.adam import adam_state, adam_step
from vtc.optim.optimizer import Group, Hints, Optimizer, Pairs, Params, check_at_least, check_betas


@final
class AdamW(Optimizer):
    """``p -= lr * weight_decay * p``, then ``p -= lr * m / (sqrt(v) + eps)``.

    ``m`` and ``v`` are running means of the gradient and of its square, corrected for starting at
    zero; the correction follows the number of steps that the parameter took.
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
        **hints: Unpack[Hints],
    ) -> None:
        check_at_least("AdamW", 0.0, lr=lr, eps=eps, weight_decay=weight_decay)
        check_betas("AdamW", betas)
        numbers = {"lr": float(lr), "eps": float(eps), "weight_decay": float(weight_decay)}
        flags = {"amsgrad": amsgrad, "maximize": maximize}
        super().__init__(params, {**numbers, "betas": tuple(betas), **flags}, hints)

    def state_names(self, group: Group) -> tuple[str, ...]:
        """The two means, and the largest second one where ``amsgrad`` asks for it."""
        return adam_state(group)

    def structure(self, group: Group) -> tuple[object, ...]:
        """Which terms there are."""
        return (group["amsgrad"], group["maximize"])

    def update(self, group: Group, pairs: Pairs) -> None:
        """One step of AdamW."""
        down = [(p, -g if group["maximize"] else g) for p, g in pairs]
        adam_step(self, group, down, decoupled=True)
