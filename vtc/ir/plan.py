"""What a program becomes: kernels, and the steps that run them over inputs, outputs and one arena.

A plan is data: it prints, it serialises to JSON and back exactly, and it is all the runtime sees.
Sizes and offsets may be symbolic; the dims are bound from the shapes of the inputs at each call::

    plan mlp
      B: Dim(1, 64)
      in0 x: f32[B, 784]
      out0: f32[B, 10]
      arena: 16384 bytes
      0: k0(in0, in1, arena+0; B)           # mlp.py:14 up
      1: copy arena+0 -> out0, 40*B bytes

**Memory.** ``Output(i)`` of an output that overwrites input p (``inputs[p].overwritten == i``) is
the memory of that input: such an output is never allocated. All other outputs are fresh. The arena
is 64-byte aligned and undefined at the start; its offsets are multiples of 64.

**From a planned program** with n outputs (``Call.at`` is filled by the pass ``memory``):

* A value lies in ``Input(p)`` if it is param p, else where ``at`` says: an offset in the arena,
  ``-1 - i`` for ``Output(i)`` with i < n, ``-1 - n - p`` for ``Input(p)`` (only where a reshape
  shares the bytes of a param).
* A call whose region holds only reshapes and whose result lies where its argument lies is no step.
* After the last launch, in order of i, each output i that lies neither in ``Output(i)`` nor in the
  input it overwrites is copied there. ``memory`` has made sure that this order is right.

**The host program** (C, ``Plan.host``, linked with the kernels) has one entry::

    int64_t vtc_run(void *const *inputs, void *const *outputs, void *arena, const int64_t *dims,
                    vtc_pool *pool);

``dims`` are in the order of ``Plan.dims``; the result is 0, or 1 + the number of the step that met
an index out of its range. Several threads may call it at once, each with its own arena and outputs.
``pool`` has the threads that large kernels run on: a caller may bring its own, or none (a null
pointer)::

    typedef int vtc_kernel(void *const *p, const int64_t *n, int64_t part, int64_t parts);
    typedef struct vtc_pool {
        int (*run)(struct vtc_pool *, vtc_kernel *, void *const *p, const int64_t *n,
                   int64_t parts);
        int64_t threads;
    } vtc_pool;

``run`` calls the kernel for each part, in any order, and gives the results or'ed. What a kernel
computes does not depend on ``parts``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar, final

from vtc.errors import ArgumentError, ParseError
from vtc.ir.dims import Dim, Size, Sym, is_size, parse_size, symbols
from vtc.ir.types import DTYPES, DType, TensorType

FORMAT = 2
T = TypeVar("T")


@final
@dataclass(frozen=True, slots=True)
class Buffer:
    """An input or output of the program: dense, row-major.

    ``path`` is the user's name for it; ``overwritten`` (inputs only) is the output that replaces
    its content.
    """

    dtype: DType
    shape: tuple[Size, ...]
    path: str = ""
    overwritten: int | None = None

    @property
    def type(self) -> TensorType:
        """Its tensor type."""
        return TensorType(self.dtype, self.shape)

    @property
    def nbytes(self) -> Size:
        """Its bytes."""
        return self.type.nbytes


@final
@dataclass(frozen=True, slots=True)
class Kernel:
    """One distinct kernel: ``symbol`` is its function in ``source``; ``note`` names user lines."""

    name: str
    symbol: str
    source: str
    note: str = ""


@final
@dataclass(frozen=True, slots=True)
class Input:
    """The memory of input ``index``."""

    index: int

    def __str__(self) -> str:
        return f"in{self.index}"


@final
@dataclass(frozen=True, slots=True)
class Output:
    """The memory of output ``index``: that of the input it overwrites, if it does."""

    index: int

    def __str__(self) -> str:
        return f"out{self.index}"


@final
@dataclass(frozen=True, slots=True)
class Arena:
    """Scratch memory, ``offset`` bytes from its start."""

    offset: Size

    def __str__(self) -> str:
        return f"arena+{self.offset}" if isinstance(self.offset, int) else f"arena+({self.offset})"


Ref = Input | Output | Arena


@final
@dataclass(frozen=True, slots=True)
class Launch:
    """Call a kernel with pointers ``args`` and then integers ``sizes``.

    ``work`` is about how many loads it does; 0 for a kernel that cannot run in parts.
    """

    kernel: str
    args: tuple[Ref, ...]
    sizes: tuple[Size, ...] = ()
    note: str = ""
    work: Size = 0

    def __str__(self) -> str:
        sizes = f"; {', '.join(map(str, self.sizes))}" if self.sizes else ""
        return f"{self.kernel}({', '.join(map(str, self.args))}{sizes}){_comment(self.note)}"


@final
@dataclass(frozen=True, slots=True)
class Copy:
    """Copy ``nbytes`` bytes; source and target do not overlap."""

    source: Ref
    target: Ref
    nbytes: Size

    def __str__(self) -> str:
        return f"copy {self.source} -> {self.target}, {self.nbytes} bytes"


Step = Launch | Copy


@final
@dataclass(frozen=True, slots=True)
class Plan:
    """See the module."""

    name: str
    dims: tuple[Dim, ...]
    inputs: tuple[Buffer, ...]
    outputs: tuple[Buffer, ...]
    arena: Size
    kernels: tuple[Kernel, ...]
    steps: tuple[Step, ...]
    host: str = ""

    def __str__(self) -> str:
        return "\n".join([f"plan {self.name}", *(f"  {line}" for line in self._lines())])

    def _lines(self) -> Iterable[str]:
        yield from map(str, self.dims)
        for i, b in enumerate(self.inputs):
            over = "" if b.overwritten is None else f", overwritten by out{b.overwritten}"
            yield f"in{i}{' ' if b.path else ''}{b.path}: {b.type}{over}"
        for i, b in enumerate(self.outputs):
            yield f"out{i}{' ' if b.path else ''}{b.path}: {b.type}"
        yield f"arena: {self.arena} bytes"
        yield from (f"{i}: {step}" for i, step in enumerate(self.steps))


def check(plan: Plan) -> Plan:
    """``plan`` itself; ParseError if a step names what is not there, or a size cannot be known."""
    known = frozenset(d.name for d in plan.dims)
    _distinct(plan.name, "dim", [d.name for d in plan.dims])
    _distinct(plan.name, "kernel", [k.name for k in plan.kernels])
    for b in (*plan.inputs, *plan.outputs):
        for s in b.shape:
            _sized(plan.name, s, known)
    plain = {str(s) for b in plan.inputs for s in b.shape}
    if missing := sorted(known - plain):
        raise ParseError(f"plan {plan.name}: expected an input axis of size {missing[0]}, got none")
    _sized(plan.name, plan.arena, known)
    _check_overwritten(plan)
    kernels = {k.name for k in plan.kernels}
    for i, step in enumerate(plan.steps):
        where = f"plan {plan.name}, step {i}"
        if isinstance(step, Launch) and step.kernel not in kernels:
            raise ParseError(f"{where}: expected a kernel, got {step.kernel!r}")
        _check_step(plan, where, step, known)
    return plan


def to_json(plan: Plan) -> str:
    """``plan`` as JSON text that :func:`from_json` reads back as an equal plan."""
    fields = {
        "format": FORMAT,
        "name": plan.name,
        "dims": [[d.name, d.min, d.max, d.multiple] for d in plan.dims],
        "inputs": [_buffer_out(b) for b in plan.inputs],
        "outputs": [_buffer_out(b) for b in plan.outputs],
        "arena": _size_out(plan.arena),
        "kernels": [[k.name, k.symbol, k.source, k.note] for k in plan.kernels],
        "steps": [_step_out(s) for s in plan.steps],
        "host": plan.host,
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
    plan = Plan(
        name=_text(fields.get("name")),
        dims=_tuple(fields.get("dims"), _dim_in),
        inputs=_tuple(fields.get("inputs"), _buffer_in),
        outputs=_tuple(fields.get("outputs"), _buffer_in),
        arena=_size_in(fields.get("arena")),
        kernels=_tuple(fields.get("kernels"), _kernel_in),
        steps=_tuple(fields.get("steps"), _step_in),
        host=_text(fields.get("host")),
    )
    return check(plan)


# checks


def _distinct(plan: str, what: str, names: list[str]) -> None:
    if len(set(names)) != len(names):
        twice = next(n for n in names if names.count(n) > 1)
        raise ParseError(f"plan {plan}: expected distinct names, got {what} {twice!r} twice")


def _sized(where: str, size: Size, known: frozenset[str]) -> None:
    if unknown := sorted(symbols(size) - known):
        raise ParseError(f"{where}: expected a declared dim, got {unknown[0]} in size {size}")
    if isinstance(size, int) and size < 0:
        raise ParseError(f"{where}: expected a size of at least 0, got {size}")


def _check_overwritten(plan: Plan) -> None:
    over = [(p, b) for p, b in enumerate(plan.inputs) if b.overwritten is not None]
    _distinct(plan.name, "overwriting output", [str(b.overwritten) for _, b in over])
    for p, b in over:
        index = b.overwritten if b.overwritten is not None else -1
        if not 0 <= index < len(plan.outputs):
            raise ParseError(f"plan {plan.name}: in{p}: expected an output, got out{index}")
        if plan.outputs[index].type != b.type:
            raise ParseError(
                f"plan {plan.name}: out{index} overwrites in{p}: "
                f"expected {b.type}, got {plan.outputs[index].type}"
            )


def _check_step(plan: Plan, where: str, step: Step, known: frozenset[str]) -> None:
    match step:
        case Launch():
            for size in (*step.sizes, step.work):
                _sized(where, size, known)
            for ref in step.args:
                _check_ref(plan, where, ref, 0, known)
        case Copy():
            _sized(where, step.nbytes, known)
            for ref in (step.source, step.target):
                _check_ref(plan, where, ref, step.nbytes, known)


def _check_ref(plan: Plan, where: str, ref: Ref, nbytes: Size, known: frozenset[str]) -> None:
    """``ref`` is memory of the plan, and ``nbytes`` fit (where both sizes are numbers)."""
    match ref:
        case Input(i):
            room = plan.inputs[i].nbytes if 0 <= i < len(plan.inputs) else -1
        case Output(i):
            room = plan.outputs[i].nbytes if 0 <= i < len(plan.outputs) else -1
        case Arena(offset):
            _sized(where, offset, known)
            room = plan.arena - offset
    if isinstance(room, int) and (room < 0 or (isinstance(nbytes, int) and room < nbytes)):
        size = "" if nbytes == 0 else f"{nbytes} bytes at "
        raise ParseError(f"{where}: expected memory of the plan, got {size}{ref}")


# JSON


def _comment(note: str) -> str:
    return f"  # {note}" if note else ""


def _size_out(size: Size) -> int | str:
    return str(size) if isinstance(size, Sym) else size


def _buffer_out(b: Buffer) -> list[Any]:
    return [b.dtype.name, [_size_out(s) for s in b.shape], b.path, b.overwritten]


def _ref_out(ref: Ref) -> list[Any]:
    match ref:
        case Input(i):
            return ["in", i]
        case Output(i):
            return ["out", i]
        case Arena(offset):
            return ["arena", _size_out(offset)]


def _step_out(step: Step) -> list[Any]:
    match step:
        case Launch(kernel, args, sizes, note, work):
            refs = [_ref_out(a) for a in args]
            return ["launch", kernel, refs, [_size_out(s) for s in sizes], note, _size_out(work)]
        case Copy(source, target, nbytes):
            return ["copy", _ref_out(source), _ref_out(target), _size_out(nbytes)]


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
    name, symbol, source, note = _record(value, "a kernel [name, symbol, source, note]", 4)
    if not _text(symbol).isidentifier():
        raise _wrong("a symbol", symbol)
    return Kernel(_text(name), symbol, _text(source), _text(note))


_REFS: Mapping[str, Callable[[Any], Ref]] = {
    "in": lambda i: Input(_whole(i)),
    "out": lambda i: Output(_whole(i)),
    "arena": lambda offset: Arena(_size_in(offset)),
}


def _ref_in(value: object) -> Ref:
    kind, at = _record(value, "a reference [kind, place]", 2)
    if not isinstance(kind, str) or kind not in _REFS:
        raise _wrong("in, out or arena", kind)
    return _REFS[kind](at)


def _step_in(value: object) -> Step:
    match value:
        case ["launch", kernel, args, sizes, note, work]:
            refs, numbers = _tuple(args, _ref_in), _tuple(sizes, _size_in)
            return Launch(_text(kernel), refs, numbers, _text(note), _size_in(work))
        case ["copy", source, target, nbytes]:
            return Copy(_ref_in(source), _ref_in(target), _size_in(nbytes))
    raise _wrong("a launch or a copy", value)
