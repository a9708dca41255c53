"""``nn.Parameter`` and ``nn.Buffer``: what a Module's attribute is, written on the tensor itself.

Neither is a subclass of Tensor: calling one returns a Tensor that knows its kind, which is what
``isinstance`` asks for. ::

    self.weight = nn.Parameter(vtc.zeros(4, 3))
    isinstance(self.weight, nn.Parameter)       # True
    self.cache = nn.Buffer(vtc.zeros(8, 64), persistent=False)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from vtc.errors import ArgumentError
from vtc.frontend.dispatch import bump_epoch
from vtc.frontend.functions.creation import empty
from vtc.frontend.source import located
from vtc.frontend.tensor import Tensor
from vtc.ir.types import DType
from vtc.runtime.device import Device

PARAMETER = "parameter"
BUFFER = "buffer"
TRANSIENT = "transient"  # a buffer that state_dict leaves out
UNKNOWN = {PARAMETER: "uninitialized_parameter", BUFFER: "uninitialized_buffer"}
"""What each is called as long as its shape is not known."""


def mark(data: Tensor, kind: str, *, requires_grad: bool) -> Tensor:
    """A leaf of ``kind`` over the memory of ``data``."""
    if not isinstance(data, Tensor):
        name = type(data).__name__
        raise located(ArgumentError, f"{kind}: expected a Tensor, got {name}; use vtc.tensor(...)")
    leaf = data.detach()
    leaf._kind = kind
    return leaf.requires_grad_(requires_grad)


class _Kind(type):
    """Makes ``isinstance`` ask a tensor for its kind."""

    kinds: tuple[str, ...]

    def __instancecheck__(cls, instance: object) -> bool:
        return isinstance(instance, Tensor) and instance._kind in cls.kinds


if TYPE_CHECKING:
    Parameter = Tensor
    Buffer = Tensor
    UninitializedParameter = Tensor
    UninitializedBuffer = Tensor
else:

    class Parameter(metaclass=_Kind):
        """A tensor that a Module learns: ``parameters()`` finds it, optimizers change it."""

        kinds = (PARAMETER, UNKNOWN[PARAMETER])

        def __new__(cls, data: Tensor, requires_grad: bool = True) -> Tensor:
            return mark(data, PARAMETER, requires_grad=requires_grad)

    class Buffer(metaclass=_Kind):
        """A tensor of a Module that is not learned; ``state_dict`` has it if ``persistent``."""

        kinds = (BUFFER, TRANSIENT, UNKNOWN[BUFFER])

        def __new__(cls, data: Tensor, *, persistent: bool = True) -> Tensor:
            return mark(data, BUFFER if persistent else TRANSIENT, requires_grad=False)

    class UninitializedParameter(metaclass=_Kind):
        """A parameter whose shape is not known yet; :func:`materialize` gives it one."""

        kinds = (UNKNOWN[PARAMETER],)

        def __new__(
            cls,
            requires_grad: bool = True,
            device: Device | str | None = None,
            dtype: DType | None = None,
        ) -> Tensor:
            nothing = empty(0, device=device, dtype=dtype)
            return mark(nothing, UNKNOWN[PARAMETER], requires_grad=requires_grad)

    class UninitializedBuffer(metaclass=_Kind):
        """A buffer whose shape is not known yet; :func:`materialize` gives it one."""

        kinds = (UNKNOWN[BUFFER],)

        def __new__(
            cls,
            requires_grad: bool = False,
            device: Device | str | None = None,
            dtype: DType | None = None,
        ) -> Tensor:
            nothing = empty(0, device=device, dtype=dtype)
            return mark(nothing, UNKNOWN[BUFFER], requires_grad=requires_grad)


def is_parameter(value: Any) -> bool:
    """Whether ``value`` is a parameter."""
    return isinstance(value, Tensor) and value._kind in (PARAMETER, UNKNOWN[PARAMETER])


def is_buffer(value: Any) -> bool:
    """Whether ``value`` is a buffer, persistent or not."""
    return isinstance(value, Tensor) and value._kind in (BUFFER, TRANSIENT, UNKNOWN[BUFFER])


def is_lazy(value: Any) -> bool:
    """Whether ``value`` is a parameter or buffer whose shape is not known yet."""
    return isinstance(value, Tensor) and value._kind in UNKNOWN.values()


def materialize(
    tensor: Tensor,
    shape: Sequence[int],
    device: Device | str | None = None,
    dtype: DType | None = None,
) -> None:
    """Make an uninitialized parameter or buffer one of ``shape``; what it holds is to be set."""
    if not is_lazy(tensor):
        message = f"materialize: expected an uninitialized parameter or buffer, got {tensor.type}"
        raise located(ArgumentError, message)
    made = empty(shape, device=device or tensor.device, dtype=dtype or tensor.dtype)
    give_memory(tensor, made)
    tensor._kind = next(known for known, name in UNKNOWN.items() if name == tensor._kind)
    bump_epoch()


def give_memory(tensor: Tensor, made: Tensor) -> None:
    """Let ``tensor`` be what ``made`` is, of whatever shape; who holds it sees the change."""
    tensor._array, tensor._storage, tensor._link = made._array, made._storage, None
    tensor._known = None
    tensor._grad = None
