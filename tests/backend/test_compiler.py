"""The C compiler: found, driven once per distinct kernel, and quoted when it fails."""

from dataclasses import replace

import numpy as np
import pytest
from regions import planned, region

import vtc
from vtc.codegen import compiler as compilers
from vtc.codegen.c import compile_plan, find_compiler, generate
from vtc.codegen.compiler import Compiler, Crew
from vtc.config import override
from vtc.errors import CompilerError
from vtc.ir.graph import GraphBuilder, Program
from vtc.ir.ops.expr import Expr
from vtc.ir.target import cpu
from vtc.ir.types import TensorType, f32
from vtc.runtime.cache import Store

pytestmark = pytest.mark.skipif(find_compiler() is None, reason="no C compiler")


def test_equal_kernels_are_compiled_once_and_kept(tmp_path):
    log, wrapper = tmp_path / "log", tmp_path / "cc"
    real = find_compiler()
    quoted = " ".join(f"'{part}'" for part in real.command)
    wrapper.write_text(f'#!/bin/sh\necho "$@" >> {log}\nexec {quoted} "$@"\n')
    wrapper.chmod(0o755)
    compiler = replace(real, command=(str(wrapper),))
    b = GraphBuilder()
    params = [b.param(n, TensorType(f32, (7,))) for n in "xy"]
    outputs = [Expr(b, p).tanh().value for p in params]
    plan = generate(planned(Program((b.graph("main", params, outputs),))), cpu())
    assert (len(plan.kernels), len(plan.steps)) == (1, 2)
    store = Store(tmp_path / "store")
    path = compile_plan(plan, compiler, store)
    assert len(log.read_text().splitlines()) == 3  # the kernel, the host, the library
    assert compile_plan(plan, compiler, store) == path
    assert compile_plan(plan, compiler, Store(tmp_path / "store")) == path
    assert len(log.read_text().splitlines()) == 3


def test_a_compiler_that_fails_is_quoted(tmp_path):
    program = region([TensorType(f32, (7,))], lambda x: (x.tanh(),))
    plan = generate(program, cpu())
    broken = replace(plan, host="int vtc_run(void) { return nonsense; }")
    with pytest.raises(CompilerError, match="nonsense") as caught:
        compile_plan(broken, find_compiler(), Store(tmp_path))
    assert str(caught.value).startswith("compile: expected ")
    assert "-O3" in str(caught.value)
    missing = Compiler(("/no/such/compiler",), (), "")
    with pytest.raises(CompilerError, match=r"compile: expected to run /no/such/compiler, got "):
        compile_plan(plan, missing, Store(tmp_path))


def test_the_compiler_that_is_asked_for_is_taken_or_refused():
    found = find_compiler()
    with override(cc=" ".join(found.command)):
        assert find_compiler() == found
    with (
        override(cc="/no/such/compiler"),
        pytest.raises(CompilerError, match=r"compile: expected to run /no/such/compiler"),
    ):
        find_compiler()


def test_a_compiler_without_our_flags_does_with_fewer(tmp_path):
    real = find_compiler()
    quoted = " ".join(f"'{part}'" for part in real.command)
    wrapper = tmp_path / "cc"
    wrapper.write_text(
        f'#!/bin/sh\ncase "$*" in *-march*|*openmp*) echo unknown flag >&2; exit 1;; esac\n'
        f'exec {quoted} "$@"\n'
    )
    wrapper.chmod(0o755)
    found = compilers._probe((str(wrapper),))
    assert set(compilers.REQUIRED) <= set(found.flags)
    assert "-march=native" not in found.flags
    assert found.identity != real.identity


def test_a_second_interrupt_leaves_no_process_behind(monkeypatch):
    """It comes while those that run are being ended for the first."""
    ends, started = [], []
    end_all = compilers.end_all

    def interrupted(processes):
        ends.append(len(processes))
        if len(ends) == 1:
            raise KeyboardInterrupt
        end_all(processes)

    monkeypatch.setattr(compilers, "end_all", interrupted)

    def work():
        with Crew(1) as crew:
            started.append(crew._start(["tail", "-f", "/dev/null"]))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        work()
    (process,) = started
    process.communicate()
    assert ends == [1, 1]
    assert process.returncode < 0


@pytest.mark.parametrize("places", [(2, 5), (40, 99), (7, 7)], ids=str)
def test_counts_over_nested_selects_are_right(places):
    """GCC 12 vectorised these wrongly: the largest was NaN."""

    def masked_twice(x, a, b):
        at = vtc.arange(x.shape[-1])
        x = vtc.where(at == b, -np.inf, vtc.where(at == a, -np.inf, x))
        return x.max(), x.argmax(), x.isnan().sum()

    x = vtc.randn(100, generator=vtc.Generator().manual_seed(0))
    given = x, *map(vtc.tensor, places)
    got, want = vtc.compile(masked_twice)(*given), masked_twice(*given)
    assert [t.item() for t in got] == [t.item() for t in want]
