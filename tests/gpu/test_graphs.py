"""CUDA graphs on a real GPU: patched while they run, on several streams, with errors."""

import gc
import subprocess
import sys
import threading
import time
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import numpy as np
import ptx
import pytest

from vtc import config
from vtc.codegen.c import compile_patch, find_compiler
from vtc.errors import IndexRangeError
from vtc.ir.plan import Input, Output
from vtc.runtime.buffer import address
from vtc.runtime.cache import Store
from vtc.runtime.cuda.copies import to_device, to_host
from vtc.runtime.cuda.device import allocator, gpu
from vtc.runtime.cuda.driver import driver
from vtc.runtime.cuda.executable import CudaExecutable
from vtc.runtime.cuda.stream import Stream

TESTS = Path(__file__).parents[1]
sys.path.append(str(TESTS / "cuda"))
plans = import_module("small_plans")

pytestmark = pytest.mark.gpu
F4 = np.dtype("f4")
MILLISECOND = 1_000_000
BINARIES = ptx.binaries(plans.BINARIES)


@pytest.fixture(scope="session")
def patcher(tmp_path_factory):
    compiler = find_compiler()
    if compiler is None:
        pytest.skip("no C compiler")
    return compile_patch(compiler, Store(tmp_path_factory.mktemp("patch")))


@pytest.fixture(params=["compiled", "python", "one by one"])
def make(request, patcher):
    library = patcher if request.param == "compiled" else None
    with config.override(cuda_graphs=request.param != "one by one"):
        yield lambda plan: CudaExecutable(plan, BINARIES, 0, library)
    gpu(0).synchronize()


def vector(n=1000, seed=0):
    return np.random.default_rng(seed).normal(size=n).astype(F4)


def equal(got, want):
    np.testing.assert_array_equal(to_host(got), want)


def spinning(*milliseconds):
    """A plan that does nothing for so long, once for each: outputs are inputs."""
    steps = [
        plans.run("spin", Input(i), Output(i), n=ms * MILLISECOND)
        for i, ms in enumerate(milliseconds)
    ]
    vectors = [plans.VECTOR] * len(steps)
    return plans.plan(vectors, vectors, steps)


def test_calls_are_patched_while_those_before_wait_and_run(make):
    executable, wait = make(plans.chain()), make(spinning(20))
    xs = [vector(seed=k) for k in range(60)]
    arrays = [to_device(x, 0) for x in xs]
    wait.run([arrays[0]])
    executable.run([arrays[0]])
    gpu(0).synchronize()
    wait.run([arrays[0]])
    calls = [executable.run([a]) for a in arrays]
    for x, (y, z) in zip(xs, calls, strict=True):
        equal(y, 2 * (x + 1))
        equal(z, x + 2 * (x + 1))


def test_numbers_of_queued_calls_stay_as_they_were(make):
    executable, wait = make(plans.update()), make(spinning(20))
    g, rate = to_device(np.ones(9, F4), 0), np.array(0, F4)
    ws = [to_device(np.zeros(9, F4), 0) for _ in range(60)]
    wait.run([g])
    for k, w in enumerate(ws):
        rate[...] = k
        executable.run([w, g, rate])
    rate[...] = 1000
    for k, w in enumerate(ws):
        equal(w, np.full(9, -k, F4))


@pytest.mark.parametrize("name", ["copied", "tabled"])
def test_copies_and_tables(make, name):
    executable = make(getattr(plans, name)())
    xs = [vector(n, seed=n) for n in (4, 1000, 4, 70_000, 5, 4)]
    calls = [executable.run([to_device(x, 0)]) for x in xs]
    for x, (y,) in zip(xs, calls, strict=True):
        equal(y, x + 1 if name == "copied" else x + (x + 1))


def test_misaligned_and_bound(make):
    executable = make(plans.update())
    g, block = to_device(np.ones(8, F4), 0), to_device(np.zeros(32, F4), 0)
    parts = [block[:8], block[9:17], block[20:28]]
    bound = executable.bind([parts[0], g, np.array(0, F4)], {0: 0}, [2])
    for k, part in enumerate(parts, 1):
        bound.run([address(part)], [float(k)])
    want = np.zeros(32, F4)
    want[:8], want[9:17], want[20:28] = -1, -2, -3
    equal(block, want)


def seconds(work):
    start = time.perf_counter()
    work()
    gpu(0).synchronize()
    return time.perf_counter() - start


def test_two_streams_run_at_once(make):
    executable, x = make(spinning(30)), to_device(vector(), 0)
    streams = [Stream(), Stream()]

    def both():
        for s in streams:
            with s:
                executable.run([x])

    gpu(0).synchronize()
    both()
    gpu(0).synchronize()
    assert 0.03 <= seconds(both) < 0.055


def test_branches_of_a_graph_run_at_once(patcher):
    plan = replace(spinning(30, 30, 30), after=((), (), ()))
    executable, x = CudaExecutable(plan, BINARIES, 0, patcher), to_device(vector(), 0)
    executable.run([x] * 3)
    gpu(0).synchronize()
    assert 0.03 <= seconds(lambda: executable.run([x] * 3)) < 0.055


def test_threads_with_streams_and_on_one(make):
    executable, wrong, shared = make(plans.chain()), [], Stream()

    def work(seed, stream):
        try:
            with stream:
                for k in range(50):
                    x = vector(seed=(seed, k))
                    y, z = executable.run([to_device(x, 0)])
                    equal(y, 2 * (x + 1))
                    equal(z, x + 2 * (x + 1))
        except BaseException as error:
            wrong.append(error)

    streams = [Stream(), Stream(), shared, shared]
    threads = [threading.Thread(target=work, args=(i, s)) for i, s in enumerate(streams)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not wrong


def test_more_streams_than_instances(make):
    executable = make(plans.chain())
    streams = [Stream() for _ in range(12)] * 2
    xs = [vector(seed=k) for k in range(len(streams))]
    calls = []
    for s, x in zip(streams, xs, strict=True):
        with s:
            calls.append(executable.run([to_device(x, 0)]))
    for s, x, (y, _) in zip(streams, xs, calls, strict=True):
        with s:
            equal(y, 2 * (x + 1))


def test_an_index_out_of_range(make):
    executable = make(plans.gathered())
    x = to_device(vector(4), 0)
    bad, good = (to_device(np.array(i, "i8"), 0) for i in ([0, 1, 99, 2], [3, 2, 1, 0]))
    (y,) = executable.run([x, bad])
    with pytest.raises(IndexRangeError, match=r"model\.py:9 in forward"):
        to_host(y)
    executable.run([x, bad])
    driver().synchronize(0)
    with pytest.raises(IndexRangeError, match=r"model\.py:9 in forward"):
        executable.run([x, good])
    equal(executable.run([x, good])[0], vector(4)[::-1])


def test_graphs_give_their_memory_back(make):
    x = to_device(vector(), 0)

    def some():
        for _ in range(100):
            executable = make(plans.chain())
            executable.run([x])
        del executable
        gc.collect()
        gpu(0).synchronize()

    some()
    before, held = driver().mem_info(0)[0], allocator(0).stats()["allocated_bytes.all.current"]
    some()
    assert allocator(0).stats()["allocated_bytes.all.current"] == held
    assert before - driver().mem_info(0)[0] <= 4 << 20


CRASH = """
import sys
sys.path[:0] = {folders!r}
import numpy as np, ptx, small_plans as plans
from vtc.errors import RunError
from vtc.ir.plan import Input, Output
from vtc.runtime.cuda.copies import to_device, to_host
from vtc.runtime.cuda.device import gpu
from vtc.runtime.cuda.executable import CudaExecutable

x = to_device(np.ones(4, "f4"), 0)
plan = plans.plan([plans.VECTOR], [plans.VECTOR], [plans.run("crash", Input(0), Output(0))])
executable = CudaExecutable(plan, ptx.binaries(plans.BINARIES), 0)
for work in [lambda: executable.run([x]), gpu(0).synchronize, lambda: executable.run([x])]:
    try:
        work()
    except RunError as error:
        print(error)
"""


@pytest.mark.parametrize("graphs", ["1", "0"])
def test_a_crash_names_its_kernel_and_stays(graphs):
    script = CRASH.format(folders=[str(TESTS / "gpu"), str(TESTS / "cuda")])
    more = {"VTC_CUDA_GRAPHS": graphs} | ({"CUDA_LAUNCH_BLOCKING": "1"} if graphs == "0" else {})
    environment = config.environment(without=()) | more
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env=environment
    )
    assert done.stdout.count("CUDA_ERROR_ILLEGAL_ADDRESS") >= 2, done.stderr
    assert "restart it" in done.stdout
    if graphs == "1":
        assert "since the host last waited, the newest last: small\n" in done.stdout
    if graphs == "0":
        assert "in kernel crash (crash_symbol)\n  at model.py:7 in crash" in done.stdout
