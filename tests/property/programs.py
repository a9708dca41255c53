"""Random programs: typed, evaluable, of several graphs, with all that text and passes must carry.

@given(programs())
def test_a_pass_keeps_meaning(program):
    arrays = inputs(program)
    ...
"""

from dataclasses import dataclass, field

import numpy as np
from hypothesis import strategies as st

import vtc.ir.ops  # noqa: F401
from vtc.errors import TypeCheckError
from vtc.ir.dims import Dim, floordiv, maximum, minimum, mod
from vtc.ir.graph import Fact, Graph, GraphBuilder, Loc, Node, Program
from vtc.ir.op import REGISTRY
from vtc.ir.types import TensorType, TupleType, bf16, bool_, f32, f64, i32, i64
from vtc.passes.check import random_inputs
from vtc.passes.cost import nominal

DIMS = (Dim("B", 1, 8), Dim("T", 2, None, 2))
FLOATS = (f32, f32, f32, f64, bf16)
HINTS = ("", "", "h", "h_1", "x", "sum", "f32", "ü", "B", "k0", "neg_1")
PLACES = (
    None,
    Loc("train.py", 3),
    Loc("my model.py", 141, "blocks.0.attn"),
    Loc("<stdin>", 1, "ü"),
)
PATHS = st.sampled_from(("", "w", "blocks.0.weight")) | st.text(max_size=4)
VALUES = (0.0, -0.0, 1.0, 0.1, -2.5, 1e-30, 3, float("inf"), float("-inf"), float("nan"))


def inputs(program: Program, seed: int = 0) -> list[np.ndarray]:
    """Arrays for the params of ``program``, at small sizes."""
    return random_inputs(program, nominal(program, 3), np.random.default_rng(seed))


@st.composite
def programs(draw, *, nodes: int = 10, callees: int = 2) -> Program:
    """Up to ``nodes`` steps in each graph, up to ``callees`` graphs besides the entry."""
    dims = draw(st.sampled_from((DIMS, DIMS[:1], ())))
    graphs: list[Graph] = []
    for i in range(draw(st.sampled_from(range(callees, -1, -1)))):
        graphs.append(_Author(draw, dims, list(graphs)).graph(f"k{i}", nodes // 2))
    author = _Author(draw, dims, graphs)
    author.param(TensorType(f32, tuple(d.sym for d in dims)))  # binds the symbols
    entry = author.graph("main", nodes)
    return Program((*graphs, entry), dims, _facts(draw, entry))


def _facts(draw, entry: Graph) -> tuple[Fact, ...]:
    """A fact per param; an output overwrites at most one."""
    free = list(range(len(entry.outputs)))
    facts = []
    for p in entry.params:
        fits = [i for i in free if entry.outputs[i].type == p.type]
        output = draw(st.sampled_from([None, *fits]))
        free = [i for i in free if i != output]
        alias, device = draw(st.sampled_from([("", "cpu"), ("", "cpu"), ("shared", "cuda:1")]))
        facts.append(Fact(draw(PATHS), output, alias, device))
    return tuple(facts)


@dataclass
class _Author:
    """One graph being written, step by step."""

    draw: st.DrawFn
    dims: tuple[Dim, ...]
    callees: list[Graph]
    b: GraphBuilder = field(default_factory=GraphBuilder)
    params: list[Node] = field(default_factory=list)

    def graph(self, name: str, steps: int) -> Graph:
        for _ in range(self.draw(st.integers(1, 3))):
            self.param(self.type())
        for callee in self.callees:
            if self.draw(st.booleans()):
                self.call(callee)
        for _ in range(self.draw(st.integers(0, steps))):
            try:
                self.draw(st.sampled_from(STEPS))(self)
            except TypeCheckError:  # a symbolic size that an op cannot be sure of
                continue
        late = st.sampled_from(self.values()[::-1])
        outputs = self.draw(st.lists(late, min_size=1, max_size=3))
        return self.b.graph(name, self.params, outputs)

    def call(self, callee: Graph) -> None:
        arguments = [self.pick(p.tensor.dtype.kind, like=p.tensor) for p in callee.params]
        types = tuple(o.tensor for o in callee.outputs)
        type = types[0] if len(types) == 1 else TupleType(types)
        result = self.apply("call", *arguments, graph=callee.name, type=type)
        if len(types) > 1:
            self.apply("item", result, index=self.draw(st.integers(0, len(types) - 1)))

    def param(self, type: TensorType) -> None:
        name = self.draw(st.sampled_from(HINTS)) or "p"
        self.params.append(self.b.param(name, type, self.draw(st.sampled_from(PLACES))))

    def apply(self, name: str, *inputs: Node, **attributes) -> Node:
        hint, loc = (self.draw(st.sampled_from(s)) for s in (HINTS, PLACES))
        return self.b.apply(REGISTRY[name](**attributes), *inputs, hint=hint, loc=loc)

    def values(self) -> list[Node]:
        everything = [*self.params, *self.b.nodes]
        return [n for n in everything if isinstance(n.type, TensorType)]

    def pick(self, *kinds: str, rank: int = 0, like: TensorType | None = None) -> Node:
        """A value with a dtype of these kinds and at least this rank; made if there is none."""
        fit = [
            n
            for n in self.values()
            if n.tensor.dtype.kind in kinds
            and n.tensor.rank >= rank
            and (like is None or n.type == like)
        ]
        if fit:
            return self.draw(st.sampled_from(fit))
        dtype = {"float": f32, "int": i64, "bool": bool_}[kinds[0]]
        made = like or TensorType(dtype, (2, 3, 4)[:rank])
        return self.apply("full", shape=made.shape, value=1, dtype=made.dtype)

    def type(self) -> TensorType:
        dtype = self.draw(st.sampled_from((*FLOATS, i64, i32, bool_)))
        return TensorType(dtype, self.shape())

    def shape(self) -> tuple:
        sizes = [1, 2, 3, *(d.sym for d in self.dims)]
        if len(self.dims) == 2:
            b, t = (d.sym for d in self.dims)
            sizes += [b + t, 2 * b * t + 1, maximum(b, t), minimum(b, 4), floordiv(t, 2)]
            sizes += [b - b * 3 % t + t, mod(b * t, 3) + 1]
        return tuple(self.draw(st.lists(st.sampled_from(sizes), max_size=3)))

    def axis(self, x: Node) -> int:
        return self.draw(st.integers(0, x.tensor.rank - 1))


def _unary(a: _Author) -> None:
    names = ("neg", "exp", "tanh", "abs", "floor", "relu", "sigmoid")
    a.apply(a.draw(st.sampled_from(names)), a.pick("float"))


def _gelu(a: _Author) -> None:
    a.apply("gelu", a.pick("float"), approximate=a.draw(st.sampled_from(("none", "tanh"))))


def _binary(a: _Author) -> None:
    x = a.pick("float", "int")
    name = a.draw(st.sampled_from(("add", "sub", "mul", "maximum", "minimum")))
    a.apply(name, x, a.pick(x.tensor.dtype.kind, like=x.tensor))


def _select(a: _Author) -> None:
    x = a.pick("float", "int")
    y = a.pick(x.tensor.dtype.kind, like=x.tensor)
    a.apply("where", a.apply(a.draw(st.sampled_from(("lt", "ge", "ne"))), x, y), x, y)


def _cast(a: _Author) -> None:
    """Not from float to int, which NumPy leaves open for what does not fit."""
    x = a.pick("float", "int", "bool")
    wanted = FLOATS if x.tensor.dtype.kind == "float" else (*FLOATS, i64, bool_)
    a.apply("cast", x, dtype=a.draw(st.sampled_from(wanted)))


def _reduce(a: _Author) -> None:
    x = a.pick("float", "int", rank=1)
    axes = a.draw(st.sets(st.integers(0, x.tensor.rank - 1), min_size=1))
    a.apply(a.draw(st.sampled_from(("sum", "max"))), x, axes=tuple(sorted(axes)))


def _first(a: _Author) -> None:
    x = a.pick("float", rank=1)
    a.apply("argmax", x, axis=a.axis(x))


def _permute(a: _Author) -> None:
    x = a.pick("float", "int", "bool", rank=2)
    a.apply("permute", x, axes=tuple(a.draw(st.permutations(range(x.tensor.rank)))))


def _flatten(a: _Author) -> None:
    x = a.pick("float", "int", "bool")
    count = x.tensor.numel
    if len(str(count)) < 40:  # products of sums grow fast
        a.apply("reshape", x, shape=a.draw(st.sampled_from(((count,), (1, count, 1)))))


def _expand(a: _Author) -> None:
    x = a.pick("float", "int", "bool")
    size = a.draw(st.sampled_from((2, *(d.sym for d in a.dims))))
    a.apply("expand", x, axes=(a.draw(st.integers(0, x.tensor.rank)),), sizes=(size,))


def _slice(a: _Author) -> None:
    x = a.pick("float", "int", "bool")
    stops = x.tensor.shape
    steps = tuple(a.draw(st.integers(1, 2)) for _ in stops)
    a.apply("slice", x, starts=(0,) * len(stops), stops=stops, steps=steps)


def _pad(a: _Author) -> None:
    x = a.pick("float")
    pads = tuple(a.draw(st.tuples(*[st.integers(0, 2)] * 3)) for _ in x.tensor.shape)
    a.apply("pad", x, pads=pads, value=float(a.draw(st.sampled_from(VALUES))))


def _concat(a: _Author) -> None:
    x = a.pick("float", "int", "bool", rank=1)
    a.apply("concat", x, a.pick(x.tensor.dtype.kind, like=x.tensor), axis=a.axis(x))


def _full(a: _Author) -> None:
    a.apply("full", shape=a.shape(), value=a.draw(st.sampled_from(VALUES)), dtype=f32)


def _iota(a: _Author) -> None:
    shape = (*a.shape(), 3)
    axis = a.draw(st.integers(0, len(shape) - 1))
    a.apply("iota", shape=shape, axis=axis, dtype=a.draw(st.sampled_from((i64, f32))))


def _matmul(a: _Author) -> None:
    x = a.pick("float", rank=2)
    flags = {"transpose_y": True} if a.draw(st.booleans()) else {"transpose_x": True}
    a.apply("matmul", x, x, **flags)


def _softmax(a: _Author) -> None:
    x = a.pick("float", rank=1)
    a.apply("softmax", x, axis=a.axis(x))


def _norm(a: _Author) -> None:
    x = a.pick("float", rank=1)
    eps = a.draw(st.sampled_from((1e-5, 1e-6)))
    a.apply("rms_norm", x, count=1, eps=eps)


def _attention(a: _Author) -> None:
    x = a.pick("float", rank=2)
    causal, scale = a.draw(st.booleans()), a.draw(st.sampled_from((1.0, 0.125)))
    both = a.apply("scaled_dot_product_attention", x, x, x, is_causal=causal, scale=scale)
    a.apply("item", both, index=a.draw(st.integers(0, 1)))


def _random(a: _Author) -> None:
    state = a.apply("iota", shape=(2,), axis=0, dtype=i64)
    a.apply("uniform", state, shape=a.shape(), dtype=f32, offset=a.draw(st.integers(0, 9)))


STEPS = (
    _unary,
    _unary,
    _gelu,
    _binary,
    _binary,
    _select,
    _cast,
    _reduce,
    _first,
    _permute,
    _flatten,
    _expand,
    _slice,
    _pad,
    _concat,
    _full,
    _iota,
    _matmul,
    _softmax,
    _norm,
    _attention,
    _random,
)
