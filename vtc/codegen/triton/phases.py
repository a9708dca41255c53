"""What a region becomes: one launch, or several that run one after the other.

A scatter is two phases, one that copies its first input and one that adds to the copy::

    (Phase(PointwiseSpec(...), (0, 3), (), copies=0), Phase(ScatterSpec(...)))
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, final

from vtc.codegen.region import Region
from vtc.codegen.triton.head import Head
from vtc.ir.dims import Size
from vtc.ir.graph import Graph, Node


class Spec(Protocol):
    """What a template may mention, and the grid of the launch in the sizes of the kernel."""

    @property
    def template(self) -> str:
        """``<template>.py.jinja`` prints it."""

    @property
    def head(self) -> Head:
        """The signature."""

    @property
    def grid(self) -> tuple[Size, ...]:
        """How many programs there are along each axis."""


@final
@dataclass(frozen=True, slots=True)
class Phase:
    """A launch. ``args``, ``symbols``, ``copies`` and ``scratch`` are those of
    :class:`~vtc.codegen.steps.Made`.
    """

    spec: Spec
    args: tuple[int, ...] | None = None
    symbols: tuple[str, ...] | None = None
    copies: int | None = None
    scratch: tuple[Size, ...] = ()


def cut_out(region: Region, value: Node) -> tuple[Region, tuple[int, ...]]:
    """What computes ``value`` as a region by itself, and the params that it takes."""
    graph = region.graph
    needed = {value}
    stack = [value]
    while stack:
        new = [i for i in stack.pop().inputs if i not in needed]
        needed.update(new)
        stack += new
    params = tuple(k for k, p in enumerate(graph.params) if p in needed)
    own = Graph(
        graph.name,
        tuple(graph.params[k] for k in params),
        tuple(n for n in graph.nodes if n in needed),
        (value,),
    )
    return Region.of(own, ranges(region)), params


def ranges(region: Region) -> dict[str, tuple[int, int | None]]:
    """The ranges of the symbols of ``region`` as the program calls them."""
    return {s: region.ranges[f"n{k}"] for k, s in enumerate(region.symbols)}
