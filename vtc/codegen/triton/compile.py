"""Triton kernels to machine code of an explicit target: neither a GPU nor a driver is needed.

    binaries = compile_kernels(plan.kernels, cuda(90), store)      # by symbol
    binaries["k0"].cubin, binaries["k0"].warps

A kernel is compiled once for its source, options and architecture and then kept in the store; what
is there needs no Triton. Kernels are compiled side by side, see :mod:`vtc.codegen.triton.workers`.
Triton may assume that pointers are multiples of 16; sizes may be anything.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from vtc.codegen.c import Store, about
from vtc.codegen.compiler import Crew
from vtc.codegen.triton.workers import SOURCE, WORKERS, most
from vtc.errors import CodegenError, CompilerError, OutOfResourcesError
from vtc.ir.plan import Binary, Build, Kernel
from vtc.ir.target import Target

TRITON = "3.6.0"
FORMAT = 1
"""Of what the store holds: a line of JSON, then the cubin."""
_SHOWN = 16
"""Lines of Triton's complaint, and of what was printed beside it, that an error quotes."""
_BRIEF = 3
"""Lines of a complaint that says enough by itself."""

Outcome = Binary | OutOfResourcesError


def compile_kernels(kernels: Sequence[Kernel], target: Target, store: Store) -> dict[str, Binary]:
    """The machine code of ``kernels`` by symbol.

    CompilerError with Triton's words if one does not compile, OutOfResourcesError if it needs more
    shared memory than ``target`` has, CodegenError if there is no Triton that could compile it.
    """
    distinct = {k.symbol: k for k in kernels}
    for k in kernels:
        if (k.source, k.build) != (distinct[k.symbol].source, distinct[k.symbol].build):
            raise CodegenError(f"compile: expected one kernel with symbol {k.symbol}, got two")
    binaries = {}
    made = try_kernels(list(distinct.values()), target, store)
    for symbol, outcome in zip(distinct, made, strict=True):
        if isinstance(outcome, OutOfResourcesError):
            raise outcome
        binaries[symbol] = outcome
    return binaries


def try_kernels(kernels: Sequence[Kernel], target: Target, store: Store) -> list[Outcome]:
    """What becomes of each kernel, in order: the error of one that needs too much shared memory is
    a result, any other is raised. For candidates, which may have the same symbol.
    """
    if target.kind != "cuda":
        raise CodegenError(f"compile: expected a cuda target, got {target.name} ({target.kind})")
    keys = [_key(k, target) for k in kernels]
    done: dict[str, Outcome] = {}
    missing: dict[str, Kernel] = {}
    for key, kernel in zip(keys, kernels, strict=True):
        found = store.find(key)
        if found is None:
            missing[key] = kernel
        else:
            done[key] = _read(kernel.symbol, found.read_bytes())
    if missing:
        done |= _compile_all(missing, target, store)
    return [done[key] for key in keys]


def prepare(kernels: int, target: Target) -> None:
    """Begin what compiles about so many kernels for ``target`` soon: the time that it takes to
    start passes beside other work. Where it cannot be begun, compiling says so.
    """
    with suppress(CodegenError, CompilerError):
        _check_triton()
        WORKERS.begin(most(kernels), target.arch)


def assembly(kernel: Kernel, target: Target, store: Store) -> str:
    """The PTX of ``kernel``, to be read by people and tests."""
    _check_triton()
    with Crew(1) as crew:
        (answer,) = crew.map(lambda k: WORKERS.ask(_order(k, target, store, "ptx"), crew), [kernel])
    if "failed" in answer:
        raise _error(kernel, target, answer)
    return base64.b64decode(answer["code"]).decode()


def _compile_all(kernels: Mapping[str, Kernel], target: Target, store: Store) -> dict[str, Outcome]:
    """The outcomes of ``kernels`` by key, as are the kernels."""
    _check_triton()
    with Crew(most(len(kernels))) as crew:

        def compiled(key: str) -> Outcome:
            kernel = kernels[key]
            answer = WORKERS.ask(_order(kernel, target, store, "cubin"), crew)
            if "failed" in answer:
                error = _error(kernel, target, answer)
                if isinstance(error, OutOfResourcesError):
                    return error
                raise error
            path = store.make(key, lambda path: _write(path, answer), ".cubin")
            return _read(kernel.symbol, path.read_bytes())

        # The longest first: no worker is left alone with it at the end.
        ordered = sorted(kernels, key=lambda key: -len(kernels[key].source))
        return dict(zip(ordered, crew.map(compiled, ordered), strict=True))


def _check_triton() -> None:
    want = f"compile: expected triton=={TRITON} to compile for a GPU"
    try:
        version = metadata.version("triton")
    except metadata.PackageNotFoundError:
        version = "none"
    if version != TRITON:
        raise CodegenError(f"{want}, found {version}: pip install 'vtc[cuda13]'")


def _order(kernel: Kernel, target: Target, store: Store, last: str) -> dict[str, Any]:
    """What a worker is asked for: all stages up to ``last``. Triton reads the source in a file."""
    build = _build(kernel)
    data = kernel.source.encode()
    key = hashlib.sha256(b"triton source\n" + data).hexdigest()
    path = store.make(key, lambda path: _put(path, data), ".py")
    return {
        "path": str(path),
        "symbol": kernel.symbol,
        "signature": build.signature,
        "arch": target.arch,
        "shared": target.shared,
        "options": _options(build),
        "last": last,
    }


def _build(kernel: Kernel) -> Build:
    if kernel.build is None:
        raise CodegenError(f"compile: expected a Triton kernel, got {kernel.symbol} in C")
    return kernel.build


def _options(build: Build) -> dict[str, Any]:
    """``x * y - z`` rounds twice and no small number is taken for 0, as everywhere else."""
    return {
        "num_warps": build.warps,
        "num_stages": build.stages,
        "enable_fp_fusion": False,
        "enable_reflect_ftz": False,
    }


def _key(kernel: Kernel, target: Target) -> str:
    build = _build(kernel)
    facts = [
        ["triton", TRITON, FORMAT, _worker()],
        [target.arch, target.shared, kernel.symbol, build.signature, _options(build)],
        kernel.source,
    ]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


@cache
def _worker() -> str:
    """What decides how orders are carried out."""
    return hashlib.sha256(SOURCE.read_bytes()).hexdigest()


def _write(path: Path, answer: Mapping[str, Any]) -> None:
    facts = {name: answer[name] for name in ("warps", "shared", "scratch", "alignment")}
    _put(path, json.dumps(facts).encode() + b"\n" + base64.b64decode(answer["code"]))


def _put(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def _read(symbol: str, content: bytes) -> Binary:
    facts, _, cubin = content.partition(b"\n")
    return Binary(symbol, cubin, **json.loads(facts))


def _error(kernel: Kernel, target: Target, answer: Mapping[str, Any]) -> CompilerError:
    where = [f"  {line}" for line in about(kernel).splitlines()]
    if "shared" in answer:
        want = f"at most {target.shared} bytes of shared memory, which {target.name} has"
        first = f"compile: expected a kernel to need {want}, got {answer['shared']}"
        return OutOfResourcesError("\n".join([first, *where]))
    first = f"compile: expected Triton to compile a kernel, got {answer['failed']}"
    words = answer.get("words", "").strip().splitlines()
    # The front end quotes the kernel down to the mistake; all others begin with theirs.
    shown = words[-_SHOWN:] if answer["failed"] == "CompilationError" else words[:_SHOWN]
    if len(words) < _BRIEF:
        shown += answer["printed"].strip().splitlines()[:_SHOWN]
    return CompilerError("\n".join([first, *where, *(f"  {line}" for line in shown)]))
