"""Images of another size, and read at computed places.

interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
grid_sample(x, affine_grid(theta, x.shape))
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, final

import numpy as np

from vtc.errors import ArgumentError, TypeCheckError
from vtc.frontend import dispatch
from vtc.frontend.functions import comparison, elementwise, view
from vtc.frontend.functions.arguments import expect_tensor, show
from vtc.frontend.functions.contract import matmul
from vtc.frontend.functions.pool import (
    adaptive_avg_pool1d,
    adaptive_avg_pool2d,
    adaptive_avg_pool3d,
)
from vtc.frontend.functions.promotion import cast, expand_to
from vtc.frontend.functions.rearrange import repeat_interleave
from vtc.frontend.source import located
from vtc.ir.ops.index import Index
from vtc.ir.types import Array, i64

if TYPE_CHECKING:
    from vtc.frontend.tensor import Tensor

LINEAR = {"linear": 1, "bilinear": 2, "trilinear": 3}
MODES = ("nearest", "nearest-exact", *LINEAR, "bicubic", "area")
CUBIC = -0.75
"""The parameter of the cubic kernel, as PyTorch has it."""


@final
@dataclass(frozen=True)
class Taps:
    """What each of ``out`` places reads along a dim: ``places [taps, out]`` by ``weights``."""

    places: Array
    weights: Array | None = None


# sizes


def interpolate(
    input: Tensor,
    size: int | Sequence[int] | None = None,
    scale_factor: float | Sequence[float] | None = None,
    mode: str = "nearest",
    align_corners: bool | None = None,
    recompute_scale_factor: bool | None = None,
    antialias: bool = False,
) -> Tensor:
    """``[N, C, ...]`` with its spatial dims brought to ``size``, or by ``scale_factor``.

    ``mode`` is nearest, nearest-exact, linear, bilinear, trilinear (by rank), bicubic (4 dims) or
    area. ArgumentError for ``antialias``, which is not there.
    """
    expect_tensor("interpolate", "input", input)
    spatial = input.type.rank - 2
    _check_mode(input, spatial, mode, align_corners, antialias=antialias)
    sizes = [int(n) for n in input.shape[2:]]
    wanted, factors = _wanted(sizes, size, scale_factor, recompute=bool(recompute_scale_factor))
    if mode == "area":
        pool = (adaptive_avg_pool1d, adaptive_avg_pool2d, adaptive_avg_pool3d)[spatial - 1]
        return pool(input, wanted)
    dtype = input.type.dtype
    x = input if mode.startswith("nearest") else cast(input, dtype.accumulate)
    for a, (n, m, factor) in enumerate(zip(sizes, wanted, factors, strict=True)):
        x = _resized(x, 2 + a, n, m, factor, mode, corners=bool(align_corners))
    return cast(x, dtype)


def upsample(
    input: Tensor,
    size: int | Sequence[int] | None = None,
    scale_factor: float | Sequence[float] | None = None,
    mode: str = "nearest",
    align_corners: bool | None = None,
) -> Tensor:
    """:func:`interpolate` by its old name."""
    return interpolate(input, size, scale_factor, mode, align_corners)


def upsample_nearest(
    input: Tensor,
    size: int | Sequence[int] | None = None,
    scale_factor: float | Sequence[float] | None = None,
) -> Tensor:
    """:func:`interpolate` with mode "nearest"."""
    return interpolate(input, size, scale_factor, "nearest")


def upsample_bilinear(
    input: Tensor,
    size: int | Sequence[int] | None = None,
    scale_factor: float | Sequence[float] | None = None,
) -> Tensor:
    """:func:`interpolate` with mode "bilinear", corners aligned."""
    return interpolate(input, size, scale_factor, "bilinear", True)


def _check_mode(
    input: Tensor, spatial: int, mode: str, align_corners: bool | None, *, antialias: bool
) -> None:
    name = "interpolate"
    if mode not in MODES:
        message = f"{name}: expected mode to be one of {', '.join(MODES)}, got {mode!r}"
        raise located(ArgumentError, message)
    need = 2 if mode == "bicubic" else LINEAR.get(mode)
    if not 1 <= spatial <= 3 or (need is not None and spatial != need):
        want = "3 to 5 dims" if need is None else f"{need + 2} dims"
        raise located(TypeCheckError, f"{name}: mode {mode!r} expects {want}, got {input.type}")
    if align_corners is not None and need is None:
        message = f"{name}: align_corners goes with linear and cubic modes, not with {mode!r}"
        raise located(ArgumentError, message)
    if antialias:
        raise located(ArgumentError, f"{name}: antialias is not supported")


def _wanted(sizes: list[int], size: Any, factor: Any, *, recompute: bool) -> tuple[list[int], Any]:
    """The sizes to reach, and the factors that steps are taken from, None for those of sizes."""
    if (size is None) == (factor is None):
        raise located(ArgumentError, "interpolate: expected either size or scale_factor")
    given = size if factor is None else factor
    each = list(given) if isinstance(given, Sequence) else [given] * len(sizes)
    if len(each) != len(sizes):
        message = f"interpolate: expected one number or {len(sizes)}, got {given!r}"
        raise located(ArgumentError, message)
    whole = [int(e) for e in each]
    if factor is not None:
        whole = [math.floor(n * float(f)) for n, f in zip(sizes, each, strict=True)]
    if min(*whole, *sizes) < 1:
        raise located(ArgumentError, f"interpolate: expected sizes >= 1, got {sizes} to {whole}")
    known = factor is not None and not recompute
    return whole, [float(f) if known else None for f in each]


def _resized(
    x: Tensor, at: int, n: int, m: int, factor: float | None, mode: str, *, corners: bool
) -> Tensor:
    if n == m and factor in (None, 1.0):
        return x
    if mode.startswith("nearest") and m % n == 0 and factor in (None, m / n):
        return repeat_interleave(x, m // n, at)
    if corners and not mode.startswith("nearest"):
        source = np.arange(m, dtype=np.float32) * np.float32((n - 1) / (m - 1) if m > 1 else 0)
    else:
        half = np.float32(0 if mode == "nearest" else 0.5)
        step = np.float32(n / m if factor is None else 1.0 / factor)
        source = (np.arange(m, dtype=np.float32) + half) * step
        source -= np.float32(0 if mode.startswith("nearest") else 0.5)
    return _read(x, at, _taps(source, n, mode))


def _taps(source: Array, n: int, mode: str) -> Taps:
    """What is read where places lie at ``source`` on a line of ``n``."""
    if mode.startswith("nearest"):
        return Taps(np.minimum(np.floor(source).astype(np.int64), n - 1)[None])
    if mode == "bicubic":
        first = np.floor(source)
        t = source - first
        places = first.astype(np.int64) + np.arange(-1, 3)[:, None]
        return Taps(np.clip(places, 0, n - 1), np.stack(_cubic(t)))
    source = np.maximum(source, 0)
    first = np.minimum(np.floor(source).astype(np.int64), n - 1)
    share = np.clip(source - first, 0, 1)
    places = np.stack([first, np.minimum(first + 1, n - 1)])
    return Taps(places, np.stack([1 - share, share]))


def _cubic(t: Any) -> tuple[Any, Any, Any, Any]:
    """The weights of the four neighbours of a place ``t`` after the second one."""

    def near(x: Any) -> Any:
        return ((CUBIC + 2) * x - (CUBIC + 3)) * x * x + 1

    def far(x: Any) -> Any:
        return ((CUBIC * x - 5 * CUBIC) * x + 8 * CUBIC) * x - 4 * CUBIC

    return far(t + 1), near(t), near(1 - t), far(2 - t)


def _read(x: Tensor, at: int, taps: Taps) -> Tensor:
    dtype, after = x.type.dtype.numpy, (1,) * (x.type.rank - at - 1)
    total: Tensor | None = None
    for k, line in enumerate(taps.places):
        places = dispatch.from_array(np.ascontiguousarray(line), device=x.device)
        part = dispatch.apply(Index(axes=(at,)), x, places)
        if taps.weights is not None:
            share = taps.weights[k].astype(dtype).reshape(-1, *after)
            part = elementwise.mul(part, dispatch.from_array(share, device=x.device))
        total = part if total is None else elementwise.add(total, part)
    assert total is not None
    return total


# places


def affine_grid(theta: Tensor, size: Sequence[int], align_corners: bool | None = None) -> Tensor:
    """Where ``theta [N, 2, 3]`` takes each pixel of images (N, C, H, W): ``[N, H, W, 2]``.

    Likewise ``[N, 3, 4]`` for volumes. Places run from -1 to 1.
    """
    expect_tensor("affine_grid", "theta", theta)
    sizes = [int(n) for n in size]
    spatial = len(sizes) - 2
    if spatial not in (2, 3) or theta.type.shape[1:] != (spatial, spatial + 1):
        message = f"expected theta [N, 2, 3] or [N, 3, 4] for {show(sizes)}, got {theta.type}"
        raise located(TypeCheckError, f"affine_grid: {message}")
    lines = [_line(n, corners=bool(align_corners)) for n in sizes[2:]]
    grids = np.meshgrid(*lines, indexing="ij")
    base = np.stack([*reversed(grids), np.ones(sizes[2:])], -1).reshape(-1, spatial + 1)
    points = dispatch.from_array(base.astype(theta.type.dtype.numpy), device=theta.device)
    out = matmul(points, view.transpose(theta, 1, 2))
    return view.reshape(out, (theta.type.shape[0], *sizes[2:], spatial))


def _line(n: int, *, corners: bool) -> Array:
    if n <= 1:
        return np.zeros(n)
    return np.linspace(-1, 1, n) * (1 if corners else (n - 1) / n)


def grid_sample(
    input: Tensor,
    grid: Tensor,
    mode: str = "bilinear",
    padding_mode: str = "zeros",
    align_corners: bool | None = None,
) -> Tensor:
    """``[N, C, H, W]`` read at ``grid [N, OH, OW, 2]`` (x, y from -1 to 1): ``[N, C, OH, OW]``.

    Volumes ``[N, C, D, H, W]`` are read at ``[N, OD, OH, OW, 3]``. ``mode`` is bilinear, nearest or
    bicubic (images); ``padding_mode`` is zeros, border or reflection.
    """
    expect_tensor("grid_sample", "input", input)
    spatial = _check_grid(input, grid, mode, padding_mode)
    dtype = input.type.dtype
    x, points = cast(input, dtype.accumulate), cast(grid, dtype.accumulate)
    sampler = _Sampler(x=x, padding=padding_mode, corners=bool(align_corners))
    taps = [sampler.taps(view.select(points, -1, spatial - 1 - a), a, mode) for a in range(spatial)]
    total: Tensor | None = None
    for chosen in _products(taps):
        part = sampler.read(chosen)
        total = part if total is None else elementwise.add(total, part)
    assert total is not None
    return cast(view.movedim(total, -1, 1), dtype)


def _check_grid(input: Tensor, grid: Tensor, mode: str, padding_mode: str) -> int:
    name = "grid_sample"
    expect_tensor(name, "grid", grid)
    x, g = input.type, grid.type
    spatial = x.rank - 2
    good = spatial in (2, 3) and g.rank == x.rank and g.shape[-1] == spatial
    if not good or g.shape[0] != x.shape[0] or g.dtype is not x.dtype:
        want = "expected [N, C, H, W] and a grid [N, OH, OW, 2], or a volume and [N, .., 3]"
        raise located(TypeCheckError, f"{name}: {want}, got {x} and {g}")
    if mode not in ("bilinear", "nearest", "bicubic") or (mode == "bicubic" and spatial == 3):
        message = f"{name}: expected mode bilinear, nearest, or bicubic of images, got {mode!r}"
        raise located(ArgumentError, message)
    if padding_mode not in ("zeros", "border", "reflection"):
        want = "expected padding_mode zeros, border or reflection"
        raise located(ArgumentError, f"{name}: {want}, got {padding_mode!r}")
    if 0 in x.shape[2:]:
        raise located(TypeCheckError, f"{name}: expected an input that is not empty, got {x}")
    return spatial


Tap = tuple[Any, Any]
"""Where along a dim something is read, as a float that is whole, and its weight (None for 1)."""


@final
@dataclass(frozen=True, kw_only=True)
class _Sampler:
    """How ``x`` is read."""

    x: Tensor
    padding: str
    corners: bool

    def taps(self, point: Tensor, a: int, mode: str) -> list[Tap]:
        """What is read along spatial dim ``a`` for places from -1 to 1."""
        n = int(self.x.shape[2 + a])
        at = (point + 1) * ((n - 1) / 2) if self.corners else ((point + 1) * n - 1) / 2
        if mode == "bicubic":
            first = elementwise.floor(at).detach()
            weights = _cubic(at - first)
            return [(self.inside(first + k - 1, n), w) for k, w in enumerate(weights)]
        at = self.inside(at, n)
        if mode == "nearest":
            return [(elementwise.round(at).detach(), None)]
        first = elementwise.floor(at).detach()
        share = at - first
        return [(first, 1 - share), (first + 1, share)]

    def inside(self, at: Tensor, n: int) -> Tensor:
        """Where a place outside is taken to be; unchanged if there are zeros."""
        if self.padding == "zeros":
            return at
        if self.padding == "reflection":
            at = _reflected(at, 0.0, n - 1.0) if self.corners else _reflected(at, -0.5, n - 0.5)
        return elementwise.clamp(at, 0, n - 1)

    def read(self, taps: Sequence[Tap]) -> Tensor:
        """The elements at one tap of each dim, by their weights: ``[N, *out, C]``."""
        shape = taps[0][0].type.shape
        line = dispatch.from_array(np.arange(int(self.x.shape[0])), device=self.x.device)
        batch = view.reshape(line, (self.x.type.shape[0], *(1,) * (len(shape) - 1)))
        places, weight, there = [expand_to("grid_sample", batch, shape)], None, None
        for a, (at, share) in enumerate(taps):
            n = int(self.x.shape[2 + a])
            number = comparison.where(comparison.isnan(at), -1.0, at)
            places.append(elementwise.clamp(number, 0, n - 1).detach().to(i64))
            good = comparison.logical_and(number >= 0, number <= n - 1)
            there = good if there is None else comparison.logical_and(there, good)
            if share is not None:
                weight = share if weight is None else weight * share
        axes = (0, *range(2, self.x.type.rank))
        found = dispatch.apply(Index(axes=axes), self.x, *places)
        if weight is not None:
            found = found * view.unsqueeze(weight, -1)
        assert there is not None
        kept: Tensor = comparison.where(view.unsqueeze(there, -1), found, 0.0)
        return kept


def _reflected(at: Tensor, low: float, high: float) -> Tensor:
    """``at`` mirrored at both ends until it is between them."""
    span = high - low
    if span == 0:
        return at * 0
    away = elementwise.abs(at - low)
    extra = elementwise.fmod(away, span)
    flips = elementwise.floor(away / span).detach()
    back = comparison.eq(elementwise.remainder(flips, 2), 0)
    found: Tensor = comparison.where(back, extra + low, span - extra + low)
    return found


def _products(taps: Sequence[list[Tap]]) -> list[list[Tap]]:
    found: list[list[Tap]] = [[]]
    for some in taps:
        found = [[*f, t] for f in found for t in some]
    return found
