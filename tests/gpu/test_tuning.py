"""Candidates measured on a real GPU."""

import gc

import numpy as np
import pytest

import vtc
import vtc.nn.functional as F
from vtc import config
from vtc.build import _built, context_for
from vtc.codegen.decisions import Table
from vtc.codegen.tune import Tools, attempts, tune
from vtc.passes import PIPELINE
from vtc.passes.pipeline import Context, run
from vtc.runtime.cache import Store
from vtc.runtime.cuda.device import gpu
from vtc.runtime.cuda.measure import Bench
from vtc.runtime.device import Device
from vtc.tuning import _table, tuning_table

pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def build(folder):
    """Compiles as a new process would."""

    def build(function, *args, mode="fast"):
        _built.cache_clear()
        _table.cache_clear()
        compiled = vtc.compile(function)
        with config.override(tune=mode, cache_dir=folder):
            return compiled, compiled.lower(*args).entry.forward

    yield build
    _built.cache_clear()
    gc.collect()


def normal(*shape, seed=0, dtype=vtc.float16):
    x = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    return vtc.tensor(x, dtype=dtype, device="cuda")


def product(x, y):
    return x @ y


def test_a_product_is_measured_once(build, folder):
    args = normal(1024, 768), normal(768, 512, seed=1)
    function, first = build(product, *args)
    (decision,) = first.decisions
    assert len(decision.times) > 2, str(decision)
    assert all(1 < us < 10_000 for us in decision.times.values()), str(decision)
    assert decision.times[decision.chosen] <= min(decision.times.values()) / 0.98
    got = function(*args).cpu().numpy().astype(np.float64)
    x, y = (a.cpu().numpy().astype(np.float64) for a in args)
    np.testing.assert_allclose(got, x @ y, atol=0.1)
    _, again = build(product, *args)
    assert again.decisions == first.decisions
    assert "tune" not in again.seconds
    table = tuning_table(Store(folder), gpu(0).facts.name)
    assert decision in [table.find(key) for key in table._known]
    assert decision.chosen in function.explain()


def test_measuring_gives_its_memory_back(build):
    gpu(0).synchronize()
    gc.collect()
    gpu(0).allocator.empty_cache()
    args = normal(2048, 512), normal(512, 2048, seed=1)
    before = vtc.cuda.memory_allocated()
    kept = vtc.cuda.memory_reserved()
    build(product, *args)
    gc.collect()
    assert vtc.cuda.memory_allocated() == before
    assert vtc.cuda.memory_reserved() <= kept


def test_every_family_agrees_with_itself(tmp_path):
    """All candidates of all families compute what the first one does; those refused only need
    more shared memory.
    """

    def f(q, x, y, index):
        attention = F.scaled_dot_product_attention(q, q, q, is_causal=True)
        rows = F.layer_norm(x, (1000,))
        return attention, rows, x.sum(0), vtc.exp(y) + 1, vtc.zeros_like(x).index_add(0, index, x)

    args = [
        normal(2, 4, 256, 64), normal(300, 1000, dtype=vtc.float32), normal(99_999),
        vtc.tensor(np.arange(300) // 2, device="cuda"),
    ]  # fmt: skip
    target, store = context_for(Device("cuda:0")).target, Store(tmp_path)
    program = vtc.compile(f).lower(*args).program("captured")
    planned = run(program, PIPELINE, Context(target=target))
    tools = Tools(
        "full", lambda kernels: attempts(kernels, target, store), Bench(gpu(0)),
        Table(tmp_path, gpu(0).facts.name),
    )  # fmt: skip
    chosen = tune(planned, target, tools)
    assert chosen.settled
    for decision in chosen.decisions.values():
        assert decision.times, str(decision)
        assert all("shared memory" in why for why in decision.refused.values()), str(decision)


def test_times_are_those_of_the_device(tmp_path):
    """A copy of 256 MiB takes as long as memory does: neither nothing nor the host's time."""
    planned = run(
        vtc.compile(lambda x: x + 1).lower(normal(1 << 26, dtype=vtc.float32)).program("captured"),
        PIPELINE,
        Context(target=context_for(Device("cuda:0")).target),
    )
    target, store = context_for(Device("cuda:0")).target, Store(tmp_path)
    tools = Tools("full", lambda kernels: attempts(kernels, target, store), Bench(gpu(0)))
    (decision,) = tune(planned, target, tools).decisions.values()
    best = min(decision.times.values())
    assert 512 * 2**20 / 5e12 * 1e6 < best < 512 * 2**20 / 0.2e12 * 1e6, str(decision)
