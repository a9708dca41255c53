"""Packages made by hand: small programs of this machine's CPU, without ``vtc.export``.

path = handmade.mlp(folder / "mlp.vtc")        # forward(x: f32[B, 64]) -> f32[B, 10]
path = handmade.counter(folder / "counter.vtc")  # two entries over one state, a written argument
"""

from dataclasses import replace
from functools import cache

import numpy as np

from vtc.build import stage_program
from vtc.codegen.c import compile_plan, compile_pool, find_compiler, generate
from vtc.config import config
from vtc.ir.dims import Dim, Sym
from vtc.ir.graph import Fact, GraphBuilder, Program
from vtc.ir.ops.expr import Expr
from vtc.ir.saved import to_json
from vtc.ir.types import TensorType, f32
from vtc.passes.pipeline import Context
from vtc.runtime.archive import WEIGHTS, write
from vtc.runtime.cache import Store
from vtc.runtime.machine import cpu_targets
from vtc.runtime.signature import (
    CpuPlan,
    Entry,
    Form,
    FromInput,
    FromOutput,
    FromWeight,
    Manifest,
    NumberInput,
    TensorInput,
    Value,
    Variant,
    Weight,
)
from vtc.runtime.weights import Safetensors

B = Sym.var("B")
BATCH = Dim("B", 1, 64)


def target():
    """The target that this machine takes."""
    return cpu_targets()[0]


def positional(n):
    """The form of n positional arguments."""
    return Form("tuple", (), (Form("tuple", (), (None,) * n), Form("dict", (), ())))


def compiled(program):
    """The plan of a program as a package holds it, and its library."""
    store = Store(config().cache_dir)
    plan = generate(stage_program(program, "planned", Context()), Context().target)
    library = compile_plan(plan, find_compiler(), store).read_bytes()
    bare = replace(plan, host="", kernels=tuple(replace(k, source="") for k in plan.kernels))
    return to_json(bare).encode(), library


@cache
def pool():
    """The library with the threads."""
    return compile_pool(find_compiler(), Store(config().cache_dir)).read_bytes()


def added(members, stem, program):
    """What a manifest says of ``program``, whose files go to ``members``."""
    plan, library = compiled(program)
    files = CpuPlan(f"plans/{stem}.{target()}.json", f"lib/{target()}/{stem}.so")
    members |= {files.plan: plan, files.library: library, f"lib/{target()}/pool.so": pool()}
    return {target(): files}


def params(builder, types):
    """Parameters by name as expressions, with the nodes."""
    nodes = [builder.param(name, TensorType(f32, shape)) for name, shape in types.items()]
    return nodes, [Expr(builder, n) for n in nodes]


@cache
def mlp_program():
    b = GraphBuilder()
    shapes = {"x": (B, 64), "w1": (64, 32), "b1": (32,), "w2": (32, 10)}
    nodes, (x, w1, b1, w2) = params(b, shapes)
    h = (x.matmul(w1) + b1.broadcast_to((B, 32))).maximum(0)
    return Program((b.graph("mlp", nodes, [h.matmul(w2).value]),), (BATCH,))


def mlp_weights(seed=0):
    rng = np.random.default_rng(seed)
    shapes = {"w1": (64, 32), "b1": (32,), "w2": (32, 10)}
    return {name: rng.normal(size=s).astype("f4") for name, s in shapes.items()}


def mlp_manifest(members):
    weights = {name: Weight(f32, a.shape) for name, a in mlp_weights().items()}
    sources = (FromInput(0), *(FromWeight(name) for name in weights))
    plans = added(members, "forward.0", mlp_program())
    entry = Entry(
        dims=(BATCH,),
        inputs=(TensorInput("x", f32, (B, 64)),),
        tree=positional(1),
        results=(FromOutput(0),),
        result_tree=None,
        variants=(Variant("0", (BATCH,), sources, plans),),
    )
    return Manifest("0.1.0", "mlp", weights, {"forward": entry}, (target(),), {})


def mlp(path, weights=True):
    """A network of two layers: ``mlp_weights()`` are its weights."""
    members = {}
    manifest = mlp_manifest(members)
    if weights:
        members[WEIGHTS] = Safetensors(mlp_weights())
    return write(path, members, manifest)


@cache
def count_program():
    """total += scale * x; y = x + total, and x is overwritten by y."""
    b = GraphBuilder()
    nodes, (x, total, scale) = params(b, {"x": (4,), "total": (4,), "scale": ()})
    new = total + x * scale.broadcast_to((4,))
    graph = b.graph("count", nodes, [new.value, (x + new).value])
    return Program((graph,), facts=(Fact("x", overwritten=1), Fact("total", overwritten=0), Fact()))


@cache
def peek_program():
    b = GraphBuilder()
    nodes, (total,) = params(b, {"total": (4,)})
    return Program((b.graph("peek", nodes, [(total + 1).value]),), facts=(Fact("total"),))


def counter(path):
    """``count(x, scale=number)`` adds to a state that ``peek()`` shows."""
    members = {WEIGHTS: Safetensors({"total": np.arange(4, dtype="f4")})}
    sources = (FromInput(0), FromWeight("total"), FromInput(1))
    tree = Form("tuple", (), (Form("tuple", (), (None,)), Form("dict", ("scale",), (None,))))
    result = Form("dict", ("y", "total", "what"), (None,) * 3)
    count = Entry(
        dims=(),
        inputs=(TensorInput("x", f32, (4,), written=True), NumberInput("scale")),
        tree=tree,
        results=(FromInput(0), FromWeight("total"), Value("counted")),
        result_tree=result,
        variants=(Variant("0", (), sources, added(members, "count.0", count_program())),),
    )
    peek = Entry(
        dims=(),
        inputs=(),
        tree=positional(0),
        results=(FromOutput(0),),
        result_tree=None,
        variants=(
            Variant("0", (), (FromWeight("total"),), added(members, "peek.0", peek_program())),
        ),
    )
    weights = {"total": Weight(f32, (4,), state=True)}
    entries = {"count": count, "peek": peek}
    return write(path, members, Manifest("0.1.0", "counter", weights, entries, (target(),), {}))
