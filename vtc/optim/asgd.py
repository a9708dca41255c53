"""Older methods that PyTorch has: averaged descent (ASGD) and resilient propagation (Rprop).

optimizer = vtc.optim.Rprop(model.parameters(), lr=1e-2)
"""

from __future__ import annotations

from typing import Unpack, final

from vtc.errors import ArgumentError
from vtc.frontend import dispatch
from vtc.frontend.functions.comparison import where
from vtc.frontend.hyper import hyperparameter
from vtc.frontend.source import located
from vtc.optim.optimizer import Group, Hints, Optimizer, Pairs, Params, check_at_least, downhill


@final
class ASGD(Optimizer):
    """Descent whose state ``ax`` is the mean of the parameters from step ``t0`` on.

    Polyak and Juditsky 1992. ``lambd`` decays the parameters, ``alpha`` the rate.
    """

    def __init__(
        self,
        params: Params,
        lr: float = 1e-2,
        lambd: float = 1e-4,
        alpha: float = 0.75,
        t0: float = 1e6,
        weight_decay: float = 0.0,
        *,
        maximize: bool = False,
        **hints: Unpack[Hints],
    ) -> None:
        check_at_least("ASGD", 0.0, lr=lr, weight_decay=weight_decay)
        numbers = {"lr": lr, "lambd": lambd, "alpha": alpha, "t0": t0, "weight_decay": weight_decay}
        super().__init__(
            params, {**{k: float(v) for k, v in numbers.items()}, "maximize": maximize}, hints
        )

    def state_names(self, group: Group) -> tuple[str, ...]:
        """The mean of the parameters."""
        del group
        return ("ax",)

    def shared(self, group: Group) -> dict[str, float]:
        """The rate of the next step, and the share of its result in the mean."""
        return {"eta": float(group["lr"]), "mu": 1.0}

    def structure(self, group: Group) -> tuple[object, ...]:
        """Which terms there are."""
        return (group["maximize"], group["weight_decay"] != 0)

    def update(self, group: Group, pairs: Pairs) -> None:
        """One step of averaged descent."""
        lr, lambd = hyperparameter(group, "lr"), hyperparameter(group, "lambd")
        steps = self.steps(pairs[0][0])
        eta, mu = self.number(pairs[0][0], "eta"), self.number(pairs[0][0], "mu")
        for p, gradient in pairs:
            g, mean = downhill(group, p, gradient), self.state[p]["ax"]
            new = ((1.0 - lambd * eta) * p - eta * g).to(p.dtype)
            dispatch.write(p, new)
            dispatch.write(mean, where(mu == 1.0, new, mean + (new - mean) * mu).to(p.dtype))
        dispatch.write(eta, lr / (1.0 + lambd * lr * steps) ** hyperparameter(group, "alpha"))
        dispatch.write(mu, 1.0 / (steps - hyperparameter(group, "t0")).clamp(min=1.0))


@final
class Rprop(Optimizer):
    """Steps by the sign of the gradient alone; each element's grows while the sign stays.

    Riedmiller and Braun 1993. ``etas`` shrink and grow a step, ``step_sizes`` bound it.
    """

    def __init__(
        self,
        params: Params,
        lr: float = 1e-2,
        etas: tuple[float, float] = (0.5, 1.2),
        step_sizes: tuple[float, float] = (1e-6, 50.0),
        *,
        maximize: bool = False,
        **hints: Unpack[Hints],
    ) -> None:
        check_at_least("Rprop", 0.0, lr=lr)
        if not 0.0 < etas[0] < 1.0 < etas[1]:
            raise located(ArgumentError, f"Rprop: expected 0 < etas[0] < 1 < etas[1], got {etas}")
        options = {"etas": tuple(etas), "step_sizes": tuple(step_sizes), "maximize": maximize}
        super().__init__(params, {"lr": float(lr), **options, "weight_decay": 0.0}, hints)

    def state_names(self, group: Group) -> tuple[str, ...]:
        """The gradient before, and the size of each element's step."""
        del group
        return ("prev", "step_size")

    def start(self, name: str, group: Group) -> float:
        """Steps start as ``lr``."""
        return float(group["lr"]) if name == "step_size" else 0.0

    def structure(self, group: Group) -> tuple[object, ...]:
        """Which terms there are."""
        return (group["maximize"],)

    def update(self, group: Group, pairs: Pairs) -> None:
        """One step of resilient propagation."""
        shrink, grow = (hyperparameter(group, "etas", i) for i in (0, 1))
        least, most = (hyperparameter(group, "step_sizes", i) for i in (0, 1))
        for p, gradient in pairs:
            g, state = downhill(group, p, gradient), self.state[p]
            before, size = state["prev"], state["step_size"]
            turn = (g * before).sign()
            factor = where(turn > 0, grow, where(turn < 0, shrink, 1.0))
            dispatch.write(size, (size * factor).clamp(least, most).to(p.dtype))
            kept = where(turn < 0, 0.0, g).to(p.dtype)
            dispatch.write(before, kept)
            dispatch.write(p, (p - kept.sign() * size).to(p.dtype))
