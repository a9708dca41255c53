"""Run a program in NumPy, one op at a time. Slow, obvious, the judge of every pass and kernel.

Ops compute in their accumulation dtype (f32 for f16, bf16, fp8) and round once to the result
dtype. ``precision="f64"`` computes everything in f64 and makes float casts identities: the
yardstick for errors. Symbols are bound from the shapes of the inputs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, cast

import numpy as np

from vtc.errors import ArgumentError, VerifyError
from vtc.ir.dims import Size, Sym, Var, substitute, symbols
from vtc.ir.graph import Graph, Node, Program
from vtc.ir.op import Op
from vtc.ir.types import Array, DType, TensorType, TupleType, Type, converted, f64

Precision = Literal["own", "f64"]
Value = Array | tuple[Array, ...]


def compute(op: Op, inputs: Sequence[Value], type: Type, precision: Precision = "own") -> Value:
    """``op`` on arrays, in its accumulation dtype, rounded once to ``type``."""
    if not op.moves:
        inputs = [_widen(x) for x in inputs]
    with np.errstate(all="ignore"):
        out = op.reference(*inputs)
        if isinstance(type, TupleType):
            return tuple(_round(o, t, precision) for o, t in zip(out, type.items, strict=True))
        return _round(out, type, precision)


@lru_cache(maxsize=4096)
def inferred(op: Op, *types: Type) -> Type:
    """``op.infer(*types)``, remembered: code that runs op by op asks the same again and again."""
    return op.infer(*types)


@dataclass(frozen=True, slots=True)
class ArrayBuilder:
    """The Builder that computes. Values are arrays, or tuples of arrays."""

    precision: Precision = "own"

    def apply(self, op: Op, *inputs: Value, hint: str = "") -> Value:
        """``op`` on arrays."""
        return compute(op, inputs, inferred(op, *map(self.type_of, inputs)), self.precision)

    def type_of(self, value: Value) -> Type:
        """The type of an array, or of a tuple of arrays."""
        if isinstance(value, tuple):
            return TupleType(tuple(map(TensorType.of, value)))
        return TensorType.of(value)


def evaluate(program: Program, *arrays: Array, precision: Precision = "own") -> tuple[Array, ...]:
    """The outputs of ``program`` on ``arrays``, one for each parameter of its entry."""
    entry = program.entry
    if len(arrays) != len(entry.params):
        raise ArgumentError(f"{entry.name} takes {len(entry.params)} arrays, got {len(arrays)}")
    sizes = bind(entry.params, [np.shape(a) for a in arrays])
    values = [
        _input(p, np.asarray(a), sizes, precision)
        for p, a in zip(entry.params, arrays, strict=True)
    ]
    return cast("tuple[Array, ...]", run_graph(program, entry, values, sizes, precision))


def run_graph(
    program: Program,
    graph: Graph,
    values: Sequence[Value],
    sizes: Mapping[str, Size],
    precision: Precision,
) -> tuple[Value, ...]:
    """The outputs of one graph of ``program``, with symbols bound to ``sizes``."""
    env: dict[Node, Value] = dict(zip(graph.params, values, strict=True))
    run = Run(program, graph, env, sizes, precision)
    for node in graph.nodes:
        env[node] = run.node(node)
    return tuple(env[o] for o in graph.outputs)


@dataclass(frozen=True, slots=True)
class Run:
    """A graph being evaluated: what a control op's ``evaluate`` may look at."""

    program: Program
    graph: Graph
    env: dict[Node, Value]
    sizes: Mapping[str, Size]
    precision: Precision

    def node(self, node: Node) -> Value:
        """The value of ``node``, whose inputs are in ``env``."""
        if node.op is None:
            raise VerifyError(f"{node.name} is a parameter inside the body of {self.graph.name}")
        control = getattr(node.op, "evaluate", None)
        if control is not None:
            return cast("Value", control(self, node))
        op = node.op.substitute(dict(self.sizes))
        inputs = [self.env[i] for i in node.inputs]
        return compute(op, inputs, bound_type(node.type, self.sizes), self.precision)

    def call(self, name: str, values: Sequence[Value]) -> tuple[Value, ...]:
        """The outputs of another graph of the program."""
        graph = self.program.by_name[name]
        return run_graph(self.program, graph, values, self.sizes, self.precision)


def bind(params: Sequence[Node], shapes: Sequence[tuple[int, ...]]) -> dict[str, Size]:
    """The sizes of the symbols in the params' shapes. ArgumentError where shapes disagree."""
    sizes: dict[str, Size] = {}
    for p, shape in zip(params, shapes, strict=True):
        want = p.tensor.shape
        if len(want) != len(shape):
            raise ArgumentError(
                f"{p.name}: expected {p.type}, got an array of shape {tuple(shape)}"
            )
        for s, n in zip(want, shape, strict=True):
            if isinstance(s, Sym) and (name := _plain(s)) is not None:
                sizes.setdefault(name, n)
    for p, shape in zip(params, shapes, strict=True):
        for s, n in zip(p.tensor.shape, shape, strict=True):
            if symbols(s) <= sizes.keys() and substitute(s, sizes) != n:
                raise ArgumentError(
                    f"{p.name}: expected {p.type}, got an array of shape {tuple(shape)}"
                )
    return sizes


def bound_type(type: Type, sizes: Mapping[str, Size]) -> Type:
    """``type`` with its symbols replaced."""
    if not sizes:
        return type
    if isinstance(type, TupleType):
        return TupleType(tuple(cast("TensorType", bound_type(t, sizes)) for t in type.items))
    return type.with_shape(substitute(s, sizes) for s in type.shape)


def _plain(s: Sym) -> str | None:
    match s.terms:
        case ((((Var(name),), 1)),):
            return name
    return None


def _input(p: Node, a: Array, sizes: Mapping[str, Size], precision: Precision) -> Array:
    del sizes
    dtype = p.tensor.dtype
    if precision == "f64" and dtype.kind == "float":
        return a.astype(np.float64)
    return a if a.dtype == dtype.numpy else converted(a, dtype.numpy)


def _widen(x: Value) -> Value:
    if isinstance(x, tuple):
        return tuple(cast("Array", _widen(i)) for i in x)
    return x.astype(np.float32) if x.dtype.itemsize < 4 and _is_float(x.dtype) else x


def _is_float(dtype: np.dtype[Any]) -> bool:
    return dtype.kind == "f" or dtype.kind == "V" or dtype.name.startswith(("bfloat", "float8"))


def _round(x: Array, type: TensorType, precision: Precision) -> Array:
    x = np.asarray(x)
    dtype: DType = f64 if precision == "f64" and type.dtype.kind == "float" else type.dtype
    if x.shape != type.shape:
        raise VerifyError(f"a reference gave shape {x.shape} where {type} was inferred")
    return x if x.dtype == dtype.numpy else converted(x, dtype.numpy)
