"""The methods of ``vtc.Tensor`` that are others by another name, and those that ask what it is.

A table like :mod:`~vtc.frontend.functions.methods`, which inherits it::

    multiply = elementwise.mul
    multiply_ = inplace.mul_
"""

from __future__ import annotations

import abc

from vtc.frontend.functions import (
    activation,
    bessel,
    casts,
    comparison,
    creation,
    elementwise,
    factors,
    facts,
    inplace,
    linalg,
    numbers,
    places,
    probability,
    reduce,
    special,
    statistics,
    strides,
    turned,
)
from vtc.frontend.functions import (
    view as views,
)
from vtc.frontend.functions.inplace import in_place
from vtc.frontend.functions.math_methods import MathMethods


class NamedMethods(abc.ABC):  # noqa: B024 - a mixin
    """What :class:`~vtc.frontend.functions.methods.TensorMethods` inherits; see the module."""

    __slots__ = ()

    # other names

    absolute = elementwise.abs
    absolute_ = inplace.abs_
    arccos = special.acos
    arccos_ = MathMethods.acos_
    arccosh = special.acosh
    arccosh_ = MathMethods.acosh_
    arcsin = special.asin
    arcsin_ = MathMethods.asin_
    arcsinh = special.asinh
    arcsinh_ = MathMethods.asinh_
    arctan = special.atan
    arctan2 = special.atan2
    arctan2_ = MathMethods.atan2_
    arctan_ = MathMethods.atan_
    arctanh = special.atanh
    arctanh_ = MathMethods.atanh_
    broadcast_to = views.broadcast_to
    cdouble = casts.to_complex128
    conj_physical = numbers.conj
    conj_physical_ = numbers.conj
    divide = elementwise.div
    divide_ = inplace.div_
    fix = elementwise.trunc
    fix_ = inplace.trunc_
    greater = comparison.gt
    greater_ = MathMethods.gt_
    greater_equal = comparison.ge
    greater_equal_ = MathMethods.ge_
    less = comparison.lt
    less_ = MathMethods.lt_
    less_equal = comparison.le
    less_equal_ = MathMethods.le_
    multiply = elementwise.mul
    multiply_ = inplace.mul_
    narrow_copy = views.narrow_copy
    negative = elementwise.neg
    negative_ = inplace.neg_
    not_equal = comparison.ne
    not_equal_ = MathMethods.ne_
    resolve_conj = facts.itself
    resolve_neg = facts.itself
    split_with_sizes = views.split_with_sizes
    subtract = elementwise.sub
    subtract_ = inplace.sub_
    to_dense = facts.itself
    unsafe_chunk = views.chunk
    unsafe_split = views.split
    unsafe_split_with_sizes = views.split_with_sizes

    # what it is

    data_ptr = facts.data_ptr
    dim_order = facts.dim_order
    element_size = facts.element_size
    get_device = facts.get_device
    is_complex = facts.is_complex
    is_conj = facts.is_lazy
    is_cpu = property(facts.is_cpu)
    is_floating_point = facts.is_floating_point
    is_neg = facts.is_lazy
    is_nonzero = facts.is_nonzero
    is_same_size = facts.is_same_size
    is_signed = facts.is_signed
    itemsize = property(facts.element_size)
    nbytes = property(facts.nbytes)
    ndimension = facts.ndimension
    nelement = facts.numel
    storage_offset = facts.storage_offset
    stride = facts.stride

    # views in place

    as_strided_ = turned.as_strided_
    detach_ = turned.detach_
    squeeze_ = turned.squeeze_
    swapaxes_ = turned.swapaxes_
    swapdims_ = turned.swapdims_
    t_ = turned.t_
    transpose_ = turned.transpose_
    unsqueeze_ = turned.unsqueeze_

    # formulas

    aminmax = reduce.aminmax
    angle = numbers.angle
    as_strided_scatter = strides.as_strided_scatter
    conj = numbers.conj
    frexp = numbers.frexp
    hardshrink = activation.hardshrink
    histogram = statistics.histogram
    i0 = bessel.i0
    i0_ = in_place(bessel.i0)
    isreal = numbers.isreal
    ldexp = numbers.ldexp
    ldexp_ = in_place(numbers.ldexp)
    mvlgamma = probability.mvlgamma
    mvlgamma_ = in_place(probability.mvlgamma)
    nanmean = statistics.nanmean
    nansum = statistics.nansum
    new_empty = creation.new_empty
    new_empty_strided = strides.new_empty_strided
    new_tensor = creation.new_tensor
    nonzero_static = places.nonzero_static
    prelu = activation.prelu
    real = property(numbers.real)
    renorm = statistics.renorm
    renorm_ = in_place(statistics.renorm)
    sum_to_size = reduce.sum_to_size

    # linear algebra

    cholesky_inverse = linalg.cholesky_inverse
    cholesky_solve = linalg.cholesky_solve
    geqrf = factors.geqrf
    lu = factors.old_lu
    lu_solve = factors.old_lu_solve
    matrix_exp = factors.matrix_exp
    orgqr = factors.householder_product
    ormqr = factors.ormqr
    svd = linalg.old_svd
    triangular_solve = linalg.triangular_solve
