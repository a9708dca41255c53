"""Large blocks of one size are lent again without a lock, and still serve other sizes."""

import numpy as np
from small_kernels import vector

from vtc.runtime.buffer import address
from vtc.runtime.cuda.array import empty
from vtc.runtime.cuda.device import allocator
from vtc.runtime.cuda.stream import Stream, stream

F4, MIB = np.dtype("f4"), 1 << 20


def shelved(nbytes):
    return len(allocator(0).shelf(nbytes, 0))


def test_the_same_block_again(sim):
    x = empty((MIB,), F4, 0)
    place = address(x)
    del x
    assert shelved(4 * MIB) == 1
    y = empty((MIB,), F4, 0)
    assert address(y) == place
    assert shelved(4 * MIB) == 0
    assert allocator(0).stats()["allocated_bytes.all.current"] == 4 * MIB
    with stream(Stream()):
        assert address(empty((MIB,), F4, 0)) != place


def test_blocks_of_one_size_become_one_of_another(sim):
    many = [empty((MIB,), F4, 0) for _ in range(12)]
    del many
    assert shelved(4 * MIB) == 12
    whole = empty((15 * MIB,), F4, 0)  # 60 of the 64 MiB
    assert whole.nbytes == 60 * MIB
    assert shelved(4 * MIB) == 0


def test_the_largest_are_not_kept_apart(sim):
    x = empty((10 * MIB,), F4, 0)
    del x
    assert shelved(40 * MIB) == 0
    assert empty(vector(3).shape, F4, 0).size == 3
