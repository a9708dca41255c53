"""What the C runtime does on a GPU, that of ``native/stub_cuda.c``; see ``native_cpu_cases.py``."""

import ctypes
import threading
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from native_binding import (
    ALLOCATE,
    CPU,
    GPU,
    RELEASE,
    Allocator,
    Failed,
    Native,
    Tensor,
    array,
    described,
)
from native_cpu_cases import refuses

LEFT = 64 << 20
V = np.arange(4, dtype="f4")


def given(library, folder, stub):
    """The library and the driver, which is loaded already when the library looks for it."""
    driver = ctypes.CDLL(str(stub))
    driver.stub_count.restype = driver.stub_memory_left.restype = ctypes.c_int64
    driver.stub_memory.argtypes = (ctypes.c_int64,)
    driver.stub_allocate.restype = driver.stub_release.restype = ctypes.c_uint64
    driver.stub_allocate.argtypes = (ctypes.c_size_t,)
    driver.stub_release.argtypes = (ctypes.c_uint64,)
    driver.stub_shared.restype = ctypes.c_char_p
    return SimpleNamespace(native=Native(library), folder=Path(folder), driver=driver)


@contextmanager
def gpu(t, **options):
    """The package; all it had is given back at the end."""
    with t.native.open(t.folder / "gpu.vtc", **options) as package:
        yield package
        assert t.driver.stub_depth() == 0
    left = t.driver.stub_memory_left()
    t.driver.stub_memory(LEFT)
    assert left == LEFT, f"{LEFT - left} bytes are lost"


@contextmanager
def counting(t, **expected):
    """So many calls of the driver happen inside."""
    before = {name: t.driver.stub_count(name.encode()) for name in expected}
    yield
    found = {name: t.driver.stub_count(name.encode()) - n for name, n in before.items()}
    assert found == expected, found


@contextmanager
def on_device(t, *arrays):
    """Copies of arrays on the GPU, as tensors."""
    made = []
    for a in arrays:
        at = t.driver.stub_allocate(max(a.nbytes, 1))
        ctypes.memmove(at, a.ctypes.data, a.nbytes)
        d = described(a, GPU)
        d.data = at
        made.append(d)
    yield made
    for d in made:
        t.driver.stub_release(d.data)


def case_outputs_are_right(t):
    with gpu(t) as package:
        for n in (4, 1, 1000, 4):
            v = np.arange(n, dtype="f4")
            y, z = package.run("chained", v)
            np.testing.assert_array_equal(y, 2 * (v + 1))
            np.testing.assert_array_equal(z, v + y)
            np.testing.assert_array_equal(package.run("forked", v)[0], 3 * v + 1)
            np.testing.assert_array_equal(package.run("forked", v)[1], 2 * v)
            np.testing.assert_array_equal(package.run("skipped", v)[0], 2 * (v + 1))
            np.testing.assert_array_equal(package.run("copied", v)[0], v + 1)
            np.testing.assert_array_equal(package.run("tabled", v)[0], 2 * v + 1)
            np.testing.assert_array_equal(package.run("through", v)[0], v)


def case_other_sizes_leave_no_table_behind(t):
    few, many = (np.arange(n, dtype="f4") for n in (4, 900))
    with (
        gpu(t) as package,
        on_device(t, few * 0, few, few + 1) as small,
        on_device(t, many * 0, many, many + 1) as large,
    ):
        for w, x, y in (large, small, large, small, small):
            ctypes.memset(w.data, 0, w.bytes)
            package.call("table_stays", [w, x, y], [w])
            package.synchronize()
            np.testing.assert_array_equal(array(w), array(x) + array(y))


def case_it_describes_itself(t):
    with gpu(t) as package:
        about = package.describe()
        assert (about["target"], about["device"]) == ("sm_90", "cuda:0")


def case_shared_memory_is_asked_for(t):
    with gpu(t):
        assert t.driver.stub_shared() == b"add_symbol 8 60000"


def case_nothing_happens_for_nothing(t):
    with gpu(t) as package:
        assert package.run("copied", np.zeros(0, "f4"))[0].shape == (0,)


def case_graphs_are_made_once_and_patched(t):
    with gpu(t) as package, on_device(t, V, V, V * 0, V * 0) as (a, b, y, z):
        with counting(t, cuGraphInstantiateWithFlags=1, cuGraphLaunch=1, cuMemcpyHtoDAsync_v2=0):
            package.call("chained", [a], [y, z])
        with counting(t, cuGraphInstantiateWithFlags=0, cuGraphExecKernelNodeSetParams_v2=0,
                      cuGraphLaunch=1, cuStreamSynchronize=0):  # fmt: skip
            package.call("chained", [a], [y, z])
        with counting(t, cuGraphInstantiateWithFlags=0, cuGraphExecKernelNodeSetParams_v2=2):
            package.call("chained", [b], [y, z])
        package.synchronize()
        assert array(z).tolist() == [2, 5, 8, 11]
        with counting(t, cuGraphExecMemcpyNodeSetParams=1, cuGraphExecKernelNodeSetParams_v2=0):
            package.call("copied", [a], [y])
            package.call("copied", [a], [z])
        package.synchronize()
        assert array(z).tolist() == [1, 2, 3, 4]


def case_launches_keep_what_they_were_given(t):
    with gpu(t) as package, on_device(t, V, V + 10, V * 0, V * 0) as (a, b, y, z):
        package.call("copied", [a], [y])  # the work is done when somebody waits
        package.call("copied", [b], [z])
        package.synchronize()
        assert array(y).tolist() == [1, 2, 3, 4]
        assert array(z).tolist() == [11, 12, 13, 14]


def case_numbers_go_along_with_the_call(t):
    with gpu(t) as package, on_device(t, V * 0 + 1, V * 0, V * 0) as (g, y, z):
        w = Tensor(device=GPU)
        first = package.call("updated", [g, described(np.float64(1))], [w, y, Tensor()])
        package.call("updated", [g, described(np.float32(2))], [w, z, Tensor()])
        package.synchronize()
        assert array(y).tolist() == [-2, 0, 2, 4]
        assert array(z).tolist() == [-6, -4, -2, 0]
        assert array(first[0]).tolist() == [-3, -2, -1, 0]
        assert first[0].device == GPU
        assert not first[0].owned
        assert first[2].dtype == 0


def case_state_is_on_the_gpu_and_reset(t):
    with gpu(t) as package:
        w, y, _ = package.run("updated", V * 0 + 1, np.float64(1))
        assert w.tolist() == [-1, 0, 1, 2]
        assert y.tolist() == [-2, 0, 2, 4]
        held = package.state("w")
        assert held.device == GPU
        package.reset()
        assert array(package.state("w")).tolist() == [0, 1, 2, 3]


def case_written_inputs_are_written(t):
    v = V.copy()
    with gpu(t) as package:
        out = package.call("written", [described(v)], [Tensor()])
        assert v.tolist() == [1, 2, 3, 4]
        assert out[0].data == v.ctypes.data
        with on_device(t, V) as (d,):
            package.call("written", [d], [Tensor(device=GPU)])
            package.synchronize()
            assert array(d).tolist() == [1, 2, 3, 4]


def case_host_and_device_memory_mix(t):
    y = np.zeros(4, "f4")
    with gpu(t) as package, on_device(t, V, V * 0) as (a, z):
        package.call("chained", [a], [described(y), z])
        assert y.tolist() == [2, 4, 6, 8]
        made = package.call("chained", [described(V)], [Tensor(device=GPU), Tensor()])
        assert (made[0].device, made[1].device) == (GPU, CPU)
        assert array(made[0]).tolist() == [2, 4, 6, 8]
        assert made[0].owned
        assert made[1].owned
        again = package.call("chained", [described(V + 1)], made)
        assert [m.data for m in again] == [m.data for m in made]
        assert array(again[1]).tolist() == [5, 8, 11, 14]
        for m in again:
            package.release(m)


def case_wrong_memory_is_refused(t):
    with gpu(t) as package, on_device(t, V, V) as (a, b):
        a.device = GPU + 1
        words = "x: expected memory of the CPU or the GPU of the package, got that of device 2"
        refuses("BAD_ARGUMENT", words, package.call, "copied", [a], [Tensor()])
        a.device = GPU
        a.data += 4
        a.shape[0], a.bytes = 3, 12
        refuses("BAD_ARGUMENT", "x: expected memory aligned to 16 bytes",
                package.call, "copied", [a], [Tensor()])  # fmt: skip
        refuses("BAD_ARGUMENT", "output 0: expected memory aligned to 16 bytes",
                package.call, "copied", [described(V[:3])], [a])  # fmt: skip
        a.data -= 4
        refuses("BAD_ARGUMENT", "output 1: expected memory of its own, got some of output 0",
                package.call, "chained", [described(V)], [b, b])  # fmt: skip
        refuses("BAD_ARGUMENT", "rate: expected a number: f64[()]",
                package.call, "updated", [b, b], [Tensor()] * 3)  # fmt: skip


def case_an_index_out_of_range_shows_later(t):
    bad, good = np.array([0, 9, 1, 2]), np.array([3, 2, 1, 0])
    words = "index: expected an index inside its axis, got one outside it\n  at model.py:9"
    with gpu(t) as package, on_device(t, V, bad, good, V * 0) as (a, wrong, index, y):
        package.call("gathered", [a, wrong], [y])
        refuses("OUT_OF_RANGE", words, package.synchronize)
        package.call("gathered", [a, index], [y])
        package.synchronize()
        assert array(y).tolist() == [3, 2, 1, 0]
        package.call("gathered", [a, wrong], [y])
        t.driver.stub_release(t.driver.stub_allocate(1))  # waits for the device
        refuses("OUT_OF_RANGE", words, package.call, "gathered", [a, index], [y])
        package.call("gathered", [a, index], [y])
        package.synchronize()
        refuses("OUT_OF_RANGE", words, package.run, "gathered", V, bad)
        assert package.run("gathered", V, good)[0].tolist() == [3, 2, 1, 0]


def case_streams_have_their_own_instances(t):
    with gpu(t) as package, on_device(t, V, V * 0) as (a, y):
        with counting(t, cuGraphInstantiateWithFlags=8, cuEventRecord=2, cuStreamWaitEvent=2):
            for stream in (*range(1, 11), 10):
                package.call("copied", [a], [y], stream)
        package.synchronize(10)
        assert array(y).tolist() == [1, 2, 3, 4]


def case_only_so_many_graphs_are_kept(t):
    with gpu(t) as package:
        with counting(t, cuGraphInstantiateWithFlags=40, cuGraphExecDestroy=8):
            for n in range(1, 41):
                package.run("copied", np.zeros(n, "f4"))
        with counting(t, cuGraphInstantiateWithFlags=0):
            package.run("copied", np.zeros(9, "f4"))
        with counting(t, cuGraphInstantiateWithFlags=1):
            package.run("copied", np.zeros(8, "f4"))


def case_every_failure_of_the_driver_is_survived(t):
    calls = (
        "cuGraphCreate", "cuGraphAddKernelNode_v2", "cuGraphAddMemcpyNode", "cuMemHostAlloc",
        "cuGraphInstantiateWithFlags", "cuGraphLaunch", "cuGraphExecKernelNodeSetParams_v2",
        "cuMemcpyHtoDAsync_v2", "cuMemcpyDtoHAsync_v2", "cuStreamSynchronize", "cuMemAlloc_v2",
        "cuCtxPushCurrent_v2", "cuGraphExecMemcpyNodeSetParams",
    )  # fmt: skip
    index = np.array([0, 1, 2, 3])
    for name in calls:
        for after in range(4):
            with gpu(t) as package:
                fails(t, package, name, after, index)
                package.synchronize()
                for n in (4, 5):
                    v = np.arange(n, dtype="f4")
                    assert package.run("copied", v)[0].tolist() == (v + 1).tolist()
                    assert package.run("tabled", v)[0].tolist() == (2 * v + 1).tolist()
                assert package.run("gathered", V, index)[0].tolist() == V.tolist()


def fails(t, package, name, after, index):
    """Calls of which one may fail; each failure is one of the driver."""
    t.driver.stub_fail(name.encode(), after, 2 if "Alloc" in name else 999)
    for work in (
        lambda: package.run("copied", V),
        lambda: package.run("copied", V + 1),
        lambda: package.run("tabled", V),
        lambda: package.run("gathered", V, index),
    ):
        error = failure(work)
        if error is not None:
            assert error.status in ("OUT_OF_MEMORY", "DEVICE_ERROR"), error
            assert "Alloc" in name or "(CUDA error 999)" in error.words, error
    t.driver.stub_fail(b"", 0, 0)


def failure(work):
    try:
        work()
    except Failed as error:
        return error
    return None


def case_failures_to_open_are_survived(t):
    for name in ("cuDevicePrimaryCtxRetain", "cuMemAlloc_v2", "cuMemcpyHtoDAsync_v2",
                 "cuModuleLoadData", "cuModuleGetFunction", "cuFuncSetAttribute"):  # fmt: skip
        t.driver.stub_fail(name.encode(), 0, 2 if "Alloc" in name else 999)
        status = "OUT_OF_MEMORY" if "Alloc" in name else "DEVICE_ERROR"
        refuses(status, "CUDA", t.native.open, t.folder / "gpu.vtc")
    broken = t.folder / "sm_90.vtc"
    refuses("DEVICE_ERROR", "cubin/sm_90/add_one_symbol.cubin", t.native.open, broken)
    assert t.driver.stub_memory_left() == LEFT


def case_no_memory_is_an_error_that_passes(t):
    with gpu(t) as package:
        package.run("chained", V)
        before = t.driver.stub_memory_left()
        t.driver.stub_memory(600)
        refuses("OUT_OF_MEMORY", "chained: expected 4000 bytes of device memory, got none",
                package.run, "chained", np.zeros(1000, "f4"))  # fmt: skip
        package.run("chained", V)
        t.driver.stub_memory(t.driver.stub_memory_left() + before - 600)
        package.run("chained", np.zeros(1000, "f4"))


def case_memory_comes_from_the_callers_allocator(t):
    live = {}

    def allocate(context, nbytes, alignment, stream):
        at = t.driver.stub_allocate(nbytes)
        live[at] = nbytes, stream
        return at

    def release(context, at, nbytes, stream):
        assert live.pop(at)[0] == nbytes
        t.driver.stub_release(at)

    made = Allocator(None, ALLOCATE(allocate), RELEASE(release))
    with gpu(t, allocator=ctypes.pointer(made)) as package:
        for n in (4, 100):
            package.run("chained", np.zeros(n, "f4"), stream=5)
        assert [s for _, s in live.values()] == [5]  # the arena
    assert not live


def case_plans_that_are_wrong_at_a_size_are_refused(t):
    with gpu(t) as package:
        refuses("BAD_ARGUMENT", "at most 65535 blocks along axis 1", package.run, "huge", V)
        refuses("BAD_PACKAGE", "expected memory of the plan", package.run, "outside", V[:3])
        assert package.run("huge", V[:0])[0].shape == (0,)


def case_many_threads_call_at_once(t):
    wrong = []

    def work(package, seed):
        for k in range(20):
            v = np.full(seed + 1, k, "f4")
            for name in ("chained", "tabled"):
                y = package.run(name, v, stream=seed % 10 + 1)[-1]
                if y.tolist() != (3 * v + 2 if name == "chained" else 2 * v + 1).tolist():
                    wrong.append(name)

    with gpu(t) as package:
        workers = [threading.Thread(target=work, args=(package, s)) for s in range(12)]
        [w.start() for w in workers]
        [w.join() for w in workers]
    assert not wrong


def case_machines_that_do_not_fit_are_refused(t):
    def machine(count, arch, version=12080):
        t.driver.stub_machine(count, arch, version)

    words = {
        (0, 90): "found one that does not start",
        (1, 80): "expected a target that runs here (sm_80), got a package for sm_90; export it",
        (1, 100): "(sm_100)",
        (1, 91): "(sm_91)",
        (1, 90, 11080): "CUDA 12 or newer",
    }
    for about, said in words.items():
        machine(*about)
        refuses("NO_TARGET", said, lambda: t.native.open(t.folder / "gpu.vtc", target=b"cuda"))
    machine(1, 90)
    refuses("NO_TARGET", "a GPU of that number, found none",
            lambda: t.native.open(t.folder / "gpu.vtc", target=b"cuda", device=3))  # fmt: skip
    refuses("NO_TARGET", "got a package for", t.native.open, t.folder / "sm_75.vtc")
    for arch in (75, 76):  # kernels for 7.5 run on all of 7 that come later
        machine(1, arch)
        with t.native.open(t.folder / "sm_75.vtc") as package:
            assert package.run("one", V)[0].tolist() == [1, 2, 3, 4]
    machine(1, 90)
