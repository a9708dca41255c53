"""Arrays as PyTorch prints them: four digits, one width, scientific where sizes differ much.

show_array(np.array([1.0, 2.5]))     # [1.0000, 2.5000]
show_array(np.array([1.0, 2.0]))     # [1., 2.]
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from vtc.ir.types import Array

THRESHOLD, EDGE, WIDTH = 1000, 3, 82  # NumPy counts brackets that PyTorch does not


def show_array(array: Array, prefix: str = "") -> str:
    """``array`` (f64 where it is a float) as text.

    ``prefix`` stands before it on the first line.
    """
    if not array.size:
        return "[]" if array.ndim == 1 else f"[], size={array.shape}"
    spell = _spelling(array)
    width = max((len(spell(v)) for v in _shown(array).flat), default=0)
    text = np.array2string(
        array,
        max_line_width=WIDTH,
        separator=", ",
        prefix=prefix,
        threshold=THRESHOLD,
        edgeitems=EDGE,
        formatter={"all": lambda v: spell(v).rjust(width)},
    )
    return text.replace(", ..., ", ",  ..., ")


def _shown(array: Array) -> Array:
    """The elements that are printed: all of them, or the edges of a large array."""
    if array.size <= THRESHOLD:
        return array
    for axis, n in enumerate(array.shape):
        if n > 2 * EDGE:
            keep = [*range(EDGE), *range(n - EDGE, n)]
            array = array.take(keep, axis)
    return array


def _spelling(array: Array) -> Callable[[object], str]:
    if array.dtype.kind != "f":
        return str
    shown = np.abs(_shown(array))
    sizes = shown[np.isfinite(shown) & (shown != 0)]
    whole = bool(np.all(sizes == np.ceil(sizes)))
    spread = sizes.size > 0 and (
        sizes.max() / sizes.min() > 1000 or sizes.max() > 1e8 or (not whole and sizes.min() < 1e-4)
    )
    form = "{:.4e}" if spread else "{:.0f}." if whole else "{:.4f}"
    return lambda v: form.format(v) if np.isfinite(float(str(v))) else str(v)
