"""The kernel that copies between arrays with any strides: one per number of axes and element size.

    strided(2, 4)     # def strided_2_4(y, x, y_at, x_at, total, n0, n1, ys0, ys1, xs0, xs1): ...

Elements are integers of their size, so every dtype is copied bit by bit. ``y_at`` and ``x_at`` are
where the first element lies after the pointers, which are aligned; all are counted in elements.
"""

from __future__ import annotations

from vtc.codegen.render import render
from vtc.errors import CodegenError
from vtc.ir.plan import Build, Kernel

BLOCK = 1024
"""Elements that one block copies."""
AXES = 8
_WIDTHS = (1, 2, 4, 8)


def strided(axes: int, width: int) -> Kernel:
    """The kernel for arrays of ``axes`` axes whose elements take ``width`` bytes."""
    if not 1 <= axes <= AXES or width not in _WIDTHS:
        want = f"1 to {AXES} axes of elements of {', '.join(map(str, _WIDTHS))} bytes"
        raise CodegenError(f"strided: expected {want}, got {axes} axes of {width}")
    symbol = f"strided_{axes}_{width}"
    source = render("strided", "py", symbol=symbol, axes=range(axes), block=BLOCK)
    pointer = f"*i{8 * width}"
    signature = (pointer, pointer, *("i64",) * (3 + 3 * axes))
    return Kernel(symbol, symbol, source, "a copy", Build(signature, warps=4, stages=1))
