"""Compiled programs called between guard zones: what is written outside a buffer, or read before it
was written, shows.

    result = Compiled.of(program, optimize="-O1").call(arrays, threads=2)

The arena starts as NaNs (bytes 0xFF), outputs as 0xA5; around every buffer lie 256 bytes that must
not change. Every kernel that can run in parts does.
"""

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from vtc.codegen.c import compile_plan, compile_pool, find_compiler, generate
from vtc.codegen.host import host
from vtc.config import config
from vtc.ir.dims import substitute
from vtc.ir.evaluate import bind
from vtc.ir.graph import Program
from vtc.ir.plan import Launch, Plan
from vtc.passes import PIPELINE
from vtc.passes.pipeline import Context, Step, run
from vtc.runtime.cache import Store
from vtc.runtime.cpu import load
from vtc.runtime.threads import pool, set_num_threads

GUARD = 256


class Overrun(AssertionError):
    """A kernel wrote outside its buffer, or over an input."""


@dataclass(frozen=True)
class Compiled:
    """A program, its stages, its plan and the function that runs it."""

    program: Program
    stages: dict[str, Program]
    plan: Plan
    entry: object

    @classmethod
    def of(cls, program: Program, optimize: str = "-O3") -> "Compiled":
        stages: dict[str, Program] = {}
        context = Context()

        def keep(step: Step) -> None:
            stages[step.stage] = step.after

        planned = run(program, PIPELINE, context, observe=keep)
        compiler = find_compiler()
        assert compiler is not None
        flags = tuple(optimize if f == "-O3" else f for f in compiler.flags)
        plan = in_parts(generate(planned, context.target))
        library = compile_plan(plan, replace(compiler, flags=flags), Store(config().cache_dir))
        return cls(program, stages, plan, load(library))

    def call(self, arrays: Sequence[np.ndarray], threads: int) -> list[np.ndarray]:
        """The outputs. Overrun where memory outside of them changed."""
        plan, params = self.plan, self.program.entry.params
        sizes = bind(params, [a.shape for a in arrays])
        inputs = [Guarded(a.nbytes, a) for a in arrays]
        over = {b.overwritten: p for p, b in enumerate(plan.inputs) if b.overwritten is not None}
        outputs = [
            inputs[over[i]] if i in over else Guarded(int(substitute(b.nbytes, sizes)))
            for i, b in enumerate(plan.outputs)
        ]
        arena = Guarded(int(substitute(plan.arena, sizes)), fill=0xFF)
        dims = [int(sizes[d.name]) for d in plan.dims]
        code = self.entry(
            pointers(inputs),
            pointers(outputs),
            ctypes.c_void_p(arena.address),
            (ctypes.c_int64 * max(1, len(dims)))(*dims),
            threads_of(threads),
        )
        if code:
            raise IndexError(f"step {code - 1}: {plan.steps[code - 1]}")
        for i, (a, g) in enumerate(zip(arrays, inputs, strict=True)):
            g.check(f"in{i}")
            kept = plan.inputs[i].overwritten is None
            if kept and g.content().tobytes() != a.tobytes():
                raise Overrun(f"in{i} changed")
        for i, g in enumerate(outputs):
            g.check(f"out{i}")
        arena.check("arena")
        shapes = [[int(substitute(s, sizes)) for s in b.shape] for b in plan.outputs]
        return [
            g.content().view(b.dtype.numpy).reshape(s).copy()
            for g, b, s in zip(outputs, plan.outputs, shapes, strict=True)
        ]


class Guarded:
    """``nbytes`` of memory, aligned as the runtime does it, with guard zones around."""

    def __init__(self, nbytes: int, content: np.ndarray | None = None, fill: int = 0xA5) -> None:
        self.nbytes = nbytes
        self._all = np.full(nbytes + 2 * GUARD + 64, 0x5A, np.uint8)
        self._start = GUARD + (-(self._all.ctypes.data + GUARD)) % 64
        self.content()[...] = fill
        if content is not None:
            self.content()[...] = np.frombuffer(content.tobytes(), np.uint8)

    @property
    def address(self) -> int:
        return self._all.ctypes.data + self._start

    def content(self) -> np.ndarray:
        return self._all[self._start : self._start + self.nbytes]

    def check(self, name: str) -> None:
        before, after = self._all[: self._start], self._all[self._start + self.nbytes :]
        for where, zone in (("before", before), ("behind", after)):
            if (zone != 0x5A).any():
                raise Overrun(f"bytes {where} {name} were written")


def in_parts(plan: Plan) -> Plan:
    """``plan`` with every kernel that can run in parts large enough to."""
    large = [replace(s, work=s.work * 2**32) if isinstance(s, Launch) else s for s in plan.steps]
    plan = replace(plan, steps=tuple(large))
    return replace(plan, host=host(plan))


def threads_of(count: int):
    if not count:
        return None
    set_num_threads(count)
    compiler = find_compiler()
    assert compiler is not None
    return pool(lambda: compile_pool(compiler, Store(config().cache_dir)))


def pointers(buffers: Sequence[Guarded]):
    return (ctypes.c_void_p * max(1, len(buffers)))(*(b.address for b in buffers))
