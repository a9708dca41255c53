"""One ordered stack that every operation on tensors goes through.

    autocast > capture > autograd > override > backend

A rule gets the op, its inputs and the rest of the stack; it may answer or pass on. The table is
immutable and replaced whole, so a call takes no lock. Tensors register the backend; tracing, the
capture rule. What was called before in the same way may take a ``shortcut`` past all of them
(:mod:`~vtc.frontend.shortcut`).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import ContextDecorator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar, cast, final

from vtc.errors import ArgumentError, DeviceError, IndexRangeError, TypeCheckError
from vtc.frontend import devices
from vtc.frontend.source import located
from vtc.ir.dims import Size, Sym
from vtc.ir.op import Op, make
from vtc.ir.types import Array, DType, f32
from vtc.runtime.device import Device, scopes

if TYPE_CHECKING:
    from vtc.frontend.tensor import Tensor

Result = Any  # a Tensor, or a tuple of them for an op with several results
F = TypeVar("F", bound=Callable[..., Any])
Rest = Callable[[Op, "tuple[Tensor, ...]"], Result]
Rule = Callable[[Op, "tuple[Tensor, ...]", Rest], Result]
Level = Literal["autocast", "capture", "autograd", "override", "backend"]
ORDER: tuple[Level, ...] = ("autocast", "capture", "autograd", "override", "backend")


class Storages(Protocol):
    """What tensors supply: making them, viewing them, writing through them."""

    def from_array(self, array: Array, *, device: Device | None, requires_grad: bool) -> Tensor:
        """A concrete tensor over ``array``."""

    def create(self, op: Op, device: Device) -> Tensor:
        """The result of ``op``, which takes no inputs, on ``device``."""

    def move(self, x: Tensor, device: Device, *, non_blocking: bool) -> Tensor:
        """``x`` on another device."""

    def view(self, op: Op, x: Tensor) -> Tensor:
        """A view of ``x``."""

    def write(self, x: Tensor, value: Tensor) -> Tensor:
        """``x`` after its elements became ``value``'s."""


class Gradients(Protocol):
    """What differentiation supplies, eager or traced."""

    def leaves_of(self, x: Tensor) -> list[Tensor]:
        """The leaves that gradients of ``x`` reach."""

    def backward(
        self,
        roots: Sequence[Tensor],
        seeds: Sequence[Tensor | None],
        *,
        retain_graph: bool,
        create_graph: bool,
        inputs: Sequence[Tensor] | None = None,
    ) -> None:
        """Accumulate the gradients of ``roots`` in the leaves, or in ``inputs``."""

    def gradients(
        self,
        roots: Sequence[Tensor],
        seeds: Sequence[Tensor | None],
        wrt: Sequence[Tensor],
        *,
        retain_graph: bool,
        create_graph: bool,
    ) -> list[Tensor | None]:
        """The gradients of ``roots`` with respect to ``wrt``, None where there is none."""

    def hook_owner(self, x: Tensor) -> tuple[object, str]:
        """Who keeps the hooks on the gradient of ``x``, and under what name."""

    def group(self, xs: Sequence[Tensor], call: Callable[[Any], Any]) -> None:
        """Hand the gradients of ``xs``, which were just made, to ``call`` together."""

    def retain(self, x: Tensor) -> None:
        """Give ``x`` its ``.grad``, though it is no leaf."""

    def step_of(self, x: Tensor) -> tuple[Any, int]:
        """How ``x`` came to be (None for a leaf), and which result of that it is."""


class Autograd(Gradients, Protocol):
    """What eager differentiation supplies."""

    def record_of(self, x: Tensor) -> Any:
        """How ``x`` came to be, or None where no gradient flows through it."""

    def viewed(self, x: Tensor) -> None:
        """``x`` was just cut from another tensor."""

    def spreads(self, xs: Sequence[Tensor]) -> bool:
        """Whether an elementwise op on these is to be one step of the tape."""

    def spread(
        self, op: Any, values: Sequence[Any], arrays: Sequence[Array | None], out: Tensor
    ) -> None:
        """``out`` was just made by an elementwise ``op`` on operands that are repeated."""

    def moved(self, x: Tensor, y: Tensor) -> None:
        """``y`` is ``x`` on another device."""

    def written(self, x: Tensor, value: Tensor) -> None:
        """``x`` is about to become ``value``."""


@dataclass(frozen=True)
class Table:
    """The rules in force; replaced, never changed."""

    rules: tuple[tuple[Level, Rule], ...] = ()
    storages: Storages | None = None
    autograd: Autograd | None = None


_table = Table()
_stack: Rest
Shortcut = Callable[..., "Tensor | None"]


def _no_shortcut(op: Op, *values: Any) -> Tensor | None:
    del op, values
    return None


shortcut: Shortcut = _no_shortcut
"""The result of an elementwise op on tensors and numbers, as users give them, where all that the
stack would do is known; else None."""


def register_shortcut(other: Shortcut) -> None:
    """Name who knows calls that were made before."""
    global shortcut
    shortcut = other


def register(level: Level, rule: Rule) -> None:
    """Add ``rule`` at ``level``, after those already there."""
    global _table, _stack
    rules = sorted((*_table.rules, (level, rule)), key=lambda r: ORDER.index(r[0]))
    _table = replace(_table, rules=tuple(rules))
    _stack = _compose([r for _, r in _table.rules])


def register_storages(storages: Storages) -> None:
    """Name who makes tensors."""
    global _table
    _table = replace(_table, storages=storages)


def register_autograd(engine: Autograd) -> None:
    """Name who differentiates eagerly."""
    global _table
    _table = replace(_table, autograd=engine)


def autograd() -> Autograd:
    """Who differentiates eagerly."""
    if _table.autograd is None:
        raise ArgumentError("vtc.frontend.autograd is not imported")
    return _table.autograd


def engine() -> Gradients:
    """Who differentiates here: the trace that runs, by markers in its program, or else eagerly."""
    found: Gradients = state.capture if state.capture is not None else autograd()
    return found


def _compose(rules: Sequence[Rule]) -> Rest:
    def unanswered(op: Op, inputs: tuple[Tensor, ...]) -> Result:
        raise TypeCheckError(f"{op.name}: no backend answers for this device")

    rest: Rest = unanswered
    for rule in reversed(rules):
        rest = _link(rule, rest)
    return rest


def _link(rule: Rule, rest: Rest) -> Rest:
    def call(op: Op, inputs: tuple[Tensor, ...]) -> Result:
        return rule(op, inputs, rest)

    return call


def apply(op: Op, *inputs: Tensor) -> Tensor:
    """The one result of ``op`` on ``inputs``.

    TypeCheckError, with the user's line, if it does not take them.
    """
    try:
        return cast("Tensor", _stack(op, inputs))
    except (TypeCheckError, IndexRangeError) as e:
        raise _place(e) from None


def apply_tuple(op: Op, *inputs: Tensor) -> tuple[Tensor, ...]:
    """The results of an op that has several."""
    try:
        return cast("tuple[Tensor, ...]", _stack(op, inputs))
    except (TypeCheckError, IndexRangeError) as e:
        raise _place(e) from None


def common_device(op: Op | str, inputs: Sequence[Tensor]) -> Device:
    """The device all inputs live on; DeviceError if there are several.

    0-d tensors on the CPU, and what is expanded from them, go with any.
    """
    found = inputs[0].device if inputs else devices.CPU
    for x in inputs:
        if x.device is not found and x.device != found:
            return _joined(op, inputs)
    return found


def _joined(op: Op | str, inputs: Sequence[Tensor]) -> Device:
    found = {x.device for x in inputs if x.device.type != "cpu" or not is_number(x)}
    if len(found) == 1:
        return found.pop()
    name = op if isinstance(op, str) else op.name
    names = " and ".join(sorted(map(str, found)))
    shown = ", ".join(f"{x.type} on {x.device}" for x in inputs)
    message = f"{name}: expected one device, got {names}: {shown}"
    hint = "make it there (device=x.device), or use .to(device)"
    raise located(DeviceError, f"{message}; {hint}")


def is_number(x: Tensor) -> bool:
    """Whether ``x`` is a 0-d tensor, or one expanded."""
    if x._link is None and x._array is not None:
        return not any(x._array.strides)  # what backward restores has forgotten its link
    while x.ndim and x._link is not None:
        x = x._link[0]
    return not x.ndim


def _place(e: TypeCheckError | IndexRangeError) -> Exception:
    return e if "\n  at " in str(e) else located(type(e), str(e))


def _storages() -> Storages:
    if _table.storages is None:
        raise ArgumentError("vtc.frontend.tensor is not imported")
    return _table.storages


def from_array(
    array: Array, *, device: Device | None = None, requires_grad: bool = False
) -> Tensor:
    """A tensor over a NumPy array, sharing its memory."""
    return _storages().from_array(array, device=device, requires_grad=requires_grad)


def create(op: Op, device: Device | None) -> Tensor:
    """The result of ``op``, which takes no inputs, on ``device``.

    None: wherever it is needed, while tracing; else on the CPU.
    """
    if device is None or (device.type == "cpu" and state.capture is None):
        return apply(op)
    try:
        return _storages().create(op, device)
    except TypeCheckError as e:
        raise _place(e) from None


def move(x: Tensor, device: Device, *, non_blocking: bool = False) -> Tensor:
    """``x`` on another device; gradients flow back."""
    return _storages().move(x, device, non_blocking=non_blocking)


def view(op: Op, x: Tensor) -> Tensor:
    """The view ``op`` of ``x``: it shares ``x``'s storage, and writes go through."""
    try:
        return _storages().view(op, x)
    except TypeCheckError as e:
        raise _place(e) from None


def write(x: Tensor, value: Tensor) -> Tensor:
    """Make ``x``'s elements ``value``'s, in place; both have one type."""
    try:
        return _storages().write(x, value)
    except TypeCheckError as e:
        raise _place(e) from None


def constant(
    value: complex, dtype: DType, shape: Sequence[Size] = (), device: Device | None = None
) -> Tensor:
    """``value`` everywhere, on ``device``; see :func:`create`."""
    return create(make("full", shape=tuple(shape), value=value, dtype=dtype), device)


class State(threading.local):
    """What is switched per thread."""

    def __init__(self) -> None:
        self.grad = True
        self.capture: Any = None
        self.autocast: DType | None = None


state = State()


@dataclass
class _Process:
    device: Device
    dtype: DType
    epoch: int = 0
    deterministic: bool = False


_process = _Process(devices.CPU, f32)


@final
class _Switch(ContextDecorator):
    """Sets ``state.grad`` for a block or for each call of a function.

    ``at_once``: from now on already; what was is put back at the end of the block, or where this
    turns out to be a decorator.
    """

    def __init__(self, value: bool, *, at_once: bool = False) -> None:
        self.value = value
        self.saved: list[bool] = []
        self.before = state.grad if at_once else None
        if at_once:
            state.grad = value

    def _recreate_cm(self) -> _Switch:
        return _Switch(self.value)  # a decorated function may run in several threads at once

    def __call__(self, fn: F) -> F:
        if self.before is not None:
            state.grad = self.before
        return super().__call__(fn)

    def __enter__(self) -> None:
        self.saved.append(state.grad if self.before is None else self.before)
        state.grad = self.value

    def __exit__(self, *exc: object) -> None:
        state.grad = self.saved.pop()


def switches() -> tuple[tuple[object, str], ...]:
    """What decides what operations do, besides their arguments: owners and attributes."""
    own = [(state, name) for name in ("grad", "autocast")]
    return (*own, *((_process, name) for name in ("dtype", "device", "deterministic")))


def bump_epoch() -> None:
    """Say that an attribute of a Module, or whether a tensor requires grad, changed.

    Compiled functions compare what they recorded at their next call.
    """
    _process.epoch += 1


def epoch() -> int:
    """The number of such changes so far."""
    return _process.epoch


def no_grad(fn: Callable[..., Any] | None = None) -> Any:
    """Inside, nothing is recorded for backward; a context, or a decorator with or without ()."""
    return _Switch(False) if fn is None else _Switch(False)(fn)


def enable_grad(fn: Callable[..., Any] | None = None) -> Any:
    """Inside, operations are recorded for backward again; used as ``no_grad`` is."""
    return _Switch(True) if fn is None else _Switch(True)(fn)


def set_grad_enabled(mode: bool) -> _Switch:
    """Record for backward or not, from now on; as a context or a decorator, inside only."""
    return _Switch(mode, at_once=True)


def inference_mode(mode: bool | Callable[..., Any] = True) -> Any:
    """As ``no_grad``, by PyTorch's other name; with ``mode=False`` as ``enable_grad``.

    What is made inside is a tensor like any other, and may be used in autograd afterwards.
    """
    return _Switch(not mode) if isinstance(mode, bool) else _Switch(False)(mode)


def grad_enabled() -> bool:
    """Whether operations are recorded for backward."""
    return state.grad


def is_capturing() -> bool:
    """Whether this thread is tracing a compiled function."""
    return state.capture is not None


def default_device() -> Device:
    """Where new tensors go."""
    return (_process.device, *scopes())[-1]


def set_default_device(device: Device | str) -> None:
    """Choose where new tensors go (``"cpu"`` at first). DeviceError if it is not there.

    ``"cuda"`` is the GPU that is current when a tensor is made.
    """
    found = devices.resolve(device)
    _process.device = found if found.type == "cpu" else Device.parse(device)


def default_dtype() -> DType:
    """The dtype of tensors made from Python floats."""
    return _process.dtype


def set_default_dtype(dtype: DType) -> None:
    """Choose the dtype of tensors made from Python floats (``vtc.float32`` at first)."""
    if not dtype.is_floating_point:
        raise ArgumentError(f"set_default_dtype: expected a floating-point dtype, got {dtype!r}")
    _process.dtype = dtype


def deterministic() -> bool:
    """Whether kernels must give the same bits each time they run on the same inputs."""
    return _process.deterministic


def use_deterministic_algorithms(mode: bool) -> None:
    """Ask for kernels that give the same bits each time they run, which may be slower, or for any
    (the default). What was compiled for the other is compiled again.

    On a GPU, sums that elements reach in any order (``index_add``, gradients of ``embedding``) then
    add in order, and nothing is measured, since candidates round differently. The CPU always gives
    the same bits.
    """
    if not isinstance(mode, bool):
        got = f"{type(mode).__name__} {mode!r}"
        raise ArgumentError(f"use_deterministic_algorithms: expected True or False, got {got}")
    _process.deterministic = mode


def size(value: Any) -> Size:
    """A size the user gave: an int, a traced size, or a 0-d integer array."""
    if isinstance(value, (int, Sym)) and not isinstance(value, bool):
        return value
    inner = getattr(value, "size_expr", None)
    if inner is not None:
        return cast("Size", inner)
    if hasattr(value, "__index__"):
        return int(value.__index__())
    raise located(ArgumentError, f"expected a size, got {type(value).__name__} {value!r}")


def sizes(values: Sequence[Any]) -> tuple[Size, ...]:
    """Sizes the user gave."""
    return tuple(size(v) for v in values)
