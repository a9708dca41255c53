"""Images whose channels become pixels, and the other way round.

pixel_shuffle(x, 2)              # [N, 4 C, H, W] to [N, C, 2 H, 2 W]
channel_shuffle(x, groups=4)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vtc.errors import ArgumentError, TypeCheckError
from vtc.frontend.functions import view
from vtc.frontend.functions.arguments import expect_tensor
from vtc.frontend.source import located
from vtc.ir.dims import floordiv, mod

if TYPE_CHECKING:
    from vtc.frontend.tensor import Tensor


def pixel_shuffle(input: Tensor, upscale_factor: int) -> Tensor:
    """``[.., C * r * r, H, W]`` as ``[.., C, H * r, W * r]``."""
    expect_tensor("pixel_shuffle", "input", input)
    r = _factor("pixel_shuffle", input, upscale_factor)
    *lead, c, h, w = input.type.shape
    if mod(c, r * r) != 0:
        want = f"expected channels divisible by {r * r}"
        raise located(ArgumentError, f"pixel_shuffle: {want}, got {input.type}")
    k = len(lead)
    x = view.reshape(input, (*lead, floordiv(c, r * r), r, r, h, w))
    x = view.permute(x, *range(k + 1), k + 3, k + 1, k + 4, k + 2)
    return view.reshape(x, (*lead, floordiv(c, r * r), h * r, w * r))


def pixel_unshuffle(input: Tensor, downscale_factor: int) -> Tensor:
    """``[.., C, H * r, W * r]`` as ``[.., C * r * r, H, W]``."""
    expect_tensor("pixel_unshuffle", "input", input)
    r = _factor("pixel_unshuffle", input, downscale_factor)
    *lead, c, h, w = input.type.shape
    if mod(h, r) != 0 or mod(w, r) != 0:
        want = f"expected sizes divisible by {r}"
        raise located(ArgumentError, f"pixel_unshuffle: {want}, got {input.type}")
    k = len(lead)
    x = view.reshape(input, (*lead, c, floordiv(h, r), r, floordiv(w, r), r))
    x = view.permute(x, *range(k + 1), k + 2, k + 4, k + 1, k + 3)
    return view.reshape(x, (*lead, c * r * r, floordiv(h, r), floordiv(w, r)))


def _factor(name: str, input: Tensor, factor: int) -> int:
    if input.type.rank < 3:
        raise located(TypeCheckError, f"{name}: expected [.., C, H, W], got {input.type}")
    if factor < 1:
        raise located(ArgumentError, f"{name}: expected a factor >= 1, got {factor}")
    return int(factor)


def channel_shuffle(input: Tensor, groups: int) -> Tensor:
    """The channels of ``[N, C, ..]`` dealt out anew: one of each of ``groups`` in turn."""
    expect_tensor("channel_shuffle", "input", input)
    if input.type.rank < 3:
        raise located(TypeCheckError, f"channel_shuffle: expected [N, C, ..], got {input.type}")
    n, c, *rest = input.type.shape
    if groups < 1 or mod(c, groups) != 0:
        want = f"expected groups that divide the channels of {input.type}"
        raise located(ArgumentError, f"channel_shuffle: {want}, got {groups}")
    x = view.reshape(input, (n, groups, floordiv(c, groups), *rest))
    return view.reshape(view.transpose(x, 1, 2), input.type.shape)
