"""Adafactor (Shazeer and Stern 2018), by PyTorch's formulas: second moments of rows and columns.

optimizer = vtc.optim.Adafactor(model.parameters(), lr=1e-2)
"""

from __future__ import annotations

from typing import Any, final

from vtc.errors import ArgumentError
from vtc.frontend import dispatch
from vtc.frontend.functions.elementwise import maximum, minimum
from vtc.frontend.functions.info import finfo
from vtc.frontend.hyper import hyperparameter
from vtc.frontend.source import located
from vtc.frontend.tensor import Tensor
from vtc.ir.dims import Size
from vtc.optim.optimizer import Group, Optimizer, Pairs, Params, check_at_least


@final
class Adafactor(Optimizer):
    """Steps as large as parameters are, along gradients by the roots of their mean squares.

    Of a matrix ``[.., m, n]`` the means over rows and over columns are kept, ``row_var [.., m, 1]``
    and ``col_var [.., 1, n]``; of a vector all, ``variance``. ``lr`` bounds steps relative to
    parameters, whose size counts as at least ``eps[1]``; squares count as at least ``eps[0] ** 2``,
    None: the dtype's epsilon. ``d`` clips the update, ``beta2_decay`` says how fast means forget.
    """

    def __init__(
        self,
        params: Params,
        lr: float = 1e-2,
        beta2_decay: float = -0.8,
        eps: tuple[float | None, float] = (None, 1e-3),
        d: float = 1.0,
        weight_decay: float = 0.0,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
    ) -> None:
        least = min(eps[0] or 0.0, eps[1])
        check_at_least("Adafactor", 0.0, lr=lr, weight_decay=weight_decay, eps=least)
        check_at_least("Adafactor", 1.0, d=d)
        if beta2_decay > 0:
            message = f"Adafactor: expected beta2_decay <= 0, got {beta2_decay}"
            raise located(ArgumentError, message)
        numbers = {"lr": float(lr), "beta2_decay": float(beta2_decay), "d": float(d)}
        flags = {"weight_decay": float(weight_decay), "foreach": foreach, "maximize": maximize}
        super().__init__(params, {**numbers, "eps": tuple(eps), **flags})

    def state_names(self, group: Group) -> tuple[str, ...]:
        """Those of matrices and those of vectors."""
        del group
        return ("row_var", "col_var", "variance")

    def state_shapes(self, p: Tensor, group: Group) -> dict[str, tuple[Size, ...]]:
        """What is kept of a matrix, or of a vector or number."""
        del group
        shape = p.type.shape
        if p.ndim < 2:
            return {"variance": shape}
        return {"row_var": (*shape[:-1], 1), "col_var": (*shape[:-2], 1, shape[-1])}

    def structure(self, group: Group) -> tuple[object, ...]:
        """Which terms there are, and the number that stands for no ``eps[0]``."""
        return group["maximize"], group["weight_decay"] != 0, group["eps"][0] is None

    def update(self, group: Group, pairs: Pairs) -> None:
        """One step."""
        lr, steps = hyperparameter(group, "lr"), self.steps(pairs[0][0])
        new = steps ** hyperparameter(group, "beta2_decay")
        rho = minimum(lr, steps.rsqrt())
        keep = 1.0 - lr * hyperparameter(group, "weight_decay")
        for p, gradient in pairs:
            g = -gradient if group["maximize"] else gradient
            eps1 = self._least(group, p)
            size = maximum(_root_mean_square(p), hyperparameter(group, "eps", 1)) * rho
            squares = self._squares(p, g, new, eps1)
            along = maximum(squares, eps1 * eps1).rsqrt() * g
            clip = maximum(_root_mean_square(along) / hyperparameter(group, "d"), 1.0)
            kept = keep * p if group["weight_decay"] != 0 else p
            dispatch.write(p, (kept - along * (size / clip)).to(p.dtype))

    def _least(self, group: Group, p: Tensor) -> Any:
        """The root of what squares count as at least."""
        if group["eps"][0] is None:
            return finfo(p.dtype).eps
        return hyperparameter(group, "eps", 0)

    def _squares(self, p: Tensor, g: Tensor, new: Tensor, eps1: Any) -> Tensor:
        """The means of squares, of which ``new`` is that of ``g``."""
        state = self.state[p]
        if p.ndim < 2:
            return _towards(state["variance"], g * g, new)
        row = _towards(state["row_var"], (g * g).mean(-1, keepdim=True), new)
        column = _towards(state["col_var"], (g * g).mean(-2, keepdim=True), new)
        return row @ column / maximum(row.mean(-2, keepdim=True), eps1)


def _root_mean_square(x: Tensor) -> Tensor:
    wide = x.detach().to(x.dtype.accumulate)
    return (wide * wide).mean().sqrt()


def _towards(mean: Tensor, value: Tensor, share: Tensor) -> Tensor:
    """``mean`` after it moved by ``share`` of the way to ``value``."""
    return dispatch.write(mean, (mean + share * (value - mean)).to(mean.dtype))
