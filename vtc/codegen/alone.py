"""A region as a program by itself: what it takes to run it alone, at given sizes.

    sizes = typical_sizes(region, program.dims)             # {"B": 1024}
    plan = plan_alone(region, kernels_of(region, target), sizes, target)

All sizes of such a plan are numbers. Its outputs lie in inputs, so that they stay where they are.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from vtc.codegen.region import Region
from vtc.codegen.steps import Made
from vtc.codegen.triton.matmul_blocks import TYPICAL
from vtc.ir.dims import Dim, Size, substitute
from vtc.ir.plan import Arena, Buffer, Input, Kernel, Launch, Output, Plan, Ref, check
from vtc.ir.target import Target

ROOM = 1 << 28
"""Bytes of a region with symbols that are enough."""


def plan_alone(
    region: Region, made: Sequence[Made], sizes: Mapping[str, int], target: Target
) -> Plan:
    """``made``, the kernels of ``region``, on buffers of these ``sizes`` of its symbols."""
    graph = region.graph
    params, outputs = (
        [Buffer(n.tensor.dtype, tuple(_number(s, sizes) for s in n.tensor.shape)) for n in nodes]
        for nodes in (graph.params, graph.outputs)
    )
    over = [Buffer(b.dtype, b.shape, overwritten=k) for k, b in enumerate(outputs)]
    refs: list[Ref] = [*map(Input, range(len(params))), *map(Output, range(len(outputs)))]
    kernels = {k.symbol: k for k in kernels_in(region, made)}
    steps, arena = [], 0
    for m in made:
        symbols = region.symbols if m.symbols is None else m.symbols
        given = tuple(sizes[s] for s in symbols)
        own = {f"n{i}": n for i, n in enumerate(given)}
        grid = tuple(_number(n, own) for n in m.grid)
        args = list(refs) if m.args is None else [refs[k] for k in m.args]
        at = 0
        for nbytes in m.scratch:  # it lasts until the last kernel: all begin at the same place
            args.append(Arena(at))
            at += (_number(nbytes, own) + 63) // 64 * 64
        arena = max(arena, at)
        steps.append(Launch(kernels[m.symbol].name, tuple(args), given, graph.name, 0, grid))
    return check(
        Plan(
            name=graph.name,
            dims=(),
            inputs=(*params, *over),
            outputs=tuple(outputs),
            arena=arena,
            kernels=tuple(kernels.values()),
            steps=tuple(steps),
            target=target.name,
        )
    )


def typical_sizes(region: Region, dims: Sequence[Dim]) -> dict[str, int]:
    """Sizes for the symbols of ``region``: typical ones, halved while that takes much memory."""
    declared = {d.name: d for d in dims}
    mine = [declared[s] for s in region.symbols]
    nodes = (*region.graph.params, *region.graph.outputs)
    around = TYPICAL
    while True:
        values = {d.name: _near(d, around) for d in mine}
        if around == 1 or sum(_number(n.tensor.nbytes, values) for n in nodes) <= ROOM:
            return values
        around //= 2


def kernels_in(region: Region, made: Sequence[Made]) -> Iterator[Kernel]:
    """The distinct kernels among ``made``; the first has the name of the region."""
    nodes = region.graph.nodes
    note = ", ".join(dict.fromkeys(str(n.loc) for n in nodes if n.loc is not None))
    found: dict[str, None] = {}
    for k, m in enumerate(made):
        if m.symbol not in found:
            found[m.symbol] = None
            name = f"{region.graph.name}.{k}" if k else region.graph.name
            yield Kernel(name, m.symbol, m.source, note, m.build)


def _near(dim: Dim, around: int) -> int:
    size = max(dim.min, 1, around if dim.max is None else min(around, dim.max))
    up = -(-size // dim.multiple) * dim.multiple
    return up if dim.max is None or up <= dim.max else up - dim.multiple


def _number(size: Size, values: Mapping[str, int]) -> int:
    found = substitute(size, dict(values))
    assert isinstance(found, int)
    return found
