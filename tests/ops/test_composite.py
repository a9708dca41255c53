"""Composites: low precision, NumPy formulas, symbolic sizes, PyTorch where it is installed.

Types, and gradients against finite differences, are tested for all ops in test_ops.
"""

import math
from itertools import product

import numpy as np
import pytest
from sweep import sweep

from vtc.errors import IndexRangeError, TypeCheckError
from vtc.ir.dims import Sym, substitute
from vtc.ir.evaluate import ArrayBuilder, evaluate
from vtc.ir.graph import GraphBuilder, Program
from vtc.ir.op import REGISTRY
from vtc.ir.ops.activation import Dropout, Gelu, LogSoftmax, Relu, Sigmoid, Silu, Softmax
from vtc.ir.ops.attention import AttentionGradient, Rotary, ScaledDotProductAttention
from vtc.ir.ops.composite import Composite, results
from vtc.ir.ops.contract import Matmul, MatmulAdd
from vtc.ir.ops.conv import Conv2d
from vtc.ir.ops.expr import Expr
from vtc.ir.ops.loss import CrossEntropy
from vtc.ir.ops.norm import LayerNorm, RmsNorm
from vtc.ir.ops.pool import AvgPool2d, MaxPool2d
from vtc.ir.types import DTYPES, TensorType, TupleType, bf16, f32, i64

COMPOSITES = [c for c in REGISTRY.values() if issubclass(c, Composite)]
SAMPLES = [
    pytest.param(s, id=f"{s.op}-{i}")
    for c in COMPOSITES
    for i, s in enumerate(c.samples(np.random.default_rng(0)))
]
SMOOTH = [p for p in SAMPLES if p.values[0].smooth]


def run(op, *arrays, precision="own"):
    out = ArrayBuilder(precision).apply(op, *map(np.asarray, arrays))
    return out if isinstance(out, tuple) else (out,)


def numbers(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def spelled(op, types):
    """A program that applies the expansion of ``op``, casts and all."""
    b = GraphBuilder()
    params = [b.param("x", t) for t in types]
    out = results(op.expand(*(Expr(b, p) for p in params)))
    return Program((b.graph("f", params, [o.value for o in out]),))


# every composite


@pytest.mark.parametrize("sample", SAMPLES)
@pytest.mark.parametrize("name", ["bf16", "f16"])
def test_low_precision_rounds_once(sample, name):
    """Whole or spelled out with casts, a composite computes in f32 and rounds at the end."""
    narrow = [a.astype(DTYPES[name].numpy) if a.dtype.kind == "f" else a for a in sample.inputs]
    if isinstance(sample.op, AttentionGradient):
        narrow[4:6] = sample.inputs[4:6]
    whole = run(sample.op, *narrow)
    wide = run(
        sample.op, *(a.astype(np.float32) if a.dtype == DTYPES[name].numpy else a for a in narrow)
    )
    apart = evaluate(spelled(sample.op, map(TensorType.of, narrow)), *narrow)
    for x, y, z in zip(whole, wide, apart, strict=True):
        np.testing.assert_array_equal(x, y.astype(x.dtype))
        if isinstance(sample.op, MatmulAdd):  # only kernels keep its product from being rounded
            product = abs(
                run(Matmul(transpose_y=sample.op.transpose_y), *narrow[:2])[0].astype(np.float32)
            )
            far = abs(x.astype(np.float32) - z.astype(np.float32))
            assert (far <= {"bf16": 2**-7, "f16": 2**-10}[name] * (product + abs(x))).all()
            continue
        np.testing.assert_array_equal(x, z)


@pytest.mark.parametrize(
    "sample", [p for p in SMOOTH if not isinstance(p.values[0].op, AttentionGradient)]
)
def test_gradients_of_narrow_inputs_are_narrow_and_close(sample):
    """Each cotangent is computed in f32 and rounded once, so it is within a few steps of exact."""
    narrow = [a.astype(bf16.numpy) if a.dtype.kind == "f" else a for a in sample.inputs]
    s = sweep(
        sample.op, narrow, tuple(i for i, a in enumerate(sample.inputs) if a.dtype.kind == "f")
    )
    g = s.run(*narrow)[1]
    b64 = evaluate(s.program, *narrow, *s.c, *s.d, precision="f64")
    first = 2 + len(s.c)
    for x, y in zip(g, b64[first : first + len(g)], strict=True):
        assert x.dtype == bf16.numpy
        scale = np.abs(y).max(initial=0) + 1e-3
        np.testing.assert_allclose(x.astype(np.float64), y, rtol=2e-2, atol=2e-2 * scale)


# against NumPy


def softmax(x, axis):
    e = np.exp(x - x.max(axis, keepdims=True))
    return e / e.sum(axis, keepdims=True)


def erf(x):
    return np.vectorize(math.erf)(x)


def tanh_gelu(x):
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def layer_norm(x, w, b):
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5) * w + b


def rms_norm(x, w):
    return x / np.sqrt((x**2).mean((-2, -1), keepdims=True) + 1e-6) * w


def rotary(x, c, s):
    a, b = np.split(x, 2, -1)
    return np.concatenate([a * c - b * s, b * c + a * s], -1)


def conv(x, w):
    """Stride (2, 1), padding (1, 0), two groups."""
    x = np.pad(x, ((0, 0), (0, 0), (1, 1), (0, 0)))
    n, _, height, width = x.shape
    o, per, kh, kw = w.shape
    out = np.zeros((n, o, (height - kh) // 2 + 1, width - kw + 1))
    for c, i, j in np.ndindex(*out.shape[1:]):
        first = c // (o // 2) * per
        part = x[:, first : first + per, 2 * i : 2 * i + kh, j : j + kw]
        out[:, c, i, j] = (part * w[c]).sum((1, 2, 3))
    return out


X = numbers(3, 5)
FORMULAS = (
    (Relu(), (X,), np.maximum(X, 0)),
    (Sigmoid(), (X,), 1 / (1 + np.exp(-X))),
    (Silu(), (X,), X / (1 + np.exp(-X))),
    (Gelu(), (X,), X * (1 + erf(X / np.sqrt(2))) / 2),
    (Gelu("tanh"), (X,), tanh_gelu(X)),
    (Softmax(0), (X,), softmax(X, 0)),
    (LogSoftmax(1), (X,), np.log(softmax(X, 1))),
    (LayerNorm(1, 1e-5), (X, X[0], X[1]), layer_norm(X, X[0], X[1])),
    (RmsNorm(2, 1e-6), (numbers(2, 3, 5), X), rms_norm(numbers(2, 3, 5), X)),
    (
        CrossEntropy(),
        (X, np.array([4, 0, 2])),
        -np.log(softmax(X, 1)[[0, 1, 2], [4, 0, 2]]).mean(),
    ),
    (
        Rotary(),
        (numbers(2, 3, 4), X[:, :2], X[:, :2]),
        rotary(numbers(2, 3, 4), X[:, :2], X[:, :2]),
    ),
    (
        ScaledDotProductAttention(is_causal=False, scale=0.5),
        (X, numbers(4, 5), numbers(4, 2)),
        softmax(X @ numbers(4, 5).T * 0.5, 1) @ numbers(4, 2),
    ),
    (
        Conv2d((2, 1), (1, 0), (1, 1), 2),
        (numbers(2, 4, 5, 6), numbers(6, 2, 3, 2)),
        conv(numbers(2, 4, 5, 6), numbers(6, 2, 3, 2)),
    ),
    (
        MaxPool2d((2, 2), (2, 2), (0, 0)),
        (numbers(2, 3, 4, 6),),
        numbers(2, 3, 4, 6).reshape(2, 3, 2, 2, 3, 2).max((3, 5)),
    ),
    (
        AvgPool2d((2, 2), (2, 2), (0, 0)),
        (numbers(2, 3, 4, 6),),
        numbers(2, 3, 4, 6).reshape(2, 3, 2, 2, 3, 2).mean((3, 5)),
    ),
)


@pytest.mark.parametrize(("op", "arrays", "want"), FORMULAS, ids=lambda v: getattr(v, "name", None))
def test_formula(op, arrays, want):
    np.testing.assert_allclose(run(op, *arrays)[0], want, rtol=1e-12, atol=1e-14)


def test_nothing_overflows():
    x = np.array([[-1e4, 0.0, 1e4], [-1e30, 1e30, 1e30]], np.float32)
    np.testing.assert_array_equal(run(Sigmoid(), x)[0], [[0, 0.5, 1], [0, 1, 1]])
    np.testing.assert_array_equal(run(Silu(), x)[0][0], [0, 0, 1e4])
    np.testing.assert_array_equal(run(Softmax(1), x)[0], [[0, 0, 1], [0, 0.5, 0.5]])
    assert np.isfinite(run(LogSoftmax(1), x)[0]).all()
    assert run(CrossEntropy(), x, np.array([2, 1]))[0] == pytest.approx(math.log(2) / 2)


def test_softmax_of_nothing_is_nothing():
    for op in (Softmax(1), LogSoftmax(1)):
        assert run(op, np.zeros((4, 0), np.float32))[0].shape == (4, 0)


def test_relu_has_no_slope_at_zero():
    x = np.array([-1.0, 0.0, 2.0, math.nan])
    _, (g,), _, _, _ = (s := sweep(Relu(), [x])).run(x)
    np.testing.assert_array_equal(g, s.c[0] * [0, 0, 1, 1])


# dropout


def test_dropout_keeps_what_uniform_says_and_its_gradient_agrees():
    x, state = np.ones((1000,), np.float32), np.array([3, 9])
    (y,) = run(Dropout(p=0.3, offset=2), x, state)
    u = ArrayBuilder().apply(REGISTRY["uniform"](shape=(1000,), dtype=f32, offset=2), state)
    np.testing.assert_array_equal(y, np.where(u >= 0.3, np.float32(1 / 0.7), 0))
    assert abs((y > 0).mean() - 0.7) < 0.05
    s = sweep(Dropout(p=0.3, offset=2), [x, state])
    np.testing.assert_allclose(s.run(x, state)[1][0], y * s.c[0], rtol=1e-6)


def test_dropout_draws_the_same_in_every_precision():
    x, state = np.ones((1000,), np.float32), np.array([3, 9])
    own, f64 = (run(Dropout(p=0.1, offset=0), x, state, precision=p)[0] for p in ("own", "f64"))
    np.testing.assert_array_equal(own == 0, f64 == 0)
    wide = run(Dropout(p=0.1, offset=0), x.astype(np.float64), state)[0]
    np.testing.assert_array_equal(own == 0, wide == 0)


def test_dropout_of_all_is_zero_even_for_infinity():
    x = np.array([math.inf, 1.0], np.float32)
    np.testing.assert_array_equal(
        run(Dropout(p=1.0, offset=0), x, np.zeros(2, np.int64))[0], [0, 0]
    )


# attention


def test_a_row_that_attends_to_nothing_gives_zeros_and_no_gradient():
    q, k, v = numbers(2, 3), numbers(4, 3), numbers(4, 2)
    mask = np.array([[False] * 4, [True, False, True, True]])
    for m in (mask, np.where(mask, 0.0, -np.inf)):
        op = ScaledDotProductAttention(is_causal=False, scale=0.5)
        out, lse = run(op, q, k, v, m)
        np.testing.assert_array_equal(out[0], [0, 0])
        assert lse[0] == -math.inf
        s = sweep(op, [q, k, v, m], varying=(0, 1, 2))
        object.__setattr__(s, "c", [s.c[0], np.array([0.0, 1.0])])
        _, g, h, _, _ = s.run(q, k, v, m)
        assert all(np.isfinite(a).all() for a in (*g, *h))
        np.testing.assert_array_equal(g[0][0], [0, 0, 0])


def test_lse_stays_precise():
    q, k, v = (numbers(2, 4, 8, seed=i).astype(bf16.numpy) for i in range(3))
    op = ScaledDotProductAttention(is_causal=True, scale=0.3)
    out, lse = run(op, q, k, v)
    assert (out.dtype, lse.dtype) == (bf16.numpy, np.float32)
    scores = q.astype(np.float64) @ np.swapaxes(k, 1, 2).astype(np.float64) * 0.3
    scores = np.where(np.tri(4, dtype=bool), scores, -np.inf)
    np.testing.assert_allclose(lse, np.log(np.exp(scores).sum(-1)), rtol=1e-6)


# against PyTorch

IMAGES, TARGET = numbers(2, 4, 6, 5), np.array([4, 0, 2])
ROWS, TIES = numbers(2, 3, 5), np.round(numbers(2, 4, 6, 5))
KEEP = numbers(2, 3, 4) < 0.5
KEEP[..., 0] = True
QKV = (numbers(2, 3, 5), numbers(2, 4, 5, seed=1), numbers(2, 4, 3, seed=2))


def like_torch(op, arrays, f, varying=None):
    """One case: ``f(torch, *tensors)`` is what ``op`` should be."""
    return pytest.param(op, arrays, f, varying, id=str(op))


def attend(torch, q, k, v, mask=None, causal=False):
    """The path of PyTorch that differentiates twice, and the logsumexp it does not give."""
    scores = q @ k.transpose(-2, -1) * 0.5
    if mask is not None:
        scores = scores.masked_fill(~mask, -math.inf) if mask.dtype is torch.bool else scores + mask
    if causal:
        scores = scores.masked_fill(~torch.ones_like(scores).tril().bool(), -math.inf)
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        out = torch.nn.functional.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, is_causal=causal, scale=0.5
        )
    return out, scores.logsumexp(-1)


def entropies():
    weight = np.array([0.5, 2.0, 0.0, 1.0, 3.0])
    some, none = np.array([4, 1, 2]), np.array([1, 1, 1])
    for reduction, smoothing, target in product(("mean", "sum", "none"), (0.0, 0.3), (some, none)):
        keywords = {"reduction": reduction, "label_smoothing": smoothing, "ignore_index": 1}
        for weights in ((), (weight,)):
            op = CrossEntropy(**keywords)

            def f(torch, x, t, *w, keywords=keywords):
                return torch.nn.functional.cross_entropy(x, t, *w, **keywords)

            yield like_torch(op, (X, target, *weights), f, (0,))


LIKE_TORCH = (
    like_torch(Relu(), (X,), lambda t, x: t.relu(x)),
    like_torch(Sigmoid(), (X,), lambda t, x: t.sigmoid(x)),
    like_torch(Silu(), (X,), lambda t, x: t.nn.functional.silu(x)),
    like_torch(Gelu(), (X,), lambda t, x: t.nn.functional.gelu(x)),
    like_torch(Gelu("tanh"), (X,), lambda t, x: t.nn.functional.gelu(x, approximate="tanh")),
    like_torch(Softmax(1), (ROWS,), lambda t, x: x.softmax(1)),
    like_torch(LogSoftmax(2), (ROWS,), lambda t, x: x.log_softmax(2)),
    like_torch(
        LayerNorm(2, 1e-3),
        (ROWS, X, X),
        lambda t, x, w, b: t.nn.functional.layer_norm(x, (3, 5), w, b, 1e-3),
    ),
    like_torch(
        RmsNorm(1, 1e-3), (ROWS, X[0]), lambda t, x, w: t.nn.functional.rms_norm(x, (5,), w, 1e-3)
    ),
    like_torch(ScaledDotProductAttention(False, 0.5), QKV, attend),
    like_torch(
        ScaledDotProductAttention(True, 0.5),
        QKV,
        lambda t, q, k, v: attend(t, q, k, v, causal=True),
    ),
    like_torch(ScaledDotProductAttention(False, 0.5), (*QKV, KEEP), attend),
    like_torch(ScaledDotProductAttention(False, 0.5), (*QKV, numbers(3, 4, seed=3)), attend),
    like_torch(
        ScaledDotProductAttention(True, 0.5),
        (numbers(2, 4, 3, 5), *(numbers(2, 2, 4, n, seed=n) for n in (5, 3))),
        lambda t, q, *kv: attend(t, q, *(x.repeat_interleave(2, 1) for x in kv), causal=True),
    ),
    like_torch(
        Conv2d((2, 1), (1, 2), (1, 2), 2),
        (IMAGES, numbers(6, 2, 3, 2), numbers(6)),
        lambda t, x, w, b: t.nn.functional.conv2d(x, w, b, (2, 1), (1, 2), (1, 2), 2),
    ),
    like_torch(
        MaxPool2d((3, 2), (2, 1), (1, 0)),
        (TIES,),
        lambda t, x: t.nn.functional.max_pool2d(x, (3, 2), (2, 1), (1, 0)),
    ),
    like_torch(
        AvgPool2d((3, 2), (2, 1), (1, 1)),
        (IMAGES,),
        lambda t, x: t.nn.functional.avg_pool2d(x, (3, 2), (2, 1), (1, 1)),
    ),
    *entropies(),
)


@pytest.mark.parametrize(("op", "arrays", "f", "varying"), LIKE_TORCH)
def test_values_and_gradients_are_torchs(op, arrays, f, varying):
    torch = pytest.importorskip("torch")
    s = sweep(op, arrays, varying)
    y, g, h, _, _ = s.run(*arrays)
    xs = [torch.from_numpy(np.array(a)) for a in arrays]
    wrt = [xs[i].requires_grad_() for i in s.varying]
    ys = f(torch, *xs)
    ys = ys if isinstance(ys, tuple) else (ys,)
    first = sum((torch.from_numpy(np.asarray(c)) * v).sum() for c, v in zip(s.c, ys, strict=True))
    gs = torch.autograd.grad(first, wrt, create_graph=True)
    second = sum((torch.from_numpy(d) * v).sum() for d, v in zip(s.d, gs, strict=True))
    hs = [None] * len(wrt)
    if second.requires_grad:
        hs = torch.autograd.grad(second, wrt, allow_unused=True)
    for found, want in zip((*y, *g, *h), (*ys, *gs, *hs), strict=True):
        want = np.zeros(found.shape) if want is None else want.detach().numpy()
        np.testing.assert_allclose(found, want, rtol=1e-10, atol=1e-12)


# symbolic sizes

B, T = Sym.var("B"), Sym.var("T")
SYMBOLIC = (
    (Softmax(1), [(B, T)]),
    (LayerNorm(1, 1e-5), [(B, T), (T,), (T,)]),
    (RmsNorm(2, 1e-5), [(4, B, T), (B, T)]),
    (Rotary(), [(B, T, 4), (T, 2), (T, 2)]),
    (ScaledDotProductAttention(True, 0.5), [(B, T, 4), (B, 2 * T, 4), (B, 2 * T, 3)]),
    (Conv2d((2, 1), (1, 0), (1, 1), 2), [(B, 4, T, 5), (6, 2, 3, 2), (6,)]),
    (MaxPool2d((2, 2), (1, 1), (1, 0)), [(B, 3, T, 5)]),
    (AvgPool2d((2, 2), (1, 1), (1, 0)), [(B, 3, T, 5)]),
    (CrossEntropy(label_smoothing=0.1), [(B, T), (B,)]),
    (Dropout(0.5, 0), [(B, T), (2,)]),
)


@pytest.mark.parametrize(("op", "shapes"), SYMBOLIC, ids=lambda v: getattr(v, "name", None))
def test_symbolic_sizes(op, shapes):
    """The same results and gradients as with the sizes known."""
    types = [TensorType(f32, s) for s in shapes]
    if isinstance(op, CrossEntropy | Dropout):
        types[1] = types[1].with_dtype(i64)
    symbolic = squared(op, types)
    sizes = {"B": 2, "T": 5}
    known = [t.with_shape(substitute(n, sizes) for n in t.shape) for t in types]
    arrays = [numbers(*t.shape, seed=i).astype(t.dtype.numpy) for i, t in enumerate(known)]
    arrays = [np.abs(a) if a.dtype == np.int64 else a for a in arrays]
    for x, y in zip(
        evaluate(symbolic, *arrays), evaluate(squared(op, known), *arrays), strict=True
    ):
        np.testing.assert_allclose(x, y, rtol=1e-6, atol=1e-7)


def squared(op, types):
    """The first result of ``op`` and the gradients of the sum of its squares."""
    b = GraphBuilder()
    xs = [Expr(b, b.param(n, t)) for n, t in zip("xyz", types, strict=False)]
    y = xs[0].apply(op, *xs[1:])
    y = y.item(0) if isinstance(y.type, TupleType) else y
    loss = (y * y).sum(range(y.rank))
    wrt = [x.value for x in xs if x.dtype is f32]
    marker = b.apply(REGISTRY["gradient"](), loss.value, *wrt)
    grads = [b.apply(REGISTRY["item"](index=i), marker) for i in range(len(wrt))]
    return Program((b.graph("f", [x.value for x in xs], [y.value, *grads]),))


# errors

M, V4, V5 = TensorType(f32, (3, 5)), TensorType(f32, (4,)), TensorType(f32, (5,))
IMAGE, STATE = TensorType(f32, (2, 4, 5, 5)), TensorType(i64, (2,))
SDPA = ScaledDotProductAttention(is_causal=False, scale=1.0)
ILL_TYPED = (
    (Softmax(0), (), "softmax: expected 1 inputs, got 0"),
    (LayerNorm(1, 1e-5), (M, V5, V5, V5), "layer_norm: expected 1 to 3 inputs, got 4"),
    (Softmax(2), (M,), r"softmax: expected an axis of f32\[3, 5\], got 2"),
    (Gelu(), (M.with_dtype(i64),), r"gelu: expected a floating-point tensor, got i64\[3, 5\]"),
    (Gelu("erf"), (M,), "gelu: expected approximate='none' or 'tanh', got 'erf'"),
    (
        LayerNorm(1, 1e-5),
        (M, V4),
        r"layer_norm: expected a weight or bias of type f32\[5\], got f32\[4\]",
    ),
    (RmsNorm(3, 1e-5), (M,), r"rms_norm: expected 1 <= count <= 2 for f32\[3, 5\], got 3"),
    (CrossEntropy(), (M, V5), r"cross_entropy: expected a target of type i64\[3\], got f32\[5\]"),
    (
        CrossEntropy(reduction="max"),
        (M, TensorType(i64, (3,))),
        "cross_entropy: expected a reduction",
    ),
    (Dropout(1.5, 0), (M, STATE), "dropout: expected 0 <= p <= 1, got 1.5"),
    (Dropout(0.5, 0), (M, M), "dropout: expected the state of a generator"),
    (SDPA, (M, M, V5), r"scaled_dot_product_attention: expected \[.., T, D\], \[.., S, D\] and"),
    (
        SDPA,
        (IMAGE, *[IMAGE.with_shape((*IMAGE.shape[:-3], 3, *IMAGE.shape[-2:]))] * 2),
        r"scaled_dot_product_attention: expected a multiple of the heads of keys in f32\[.*got f32",
    ),
    (SDPA, (M, M, M, V4), "scaled_dot_product_attention: expected a mask, bool or added, for"),
    (Rotary(), (M, V4, V4), "rotary: expected cos and sin for the half of"),
    (
        Conv2d((1, 1), (0, 0), (1, 1), 1),
        (IMAGE, IMAGE.with_shape((2, 3, 1, 1))),
        "conv2d: expected 3 channels",
    ),
    (
        Conv2d((1, 1), (0, 0), (1, 1), 1),
        (IMAGE, IMAGE.with_shape((2, 4, 6, 1))),
        "to hold a window, got",
    ),
    (MaxPool2d((2, 2), (2, 2), (2, 0)), (IMAGE,), "max_pool2d: expected padding of at most half"),
    (AvgPool2d((2, 2), (0, 2), (0, 0)), (IMAGE,), "avg_pool2d: expected sizes and steps >= 1"),
)


@pytest.mark.parametrize(("op", "types", "message"), ILL_TYPED)
def test_ill_typed(op, types, message):
    with pytest.raises(TypeCheckError, match=message):
        op.infer(*types)


def test_a_target_outside_the_classes_is_an_error():
    with pytest.raises(IndexRangeError, match="expected 0 <= index < 5 along axis 1, got 5"):
        run(CrossEntropy(), X, np.array([0, 5, 1]))
