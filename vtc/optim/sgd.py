"""Stochastic gradient descent, with momentum as PyTorch defines it."""

from __future__ import annotations

from typing import Unpack, final

from vtc.errors import ArgumentError
from vtc.frontend import dispatch
from vtc.frontend.functions.comparison import where
from vtc.frontend.hyper import hyperparameter
from vtc.frontend.source import located
from vtc.frontend.tensor import Tensor
from vtc.optim.optimizer import Group, Hints, Optimizer, Pairs, Params, check_at_least, downhill


@final
class SGD(Optimizer):
    """``b = momentum * b + (1 - dampening) * g``, then ``p -= lr * b``; the first ``b`` is ``g``.

    ``weight_decay`` adds that times ``p`` to the gradient; ``nesterov`` steps along
    ``g + momentum * b``.
    """

    def __init__(
        self,
        params: Params,
        lr: float = 1e-3,
        momentum: float = 0.0,
        dampening: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
        *,
        maximize: bool = False,
        **hints: Unpack[Hints],
    ) -> None:
        check_at_least("SGD", 0.0, lr=lr, momentum=momentum, weight_decay=weight_decay)
        if nesterov and (momentum <= 0 or dampening != 0):
            got = f"momentum={momentum}, dampening={dampening}"
            raise located(
                ArgumentError, f"SGD: nesterov: expected momentum > 0 and dampening 0, got {got}"
            )
        numbers = {
            "lr": lr, "momentum": momentum, "dampening": dampening, "weight_decay": weight_decay
        }  # fmt: skip
        defaults = {k: float(v) for k, v in numbers.items()}
        super().__init__(params, {**defaults, "nesterov": nesterov, "maximize": maximize}, hints)

    def state_names(self, group: Group) -> tuple[str, ...]:
        """One buffer where there is momentum."""
        return ("momentum_buffer",) if group["momentum"] != 0 else ()

    def structure(self, group: Group) -> tuple[object, ...]:
        """Which terms there are."""
        terms = [group[k] != 0 for k in ("momentum", "dampening", "weight_decay")]
        return (*terms, group["nesterov"], group["maximize"])

    def update(self, group: Group, pairs: Pairs) -> None:
        """One step of descent."""
        lr = hyperparameter(group, "lr")
        for p, gradient in pairs:
            g = downhill(group, p, gradient)
            if group["momentum"] != 0:
                g = self._momentum(group, p, g)
            dispatch.write(p, (p - lr * g).to(p.dtype))

    def _momentum(self, group: Group, p: Tensor, g: Tensor) -> Tensor:
        momentum = hyperparameter(group, "momentum")
        added = g
        if group["dampening"] != 0:
            damped = (1.0 - hyperparameter(group, "dampening")) * g
            added = where(self.steps(p) == 1.0, g, damped)
        buffer: Tensor = self.state[p]["momentum_buffer"]
        dispatch.write(buffer, (momentum * buffer + added).to(p.dtype))
        return g + momentum * buffer if group["nesterov"] else buffer
