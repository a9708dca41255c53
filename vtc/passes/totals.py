"""Sums over the steps of a loop, which are added up after it.

    def step(..., total, x, ...):                      def step(..., x, ...):
        dw = matmul(dg, x, transpose_x=True)    ==>        return ..., dg
        return ..., add(total, dw)                     # after the loop, [T * N, M] and [T * N, K]:
                                                       dw = matmul(dgs, xs, transpose_x=True)

Such is a carried value that only its own end reads, ``c + f(...)``: the gradient of what all steps
read. What ``f`` is made of is stacked, where that takes less memory to go through than the sum read
and written in each step; often it is stacked anyway. A product contracts over steps and rows at
once; what is linear in products (views, sums, a factor that is the same in all steps) is done once,
for the sum of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import final

from vtc.ir.graph import Node, users
from vtc.ir.ops.batch import Lane
from vtc.ir.ops.bitcast import Bitcast
from vtc.ir.ops.contract import Matmul
from vtc.ir.ops.elementwise import Add, Cast, Div, Elementwise, Mul, Neg, Sub
from vtc.ir.ops.expr import Expr
from vtc.ir.ops.fill import Concat, Full, Pad
from vtc.ir.ops.reduce import Sum
from vtc.ir.ops.view import IndexMap
from vtc.passes.cost import nbytes, value
from vtc.passes.open_loop import OpenLoop
from vtc.passes.regions import Decision
from vtc.passes.space import INDEX_FUNCTIONS


@final
@dataclass(frozen=True, slots=True)
class Total:
    """What ``start`` becomes: what it began with and, of each step, ``terms``."""

    start: Node
    first: Node
    terms: Sequence[Node]


@final
@dataclass
class Totals:
    """Chooses sums to take out of ``loop``, and records them once it is recorded."""

    loop: OpenLoop
    sizes: Mapping[str, int]
    chosen: list[Total] = field(default_factory=list)
    linear: set[Node] = field(default_factory=set)
    """What is linear in products and sums; products of which one operand is the same in all steps
    are linear in the other."""

    def __post_init__(self) -> None:
        leading: set[Node] = set()
        for n in self.loop.body.nodes:
            if n in self.loop.steady:
                continue
            leads = isinstance(n.op, Matmul) or any(i in leading for i in n.inputs)
            if leads and self._is_linear(n):
                self.linear.add(n)
                leading.add(n)
            elif isinstance(n.op, Matmul | Sum):
                leading.add(n)

    def choose(self) -> Iterator[Decision]:
        """Give up carrying the sums that it pays to add up later; stack what they are made of."""
        read = [p for p in self.loop.starts if ("end", p) in self.loop.read]
        terms = {p: found for p in read if (found := _terms(self.loop, p))}
        done = False
        while not done:  # what is stacked for one may be what another needs
            done = True
            for p in sorted(terms, key=lambda p: -self._bytes((p,))):
                more = self._more(terms[p])
                if self._saved(p, more) > -self._multiplies(terms[p]):
                    yield self._decision(p, more, taken=True)
                    self.loop.rows.update(dict.fromkeys(more))
                    self.chosen.append(Total(p, self.loop.give_up(p), terms.pop(p)))
                    done = False
        for p in terms:
            yield self._decision(p, self._more(terms[p]), taken=False)

    def _saved(self, start: Node, more: Iterable[Node]) -> int:
        """Bytes that a step does not read and write then; what is stacked is written and read."""
        return 2 * (self._bytes((start,)) - self._bytes(more))

    def _multiplies(self, terms: Sequence[Node]) -> bool:
        """Whether there are products: one for all steps is quicker than one in each."""
        return any(isinstance(n.op, Matmul) for t in terms for n in self._down(t))

    def _decision(self, start: Node, more: Iterable[Node], *, taken: bool) -> Decision:
        steps = value(self.loop.op.length, self.sizes)
        why = "it is added up after the loop" if taken else "what it is made of takes more to stack"
        node = replace(start, loc=self.loop.ends[start].loc)
        return Decision("total", node, taken, steps * self._saved(start, more), why)

    def record(self) -> dict[Node, Node]:
        """The sums, by their starts."""
        found: dict[Node, Node] = {}
        for total in self.chosen:
            parts = [self._total(t) for t in total.terms]
            if not _is_zero(total.first):
                parts.insert(0, Expr(self.loop.builder, total.first))
            whole, *rest = parts
            for part in rest:
                whole = whole + part
            found[total.start] = whole.value
        return found

    def _bytes(self, nodes: Iterable[Node]) -> int:
        return sum(nbytes(n.type, self.sizes) for n in nodes)

    def _more(self, terms: Sequence[Node]) -> dict[Node, None]:
        """The values to stack, so that all ``terms`` can be had after the loop."""
        needs = self._needs()
        leaves = [n for t in terms for n in self._down(t) if n not in self.linear]
        return {n: None for leaf in leaves for x in _operands(leaf) for n in needs[x]}

    def _needs(self) -> dict[Node, Sequence[Node]]:
        """Of each value, what has to be stacked to have it after the loop: nothing where it is
        there, or elementwise in what is; else itself, or what it is a view of.
        """
        loop = self.loop
        found: dict[Node, Sequence[Node]] = {p: (p,) for p in loop.body.params}
        for n in (*loop.slices, *loop.others, *loop.body.nodes):
            if n in loop.known or n in loop.rows or n in loop.steady:
                found[n] = ()
                continue
            below = tuple({s: None for i in n.inputs for s in found[i]})
            easy = isinstance(n.op, INDEX_FUNCTIONS)
            if isinstance(n.op, Elementwise):
                easy = not below
            elif easy:
                easy = self._bytes(below) <= self._bytes((n,))
            found[n] = below if easy else (n,)
        return found

    def _is_linear(self, node: Node) -> bool:
        """Whether the sum of ``node`` over steps is ``node`` of the sums of what is not steady."""
        match node.op:
            case Bitcast():
                return False
            case IndexMap() | Pad(value=0) | Concat() | Sum() | Add() | Sub() | Neg():
                return not any(i in self.loop.steady for i in node.inputs)
            case Mul() | Matmul():
                return any(i in self.loop.steady for i in node.inputs)
            case Div():
                return node.inputs[1] in self.loop.steady
            case Cast(dtype=dtype):
                was = node.inputs[0].tensor.dtype
                return was.kind == dtype.kind == "float" and was.itemsize < dtype.itemsize
        return False

    def _down(self, term: Node) -> list[Node]:
        """``term`` and what it is linear in, in order."""
        found: set[Node] = set()
        waiting = [term]
        while waiting:
            n = waiting.pop()
            if n not in found:
                found.add(n)
                waiting += [i for i in n.inputs if n in self.linear and i not in self.loop.steady]
        return [n for n in (*self.loop.body.params, *self.loop.body.nodes) if n in found]

    def _total(self, term: Node) -> Expr:
        """The sum of ``term`` over all steps."""
        loop, found = self.loop, dict[Node, Expr]()
        for n in self._down(term):
            loop.builder.loc = n.loc
            if n.op is not None and n in self.linear:
                inputs = [found[i] if i in found else loop.over_steps(i).value for i in n.inputs]
                found[n] = inputs[0].apply(n.op, *inputs[1:])
            else:
                found[n] = self._leaf(n)
        return found[term]

    def _leaf(self, node: Node) -> Expr:
        loop, steps = self.loop, self.loop.op.length
        match node.op:
            case Matmul() as op:
                x, y = (loop.over_steps(i) for i in node.inputs)
                return self._product(op, x, y)
            case Sum(axes=axes):
                x = loop.over_steps(node.inputs[0])
                return x.whole(steps).sum((0, *(a + 1 for a in axes)))
        return loop.over_steps(node).whole(steps).sum((0,))

    def _product(self, op: Matmul, x: Lane, y: Lane) -> Expr:
        """Both operands with the steps beside the axis that they are contracted over."""
        steps = self.loop.op.length
        a = _beside(x.whole(steps), 2 if op.transpose_x else 1)
        b = _beside(y.whole(steps), 1 if op.transpose_y else 2)
        return a.apply(op, b)


def _terms(loop: OpenLoop, start: Node) -> list[Node]:
    """What is added to ``start`` in a step; none where it is anything but a sum over steps."""
    end = loop.ends[start]
    if start.tensor.dtype.kind == "bool" or ("saved", start) in loop.read:
        return []
    readers = users(loop.body)
    gives = [*loop.ends.values(), *loop.rows]
    found: list[Node] = []
    waiting = [end]
    while waiting:
        n = waiting.pop()
        once = len(readers[n]) == (n is not end) and gives.count(n) == (n is end)
        if isinstance(n.op, Add) and once:
            waiting += n.inputs
        else:
            found.append(n)
    alone = len(readers[start]) == 1 and start not in gives
    if found.count(start) != 1 or not alone or len(found) == 1:
        return []
    found.remove(start)
    return found[::-1]


def _operands(leaf: Node) -> tuple[Node, ...]:
    """What must be there after the loop for the sum of ``leaf``."""
    return leaf.inputs if isinstance(leaf.op, Matmul | Sum) else (leaf,)


def _beside(x: Expr, axis: int) -> Expr:
    """``x`` with its first axis merged into the ``axis``-th last one."""
    at = x.rank - 1 - axis
    rest = range(1, x.rank)
    moved = x.permute((*rest[:at], 0, *rest[at:]))
    shape = moved.shape
    return moved.reshape((*shape[:at], shape[at] * shape[at + 1], *shape[at + 2 :]))


def _is_zero(node: Node) -> bool:
    return isinstance(node.op, Full) and node.op.value == 0
