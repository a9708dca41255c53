"""Programs built and run: against their meaning, in place, from threads, without a compiler."""

import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest

from vtc import build
from vtc.build import compile_program, stage_program
from vtc.codegen import compiler
from vtc.codegen.c import find_compiler, generate
from vtc.config import override
from vtc.errors import ArgumentError, CompilerError, IndexRangeError, VtcWarning
from vtc.ir.dims import Dim, Sym
from vtc.ir.evaluate import evaluate
from vtc.ir.graph import Fact, GraphBuilder, Loc, Program
from vtc.ir.ops.control import Gradient, Item
from vtc.ir.ops.expr import Expr
from vtc.ir.plan import Copy
from vtc.ir.text import parse, show
from vtc.ir.types import TensorType, bf16, f32, i64
from vtc.passes.pipeline import Context

CONTEXT = Context()
needs_compiler = pytest.mark.skipif(find_compiler() is None, reason="no C compiler")


def mlp(batch, dtype=f32):
    """An image classifier of two layers, by hand."""
    b = GraphBuilder()
    names = {"x": (batch, 1, 8, 8), "w1": (64, 32), "b1": (32,), "w2": (32, 10), "b2": (10,)}
    params = [b.param(n, TensorType(dtype, s)) for n, s in names.items()]
    x, w1, b1, w2, b2 = (Expr(b, p) for p in params)
    h = x.reshape((batch, 64)).matmul(w1) + b1.broadcast_to((batch, 32))
    h = h.maximum(0).matmul(w2) + b2.broadcast_to((batch, 10))
    e = (h - h.max((1,)).expand((1,), (10,))).exp()
    y = e / e.sum((1,)).expand((1,), (10,))
    graph = b.graph("mlp", params, [y.value])
    return Program((graph,), (Dim("B", 1, 64),) if isinstance(batch, Sym) else ())


def arrays(program, batch=8, seed=0):
    rng = np.random.default_rng(seed)
    return [
        rng.normal(size=[batch if isinstance(s, Sym) else s for s in p.tensor.shape]).astype(
            p.tensor.dtype.numpy
        )
        for p in program.entry.params
    ]


def agrees(program, inputs, rtol=1e-5):
    want = evaluate(program, *inputs)
    have = compile_program(program, CONTEXT).run(inputs)
    for w, h in zip(want, have, strict=True):
        assert h.dtype == w.dtype
        np.testing.assert_allclose(h.astype(np.float64), w.astype(np.float64), rtol=rtol, atol=1e-6)


def test_an_mlp_means_what_it_says():
    program = mlp(8)
    agrees(program, arrays(program))


def test_narrow_values_between_kernels_are_no_less_exact_than_the_reference():
    program = mlp(8, bf16)
    inputs = arrays(program)
    (exact,) = evaluate(program, *inputs, precision="f64")
    (own,) = evaluate(program, *inputs)
    (have,) = compile_program(program, CONTEXT).run(inputs)
    assert have.dtype == own.dtype
    errors = [np.abs(y.astype(np.float64) - exact).max() for y in (have, own)]
    assert errors[0] <= 1.01 * errors[1]


def test_one_build_serves_all_sizes():
    program = mlp(Sym.var("B"))
    built = compile_program(program, CONTEXT)
    for batch in (8, 1, 64, 8):
        inputs = arrays(program, batch)
        np.testing.assert_allclose(
            built.run(inputs)[0], evaluate(program, *inputs)[0], rtol=1e-5, atol=1e-6
        )


def test_an_equal_program_is_not_built_again():
    assert compile_program(mlp(8), CONTEXT) is compile_program(mlp(8), CONTEXT)
    assert compile_program(mlp(8), CONTEXT) is not compile_program(mlp(9), CONTEXT)


@needs_compiler
def test_what_was_built_can_be_looked_at(tmp_path):
    program = mlp(8)
    with override(cache_dir=tmp_path):
        built = compile_program(program, CONTEXT)
    assert list(built.stages) == ["captured", "joint", "lowered", "fused", "planned"]
    assert built.stages["captured"] == program
    assert show(built.stages["fused"]).startswith("def k0(")
    assert stage_program(program, "fused", CONTEXT) == built.stages["fused"]
    assert built.kernels == len(built.plan.kernels) > 0
    assert set(built.seconds) == {*built.stages, "find", "generate", "compile", "load"}
    steps = len(built.plan.steps)
    assert built.describe().startswith(f"{built.kernels} kernels in {steps} steps, ")


def test_an_unknown_stage_is_refused():
    with pytest.raises(ArgumentError, match=r"stage: expected one of captured, .*, got 'melted'"):
        stage_program(mlp(8), "melted", CONTEXT)


UPDATE = """
def step(x: f32[4, 4], w: f32[4, 4] = param("up.weight", overwritten=1)) -> (f32[4, 4], f32[4, 4]):
    y: f32[4, 4] = matmul(x, w)
    v: f32[4, 4] = sub(w, y)
    return y, v
"""


def test_overwritten_params_change_in_place():
    program = parse(UPDATE)
    x, w = arrays(program)
    want = evaluate(program, x, w)
    y, v = compile_program(program, CONTEXT).run([x, w])
    assert v is w
    np.testing.assert_allclose(y, want[0], rtol=1e-5)
    np.testing.assert_allclose(w, want[1], rtol=1e-5)


STEP = """
def step(
    x: f32[8, 6],
    t: i64[8],
    w1: f32[6, 16] = param("up.weight", overwritten=1),
    b1: f32[16] = param("up.bias", overwritten=2),
    w2: f32[16, 5] = param("down.weight", overwritten=3),
) -> (f32[()], f32[6, 16], f32[16], f32[16, 5]):
    a: f32[8, 16] = matmul(x, w1)
    b: f32[8, 16] = expand(b1, axes=(0,), sizes=(8,))
    c: f32[8, 16] = add(a, b)
    h: f32[8, 16] = gelu(c)
    y: f32[8, 5] = matmul(h, w2)
    loss: f32[()] = cross_entropy(y, t)
    g: (f32[6, 16], f32[16], f32[16, 5]) = gradient(loss, w1, b1, w2)
    g1: f32[6, 16] = item(g, index=0)
    g2: f32[16] = item(g, index=1)
    g3: f32[16, 5] = item(g, index=2)
    v1: f32[6, 16] = sub(w1, g1)
    v2: f32[16] = sub(b1, g2)
    v3: f32[16, 5] = sub(w2, g3)
    return loss, v1, v2, v3
"""


def test_a_training_step_learns_in_place():
    program = parse(STEP)
    x, _, *weights = arrays(program)
    t = np.arange(8) % 5
    wanted = [w.copy() for w in weights]
    built = compile_program(program, CONTEXT)
    losses = []
    for _ in range(5):
        want, *wanted = evaluate(program, x, t, *wanted)
        loss, *_ = built.run([x, t, *weights])
        losses.append(float(loss))
        np.testing.assert_allclose(loss, want, rtol=1e-4)
        for have, w in zip(weights, wanted, strict=True):
            np.testing.assert_allclose(have, w, rtol=1e-3, atol=1e-5)
    assert losses[-1] < losses[0] / 2
    if built.plan:
        assert {str(s.args[-1]) for s in built.plan.steps} >= {"out1", "out2", "out3"}


def test_an_array_that_is_not_contiguous_is_overwritten_too():
    program = parse(UPDATE)
    x, w = arrays(program)
    want = evaluate(program, x, w)
    strided = np.zeros((4, 8), np.float32)[:, ::2]
    strided[...] = w
    y, v = compile_program(program, CONTEXT).run([x.T.copy().T, strided])
    assert v is strided
    np.testing.assert_allclose(y, want[0], rtol=1e-5)
    np.testing.assert_allclose(strided, want[1], rtol=1e-5)
    assert not strided.base[:, 1::2].any()


def test_misaligned_memory_is_copied():
    program = parse(UPDATE)
    x, w = arrays(program)
    raw = np.zeros(x.nbytes + 1, np.uint8)[1:]
    moved = raw.view(np.float32).reshape(4, 4)
    moved[...] = x
    y, _ = compile_program(program, CONTEXT).run([moved, w.copy()])
    np.testing.assert_allclose(y, x @ w, rtol=1e-5)


@needs_compiler
def test_a_read_only_array_can_be_read_but_not_overwritten():
    program = parse(UPDATE)
    x, w = arrays(program)
    built = compile_program(program, CONTEXT)
    x.flags.writeable = False
    built.run([x, w])
    w.flags.writeable = False
    with pytest.raises(ArgumentError, match=r"up\.weight: expected an array to overwrite, got a r"):
        built.run([x, w])


def test_outputs_are_fresh_each_time():
    program = mlp(8)
    built = compile_program(program, CONTEXT)
    inputs = arrays(program)
    (first,) = built.run(inputs)
    kept = first.copy()
    (second,) = built.run(arrays(program, seed=1))
    assert not np.shares_memory(first, second)
    np.testing.assert_array_equal(first, kept)


@pytest.mark.parametrize("over", [{}, {0: 1}, {0: 0, 1: 1}, {0: 1, 1: 0}])
def test_params_as_outputs(over):
    text = "def f(x: f32[4], y: f32[4]) -> (f32[4], f32[4], f32[4]):\n    return y, x, x\n"
    program = parse(text)
    program = replace(program, facts=tuple(Fact(overwritten=over.get(p)) for p in range(2)))
    x, y = arrays(program)
    old = x.copy(), y.copy()
    a, b, c = compile_program(program, CONTEXT).run([x, y])
    for have, want in ((a, old[1]), (b, old[0]), (c, old[0])):
        np.testing.assert_array_equal(have, want)
    for p, o in over.items():
        assert (x, y)[p] is (a, b)[o]


@needs_compiler
def test_inputs_are_checked_on_request():
    program = mlp(Sym.var("B"))
    executable = compile_program(program, CONTEXT).executable
    x, *rest = arrays(program)
    executable.check([x, *rest])
    with pytest.raises(ArgumentError, match="mlp: expected 5 arrays, got 1"):
        executable.check([x])
    with pytest.raises(ArgumentError, match=r"expected f32\[B, 1, 8, 8\], got an array float64\["):
        executable.check([x.astype(np.float64), *rest])
    with pytest.raises(
        ArgumentError, match=r"expected f32\[64, 32\], got an array float32\[2, 2\]"
    ):
        executable.check([x, np.ones((2, 2), np.float32), *rest[1:]])
    with pytest.raises(ArgumentError, match=r"mlp: expected B: Dim\(1, 64\), got 65"):
        executable.check([np.ones((65, 1, 8, 8), np.float32), *rest])


def test_an_index_out_of_range_names_the_line():
    text = """
def f(table: f32[5, 3], i: i64[4]) -> f32[4, 3]:
    y: f32[4, 3] = index(table, i, axes=(0,))
    return y
"""
    program = parse(text)
    (graph,) = program.graphs
    y = replace(graph.nodes[0], loc=Loc("model.py", 14, "embed"))
    program = program.with_entry(replace(graph, nodes=(y,), outputs=(y,)))
    table = np.ones((5, 3), np.float32)
    built = compile_program(program, CONTEXT)
    built.run([table, np.array([0, 4, 1, 2])])
    with pytest.raises(IndexRangeError, match=r"expected|out of range") as caught:
        built.run([table, np.array([0, 5, 1, 2])])
    if built.plan:
        assert "at model.py:14 embed" in str(caught.value)


def test_threads_share_an_executable():
    program = mlp(Sym.var("B"))
    built = compile_program(program, CONTEXT)
    cases = [arrays(program, 1 + i % 5, seed=i) for i in range(40)]
    with ThreadPoolExecutor(12) as pool:
        results = list(pool.map(lambda inputs: built.run(inputs)[0], cases))
    for inputs, have in zip(cases, results, strict=True):
        np.testing.assert_allclose(have, evaluate(program, *inputs)[0], rtol=1e-5, atol=1e-6)


@needs_compiler
def test_calls_that_overwrite_the_same_memory_take_turns():
    text = """
def f(x: f32[100000], w: f32[100000] = param(overwritten=0)) -> f32[100000]:
    v: f32[100000] = add(w, x)
    return v
"""
    other = text.replace("add(w, x)", "add(x, w)")
    executables = [compile_program(parse(t), CONTEXT) for t in (text, other)]
    x, w = np.ones(100_000, np.float32), np.zeros(100_000, np.float32)

    def work(k):
        for _ in range(50):
            executables[k % 2].run([x, w])

    threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    np.testing.assert_array_equal(w, 200)


@pytest.fixture
def no_compiler(monkeypatch, tmp_path):
    """A machine without a C compiler, on which nothing has been built or said yet."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(build, "_said", set())
    with override(cc=None):
        compiler._find.cache_clear()
        build._built.cache_clear()
        if find_compiler() is not None:
            pytest.skip("the ziglang package is installed")
        yield
    compiler._find.cache_clear()
    build._built.cache_clear()


def test_without_a_compiler_numpy_runs_the_program_and_says_so_once(no_compiler):
    program = mlp(7)
    with pytest.warns(VtcWarning, match="NumPy runs this program: expected a C compiler"):
        built = compile_program(program, CONTEXT)
    assert built.plan is None
    assert built.kernels == 0
    assert built.describe().startswith("NumPy (expected a C compiler")
    inputs = arrays(program)
    np.testing.assert_array_equal(built.run(inputs)[0], evaluate(program, *inputs)[0])
    compile_program(mlp(6), CONTEXT)


def test_numpy_overwrites_in_place_too(no_compiler):
    program = parse(UPDATE)
    x, w = arrays(program)
    want = evaluate(program, x, w)
    with pytest.warns(VtcWarning):
        built = compile_program(program, CONTEXT)
    y, v = built.run([x, w])
    assert v is w
    np.testing.assert_array_equal(w, want[1])
    np.testing.assert_array_equal(y, want[0])


def test_numpy_outputs_share_no_memory_with_inputs(no_compiler):
    text = """
def f(x: f32[4]) -> (f32[4], f32[2, 2]):
    y: f32[2, 2] = reshape(x, shape=(2, 2))
    return x, y
"""
    with pytest.warns(VtcWarning):
        built = compile_program(parse(text), CONTEXT)
    x = np.arange(4, dtype=np.float32)
    a, b = built.run([x])
    assert not np.shares_memory(a, x)
    assert not np.shares_memory(b, x)
    assert not np.shares_memory(a, b)


@needs_compiler
def test_a_dtype_without_kernels_runs_in_numpy(monkeypatch):
    monkeypatch.setattr(build, "_said", set())
    text = """
def f(x: c64[4]) -> c64[2, 2]:
    y: c64[2, 2] = reshape(x, shape=(2, 2))
    return y
"""
    with pytest.warns(VtcWarning, match="c64"):
        built = compile_program(parse(text), CONTEXT)
    x = np.arange(4).astype(np.complex64)
    np.testing.assert_array_equal(built.run([x])[0], x.reshape(2, 2))


def test_a_compiler_that_does_not_work_is_an_error(tmp_path):
    with (
        override(cc=str(tmp_path / "nothing")),
        pytest.raises(CompilerError, match="expected to run"),
    ):
        compile_program(mlp(5), CONTEXT)


@needs_compiler
def test_kernels_are_found_on_disk_and_damaged_ones_made_again(tmp_path):
    text = "def f(x: f32[4]) -> f32[4]:\n    y: f32[4] = neg(x)\n    return y\n"
    script = (
        "import sys, pathlib, numpy as np\n"
        "from vtc.config import override\n"
        "from vtc.build import compile_program\n"
        "from vtc.ir.text import parse\n"
        "from vtc.passes.pipeline import Context\n"
        "import vtc.ir.ops\n"
        "with override(cache_dir=pathlib.Path(sys.argv[1])):\n"
        "    built = compile_program(parse(sys.stdin.read()), Context())\n"
        "out, = built.run([np.ones(4, np.float32)])\n"
        "print(out.tolist())\n"
    )
    cache = tmp_path / "cache"

    def in_new_process():
        done = subprocess.run(
            [sys.executable, "-c", script, str(cache)],
            input=text,
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout.strip()

    def objects():
        found = (p for p in (cache / "objects").rglob("*") if p.is_file())
        return {p: p.stat().st_mtime_ns for p in found}

    assert in_new_process() == "[-1.0, -1.0, -1.0, -1.0]"
    first = objects()
    assert in_new_process() == "[-1.0, -1.0, -1.0, -1.0]"
    assert objects() == first
    for path in first:
        path.write_bytes(path.read_bytes()[:-7])
    assert in_new_process() == "[-1.0, -1.0, -1.0, -1.0]"
    assert objects().keys() == first.keys()


def gpt(layers):
    """The plan of a training step of a GPT, not compiled."""
    d, t, v = 16, 8, 32
    b = GraphBuilder()
    table = Expr(b, b.param("table", TensorType(f32, (v, d))))
    ids = Expr(b, b.param("ids", TensorType(i64, (2, t))))
    shapes = {"norm": (d,), "qkv": (d, 3 * d), "out": (d, d), "up": (d, 4 * d), "down": (4 * d, d)}
    weights = [
        {n: Expr(b, b.param(f"{n}{k}", TensorType(f32, s))) for n, s in shapes.items()}
        for k in range(layers)
    ]
    x = table.op("index", ids, axes=(0,))
    for w in weights:
        h = x.op("rms_norm", w["norm"], eps=1e-5, count=1)
        h = h.reshape((2 * t, d)).matmul(w["qkv"]).reshape((2, t, 3, 2, d // 2))
        h = h.permute((2, 0, 3, 1, 4))
        ends = [((i, 0, 0, 0, 0), (i + 1, 2, 2, t, d // 2)) for i in range(3)]
        q, k, u = (h.op("slice", starts=low, stops=high, steps=(1,) * 5) for low, high in ends)
        a = (q.reshape((4, t, d // 2)).matmul(k.reshape((4, t, d // 2)), transpose_y=True)).exp()
        a = a.matmul(u.reshape((4, t, d // 2))).reshape((2, 2, t, d // 2)).permute((0, 2, 1, 3))
        x = x + a.reshape((2 * t, d)).matmul(w["out"]).reshape((2, t, d))
        x = x + (x.reshape((2 * t, d)).matmul(w["up"]).tanh().matmul(w["down"])).reshape((2, t, d))
    loss = (x * x).sum((0, 1, 2))
    params = [table, *(e for w in weights for e in w.values())]
    g = b.apply(Gradient(), loss.value, *(p.value for p in params))
    new = [(p - Expr(b, b.apply(Item(i), g)) * 0.1).value for i, p in enumerate(params)]
    inputs = [table.value, ids.value, *(e.value for w in weights for e in w.values())]
    facts = (Fact(overwritten=0), Fact(), *(Fact(overwritten=i) for i in range(1, len(new))))
    program = Program((b.graph("step", inputs, new),), (), facts)
    return generate(stage_program(program, "planned", CONTEXT), CONTEXT.target)


def test_twelve_layers_have_as_many_distinct_kernels_as_two():
    two, twelve = gpt(2), gpt(12)
    assert len(two.kernels) == len(twelve.kernels)
    assert {k.symbol for k in two.kernels} == {k.symbol for k in twelve.kernels}
    assert len(twelve.steps) > 3 * len(two.steps)
    # A norm's weight is read by the rows whose region gives its gradient; no matrix is copied.
    assert all(s.nbytes == 64 for s in twelve.steps if isinstance(s, Copy))
