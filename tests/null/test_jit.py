"""``vtc.compile`` as a user holds it: arguments, methods, copies, threads, the cache, refusals."""

import copy
import dataclasses
import gc
import sys
import threading
import weakref

import numpy as np
import pytest

import vtc
import vtc.nn as nn
from vtc.config import override
from vtc.errors import ArgumentError, GuardError, LeakError, VtcWarning
from vtc.frontend.dispatch import state


def arange(*shape):
    return vtc.arange(int(np.prod(shape)), dtype=vtc.float32).reshape(*shape)


class Host:
    def __init__(self, k):
        self.k = k

    @vtc.compile
    def run(self, x):
        return x * self.k

    @classmethod
    @vtc.compile
    def make(cls, x):
        return x * 5.0


def test_instances_that_compare_equal_are_not_one():
    @dataclasses.dataclass(frozen=True)
    class Same:
        k: float = dataclasses.field(compare=False)

        @vtc.compile
        def run(self, x):
            return x * self.k

    @dataclasses.dataclass
    class Unhashable(Host):
        k: float

    assert Same(2.0).run(vtc.ones(1)).tolist() == [2.0]
    a, b = Same(2.0), Same(3.0)
    assert (a.run(vtc.ones(1)).item(), b.run(vtc.ones(1)).item()) == (2.0, 3.0)
    assert Unhashable(4.0).run(vtc.ones(1)).item() == 4.0
    assert Host.make(vtc.ones(1)).item() == 5.0


def test_an_instance_goes_with_its_compiled_methods():
    host = Host(2.0)
    host.run(vtc.ones(1))
    alive = weakref.ref(host)
    del host
    gc.collect()
    assert alive() is None


@pytest.mark.parametrize("how", [copy.copy, copy.deepcopy])
def test_a_copy_runs_as_itself(how):
    host = Host(2.0)
    host.run(vtc.ones(1))
    other = how(host)
    other.k = 3.0
    assert other.run(vtc.ones(1)).item() == 3.0
    assert host.run(vtc.ones(1)).item() == 2.0


def test_a_deep_copy_of_a_compiled_model_has_its_own_parameters():
    model = nn.Linear(2, 2)
    fast = vtc.compile(model)
    want = fast(vtc.ones(1, 2)).tolist()
    other = copy.deepcopy(fast)
    with vtc.no_grad():
        model.weight.zero_()
    assert other(vtc.ones(1, 2)).tolist() == want


def test_setting_an_attribute_of_a_compiled_model_sets_the_models():
    model = nn.Linear(2, 2, bias=False)
    fast = vtc.compile(model)
    fast.weight = nn.Parameter(vtc.zeros(2, 2))
    assert model.weight is fast.weight
    assert fast(vtc.ones(1, 2)).tolist() == [[0.0, 0.0]]


def test_float_arguments_keep_their_precision():
    f = vtc.compile(lambda x, s: x * s)
    for s in (0.1, 1e300):
        assert f(vtc.ones(1, dtype=vtc.float64), s).item() == s
    assert len(f.entries) == 1


def test_numbers_come_back_as_numbers():
    f = vtc.compile(lambda x, s: (x, s, s * 2))
    for s in (0.5, 0.1):
        _, same, double = f(vtc.ones(1), s)
        assert (type(same), same) == (float, s)
        assert (type(double), double) == (float, pytest.approx(2 * s))


def test_plain_arguments():
    f = vtc.compile(lambda x, r: x * sum(r))
    assert f(vtc.ones(1), range(3)).item() == 3.0
    assert f(vtc.ones(1), range(4)).item() == 6.0
    g = vtc.compile(lambda x, i: x[i] * 1)
    assert g(vtc.ones(2, 2), ...).shape == (2, 2)


@pytest.mark.parametrize("change", [lambda d: d.update(y=d["x"]), lambda d: d["l"].append(1)])
def test_changing_a_container_among_the_arguments_is_refused(change):
    f = vtc.compile(change)
    with pytest.raises(LeakError, match=r"changed a list, dict or dataclass.*(\n.*)*test_jit"):
        f({"x": vtc.ones(1), "l": []})


def test_slices_and_ellipsis_are_arguments_by_value():
    f = vtc.compile(lambda x, at: x[at])
    x = vtc.arange(12).reshape(3, 4)
    for at in (slice(1, 3), slice(0, 2), slice(1, 3), ..., (..., slice(None, None, -1), None)):
        assert f(x, at).tolist() == x[at].tolist()
    assert len(f.entries) == 4
    assert vtc.compile(lambda at: slice(at.stop, None))(slice(0, 2)) == slice(2, None)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dynamic": "yes"}, "expected dynamic to be None, True or False, got 'yes'"),
        ({"dynamic": 1}, "expected dynamic to be None, True or False, got 1"),
        ({"name": "a b"}, "expected name to be an identifier, got 'a b'"),
        ({"name": None}, "expected name to be an identifier, got None"),
        ({"recompute": 0.5}, "expected recompute to be True or False, got 0.5"),
    ],
)
@pytest.mark.parametrize("fn", [None, abs])
def test_wrong_options_are_refused(fn, options, message):
    with pytest.raises(ArgumentError, match=f"compile: {message}"):
        vtc.compile(fn, **options)


def test_the_cache_drops_the_oldest_and_says_so():
    k = 0

    @vtc.compile
    def f(x):
        return x + k

    with override(cache_size=2):
        for k in range(4):
            assert f(vtc.zeros(1)).item() == k
        newest = f.entries[0]
        assert len(f.entries) == 2
        f(vtc.zeros(1))
        assert f.entries[0] is newest
        assert newest.calls == 2
    assert "more than 2 programs (VTC_CACHE_SIZE): the oldest was dropped" in f.explain()


def test_eight_threads_call_one_function():
    w = vtc.randn(4, 4)
    f = vtc.compile(lambda x: vtc.tanh(x @ w).sum(1))
    wrong = []

    @vtc.no_grad()
    def run(seed):
        draw = np.random.default_rng(seed)
        for _ in range(10):
            x = draw.standard_normal((int(draw.integers(1, 6)), 4)).astype(np.float32)
            if not np.allclose(f(vtc.tensor(x)).numpy(), np.tanh(x @ w.numpy()).sum(1), atol=1e-5):
                wrong.append(x)
            f.explain()

    threads = [threading.Thread(target=run, args=(i,)) for i in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not wrong
    assert vtc.is_grad_enabled()


def test_an_exception_during_a_trace_leaves_nothing_behind():
    fail = True

    @vtc.compile
    def f(x):
        with vtc.no_grad():
            if fail:
                raise KeyError("user")
            return x * 2

    with pytest.raises(KeyError, match="user"):
        f(vtc.ones(1))
    assert state.capture is None
    assert sys.getprofile() is None
    assert vtc.is_grad_enabled()
    fail = False
    assert f(vtc.ones(1)).item() == 2.0


def test_a_function_that_each_call_traces_says_so_once():
    k = 0

    @vtc.compile
    def f(x):
        return x + k

    def calls():
        nonlocal k
        for k in range(40):
            assert f(vtc.zeros(1)).item() == k

    with pytest.warns(VtcWarning) as found:
        calls()
    (warning,) = found
    text = "f: each of the last 16 calls was traced and compiled anew, this one because k was 15, "
    assert str(warning.message).startswith(text)
    assert warning.filename == __file__
    assert max(map(len, f.misses)) < 200


# memory that is shared


@pytest.mark.parametrize("grad", [False, True])
def test_one_program_serves_fresh_tensors_that_arguments_are_cut_from(grad):
    """Inputs and targets of a language model."""

    @vtc.compile
    def f(x, y):
        return (x * 2 + y).sum()

    for k in range(3):
        text = arange(2, 9) + k
        cut = text.clone().view(2, 9)[:, 1:].requires_grad_(grad)
        assert f(text[:, :-1], text[:, 1:]).item() == (text[:, :-1] * 2 + text[:, 1:]).sum().item()
        assert f(cut[:, :-1], cut[:, 1:]).item() == (cut[:, :-1] * 2 + cut[:, 1:]).sum().item()
    assert len(f.entries) == 2


def test_what_arguments_are_cut_from_may_be_held_too():
    held = {}

    @vtc.compile
    def f(x, y):
        held["b"].add_(1.0)
        return (x * 2 + y).sum()

    for k in range(3):
        held["b"] = base = arange(5) + k
        want = base + 1
        assert f(base[:-1], base[1:]).item() == (want[:-1] * 2 + want[1:]).sum().item()
    other = arange(5)
    assert f(other[:-1], other[1:]).item() == (other[:-1] * 2 + other[1:]).sum().item()
    assert base.tolist() == [4.0, 5.0, 6.0, 7.0, 8.0]


def test_arguments_cut_from_one_tensor_are_cut_from_that_of_the_call():
    def f(x, y):
        x.mul_(2.0)
        return y * 1.0

    fast = vtc.compile(f)
    for shape, cut in (((2, 4), lambda b: b[0]), ((6,), lambda b: b), ((8,), lambda b: b)):
        base, want = arange(*shape), arange(*shape)
        part, wanted = cut(base), cut(want)
        assert fast(part[:2], part[1:3]).tolist() == f(wanted[:2], wanted[1:3]).tolist()
        assert base.tolist() == want.tolist()
        assert fast(part[1:3], part[:2]).tolist() == f(wanted[1:3], wanted[:2]).tolist()
        assert base.tolist() == want.tolist()


def test_an_argument_that_is_a_tensor_of_the_closure():
    w = arange(4)

    @vtc.compile
    def f(x):
        w.add_(1.0)
        return x * 1.0

    for _ in range(2):
        f(w)
    assert f(vtc.zeros(4)).tolist() == [0.0] * 4
    assert f(w[1:3]).tolist() == [5.0, 6.0]
    assert f(w[:2]).tolist() == [5.0, 6.0]
    assert f(vtc.zeros(4)).tolist() == [0.0] * 4
    assert w.tolist() == [6.0, 7.0, 8.0, 9.0]
    assert "shared memory with a tensor the function holds" in f.explain()


def test_user_code_that_catches_errors_does_not_catch_the_tracers():
    base = arange(4)
    part = base[1:3]

    @vtc.compile
    def f():
        part.add_(1.0)
        try:
            base.add_(1.0)
        except Exception:
            return None
        return base * 1

    assert f().tolist() == [1.0, 3.0, 4.0, 4.0]


def test_results_that_share_memory_do_so_compiled():
    w = vtc.ones(2, 2).requires_grad_()

    def f(x):
        y = x * w
        return y, y[0], x.detach()

    x = vtc.ones(2, 2)
    y, row, same = vtc.compile(f)(x)
    (y.sum() + 3 * row.sum()).backward()
    assert w.grad.tolist() == [[4.0, 4.0], [1.0, 1.0]]
    with vtc.no_grad():
        y.add_(1.0)
        x.add_(1.0)
    assert row.tolist() == [2.0, 2.0]
    assert same.tolist() == x.tolist()


def test_a_detached_alias_carries_no_gradient():
    p = nn.Parameter(vtc.ones(3))
    d = p.detach()
    for f in (lambda: (p * d).sum(), lambda: (d * p).sum()):
        p.grad = None
        vtc.compile(f)().backward()
        assert p.grad.tolist() == [1.0, 1.0, 1.0]


# leaks


class Box:
    pass


@pytest.mark.parametrize(
    ("put", "where"),
    [
        (lambda b, v: setattr(b, "pair", (v, 1)), "Box.pair"),
        (lambda b, v: b.rows.append([v]), "Box.rows"),
        (lambda b, v: b.rows.append((v,)), "Box.rows"),
        (lambda b, v: setattr(b, "f", lambda: v), "a closure variable"),
        (lambda b, v: setattr(Box, "last", v), "Box.last"),
    ],
    ids=["tuple", "nested list", "tuple in list", "closure", "class"],
)
def test_leaks_are_found_in_anything(put, where):
    box = Box()
    box.rows = []
    f = vtc.compile(lambda x: (put(box, x * 2), x + 1)[1])
    with pytest.raises(LeakError, match=where):
        f(vtc.ones(1))
    Box.last = None


def test_a_leak_that_is_also_returned():
    box = Box()

    @vtc.compile
    def f(x, keep):
        y = x * 2
        if keep:
            box.hidden = y
        return y

    for _ in range(2):
        with pytest.raises(LeakError, match=r"Box\.hidden"):
            f(vtc.ones(1), True)
        assert f(vtc.ones(1), False).item() == 2.0


def test_what_is_let_go_is_no_leak():
    cache = {}

    def g(x):
        try:
            raise ValueError(x * 2)
        except ValueError as e:
            y = e.args[0]
        rest = (r * 2 for r in (y, x))
        cache["k"] = next(rest)
        cycle = [cache.pop("k")]
        cycle.append(cycle)
        return {"a": y, "b": [cycle[0]]}

    f = vtc.compile(g)
    held = [f(vtc.ones(1)), f(vtc.ones(2)), f(vtc.ones(3))]
    assert held[0]["b"][0].tolist() == [4.0]


# dims with one name


def test_one_name_for_two_sizes_is_refused():
    x, y = vtc.ones(4), vtc.ones(5)
    for t in (x, y):
        vtc.mark_dynamic(t, 0, name="N")
    with pytest.raises(GuardError, match="dim N is 4 in one argument and 5 in another"):
        vtc.compile(lambda x, y: x.sum() + y.sum())(x, y)
