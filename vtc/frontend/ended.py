"""Values of traces that ended: what is left where code put them, and may not be used any more.

A value of a trace stands for what a program computes. Code that keeps one (in a list, a global, an
attribute) and uses it afterwards gets an error that names the line that made it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vtc.errors import CaptureError
from vtc.frontend.source import located

if TYPE_CHECKING:
    from vtc.frontend.inputs import Cell
    from vtc.frontend.tensor import Tensor
    from vtc.ir.graph import Node

WAY_OUT = (
    "; it has no elements outside of the program: return it from the function, or write it into a "
    "tensor that exists before the call"
)


def ended(x: Tensor) -> CaptureError:
    """The error for using ``x``, a value of a trace that is over, or is not this one."""
    node = _node(x)
    what = "" if node is None else f" {node.type}{_made(node)}"
    return located(CaptureError, f"a traced value{what} was used after its trace ended{WAY_OUT}")


def is_ended(x: Tensor) -> bool:
    """Whether ``x`` is a value of a trace, asked where no trace runs."""
    return x._array is None and (x._cell is not None or x._link is not None)


def _node(x: Tensor) -> Node | None:
    """What ``x``, or what it was cut from, was in its program."""
    while x._node is None and x._cell is None and x._link is not None:
        x = x._link[0]
    found: Node | None = x._node
    return found if found is not None or x._cell is None else _now(x._cell)


def _now(cell: Cell) -> Node:
    return cell.node


def _made(node: Node) -> str:
    return "" if node.loc is None else f", made at {node.loc.file}:{node.loc.line},"
