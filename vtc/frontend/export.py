"""``vtc.export``: programs ahead of time, as one file that runs without vtc's compiler.

    vtc.export(model, (x,), "model.vtc", dynamic={"x": {0: vtc.Dim("batch", 1, 64)}})
    y = vtc.load("model.vtc")(x)

    vtc.export(
        {"prefill": vtc.EntryPoint(prefill, (ids,)), "decode": vtc.EntryPoint(decode, (token, at))},
        path="gpt.vtc",
        targets=["cpu", "cuda:90"],
    )

Nothing is run but the example: functions are traced. What a function holds (parameters, caches, the
state of an optimizer and of random numbers) goes into the file, once, and is written there in
memory when the loaded package runs; hyperparameters are held too. Anything else that Python read
while tracing is fixed.
"""

from __future__ import annotations

import inspect
import math
import os
import warnings
from collections.abc import Mapping, Sequence
from itertools import repeat
from pathlib import Path
from typing import Any

from vtc.errors import ArgumentError, CaptureError, VtcWarning, at_line
from vtc.frontend import dispatch
from vtc.frontend.example import run_example
from vtc.frontend.held import Held
from vtc.frontend.inputs import Source
from vtc.frontend.jit import Compiled
from vtc.frontend.notes import Printing
from vtc.frontend.source import located, user_level
from vtc.frontend.tensor import Tensor
from vtc.frontend.trace import Given, Made, Part, Plain, Traced
from vtc.frontend.tree import Form as Tree
from vtc.frontend.variants import Box, Dynamic, EntryPoint, Found, Subject, cover
from vtc.ir.dims import Size, Sym, substitute
from vtc.ir.graph import Program
from vtc.ir.text import show
from vtc.ir.types import TensorType
from vtc.packing import Packing, goals
from vtc.runtime.archive import WEIGHTS, write
from vtc.runtime.archive import Source as Data
from vtc.runtime.manifest import canonical
from vtc.runtime.package import OWN
from vtc.runtime.signature import (
    RANK,
    ConstantInput,
    Entry,
    Form,
    FromInput,
    FromOutput,
    FromSize,
    FromWeight,
    Input,
    Kind,
    Manifest,
    NumberInput,
    Result,
    TensorInput,
    Value,
    Variant,
)
from vtc.runtime.weights import Safetensors
from vtc.version import __version__

__all__ = ["EntryPoint", "export"]


def export(
    fn: Any,
    args: Sequence[Any] = (),
    path: str | Path | None = None,
    *,
    kwargs: Mapping[str, Any] | None = None,
    name: str = "",
    dynamic: Dynamic | None = None,
    targets: str | Sequence[str] = ("cpu",),
    weights: bool = True,
    license: str | None = None,
    example: bool = True,
    tuning: str | Path | None = None,
) -> Path:
    """Write a package; its path.

    ``fn`` is a function, a Module or a compiled one, traced with ``args`` and ``kwargs``; or
    entries by name, each an :class:`EntryPoint` or its fields in a tuple. ``targets``: ``cpu`` (two
    levels of x86-64), ``cpu-x86-64-v3``, ``cpu-aarch64``, ``cuda`` (the GPU here), ``cuda:80``,
    ``cuda:90``, ``cuda:100``. Without ``weights`` the Parameters and Buffers that ``state_dict``
    has are given at load. ``example``: the arguments and results go in, so that ``vtc verify`` can
    compare. ``tuning`` is a table of kernels measured elsewhere.

    CaptureError where a function cannot be traced for all sizes, or leaves ``.grad`` set;
    CodegenError where a target has no kernels for it.
    """
    _check_place(path, args)
    _check_texts(name, license)
    assert path is not None
    points = _points(fn, args, kwargs or {}, dynamic or {})
    subjects = {entry: Subject.of(entry, point) for entry, point in points.items()}
    chosen = goals(targets, deterministic=dispatch.deterministic())
    pack = Packing(chosen, None if tuning is None else Path(tuning))
    held = Held()
    found = {entry: _found(subject, pack) for entry, subject in subjects.items()}
    entries = {entry: _entry(s, found[entry], held, pack) for entry, s in subjects.items()}
    pack.add_shared()
    arrays = held.arrays()
    members: dict[str, Data] = {**pack.members, **_texts(pack, found, license)}
    for entry, subject in subjects.items() if example else ():
        tensors = run_example(subject, found[entry], entries[entry], arrays)
        members[f"example/{entry.lower()}.safetensors"] = Safetensors(tensors)
    left = set() if weights else held.stored()
    if inside := {name: a for name, a in arrays.items() if name not in left}:
        members[WEIGHTS] = Safetensors(inside)
    about = Manifest(
        vtc=__version__,
        name=name or next(iter(entries)),
        weights=held.weights,
        entries=entries,
        targets=tuple(goal.name for goal in pack.goals),
        members={},
    )
    return write(path, members, about)


def _check_texts(name: Any, license: Any) -> None:
    """ArgumentError unless they are texts."""
    for what, text in (("a name", name), ("the text of a licence", license or "")):
        if not isinstance(text, str):
            got = type(text).__name__
            raise located(ArgumentError, f"export: expected {what}, got {got}")


def _check_place(given: Any, args: Any) -> None:
    """ArgumentError where no file can be written: said before the work, not after it."""
    if given is None and isinstance(args, (str, Path)):
        got = f"{args} as the arguments: path={str(args)!r}"
        raise located(ArgumentError, f"export: expected the path of a file, got {got}")
    if not isinstance(given, (str, Path)):
        got = "none" if given is None else type(given).__name__
        hint = "" if given is None else "; the arguments come before it"
        raise located(ArgumentError, f"export: expected the path of a file, got {got}{hint}")
    path = Path(given)
    if path.is_dir():
        raise located(ArgumentError, f"export: expected the path of a file, got the folder {path}")
    there = next((p for p in path.parents if p.exists()), Path())
    if not there.is_dir() or not os.access(there, os.W_OK):
        want = f"expected the path of a file that can be written, got {path}"
        raise located(ArgumentError, f"export: {want}")


def _points(
    fn: Any, args: Sequence[Any], kwargs: Mapping[str, Any], dynamic: Dynamic
) -> dict[str, EntryPoint]:
    if not isinstance(fn, Mapping):
        return {_name(fn): EntryPoint(fn, args, kwargs, dynamic)}
    if args or kwargs or dynamic:
        raise located(
            ArgumentError, "export: expected the arguments of several entries in each of them"
        )
    points = {k: _point(k, p) for k, p in fn.items()}
    for name in points:
        if not isinstance(name, str) or not name.isidentifier() or not name.isascii():
            raise located(ArgumentError, f"export: expected a name for an entry, got {name!r}")
        if name in OWN:
            warnings.warn(
                f"export: the entry {name} is called as package[{name!r}](...), since "
                f"package.{name} is something else",
                VtcWarning,
                stacklevel=user_level(),
            )
    if not points or len({name.lower() for name in points}) < len(points):
        got = ", ".join(points) or "none"
        raise located(ArgumentError, f"export: expected entries with distinct names, got {got}")
    return points


def _point(name: str, given: Any) -> EntryPoint:
    if isinstance(given, EntryPoint):
        return given
    if not isinstance(given, tuple) or not 1 <= len(given) <= 4:
        what = f"{name} to be an EntryPoint or a tuple of function and arguments"
        got = type(given).__name__
        raise located(ArgumentError, f"export: expected {what}, got {got}")
    return EntryPoint(*given)


def _name(fn: Any) -> str:
    """``forward`` of a Module; else what the function is called."""
    fn = fn.fn if isinstance(fn, Compiled) else fn
    name = getattr(fn, "__name__", "forward")
    return name if name.isidentifier() and name.isascii() else "forward"


def _found(subject: Subject, pack: Packing) -> list[Found]:
    found = cover(subject, pack.plans)
    for variant in found:
        _refuse_gradients(subject, variant.traced)
        _refuse_ranks(subject, variant.traced.program)
    return found


def _refuse_ranks(subject: Subject, program: Program) -> None:
    """CaptureError if an input or an output has more axes than a package knows."""
    entry = program.entry
    for node in (*entry.params, *entry.outputs):
        if isinstance(node.type, TensorType) and node.type.rank > RANK:
            want = f"expected tensors of at most {RANK} axes, got {node.type}"
            raise _located_in(subject, f"export: {subject.name}: {want}")


def _texts(
    pack: Packing, found: Mapping[str, Sequence[Found]], license: str | None
) -> dict[str, bytes]:
    """The members that nobody needs to run: programs, and where they come from."""
    texts = {"provenance.json": canonical(pack.provenance())}
    for entry, variants in found.items():
        programs = [show(v.traced.program, loc=True) for v in variants]
        texts[f"entries/{entry.lower()}.vtc"] = "\n".join(programs)
    if (table := pack.tuning()) is not None:
        texts["tuning.json"] = table
    if license is not None:
        texts["LICENSE"] = license
    return {name: text.encode() for name, text in texts.items()}


def _refuse_gradients(subject: Subject, traced: Traced) -> None:
    """CaptureError if a ``.grad`` is left set that was not, or is taken from before the call."""
    for left in traced.grads:
        stays = isinstance(left.value, Given) and left.value.source.kind == "grad"
        if stays or (isinstance(left.value, Plain) and not left.had):
            continue
        owner = left.owner
        at = [k for k, s in enumerate(traced.sources) if _is_of(s, owner)]
        what = traced.program.facts[at[0]].path if at else ""
        if owner.index >= 0:
            what = subject.names[owner.index]
        got = "it is set" if isinstance(left.value, Made | Given) else "it was set before"
        raise _located_in(
            subject,
            f"export: {subject.name}: expected .grad of {what or 'every tensor'} to be None before "
            f"and after a call, got that {got}; call optimizer.zero_grad(), or return gradients",
        )


def _is_of(source: Source, owner: Source) -> bool:
    return source.kind == "tensor" and source.tensor is not None and source.tensor is owner.tensor


def _located_in(subject: Subject, message: str) -> CaptureError:
    """An error with the line where the function begins."""
    fn = getattr(type(subject.fn), "forward", subject.fn)
    code = getattr(inspect.unwrap(fn), "__code__", None)
    if code is None:
        return CaptureError(message)
    return CaptureError(at_line(message, code.co_filename, code.co_firstlineno, code.co_qualname))


# what the manifest says


def _entry(subject: Subject, found: Sequence[Found], held: Held, pack: Packing) -> Entry:
    params = [held.params(v.traced) for v in found]
    outcomes = [(_results(subject, v.traced, held), v.traced.form) for v in found]
    # The last has the largest sizes: those that differ are symbols there.
    results, form = outcomes[-1]
    for v, outcome in zip(found, outcomes, strict=True):
        if form != outcome[1] or not all(map(_agree, results, outcome[0], repeat(v.dims))):
            raise _uneven(subject, (v, found[-1]), (outcome, outcomes[-1]))
    variants = []
    for k, (variant, sources) in enumerate(zip(found, params, strict=True)):
        plans = pack.add(subject.name.lower(), str(k), variant.plans)
        variants.append(Variant(str(k), variant.dims, sources, plans))
    written = {
        source.index
        for v in found
        for source, fact in zip(v.traced.sources, v.traced.program.facts, strict=False)
        if source.kind == "argument" and fact.overwritten is not None
    }
    return Entry(
        dims=subject.dims,
        inputs=tuple([_input(subject, i, i in written) for i in range(len(subject.leaves))]),
        tree=_form(subject.form),
        results=results,
        result_tree=_form(form),
        variants=tuple(variants),
    )


def _agree(general: Result, special: Result, box: Box) -> bool:
    """Whether a result is for the sizes in ``box`` what it is for all."""
    if isinstance(general, FromSize) and isinstance(special, Value):
        fixed = {d.name: d.min for d in box if d.min == d.max}
        return substitute(general.size, fixed) == special.value
    return type(general) is type(special) and general == special


def _uneven(
    subject: Subject,
    found: tuple[Found, Found],
    outcomes: tuple[tuple[tuple[Result, ...], Any], tuple[tuple[Result, ...], Any]],
) -> CaptureError:
    """What to say of results that depend on the size."""
    (first, form), (other, another) = outcomes
    got = "others"
    if form == another:
        pairs = zip(first, other, strict=True)
        pair = next((a, b) for a, b in pairs if not _agree(b, a, found[0].dims))
        parts = zip(map(_kind_of, pair), found, strict=True)
        got = " and ".join(f"{what} where {_sizes(v.dims)}" for what, v in parts)
    want = "expected results of one form, and equal constants, for every size"
    return _located_in(subject, f"export: {subject.name}: {want}, got {got}")


def _kind_of(result: Result) -> str:
    match result:
        case Value(value):
            return repr(value)
        case FromOutput():
            return "a new tensor"
        case FromInput():
            return "an argument"
        case FromWeight():
            return "a tensor that is held"
        case FromSize(size):
            return str(size)


def _sizes(box: Box) -> str:
    return ", ".join(f"{d.name} = {d.min}" if d.min == d.max else str(d) for d in box)


def _input(subject: Subject, i: int, written: bool) -> Input:
    leaf, name = subject.leaves[i], subject.names[i]
    if isinstance(leaf, Tensor):
        shape: list[Size] = list(leaf.shape)
        for axis in range(len(shape)):
            if (i, axis) in subject.axes:
                shape[axis] = subject.axes[i, axis]
        return TensorInput(name, leaf.dtype, tuple(shape), written)
    return NumberInput(name) if isinstance(leaf, float) else ConstantInput(name, leaf)


def _results(subject: Subject, traced: Traced, held: Held) -> tuple[Result, ...]:
    return tuple([_result(subject, part, held) for part in traced.parts])


def _result(subject: Subject, part: Part, held: Held) -> Result:
    match part:
        case Made(output=output):
            return FromOutput(output)
        case Given(source=source):
            if source.kind in ("argument", "number"):
                return FromInput(source.index)
            return FromWeight(held.weight(source))
        case Plain(Sym() as size):
            return FromSize(size)
        case Plain(float(value)) if not math.isfinite(value):
            raise _located_in(
                subject,
                f"export: {subject.name}: expected constants among the results to be finite, got "
                f"{value}; return it as a tensor",
            )
        case Plain(value) if value is None or isinstance(value, (bool, int, float, str)):
            return Value(value)
        case Plain(value):
            raise _located_in(
                subject,
                f"export: {subject.name}: expected results that are tensors, numbers, texts or "
                f"None, got {type(value).__name__}",
            )


def _form(tree: Tree | None) -> Form | None:
    if tree is None:
        return None
    if tree.kind is Printing:
        raise located(ArgumentError, "export: a package prints nothing, take debug.print out")
    if tree.kind is slice:
        raise located(ArgumentError, "export: a package takes no slices, pass their numbers")
    kind: Kind = "dataclass"
    keys = tree.keys
    if issubclass(tree.kind, dict):
        kind = "dict"
    elif hasattr(tree.kind, "_fields"):
        kind, keys = "namedtuple", tree.kind._fields
    elif tree.kind in (tuple, list):
        kind = "tuple" if tree.kind is tuple else "list"
    for key in keys:
        if not isinstance(key, (str, int)):
            got = f"{key!r} ({type(key).__name__})"
            raise located(ArgumentError, f"export: expected keys of text and integers, got {got}")
    return Form(kind, tuple(keys), tuple(map(_form, tree.children)))
