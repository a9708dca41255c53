"""What the inputs of a traced program are: where each comes from at a call, and what it is now."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from vtc.errors import CaptureError
from vtc.frontend.tensor import Tensor
from vtc.ir.graph import Node

SourceKind = Literal["argument", "base", "number", "tensor", "grad", "hyper"]
KEPT = ("argument", "base", "tensor", "grad")
"""Sources that are tensors, which the program may write."""


@dataclass(frozen=True, slots=True)
class Source:
    """Where the value of an input comes from at each call.

    ``argument``/``number``: leaf ``index`` of the arguments; ``base``: what that was cut from;
    ``tensor``: that very tensor, met by
    closure; ``grad``: the ``.grad`` of leaf ``index``, or else of ``tensor``; ``hyper``: a number
    that ``read`` returns.
    """

    kind: SourceKind
    index: int = -1
    tensor: Tensor | None = None
    read: Callable[[], float] | None = None
    made_here: bool = False


@dataclass(eq=False, slots=True)
class Cell:
    """The current value of a root tensor.

    ``initial`` is its parameter where it came from outside.
    """

    node: Node
    requires: bool = False
    initial: Node | None = None
    tensor: Tensor | None = None
    version: int = 0


@dataclass(eq=False, slots=True)
class Input:
    """A parameter of the program."""

    node: Node
    source: Source
    cell: Cell


@dataclass(eq=False, slots=True)
class GradSlot:
    """What ``.grad`` of a tensor is during the trace; ``before`` is what it was."""

    owner: Source
    tensor: Tensor
    before: Tensor | None
    value: Tensor | None


class Restart(BaseException):  # not an error, and user code that catches errors lets it pass
    """A storage was met through two different views: trace again with its base as the parameter."""

    def __init__(self, storage: object) -> None:
        super().__init__("restart")
        self.storage = storage


def base_of(x: Tensor) -> Tensor:
    """What the view ``x`` was cut from, up to the first leaf that requires grad."""
    while x._link is not None and not x._requires:
        x = x._link[0]
    return x


def layout(x: Tensor) -> tuple[int, tuple[int, ...]]:
    """Where in memory the elements of a concrete tensor are."""
    if x._array is None:
        raise CaptureError("a traced value has no place in memory")
    return x._array.__array_interface__["data"][0], x._array.strides
