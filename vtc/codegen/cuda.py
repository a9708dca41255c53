"""Planned programs to Triton: one source per distinct kernel, launched over grids.

plan = generate(program, cuda(90))
binaries = compile_kernels(plan.kernels, target, store)
"""

from __future__ import annotations

from vtc.codegen.region import Region
from vtc.codegen.render import render, symbol
from vtc.codegen.steps import Made, planned
from vtc.codegen.triton.families import spec_of
from vtc.errors import CodegenError
from vtc.ir.graph import Program
from vtc.ir.plan import Plan, check
from vtc.ir.target import Target


def generate(program: Program, target: Target) -> Plan:
    """The plan of a ``planned`` program; CodegenError where Triton has no kernel for a region."""
    if target.kind != "cuda":
        raise CodegenError(f"generate: expected a cuda target, got {target.name} ({target.kind})")

    def made(region: Region) -> Made:
        spec = spec_of(region, target)
        name = symbol(spec.template, spec)
        source = render(spec.template, "py", symbol=name, spec=spec)
        return Made(name, source, grid=spec.grid, build=spec.head.build)

    return check(planned(program, target, made))
