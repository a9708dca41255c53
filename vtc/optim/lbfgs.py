"""L-BFGS, a quasi-Newton method (Nocedal and Wright 2006), as PyTorch does it.

optimizer = vtc.optim.LBFGS(model.parameters(), line_search_fn="strong_wolfe")

def closure() -> vtc.Tensor:
    optimizer.zero_grad()
    loss = F.mse_loss(model(x), y)
    loss.backward()
    return loss

optimizer.step(closure)

A step looks at values to decide how often it calls the closure, so it runs outside ``vtc.compile``;
what the closure calls may be compiled.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, final

from vtc.errors import ArgumentError, CaptureError
from vtc.frontend import dispatch
from vtc.frontend.functions.creation import zeros_like
from vtc.frontend.functions.rearrange import cat
from vtc.frontend.source import located
from vtc.frontend.tensor import Tensor
from vtc.optim.line_search import Point, strong_wolfe
from vtc.optim.optimizer import Group, Optimizer, Pairs, Params, check_at_least


@final
@dataclass
class _Memory:
    """What is known of the curvature: changes of the gradient, and steps that made them."""

    func_evals: int = 0
    n_iter: int = 0
    d: Tensor | None = None
    t: float | None = None
    old_dirs: list[Tensor] = field(default_factory=list)
    old_stps: list[Tensor] = field(default_factory=list)
    ro: list[float] = field(default_factory=list)
    H_diag: float = 1.0
    prev_flat_grad: Tensor | None = None
    prev_loss: float | None = None

    def learn(self, g: Tensor, size: int) -> None:
        """Of the last step and the gradient ``g`` after it; ``size`` steps are remembered."""
        assert self.prev_flat_grad is not None
        assert self.d is not None
        y, s = g - self.prev_flat_grad, self.d * (self.t or 0.0)
        ys = _dot(y, s)
        if ys <= 1e-10:
            return
        if len(self.old_dirs) == size:
            for kept in (self.old_dirs, self.old_stps, self.ro):
                kept.pop(0)
        self.old_dirs.append(y)
        self.old_stps.append(s)
        self.ro.append(1.0 / ys)
        self.H_diag = ys / _dot(y, y)

    def direction(self, g: Tensor) -> Tensor:
        """Minus the inverse of the curvature times ``g``, by the two loops."""
        steps = list(zip(self.old_stps, self.old_dirs, self.ro, strict=True))
        q, shares = -g, []
        for s, y, ro in reversed(steps):
            shares.append(_dot(s, q) * ro)
            q = q - y * shares[-1]
        r = q * self.H_diag
        for (s, y, ro), share in zip(steps, reversed(shares), strict=True):
            r = r + s * (share - _dot(y, r) * ro)
        return r


@final
class LBFGS(Optimizer):
    """Up to ``max_iter`` steps along directions by the last ``history_size`` gradients.

    ``line_search_fn`` is None (steps of ``lr``) or "strong_wolfe". A call of ``step`` ends after
    ``max_eval`` calls of the closure (1.25 times ``max_iter`` by default), when no gradient is
    above ``tolerance_grad``, or when parameters or loss change by less than ``tolerance_change``.
    """

    def __init__(
        self,
        params: Params,
        lr: float = 1.0,
        max_iter: int = 20,
        max_eval: int | None = None,
        tolerance_grad: float = 1e-7,
        tolerance_change: float = 1e-9,
        history_size: int = 100,
        line_search_fn: str | None = None,
    ) -> None:
        check_at_least("LBFGS", 0.0, lr=lr)
        if line_search_fn not in (None, "strong_wolfe"):
            message = f"expected line_search_fn None or 'strong_wolfe', got {line_search_fn!r}"
            raise located(ArgumentError, f"LBFGS: {message}")
        self.memory = _Memory()
        tolerances = {"tolerance_grad": tolerance_grad, "tolerance_change": tolerance_change}
        counts = {"max_iter": max_iter, "max_eval": max_eval or max_iter * 5 // 4}
        more = {"history_size": history_size, "line_search_fn": line_search_fn}
        super().__init__(params, {"lr": float(lr), **counts, **tolerances, **more})

    def add_param_group(self, param_group: Mapping[str, Any]) -> None:
        """The one group there is; ArgumentError for more."""
        if self.param_groups:
            raise located(ArgumentError, "LBFGS: expected one group of parameters, got several")
        super().add_param_group(param_group)

    def state_names(self, group: Group) -> tuple[str, ...]:
        """None of single parameters."""
        del group
        return ()

    def structure(self, group: Group) -> tuple[object, ...]:
        """Nothing: it is not compiled."""
        return (tuple(sorted((k, str(v)) for k, v in group.items() if k != "params")),)

    def update(self, group: Group, pairs: Pairs) -> None:
        """Not by gradients alone: see :meth:`step`."""
        del group, pairs
        raise located(ArgumentError, "LBFGS.step: expected a closure, got none")

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take up to ``max_iter`` steps; returns what the first call of ``closure`` returned.

        ``closure`` clears the gradients, computes the loss, calls backward and returns the loss.
        """
        if closure is None:
            raise located(ArgumentError, "LBFGS.step: expected a closure, got none")
        if dispatch.is_capturing():
            message = "LBFGS.step inside a compiled function: it looks at values to go on"
            raise located(CaptureError, f"{message}; compile what the closure calls")
        with dispatch.no_grad():
            return _Run(self, closure).run()

    def state_dict(self) -> dict[str, Any]:
        """What is known of the curvature, and the options, in PyTorch's form."""
        known = {k: v for k, v in vars(self.memory).items() if v is not None}
        group = {**self.param_groups[0], "params": list(range(len(self.params())))}
        return {"state": {0: known} if self.memory.func_evals else {}, "param_groups": [group]}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on from what was saved here or by PyTorch."""
        (group,) = state_dict["param_groups"]
        if len(group["params"]) != len(self.params()):
            message = f"expected {len(self.params())} parameters, got {len(group['params'])}"
            raise located(ArgumentError, f"LBFGS.load_state_dict: {message}")
        self.param_groups[0].update({k: v for k, v in group.items() if k != "params"})
        known = state_dict["state"].get(0, {})
        fresh = vars(_Memory())
        self.memory = _Memory(**{k: _own(k, known.get(k, v)) for k, v in fresh.items()})

    def params(self) -> list[Tensor]:
        """The parameters."""
        found: list[Tensor] = self.param_groups[0]["params"]
        return found


@final
class _Run:
    """One call of ``step``."""

    def __init__(self, owner: LBFGS, closure: Callable[[], Any]) -> None:
        self.owner, self.closure = owner, closure
        self.group, self.memory = owner.param_groups[0], owner.memory
        self.evals = 0

    def run(self) -> Any:
        """Steps until one of the limits is reached."""
        memory, group = self.memory, self.group
        first = self.call()
        loss, g = float(first), self.gradient()
        if _largest(g) <= group["tolerance_grad"]:
            return first
        for turn in range(1, group["max_iter"] + 1):
            memory.n_iter += 1
            if memory.n_iter == 1:
                memory.d, memory.H_diag = -g, 1.0
            else:
                memory.learn(g, group["history_size"])
                memory.d = memory.direction(g)
            memory.prev_flat_grad, memory.prev_loss = g, loss
            memory.t = group["lr"]
            if memory.n_iter == 1:
                memory.t *= min(1.0, 1.0 / float(g.abs().sum()))
            slope = _dot(g, memory.d)
            if slope > -group["tolerance_change"]:
                break
            loss, g, done = self.move(loss, g, slope, last=turn == group["max_iter"])
            if done or self.small(loss):
                break
        return first

    def move(
        self, loss: float, g: Tensor, slope: float, *, last: bool
    ) -> tuple[float, Tensor, bool]:
        """Go along ``d``; the loss and gradient there, and whether this was the last step."""
        memory, group = self.memory, self.group
        assert memory.d is not None
        assert memory.t is not None
        if group["line_search_fn"] is not None:
            most = group["max_eval"] - self.evals
            start = Point(0.0, loss, g, slope)
            found = strong_wolfe(self.probe, memory.t, memory.d, start, most=most)
            memory.t, loss, g = found.t, found.loss, found.gradient
            self.add(memory.t, memory.d)
        else:
            self.add(memory.t, memory.d)
            if not last:
                loss, g = float(self.call()), self.gradient()
        enough = last or self.evals >= group["max_eval"]
        return loss, g, enough or _largest(g) <= group["tolerance_grad"]

    def small(self, loss: float) -> bool:
        """Whether the step changed parameters or loss by less than asked."""
        memory, least = self.memory, self.group["tolerance_change"]
        assert memory.d is not None
        step = _largest(memory.d) * abs(memory.t or 0.0)
        return bool(step <= least or abs(loss - (memory.prev_loss or 0.0)) < least)

    def call(self) -> Any:
        """The closure, counted."""
        self.evals += 1
        self.memory.func_evals += 1
        with dispatch.enable_grad():
            return self.closure()

    def gradient(self) -> Tensor:
        """All gradients as one vector."""
        grads = [zeros_like(p) if p.grad is None else p.grad.detach() for p in self.owner.params()]
        return cat([g.reshape(-1) for g in grads])

    def add(self, t: float, d: Tensor) -> None:
        """Go ``t`` along ``d``."""
        at = 0
        for p in self.owner.params():
            n = int(p.numel())
            dispatch.write(p, (p + d[at : at + n].reshape(p.shape) * t).to(p.dtype))
            at += n

    def probe(self, t: float, d: Tensor) -> tuple[float, Tensor, float]:
        """Loss, gradient and slope at ``t`` along ``d``; the parameters stay where they are."""
        before = [p.detach().clone() for p in self.owner.params()]
        self.add(t, d)
        loss, g = float(self.call()), self.gradient()
        for p, value in zip(self.owner.params(), before, strict=True):
            dispatch.write(p, value)
        return loss, g, _dot(g, d)


def _dot(x: Tensor, y: Tensor) -> float:
    return float((x * y).sum())


def _largest(x: Tensor) -> float:
    return float(x.abs().max())


def _own(name: str, value: Any) -> Any:
    """A loaded value: lists of its own, tensors of vtc, numbers where numbers are kept."""
    if name in ("t", "H_diag", "prev_loss"):
        return value if value is None else float(value)
    if isinstance(value, list):
        return [float(v) if name == "ro" else _tensor(v) for v in value]
    return value if value is None or isinstance(value, int) else _tensor(value)


def _tensor(value: Any) -> Tensor:
    if isinstance(value, Tensor):
        return value.detach().clone()
    return dispatch.from_array(value.detach().numpy().copy())
