"""Computing values again: the pass on its own, and ``vtc.checkpoint`` eager, traced and nested."""

import cProfile

import numpy as np
import pytest

import vtc
import vtc.nn as nn
import vtc.nn.functional as F
from vtc.errors import ArgumentError, GradientError, VersionError
from vtc.frontend.autograd import ENGINE
from vtc.frontend.sweep import tape_below
from vtc.frontend.trace import Request, trace
from vtc.frontend.tree import flatten
from vtc.ir.evaluate import evaluate
from vtc.ir.ops.control import After, Call, Checkpoint
from vtc.ir.text import parse
from vtc.ir.types import tensors
from vtc.ir.verify import verify
from vtc.passes import PIPELINE
from vtc.passes.check import random_inputs
from vtc.passes.pipeline import Context, Options, run
from vtc.passes.recompute import recompute

WITHOUT = Context(options=Options(recompute=None))
EAGERLY = Context(options=Options(recompute=0))


def identity(fn, *args, **kwargs):
    return fn(*args, **kwargs)


BOTH = (identity, vtc.checkpoint)


class Block(nn.Module):
    def __init__(self, d: int) -> None:
        self.norm, self.up, self.down = nn.LayerNorm(d), nn.Linear(d, 4 * d), nn.Linear(4 * d, d)

    def forward(self, x: vtc.Tensor) -> vtc.Tensor:
        return x + self.down(F.dropout(F.gelu(self.up(self.norm(x))), 0.5))


class Net(nn.Module):
    def __init__(self, layers: int, d: int, call) -> None:
        self.blocks = nn.ModuleList([Block(d) for _ in range(layers)])
        self.call = call

    def forward(self, x: vtc.Tensor) -> vtc.Tensor:
        for block in self.blocks:
            x = self.call(block, x)
        return x


def net(call, layers=3, d=8):
    vtc.manual_seed(0)
    return Net(layers, d, call)


def data(*shape, seed=0):
    return vtc.tensor(np.random.default_rng(seed).normal(size=shape).astype("f4"))


def loss_of(y):
    return (y * y).mean()


def eager(call, model):
    loss = loss_of(model(data(4, 8)))
    loss.backward()
    return loss


def pair(call, model):
    loss = loss_of(vtc.compile(model)(data(4, 8)))
    loss.backward()
    return loss


def whole(call, model):
    @vtc.compile
    def step(x):
        loss = loss_of(model(x))
        loss.backward()
        return loss

    return step(data(4, 8))


def results(way, call):
    """Loss, gradients and the state of the generator after one step."""
    model = net(call)
    vtc.manual_seed(3)
    loss = way(call, model)
    grads = [p.grad.numpy() for p in model.parameters()]
    return [loss.detach().numpy(), *grads, vtc.get_rng_state().numpy()]


@pytest.mark.parametrize("way", [eager, pair, whole])
def test_gradients_are_those_without(way):
    plain, again = (results(way, call) for call in BOTH)
    for a, b in zip(plain, again, strict=True):
        if way is eager:
            np.testing.assert_array_equal(a, b)
        else:
            np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-6)


# eager


def kept_bytes(loss):
    """What the tape of ``loss`` holds."""
    saved = [s for r in tape_below([ENGINE.key_of(loss)]) for s in (*r.inputs, r.out)]
    return sum({id(s.array): s.array.nbytes for s in saved if s.array is not None}.values())


def test_the_tape_keeps_only_inputs():
    plain, again = (kept_bytes(loss_of(net(call, 3, 32)(data(64, 32)))) for call in BOTH)
    weights = sum(p.numpy().nbytes for p in net(identity, 3, 32).requires_grad_(False).parameters())
    assert again - weights < (plain - weights) / 4


def test_a_segment_forgets_again_when_the_sweep_has_passed_it():
    x = data(4).requires_grad_()
    y = vtc.checkpoint(lambda x: x.sin().exp(), x)
    for _ in range(2):
        y.sum().backward(retain_graph=True)
        assert y._record.segment.forgotten
    want = np.exp(np.sin(x.detach().numpy())) * np.cos(x.detach().numpy())
    np.testing.assert_allclose(x.grad.numpy(), 2 * want, rtol=1e-6)


def nested(call):
    def inner(x, w):
        return (x @ w).tanh()

    def outer(x, w):
        return call(inner, call(inner, x, w) + x, w).sin()

    return lambda x, w: call(outer, x, w)


@pytest.mark.parametrize("compiled", [False, True])
def test_nested(compiled):
    found = []
    for call in BOTH:
        x, w = data(3, 3).requires_grad_(), data(3, 3, seed=1).requires_grad_()
        fn = nested(call)
        (vtc.compile(fn) if compiled else fn)(x, w).sum().backward()
        found.append((x.grad.numpy(), w.grad.numpy()))
    for a, b in zip(*found, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5 if compiled else 0)


def test_trees_keywords_and_other_arguments():
    def fn(pair, scale, *, shift, flag):
        a, b = pair["a"], pair["b"]
        assert flag == "yes"
        return {"sum": a * scale + b, "list": [a.exp() + shift, 7]}

    a, b = data(3).requires_grad_(), data(3, seed=1)
    out = vtc.checkpoint(fn, {"a": a, "b": b}, 2.0, shift=b, flag="yes")
    assert out["list"][1] == 7
    (out["sum"].sum() + out["list"][0].sum()).backward()
    np.testing.assert_allclose(a.grad.numpy(), 2 + np.exp(a.detach().numpy()), rtol=1e-6)


def test_several_results_of_one_op():
    x = data(4, 6).requires_grad_()
    parts = vtc.checkpoint(lambda x: x.exp().split(2, dim=1), x)
    sum((k + 1) * p.sum() for k, p in enumerate(parts)).backward()
    weight = np.repeat([1.0, 2.0, 3.0], 2)
    np.testing.assert_allclose(x.grad.numpy(), np.exp(x.detach().numpy()) * weight, rtol=1e-6)


def test_without_gradients_it_is_a_call():
    calls = []
    with vtc.no_grad():
        y = vtc.checkpoint(lambda x: calls.append(1) or x + 1, data(2).requires_grad_())
    assert len(calls) == 1
    assert not y.requires_grad


def test_gradients_of_gradients():
    x = data(4)
    found = []
    for call in BOTH:
        second = vtc.grad(lambda x, call=call: vtc.grad(lambda x: call(loss, x))(x).sum())
        found.append(second(x).numpy())
    np.testing.assert_array_equal(*found)


def loss(x):
    return (x.sin() * x).sum()


def test_random_numbers_come_from_any_generator():
    for generator in (None, vtc.Generator()):
        x = vtc.ones(64).requires_grad_()
        y = vtc.checkpoint(lambda x, g=generator: (x * vtc.randn(64, generator=g)).exp(), x)
        noise = np.log(y.detach().numpy())
        vtc.rand(3, generator=generator)
        before = (generator or vtc.default_generator()).get_state().numpy()
        y.sum().backward()
        np.testing.assert_allclose(x.grad.numpy(), y.detach().numpy() * noise, rtol=1e-4)
        after = (generator or vtc.default_generator()).get_state().numpy()
        np.testing.assert_array_equal(before, after)


def test_what_it_writes_is_written_once():
    totals = [vtc.zeros(3) for _ in BOTH]

    def normalized(x, total):
        with vtc.no_grad():
            total.mul_(0.5).add_(x.detach())
        return (x * total).sin()

    grads = []
    for call, total in zip(BOTH, totals, strict=True):
        for seed in (0, 1):
            x = data(3, seed=seed).requires_grad_()
            y = call(lambda x, t=total: normalized(x, t.detach()).square().sum(), x)
            if seed == 0:
                first = y
        del first
        y.backward()
        grads.append(x.grad.numpy())
    np.testing.assert_array_equal(totals[0].numpy(), totals[1].numpy())
    np.testing.assert_array_equal(*grads)


def test_a_compiled_function_inside():
    step = vtc.compile(lambda x: F.dropout(x.sin(), 0.5).exp())
    for _ in range(3):
        x = data(32).requires_grad_()
        y = vtc.checkpoint(step, x)
        y.sum().backward()
        kept = y.detach().numpy() != 1
        want = np.where(kept, 2 * np.cos(x.detach().numpy()) * y.detach().numpy(), 0)
        np.testing.assert_allclose(x.grad.numpy(), want, rtol=1e-4, atol=1e-6)


def test_what_was_changed_in_place_is_refused():
    x, b = data(4).requires_grad_(), data(4)
    y = vtc.checkpoint(lambda x: (x + b).sin(), x)
    b.add_(1)
    with pytest.raises(VersionError, match="changed in place"):
        y.sum().backward()


def test_a_result_may_be_changed_in_place():
    x = data(4).requires_grad_()
    y = vtc.checkpoint(lambda x: (x * 2).sin(), x)
    y.mul_(3)
    y.sum().backward()
    np.testing.assert_allclose(x.grad.numpy(), 6 * np.cos(2 * x.detach().numpy()), rtol=1e-6)


def test_a_function_that_does_something_else_is_refused():
    calls = []

    def fickle(x):
        calls.append(1)
        return x.sin() if len(calls) == 1 else x.cos()

    y = vtc.checkpoint(fickle, data(4).requires_grad_())
    with pytest.raises(
        GradientError,
        match=r"^checkpoint: fickle did something else when it ran again for backward: "
        r"expected sin\(f32\[4\]\), got cos\(f32\[4\]\)",
    ):
        y.sum().backward()


def test_what_is_no_function_is_refused():
    with pytest.raises(ArgumentError, match=r"^checkpoint: expected a function, got Tensor"):
        vtc.checkpoint(data(2))
    with pytest.raises(ArgumentError, match=r"^checkpoint: there is no option use_reentrant"):
        vtc.checkpoint(loss, data(2), use_reentrant=False)


# traced


def step_of(call, layers=4, d=32):
    """A training step."""
    model = net(call, layers, d)
    optimizer = vtc.optim.SGD(model.parameters(), lr=0.1)

    def step(x):
        loss = loss_of(model(x))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss

    return step


def captured(call, rows=256, d=32, **sizes):
    """The program of a step, which is not compiled."""
    leaves, form = flatten(((data(rows, d),), {}))
    step, types = step_of(call, d=d, **sizes), {0: leaves[0].type}
    return trace(Request("step", step, leaves, ["x"], form, types)).program


def arena(program):
    """Bytes of scratch memory of a planned program."""
    return max(
        at + t.nbytes
        for n in program.entry.nodes
        if isinstance(n.op, Call)
        for t, at in zip(tensors(n.type), n.op.at, strict=True)
    )


def planned(program, context):
    return run(program, PIPELINE, context)


def ops_at(program, stages):
    return {type(n.op) for n in run(program, PIPELINE[:stages], Context()).entry.nodes}


def test_marks_go_with_the_gradients_and_what_comes_after_what_with_the_order_of_calls():
    program = captured(vtc.checkpoint, rows=16)
    marks = [n.op for n in program.entry.nodes if isinstance(n.op, Checkpoint)]
    assert {m.segment for m in marks} == {0, 1, 2, 3}
    assert Checkpoint not in ops_at(program, 2)
    assert After in ops_at(program, 3)
    assert After not in ops_at(program, 4)


def test_peak_memory_falls():
    program = captured(identity, rows=2048)
    plain, again = arena(planned(program, WITHOUT)), arena(planned(program, Context()))
    assert again < 0.8 * plain
    assert arena(planned(captured(vtc.checkpoint, rows=2048), Context())) < 0.6 * plain


def test_a_checkpoint_in_a_trace_may_hold_gradients_and_writes():
    total = vtc.zeros(3)

    def part(x):
        total.add_(x.detach())
        return x.exp() * vtc.grad(lambda x: (x * x).sum())(x)

    @vtc.compile
    def whole(x):
        y = vtc.checkpoint(part, x)
        z = vtc.checkpoint(lambda: y * total)
        return vtc.grad(lambda x: vtc.checkpoint(part, x).sum())(x), z

    x = data(3)
    g, _ = whole(x)
    a = x.numpy()
    np.testing.assert_allclose(g.numpy(), 2 * np.exp(a) * (1 + a), rtol=1e-5)
    np.testing.assert_allclose(total.numpy(), 2 * a, rtol=1e-6)


def test_it_can_be_switched_off():
    x = data(4096, 32)
    arenas = [
        vtc.compile(step_of(identity, layers=2), recompute=on).lower(x).entry.forward.plan.arena
        for on in (True, False)
    ]
    assert arenas[0] < arenas[1]


# the pass


def test_meaning_is_kept_with_and_without_marks():
    for call in BOTH:
        lowered = run(captured(call, 16, layers=2, d=8), PIPELINE[:3], Context())
        arrays = random_inputs(lowered, {}, np.random.default_rng(0))
        after = recompute(lowered, EAGERLY)
        verify(after)
        assert after is not lowered
        assert after.facts == lowered.facts
        for a, b in zip(evaluate(lowered, *arrays), evaluate(after, *arrays), strict=True):
            np.testing.assert_array_equal(a, b)


def test_a_long_chain_is_not_computed_again_at_once():
    lines = ["    h0 = matmul(x, x)"]
    lines += [f"    h{k + 1} = sin(h{k})" for k in range(100)]
    lines += ["    g100 = matmul(h100, x)"]
    lines += [f"    g{k} = mul(g{k + 1}, h{k})" for k in reversed(range(100))]
    text = "def f(x: f32[16, 16]) -> f32[16, 16]:\n" + "\n".join(lines) + "\n    return g0\n"
    after = recompute(parse(text), EAGERLY)
    verify(after)
    kept = {i.name for n in after.entry.nodes if isinstance(n.op, After) for i in n.inputs[:1]}
    assert len(kept) >= 2


def test_little_is_left_alone():
    program = run(captured(identity, 4, layers=1, d=4), PIPELINE[:3], Context())
    assert recompute(program, Context()) is program
    assert recompute(program, WITHOUT) is program


def test_the_cost_is_linear():
    def calls(layers):
        program = run(captured(identity, layers=layers), PIPELINE[:3], Context())
        recompute(program, Context())  # networkx is loaded
        with cProfile.Profile() as profile:
            recompute(program, Context())
        return sum(entry.callcount for entry in profile.getstats()), len(program.entry.nodes)

    (few, small), (many, large) = calls(6), calls(24)
    assert large > 3.5 * small
    assert many / large < 1.2 * few / small < 600
