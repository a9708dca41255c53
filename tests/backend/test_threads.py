"""Kernels in parts on the thread pool: equal results, from any thread, after a fork, after ^C."""

import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from regions import built, call, normal, region

from vtc.build import compile_program
from vtc.codegen.c import find_compiler
from vtc.config import MOST_THREADS, Config
from vtc.errors import ArgumentError, ConfigError
from vtc.ir.evaluate import evaluate
from vtc.ir.types import TensorType, f32, i64
from vtc.passes.pipeline import Context
from vtc.runtime.threads import get_num_threads, set_num_threads

needs_compiler = pytest.mark.skipif(find_compiler() is None, reason="no C compiler")


@pytest.fixture(autouse=True)
def restored():
    """The number of threads afterwards is what it was."""
    before = get_num_threads()
    yield
    set_num_threads(before)


SHAPES = {
    "rows": ((40, 4097), lambda x: (x.exp().sum((1,)),)),
    "lanes": ((300, 1000), lambda x: (x.exp().sum((0,)),)),
    "products": ((130, 400), lambda x: ((x.matmul(x, transpose_y=True) * 0.01).tanh(),)),
    "a ragged end": ((70_001,), lambda x: (x.tanh() * x,)),
    "tiles": ((3, 70, 50), lambda x: (x.permute((0, 2, 1)),)),
    "one sum": ((70_001,), lambda x: (x.sum((0,)),)),
}


@needs_compiler
@pytest.mark.parametrize("name", SHAPES)
def test_results_do_not_depend_on_the_number_of_threads(name):
    shape, body = SHAPES[name]
    program, x = region([TensorType(f32, shape)], body), normal(*shape)
    plan, function = built(program)
    code, (alone,) = call(plan, function, [x], threads=None)
    assert code == 0
    np.testing.assert_allclose(alone, evaluate(program, x)[0], rtol=1e-5, atol=1e-5)
    for threads in (1, 2, 3, 7):
        assert call(plan, function, [x], threads=threads)[1][0].tobytes() == alone.tobytes()


@needs_compiler
def test_a_wrong_index_in_any_part_is_reported():
    types = [TensorType(f32, (5, 3)), TensorType(i64, (1000,))]
    plan, function = built(region(types, lambda x, i: (x.op("index", i, axes=(0,)),)))
    x = normal(5, 3)
    for wrong in (0, 500, 999):
        i = np.zeros(1000, np.int64)
        assert call(plan, function, [x, i])[0] == 0
        i[wrong] = 5
        assert call(plan, function, [x, i])[0] == 1


def chain(n):
    """Three kernels that are large enough to be divided."""
    return region([TensorType(f32, (n, n))], lambda x: (x.matmul(x).tanh() + 1,))


@needs_compiler
def test_many_python_threads_share_the_pool():
    set_num_threads(3)
    compiled = compile_program(chain(128), Context())
    inputs = [normal(128, 128, seed=k) for k in range(4)]
    wanted = [compiled.run([x])[0].tobytes() for x in inputs]
    start = threading.Barrier(4)

    def work(k):
        start.wait()
        return {compiled.run([inputs[k]])[0].tobytes() for _ in range(200)}

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(work, range(4))) == [{w} for w in wanted]


@needs_compiler
def test_the_number_may_change_while_others_run():
    compiled = compile_program(chain(128), Context())
    x = normal(128, 128)
    wanted = compiled.run([x])[0].tobytes()

    def work(_):
        return {compiled.run([x])[0].tobytes() for _ in range(200)}

    with ThreadPoolExecutor(2) as pool:
        found = pool.map(work, range(2))
        for k in range(300):
            set_num_threads(1 + k % 4)
        assert list(found) == [{wanted}] * 2


PRELUDE = """
import os, signal, threading, time
import numpy as np
import vtc
vtc.set_num_threads(2)
x = vtc.randn(256, 256)
f = vtc.compile(lambda x: (x @ x).tanh() + 1)
want = f(x).numpy().tobytes()
tasks = lambda: len(os.listdir("/proc/self/task"))
"""


def python(code):
    command = [sys.executable, "-c", PRELUDE + code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


FORK = """
stop = []
def busy():
    while not stop:
        f(x)
other = threading.Thread(target=busy)
other.start()
for _ in range(20):
    pid = os.fork()
    if pid == 0:
        before = tasks()
        same = f(x).numpy().tobytes() == want and before == 1 and tasks() == 2
        os._exit(0 if same else 1)
    assert os.waitpid(pid, 0)[1] == 0
    assert f(x).numpy().tobytes() == want
stop.append(1)
other.join()
print("done")
"""


@needs_compiler
@pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="no /proc to count threads in")
def test_a_forked_child_starts_its_own_threads():
    assert python(FORK) == ["done"]


INTERRUPT = """
@vtc.compile
def long(x):
    for _ in range(20):
        x = (x @ x) * 0.01
    return x
y = vtc.randn(512, 512)
expected = long(y).numpy().tobytes()
for _ in range(2):
    timer = threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    try:
        while True:
            long(y)
    except KeyboardInterrupt:
        print("interrupted")
    timer.join()
    assert long(y).numpy().tobytes() == expected
    assert f(x).numpy().tobytes() == want
"""


@needs_compiler
@pytest.mark.skipif(not hasattr(signal, "SIGINT"), reason="no SIGINT")
def test_an_interrupt_arrives_after_the_call_and_harms_nothing():
    assert python(INTERRUPT) == ["interrupted", "interrupted"]


@needs_compiler
@pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="no /proc to count threads in")
def test_one_thread_starts_none():
    code = "vtc.set_num_threads(1)\nbefore = tasks()\nf(x)\nprint(tasks() - before)"
    assert python(code) == ["0"]
    first = "pid = os.fork()\nif pid == 0:\n    vtc.set_num_threads(1)\n    f(x)\n"
    assert python(f"{first}    os._exit(tasks())\nprint(os.waitpid(pid, 0)[1] >> 8)") == ["1"]


@needs_compiler
@pytest.mark.parametrize("end", ["", "threading.Thread(target=lambda: f(x)).start()"])
def test_the_interpreter_ends_while_threads_wait(end):
    python(end)


@pytest.mark.parametrize("n", [0, -1, True, 2.0, "two", None, MOST_THREADS + 1])
def test_a_number_that_makes_no_sense_is_refused(n):
    want = f"set_num_threads: expected an int from 1 to {MOST_THREADS}, got "
    with pytest.raises(ArgumentError, match=want):
        set_num_threads(n)


def test_the_environment_says_how_many():
    assert Config.read({"VTC_NUM_THREADS": "3"}).num_threads == 3
    assert 1 <= Config.read({}).num_threads <= MOST_THREADS
    for text in ("0", "-1", "two", "1.5"):
        with pytest.raises(ConfigError, match="VTC_NUM_THREADS: expected a positive integer, got"):
            Config.read({"VTC_NUM_THREADS": text})
    with pytest.raises(ConfigError, match=f"expected at most {MOST_THREADS}, got 99999"):
        Config.read({"VTC_NUM_THREADS": "99999"})


def test_what_was_set_is_what_is_said():
    set_num_threads(5)
    assert get_num_threads() == 5
