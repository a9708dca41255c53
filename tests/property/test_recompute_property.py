"""Computing values again keeps what random programs mean."""

from hypothesis import given
from hypothesis import strategies as st
from programs import inputs, programs
from test_passes_property import KEEPS_NONE, assert_same, with_gradient

from vtc.ir.target import Target
from vtc.ir.text import parse, show
from vtc.ir.verify import verify
from vtc.passes import PIPELINE
from vtc.passes.pipeline import Context, Options, run
from vtc.passes.recompute import recompute

EAGERLY = Context(Target(name="none", kind="cpu"), Options(recompute=0))


@given(programs(nodes=8, callees=0), st.randoms(use_true_random=False))
def test_recompute_keeps_meaning(program, random):
    lowered = run(with_gradient(program, random), PIPELINE[:3], KEEPS_NONE)
    after = recompute(lowered, EAGERLY)
    verify(after)
    assert after.facts == lowered.facts
    assert parse(show(after)) == after
    assert_same(lowered, after, inputs(lowered))
