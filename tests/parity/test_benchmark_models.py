"""Small forms of the models that the GPU benchmark runs: vtc, eager and compiled, and PyTorch."""

import numpy as np
import pytest

import vtc
from benchmarks import gpu
from benchmarks.llama_gpu import WINDOW, LlamaSizes, decode, prefill
from benchmarks.peer_gpu import Peer, Supply
from benchmarks.vit_gpu import VitSizes, classify, vit_step
from benchmarks.workloads import array

torch = pytest.importorskip("torch", reason="needs the extra 'parity'")

LLAMA = LlamaSizes(vocabulary=100, width=64, heads=4, shared=2, hidden=96, layers=2)
VIT = VitSizes(image=16, patch=4, width=32, heads=2, layers=2, classes=10)
EXTRA = VitSizes(image=16, patch=8, width=32, heads=2, layers=1, classes=10, extra=3)

SMALL = {
    "prefill": (lambda p: prefill(p, LLAMA, 24), 2e-2),
    "decode": (lambda p: decode(p, LLAMA, 128, 30), 2e-2),
    "vit_step": (lambda p: vit_step(p, EXTRA, 4), 1e-5),
    "classify": (lambda p: classify(p, VIT, 3), 2e-2),
}


def made(library, name, floats="float32"):
    return SMALL[name][0](Peer(library, device="cpu", floats=floats))


def eager(work):
    return gpu.step_of(work, *work.make())


@pytest.mark.parametrize("name", SMALL)
def test_a_workload_is_the_same_in_both_libraries(name):
    exact = eager(made(torch, name, "float64"))
    wanted = [array(exact()) for _ in range(3)]
    runs = {
        "torch": eager(made(torch, name)),
        "eager": eager(made(vtc, name)),
        "compiled": gpu.vtc_run(made(vtc, name)),
    }
    errors = {k: gpu.error([array(run()) for _ in wanted], wanted) for k, run in runs.items()}
    limit = SMALL[name][1]
    assert all(e < limit for e in errors.values()), errors
    if name == "decode":  # each step sees another position
        assert not np.array_equal(wanted[0], wanted[1])


def test_positions_move_and_begin_anew():
    work = made(vtc, "decode")
    model, _ = work.make()
    built = []

    @vtc.compile
    def step(ids):
        built.append(ids)
        return work.loss(model, ids)

    places = []
    for _ in range(WINDOW + 2):
        places.append(model.place.item())
        last = step(*work.data)
    assert places == [*range(30, 30 + WINDOW), 30, 31]
    assert len(built) == len(step.entries) == 1

    other = made(torch, "decode", "float64")
    exact = eager(other)
    for _ in range(WINDOW + 2):
        wanted = exact()
    assert gpu.error([array(last)], [array(wanted)]) < 2e-2


def test_keys_are_written_where_they_lie():
    work = made(vtc, "decode")
    model, _ = work.make()
    run = vtc.compile(lambda ids: work.loss(model, ids))
    cache = model.blocks[0].keys
    kept = cache.numpy()  # the memory itself
    before = kept.copy()
    run(*work.data)
    changed = (kept != before).any((0, 1, 3))
    assert changed.nonzero()[0].tolist() == [30]


def test_a_supply_gives_every_peer_the_same_and_no_row_twice():
    one, other = (Supply(Peer(vtc, device="cpu", floats=f)) for f in ("float32", "float64"))
    x, y = one(300, 4096), other(300, 4096)
    np.testing.assert_array_equal(x.float().numpy(), y.float().numpy())
    assert len(np.unique(y.numpy(), axis=0)) == 300
    assert not np.array_equal(one(300, 4096).float().numpy(), x.float().numpy())
    assert abs(y.numpy().std() - 0.02) < 1e-3
