"""A call that is interrupted (Ctrl-C) leaves nothing behind, wherever it is."""

import dis
import gc
import signal
import sys
import threading

import pytest

import vtc
from vtc.runtime import executable, lease
from vtc.runtime.executable import CLAIMS

FILES = (executable.__file__, lease.__file__)


@pytest.fixture
def update():
    """A compiled function that overwrites a tensor, ready to be replayed; the tensor."""
    w = vtc.zeros(8)

    @vtc.compile
    def add(x):
        w.add_(x)
        return x * 2.0

    for _ in range(3):
        add(vtc.ones(8))
    with vtc.no_grad():
        w.zero_()
    return add, w


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
    """Whether every living thing of ``pool`` is back."""
    if len(pool._alive) != len(pool.idle):
        gc.collect()  # a traceback may hold it in a cycle
    return len(pool._alive) == len(pool.idle)


@pytest.mark.parametrize("replayed", [True, False])
def test_an_interrupt_wherever_python_looks_for_one(update, replayed):
    add, w = update
    x = vtc.ones(8) if replayed else vtc.ones(8, 2).T[0]
    for _ in range(3):
        add(x)
    assert (add._replay._bound is not None) is replayed
    pool = add.entries[0].forward.executable._pool
    step = 1
    while interrupted_at(step, lambda: add(x)):
        assert nothing_is_out(pool), step
        assert not CLAIMS._taken(frozenset([w.numpy().ctypes.data])), step
        step += 1
    assert step > 20
    before = w.tolist()
    assert add(x).tolist() == [2.0] * 8
    assert w.tolist() == [v + 1.0 for v in before]


def test_ctrl_c_while_a_kernel_runs():
    x = vtc.ones(1 << 22)
    w = vtc.zeros(1 << 22)

    @vtc.compile
    def slow(x):
        w.add_(x)
        for _ in range(20):
            x = vtc.sin(vtc.exp(x * 0.1))
        return x

    for _ in range(3):
        want = slow(x)
    entry = slow.entries[0]
    pool = entry.forward.executable._pool
    main = threading.main_thread().ident
    version = w._version

    done = []

    def press():
        while pool.idle and not done:  # until the call has its instance
            pass
        signal.pthread_kill(main, signal.SIGINT)

    before = w.numpy()[0]
    key = threading.Thread(target=press)
    key.start()
    try:
        slow(x)
        done.append(1)  # the call was quicker than the key
        key.join()
    except KeyboardInterrupt:
        key.join()
    else:
        pytest.fail("expected KeyboardInterrupt")
    assert nothing_is_out(pool)
    assert w._version == version + 1
    assert w.numpy()[0] - before in (0.0, 1.0)
    assert slow(x).tolist()[:2] == want.tolist()[:2]
    assert len(slow.entries) == 1
