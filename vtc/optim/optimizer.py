"""What every optimizer shares: groups of parameters with their numbers, state, saving and loading.

All state exists from the start, so a compiled step finds it: per parameter the tensors
``state_names`` asks for, zero at first, and per group one 0-d f32 step counter on the device. Who
misses a step, for want of a gradient, gets a counter of its own then. The numbers of a group
(``lr`` ...) are read through ``hyperparameter``: inputs of a compiled step, so changing one does
not recompile. ::

    optimizer = vtc.optim.AdamW(
        [{"params": matrices}, {"params": vectors, "weight_decay": 0.0}], lr=3e-4
    )
    optimizer.param_groups[0]["lr"] = 1e-4

The state dict has PyTorch's form: ``{"state": {0: {"step": ..., ...}}, "param_groups": [...]}``.
"""

from __future__ import annotations

from abc import ABC
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypedDict

import numpy as np

from vtc.errors import ArgumentError, CaptureError
from vtc.frontend import devices, dispatch
from vtc.frontend.dispatch import bump_epoch
from vtc.frontend.dispatch import state as thread
from vtc.frontend.functions.creation import as_tensor, full, full_like, zeros_like
from vtc.frontend.hyper import hyperparameter
from vtc.frontend.inputs import Restart
from vtc.frontend.source import located
from vtc.frontend.tensor import Tensor, array_of, concrete_tensor
from vtc.ir.dims import Size
from vtc.ir.types import f32
from vtc.optim.idle import say_idle
from vtc.optim.options import told_apart, updating

Params = Iterable[Tensor] | Iterable[Mapping[str, Any]] | Iterable[tuple[str, Tensor]]
Pairs = Sequence[tuple[Tensor, Tensor]]


class Hints(TypedDict, total=False):
    """How PyTorch is to run an update: taken, and not needed. A compiled step has fused kernels and
    hyperparameters that are inputs, and an eager one is the same ops.
    """

    foreach: bool | None
    fused: bool | None
    capturable: bool
    differentiable: bool


class Group(dict[str, Any]):
    """The parameters of a group and its options.

    A number that stays a number is an input of compiled steps, whoever reads it there; any other
    change of an option may change what a step computes, so compiled functions are told to look.
    """

    own = False
    """Whether the optimizer has a ``step`` of its own: then only ``lr`` is an input."""

    def __getitem__(self, key: str) -> Any:
        value = super().__getitem__(key)
        if type(value) is not float or thread.capture is None:
            return value
        constant = key != "lr" if self.own else thread.capture.updating
        return value if constant else hyperparameter(self, key)

    def __setitem__(self, key: str, value: Any) -> None:
        """Set an option. CaptureError in a compiled step, which would set it while tracing only."""
        before = self.get(key)
        if thread.capture is not None and key in self:
            raise located(
                CaptureError,
                f"the option {key} of an optimizer is set in a compiled function: expected that "
                "outside of it, where it compiles nothing again, since a step reads it anew",
            )
        numbers = isinstance(before, float) and isinstance(value, (float, int))
        if not numbers or (before == 0) != (value == 0):
            bump_epoch()
        super().__setitem__(key, float(value) if numbers else value)

    def update(self, *args: Any, **kwargs: Any) -> None:
        """As ``dict.update``, one option at a time."""
        for key, value in dict(*args, **kwargs).items():
            self[key] = value


class Optimizer(ABC):  # noqa: B024 - a subclass has a step, or what step calls
    """Changes parameters by their gradients.

    A subclass says what it keeps and how it updates (``state_names``, ``update``). Or it has a
    ``step`` of its own, as in PyTorch, and puts into ``state[p]`` what it likes; there is nothing
    at first, and a compiled step needs what it reads to be there: take one step outside before.
    Of its options ``lr`` is an input of a compiled step, and others are constants.
    """

    def __init__(
        self, params: Params, defaults: dict[str, Any], hints: Hints | None = None
    ) -> None:
        self._check_hints(hints or {})
        self.defaults = defaults
        self.param_groups: list[Group] = []
        self.state: dict[Tensor, dict[str, Any]] = defaultdict(dict)
        self._own = type(self).step is not Optimizer.step and type(self).update is Optimizer.update
        self._parted = 0  # how often parameters were given counters of their own
        groups = _groups(params)
        if not any(g["params"] for g in groups):
            raise located(ArgumentError, f"{type(self).__name__}: expected parameters, got none")
        for group in groups:
            self.add_param_group(group)

    def _check_hints(self, hints: Mapping[str, Any]) -> None:
        """TypeError for another name, as for any function; ArgumentError for ``differentiable``."""
        name = type(self).__name__
        if unknown := sorted(set(hints) - Hints.__optional_keys__):
            raise TypeError(f"{name}.__init__() got an unexpected keyword argument {unknown[0]!r}")
        if hints.get("differentiable"):
            message = f"{name}: expected differentiable to be False"
            raise located(ArgumentError, f"{message}; spell an update that gradients go through")

    def state_names(self, group: Group) -> tuple[str, ...]:
        """The tensors kept per parameter, besides ``step``."""
        del group
        return ()

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

    def structure(self, group: Group) -> tuple[object, ...]:
        """The options on which it depends what operations an update is made of."""
        return tuple([(k, told_apart(v)) for k, v in group.items() if k != "lr"])

    def update(self, group: Group, pairs: Pairs) -> None:
        """Write new values into the parameters and the state, given (parameter, gradient) pairs."""
        raise located(ArgumentError, f"{type(self).__name__}: expected a method step or update")

    def __guards__(self) -> tuple[object, ...]:
        """What a compiled step depends on besides the values of tensors and numbers."""
        if self._own:
            kept = (self.state.get(p, {}) for g in self.param_groups for p in g["params"])
            states = [(k, told_apart(v)) for entry in kept for k, v in entry.items()]
            own = [(k, told_apart(v)) for k, v in vars(self).items()]
            return (*own, *map(self.structure, self.param_groups), *states)
        if thread.capture is None:
            return self._kept_apart()
        with updating():
            return self._kept_apart()

    def _kept_apart(self) -> tuple[object, ...]:
        groups = [
            (id(g), tuple(map(id, g.get("params", ()))), self.structure(g))
            for g in self.param_groups
        ]
        return (self._parted, id(self.state), *groups)

    def add_param_group(self, param_group: Mapping[str, Any]) -> None:
        """Add parameters with their own options; those not given are the optimizer's defaults."""
        group = Group({**self.defaults, **param_group})
        group.own = self._own
        named = list(_named(group.pop("params"), type(self).__name__))
        tensors = [p for _, p in named]
        taken = {p for g in self.param_groups for p in g["params"]}
        if len(set(tensors)) < len(tensors) or taken & set(tensors):
            raise located(ArgumentError, f"{type(self).__name__}: a parameter was given twice")
        group["params"] = tensors
        if any(name is not None for name, _ in named):
            group["param_names"] = [name for name, _ in named]
        if tensors and not self._own:
            self._start(tensors, group)
        self.param_groups.append(group)
        bump_epoch()

    def _start(self, params: Sequence[Tensor], group: Group) -> None:
        """The state of ``params``, with one counter: few inputs, and a later group starts at 0."""
        first = {"step": 0.0, **self.shared(group)}
        place = params[0].device
        numbers = {k: full((), v, dtype=f32, device=place) for k, v in first.items()}
        for p in params:
            self.state[p] = self._new_state(p, group, numbers)

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

    def steps(self, p: Tensor) -> Tensor:
        """How often ``p`` was updated: a 0-d tensor, shared with all that ``update`` is given."""
        return self.number(p, "step")

    def number(self, p: Tensor, name: str) -> Tensor:
        """A 0-d tensor of ``shared``, for ``p`` and all that ``update`` is given."""
        found: Tensor = self.state[p][name]
        return found

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients, or make them zero."""
        for p in (p for g in self.param_groups for p in g["params"]):
            keep = not set_to_none and p.grad is not None
            p.grad = dispatch.constant(0.0, p.dtype, p.type.shape, p.device) if keep else None

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update every parameter that has a gradient; returns what ``closure``, run first, returns.

        Where none has one nothing happens, as in PyTorch, and a VtcWarning says so once.
        """
        loss = None
        if closure is not None:
            with dispatch.enable_grad():
                loss = closure()
        with dispatch.no_grad(), updating():
            self._name_state()
            work = [
                (g, [(p, p.grad.detach()) for p in g["params"] if p.grad is not None])
                for g in self.param_groups
            ]
            if not any(pairs for _, pairs in work):
                say_idle(self, self.param_groups)
            for group, pairs in work:
                if pairs:
                    self._complete(group)
                    self._part_from(group, [p for p, _ in pairs])
                    self._update(group, pairs)
        return loss

    def _update(self, group: Group, pairs: Pairs) -> None:
        """Count and update, those together that share a counter."""
        grads = dict(pairs)
        for own in self._sharing(list(grads)):
            steps = self.steps(own[0])
            dispatch.write(steps, steps + 1.0)
            self.update(group, [(p, grads[p]) for p in own])

    def _sharing(self, params: Iterable[Tensor]) -> list[list[Tensor]]:
        """``params`` by the counter that they share."""
        found: dict[int, list[Tensor]] = {}
        for p in params:
            found.setdefault(id(self.steps(p)), []).append(p)
        return list(found.values())

    def _part_from(self, group: Group, stepping: Sequence[Tensor]) -> None:
        """Give those that miss a step, which others of their counter take, a counter of their own.

        A trace begins again: what it found is not what the next call will find.
        """
        counted = {id(self.steps(p)) for p in stepping}
        late = [p for p in group["params"] if p not in set(stepping)]
        late = [p for p in late if id(self.steps(p)) in counted]
        for own in self._sharing(late):
            self._part(group, own)
        if late and thread.capture is not None:
            raise Restart(self.steps(late[0])._storage)

    def _part(self, group: Group, params: Sequence[Tensor]) -> None:
        """Give ``params`` numbers of their own, as they are outside of any trace."""
        for key in ("step", *self.shared(group)):
            twin = _twin(self.number(params[0], key))
            for p in params:
                self.state[p][key] = twin
        self._parted += 1
        bump_epoch()

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
                named[id(self.number(group["params"][0], key))] = f"{key}_{i}" if i else key
        for p, entry in self.state.items():
            for key, tensor in entry.items():
                named.setdefault(id(tensor), f"{named.get(id(p), 'parameter')}.{key}")

    def state_dict(self) -> dict[str, Any]:
        """State and options by the position of parameters, in PyTorch's form; shares memory."""
        params = [p for g in self.param_groups for p in g["params"]]
        order = {p: i for i, p in enumerate(params)}
        groups = [{**g, "params": [order[p] for p in g["params"]]} for g in self.param_groups]
        state = {order[p]: dict(entry) for p, entry in self.state.items()}
        return {"state": state, "param_groups": groups}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take over state and options saved by this class here or in PyTorch; values are copied.

        State without a count, as of PyTorch's SGD, counts as one step. ArgumentError if groups or
        shapes differ, or the state is of another optimizer.
        """
        name = type(self).__name__
        saved = state_dict["param_groups"]
        sizes, own = ([len(g["params"]) for g in groups] for groups in (saved, self.param_groups))
        if sizes != own:
            raise located(
                ArgumentError,
                f"{name}.load_state_dict: expected groups of {own} parameters, got {sizes}",
            )
        if self._own:
            self._load_own(saved, state_dict["state"])
            return
        entries = self._plan_load(saved, state_dict["state"])
        for group, options in zip(self.param_groups, saved, strict=True):
            group.update({k: v for k, v in options.items() if k != "params"})
        with dispatch.no_grad():
            for group in self.param_groups:
                self._load_numbers(group, dict(entries))
            for p, entry in entries:
                self._load(p, entry)
        bump_epoch()

    def _load_own(
        self, saved: Sequence[Mapping[str, Any]], state: Mapping[int, Mapping[str, Any]]
    ) -> None:
        """Take over whatever was saved: tensors are copied to where their parameters are."""
        self.state.clear()
        for group, options in zip(self.param_groups, saved, strict=True):
            group.update({k: v for k, v in options.items() if k != "params"})
            for p, index in zip(group["params"], options["params"], strict=True):
                for key, value in state.get(index, {}).items():
                    is_array = hasattr(value, "__array__")
                    new = as_tensor(value, device=p.device).clone() if is_array else value
                    self.state[p][key] = new
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

    def _load_numbers(self, group: Group, entries: Mapping[Tensor, Mapping[str, Any]]) -> None:
        """Counters and the like: those that differ become tensors of their own."""
        for sharing in self._sharing(group["params"]):
            by_numbers: dict[tuple[float, ...], list[Tensor]] = {}
            for p in sharing:
                first = {"step": 1.0 if entries[p] else 0.0, **self.shared(group)}
                found = tuple([float(entries[p].get(k, value)) for k, value in first.items()])
                by_numbers.setdefault(found, []).append(p)
            for k, (numbers, params) in enumerate(by_numbers.items()):
                if k:
                    self._part(group, params)
                for key, value in zip(("step", *self.shared(group)), numbers, strict=True):
                    number = self.number(params[0], key)
                    dispatch.write(number, dispatch.constant(value, f32, device=number.device))

    def _load(self, p: Tensor, entry: Mapping[str, Any]) -> None:
        """Write into the tensors there are, so that compiled steps go on using them."""
        group = next(g for g in self.param_groups if any(q is p for q in g["params"]))
        numbers = {key: self.number(p, key) for key in ("step", *self.shared(group))}
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


def _twin(x: Tensor) -> Tensor:
    """What ``x`` holds outside of any trace, in memory of its own."""
    return concrete_tensor(devices.moved(devices.host(array_of(x)).copy(), x.device))


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
