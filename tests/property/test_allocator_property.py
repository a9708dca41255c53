"""The caching allocator on a simulated device: whatever is done to it, no two living blocks
overlap, no memory is handed out while a stream still works with it, nothing is lost, and the
counters add up.
"""

from collections import Counter
from dataclasses import dataclass, field

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, precondition, rule

from vtc.errors import OutOfMemoryError
from vtc.runtime.allocator import Allocator

MIB = 1 << 20
TOTAL = 96 * MIB
STREAMS = (0, 1, 2)


@dataclass
class Device:
    """Memory and streams that run when they are told to."""

    name: str = "toy:0"
    total: int = TOTAL
    held: dict = field(default_factory=dict)
    given: Counter = field(default_factory=Counter)
    ran: Counter = field(default_factory=Counter)
    busy: list = field(default_factory=list)
    capturing: bool = False

    def reserve(self, nbytes):
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
        size = self.held.pop(address)
        assert not self.working(address, size), "given back while a stream works with it"

    def record(self, stream):
        assert not self.capturing, "an event was recorded during capture"
        return stream, self.given[stream]

    def done(self, event):
        assert not self.capturing, "an event was asked for during capture"
        stream, count = event
        return self.ran[stream] >= count

    def wait(self, event):
        stream, count = event
        self.run(stream, count)

    def work(self, stream, address, size):
        self.given[stream] += 1
        self.busy.append((stream, self.given[stream], address, size))

    def run(self, stream, count):
        self.ran[stream] = max(self.ran[stream], count)
        self.busy = [b for b in self.busy if self.ran[b[0]] < b[1]]

    def working(self, address, size, *, but=None):
        """Work that still runs on these bytes, on other streams than ``but``."""
        return [
            b for b in self.busy if b[0] != but and b[2] < address + size and address < b[2] + b[3]
        ]


class Machine(RuleBasedStateMachine):
    living = Bundle("living")

    def __init__(self):
        super().__init__()
        self.device = Device()
        self.allocator = Allocator(self.device)
        self.sizes = {}
        self.capture = None
        self.pools = []
        self.said = "toy:0: expected"

    @rule(
        target=living,
        size=st.one_of(st.integers(1, 4096), st.integers(1, 3 * MIB), st.integers(1, 40 * MIB)),
        stream=st.sampled_from(STREAMS),
    )
    def allocate(self, size, stream):
        try:
            address = self.allocator.allocate(size, stream, where=f"line {size % 7}")
        except OutOfMemoryError as error:
            self.said = str(error)
            return None
        assert address % 512 == 0
        for other, (length, *_) in self.sizes.items():
            assert address + size <= other or other + length <= address, "two blocks overlap"
        assert any(a <= address and address + size <= a + n for a, n in self.device.held.items())
        assert not self.device.working(address, size, but=stream), "another stream works with it"
        self.sizes[address] = (size, stream, self.pools[-1] if self.capture else 0)
        return address, size

    @rule(block=living, stream=st.sampled_from(STREAMS))
    def use(self, block, stream):
        if block is None or self.sizes.get(block[0], (None,))[0] != block[1] or self.capture:
            return
        self.device.work(stream, *block)
        self.allocator.used_by(block[0], stream)

    @rule(block=living)
    def free(self, block):
        if block is not None and self.sizes.get(block[0], (None,))[0] == block[1]:
            self.allocator.free(block[0])
            del self.sizes[block[0]]

    @rule(stream=st.sampled_from(STREAMS), count=st.integers(1, 3))
    def progress(self, stream, count):
        self.device.run(stream, min(self.device.ran[stream] + count, self.device.given[stream]))

    @precondition(lambda self: self.capture is None)
    @rule()
    def begin_capture(self):
        self.pools.append(self.allocator.new_pool())
        self.capture = self.allocator.capture(self.pools[-1])
        self.capture.__enter__()
        self.device.capturing = True

    @precondition(lambda self: self.capture is not None)
    @rule()
    def end_capture(self):
        self.device.capturing = False
        self.capture.__exit__(None, None, None)
        self.capture = None

    @precondition(lambda self: self.capture is None and self.pools)
    @rule()
    def drop_pool(self):
        self.allocator.drop_pool(self.pools.pop())

    @precondition(lambda self: self.capture is None)
    @rule()
    def empty_cache(self):
        self.allocator.empty_cache()

    @rule(fraction=st.sampled_from([0.25, 0.5, 1.0]))
    def cap(self, fraction):
        self.allocator.set_fraction(fraction)

    @invariant()
    def counters_add_up(self):
        stats, segments = self.allocator.stats(), self.allocator.snapshot()
        blocks = [b for s in segments for b in s["blocks"]]
        used = [b for b in blocks if b["state"] == "active_allocated"]
        assert {b["address"]: b["requested_size"] for b in used} == {
            a: size for a, (size, *_) in self.sizes.items()
        }
        assert stats["allocated_bytes.all.current"] == sum(b["size"] for b in used)
        assert stats["requested_bytes.all.current"] == sum(s for s, *_ in self.sizes.values())
        assert stats["active.all.current"] == len(used)
        assert stats["segment.all.current"] == len(segments) == len(self.device.held)
        assert stats["reserved_bytes.all.current"] == sum(self.device.held.values())
        for name in ("allocated_bytes", "reserved_bytes", "active"):
            assert stats[f"{name}.all.peak"] >= stats[f"{name}.all.current"]

    @invariant()
    def errors_say_whose_memory_it_is(self):
        assert self.said.startswith("toy:0: expected")

    @invariant()
    def segments_have_no_gaps(self):
        for s in self.allocator.snapshot():
            at = s["address"]
            for k, b in enumerate(s["blocks"]):
                assert b["address"] == at
                at += b["size"]
                both = k and b["state"] == s["blocks"][k - 1]["state"] == "inactive"
                assert not both, "two free neighbours stay apart"
            assert at == s["address"] + s["total_size"]

    def teardown(self):
        if self.capture:
            self.end_capture()
        for address in list(self.sizes):
            self.allocator.free(address)
        for pool in self.pools:
            self.allocator.drop_pool(pool)
        self.allocator.empty_cache()
        assert not self.device.held, "memory was lost"
        assert self.allocator.stats()["allocated_bytes.all.current"] == 0


Machine.TestCase.settings = settings(max_examples=60, stateful_step_count=50, deadline=None)
TestAllocator = pytest.mark.filterwarnings("error")(Machine.TestCase)
