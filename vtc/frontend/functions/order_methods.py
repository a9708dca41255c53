"""Methods of ``vtc.Tensor`` that sort, scan and count: a part of the table in ``methods``::

cumsum = scan.cumsum
cumsum_ = in_place(scan.cumsum)
"""

from __future__ import annotations

import abc

from vtc.frontend.functions import histogram, scan
from vtc.frontend.functions import sort as orders
from vtc.frontend.functions.inplace import in_place


class OrderMethods(abc.ABC):  # noqa: B024 - a mixin
    """What :class:`~vtc.frontend.functions.methods.TensorMethods` inherits."""

    __slots__ = ()

    argsort = orders.argsort
    bincount = histogram.bincount
    corrcoef = histogram.corrcoef
    cov = histogram.cov
    cummax = scan.cummax
    cummin = scan.cummin
    cumprod = scan.cumprod
    cumprod_ = in_place(scan.cumprod)
    cumsum = scan.cumsum
    cumsum_ = in_place(scan.cumsum)
    diff = scan.diff
    histc = histogram.histc
    kthvalue = orders.kthvalue
    logcumsumexp = scan.logcumsumexp
    median = orders.median
    mode = orders.mode
    msort = orders.msort
    nanmedian = orders.nanmedian
    nanquantile = orders.nanquantile
    quantile = orders.quantile
    sort = orders.sort
    topk = orders.topk
    unique = histogram.unique
    unique_consecutive = histogram.unique_consecutive
