"""``vtc.func`` beside ``torch.func``: each row is an expression over a library ``T`` and its
transforms, ``fn``; eager, and inside a compiled function.
"""

import warnings

import numpy as np
import pytest

import vtc
import vtc.func
import vtc.nn.functional

torch = pytest.importorskip("torch", reason="needs the extra 'parity'")

ARRAYS = {
    "x": (4,), "t": (4,), "w": (3, 4), "b": (3,), "xs": (5, 4), "ws": (5, 3, 4),
    "im": (5, 1, 2, 4, 4), "k": (3, 2, 2, 2), "ks": (5, 3, 2, 2, 2), "spd": (5, 3, 3),
    "qkv": (5, 2, 3, 4),
}  # fmt: skip

PRELUDE = """
def f(x): return (w @ x + b).tanh()
def g(x): return f(x).logsumexp(0) * x.sin().sum()
def loss(w, x): return ((w @ x).relu() ** 2).sum()
def tree(p): return {'a': p['u'].exp(), 'b': (p['u'] * p['v']).sum()}
"""

ROWS = [
    # vmap
    "fn.vmap(f)(xs)",
    "fn.vmap(f, in_dims=1, out_dims=1)(xs.T)",
    "fn.vmap(f, out_dims=-1)(xs)",
    "fn.vmap(lambda a, c: a * c, in_dims=(0, None))(xs, x)",
    "fn.vmap(lambda a, c: a * c, in_dims=(None, 0))(x, xs)",
    "fn.vmap(lambda p, s: p['w'] @ p['x'] * s, in_dims=({'w': 0, 'x': None}, None))"
    "({'w': ws, 'x': x}, 2.0)",
    "fn.vmap(lambda a: (a.sum(), {'m': a.max(0).values}))(xs)",
    "fn.vmap(lambda a: (a, x), out_dims=(1, 0))(xs)",
    "fn.vmap(lambda a: fn.vmap(lambda c: a @ c)(xs))(xs)",
    "fn.vmap(fn.vmap(lambda a, c: a @ c, (None, 0)), (0, None))(xs, xs)",
    "fn.vmap(f, chunk_size=2)(xs)",
    "fn.vmap(lambda a: (a, a + 1), out_dims=(1, 0), chunk_size=3)(xs)",
    "fn.vmap(lambda a, i: a[i])(xs, T.arange(5) % 4)",
    "fn.vmap(lambda i: x[i])(T.arange(4))",
    "fn.vmap(lambda a, i: a.scatter_add(0, i, a[:2]))(xs, T.arange(10).reshape(5, 2) % 4)",
    "fn.vmap(lambda a: a.sort(descending=True).values)(xs)",
    "fn.vmap(lambda a: T.topk(a, 2).indices)(xs)",
    "fn.vmap(lambda a: a.cumsum(0) + a.flip(0))(xs)",
    "fn.vmap(lambda a: T.cat([a, x]).reshape(2, 4).T)(xs)",
    "fn.vmap(lambda a: T.where(a > 0, a, x).argmax())(xs)",
    "fn.vmap(lambda a: F.layer_norm(a, (4,), x))(xs)",
    "fn.vmap(lambda a: F.layer_norm(x, (4,), a))(xs)",
    "fn.vmap(lambda a: F.softmax(a.reshape(2, 2), 0))(xs)",
    "fn.vmap(lambda i: F.conv2d(i, k))(im)",
    "fn.vmap(lambda c: F.conv2d(im[0], c))(ks)",
    "fn.vmap(lambda i, c: F.conv2d(i, c, b, padding=1))(im, ks)",
    "fn.vmap(lambda i, c: F.conv_transpose2d(i, c.transpose(0, 1)))(im, ks)",
    "fn.vmap(lambda i: F.max_pool2d(i, 2))(im)",
    "fn.vmap(lambda a: F.scaled_dot_product_attention(a, a, a, is_causal=True))(qkv)",
    "fn.vmap(lambda a: F.scaled_dot_product_attention(a, qkv[0], qkv[1]))(qkv)",
    "fn.vmap(lambda a, i: F.cross_entropy(a.reshape(2, 2), i))(xs, T.arange(10).reshape(5, 2) % 2)",
    "fn.vmap(lambda a: T.linalg.cholesky(a @ a.T + T.eye(3, dtype=a.dtype)))(spd)",
    # gradients
    "fn.grad(g)(x)",
    "fn.grad_and_value(g)(x)[0]",
    "fn.vmap(fn.grad(loss), in_dims=(None, 0))(w, xs)",
    "fn.grad(lambda w: fn.vmap(loss, in_dims=(None, 0))(w, xs).sum())(w)",
    "fn.vmap(fn.vmap(fn.grad(g)))(qkv.reshape(5, 6, 4))",
    # vjp, jvp
    "fn.vjp(f, x)[1](b)",
    "fn.vjp(lambda a, c: (a * c, a.sum()), x, t)[1]((x, t[0]))",
    "fn.vjp(tree, {'u': x, 'v': t})[1]({'a': t, 'b': x[0]})",
    "fn.vjp(lambda a: (a.exp(), a), x, has_aux=True)[2]",
    "fn.jvp(f, (x,), (t,))",
    "fn.jvp(lambda a, c: (a @ c, a * c), (x, t), (t, x))",
    "fn.jvp(tree, ({'u': x, 'v': t},), ({'u': t, 'v': x},))",
    "fn.jvp(lambda a: (a.exp(), a), (x,), (t,), has_aux=True)[2]",
    "fn.jvp(fn.grad(g), (x,), (t,))",
    "fn.jvp(lambda a: fn.jvp(g, (a,), (t,))[1], (x,), (x,))",
    "fn.grad(lambda a: fn.jvp(g, (a,), (t,))[1])(x)",
    "fn.grad(lambda s: fn.jvp(g, (x,), (s,))[1])(t)",
    "fn.grad(lambda a: fn.vjp(f, a)[1](b)[0].sin().sum())(x)",
    "fn.linearize(f, x)[1](t)",
    "fn.vmap(lambda a: fn.jvp(g, (a,), (t,))[1])(xs)",
    "fn.vmap(fn.vjp(f, x)[1])(T.eye(3, dtype=x.dtype))",
    # Jacobians
    "fn.jacrev(f)(x)",
    "fn.jacfwd(f)(x)",
    "fn.jacrev(f, chunk_size=2)(x)",
    "fn.jacrev(lambda a, c: (a * c, (a @ c)), argnums=(0, 1))(x, t)",
    "fn.jacfwd(lambda a, c: (a * c, (a @ c)), argnums=(0, 1))(x, t)",
    "fn.jacrev(lambda a, c: a * c, argnums=1)(x, t)",
    "fn.jacrev(tree)({'u': x, 'v': t})",
    "fn.jacfwd(tree)({'u': x, 'v': t})",
    "fn.jacrev(lambda a: (a * 2, a.sum()), has_aux=True)(x)",
    "fn.jacfwd(lambda a: (a * 2, a.sum()), has_aux=True)(x)",
    "fn.jacrev(lambda m: m.T @ m)(w)",
    "fn.jacfwd(lambda m: m.T @ m)(w)",
    "fn.hessian(g)(x)",
    "fn.hessian(lambda a, c: (a * a * c).sum(), argnums=(0, 1))(x, t)",
    "fn.jacfwd(fn.jacfwd(g))(x)",
    "fn.jacrev(fn.jacrev(g))(x)",
    "fn.jacrev(fn.jacfwd(g))(x)",
    "fn.jacfwd(fn.grad(g))(x)",
    "fn.vmap(fn.hessian(g))(xs)",
    "fn.vmap(fn.jacrev(f))(xs)",
    "fn.grad(lambda a: fn.hessian(g)(a).sum())(x)",
    "fn.jacrev(lambda a: fn.vmap(f)(a * xs))(x)",
]
COMPILED = [row for i, row in enumerate(ROWS) if i % 4 == 0]


def tensors(T):
    rng = np.random.default_rng(0)
    return {k: T.from_numpy(rng.normal(size=shape)) for k, shape in ARRAYS.items()}


def evaluated(row, T, F, fn, given):
    space = {"T": T, "F": F, "fn": fn, **given}
    exec(PRELUDE, space)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's, about what it runs example by example
        return eval(row, space)


def flat(found):
    if isinstance(found, dict):
        return [leaf for k in sorted(found) for leaf in flat(found[k])]
    if isinstance(found, (tuple, list)):
        return [leaf for part in found for leaf in flat(part)]
    return [found.detach().numpy()]


def assert_same(got, want):
    for a, b in zip(flat(got), flat(want), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("row", ROWS)
def test_transform_gives_what_torch_gives(row):
    want = evaluated(row, torch, torch.nn.functional, torch.func, tensors(torch))
    assert_same(evaluated(row, vtc, vtc.nn.functional, vtc.func, tensors(vtc)), want)


@pytest.mark.parametrize("row", COMPILED)
def test_transform_in_a_compiled_function_gives_what_torch_gives(row):
    want = evaluated(row, torch, torch.nn.functional, torch.func, tensors(torch))
    names = list(ARRAYS)

    def call(*given):
        mine = dict(zip(names, given, strict=True))
        return evaluated(row, vtc, vtc.nn.functional, vtc.func, mine)

    mine = tensors(vtc)
    assert_same(vtc.compile(call)(*(mine[k] for k in names)), want)
