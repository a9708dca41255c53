"""Planned programs to Triton: one source per distinct kernel, launched over grids.

plan = generate(program, cuda(90))
binaries = compile_kernels(plan.kernels, target, store)

Which candidate of its family computes a region, :mod:`vtc.codegen.tune` may have found out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from vtc.codegen.region import Region
from vtc.codegen.render import render, symbol
from vtc.codegen.steps import Made, planned
from vtc.codegen.triton.families import Choice, phases_of
from vtc.codegen.triton.phases import Phase
from vtc.errors import CodegenError
from vtc.ir.graph import Program
from vtc.ir.plan import Plan, check
from vtc.ir.target import Target


def generate(
    program: Program, target: Target, kernels: Mapping[str, Sequence[Made]] | None = None
) -> Plan:
    """The plan of a ``planned`` program; CodegenError where Triton has no kernel for a region.

    ``kernels`` are those of regions by name; others have those of their first candidate.
    """
    if target.kind != "cuda":
        raise CodegenError(f"generate: expected a cuda target, got {target.name} ({target.kind})")

    def made(region: Region) -> Sequence[Made]:
        known = None if kernels is None else kernels.get(region.graph.name)
        return kernels_of(region, target) if known is None else known

    return check(planned(program, target, made))


def kernels_of(region: Region, target: Target, choice: Choice | None = None) -> tuple[Made, ...]:
    """The kernels of ``region``, by its first candidate if no other is given."""
    return tuple(map(_made, phases_of(region, target, choice)))


def _made(phase: Phase) -> Made:
    spec = phase.spec
    name = symbol(spec.template, spec)
    return Made(
        name,
        render(spec.template, "py", symbol=name, spec=spec),
        grid=spec.grid,
        build=spec.head.build,
        args=phase.args,
        symbols=phase.symbols,
        copies=phase.copies,
        scratch=phase.scratch,
    )
