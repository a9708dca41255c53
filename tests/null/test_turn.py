"""What is kept across the fullest point of a step, and what is computed again, at which price."""

from vtc.ir.ops.control import After
from vtc.ir.ops.elementwise import Add, Cast, Sin, Tanh
from vtc.ir.target import cpu, cuda
from vtc.ir.text import parse
from vtc.ir.verify import verify
from vtc.passes.pipeline import Context, Options
from vtc.passes.recompute import recompute
from vtc.passes.turn import NEAR

EAGERLY = Options(recompute=0)


def again(lines, params, result, target):
    """The lines after the pass."""
    body = "".join(f"    {line}\n" for line in lines)
    text = f"def f({params}) -> {result[1]}:\n{body}    return {result[0]}\n"
    after = recompute(parse(text), Context(target, EAGERLY))
    verify(after)
    return after.entry


def count(graph, op):
    return sum(isinstance(n.op, op) for n in graph.nodes)


def residual(layers):
    """A stream x, to which each layer adds something narrow made of sin(x), and its gradient."""
    lines = ["x0 = mul(x, x)"]
    for k in range(layers):
        lines += [f"s{k} = sin(x{k})", f"n{k} = cast(s{k}, dtype=f16)", f"y{k} = matmul(n{k}, w)"]
        lines += [f"v{k} = cast(y{k}, dtype=f32)", f"x{k + 1} = add(x{k}, v{k})"]
    lines += [f"z = exp(x{layers})", f"g{layers} = cast(z, dtype=f16)"]
    for k in reversed(range(layers)):
        lines += [f"w{k} = matmul(n{k}, g{k + 1}, transpose_x=True)"]
        lines += [f"h{k} = matmul(g{k + 1}, w{k})", f"c{k} = cos(x{k})"]
        lines += [f"d{k} = cast(c{k}, dtype=f16)", f"r{k}_0 = mul(h{k}, d{k})"]
        lines += [f"r{k}_{j + 1} = matmul(r{k}_{j}, w)" for j in range(6)]
        lines += [f"g{k} = matmul(r{k}_6, w)"]
    return lines


def test_a_long_chain_is_kept_and_what_is_made_of_it_is_not():
    layers = 12
    params = "x: f32[512, 64], w: f16[64, 64]"
    graph = again(residual(layers), params, ("g0", "f16[512, 64]"), cpu())
    assert count(graph, Add) <= layers + 2  # but for its end, the stream is not added up again
    assert count(graph, Sin) >= 2 * layers - 2  # what products read is made of it again


def test_the_cast_of_a_param_is_kept_where_that_is_cheaper():
    lines = ["v = cast(w, dtype=f16)", "n = matmul(x, u)", "a = sin(n)", "t = tanh(a)"]
    lines += ["y = matmul(t, v)", "z = exp(y)", "d = mul(z, z)"]
    lines += ["e = matmul(d, v, transpose_y=True)", "p = matmul(t, d, transpose_x=True)"]
    lines += ["c = cos(n)", "q = mul(e, c)", "r = matmul(q, u)"]
    lines += ["s = matmul(r, v)", "o = mul(s, s)"]
    params = "x: f16[2048, 64], u: f16[64, 64], w: f32[64, 256]"
    for target in (cpu(), cuda()):
        graph = again(lines, params, ("p, o", "(f16[64, 256], f16[2048, 256])"), target)
        assert count(graph, Cast) == 1
        assert count(graph, Tanh) == 2  # unlike what products read of n


def test_readers_far_apart_have_copies_of_their_own():
    lines = ["h = matmul(x, w)", "s = sin(h)", "y = matmul(s, v)", "z = exp(y)"]
    lines += ["g = mul(z, z)", "d0 = matmul(g, v, transpose_y=True)"]
    for k in range(4 * NEAR):
        if k in (2, 4 * NEAR - 2):
            lines += [f"e{k} = matmul(s, d{k}, transpose_x=True)", f"c{k} = mul(h, d{k})"]
            lines += [f"d{k + 1} = matmul(c{k}, e{k})"]
        else:
            lines += [f"d{k + 1} = matmul(d{k}, w)"]
    params = "x: f32[512, 64], w: f32[64, 64], v: f32[64, 512]"
    graph = again(lines, params, (f"d{4 * NEAR}", "f32[512, 64]"), cpu())
    assert count(graph, Sin) == 3
    events = {n.inputs[1].name for n in graph.nodes if isinstance(n.op, After)}
    assert events == {"d2", f"d{4 * NEAR - 2}"}
