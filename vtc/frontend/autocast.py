"""Autocast: a dispatch rule that inserts casts, so eager and captured programs agree.

Matrix products, convolutions and attention run in the low precision; exponentials, norms, losses
and sums in f32; everything else in what it is given, as PyTorch's autocast does.
"""

from __future__ import annotations

from contextlib import ContextDecorator
from typing import TYPE_CHECKING

from vtc.errors import ArgumentError
from vtc.frontend import dispatch
from vtc.frontend.dispatch import Rest, Result, state
from vtc.frontend.source import located
from vtc.ir.op import Op
from vtc.ir.ops.elementwise import Cast
from vtc.ir.types import DType, bf16, f16, f32
from vtc.runtime.device import Device

if TYPE_CHECKING:
    from vtc.frontend.tensor import Tensor

_CONVOLUTIONS = [f"{name}{axes}d" for name in ("conv", "conv_transpose") for axes in (1, 2, 3)]
LOW = frozenset({"matmul", "scaled_dot_product_attention", *_CONVOLUTIONS})
FULL = frozenset(
    {
        "exp",
        "log",
        "pow",
        "rsqrt",
        "erf",
        "sum",
        "prod",
        "softmax",
        "log_softmax",
        "layer_norm",
        "rms_norm",
        "cross_entropy",
        *("acos", "asin", "cosh", "erfinv", "expm1", "log1p", "sinh", "tan"),
    }
)


class autocast(ContextDecorator):  # PyTorch's name
    """Inside, run ops in ``dtype`` where that is safe; ``with vtc.autocast("cpu"): ...``."""

    def __init__(
        self, device_type: str | Device = "cpu", dtype: DType = bf16, *, enabled: bool = True
    ) -> None:
        Device.parse(device_type) if isinstance(device_type, str) else device_type
        if dtype not in (bf16, f16):
            raise located(
                ArgumentError, f"autocast: expected vtc.bfloat16 or vtc.float16, got {dtype!r}"
            )
        self.dtype = dtype if enabled else None
        self.saved: list[DType | None] = []

    def _recreate_cm(self) -> autocast:
        return autocast(dtype=self.dtype or bf16, enabled=self.dtype is not None)

    def __enter__(self) -> None:
        self.saved.append(state.autocast)
        state.autocast = self.dtype

    def __exit__(self, *exc: object) -> None:
        state.autocast = self.saved.pop()


def narrowed(x: Tensor) -> Tensor:
    """``x`` as matrix products take it: for what a function adds to one."""
    return x if state.autocast is None else _cast(x, state.autocast)


def _rule(op: Op, inputs: tuple[Tensor, ...], rest: Rest) -> Result:
    low = state.autocast
    if low is None or op.name not in LOW | FULL:
        return rest(op, inputs)
    with autocast(enabled=False):
        want = low if op.name in LOW else f32
        return rest(op, tuple([_cast(x, want) for x in inputs]))


def _cast(x: Tensor, want: DType) -> Tensor:
    narrow = x.dtype in (f32, bf16, f16) and x.dtype is not want
    return dispatch.apply(Cast(want), x) if narrow else x


dispatch.register("autocast", _rule)
