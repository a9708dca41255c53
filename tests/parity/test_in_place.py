"""Every in-place method of PyTorch's tensors beside vtc's: values, aliases, versions, refusals."""

import numpy as np
import pytest

import vtc
from vtc.errors import CaptureError, GradientError, VtcError

torch = pytest.importorskip("torch", reason="needs the extra 'parity'")

LACKING = {
    *("apply_", "map_", "map2_"),  # Python functions of an element
    *("resize_", "resize_as_", "set_", "share_memory_"),  # other memory under a tensor
    *("gcd_", "lcm_", "igamma_", "igammac_", "nextafter_"),
    *("resize_as_sparse_", "sparse_resize_", "sparse_resize_and_clear_"),
}
RANDOM = {"bernoulli_", "cauchy_", "exponential_", "geometric_", "log_normal_", "normal_",
          "random_", "uniform_"}  # fmt: skip
OTHERWISE = {"requires_grad_", "detach_", "as_strided_", "squeeze_", "swapaxes_", "swapdims_", "t_",
             "transpose_", "unsqueeze_"}  # fmt: skip

# p: positive numbers like x; b: bools; k: int64 below 3; q: [3, 2], r: [2, 4]
CALLS = {
    "p": "add_ sub_ subtract_ mul_ multiply_ div_ divide_ true_divide_ floor_divide_ remainder_ "
    "fmod_ pow_ float_power_ atan2_ arctan2_ hypot_ copysign_ xlogy_ eq_ ne_ not_equal_ lt_ less_ "
    "le_ less_equal_ gt_ greater_ ge_ greater_equal_ logical_and_ logical_or_ logical_xor_ "
    "heaviside_ copy_ ldexp_ clamp_min_ clamp_max_",
    "k": "bitwise_and_ bitwise_or_ bitwise_xor_ bitwise_left_shift_ bitwise_right_shift_",
    "p, p": "addcmul_ addcdiv_",
    "p, 0.25": "lerp_",
    "p[:, 0], p[0]": "addr_",
    "q, r": "addmm_",
    "q, r[:, 0]": "addmv_",
    "q[None], r[None]": "addbmm_ baddbmm_",
    "b, 2": "masked_fill_",
    "b, p": "masked_scatter_",
    "k, p": "put_",
    "0, k, p": "scatter_ scatter_add_",
    "0, k, p, 'sum'": "scatter_reduce_",
    "0, k[:, 0], p": "index_add_",
    "0, k[:, 0], 2": "index_fill_",
    "0, k[:, 0], p, 'amax'": "index_reduce_",
    "0, T.arange(3), p": "index_copy_",
    "(T.arange(3),), p": "index_put_",
    "1": "cumsum_ cumprod_ polygamma_",
    "2": "fill_ fill_diagonal_ mvlgamma_",
    "-1, 1": "clamp_ clip_",
    "0.5, 2.0": "threshold_",
    "2, 0, 1.0": "renorm_",
}
ARGUMENTS = {name: arguments for arguments, names in CALLS.items() for name in names.split()}
SHAPED = {"addmv_": "[:, 0]", "baddbmm_": "[None]"}
"""The part of ``x`` that an op of another rank works on."""
ABOVE_ONE = {"acosh_", "arccosh_", "mvlgamma_"}


GENEROUS = {("frac_", "int64")}
"""What PyTorch refuses and vtc does."""


def names():
    """The in-place methods that both have."""
    theirs = [n for n in dir(torch.Tensor) if n.endswith("_") and not n.startswith("_")]
    return [n for n in theirs if n not in LACKING | RANDOM | OTHERWISE]


def operands(T, dtype):
    rng = np.random.default_rng(5)
    x, p = rng.uniform(-0.9, 0.9, (3, 4)), rng.uniform(1, 3, (3, 4))
    arrays = {"x": x * (4 if dtype == "int64" else 1), "p": p, "q": p[:, :2], "r": p[:2]}
    found = {k: T.tensor(np.ascontiguousarray(a).astype(dtype)) for k, a in arrays.items()}
    found["k"] = T.tensor(rng.integers(0, 3, (3, 4)))
    return {**found, "b": T.tensor(rng.random((3, 4)) < 0.5), "T": T}


def run(name, T, dtype):
    """The result of a method, what else saw it, and how much the version moved."""
    found = operands(T, dtype)
    base = found.pop("x")
    if name in ABOVE_ONE:
        base += 3
    alias = base.view(-1)
    x = eval(f"x{SHAPED.get(name, '')}", {"x": base})
    version = x._version
    out = eval(f"x.{name}({ARGUMENTS.get(name, '')})", {**found, "x": x})
    assert out is x
    assert x._version > version or name == "conj_physical_"
    np.testing.assert_array_equal(alias.reshape(3, 4).tolist(), base.tolist())
    return np.array(base.tolist()), repr(x.dtype).split(".")[-1]


def test_none_is_forgotten():
    lacking = {n for n in [*names(), *LACKING] if not hasattr(vtc.Tensor, n)}
    assert lacking == LACKING


@pytest.mark.filterwarnings("ignore:index_reduce")
@pytest.mark.parametrize("dtype", ["float32", "int64"])
@pytest.mark.parametrize("name", names())
def test_as_torch(name, dtype):
    try:
        want = run(name, torch, dtype)
    except (RuntimeError, IndexError):
        if (name, dtype) not in GENEROUS:
            with pytest.raises(VtcError):
                run(name, vtc, dtype)
        return
    got = run(name, vtc, dtype)
    assert got[1] == want[1]
    np.testing.assert_allclose(got[0], want[0], 2e-5, 1e-6)


@pytest.mark.parametrize("name", [n for n in ARGUMENTS if ARGUMENTS[n] == "p"])
def test_a_larger_result_has_no_place(name):
    found = operands(vtc, "float32")
    with pytest.raises(VtcError):
        getattr(found["x"][0], name)(found["p"])


# views in place

TURNS = [
    ("squeeze_",), ("squeeze_", 1), ("unsqueeze_", 0), ("unsqueeze_", -1), ("swapaxes_", 0, 2),
    ("swapdims_", 0, 1), ("transpose_", 1, 2), ("t_",), ("as_strided_", (2, 2), (1, 2)),
]  # fmt: skip


def start(w, turn):
    """A tensor that is made of ``w``, of a shape that can be turned so."""
    return (w * 2).reshape((2, 3) if turn[0] == "t_" else (2, 1, 3)) * 1


def turned(turn, T):
    """A tensor and its older view after a turn, a write through each, and a gradient."""
    w = T.tensor(np.arange(1.0, 7.0, dtype=np.float32)).requires_grad_()
    x = start(w, turn)
    older = x[0]
    version = x._version
    assert getattr(x, turn[0])(*turn[1:]) is x
    moved = x._version - version
    x.mul_(3)
    older.add_(w[0])
    (x * x).sum().backward()
    values = [np.array(t.tolist()) for t in (x, older, w.grad)]
    return values, tuple(x.shape), tuple(x.stride()), moved


@pytest.mark.parametrize("turn", TURNS, ids=str)
def test_turned_as_torch(turn):
    got, want = turned(turn, vtc), turned(turn, torch)
    assert got[1:] == want[1:]
    for g, w in zip(got[0], want[0], strict=True):
        np.testing.assert_allclose(g, w, 1e-6)


def test_turned_with_and_without_older_views():
    x, older = vtc.arange(6.0).reshape(2, 3).clone(), None
    for _ in range(3):
        x.t_()
        x[0].add_(1)
        older = x[1] if older is None else older
    with vtc.no_grad():
        older.mul_(0)
    want = np.arange(6.0).reshape(2, 3)
    for _ in range(3):
        want = want.T
        want[0] += 1
    want[1] = 0
    assert x.tolist() == want.tolist()


def test_turned_compiled():
    def step(w):
        found = []
        for turn in TURNS:
            x = start(w, turn)
            older = x[0]
            getattr(x, turn[0])(*turn[1:])
            x.mul_(3)
            older.add_(w[0])
            found += [x, older, x.detach_() * 2]
        return found

    w = vtc.arange(1.0, 7.0)
    for g, e in zip(vtc.compile(step)(w), step(w), strict=True):
        assert (g.type, g.tolist()) == (e.type, e.tolist())


def test_turning_what_is_not_mine():
    leaf = vtc.ones(1, 2, requires_grad=True)
    with pytest.raises(GradientError, match="squeeze_: a leaf tensor that requires grad"):
        leaf.squeeze_()
    with vtc.no_grad():
        assert leaf.squeeze_().shape == (2,)
    assert leaf.is_leaf
    assert leaf.requires_grad
    x = vtc.ones(1, 2)
    with pytest.raises(CaptureError, match=r"t_: f32\[1, 2\] comes from outside .*; use t\(\)"):
        vtc.compile(lambda x: x.t_())(x)
    assert x.shape == (1, 2)


def test_detached_in_place():
    w = vtc.ones(2, requires_grad=True)
    y = w * 2
    assert y.detach_() is y
    assert not y.requires_grad
    assert w.detach_().requires_grad is False
    part = (vtc.ones(2, requires_grad=True) * 1)[:1]
    with pytest.raises(GradientError, match=r"detach_: .* is a view"):
        part.detach_()


@pytest.mark.parametrize("wrap", [lambda f: f, vtc.compile], ids=["eager", "compiled"])
def test_what_was_repeated_or_spread_out_is_memory_of_its_own(wrap):
    def copies(x, T):
        y = x.view(1, 3)
        found = [
            x.repeat(2, 1), T.tile(x, (2, 1)), y.repeat_interleave(2, dim=0),
            y.expand(2, 3).double(), (y > 0).expand(2, 3).long(),
        ]  # fmt: skip
        for c in found:
            c[0, 0] = 9
        return [c.view(-1) for c in found]

    x = np.float32([1, 2, 3])
    mine = vtc.tensor(x)
    got = wrap(lambda x: copies(x, vtc))(mine)
    assert mine.tolist() == [1, 2, 3]
    assert [g.tolist() for g in got] == [w.tolist() for w in copies(torch.tensor(x), torch)]
