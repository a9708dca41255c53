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

**Loops and branches** are steps that hold steps; these run one after the other, and reach slices of
a tensor by places that move with the loop (:class:`Moving`)::

      3: for i0 < 8  # rnn.py:7
           k0(out0, in1+i0*512, in2, out0)

**On a GPU** there is no host program: the steps become nodes of a CUDA graph, loops turn by turn. A
kernel takes its pointers, which are 16-byte aligned, then its sizes as 64-bit integers, then (if it
``checks`` indices) a pointer to a 32-bit cell into which it writes 1 if one was out of its range.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
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


@final
@dataclass(frozen=True, slots=True)
class Moving:
    """``step`` bytes further than ``base`` at each turn of loop ``loop``, whose turns count from 0.

    ``base`` may move itself, with a loop around that one.
    """

    base: Ref
    loop: int
    step: Size

    def __str__(self) -> str:
        step = self.step if isinstance(self.step, int) else f"({self.step})"
        return f"{self.base}+i{self.loop}*{step}"


Ref = Input | Output | Arena | Moving


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


@final
@dataclass(frozen=True, slots=True)
class Loop:
    """Run ``steps`` again and again. ``number`` is this loop's, and no other's of the plan.

    There are ``count`` turns, the last one first if ``reverse``; or, with a ``condition``, as many
    as the byte there is not 0 after ``test``, which runs before each turn.
    """

    number: int
    steps: tuple[Step, ...]
    count: Size = 0
    reverse: bool = False
    test: tuple[Step, ...] = ()
    condition: Ref | None = None
    note: str = ""

    def __str__(self) -> str:
        order = ", the last first" if self.reverse else ""
        while_ = [f"while {self.condition}", *_indented(self.test), "do"]
        for_ = [f"for i{self.number} < {self.count}{order}"]
        head = for_ if self.condition is None else while_
        head[0] += _comment(self.note)
        return "\n".join([*head, *_indented(self.steps)])


@final
@dataclass(frozen=True, slots=True)
class Branch:
    """Run the steps ``then`` if the byte at ``condition`` is not 0, else ``otherwise``."""

    condition: Ref
    then: tuple[Step, ...]
    otherwise: tuple[Step, ...]
    note: str = ""

    def __str__(self) -> str:
        head = f"if {self.condition}{_comment(self.note)}"
        return "\n".join([head, *_indented(self.then), "else", *_indented(self.otherwise)])


Step = Launch | Copy | Loop | Branch
NESTED = 64
"""How deep loops and branches of a package may be in each other."""


def parts(step: Step) -> tuple[tuple[Step, ...], ...]:
    """The lists of steps within ``step``; none for a launch or a copy."""
    match step:
        case Loop(steps=steps, test=test):
            return test, steps
        case Branch(then=then, otherwise=otherwise):
            return then, otherwise
    return ()


def flat(steps: Iterable[Step]) -> Iterator[Launch | Copy]:
    """The launches and copies among ``steps`` and within them, each once."""
    for step in steps:
        if isinstance(step, Launch | Copy):
            yield step
        for inner in parts(step):
            yield from flat(inner)


def nesting(steps: Iterable[Step]) -> int:
    """How deep loops and branches among ``steps`` are in each other; 0 without any."""
    inner = [nesting(some) for step in steps for some in parts(step)]
    return 1 + max(inner) if inner else 0


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
        for i, step in enumerate(self.steps):
            first, *more = str(step).splitlines()
            yield f"{i}: {first}"
            yield from (f"   {line}" for line in more)


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
        for inner in flat((step,)):
            if isinstance(inner, Launch) and inner.kernel not in kernels:
                raise ParseError(f"{where}: expected a kernel, got {inner.kernel!r}")
        _check_step(plan, where, step, known, {})
    numbers = [s.number for s in _loops(plan.steps)]
    _distinct(plan.name, "loop", list(map(str, numbers)))
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


Turns = Mapping[int, Size]
"""How many turns each loop has that a step is in."""


def _loops(steps: Iterable[Step]) -> Iterator[Loop]:
    for step in steps:
        if isinstance(step, Loop):
            yield step
        for inner in parts(step):
            yield from _loops(inner)


def _check_step(plan: Plan, where: str, step: Step, known: frozenset[str], turns: Turns) -> None:
    for size in _sizes(step):
        _sized(where, size, known)
    for ref, nbytes in _refs(step):
        _check_ref(plan, where, ref, nbytes, known, turns)
    if isinstance(step, Loop) and step.condition is None:
        if step.test:
            raise ParseError(f"{where}: expected a condition for a test, got none")
        turns = {**turns, step.number: step.count}
    for inner in parts(step):
        for one in inner:
            _check_step(plan, where, one, known, turns)


def _sizes(step: Step) -> tuple[Size, ...]:
    match step:
        case Launch(sizes=sizes, work=work, grid=grid):
            return (*sizes, work, *grid)
        case Copy(nbytes=nbytes):
            return (nbytes,)
        case Loop(count=count):
            return (count,)
    return ()


def _refs(step: Step) -> Iterator[tuple[Ref, Size]]:
    """The places that ``step`` itself names, and the bytes that are known of each."""
    match step:
        case Launch(args=args):
            yield from ((ref, 0) for ref in args)
        case Copy(source, target, nbytes):
            yield from ((source, nbytes), (target, nbytes))
        case Loop(condition=cell) | Branch(condition=cell) if cell is not None:
            yield cell, 1


def _check_ref(
    plan: Plan, where: str, ref: Ref, nbytes: Size, known: frozenset[str], turns: Turns
) -> None:
    """``ref`` is memory of the plan, and ``nbytes`` fit (where both sizes are numbers)."""
    base, last = ref, 0
    while isinstance(base, Moving):
        _sized(where, base.step, known)
        if base.loop not in turns:
            raise ParseError(f"{where}: expected a loop around it that counts, got i{base.loop}")
        count, step = turns[base.loop], base.step
        if isinstance(count, int) and isinstance(step, int):
            last += max(count - 1, 0) * step
        base = base.base
    match base:
        case Input(i):
            room = plan.inputs[i].nbytes if 0 <= i < len(plan.inputs) else -1
        case Output(i):
            room = plan.outputs[i].nbytes if 0 <= i < len(plan.outputs) else -1
        case Arena(offset):
            _sized(where, offset, known)
            room = plan.arena - offset
    never = 0 in turns.values()
    if isinstance(room, int) and (room < 0 or (isinstance(nbytes, int) and room < nbytes + last)):
        if never and room >= 0:
            return
        size = "" if nbytes == 0 else f"{nbytes} bytes at "
        raise ParseError(f"{where}: expected memory of the plan, got {size}{ref}")


def _indented(steps: Iterable[Step]) -> list[str]:
    return [f"  {line}" for step in steps for line in str(step).splitlines()]


def _comment(note: str) -> str:
    return f"  # {note}" if note else ""
