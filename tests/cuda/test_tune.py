"""Candidates of kernels: which are tried, how one is chosen, what is remembered."""

from contextlib import contextmanager

import numpy as np
import pytest

import vtc
import vtc.nn.functional as F
from vtc.codegen.cuda import generate
from vtc.codegen.decisions import Decision, Table
from vtc.codegen.region import Region
from vtc.codegen.trials import RUNS
from vtc.codegen.triton.families import candidates_of
from vtc.codegen.tune import MOST, Tools, label, tune
from vtc.config import Config
from vtc.errors import (
    CompilerError,
    ConfigError,
    OutOfMemoryError,
    OutOfResourcesError,
    RunError,
)
from vtc.ir.plan import Binary
from vtc.ir.target import cuda
from vtc.ir.text import parse
from vtc.passes import PIPELINE
from vtc.passes.pipeline import Context, run

GPU = "NVIDIA Toy 80GB"
TARGET = cuda(90)


def planned(text_or_function, *args, target=TARGET):
    """A program after all passes."""
    if isinstance(text_or_function, str):
        program = parse(text_or_function)
    else:
        program = vtc.compile(text_or_function).lower(*args).program("captured")
    return run(program, PIPELINE, Context(target=target))


def product(m=512, dtype=vtc.float16):
    w = vtc.zeros(512, 512, dtype=dtype)
    return planned(lambda x: x @ w, vtc.zeros(m, 512, dtype=dtype))


def two():
    """Two regions worth measuring."""
    w, v = vtc.zeros(512, 512, dtype=vtc.float16), vtc.zeros(512, 64, dtype=vtc.float16)
    return planned(lambda x: vtc.softmax(x @ w, -1) @ v, vtc.zeros(512, 512, dtype=vtc.float16))


class Lab:
    """A device whose clock is turned by what runs. ``times`` are milliseconds by the number of the
    trial; one that is not there takes 1. ``wrong`` and ``failing`` are by that number too.
    """

    def __init__(self, times=(), *, wrong=(), failing=None, lost=False, first=0.0):
        self.times, self.wrong, self.failing = dict(enumerate(times)), wrong, failing or {}
        self.lost, self.first = lost, first
        self.now, self.plans, self.runs, self.inside = 0.0, [], [], False
        self.waking = 0  # runs after which a candidate takes a tenth

    def __enter__(self):
        assert not self.inside
        self.inside = True
        return self

    def __exit__(self, *_):
        self.inside = False

    def seconds(self):
        return self.now

    def check(self):
        if self.lost:
            raise RunError("cuCtxSynchronize: CUDA_ERROR_ILLEGAL_ADDRESS")

    @contextmanager
    def room(self, plan):
        assert self.inside
        yield self

    def trial(self, plan, binaries):
        self.plans.append(plan)
        self.runs.append(0)
        assert {k.symbol for k in plan.kernels} <= set(binaries)
        return Trial(self, len(self.plans) - 1, plan)


class Trial:
    def __init__(self, lab, number, plan):
        self.lab, self.number, self.plan = lab, number, plan

    def results(self):
        if self.number in self.lab.failing:
            raise self.lab.failing[self.number]
        off = 0.5 if self.number in self.lab.wrong else 1e-4 * self.number
        return [np.full(4, 1 + off, b.dtype.numpy) for b in self.plan.outputs]

    def time(self):
        self.lab.runs[self.number] += 1
        ms = self.lab.times.get(self.number, 1.0)
        if self.lab.waking and self.lab.runs[self.number] > self.lab.waking:
            ms /= 10
        self.lab.now += self.lab.first or ms / 1e3
        return ms


def compiled(kernels):
    return [Binary(k.symbol, b"", 4) for k in kernels]


@pytest.fixture
def table(tmp_path):
    return Table(tmp_path, GPU)


def chosen_of(program, **tools):
    given = {"mode": "fast", "compile": compiled, "table": None, "bench": None} | tools
    return tune(program, TARGET, Tools(**given))


def the(decisions):
    (decision,) = decisions.values()
    return decision


def names_of(program):
    """The labels of the candidates of the one region that is a product."""
    found = [Region.of(g, program.ranges) for g in program.graphs[:-1]]
    (region,) = [r for r in found if any(n.op.name == "matmul" for n in r.graph.nodes)]
    return [label(c) for c in candidates_of(region, TARGET)]


# what is chosen


def test_the_fastest_is_chosen_and_its_kernels_are_generated(table):
    program = product()
    lab = Lab([0.7, 0.9, 0.5])
    chosen = chosen_of(program, bench=lab, table=table)
    decision = the(chosen.decisions)
    assert list(decision.times.values()) == [700.0, 900.0, 500.0]
    assert decision.chosen == list(decision.times)[2]
    assert len(lab.plans) == len(decision.times) == MOST
    assert chosen.settled
    plan = generate(program, TARGET, chosen.kernels)
    assert plan.kernels[0].symbol == lab.plans[2].kernels[0].symbol
    assert generate(program, TARGET).kernels[0].symbol == lab.plans[0].kernels[0].symbol


def test_a_hair_faster_is_not_faster(table):
    decision = the(chosen_of(product(), bench=Lab([1.0, 0.99, 0.985]), table=table).decisions)
    assert decision.chosen == next(iter(decision.times))


def test_one_that_is_much_slower_is_given_up(table):
    lab = Lab([1.0, 1.6, 1.4])
    chosen_of(product(), bench=lab, table=table)
    assert lab.runs[:3] == [RUNS + 1, 3, RUNS + 1]


def test_a_first_time_that_is_much_too_long_is_taken_again(table):
    """A device that wakes up only then is slow at first."""
    lab = Lab([8.0, 1.0, 1.0])
    lab.waking = RUNS + 1
    decision = the(chosen_of(product(), bench=lab, table=table).decisions)
    assert next(iter(decision.times.values())) == 800.0
    assert decision.chosen == next(iter(decision.times))


def test_other_results_are_refused(table):
    decision = the(chosen_of(product(), bench=Lab([1, 0.5, 0.7], wrong=[1]), table=table).decisions)
    ((refused, why),) = decision.refused.items()
    assert why == "output 0: differs from the first by 0.5, at most 1"
    assert refused not in decision.times
    assert decision.chosen == list(decision.times)[1]


def test_what_fails_is_skipped(table):
    lab = Lab([1, 0.1, 0.7], failing={1: RunError("launch: out of registers\n  in kernel k0")})
    decision = the(chosen_of(product(), bench=lab, table=table).decisions)
    assert list(decision.refused.values()) == ["launch: out of registers"]
    assert decision.chosen == list(decision.times)[1]


def test_where_nothing_runs_the_first_is_taken(table):
    lab = Lab(failing={k: RunError("no") for k in range(MOST)})
    program = product()
    decision = the(chosen_of(program, bench=lab, table=table).decisions)
    assert decision.chosen == names_of(program)[0]
    assert len(decision.refused) == MOST


def test_a_lost_device_is_an_error_and_the_culprit_is_known(table, tmp_path):
    lab = Lab([1, 1], failing={1: RunError("illegal address")}, lost=True)
    with pytest.raises(RunError, match="ILLEGAL_ADDRESS"):
        chosen_of(product(), bench=lab, table=table)
    again = Lab()
    decision = the(chosen_of(product(), bench=again, table=Table(tmp_path, GPU)).decisions)
    assert list(decision.refused.values()) == ["illegal address"]
    assert len(again.plans) == MOST - 1


def test_no_memory_to_measure(table):
    lab = Lab(failing={0: OutOfMemoryError("cuda:0: expected 3 GiB, got 1 GiB")})
    program = product()
    chosen = chosen_of(program, bench=lab, table=table)
    decision = the(chosen.decisions)
    assert decision.note == "not measured: cuda:0: expected 3 GiB, got 1 GiB"
    assert decision.chosen == names_of(program)[0]
    assert table.find(next(iter(chosen.decisions))) is None


def test_precision_is_no_candidate():
    program = product(dtype=vtc.float32)
    names = names_of(program)
    assert len(names) > 1
    assert len({n.split("precision=")[1].split(",")[0] for n in names}) == 1


# what is tried


def test_fast_measures_products_and_attention_only(table):
    def program(q, x, y):
        return F.scaled_dot_product_attention(q, q, q), x.softmax(-1), y + 1

    half = vtc.zeros(2, 256, 64, dtype=vtc.float16)
    p = planned(program, half, vtc.zeros(512, 512), vtc.zeros(99))
    decision = the(chosen_of(p, bench=Lab(), table=table).decisions)
    assert decision.about.startswith("scaled_dot_product_attention(f16[2, 256, 64]")
    assert len(decision.times) == MOST
    full = chosen_of(p, mode="full", bench=Lab(), table=table).decisions
    assert {d.about.split("(")[0] for d in full.values()} == {
        "scaled_dot_product_attention",
        "max, sum",
        "pointwise",
    }
    assert len(next(iter(full.values())).times) > MOST


def test_equal_regions_are_measured_once(table):
    w = vtc.zeros(512, 512, dtype=vtc.float16)
    p = planned(lambda x: ((x @ w).exp().exp(), (x @ w.T)), vtc.zeros(512, 512, dtype=vtc.float16))
    lab = Lab()
    assert len(chosen_of(p, bench=lab, table=table).decisions) * MOST == len(lab.plans)


def test_everything_is_compiled_before_anything_is_measured(table):
    lab, orders = Lab(), []

    def compile(kernels):
        assert not lab.plans
        orders.append(len(kernels))
        return compiled(kernels)

    chosen_of(two(), compile=compile, bench=lab, table=table)
    assert len(orders) == 1
    assert len(lab.plans) == 2 * MOST


def test_symbols_have_typical_sizes(table):
    text = """
B: Dim(2, None)
S: Dim(16, 50, 16)
def main(x: f16[B, S], w: f16[S, 512]) -> f16[B, 512]:
    y: f16[B, 512] = matmul(x, w)
    return y
"""
    lab = Lab()
    decision = the(chosen_of(planned(text), bench=lab, table=table).decisions)
    assert decision.about == "matmul(f16[B, S], f16[S, 512]) -> f16[B, 512]"
    assert [b.shape for b in lab.plans[0].inputs] == [(1024, 48), (48, 512), (1024, 512)]
    assert not lab.plans[0].dims


def test_symbols_are_smaller_where_that_takes_much_memory(table):
    text = """
B: Dim(2, None)
def main(x: f32[B, B, 1024], y: f32[B, B, 1024]) -> f32[B, B, 1024]:
    z: f32[B, B, 1024] = add(x, y)
    return z
"""
    lab = Lab()
    chosen_of(planned(text), mode="full", bench=lab, table=table)
    assert lab.plans[0].inputs[0].shape == (128, 128, 1024)


@pytest.mark.parametrize(
    "tools", [{"mode": "off", "bench": Lab()}, {"mode": "full"}], ids=["off", "no device"]
)
def test_nothing_is_measured(tools, table):
    program = product()
    chosen = chosen_of(program, table=table, **tools)
    assert chosen.settled
    assert not chosen.decisions
    assert generate(program, TARGET, chosen.kernels) == generate(program, TARGET)
    assert not table.path.exists()


def test_what_is_to_be_deterministic_is_not_measured(table):
    lab = Lab()
    tune(product(), cuda(90, deterministic=True), Tools("full", compiled, lab, table))
    assert not lab.plans


# what does not compile


def refusing(*numbers, error=OutOfResourcesError):
    """A compiler that does not take these kernels, by number in its first order."""
    known = {}

    def compile(kernels):
        for k in kernels:
            known.setdefault(k.symbol, len(known))
        return [
            error("compile: expected at most 232448 bytes of shared memory, got 300000\n  in k0")
            if known[k.symbol] in numbers
            else Binary(k.symbol, b"", 4)
            for k in kernels
        ]

    return compile


@pytest.mark.parametrize("error", [OutOfResourcesError, CompilerError])
def test_what_does_not_compile_is_skipped(table, error):
    lab = Lab([1.0, 0.5])
    decision = the(
        chosen_of(product(), compile=refusing(1, error=error), bench=lab, table=table).decisions
    )
    assert len(lab.plans) == MOST - 1
    (why,) = decision.refused.values()
    assert why == "compile: expected at most 232448 bytes of shared memory, got 300000"
    assert decision.chosen == list(decision.times)[1]


@pytest.mark.parametrize("mode", ["off", "fast", "full"])
def test_a_first_candidate_that_does_not_fit_is_replaced(mode):
    program = product()
    chosen = chosen_of(program, mode=mode, compile=refusing(0, 1))
    decision, names = the(chosen.decisions), names_of(program)
    assert decision.chosen == names[2]
    assert list(decision.refused) == names[:2]
    assert len(chosen.said) == 1
    assert "shared memory, got 300000; " in chosen.said[0]
    plan = generate(program, TARGET, chosen.kernels)
    assert plan.kernels[0].symbol != generate(program, TARGET).kernels[0].symbol


# what is remembered


def test_another_process_measures_nothing(table, tmp_path):
    first = chosen_of(product(), bench=Lab([1, 0.5]), table=table)
    lab = Lab()
    second = chosen_of(product(), bench=lab, table=Table(tmp_path, GPU))
    assert not lab.plans
    assert second == first
    other = Lab()
    chosen_of(product(), bench=other, table=Table(tmp_path, "NVIDIA Other"))
    assert other.plans


def test_full_looks_closer_than_fast_did(table):
    chosen_of(product(), bench=Lab(), table=table)
    full = Lab()
    chosen_of(product(), mode="full", bench=full, table=table)
    assert len(full.plans) > MOST
    fast = Lab()
    chosen_of(product(), bench=fast, table=table)
    assert not fast.plans


def test_the_budget(table, tmp_path):
    """Regions that come too late are left to the next process; no process goes without one."""
    slow = Lab(first=4.0)
    chosen = chosen_of(two(), bench=slow, table=table)
    assert not chosen.settled
    assert [bool(d.times) for d in chosen.decisions.values()] == [True, False]
    late = list(chosen.decisions.values())[1]
    assert late.note == "not measured: 3 seconds were spent on others"
    again = chosen_of(two(), bench=Lab(first=4.0), table=Table(tmp_path, GPU))
    assert again.settled
    assert all(d.times for d in again.decisions.values())


def test_an_interrupt_loses_one_decision(table, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        chosen_of(two(), bench=Lab(failing={MOST + 2: KeyboardInterrupt()}), table=table)
    lab = Lab()
    chosen_of(two(), bench=lab, table=Table(tmp_path, GPU))
    assert len(lab.plans) == MOST


def test_a_candidate_that_is_gone_is_no_decision(table):
    (key,) = chosen_of(product(), bench=Lab(), table=table).decisions
    table.put(key, Decision("matmul", "fast", "blocks=(m=3)"))
    lab = Lab()
    chosen_of(product(), bench=lab, table=table)
    assert lab.plans


# the setting


def test_the_setting():
    assert Config.read({}).tune == "fast"
    assert Config.read({"VTC_TUNE": "full"}).tune == "full"
    with pytest.raises(ConfigError, match="VTC_TUNE: expected off, fast or full, got 'often'"):
        Config.read({"VTC_TUNE": "often"})
