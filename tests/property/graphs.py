"""Random graphs from a seed: rich in what ``fuse`` makes regions of.

    program = random_program(7)          # the same one every time

A graph is written by an :class:`Author` from *motifs* (see :mod:`motifs`): chains, softmax and norm
spelled by hand, products with what comes before and after, lookups, optimizer updates. What a motif
reads is mostly what others wrote, so their borders are where fusion decides. Sizes are few per
graph, that shapes meet; some are symbols, some 0 or 1.
"""

from dataclasses import dataclass, field, replace
from itertools import combinations

import numpy as np
from motifs import MOTIFS, gradient

import vtc.ir.ops  # noqa: F401
from vtc.errors import TypeCheckError
from vtc.ir.dims import Dim, substitute
from vtc.ir.graph import Fact, GraphBuilder, Program
from vtc.ir.ops.expr import Expr
from vtc.ir.types import TensorType, bf16, bool_, f16, f32, f64, i32, i64

DIMS = (Dim("B", 1, 8), Dim("T", 2, None, 2))
SIZES = (1, 2, 3, 4, 5, 7, 8, 12, 16, 17, 24, 31, 32, 33, 64, 65, 100, 130, 257, 300, 520)
LARGEST = 1 << 14
"""Elements of one value, roughly."""

PRECISION = {"f32": (f32,), "f64": (f64,), "half": (f32, f16, bf16), "bf16": (bf16,)}
NOMINAL = {"B": 3, "T": 6}


def random_program(seed: int) -> Program:
    """A verified program of one graph."""
    rng = np.random.default_rng(seed)
    while True:
        author = Author(rng)
        author.write()
        if (program := author.program()) is not None:
            return program


@dataclass
class Author:
    """One graph being written. ``values`` are what motifs read and wrote, the latest last."""

    rng: np.random.Generator
    b: GraphBuilder = field(default_factory=GraphBuilder)
    params: list[Expr] = field(default_factory=list)
    values: list[Expr] = field(default_factory=list)
    updates: list[tuple[Expr, Expr]] = field(default_factory=list)
    dims: tuple[Dim, ...] = ()
    sizes: tuple = ()
    floats: tuple = ()

    def __post_init__(self) -> None:
        if self.chance(0.25):
            self.dims = DIMS if self.chance(0.5) else DIMS[:1]
        fixed = [self.choose(SIZES) for _ in range(int(self.rng.integers(2, 5)))]
        if self.chance(0.06):
            fixed.append(0)
        self.sizes = (*fixed, *(d.sym for d in self.dims for _ in range(2)))
        names, weights = list(PRECISION), (0.65, 0.1, 0.15, 0.1)
        self.floats = PRECISION[names[int(self.rng.choice(len(names), p=weights))]]

    # choosing

    def chance(self, p: float) -> bool:
        return bool(self.rng.random() < p)

    def choose(self, options):
        return options[int(self.rng.integers(0, len(options)))]

    def shape(self, rank: int | None = None) -> tuple:
        """Sizes of this graph, not too many elements."""
        rank = int(self.rng.choice(5, p=(0.04, 0.16, 0.45, 0.25, 0.1))) if rank is None else rank
        found: list = []
        count = 1
        for _ in range(rank):
            fits = [s for s in self.sizes if count * self.number(s) <= LARGEST]
            found.append(self.choose(fits or (1,)))
            count *= max(1, self.number(found[-1]))
        return tuple(found)

    def number(self, size) -> int:
        found = substitute(size, NOMINAL)
        assert isinstance(found, int)
        return found

    def axes(self, x: Expr, most: int = 4) -> tuple[int, ...]:
        """Some axes of ``x``, mostly the last ones, or the first."""
        ranks = range(x.rank)
        some = [c for k in range(1, min(most, x.rank) + 1) for c in combinations(ranks, k)]
        edges = [tuple(ranks[k:]) for k in ranks] + [tuple(ranks[: k + 1]) for k in ranks]
        return self.choose(edges if self.chance(0.7) else some)

    # values

    def param(self, shape, dtype=None) -> Expr:
        type = TensorType(dtype or self.choose(self.floats), tuple(shape))
        found = Expr(self.b, self.b.param("p", type))
        self.params.append(found)
        return found

    def keep(self, *found: Expr) -> None:
        self.values += found

    def pick(self, *kinds: str, rank: int = 0, most: int = 4) -> Expr:
        """A value whose dtype is of these kinds (floats by default): a late one, or a new param."""
        kinds = kinds or ("float",)
        fit = [
            v for v in self.values if v.dtype.kind in kinds and rank <= v.rank <= most and small(v)
        ]
        if fit and self.chance(0.85):
            return fit[-1 - int(len(fit) * self.rng.random() ** 2)]
        dtype = {"float": self.choose(self.floats), "int": self.choose((i64, i32)), "bool": bool_}
        low = max(rank, 1 if self.chance(0.95) else 0)
        shape = self.shape(int(self.rng.integers(low, max(low, min(most, 3)) + 1)))
        found = self.param(shape, dtype[kinds[0]])
        self.keep(found)
        return found

    def like(self, x: Expr) -> Expr:
        """Another value of the type of ``x``: there already, broadcast, or a new param."""
        fit = [v for v in self.values if v.type == x.type and v.value is not x.value]
        if fit and self.chance(0.6):
            return self.choose(fit)
        if x.rank and self.chance(0.6):
            axes = self.axes(x)
            rest = [s for a, s in enumerate(x.shape) if a not in axes]
            there = [v for v in self.values if v.shape == tuple(rest) and v.dtype is x.dtype]
            small = self.choose(there) if there and self.chance(0.5) else self.param(rest, x.dtype)
            return small.expand_like(x, axes)
        return self.param(x.shape, x.dtype)

    def indices(self, shape, size) -> Expr:
        """Integers in ``[0, size)``."""
        i = self.param(shape, self.choose((i64, i32)))
        return i.op("remainder", i.count(size))

    # the graph

    def write(self) -> None:
        for _ in range(int(self.rng.integers(1, 7))):
            motif = self.choose(MOTIFS)
            try:
                motif(self)
            except TypeCheckError:  # a symbolic or empty size that an op does not take
                continue
        if self.chance(0.3):
            gradient(self)

    def program(self) -> Program | None:
        """What was written, with outputs; None if there is nothing to compute."""
        if not self.b.nodes or not self.values:
            return None
        for d in self.dims:  # every symbol is the size of an axis of a param
            self.param((d.sym,))
        late = [v for v in self.values if v.value.op is not None] or self.values
        outputs = [new for _, new in self.updates]
        for _ in range(int(self.rng.integers(0 if outputs else 1, 5))):
            outputs.append(late[-1 - int(len(late) * self.rng.random() ** 2)])
        if self.chance(0.1):
            outputs.append(self.choose(outputs))
        if self.chance(0.1):
            outputs.append(self.choose(self.params))
        facts = {p.value: Fact(overwritten=k) for k, (p, _) in enumerate(self.updates)}
        params = self._params(facts, outputs)
        graph = self.b.graph("main", params, [o.value for o in outputs])
        return Program((graph,), self.dims, tuple(facts.get(p, Fact()) for p in params))

    def _params(self, facts: dict, outputs: list[Expr]) -> list:
        read = {i for n in self.b.nodes for i in n.inputs} | {o.value for o in outputs}
        params = [p.value for p in self.params]
        bound = params[len(params) - len(self.dims) :]
        params = [p for p in params if p in read or p in facts or p in bound]
        if self.chance(0.1):  # any output may replace a param of its type
            free = [k for k in range(len(outputs)) if k >= len(self.updates)]
            fits = [(p, k) for p in params for k in free if p.type == outputs[k].type]
            fits = [(p, k) for p, k in fits if p not in facts]
            if fits:
                p, k = self.choose(fits)
                facts[p] = Fact(overwritten=k)
        return params


def small(v: Expr) -> bool:
    return len(str(v.tensor.numel)) < 30


def arrays_for(program: Program, sizes: dict[str, int], seed: int, special: float = 0.0) -> list:
    """Inputs: normal numbers, integers from -9 to 9; a share ``special`` of NaN and infinities."""
    rng = np.random.default_rng(seed)
    found = []
    for p in program.entry.params:
        type = p.tensor
        shape = tuple(int(substitute(s, sizes)) for s in type.shape)
        if type.dtype.kind == "bool":
            a = rng.integers(0, 2, shape)
        elif type.dtype.kind == "int":
            a = rng.integers(-9, 10, shape)
        else:
            a = np.asarray(rng.normal(size=shape))
            at = rng.random(shape) < special
            a = np.where(at, rng.choice([np.nan, np.inf, -np.inf], shape), a)
        found.append(np.array(a, type.dtype.numpy, order="C"))
    return found


def without_facts(program: Program) -> Program:
    return replace(program, facts=tuple(replace(f, overwritten=None) for f in program.facts))
