"""Executables on a simulated GPU: streams, threads, interrupts, errors, memory that comes back."""

import dis
import gc
import sys
import threading
from dataclasses import replace

import numpy as np
import pytest
import small_kernels
import small_plans as plans
from entries import Entries
from simulated import ILLEGAL, Simulated
from small_kernels import F4, equal, vector

from vtc.errors import IndexRangeError, OutOfMemoryError, RunError
from vtc.ir.plan import Arena, Buffer, Copy, Input, Output
from vtc.ir.types import f32
from vtc.runtime import lease
from vtc.runtime.buffer import address
from vtc.runtime.cuda import executable, graph, instance
from vtc.runtime.cuda.array import empty
from vtc.runtime.cuda.copies import to_device, to_host
from vtc.runtime.cuda.device import allocator, gpu
from vtc.runtime.cuda.driver import installed
from vtc.runtime.cuda.executable import INSTANCES, CudaExecutable
from vtc.runtime.cuda.stream import Stream
from vtc.runtime.lease import CLAIMS

FILES = {m.__file__ for m in (executable, graph, instance, lease)}


# streams and threads


def test_one_stream_needs_one_arena(make, sim):
    executable = make(plans.chain())
    x = to_device(vector(100_000), 0)
    executable.run([x])
    gc.collect()
    before = allocator(0).stats()["allocated_bytes.all.current"]
    for _ in range(10):
        executable.run([x])
    assert allocator(0).stats()["allocated_bytes.all.current"] == before


def test_streams_have_their_own_instances_up_to_a_bound(make, sim):
    executable = make(plans.chain())
    streams = [Stream() for _ in range(INSTANCES + 4)]
    xs = [vector(300, seed=k) for k in range(len(streams))]
    calls = []
    for s, x in zip(streams * 3, xs * 3, strict=True):
        with s:
            calls.append(executable.run([to_device(x, 0)]))
    assert sim.calls["wait_event"] > 0
    for s, x, (y, z) in zip(streams * 3, xs * 3, calls, strict=True):
        with s:
            equal(y, 2 * (x + 1))
            equal(z, x + 2 * (x + 1))
    assert len(executable._instances._alive) == INSTANCES


def test_threads_call_on_streams_of_their_own_and_on_one(make, sim):
    executable = make(plans.chain())
    wrong = []

    def work(seed, stream):
        try:
            with stream:
                for k in range(20):
                    x = vector(50, seed=(seed, k))
                    y, z = executable.run([to_device(x, 0)])
                    equal(y, 2 * (x + 1))
                    equal(z, x + 2 * (x + 1))
        except BaseException as error:
            wrong.append(error)

    shared = Stream()
    streams = [Stream(), Stream(), shared, shared]
    threads = [threading.Thread(target=work, args=(i, s)) for i, s in enumerate(streams)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not wrong


def test_an_instance_that_is_lost_makes_room(make, sim):
    executable = make(plans.chain())
    x = to_device(vector(), 0)
    executable.run([x])
    executable._instances.take(0)  # and an interrupt comes
    gc.collect()
    equal(executable.run([x])[0], 2 * (vector() + 1))


LOOKS = ("RESUME", "CALL", "CALL_FUNCTION_EX", "JUMP_BACKWARD")
"""Instructions after which Python looks for signals."""


def interrupted_at(step, call):
    """Whether ``call`` got as far as the ``step``-th time that Python looks for signals."""
    left, before = step, {}

    def trace(frame, event, _):
        nonlocal left
        if frame.f_code.co_filename not in FILES:
            return None
        frame.f_trace_opcodes = True
        if event == "opcode":
            last = before.get(frame)
            before[frame] = dis.opname[frame.f_code.co_code[frame.f_lasti]]
            left -= last in LOOKS
            if left == 0:
                before.clear()
                raise KeyboardInterrupt
        return trace

    was_interrupted = []

    def run():
        sys.settrace(trace)
        try:
            call()
        except KeyboardInterrupt:
            was_interrupted.append(step)
        finally:
            sys.settrace(None)

    thread = threading.Thread(target=run)  # an exception that Python keeps goes with its thread
    thread.start()
    thread.join()
    return bool(was_interrupted)


def nothing_is_out(pool):
    """Whether every living instance is back."""
    for _ in range(2):
        if len(pool._alive) == sum(map(len, pool.idle.values())):
            return True
        gc.collect()  # a traceback may hold it in a cycle
    return False


@pytest.mark.parametrize("bound", [True, False])
def test_an_interrupt_wherever_python_looks_for_one(make, sim, bound):
    executable = make(plans.update())
    w, g = to_device(np.zeros(5, F4), 0), to_device(np.ones(5, F4), 0)
    ready = executable.bind([w, g, np.array(0, F4)], {}, [2])
    step = 1

    def call():
        if bound:
            return ready.run([], [1.0])[0][0]
        return executable.run([w, g, np.array(1, F4)])[1]

    while interrupted_at(step, call):
        assert nothing_is_out(executable._instances), step
        assert not CLAIMS._taken(frozenset([address(w)])), step
        before = to_host(w)
        equal(call(), 2 * (before - 1))
        equal(w, before - 1)
        step += 1
    assert step > 20


# errors


def bad_index(n=4):
    return to_device(np.array([0, 1, 99, 2][:n], "i8"), 0)


def test_an_index_out_of_range_shows_at_the_next_call(make, sim):
    executable = make(plans.gathered())
    x, good = to_device(vector(4), 0), to_device(np.arange(4), 0)
    executable.run([x, bad_index()])
    gpu(0).driver.synchronize(0)
    message = "index: expected an index inside its axis, got one outside it\n  at model.py:9 in for"
    with pytest.raises(IndexRangeError, match=message):
        executable.run([x, good])
    equal(executable.run([x, good])[0], vector(4))


def test_an_index_out_of_range_shows_where_the_host_waits(make, sim):
    executable = make(plans.gathered())
    x, good = to_device(vector(4), 0), to_device(np.arange(4), 0)
    (y,) = executable.run([x, bad_index()])
    with pytest.raises(IndexRangeError, match=r"model\.py:9"):
        to_host(y)
    executable.run([x, bad_index()])
    with pytest.raises(IndexRangeError, match=r"model\.py:9"):
        gpu(0).synchronize()
    gpu(0).synchronize()
    equal(executable.run([x, good])[0], vector(4))


def test_an_index_out_of_range_shows_after_the_executable_died(make, sim):
    executable = make(plans.gathered())
    executable.run([to_device(vector(4), 0), bad_index()])
    del executable
    gc.collect()
    with pytest.raises(IndexRangeError, match=r"model\.py:9"):
        gpu(0).synchronize()
    gpu(0).synchronize()
    assert sim.calls["free_pinned"] == sim.calls["pinned"]
    assert not gpu(0).pending


def test_a_launch_that_fails_names_where(make, sim):
    executable = make(plans.chain())
    x = to_device(vector(), 0)
    executable.run([x])
    single = make.mode == "one by one"
    sim.failing["launch" if single else "graph_launch"] = RunError("cuLaunch: CUDA_ERROR_X")
    if make.mode == "compiled":  # Python tries again, to say it in words: here that works
        equal(executable.run([x])[0], 2 * (vector() + 1))
        return
    kernel = r"in kernel add_one \(add_one_symbol\)\n  at model\.py:7 in add_one"
    graph = "in small; VTC_CUDA_GRAPHS=0 CUDA_LAUNCH_BLOCKING=1 names the kernel"
    with pytest.raises(RunError, match=f"CUDA_ERROR_X\n  {kernel if single else graph}"):
        executable.run([x])
    equal(executable.run([x])[0], 2 * (vector() + 1))


def test_after_a_crash_every_call_says_so(make, sim):
    executable = make(plans.chain())
    x = to_device(vector(), 0)
    executable.run([x])
    sim.broken = ILLEGAL
    for _ in range(2):
        with pytest.raises(RunError, match="CUDA_ERROR_ILLEGAL_ADDRESS"):
            executable.run([x])
    sim.broken = ""


@pytest.mark.parametrize("failing", ["set_kernel_params", "set_copy_params"])
def test_after_a_patch_that_failed_all_nodes_are_patched(make, sim, failing):
    steps = [
        plans.run("add_one", Input(0), Arena(0)),
        Copy(Arena(0), Output(0), plans.B * 4),
        plans.run("double", Input(0), Output(1)),
    ]
    executable = make(plans.plan([plans.VECTOR], [plans.VECTOR] * 2, steps, plans.room(1)))
    keep = [executable.run([to_device(vector(), 0)])]
    sim.failing[failing] = RunError("cuGraphExec: CUDA_ERROR_X")
    x = to_device(vector(seed=1), 0)
    if make.mode == "python":
        with pytest.raises(RunError, match="CUDA_ERROR_X"):
            executable.run([x])
    keep.append(executable.run([x]))
    equal(keep[-1][0], vector(seed=1) + 1)
    equal(keep[-1][1], vector(seed=1) * 2)


def test_a_kernel_that_wants_too_much_shared_memory(make, sim):
    binary = replace(plans.BINARIES["double_symbol"], shared=1 << 20)
    executable = make(plans.chain(), double_symbol=binary)
    message = (
        r"double: expected at most 232448 bytes of shared memory, got 1048576\n"
        r"  in kernel double \(double_symbol\)\n  at model\.py:1 in double"
    )
    with pytest.raises(RunError, match=message):
        executable.run([to_device(vector(), 0)])


def test_no_memory_for_the_arena(make, sim):
    sides = replace(plans.chain(), arena=100 << 20)
    x = to_device(vector(), 0)
    before = allocator(0).stats()["allocated_bytes.all.current"]
    executable = make(sides)
    for _ in range(INSTANCES + 2):
        with pytest.raises(OutOfMemoryError, match=r"expected 100\.00 MiB of memory"):
            executable.run([x])
    assert allocator(0).stats()["allocated_bytes.all.current"] == before
    equal(make(plans.chain()).run([x])[0], 2 * (vector() + 1))


def test_no_memory_for_an_output_gives_all_back(make, sim):
    huge = Buffer(f32, (16 << 20,))
    steps = [plans.run("add_one", Input(0), Output(0))]
    executable = make(plans.plan([plans.VECTOR], [plans.VECTOR, huge], steps, plans.room(1)))
    x = to_device(vector(), 0)
    for _ in range(3):
        with pytest.raises(OutOfMemoryError):
            executable.run([x])
    gc.collect()
    stats = allocator(0).stats()
    assert stats["allocated_bytes.all.current"] == 512 + 512  # x and the arena
    assert "small" in {b["where"] for s in allocator(0).snapshot() for b in s["blocks"]}


def test_all_goes_with_the_executable(make, sim):
    x = to_device(vector(), 0)
    before = allocator(0).stats()["allocated_bytes.all.current"]
    for plan in (plans.chain(), plans.tabled(), plans.gathered()):
        executable = make(plan)
        executable.run([x, to_device(np.arange(5), 0)][: len(plan.inputs)])
    del executable
    gc.collect()
    gpu(0).synchronize()
    assert allocator(0).stats()["allocated_bytes.all.current"] == before
    assert sim.calls["create_graph"] == sim.calls["destroy_graph"]
    assert sim.calls["instantiate"] == sim.calls["destroy_executable"]


def test_a_library_that_does_not_load(tmp_path):
    with installed(Simulated()) as gpus:
        small_kernels.install(gpus)
        gpus.symbol = Entries(gpus).address
        broken = tmp_path / "patch.so"
        broken.write_text("no library")
        executable = CudaExecutable(plans.chain(), plans.BINARIES, 0, broken)
        with pytest.raises(RunError, match="load: expected a library with vtc_graph_run, got"):
            executable.run([empty((5,), F4, 0)])
