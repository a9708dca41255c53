"""Plans of a few small kernels.

Their code is in ``small_kernels.py`` for the simulated GPU, in ``tests/gpu/ptx.py`` for real ones.
"""

from vtc.ir.dims import Dim, Sym
from vtc.ir.plan import (
    Arena,
    Binary,
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
    check,
    flat,
)
from vtc.ir.types import f32, i64

B = Sym.var("B")
DIMS = (Dim("B", 0, 1 << 24),)


def kernel(name, *, checks=False, table=False):
    build = Build(signature=(), checks=checks, table=table)
    return Kernel(name, f"{name}_symbol", "", f"model.py:1 in {name}", build)


KERNELS = (
    kernel("add_one"), kernel("double"), kernel("add"), kernel("step"),
    kernel("gather", checks=True), kernel("add_all", table=True), kernel("spin"), kernel("crash"),
    kernel("below"),
)  # fmt: skip
BINARIES = {k.symbol: Binary(k.name, b"", 4) for k in KERNELS}


def run(name, *args, n=B, note="", grid=(1,)):
    return Launch(name, args, (n,), note or f"model.py:7 in {name}", grid=grid)


def plan(inputs, outputs, steps, arena=0, name="small"):
    used = {s.kernel for s in flat(steps) if isinstance(s, Launch)}
    kernels = tuple(k for k in KERNELS if k.name in used)
    return check(
        Plan(name, DIMS, tuple(inputs), tuple(outputs), arena, kernels, tuple(steps), target="cuda")
    )


VECTOR = Buffer(f32, (B,))


def room(k):
    """The place of the k-th vector in an arena."""
    return (B * 4 + 63) // 64 * 64 * k


def chain():
    """y = 2 * (x + 1), z = x + y."""
    steps = [
        run("add_one", Input(0), Arena(0)),
        run("double", Arena(0), Output(0)),
        run("add", Input(0), Output(0), Output(1)),
    ]
    return plan([Buffer(f32, (B,), "x")], [VECTOR, VECTOR], steps, room(1))


def copied():
    """The argument of the program is an output of it, by way of the arena."""
    steps = [run("add_one", Input(0), Arena(0)), Copy(Arena(0), Output(0), B * 4)]
    return plan([VECTOR], [VECTOR], steps, room(1))


def update():
    """w -= rate * g, where w is overwritten; the second output is the new w times two."""
    inputs = [Buffer(f32, (B,), "w", 0), Buffer(f32, (B,), "g"), Buffer(f32, (), "rate")]
    steps = [
        run("step", Input(0), Input(1), Input(2), Output(0)),
        run("double", Output(0), Output(1)),
    ]
    return plan(inputs, [VECTOR, VECTOR], steps)


def gathered():
    """y[i] = x[index[i]]"""
    inputs = [VECTOR, Buffer(i64, (B,), "index")]
    steps = [run("gather", Input(0), Input(1), Output(0), note="model.py:9 in forward")]
    return plan(inputs, [VECTOR], steps)


def tabled():
    """z = x + (x + 1), where the last kernel takes its pointers from a table."""
    steps = [
        run("add_one", Input(0), Arena(0)),
        run("add_all", Input(0), Arena(0), Output(0)),
    ]
    return plan([VECTOR], [VECTOR], steps, room(1))


def tabled_sum():
    """w = x + y, where all that the table names stays where it is; then x + 2 in the arena."""
    inputs = [Buffer(f32, (B,), "w", 0), VECTOR, VECTOR]
    steps = [
        run("add_all", Input(1), Input(2), Output(0)),
        run("add_one", Input(1), Arena(0)),
        run("add_one", Arena(0), Arena(0)),
    ]
    return plan(inputs, [VECTOR], steps, room(1))


def grown():
    """x += 1"""
    return plan([Buffer(f32, (B,), "x", 0)], [VECTOR], [run("add_one", Input(0), Output(0))])


def added_up():
    """Sums of the first rows of ys, the last first: x + ys[2], x + ys[2] + ys[1], ..."""
    row = B * 4
    rows = Buffer(f32, (3, B))
    steps = [
        Copy(Input(0), Arena(0), row),
        Loop(
            number=4,
            steps=(
                run("add", Arena(0), Moving(Input(1), 4, row), Output(1)),
                Copy(Output(1), Arena(0), row),
                Copy(Output(1), Moving(Output(0), 4, row), row),
            ),
            count=3,
            reverse=True,
            note="model.py:5",
        ),
    ]
    return plan([VECTOR, rows], [rows, VECTOR], steps, room(1))
