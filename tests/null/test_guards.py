"""Everything a trace read outside its arguments is seen when it changes, and named."""

import cProfile
import dataclasses
import functools
import gc
import pstats
import sys
import time
import types

import numpy as np
import pytest

import vtc
import vtc.nn as nn

CALLS = 4
"""The first traces, the second is found by its key, those after that are replayed."""

settings = types.ModuleType("settings")


class Conf:
    k = 2.0


def by_default(x, k=2.0):
    return x * k


def twice():
    return vtc.tensor([2.0])


@pytest.fixture
def closed():
    """A function and a way to change its closure."""
    k = 2.0

    def scale(x):
        return x * k

    def put(value):
        nonlocal k
        k = value

    return scale, put


def follows(fn, change, path):
    """``fn`` doubles, after ``change()`` it triples, and the miss names ``path``."""
    fast = vtc.compile(fn)
    one = vtc.ones(1)
    for _ in range(CALLS):
        assert fast(one).tolist() == [2.0]
    change()
    for _ in range(CALLS):
        assert fast(one).tolist() == [3.0]
    assert path in fast.explain()
    assert len(fast.entries) == 2


def test_attribute_of_a_class(monkeypatch):
    follows(lambda x: x * Conf.k, lambda: monkeypatch.setattr(Conf, "k", 3.0), "Conf.k was 2.0")


def test_attribute_of_a_python_module(monkeypatch):
    monkeypatch.setattr(settings, "k", 2.0, raising=False)
    follows(
        lambda x: x * settings.k,
        lambda: monkeypatch.setattr(settings, "k", 3.0),
        "settings.k was 2.0, is 3.0",
    )


def test_rebound_global_function(monkeypatch):
    three = lambda: vtc.tensor([3.0])  # noqa: E731
    change = functools.partial(monkeypatch.setitem, globals(), "twice", three)
    follows(lambda x: x * twice(), change, "twice")


def test_builtin_that_is_shadowed(monkeypatch):
    change = functools.partial(monkeypatch.setitem, globals(), "max", lambda _: 3)
    follows(lambda x: x * max([1, 2]), change, "max was absent")


def test_closure_of_a_function_in_a_list(closed):
    scale, put = closed
    fns = [scale]
    follows(lambda x: fns[0](x), lambda: put(3.0), "fns[0].k was 2.0, is 3.0")


def test_closure_of_a_function_in_a_module(closed):
    scale, put = closed

    class Host(nn.Module):
        def __init__(self):
            self.fn = scale

        def forward(self, x):
            return self.fn(x)

    follows(Host(), lambda: put(3.0), "self.fn.k was 2.0, is 3.0")


def test_closure_behind_a_decorator(closed):
    scale, put = closed
    follows(vtc.no_grad()(scale), lambda: put(3.0), "k was 2.0, is 3.0")


def test_closure_of_an_inlined_compiled_function(closed):
    scale, put = closed
    inner = vtc.compile(scale)
    follows(lambda x: inner(x), lambda: put(3.0), "k was 2.0, is 3.0")


def test_parts_of_a_partial():
    options = {"k": 2.0}
    fn = functools.partial(lambda options, x: x * options["k"], options)
    follows(fn, lambda: options.update(k=3.0), "['k'] was 2.0, is 3.0")


def test_defaults(monkeypatch):
    change = functools.partial(monkeypatch.setattr, by_default, "__defaults__", (3.0,))
    follows(lambda x: by_default(x), change, "by_default.__defaults__")


def test_attribute_of_a_function():
    def f(x):
        return x * f.k

    f.k = 2.0
    follows(f, lambda: setattr(f, "k", 3.0), "was 2.0, is 3.0")


def test_slots():
    @dataclasses.dataclass(slots=True)
    class Options:
        k: float

    options = Options(2.0)
    follows(lambda x: x * options.k, lambda: setattr(options, "k", 3.0), "options.k was 2.0")


def test_class_attribute_of_an_instance():
    class Scale(nn.Module):
        k = 2.0

        def forward(self, x):
            return x * self.k

    follows(Scale(), lambda: setattr(Scale, "k", 3.0), "Scale.k was 2.0, is 3.0")


def test_method_that_is_replaced():
    class Scale(nn.Module):
        def forward(self, x):
            return self.act(x)

        def act(self, x):
            return x * 2.0

    follows(Scale(), lambda: setattr(Scale, "act", lambda _, x: x * 3.0), "Scale.act")


def test_containers_and_objects_in_a_module():
    class Scale(nn.Module):
        def __init__(self):
            self.options = {"ks": [2.0]}

        def forward(self, x):
            return x * self.options["ks"][0]

    m = Scale()
    change = functools.partial(m.options["ks"].__setitem__, 0, 3.0)
    follows(m, change, "self.options['ks'][0] was 2.0, is 3.0")


def test_deeply_nested_modules():
    inner = nn.Dropout(0.5)
    m = functools.reduce(lambda m, _: nn.Sequential(m), range(15), inner)
    fast = vtc.compile(m)
    assert (fast(vtc.ones(500)).numpy() == 0).any()
    inner.eval()
    assert (fast(vtc.ones(500)).numpy() == 1).all()


def test_numbers_are_told_apart_as_python_does():
    k = 1

    @vtc.compile
    def f(x):
        return x / k if k is not True else x * 7.0

    one = vtc.ones(1)
    assert f(one).tolist() == [1.0]
    k = True
    assert f(one).tolist() == [7.0]
    k = 0.0
    assert f(one).tolist() == [np.inf]
    k = -0.0
    assert f(one).tolist() == [-np.inf]
    k = float("nan")
    f(one)
    count = len(f.entries)
    k = -float("nan") * 1.0
    f(one)
    assert len(f.entries) == count


def test_content_of_a_numpy_array():
    a = np.full(1, 2.0, np.float32)
    follows(lambda x: x * vtc.tensor(a), lambda: a.fill(3.0), "a.content")


def test_the_default_dtype():
    f = vtc.compile(lambda: vtc.zeros(1))
    for _ in range(CALLS):
        assert f().dtype is vtc.float32
    vtc.set_default_dtype(vtc.float64)
    try:
        assert f().dtype is vtc.float64
    finally:
        vtc.set_default_dtype(vtc.float32)


def test_freezing_a_parameter():
    m = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
    fast = vtc.compile(m)
    fast(vtc.ones(1, 2)).sum().backward()
    m.zero_grad()
    m[0].requires_grad_(False)
    fast(vtc.ones(1, 2)).sum().backward()
    assert m[0].weight.grad is None
    assert m[1].weight.grad is not None
    assert "requires_grad was True, is False" in fast.explain()


def test_moving_a_module_to_another_dtype():
    m = nn.Linear(2, 2)
    total = vtc.compile(lambda: m.weight.sum())
    for dtype in (vtc.float32, vtc.float64, vtc.float32):
        m.to(dtype)
        for _ in range(CALLS):
            assert total().dtype is dtype
            assert total().item() == pytest.approx(m.weight.sum().item())
    assert len(total.entries) == 2
    assert "dtype was" in total.explain()


@pytest.mark.parametrize("size", [3, 5000])
@pytest.mark.parametrize(
    ("make", "put"),
    [
        (list, lambda c, v: c.__setitem__(1, v)),
        (lambda r: dict(enumerate(r)), lambda c, v: c.__setitem__(1, v)),
        (lambda r: types.SimpleNamespace(**{f"k{i}": v for i, v in enumerate(r)}), None),
    ],
    ids=["list", "dict", "namespace"],
)
def test_one_element_of_many(size, make, put):
    values = make(range(size))

    def read():
        return values.k1 if put is None else values[1]

    def change(v):
        setattr(values, "k1", v) if put is None else put(values, v)

    f = vtc.compile(lambda x: x * 7.0 if read() is True else x + read())
    zero = vtc.ones(1)
    for value, want in ((1, 2.0), (True, 7.0), (10**6, 1e6 + 1), (10**6 + 0, 1e6 + 1), (1.5, 2.5)):
        change(value)
        for _ in range(CALLS):
            assert f(zero).item() == want
    assert len(f.entries) == 4


def test_a_large_container_is_not_walked_in_python():
    values = list(range(10**6, 10**6 + 300_000))
    f = vtc.compile(lambda x: x * values[0])
    one = vtc.ones(1)
    for _ in range(CALLS):
        f(one)

    def seconds(work):
        start = time.process_time()
        work()
        return time.process_time() - start

    def walk():
        for a, b in zip(values, values, strict=True):
            assert a is b

    assert min(seconds(lambda: f(one)) for _ in range(9)) < min(seconds(walk) for _ in range(9))


def test_a_repeated_call_is_no_miss():
    m = nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.1))
    fast = vtc.compile(m)
    for _ in range(2):
        m.train()
        fast(vtc.ones(1, 2))
        m.eval()
        fast(vtc.ones(1, 2))
    assert len(fast.entries) == 2


def test_what_the_garbage_collector_runs_is_not_read():
    """A tool that times collections (hypothesis does) must not make every call a miss."""
    ticks = []

    def started(phase, info):
        global _gc_ticks
        _gc_ticks = len(ticks)
        ticks.append(_gc_ticks)

    @vtc.compile
    def f(x):
        for _ in range(50):
            x = x + vtc.exp(x)
        return x

    threshold = gc.get_threshold()
    gc.callbacks.append(started)
    gc.set_threshold(1)
    try:
        for _ in range(3):
            f(vtc.ones(2))
    finally:
        gc.set_threshold(*threshold)
        gc.callbacks.remove(started)
    assert ticks
    assert len(f.entries) == 1, f.explain()


_gc_ticks = 0


def test_profilers_see_what_they_can():
    """cProfile is one in C before Python 3.12, and goes on after the trace."""
    seen = []

    def inner(x):
        return x * 2

    def after():
        return 3

    sys.setprofile(lambda frame, event, _: seen.append(frame.f_code.co_name))
    try:
        vtc.compile(lambda x: inner(x))(vtc.ones(2))
    finally:
        sys.setprofile(None)
    assert "inner" in seen
    profile = cProfile.Profile()
    profile.enable()
    try:
        y = vtc.compile(lambda x: inner(x))(vtc.ones(3))
        after()
    finally:
        profile.disable()
    assert y.tolist() == [2.0] * 3
    assert "after" in {name for _, _, name in pstats.Stats(profile).stats}
