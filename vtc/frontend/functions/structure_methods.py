"""The methods of ``vtc.Tensor`` that move elements, scatter them and multiply by structure.

A table like :mod:`~vtc.frontend.functions.methods`, which inherits it::

    diagonal = strides.diagonal
    scatter_reduce_ = in_place(scattering.scatter_reduce)
"""

from __future__ import annotations

import abc
from typing import TYPE_CHECKING

from vtc.frontend.functions import (
    contract,
    einsum,
    joined,
    linalg,
    scattering,
    strides,
)
from vtc.frontend.functions import (
    view as views,
)
from vtc.frontend.functions.inplace import in_place

if TYPE_CHECKING:
    pass


class StructureMethods(abc.ABC):  # noqa: B024 - a mixin
    """What :class:`~vtc.frontend.functions.methods.TensorMethods` inherits; see the module."""

    __slots__ = ()

    # views

    H = property(views.adjoint)
    mH = property(views.adjoint)
    adjoint = views.adjoint
    as_strided = strides.as_strided
    diagonal = strides.diagonal
    dsplit = joined.dsplit
    hsplit = joined.hsplit
    moveaxis = views.moveaxis
    ravel = views.ravel
    swapaxes = views.swapaxes
    swapdims = views.swapdims
    tensor_split = joined.tensor_split
    unfold = strides.unfold
    vsplit = joined.vsplit

    # rearranged copies

    diag = strides.diag
    diag_embed = strides.diag_embed
    diagflat = strides.diagflat
    diagonal_scatter = strides.diagonal_scatter
    fill_diagonal_ = strides.fill_diagonal_
    fliplr = strides.fliplr
    flipud = strides.flipud
    rot90 = strides.rot90
    select_scatter = strides.select_scatter
    slice_scatter = strides.slice_scatter
    trace = strides.trace

    # indexing

    argwhere = scattering.argwhere
    index_reduce = scattering.index_reduce
    index_reduce_ = in_place(scattering.index_reduce)
    masked_scatter = scattering.masked_scatter
    masked_scatter_ = in_place(scattering.masked_scatter)
    put = scattering.put
    put_ = in_place(scattering.put)
    scatter_reduce = scattering.scatter_reduce
    scatter_reduce_ = in_place(scattering.scatter_reduce)

    # products

    addbmm = contract.addbmm
    addbmm_ = in_place(contract.addbmm)
    addmm_ = in_place(contract.addmm)
    addmv = contract.addmv
    addmv_ = in_place(contract.addmv)
    addr = contract.addr
    addr_ = in_place(contract.addr)
    baddbmm_ = in_place(contract.baddbmm)
    cross = einsum.cross
    ger = contract.outer
    inner = einsum.inner
    kron = einsum.kron
    vdot = einsum.vdot

    # linear algebra

    cholesky = linalg.old_cholesky
    det = linalg.det
    inverse = linalg.inv
    logdet = linalg.logdet
    matrix_power = linalg.matrix_power
    pinverse = linalg.pinv
    qr = linalg.old_qr
    slogdet = linalg.slogdet
