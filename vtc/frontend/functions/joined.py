"""Splitting and joining by the names NumPy gave them, and grids of vectors.

vstack([x, y])                   # as rows
tensor_split(x, [2, 5], dim=1)   # before 2, from 2 to 5, from 5 on
meshgrid(x, y, indexing="ij")
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations as choices
from itertools import combinations_with_replacement, pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from vtc.errors import ArgumentError, TypeCheckError
from vtc.frontend import dispatch
from vtc.frontend.functions import view
from vtc.frontend.functions.arguments import axis, expect_tensor, is_tensor
from vtc.frontend.functions.promotion import expand_to
from vtc.frontend.functions.rearrange import cat, stack
from vtc.frontend.source import located

if TYPE_CHECKING:
    from vtc.frontend.tensor import Tensor


# at least so many dims


def atleast_1d(*tensors: Any) -> Any:
    """Each tensor with 1 dim or more: one, or a tuple for several or a sequence."""
    return _each(tensors, lambda x: x if x.type.rank else view.reshape(x, (1,)))


def atleast_2d(*tensors: Any) -> Any:
    """Each tensor with 2 dims or more; a vector becomes a row."""
    return _each(tensors, _plane)


def atleast_3d(*tensors: Any) -> Any:
    """Each tensor with 3 dims or more; a matrix gets its last dim, a vector one on each side."""
    return _each(tensors, _volume)


def _plane(x: Tensor) -> Tensor:
    return view.reshape(x, (*(1,) * max(2 - x.type.rank, 0), *x.type.shape))


def _volume(x: Tensor) -> Tensor:
    if x.type.rank >= 3:
        return x
    return view.unsqueeze(_plane(x), -1)


def _each(tensors: Sequence[Any], function: Any) -> Any:
    several = len(tensors) != 1 or not is_tensor(tensors[0])
    if len(tensors) == 1 and several:
        tensors = tensors[0]
    return tuple(function(t) for t in tensors) if several else function(tensors[0])


# joining


def hstack(tensors: Sequence[Tensor]) -> Tensor:
    """``tensors`` side by side: along dim 1, vectors along dim 0."""
    parts = _parts("hstack", tensors, atleast_1d)
    return cat(parts, 0 if parts[0].type.rank == 1 else 1)


def vstack(tensors: Sequence[Tensor]) -> Tensor:
    """``tensors`` one below the other: along dim 0, vectors as rows."""
    return cat(_parts("vstack", tensors, atleast_2d), 0)


def dstack(tensors: Sequence[Tensor]) -> Tensor:
    """``tensors`` one behind the other: along dim 2."""
    return cat(_parts("dstack", tensors, atleast_3d), 2)


def column_stack(tensors: Sequence[Tensor]) -> Tensor:
    """``tensors`` side by side, vectors as columns."""
    found = _parts("column_stack", tensors, tuple)
    columns = [t if t.type.rank > 1 else view.reshape(t, (t.numel(), 1)) for t in found]
    return cat(columns, 1)


def _parts(name: str, tensors: Sequence[Tensor], function: Any) -> Sequence[Tensor]:
    parts = [] if is_tensor(tensors) else list(tensors)
    if not parts or not all(map(is_tensor, parts)):
        got = type(tensors).__name__
        message = f"{name}: expected a non-empty sequence of Tensors, got {got}"
        raise located(ArgumentError, message)
    found: Sequence[Tensor] = function(parts)
    return found


# splitting


def tensor_split(input: Tensor, indices_or_sections: Any, dim: int = 0) -> tuple[Tensor, ...]:
    """Parts along ``dim``: so many, the first ones maybe larger by one, or cut at indices."""
    expect_tensor("tensor_split", "input", input)
    at = axis("tensor_split", dim, input.type.rank)
    if not input.type.rank:
        raise located(TypeCheckError, f"tensor_split: expected 1 dim or more, got {input.type}")
    if is_tensor(indices_or_sections):
        indices_or_sections = indices_or_sections.tolist()
    n = int(input.shape[at])
    if not isinstance(indices_or_sections, Sequence):
        count = int(indices_or_sections)
        if count < 1:
            raise located(ArgumentError, f"tensor_split: expected 1 part or more, got {count}")
        cuts = [k * (n // count) + min(k, n % count) for k in range(count + 1)]
    else:
        wanted = [int(i) for i in indices_or_sections]
        cuts = [0, *(min(max(i + n if i < 0 else i, 0), n) for i in wanted), n]
    return tuple(view.cut(input, {at: (a, max(a, b))}) for a, b in pairwise(cuts))


def hsplit(input: Tensor, indices_or_sections: Any) -> tuple[Tensor, ...]:
    """:func:`tensor_split` along dim 1, of a vector along dim 0; so many parts must be equal."""
    expect_tensor("hsplit", "input", input)
    return _split("hsplit", input, indices_or_sections, 1 if input.type.rank > 1 else 0, 1)


def vsplit(input: Tensor, indices_or_sections: Any) -> tuple[Tensor, ...]:
    """:func:`tensor_split` along dim 0; so many parts must be equal."""
    expect_tensor("vsplit", "input", input)
    return _split("vsplit", input, indices_or_sections, 0, 2)


def dsplit(input: Tensor, indices_or_sections: Any) -> tuple[Tensor, ...]:
    """:func:`tensor_split` along dim 2; so many parts must be equal."""
    expect_tensor("dsplit", "input", input)
    return _split("dsplit", input, indices_or_sections, 2, 3)


def _split(name: str, input: Tensor, how: Any, dim: int, rank: int) -> tuple[Tensor, ...]:
    if input.type.rank < rank:
        message = f"{name}: expected {rank} dims or more, got {input.type}"
        raise located(TypeCheckError, message)
    if not isinstance(how, Sequence) and int(input.shape[dim]) % int(how):
        message = f"{name}: expected parts that divide dim {dim} of {input.type}, got {how}"
        raise located(ArgumentError, message)
    return tensor_split(input, how, dim)


# grids


def meshgrid(*tensors: Any, indexing: str = "ij") -> tuple[Tensor, ...]:
    """Each vector repeated over the grid of all; "xy" swaps the first two dims."""
    found = tensors[0] if len(tensors) == 1 and not is_tensor(tensors[0]) else tensors
    lines = list(_parts("meshgrid", found, atleast_1d))
    if indexing not in ("ij", "xy"):
        raise located(ArgumentError, f"meshgrid: expected indexing 'ij' or 'xy', got {indexing!r}")
    for line in lines:
        if line.type.rank != 1:
            raise located(TypeCheckError, f"meshgrid: expected vectors, got {line.type}")
    shape = tuple(line.type.shape[0] for line in lines)
    after = range(len(lines) - 1, -1, -1)
    tall = [view.reshape(x, (*x.type.shape, *(1,) * k)) for x, k in zip(lines, after, strict=True)]
    grids = [expand_to("meshgrid", x, shape) for x in tall]
    if indexing == "xy" and len(lines) > 1:
        grids = [view.transpose(g, 0, 1) for g in grids]
    return tuple(grids)


def cartesian_prod(*tensors: Tensor) -> Tensor:
    """All combinations of an element of each vector, as rows; one vector as it is."""
    for t in _parts("cartesian_prod", list(tensors), tuple):
        if t.type.rank != 1:
            raise located(TypeCheckError, f"cartesian_prod: expected vectors, got {t.type}")
    if len(tensors) == 1:
        return tensors[0]
    grids = meshgrid(*tensors)
    return stack([view.flatten(g) for g in grids], 1)


def combinations(input: Tensor, r: int = 2, with_replacement: bool = False) -> Tensor:
    """All choices of ``r`` elements of a vector in order, as rows."""
    expect_tensor("combinations", "input", input)
    if input.type.rank != 1:
        raise located(TypeCheckError, f"combinations: expected a vector, got {input.type}")
    if r < 1:
        raise located(ArgumentError, f"combinations: expected r >= 1, got {r}")
    chosen = combinations_with_replacement if with_replacement else choices
    rows = np.array([*chosen(range(int(input.shape[0])), r)], np.int64).reshape(-1, r)
    return input[dispatch.from_array(rows, device=input.device)]
