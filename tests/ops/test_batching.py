"""Every op for many examples at once equals the op on one example after another."""

import numpy as np
import pytest
from cases import samples_of

from vtc.errors import TypeCheckError
from vtc.ir.dims import Sym
from vtc.ir.evaluate import ArrayBuilder
from vtc.ir.op import REGISTRY, Op
from vtc.ir.ops.batch import apply_batched
from vtc.ir.ops.composite import Composite
from vtc.ir.ops.expr import Expr

# Ops without a method. The first run example by example, the others are not there,
# or batched elsewhere.
BY_EXAMPLE = {
    "advance": "a generator has one state; vmap spreads its draws instead",
    "bits": "likewise",
    "normal": "likewise",
    "uniform": "likewise",
}
ELSEWHERE = {
    "call": "names a region of a program that is fused: long after vmap",
    "cond": "names graphs: see ir/ops/batch_flow.py and tests/null/test_func_flow.py",
    "for_loop": "likewise",
    "gradient": "differentiate expands it before anything is batched",
    "item": "the sweep takes results apart itself",
    "while_loop": "likewise",
}
WITHOUT_INPUTS = {"full", "iota"}
BATCHED = sorted(set(REGISTRY) - ELSEWHERE.keys() - WITHOUT_INPUTS)


def has_rule(name):
    """Whether the class of an op says how it is batched."""
    kind = REGISTRY[name]
    own = kind.lifted is not Op.lifted or kind.batch is not Op.batch
    return name not in BY_EXAMPLE and own


def test_every_op_has_a_rule_but_those_listed():
    without = {name for name in REGISTRY if not has_rule(name)}
    assert without == BY_EXAMPLE.keys() | ELSEWHERE.keys() | WITHOUT_INPUTS
    assert {n for n in WITHOUT_INPUTS if any(s.inputs for s in samples_of(n))} == set()


@pytest.mark.parametrize("name", BATCHED)
def test_batched_op_equals_the_op_on_each_example(name):
    for sample in samples_of(name):
        for which in patterns(sample):
            check(sample.op, sample.inputs, which, 2)


@pytest.mark.parametrize("name", BATCHED)
def test_a_batch_may_be_empty(name):
    sample = next((s for s in samples_of(name) if s.inputs), None)
    if sample is not None:
        check(sample.op, sample.inputs, (True,) * len(sample.inputs), 0)


@pytest.mark.parametrize("name", BATCHED)
def test_a_lifted_composite_stays_whole(name):
    """The rule of a composite that is one op on one more axis applies that op."""
    kind = REGISTRY[name]
    if not issubclass(kind, Composite) or kind.lifted is Op.lifted or kind.draws:
        return
    applied = Recorder()
    for sample in samples_of(name):
        inputs = tuple(Expr(applied, np.stack([x, x])) for x in sample.inputs)
        apply_batched(sample.op, 2, inputs, (True,) * len(inputs))
    assert name in applied.names


class Recorder(ArrayBuilder):
    """Remembers what was applied."""

    def __init__(self):
        object.__setattr__(self, "names", [])
        super().__init__()

    def apply(self, op, *inputs, hint=""):
        self.names.append(op.name)
        return super().apply(op, *inputs, hint=hint)


def patterns(sample):
    """Which inputs have the axis: all, and each alone; of a generator's state there is one."""
    count = len(sample.inputs)
    found = [tuple(i == k for i in range(count)) for k in range(count)] if count > 1 else []
    return [p for p in [(True,) * count, *found] if any(p)]


def check(op, inputs, which, size):
    b = ArrayBuilder()
    examples = [[other(x, k) if w else x for x, w in zip(inputs, which, strict=True)]
                for k in range(size)]  # fmt: skip
    given = tuple(
        Expr(b, np.stack([e[i] for e in examples]) if size else np.zeros((0, *x.shape), x.dtype))
        if w
        else Expr(b, x)
        for i, (x, w) in enumerate(zip(inputs, which, strict=True))
    )
    got = results(apply_batched(op, size, given, which))
    if not size:
        one = results(Expr(b, b.apply(op, *inputs)))
        assert [g.shape for g in got] == [(0, *o.shape) for o in one]
        assert [g.dtype for g in got] == [o.dtype for o in one]
        return
    want = [results(Expr(b, b.apply(op, *e))) for e in examples]
    for i, g in enumerate(got):
        w = np.stack([r[i] for r in want])
        assert g.dtype == w.dtype
        assert g.shape == w.shape
        g, w = (a.astype(np.float64) if a.dtype.kind in "fV" else a for a in (g, w))
        np.testing.assert_allclose(g, w, rtol=2e-5, atol=2e-5, err_msg=f"{op}, batched: {which}")


def other(x, k):
    """Example number ``k``: the first is ``x`` itself, the second its rows the other way round."""
    return np.ascontiguousarray(x[::-1]) if k and x.ndim else x


def results(out):
    """Arrays, of one result or several."""
    if isinstance(out, tuple):
        return [e.value for e in out]
    return list(out.value) if isinstance(out.value, tuple) else [out.value]


def test_an_op_that_runs_example_by_example_needs_to_know_how_many():
    b = ArrayBuilder()
    state = Expr(b, np.zeros((2, 2), np.int64))
    op = samples_of("uniform")[0].op
    with pytest.raises(TypeCheckError, match="example by example"):
        apply_batched(op, Sym.var("B"), (state,), (True,))
