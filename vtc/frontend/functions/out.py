"""``out=`` for functions that make tensors: results are written into what is given.

vtc.add(x, y, out=z)              # z, overwritten; it has the shape of the result
vtc.max(x, 1, out=(v, i))
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import TYPE_CHECKING, Any

from vtc.errors import ArgumentError, GradientError, TypeCheckError
from vtc.frontend import dispatch
from vtc.frontend.functions.arguments import is_tensor, type_name
from vtc.frontend.functions.promotion import assign
from vtc.frontend.source import located

if TYPE_CHECKING:
    from vtc.frontend.tensor import Tensor

_NAMES = (
    "abs acos acosh add addcdiv addcmul addmm all amax amin any argmax argmin asin asinh atan",
    "atan2 atanh baddbmm bitwise_and bitwise_left_shift bitwise_not bitwise_or",
    "bitwise_right_shift bitwise_xor bmm cat ceil clamp clamp_max clamp_min clip copysign cos",
    "cosh count_nonzero cumprod cumsum deg2rad digamma div dot eq erf erfc erfinv exp exp2",
    "expm1 float_power floor floor_divide fmax fmin fmod frac gather ge gt heaviside hypot",
    "index_select isneginf isposinf le lerp lgamma log log10 log1p log2 logaddexp logaddexp2",
    "logical_and logical_not logical_or logical_xor logit logsumexp lt masked_select matmul",
    "max maximum mean min minimum mm mul mv nan_to_num ne neg norm outer polygamma pow prod",
    "rad2deg reciprocal remainder round rsqrt scatter scatter_add sgn sigmoid sign signbit",
    "sin sinc sinh sort sqrt square stack std sub sum take take_along_dim tan tanh topk tril",
    "triu true_divide trunc var where xlogy",
)
TAKES_OUT = frozenset(" ".join(_NAMES).split())
"""The names of ``vtc`` that take it."""


def with_out(function: Callable[..., Any]) -> Callable[..., Any]:
    """``function`` with a keyword ``out``, a tensor or one for each result, which it returns.

    TypeCheckError where a shape is another, or the dtype a lower category; GradientError where
    gradients would have to flow.
    """
    name = function.__name__

    @wraps(function)
    def call(*args: Any, out: Any = None, **kwargs: Any) -> Any:
        if out is None:
            return function(*args, **kwargs)
        found = function(*args, **kwargs)
        if is_tensor(found):
            return _put(name, out, found)
        if not isinstance(out, (tuple, list)) or len(out) != len(found):
            raise located(ArgumentError, f"{name}: expected out to be {len(found)} tensors")
        put = [_put(name, o, f) for o, f in zip(out, found, strict=True)]
        return type(found)(*put) if hasattr(found, "_fields") else tuple(put)

    del call.__wrapped__  # guards look into what wraps a function of the user's
    return call


def _put(name: str, out: Tensor, found: Tensor) -> Tensor:
    if not is_tensor(out):
        want = f"expected out to be a Tensor, got {type_name(out)}"
        raise located(ArgumentError, f"{name}: {want}")
    if dispatch.grad_enabled() and (out.requires_grad or found.requires_grad):
        raise located(GradientError, f"{name}: no gradient flows through out=, use no_grad")
    if out.type.shape != found.type.shape:
        want = f"expected out of shape {found.type}, got {out.type}"
        raise located(TypeCheckError, f"{name}: {want}")
    return assign(name, out, found)
