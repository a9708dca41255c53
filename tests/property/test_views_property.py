"""Random programs with views and in-place writes: eager, compiled and NumPy agree.

NumPy's views are the judge: an instruction does the same thing to a tensor and to an array.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

import vtc

SHAPE = (4, 6)


@dataclass(frozen=True)
class Step:
    """``kind`` applied to the values at ``at``, with an attribute."""

    kind: str
    at: tuple[int, ...]
    value: Any = None


VIEWS = ("row", "columns", "strided", "transpose", "flat", "unsqueeze", "part")
WRITES = ("fill", "add_", "mul_", "copy_", "set_row")
PURE = ("add", "mul", "tanh", "sum_rows")


@st.composite
def programs(draw):
    return [
        Step(
            draw(st.sampled_from(VIEWS + WRITES + PURE)),
            (draw(st.integers(0, 9)), draw(st.integers(0, 9))),
            draw(st.sampled_from([-1.5, 0.5, 2.0])),
        )
        for _ in range(draw(st.integers(1, 9)))
    ]


def view(kind, x):
    if kind == "row":
        return x[0] if len(x.shape) > 1 else x  # NumPy's 1-d case is a number, not a view
    if kind == "columns":
        return x[..., 1:] if len(x.shape) and x.shape[-1] > 1 else x
    if kind == "strided":
        return x[::2] if len(x.shape) else x
    if kind == "transpose":
        return x.T if len(x.shape) == 2 else x
    if kind == "unsqueeze":
        return x[None]
    if kind == "part":
        return x[-1:] if len(x.shape) else x
    return x


def kept(x):
    """NumPy turns 0-d results into numbers, which have no views."""
    return np.asarray(x) if isinstance(x, np.generic) else x


def tanh(x):
    return np.tanh(x) if isinstance(x, np.ndarray) else vtc.tanh(x)


def write(kind, x, y, value):
    if kind == "fill":
        x[...] = value
    elif kind == "add_":
        x += value
    elif kind == "mul_":
        x *= value
    elif kind == "set_row" and len(x.shape):
        x[0] = value
    elif kind == "copy_" and x.shape == y.shape:
        x[...] = y * 1.0


def run(steps, x, y):
    """Execute on arrays or tensors alike; the results and what became of the inputs."""
    values = [x, y]
    for step in steps:
        a, b = (values[i % len(values)] for i in step.at)
        if step.kind == "flat":
            # only where NumPy gives a view too
            values.append(a.reshape(-1) if a is x or a is y else a)
        elif step.kind in VIEWS:
            values.append(view(step.kind, a))
        elif step.kind in WRITES:
            write(step.kind, a, b, step.value)
        elif step.kind == "tanh":
            values.append(kept(tanh(a)))
        elif step.kind == "sum_rows":
            values.append(kept(a.sum(0) if len(a.shape) else a * 1.0))
        elif a.shape == b.shape:
            values.append(kept(a + b if step.kind == "add" else a * b))
    return values[2:]


@settings(max_examples=30)  # each one runs the C compiler
@given(programs())
def test_eager_compiled_and_numpy_agree(steps):
    rng = np.random.default_rng(0)
    start = [rng.normal(size=SHAPE).astype(np.float32) for _ in range(2)]
    arrays = [a.copy() for a in start]
    eager = [vtc.from_numpy(a.copy()) for a in start]
    traced = [vtc.from_numpy(a.copy()) for a in start]
    want = run(steps, *arrays)
    got = run(steps, *eager)
    compiled = vtc.compile(lambda x, y: run(steps, x, y), name="f")(*traced)
    for w, g, c in zip([*want, *arrays], [*got, *eager], [*compiled, *traced], strict=True):
        np.testing.assert_allclose(g.numpy(), w, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(c.numpy(), w, rtol=1e-5, atol=1e-5)


@settings(max_examples=30)  # each one runs the C compiler
@given(programs())
def test_gradients_through_views_and_writes(steps):
    """Eager gradients equal compiled ones, and finite differences of the NumPy run."""
    rng = np.random.default_rng(1)
    start = [rng.normal(size=SHAPE) for _ in range(2)]

    def loss(first, second):
        x, y = first * 1.0, second * 1.0
        values = run(steps, x, y)
        total = (first * second).sum() + (x * x).sum() + (y * x).sum()
        for v in values:
            total = total + (v * v).sum()
        return total

    eager = [vtc.tensor(a, dtype=vtc.float64).requires_grad_() for a in start]
    try:
        value = loss(*eager)
        value.backward()
    except vtc.errors.VersionError:
        return  # a value that the gradient needs was overwritten: PyTorch refuses too
    step = vtc.compile(lambda x, y: vtc.value_and_grad(loss, argnums=(0, 1))(x, y), name="f")
    compiled, grads = step(*[vtc.tensor(a, dtype=vtc.float64) for a in start])
    np.testing.assert_allclose(compiled.item(), value.item(), rtol=1e-9)
    direction = [rng.normal(size=SHAPE) for _ in range(2)]
    eps = 1e-6
    up = loss(*[a + eps * d for a, d in zip(start, direction, strict=True)])
    down = loss(*[a - eps * d for a, d in zip(start, direction, strict=True)])
    own = [e.grad.numpy() for e in eager]
    slope = sum(float((g * d).sum()) for g, d in zip(own, direction, strict=True))
    np.testing.assert_allclose(slope, (up - down) / (2 * eps), rtol=1e-4, atol=1e-4)
    for e, g in zip(own, grads, strict=True):
        np.testing.assert_allclose(g.numpy(), e, rtol=1e-9, atol=1e-9)
