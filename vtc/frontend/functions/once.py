"""Formulas of several steps on f16 and bf16: computed in f32, and rounded once, as in PyTorch.

A kernel of a compiled program computes in f32 whatever its steps are. Called one by one, ops round
each: a function that is one operation to the user is not to show that it is made of several::

    @once("log2")
    def log2(input): return mul(log(input), 1.4426950408889634)
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, wraps
from typing import TYPE_CHECKING, Any, ParamSpec

import numpy as np

from vtc.frontend.dispatch import state
from vtc.frontend.functions.arguments import is_tensor
from vtc.frontend.functions.promotion import cast, common_shape, result_type
from vtc.ir.types import DType

if TYPE_CHECKING:
    from vtc.frontend.tensor import Tensor

P = ParamSpec("P")


def once(name: str) -> Callable[[Callable[P, Tensor]], Callable[P, Tensor]]:
    """For an elementwise function: eager on low precision, it computes as its dtype accumulates.

    ``name`` is what errors call it. Under autocast every op has a precision of its own.
    """

    def wrap(fn: Callable[P, Tensor]) -> Callable[P, Tensor]:
        @wraps(fn)
        def call(*args: P.args, **kwargs: P.kwargs) -> Tensor:
            tensors = [a for a in (*args, *kwargs.values()) if is_tensor(a)]
            if state.capture is not None or not any([rounds(t) for t in tensors]):
                return fn(*args, **kwargs)
            dtype = result_type(*tensors)
            if dtype.accumulate is dtype or state.autocast is not None:
                return fn(*args, **kwargs)
            common_shape(name, [t.type for t in tensors])
            given: Any = tuple([wide(a) if is_tensor(a) else a for a in args])
            named: Any = {k: wide(a) if is_tensor(a) else a for k, a in kwargs.items()}
            return cast(fn(*given, **named), dtype)

        return call

    return wrap


def rounds(x: Tensor) -> bool:
    """Whether arithmetic on ``x`` happens in a wider dtype, and is rounded."""
    if x._array is not None and x._array.dtype.itemsize > 2:
        return False  # known at once
    dtype = x.type.dtype
    return dtype.kind == "float" and dtype.accumulate is not dtype


def wide(x: Tensor) -> Tensor:
    """``x`` as arithmetic on it happens; integers stay."""
    return cast(x, x.type.dtype.accumulate) if rounds(x) else x


def inexact(x: object, number: object) -> bool:
    """Whether eager ``x`` is a tensor whose dtype does not hold the float ``number``."""
    if type(number) is not float or not is_tensor(x) or state.capture is not None:
        return False
    return rounds(x) and not x._weak and state.autocast is None and not _holds(x.type.dtype, number)


@lru_cache(maxsize=4096)
def _holds(dtype: DType, number: float) -> bool:
    with np.errstate(over="ignore"):
        rounded = float(np.asarray(number, dtype.numpy))
    return rounded == number or number != number
