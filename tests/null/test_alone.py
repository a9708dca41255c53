"""Regions measured by themselves have all the memory that their kernels take."""

import vtc
import vtc.nn.functional as F
from vtc.build import stage_program
from vtc.codegen.alone import plan_alone, typical_sizes
from vtc.codegen.cuda import generate, kernels_of
from vtc.codegen.region import Region
from vtc.codegen.triton.families import candidates_of
from vtc.ir.plan import Arena
from vtc.ir.target import cuda
from vtc.passes.pipeline import Context

TARGET = cuda(90)


def test_scratch_memory_of_several_launches():
    q, k, v = vtc.randn(1, 8, 1, 64), vtc.randn(1, 2, 2048, 64), vtc.randn(1, 2, 2048, 64)

    def attend(q, k, v):
        return F.scaled_dot_product_attention(q, k, v, enable_gqa=True)

    captured = vtc.compile(attend).lower(q, k, v).program("captured")
    program = stage_program(captured, "planned", Context(TARGET))
    (call,) = [n for n in program.entry.nodes if n.op.name == "call"]
    region = Region.of(program.by_name[call.op.graph], program.ranges)
    whole = generate(program, TARGET)
    for choice in candidates_of(region, TARGET):
        made = kernels_of(region, TARGET, choice)
        plan = plan_alone(region, made, typical_sizes(region, program.dims), TARGET)
        arenas = [[a for a in s.args if isinstance(a, Arena)] for s in plan.steps]
        assert list(map(len, arenas)) == [len(m.scratch) for m in made]
        scratch = [a for some in arenas for a in some]
        assert (plan.arena > 0) is bool(scratch)
        assert all(a.offset < plan.arena for a in scratch)
    first = plan_alone(region, kernels_of(region, TARGET), {}, TARGET)
    assert len(first.steps) == 2
    assert first.arena == whole.arena
