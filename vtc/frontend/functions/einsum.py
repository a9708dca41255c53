"""Sums of products over named dims: matrix products of pairs, in an order chosen by size.

einsum("bhqd,bhkd->bhqk", q, k)
tensordot(x, y, dims=2)          # the last two dims of x with the first two of y
multi_dot([a, b, c])             # in the cheapest order
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from string import ascii_letters
from typing import TYPE_CHECKING, Any, final

import numpy as np

from vtc.errors import ArgumentError, TypeCheckError
from vtc.frontend.functions import view
from vtc.frontend.functions.arguments import Dims, axis, expect_tensor, is_tensor, own_axis, show
from vtc.frontend.functions.contract import dot, matmul
from vtc.frontend.functions.elementwise import mul, sub
from vtc.frontend.functions.promotion import cast, result_type
from vtc.frontend.functions.rearrange import roll
from vtc.frontend.functions.reduce import sum
from vtc.frontend.functions.strides import diagonal
from vtc.frontend.source import located
from vtc.ir.dims import Size, product

if TYPE_CHECKING:
    from vtc.frontend.tensor import Tensor

Label = str
UNKNOWN = 64
"""What a symbolic size is taken for when the order of products is chosen."""


@final
@dataclass
class Term:
    """A tensor each of whose dims has a label."""

    x: Tensor
    labels: tuple[Label, ...]

    def size(self, label: Label) -> Size:
        """The size of the dim with ``label``."""
        return self.x.type.shape[self.labels.index(label)]

    def summed(self, keep: set[Label]) -> Term:
        """Without the dims that are not in ``keep``."""
        gone = [a for a, label in enumerate(self.labels) if label not in keep]
        if not gone:
            return self
        total = sum(self.x, gone, dtype=self.x.type.dtype)
        return Term(total, tuple(label for label in self.labels if label in keep))

    def ordered(self, labels: Sequence[Label]) -> Tensor:
        """With dims in the order of ``labels``, which are its own."""
        order = [self.labels.index(label) for label in labels]
        return view.permute(self.x, order) if order != [*range(len(order))] else self.x


def einsum(equation: Any, *operands: Any) -> Tensor:
    """The sum of products that ``equation`` names: ``"ij,jk->ik"``, with ``...`` for more dims.

    Without ``->`` the labels that occur once stay, in alphabetical order. A label twice in one
    operand is its diagonal. Dims of size 1 broadcast. Tensors and lists of ints in turn do as well.
    """
    equation, tensors = _equation(equation, operands)
    left, arrow, right = equation.replace(" ", "").partition("->")
    parts = left.split(",")
    if len(parts) != len(tensors):
        message = f"einsum: {equation!r} names {len(parts)} operands, got {len(tensors)}"
        raise located(ArgumentError, message)
    terms = [_term(p, x) for p, x in zip(parts, tensors, strict=True)]
    out = _labels(right, _dots(terms)) if arrow else _implied(terms)
    _check_output(equation, out, terms)
    for term in _in_order(terms, out):
        terms = _contracted(terms, term, set(out))
    (last,) = terms
    return last.summed(set(out)).ordered(out)


def _equation(equation: Any, operands: tuple[Any, ...]) -> tuple[str, list[Tensor]]:
    if isinstance(equation, str):
        given = operands[0] if len(operands) == 1 and not is_tensor(operands[0]) else operands
        tensors = list(given)
    else:
        items = [equation, *operands]
        tensors, lists = items[: len(items) // 2 * 2 : 2], items[1::2]
        text = ",".join(map(_letters, lists))
        equation = f"{text}->{_letters(items[-1])}" if len(items) % 2 else text
    for x in tensors:
        expect_tensor("einsum", "each operand", x)
    if not tensors:
        raise located(ArgumentError, "einsum: expected at least one operand, got none")
    return equation, tensors


def _letters(labels: Sequence[Any]) -> str:
    return "".join("..." if i is Ellipsis else ascii_letters[i] for i in labels)


def _term(text: str, x: Tensor) -> Term:
    """``x`` with its labels; the dims of ``...`` are numbered from the last one."""
    named = len(text.replace("...", ""))
    extra = x.type.rank - named
    if extra < 0 or (extra and "..." not in text):
        raise located(ArgumentError, f"einsum: {text!r} names {named} dims, got {x.type}")
    labels = _labels(text, [f".{k}" for k in reversed(range(extra))])
    for label, count in Counter(labels).items():
        for _ in range(count - 1):
            x, labels = _on_diagonal(x, labels, label)
    return Term(x, tuple(labels))


def _labels(text: str, dots: Sequence[Label]) -> list[Label]:
    before, some, after = text.partition("...")
    if not all(c in ascii_letters for c in before + after):
        raise located(ArgumentError, f"einsum: expected letters and one '...', got {text!r}")
    return [*before, *(dots if some else ()), *after]


def _dots(terms: Sequence[Term]) -> list[Label]:
    """The labels of all dims that ``...`` stands for."""
    found = {label for t in terms for label in t.labels if label.startswith(".")}
    return sorted(found, key=lambda label: -int(label[1:]))


def _on_diagonal(x: Tensor, labels: list[Label], label: Label) -> tuple[Tensor, list[Label]]:
    first, second = (a for a, name in enumerate(labels) if name == label)
    if x.type.shape[first] != x.type.shape[second]:
        message = f"einsum: {label!r} names dims of two sizes of {x.type}"
        raise located(TypeCheckError, message)
    rest = [name for name in labels if name != label]
    return diagonal(x, 0, first, second), [*rest, label]


def _implied(terms: Sequence[Term]) -> list[Label]:
    count = Counter(label for t in terms for label in t.labels)
    once = sorted(name for name, n in count.items() if n == 1 and not name.startswith("."))
    return [*_dots(terms), *once]


def _check_output(equation: str, out: list[Label], terms: Sequence[Term]) -> None:
    known = {label for t in terms for label in t.labels}
    if len(set(out)) != len(out) or not known.issuperset(out):
        message = f"einsum: expected each output label once and from the inputs, got {equation!r}"
        raise located(ArgumentError, message)
    sizes: dict[Label, Size] = {}
    for t in terms:
        for label in t.labels:
            n = t.size(label)
            if sizes.setdefault(label, n) == 1:
                sizes[label] = n
            if n not in (1, sizes[label]):
                got = f"{sizes[label]} and {n}"
                raise located(TypeCheckError, f"einsum: {label!r} has sizes {got}: {equation!r}")


def _in_order(terms: Sequence[Term], out: Sequence[Label]) -> list[tuple[int, ...]]:
    """Which terms meet, in turn: greedily, by what products cost and leave behind."""
    if len(terms) <= 2:
        return [tuple(range(len(terms)))]
    names = sorted({label for t in terms for label in t.labels})
    letter = dict(zip(names, ascii_letters, strict=False))
    left = ",".join("".join(letter[label] for label in t.labels) for t in terms)
    text = f"{left}->{''.join(letter[label] for label in out)}"
    sizes = {
        label: n if isinstance(n := t.size(label), int) else UNKNOWN
        for t in terms
        for label in t.labels
        if t.size(label) != 1
    }
    shapes = [tuple(sizes.get(label, 1) for label in t.labels) for t in terms]
    empty = [np.broadcast_to(np.float32(0), s) for s in shapes]
    path, _ = np.einsum_path(text, *empty, optimize="greedy")
    return [tuple(sorted(p)) for p in path[1:]]


def _contracted(terms: list[Term], meet: tuple[int, ...], out: set[Label]) -> list[Term]:
    rest = [t for k, t in enumerate(terms) if k not in meet]
    keep = out.union(*(t.labels for t in rest))
    first, *others = (terms[k] for k in meet)
    for k, other in enumerate(others):
        later = keep.union(*(t.labels for t in others[k + 1 :]))
        first = _pair(first, other, later)
    return [*rest, first]


def _pair(x: Term, y: Term, keep: set[Label]) -> Term:
    """The product of two terms, summed over what is not in ``keep``."""
    x, y = _squeezed(x, y), _squeezed(y, x)
    x, y = x.summed(keep.union(y.labels)), y.summed(keep.union(x.labels))
    both = [label for label in x.labels if label in y.labels]
    batch, inner = ([b for b in both if (b in keep) is kept] for kept in (True, False))
    rows = [label for label in x.labels if label not in both]
    columns = [label for label in y.labels if label not in both]
    labels = (*batch, *rows, *columns)
    if not inner:
        return Term(_multiplied(x, y, labels), labels)
    left, right = x.ordered([*batch, *rows, *inner]), y.ordered([*batch, *inner, *columns])
    sizes = [[t.size(label) for label in some] for t, some in ((x, rows), (y, columns), (x, inner))]
    lead = [x.size(label) for label in batch]
    m, n, k = map(product, sizes)
    flat = [product(lead)] if batch else []
    out = matmul(view.reshape(left, [*flat, m, k]), view.reshape(right, [*flat, k, n]))
    return Term(view.reshape(out, [*lead, *sizes[0], *sizes[1]]), labels)


def _squeezed(x: Term, y: Term) -> Term:
    """Without dims of size 1 that are larger in ``y``."""
    gone = [label for label in x.labels if x.size(label) == 1 and label in y.labels]
    gone = [label for label in gone if y.size(label) != 1]
    if not gone:
        return x
    kept = tuple(label for label in x.labels if label not in gone)
    return Term(view.reshape(x.x, [x.size(label) for label in kept]), kept)


def _multiplied(x: Term, y: Term, labels: Sequence[Label]) -> Tensor:
    def spread(t: Term) -> Tensor:
        there = [label for label in labels if label in t.labels]
        shape = [t.size(label) if label in t.labels else 1 for label in labels]
        return view.reshape(t.ordered(there), shape)

    return mul(spread(x), spread(y))


# by position


def tensordot(a: Tensor, b: Tensor, dims: Any = 2) -> Tensor:
    """Products summed over the last ``dims`` of ``a`` and the first of ``b``, or over two lists."""
    for argument, value in (("a", a), ("b", b)):
        expect_tensor("tensordot", argument, value)
    x, y = a.type, b.type
    if not isinstance(dims, Sequence):
        count = int(dims)
        if not 0 <= count <= min(x.rank, y.rank):
            message = f"tensordot: expected 0 <= dims <= the ranks of {x} and {y}, got {count}"
            raise located(ArgumentError, message)
        pairs = [*range(x.rank - count, x.rank)], [*range(count)]
    else:
        pairs = _axes(dims[0], x.rank), _axes(dims[1], y.rank)
    sizes = [[t.shape[i] for i in some] for t, some in zip((x, y), pairs, strict=True)]
    if sizes[0] != sizes[1]:
        got = f"got {show(sizes[0])} and {show(sizes[1])}"
        raise located(TypeCheckError, f"tensordot: expected equal sizes over dims, {got}")
    letters = iter(ascii_letters)
    first = [next(letters) for _ in range(x.rank)]
    second = [next(letters) for _ in range(y.rank)]
    for i, j in zip(*pairs, strict=True):
        second[j] = first[i]
    out = [c for c in first if c not in second] + [c for c in second if c not in first]
    return einsum(f"{''.join(first)},{''.join(second)}->{''.join(out)}", a, b)


def _axes(dims: Dims, rank: int) -> list[int]:
    return [axis("tensordot", d, rank) for d in (dims if isinstance(dims, Sequence) else [dims])]


def inner(input: Tensor, other: Tensor) -> Tensor:
    """The sums of products over the last dims of both; of a number, every product."""
    expect_tensor("inner", "input", input)
    expect_tensor("inner", "other", other)
    x, y = input.type, other.type
    if not x.rank or not y.rank:
        return mul(input, other)
    if x.shape[-1] != y.shape[-1]:
        raise located(TypeCheckError, f"inner: expected last dims of one size, got {x} and {y}")
    return tensordot(input, other, ([-1], [-1]))


def vdot(input: Tensor, other: Tensor) -> Tensor:
    """The sum of the products of two vectors' elements."""
    return dot(input, other)


def kron(input: Tensor, other: Tensor) -> Tensor:
    """Each element of ``input`` times all of ``other``, block by block."""
    expect_tensor("kron", "input", input)
    expect_tensor("kron", "other", other)
    rank = max(input.type.rank, other.type.rank)
    x, y = ((*(1,) * (rank - t.type.rank), *t.type.shape) for t in (input, other))
    spread = view.reshape(input, [s for n in x for s in (n, 1)])
    inside = view.reshape(other, [s for n in y for s in (1, n)])
    return view.reshape(mul(spread, inside), [m * n for m, n in zip(x, y, strict=True)])


def cross(input: Tensor, other: Tensor, dim: int | None = None) -> Tensor:
    """The vector product along ``dim``; None is the first dim of size 3."""
    expect_tensor("cross", "input", input)
    expect_tensor("cross", "other", other)
    x, y = view.broadcast_tensors(input, other)
    shape = x.type.shape
    if dim is None:
        at = next((a for a, n in enumerate(shape) if n == 3), None)
    else:
        at = own_axis("cross", dim, x.type)
    if at is None or shape[at] != 3:
        raise located(TypeCheckError, f"cross: expected a dim of size 3, got {x.type}")
    dtype = result_type(x, y)
    x, y = cast(x, dtype), cast(y, dtype)
    return sub(
        mul(roll(x, -1, at), roll(y, -2, at)),
        mul(roll(x, -2, at), roll(y, -1, at)),
    )


# chains


def chain_matmul(*matrices: Tensor) -> Tensor:
    """The product of several matrices, in the cheapest order."""
    for m in matrices:
        expect_tensor("chain_matmul", "each matrix", m)
        if m.type.rank != 2:
            raise located(TypeCheckError, f"chain_matmul: expected matrices, got {m.type}")
    return matrices[0] if len(matrices) == 1 else multi_dot(matrices)


def multi_dot(tensors: Sequence[Tensor]) -> Tensor:
    """The product of several matrices, in the cheapest order; the first and last may be vectors."""
    parts = list(tensors)
    if len(parts) < 2:
        raise located(ArgumentError, f"multi_dot: expected 2 tensors or more, got {len(parts)}")
    first, last = parts[0].type.rank == 1, parts[-1].type.rank == 1
    parts[0] = view.unsqueeze(parts[0], 0) if first else parts[0]
    parts[-1] = view.unsqueeze(parts[-1], 1) if last else parts[-1]
    for p in parts:
        if p.type.rank != 2:
            message = f"multi_dot: expected matrices between two vectors or matrices, got {p.type}"
            raise located(TypeCheckError, message)
    out = _chained(parts)
    shape = out.type.shape[1 if first else 0 : 1 if last else 2]
    return view.reshape(out, shape)


def _chained(parts: Sequence[Tensor]) -> Tensor:
    """By the classic dynamic program over where the last product splits."""
    sides = [parts[0].type.shape[0], *(p.type.shape[1] for p in parts)]
    n = [s if isinstance(s, int) else UNKNOWN for s in sides]
    cost: dict[tuple[int, int], tuple[int, int]] = {(k, k): (0, k) for k in range(len(parts))}
    for span in range(1, len(parts)):
        for i in range(len(parts) - span):
            j = i + span
            cost[i, j] = min(
                (cost[i, k][0] + cost[k + 1, j][0] + n[i] * n[k + 1] * n[j + 1], k)
                for k in range(i, j)
            )

    def made(i: int, j: int) -> Tensor:
        if i == j:
            return parts[i]
        k = cost[i, j][1]
        return matmul(made(i, k), made(k + 1, j))

    return made(0, len(parts) - 1)
