"""The process that compiles Triton kernels: an order in, an answer out, until there are no more.

It runs as a script (see :mod:`vtc.codegen.triton.workers`), and nothing of vtc is imported. Orders
and answers are lines of JSON; what Triton, LLVM and ptxas print goes to standard error::

    {"path": ".../3fa9.py", "symbol": "k0", "signature": ["*fp32", "i64"], "arch": 90,
     "shared": 232448, "options": {"num_warps": 4, "num_stages": 3}, "last": "cubin"}
    {"code": "f0VMRg...", "warps": 4, "shared": 1024, "scratch": 0, "alignment": 1}
    {"failed": "CompilationError", "words": "at 3:8: ..."}
    {"failed": "too much shared memory", "shared": 294912}

Triton's stages run directly: ``triton.compile`` first digests the whole installation, which takes
longer than a kernel does. This is private API, so the version is pinned.
"""

from __future__ import annotations

import base64
import importlib.util
import json
import linecache
import os
import sys
from types import ModuleType
from typing import Any, TextIO

from triton import knobs
from triton._C.libtriton import ir
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.compiler.compiler import make_backend

ALIGNED = [["tt.divisibility", 16]]
WARP = 32


def answer(order: dict[str, Any]) -> dict[str, Any]:
    """The code that ``order`` asks for, or why there is none."""
    try:
        return _compiled(order)
    except Exception as error:
        return {"failed": type(error).__name__, "words": str(error)}
    finally:
        linecache.clearcache()


def _compiled(order: dict[str, Any]) -> dict[str, Any]:
    function = getattr(_loaded(order["path"]), order["symbol"])
    signature = dict(zip(function.arg_names, order["signature"], strict=True))
    pointers = [i for i, kind in enumerate(order["signature"]) if kind.startswith("*")]
    source = ASTSource(function, signature, {}, {(i,): ALIGNED for i in pointers})
    target = GPUTarget("cuda", order["arch"], WARP)
    backend = make_backend(target)
    options = backend.parse_options({**order["options"], **source.parse_options()})
    facts: dict[str, Any] = {"hash": "", "target": target, **options.__dict__}
    stages: dict[str, Any] = {}
    backend.add_stages(stages, options, source.language)
    context = ir.context()
    ir.load_dialects(context)
    backend.load_dialects(context)
    made = source.make_ir(
        target,
        options,
        backend.get_codegen_implementation(options),
        backend.get_module_map(),
        context,
    )
    for stage, lower in stages.items():
        made = lower(made, facts)
        if stage == "llir" and facts["shared"] > order["shared"]:
            return {"failed": "too much shared memory", "shared": facts["shared"]}
        if stage == order["last"]:
            break
    return {
        "code": base64.b64encode(made if isinstance(made, bytes) else str(made).encode()).decode(),
        "warps": facts["num_warps"],
        "shared": facts["shared"],
        "scratch": facts["global_scratch_size"],
        "alignment": facts["global_scratch_align"],
    }


def _loaded(path: str) -> ModuleType:
    """The module in the file at ``path``: Triton reads the text of its functions there."""
    spec = importlib.util.spec_from_file_location("vtc_kernel", path)
    if spec is None or spec.loader is None:
        raise ImportError(f"expected Python source, got {path}")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def serve(orders: TextIO, answers: TextIO) -> None:
    """Answer each line of ``orders``."""
    for line in orders:
        answers.write(json.dumps(answer(json.loads(line))) + "\n")
        answers.flush()


def main() -> None:
    """Serve standard input; whatever else is printed must not look like an answer."""
    sys.dont_write_bytecode = True
    # Paths of the machine that compiled are of no use in a package, and differ between machines.
    knobs.compilation.disable_line_info = True
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as answers:
        os.dup2(2, 1)
        serve(sys.stdin, answers)


if __name__ == "__main__":
    main()
