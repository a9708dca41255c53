"""Regions as planned programs, compiled and called without the runtime."""

import ctypes
from dataclasses import replace

import numpy as np

from vtc.codegen.c import compile_plan, compile_pool, find_compiler, generate
from vtc.codegen.host import host
from vtc.config import config
from vtc.ir.dims import substitute
from vtc.ir.graph import GraphBuilder, Program
from vtc.ir.ops.control import Call, Item
from vtc.ir.ops.expr import Expr
from vtc.ir.plan import Launch
from vtc.ir.target import cpu
from vtc.ir.types import TupleType
from vtc.passes.decompose import decompose
from vtc.passes.fuse import fuse
from vtc.passes.memory import memory
from vtc.passes.pipeline import Context
from vtc.passes.release import release
from vtc.runtime.cache import Store
from vtc.runtime.threads import pool, set_num_threads


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


def planned(program):
    for one_pass in (decompose, fuse, release, memory):
        program = one_pass(program, Context())
    return program


def built(program, *, optimize=True):
    """The plan of a planned program, and its entry."""
    compiler = find_compiler()
    if not optimize:
        flags = tuple("-O1" if f == "-O3" else f for f in compiler.flags)
        compiler = replace(compiler, flags=flags)
    plan = eager(generate(program, cpu()))
    return plan, entry(compile_plan(plan, compiler, Store(config().cache_dir)))


def eager(plan):
    """``plan`` with every kernel that can run in parts large enough to."""
    large = [replace(s, work=s.work * 2**32) if isinstance(s, Launch) else s for s in plan.steps]
    plan = replace(plan, steps=tuple(large))
    return replace(plan, host=host(plan))


def entry(path):
    function = ctypes.CDLL(str(path)).vtc_run
    function.restype = ctypes.c_int64
    return function


def call(plan, function, arrays, sizes=(), outputs=None, threads=3):
    """The result of the entry, and the outputs; without threads there is no pool either."""
    values = dict(zip([d.name for d in plan.dims], sizes, strict=True))
    inputs = [np.ascontiguousarray(a) for a in arrays]
    if outputs is None:
        shapes = [[substitute(s, values) for s in o.shape] for o in plan.outputs]
        outputs = [np.empty(s, o.dtype.numpy) for s, o in zip(shapes, plan.outputs, strict=True)]
    arena = np.empty(substitute(plan.arena, values) + 64, np.uint8)
    code = function(
        pointers(inputs),
        pointers(outputs),
        ctypes.c_void_p(-(-arena.ctypes.data // 64) * 64),
        (ctypes.c_int64 * max(1, len(sizes)))(*sizes),
        pool_of(threads),
    )
    return code, outputs


def pool_of(threads):
    if not threads:
        return None
    set_num_threads(threads)
    return pool(lambda: compile_pool(find_compiler(), Store(config().cache_dir)))


def pointers(arrays):
    return (ctypes.c_void_p * max(1, len(arrays)))(*(a.ctypes.data for a in arrays))


def run(program, arrays, sizes=(), *, optimize=True):
    return call(*built(program, optimize=optimize), arrays, sizes)


def normal(*shape, seed=0, dtype=np.float32):
    return np.random.default_rng(seed).normal(size=shape).astype(dtype)
