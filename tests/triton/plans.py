"""Whole plans of GPU kernels on the host: their steps run one after the other in the interpreter.

    plan = lowered(f, x, w)                              # a function of tensors
    plan = generate(region(types, body), cuda(90))       # or one region
    outputs = run_plan(plan, [x, w])                     # NumPy arrays in, NumPy arrays out

What no step wrote is 0xCD: a result that a kernel leaves out is nonsense, and an index that reads
such a byte is far outside. Behind each output lie bytes that no kernel may touch.
"""

import numpy as np
from interpret import launch

import vtc
from vtc.codegen.cuda import generate
from vtc.ir.graph import GraphBuilder, Program
from vtc.ir.ops.control import Call, Item
from vtc.ir.ops.expr import Expr
from vtc.ir.plan import Arena, Branch, Copy, Input, Launch, Loop, Moving
from vtc.ir.target import cuda
from vtc.ir.types import TensorType, TupleType
from vtc.passes import PIPELINE
from vtc.passes.pipeline import Context
from vtc.passes.pipeline import run as run_passes
from vtc.runtime.fit import Fit, shape_at, size_at

FRESH, BEHIND = 0xCD, 256
"""What memory holds at first, and the bytes behind outputs that are looked at afterwards."""


# Of the largest magnitude of a result that is near float64.
TOLERANCE = {"f64": 1e-12, "f32": 4e-6, "f16": 2e-3, "bf16": 1.6e-2}


class WrongIndex(Exception):
    """A kernel met an index out of its range; the note of its step."""


def lowered(function, *args, target=None):
    """The plan of ``function``, as compiled for a GPU."""
    target = target or cuda(90)
    program = vtc.compile(function).lower(*args).program("captured")
    return generate(run_passes(program, PIPELINE, Context(target=target)), target)


def region(types, body, dims=()):
    """A planned program that calls one region: ``body`` maps Exprs to the values it gives."""
    inner, outer = GraphBuilder(), GraphBuilder()
    params = [inner.param(f"a{i}", t) for i, t in enumerate(types)]
    out = [e.value for e in body(*(Expr(inner, p) for p in params))]
    graph = inner.graph("k0", params, out)
    inputs = [outer.param(f"x{i}", t) for i, t in enumerate(types)]
    type = out[0].type if len(out) == 1 else TupleType(tuple(o.type for o in out))
    at = tuple(-1 - i for i in range(len(out)))
    node = outer.apply(Call(graph="k0", type=type, at=at), *inputs)
    nodes = [node]
    if len(out) > 1:
        nodes = [outer.apply(Item(index=i), node) for i in range(len(out))]
    return Program((graph, outer.graph("main", inputs, nodes)), dims)


def normal(*shape, seed=0, dtype=np.float32):
    return np.random.default_rng(seed).normal(size=shape).astype(dtype)


def near(got, want, factor=1.0):
    """``got`` is ``want``, which is exact, as near as its dtype allows."""
    assert got.shape == want.shape
    if got.dtype.kind in "biu":
        np.testing.assert_array_equal(got, want)
        return
    a, b = got.astype(np.float64), want.astype(np.float64)
    finite = np.isfinite(b)
    np.testing.assert_array_equal(a[~finite], b[~finite])
    scale = np.abs(b[finite]).max(initial=1e-3)
    tolerance = factor * TOLERANCE[TensorType.of(got).dtype.name]
    np.testing.assert_allclose(a[finite], b[finite], rtol=0, atol=tolerance * scale)


def run_plan(plan, inputs):
    """The outputs of ``plan``; those that overwrite inputs are new arrays, too.

    WrongIndex where a kernel reports one.
    """
    memory = Memory(plan, [np.asarray(a) for a in inputs])
    memory.all(plan.steps)
    return memory.outputs()


class Memory:
    """Inputs, outputs and arena of one call, as bytes at multiples of 64."""

    def __init__(self, plan, inputs):
        fit = Fit(plan)
        fit.check(inputs)
        self.plan, self.values = plan, fit.values(fit.key(inputs))
        self.inputs = [room(a.nbytes, a) for a in inputs]
        self.results = [
            room(size_at(b.nbytes, self.values)) if over is None else self.inputs[over]
            for over, b in zip(fit.over, plan.outputs, strict=True)
        ]
        self.arena = room(size_at(plan.arena, self.values))
        self.turns = {}
        self.kernels = {k.name: k for k in plan.kernels}

    def all(self, steps):
        """Run ``steps``, one after the other."""
        for step in steps:
            match step:
                case Launch():
                    self.launch(step, self.kernels[step.kernel])
                case Copy(source, target, nbytes):
                    self.copy(source, target, nbytes)
                case Branch(cell, then, otherwise):
                    self.all(then if self.bytes(cell)[0] else otherwise)
                case Loop(condition=None):
                    turns = range(size_at(step.count, self.values))
                    for k in turns[::-1] if step.reverse else turns:
                        self.turns[step.number] = k
                        self.all(step.steps)
                case Loop():
                    self.all(step.test)
                    while self.bytes(step.condition)[0]:
                        self.all((*step.steps, *step.test))

    def launch(self, step, kernel):
        """Run ``kernel`` over its grid."""
        build = kernel.build
        addresses = [self.bytes(ref).ctypes.data for ref in step.args]
        sizes = [size_at(n, self.values) for n in step.sizes]
        given = [*addresses, *sizes]
        if build.table:
            table = np.array(addresses, np.int64)
            given = [table.ctypes.data, *sizes]
        cell = np.zeros(4, np.int32)
        if build.checks:
            given.append(cell.ctypes.data)
        grid = [size_at(n, self.values) for n in step.grid]
        launch(kernel.source, kernel.symbol, build.signature, given, grid)
        if cell[0]:
            raise WrongIndex(step.note)

    def copy(self, source, target, nbytes):
        """Copy bytes."""
        count = size_at(nbytes, self.values)
        self.bytes(target)[:count] = self.bytes(source)[:count]

    def bytes(self, ref):
        """The memory from ``ref`` on."""
        match ref:
            case Input(i):
                return self.inputs[i]
            case Arena(offset):
                return self.arena[size_at(offset, self.values) :]
            case Moving(base, loop, step):
                return self.bytes(base)[self.turns[loop] * size_at(step, self.values) :]
        return self.results[ref.index]

    def outputs(self):
        """The results as arrays."""
        found = []
        for data, buffer in zip(self.results, self.plan.outputs, strict=True):
            count = size_at(buffer.nbytes, self.values)
            assert (data[count:] == FRESH).all(), f"a kernel wrote behind an output: {buffer.type}"
            shape = shape_at(buffer.shape, self.values)
            found.append(data[:count].view(buffer.dtype.numpy).reshape(shape).copy())
        return found


def room(count, content=None):
    """``count`` bytes with ``content``, or none, and some behind them."""
    raw = np.full(count + BEHIND + 64, FRESH, np.uint8)
    data = raw[-raw.ctypes.data % 64 :][: count + BEHIND]
    if content is not None:
        data[:count] = np.frombuffer(np.ascontiguousarray(content).tobytes(), np.uint8)
    return data
