"""Host memory that comes back, and what threads share."""

import gc
import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vtc.runtime import buffer
from vtc.runtime.buffer import (
    ALIGNMENT,
    SMALL,
    address,
    aligned,
    cached_bytes,
    empty,
    size_class,
    spares,
)
from vtc.runtime.lease import Claim, Claims, Pool

F32 = np.dtype(np.float32)
SHAPE = (64, 64)


@pytest.fixture(autouse=True)
def nothing_kept():
    buffer.trim()
    yield
    buffer.trim()


def test_memory_comes_back_with_the_last_view():
    x = empty(SHAPE, F32)
    place = address(x)
    row = x[1:].T[2:]
    del x
    assert address(empty(SHAPE, F32)) != place
    del row
    gc.collect()
    places = [empty(SHAPE, F32) for _ in range(2)]
    assert place in map(address, places)


def test_memory_may_outlive_the_module(monkeypatch):
    x = empty(SHAPE, F32)
    with monkeypatch.context() as ending:
        ending.setattr(buffer, "_Block", None)  # as the interpreter does
        del x
        gc.collect()
    assert cached_bytes() == 0


def test_a_buffer_view_keeps_memory():
    x = empty(SHAPE, F32)
    place, view = address(x), memoryview(x)
    del x
    assert address(empty(SHAPE, F32)) != place
    view.release()


def test_arrays_are_ordinary():
    x = empty(SHAPE, F32)
    assert type(x) is np.ndarray
    assert type(x[1:]) is np.ndarray
    assert x.flags.carray
    assert x.flags.writeable
    assert x.shape == SHAPE
    assert x.dtype == F32


@pytest.mark.parametrize("shape", [(257,), (64, 64), (1 << 20,), (3, 5, 7, 11)])
def test_arrays_that_are_not_small_are_aligned(shape):
    arrays = [empty(shape, F32) for _ in range(5)]
    assert not any(address(a) % ALIGNMENT for a in arrays)
    assert len({address(a) for a in arrays}) == 5


@pytest.mark.parametrize("shape", [(), (0,), (0, 4), (3,), (SMALL // 4,)])
def test_small_arrays_have_their_shape(shape):
    x = empty(shape, F32)
    assert x.shape == shape
    assert cached_bytes() == 0


@pytest.mark.parametrize(
    "shape", [(), (0,), (0, 4), (1,), (3,), (2, 3, 4), (256,), (257,), (64, 64)]
)
def test_spare_arrays_are_as_others_and_apart(shape):
    spare, taken = [], []
    for _ in range(2 * buffer.PAGE // ALIGNMENT):
        taken.append(spare.pop() if spare else spares(spare, shape, F32, empty(shape, F32).nbytes))
    for k, (x, place) in enumerate(taken):
        assert (x.shape, x.dtype, address(x)) == (shape, F32, place)
        assert x.flags.carray
        assert place % ALIGNMENT == 0 or not shape
        x.fill(k)
    assert all((x == k).all() for k, (x, _) in enumerate(taken))


def test_free_memory_is_counted_and_bounded(monkeypatch):
    monkeypatch.setattr(buffer, "KEPT", 3 << 20)
    arrays = [empty((1 << 20,), np.dtype(np.uint8)) for _ in range(5)]
    assert cached_bytes() == 0
    del arrays
    assert cached_bytes() == 3 << 20
    buffer.trim()
    assert cached_bytes() == 0


def test_free_small_blocks_are_bounded(monkeypatch):
    monkeypatch.setattr(buffer, "KEPT_SMALL", 1 << 14)
    arrays = [empty((1 << 12,), np.dtype(np.uint8)) for _ in range(9)]
    del arrays
    assert cached_bytes() == 1 << 14


@given(st.integers(0, 1 << 40))
def test_size_classes_waste_at_most_a_quarter(nbytes):
    size = size_class(nbytes)
    assert size >= nbytes
    assert size <= max(nbytes * 1.25 + ALIGNMENT, ALIGNMENT)
    assert size_class(size) == size


def test_addresses():
    x = np.arange(10, dtype=np.float32)
    assert address(x) == x.ctypes.data
    assert address(x[3:]) == x.ctypes.data + 12
    assert address(aligned(100)) % ALIGNMENT == 0
    assert aligned(100).nbytes == 100
    assert buffer._by_interface(x) == buffer._by_field(x)


def test_threads_get_different_memory():
    failures = []

    def work(k):
        for _ in range(300):
            x = empty(SHAPE, F32)
            x.fill(k)
            y = empty(SHAPE, F32)
            y.fill(-k)
            if not ((x == k).all() and (y == -k).all()):
                failures.append(k)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(1, 5)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not failures


class Thing:
    """Can be referenced weakly, as all that a pool lends."""


def test_a_pool_lends_the_last_returned_first():
    made = []
    pool = Pool(lambda: made.append(Thing()) or made[-1], 3)
    a, b = pool.take(), pool.take()
    pool.give_back(a)
    pool.give_back(b)
    assert pool.take() is b
    assert made == [a, b]


def test_what_a_pool_lent_and_is_lost_makes_room():
    pool = Pool(Thing, 1)
    first = id(pool.take())  # and nobody gives it back
    assert pool.take() is not None
    assert first

    held = pool.take()
    got = []
    waiting = threading.Thread(target=lambda: got.append(pool.take()))
    waiting.start()
    while not pool.waiting:
        pass
    del held
    waiting.join()
    assert len(got) == 1


def test_a_pool_never_makes_more_than_its_limit():
    pool = Pool(Thing, 2)
    seen, out = set(), []

    def work():
        for _ in range(200):
            thing = pool.take()
            seen.add(id(thing))
            out.append(1)
            if len(out) > 2:
                seen.add("too many")
            out.pop()
            pool.give_back(thing)

    threads = [threading.Thread(target=work) for _ in range(6)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert len(seen) <= 2


def test_a_maker_that_fails_does_not_use_up_the_pool():
    def fail():
        raise MemoryError

    pool = Pool(fail, 1)
    for _ in range(3):
        with pytest.raises(MemoryError):
            pool.take()


def test_claims_exclude_each_other():
    claims, holders, failures = Claims(), set(), []

    def work(mine):
        for _ in range(300):
            claim = Claim(mine)
            claims.take(claim)
            if not holders.isdisjoint(mine):
                failures.append(mine)
            holders.update(mine)
            holders.difference_update(mine)
            claims.give_back(claim)

    sets = [frozenset(s) for s in ({1, 2}, {2, 3}, {3, 1}, {4}, {1, 2, 3, 4})]
    threads = [threading.Thread(target=work, args=(s,)) for s in sets]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not failures


def test_a_claim_ends_with_its_life():
    claims = Claims()
    lost = Claim(frozenset({1}))
    claims.take(lost)
    got = []

    def work():
        claim = Claim(frozenset({1, 2}))
        claims.take(claim)
        got.append(claim)

    waiting = threading.Thread(target=work)
    waiting.start()
    del lost
    waiting.join()
    assert len(got) == 1


def test_a_claim_that_was_never_taken_can_be_given_back():
    claims = Claims()
    mine = frozenset({1})
    held = Claim(mine)
    claims.take(held)
    claims.give_back(Claim(mine))
    assert claims._taken(mine)
    claims.give_back(held)
    assert not claims._taken(mine)
