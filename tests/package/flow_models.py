"""A package with loops and branches, and what its entries are called with.

export_flow(path)                      # for this machine's CPU
export_flow(path, ["cuda:90"])
for name, arguments in calls():
    getattr(vtc.load(path), name)(*arguments)
"""

import handmade
import numpy as np

import vtc
import vtc.nn as nn

WIDTH, HIDDEN, WIDE = 3, 8, 1 << 16


class Lstm(nn.Module):
    """An LSTM by ``scan``: [T, B, WIDTH] to [T, B, HIDDEN], and the last cell."""

    def __init__(self) -> None:
        self.gates = nn.Linear(WIDTH + HIDDEN, 4 * HIDDEN)

    def forward(self, xs):
        zero = vtc.zeros(xs.shape[1], HIDDEN)

        def step(state, x):
            h, c = state
            i, f, g, o = self.gates(vtc.cat([x, h], -1)).chunk(4, -1)
            c = vtc.sigmoid(f) * c + vtc.sigmoid(i) * vtc.tanh(g)
            h = vtc.sigmoid(o) * vtc.tanh(c)
            return (h, c), h

        (_, c), hs = vtc.scan(step, (zero, zero), xs)
        return hs, c


def trained(net):
    """A step of gradient descent through the loop, in place."""

    def train(xs):
        loss = net(xs)[0].square().mean()
        loss.backward()
        with vtc.no_grad():
            for p in net.parameters():
                p -= 0.5 * p.grad
                p.grad = None
        return loss

    return train


def root(a):
    """The roots of ``a`` by Newton's steps: how many it takes depends on them."""

    def again(n, x):
        return (n < 30) & ((x * x - a).abs() > 1e-4 * a).any()

    return vtc.while_loop(again, lambda n, x: (n + 1, (x + a / x) / 2), (0, a))


def choose(x):
    """Branches in branches."""
    total = x.sum()

    def small():
        return vtc.cond(total > 0, lambda: x * 2, lambda: x - total)

    return vtc.cond(total > 10, lambda: vtc.exp(-x), small)


def walk(x):
    """A scan in a while loop, and a while loop and a branch in that."""

    def row(total, v):
        half = vtc.while_loop(lambda v: v.abs().max() > 1, lambda v: v / 2, (v,))[0]
        total = vtc.cond(half.sum() > 0, lambda: total + half, lambda: total * 0.5 - half)
        return total, total.max()

    def turn(n, x, most):
        total, seen = vtc.scan(row, vtc.zeros(x.shape[1]), x, reverse=True)
        return n + 1, x * 0.5 + total, vtc.maximum(most, seen.max())

    _, x, most = vtc.while_loop(lambda n, x, most: n < 3, turn, (0, x, -1.0))
    return x + most


def look(table, index):
    """Steps that may meet an index outside its axis."""
    return vtc.scan(lambda last, i: (table[i.reshape(1)][0] + last * 0.5, last), 0.0, index)


def wide(xs):
    """A loop around kernels that run in parts."""
    return vtc.scan(lambda c, x: (vtc.maximum(c * 0.5, x), None), vtc.zeros(WIDE), xs)[0]


def running(xs):
    """A loop that a GPU does not spell out where it has many turns; the last comes first."""
    return vtc.scan(lambda c, x: (c * 0.5 + x, c), vtc.ones(WIDTH), xs, reverse=True)


T, B, N = vtc.Dim("T", 2, 9), vtc.Dim("B", 2, 5), vtc.Dim("N", 2, 64)
LONG = vtc.Dim("L", 2, 4096)


def export_flow(path, targets=None):
    """Write it; without ``targets``, for one that valgrind knows."""
    vtc.manual_seed(0)
    net, other = Lstm(), Lstm()
    xs, sizes = vtc.zeros(4, 3, WIDTH), {0: T, 1: B}
    entries = {
        "lstm": vtc.EntryPoint(net, (xs,), dynamic={"xs": sizes}),
        "train": vtc.EntryPoint(trained(other), (xs,), dynamic={"xs": sizes}),
        "root": vtc.EntryPoint(root, (vtc.ones(4),), dynamic={"a": {0: N}}),
        "choose": vtc.EntryPoint(choose, (vtc.ones(4),), dynamic={"x": {0: N}}),
        "walk": vtc.EntryPoint(walk, (vtc.ones(4, 5),), dynamic={"x": {0: N}}),
        "look": vtc.EntryPoint(
            look, (vtc.ones(10), vtc.zeros(4, dtype=vtc.int64)), dynamic={"index": {0: T}}
        ),
        "wide": vtc.EntryPoint(wide, (vtc.zeros(3, WIDE),)),
        "running": vtc.EntryPoint(running, (vtc.zeros(4, WIDTH),), dynamic={"xs": {0: LONG}}),
    }
    return vtc.export(entries, path=path, targets=targets or [low_target()], example=False)


def low_target():
    """The lowest level of this machine."""
    here = handmade.target()
    return "cpu-x86-64-v3" if here.startswith("cpu-x86-64") else here


def calls():
    """Calls of each entry, at several sizes."""
    rng = np.random.default_rng(0)

    def normal(*shape):
        return rng.normal(size=shape).astype("f4")

    yield "wide", (normal(3, WIDE),)
    for length in (2, 3000, 9):
        yield "running", (normal(length, WIDTH),)
    for t, b in ((2, 2), (9, 5), (4, 3)):
        yield "lstm", (normal(t, b, WIDTH),)
        yield "train", (normal(t, b, WIDTH),)
    for n in (2, 64, 7):
        yield "root", (np.abs(normal(n)) * 50 + 0.1,)
        yield "walk", (normal(n, 5) * 9,)
        for shift in (-1, 0.1, 9):
            yield "choose", (normal(n) * 0.1 + np.float32(shift),)
        yield "look", (normal(10), rng.integers(0, 10, size=min(n, 9)))
