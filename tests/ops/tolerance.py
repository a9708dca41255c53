"""How far a result may be from the float64 one: by dtype, wider for some families of ops.

The first entry of ``WIDER`` (of ``UNITS`` for f32 on its own) whose name is that of the op, or of a
class it derives from, applies.
"""

from dataclasses import dataclass

from vtc.ir.types import bf16, f16, f32, f64


@dataclass(frozen=True)
class Tolerance:
    """As in ``numpy.testing.assert_allclose``."""

    rtol: float
    atol: float

    def times(self, factor):
        return Tolerance(self.rtol * factor, self.atol * factor)


# One unit in the last place (results are rounded once) and the error of f32 accumulation.
BY_DTYPE = {
    f64: Tolerance(1e-12, 1e-12),
    f32: Tolerance(2e-6, 1e-6),
    f16: Tolerance(1e-3, 2e-6),
    bf16: Tolerance(8e-3, 2e-6),
}
WIDER = {"Composite": 4}


@dataclass(frozen=True)
class Units:
    """Units in the last place: of each element, or (``largest``) of the largest of the result."""

    count: float
    largest: bool = True


# f32 on typical inputs, measured over the samples of every op, in NumPy and compiled. Sums cancel,
# so what holds one is judged by its largest element.
UNITS = {
    "AttentionGradient": Units(6),  # 4.3 in NumPy: g v - delta cancels, two more products round
    "Cast": Units(0.5, largest=False),
    "Extremum": Units(0),
    "IndexMap": Units(0),
    "Rounding": Units(0),
    "Digamma": Units(8, largest=False),  # it is a difference of logarithm and sum
    "Formula": Units(4, largest=False),  # erfinv 3.4, tan 2.9, sinh 2.8; erfc 4.2 beyond 3
    "Elementwise": Units(2, largest=False),  # erf 1.7, rsqrt 1.4, exp 1.2; one rounding is 0.5
    "Op": Units(2),  # layer_norm 1.04, prod 1.1, gelu 0.7, unwindow 0.9, conv2d 0.9, matmul 0.7
}
FINITE_DIFFERENCES = Tolerance(1e-6, 1e-7)


def tolerance(op, dtype):
    """What a result of ``op`` in ``dtype`` must keep to."""
    families = (WIDER[c.__name__] for c in type(op).__mro__ if c.__name__ in WIDER)
    return BY_DTYPE[dtype].times(next(families, 1))


def units(op):
    """What an f32 result of ``op`` must keep to; nothing at all where data only moves."""
    if op.moves:
        return Units(0)
    return next(UNITS[c.__name__] for c in type(op).__mro__ if c.__name__ in UNITS)
