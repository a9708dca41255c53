"""A few ops, recorded once for the types of what they read, to be run in NumPy again and again.

    b = GraphBuilder()
    x = b.param("x", TensorType(f32, (3,)))
    y = b.apply(Exp(), x)
    Steps([x], b.nodes, [y]).run([array])      # [exp of array]

What :mod:`~vtc.ir.evaluate` decides at each op (its type, whether it rounds, what is not needed any
more) is decided here beforehand, and constants are made once.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Final, final

import numpy as np

from vtc.ir.evaluate import Value, compute
from vtc.ir.graph import Node
from vtc.ir.op import Op
from vtc.ir.types import Array, TensorType, Type, converted

SMALL: Final = 4096
"""Bytes of a constant that is kept, at most, unless it is one element repeated."""


@final
@dataclass(frozen=True, slots=True)
class _Step:
    """``values[at] = op(values[reads])``; ``dtype`` where nothing is wider while it runs."""

    op: Op
    reference: Callable[..., Any]
    reads: tuple[int, ...]
    at: int
    type: Type
    dtype: np.dtype[Any] | None
    last: tuple[int, ...]
    """What no later step reads."""


@final
class Steps:
    """``outputs`` as a function of ``params``, both of the ``nodes`` of one builder."""

    __slots__ = ("_constants", "_steps", "outputs", "reads")

    def __init__(
        self, params: Sequence[Node], nodes: Sequence[Node], outputs: Sequence[Node]
    ) -> None:
        alive = _alive(nodes, outputs)
        used = [n for n in nodes if n in alive]
        place = {n: i for i, n in enumerate((*params, *used))}
        constants = _constants(used)
        self._constants = [constants.get(n) for n in used]
        self._steps = _scheduled([n for n in used if n not in constants], place, outputs)
        self.outputs = tuple([place[o] for o in outputs])
        """Where the results are among the params (less than their number) and what was computed."""
        self.reads = tuple([p in alive for p in params])
        """Which params are read, or results themselves."""

    def run(self, arrays: Sequence[Value | None]) -> list[Any]:
        """The outputs, given an array for each param that is read. They may share memory with
        inputs, with each other and with constants, which are not writeable.
        """
        values: list[Any] = [*arrays, *self._constants]
        with np.errstate(all="ignore"):
            for s in self._steps:
                inputs = [values[i] for i in s.reads]
                if s.dtype is None:
                    out = compute(s.op, inputs, s.type)
                else:
                    out = s.reference(*inputs)
                    if out.__class__ is not np.ndarray:
                        out = np.asarray(out)
                    if out.dtype != s.dtype:
                        out = converted(out, s.dtype)
                values[s.at] = out
                for i in s.last:
                    values[i] = None
        return [values[o] for o in self.outputs]


def _alive(nodes: Sequence[Node], outputs: Sequence[Node]) -> set[Node]:
    found = set(outputs)
    for n in reversed(nodes):
        if n in found:
            found.update(n.inputs)
    return found


def _constants(nodes: Sequence[Node]) -> dict[Node, Array]:
    """The values of nodes that depend on nothing, if they are small."""
    found: dict[Node, Array] = {}
    for n in nodes:
        if n.op is None or n.op.draws or not all(i in found for i in n.inputs):
            continue
        if not isinstance(n.type, TensorType):
            continue
        with np.errstate(all="ignore"):
            raw = n.op.reference() if not n.inputs else None
        if isinstance(raw, np.ndarray) and not any(raw.strides) and raw.size:
            found[n] = np.broadcast_to(_element(raw, n.type.dtype.numpy), raw.shape)
        elif isinstance(n.type.nbytes, int) and n.type.nbytes <= SMALL:
            value = np.asarray(compute(n.op, [found[i] for i in n.inputs], n.type)).view()
            value.flags.writeable = False
            found[n] = value
    return found


def _element(array: Array, dtype: np.dtype[Any]) -> Array:
    one = np.asarray(array[(0,) * array.ndim])
    return one if one.dtype == dtype else converted(one, dtype)


def _scheduled(
    nodes: Sequence[Node], place: dict[Node, int], outputs: Sequence[Node]
) -> list[_Step]:
    steps: list[_Step] = []
    needed = set(outputs)
    made = set(nodes)
    for n in reversed(nodes):
        if n.op is None:
            continue
        last = [i for i in dict.fromkeys(n.inputs) if i not in needed and i in made]
        needed.update(n.inputs)
        reads, at = tuple([place[i] for i in n.inputs]), place[n]
        dtype = _dtype(n)
        steps.append(
            _Step(n.op, n.op.reference, reads, at, n.type, dtype, tuple([place[i] for i in last]))
        )
    return steps[::-1]


def _dtype(node: Node) -> np.dtype[Any] | None:
    """The dtype of the result, where neither it nor an input is computed in a wider one."""
    types = (node.type, *(i.type for i in node.inputs))
    plain = all(isinstance(t, TensorType) and t.dtype.accumulate is t.dtype for t in types)
    return node.tensor.dtype.numpy if plain else None


@final
class Recalled:
    """Steps by what was asked for: made when it is asked for again, since most comes once."""

    def __init__(self, most: int = 4096) -> None:
        self._found: dict[Hashable, Steps | None] = {}
        self._most = most

    def find(self, key: Hashable, make: Callable[[], Steps]) -> Steps | None:
        """What ``make`` gives, or gave for ``key``; None at first."""
        found = self._found.get(key)
        if found is not None:
            return found
        if key in self._found:
            found = make()
        elif len(self._found) >= self._most:
            self._found.clear()
        self._found[key] = found
        return found
