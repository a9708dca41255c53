"""Lion (Chen et al. 2023): steps of one size, by the sign of a mean of gradients.

optimizer = vtc.optim.Lion(model.parameters(), lr=1e-4, weight_decay=0.1)
"""

from __future__ import annotations

from typing import final

from vtc.frontend import dispatch
from vtc.frontend.hyper import hyperparameter
from vtc.optim.optimizer import Group, Optimizer, Pairs, Params, check_at_least, check_betas


@final
class Lion(Optimizer):
    """``p -= lr * (sign(beta1 * m + (1 - beta1) * g) + weight_decay * p)``.

    ``m`` is a running mean of the gradient by ``beta2``. PyTorch has none; the numbers are those of
    the paper.
    """

    def __init__(
        self,
        params: Params,
        lr: float = 1e-4,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.0,
        *,
        maximize: bool = False,
    ) -> None:
        check_at_least("Lion", 0.0, lr=lr, weight_decay=weight_decay)
        check_betas("Lion", betas)
        numbers = {"lr": float(lr), "weight_decay": float(weight_decay)}
        super().__init__(params, {**numbers, "betas": tuple(betas), "maximize": maximize})

    def state_names(self, group: Group) -> tuple[str, ...]:
        """The mean."""
        del group
        return ("exp_avg",)

    def structure(self, group: Group) -> tuple[object, ...]:
        """Which terms there are."""
        return (group["maximize"],)

    def update(self, group: Group, pairs: Pairs) -> None:
        """One step of Lion."""
        lr = hyperparameter(group, "lr")
        beta1, beta2 = hyperparameter(group, "betas", 0), hyperparameter(group, "betas", 1)
        keep = 1.0 - lr * hyperparameter(group, "weight_decay")
        for p, gradient in pairs:
            g = -gradient if group["maximize"] else gradient
            m = self.state[p]["exp_avg"]
            along = (beta1 * m + (1.0 - beta1) * g).sign()
            dispatch.write(m, (beta2 * m + (1.0 - beta2) * g).to(p.dtype))
            dispatch.write(p, (keep * p - lr * along).to(p.dtype))
