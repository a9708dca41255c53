"""What every optimizer shares: groups of parameters with their numbers, state, saving and loading.

All state exists from the start, so a compiled step finds it: one 0-d f32 step counter on the device
for the whole optimizer, and per parameter the tensors ``state_names`` asks for, zero at first. The
numbers of a group (``lr`` ...) are read through ``hyperparameter``: inputs of a compiled step, so
changing one does not recompile. ::

    optimizer = vtc.optim.AdamW(
        [{"params": matrices}, {"params": vectors, "weight_decay": 0.0}], lr=3e-4
    )
    optimizer.param_groups[0]["lr"] = 1e-4

The state dict has PyTorch's form: ``{"state": {0: {"step": ..., ...}}, "param_groups": [...]}``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from vtc.errors import ArgumentError, GradientError
from vtc.frontend import dispatch
from vtc.frontend.dispatch import bump_epoch
from vtc.frontend.dispatch import state as thread
from vtc.frontend.functions.creation import full, full_like, zeros_like
from vtc.frontend.hyper import hyperparameter
from vtc.frontend.source import located
from vtc.frontend.tensor import Tensor
from vtc.ir.dims import Size
from vtc.ir.types import f32

Params = Iterable[Tensor] | Iterable[Mapping[str, Any]] | Iterable[tuple[str, Tensor]]
Pairs = Sequence[tuple[Tensor, Tensor]]


class Group(dict[str, Any]):
    """The parameters of a group and its options.

    A number that stays a number is an input of compiled steps; any other change of an option may
    change what a step computes, so compiled functions are told to look.
    """

    def __setitem__(self, key: str, value: Any) -> None:
        before = self.get(key)
        numbers = isinstance(before, float) and isinstance(value, (float, int))
        if not numbers or (before == 0) != (value == 0):
            bump_epoch()
        super().__setitem__(key, float(value) if numbers else value)

    def update(self, *args: Any, **kwargs: Any) -> None:
        """As ``dict.update``, one option at a time."""
        for key, value in dict(*args, **kwargs).items():
            self[key] = value


class Optimizer(ABC):
    """Changes parameters by their gradients; a subclass says what it keeps and how it updates."""

    def __init__(self, params: Params, defaults: dict[str, Any]) -> None:
        self.defaults = defaults
        self.param_groups: list[Group] = []
        self.state: dict[Tensor, dict[str, Tensor]] = {}
        groups = _groups(params)
        if not any(g["params"] for g in groups):
            raise located(ArgumentError, f"{type(self).__name__}: expected parameters, got none")
        for group in groups:
            self.add_param_group(group)

    @abstractmethod
    def state_names(self, group: Group) -> tuple[str, ...]:
        """The tensors kept per parameter, besides ``step``."""

    def state_shapes(self, p: Tensor, group: Group) -> dict[str, tuple[Size, ...]]:
        """What is kept of ``p`` besides ``step``, and the shapes: by default its own."""
        return dict.fromkeys(self.state_names(group), p.type.shape)

    def shared(self, group: Group) -> dict[str, float]:
        """Numbers a group keeps besides ``step``: 0-d f32 tensors, and what they start as."""
        del group
        return {}

    def start(self, name: str, group: Group) -> float:
        """What the state tensor ``name`` is full of at first."""
        del name, group
        return 0.0

    @abstractmethod
    def structure(self, group: Group) -> tuple[object, ...]:
        """The options on which it depends what operations an update is made of."""

    @abstractmethod
    def update(self, group: Group, pairs: Pairs) -> None:
        """Write new values into the parameters and the state, given (parameter, gradient) pairs."""

    def __guards__(self) -> tuple[object, ...]:
        """What a compiled step depends on besides the values of tensors and numbers."""
        return tuple(
            (id(g), tuple(map(id, g["params"])), self.structure(g)) for g in self.param_groups
        )

    def add_param_group(self, param_group: Mapping[str, Any]) -> None:
        """Add parameters with their own options; those not given are the optimizer's defaults."""
        group = Group({**self.defaults, **param_group})
        named = list(_named(group.pop("params"), type(self).__name__))
        tensors = [p for _, p in named]
        taken = {p for g in self.param_groups for p in g["params"]}
        if len(set(tensors)) < len(tensors) or taken & set(tensors):
            raise located(ArgumentError, f"{type(self).__name__}: a parameter was given twice")
        group["params"] = tensors
        if any(name is not None for name, _ in named):
            group["param_names"] = [name for name, _ in named]
        if tensors:  # one counter for all of them: few inputs, and a later group starts at 0
            first = {"step": 0.0, **self.shared(group)}
            place = tensors[0].device
            numbers = {k: full((), v, dtype=f32, device=place) for k, v in first.items()}
            for p in tensors:
                self.state[p] = self._new_state(p, group, numbers)
        self.param_groups.append(group)
        bump_epoch()

    def _new_state(
        self, p: Tensor, group: Group, numbers: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        return {**numbers, **{n: self._fresh(p, n, group) for n in self.state_shapes(p, group)}}

    def _fresh(self, p: Tensor, name: str, group: Group) -> Tensor:
        start = self.start(name, group)
        shape = self.state_shapes(p, group)[name]
        if shape != p.type.shape:
            return full(shape, start, dtype=p.dtype, device=p.device)
        return full_like(p, start, requires_grad=False) if start else zeros_like(p)

    def steps(self, group: Group) -> Tensor:
        """How often parameters of ``group`` were updated: a 0-d tensor that they share."""
        return self.number(group, "step")

    def number(self, group: Group, name: str) -> Tensor:
        """A 0-d tensor that the parameters of ``group`` share."""
        return self.state[group["params"][0]][name]

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients, or make them zero."""
        for p in (p for g in self.param_groups for p in g["params"]):
            keep = not set_to_none and p.grad is not None
            p.grad = dispatch.constant(0.0, p.dtype, p.type.shape, p.device) if keep else None

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update every parameter that has a gradient; returns what ``closure``, run first, returns.

        GradientError if no parameter has a gradient.
        """
        loss = None
        if closure is not None:
            with dispatch.enable_grad():
                loss = closure()
        self._name_state()
        with dispatch.no_grad():
            work = [
                (g, [(p, p.grad.detach()) for p in g["params"] if p.grad is not None])
                for g in self.param_groups
            ]
            if not any(pairs for _, pairs in work):
                raise located(GradientError, self._no_gradient())
            for group, pairs in work:
                if pairs:
                    self._complete(group)
                    dispatch.write(self.steps(group), self.steps(group) + 1.0)
                    self.update(group, pairs)
        return loss

    def _complete(self, group: Group) -> None:
        """Make the state that options changed since, ``momentum`` for one, ask for."""
        for p in group["params"]:
            missing = set(self.state_shapes(p, group)) - set(self.state[p])
            if missing and thread.capture is not None:
                message = (
                    f"{type(self).__name__}.step: an option was turned on that needs "
                    f"{', '.join(sorted(missing))}, which a compiled step cannot make; take one "
                    "step outside vtc.compile first, or turn it on when the optimizer is made"
                )
                raise located(ArgumentError, message)
            self.state[p].update({name: self._fresh(p, name, group) for name in sorted(missing)})

    def _name_state(self) -> None:
        """While tracing: inputs are called ``blocks.0.attn.out.weight.exp_avg`` and the like."""
        if thread.capture is None:
            return
        named: dict[int, str] = thread.capture.named
        for i, group in enumerate(g for g in self.param_groups if g["params"]):
            for key in ("step", *self.shared(group)):
                named[id(self.number(group, key))] = f"{key}_{i}" if i else key
        for p, entry in self.state.items():
            for key, tensor in entry.items():
                named.setdefault(id(tensor), f"{named.get(id(p), 'parameter')}.{key}")

    def _no_gradient(self) -> str:
        group = self.param_groups[0]
        p = group["params"][0]
        known = thread.capture.named.get(id(p)) if thread.capture is not None else None
        name = group.get("param_names", [known])[0]
        what = f"parameter {name}" if name is not None else "the first parameter"
        return (
            f"{type(self).__name__}.step: no gradient reaches {what}: {p.type}, nor any other; "
            "call backward() on a loss that depends on them first"
        )

    def state_dict(self) -> dict[str, Any]:
        """State and options by the position of parameters, in PyTorch's form; shares memory."""
        order = {p: i for i, p in enumerate(self.state)}
        groups = [{**g, "params": [order[p] for p in g["params"]]} for g in self.param_groups]
        state = {order[p]: dict(entry) for p, entry in self.state.items()}
        return {"state": state, "param_groups": groups}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take over state and options saved by this class here or in PyTorch; values are copied.

        Where PyTorch's parameters counted different steps, the largest of a group counts; state
        without a count, as of PyTorch's SGD, counts as one. ArgumentError if groups or shapes
        differ, or the state is of another optimizer.
        """
        name = type(self).__name__
        saved = state_dict["param_groups"]
        sizes, own = ([len(g["params"]) for g in groups] for groups in (saved, self.param_groups))
        if sizes != own:
            raise located(
                ArgumentError,
                f"{name}.load_state_dict: expected groups of {own} parameters, got {sizes}",
            )
        entries = self._plan_load(saved, state_dict["state"])
        for group, options in zip(self.param_groups, saved, strict=True):
            group.update({k: v for k, v in options.items() if k != "params"})
        counts = {p: float(e.get("step", 1.0)) if e else 0.0 for p, e in entries}
        with dispatch.no_grad():
            for group in (g for g in self.param_groups if g["params"]):
                self._load_numbers(group, counts, dict(entries))
            for p, entry in entries:
                self._load(p, entry)
        bump_epoch()

    def _plan_load(
        self, saved: Sequence[Mapping[str, Any]], state: Mapping[int, Mapping[str, Any]]
    ) -> list[tuple[Tensor, Mapping[str, Any]]]:
        """Each parameter with what was saved for it; ArgumentError where that does not fit."""
        entries: list[tuple[Tensor, Mapping[str, Any]]] = []
        for group, options in zip(self.param_groups, saved, strict=True):
            own = Group({**group, **options})
            shared = {"step", *self.shared(own)}
            for p, index in zip(group["params"], options["params"], strict=True):
                shapes = self.state_shapes(p, own)
                names = shared | set(shapes)
                entry = {k: v for k, v in state.get(index, {}).items() if v is not None}
                where = f"{type(self).__name__}.load_state_dict: parameter {index}"
                if extra := sorted(set(entry) - names):
                    known = ", ".join(sorted(names))
                    raise located(
                        ArgumentError, f"{where}: expected {known}, got {', '.join(extra)}"
                    )
                for key, value in entry.items():
                    if key not in shared and tuple(value.shape) != shapes[key]:
                        want, got = p.type.with_shape(shapes[key]), list(value.shape)
                        raise located(ArgumentError, f"{where}: {key}: expected {want}, got {got}")
                entries.append((p, entry))
        return entries

    def _load_numbers(
        self,
        group: Group,
        counts: Mapping[Tensor, float],
        entries: Mapping[Tensor, Mapping[str, Any]],
    ) -> None:
        """The numbers of the parameter that was updated most often count for its group."""
        first = max(group["params"], key=lambda p: counts[p])
        found = {**self.shared(group), **entries[first], "step": counts[first]}
        for key in ("step", *self.shared(group)):
            number = self.number(group, key)
            dispatch.write(number, dispatch.constant(float(found[key]), f32, device=number.device))

    def _load(self, p: Tensor, entry: Mapping[str, Any]) -> None:
        """Write into the tensors there are, so that compiled steps go on using them."""
        group = next(g for g in self.param_groups if any(q is p for q in g["params"]))
        numbers = {key: self.number(group, key) for key in ("step", *self.shared(group))}
        fresh = self._new_state(p, group, numbers)
        own = self.state[p] = {k: self.state[p].get(k, new) for k, new in fresh.items()}
        for key, tensor in own.items():
            if key not in numbers:
                value = entry.get(key, fresh[key])
                source = (
                    value if isinstance(value, Tensor) else dispatch.from_array(np.asarray(value))
                )
                dispatch.write(tensor, source.detach().to(tensor.device, tensor.dtype))

    def __repr__(self) -> str:
        lines = [f"{type(self).__name__} ("]
        for i, group in enumerate(self.param_groups):
            lines.append(f"Parameter Group {i}")
            options = sorted((k, v) for k, v in group.items() if not k.startswith("param"))
            lines += [f"    {k}: {v}" for k, v in options]
        return "\n".join([*lines, ")"])


def check_at_least(owner: str, low: float, **numbers: float) -> None:
    """ArgumentError unless every number is at least ``low``."""
    for name, value in numbers.items():
        if not value >= low:
            raise located(ArgumentError, f"{owner}: expected {name} >= {low}, got {value}")


def check_betas(owner: str, betas: tuple[float, float]) -> None:
    """ArgumentError unless ``betas`` are two numbers in [0, 1)."""
    if len(betas) != 2 or not all(0.0 <= b < 1.0 for b in betas):
        raise located(ArgumentError, f"{owner}: expected betas two numbers in [0, 1), got {betas}")


def downhill(group: Group, p: Tensor, gradient: Tensor) -> Tensor:
    """What to go down along: the gradient, negated to ``maximize``, and ``weight_decay * p``."""
    g = -gradient if group["maximize"] else gradient
    return g + hyperparameter(group, "weight_decay") * p if group["weight_decay"] != 0 else g


def _groups(params: Params) -> list[dict[str, Any]]:
    if isinstance(params, Tensor):
        raise located(ArgumentError, f"params: expected several tensors, got one: {params.type}")
    given = list(params)
    if given and all(isinstance(g, Mapping) for g in given):
        groups = [dict(g) for g in given if isinstance(g, Mapping)]
        return [{**g, "params": _listed(g["params"])} for g in groups]
    return [{"params": given}]


def _listed(params: Any) -> list[Any]:
    return [params] if isinstance(params, Tensor) else list(params)


def _named(params: Any, owner: str) -> Iterable[tuple[str | None, Tensor]]:
    for item in _listed(params):
        name, p = item if isinstance(item, tuple) else (None, item)
        if not isinstance(p, Tensor):
            raise located(ArgumentError, f"{owner}: expected tensors, got {type(p).__name__}")
        if p._kind.startswith("uninitialized"):
            message = "expected parameters that have shapes; call the model once before"
            raise located(ArgumentError, f"{owner}: {message}")
        if not p.is_leaf:
            raise located(ArgumentError, f"{owner}: expected leaf tensors, got a result: {p.type}")
        yield name, p
