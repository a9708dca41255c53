"""Matrix products in Triton: which kernel computes one, and what else may be tried.

Most are sums of products of blocks on tensor cores (:mod:`~vtc.codegen.triton.matmul_tiles`). Where
one side is a vector the sum is one of blocks, so that the matrix is read as fast as memory is
(:mod:`~vtc.codegen.triton.matmul_vector`). Of integers, and along a short k, it is one of outer
products. Floats are added in f32 or f64.

f32 is multiplied either as it is (``ieee``) or, on tensor cores, in three products of its high and
low parts (``tf32x3``). Sums of steps of 32 are added in f32. The root mean square error against f64
of normal numbers, tensor cores emulated as cutting off what they add:

    k          32        64        256       1024      4096
    ieee       0.98e-7   1.4e-7    2.9e-7    5.6e-7    11.7e-7
    tf32x3     1.38e-7   1.4e-7    1.5e-7    1.8e-7    2.5e-7
"""

from __future__ import annotations

from typing import Any

from vtc.codegen.region import Elements, Region
from vtc.codegen.triton.matmul_blocks import (
    LEAST,
    Blocks,
    Sizes,
    Way,
    fitting,
    has_room,
    ranked,
    typical,
)
from vtc.codegen.triton.matmul_described import described
from vtc.codegen.triton.matmul_parts import moved, parts_of, staged, work
from vtc.codegen.triton.matmul_tiles import MatmulSpec, dots, outer
from vtc.codegen.triton.matmul_trace import Product, trace
from vtc.codegen.triton.matmul_vector import VectorSpec, vector, vector_blocks
from vtc.codegen.triton.pointwise import PointwiseSpec, empty
from vtc.codegen.triton.scalars import TritonScalars
from vtc.ir.dims import product
from vtc.ir.graph import Node
from vtc.ir.target import Target
from vtc.ir.types import DType, f32

LONG = 64
"""Length of k from which on three products on tensor cores are as exact as one in f32."""
MOST, DESCRIBED = 12, 6
"""Ways to try of one product, and blocks that are tried with descriptors too."""


def matmul(
    region: Region,
    root: Node,
    target: Target,
    *,
    blocks: Blocks | None = None,
    precision: str = "",
    descriptors: bool | None = None,
) -> MatmulSpec | VectorSpec | PointwiseSpec:
    """The spec of a region in which ``root``, a matrix product, is the one op that is not
    pointwise. What is not given is that of the first candidate; with ``descriptors``, operands are
    loaded through them. ``descriptors`` go with ``blocks``: with blocks alone there are none.
    """
    if 0 in region.shape(root):
        return empty(Elements(region, TritonScalars))
    look = trace(region, root, stored=False, ragged=False)
    if 1 in look.sizes[:2]:
        return vector(region, root, blocks or vector_blocks(look, target)[0])
    if not _has_dot(look):
        return outer(look, blocks)
    if blocks is None or not precision:
        best = candidates(region, root, target)[0]
        if blocks is None and descriptors is None:
            descriptors = best.get("descriptors", False)
        blocks, precision = blocks or best["blocks"], precision or best["precision"]
    return dots(region, root, blocks, precision, target, descriptors=bool(descriptors))


def candidates(region: Region, root: Node, target: Target) -> list[dict[str, Any]]:
    """What :func:`matmul` may be given, the best guess first."""
    if 0 in region.shape(root):
        return [{}]
    look = trace(region, root, stored=False, ragged=False)
    if 1 in look.sizes[:2]:
        return [{"blocks": b} for b in vector_blocks(look, target)]
    if not _has_dot(look):
        return [{}]
    batch = product(v.extent for v in look.batch)
    m, n, k = map(typical, look.sizes)
    sizes = Sizes(typical(batch), m, n, k, moved(look), work(look))
    stored = trace(region, root, stored=True, ragged=False)
    found: list[dict[str, Any]] = []
    for precision in _precisions(look.multiplied, sizes.k):
        for way in _ways(stored, sizes, precision, target):
            more = {"descriptors": True} if way.described else {}
            found.append({"blocks": way.blocks, "precision": precision, **more})
    return found


def _ways(p: Product, sizes: Sizes, precision: str, target: Target) -> list[Way]:
    """The best of all, of ``p`` as stored; last, one that takes little of the GPU."""
    dtype = p.multiplied
    fit = fitting(sizes, dtype, target)
    plain = ranked([Way(b) for b in fit], sizes, dtype, precision, target)[:MOST]
    both = [*plain]
    for way in plain[:DESCRIBED]:
        b = way.blocks
        if described(p, b, target) is not None:
            other = Way(b, True, staged(p, b, parts_of(p, b, precision, target)))
            if has_room(other, dtype, target):
                both.append(other)
    least = Way(min(fit, key=lambda b: b.stages * (b.m + b.n) * b.k))
    best = ranked(both, sizes, dtype, precision, target)[:MOST]
    return best if least in best else [*best, least]


def _precisions(dtype: DType, k: int) -> tuple[str, ...]:
    if dtype is not f32:
        return ("ieee",)
    return ("tf32x3", "ieee") if k >= LONG else ("ieee", "tf32x3")


def _has_dot(p: Product) -> bool:
    """Whether ``tl.dot`` pays: k is at least its least block."""
    k = p.sizes[2]
    return p.dtype.kind == "float" and (not isinstance(k, int) or k >= LEAST)
