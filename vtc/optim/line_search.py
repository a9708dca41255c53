"""A search along a line for a point that is low and flat enough: the strong Wolfe conditions.

As in PyTorch, which follows Schmidt's minFunc: steps grow until they bracket such a point, then the
bracket shrinks by cubic interpolation.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import final

from vtc.frontend.tensor import Tensor

Probe = Callable[[float, Tensor], tuple[float, Tensor, float]]


@final
@dataclass(frozen=True)
class Point:
    """A place ``t`` along the line: the loss there, its gradient, and the slope along the line."""

    t: float
    loss: float
    gradient: Tensor
    slope: float


@final
@dataclass
class _Search:
    """A search from ``start``; ``most`` points may be looked at after the first one."""

    probe: Probe
    d: Tensor
    start: Point
    most: int
    c1: float
    c2: float
    turns: int = 0

    def at(self, t: float) -> Point:
        """The point at ``t``."""
        return Point(t, *self.probe(t, self.d))

    def high(self, p: Point) -> bool:
        """Whether the loss at ``p`` is not low enough."""
        return p.loss > self.start.loss + self.c1 * p.t * self.start.slope

    def flat(self, p: Point) -> bool:
        """Whether the line is flat enough at ``p``."""
        return abs(p.slope) <= -self.c2 * self.start.slope


def strong_wolfe(
    probe: Probe,
    t: float,
    d: Tensor,
    start: Point,
    *,
    most: int = 25,
    c1: float = 1e-4,
    c2: float = 0.9,
    tolerance_change: float = 1e-9,
) -> Point:
    """A point along ``d`` from ``start``, first tried at ``t``."""
    search = _Search(probe, d, start, most, c1, c2)
    low, high = _bracket(search, t)
    if low is high:
        return low
    return _shrink(search, low, high, tolerance_change / float(d.abs().max()))


def _bracket(search: _Search, t: float) -> tuple[Point, Point]:
    """Two points between which there is a good one, the lower first; or the same one twice."""
    before, now = search.start, search.at(t)
    while search.turns < search.most:
        if search.high(now) or (search.turns > 1 and now.loss >= before.loss):
            return _sorted(before, now)
        if search.flat(now):
            return now, now
        if now.slope >= 0:
            return _sorted(before, now)
        far = now.t + 0.01 * (now.t - before.t), now.t * 10
        before, now = now, search.at(_cubic(before, now, far))
        search.turns += 1
    return _sorted(search.start, now)


def _shrink(search: _Search, low: Point, high: Point, least: float) -> Point:
    """The best point found in the bracket, until it is narrower than ``least``."""
    stuck = False
    while search.turns < search.most and abs(high.t - low.t) >= least:
        left, right = min(low.t, high.t), max(low.t, high.t)
        t, margin = _cubic(low, high, (left, right)), 0.1 * (right - left)
        near = min(right - t, t - left) < margin
        if near and (stuck or not left < t < right):
            t = right - margin if abs(t - right) < abs(t - left) else left + margin
            near = False
        stuck = near
        now = search.at(t)
        search.turns += 1
        if search.high(now) or now.loss >= low.loss:
            low, high = _sorted(low, now)
            continue
        if search.flat(now):
            return now
        high = low if now.slope * (high.t - low.t) >= 0 else high
        low = now
    return low


def _sorted(a: Point, b: Point) -> tuple[Point, Point]:
    return (a, b) if a.loss <= b.loss else (b, a)


def _cubic(a: Point, b: Point, bounds: tuple[float, float]) -> float:
    """Where the cubic through both points with their slopes is least, within ``bounds``."""
    one = a.slope + b.slope - 3 * (a.loss - b.loss) / (a.t - b.t)
    square = one**2 - a.slope * b.slope
    if not square >= 0:
        return sum(bounds) / 2.0
    two = math.sqrt(square)
    x, y = (a, b) if a.t <= b.t else (b, a)
    rest = y.slope - x.slope + 2 * two
    t = y.t - (y.t - x.t) * ((y.slope + two - one) / rest) if rest else sum(bounds) / 2.0
    return min(max(t, bounds[0]), bounds[1])
