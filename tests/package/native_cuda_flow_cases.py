"""What the C runtime does with loops and branches on the GPU of ``native/stub_cuda.c``.

The package is that of ``native_cuda_flow_packages.py``. There are three ways: conditional nodes;
loops that count spelled out, and the host waiting for the others, with an older driver; the host
walking through all, with ``VTC_CUDA_GRAPHS=0``.
"""

import ctypes
import os
import threading
from contextlib import contextmanager
from types import SimpleNamespace

import native_cuda_cases
import numpy as np
from native_binding import GPU, Tensor, array, described
from native_cpu_cases import refuses
from native_cuda_cases import LEFT, counting, failure, on_device

OLD = "expected an NVIDIA driver for CUDA 12.4 or newer, found one for CUDA 12.2"
V = np.arange(5, dtype="f4") + 1
ROWS = np.arange(15, dtype="f4").reshape(3, 5)
GOOD = np.arange(15).reshape(3, 5) % 5
BAD = np.where(np.arange(15).reshape(3, 5) == 12, 5, GOOD)
LINE = "got one outside it\n  at model.py:11 in forward"


def given(library, folder, stub):
    """The library, the driver, and the calls with what they give."""
    made = native_cuda_cases.given(library, folder, stub)
    with np.load(made.folder / "calls.npz") as known:
        arrays = dict(known)
    calls = [
        (name, few(arrays, f"{k}.in"), few(arrays, f"{k}.out"))
        for k, name in enumerate(arrays.pop("names").tolist())
    ]
    nodes = [arrays[f"{k}.nodes"].tolist() for k in range(len(calls))]
    return SimpleNamespace(**vars(made), calls=calls, nodes=nodes)


def few(arrays, stem):
    """The arrays ``<stem>0``, ``<stem>1`` ..."""
    return [a for name, a in arrays.items() if name.startswith(stem)]


@contextmanager
def flow(t, **options):
    """The package; all it had is given back at the end."""
    with t.native.open(t.folder / "gpu_flow.vtc", **options) as package:
        yield package
        assert t.driver.stub_depth() == 0
    left = t.driver.stub_memory_left()
    t.driver.stub_memory(LEFT)
    assert left == LEFT, f"{LEFT - left} bytes are lost"


@contextmanager
def older(t):
    """A driver without conditional nodes, and the package."""
    t.driver.stub_machine(1, 90, 12_020)
    try:
        with flow(t) as package:
            yield package
    finally:
        t.driver.stub_machine(1, 90, 12_080)


@contextmanager
def environment():
    """No package that is opened has graphs."""
    os.environ["VTC_CUDA_GRAPHS"] = "0"
    try:
        yield
    finally:
        del os.environ["VTC_CUDA_GRAPHS"]


@contextmanager
def one_by_one(t):
    """The package without graphs."""
    with environment(), flow(t) as package:
        yield package


WAYS = (flow, older, one_by_one)


def check(package, name, inputs, outputs):
    found = package.run(name, *(a.copy() for a in inputs))
    for a, b in zip(found, outputs, strict=True):
        np.testing.assert_array_equal(a, b, err_msg=name)


def case_conditional_nodes_give_what_numpy_does(t):
    with flow(t) as package, counting(t, cuLaunchKernel=0, cuMemcpyDtoDAsync_v2=0):
        assert package.describe()["waits"] == ""
        made = t.driver.stub_count(b"cuGraphAddNode")
        for call in t.calls:
            check(package, *call)
        assert t.driver.stub_count(b"cuGraphAddNode") > made + len(t.calls)


def case_graphs_have_the_nodes_that_python_makes(t):
    made = set()
    with flow(t) as package:
        for (name, inputs, outputs), (runs, moves, forks) in zip(t.calls, t.nodes, strict=True):
            if (name, inputs[0].shape) in made:
                continue
            made.add((name, inputs[0].shape))
            with counting(t, cuGraphAddKernelNode_v2=runs, cuGraphAddMemcpyNode=moves,
                          cuGraphAddNode=forks):  # fmt: skip
                check(package, name, inputs, outputs)


def case_an_older_driver_gives_what_numpy_does(t):
    with older(t) as package, counting(t, cuGraphAddNode=0, cuGraphConditionalHandleCreate=0):
        assert package.describe()["waits"] == OLD
        for call in t.calls:
            check(package, *call)
        known = {name: (inputs, outputs) for name, inputs, outputs in t.calls}
        with counting(t, cuGraphLaunch=2, cuLaunchKernel=0):
            for name in ("summed", "deep"):
                check(package, name, *known[name])


def case_one_by_one_gives_what_numpy_does(t):
    with one_by_one(t) as package, counting(t, cuGraphCreate=0):
        assert package.describe()["waits"] == "VTC_CUDA_GRAPHS is 0"
        for call in t.calls:
            check(package, *call)


def case_other_plans_go_one_by_one_too(t):
    with environment(), counting(t, cuGraphCreate=0):
        native_cuda_cases.case_outputs_are_right(t)
        native_cuda_cases.case_other_sizes_leave_no_table_behind(t)
        native_cuda_cases.case_numbers_go_along_with_the_call(t)


def case_a_call_that_fails_leaves_no_table_behind(t):
    few, many = (np.arange(n, dtype="f4") for n in (4, 900))
    with (
        environment(),
        native_cuda_cases.gpu(t) as package,
        on_device(t, few * 0, few, few + 1) as small,
        on_device(t, many * 0, many, many + 1) as large,
    ):
        for w, x, y in (large, small):
            package.call("table_stays", [w, x, y], [w])
        t.driver.stub_fail(b"cuLaunchKernel", 2, 999)  # what works where the other table was
        w, x, y = large
        refuses("DEVICE_ERROR", "add_one_symbol: CUDA_ERROR_OF_STUB",
                package.call, "table_stays", [w, x, y], [w])  # fmt: skip
        w, x, y = small
        package.call("table_stays", [w, x, y], [w])
        package.synchronize()
        np.testing.assert_array_equal(array(w), array(x) + array(y))


def case_plans_of_its_own(t):
    for way in WAYS:
        with way(t) as package:
            for _ in range(2):
                check(package, "tabled", [V, ROWS], [V + ROWS.sum(0)])
                check(package, "tabled_back", [V, ROWS], [V + ROWS[0] + ROWS[1]])
                check(package, "worked", [V], [V])
                check(package, "worked", [-V], [1 - V])
                check(package, "looked", [V, GOOD], [V[GOOD[2]], V])
                check(package, "nothing", [V], [V])


def case_a_graph_does_not_grow_without_end(t):
    with flow(t) as package:
        with counting(t, cuLaunchKernel=900, cuGraphLaunch=0):
            check(package, "crowded", [V], [V + 900])
        check(package, "crowded", [V[:2]], [V[:2] + 900])


def case_nothing_waits_for_the_host(t):
    with flow(t) as package, on_device(t, V, V + 1, V * 0, V * 0) as (a, b, y, z):
        package.call("grown", [a], [y, z])
        package.synchronize()
        with counting(t, cuStreamSynchronize=0, cuMemcpyDtoHAsync_v2=0, cuGraphLaunch=2,
                      cuGraphInstantiateWithFlags=0):  # fmt: skip
            package.call("grown", [a], [y, z])
            package.call("grown", [b], [y, z])
        package.synchronize()
        np.testing.assert_array_equal(array(y), (V + 1) * 64)
        np.testing.assert_array_equal(array(z), (V + 1) * 65)


def case_the_host_waits_once_for_each_value_that_decides(t):
    with older(t) as package, on_device(t, V, V * 0, V * 0) as (a, y, z):
        with counting(t, cuStreamSynchronize=8, cuMemcpyDtoHAsync_v2=8):  # 1, 2, 4, ... 128
            package.call("grown", [a], [y, z])
        package.synchronize()
        np.testing.assert_array_equal(array(y), V * 128)


def case_launches_keep_what_they_were_given(t):
    """Bodies of conditional nodes too: the work is done when somebody waits."""
    xs = [V * (k + 1) for k in range(8)]
    with flow(t) as package, on_device(t, *xs, *(np.zeros((8, 2, 5), "f4").reshape(16, 5))) as made:
        for k in range(8):
            package.call("grown", [made[k]], made[8 + 2 * k : 10 + 2 * k])
        package.synchronize()
        for k, x in enumerate(xs):
            times = 2 ** int(np.ceil(np.log2(100 / x[0])))
            np.testing.assert_array_equal(array(made[8 + 2 * k]), x * times)
            np.testing.assert_array_equal(array(made[9 + 2 * k]), x * times + x)


def case_sizes_have_graphs_of_their_own(t):
    calls = [call for call in t.calls if call[0] == "drawn1"]
    with flow(t) as package:
        for call in (*calls, *calls[::-1]):
            check(package, *call)
        with counting(t, cuGraphInstantiateWithFlags=0):
            check(package, *calls[0])


def case_an_index_out_of_range_names_its_own_line(t):
    for way in WAYS:
        with way(t) as package:
            refuses("OUT_OF_RANGE", LINE, package.run, "looked", V, BAD)
            check(package, "looked", [V, GOOD], [V[GOOD[2]], V])


def case_an_index_out_of_range_ends_a_loop_of_the_host(t):
    for way in (older, one_by_one):
        with way(t) as package:
            for _ in range(2):
                refuses("OUT_OF_RANGE", LINE, package.run, "endless", V * 0, BAD)


def case_written_inputs_are_written(t):
    for way in WAYS:
        with way(t) as package, on_device(t, -V, V * 0) as (x, y):
            (found,) = package.call("half_chosen", [x, y], [Tensor(device=GPU)])
            package.synchronize()
            assert found.data == y.data
            np.testing.assert_array_equal(array(y), 1 - V)
            again = [V.copy(), V.copy()]
            assert package.run("half_chosen", *again)[0].tolist() == V.tolist()


def case_streams_and_threads(t):
    wrong = []

    def work(package, seed):
        for k in range(seed, seed + 30):
            name, inputs, outputs = t.calls[k % len(t.calls)]
            found = package.run(name, *(a.copy() for a in inputs), stream=seed % 10 + 1)
            if not all(np.array_equal(a, b) for a, b in zip(found, outputs, strict=True)):
                wrong.append(name)

    for way in WAYS:
        with way(t) as package:
            workers = [threading.Thread(target=work, args=(package, 7 * s)) for s in range(6)]
            [w.start() for w in workers]
            [w.join() for w in workers]
    assert not wrong


# failures


def case_what_a_driver_cannot_do_is_done_by_the_host(t):
    words = "expected a GPU and a driver with conditional nodes, got CUDA_ERROR_OF_STUB"
    calls = {"cuGraphConditionalHandleCreate": 1, "cuGraphAddNode": 1, "cuGraphCreate": 1,
             "cuModuleLoadData": 4, "cuModuleGetFunction": 4}  # fmt: skip
    for name, times in calls.items():
        for after in range(times):
            t.driver.stub_fail(name.encode(), after, 801)
            with flow(t) as package:
                assert words in package.describe()["waits"]
                check(package, *t.calls[0])


def case_every_failure_of_the_driver_is_survived(t):
    calls = {
        flow: ("cuGraphCreate", "cuGraphAddNode", "cuGraphAddKernelNode_v2", "cuGraphLaunch",
               "cuGraphConditionalHandleCreate", "cuGraphInstantiateWithFlags", "cuMemAlloc_v2",
               "cuGraphExecKernelNodeSetParams_v2", "cuGraphAddMemcpyNode"),
        older: ("cuLaunchKernel", "cuMemcpyDtoDAsync_v2", "cuMemcpyDtoHAsync_v2",
                "cuStreamSynchronize", "cuMemcpyHtoDAsync_v2"),
    }  # fmt: skip
    known = {name: (inputs, outputs) for name, inputs, outputs in t.calls}
    for way, names in calls.items():
        for name in names:
            for after in (0, 1, 5):
                with way(t) as package:
                    fails(t, package, name, after, known)
                    for entry in ("grown", "summed", "deep"):
                        check(package, entry, *known[entry])
                    check(package, "tabled", [V, ROWS], [V + ROWS.sum(0)])


def fails(t, package, name, after, known):
    """Calls of which one may fail; each failure is one of the driver."""
    t.driver.stub_fail(name.encode(), after, 2 if "Alloc" in name else 999)
    for entry in ("grown", "summed", "grown"):
        error = failure(lambda entry=entry: package.run(entry, *(known[entry][0])))
        if error is not None:
            assert error.status in ("OUT_OF_MEMORY", "DEVICE_ERROR"), error
            assert "Alloc" in name or "(CUDA error 999)" in error.words, error
    t.driver.stub_fail(b"", 0, 0)


def case_a_launch_that_fails_names_its_line(t):
    with one_by_one(t) as package:
        t.driver.stub_fail(b"cuLaunchKernel", 1, 999)
        words = "gather_symbol at model.py:11 in forward: CUDA_ERROR_OF_STUB (CUDA error 999)"
        refuses("DEVICE_ERROR", words, package.run, "looked", V, GOOD)


def case_device_pointers_are_those_of_each_call(t):
    """Where only one address changes, only its nodes are told, inside of bodies too."""
    with flow(t) as package, on_device(t, V, V * 0, V * 0, V * 0) as (a, y, z, other):
        package.call("grown", [a], [y, z])
        with counting(t, cuGraphExecKernelNodeSetParams_v2=1, cuGraphExecMemcpyNodeSetParams=0):
            package.call("grown", [a], [y, other])
        package.synchronize()
        np.testing.assert_array_equal(array(other), V * 129)
        ctypes.memset(y.data, 0, y.bytes)
        x = described(V + 1)
        package.call("grown", [x], [y, z])
        np.testing.assert_array_equal(array(y), (V + 1) * 64)
