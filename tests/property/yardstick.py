"""How far a compiled result may be from float64, measured on the program itself.

The evaluator runs the program in float64, as it is, and several times with every rounding op
disturbed by about one unit in the last place. Where those runs agree a result must too; where they
part (a comparison of nearly equal numbers, a difference of large ones) it may be as far from
float64 as they are. What no run agrees on is not judged.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import ml_dtypes
import numpy as np

from vtc.ir.evaluate import Run, bind, evaluate
from vtc.ir.graph import Program
from vtc.ir.ops.contract import Matmul
from vtc.ir.ops.reduce import Prod, Sum

EXACT = frozenset(
    {"neg", "abs", "sign", "floor", "ceil", "trunc", "round", "maximum", "minimum", "where", "cast"}
    | {"full", "iota", "max", "min", "uniform", "relu", "stop_gradient"}
)
"""Ops that do not round, or (casts) whose rounding is part of the program."""
COMPARISONS = frozenset({"lt", "le", "gt", "ge", "eq", "ne"})
JITTER = 1.0
"""Units in the last place."""

SPREAD, ULPS = 5.0, 4.0


@dataclass(frozen=True)
class Yardstick:
    """What each output may be: ``middle`` in float64, ``room`` around it, and where it is judged.

    ``special`` marks elements that are NaN or infinite in every run.
    """

    dtype: np.dtype
    middle: np.ndarray
    room: np.ndarray
    judged: np.ndarray
    special: np.ndarray

    def wrong(self, got: np.ndarray) -> str:
        """What is wrong with ``got``; empty if nothing."""
        if got.dtype != self.dtype or got.shape != self.middle.shape:
            return f"type {got.dtype}{list(got.shape)}"
        if self.dtype.kind in "biu":
            bad = self.judged & (got != self.middle)
            return self._report(bad, got) if bad.any() else ""
        g = got.astype(np.float64)
        with np.errstate(all="ignore"):
            bad = self.judged & ~(np.abs(g - self.middle) <= self.room)
        same = (g == self.middle) | (np.isnan(g) & np.isnan(self.middle))
        bad |= self.special & ~same
        return self._report(bad, g) if bad.any() else ""

    def _report(self, bad: np.ndarray, got: np.ndarray) -> str:
        at = tuple(int(i) for i in np.argwhere(bad)[0])
        want, room = self.middle[at], self.room[at]
        where = f"{int(bad.sum())} of {bad.size} elements, first at {list(at)}"
        return f"{where}: {got[at]!r}, expected {want!r} within {room:.3g}"


def yardsticks(
    program: Program, lowered: Program, arrays: Sequence[np.ndarray], runs: int = 6
) -> list[Yardstick]:
    """One per output. ``lowered`` is ``program`` without composites: it shows more roundings."""
    exact = evaluate(program, *arrays, precision="f64")
    rng = np.random.default_rng(0)
    found = [evaluate(program, *arrays), *(disturbed(lowered, arrays, rng) for _ in range(runs))]
    return [_yardstick(e, o) for e, *o in zip(exact, *found, strict=True)]


def _yardstick(exact: np.ndarray, others: list[np.ndarray]) -> Yardstick:
    dtype = others[0].dtype
    if dtype.kind in "biu":
        judged = np.all([o == exact for o in others], axis=0)
        nothing = np.zeros(exact.shape, bool)
        return Yardstick(dtype, exact, np.zeros(exact.shape), np.asarray(judged), nothing)
    eps = float(ml_dtypes.finfo(dtype).eps)
    tiny = float(ml_dtypes.finfo(dtype).smallest_subnormal)
    wide = [o.astype(np.float64) for o in others]
    with np.errstate(all="ignore"):
        spread = np.max([np.abs(w - exact) for w in wide], axis=0)
        room = SPREAD * spread + ULPS * eps * np.abs(exact) + 4 * tiny
        room = room + np.nanmax(np.where(np.isfinite(spread), spread, 0), initial=0.0) * 0.05
    finite = np.all([np.isfinite(w) for w in (exact, *wide)], axis=0)
    alike = [(w == exact) | (np.isnan(w) & np.isnan(exact)) for w in wide]
    special = np.all(alike, axis=0) & ~np.isfinite(exact)
    return Yardstick(dtype, exact, np.asarray(room), np.asarray(finite), np.asarray(special))


def disturbed(program: Program, arrays: Sequence[np.ndarray], rng) -> tuple[np.ndarray, ...]:
    """The outputs of ``program`` (one graph, no calls) with noise where an op rounds."""
    graph = program.entry
    sizes = bind(graph.params, [a.shape for a in arrays])
    env = dict(zip(graph.params, arrays, strict=True))
    run = Run(program, graph, env, sizes, "own")
    for node in graph.nodes:
        reads = {i: env[i] for i in node.inputs}
        if isinstance(node.op, Matmul | Sum | Prod):
            env.update({i: noisy(v, rng) for i, v in reads.items()})
        elif node.op.name in COMPARISONS:  # fused code may compare what it did not round
            env.update({i: noisy(v, rng) for i, v in reads.items() if v.dtype.itemsize == 2})
        value = run.node(node)
        if isinstance(node.op, Matmul | Sum):
            env.update({i: absolute(v) for i, v in reads.items()})
            value = shifted(value, run.node(node), reads[node.inputs[0]].size, rng)
        env.update(reads)
        rounds = not (node.op.moves or node.op.name in EXACT)
        env[node] = noisy(value, rng) if rounds else value
    return tuple(env[o] for o in graph.outputs)


def noisy(x, rng):
    """``x`` times one plus noise; integers and bools as they are."""
    if isinstance(x, tuple):
        return tuple(noisy(i, rng) for i in x)
    if x.dtype.kind in "biu" or x.size == 0:
        return x
    eps = float(ml_dtypes.finfo(x.dtype).eps)
    size = eps * (JITTER if eps < 2.0**-20 else 0.75)  # of a narrow one: it rounds the other way
    with np.errstate(all="ignore"):
        return (x.astype(np.float64) * (1 + size * rng.uniform(-1, 1, x.shape))).astype(x.dtype)


def shifted(x, size, count, rng):
    """A sum ``x`` off by a unit in the last place of ``size``, the sum of the magnitudes.

    In f64 by what a plain sum of about ``count`` terms walks: kernels have nothing wider to add in.
    """
    if x.dtype.kind in "biu":
        return x
    terms = max(1.0, count / max(1, x.size))
    eps = 2.0**-52 * terms**0.5 if x.dtype == np.float64 else 2.0**-23
    with np.errstate(all="ignore"):
        off = eps * rng.uniform(-1, 1, x.shape) * size.astype(np.float64)
        return (x.astype(np.float64) + off).astype(x.dtype)


def absolute(x):
    return x if x.dtype.kind == "b" else np.abs(x)
