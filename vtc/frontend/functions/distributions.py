"""Random numbers of many distributions, each a function of even or normal ones.

x.exponential_(2.0)
x.random_(0, 10, generator=g)

Functions are computed in f64 and rounded once: kernels and NumPy differ in the last bits of a
logarithm, and what is drawn is to be the same eager and compiled. Numbers in f64 may differ in the
last bit.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from vtc.errors import ArgumentError, TypeCheckError
from vtc.frontend.functions import activation, elementwise, index, reduce, special
from vtc.frontend.functions.arguments import expect_tensor
from vtc.frontend.functions.creation import zeros_like
from vtc.frontend.functions.promotion import assign
from vtc.frontend.functions.random import Generator, rand, randint, randn
from vtc.frontend.source import located
from vtc.ir.ops.random import DIGITS
from vtc.ir.types import bool_, f32, f64

if TYPE_CHECKING:
    from vtc.frontend.tensor import Tensor


def exponential_(
    input: Tensor, lambd: float = 1.0, *, generator: Generator | None = None
) -> Tensor:
    """Overwrite ``input`` with exponential numbers of mean ``1 / lambd``."""
    if lambd <= 0:
        raise located(ArgumentError, f"exponential_: expected lambd > 0, got {lambd}")
    logs = special.log1p(elementwise.neg(_even("exponential_", input, generator)))
    return assign("exponential_", input, elementwise.mul(logs, -1 / lambd))


def geometric_(input: Tensor, p: float, *, generator: Generator | None = None) -> Tensor:
    """Overwrite ``input`` with how many trials it took until the first that succeeded, each doing
    so with probability ``p``.
    """
    if not 0 < p < 1:
        raise located(ArgumentError, f"geometric_: expected 0 < p < 1, got {p}")
    logs = special.log1p(elementwise.neg(_even("geometric_", input, generator)))
    count = elementwise.clamp(elementwise.ceil(elementwise.div(logs, math.log1p(-p))), min=1)
    return assign("geometric_", input, count.to(input.dtype))


def log_normal_(
    input: Tensor, mean: float = 1.0, std: float = 2.0, *, generator: Generator | None = None
) -> Tensor:
    """Overwrite ``input`` with numbers whose logarithms are normal, of ``mean`` and ``std``."""
    if std <= 0:
        raise located(ArgumentError, f"log_normal_: expected std > 0, got {std}")
    _floating("log_normal_", input)
    dtype = f64 if input.dtype is f64 else f32
    drawn = randn(*input.shape, generator=generator, dtype=dtype, device=input.device)
    logs = elementwise.add(elementwise.mul(drawn.to(f64), std), mean)
    return assign("log_normal_", input, elementwise.exp(logs))


def cauchy_(
    input: Tensor, median: float = 0.0, sigma: float = 1.0, *, generator: Generator | None = None
) -> Tensor:
    """Overwrite ``input`` with numbers of the Cauchy distribution."""
    if sigma <= 0:
        raise located(ArgumentError, f"cauchy_: expected sigma > 0, got {sigma}")
    _floating("cauchy_", input)
    angle = elementwise.mul(elementwise.sub(_even("cauchy_", input, generator), 0.5), math.pi)
    found = elementwise.add(elementwise.mul(special.tan(angle), sigma), median)
    return assign("cauchy_", input, found)


def gumbel_softmax(
    logits: Tensor,
    tau: float = 1.0,
    hard: bool = False,
    dim: int = -1,
    *,
    generator: Generator | None = None,
) -> Tensor:
    """A class drawn with the probabilities that softmax of ``logits`` gives, as numbers along
    ``dim`` that sum to 1; ``hard``: as 0 and 1, with the gradient of the soft ones.
    """
    expect_tensor("gumbel_softmax", "logits", logits)
    even = _even("gumbel_softmax", logits.detach(), generator)
    wait = elementwise.clamp(elementwise.neg(special.log1p(elementwise.neg(even))), min=1e-30)
    scores = elementwise.sub(logits, elementwise.log(wait).to(logits.dtype))
    soft = activation.softmax(elementwise.div(scores, tau), dim)
    if not hard:
        return soft
    best = reduce.argmax(soft, dim=dim, keepdim=True)
    chosen = index.scatter(zeros_like(soft, requires_grad=False), dim, best, 1.0)
    return elementwise.add(elementwise.sub(chosen, soft.detach()), soft)


def random_(
    input: Tensor,
    from_: int | None = None,
    to: int | None = None,
    *,
    generator: Generator | None = None,
) -> Tensor:
    """Overwrite ``input`` with integers from ``from_`` up to, not including, ``to``; one alone is
    ``to``. By default all the integers, at least 0, that its dtype holds, at most 2**53 of them.
    """
    low, high = (0, from_) if to is None else (from_ or 0, to)
    if high is None:
        high = _most(input)
    drawn = randint(low, high, input.shape, generator=generator, device=input.device)
    return assign("random_", input, drawn.to(input.dtype))


def _most(input: Tensor) -> int:
    dtype = input.dtype
    if dtype is bool_:
        return 2
    if dtype.kind == "float":
        return 1 << (53 if dtype is f64 else DIGITS[dtype.name])
    return int(min(1 << (8 * dtype.itemsize - (dtype.name != "u8")), 1 << 53))


def _even(name: str, input: Tensor, generator: Generator | None) -> Tensor:
    """Even numbers like ``input``, drawn as f32 or f64, in f64."""
    if input.dtype.is_complex or input.dtype is bool_:
        raise located(TypeCheckError, f"{name}: expected real numbers, got {input.type}")
    dtype = f64 if input.dtype is f64 else f32
    return rand(*input.shape, generator=generator, dtype=dtype, device=input.device).to(f64)


def _floating(name: str, input: Tensor) -> None:
    if not input.dtype.is_floating_point:
        raise located(TypeCheckError, f"{name}: expected a floating-point tensor, got {input.type}")
