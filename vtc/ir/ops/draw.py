"""Sample inputs for ops: f32 numbers, clear of the places where an op is not smooth."""

from __future__ import annotations

import math

import numpy as np

from vtc.ir.types import Array

SHAPES: tuple[tuple[int, ...], ...] = ((), (1,), (0, 4), (3, 5))
SPECIAL = np.array([math.nan, math.inf, -math.inf, 0.0, -0.0, 1.0, -1.0, 2.5], np.float32)


def normal(rng: np.random.Generator, *shape: int) -> Array:
    """Normal numbers."""
    return np.asarray(rng.normal(size=shape), np.float32)


def spaced(rng: np.random.Generator, *shape: int) -> Array:
    """Distinct numbers in random order, none close to another."""
    steps = rng.permutation(math.prod(shape)) - math.prod(shape) / 2
    return np.asarray(steps.reshape(shape) / 4, np.float32)


def away_from_zero(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """Numbers of both signs, none near 0."""
    numbers = rng.uniform(0.25, 2.0, shape) * rng.choice([-1.0, 1.0], shape)
    return np.asarray(numbers, np.float32)


def apart(rng: np.random.Generator, shape: tuple[int, ...]) -> tuple[Array, Array]:
    """Two operands that are nowhere close to each other."""
    x = np.asarray(rng.uniform(-2.0, 2.0, shape), np.float32)
    return x, np.asarray(x + away_from_zero(rng, shape))


def every_pair(values: Array, arity: int) -> tuple[Array, ...]:
    """Operands that meet in all combinations of ``values``."""
    return tuple(np.ascontiguousarray(x.ravel()) for x in np.meshgrid(*[values] * arity))
