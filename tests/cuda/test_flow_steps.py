"""Loops and branches of a plan: as conditional nodes, and walked through by the host."""

import ctypes
import gc
import warnings

import flow_plans
import numpy as np
import pytest
import small_kernels
import small_plans as plans
from flow_plans import outputs
from simulated import Simulated
from small_kernels import equal, vector

from vtc import config
from vtc.errors import RunError, VtcWarning
from vtc.ir import unroll
from vtc.ir.plan import Copy, Input, Loop, Output
from vtc.runtime.buffer import address
from vtc.runtime.cuda import way
from vtc.runtime.cuda.control import BINARIES, KERNELS
from vtc.runtime.cuda.copies import to_device, to_host
from vtc.runtime.cuda.device import gpu
from vtc.runtime.cuda.driver import installed
from vtc.runtime.cuda.executable import CudaExecutable
from vtc.runtime.cuda.nodes import lay_out
from vtc.runtime.cuda.steps import Fork, HostBranch, HostLoop, Run
from vtc.runtime.fit import Fit

SLOW = pytest.mark.slow
OLD = "expected an NVIDIA driver for CUDA 12.4 or newer, got one for CUDA 12.2"


@pytest.fixture(autouse=True)
def long_loops(monkeypatch):
    """Loops of more than two nodes are long."""
    monkeypatch.setattr(unroll, "SPELLED", 2)
    monkeypatch.setattr(way, "_said", set())


@pytest.fixture
def old():
    """A driver without conditional nodes."""
    with installed(Simulated(conditional=OLD)) as gpu:
        small_kernels.install(gpu)
        yield lambda plan: CudaExecutable(plan, plans.BINARIES, 0)
        gc.collect()


def given(plan, seed=0, n=6):
    """Inputs of ``plan``, of which none holds anything below 0."""
    shapes = [[n if s == plans.B else s for s in b.shape] for b in plan.inputs]
    found = [abs(vector(int(np.prod(s)), seed + k)).reshape(s) for k, s in enumerate(shapes)]
    return [a.astype("f4") for a in found]


def check(executable, arrays):
    """The outputs are those of NumPy."""
    want = outputs(executable.plan, arrays)
    got = executable.run([to_device(a, 0) for a in arrays])
    for a, b in zip(got, want, strict=True):
        equal(a, b)


PLANS = {
    "waits": flow_plans.grown,
    "branch": flow_plans.chosen,
    "half a branch": lambda: flow_plans.chosen(both=False),
    "counts": flow_plans.summed,
    "reversed": lambda: flow_plans.summed(reverse=True),
    "moves twice": flow_plans.diagonal,
    "deep": flow_plans.deep,
}


@pytest.mark.parametrize("name", PLANS)
def test_results(make, name):
    executable = make(PLANS[name]())
    for n in (1, 300):
        for seed in range(2):
            arrays = given(executable.plan, seed, n)
            arrays[0][0] += 100 * seed
            arrays[0][0] *= (-1) ** (seed * (name != "waits"))
            check(executable, arrays)


@pytest.mark.filterwarnings("ignore:overflow")  # numbers only grow
@pytest.mark.parametrize("seed", [0, 1, *(pytest.param(k, marks=SLOW) for k in range(2, 30))])
def test_plans_at_random(make, seed):
    executable = make(flow_plans.drawn(np.random.default_rng(seed)))
    for k in range(2):
        check(executable, given(executable.plan, k))


def test_queued_calls_keep_their_addresses(make):
    executable = make(flow_plans.grown())
    xs = [abs(vector(40, seed=k)) + 1 + 7 * k for k in range(20)]
    calls = [executable.run([to_device(x, 0)]) for x in xs]
    for x, call in zip(xs, calls, strict=True):
        for got, want in zip(call, outputs(executable.plan, [x]), strict=True):
            equal(got, want)


def test_a_graph_waits_for_nothing(sim, make):
    executable, x = make(flow_plans.grown()), to_device(np.ones(4, "f4"), 0)
    executable.run([x])
    gpu(0).synchronize()
    before = sim.calls["synchronize_stream"]
    executable.run([x])
    waits = sim.calls["synchronize_stream"] - before
    assert waits == (8 if make.mode == "one by one" else 0)  # 1, 2, 4, ... 128


def test_programs_of_one_op_go_without_a_graph(sim):
    small_kernels.install(sim)
    executable = CudaExecutable(flow_plans.summed(), plans.BINARIES, 0, graphs=False)
    check(executable, given(executable.plan))
    assert not sim.calls["create_graph"]


def test_without_conditional_nodes_it_is_launched_and_said_once(old):
    first, second = old(flow_plans.grown()), old(flow_plans.chosen())
    with pytest.warns(VtcWarning, match=rf"a loop .*model\.py:3.* launched.*cannot: {OLD}"):
        check(first, given(first.plan))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check(second, given(second.plan))


def test_without_conditional_nodes_what_counts_is_still_a_graph(old, recwarn):
    executable = old(flow_plans.summed())
    check(executable, given(executable.plan))
    (found,) = executable._layouts.values()
    assert len(found.nodes) == 1 + 4 * 4
    assert not recwarn.list


def test_a_device_that_has_no_conditional_nodes(sim):
    small_kernels.install(sim)
    executable = CudaExecutable(flow_plans.chosen(), plans.BINARIES, 0)
    sim.failing["create_handle"] = RunError("CUDA_ERROR_NOT_SUPPORTED")
    with pytest.warns(VtcWarning, match=r"a branch .*model\.py:4.* CUDA_ERROR_NOT_SUPPORTED"):
        check(executable, given(executable.plan))


def test_a_driver_that_does_not_take_the_kernels_that_decide(sim, monkeypatch):
    small_kernels.install(sim)
    executable = CudaExecutable(flow_plans.grown(), plans.BINARIES, 0)
    load = sim.module

    def module(device, binary):
        if binary.name.startswith("vtc_flow"):
            raise RunError("loading vtc_flow_test: CUDA_ERROR_INVALID_PTX")
        return load(device, binary)

    monkeypatch.setattr(sim, "module", module)
    with pytest.warns(VtcWarning, match="CUDA_ERROR_INVALID_PTX"):
        check(executable, given(executable.plan))


# layouts


def layout(plan, *key, flow="graph"):
    return lay_out(Fit(plan), key, plans.BINARIES, flow)


def shown(found):
    return [
        f"{'loop' if n.loop else 'if'} {n.body}" if isinstance(n, Fork)
        else n.kernel.name if isinstance(n, Run) else "copy"
        for n in found.nodes
    ]  # fmt: skip


def test_nodes_of_a_loop_that_counts():
    found = layout(flow_plans.summed(reverse=True), 5)
    names = ["vtc_flow_move", "add", "vtc_flow_move", "vtc_flow_move", "vtc_flow_next"]
    assert shown(found) == ["copy", "vtc_flow_begin", "loop 1", *names]
    assert [n.graph for n in found.nodes] == [0, 0, 0, 1, 1, 1, 1, 1]
    assert [n.after for n in found.nodes] == [(), (0,), (1,), (), (3,), (4,), (5,), (6,)]
    begin, row, last = found.nodes[1], found.nodes[3], found.nodes[-1]
    assert begin.sizes == (0, 3)
    assert last.sizes == (0, -1, -1)
    assert begin.places == last.places == (row.places[2],)
    assert row.sizes == (20, 0, 20, 0, 0, 0, 0)


def test_both_handles_are_set_before_a_branch_writes():
    found = layout(flow_plans.chosen(), 5)
    test = "vtc_flow_test"
    assert shown(found) == ["below", test, test, "if 1", "add_one", "if 2", "double"]
    assert [n.after for n in found.nodes] == [(), (0,), (1,), (2,), (), (3,), ()]
    assert [n.sizes for n in found.nodes[1:3]] == [(0, 1), (0, 0)]
    assert shown(layout(flow_plans.chosen(both=False), 5)) == ["below", test, "if 1", "add_one"]


def test_a_branch_without_anything_to_do_is_left_out():
    plan = flow_plans.chosen()
    branch = plan.steps[1]
    nothing = plans.run("double", Input(0), Output(0), grid=(plans.B - 5,))
    less = type(branch)(branch.condition, branch.then, (nothing,))
    made = plans.plan(plan.inputs, plan.outputs, [plan.steps[0], less], plan.arena)
    assert shown(layout(made, 5)) == ["below", "vtc_flow_test", "if 1", "add_one"]
    assert len(layout(made, 6).nodes) == 7


def test_short_loops_and_those_whose_kernels_move_are_spelled_out(monkeypatch):
    assert not layout(plans.added_up(), 4).forks
    monkeypatch.setattr(unroll, "SPELLED", 15)
    assert layout(flow_plans.summed(), 4).forks
    monkeypatch.setattr(unroll, "SPELLED", 16)
    assert shown(layout(flow_plans.summed(), 4)) == ["copy", *["copy", "add", "copy", "copy"] * 4]


def test_a_copy_moves_with_three_loops_and_a_fourth_is_spelled_out():
    found = layout(flow_plans.deep(), 5)
    assert [n.body for n in found.nodes if isinstance(n, Fork)] == [1, 2, 3]
    first = next(n for n in found.nodes if isinstance(n, Run) and n.kernel.name == "vtc_flow_move")
    assert first.sizes == (20, 0, 160, 0, 80, 0, 40)
    assert first.places[1].add == 20  # the last loop begins with its last turn


def test_what_the_host_does():
    found = layout(flow_plans.grown(), 5, flow="host")
    copy, loop, add = found.items
    assert (copy, add) == (0, 4)
    assert isinstance(loop, HostLoop)
    assert (loop.body, loop.test, loop.cell.add) == ((1, 2), (3,), 0)
    _, branch = layout(flow_plans.chosen(), 5, flow="host").items
    assert branch == HostBranch(branch.cell, (1,), (2,))
    with pytest.raises(RunError, match="expected no step that waits"):
        layout(flow_plans.grown(), 5, flow="spelled")


# the kernels that steer


@pytest.fixture
def kernel(sim):
    """Runs one of them: ``kernel("move", grid, *words)``."""

    def run(kind, grid, *values):
        driver, binary = sim, BINARIES[kind]
        words = (ctypes.c_uint64 * (len(values) + 2))(*values, 0, 0)
        at = ctypes.addressof(words)
        params = (ctypes.c_uint64 * len(words))(*range(at, at + 8 * len(words), 8))
        function = driver.module(0, binary)
        driver.launch(0, function, (grid, 1, 1), binary.warps, 0, ctypes.addressof(params), 0)
        driver.synchronize(0)

    return run


@pytest.mark.parametrize(
    ("nbytes", "to", "source"),
    [(1, 0, 0), (7, 3, 1), (16, 0, 0), (20, 4, 12), (4096, 16, 0), (5000, 8, 4), (48, 1, 1)],
)
@pytest.mark.parametrize("grid", [1, pytest.param(2, marks=SLOW)])
def test_move_copies_whatever_the_alignment(kernel, nbytes, to, source, grid):
    data = np.arange(8192, dtype=np.uint16).astype(np.uint8)
    x, y = to_device(data, 0), to_device(np.zeros(8192, np.uint8), 0)
    turns = to_device(np.array([2, 9, 3], np.int64), 0)
    places = [address(y), address(x), *(address(turns) + 8 * k for k in range(3))]
    # The second level moves with nothing: its turn is not read.
    places[3] += 4
    kernel("move", grid, *places, nbytes, to, 0, 0, 0, 0, source)
    want = np.zeros(8192, np.uint8)
    want[2 * to : 2 * to + nbytes] = data[3 * source : 3 * source + nbytes]
    equal(y, want)


def test_kernels_that_decide_set_only_handles_of_their_graph(sim, kernel):
    cell = to_device(np.ones(1, np.uint8), 0)
    with pytest.raises(RunError, match="no graph runs"):
        kernel("test", 1, address(cell), 0x1230, 1)


def test_the_arguments_of_the_kernels_are_those_of_the_layout():
    found = layout(flow_plans.deep(), 5), layout(flow_plans.grown(), 5)
    used = {}
    for n in (n for one in found for n in one.nodes if isinstance(n, Run)):
        used[n.kernel.symbol] = len(n.places) + len(n.sizes) + 2
    for kind, k in KERNELS.items():
        assert k.source.count(".param .u64 ") == used[k.symbol], kind
        assert f".visible .entry {k.symbol}(" in k.source


def test_what_the_simulated_driver_refuses(sim):
    graph = sim.create_graph(0)
    with pytest.raises(AssertionError, match="a handle of another graph"):
        sim.add_conditional(0, graph, [], 1, loop=True)
    handle = sim.create_handle(0, graph)
    with pytest.raises(AssertionError, match="handles without a node"):
        sim.instantiate(0, graph)
    sim.add_conditional(0, graph, [], handle, loop=True)
    made = sim.instantiate(0, graph)
    with pytest.raises(AssertionError, match="instantiated twice"):
        sim.instantiate(0, graph)
    sim.graph_launch(0, made, 0)
    with pytest.raises(RunError, match="KeyError"):  # nothing set it
        sim.synchronize(0)


def test_graphs_on_and_off_give_the_same_bits(sim):
    small_kernels.install(sim)
    plan = flow_plans.drawn(np.random.default_rng(11))
    arrays = [to_device(a, 0) for a in given(plan)]
    found = []
    for graphs in (True, False):
        with config.override(cuda_graphs=graphs):
            got = CudaExecutable(plan, plans.BINARIES, 0).run(arrays)
        found.append([to_host(a).tobytes() for a in got])
    assert found[0] == found[1]


def test_a_loop_may_have_no_turn(make):
    steps = (Copy(Input(0), Output(0), plans.B * 4), *flow_plans.changed("double", Output(0)))
    loop = Loop(0, steps, count=plans.B - 3)
    made = plans.plan([plans.VECTOR], [plans.VECTOR], [steps[0], loop], flow_plans.ARENA)
    executable = make(made)
    for n in (3, 4, 9):
        check(executable, given(made, n=n))
