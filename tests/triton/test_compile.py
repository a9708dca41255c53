"""Triton without a GPU: kernels of each kind are interpreted, and compile for sm_80 and sm_90."""

import os
import re
import select
import signal
import subprocess
import sys
import tempfile
import threading
from contextlib import suppress
from dataclasses import replace
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import numpy as np
import pytest
from interpret import run
from kernels import CASES, HEAD, table

from vtc.codegen.triton import compile as compiling
from vtc.codegen.triton import workers
from vtc.codegen.triton.compile import assembly, compile_kernels, prepare, try_kernels
from vtc.config import override
from vtc.errors import CodegenError, CompilerError, OutOfResourcesError
from vtc.ir.plan import Build, Kernel
from vtc.ir.target import cpu, cuda
from vtc.runtime.cache import Store

SM_80 = cuda(80, processors=108, shared=166_912)
TARGETS = [SM_80, cuda(90)]
ONLY_90 = {"cast_float8_e4m3fn": "fp8e4nv"}
"""What sm_80 refuses, and the word for it."""


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_interpreter_computes_what_numpy_does(case):
    arrays = [a.copy() for a in case.arrays]
    raised = run(case.source, case.name, arrays, case.sizes, case.grid, checks=case.checks)
    assert raised is case.raises
    for i, want in case.want.items():
        got = arrays[i].astype(np.float64) if arrays[i].dtype.kind != "i" else arrays[i]
        want = want if arrays[i].dtype.kind == "i" else want.astype(np.float64)
        np.testing.assert_allclose(got, want, rtol=case.tolerance, atol=case.tolerance)


def test_a_table_of_pointers():
    case, held = table()
    want = [h * 2 for h in held]
    run(case.source, case.name, case.arrays, case.sizes, case.grid)
    np.testing.assert_array_equal(held, want)


@pytest.mark.parametrize("target", TARGETS, ids=lambda t: t.name)
def test_every_kind_compiles(target, store):
    kernels = [c.kernel for c in [*CASES, table()[0]]]
    if target.arch == 80:
        kernels = [k for k in kernels if k.name not in ONLY_90]
    made = compile_kernels(kernels, target, store)
    assert list(made) == [k.symbol for k in kernels]
    for symbol, binary in made.items():
        assert binary.name == symbol
        assert binary.cubin[:4] == b"\x7fELF"
        assert symbol.encode() in binary.cubin
        assert binary.warps == 4
    assert made["pointwise"].shared == 0
    assert made["reduce"].shared > 0
    assert made["matmul_bf16"].shared >= 2 * 64 * 32 * 2


def test_what_sm_80_refuses(store):
    for name, word in ONLY_90.items():
        kernel = next(c.kernel for c in CASES if c.name == name)
        with pytest.raises(CompilerError, match=word):
            compile_kernels([kernel], SM_80, store)


@pytest.mark.parametrize("target", TARGETS, ids=lambda t: t.name)
def test_the_instructions_of_a_target(target, store):
    for case in CASES:
        if target.arch in case.ptx:
            assert case.ptx[target.arch] in assembly(case.kernel, target, store), case


def test_small_numbers_are_kept_and_nothing_is_fused(store):
    source = f"""{HEAD}@triton.jit
def small(x0, y0):
    i = tl.arange(0, 128)
    x = tl.load(x0 + i)
    tl.store(y0 + i, libdevice.exp(x) * libdevice.log(x) - x)
"""
    kernel = Kernel("small", "small", source, build=Build(("*fp32", "*fp32")))
    text = assembly(kernel, cuda(90), store)
    assert "ex2.approx.ftz.f32" in text  # its argument is far from 0
    assert text.count(".ftz.") == 1
    assert re.search(r"mul\.(rn\.)?f32.*\n.*sub\.(rn\.)?f32", text)


def rows(fact):
    """Twice each of 128 rows of n0 elements."""
    source = f"""{HEAD}@triton.jit
def rows(x0, y0, n0):
    {fact}
    at = tl.arange(0, 128)[:, None] * n0 + tl.arange(0, 64)[None, :]
    tl.store(y0 + at, tl.load(x0 + at) * 2.0)
"""
    return Kernel("rows", "rows", source, build=Build(("*fp32", "*fp32", "i64")))


def pointers(fact):
    """Twice what a pointer in memory points to."""
    source = f"""{HEAD}@triton.jit
def pointers(x0):
    x = tl.load(x0 + tl.program_id(0)).to(tl.pointer_type(tl.float32))
    {fact}
    i = tl.arange(0, 1024)
    tl.store(x + i, tl.load(x + i) * 2.0)
"""
    return Kernel("pointers", "pointers", source, build=Build(("*i64",)))


@pytest.mark.parametrize(
    ("kernel", "wide"),
    [
        (rows("pass"), False),
        (rows("n0 = tl.multiple_of(n0, 16)"), False),
        (rows("n0 = n0 // 4 * 4"), True),
        (rows("n0 = 64"), True),
        (pointers("pass"), False),
        (pointers("x = tl.multiple_of(x, 16)"), True),
    ],
)
def test_what_tells_triton_of_alignment(kernel, wide, store):
    text = assembly(kernel, cuda(90), store)
    assert ("ld.global.v4" in text) is wide
    assert ("st.global.v4" in text) is wide


# the store


def softmax(**changes):
    kernel = next(c.kernel for c in CASES if c.name == "reduce")
    return replace(kernel, **changes)


def test_what_is_in_the_store_needs_no_triton(tmp_path, monkeypatch):
    first = compile_kernels([softmax()], cuda(90), Store(tmp_path))
    monkeypatch.setattr(compiling, "_check_triton", lambda: pytest.fail("Triton was asked for"))
    assert compile_kernels([softmax()], cuda(90), Store(tmp_path)) == first
    for other in (
        softmax(build=replace(softmax().build, warps=8)),
        softmax(build=replace(softmax().build, stages=2)),
        softmax(source=softmax().source + "# changed\n"),
    ):
        with pytest.raises(pytest.fail.Exception):
            compile_kernels([other], cuda(90), Store(tmp_path))
    with pytest.raises(pytest.fail.Exception):
        compile_kernels([softmax()], SM_80, Store(tmp_path))


def test_code_does_not_depend_on_where_it_was_compiled(tmp_path, monkeypatch):
    first = compile_kernels([softmax()], cuda(90), Store(tmp_path / "a"))
    workers.WORKERS.close()
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    monkeypatch.setenv("TRITON_F32_DEFAULT", "ieee")
    monkeypatch.setenv("TRITON_PTXAS_PATH", "/nowhere")
    assert compile_kernels([softmax()], cuda(90), Store(tmp_path / "b")) == first
    assert str(tmp_path).encode() not in first["reduce"].cubin


def test_equal_symbols(tmp_path):
    wide = softmax(build=replace(softmax().build, warps=8))
    four, eight, again = try_kernels([softmax(), wide, softmax()], cuda(90), Store(tmp_path))
    assert (four.warps, eight.warps, again) == (4, 8, four)
    with pytest.raises(CodegenError, match="expected one kernel with symbol reduce, got two"):
        compile_kernels([softmax(), wide], cuda(90), Store(tmp_path))


# mistakes


def message(error):
    return str(error.value).splitlines()


def test_a_mistake_is_quoted_with_the_kernel_and_the_users_line(store):
    wrong = softmax().source.replace("tl.argmax", "tl.argmaxx")
    bad = softmax(source=wrong, note="a.py:1 f, b.py:2")
    with pytest.raises(CompilerError) as error:
        try_kernels([softmax(), bad], cuda(90), store)
    first, kernel, line, *quoted = message(error)
    assert first == "compile: expected Triton to compile a kernel, got CompilationError"
    assert kernel == "  in kernel reduce (reduce)"
    assert line == "  at a.py:1 f and 1 more lines"
    assert "argmaxx" in quoted[-1]
    assert re.match(r"  at \d+:\d+:", quoted[0])


def test_the_words_of_ptxas_are_quoted(store):
    asm = 'tl.inline_asm_elementwise("nosuch.op $0, $1;", "=r,r", [v], tl.float32, True, 1)'
    bad = softmax(source=softmax().source.replace("tl.exp(v - m)", asm))
    with pytest.raises(CompilerError, match=r"(?s)got PTXASError.*Not a name of any known instr"):
        compile_kernels([bad], cuda(90), store)


def test_too_much_shared_memory_is_an_error_of_its_own(store):
    kernel = next(c.kernel for c in CASES if c.name == "matmul_tf32")
    greedy = replace(kernel, build=replace(kernel.build, stages=20))
    fine, not_fine = try_kernels([kernel, greedy], cuda(90), store)
    assert fine.shared < 232_448
    assert isinstance(not_fine, OutOfResourcesError)
    first, *where = str(not_fine).splitlines()
    assert re.fullmatch(
        r"compile: expected a kernel to need at most 232448 bytes of shared memory, "
        r"which sm_90 has, got \d{6}",
        first,
    )
    assert where == ["  in kernel matmul_tf32 (matmul_tf32)", "  at model.py:1 matmul_tf32"]
    with pytest.raises(OutOfResourcesError):
        compile_kernels([greedy], cuda(90), store)


def test_a_missing_or_other_triton_is_named(tmp_path, monkeypatch):
    def version(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr(compiling.metadata, "version", version)
    want = r"expected triton==3\.6\.0 .* found none: pip install 'vtc\[cuda13"
    with pytest.raises(CodegenError, match=want):
        compile_kernels([softmax()], cuda(90), Store(tmp_path))
    monkeypatch.undo()
    monkeypatch.setattr(compiling, "TRITON", "9.9.9")
    with pytest.raises(CodegenError, match=r"triton==9\.9\.9 .* found 3\.6\.0"):
        compile_kernels([softmax()], cuda(90), Store(tmp_path))


def test_what_is_not_for_triton(store):
    with pytest.raises(CodegenError, match="expected a Triton kernel, got k in C"):
        compile_kernels([Kernel("k", "k", "void k() {}")], cuda(90), store)
    with pytest.raises(CodegenError, match="expected a cuda target, got cpu"):
        compile_kernels([softmax()], cpu(), store)


# workers


def children():
    """The process ids of the children of this process, dead ones too."""
    found = set()
    for task in Path(f"/proc/{os.getpid()}/task").iterdir():
        with suppress(OSError):  # a thread that has just ended
            found.update(map(int, (task / "children").read_text().split()))
    return found


@pytest.fixture
def alone(monkeypatch, tmp_path_factory):
    """No worker before and none left after, nor a file of theirs."""
    workers.WORKERS.close()
    before = children()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path_factory.mktemp("files")))
    yield lambda: children() - before
    workers.WORKERS.close()
    assert children() == before
    assert not os.listdir(tempfile.tempdir)


def variants(n):
    source = softmax().source
    return [softmax(name=f"k{i}", source=f"{source}# {i}\n") for i in range(n)]


def test_workers_are_kept_and_never_more_than_kernels(tmp_path, alone, monkeypatch):
    monkeypatch.setattr(workers, "cores", lambda: 3)
    try_kernels(variants(1), cuda(90), Store(tmp_path))
    first = alone()
    assert len(first) == 1
    try_kernels(variants(5), cuda(90), Store(tmp_path))
    assert first < alone()
    assert len(alone()) <= 3


def test_workers_can_be_begun_before_they_are_needed(tmp_path, alone, monkeypatch):
    monkeypatch.setattr(workers, "cores", lambda: 3)
    prepare(2, cuda(90))
    begun = alone()
    assert len(begun) == 2
    prepare(1, cuda(90))
    try_kernels(variants(2), cuda(90), Store(tmp_path))
    assert alone() == begun
    prepare(9, cuda(90))
    assert len(alone()) == 3


def test_without_triton_none_is_begun(alone, monkeypatch):
    def none(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr(compiling.metadata, "version", none)
    prepare(2, cuda(90))
    assert not alone()


@pytest.mark.parametrize("targets", [TARGETS, TARGETS[::-1]], ids=["up", "down"])
def test_a_target_does_not_depend_on_those_before(targets, tmp_path, alone):
    """Triton would use the conversions to fp8 of its first target for all others."""
    kernel = next(c.kernel for c in CASES if c.name == "cast_float8_e5m2")
    text = {t.arch: assembly(kernel, t, Store(tmp_path)) for t in targets}
    assert "e5m2x2" in text[90]
    assert "e5m2x2" not in text[80]


def test_idle_workers_end(tmp_path, alone, monkeypatch):
    monkeypatch.setattr(workers, "IDLE", 0.0)
    try_kernels(variants(1), cuda(90), Store(tmp_path))
    for thread in threading.enumerate():
        if isinstance(thread, threading.Timer):
            thread.join(10)
    assert not alone()


def test_a_worker_that_died_idle_is_replaced(tmp_path, alone):
    try_kernels(variants(1), cuda(90), Store(tmp_path))
    (worker,) = alone()
    os.kill(worker, signal.SIGKILL)
    os.waitid(os.P_PID, worker, os.WEXITED | os.WNOWAIT)
    try_kernels(variants(2), cuda(90), Store(tmp_path))
    assert worker not in alone()


def hanging(n):
    """Kernels whose module takes a minute to be read."""
    return [replace(k, source=f"{k.source}import time\ntime.sleep(60)\n") for k in variants(n)]


def test_a_worker_that_dies_is_an_error(tmp_path, alone):
    dies = "import os, sys\nprint('argh', file=sys.stderr)\nos.kill(os.getpid(), 6)"
    kernel = softmax(source=dies)
    with pytest.raises(CompilerError) as error:
        compile_kernels([kernel], cuda(90), Store(tmp_path))
    first, *_, last = message(error)
    assert first == "compile: expected Triton to compile a kernel, got it killed by SIGABRT"
    assert last == "  argh"
    assert not alone()


def test_a_worker_that_takes_too_long_is_an_error(tmp_path, alone):
    with (
        override(compile_timeout=1.0),
        pytest.raises(CompilerError, match=r"got no end \(VTC_COMPILE_TIMEOUT=seconds"),
    ):
        compile_kernels(hanging(1), cuda(90), Store(tmp_path))
    assert not alone()


def test_ctrl_c_ends_the_workers(tmp_path, alone):
    done = threading.Event()

    def press():
        while not done.wait(0.2):
            if len(alone()) == min(2, workers.cores()):
                signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
                return

    thread = threading.Thread(target=press)
    thread.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            try_kernels(hanging(2), cuda(90), Store(tmp_path))
    finally:
        done.set()
        thread.join()
    assert not alone()


def test_a_kernel_that_fails_stops_the_others(tmp_path, alone):
    bad = softmax(source="x = = 1\n" + "#\n" * 10_000)  # the longest, so it is the first
    with pytest.raises(CompilerError, match="got SyntaxError"):
        try_kernels([bad, *hanging(3)], cuda(90), Store(tmp_path))
    assert len(alone()) <= 1  # the one that answered is idle


SCRIPT = """
import os, sys
sys.path[:0] = {path!r}
os.environ["TRITON_INTERPRET"] = "1"
from pathlib import Path
from test_compile import Store, children, cuda, try_kernels, variants, workers

try_kernels(variants(1), cuda(90), Store(Path({cache!r})))
child = os.fork()
if not child:
    assert not workers.WORKERS._idle
    try_kernels(variants(2), cuda(90), Store(Path({cache!r})))
    print(*children(), flush=True)
    os._exit(0 if len(children()) == 1 else 1)
assert os.waitpid(child, 0)[1] == 0
assert len(workers.WORKERS._idle) == 1
try_kernels(variants(3), cuda(90), Store(Path({cache!r})))
print(*children())
"""


def test_a_script_without_a_main_guard_may_fork_and_leaves_nothing(tmp_path):
    script, files = tmp_path / "script.py", tmp_path / "files"
    files.mkdir()
    paths = [os.path.dirname(__file__)]
    script.write_text(SCRIPT.format(path=paths, cache=str(tmp_path / "cache")))
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error::ResourceWarning", script],
        capture_output=True, text=True, timeout=600, env=os.environ | {"TMPDIR": str(files)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "ResourceWarning" not in done.stderr
    for process in map(int, done.stdout.split()):
        with suppress(ProcessLookupError):  # gone already
            handle = os.pidfd_open(process)
            assert select.select([handle], [], [], 30)[0], f"worker {process} goes on"
            os.close(handle)
    assert not os.listdir(files)
