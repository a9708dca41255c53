"""What is exported, and the programs that serve every size of its dims.

    subject = Subject.of("forward", EntryPoint(model, (x,), dynamic={"x": {0: Dim("B", 1, 64)}}))
    for variant in cover(subject, plans):           # one program for all sizes, if that works
        variant.dims, variant.traced.program, variant.plans

Under capture 0 and 1 are special, and some kernels want known sizes. So where one program for the
whole range cannot be traced or planned, 0 and 1 get programs of their own; where the rest still
cannot, each size of a dim does, as long as these are few.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations, product
from typing import Any, TypeVar, final

from vtc.errors import ArgumentError, CaptureError, CodegenError, TypeCheckError, VtcWarning
from vtc.frontend import dispatch
from vtc.frontend.jit import Compiled
from vtc.frontend.keys import leaf_names, tensor_leaf
from vtc.frontend.source import located, user_level
from vtc.frontend.tensor import Tensor
from vtc.frontend.trace import Given, Made, Part, Plain, Request, Traced, trace
from vtc.frontend.tree import Form, flatten, leaf_count, unflatten
from vtc.ir.dims import Dim, Size, Sym, bounds, substitute, symbols
from vtc.ir.graph import RESERVED, Program

MOST = 64
"""Programs of one size each that an entry may have."""
SCALARS = (bool, int, str, type(None))

Axes = Mapping[int, Dim | Sym]
Dynamic = Mapping[str | int, Axes]
Box = tuple[Dim, ...]
Plans = TypeVar("Plans")


@final
@dataclass(frozen=True)
class EntryPoint:
    """A function (a Module, a compiled function) to export, and the arguments to trace it with.

    ``dynamic`` says which axes vary: by name or position of an argument, then by axis. A size that
    follows from others is arithmetic on their Dims: ``{0: n}`` and, elsewhere, ``{0: 2 * n}``.
    """

    fn: Any
    args: Sequence[Any] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    dynamic: Dynamic = field(default_factory=dict)


@final
@dataclass(frozen=True)
class Subject:
    """An entry point, looked at: the leaves of its arguments, their names, which axes vary."""

    name: str
    fn: Any
    leaves: tuple[Any, ...]
    names: tuple[str, ...]
    form: Form | None
    axes: Mapping[tuple[int, int], Size]
    dims: Box

    @classmethod
    def of(cls, name: str, point: EntryPoint) -> Subject:
        """ArgumentError where an argument cannot be one of a package, or a dim does not fit."""
        fn = point.fn.fn if isinstance(point.fn, Compiled) else point.fn
        if not callable(fn):
            what = type(fn).__name__
            raise located(ArgumentError, f"export: expected a function or a Module, got {what}")
        if any(kind.__module__.startswith("torch.") for kind in type(fn).__mro__):
            want = f"a function or a Module of vtc, got {type(fn).__name__} of PyTorch"
            hint = "write it with vtc.nn; load_state_dict takes its weights"
            raise located(ArgumentError, f"export: {name}: expected {want}; {hint}")
        _check_kinds(name, point)
        _check_call(name, fn, point)
        leaves, form = flatten((tuple(point.args), dict(point.kwargs)))
        leaves = [tensor_leaf(leaf) for leaf in leaves]
        names = _distinct(leaf_names(fn, form))
        for what, leaf in zip(names, leaves, strict=True):
            if not isinstance(leaf, (Tensor, float, *SCALARS)):
                kind = type(leaf)
                own = kind.__module__ in ("builtins", "__main__")
                got = kind.__qualname__ if own else f"{kind.__module__}.{kind.__qualname__}"
                shares = hasattr(leaf, "__dlpack__")
                hint = "vtc.from_dlpack takes it" if shares else "let the function hold it instead"
                raise located(
                    ArgumentError,
                    f"export: {name}: expected {what} to be a tensor, a number, a text or None, "
                    f"got {got}; {hint}",
                )
        found = _axes(name, point.dynamic, names, leaves, form)
        dims = tuple(dict.fromkeys([d for d in found.values() if isinstance(d, Dim)]))
        axes = {at: d.sym if isinstance(d, Dim) else d for at, d in found.items()}
        return cls(name, fn, tuple(leaves), tuple(names), form, axes, dims)

    @property
    def sizes(self) -> dict[str, int]:
        """The dims in the example."""
        known = {size: self.leaves[i].shape[axis] for (i, axis), size in self.axes.items()}
        return {d.name: known[d.sym] for d in self.dims}

    def trace(self, box: Box, fresh: frozenset[int] = frozenset()) -> Traced:
        """The program for the sizes in ``box``; the results ``fresh`` are outputs of their own."""
        chosen = {d.name: _typical(d, self.sizes[d.name]) for d in box}
        fixed = {d.name: d.min for d in box if d.min == d.max}
        leaves, types = list(self.leaves), {}
        for i, leaf in enumerate(self.leaves):
            if not isinstance(leaf, Tensor):
                continue
            shape, sizes = list[Size](leaf.shape), list[Size](leaf.shape)
            for axis in range(len(shape)):
                if (size := self.axes.get((i, axis))) is not None:
                    shape[axis] = substitute(size, chosen)
                    sizes[axis] = substitute(size, fixed)
            # Tensors of their own: a package's arguments never share memory.
            leaves[i] = dispatch.constant(0, leaf.dtype, tuple(shape), leaf.device)
            if leaf.requires_grad:
                leaves[i].requires_grad_()
            types[i] = leaf.type.with_shape(sizes)
        open_dims = tuple(d for d in box if d.min != d.max)
        return trace(
            Request(
                self.name, Whole(self.fn, fresh), leaves, self.names, self.form, types, open_dims,
                {d.name: chosen[d.name] for d in open_dims}, may_guard=False,
            )
        )  # fmt: skip


@final
class Whole:
    """``fn`` whose results that are views, or have a history, are values of their own; so are
    those at the places in ``fresh``.
    """

    def __init__(self, fn: Any, fresh: frozenset[int]) -> None:
        self.fn, self.fresh = fn, fresh
        self.__self__ = getattr(fn, "__self__", fn)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """What ``fn`` returns."""
        leaves, form = flatten(self.fn(*args, **kwargs))
        whole = [_whole(x, fresh=k in self.fresh) for k, x in enumerate(leaves)]
        return unflatten(form, whole)

    def __guards__(self) -> Any:
        """What a trace reads besides."""
        return self.fn


def _whole(x: Any, *, fresh: bool) -> Any:
    if not isinstance(x, Tensor):
        return x
    capture = dispatch.state.capture
    root = capture.cell(x) is not None
    if root and not fresh and (x._storage is not None or not capture.requires(x)):
        return x
    with dispatch.no_grad():
        return x.clone()


@final
@dataclass(frozen=True)
class Found:
    """The program that serves the sizes in ``dims``, and its plans."""

    dims: Box
    traced: Traced
    plans: Any


def cover(subject: Subject, plans: Callable[[Program], Any]) -> list[Found]:
    """Programs for every size, with what ``plans`` makes of each; it may raise CodegenError."""

    def found(box: Box, fresh: frozenset[int] = frozenset()) -> Found:
        try:
            traced = subject.trace(box, fresh)
            return Found(box, traced, plans(traced.program))
        except (CaptureError, TypeCheckError, CodegenError) as error:
            if fixed := [f"{d.name} = {d.min}" for d in box if d.min == d.max]:
                more = "; sizes that are always equal are one Dim" if len(box) > 1 else ""
                error.add_note(f"export: this is so where {' and '.join(fixed)}{more}")
            raise

    some = _cover(subject, subject.dims, found)
    fresh = _unlike([f.traced.parts for f in some])
    return [found(f.dims, fresh) for f in some] if fresh else some


def _unlike(several: Sequence[Sequence[Part]]) -> frozenset[int]:
    """The tensors that must be outputs of their own, as ``x[:4]`` is ``x`` where it has 4 rows:
    all that are an output somewhere, if some program has another input or output there.
    """
    roles = [tuple(map(_role, parts)) for parts in several]
    if len(set(roles)) < 2:
        return frozenset()
    return frozenset([k for parts in several for k, p in enumerate(parts) if isinstance(p, Made)])


def _role(part: Part) -> Hashable:
    """Which output or input a tensor among the results is; None of others."""
    match part:
        case Made(output=output):
            return output
        case Given(source=source):
            return source.kind, source.index, id(source.tensor), source.option
        case Plain():
            return None


def _cover(subject: Subject, box: Box, found: Callable[[Box], Found]) -> list[Found]:
    try:
        return [found(box)]
    except (CaptureError, TypeCheckError, CodegenError) as error:
        parts = list(product(*map(_apart, box)))
        if len(parts) > 1:
            return [f for part in parts for f in _cover(subject, part, found)]
        return _each(subject, box, found, error)


def _each(subject: Subject, box: Box, found: Callable[[Box], Found], why: Exception) -> list[Found]:
    """Programs for one size each of as few dims as possible; ``why`` one for all does not do."""
    wide = [d for d in box if d.min != d.max]
    failed: Exception | None = None
    many = False
    for count in range(1, len(wide) + 1):
        for fixed in sorted(combinations(wide, count), key=_points):
            if _points(fixed) > MOST:
                many = True
                continue
            boxes = [
                tuple(part) for part in product(*(_single(d) if d in fixed else [d] for d in box))
            ]
            try:
                first = found(boxes[0])
            except (CaptureError, TypeCheckError, CodegenError) as error:
                failed = failed or error
                continue
            made = [first, *map(found, boxes[1:])]
            names = " and ".join(str(d) for d in fixed)
            reason = str(why).splitlines()[0]
            warnings.warn(
                f"export: {subject.name} has {len(boxes)} programs, one for each size of {names}: "
                f"{reason}",
                VtcWarning,
                stacklevel=user_level(),
            )
            return made
    if wide:
        shown = ", ".join(str(d) for d in wide)
        each = (
            f"one for each size is more than {MOST}: a smaller range, or a Dim with a multiple, "
            "makes them fewer"
            if many or failed is None
            else f"one for each size does not either: {_first(failed)}"
        )
        why.add_note(f"export: no program serves every size of {shown}, and {each}")
    raise why


def _first(error: Exception) -> str:
    """The first line of an error, and where it is so."""
    notes = [note.removeprefix("export: ") for note in getattr(error, "__notes__", [])]
    return "; ".join([str(error).splitlines()[0], *notes])


def _apart(dim: Dim) -> list[Dim]:
    """The special sizes of ``dim``, each alone, and the rest."""
    special = [n for n in (0, 1) if dim.min <= n and n % dim.multiple == 0]
    if dim.min == dim.max or not special:
        return [dim]
    points = [Dim(dim.name, n, n) for n in special if dim.max is None or n <= dim.max]
    rest = [] if dim.max is not None and dim.max < 2 else [replace(dim, min=2)]
    return [*points, *rest]


def _single(dim: Dim) -> list[Dim]:
    return [Dim(dim.name, n, n) for n in _values(dim)]


def _values(dim: Dim) -> range:
    assert dim.max is not None
    return range(-(-dim.min // dim.multiple) * dim.multiple, dim.max + 1, dim.multiple)


def _points(dims: Sequence[Dim]) -> int:
    total = 1
    for d in dims:
        total *= MOST + 1 if d.max is None else len(_values(d))
    return total


def _typical(dim: Dim, example: int) -> int:
    """A size in the range of ``dim``: that of the example, if it may be."""
    if dim.min <= example and (dim.max is None or example <= dim.max):
        return example
    return -(-dim.min // dim.multiple) * dim.multiple


# arguments


def _check_kinds(name: str, point: EntryPoint) -> None:
    """ArgumentError unless arguments, keywords and dynamic axes are the containers they must be."""
    axes = point.dynamic.values() if isinstance(point.dynamic, Mapping) else [point.dynamic]
    wanted: list[tuple[str, Any, tuple[type, ...]]] = [
        ("a tuple of arguments", point.args, (tuple, list)),
        ("a dict of keywords", point.kwargs, (Mapping,)),
        *[("dynamic={name or position: {axis: vtc.Dim}}", a, (Mapping,)) for a in axes],
    ]
    for want, given, kinds in wanted:
        if not isinstance(given, kinds):
            got = type(given).__name__
            raise located(ArgumentError, f"export: {name}: expected {want}, got {got}")


def _check_call(name: str, fn: Any, point: EntryPoint) -> None:
    """ArgumentError unless the function takes so many arguments, by these keywords."""
    forward = getattr(fn, "forward", fn)
    try:
        signature = inspect.signature(forward)
    except (TypeError, ValueError):  # of a function in C
        return
    try:
        signature.bind(*point.args, **point.kwargs)
    except TypeError as error:
        want = f"arguments for {name}({', '.join(signature.parameters)})"
        raise located(
            ArgumentError, f"export: expected {want}, got none that fit: {error}"
        ) from None


def _distinct(names: Sequence[str]) -> list[str]:
    found: list[str] = []
    for name in names:
        k = 1
        new = name
        while new in found:
            new, k = f"{name}_{k}", k + 1
        found.append(new)
    return found


def _axes(
    entry: str,
    dynamic: Dynamic,
    names: Sequence[str],
    leaves: Sequence[Any],
    form: Form | None,
) -> dict[tuple[int, int], Dim | Sym]:
    found: dict[tuple[int, int], Dim | Sym] = {}
    known: dict[str, tuple[Dim, int, str]] = {}
    for key, axes in dynamic.items():
        i = _leaf(entry, key, names, form)
        x, what = leaves[i], names[i]
        if not isinstance(x, Tensor):
            got = type(x).__name__
            raise located(ArgumentError, f"export: {entry}: expected {what} a tensor, got {got}")
        for axis, dim in axes.items():
            if not isinstance(dim, Dim | Sym) or axis not in range(-x.ndim, x.ndim):
                want = f"{what}, {x.type}, to have axis {axis!r} and a vtc.Dim for it"
                raise located(ArgumentError, f"export: {entry}: expected {want}, got {dim}")
            if isinstance(dim, Dim):
                _check_dim(entry, dim, x.shape[axis], f"axis {axis} of {what}", known)
            found[i, axis % x.ndim] = dim
    for (i, axis), size in found.items():
        if isinstance(size, Sym):
            at = f"axis {axis} of {names[i]}"
            _check_derived(entry, size, leaves[i].shape[axis], at, known)
    return found


def _check_dim(
    entry: str, dim: Dim, n: int, at: str, known: dict[str, tuple[Dim, int, str]]
) -> None:
    """ArgumentError unless ``dim`` is ``n`` in the example, here as in other places."""
    if dim.name in RESERVED:
        want = "a name for a dim that is no word of programs"
        raise located(ArgumentError, f"export: {entry}: expected {want}, got {dim.name!r}")
    first, size, where = known.setdefault(dim.name, (dim, n, at))
    if first != dim:
        raise located(ArgumentError, f"export: {entry}: expected one dim, got {first} and {dim}")
    if n != size:
        both = f"{size} ({where}) and {n} ({at})"
        raise located(
            ArgumentError, f"export: {entry}: expected one size of {dim.name}, got {both}"
        )
    if n < dim.min or (dim.max is not None and n > dim.max) or n % dim.multiple:
        raise located(ArgumentError, f"export: {entry}: expected {dim}, got {n} ({at})")


def _check_derived(
    entry: str, size: Sym, n: int, at: str, known: Mapping[str, tuple[Dim, int, str]]
) -> None:
    """ArgumentError unless ``size`` follows from dims that are sizes of axes, and never is < 0."""
    if missing := sorted(symbols(size) - known.keys()):
        want = f"{missing[0]} to be the size of an axis itself, as {size} ({at}) follows from it"
        raise located(ArgumentError, f"export: {entry}: expected {want}, got none")
    least, _ = bounds(size, {name: (d.min, d.max) for name, (d, _, _) in known.items()})
    if least is None or least < 0:
        want = f"{size} ({at}) to be at least 0 for every size in range"
        raise located(ArgumentError, f"export: {entry}: expected {want}, got {least}")
    if (wanted := substitute(size, {name: at[1] for name, at in known.items()})) != n:
        raise located(ArgumentError, f"export: {entry}: expected {size} = {wanted}, got {n} ({at})")


def _leaf(entry: str, key: str | int, names: Sequence[str], form: Form | None) -> int:
    if isinstance(key, str) and key in names:
        return names.index(key)
    args = form.children[0] if form is not None else None
    if isinstance(key, int) and args is not None and 0 <= key < len(args.children):
        counts = list(map(leaf_count, args.children))
        if counts[key] == 1:
            return sum(counts[:key])
    raise located(
        ArgumentError,
        f"export: {entry}: dynamic: expected one of the arguments {', '.join(names)}, got {key!r}",
    )
