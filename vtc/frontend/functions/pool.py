"""Pooling of ``[N, C, ...]``, or ``[C, ...]`` for one sample, over one to three dims.

max_pool2d(x, 3, stride=2, padding=1)
values, places = max_pool2d(x, 2, return_indices=True)
adaptive_avg_pool2d(x, (7, None))            # None keeps a size
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from vtc.errors import ArgumentError
from vtc.frontend import dispatch
from vtc.frontend.functions import elementwise, index, reduce, view
from vtc.frontend.functions.arguments import Dims, several
from vtc.frontend.functions.conv import batched
from vtc.frontend.source import located
from vtc.ir.dims import product
from vtc.ir.ops.conv import Ints
from vtc.ir.ops.fill import Pad
from vtc.ir.ops.index import Index
from vtc.ir.ops.pool import AvgPool1d, AvgPool2d, AvgPool3d, MaxPool1d, MaxPool2d, MaxPool3d
from vtc.ir.ops.reduce import Argmax
from vtc.ir.ops.window import Window

if TYPE_CHECKING:
    from vtc.frontend.tensor import Tensor

# Parents of ops are abstract, which mypy does not let be a type[Op].
_MAX: tuple[Any, ...] = (MaxPool1d, MaxPool2d, MaxPool3d)
_AVG: tuple[Any, ...] = (AvgPool1d, AvgPool2d, AvgPool3d)


# maxima


def _max_pool(
    spatial: int,
    input: Tensor,
    kernel_size: Dims,
    stride: Dims | None = None,
    padding: Dims = 0,
    dilation: Dims = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:
    name = f"max_pool{spatial}d"
    kernel, steps, around = _how(name, spatial, kernel_size, stride, padding)
    spread = several(name, "dilation", dilation, spatial)
    if min(spread) < 1:
        raise located(ArgumentError, f"{name}: expected dilation >= 1, got {spread}")
    x, single = batched(name, input, spatial)
    extra = _extra(x, kernel, steps, around, spread) if ceil_mode else ()
    given = () if max(spread) == 1 else spread
    op = _MAX[spatial - 1](kernel, steps, around, extra, given)
    out = dispatch.apply(op, x)
    if return_indices:
        places = _places(x, kernel, steps, around, extra, spread)
        return (view.squeeze(out, 0), view.squeeze(places, 0)) if single else (out, places)
    return view.squeeze(out, 0) if single else out


def max_pool1d(
    input: Tensor,
    kernel_size: Dims,
    stride: Dims | None = None,
    padding: Dims = 0,
    dilation: Dims = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:
    """:func:`max_pool2d` of ``[N, C, L]``."""
    how = kernel_size, stride, padding, dilation, ceil_mode, return_indices
    return _max_pool(1, input, *how)


def max_pool2d(
    input: Tensor,
    kernel_size: Dims,
    stride: Dims | None = None,
    padding: Dims = 0,
    dilation: Dims = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:
    """The largest of each window; ``stride`` None is ``kernel_size``, padding never wins.

    With ``ceil_mode`` windows may reach over the end. With ``return_indices`` also where the
    largest are in each image, in row-major order.
    """
    how = kernel_size, stride, padding, dilation, ceil_mode, return_indices
    return _max_pool(2, input, *how)


def max_pool3d(
    input: Tensor,
    kernel_size: Dims,
    stride: Dims | None = None,
    padding: Dims = 0,
    dilation: Dims = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:
    """:func:`max_pool2d` of ``[N, C, D, H, W]``."""
    how = kernel_size, stride, padding, dilation, ceil_mode, return_indices
    return _max_pool(3, input, *how)


def _places(
    x: Tensor, kernel: Ints, stride: Ints, padding: Ints, extra: Ints, dilation: Ints
) -> Tensor:
    """Where in each image the first largest element of each window is."""
    count = len(kernel)
    ends = extra or (0,) * count
    pads = ((0, 0, 0), (0, 0, 0), *((p, p + e, 0) for p, e in zip(padding, ends, strict=True)))
    parts = dispatch.apply(Pad(pads=pads, value=-math.inf), x.detach())
    for a in range(count):
        op = Window(axis=2 + a, size=kernel[a], stride=stride[a], dilation=dilation[a])
        parts = dispatch.view(op, parts)
    shape = parts.type.shape[: 2 + count]
    flat = view.reshape(parts, (*shape, math.prod(kernel)))
    inside = dispatch.apply(Argmax(axis=2 + count), flat)
    at: Any = 0
    after = math.prod(kernel)
    for a in range(count):
        after //= kernel[a]
        within = elementwise.floor_divide(inside, after) % kernel[a]
        line = _line(x, parts.shape[2 + a]) * stride[a] - padding[a]
        first = view.reshape(line, (shape[2 + a], *(1,) * (count - 1 - a)))
        at = at * int(x.shape[2 + a]) + (first + within * dilation[a])
    found: Tensor = at
    return found


def _line(x: Tensor, n: Any) -> Tensor:
    return dispatch.from_array(np.arange(int(n)), device=x.device)


def _unpool(
    spatial: int,
    input: Tensor,
    indices: Tensor,
    kernel_size: Dims,
    stride: Dims | None = None,
    padding: Dims = 0,
    output_size: Sequence[int] | None = None,
) -> Tensor:
    name = f"max_unpool{spatial}d"
    kernel, steps, around = _how(name, spatial, kernel_size, stride, padding)
    x, single = batched(name, input, spatial)
    at = view.unsqueeze(indices, 0) if single else indices
    pairs = zip(x.type.shape[2:], kernel, steps, around, strict=True)
    sizes = tuple((n - 1) * s - 2 * p + k for n, k, s, p in pairs)
    if output_size is not None:
        sizes = dispatch.sizes(tuple(output_size)[-spatial:])
    lead = x.type.shape[:2]
    none = dispatch.constant(0, x.type.dtype, (*lead, product(sizes)), x.device)
    flat = index.scatter(none, 2, view.flatten(at, 2), view.flatten(x, 2))
    out = view.reshape(flat, (*lead, *sizes))
    return view.squeeze(out, 0) if single else out


def max_unpool1d(
    input: Tensor,
    indices: Tensor,
    kernel_size: Dims,
    stride: Dims | None = None,
    padding: Dims = 0,
    output_size: Sequence[int] | None = None,
) -> Tensor:
    """Zeros with ``input`` where ``indices`` of :func:`max_pool1d` say."""
    return _unpool(1, input, indices, kernel_size, stride, padding, output_size)


def max_unpool2d(
    input: Tensor,
    indices: Tensor,
    kernel_size: Dims,
    stride: Dims | None = None,
    padding: Dims = 0,
    output_size: Sequence[int] | None = None,
) -> Tensor:
    """Zeros with ``input`` where ``indices`` of :func:`max_pool2d` say."""
    return _unpool(2, input, indices, kernel_size, stride, padding, output_size)


def max_unpool3d(
    input: Tensor,
    indices: Tensor,
    kernel_size: Dims,
    stride: Dims | None = None,
    padding: Dims = 0,
    output_size: Sequence[int] | None = None,
) -> Tensor:
    """Zeros with ``input`` where ``indices`` of :func:`max_pool3d` say."""
    return _unpool(3, input, indices, kernel_size, stride, padding, output_size)


# means


def _avg_pool(
    spatial: int,
    input: Tensor,
    kernel_size: Dims,
    stride: Dims | None = None,
    padding: Dims = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Tensor:
    name = f"avg_pool{spatial}d"
    kernel, steps, around = _how(name, spatial, kernel_size, stride, padding)
    if divisor_override == 0:
        raise located(ArgumentError, f"{name}: expected divisor_override not to be 0")
    x, single = batched(name, input, spatial)
    extra = _extra(x, kernel, steps, around, (1,) * spatial) if ceil_mode else ()
    counted = count_include_pad or not any((*around, *extra))
    op = _AVG[spatial - 1](kernel, steps, around, extra, counted, divisor_override or 0)
    out = dispatch.apply(op, x)
    return view.squeeze(out, 0) if single else out


def avg_pool1d(
    input: Tensor,
    kernel_size: Dims,
    stride: Dims | None = None,
    padding: Dims = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> Tensor:
    """:func:`avg_pool2d` of ``[N, C, L]``."""
    return _avg_pool(1, input, kernel_size, stride, padding, ceil_mode, count_include_pad)


def avg_pool2d(
    input: Tensor,
    kernel_size: Dims,
    stride: Dims | None = None,
    padding: Dims = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Tensor:
    """The mean of each window; ``stride`` None is ``kernel_size``.

    Padding counts as zeros unless ``count_include_pad`` is false; ``divisor_override`` stands for
    the count.
    """
    how = kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override
    return _avg_pool(2, input, *how)


def avg_pool3d(
    input: Tensor,
    kernel_size: Dims,
    stride: Dims | None = None,
    padding: Dims = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Tensor:
    """:func:`avg_pool2d` of ``[N, C, D, H, W]``."""
    how = kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override
    return _avg_pool(3, input, *how)


def _lp_pool(
    spatial: int,
    input: Tensor,
    norm_type: float,
    kernel_size: Dims,
    stride: Dims | None = None,
    ceil_mode: bool = False,
) -> Tensor:
    kernel = several(f"lp_pool{spatial}d", "kernel_size", kernel_size, spatial)
    mean = _avg_pool(spatial, elementwise.pow(input, norm_type), kernel, stride, 0, ceil_mode)
    return elementwise.pow(elementwise.mul(mean, math.prod(kernel)), 1.0 / norm_type)


def lp_pool1d(
    input: Tensor,
    norm_type: float,
    kernel_size: Dims,
    stride: Dims | None = None,
    ceil_mode: bool = False,
) -> Tensor:
    """:func:`lp_pool2d` of ``[N, C, L]``."""
    return _lp_pool(1, input, norm_type, kernel_size, stride, ceil_mode)


def lp_pool2d(
    input: Tensor,
    norm_type: float,
    kernel_size: Dims,
    stride: Dims | None = None,
    ceil_mode: bool = False,
) -> Tensor:
    """The ``norm_type``-th root of the sum of each window's powers."""
    return _lp_pool(2, input, norm_type, kernel_size, stride, ceil_mode)


def lp_pool3d(
    input: Tensor,
    norm_type: float,
    kernel_size: Dims,
    stride: Dims | None = None,
    ceil_mode: bool = False,
) -> Tensor:
    """:func:`lp_pool2d` of ``[N, C, D, H, W]``."""
    return _lp_pool(3, input, norm_type, kernel_size, stride, ceil_mode)


# windows that fit a size


def _adaptive(
    spatial: int,
    input: Tensor,
    output_size: Any,
    kinds: Sequence[Any],
    along: Callable[..., Tensor],
) -> Tensor:
    """One pool where parts are equal; else ``along`` over one dim after the other."""
    kind = kinds[spatial - 1]
    name = f"adaptive_{kind.name}"
    x, single = batched(name, input, spatial)
    wanted = output_sizes(name, output_size, spatial)
    if wanted == [1] * spatial and not all(isinstance(n, int) for n in x.shape[2:]):
        whole = reduce.mean if kinds is _AVG else reduce.amax
        x = whole(x, tuple(range(2, 2 + spatial)), keepdim=True)
        return view.squeeze(x, 0) if single else x
    sizes = [int(n) for n in x.shape[2:]]
    counts = [n if c is None else c for n, c in zip(sizes, wanted, strict=True)]
    if all(c and n and n % c == 0 for n, c in zip(sizes, counts, strict=True)):
        kernel = tuple(n // c for n, c in zip(sizes, counts, strict=True))
        x = dispatch.apply(kind(kernel, kernel, (0,) * spatial), x)
    else:
        for a, (n, c) in enumerate(zip(sizes, counts, strict=True)):
            x = x if n == c else along(x, 2 + a, n, c)
    return view.squeeze(x, 0) if single else x


def output_sizes(name: str, output_size: Any, spatial: int) -> list[int | None]:
    """``output_size`` for each dim; ArgumentError unless it is sizes or None."""
    one = not isinstance(output_size, Sequence)
    found = [output_size] * spatial if one else list(output_size)
    found = found * spatial if len(found) == 1 else found
    good = len(found) == spatial and all(
        n is None or (isinstance(n, int) and not isinstance(n, bool) and n >= 0) for n in found
    )
    if not good:
        message = f"{name}: expected output_size to be sizes or None, got {output_size!r}"
        raise located(ArgumentError, message)
    return found


def _bounds(n: int, count: int) -> list[tuple[int, int]]:
    return [(k * n // count, -(-(k + 1) * n // count)) for k in range(count)]


def _shown(x: Tensor, at: int, n: int, count: int) -> tuple[Tensor, Any]:
    """The parts of dim ``at`` as one more dim after it, and how many elements each has.

    Shorter parts show their last element again.
    """
    if count and n % count == 0:
        shape = x.type.shape
        return view.reshape(x, (*shape[:at], count, n // count, *shape[at + 1 :])), None
    table = dispatch.from_array(part_places(n, count), device=x.device)
    return dispatch.apply(Index(axes=(at,)), x, table), _bounds(n, count)


def part_places(n: int, count: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    """The elements of each of ``count`` parts of ``n``, ``[count, width]``; short ones repeat."""
    bounds = _bounds(n, count)
    width = max((b - a for a, b in bounds), default=1)
    places = [[min(a + k, b - 1) for k in range(width)] for a, b in bounds]
    return np.array(places, np.int64).reshape(count, width)


def _mean_along(x: Tensor, at: int, n: int, count: int) -> Tensor:
    parts, bounds = _shown(x, at, n, count)
    if bounds is None:
        return reduce.mean(parts, at + 1)
    width = int(parts.shape[at + 1])
    share = np.array([[(k < b - a) / (b - a) for k in range(width)] for a, b in bounds])
    after = (1,) * (parts.type.rank - at - 2)
    weights = share.reshape(count, width, *after).astype(x.type.dtype.numpy)
    scaled = elementwise.mul(parts, dispatch.from_array(weights, device=x.device))
    return reduce.sum(scaled, at + 1)


def _max_along(x: Tensor, at: int, n: int, count: int) -> Tensor:
    parts, _ = _shown(x, at, n, count)
    best: Tensor = reduce.max(parts, at + 1).values
    return best


def adaptive_avg_pool1d(input: Tensor, output_size: Any) -> Tensor:
    """:func:`adaptive_avg_pool2d` of ``[N, C, L]``."""
    return _adaptive(1, input, output_size, _AVG, _mean_along)


def adaptive_avg_pool2d(input: Tensor, output_size: Any) -> Tensor:
    """Means over ``output_size`` parts of each dim, which overlap where it does not divide; None
    keeps a size.
    """
    return _adaptive(2, input, output_size, _AVG, _mean_along)


def adaptive_avg_pool3d(input: Tensor, output_size: Any) -> Tensor:
    """:func:`adaptive_avg_pool2d` of ``[N, C, D, H, W]``."""
    return _adaptive(3, input, output_size, _AVG, _mean_along)


def adaptive_max(spatial: int, input: Tensor, output_size: Any) -> Tensor:
    """The largest of parts of each dim, of which there are ``spatial``; None keeps a size."""
    return _adaptive(spatial, input, output_size, _MAX, _max_along)


# arguments


def _how(
    name: str, spatial: int, kernel_size: Dims, stride: Dims | None, padding: Dims
) -> tuple[Ints, Ints, Ints]:
    kernel = several(name, "kernel_size", kernel_size, spatial)
    none = stride is None or stride in ((), [])
    steps = kernel if none else several(name, "stride", stride or 0, spatial)
    around = several(name, "padding", padding, spatial)
    if min(*kernel, *steps) < 1 or min(around) < 0:
        got = f"got {kernel}, {steps} and {around}"
        raise located(
            ArgumentError, f"{name}: expected kernel and stride >= 1 and padding >= 0, {got}"
        )
    return kernel, steps, around


def _extra(x: Tensor, kernel: Ints, stride: Ints, padding: Ints, dilation: Ints) -> Ints:
    """What windows reach beyond the padding at the end in ceil mode; each begins before that."""
    found = []
    sides = zip(x.shape[2:], kernel, stride, padding, dilation, strict=True)
    for size, k, s, p, d in sides:
        n, span = int(size), d * (k - 1) + 1
        count = -(-(n + 2 * p - span) // s) + 1
        if (count - 1) * s >= n + p:
            count -= 1
        found.append(max((count - 1) * s + span - (n + 2 * p), 0))
    return tuple(found) if any(found) else ()
