"""Muon (Jordan et al. 2024): momentum for matrices, made nearly orthogonal before each step.

muon = vtc.optim.Muon([p for p in model.parameters() if p.ndim == 2], lr=2e-2)

Embeddings, heads and vectors belong to another optimizer, AdamW for one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, final

from vtc.errors import ArgumentError
from vtc.frontend import dispatch
from vtc.frontend.functions.contract import addmm, matmul
from vtc.frontend.hyper import hyperparameter
from vtc.frontend.source import located
from vtc.frontend.tensor import Tensor
from vtc.ir.types import bf16
from vtc.optim.optimizer import Group, Optimizer, Pairs, Params, check_at_least

RATES = (None, "original", "match_rms_adamw")


@final
class Muon(Optimizer):
    """``p -= lr * ratio * orthogonal(momentum)``, after ``p -= lr * weight_decay * p``.

    ``ns_steps`` iterations of Newton and Schulz in bf16 bring all singular values near 1. The ratio
    is ``sqrt(max(1, rows / columns))``, or by ``adjust_lr_fn="match_rms_adamw"``
    ``0.2 * sqrt(max(rows, columns))``, which makes steps as large as AdamW's.
    """

    def __init__(
        self,
        params: Params,
        lr: float = 1e-3,
        weight_decay: float = 0.1,
        momentum: float = 0.95,
        nesterov: bool = True,
        ns_coefficients: tuple[float, float, float] = (3.4445, -4.7750, 2.0315),
        eps: float = 1e-7,
        ns_steps: int = 5,
        adjust_lr_fn: str | None = None,
    ) -> None:
        check_at_least("Muon", 0.0, lr=lr, weight_decay=weight_decay, momentum=momentum)
        if adjust_lr_fn not in RATES:
            raise located(
                ArgumentError, f"Muon: expected adjust_lr_fn one of {RATES}, got {adjust_lr_fn!r}"
            )
        if len(ns_coefficients) != 3 or not 0 <= ns_steps < 100:
            got = f"got {ns_coefficients} and {ns_steps}"
            raise located(
                ArgumentError, f"Muon: expected 3 ns_coefficients and 0 <= ns_steps < 100, {got}"
            )
        numbers = {
            "lr": lr, "weight_decay": weight_decay, "momentum": momentum, "eps": eps
        }  # fmt: skip
        options = {
            "nesterov": nesterov, "ns_coefficients": tuple(ns_coefficients),
            "ns_steps": ns_steps, "adjust_lr_fn": adjust_lr_fn,
        }  # fmt: skip
        super().__init__(params, {**{k: float(v) for k, v in numbers.items()}, **options})

    def add_param_group(self, param_group: Mapping[str, Any]) -> None:
        """As every optimizer's; ArgumentError where a parameter is no matrix."""
        params = param_group["params"]
        given = [params] if isinstance(params, Tensor) else list(params)
        for item in given:
            p = item[1] if isinstance(item, tuple) else item
            if isinstance(p, Tensor) and p.ndim != 2:
                raise located(ArgumentError, f"Muon: expected matrices, got {p.type}")
        super().add_param_group({**param_group, "params": given})

    def state_names(self, group: Group) -> tuple[str, ...]:
        """The momentum."""
        del group
        return ("momentum_buffer",)

    def structure(self, group: Group) -> tuple[object, ...]:
        """What an iteration looks like and how many there are."""
        names = ("nesterov", "ns_coefficients", "ns_steps", "adjust_lr_fn", "eps")
        return tuple(group[k] for k in names)

    def update(self, group: Group, pairs: Pairs) -> None:
        """One step of Muon."""
        lr, momentum = hyperparameter(group, "lr"), hyperparameter(group, "momentum")
        keep = 1.0 - lr * hyperparameter(group, "weight_decay")
        for p, g in pairs:
            buffer = self.state[p]["momentum_buffer"]
            dispatch.write(buffer, (buffer + (1.0 - momentum) * (g - buffer)).to(p.dtype))
            along = g + momentum * (buffer - g) if group["nesterov"] else buffer
            step = _orthogonal(along, group).to(p.dtype)
            rows, columns = (int(n) for n in p.shape)
            ratio = _ratio(group["adjust_lr_fn"], rows, columns)
            dispatch.write(p, (keep * p - (lr * ratio) * step).to(p.dtype))


def _orthogonal(x: Tensor, group: Group) -> Tensor:
    """A bf16 matrix with the singular vectors of ``x`` and singular values near 1."""
    a, b, c = group["ns_coefficients"]
    tall = int(x.shape[0]) > int(x.shape[1])
    y = x.to(bf16)
    y = y.t() if tall else y
    y = y / y.norm().clamp(min=group["eps"])
    for _ in range(group["ns_steps"]):
        gram = matmul(y, y.t())
        y = addmm(y, addmm(gram, gram, gram, beta=b, alpha=c), y, beta=a)
    return y.t() if tall else y


def _ratio(adjust: str | None, rows: int, columns: int) -> float:
    if adjust == "match_rms_adamw":
        return 0.2 * math.sqrt(max(rows, columns))
    return math.sqrt(max(1.0, rows / columns))
