"""``Expr``: a value with the builder it belongs to. Gradient rules and decompositions speak this.

The same rule records nodes, computes arrays or runs eager tensors, depending on the builder.
Operands have equal types; a Python number stands for a full tensor of the other operand's type::

    def vjp(self, g, out, inputs, needs):
        (x,) = inputs
        return (g * (1.0 - out * out),)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from vtc.ir.dims import Size, product
from vtc.ir.op import Builder, Op, make
from vtc.ir.types import DType, TensorType, Type, bool_

Number = int | float | bool


@dataclass(frozen=True, eq=False, slots=True)
class Expr:
    """See the module."""

    builder: Builder[Any]
    value: Any

    @property
    def type(self) -> Type:
        """The type of the value."""
        return self.builder.type_of(self.value)

    @property
    def tensor(self) -> TensorType:
        """The type, which must be one tensor's."""
        type = self.type
        if not isinstance(type, TensorType):
            raise TypeError(f"expected one tensor, got {type}")
        return type

    @property
    def shape(self) -> tuple[Size, ...]:
        """The sizes."""
        return self.tensor.shape

    @property
    def rank(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def dtype(self) -> DType:
        """The element type."""
        return self.tensor.dtype

    def apply(self, op: Op, *others: Expr, hint: str = "") -> Expr:
        """``op`` on this and others."""
        value = self.builder.apply(op, self.value, *(o.value for o in others), hint=hint)
        return Expr(self.builder, value)

    def op(self, name: str, *others: Expr, **attributes: Any) -> Expr:
        """The op called ``name`` on this and others."""
        return self.apply(make(name, **attributes), *others)

    def item(self, index: int) -> Expr:
        """One of several results."""
        return self.op("item", index=index)

    # constants

    def full(self, shape: Sequence[Size], value: Number, dtype: DType | None = None) -> Expr:
        """A tensor of ``value`` (dtype: this one's)."""
        op = make("full", shape=tuple(shape), value=value, dtype=dtype or self.dtype)
        return Expr(self.builder, self.builder.apply(op))

    def iota(self, shape: Sequence[Size], axis: int, dtype: DType) -> Expr:
        """A tensor whose elements are their index along ``axis``."""
        op = make("iota", shape=tuple(shape), axis=axis, dtype=dtype)
        return Expr(self.builder, self.builder.apply(op))

    def like(self, value: Number) -> Expr:
        """``value`` everywhere, of this type."""
        return self.full(self.shape, value)

    def zeros(self) -> Expr:
        """Zeros of this type."""
        return self.like(0)

    def count(self, size: Size) -> Expr:
        """``size`` everywhere, of this type."""
        if isinstance(size, int):
            return self.like(size)
        line = self.iota((size + 1,), 0, self.dtype)  # whose last element is what is wanted
        last = line.op("slice", starts=(size,), stops=(size + 1,), steps=(1,))
        return last.reshape(()).expand(range(self.rank), self.shape)

    # arithmetic

    def _binary(self, name: str, other: Expr | Number) -> Expr:
        return self.op(name, other if isinstance(other, Expr) else self.like(other))

    def _reflected(self, name: str, other: Number) -> Expr:
        return self.like(other).op(name, self)

    def __add__(self, other: Expr | Number) -> Expr:
        return self._binary("add", other)

    def __radd__(self, other: Number) -> Expr:
        return self._reflected("add", other)

    def __sub__(self, other: Expr | Number) -> Expr:
        return self._binary("sub", other)

    def __rsub__(self, other: Number) -> Expr:
        return self._reflected("sub", other)

    def __mul__(self, other: Expr | Number) -> Expr:
        return self._binary("mul", other)

    def __rmul__(self, other: Number) -> Expr:
        return self._reflected("mul", other)

    def __truediv__(self, other: Expr | Number) -> Expr:
        return self._binary("div", other)

    def __rtruediv__(self, other: Number) -> Expr:
        return self._reflected("div", other)

    def __pow__(self, other: Expr | Number) -> Expr:
        return self._binary("pow", other)

    def __neg__(self) -> Expr:
        return self.op("neg")

    def __and__(self, other: Expr) -> Expr:
        return self.op("logical_and", other)

    def __or__(self, other: Expr) -> Expr:
        return self.op("logical_or", other)

    def __invert__(self) -> Expr:
        return self.op("logical_not")

    def __lt__(self, other: Expr | Number) -> Expr:
        return self._binary("lt", other)

    def __le__(self, other: Expr | Number) -> Expr:
        return self._binary("le", other)

    def __gt__(self, other: Expr | Number) -> Expr:
        return self._binary("gt", other)

    def __ge__(self, other: Expr | Number) -> Expr:
        return self._binary("ge", other)

    def eq(self, other: Expr | Number) -> Expr:
        """Elementwise ``==`` (Python's ``==`` stays identity)."""
        return self._binary("eq", other)

    def ne(self, other: Expr | Number) -> Expr:
        """Elementwise ``!=``."""
        return self._binary("ne", other)

    def maximum(self, other: Expr | Number) -> Expr:
        """Elementwise maximum; NaN wins."""
        return self._binary("maximum", other)

    def minimum(self, other: Expr | Number) -> Expr:
        """Elementwise minimum; NaN wins."""
        return self._binary("minimum", other)

    def where(self, x: Expr | Number, y: Expr | Number) -> Expr:
        """``x`` where this (bool) is true, else ``y``; at least one is an Expr."""
        if not isinstance(x, Expr):
            if not isinstance(y, Expr):
                raise TypeError("where of two numbers has no dtype")
            x = y.like(x)
        return self.op("where", x, y if isinstance(y, Expr) else x.like(y))

    def exp(self) -> Expr:
        """``e ** x``."""
        return self.op("exp")

    def log(self) -> Expr:
        """Natural logarithm."""
        return self.op("log")

    def sqrt(self) -> Expr:
        """Square root."""
        return self.op("sqrt")

    def rsqrt(self) -> Expr:
        """Reciprocal of the square root."""
        return self.op("rsqrt")

    def tanh(self) -> Expr:
        """Hyperbolic tangent."""
        return self.op("tanh")

    def cast(self, dtype: DType) -> Expr:
        """As another dtype; itself where it has that already."""
        return self if dtype is self.dtype else self.op("cast", dtype=dtype)

    def nonzero(self) -> Expr:
        """``x != 0``."""
        return self.cast(bool_)

    # shape

    def sum(self, axes: Sequence[int]) -> Expr:
        """Sum over ``axes``, which are dropped."""
        return self.op("sum", axes=tuple(axes)) if axes else self

    def mean(self, axes: Sequence[int]) -> Expr:
        """Mean over ``axes``, which are dropped."""
        total = self.sum(axes)
        return total / total.count(product(self.shape[a] for a in axes))

    def max(self, axes: Sequence[int]) -> Expr:
        """Maximum over ``axes``, which are dropped."""
        return self.op("max", axes=tuple(axes)) if axes else self

    def reshape(self, shape: Sequence[Size]) -> Expr:
        """The same elements in row-major order under another shape."""
        return self if tuple(shape) == self.shape else self.op("reshape", shape=tuple(shape))

    def permute(self, axes: Sequence[int]) -> Expr:
        """Axis ``i`` of the result is axis ``axes[i]`` of this."""
        same = tuple(axes) == tuple(range(self.rank))
        return self if same else self.op("permute", axes=tuple(axes))

    def transpose(self, a: int, b: int) -> Expr:
        """Swap two axes (negative ones count from the end)."""
        axes = list(range(self.rank))
        axes[a], axes[b] = axes[b], axes[a]
        return self.permute(axes)

    def expand(self, axes: Sequence[int], sizes: Sequence[Size]) -> Expr:
        """Insert axes of the given sizes at ``axes`` of the result and repeat along them."""
        return self.op("expand", axes=tuple(axes), sizes=tuple(sizes)) if axes else self

    def expand_like(self, other: Expr, axes: Sequence[int]) -> Expr:
        """Undo ``other.sum(axes)`` in shape: repeat along ``axes`` to ``other``'s shape."""
        return self.expand(axes, [other.shape[a] for a in axes])

    def broadcast_to(self, shape: Sequence[Size]) -> Expr:
        """NumPy's broadcasting: align right, repeat missing axes and axes of size 1."""
        extra = len(shape) - self.rank
        ones = [a for a in range(self.rank) if self.shape[a] == 1 and shape[extra + a] != 1]
        kept = [s for a, s in enumerate(self.shape) if a not in ones]
        axes = [*range(extra), *(extra + a for a in ones)]
        return self.reshape(kept).expand(axes, [shape[a] for a in axes])

    def matmul(self, other: Expr, *, transpose_x: bool = False, transpose_y: bool = False) -> Expr:
        """Batched matrix product; both have equal leading axes."""
        return self.op("matmul", other, transpose_x=transpose_x, transpose_y=transpose_y)


Exprs = tuple[Expr, ...]
