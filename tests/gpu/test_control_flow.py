"""Loops and branches on a real GPU, from the bottom up: if a test fails, so do most below it.

1. The PTX of ``vtc.runtime.cuda.control`` is taken by the driver, and its copies are right.
2. A conditional node runs its body if a kernel set its handle; nodes in bodies can be changed.
3. Small plans, as graphs (patched by C and by Python) and walked through by the host: NumPy's bits.
4. ``cond``, ``while_loop``, ``scan`` and ``map``, compiled, with gradients: the CPU's results.
5. A package with loops, in Python.

``-s`` prints what a turn of a loop takes.
"""

import ctypes
import sys
import time
from importlib import import_module
from pathlib import Path

import numpy as np
import ptx
import pytest

import vtc
from vtc import build, config, nn
from vtc.codegen.c import compile_patch, find_compiler
from vtc.errors import IndexRangeError
from vtc.frontend.tree import flatten
from vtc.ir import unroll
from vtc.runtime.buffer import address
from vtc.runtime.cache import Store
from vtc.runtime.cuda.control import BINARIES as CONTROL
from vtc.runtime.cuda.control import why_not
from vtc.runtime.cuda.copies import to_device, to_host
from vtc.runtime.cuda.device import gpu
from vtc.runtime.cuda.driver import driver
from vtc.runtime.cuda.executable import CudaExecutable

TESTS = Path(__file__).parents[1]
sys.path.append(str(TESTS / "cuda"))
plans, flow_plans = import_module("small_plans"), import_module("flow_plans")

pytestmark = pytest.mark.gpu
BINARIES = ptx.binaries(plans.BINARIES)
WAYS = ["compiled", "python", "one by one"]


# 1. the kernels that steer


class Arguments:
    """Words of a kernel, and pointers to them; two more for Triton's scratch memory."""

    def __init__(self, *words):
        self.words = (ctypes.c_uint64 * (len(words) + 2))(*words, 0, 0)
        at = ctypes.addressof(self.words)
        self.params = (ctypes.c_uint64 * len(self.words))(*range(at, at + 8 * len(self.words), 8))
        self.address = ctypes.addressof(self.params)


def test_the_driver_has_conditional_nodes():
    """Says why not: an old driver, old bindings, or PTX that it does not take."""
    assert why_not(gpu(0)) == ""


@pytest.mark.parametrize("kind", CONTROL)
def test_the_ptx_is_taken(kind):
    assert driver().module(0, CONTROL[kind])


@pytest.mark.parametrize(
    ("nbytes", "to", "source"),
    [(1, 0, 0), (7, 3, 1), (16, 0, 0), (20, 4, 12), (5000, 8, 4), (48, 1, 1), (1 << 20, 16, 32)],
)
def test_bytes_are_moved_whatever_the_alignment(nbytes, to, source):
    data = np.arange((1 << 20) + 4096, dtype=np.uint32).astype(np.uint8)
    x, y = to_device(data, 0), to_device(np.zeros_like(data), 0)
    turns = to_device(np.array([2, 0, 3], np.int64), 0)
    places = [address(y), address(x), *(address(turns) + 8 * k for k in range(3))]
    places[3] += 4  # a level that moves nothing is not read, however it lies
    given = Arguments(*places, nbytes, to, 0, 0, 0, 0, source)
    binary = CONTROL["move"]
    function = driver().module(0, binary)
    driver().launch(0, function, (3, 1, 1), binary.warps, 0, given.address, 0)
    want = np.zeros_like(data)
    want[2 * to : 2 * to + nbytes] = data[3 * source : 3 * source + nbytes]
    np.testing.assert_array_equal(to_host(y), want)


# 2. conditional nodes


class Built:
    """A graph that is made by hand, and gone at the end."""

    def __init__(self):
        self.graph, self.kept = driver().create_graph(0), []

    def kernel(self, graph, after, binary, *words):
        given = Arguments(*words)
        self.kept.append(given)
        function = driver().module(0, binary)
        return driver().add_kernel(
            0, graph, after, function, (1, 1, 1), binary.warps, 0, given.address
        )

    def run(self, times=1):
        if not hasattr(self, "executable"):
            self.executable = driver().instantiate(0, self.graph)
        for _ in range(times):
            driver().graph_launch(0, self.executable, 0)
        driver().synchronize(0)


def small(name):
    return BINARIES[f"{name}_symbol"]


def test_a_body_runs_if_its_handle_is_set():
    """y = x + 1 if the byte is true; z = 2 x if it is not. The byte is data: no node changes."""
    built, x = Built(), to_device(np.arange(4, dtype="f4"), 0)
    y, z = (to_device(np.zeros(4, "f4"), 0) for _ in range(2))
    cell = to_device(np.zeros(16, np.uint8), 0)
    after, handles = [], [driver().create_handle(0, built.graph) for _ in range(2)]
    for wanted, handle in zip((1, 0), handles, strict=True):
        words = address(cell), handle, wanted
        after = [built.kernel(built.graph, after, CONTROL["test"], *words)]
    for name, handle, out in zip(("add_one", "double"), handles, (y, z), strict=True):
        node, body = driver().add_conditional(0, built.graph, after, handle, loop=False)
        built.kernel(body, [], small(name), address(x), address(out), 4)
        after = [node]
    for byte in (0, 1, 255, 0):
        for a in (y, z):
            plain(a, np.zeros(4, "f4"))
        plain(cell, np.full(16, byte, np.uint8))
        built.run()
        assert to_host(y).tolist() == ([1, 2, 3, 4] if byte else [0] * 4), f"the byte is {byte}"
        assert to_host(z).tolist() == ([0] * 4 if byte else [0, 2, 4, 6]), f"the byte is {byte}"


def plain(target, data):
    """Copy to a device array."""
    driver().copy(0, address(target), data.ctypes.data, data.nbytes, 0)


def counting(turns):
    """A graph that adds 1 to y so many times, in a loop that counts backwards; y, and that node."""
    built, y = Built(), to_device(np.zeros(4, "f4"), 0)
    turn = to_device(np.zeros(1, np.int64), 0)
    built.kept.append(turn)
    handle = driver().create_handle(0, built.graph)
    begin = address(turn), handle, turns - 1
    first = built.kernel(built.graph, [], CONTROL["begin"], *begin)
    _, body = driver().add_conditional(0, built.graph, [first], handle, loop=True)
    add = built.kernel(body, [], small("add_one"), address(y), address(y), 4)
    built.kernel(body, [add], CONTROL["next"], address(turn), handle, (1 << 64) - 1, (1 << 64) - 1)
    return built, y, add


@pytest.mark.parametrize("turns", [1, 5, 1000])
def test_a_loop_counts(turns):
    built, y, _ = counting(turns)
    built.run(times=3)
    assert to_host(y).tolist() == [3 * turns] * 4


def test_a_node_in_a_body_is_changed_for_later_launches_only():
    built, y, node = counting(7)
    z = to_device(np.zeros(4, "f4"), 0)
    built.run()
    binary, other = small("add_one"), Arguments(address(z), address(z), 4)
    function = driver().module(0, binary)
    driver().graph_launch(0, built.executable, 0)
    driver().set_kernel_params(
        0, built.executable, node, function, (1, 1, 1), binary.warps, 0, other.address
    )
    built.run()
    assert to_host(y).tolist() == [14] * 4
    assert to_host(z).tolist() == [7] * 4


# 3. small plans


@pytest.fixture(scope="session")
def patcher(tmp_path_factory):
    compiler = find_compiler()
    if compiler is None:
        pytest.skip("no C compiler")
    return compile_patch(compiler, Store(tmp_path_factory.mktemp("patch")))


@pytest.fixture(params=WAYS)
def make(request, patcher, monkeypatch):
    """Makes executables; loops of more than two launches are not spelled out."""
    monkeypatch.setattr(unroll, "SPELLED", 2)
    library = patcher if request.param == "compiled" else None
    with config.override(cuda_graphs=request.param != "one by one"):
        yield lambda plan: CudaExecutable(plan, BINARIES, 0, library)
    gpu(0).synchronize()


def given(plan, seed, n):
    random = np.random.default_rng(seed)
    shapes = [[n if s == plans.B else s for s in b.shape] for b in plan.inputs]
    return [abs(random.normal(size=shape)).astype("f4") for shape in shapes]


def equal(got, want):
    for a, b in zip(got, want, strict=True):
        np.testing.assert_array_equal(to_host(a), b)


PLANS = {
    "waits": flow_plans.grown,
    "branch": flow_plans.chosen,
    "half a branch": lambda: flow_plans.chosen(both=False),
    "counts": flow_plans.summed,
    "reversed": lambda: flow_plans.summed(reverse=True),
    "moves twice": flow_plans.diagonal,
    "deep": flow_plans.deep,
    **{f"drawn {k}": lambda k=k: flow_plans.drawn(np.random.default_rng(k)) for k in range(20)},
}


@pytest.mark.filterwarnings("ignore:overflow")
@pytest.mark.parametrize("name", PLANS)
def test_plans_give_the_bits_of_numpy(make, name):
    executable = make(PLANS[name]())
    for n in (1, 5, 4096):
        for seed in range(3):
            arrays = given(executable.plan, seed, n)
            got = executable.run([to_device(a, 0) for a in arrays])
            equal(got, flow_plans.outputs(executable.plan, arrays))


def test_queued_calls_keep_their_addresses(make):
    executable = make(flow_plans.grown())
    xs = [(np.ones(1000) * (1 + k)).astype("f4") for k in range(60)]
    executable.run([to_device(xs[0], 0)])
    calls = [executable.run([to_device(x, 0)]) for x in xs]
    for x, got in zip(xs, calls, strict=True):
        equal(got, flow_plans.outputs(executable.plan, [x]))


def test_what_a_turn_takes(make):
    """Prints it; a graph and the host must both end."""
    executable = make(flow_plans.grown())
    x = to_device(np.full(1000, 1e-30, "f4"), 0)  # about a hundred turns
    executable.run([x])
    gpu(0).synchronize()
    start = time.perf_counter()
    for _ in range(20):
        executable.run([x])
    gpu(0).synchronize()
    print(f"\n{(time.perf_counter() - start) / 20 / 107 * 1e6:.1f} us for a turn of two launches")


# 4. compiled functions


@pytest.fixture(params=[2, unroll.SPELLED], ids=["loops", "spelled out"])
def spelled(request, monkeypatch, tmp_path_factory):
    """Whether loops are spelled out; plans of either kind are stored by themselves."""
    monkeypatch.setattr(unroll, "SPELLED", request.param)
    folder = tmp_path_factory.getbasetemp() / f"spelled-{request.param}"
    build._built.cache_clear()
    with config.override(cache_dir=folder):
        yield request.param
    build._built.cache_clear()


@pytest.fixture(params=[True, False], ids=["graphs", "one by one"])
def graphs(request):
    with config.override(cuda_graphs=request.param):
        yield request.param


def numbers(tree):
    return [x.detach().cpu().numpy() for x in flatten(tree)[0] if x is not None]


random = np.random.default_rng(0)
X = random.normal(size=(5, 16)).astype("f4")
W = (random.normal(size=(16, 16)) * 0.2).astype("f4")
H = random.normal(size=16).astype("f4")
UP, DOWN = np.float32(1), np.float32(-1)


def rnn(w, h, xs, reverse=False):
    def step(h, x):
        h = vtc.tanh(h @ w + x)
        return h, h * h

    h, ys = vtc.scan(step, h, xs, reverse=reverse)
    return h.sum() + ys.sum()


def chosen(p, x):
    return vtc.cond(p > 0, lambda: (x * x * x).sum(), lambda: vtc.sin(x).softmax(-1).std())


def outer(xs):
    def row(c, x):
        d, ys = vtc.scan(lambda d, e: (d + e * c, d), 0.0, x)
        return c + d * 0.1, ys

    return vtc.scan(row, 1.0, xs)


def mixed(x):
    """A loop that waits in a branch in a loop that counts."""

    def step(c, v):
        def grow():
            return vtc.while_loop(lambda a: a.sum() < 9, lambda a: a + a.abs() + 1, (c,))[0] + v

        return vtc.cond(v.sum() > 0, grow, lambda: (c * v).softmax(0)), c

    return vtc.scan(step, x[0] * 0, x)


CASES = {
    "while": (lambda x: vtc.while_loop(lambda x: (x * x).sum() < 999, lambda x: x * 1.5, (x,)), X),
    "while, no turn": (lambda x: vtc.while_loop(lambda x: x.sum() > 1e9, lambda x: -x, (x,)), X),
    "while, a swap": (
        lambda x, y: vtc.while_loop(
            lambda i, a, b: i < 5, lambda i, a, b: (i + 1, b, a), (0, x, y)
        ), X, X * 2,
    ),
    "cond": (chosen, UP, X),
    "cond, the other": (chosen, DOWN, X),
    "gradient of cond": (lambda p, x: vtc.grad(chosen, 1)(p, x), UP, X),
    "gradient of cond, the other": (lambda p, x: vtc.grad(chosen, 1)(p, x), DOWN, X),
    "cond, both ways": (lambda p, x: vtc.cond(p > 0, lambda: x * 2, lambda: x - 1), DOWN, X),
    "scan": (lambda w, h, xs: vtc.value_and_grad(rnn, (0, 1, 2))(w, h, xs), W, H, X),
    "scan, reversed": (
        lambda w, h, xs: vtc.grad(lambda *a: rnn(*a, reverse=True), (0, 1, 2))(w, h, xs), W, H, X
    ),
    "map": (lambda x, w: vtc.map(lambda r: vtc.softmax(r, 0) @ w, x), X, W),
    "nested": (vtc.grad(lambda x: outer(x)[1].pow(2).sum() + outer(x)[0]), X),
    "mixed": (mixed, X),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_compiled_is_the_cpu(spelled, graphs, name):
    fn, *arrays = CASES[name]
    fast = vtc.compile(fn)
    want = numbers(fn(*(vtc.tensor(a) for a in arrays)))
    for _ in range(3):  # fresh tensors: other addresses
        got = numbers(fast(*(vtc.tensor(a, device="cuda") for a in arrays)))
        for a, b in zip(got, want, strict=True):
            assert (a.dtype, a.shape) == (b.dtype, b.shape)
            np.testing.assert_allclose(a, b, rtol=2e-3, atol=2e-4)
    assert fast.entries[0].forward.fallback == "", "it ran on the CPU"


def test_the_same_program_goes_either_way(graphs):
    fast = vtc.compile(chosen)
    for sign in (1, -1, -1, 1):
        p, x = vtc.tensor(np.float32(sign)), vtc.tensor(X)
        got = fast(p.cuda(), x.cuda()).item()
        assert got == pytest.approx(chosen(p, x).item(), rel=1e-4)
    assert len(fast.entries) == 1


def test_lengths_may_vary(spelled, graphs):
    fast = vtc.compile(lambda xs: vtc.scan(lambda c, x: (c * 0.5 + x, c), xs[0] * 0, xs))
    for n in (5, 70, 2, 1500):
        xs = vtc.tensor(np.random.default_rng(n).normal(size=(n, 12)).astype("f4"))
        vtc.mark_dynamic(xs, 0)
        want, there = numbers(fast.fn(xs)), xs.cuda()
        vtc.mark_dynamic(there, 0)
        for a, b in zip(numbers(fast(there)), want, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
    assert len(fast.entries) == 1


def test_an_index_out_of_range_inside_a_loop(spelled, graphs):
    @vtc.compile
    def f(x, i):
        return vtc.scan(lambda c, k: (c + x[k.reshape(1)][0], None), x[0] * 0, i)[0]

    x = vtc.tensor(X).cuda()
    f(x, vtc.tensor([0, 1, 4, 4]).cuda()).tolist()
    with pytest.raises(IndexRangeError, match=r"test_control_flow\.py"):
        f(x, vtc.tensor([0, 99, 1, 1]).cuda()).tolist()
    got = f(x, vtc.tensor([0, 1, 1, 2]).cuda()).cpu().numpy()
    np.testing.assert_allclose(got, X[[0, 1, 1, 2]].sum(0), rtol=1e-5)


def test_a_training_step_with_a_scan(spelled, graphs):
    """A recurrent net, trained whole: losses as on the CPU."""

    def losses(device):
        vtc.manual_seed(0)
        cell, head = nn.Linear(32, 16).to(device), nn.Linear(16, 1).to(device)
        weights = [*cell.parameters(), *head.parameters()]
        optimizer = vtc.optim.AdamW(weights, lr=0.01)
        xs = vtc.tensor(np.random.default_rng(1).normal(size=(12, 8, 16)).astype("f4"))

        @vtc.compile
        def step(xs):
            h = vtc.zeros(8, 16, device=xs.device)
            h, _ = vtc.scan(lambda h, x: (vtc.tanh(cell(vtc.cat([h, x], -1))), None), h, xs)
            loss = (head(h) - 1).square().mean()
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            return loss

        return [step(xs.to(device)).item() for _ in range(6)]

    here, there = losses("cpu"), losses("cuda")
    np.testing.assert_allclose(there, here, rtol=1e-3)
    assert here[-1] < here[0]


# 5. a package


class Model(nn.Module):
    def __init__(self):
        self.w = nn.Parameter(vtc.tensor(W))

    def forward(self, x):
        zero = vtc.zeros(16, device=x.device)
        h, ys = vtc.scan(lambda h, v: (vtc.tanh(h @ self.w + v), h), zero, x)
        (h,) = vtc.while_loop(lambda h: (h * h).sum() < 100, lambda h: h * 1.5, (h,))
        return vtc.cond(h.sum() > 0, lambda: h.softmax(0), lambda: -h.sum() + h), ys


def test_a_package(tmp_path, spelled, graphs):
    model, path = Model(), tmp_path / "loops.vtc"
    major, minor = gpu(0).facts.capability
    targets = [f"cuda:{10 * major + minor}"]
    sizes = {"x": {0: vtc.Dim("n", 2, 64)}}
    vtc.export(model, (vtc.tensor(X),), path, dynamic=sizes, targets=targets)
    loaded = vtc.load(path, device="cuda")
    for n in (2, 5, 40):
        x = vtc.from_numpy(np.random.default_rng(n).normal(size=(n, 16)).astype("f4"))
        for got, want in zip(loaded(x.cuda()), numbers(model(x)), strict=True):
            np.testing.assert_allclose(np.asarray(got), want, rtol=2e-3, atol=2e-4)
