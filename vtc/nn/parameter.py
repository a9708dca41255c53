"""``nn.Parameter`` and ``nn.Buffer``: what a Module's attribute is, written on the tensor itself.

Neither is a subclass of Tensor: calling one returns a Tensor that knows its kind, which is what
``isinstance`` asks for. ::

    self.weight = nn.Parameter(vtc.zeros(4, 3))
    isinstance(self.weight, nn.Parameter)       # True
    self.cache = nn.Buffer(vtc.zeros(8, 64), persistent=False)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vtc.errors import ArgumentError
from vtc.frontend.source import located
from vtc.frontend.tensor import Tensor

PARAMETER = "parameter"
BUFFER = "buffer"
TRANSIENT = "transient"  # a buffer that state_dict leaves out


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
else:

    class Parameter(metaclass=_Kind):
        """A tensor that a Module learns: ``parameters()`` finds it, optimizers change it."""

        kinds = (PARAMETER,)

        def __new__(cls, data: Tensor, requires_grad: bool = True) -> Tensor:
            return mark(data, PARAMETER, requires_grad=requires_grad)

    class Buffer(metaclass=_Kind):
        """A tensor of a Module that is not learned; ``state_dict`` has it if ``persistent``."""

        kinds = (BUFFER, TRANSIENT)

        def __new__(cls, data: Tensor, *, persistent: bool = True) -> Tensor:
            return mark(data, BUFFER if persistent else TRANSIENT, requires_grad=False)


def is_parameter(value: Any) -> bool:
    """Whether ``value`` is a parameter."""
    return isinstance(value, Tensor) and value._kind == PARAMETER


def is_buffer(value: Any) -> bool:
    """Whether ``value`` is a buffer, persistent or not."""
    return isinstance(value, Tensor) and value._kind in (BUFFER, TRANSIENT)
