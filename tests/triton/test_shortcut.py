"""Eager code on a simulated GPU whose kernels are interpreted: the same as on the CPU, whatever way
a call takes."""

import math

import numpy as np
import pytest
from on_simulated import entries, interpreted, simulated

import vtc
from vtc.frontend import eager, shortcut
from vtc.runtime.cuda.driver import installed

LOOKS = 3
"""Calls after which a kind of call is known."""


@pytest.fixture(autouse=True, params=["compiled", "python"])
def sim(request, monkeypatch, tmp_path):
    gpu = simulated.Simulated()
    if request.param == "compiled":
        gpu.symbol = entries.Entries(gpu).address
    with interpreted(gpu, monkeypatch, tmp_path):
        yield gpu


def same(call, *arrays):
    """``call`` on the GPU, often, gives what it gives on the CPU; the last result there."""
    here = [vtc.tensor(a) for a in arrays]
    there = [x.cuda() for x in here]
    for _ in range(LOOKS):
        want, got = call(*here), call(*there)
        assert got.is_cuda
        assert got.type == want.type
        a, b = (t.cpu().numpy().astype(np.float64) for t in (got, want))
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7)
    return got


F4 = np.linspace(-2, 2, 12, dtype="f4").reshape(3, 4)
ROW = np.arange(4, dtype="f4")
I8 = np.arange(-3, 3)
CALLS = {
    "number": (lambda x: x + 1, F4),
    "float": (lambda x: x * 0.5, F4),
    "reflected": (lambda x: 1 - x, F4),
    "two": (lambda x, y: x - y, F4, F4[::-1].copy()),
    "row": (lambda x, y: x + y, F4, ROW),
    "column": (lambda x, y: x * y, F4, F4[:, :1].copy()),
    "outer": (lambda x, y: x + y, F4[:, :1].copy(), ROW),
    "scalar": (lambda x, y: x + y, F4, np.float32(3).reshape(())),
    "transposed": (lambda x: x.T + 1, F4),
    "strided": (lambda x: x[:, ::2] * 2, F4),
    "shifted": (lambda x: x[0, 1:] + 1, F4),
    "function": (lambda x: x.exp(), F4),
    "compare": (lambda x: x > 0, F4),
    "integers": (lambda x: x + 2, I8),
    "cast number": (lambda x: x * 0.5, I8),
    "cast function": (lambda x: x.exp(), I8),
    "cast": (lambda x: x.int(), F4),
    "half": (lambda x: x.half() + 0.1, F4),
    "mixed": (lambda x, y: x * y, F4, I8[:4].copy()),
    "bools": (lambda x: (x > 0) + (x < -1), F4),
    "no elements": (lambda x: x + 1, F4[:0]),
    "no axes": (lambda x: x + 1, np.float32(2).reshape(())),
    "sum": (lambda x: x.sum(0), F4),
    "alpha": (lambda x, y: vtc.add(x, y, alpha=3), F4, F4),
    "square": (lambda x: x**2, F4),
    "in place": (lambda x: x.clone().mul_(3).add_(1), F4),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_call_gives_the_same_each_time(name):
    call, *arrays = CALLS[name]
    same(call, *arrays)


def test_a_known_call_is_one_launch_and_no_copy(sim):
    x = vtc.ones(3, 4, device="cuda")
    for _ in range(LOOKS):
        x + 1
    before, counted = dict(sim.calls), vtc.stats().eager_calls
    y = x + 1
    asked = {k: n - before.get(k, 0) for k, n in sim.calls.items() if n != before.get(k, 0)}
    assert asked == {"launch": 1}
    assert vtc.stats().eager_calls == counted + 1
    assert y.tolist() == [[2.0] * 4] * 3


def test_numbers_are_told_apart():
    x = vtc.ones(2, device="cuda")
    zero = vtc.zeros(2, device="cuda")
    for _ in range(LOOKS):
        for n in (1, 2, 3, 2, True, 2.5):
            assert (x + n).tolist() == [1 + n] * 2
        for n in (0.0, -0.0):
            assert [math.copysign(1, v) for v in (x * n).tolist()] == [math.copysign(1, n)] * 2
        assert all(map(math.isnan, (x * math.nan).tolist()))
        assert (zero + math.inf).tolist() == [math.inf] * 2
    ints = vtc.ones(2, dtype=vtc.int64, device="cuda")
    for _ in range(LOOKS):
        assert (ints + True).dtype is vtc.int64
        assert (ints + 1.0).dtype is vtc.float32


def test_each_result_has_memory_of_its_own():
    x = vtc.ones(4, device="cuda")
    made = [x + n for n in range(6)]
    assert [y.tolist() for y in made] == [[1.0 + n] * 4 for n in range(6)]
    made[3].fill_(9)
    assert made[4].tolist() == [5.0] * 4
    assert x.tolist() == [1.0] * 4


def test_streams_have_numbers_of_their_own(sim):
    x, side = vtc.ones(4, device="cuda"), vtc.cuda.Stream()
    for _ in range(LOOKS):
        x + 5
    vtc.cuda.synchronize()
    with vtc.cuda.stream(side):
        y = x + 5
        z = y + 5
    side.synchronize()
    assert z.tolist() == [11.0] * 4


def test_gradients_are_recorded_all_the_same():
    x = vtc.ones(3, device="cuda")
    for _ in range(LOOKS):
        x * 3
    x.requires_grad_()
    for _ in range(LOOKS):
        x.grad = None
        y = x * 3
        (y * y).sum().backward()
        assert x.grad.tolist() == [18.0] * 3
    view = y[1:]
    with vtc.no_grad():
        assert (view * 3)._record is None
    assert (view * 3).requires_grad


def test_autocast_and_the_default_dtype_have_their_say():
    x = vtc.ones(3, dtype=vtc.int64, device="cuda")
    h = vtc.ones(3, dtype=vtc.float16, device="cuda")
    for _ in range(LOOKS):
        assert (x * 0.5).dtype is vtc.float32
        assert h.exp().dtype is vtc.float16
    with vtc.autocast("cuda"):
        assert h.exp().dtype is vtc.float32
    vtc.set_default_dtype(vtc.float64)
    try:
        assert (x * 0.5).dtype is vtc.float64
    finally:
        vtc.set_default_dtype(vtc.float32)


def test_memory_that_is_not_aligned_is_copied():
    x = vtc.arange(9.0, device="cuda")
    for _ in range(LOOKS):
        x[:8] + 1
        assert (x[1:] + 1).tolist() == [n + 2.0 for n in range(8)]


def test_no_memory_is_said_in_words(sim):
    x = vtc.ones(1 << 20, device="cuda")
    for _ in range(LOOKS):
        x + 1
    kept = []

    def fill():
        while True:
            kept.append(vtc.empty(1 << 20, device="cuda"))

    with pytest.raises(MemoryError):
        fill()
    with pytest.raises(MemoryError, match=r"add.*expected"):
        x + 1
    kept.clear()
    assert (x + 1)[:2].tolist() == [2.0, 2.0]


def test_another_driver_is_asked_anew(sim):
    x = vtc.ones(3, device="cuda")
    for _ in range(LOOKS):
        x + 1
    known = len(shortcut._known)
    assert known
    assert eager.stats().eager_calls
    with installed(simulated.Simulated()) as other:
        other.kernels.update(sim.kernels)
        y = vtc.ones(3, device="cuda")
        assert (y + 1).tolist() == [2.0] * 3
        assert other.calls["launch"] or other.calls["copy"]


def test_a_program_without_inputs(sim):
    for _ in range(LOOKS + 1):
        assert vtc.linspace(1.0, 2.0, 1, device="cuda").tolist() == [1.0]
        assert vtc.arange(3, device="cuda").tolist() == [0, 1, 2]
