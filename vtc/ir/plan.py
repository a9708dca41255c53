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
* A call whose region holds only reshapes and whose result lies where its argument lies is no step;
  nor is one that puts its arguments one after another where they lie so.
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

**On a GPU** there is no host program: the steps become nodes of a CUDA graph. A kernel takes its
pointers, which are 16-byte aligned, then its sizes as 64-bit integers, then (if it ``checks``
indices) a pointer to a 32-bit cell into which it writes 1 if one was out of its range.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeVar, final

from vtc.errors import ParseError
from vtc.ir.dims import Dim, Size, symbols
from vtc.ir.types import DType, TensorType

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
class Build:
    """How a Triton kernel is compiled: the type of each argument (``*fp32``, ``i64``), warps,
    stages of its loops, and whether it ``checks`` indices: then its last argument is an error cell.

    A kernel with a ``table`` takes one pointer to the pointers in its arguments instead of these.
    """

    signature: tuple[str, ...]
    warps: int = 4
    stages: int = 3
    checks: bool = False
    table: bool = False


@final
@dataclass(frozen=True, slots=True)
class Kernel:
    """One distinct kernel: ``symbol`` is its function in ``source``; ``note`` names user lines.

    ``build`` is there if the source is Triton; else it is C.
    """

    name: str
    symbol: str
    source: str
    note: str = ""
    build: Build | None = None


@final
@dataclass(frozen=True, slots=True)
class Binary:
    """A kernel for one architecture, as a device loads it.

    ``shared`` is the bytes of shared memory of a block, ``scratch`` those of global memory that
    each block of the grid needs, in one buffer aligned to ``alignment``.
    """

    name: str
    cubin: bytes
    warps: int
    shared: int = 0
    scratch: int = 0
    alignment: int = 1


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

    ``work`` is about how many loads it does; 0 for a kernel that cannot run in parts. On a GPU it
    runs as a ``grid`` of blocks; a grid without blocks is no launch.
    """

    kernel: str
    args: tuple[Ref, ...]
    sizes: tuple[Size, ...] = ()
    note: str = ""
    work: Size = 0
    grid: tuple[Size, ...] = ()

    def __str__(self) -> str:
        sizes = f"; {', '.join(map(str, self.sizes))}" if self.sizes else ""
        grid = f" on {' x '.join(map(str, self.grid))}" if self.grid else ""
        return f"{self.kernel}({', '.join(map(str, self.args))}{sizes}){grid}{_comment(self.note)}"


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
    """See the module. ``target`` is the name of what it was made for.

    ``after`` has for each step those it waits for, but for what these wait for; any others it may
    run beside. Where there is none, each step waits for the one before.
    """

    name: str
    dims: tuple[Dim, ...]
    inputs: tuple[Buffer, ...]
    outputs: tuple[Buffer, ...]
    arena: Size
    kernels: tuple[Kernel, ...]
    steps: tuple[Step, ...]
    host: str = ""
    target: str = "cpu"
    after: tuple[tuple[int, ...], ...] = ()

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
    _check_after(plan)
    return plan


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


def _check_after(plan: Plan) -> None:
    if plan.after and len(plan.after) != len(plan.steps):
        want = f"expected what each of {len(plan.steps)} steps waits for"
        raise ParseError(f"plan {plan.name}: {want}, got {len(plan.after)}")
    for i, before in enumerate(plan.after):
        if wrong := [j for j in before if not 0 <= j < i]:
            raise ParseError(
                f"plan {plan.name}, step {i}: expected to wait for steps before it, got {wrong[0]}"
            )


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
            for size in (*step.sizes, step.work, *step.grid):
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


def _comment(note: str) -> str:
    return f"  # {note}" if note else ""
