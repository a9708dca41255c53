"""What code only adds to compiles once, and holds what eager code leaves; what is read besides,
by whatever name, is guarded.
"""

from collections import defaultdict, deque
from types import SimpleNamespace

import pytest

import vtc
import vtc.nn as nn
from vtc.frontend.uses import DICT, LIST, NUMBER, OTHER, uses

CALLS, SHAPES = 0, []


class Holder:
    def __init__(self):
        self.n, self.log, self.kept = 0, [], 0


class Net(nn.Module):
    def __init__(self):
        self.calls, self.sizes = 0, []

    def forward(self, x):
        self.calls += 1
        self.sizes.append(x.shape[0])
        return x * 2


def test_how_code_uses_a_name():
    def f(self, d, k):
        self.n += len(d) if k else 1
        self.log.append(k)
        self.rows[k] -= 1
        self.m += self.m
        self.step()
        self.last = self.last + 1
        return self.log.pop()

    found = uses([f.__code__])
    assert (found["n"], found["rows"]) == ({NUMBER}, {DICT})
    assert found["log"] == {LIST, OTHER}
    assert found["m"] == {NUMBER, OTHER}
    assert found["last"] == {OTHER}
    assert "step" not in found


def test_counters_and_logs_compile_once():
    def run(decorate):
        global CALLS
        CALLS, k, box, net = 0, 0, Holder(), Net()
        SHAPES.clear()
        tally, row = defaultdict(int, n=0), deque()
        call = decorate(net)

        @decorate
        def f(x):
            global CALLS
            nonlocal k
            CALLS += 1
            k += len(x.shape)
            box.n -= 1
            if box.log is not None:
                box.log.extend([x.shape[0], "k"])
            SHAPES.append(tuple(x.shape))
            tally["n"] += x.shape[0]
            row.append(1)
            return x + 1

        for _ in range(4):
            f(vtc.ones(2))
            call(vtc.ones(3))
        box.n, tally["n"] = 10, 5
        box.log.clear()
        f(vtc.ones(2))
        own = CALLS, k, box.n, box.log, list(SHAPES), dict(tally), list(row)
        return (own, net.calls, net.sizes), f, call

    want, got = run(lambda f: f), run(vtc.compile)
    assert got[0] == want[0]
    assert [len(f.entries) for f in got[1:]] == [1, 1]


def by_attribute(box):
    return len(box.log)


def by_vars(box):
    return len(vars(box)["log"])


BY_NAMESPACE = SimpleNamespace(log=[])


def by_namespace(box):
    return len(BY_NAMESPACE.log)


def by_default(box, log=BY_NAMESPACE.log):
    return len(log)


@pytest.mark.parametrize("read", [by_attribute, by_vars, by_namespace, by_default])
def test_a_list_that_is_read_is_guarded(read):
    box = Holder()
    box.log = BY_NAMESPACE.log
    box.log.clear()

    @vtc.compile
    def f(x):
        box.log.append(1)
        return x * read(box)

    assert [f(vtc.ones(1)).item() for _ in range(3)] == [1, 2, 3]
    assert box.log == [1, 1, 1]
    assert box.log is BY_NAMESPACE.log


def test_a_count_that_is_read_is_guarded():
    box = Holder()

    @vtc.compile
    def f(x):
        box.n += 1
        box.kept += box.n
        return x * box.kept

    assert [f(vtc.ones(1)).item() for _ in range(3)] == [1, 3, 6]


def test_a_list_with_another_name_that_code_does_not_mention():
    box = Holder()
    rows = box.log

    def f(x):
        rows.append(len(rows))
        return x * box.n

    box.f = f
    run = vtc.compile(f)
    for _ in range(3):
        run(vtc.ones(1))
    assert rows == [0, 1, 2]


def test_sizes_that_vary_are_kept_as_numbers():
    box = Holder()

    @vtc.compile
    def f(x):
        box.n += x.shape[0]
        box.log.append(tuple(x.shape))
        return x * 2

    for n in (2, 3, 4, 3):
        f(vtc.ones(n))
    assert (box.n, box.log) == (12, [(2,), (3,), (4,), (3,)])


def test_a_program_is_compiled_for_the_counters_that_an_optimizer_has():
    used, other = nn.Parameter(vtc.ones(2)), nn.Parameter(vtc.ones(2))
    optimizer = vtc.optim.Adam([used, other], lr=0.1)

    @vtc.compile
    def step(both):
        optimizer.zero_grad()
        loss = (used * other).sum() if both else used.sum()
        loss.backward()
        optimizer.step()

    for both in (True, False, True):
        step(both)
    assert [optimizer.state[p]["step"].item() for p in (used, other)] == [3.0, 2.0]
