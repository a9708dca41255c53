"""Memory that is had without a lock: the books add up, and no two arrays overlap."""

import gc
import random
import sys
import threading
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import small_plans
from small_kernels import equal, vector

from vtc.runtime import allocator as module
from vtc.runtime.buffer import address
from vtc.runtime.cuda import array as arrays
from vtc.runtime.cuda.array import empty, root, used_by
from vtc.runtime.cuda.copies import to_device
from vtc.runtime.cuda.device import allocator, gpu
from vtc.runtime.cuda.stream import Stream, stream

F4 = np.dtype("f4")
MIB = 1 << 20


def again(*shape):
    """An array that comes from a shelf."""
    del (first := [empty(shape, F4, 0)])[:]
    before = len(allocator(0).shelf(np.prod(shape) * 4, gpu(0).stream))
    x = empty(shape, F4, 0)
    assert len(allocator(0).shelf(np.prod(shape) * 4, gpu(0).stream)) == before - 1, first
    return x


def add_up(living):
    stats, segments = allocator(0).stats(), allocator(0).snapshot()
    blocks = [b for s in segments for b in s["blocks"]]
    used = [b for b in blocks if b["state"] == "active_allocated"]
    assert {b["address"]: b["requested_size"] for b in used} == {
        address(x): x.nbytes for x in living
    }
    assert stats["active.all.current"] == len(living)
    assert stats["requested_bytes.all.current"] == sum(x.nbytes for x in living)
    assert stats["allocated_bytes.all.current"] == sum(b["size"] for b in used)
    for s in segments:
        states = [b["state"] for b in s["blocks"]]
        assert ("inactive", "inactive") not in pairwise(states)
        assert sum(b["size"] for b in s["blocks"]) == s["total_size"]


def test_statistics_count_each_use(sim):
    x = again(100)
    assert address(x) % 512 == 0
    before = allocator(0).stats()
    for _ in range(7):
        y = empty((90,), F4, 0, where="a line")
    del y
    after = allocator(0).stats()
    assert after["allocated_bytes.all.freed"] - before["allocated_bytes.all.freed"] == 7 * 512
    assert after["requested_bytes.all.peak"] == 400 + 2 * 360
    assert after["active.all.peak"] == 3
    assert after["active.all.current"] == 1
    kinds = [(a.kind, a.size, a.where) for a in allocator(0).history[-2:]]
    assert kinds == [("alloc", 512, "a line"), ("free", 512, "a line")] or kinds == [
        ("free", 512, "a line"), ("free", 512, "a line")
    ]  # fmt: skip
    add_up([x])


def test_owners_are_those_of_now(sim):
    kept = [again(100)]
    kept.append(empty((50,), F4, 0, where="train.py:3"))
    del kept[0]
    assert allocator(0).owners() == [("train.py:3", 512)]


def test_a_snapshot_calls_the_free_ones_off(sim):
    del (found := [again(100), again(300), again(100)])[:]
    add_up(found)
    x, y = empty((100,), F4, 0), empty((300,), F4, 0)
    assert not np.may_share_memory(x, y)
    add_up([x, y])
    del x, y
    allocator(0).empty_cache()
    assert allocator(0).stats()["reserved_bytes.all.current"] == 0


def test_all_memory_can_be_had_after_small_uses(sim):
    many = [empty((1000,), F4, 0) for _ in range(900)]
    del many
    assert allocator(0).stats()["inactive_split_bytes.all.current"] > 0
    assert empty((16 * MIB,), F4, 0).nbytes == 64 * MIB


def test_notes_are_taken_in_when_there_are_many(sim):
    x = again(100)
    for _ in range(3 * module.NOTES):
        del x
        x = empty((100,), F4, 0)
        assert len(allocator(0).notes) <= module.NOTES + 2
    add_up([x])


def test_another_stream_gets_none_of_it(sim):
    x = again(100)
    place = address(x)
    del x
    with stream(Stream()):
        other = empty((100,), F4, 0)
    assert address(other) != place
    assert address(empty((100,), F4, 0)) == place


def test_memory_that_another_stream_works_with_waits(sim):
    s, x = Stream(), again(100)
    place = address(x)
    sim.copy(0, place, place, 4, s.cuda_stream)  # queued: it runs when somebody waits
    used_by(x, s.cuda_stream)
    asked = sim.calls["record"]
    del x
    y = empty((100,), F4, 0)
    assert sim.calls["record"] == asked + 1, "nothing says when the other stream is done"
    assert address(y) != place
    s.synchronize()
    del y
    gc.collect()
    found = [empty((100,), F4, 0) for _ in range(4)]
    assert place in map(address, found)
    assert not root(found[0]).block.uses
    add_up(found)


def test_memory_freed_by_the_collector_in_the_middle_of_a_call(sim):
    def loop():
        cycle = [again(100), again(200)]
        cycle.append(cycle)

    gc.disable()
    try:
        x, reserve = again(100), sim.reserve
        loop()

        def collecting(*args):
            gc.collect()
            return reserve(*args)

        sim.reserve = collecting
        y = empty((MIB,), F4, 0)
        add_up([x, y])
    finally:
        gc.enable()
        del sim.reserve


def test_in_a_capture_memory_comes_from_its_pool(sim):
    x, place = again(100), None
    own = allocator(0).new_pool()
    with allocator(0).capture(own):
        place = address(x)
        del x
        y = empty((100,), F4, 0)
        assert address(y) != place
        assert root(y).block.segment.owner == own
        del y
    assert empty((100,), F4, 0) is not None
    add_up([])


SOURCE = Path(arrays.__file__).read_text().splitlines()
ATOMIC = ("ground.block = block", "try:", "return found")
"""Python looks for ^C after calls of C functions, not here."""


def interrupted(run, after):
    """``run()``, and ^C when so many lines have run; the result, None if it came."""
    left = [after]

    def trace(frame, event, _):
        if frame.f_code.co_filename != arrays.__file__ or frame.f_code.co_name == "__del__":
            return None
        if event == "line" and SOURCE[frame.f_lineno - 1].strip() not in ATOMIC:
            left[0] -= 1
            if not left[0]:
                raise KeyboardInterrupt
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        return run()
    except KeyboardInterrupt:
        return None
    finally:
        sys.settrace(before)


@pytest.mark.parametrize("shelved", [True, False])
def test_an_interrupt_loses_nothing(sim, shelved):
    keep = again(100)
    came = 0
    for after in range(1, 30):
        if shelved:
            del (gone := [empty((200,), F4, 0)])[:]
            assert not gone
        x = interrupted(lambda: empty((200,), F4, 0), after)
        came += x is None
        add_up([keep] if x is None else [keep, x])
        del x
    assert came > 5
    del keep
    allocator(0).empty_cache()
    assert allocator(0).stats()["reserved_bytes.all.current"] == 0


def test_threads(sim):
    errors = []
    seen = {}

    def work(seed):
        own, mine = random.Random(seed), []
        try:
            for _ in range(600):
                kind = own.random()
                if kind < 0.5 or not mine:
                    x = empty((own.choice([100, 100, 300, 5000]),), F4, 0)
                    assert seen.setdefault(address(x), seed) == seed, "handed out twice"
                    mine.append(x)
                elif kind < 0.97:
                    x = mine.pop(own.randrange(len(mine)))
                    del seen[address(x)], x
                elif kind < 0.98:
                    allocator(0).empty_cache()
                else:
                    allocator(0).snapshot()
        except BaseException as error:
            errors.append(error)
        finally:
            for x in mine:
                seen.pop(address(x), None)
            del x
            mine.clear()

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
    finally:
        sys.setswitchinterval(before)
    assert not errors
    add_up([])
    allocator(0).empty_cache()
    assert allocator(0).stats()["reserved_bytes.all.current"] == 0


def test_outputs_of_a_bound_call_come_from_shelves(make):
    executable = make(small_plans.chain())
    x = to_device(vector(), 0)
    bound = executable.bind([x], {0: 0})
    for _ in range(3):
        (y, at), (z, _) = bound.run([address(x)])
        assert at == address(y)
        equal(z, vector() + (vector() + 1) * 2)
    s = Stream()
    with stream(s):
        (w, _), _ = bound.run([address(x)])
    s.synchronize()
    assert root(w).block.segment.stream == s.cuda_stream
    living = allocator(0).stats()["active.all.current"]
    del y, z, w
    assert allocator(0).stats()["active.all.current"] == living - 3
    where = {a.where for a in allocator(0).history if a.kind == "alloc"}
    assert "small" in where
