"""Scattering that multiplies, or keeps the greatest or least of what meets in a place.

y: f32[V, 64] = scatter_reduce(x, i, v, axis=0, fn="max")
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, final

import numpy as np

from vtc.ir.op import Needs, Sample
from vtc.ir.ops import draw
from vtc.ir.ops.expr import Expr, Exprs
from vtc.ir.ops.index import Scattering, moved, scatter, scattered
from vtc.ir.scalar import Index, Operand, Scalars
from vtc.ir.types import Array, TensorType, Type

Fn = Literal["mul", "max", "min"]
UFUNC: dict[Fn, np.ufunc] = {"mul": np.multiply, "max": np.maximum, "min": np.minimum}


@final
@dataclass(frozen=True)
class ScatterReduce(Scattering):
    """``x`` into which ``src[a, i, b]`` was reduced at ``[a, index[a, i, b], b]`` along ``axis``.

    Equals share the gradient of an extreme; NaN wins.
    """

    axis: int
    fn: Fn
    accumulate: ClassVar[bool] = True
    values = 2

    @property
    def joined(self) -> str:
        return self.fn

    def infer(self, x: Type, index: Type, src: Type) -> TensorType:
        self.check(self.fn in UFUNC, f"expected fn to be one of {[*UFUNC]}, got {self.fn!r}")
        out = scattered(self, self.axis, x, index, src)
        self.check_sum(out)
        return out

    def reference(self, x: Array, index: Array, src: Array) -> Array:
        with np.errstate(invalid="ignore"):
            return scatter(self, self.axis, x, index, src, UFUNC[self.fn].at)

    def vjp(self, g: Expr, out: Expr, inputs: Exprs, needs: Needs) -> Sequence[Expr | None]:
        x, index, src = inputs
        dx, dsrc = (self._product if self.fn == "mul" else self._extreme)(g, out, x, index, src)
        return dx if needs[0] else None, None, dsrc if needs[2] else None

    def _extreme(self, g: Expr, out: Expr, x: Expr, index: Expr, src: Expr) -> tuple[Expr, Expr]:
        best, mine = self._read(out, index).eq(src), out.eq(x)
        shares = mine.cast(g.dtype).op("scatter_add", index, best.cast(g.dtype), axis=self.axis)
        share = g / shares.maximum(1)
        return mine.where(share, 0), best.where(self._read(share, index), 0)

    def _product(self, g: Expr, out: Expr, x: Expr, index: Expr, src: Expr) -> tuple[Expr, Expr]:
        """Without dividing by zero: a lone zero gets the product of the others."""
        ones = x.eq(0).where(1, x)
        dx = g * ones.apply(self, index, src) / ones
        zero = src.eq(0)
        count = x.zeros().op("scatter_add", index, zero.cast(x.dtype), axis=self.axis)
        alone = zero & self._read(count, index).eq(1)
        others = x.apply(self, index, alone.where(1, src))
        divided = self._read(g * out, index) / zero.where(1, src)
        return dx, alone.where(self._read(g * others, index), divided)

    def _read(self, x: Expr, index: Expr) -> Expr:
        return x.op("gather", index, axis=self.axis)

    def target(self, s: Scalars, index: Index, inputs: Sequence[Operand]) -> Index:
        return moved(s, self.axis, index, inputs[0].type, inputs[1])

    @classmethod
    def samples(cls, rng: np.random.Generator) -> Iterator[Sample]:
        x = draw.spaced(rng, 3, 5)
        src = draw.spaced(rng, 3, 7) + np.float32(0.125)
        for fn in UFUNC:
            big = fn == "mul"
            a, b = (draw.away_from_zero(rng, s.shape) if big else s for s in (x, src))
            yield Sample(cls(1, fn), (a, rng.integers(0, 5, (3, 7)), b))
            yield Sample(cls(0, fn), (a, rng.integers(0, 3, (2, 4)), b[:2, :4].copy()))
        yield Sample(cls(0, "max"), (x, np.zeros((0, 5), np.int64), src[:0, :5].copy()))
        nan = np.array([np.nan, 1, -np.inf, np.nan], np.float32)
        yield Sample(cls(0, "min"), (nan[1:3], np.array([0, 1, 1, 0]), nan), smooth=False)
        ints = rng.integers(-9, 9, (2, 6))
        yield Sample(cls(1, "mul"), (ints[:, :2].copy(), rng.integers(0, 2, (2, 6)), ints))
