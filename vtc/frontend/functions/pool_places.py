"""Max pooling that also gives where in each image the largest elements are, in row-major order.

values, places = max_pool2d_with_indices(x, 2)
values, places = adaptive_max_pool2d_with_indices(x, (5, None))
y = fractional_max_pool2d(x, 3, output_ratio=0.7)

Windows that are not all alike are looked up: their elements, of which short ones show the last
again, are gathered before the largest is chosen.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from vtc.errors import ArgumentError, TypeCheckError
from vtc.frontend import dispatch
from vtc.frontend.functions import (
    comparison,
    elementwise,
    index,
    pool,
    random,
    reduce,
    view,
)
from vtc.frontend.functions.arguments import Dims, several
from vtc.frontend.functions.conv import batched
from vtc.frontend.functions.promotion import cast
from vtc.frontend.source import located
from vtc.ir.types import i64

if TYPE_CHECKING:
    from vtc.frontend.tensor import Tensor

Pair = tuple["Tensor", "Tensor"]


def max_pool1d_with_indices(
    input: Tensor,
    kernel_size: Dims,
    stride: Dims | None = None,
    padding: Dims = 0,
    dilation: Dims = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Pair:
    """:func:`max_pool1d` and the places of what it gives."""
    del return_indices
    return _both(pool.max_pool1d, input, kernel_size, stride, padding, dilation, ceil_mode)


def max_pool2d_with_indices(
    input: Tensor,
    kernel_size: Dims,
    stride: Dims | None = None,
    padding: Dims = 0,
    dilation: Dims = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Pair:
    """:func:`max_pool2d` and the places of what it gives."""
    del return_indices
    return _both(pool.max_pool2d, input, kernel_size, stride, padding, dilation, ceil_mode)


def max_pool3d_with_indices(
    input: Tensor,
    kernel_size: Dims,
    stride: Dims | None = None,
    padding: Dims = 0,
    dilation: Dims = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Pair:
    """:func:`max_pool3d` and the places of what it gives."""
    del return_indices
    return _both(pool.max_pool3d, input, kernel_size, stride, padding, dilation, ceil_mode)


def _both(function: Callable[..., Any], *how: Any) -> Pair:
    found: Pair = function(*how, return_indices=True)
    return found


# windows that fit a size


def adaptive_max_pool1d(input: Tensor, output_size: Any, return_indices: bool = False) -> Any:
    """:func:`adaptive_max_pool2d` of ``[N, C, L]``."""
    return _adaptive_or_both(1, input, output_size, return_indices)


def adaptive_max_pool2d(input: Tensor, output_size: Any, return_indices: bool = False) -> Any:
    """The largest of ``output_size`` parts of each dim, which overlap where it does not divide.

    None keeps a size. With ``return_indices`` also where the largest are in each image.
    """
    return _adaptive_or_both(2, input, output_size, return_indices)


def adaptive_max_pool3d(input: Tensor, output_size: Any, return_indices: bool = False) -> Any:
    """:func:`adaptive_max_pool2d` of ``[N, C, D, H, W]``."""
    return _adaptive_or_both(3, input, output_size, return_indices)


def adaptive_max_pool1d_with_indices(
    input: Tensor, output_size: Any, return_indices: bool = False
) -> Pair:
    """:func:`adaptive_max_pool1d` and the places of what it gives."""
    del return_indices
    return _adaptive(1, input, output_size)


def adaptive_max_pool2d_with_indices(
    input: Tensor, output_size: Any, return_indices: bool = False
) -> Pair:
    """:func:`adaptive_max_pool2d` and the places of what it gives."""
    del return_indices
    return _adaptive(2, input, output_size)


def adaptive_max_pool3d_with_indices(
    input: Tensor, output_size: Any, return_indices: bool = False
) -> Pair:
    """:func:`adaptive_max_pool3d` and the places of what it gives."""
    del return_indices
    return _adaptive(3, input, output_size)


def _adaptive_or_both(spatial: int, input: Tensor, output_size: Any, both: bool) -> Any:
    if both:
        return _adaptive(spatial, input, output_size)
    return pool.adaptive_max(spatial, input, output_size)


def _adaptive(spatial: int, input: Tensor, output_size: Any) -> Pair:
    name = f"adaptive_max_pool{spatial}d"
    x, single = batched(name, input, spatial)
    wanted = pool.output_sizes(name, output_size, spatial)
    lines = []
    for n, count in zip(map(int, x.shape[2:]), wanted, strict=True):
        table = pool.part_places(n, n if count is None else count)
        lines.append(dispatch.from_array(table[None, None], device=x.device))
    return _largest(x, lines, single=single)


# windows at random places


def fractional_max_pool2d(
    input: Tensor,
    kernel_size: Dims,
    output_size: Dims | None = None,
    output_ratio: Any = None,
    return_indices: bool = False,
    _random_samples: Tensor | None = None,
) -> Any:
    """The largest of windows whose distances are drawn so that ``output_size`` of them fit.

    ``output_ratio`` is that size by the input's. After Graham 2014, with overlapping windows;
    ``_random_samples [N, C, 2]`` are in [0, 1). With ``return_indices`` also where the largest are.
    """
    found = _fractional(2, input, kernel_size, output_size, output_ratio, _random_samples)
    return found if return_indices else found[0]


def fractional_max_pool3d(
    input: Tensor,
    kernel_size: Dims,
    output_size: Dims | None = None,
    output_ratio: Any = None,
    return_indices: bool = False,
    _random_samples: Tensor | None = None,
) -> Any:
    """:func:`fractional_max_pool2d` of ``[N, C, D, H, W]``, with samples ``[N, C, 3]``."""
    found = _fractional(3, input, kernel_size, output_size, output_ratio, _random_samples)
    return found if return_indices else found[0]


def fractional_max_pool2d_with_indices(
    input: Tensor,
    kernel_size: Dims,
    output_size: Dims | None = None,
    output_ratio: Any = None,
    return_indices: bool = False,
    _random_samples: Tensor | None = None,
) -> Pair:
    """:func:`fractional_max_pool2d` and the places of what it gives."""
    del return_indices
    return _fractional(2, input, kernel_size, output_size, output_ratio, _random_samples)


def fractional_max_pool3d_with_indices(
    input: Tensor,
    kernel_size: Dims,
    output_size: Dims | None = None,
    output_ratio: Any = None,
    return_indices: bool = False,
    _random_samples: Tensor | None = None,
) -> Pair:
    """:func:`fractional_max_pool3d` and the places of what it gives."""
    del return_indices
    return _fractional(3, input, kernel_size, output_size, output_ratio, _random_samples)


def _fractional(
    spatial: int,
    input: Tensor,
    kernel_size: Dims,
    output_size: Dims | None,
    output_ratio: Any,
    samples: Tensor | None,
) -> Pair:
    name = f"fractional_max_pool{spatial}d"
    x, single = batched(name, input, spatial)
    kernel = several(name, "kernel_size", kernel_size, spatial)
    sizes = [int(n) for n in x.shape[2:]]
    counts = _counts(name, sizes, output_size, output_ratio)
    if any(k < 1 or c < 1 or c + k - 1 > n for k, c, n in zip(kernel, counts, sizes, strict=True)):
        got = f"got {kernel} and {counts} for {x.type}"
        raise located(ArgumentError, f"{name}: expected windows that fit and one or more, {got}")
    lead = x.type.shape[:2]
    if samples is None:
        samples = random.rand(*lead, spatial, dtype=x.type.dtype, device=x.device)
    if samples.type.shape != (*lead, spatial):
        got = f"got {samples.type}"
        raise located(TypeCheckError, f"{name}: expected samples [N, C, {spatial}], {got}")
    order = range(spatial) if spatial == 3 else (1, 0)  # PyTorch's: width first in two dims
    lines = [
        _starts(view.narrow(samples, 2, at, 1), n, k, c)
        for at, n, k, c in zip(order, sizes, kernel, counts, strict=True)
    ]
    return _largest(x, lines, single=single)


def _counts(name: str, sizes: Sequence[int], output_size: Any, output_ratio: Any) -> list[int]:
    if (output_size is None) == (output_ratio is None):
        raise located(ArgumentError, f"{name}: expected one of output_size and output_ratio")
    if output_size is not None:
        return list(several(name, "output_size", output_size, len(sizes)))
    ratios = output_ratio if isinstance(output_ratio, Sequence) else [output_ratio] * len(sizes)
    if len(ratios) != len(sizes) or not all(0 < r < 1 for r in ratios):
        raise located(ArgumentError, f"{name}: expected ratios in (0, 1), got {output_ratio}")
    return [int(n * r) for n, r in zip(sizes, ratios, strict=True)]


def _starts(sample: Tensor, n: int, kernel: int, count: int) -> Tensor:
    """The elements of each window along one dim, int64 ``[N, C, count, kernel]``."""
    line = dispatch.from_array(np.arange(count), device=sample.device)
    last = dispatch.from_array(np.arange(count) == count - 1, device=sample.device)
    step = (n - kernel) / (count - 1) if count > 1 else 0.0
    reach = elementwise.mul(elementwise.add(sample, cast(line, sample.type.dtype)), step)
    first = elementwise.sub(cast(reach, i64), cast(elementwise.mul(sample, step), i64))
    from_: Tensor = comparison.where(last, n - kernel, first)
    inside = dispatch.from_array(np.arange(kernel), device=sample.device)
    return elementwise.add(view.unsqueeze(from_, -1), inside)


# windows that are looked up


def _largest(x: Tensor, lines: Sequence[Tensor], *, single: bool) -> Pair:
    """The largest elements of windows, and where they are; ``lines`` has for each dim the elements
    of its windows, int64 ``[N or 1, C or 1, count, width]``.
    """
    spatial = len(lines)
    lead, sizes = x.type.shape[:2], [int(n) for n in x.shape[2:]]
    counts, widths = ([int(i.shape[at]) for i in lines] for at in (2, 3))
    places: Any = 0
    for a, line in enumerate(lines):
        shape = [1] * (2 * spatial)
        shape[a], shape[spatial + a] = counts[a], widths[a]
        spread = view.reshape(line, (*line.type.shape[:2], *shape))
        places = places * sizes[a] + spread
    flat = view.flatten(x, 2)
    windows = math.prod(counts)
    table = view.expand(places, (*lead, *counts, *widths))
    table = view.reshape(table, (*lead, windows, math.prod(widths)))
    found = index.gather(flat.detach(), 2, view.flatten(table, 2))
    best = reduce.argmax(view.reshape(found, table.type.shape), 3, True)
    at = view.squeeze(index.gather(table, 3, best), 3)
    values = view.reshape(index.gather(flat, 2, at), (*lead, *counts))
    at = view.reshape(at, (*lead, *counts))
    return (view.squeeze(values, 0), view.squeeze(at, 0)) if single else (values, at)
