"""Packages for the GPU of ``native/stub_cuda.c``, whose kernels are functions of the host.

Their vectors have ``B`` elements. ``make(folder)`` writes them all.
"""

from dataclasses import replace

import numpy as np
from handmade import positional

from vtc.ir.dims import Dim, Sym, mod
from vtc.ir.plan import (
    Arena,
    Buffer,
    Build,
    Copy,
    Input,
    Kernel,
    Launch,
    Output,
    Plan,
    check,
    flat,
)
from vtc.ir.saved import to_json
from vtc.ir.types import f32, i64
from vtc.runtime.archive import WEIGHTS, write
from vtc.runtime.signature import (
    Cubin,
    CudaPlan,
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
BATCH = Dim("B", 0, 1 << 20)
VECTOR = Buffer(f32, (B,))
CUBIN = b"fake cubin".ljust(64, b"\0")
GATHERED = "model.py:9 in forward"


def kernel(name, **flags):
    return Kernel(name, f"{name}_symbol", "", "", Build(signature=(), **flags))


KERNELS = (
    kernel("add_one"), kernel("double"), kernel("add"), kernel("step"), kernel("through"),
    kernel("gather", checks=True), kernel("add_all", table=True), kernel("below"),
)  # fmt: skip
FACTS = {"through_symbol": (0, 64, 64), "add_symbol": (60_000, 0, 1)}


def run(name, *args, n=B, grid=(1,), note=""):
    return Launch(name, args, (n,), note, grid=grid)


def room(k):
    """The place of the k-th vector in an arena."""
    return (B * 4 + 63) // 64 * 64 * k


def plan(inputs, outputs, steps, arena=0, after=()):
    used = {s.kernel for s in flat(steps) if isinstance(s, Launch)}
    kernels = tuple(k for k in KERNELS if k.name in used)
    made = Plan("small", (BATCH,), tuple(inputs), tuple(outputs), arena, kernels, tuple(steps))
    return check(replace(made, target="sm_90", after=after))


def entry(members, name, plan, inputs, results, params=None, arch="sm_90"):
    """An entry whose params are its inputs, unless others are given."""
    sources = tuple(map(FromInput, range(len(inputs)))) if params is None else params
    files = {}
    for k in plan.kernels:
        file = f"cubin/{arch}/{k.symbol}.cubin"
        files[k.symbol] = Cubin(file, 4, *FACTS.get(k.symbol, (0, 0, 1)))
        members[file] = CUBIN
    members[f"plans/{name}.0.{arch}.json"] = to_json(plan).encode()
    plans = {arch: CudaPlan(f"plans/{name}.0.{arch}.json", files)}
    tree = None if len(results) == 1 else Form("tuple", (), (None,) * len(results))
    dims = (BATCH,)
    variants = (Variant("0", dims, sources, plans),)
    form = positional(len(inputs))
    return Entry(dims, tuple(inputs), form, tuple(results), tree, variants)


def x(name="x", **about):
    return TensorInput(name, f32, (B,), **about)


def chained(members):
    """y = 2 * (x + 1), z = x + y."""
    steps = [
        run("add_one", Input(0), Arena(0)),
        run("double", Arena(0), Output(0)),
        run("add", Input(0), Output(0), Output(1)),
    ]
    made = plan([VECTOR], [VECTOR] * 2, steps, room(1))
    return entry(members, "chained", made, [x()], [FromOutput(0), FromOutput(1)])


def forked(members):
    """y = (x + 1) + 2 * x, from two steps that wait for nothing; a third runs beside the last."""
    steps = [
        run("add_one", Input(0), Arena(0)),
        run("double", Input(0), Arena(room(1))),
        run("add", Arena(0), Arena(room(1)), Output(0)),
        Copy(Arena(room(1)), Output(1), B * 4),
    ]
    made = plan([VECTOR], [VECTOR] * 2, steps, room(2), ((), (), (0, 1), (1,)))
    return entry(members, "forked", made, [x()], [FromOutput(0), FromOutput(1)])


def skipped(members):
    """y = 2 * (x + 1), with a step between that has no blocks."""
    steps = [
        run("add_one", Input(0), Arena(0)),
        run("double", Arena(0), Arena(0), grid=(0,)),
        run("double", Arena(0), Output(0)),
    ]
    made = plan([VECTOR], [VECTOR], steps, room(1))
    return entry(members, "skipped", made, [x()], [FromOutput(0)])


def copied(members):
    steps = [run("add_one", Input(0), Arena(0)), Copy(Arena(0), Output(0), B * 4)]
    made = plan([VECTOR], [VECTOR], steps, room(1))
    return entry(members, "copied", made, [x()], [FromOutput(0)])


def updated(members):
    """w -= rate * g, where w is held; gives w itself, 2 * w, and what is fixed."""
    inputs = [Buffer(f32, (B,), "w", 0), Buffer(f32, (B,), "g"), Buffer(f32, (), "rate")]
    steps = [
        run("step", Input(0), Input(1), Input(2), Output(0)),
        run("double", Output(0), Output(1)),
    ]
    made = plan(inputs, [VECTOR] * 2, steps)
    params = FromWeight("w"), FromInput(0), FromInput(1)
    results = FromWeight("w"), FromOutput(1), Value(3)
    return entry(members, "updated", made, [x("g"), NumberInput("rate")], results, params)


def written(members):
    """x += 1 in the caller's memory; gives x."""
    made = plan([Buffer(f32, (B,), "x", 0)], [VECTOR], [run("add_one", Input(0), Output(0))])
    return entry(members, "written", made, [x(written=True)], [FromInput(0)])


def gathered(members):
    inputs = [VECTOR, Buffer(i64, (B,), "index")]
    made = plan(inputs, [VECTOR], [run("gather", Input(0), Input(1), Output(0), note=GATHERED)])
    given = [x(), TensorInput("index", i64, (B,))]
    return entry(members, "gathered", made, given, [FromOutput(0)])


def tabled(members):
    """y = x + (x + 1), where the last kernel takes its pointers from a table."""
    steps = [
        run("add_one", Input(0), Arena(0)),
        run("add_all", Input(0), Arena(0), Output(0)),
    ]
    made = plan([VECTOR], [VECTOR], steps, room(1))
    return entry(members, "tabled", made, [x()], [FromOutput(0)])


def table_stays(members):
    """w = x + y, where all that the table names stays where it is; then x + 2 in the arena."""
    inputs = [Buffer(f32, (B,), "w", 0), VECTOR, VECTOR]
    steps = [
        run("add_all", Input(1), Input(2), Output(0)),
        run("add_one", Input(1), Arena(0)),
        run("add_one", Arena(0), Arena(0)),
    ]
    made = plan(inputs, [VECTOR], steps, room(1))
    given = [x("w", written=True), x(), x("y")]
    return entry(members, "table_stays", made, given, [FromInput(0)])


def through(members):
    """y = x by way of scratch memory."""
    made = plan([VECTOR], [VECTOR], [run("through", Input(0), Output(0), grid=(3, 1))])
    return entry(members, "through", made, [x()], [FromOutput(0)])


def huge(members):
    """More blocks along the second axis than there can be."""
    made = plan([VECTOR], [VECTOR], [run("add_one", Input(0), Output(0), grid=(1, B * 65_536))])
    return entry(members, "huge", made, [x()], [FromOutput(0)])


def outside(members):
    """A copy that ends outside of its arena where B is odd: not at the ends of its range."""
    steps = [Copy(Arena(room(1) * mod(B, 2)), Output(0), B * 4)]
    made = plan([VECTOR], [VECTOR], steps, room(1))
    return entry(members, "outside", made, [x()], [FromOutput(0)])


ENTRIES = (
    chained, forked, skipped, copied, updated, written, gathered, tabled, table_stays, through,
    huge, outside,
)  # fmt: skip


def make(folder):
    """Write the packages."""
    members = {WEIGHTS: Safetensors({"w": np.arange(4, dtype="f4")})}
    entries = {build.__name__: build(members) for build in ENTRIES}
    weights = {"w": Weight(f32, (4,), state=True)}
    write(folder / "gpu.vtc", members, Manifest("0", "gpu", weights, entries, ("sm_90",), {}))
    for arch in ("sm_75", "sm_90"):
        members = {}
        made = plan([VECTOR], [VECTOR], [run("add_one", Input(0), Output(0))])
        one = entry(members, "one", made, [x()], [FromOutput(0)], arch=arch)
        if arch == "sm_90":
            members["cubin/sm_90/add_one_symbol.cubin"] = b"no cubin".ljust(64, b"\0")
        manifest = Manifest("0", "one", {}, {"one": one}, (arch,), {})
        write(folder / f"{arch}.vtc", members, manifest)
