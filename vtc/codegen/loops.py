"""Loops over a trace: split so that reads are linear, merged where memory is walked in order, and
placed.

A copy of ``permute(x, (0, 2, 1, 3))`` as ``f32[B, T, 768]`` reads ``x0[... i2//64 ... i2%64]``: its
last loop is split in two. ``x + y`` over ``f32[B, 784]`` reads both at ``784*i0 + i1``: its loops
are one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import final

from vtc.codegen.sizes import Facts, c_text, divisors, linear
from vtc.codegen.spec import Level
from vtc.codegen.trace import Let, Statement, Trace, needed, reads, statement
from vtc.ir.dims import Size, Sym, floordiv, substitute, symbols

SHORTEST = 8
"""Iterations below which an inner loop is not worth making."""

TILE = 64
"""Iterations of each of two loops that walk memory in different orders, so that both stay in the
cache.
"""


@final
@dataclass(frozen=True, slots=True)
class Loop:
    """``for 0 <= name < extent``."""

    name: str
    extent: Size


@final
@dataclass
class Body:
    """What loops compute: the scalars of a trace, and the ``roots`` they are computed for."""

    trace: Trace
    roots: list[Let]
    lets: dict[str, Let] = field(init=False)

    def __post_init__(self) -> None:
        self.lets = {let.name: let for let in needed(self.trace.lets, self.roots)}

    @property
    def facts(self) -> Facts:
        """What is known of the loop variables."""
        return self.trace.facts

    def loops(self, index: Iterable[Size]) -> list[Loop]:
        """The loops over the variables of ``index``."""
        names = [str(i) for i in index if isinstance(i, Sym)]
        return [Loop(n, self.facts.extents[n]) for n in names]

    def arrange(self, loops: list[Loop]) -> list[Loop]:
        """``loops`` split and merged."""
        return self.merge([part for loop in loops for part in self._split(loop)])

    def merge(self, loops: list[Loop]) -> list[Loop]:
        """Neighbours that are one walk become one loop."""
        done: list[Loop] = []
        for loop in reversed(loops):
            one = self._merge(loop, done[0]) if done else None
            done = [one, *done[1:]] if one else [loop, *done]
        return done

    def contiguous(self, name: str, root: int) -> int:
        """How much of what root ``root`` reads is walked in order along loop ``name``.

        A read that depends on more loops is of more elements, and counts for more.
        """
        cells = [c for let in needed(self.lets, [self.roots[root]]) for c in let.cells]
        loops = self.facts.extents.keys()
        return sum(8 ** len(symbols(c) & loops) for c in cells if linear(c, name) == 1)

    def walked(self, name: str, roots: Sequence[Let]) -> int:
        """How much of what ``roots`` read and write is walked in order along loop ``name``."""
        cells = [c for let in (*needed(self.lets, roots), *roots) for c in let.cells]
        loops = self.facts.extents.keys()
        return sum(8 ** len(symbols(c) & loops) for c in cells if linear(c, name) == 1)

    def place(self, order: Sequence[str], roots: Sequence[Let]) -> list[tuple[Statement, ...]]:
        """The scalars that ``roots`` need, by the innermost name of ``order`` they depend on;
        first: none.
        """
        depth: dict[str, int] = {name: k + 1 for k, name in enumerate(order)}
        wanted = {let.name for let in needed(self.lets, roots)}
        found: list[list[Statement]] = [[] for _ in range(len(order) + 1)]
        for name, let in self.lets.items():
            depth[name] = max((depth.get(n, 0) for n in reads(let)), default=0)
            if name in wanted:
                found[depth[name]].append(statement(let, self.facts))
        return [tuple(f) for f in found]

    def text(self, k: int) -> str:
        """Root ``k`` in C."""
        return statement(self.roots[k], self.facts).value

    def level(self, loop: Loop, lets: tuple[Statement, ...], pragma: str = "") -> Level:
        """``loop`` in C."""
        return Level(loop.name, c_text(loop.extent, self.facts), lets, pragma)

    def nest(
        self, loops: Sequence[Loop], roots: Sequence[Let], across: Loop | None = None
    ) -> tuple[tuple[Statement, ...], tuple[Level, ...]]:
        """What comes before ``loops``, and the loops; iterations may run in any order.

        The innermost loop and ``across`` run in tiles.
        """
        order = [v for v in loops if v is not across]
        if across:
            order.insert(-1, across)
        before, *inside = self.place([v.name for v in order], roots)
        levels = [self.level(v, lets) for v, lets in zip(order, inside, strict=True)]
        if levels:
            levels[-1] = replace(levels[-1], pragma=simd(raises(levels[-1].lets)))
        if across:
            tiled = levels[-2:]
            levels[-2:] = [*map(_blocks, tiled), *map(_block, tiled)]
        return before, tuple(levels)

    def across(self, loops: Sequence[Loop]) -> Loop | None:
        """An outer loop along which memory is walked in order where the innermost one jumps."""
        if len(loops) < 2:
            return None
        *outer, inner = loops
        cells = [c for let in self._all() for c in let.cells]
        jumps = [c for c in cells if linear(c, inner.name) not in (0, 1)]
        return next((v for v in outer for c in jumps if linear(c, v.name) == 1), None)

    def _rewrite(self, change: Callable[[Size], Size]) -> None:
        self.lets = {name: let.rewrite(change) for name, let in self.lets.items()}
        self.roots = [root.rewrite(change) for root in self.roots]

    def _all(self) -> Iterable[Let]:
        yield from self.lets.values()
        yield from self.roots

    def _split(self, loop: Loop) -> list[Loop]:
        by = self._divisor(loop)
        if by is None:
            return [loop]
        outer = Loop(f"{loop.name}a", floordiv(loop.extent, by))
        inner = Loop(f"{loop.name}b", by)
        high, low = (self.facts.loop(part.name, part.extent) for part in (outer, inner))
        whole = high * by + low
        self._rewrite(lambda s: self.facts.simplify(substitute(s, {loop.name: whole})))
        return [*self._split(outer), inner]

    def _divisor(self, loop: Loop) -> Size | None:
        """By what to split ``loop``: what a read divides its variable by."""
        found = {d for let in self._all() for cell in let.cells for d in divisors(cell, loop.name)}
        long = {d for d in found - {loop.extent} if not isinstance(d, int) or d >= SHORTEST}
        exact = [d for d in long if floordiv(loop.extent, d) * d == loop.extent]
        return min(exact, key=lambda d: (isinstance(d, Sym), len(str(d)), str(d)), default=None)

    def _merge(self, outer: Loop, inner: Loop) -> Loop | None:
        """One loop that visits what two do, if every index expression can be told from it."""
        one = Loop(outer.name + inner.name, outer.extent * inner.extent)
        flat = self.facts.loop(one.name, one.extent)
        both = {outer.name, inner.name}
        apart = {one.name: Sym.var(outer.name) * inner.extent + Sym.var(inner.name)}
        together: dict[Size, Size] = {}
        for let in self._all():
            for size in let.sizes:
                if size in together or not symbols(size) & both:
                    continue
                merged = substitute(size, {outer.name: 0, inner.name: flat})
                if self.facts.simplify(substitute(merged, apart)) != self.facts.simplify(size):
                    return None
                together[size] = self.facts.simplify(merged)
        self._rewrite(lambda s: together.get(s, s))
        return one


def _blocks(level: Level) -> Level:
    return Level(f"{level.var}t", level.extent, (), step=str(TILE))


def _block(level: Level) -> Level:
    start = f"{level.var}t"
    return replace(level, start=start, extent=f"vtc_minimum({start} + {TILE}, {level.extent})")


def simd(checks: bool, *clauses: str) -> str:
    """The pragma before an innermost loop whose iterations are independent but for ``clauses``."""
    errors = ("reduction(|:err)",) if checks else ()
    return " ".join(("#pragma omp simd", *errors, *clauses))


def raises(lets: Iterable[Statement]) -> bool:
    """Whether one of ``lets`` reports errors."""
    return any(let.raises for let in lets)
