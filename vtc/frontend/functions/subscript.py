"""``x[key]`` and ``x[key] = value``, as in PyTorch.

A key is first read as a view (ints, slices, None, Ellipsis) and what is left to pick from it:
integer tensors and lists, of which those that are 0-d select, and bool masks. Negative indices
count from the end::

    x[1:, None, -1]          # a view
    x[[2, 0], :, index]      # the indices' shape comes first, as they are not side by side
    x[mask] = 0              # a where; reading x[mask] has no fixed size, so eager code only
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from types import EllipsisType
from typing import TYPE_CHECKING, Any

import numpy as np

from vtc.errors import ArgumentError, CaptureError, IndexRangeError, TypeCheckError
from vtc.frontend import dispatch
from vtc.frontend.functions import comparison, elementwise, view
from vtc.frontend.functions.arguments import Value, expect_tensor, is_tensor, show
from vtc.frontend.functions.promotion import apply_scatter, cast, common_shape, expand_to, fit
from vtc.frontend.source import located
from vtc.ir.dims import Size, floordiv
from vtc.ir.ops.block import DynamicSlice, DynamicUpdate
from vtc.ir.ops.index import Index, IndexPut
from vtc.ir.ops.view import Flip, Reshape, Slice
from vtc.ir.types import Array, bool_, i32, i64

if TYPE_CHECKING:
    from vtc.frontend.tensor import Tensor

Pick = tuple[int, "Tensor"]
"""An axis of the view, and the integer tensor that picks along it."""
Mark = tuple[int, "Tensor | Array"]
"""A pick, or the first axis of a mask and the mask: an array if known, as a list is."""


@dataclass
class Cut:
    """A key being read: the slice of each axis of the tensor, and the axes the view will have.

    ``turned`` are those of the view that a negative step shows the other way round.
    """

    starts: list[Size] = field(default_factory=list)
    stops: list[Size] = field(default_factory=list)
    steps: list[int] = field(default_factory=list)
    shape: list[Size] = field(default_factory=list)
    marks: list[Mark] = field(default_factory=list)
    turned: list[int] = field(default_factory=list)

    def take(self, start: Size, stop: Size, step: int = 1) -> None:
        """Slice the next axis of the tensor."""
        self.starts.append(start)
        self.stops.append(stop)
        self.steps.append(step)

    def keep(self, start: Size, stop: Size, step: int = 1) -> None:
        """Slice the next axis, and show it."""
        self.take(start, stop, step)
        self.shape.append(floordiv(stop - start + step - 1, step))

    def slice(self, bounds: tuple[Size, Size, int]) -> None:
        """:meth:`keep` where the step may be negative."""
        start, stop, step = bounds
        if step < 0:
            self.turned.append(len(self.shape))
        self.keep(start, stop, abs(step))

    def view(self, x: Tensor) -> Tensor:
        """``x`` cut that way; ``x`` itself where nothing is."""
        shape = x.type.shape
        whole = (tuple(self.starts), tuple(self.stops), tuple(self.steps))
        if whole != ((0,) * len(shape), shape, (1,) * len(shape)):
            x = dispatch.view(Slice(starts=whole[0], stops=whole[1], steps=whole[2]), x)
        if x.type.shape == tuple(self.shape):
            return x
        return dispatch.view(Reshape(shape=tuple(self.shape)), x)


def getitem(input: Tensor, key: Any) -> Tensor:
    """``input[key]``, a view if only ints, slices, None and Ellipsis are in ``key``.

    A negative step, which PyTorch does not have, makes a copy. IndexRangeError outside ``input``;
    CaptureError for a mask in a compiled function.
    """
    shown, marks, turned = _read(input, key)
    if turned:
        shown = dispatch.apply(Flip(axes=turned), shown)
    picks = _known(shown, marks, "x[mask] has no fixed size; use vtc.where(mask, x, other)")
    shown, picks = _select(shown, picks)
    if not picks:
        return shown
    axes = tuple(a for a, _ in picks)
    out = dispatch.apply(Index(axes=axes), shown, *_meet(picks))
    return out if _adjacent(axes) else _to_front(out, axes[0], _rank(picks))


def setitem(input: Tensor, key: Any, value: Value) -> None:
    """``input[key] = value``: ``value`` is cast, and expanded to what ``input[key]`` is."""
    shown, marks, turned = _read(input, key)
    if turned:
        part = dispatch.apply(Flip(axes=turned), shown)
        _set(part, marks, value)
        dispatch.write(shown, dispatch.apply(Flip(axes=turned), part))
    else:
        _set(shown, marks, value)


def _set(shown: Tensor, marks: list[Mark], value: Value) -> None:
    """Write what ``marks`` pick from ``shown``."""
    if len(marks) == 1 and _fill_where(shown, *marks[0], value):
        return
    unknown = "x[mask] = tensor needs the mask's count; use vtc.where(mask, value, x)"
    picks = _known(shown, marks, unknown)
    if not picks:
        dispatch.write(shown, _value(value, shown, shown.type.shape))
    elif any(p.type.rank for _, p in picks):
        dispatch.write(shown, _placed(shown, picks, value, accumulate=False))
    else:
        _update(shown, picks, value)


def _update(shown: Tensor, picks: Sequence[Pick], value: Value) -> None:
    """Write where 0-d tensors, still unknown, select."""
    gone = [a for a, _ in picks]
    kept = tuple(n for a, n in enumerate(shown.type.shape) if a not in gone)
    block = tuple(1 if a in gone else n for a, n in enumerate(shown.type.shape))
    part = view.reshape(_value(value, shown, kept), block)
    starts = _starts(shown, dict(picks))
    dispatch.write(shown, dispatch.apply(DynamicUpdate(), shown, part, *starts))


def _placed(shown: Tensor, picks: Sequence[Pick], value: Value, *, accumulate: bool) -> Tensor:
    """``shown`` with ``value`` set, or added, where ``picks`` picks."""
    axes, indices = tuple(a for a, _ in picks), _meet(picks)
    spot = indices[0].type.shape
    rest = [n for a, n in enumerate(shown.type.shape) if a not in axes]
    first = _first(picks)
    values = _value(value, shown, (*rest[:first], *spot, *rest[first:]))
    if first != axes[0]:
        count = range(len(spot))
        values = view.movedim(values, [first + i for i in count], [axes[0] + i for i in count])
    op = IndexPut(axes=axes, accumulate=accumulate)
    return apply_scatter(op, shown, values, *indices)


def index_put(
    input: Tensor, indices: Sequence[Tensor | None], values: Value, *, accumulate: bool
) -> Tensor:
    """``input`` with ``values`` set, or added, at ``input[indices]``, where None is a whole dim."""
    expect_tensor("index_put", "input", input)
    lines = [i if i is None or i.type.rank else view.unsqueeze(i, 0) for i in indices]
    _, marks, _ = _read(input, tuple(slice(None) if i is None else i for i in lines))
    picks = _known(input, marks, "index_put needs the mask's count; use vtc.where(mask, values, x)")
    if not picks:
        raise located(ArgumentError, "index_put: expected at least one index tensor")
    return _placed(input, picks, values, accumulate=accumulate)


# reading keys


def _read(x: Tensor, key: Any) -> tuple[Tensor, list[Mark], tuple[int, ...]]:
    """The view that ``key`` makes of ``x``, what is to be picked from it, and its axes to turn."""
    cut = Cut()
    for item in _items(x, key):
        n = len(cut.starts)
        match item:
            case None:
                cut.shape.append(1)
            case bool():
                cut.marks.append((len(cut.shape), _host(np.zeros(int(item), np.int64), x)))
                cut.shape.append(1)
            case slice():
                cut.slice(_bounds(item, x.shape[n]))
            case _ if _is_mask(item):
                _check_mask(x, n, item)
                cut.marks.append((len(cut.shape), item))
                for size in x.type.shape[n : n + _mask_rank(item)]:
                    cut.keep(0, size)
            case _ if not is_tensor(item):
                at = _wrapped(item, x.shape[n], n)
                cut.take(at, at + 1)
            case _:
                cut.marks.append((len(cut.shape), wrapped(item, x.shape[n])))
                cut.keep(0, x.type.shape[n])
    return cut.view(x), cut.marks, tuple(cut.turned)


def _items(x: Tensor, key: Any) -> list[Any]:
    """The parts of ``key``, one for each axis or new axis, Ellipsis filled in."""
    parts = [_item(k, x) for k in (key if isinstance(key, tuple) else (key,))]
    rank = x.type.rank
    used = sum(_axes_used(p) for p in parts)
    if used > rank:
        raise located(
            IndexRangeError, f"too many indices for {x.type}: expected {rank}, got {used}"
        )
    dots = [i for i, p in enumerate(parts) if p is Ellipsis]
    if len(dots) > 1:
        raise located(IndexRangeError, f"expected one Ellipsis (...) in an index, got {len(dots)}")
    at = dots[0] if dots else len(parts)
    return [*parts[:at], *[slice(None)] * (rank - used), *parts[at + 1 :]]


def _item(part: Any, x: Tensor) -> Any:
    """A part of a key as an int, a slice, None, Ellipsis, a bool, a tensor, or a known mask."""
    if part is None or isinstance(part, (bool, slice, EllipsisType)):
        return part
    if isinstance(part, np.bool_):
        return bool(part)
    if is_tensor(part):
        return _tensor_item(part)
    if isinstance(part, (list, tuple, range, np.ndarray)):
        array = _array(part)
        return array if array.dtype == np.bool_ else _host(array, x)
    if hasattr(part, "__index__"):
        return part
    kinds = "ints, slices, ..., None, and integer or bool tensors, arrays and lists"
    raise located(ArgumentError, f"an index may hold {kinds}, got {type(part).__name__} {part!r}")


def _tensor_item(part: Tensor) -> Any:
    dtype = part.type.dtype
    if dtype.kind not in ("bool", "int"):
        message = f"tensors used as indices must be of integers or bool, got {part.type}"
        raise located(TypeCheckError, message)
    if part.type.rank == 0 and not dispatch.is_capturing():
        return part.item()
    return part if dtype in (bool_, i32, i64) else cast(part, i64)


def _array(part: Any) -> Array:
    if isinstance(part, (list, tuple)) and any(map(is_tensor, part)):
        part = [p.item() if is_tensor(p) else p for p in part]
    array = np.asarray(part)
    if array.size == 0 and array.dtype.kind == "f":
        array = array.astype(np.int64)  # []
    if array.dtype.kind not in "biu":
        message = f"lists and arrays used as indices must be of ints or bools, got {array.dtype}"
        raise located(TypeCheckError, message)
    return array if array.dtype == np.bool_ else array.astype(np.int64)


def _host(array: Array, x: Tensor) -> Tensor:
    return dispatch.from_array(array, device=x.device)


def _axes_used(part: Any) -> int:
    if part is None or part is Ellipsis or isinstance(part, bool):
        return 0
    return _mask_rank(part) if _is_mask(part) else 1


def _is_mask(part: Any) -> bool:
    return isinstance(part, np.ndarray) or (is_tensor(part) and part.type.dtype is bool_)


def _mask_rank(mask: Tensor | Array) -> int:
    return mask.type.rank if is_tensor(mask) else np.ndim(mask)


def _bounds(item: slice, n: Any) -> tuple[Size, Size, int]:
    """Start, stop and step inside an axis of ``n``, which may be a size being traced.

    With a negative step those of the same elements in ascending order.
    """
    step = 1 if item.step is None else int(item.step)
    if step == 0:
        raise located(ArgumentError, "slice: expected a step other than 0, got 0")
    if step < 0:
        return _downward(item, n, step)
    start = _bound(item.start, n, 0)
    stop = _bound(item.stop, n, n)
    if stop < start:
        stop = start
    return dispatch.size(start), dispatch.size(stop), step


def _downward(item: slice, n: Any, step: int) -> tuple[Size, Size, int]:
    if step == -1 and item.start is None and item.stop is None:
        return 0, dispatch.size(n), step
    places = range(*slice(item.start, item.stop, step).indices(int(n)))
    if not places:
        return 0, 0, step
    return places[-1], places[0] + 1, step


def _bound(bound: Any, n: Any, default: Any) -> Any:
    if bound is None:
        return default
    if is_tensor(bound) and dispatch.is_capturing():
        raise located(
            CaptureError,
            "a slice between tensors has no fixed size; use vtc.dynamic_slice(x, starts, sizes), "
            "vtc.dynamic_update(x, value, starts) or x.index_copy_(dim, index, source)",
        )
    if not hasattr(bound, "__index__"):
        raise located(ArgumentError, f"slice: expected ints or None, got {bound!r}")
    at = bound if hasattr(bound, "size_expr") else bound.__index__()
    if at < 0:
        at = at + n
        return 0 if at < 0 else at
    return n if at > n else at


def _wrapped(index: Any, n: Any, axis: int) -> Size:
    """An int counted from the front. IndexRangeError outside the axis."""
    at = index if hasattr(index, "size_expr") else index.__index__()
    if at >= n or at < -n:
        message = f"index {at} is out of range for dim {axis} of size {n}"
        raise located(IndexRangeError, message)
    return dispatch.size(at + n if at < 0 else at)


def wrapped(index: Tensor, n: Any) -> Tensor:
    """``index`` with negative elements counted from the end of an axis of ``n``."""
    if not dispatch.is_capturing() and not index.is_cuda:
        found = index.detach().numpy()
        if not found.size or found.min() >= 0:
            return index
    below: Tensor = comparison.where(index < 0, elementwise.add(index, n), index)
    return below


# masks


def _check_mask(x: Tensor, first: int, mask: Tensor | Array) -> None:
    sizes = mask.type.shape if is_tensor(mask) else np.shape(mask)
    shape = x.type.shape[first : first + len(sizes)]
    if sizes != shape:
        message = f"a mask of shape {show(sizes)} does not match dims {show(shape)} of {x.type}"
        raise located(IndexRangeError, message)


def _known(shown: Tensor, marks: Sequence[Mark], unknown: str) -> list[Pick]:
    """``marks`` with masks as the indices of their true elements, one tensor for each axis."""
    picks: list[Pick] = []
    for first, mark in marks:
        if is_tensor(mark) and not _is_mask(mark):
            picks.append((first, mark))
            continue
        if is_tensor(mark) and dispatch.is_capturing():
            raise located(CaptureError, unknown)
        mask: Array = mark.detach().cpu().numpy() if is_tensor(mark) else np.asarray(mark)
        places = [_host(np.ascontiguousarray(p), shown) for p in mask.nonzero()]
        picks += [(first + i, p) for i, p in enumerate(places)]
    return picks


def _fill_where(shown: Tensor, first: int, mark: Tensor | Array, value: Value) -> bool:
    """Write where a mask is true, if ``value`` is the same for all its elements."""
    if not _is_mask(mark):
        return False
    mask = mark if is_tensor(mark) else _host(np.asarray(mark), shown)
    after = shown.type.rank - first - mask.type.rank
    if _rank_of(value) > after:
        return False
    shape = (*(1,) * first, *mask.type.shape, *(1,) * after)
    spread = expand_to("setitem", view.reshape(mask, shape), shown.type.shape)
    fill = _value(value, shown, shown.type.shape)
    dispatch.write(shown, comparison.where(spread, fill, shown))
    return True


def _rank_of(value: Any) -> int:
    """The rank of a value to be written, without sizes of 1 in front."""
    shape = value.type.shape if is_tensor(value) else np.shape(value)
    return next((len(shape) - a for a, n in enumerate(shape) if n != 1), 0)


# picking


def _select(shown: Tensor, picks: list[Pick]) -> tuple[Tensor, list[Pick]]:
    """Take the 0-d picks, which drop their axis; only a traced one is still a tensor here."""
    ones = {a: p for a, p in picks if not p.type.rank}
    if not ones:
        return shown, picks
    shape = shown.type.shape
    block = tuple(1 if a in ones else n for a, n in enumerate(shape))
    part = dispatch.apply(DynamicSlice(sizes=block), shown, *_starts(shown, ones))
    kept = tuple(n for a, n in enumerate(shape) if a not in ones)
    rest = [(a - sum(o < a for o in ones), p) for a, p in picks if p.type.rank]
    return dispatch.view(Reshape(shape=kept), part), rest


def _starts(shown: Tensor, chosen: dict[int, Tensor]) -> list[Tensor]:
    zero = dispatch.constant(0, i64)
    return [chosen.get(a, zero) for a in range(shown.type.rank)]


def _meet(picks: Sequence[Pick]) -> list[Tensor]:
    """The indices, broadcast to one shape."""
    shape = common_shape("index", [p.type for _, p in picks])
    return [expand_to("index", p, shape) for _, p in picks]


def _first(picks: Sequence[Pick]) -> int:
    """Where users see the indices' dims: at the first picked axis if all are side by side, else 0.

    0-d picks drop their axis before that is asked.
    """
    ones = [a for a, p in picks if not p.type.rank]
    seen = [a - sum(o < a for o in ones) for a, p in picks if p.type.rank]
    return seen[0] if seen and _adjacent(seen) else 0


def _rank(picks: Sequence[Pick]) -> int:
    return max(p.type.rank for _, p in picks)


def _adjacent(axes: Sequence[int]) -> bool:
    return axes[-1] - axes[0] == len(axes) - 1


def _to_front(out: Tensor, first: int, count: int) -> Tensor:
    return view.movedim(out, [first + i for i in range(count)], [*range(count)])


def _value(value: Any, like: Tensor, shape: Sequence[Size]) -> Tensor:
    """``value`` in the dtype of ``like``, expanded to ``shape``, less sizes of 1 in front."""
    if isinstance(value, (list, tuple, np.ndarray)):
        with np.errstate(over="ignore"):  # what is too large is infinite
            array = np.asarray(value, like.type.dtype.numpy)
        value = dispatch.from_array(array, device=like.device)
    if is_tensor(value):
        extra = value.type.rank - len(shape)
        if extra > 0 and value.type.shape[:extra] == (1,) * extra:
            value = view.reshape(value, value.type.shape[extra:])
    return fit("setitem", value, like.type.dtype, shape)
