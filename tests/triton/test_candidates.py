"""Tuning from end to end: candidates are compiled, and interpreted on a simulated GPU."""

import gc
import json
import math
import sys
import warnings
from functools import partial
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from interpret import launch
from plans import near, run_plan

import vtc
import vtc.nn.functional as F
from vtc import build, config
from vtc.build import _built
from vtc.codegen import trials
from vtc.codegen.cuda import generate
from vtc.codegen.decisions import Table
from vtc.codegen.triton import matmul_blocks
from vtc.codegen.triton.compile import compile_kernels
from vtc.codegen.tune import MOST, Tools, attempts, tune
from vtc.ir.evaluate import evaluate
from vtc.ir.target import cuda
from vtc.passes import PIPELINE
from vtc.passes.pipeline import Context, run
from vtc.runtime.cuda.device import gpu
from vtc.runtime.cuda.driver import installed
from vtc.runtime.cuda.measure import Bench
from vtc.tuning import _table as tuning_tables

sys.path.append(str(Path(__file__).parents[1] / "cuda"))
simulated = import_module("simulated")


class Machine:
    """A simulated GPU on which each program of a grid takes a microsecond."""

    def __init__(self, sim):
        self.gpu, self.now = sim, 0.0
        sim.clock = lambda: self.now

    def compile(self, target, store, kernels):
        for k in kernels:
            self.gpu.kernels[k.symbol] = simulated.Kernel(k.build.signature, partial(self.run, k))
        return attempts(kernels, target, store)

    def run(self, kernel, grid, *values):
        launch(kernel.source, kernel.symbol, kernel.build.signature, values, grid)
        self.now += 1e-6 * math.prod(grid)


@pytest.fixture
def machine():
    with installed(simulated.Simulated()) as sim:
        yield Machine(sim)


def tuned(machine, function, args, folder, store, target, mode="fast", real=None):
    program = vtc.compile(function).lower(*args).program("captured")
    planned = run(program, PIPELINE, Context(target=target))
    table = Table(folder, "Simulated GPU")
    bench = Bench(gpu(0), lambda: machine.now)
    tools = Tools(mode, partial(machine.compile, real or target, store), bench, table)
    return planned, tune(planned, target, tools)


def half(*shape, seed=0):
    return vtc.tensor(np.random.default_rng(seed).normal(size=shape).astype(np.float16))


def test_a_product(machine, store, tmp_path):
    target, args = cuda(90), [half(70, 40), half(40, 50, seed=1)]
    planned, chosen = tuned(machine, lambda x, y: x @ y, args, tmp_path, store, target)
    (decision,) = chosen.decisions.values()
    assert not decision.refused
    assert decision.chosen in decision.times
    assert min(decision.times.values()) * trials.BETTER <= decision.times[decision.chosen]
    plan = generate(planned, target, chosen.kernels)
    arrays = [a.numpy() for a in args]
    (got,) = run_plan(plan, arrays)
    (want,) = evaluate(planned, *arrays, precision="f64")
    near(got, want)


def test_every_family(machine, store, tmp_path, monkeypatch):
    """All candidates of all families give what the first gives, however they are cut."""
    monkeypatch.setattr(trials, "RUNS", 1)
    monkeypatch.setattr(trials, "MORE_RUNS", 1)

    def f(q, x, y):
        index = vtc.tensor([3, 0, 3, 1])
        return (
            F.scaled_dot_product_attention(q, q, q),
            F.layer_norm(x, (300,)).sum(0),
            vtc.exp(y) + 1,
            vtc.zeros(5, 300).index_add(0, index, x),
        )

    args = [half(1, 40, 16), vtc.randn(4, 300), vtc.randn(3000)]
    _, chosen = tuned(machine, f, args, tmp_path, store, cuda(90), "full")
    assert chosen.settled
    about = " ".join(d.about for d in chosen.decisions.values())
    for name in ("scaled_dot_product_attention", "sum", "pointwise", "index_put"):
        assert name in about, about
    for decision in chosen.decisions.values():
        assert not decision.refused, str(decision)
        assert decision.times


def test_what_does_not_fit_is_not_run(machine, store, tmp_path):
    """Triton knows better than the model how much shared memory a candidate takes."""
    args, small = [half(128, 256), half(256, 128, seed=1)], cuda(90, shared=24_000)
    planned, chosen = tuned(
        machine, lambda x, y: x @ y, args, tmp_path, store, cuda(90), real=small
    )
    (decision,) = chosen.decisions.values()
    assert decision.refused
    for why in decision.refused.values():
        assert why.startswith("compile: expected a kernel to need at most 24000 bytes of shared")
    plan = generate(planned, cuda(90), chosen.kernels)
    compile_kernels(plan.kernels, small, store)


def multiplied(x, y):
    return x @ y


def test_what_needs_too_much_shared_memory_is_replaced_and_said_once(tmp_path, monkeypatch):
    """A model that thinks too little of what blocks take; the GPU has a quarter of an H100's."""
    monkeypatch.setattr(matmul_blocks, "_shared", lambda b, dtype: 1024)
    _built.cache_clear()
    monkeypatch.setattr(build, "_said", set())
    with (
        installed(simulated.Simulated(shared=63_000)),
        config.override(tune="off", cache_dir=tmp_path),
        warnings.catch_warnings(record=True) as said,
    ):
        warnings.simplefilter("always")
        x, y = (vtc.zeros(512, 512, dtype=vtc.float16, device="cuda") for _ in range(2))
        for function in (multiplied, lambda x, y: (x @ y).exp(), lambda x, y: x @ y):
            built = vtc.compile(function).lower(x, y).entry.forward
            assert built.plan is not None
        del x, y
        _built.cache_clear()
        gc.collect()
    texts = [str(w.message) for w in said if "shared memory" in str(w.message)]
    assert len(texts) == 2, texts  # of two forms
    assert texts[0].startswith("build: matmul(f16[512, 512], f16[512, 512])")
    assert "at most 63000 bytes of shared memory, which sm_90 has, got " in texts[0]
    assert texts[0].endswith(" is taken")


@pytest.fixture
def built(tmp_path):
    """Builds for a GPU that runs nothing, as a new process would: every candidate is refused."""

    def build(mode="fast"):
        _built.cache_clear()
        tuning_tables.cache_clear()
        x, y = (vtc.zeros(64, 64, dtype=vtc.float16, device="cuda") for _ in range(2))
        with config.override(tune=mode, cache_dir=tmp_path):
            return vtc.compile(multiplied).lower(x, y).entry.forward

    with installed(simulated.Simulated()):
        yield build
        _built.cache_clear()
        gc.collect()


def test_plans_are_kept_with_their_decisions(built):
    first = built()
    (decision,) = first.decisions
    assert len(decision.refused) == MOST
    assert all("CUDA_ERROR_NOT_FOUND" in why for why in decision.refused.values())
    assert "tune" in first.seconds
    again = built()
    assert again.decisions == first.decisions
    assert again.plan == first.plan
    assert "tune" not in again.seconds
    text = again.explain()
    assert "kernels chosen among candidates\n  matmul(f16[64, 64], f16[64, 64])" in text
    assert "refused" in text


def test_a_plan_is_made_again_when_the_table_decides_otherwise(built, tmp_path):
    first = built()
    (decision,) = first.decisions
    (path,) = (tmp_path / "tuning").glob("*.json")
    labels = list(decision.refused)
    other = next(name for name in labels if name != decision.chosen)
    fields = json.loads(path.read_text())
    for entry in fields["decisions"].values():
        entry["chosen"] = other
    path.write_text(json.dumps(fields))
    again = built()
    assert again.decisions[0].chosen == other
    assert again.plan.kernels != first.plan.kernels
    assert built("off").plan.kernels == first.plan.kernels
