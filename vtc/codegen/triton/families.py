"""The table: from the op that a region is about to the family of Triton kernels that computes it.

The twin of :mod:`vtc.codegen.families`, whose rules about roots hold here too. A family may have
several candidates for a region; all compute the same, and the tuner finds the fastest::

    first, *others = candidates_of(region, target)
    phases_of(region, target, first)              # as is phases_of(region, target)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, final

from vtc.codegen.components import components
from vtc.codegen.families import root
from vtc.codegen.region import Region
from vtc.codegen.triton.attention import attention
from vtc.codegen.triton.attention import candidates as attention_tiles
from vtc.codegen.triton.attention_gradient import attention_gradient
from vtc.codegen.triton.attention_gradient import candidates as gradient_tiles
from vtc.codegen.triton.horizontal import horizontal
from vtc.codegen.triton.matmul import candidates as matmul_candidates
from vtc.codegen.triton.matmul import matmul
from vtc.codegen.triton.phases import Phase, Spec
from vtc.codegen.triton.pointwise import BLOCK, WARPS, pointwise
from vtc.codegen.triton.pointwise import candidates as pointwise_candidates
from vtc.codegen.triton.reduction import candidates as reduction_candidates
from vtc.codegen.triton.reduction import reduction
from vtc.codegen.triton.scan import candidates as scan_choices
from vtc.codegen.triton.scan import scan
from vtc.codegen.triton.scatter import candidates as scatter_candidates
from vtc.codegen.triton.scatter import scatter
from vtc.codegen.triton.sort import candidates as sort_choices
from vtc.codegen.triton.sort import sort
from vtc.errors import CodegenError
from vtc.ir.graph import Node
from vtc.ir.ops.attention import AttentionGradient, ScaledDotProductAttention
from vtc.ir.ops.contract import Matmul
from vtc.ir.ops.index import Scattering
from vtc.ir.ops.reduce import ArgReduction, Reduction
from vtc.ir.ops.scan import Scan
from vtc.ir.ops.sort import Sorting
from vtc.ir.target import Target

Choice = Mapping[str, Any]
"""A candidate: keywords that its family takes."""


@final
@dataclass(frozen=True, slots=True)
class Family:
    """``make(region, root, target, **candidate)`` gives a spec or several phases; ``candidates``
    come best guess first.

    ``heavy``: they differ so much that they are worth measuring wherever time is short. ``meaning``
    names keywords that results depend on, which no measurement decides: they stay as in the first.
    """

    make: Callable[..., Spec | tuple[Phase, ...]]
    candidates: Callable[[Region, Node, Target], Sequence[Choice]]
    heavy: bool = False
    meaning: frozenset[str] = frozenset()


def phases_of(region: Region, target: Target, choice: Choice | None = None) -> tuple[Phase, ...]:
    """The launches that compute ``region``, by the first candidate if no other is given;
    CodegenError if no family has a kernel for it.
    """
    node = root(region.graph)
    if node is None:
        return _pointwise(region, **(choice or {}))
    found = family_of(node).make(region, node, target, **(choice or {}))
    return found if isinstance(found, tuple) else (Phase(found),)


def candidates_of(region: Region, target: Target) -> tuple[Choice, ...]:
    """What :func:`phases_of` may be given for ``region``, the best guess first; at least one."""
    node = root(region.graph)
    if node is None:
        return tuple(_blocks(region))
    family = family_of(node)
    found = list(family.candidates(region, node, target)) or [{}]
    same = [{k: c.get(k) for k in family.meaning} for c in found]
    return tuple(c for c, means in zip(found, same, strict=True) if means == same[0])


def is_heavy(region: Region) -> bool:
    """Whether the candidates of ``region`` are worth measuring wherever time is short."""
    node = root(region.graph)
    return node is not None and family_of(node).heavy


def family_of(node: Node) -> Family:
    """The family of regions about ``node``."""
    for parent, family in FAMILIES.items():
        if isinstance(node.op, parent):
            return family
    name = node.op.name if node.op else "param"
    raise CodegenError(f"{name}: expected an op with a kernel, got {node.name}: {node.type}")


_BLOCKS = ((BLOCK, WARPS), (2 * BLOCK, 2 * WARPS), (BLOCK // 2, WARPS), (2 * BLOCK, WARPS))


def _blocks(region: Region) -> Sequence[Choice]:
    if len(components(region.graph)) == 1:
        return pointwise_candidates(region)
    return [{"block": b, "warps": w} for b, w in _BLOCKS]


def _pointwise(region: Region, **choice: int) -> tuple[Phase, ...]:
    if len(components(region.graph)) == 1:
        return (Phase(pointwise(region, **choice)),)
    return horizontal(region, **choice)


def _keyed(
    name: str, tiles: Callable[[Region, Node, Target], Sequence[Any]]
) -> Callable[[Region, Node, Target], Sequence[Choice]]:
    """Candidates that are one value each as keywords, those nearest to the first before others."""

    def candidates(region: Region, node: Node, target: Target) -> Sequence[Choice]:
        first, *others = tiles(region, node, target)
        others.sort(key=lambda other: _distance(first, other))
        return [{name: tile} for tile in (first, *others)]

    return candidates


def _distance(a: Any, b: Any) -> float:
    """How many times in all the numbers of one are twice those of the other."""
    pairs = zip(_numbers(a), _numbers(b), strict=True)
    return sum(abs(math.log2(x / y)) for x, y in pairs)


def _numbers(value: Any) -> Iterator[int]:
    if is_dataclass(value):
        for f in fields(value):
            yield from _numbers(getattr(value, f.name))
    elif isinstance(value, tuple):
        for item in value:
            yield from _numbers(item)
    elif isinstance(value, int) and value > 0:
        yield value


_ROWS = Family(reduction, reduction_candidates)

# Parents of ops are abstract, which mypy does not let be a type[Op].
FAMILIES: dict[Any, Family] = {
    Reduction: _ROWS,
    ArgReduction: _ROWS,
    Matmul: Family(matmul, matmul_candidates, heavy=True, meaning=frozenset({"precision"})),
    ScaledDotProductAttention: Family(attention, _keyed("tile", attention_tiles), heavy=True),
    AttentionGradient: Family(attention_gradient, _keyed("tiles", gradient_tiles), heavy=True),
    Scattering: Family(scatter, scatter_candidates),
    Scan: Family(scan, _keyed("choice", scan_choices)),
    Sorting: Family(sort, _keyed("choice", sort_choices)),
}
