"""What traced code does besides computing: to names, attributes and containers, and when it fails.

A trace that fails leaves everything as it was. One that succeeds leaves numbers and texts where
eager code would, at each call. Values of a trace may not be left anywhere.
"""

import re
from collections import Counter, deque
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pytest

import vtc
import vtc.nn as nn
from vtc.errors import CaptureError, LeakError

COUNT = 0


class Counted:
    n = 0
    log = ()

    def __init__(self):
        self.n, self.inner, self.log = 0, Slotted(), {"rows": [], "n": 0}


class Slotted:
    __slots__ = ("n",)

    def __init__(self):
        self.n = 0


class Boom(Exception):
    pass


@dataclass(frozen=True)
class Config:
    width: int = 3

    @cached_property
    def area(self):
        return self.width * self.width


def here(error, *words):
    """``error`` whose message has ``words``, and names a line of this file."""
    return pytest.raises(error, match="(?s)" + ".*".join(words) + r".*test_effects\.py:\d+")


# a trace that fails


class Training:
    """A training step that can fail anywhere, and all that it changes."""

    def __init__(self):
        vtc.manual_seed(1)
        self.net = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Dropout(0.5))
        self.optimizer = vtc.optim.AdamW(self.net.parameters(), lr=0.1)
        self.fail, self.error, self.steps, self.last, self.log = "", Boom, 0, None, []
        self.net.last = None

    def at(self, place):
        if place == self.fail:
            raise self.error(place)

    def step(self, x):
        self.steps += 1
        self.log.append(self.steps)
        self.net.train()
        handle = self.net[0].weight.register_hook(lambda g: self.at("hook"))
        self.net[0].bias.register_post_accumulate_grad_hook(lambda p: None)
        self.last = self.net.last = self.net(x)
        self.at("forward")
        loss = self.last.sum()
        loss.backward()
        self.at("backward")
        self.optimizer.step()
        self.at("step")
        self.optimizer.zero_grad()
        vtc.manual_seed(3)
        vtc.set_grad_enabled(False)
        vtc.set_default_dtype(vtc.float64)
        self.net.eval()
        handle.remove()
        self.at("end")

    def state(self):
        """Everything, in numbers."""
        net = self.net
        tensors = [*net.parameters(), *net.buffers(), vtc.get_rng_state()]
        tensors += [t for entry in self.optimizer.state.values() for t in entry.values()]
        hooks = [(p._hooks.before, p._hooks.after) for p in net.parameters() if p._hooks]
        values = [(t.tolist(), t.requires_grad, t._grad, t._cell) for t in tensors]
        switches = net.training, vtc.is_grad_enabled(), vtc.get_default_dtype()
        seed = vtc.initial_seed()
        own = self.steps, self.last, net.last, list(self.log)
        return values, [h for h in hooks if any(h)], switches, seed, own


@pytest.mark.parametrize("error", [Boom, KeyboardInterrupt])
@pytest.mark.parametrize("place", ["forward", "hook", "backward", "step", "end"])
def test_a_trace_that_fails_leaves_everything_as_it_was(place, error):
    t = Training()
    before = t.state()
    t.fail, t.error = place, error
    run = vtc.compile(t.step)
    for _ in range(2):
        with pytest.raises(error, match=place):
            run(vtc.ones(4, 2))
        assert t.state() == before


def test_a_model_works_after_a_trace_that_failed():
    class Net(nn.Module):
        def __init__(self):
            self.up, self.last, self.fail = nn.Linear(2, 2), None, True
            self.register_buffer("total", vtc.zeros(2))

        def forward(self, x):
            self.last = self.up(x)
            self.total = self.total + x.sum(0)
            if self.fail:
                raise Boom
            y, self.last, self.total = self.last, None, vtc.zeros(2)
            return y

    net, x = Net(), vtc.ones(3, 2)
    run = vtc.compile(net)
    with pytest.raises(Boom):
        run(x)
    assert net.last is None
    assert [name for name, _ in net.named_buffers()] == ["total"]
    with pytest.raises(Boom):
        net(x)
    assert net.total.tolist() == [3.0, 3.0]  # eager code leaves what it did
    net.fail = False
    assert net(x).shape == (3, 2)
    with here(LeakError, r"Net\.total"):
        run(x)
    assert net.total.tolist() == [0.0, 0.0]


def test_a_transform_that_fails_leaves_a_module_as_it_was():
    class Net(nn.Module):
        def __init__(self):
            self.last = None

        def forward(self, x):
            self.last = x * 2
            return x

    net = Net()
    for run in (vtc.vmap(net), vtc.compile(vtc.vmap(net))):
        with here(LeakError, r"Net\.last"):
            run(vtc.ones(3))
        assert net.last is None


def test_traces_that_are_given_up_leave_no_marks():
    log = []

    def f(x):
        log.append(len(log))
        return x.reshape(-1)[: int(x.shape[0])]  # traced again, with that size fixed

    run = vtc.compile(f, dynamic=True)
    assert run(vtc.ones(3, 2)).shape == (3,)
    assert log == [0]


# values that are left


KEPT = []


def leave_in_a_list(x):
    KEPT.append(x * 2)
    return x


def leave_an_attribute(x):
    BOX.last = x * 2
    BOX.n = BOX.inner.n = 3
    return x


def leave_a_parameter(x):
    MODULE.w = nn.Parameter(MODULE.w * 2)
    return x


def leave_a_gradient(x):
    global COUNT
    (x * MODULE.w).sum().backward()
    COUNT = MODULE.w.grad
    return x


BOX = Counted()
BOX.last = None
MODULE = nn.Module()
MODULE.w = nn.Parameter(vtc.ones(2))


@pytest.mark.parametrize(
    ("f", "where"),
    [
        (leave_in_a_list, "the global KEPT"),
        (leave_an_attribute, r"Counted\.last"),
        (leave_a_parameter, r"Module\.w"),
        (leave_a_gradient, "the global COUNT"),
    ],
)
def test_a_value_may_not_be_left(f, where):
    before = list(KEPT), MODULE.w, COUNT, vars(BOX) | {"inner": BOX.inner.n}
    for _ in range(2):
        with here(LeakError, r"traced value f32\[2\]", where):
            vtc.compile(f)(vtc.ones(2))
        now = list(KEPT), MODULE.w, COUNT, vars(BOX) | {"inner": BOX.inner.n}
        assert now == before
    assert MODULE.w.grad is None


def test_a_value_that_got_out_names_the_line_that_made_it():
    def f(x):
        raise Boom(x * 2)

    with pytest.raises(Boom) as caught:
        vtc.compile(f)(vtc.ones(2))
    (left,) = caught.value.args
    line = f.__code__.co_firstlineno + 1
    message = rf"f32\[2\], made at {re.escape(__file__)}:{line}, was used after its trace ended"
    uses = (
        lambda: left + 1,
        lambda: left[0],
        lambda: left.grad,
        lambda: left.requires_grad,
        lambda: left.device,
        lambda: vtc.compile(lambda x: x)(left),
        lambda: vtc.compile(lambda x: x + left)(vtc.ones(2)),
        lambda: vtc.vmap(lambda x: x + left)(vtc.ones(2, 2)),
    )
    for use in uses:
        with pytest.raises(CaptureError, match=message):
            use()
    assert repr(left) == "<traced value of an ended trace>"


def test_a_size_that_got_out():
    def f(x):
        raise Boom(x.shape[0])

    with pytest.raises(Boom) as caught:
        vtc.compile(f, dynamic=True)(vtc.ones(3))
    with here(CaptureError, "traced size, x_0, was used after its trace ended"):
        range(caught.value.args[0])


def test_asking_a_view_to_require_grad_does_not_tie_it_to_the_trace():
    base = vtc.zeros(4, 3)
    row = base[1]

    @vtc.compile
    def f(base, row):
        return (row.requires_grad_() * 2).sum() + base.sum().detach()

    f(base, row).backward()
    assert row.grad.tolist() == [2.0] * 3
    assert row._cell is None
    with vtc.no_grad():
        row += 1
    assert base.sum().item() == 3.0


def test_what_ends_with_the_trace_is_not_left():
    """Hooks on its values, objects that it makes, and what is put somewhere for a while."""
    box = Counted()

    @vtc.compile
    def f(x):
        own, y = Counted(), x.detach() * 3
        own.log["rows"].append(y)
        own.last = own.log
        box.log["rows"].append(y)
        box.n = y
        h, z = x * 2, y.detach().requires_grad_()
        h.register_hook(lambda g: g * box.log["rows"].pop())
        z.register_hook(lambda g: g * own.last["rows"][0])
        (h.sum() + z.sum()).backward()
        box.n = 0
        return z.grad

    x = vtc.ones(2).requires_grad_()
    assert f(x).tolist() == [3.0, 3.0]
    assert x.grad.tolist() == [6.0, 6.0]
    assert box.log == {"rows": [], "n": 0}


# what each call does


def count_a_global(x):
    global COUNT
    COUNT += 1
    return COUNT


def test_numbers_are_counted_as_in_eager_code():
    def run(decorate):
        global COUNT
        COUNT, Counted.n, k, box = 0, 0, 0, Counted()
        names, row, kinds, seen = {"n": 0}, deque(maxlen=2), Counter(), set()
        array = np.zeros((2, 2))[:, 0]

        @decorate
        def f(x):
            nonlocal k
            k += 1
            Counted.n += 2
            box.n -= 1
            box.inner.n += k
            box.log["n"] += 1
            box.log["rows"].append((k, "k"))
            names["n"] += 1
            row.append(k)
            kinds["k"] += 1
            seen.add(k)
            array[k % 2] += k
            return count_a_global(x), x.shape[0] * k

        found = [f(vtc.ones(n)) for n in (1, 2, 2)]
        own = box.n, box.inner.n, box.log, Counted.n
        return found, COUNT, k, own, names, list(row), kinds, seen, array.tolist()

    want = run(lambda f: f)
    assert want[1] == want[2] == 3
    assert run(vtc.compile) == want


def test_switches_stay_as_each_call_sets_them():
    @vtc.compile
    def f(x):
        vtc.set_grad_enabled(False)
        vtc.set_default_dtype(vtc.float64)
        return x

    for _ in range(3):
        f(vtc.ones(1))
        assert not vtc.is_grad_enabled()
        assert vtc.get_default_dtype() is vtc.float64
        vtc.set_grad_enabled(True)
        vtc.set_default_dtype(vtc.float32)
    assert len(f.entries) == 1


def test_a_cache_of_constants_is_filled_once():
    class Net(nn.Module):
        def __init__(self):
            self.cache = {}

        def forward(self, x):
            if "scale" not in self.cache:
                self.cache["scale"] = vtc.tensor([1.0, 2.0])
            return x * self.cache["scale"]

    net = Net()
    run = vtc.compile(net)
    assert [run(vtc.ones(2)).tolist() for _ in range(3)] == [[1.0, 2.0]] * 3
    assert len(run.entries) == 1
    assert net(vtc.ones(2)).tolist() == net.cache["scale"].tolist()


def test_attributes_that_code_cannot_set_are_put_back_too():
    """``format`` may read any attribute, so all count."""
    config = Config()

    @vtc.compile
    def f(x):
        return f"{config.area}", "{}".format(x.shape[0])  # noqa: UP032

    for _ in range(3):
        assert f(vtc.ones(2)) == ("9", "2")
        assert vars(config) == {"width": 3, "area": 9}
    assert len(f.entries) <= 2


# options of optimizers


def trained(change):
    p = nn.Parameter(vtc.ones(2))
    optimizer = vtc.optim.SGD([p], lr=1.0)
    schedule = vtc.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)

    @vtc.compile
    def step(x):
        (p * x).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
        return change(optimizer, schedule)

    return step, optimizer, schedule


def set_rate(optimizer, schedule):
    optimizer.param_groups[0]["lr"] = 0.1


@pytest.mark.parametrize(
    ("change", "what"),
    [(set_rate, "the option lr"), (lambda optimizer, schedule: schedule.step(), "StepLR")],
)
def test_rates_are_set_outside(change, what):
    step, optimizer, schedule = trained(change)
    with here(CaptureError, what, "outside"):
        step(vtc.ones(2))
    assert (optimizer.param_groups[0]["lr"], schedule.last_epoch) == (1.0, 0)


def test_a_rate_that_is_read_is_that_of_the_call():
    step, _, schedule = trained(
        lambda optimizer, schedule: (optimizer.param_groups[0]["lr"], *schedule.get_last_lr())
    )
    for k in range(3):
        assert step(vtc.ones(2)) == (0.5**k, 0.5**k)
        schedule.step()
    assert len(step.entries) == 1
