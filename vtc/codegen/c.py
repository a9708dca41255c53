"""Planned programs to C: one source per distinct kernel and one for the host, compiled into one
library.

    plan = generate(program, target)
    library = compile_plan(plan, find_compiler(), store)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol, final

from vtc.codegen.compiler import Compiler, Crew, find_compiler, find_compiler_for
from vtc.codegen.families import spec_of
from vtc.codegen.host import host
from vtc.codegen.region import Region
from vtc.codegen.render import render, symbol
from vtc.codegen.spec import Several
from vtc.codegen.steps import Made, planned
from vtc.errors import CodegenError
from vtc.ir.graph import Program
from vtc.ir.plan import Kernel, Plan, check
from vtc.ir.target import Target

__all__ = [
    "Compiler",
    "Store",
    "compile_patch",
    "compile_plan",
    "compile_pool",
    "find_compiler",
    "find_compiler_for",
    "generate",
]


class Store(Protocol):
    """Files by key; see :mod:`vtc.runtime.cache`."""

    def find(self, key: str) -> Path | None:
        """The file stored under ``key``; None if there is none, or none that is undamaged."""

    def make(self, key: str, write: Callable[[Path], None], suffix: str = "") -> Path:
        """The file stored under ``key``; where there is none, ``write(path)`` makes it first."""


def generate(program: Program, target: Target) -> Plan:
    """The plan of a ``planned`` program; CodegenError where C has no kernel for a region."""
    if target.kind != "cpu":
        raise CodegenError(f"generate: expected a cpu target, got {target.name} ({target.kind})")
    plan = planned(program, target, _made)
    return check(replace(plan, host=host(plan)))


def compile_plan(plan: Plan, compiler: Compiler, store: Store) -> Path:
    """The shared library of ``plan``. CompilerError with the compiler's words if it fails."""
    units = [_Unit(plan.host, f"in the host program of {plan.name}")]
    units += (_Unit(k.source, about(k)) for k in plan.kernels)
    keys = {u.source: compiler.key("object", u.source) for u in units}
    key = compiler.key("library", *keys.values())
    found = store.find(key)
    if found is not None:
        return found
    with Crew() as crew:

        def compiled(unit: _Unit) -> Path:
            def write(path: Path) -> None:
                compiler.compile(unit.source, path, crew, unit.about)

            return store.make(keys[unit.source], write, ".o")

        # The longest first: no thread is left alone with it at the end.
        ordered = sorted(units, key=lambda u: -len(u.source))
        objects = dict(zip((u.source for u in ordered), crew.map(compiled, ordered), strict=True))
        return _linked(key, [objects[source] for source in keys], compiler, store, crew)


def compile_pool(compiler: Compiler, store: Store) -> Path:
    """The shared library with the thread pool, ``vtc_pool``; see ``pool.c.jinja``."""
    return _compile_template("pool", "in the thread pool", compiler, store)


def compile_patch(compiler: Compiler, store: Store) -> Path:
    """The shared library that patches and launches CUDA graphs; see ``patch.c.jinja``."""
    return _compile_template("patch", "in what patches graphs", compiler, store)


def _compile_template(name: str, about: str, compiler: Compiler, store: Store) -> Path:
    source = render(name)
    key = compiler.key(name, source)
    found = store.find(key)
    if found is not None:
        return found
    with Crew() as crew:

        def compiled(source: str) -> Path:
            return store.make(
                compiler.key("object", source),
                lambda path: compiler.compile(source, path, crew, about),
                ".o",
            )

        return _linked(key, crew.map(compiled, [source]), compiler, store, crew)


@final
@dataclass(frozen=True, slots=True)
class _Unit:
    """A source, and what an error says about it."""

    source: str
    about: str


def about(kernel: Kernel) -> str:
    """Which kernel, and which lines of the user it comes from: the end of an error."""
    first, *more = kernel.note.split(", ")
    others = f" and {len(more)} more lines" if more else ""
    where = f"at {first}{others}" if first else "at an unknown line"
    return f"in kernel {kernel.name} ({kernel.symbol})\n{where}"


def _linked(
    key: str, objects: Sequence[Path], compiler: Compiler, store: Store, crew: Crew
) -> Path:
    """The library of ``objects``, made by the crew: an interrupt does not reach its threads."""

    def link(key: str) -> Path:
        return store.make(key, lambda path: compiler.link(objects, path, crew), ".so")

    (library,) = crew.map(link, [key])
    return library


def _made(region: Region) -> tuple[Made, ...]:
    found = spec_of(region)
    several = found if isinstance(found, Several) else Several((found,), ())
    made = []
    for spec in several.specs:
        name = symbol(spec.template, spec)
        work = spec.head.parts.work if spec.head.parts else 0
        source = render(spec.template, symbol=name, spec=spec)
        made.append(Made(name, source, work, scratch=several.scratch))
    return tuple(made)
