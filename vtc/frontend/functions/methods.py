"""The methods of ``vtc.Tensor``: each is a function of this package, the tensor its first argument.

A table and nothing else, so ``x.sum(0)`` and ``vtc.sum(x, 0)`` cannot differ::

    sum = reduce.sum
    add_ = inplace.add_
    __add__ = operator(elementwise.add)      # NotImplemented for what is no tensor and no number
"""

from __future__ import annotations

import abc
from collections.abc import Callable
from functools import wraps
from typing import TYPE_CHECKING, Any, TypeVar, cast

import numpy as np

from vtc.frontend.functions import (
    activation,
    casts,
    comparison,
    contract,
    creation,
    elementwise,
    index,
    inplace,
    promotion,
    random,
    rearrange,
    reduce,
    subscript,
)
from vtc.frontend.functions import (
    view as views,
)
from vtc.frontend.functions.arguments import Number, Value, is_number, is_tensor
from vtc.frontend.functions.math_methods import MathMethods
from vtc.frontend.functions.named_methods import NamedMethods
from vtc.frontend.functions.order_methods import OrderMethods
from vtc.frontend.functions.structure_methods import StructureMethods

if TYPE_CHECKING:
    from vtc.frontend.tensor import Tensor
    from vtc.ir.types import TensorType


V = TypeVar("V")


def operator(function: Callable[[Tensor, V], Tensor]) -> Callable[[Tensor, V], Tensor]:
    """``function`` as Python's operator: other types may know what to do with a tensor.

    A NumPy array is a tensor over its memory.
    """

    @wraps(function)
    def apply(self: Tensor, other: V) -> Tensor:
        if is_tensor(other) or is_number(other):
            return function(self, other)
        return function(self, _of_array(other)) if _is_array(other) else NotImplemented

    return apply


def reflected(function: Callable[[Number, Tensor], Tensor]) -> Callable[[Tensor, Number], Tensor]:
    """``function`` as Python's operator with a tensor on the right."""

    @wraps(function)
    def apply(self: Tensor, other: Number) -> Tensor:
        if is_number(other):
            return function(other, self)
        return function(_of_array(other), self) if _is_array(other) else NotImplemented

    return apply


def _is_array(other: Any) -> bool:
    return isinstance(other, np.ndarray)


def _of_array(array: Any) -> Any:
    return creation.as_tensor(array)


def _rmatmul(self: Tensor, other: object) -> Tensor:
    """``other @ self`` of a NumPy array."""
    return contract.matmul(_of_array(other), self) if _is_array(other) else NotImplemented


_eq, _ne = operator(comparison.eq), operator(comparison.ne)


def _where(input: Tensor, condition: Tensor, other: Value) -> Tensor:
    """``input`` where ``condition`` is true, else ``other``."""
    return comparison.where(condition, input, other)


def _itself(input: Tensor) -> Tensor:
    """``+x``."""
    return input


class TensorMethods(OrderMethods, MathMethods, StructureMethods, NamedMethods):
    """What ``vtc.Tensor`` inherits; see the module."""

    __slots__ = ()
    __array_priority__ = 1000  # NumPy leaves mixed operators to the tensor

    @property
    @abc.abstractmethod
    def type(self) -> TensorType:
        """The IR type, which is what functions ask of a tensor."""

    # operators

    __add__ = operator(elementwise.add)
    __radd__ = reflected(elementwise.add)
    __iadd__ = inplace.add_
    __sub__ = operator(elementwise.sub)
    __rsub__ = reflected(elementwise.sub)
    __isub__ = inplace.sub_
    __mul__ = operator(elementwise.mul)
    __rmul__ = reflected(elementwise.mul)
    __imul__ = inplace.mul_
    __truediv__ = operator(elementwise.div)
    __rtruediv__ = reflected(elementwise.div)
    __itruediv__ = inplace.div_
    __floordiv__ = operator(elementwise.floor_divide)
    __rfloordiv__ = reflected(elementwise.floor_divide)
    __ifloordiv__ = inplace.floor_divide_
    __mod__ = operator(elementwise.remainder)
    __rmod__ = reflected(elementwise.remainder)
    __imod__ = inplace.remainder_
    __pow__ = operator(elementwise.pow)
    __rpow__ = reflected(elementwise.pow)
    __ipow__ = inplace.pow_
    __matmul__ = operator(contract.matmul)
    __rmatmul__ = _rmatmul
    __and__ = operator(comparison.bitwise_and)
    __rand__ = reflected(comparison.bitwise_and)
    __iand__ = inplace.bitwise_and_
    __or__ = operator(comparison.bitwise_or)
    __ror__ = reflected(comparison.bitwise_or)
    __ior__ = inplace.bitwise_or_
    __xor__ = operator(comparison.bitwise_xor)
    __rxor__ = reflected(comparison.bitwise_xor)
    __ixor__ = inplace.bitwise_xor_
    __lshift__ = operator(comparison.bitwise_left_shift)
    __rlshift__ = reflected(comparison.bitwise_left_shift)
    __ilshift__ = MathMethods.bitwise_left_shift_
    __rshift__ = operator(comparison.bitwise_right_shift)
    __rrshift__ = reflected(comparison.bitwise_right_shift)
    __irshift__ = MathMethods.bitwise_right_shift_
    __neg__ = elementwise.neg
    __pos__ = _itself
    __abs__ = elementwise.abs
    __invert__ = comparison.bitwise_not
    __lt__ = operator(comparison.lt)
    __le__ = operator(comparison.le)
    __gt__ = operator(comparison.gt)
    __ge__ = operator(comparison.ge)
    __getitem__ = subscript.getitem
    __setitem__ = subscript.setitem

    def __eq__(self, other: object) -> Any:
        return _eq(cast("Tensor", self), cast("Number", other))

    def __ne__(self, other: object) -> Any:
        return _ne(cast("Tensor", self), cast("Number", other))

    __hash__ = object.__hash__

    # arithmetic

    abs = elementwise.abs
    add = elementwise.add
    addcdiv = elementwise.addcdiv
    addcmul = elementwise.addcmul
    ceil = elementwise.ceil
    clamp = elementwise.clamp
    cos = elementwise.cos
    div = elementwise.div
    erf = elementwise.erf
    exp = elementwise.exp
    floor = elementwise.floor
    floor_divide = elementwise.floor_divide
    fmod = elementwise.fmod
    frac = elementwise.frac
    lerp = elementwise.lerp
    log = elementwise.log
    log2 = elementwise.log2
    log10 = elementwise.log10
    maximum = elementwise.maximum
    minimum = elementwise.minimum
    mul = elementwise.mul
    neg = elementwise.neg
    pow = elementwise.pow
    reciprocal = elementwise.reciprocal
    remainder = elementwise.remainder
    round = elementwise.round
    rsqrt = elementwise.rsqrt
    sign = elementwise.sign
    sin = elementwise.sin
    sqrt = elementwise.sqrt
    square = elementwise.square
    sub = elementwise.sub
    tanh = elementwise.tanh
    trunc = elementwise.trunc
    relu = activation.relu
    sigmoid = activation.sigmoid
    softmax = activation.softmax
    log_softmax = activation.log_softmax

    # comparison, logic, choice

    eq = comparison.eq
    ne = comparison.ne
    lt = comparison.lt
    le = comparison.le
    gt = comparison.gt
    ge = comparison.ge
    equal = comparison.equal
    isclose = comparison.isclose
    allclose = comparison.allclose
    isnan = comparison.isnan
    isinf = comparison.isinf
    isfinite = comparison.isfinite
    logical_and = comparison.logical_and
    logical_or = comparison.logical_or
    logical_xor = comparison.logical_xor
    logical_not = comparison.logical_not
    bitwise_and = comparison.bitwise_and
    bitwise_or = comparison.bitwise_or
    bitwise_xor = comparison.bitwise_xor
    bitwise_not = comparison.bitwise_not
    masked_fill = comparison.masked_fill
    where = _where

    # dtypes

    _cast = promotion.cast
    bfloat16 = casts.to_bfloat16
    bool = casts.to_bool
    byte = casts.to_uint8
    char = casts.to_int8
    cfloat = casts.to_complex64
    double = casts.to_float64
    float = casts.to_float32
    half = casts.to_float16
    int = casts.to_int32
    long = casts.to_int64
    short = casts.to_int16
    type_as = casts.type_as

    # reductions

    all = reduce.all
    amax = reduce.amax
    amin = reduce.amin
    any = reduce.any
    argmax = reduce.argmax
    argmin = reduce.argmin
    count_nonzero = reduce.count_nonzero
    logsumexp = reduce.logsumexp
    max = reduce.max
    mean = reduce.mean
    min = reduce.min
    norm = reduce.norm
    prod = reduce.prod
    std = reduce.std
    sum = reduce.sum
    var = reduce.var

    # views

    T = property(views.reverse_dims)
    mT = property(views.matrix_transpose)
    chunk = views.chunk
    contiguous = views.contiguous
    expand = views.expand
    expand_as = views.expand_as
    flatten = views.flatten
    is_contiguous = views.is_contiguous
    movedim = views.movedim
    narrow = views.narrow
    permute = views.permute
    reshape = views.reshape
    reshape_as = views.reshape_as
    select = views.select
    split = views.split
    squeeze = views.squeeze
    t = views.t
    transpose = views.transpose
    unbind = views.unbind
    unflatten = views.unflatten
    unsqueeze = views.unsqueeze
    view = views.view
    view_as = views.view_as

    # rearranged copies

    flip = rearrange.flip
    repeat = rearrange.repeat
    repeat_interleave = rearrange.repeat_interleave
    roll = rearrange.roll
    tile = rearrange.tile
    tril = rearrange.tril
    triu = rearrange.triu
    new_full = creation.new_full
    new_ones = creation.new_ones
    new_zeros = creation.new_zeros

    # products

    addmm = contract.addmm
    baddbmm = contract.baddbmm
    bmm = contract.bmm
    dot = contract.dot
    matmul = contract.matmul
    mm = contract.mm
    mv = contract.mv
    outer = contract.outer

    # indexing

    dynamic_slice = index.dynamic_slice
    dynamic_update = index.dynamic_update
    gather = index.gather
    index_add = index.index_add
    index_copy = index.index_copy
    index_fill = index.index_fill
    index_put = index.index_put
    index_select = index.index_select
    masked_select = index.masked_select
    nonzero = index.nonzero
    scatter = index.scatter
    scatter_add = index.scatter_add
    take = index.take
    take_along_dim = index.take_along_dim

    # random numbers

    bernoulli = random.bernoulli
    bernoulli_ = random.bernoulli_
    multinomial = random.multinomial
    normal_ = random.normal_
    uniform_ = random.uniform_

    # in place

    abs_ = inplace.abs_
    add_ = inplace.add_
    addcdiv_ = inplace.addcdiv_
    addcmul_ = inplace.addcmul_
    bitwise_and_ = inplace.bitwise_and_
    bitwise_or_ = inplace.bitwise_or_
    bitwise_xor_ = inplace.bitwise_xor_
    ceil_ = inplace.ceil_
    clamp_ = inplace.clamp_
    copy_ = inplace.copy_
    cos_ = inplace.cos_
    div_ = inplace.div_
    erf_ = inplace.erf_
    exp_ = inplace.exp_
    fill_ = inplace.fill_
    floor_ = inplace.floor_
    floor_divide_ = inplace.floor_divide_
    index_add_ = inplace.index_add_
    index_copy_ = inplace.index_copy_
    index_fill_ = inplace.index_fill_
    index_put_ = inplace.index_put_
    lerp_ = inplace.lerp_
    log_ = inplace.log_
    logical_and_ = inplace.logical_and_
    logical_not_ = inplace.logical_not_
    logical_or_ = inplace.logical_or_
    masked_fill_ = inplace.masked_fill_
    mul_ = inplace.mul_
    neg_ = inplace.neg_
    pow_ = inplace.pow_
    reciprocal_ = inplace.reciprocal_
    relu_ = inplace.relu_
    remainder_ = inplace.remainder_
    round_ = inplace.round_
    rsqrt_ = inplace.rsqrt_
    scatter_ = inplace.scatter_
    scatter_add_ = inplace.scatter_add_
    sigmoid_ = inplace.sigmoid_
    sign_ = inplace.sign_
    sin_ = inplace.sin_
    sqrt_ = inplace.sqrt_
    square_ = inplace.square_
    sub_ = inplace.sub_
    tanh_ = inplace.tanh_
    tril_ = inplace.tril_
    triu_ = inplace.triu_
    trunc_ = inplace.trunc_
    zero_ = inplace.zero_
