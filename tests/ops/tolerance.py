"""How far a result may be from the float64 one: by dtype, wider for some families of ops.

The first entry of ``WIDER`` whose name is that of the op, or of a class it derives from, applies.
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
FINITE_DIFFERENCES = Tolerance(1e-6, 1e-7)


def tolerance(op, dtype):
    """What a result of ``op`` in ``dtype`` must keep to."""
    families = (WIDER[c.__name__] for c in type(op).__mro__ if c.__name__ in WIDER)
    return BY_DTYPE[dtype].times(next(families, 1))
