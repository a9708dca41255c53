"""What loops around a compiled function do between its calls, and what it does to them.

Loaders cut batches out of one tensor, trainers count and log, modes are switched inside: none of
that compiles anything again, and each call leaves behind what eager code would.
"""

import operator

import pytest

import vtc
import vtc.nn as nn
from vtc.errors import VersionError


def windows(series, k, n=4):
    return series[k : k + n], series[k + 1 : k + n + 1]


def test_one_program_serves_overlapping_views_wherever_they_lie():
    series = vtc.arange(40.0)

    @vtc.compile
    def f(x, y):
        return x * y + y.sum()

    for k in range(6):
        x, y = windows(series, k)
        assert f(x, y).tolist() == (x * y + y.sum()).tolist()
    other = vtc.arange(8.0)
    assert f(other[2:6], other[2:6]).tolist() == f(other[2:6].clone(), other[2:6]).tolist()
    assert [e.calls for e in f.entries] == [7, 1]  # the last shares no memory


def test_a_tensor_given_twice_is_one_tensor():
    @vtc.compile
    def f(x, y):
        return x + 1 if x is y else x * y

    series = vtc.arange(6.0)
    x, y = windows(series, 0)
    assert f(x, y).tolist() == [0.0, 2.0, 6.0, 12.0]
    assert f(x, x).tolist() == [1.0, 2.0, 3.0, 4.0]


@pytest.mark.parametrize("start", [0, 1, 3])
def test_views_that_are_written_see_each_other(start):
    def f(x, y):
        x += 1
        return y * 2

    run = vtc.compile(f)
    for k in (start, start + 1, start):
        mine, theirs = vtc.arange(12.0), vtc.arange(12.0)
        got, want = run(mine[k : k + 4], mine[3:7]), f(theirs[k : k + 4], theirs[3:7])
        assert got.tolist() == want.tolist()
        assert mine.tolist() == theirs.tolist()


def test_views_whose_base_the_function_holds_see_its_writes():
    held = vtc.arange(8.0)

    @vtc.compile
    def f(x, y):
        held.add_(1)
        return x + y

    for k in range(3):
        x, y = windows(held, k)
        assert f(x, y).tolist() == (x + y).tolist()


def test_one_of_several_views_is_made_to_require_grad():
    series = vtc.arange(6.0)

    def f(x, y):
        x = x.detach().requires_grad_()
        (x * y).sum().backward()
        return x.grad

    run = vtc.compile(f)
    for k in range(2):
        assert run(*windows(series, k)).tolist() == f(*windows(series, k)).tolist()


# modes and other attributes


def model():
    return nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.5))


def test_modes_switched_inside_are_switched_by_every_call():
    net = model()

    @vtc.compile
    def train(x):
        net.train()
        return net(x)

    @vtc.compile
    def evaluate(x):
        net.eval()
        return net(x)

    x = vtc.ones(2, 3)
    evaluate.lower(x)
    assert net.training  # tracing alone changes nothing
    for _ in range(4):
        train(x)
        assert net.training
        assert net[1].training
        first, again = evaluate(x), evaluate(x)
        assert not net.training
        assert not net[1].training
        assert first.tolist() == again.tolist()
        assert vtc.allclose(first, net(x))
    assert len(train.entries) == len(evaluate.entries) == 2  # from each mode


def test_a_failed_trace_leaves_modes_as_they_were():
    net = model()

    @vtc.compile
    def f(x):
        net.eval()
        raise KeyError("enough")

    with pytest.raises(KeyError, match="enough"):
        f(vtc.ones(2, 3))
    assert net.training


def test_a_module_that_counts_its_calls():
    class Counts(nn.Module):
        def __init__(self):
            self.calls = 0

        def forward(self, x):
            self.calls += 1
            return x * self.calls

    net = Counts()
    run = vtc.compile(net)
    assert [run(vtc.tensor(2.0)).item() for _ in range(4)] == [2.0, 4.0, 6.0, 8.0]
    assert net.calls == 4


@pytest.mark.parametrize("way", ["self", "global", "closure", "argument"])
def test_an_object_that_counts_its_calls(way):
    class Counter:
        def __init__(self):
            self.calls, self.flag = 0, True

        def step(self, x):
            self.calls += 1
            del self.flag
            self.flag = True
            return Point(x * self.calls).x

    class Point:
        def __init__(self, x):
            self.x, self.name = x, "p"

    def count(x, c):
        c.calls += 1
        return x * c.calls

    def count_global(x):
        COUNTER.calls += 1
        return x * COUNTER.calls

    c = Counter()
    COUNTER.calls = 0
    steps = {
        "self": c.step,
        "global": count_global,
        "closure": lambda x: count(x, c),
        "argument": count,
    }
    run = vtc.compile(steps[way])
    more = (c,) if way == "argument" else ()
    found = [run(vtc.tensor(2.0), *more).item() for _ in range(4)]
    assert found == [2.0, 4.0, 6.0, 8.0]
    assert (COUNTER if way == "global" else c).calls == 4


class Holder:
    calls = 0


COUNTER = Holder()


def test_a_module_made_in_a_trace_that_fails_is_whole():
    class Late(nn.Module):
        def __init__(self):
            self.head = None

        def forward(self, x, fail):
            if self.head is None:
                self.head = nn.LeakyReLU(0.5)
            if fail:
                raise KeyError(self.head)
            return self.head(x)

    net, x = Late(), vtc.ones(2, 3)
    run = vtc.compile(net)
    with pytest.raises(KeyError) as caught:
        run(x, True)
    assert net.head is None
    assert repr(caught.value.args[0]) == "LeakyReLU(negative_slope=0.5)"
    assert run(-x, False).tolist() == [[-0.5] * 3] * 2


class Trainer:
    scale = 2.0

    def __init__(self):
        self.net, self.steps, self.losses, self.k = nn.Linear(2, 2), 0, [], 1.0

    def step(self, x):
        return self.net(x) * self.k * self.scale


class Counted(nn.Module):
    def __init__(self):
        self.net, self.steps, self.k, self.scale = nn.Linear(2, 2), 0, 1.0, 2.0

    def forward(self, x):
        return self.net(x) * self.k * self.scale

    def step(self, x):
        return self(x)


@pytest.mark.parametrize("make", [Trainer, Counted])
def test_attributes_count_where_the_code_reads_them(make):
    t, x = make(), vtc.ones(1, 2)
    run = vtc.compile(t.step)

    def right():
        return run(x).tolist() == t.step(x).tolist()

    for k in range(4):
        run(x)
        t.steps += 1
        if make is Trainer:
            t.losses.append(k)
    assert len(run.entries) == 1
    t.k = 3.0
    assert right()
    t.scale = 4.0  # of the instance, where the trainer's was its class's
    assert right()
    t.net = nn.Linear(2, 2)
    assert right()
    assert len(run.entries) == 4


class Looked:
    def __init__(self):
        self.k, self.parts = 2.0, {"q": 2.0}

    def __getattr__(self, name):
        if name not in self.__dict__["parts"]:
            raise AttributeError(name)
        return self.parts[name]


class Fixed:
    def __init__(self):
        self._k, self.other = 2.0, 0

    @property
    def k(self):
        return self._k


def by_pattern(o):
    match o:
        case Fixed(_k=k):
            return k
    return None


def if_there(o):
    try:
        return o.extra
    except AttributeError:
        return 0.0


@pytest.mark.parametrize(
    ("make", "name", "look"),
    [
        (Fixed, "_k", lambda o: o.k),
        (Fixed, "_k", lambda o: float(f"{o._k}")),
        (Fixed, "_k", lambda o: float(format(o._k, ".1f"))),
        (Fixed, "_k", by_pattern),
        (Fixed, "extra", if_there),
        (Looked, "q", lambda o: o.q),
    ],
)
def test_whatever_way_the_code_looks_it_sees_what_changed(make, name, look):
    o = make()
    run = vtc.compile(lambda x: x * look(o))
    for k in (3.0, 4.0):
        run(vtc.tensor(1.0))
        setattr(o, name, k)
        assert run(vtc.tensor(1.0)).item() == k


def test_code_that_looks_by_other_means_sees_every_attribute():
    t, name = Trainer(), "steps"
    run = vtc.compile(lambda x: x * getattr(t, name))
    found = []
    for _ in range(3):
        t.steps += 1
        found.append(run(vtc.tensor(2.0)).item())
    assert found == [2.0, 4.0, 6.0]


# results that nobody differentiates


def test_a_metric_whose_parameters_were_updated_since():
    net = nn.Linear(4, 3)
    optimizer = vtc.optim.SGD(net.parameters(), lr=0.1)

    def step(x):
        h = net(x)
        loss = (h * h).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss, h.mean()

    x = vtc.ones(2, 4)
    run = vtc.compile(step)
    for _ in range(4):
        want = net(x).mean().item()
        _, metric = run(x)
        assert metric.item() == pytest.approx(want, rel=1e-5)
    assert metric.requires_grad
    with pytest.raises(VersionError, match=r"bias: f32\[3\] was written after it was used"):
        (metric * 2).backward()


# tensors under a name


def test_a_tensor_that_each_call_replaces_compiles_twice():
    class State:
        h = None

    s = State()
    run = vtc.compile(lambda x: x + s.h)
    for k in range(6):
        s.h = vtc.full((3,), float(k))
        assert run(vtc.ones(3)).tolist() == [k + 1.0] * 3
    assert len(run.misses) == 1
    s.h = vtc.full((1,), 2.0)
    assert run(vtc.ones(3)).tolist() == [3.0] * 3
    s.h = held = vtc.zeros(3)
    assert run(vtc.ones(3)).tolist() == [1.0] * 3
    held.add_(5.0)
    assert run(vtc.ones(3)).tolist() == [6.0] * 3


def test_replaced_tensors_are_written_and_aliases_seen():
    kept = {"a": vtc.zeros(2), "b": vtc.zeros(2)}

    def f(x):
        kept["a"].add_(x)
        return kept["a"] * 10 + kept["b"]

    run = vtc.compile(f)
    for k in range(5):
        kept["a"], kept["b"] = vtc.full((2,), float(k)), vtc.ones(2)
        assert run(vtc.ones(2)).tolist() == [10.0 * (k + 1) + 1] * 2
        assert kept["a"].tolist() == [k + 1.0] * 2
    for _ in range(3):
        kept["a"] = kept["b"] = vtc.zeros(2)  # one tensor
        assert run(vtc.ones(2)).tolist() == [11.0] * 2
    kept["b"] = kept["a"][:]
    assert run(vtc.ones(2)).tolist() == [22.0] * 2
    for _ in range(3):
        kept["a"], kept["b"] = (x := vtc.zeros(2)), vtc.zeros(2)
        assert run(x).tolist() == [0.0] * 2  # the argument is one of them
        kept["a"] = vtc.zeros(2)
        kept["b"] = kept["a"].clone()
        assert run(vtc.ones(2)).tolist() == [10.0] * 2


def test_replaced_tensors_that_require_grad_have_programs_of_their_own():
    w = vtc.ones(2)

    def f(x):
        return (x * w).sum()

    run = vtc.compile(f)
    for k in range(4):
        w = vtc.full((2,), float(k)).requires_grad_(k % 2 == 1)
        out = run(vtc.ones(2))
        assert out.item() == 2.0 * k
        assert out.requires_grad is (k % 2 == 1)
        if k % 2:
            out.backward()
            assert w.grad.tolist() == [1.0] * 2


class Settings:
    def __init__(self):
        self.scale, self.fn = 2.0, operator.attrgetter("scale")

    def twice(self):
        return self.scale * 2


SETTINGS = Settings()
READ, LOOK = operator.attrgetter("scale"), getattr
LOOKING = {
    "an attrgetter": lambda x: x * READ(SETTINGS),
    "one that an object holds": lambda x: x * SETTINGS.fn(SETTINGS),
    "a methodcaller": lambda x: x * operator.methodcaller("twice")(SETTINGS),
    "getattr by another name": lambda x: x * LOOK(SETTINGS, "".join(["sca", "le"])),
    "a key": lambda x: x * max([SETTINGS], key=READ).fn(SETTINGS),
}


@pytest.mark.parametrize("how", LOOKING)
def test_what_code_reads_without_a_name_counts(how):
    fn, x = LOOKING[how], vtc.ones(1)
    fast = vtc.compile(fn)
    for SETTINGS.scale in (2.0, 5.0, 3.0):
        assert fast(x).item() == fn(x).item()
