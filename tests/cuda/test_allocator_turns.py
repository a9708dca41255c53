"""The allocator when it is interrupted, entered again, and called by many threads."""

import random
import sys
import threading
from collections import Counter, deque
from pathlib import Path

import pytest

from vtc.errors import OutOfMemoryError, RunError
from vtc.runtime import allocator as module
from vtc.runtime import blocks
from vtc.runtime.allocator import Allocator

MIB = 1 << 20
FILES = {module.__file__, blocks.__file__}


class Memory:
    """A device whose other streams are always behind."""

    name = "toy:0"
    total = 64 * MIB

    def __init__(self):
        self.held = {}
        self.hook = None

    def reserve(self, nbytes):
        if self.hook:
            self.hook()
        start = MIB
        for address, size in sorted(self.held.items()):
            if address - start >= nbytes:
                break
            start = address + size
        if start + nbytes > MIB + self.total:
            return None
        self.held[start] = nbytes
        return start

    def release(self, address):
        del self.held[address]

    def record(self, stream):
        return [3]

    def done(self, event):
        event[0] -= 1
        return event[0] <= 0

    def wait(self, event):
        event[0] = 0


class User:
    """Random use of an allocator, that checks that no two living blocks overlap."""

    def __init__(self, seed):
        self.random = random.Random(seed)
        self.memory = Memory()
        self.allocator = Allocator(self.memory)
        self.living = {}

    def step(self):
        kind = self.random.random()
        if kind < 0.55 or not self.living:
            size = self.random.choice([100, 600, 600, 5000, MIB + 1, 3 * MIB, 12 * MIB])
            try:
                address = self.allocator.allocate(size, self.random.choice([0, 7]))
            except OutOfMemoryError:
                return
            for other, length in self.living.items():
                assert address + size <= other or other + length <= address, "two blocks overlap"
            self.living[address] = size
        elif kind < 0.65:
            self.allocator.used_by(self.random.choice(list(self.living)), 3)
        elif kind < 0.98:
            address = self.random.choice(list(self.living))
            self.allocator.free(address)
            del self.living[address]
        else:
            self.allocator.empty_cache()

    def check(self):
        stats = self.allocator.stats()
        segments = self.allocator.snapshot()
        used = [b for s in segments for b in s["blocks"] if b["state"] == "active_allocated"]
        assert {b["address"]: b["requested_size"] for b in used} == self.living
        assert stats["active.all.current"] == len(self.living)
        assert stats["requested_bytes.all.current"] == sum(self.living.values())
        assert stats["allocated_bytes.all.current"] == sum(b["size"] for b in used)
        assert stats["reserved_bytes.all.current"] == sum(s["total_size"] for s in segments)
        for s in segments:
            at = s["address"]
            for b in s["blocks"]:
                assert b["address"] == at
                at += b["size"]
            assert at == s["address"] + s["total_size"]

    def leave(self):
        for address in self.living:
            self.allocator.free(address)
        self.living.clear()
        self.allocator.empty_cache()
        self.check()


def interrupted(run, after):
    """``run()``, and ^C when so many lines of the allocator have run; whether it came."""
    left = [after]
    threw = []

    def trace(frame, event, _):
        code = frame.f_code
        if code.co_filename not in FILES or code.co_name in ("_repair", "_relinked"):
            return None
        if event == "line" and not _atomic(code.co_filename, frame.f_lineno):
            left[0] -= 1
            if left[0] < 0 and not threw:
                threw.append(True)
                raise KeyboardInterrupt
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        run()
    except KeyboardInterrupt:
        pass
    finally:
        sys.settrace(before)
    return bool(threw)


def _atomic(file, line):
    """Python looks for ^C after calls, not before a plain store at the ends of a turn."""
    text = SOURCES[file][line - 1]
    return "_busy" in text or "self._lock" in text or text.strip() in ("try:", "finally:", "raise")


SOURCES = {f: Path(f).read_text().splitlines() for f in FILES}


@pytest.mark.parametrize("seed", [0, *(pytest.param(k, marks=pytest.mark.slow) for k in (1, 2))])
def test_interrupts_anywhere(seed):
    user = User(seed)
    for _ in range(40):
        user.step()
    came = 0
    for after in range(90):
        came += interrupted(user.step, after % 45)
        user.check()
        for _ in range(3):
            user.step()
        user.check()
    assert came > 20
    user.leave()


def test_memory_freed_in_the_middle_of_a_call_is_queued():
    user = User(0)
    kept = [user.allocator.allocate(600) for _ in range(5)]
    freed = deque(kept[1:4])
    user.memory.hook = lambda: user.allocator.free(freed.popleft())
    for _ in range(3):
        user.living[user.allocator.allocate(30 * MIB if not user.living else 2 * MIB, 9)] = 1
        user.memory.hook = user.memory.hook if freed else None
    stats = user.allocator.stats()
    assert stats["active.all.current"] == 5 + len(user.living) - (3 - len(freed))
    assert len(freed) < 3


def test_entered_again_it_refuses():
    user = User(0)
    user.memory.hook = lambda: user.allocator.allocate(600)
    with pytest.raises(RunError, match="toy:0: expected no tensor to be made while memory is"):
        user.allocator.allocate(600)
    user.memory.hook = None
    user.living[user.allocator.allocate(600)] = 600
    user.check()
    user.leave()


def test_statistics_can_be_read_in_the_middle_of_a_call():
    user = User(0)
    seen = []
    user.memory.hook = lambda: seen.append(user.allocator.stats()["active.all.current"])
    user.allocator.allocate(600)
    assert seen == [0]


def test_freeing_what_is_not_in_use():
    user = User(0)
    address = user.allocator.allocate(600)
    user.allocator.free(address)
    user.allocator.stats()
    with pytest.raises(ValueError, match="nothing in use begins at address"):
        user.allocator.free(address)


def test_a_free_block_of_just_the_size_comes_back():
    user = User(0)
    rest = MIB - 1024 - 5120
    a, b, *_ = (user.allocator.allocate(n) for n in (600, 5000, MIB, rest))
    user.allocator.free(a)
    assert user.allocator.allocate(700) == a
    user.allocator.free(b)
    user.allocator.free(a)
    # What was kept for its size is merged for another.
    assert user.allocator.allocate(6000) == a
    assert len(user.memory.held) == 1


def test_threads():
    user = User(0)
    errors = []
    seen = Counter()

    def work(seed):
        own = random.Random(seed)
        mine = []
        try:
            for _ in range(400):
                if own.random() < 0.5 or not mine:
                    address = user.allocator.allocate(own.choice([100, 5000, MIB + 1]), seed % 2)
                    seen[address] += 1
                    assert seen[address] == 1, "handed out twice"
                    mine.append(address)
                else:
                    address = mine.pop(own.randrange(len(mine)))
                    seen[address] -= 1
                    user.allocator.free(address)
        except OutOfMemoryError:
            pass
        except BaseException as error:
            errors.append(error)
        finally:
            for address in mine:
                seen[address] -= 1
                user.allocator.free(address)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not errors
    user.leave()
    assert not user.memory.held
