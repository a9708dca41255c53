"""Plans as JSON: what is kept on disk and goes into packages.

    from_json(to_json(plan)) == plan

A text that is no plan, or one that names what is not there, is refused with a ParseError.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from vtc.errors import ArgumentError, ParseError
from vtc.ir.dims import Dim, Size, Sym, is_size, parse_size
from vtc.ir.plan import (
    Arena,
    Branch,
    Buffer,
    Build,
    Copy,
    Input,
    Kernel,
    Launch,
    Loop,
    Moving,
    Output,
    Plan,
    Ref,
    Step,
    check,
)
from vtc.ir.types import DTYPES

FORMAT = 4
T = TypeVar("T")


def to_json(plan: Plan) -> str:
    """``plan`` as JSON text that :func:`from_json` reads back as an equal plan."""
    fields = {
        "format": FORMAT,
        "name": plan.name,
        "dims": [[d.name, d.min, d.max, d.multiple] for d in plan.dims],
        "inputs": [_buffer_out(b) for b in plan.inputs],
        "outputs": [_buffer_out(b) for b in plan.outputs],
        "arena": _size_out(plan.arena),
        "kernels": [_kernel_out(k) for k in plan.kernels],
        "steps": [_step_out(s) for s in plan.steps],
        "host": plan.host,
        "target": plan.target,
        "after": [list(before) for before in plan.after],
    }
    return json.dumps(fields, indent=1)


def from_json(text: str) -> Plan:
    """The plan in ``text``; ParseError if it is not one."""
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ParseError(f"plan: expected JSON, got {error}") from None
    if not isinstance(fields, dict) or fields.get("format") != FORMAT:
        got = fields.get("format") if isinstance(fields, dict) else type(fields).__name__
        raise ParseError(f"plan: expected format {FORMAT}, got {got!r}")
    try:
        return check(_plan_in(fields))
    except RecursionError:
        raise ParseError("plan: expected steps, got some nested too deeply") from None


def _plan_in(fields: Mapping[str, Any]) -> Plan:
    return Plan(
        name=_text(fields.get("name")),
        dims=_tuple(fields.get("dims"), _dim_in),
        inputs=_tuple(fields.get("inputs"), _buffer_in),
        outputs=_tuple(fields.get("outputs"), _buffer_in),
        arena=_size_in(fields.get("arena")),
        kernels=_tuple(fields.get("kernels"), _kernel_in),
        steps=_tuple(fields.get("steps"), _step_in),
        host=_text(fields.get("host")),
        target=_text(fields.get("target")),
        after=_tuple(fields.get("after"), lambda before: _tuple(before, _whole)),
    )


def _size_out(size: Size) -> int | str:
    return str(size) if isinstance(size, Sym) else size


def _buffer_out(b: Buffer) -> list[Any]:
    return [b.dtype.name, [_size_out(s) for s in b.shape], b.path, b.overwritten]


def _kernel_out(k: Kernel) -> list[Any]:
    return [k.name, k.symbol, k.source, k.note, _build_out(k.build)]


def _build_out(build: Build | None) -> list[Any] | None:
    if build is None:
        return None
    return [list(build.signature), build.warps, build.stages, build.checks, build.table]


def _ref_out(ref: Ref) -> list[Any]:
    match ref:
        case Input(i):
            return ["in", i]
        case Output(i):
            return ["out", i]
        case Arena(offset):
            return ["arena", _size_out(offset)]
        case Moving(base, loop, step):
            return ["moving", [_ref_out(base), loop, _size_out(step)]]


def _step_out(step: Step) -> list[Any]:
    match step:
        case Launch(kernel, args, sizes, note, work, grid):
            refs = [_ref_out(a) for a in args]
            numbers, blocks = ([_size_out(s) for s in some] for some in (sizes, grid))
            return ["launch", kernel, refs, numbers, note, _size_out(work), blocks]
        case Copy(source, target, nbytes):
            return ["copy", _ref_out(source), _ref_out(target), _size_out(nbytes)]
        case Loop(number, steps, count, reverse, test, condition, note):
            cell = None if condition is None else _ref_out(condition)
            body, first = ([_step_out(s) for s in some] for some in (steps, test))
            return ["loop", number, body, _size_out(count), reverse, first, cell, note]
        case Branch(condition, then, otherwise, note):
            both = [[_step_out(s) for s in some] for some in (then, otherwise)]
            return ["branch", _ref_out(condition), *both, note]


def _wrong(expected: str, got: object) -> ParseError:
    text = json.dumps(got)
    shown = text if len(text) < 80 else f"{text[:77]}..."
    return ParseError(f"plan: expected {expected}, got {shown}")


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise _wrong("text", value)
    return value


def _whole(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise _wrong("an integer", value)
    return value


def _size_in(value: object) -> Size:
    if isinstance(value, str):
        return parse_size(value)
    if not is_size(value):
        raise _wrong("a size", value)
    return _whole(value)


def _tuple(value: object, item: Callable[[Any], T]) -> tuple[T, ...]:
    if not isinstance(value, list):
        raise _wrong("a list", value)
    return tuple(map(item, value))


def _record(value: object, expected: str, length: int) -> list[Any]:
    if not isinstance(value, list) or len(value) != length:
        raise _wrong(expected, value)
    return value


def _dim_in(value: object) -> Dim:
    name, low, high, multiple = _record(value, "a dim [name, min, max, multiple]", 4)
    top = None if high is None else _whole(high)
    try:
        return Dim(_text(name), _whole(low), top, _whole(multiple))
    except ArgumentError as error:
        raise ParseError(f"plan: {error}") from None


def _buffer_in(value: object) -> Buffer:
    dtype, shape, path, over = _record(value, "a buffer [dtype, shape, path, overwritten]", 4)
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise _wrong("a dtype", dtype)
    overwritten = None if over is None else _whole(over)
    return Buffer(DTYPES[dtype], _tuple(shape, _size_in), _text(path), overwritten)


def _kernel_in(value: object) -> Kernel:
    what = "a kernel [name, symbol, source, note, build]"
    name, symbol, source, note, build = _record(value, what, 5)
    if not _text(symbol).isidentifier():
        raise _wrong("a symbol", symbol)
    made = None if build is None else _build_in(build)
    return Kernel(_text(name), symbol, _text(source), _text(note), made)


def _build_in(value: object) -> Build:
    what = "a build [signature, warps, stages, checks, table]"
    signature, warps, stages, checks, table = _record(value, what, 5)
    for flag in (checks, table):
        if not isinstance(flag, bool):
            raise _wrong("true or false", flag)
    return Build(_tuple(signature, _text), _whole(warps), _whole(stages), checks, table)


_REFS: Mapping[str, Callable[[Any], Ref]] = {
    "in": lambda i: Input(_whole(i)),
    "out": lambda i: Output(_whole(i)),
    "arena": lambda offset: Arena(_size_in(offset)),
    "moving": lambda at: _moving_in(at),
}


def _ref_in(value: object) -> Ref:
    kind, at = _record(value, "a reference [kind, place]", 2)
    if not isinstance(kind, str) or kind not in _REFS:
        raise _wrong("in, out, arena or moving", kind)
    return _REFS[kind](at)


def _moving_in(value: object) -> Moving:
    base, loop, step = _record(value, "a moving place [base, loop, step]", 3)
    return Moving(_ref_in(base), _whole(loop), _size_in(step))


def _step_in(value: object) -> Step:
    match value:
        case ["launch", kernel, args, sizes, note, work, grid]:
            refs, numbers = _tuple(args, _ref_in), _tuple(sizes, _size_in)
            blocks = _tuple(grid, _size_in)
            return Launch(_text(kernel), refs, numbers, _text(note), _size_in(work), blocks)
        case ["copy", source, target, nbytes]:
            return Copy(_ref_in(source), _ref_in(target), _size_in(nbytes))
        case ["loop", number, steps, count, bool(reverse), test, condition, note]:
            cell = None if condition is None else _ref_in(condition)
            body, first = _tuple(steps, _step_in), _tuple(test, _step_in)
            turns = _size_in(count)
            return Loop(_whole(number), body, turns, reverse, first, cell, _text(note))
        case ["branch", condition, then, otherwise, note]:
            both = _tuple(then, _step_in), _tuple(otherwise, _step_in)
            return Branch(_ref_in(condition), *both, _text(note))
    raise _wrong("a launch, a copy, a loop or a branch", value)
