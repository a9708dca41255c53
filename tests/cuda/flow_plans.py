"""Plans with loops and branches, and what they compute.

    plan = grown()
    want = outputs(plan, [x])                # by NumPy, step by step
    plan = drawn(np.random.default_rng(3))   # loops and branches in each other, at random

Slices lie still, so a graph may run every loop as one. A vector has the size of the first axis.
"""

from itertools import count

import numpy as np
from small_plans import VECTOR, B, plan, room, run

from vtc.ir.plan import Arena, Branch, Buffer, Copy, Input, Launch, Loop, Moving, Output
from vtc.ir.types import f32
from vtc.runtime.fit import Fit, shape_at, size_at

CELL = Arena(0)
"""A byte that decides."""
ROW = B * 4
FIRST, SECOND = Arena(64), Arena(64 + room(1))
"""Vectors in the arena, and the bytes of it and them."""
ARENA = 64 + room(2)
TABLE = Buffer(f32, (4, B))


def below(ref, limit):
    """Set the byte to whether the first number there is below ``limit``."""
    return run("below", ref, CELL, n=limit)


def changed(kernel, *refs):
    """The last of ``refs`` becomes what ``kernel`` makes of all of them."""
    return run(kernel, *refs, FIRST), Copy(FIRST, refs[-1], ROW)


def grown():
    """y = x, doubled as long as the first of it is below 100; z = y + x."""
    y = Output(0)
    steps = [
        Copy(Input(0), y, ROW),
        Loop(7, changed("double", y), test=(below(y, 100),), condition=CELL, note="model.py:3"),
        run("add", y, Input(0), Output(1)),
    ]
    return plan([VECTOR], [VECTOR, VECTOR], steps, ARENA)


def chosen(*, both=True):
    """y = x + 1 where the first of x is below 0; else 2 x, or what it was."""
    other = (run("double", Input(0), Output(0)),) if both else ()
    branch = Branch(CELL, (run("add_one", Input(0), Output(0)),), other, "model.py:4")
    inputs = [VECTOR, Buffer(f32, (B,), "y", 0)]
    return plan(inputs, [VECTOR], [below(Input(0), 0), branch], ARENA)


def summed(*, reverse=False):
    """The sums so far of x and the rows of a table, and the last of them."""
    steps = (
        Copy(Moving(Input(1), 4, ROW), SECOND, ROW),
        *changed("add", SECOND, Output(1)),
        Copy(Output(1), Moving(Output(0), 4, ROW), ROW),
    )
    loop = Loop(4, steps, count=4, reverse=reverse, note="model.py:6")
    return plan([VECTOR, TABLE], [TABLE, VECTOR], [Copy(Input(0), Output(1), ROW), loop], ARENA)


def diagonal():
    """The sum of every fifth block of x, which moves with one loop twice."""
    ref = Moving(Moving(Input(1), 4, ROW * 4), 4, ROW)
    steps = (Copy(ref, SECOND, ROW), *changed("add", SECOND, Output(0)))
    inputs, loop = [VECTOR, Buffer(f32, (4, 4, B))], Loop(4, steps, count=4)
    return plan(inputs, [VECTOR], [Copy(Input(0), Output(0), ROW), loop], ARENA)


def deep():
    """Sums over four loops in each other: one more than a copy moves with."""
    shape, step = (2, 2, 2, 2, B), ROW * 8
    ref, steps = Input(1), ()
    for k in range(4):
        ref = Moving(ref, k, step)
        step = ROW * (4 >> k)
    steps = (Copy(ref, SECOND, ROW), *changed("add", SECOND, Output(0)))
    for k in reversed(range(4)):
        steps = (Loop(k, steps, count=2, reverse=bool(k % 2)),)
    inputs = [VECTOR, Buffer(f32, shape)]
    return plan(inputs, [VECTOR], [Copy(Input(0), Output(0), ROW), *steps], ARENA)


def drawn(random):
    """y and ys begin as x and xs, which hold nothing below 0, and are changed."""
    steps = [Copy(Input(0), Output(1), ROW), Copy(Input(1), Output(0), ROW * 4)]
    steps += _Draws(random).block(0, ())
    return plan([VECTOR, TABLE], [TABLE, VECTOR], steps, ARENA)


class _Draws:
    def __init__(self, random):
        self.random, self.numbers = random, count()

    def block(self, depth, loops):
        """Some steps in ``loops`` that count."""
        kinds = [self.simple, self.row] if loops else [self.simple]
        if depth < 3:
            kinds += [self.loop, self.grow, self.branch]
        times = self.random.integers(1, 4)
        return tuple(s for _ in range(times) for s in self.random.choice(kinds)(depth, loops))

    def simple(self, depth, loops):
        return changed(str(self.random.choice(["double", "add_one"])), Output(1))

    def row(self, depth, loops):
        number = int(self.random.choice(loops))
        return (
            Copy(Moving(Input(1), number, ROW), SECOND, ROW),
            *changed("add", SECOND, Output(1)),
            Copy(Output(1), Moving(Output(0), number, ROW), ROW),
        )

    def loop(self, depth, loops):
        number = next(self.numbers)
        steps = self.block(depth + 1, (*loops, number))
        return (Loop(number, steps, count=4, reverse=bool(self.random.integers(2))),)

    def grow(self, depth, loops):
        """It ends: nothing gets less, and this adds something."""
        more = (*changed("double", Output(1)), *changed("add_one", Output(1)))
        steps = (*self.block(depth + 1, loops), *more)
        test = (below(Output(1), int(self.random.integers(90))),)
        return (Loop(next(self.numbers), steps, test=test, condition=CELL),)

    def branch(self, depth, loops):
        sides = [self.block(depth + 1, loops), self.block(depth + 1, loops), ()]
        self.random.shuffle(sides)
        return below(Output(1), int(self.random.integers(20))), Branch(CELL, *sides[:2])


# what they compute


def outputs(plan, inputs):
    """The outputs of ``plan``, one step after the other."""
    return _Memory(plan, inputs).outputs()


class _Memory:
    def __init__(self, plan, inputs):
        fit = Fit(plan)
        self.plan, self.values = plan, fit.values(fit.key(inputs))
        self.inputs = [np.frombuffer(bytearray(a.tobytes()), np.uint8) for a in inputs]
        sizes = [size_at(b.nbytes, self.values) for b in plan.outputs]
        self.results = [
            np.zeros(n, np.uint8) if over is None else self.inputs[over]
            for n, over in zip(sizes, fit.over, strict=True)
        ]
        self.arena = np.zeros(size_at(plan.arena, self.values), np.uint8)
        self.turns = {}

    def outputs(self):
        self.all(self.plan.steps)
        found = zip(self.results, self.plan.outputs, strict=True)
        return [a.view("f4").reshape(shape_at(b.shape, self.values)) for a, b in found]

    def all(self, steps):
        for step in steps:
            match step:
                case Launch():
                    self.launch(step)
                case Copy(source, target, nbytes):
                    n = size_at(nbytes, self.values)
                    self.bytes(target)[:n] = self.bytes(source)[:n]
                case Branch(cell, then, otherwise):
                    self.all(then if self.bytes(cell)[0] else otherwise)
                case Loop(condition=None):
                    turns = range(size_at(step.count, self.values))
                    for k in turns[::-1] if step.reverse else turns:
                        self.turns[step.number] = k
                        self.all(step.steps)
                case Loop():
                    self.all(step.test)
                    while self.bytes(step.condition)[0]:
                        self.all((*step.steps, *step.test))

    def launch(self, step):
        n = size_at(step.sizes[0], self.values)
        *read, out = map(self.bytes, step.args)
        if step.kernel == "below":
            out[0] = read[0][:4].view("f4")[0] < n
            return
        x, *y = [a[: 4 * n].view("f4") for a in read]
        made = {"double": x * 2, "add_one": x + np.float32(1), "add": x + y[0] if y else x}
        out[: 4 * n].view("f4")[:] = made[step.kernel]

    def bytes(self, ref):
        match ref:
            case Input(i):
                return self.inputs[i]
            case Output(i):
                return self.results[i]
            case Arena(offset):
                return self.arena[size_at(offset, self.values) :]
            case Moving(base, loop, step):
                return self.bytes(base)[self.turns[loop] * size_at(step, self.values) :]
