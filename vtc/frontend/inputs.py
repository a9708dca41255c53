"""What the inputs of a traced program are: where each comes from at a call, and what it is now."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from vtc.errors import CaptureError
from vtc.frontend import dispatch
from vtc.frontend.tensor import CPU, Tensor
from vtc.ir.graph import Node
from vtc.runtime.device import Device

SourceKind = Literal["argument", "base", "number", "tensor", "grad", "hyper"]
KEPT = ("argument", "base", "tensor", "grad")
"""Sources that are tensors, which the program may write."""


@dataclass(frozen=True, slots=True)
class Source:
    """Where the value of an input comes from at each call.

    ``argument``/``number``: leaf ``index`` of the arguments; ``base``: what that was cut from;
    ``tensor``: that very tensor, met by
    closure; ``grad``: the ``.grad`` of leaf ``index``, or else of ``tensor``; ``hyper``: a number
    that ``read`` returns: the option ``option``, by the id of its group, name and index.
    """

    kind: SourceKind
    index: int = -1
    tensor: Tensor | None = None
    read: Callable[[], float] | None = None
    made_here: bool = False
    option: tuple[int, str, int] | None = None


@dataclass(eq=False, slots=True)
class Cell:
    """The current value of a root tensor.

    ``initial`` is its parameter where it came from outside; ``device`` None is wherever the value
    is needed; ``frame`` the body of a loop or a branch that made it; ``trace`` whose value it is.
    """

    node: Node
    requires: bool = False
    initial: Node | None = None
    tensor: Tensor | None = None
    version: int = 0
    device: Device | None = None
    frame: object = None
    trace: object = None


@dataclass(eq=False, slots=True)
class Input:
    """A parameter of the program."""

    node: Node
    source: Source
    cell: Cell


@dataclass(eq=False, slots=True)
class GradSlot:
    """What ``.grad`` of a tensor is during the trace; ``had`` is whether there was one before it,
    None where it was assigned before anybody looked.
    """

    owner: Source
    tensor: Tensor
    value: Tensor | None
    had: bool | None = None


class Restart(BaseException):  # not an error, and user code that catches errors lets it pass
    """A storage was met through two different views: trace again with its base as the parameter."""

    def __init__(self, storage: object) -> None:
        super().__init__("restart")
        self.storage = storage


def base_of(x: Tensor) -> Tensor:
    """What the view ``x`` was cut from, up to the first leaf that requires grad."""
    for origin in origins(x):
        x = origin
    return x


def origins(x: Tensor) -> Iterator[Tensor]:
    """What ``x`` was cut from, what that was cut from, and so on to its base."""
    while x._link is not None and not x._requires:
        x = x._link[0]
        yield x


def layout(x: Tensor) -> tuple[int, tuple[int, ...]]:
    """Where in memory the elements of a concrete tensor are."""
    if x._array is None:
        raise CaptureError("a traced value has no place in memory")
    return x._array.__array_interface__["data"][0], x._array.strides


def place(x: Tensor) -> Device | None:
    """Where ``x``, traced or not, is; None for what is made wherever it is needed."""
    while x._storage is None and x._cell is None and x._link is not None:
        x = x._link[0]
    if x._storage is not None:
        return x._storage.device
    found: Device | None = None if x._cell is None else x._cell.device
    return found


def common_place(name: str, inputs: Sequence[Tensor]) -> Device | None:
    """Where the result of an op is; DeviceError if its inputs are on several devices."""
    placed = [x for x in inputs if place(x) is not None]
    return dispatch.common_device(name, placed) if placed else None


def device_of_inputs(inputs: Sequence[Input]) -> Device:
    """Where a program runs as far as its inputs say."""
    places = [i.cell.tensor.device for i in inputs if i.cell.tensor is not None]
    return next((d for d in places if d is not CPU), CPU)


def is_number_node(x: Tensor) -> bool:
    """Whether ``x`` is a traced 0-d constant."""
    op = None if x._cell is None else x._cell.node.op
    return op is not None and op.name == "full" and x.type.shape == ()


def same_view(a: Tensor, b: Tensor) -> bool:
    """Whether one parameter can stand for both."""
    return (
        a._array is not None
        and b._array is not None
        and (a._array.dtype, a._array.shape) == (b._array.dtype, b._array.shape)
        and layout(a) == layout(b)
        and a._requires is b._requires
    )
