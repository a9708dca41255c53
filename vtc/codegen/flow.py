"""Loops and branches as steps that hold the steps of the graphs that they run.

These were written as if each graph was an entry: its params are inputs, its results outputs, and
its values lie in an arena of its own. Here they get places in the plan around them::

    in0 (carried)      ->  where the result of the loop lies
    in1 (a slice)      ->  in1+i0*512
    arena+64           ->  arena+4160, in the frame of the loop

On a GPU, kernels of a loop that is not spelled out (:mod:`vtc.ir.unroll`) take the same addresses
in each turn: slices are copied to memory that does not move, and from there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import final

from vtc.ir import unroll
from vtc.ir.dims import Size, maximum
from vtc.ir.graph import Node
from vtc.ir.ops.flow import Cond, Flow, ForLoop, WhileLoop
from vtc.ir.plan import Arena, Branch, Copy, Input, Launch, Loop, Moving, Output, Ref, Step
from vtc.ir.target import Target
from vtc.ir.types import TensorType

ALIGNMENT = 64
SLICES = 16
"""What the addresses that kernels of a GPU take are multiples of."""

Steps = tuple[Step, ...]
StepsOf = Callable[[str, int], tuple[Steps, Size]]


@final
@dataclass
class Frame:
    """Memory of a loop or a branch: from ``start``, and grown by ``take`` for what lasts longer
    than a graph that it runs.
    """

    start: Size
    target: Target
    end: Size = field(init=False)
    taken: Size = field(init=False)

    def __post_init__(self) -> None:
        self.end = self.taken = self.start

    def take(self, nbytes: Size) -> Ref:
        """Memory that all graphs leave alone."""
        at = self.taken
        self.taken = at + (nbytes + ALIGNMENT - 1) // ALIGNMENT * ALIGNMENT
        self.end = maximum(self.end, self.taken)
        return Arena(at)

    def put(
        self, steps: Steps, arena: Size, params: Sequence[Ref], outputs: Sequence[Ref]
    ) -> Steps:
        """``steps`` of a graph whose params and outputs lie there, and its arena here."""
        self.end = maximum(self.end, self.taken + arena)

        def place(ref: Ref) -> Ref:
            match ref:
                case Input(i):
                    return params[i]
                case Output(i):
                    return outputs[i]
                case Arena(offset):
                    return Arena(self.taken + offset)
                case Moving(base, loop, step):
                    return Moving(place(base), loop, step)

        return tuple(_placed(s, place) for s in steps)


def flow_step(
    op: Flow,
    inputs: Sequence[Ref],
    results: Sequence[Ref],
    node: Node,
    frame: Frame,
    steps_of: StepsOf,
    loops: Iterator[int],
    note: str,
) -> Step:
    """The step that ``op`` becomes. What it carries is in ``results`` when it begins."""
    match op:
        case Cond(then=then, otherwise=otherwise):
            return _branch((then, otherwise), inputs, results, frame, steps_of, note)
        case WhileLoop():
            return _while(op, inputs, results, frame, steps_of, next(loops), note)
        case ForLoop():
            types = [i.tensor for i in node.inputs]
            return _for(op, inputs, results, types, frame, steps_of, next(loops), note)
    raise TypeError(f"{op.name} is no loop and no branch")


def _branch(
    names: Iterable[str],
    inputs: Sequence[Ref],
    results: Sequence[Ref],
    frame: Frame,
    steps_of: StepsOf,
    note: str,
) -> Branch:
    then, otherwise = (frame.put(*steps_of(name, 0), inputs[1:], results) for name in names)
    return Branch(inputs[0], then, otherwise, note)


def _while(
    op: WhileLoop,
    inputs: Sequence[Ref],
    results: Sequence[Ref],
    frame: Frame,
    steps_of: StepsOf,
    number: int,
    note: str,
) -> Loop:
    cell = frame.take(1)
    given = [*results, *inputs[op.carried :]]
    test = frame.put(*steps_of(op.condition, 0), given, [cell])
    body = frame.put(*steps_of(op.body, op.carried), given, results)
    return Loop(number, body, test=test, condition=cell, note=note)


def _for(
    op: ForLoop,
    inputs: Sequence[Ref],
    results: Sequence[Ref],
    types: Sequence[TensorType],
    frame: Frame,
    steps_of: StepsOf,
    number: int,
    note: str,
) -> Loop:
    n, rows = op.carried, len(op.stacked)
    steps, arena = steps_of(op.body, n)
    still = _still(frame.target, Loop(number, steps, op.length))
    slices = [t.with_shape(t.shape[1:]).nbytes for t in types[n : n + op.sliced]]
    before: list[Step] = []
    after: list[Step] = []
    if op.saves:
        for k in range(n):
            saved = Moving(results[n + rows + k], number, types[k].nbytes)
            before.append(Copy(results[k], saved, types[k].nbytes))
    read: list[Ref] = []
    for ref, nbytes in zip(inputs[n : n + op.sliced], slices, strict=True):
        there: Ref = Moving(ref, number, nbytes)
        if still(nbytes):
            there, moving = frame.take(nbytes), there
            before.append(Copy(moving, there, nbytes))
        read.append(there)
    made: list[Ref] = []
    for ref, t in zip(results[n : n + rows], op.stacked, strict=True):
        there = Moving(ref, number, t.nbytes)
        if still(t.nbytes):
            there, moving = frame.take(t.nbytes), there
            after.append(Copy(there, moving, t.nbytes))
        made.append(there)
    carried = results[:n]
    params = [*carried, *read, *inputs[n + op.sliced :]]
    body = frame.put(steps, arena, params, [*carried, *made])
    return Loop(number, (*before, *body, *after), op.length, op.reverse, note=note)


def _still(target: Target, loop: Loop) -> Callable[[Size], bool]:
    """Whether kernels of ``loop`` need slices of so many bytes in memory that does not move."""
    if target.kind == "cpu":
        return lambda step: False
    if unroll.long(loop):
        return lambda step: True
    return lambda step: not isinstance(step, int) or step % SLICES != 0


def _placed(step: Step, place: Callable[[Ref], Ref]) -> Step:
    """``step`` on other memory."""
    match step:
        case Launch(args=args):
            return replace(step, args=tuple(map(place, args)))
        case Copy(source, target, nbytes):
            return Copy(place(source), place(target), nbytes)
        case Loop(steps=steps, test=test, condition=condition):
            body, first = (tuple(_placed(s, place) for s in some) for some in (steps, test))
            cell = None if condition is None else place(condition)
            return replace(step, steps=body, test=first, condition=cell)
        case Branch(condition, then, otherwise, note):
            one, other = (tuple(_placed(s, place) for s in some) for some in (then, otherwise))
            return Branch(place(condition), one, other, note)
