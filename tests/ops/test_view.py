"""Views: where each element comes from, and what a write through a view changes."""

import numpy as np
import pytest
from cases import samples_of

from vtc.errors import TypeCheckError
from vtc.ir.dims import Sym
from vtc.ir.evaluate import ArrayBuilder
from vtc.ir.op import REGISTRY
from vtc.ir.ops.expr import Expr
from vtc.ir.ops.view import Expand, Reshape, Slice, View
from vtc.ir.types import TensorType, f32

B, T = Sym.var("B"), Sym.var("T")
H, J, K, M = (Sym.var(name) for name in "hjkm")
WRITABLE = [
    pytest.param(s, id=f"{name}-{i}")
    for name, cls in sorted(REGISTRY.items())
    if issubclass(cls, View) and cls is not Expand
    for i, s in enumerate(samples_of(name))
]

# Axes that keep their size are not divided, nor are axes of size 1 counted.
SOURCES = (
    ((B, T, 32), (B, T, 4, 8), (H, J, K, M), (H, J, 8 * K + M)),
    ((B, T, 4, 8), (B, T, 32), (H, J, K), (H, J, K // 8, K % 8)),
    ((B, T, 8), (B * T, 8), (H, J), (H // T, H % T, J)),
    ((B * T, 8), (B, T, 8), (H, J, K), (T * H + J, K)),
    ((B, 1, T), (B, T), (H, J), (H, 0, J)),
    ((B, T), (B, 1, T, 1), (H, 0, J, 0), (H, J)),
    ((6, 4), (3, 8), (H, J), ((8 * H + J) // 4, J % 4)),
    ((), (1, 1), (0, 0), ()),
)


@pytest.mark.parametrize(("shape", "out", "index", "source"), SOURCES)
def test_reshape_divides_only_where_axes_merge_or_split(shape, out, index, source):
    op, x = Reshape(out), TensorType(f32, shape)
    assert op.source(index, x, op.infer(x)) == source


@pytest.mark.parametrize("sample", WRITABLE)
def test_writing_through_a_view_writes_what_it_shows(sample):
    """As NumPy does, whose views are views."""
    rng, b = np.random.default_rng(3), ArrayBuilder()
    base = sample.inputs[0].copy()
    shown = sample.op.reference(base)
    value = rng.integers(5, 9, shown.shape).astype(shown.dtype)
    written = sample.op.write(Expr(b, base.copy()), Expr(b, value)).value
    assert np.shares_memory(shown, base) or not shown.size
    shown[...] = value
    np.testing.assert_array_equal(written, base)


def test_writing_through_expand_is_refused():
    b, op = ArrayBuilder(), Expand((0,), (2,))
    base = Expr(b, np.zeros(3, np.float32))
    with pytest.raises(TypeCheckError, match=r"^expand: expected a tensor each of whose elements"):
        op.write(base, base.apply(op))


def test_views_copy_nothing():
    x = np.zeros((4, 6), np.float32)
    for op in (Reshape((2, 12)), Slice((0, 1), (4, 6), (2, 1)), Expand((0,), (1000,))):
        assert np.shares_memory(ArrayBuilder().apply(op, x), x)
    # What f32 holds exactly, as most constants are, is one element in memory.
    big = ArrayBuilder().apply(REGISTRY["full"](shape=(10**6, 10**6), value=1.0, dtype=f32))
    assert big.strides == (0, 0)
