"""``vjp`` and ``jvp``: a function with its derivative, applied backwards and forwards.

    y, pull = vtc.func.vjp(f, x)            # pull(dy) = dy @ J
    y, dy = vtc.func.jvp(f, (x,), (dx,))    # dy = J @ dx

The function is recorded as a graph. Backwards, its reverse sweep runs on the values of the graph.
Forwards, the sweep, which is linear in the cotangents, is recorded and swept again, with respect to
them: what is left is J itself (docs/decisions/017-forward-mode.md).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, final

from vtc.errors import ArgumentError, GradientError, TypeCheckError
from vtc.frontend import dispatch
from vtc.frontend.applied import Applier
from vtc.frontend.recorded import Recorded, Slot, applying, keep, kept, record
from vtc.frontend.source import located
from vtc.frontend.tape import Saved as Kept
from vtc.frontend.tape import restore, running
from vtc.frontend.tensor import Tensor
from vtc.frontend.tree import Form, flatten, unflatten
from vtc.ir.graph import Node
from vtc.ir.ops.control import Library, entry_of
from vtc.ir.ops.expr import Expr
from vtc.ir.ops.fill import Full
from vtc.ir.reverse import reverse
from vtc.ir.types import TensorType
from vtc.passes.forward import push_forward


def vjp(func: Callable[..., Any], *primals: Any, has_aux: bool = False) -> tuple[Any, ...]:
    """``func(*primals)``, and a function from cotangents of that to those of each of ``primals``.

    The cotangents have the structure and types of the result; what comes back is a tuple. With
    ``has_aux`` ``func`` returns ``(result, anything)``, and ``anything`` is a third result.
    GradientError for primals that are not floating-point tensors, or trees of them.
    """
    primal = _Primal.of("vjp", func, primals, has_aux=has_aux)
    env = primal.recorded.run(primal.leaves)
    graph = primal.recorded.graph
    wrt = graph.params[: len(primal.leaves)]
    values = {n: keep(v) for n, v in env.items()}
    result = primal.finish(env)

    def pull(*cotangents: Any) -> tuple[Any, ...]:
        given = cotangents[0] if len(cotangents) == 1 else cotangents
        types = [n.tensor for n in primal.outputs]
        seeds = _leaves_like("vjp", "cotangent", given, primal.form, types)
        known: dict[Node, Any] = {}

        library = Library(primal.recorded.graphs)
        b = Applier(library)

        def value(node: Node) -> Expr:
            if node not in known:
                known[node] = kept(values[node])
            return Expr(b, known[node])

        with applying(seeds):
            starts: dict[Node, Expr] = {}
            for node, seed in zip(primal.outputs, seeds, strict=True):
                e = Expr(b, seed)
                starts[node] = starts[node] + e if node in starts else e
            tape = [entry_of(n, library) for n in graph.nodes]
            found = reverse(tape, starts, wrt, value)
            grads = [_tensor(found[p]) if p in found else _zeros(p.tensor) for p in wrt]
        return tuple(unflatten(primal.arguments, grads))

    return (result[0], pull, result[1]) if has_aux else (result, pull)


def jvp(
    func: Callable[..., Any],
    primals: Sequence[Any],
    tangents: Sequence[Any],
    *,
    strict: bool = False,
    has_aux: bool = False,
) -> tuple[Any, ...]:
    """``func(*primals)``, and how it changes along ``tangents``, which are like ``primals``.

    With ``has_aux`` ``func`` returns ``(result, anything)``, and ``anything`` is a third result;
    with ``strict`` each result must depend on the primals. GradientError where it does not, and for
    primals that are not floating-point tensors, or trees of them.
    """
    for what, given in (("primals", primals), ("tangents", tangents)):
        if not isinstance(given, (tuple, list)):
            got = type(given).__name__
            raise located(ArgumentError, f"jvp: expected a tuple of {what}, got {got}")
    primal = _Primal.of("jvp", func, tuple(primals), has_aux=has_aux)
    count = len(primal.leaves)
    types = [x.type for x in primal.leaves]
    given = _leaves_like("jvp", "tangent", tuple(tangents), primal.arguments, types)
    library = Library(primal.recorded.graphs)
    pushed = push_forward(primal.recorded.graph, count, library)
    if strict and not all(pushed.tangents.get(n) for n in primal.outputs):
        raise located(GradientError, "jvp: expected results that depend on the primals (strict)")
    recorded = replace(primal.recorded, graph=pushed.graph, graphs=library.graphs)
    env = recorded.run([*primal.leaves, *given])
    result = primal.finish(env)
    with applying(given):
        moved = [_moved(env, n, pushed.tangents.get(n)) for n in primal.outputs]
    change = unflatten(primal.form, moved)
    return (result[0], change, result[1]) if has_aux else (result, change)


def linearize(func: Callable[..., Any], *primals: Any) -> tuple[Any, Callable[..., Any]]:
    """``func(*primals)``, and a function from tangents of ``primals`` to that of the result.

    The function runs only the linear part, on the values of this call.
    """
    primal = _Primal.of("linearize", func, primals, has_aux=False)
    library = Library(primal.recorded.graphs)
    pushed = push_forward(primal.recorded.graph, len(primal.leaves), library)
    first = set(primal.recorded.graph.nodes)
    env = primal.recorded.run(primal.leaves)
    values = {n: keep(v) for n, v in env.items()}
    result = primal.finish(env)
    types = [x.type for x in primal.leaves]

    def push(*tangents: Any) -> Any:
        given = _leaves_like("linearize", "tangent", tangents, primal.arguments, types)
        known = dict(zip(pushed.graph.params[len(types) :], given, strict=False))

        def value(node: Node) -> Any:
            if node not in known:
                known[node] = kept(values[node])
            return known[node]

        b = Applier(library)
        with applying(given):
            for n in pushed.graph.nodes:
                if n.op is not None and n not in first:
                    known[n] = b.apply(n.op, *map(value, n.inputs))
            moved = [_moved(known, n, pushed.tangents.get(n)) for n in primal.outputs]
        return unflatten(primal.form, moved)

    return result, push


@final
@dataclass(frozen=True)
class _Primal:
    """A function recorded at primals; ``arguments`` and ``form`` are the trees of primals and
    result.
    """

    recorded: Recorded
    leaves: list[Tensor]
    arguments: Form | None
    form: Form | None
    outputs: tuple[Node, ...]
    aux: bool

    @classmethod
    def of(
        cls, name: str, func: Callable[..., Any], primals: tuple[Any, ...], *, has_aux: bool
    ) -> _Primal:
        leaves, arguments = flatten(primals)
        for x in leaves:
            if not isinstance(x, Tensor) or not x.dtype.is_floating_point:
                got = x.type if isinstance(x, Tensor) else f"{type(x).__name__} {x!r}"
                message = f"{name}: expected primals that are floating-point tensors, got {got}"
                raise located(GradientError, message)
        slots = [Slot.like(x, requires=True) for x in leaves]
        with dispatch.enable_grad():
            recorded = record(lambda xs: func(*unflatten(arguments, xs)), slots)
        first, form = recorded.leaves, recorded.form
        if has_aux:
            pair = form is not None and form.kind is tuple and len(form.children) == 2
            if form is None or not pair:
                raise located(ArgumentError, f"{name}: expected (result, aux) with has_aux")
            first, form = first[: leaf_count(form.children[0])], form.children[0]
        for x in first:
            if not isinstance(x, Node):
                message = f"{name}: expected a function that returns tensors, got {x!r}"
                raise located(ArgumentError, message)
        return cls(recorded, leaves, arguments, form, first, has_aux)

    def finish(self, env: dict[Node, Any]) -> Any:
        """What the function returns, once it has done what it does in place."""
        self.recorded.write(self.leaves, lambda c: env[c.node])
        return self.recorded.result(env.__getitem__)


def _leaves_like(
    name: str, what: str, given: Any, form: Form | None, types: Sequence[TensorType]
) -> list[Tensor]:
    """The leaves of ``given``. TypeCheckError unless it is a tree of ``form`` and ``types``."""
    leaves, own = flatten(given)
    if own != form:
        raise located(TypeCheckError, f"{name}: expected {what}s in the structure of the others")
    for x, type in zip(leaves, types, strict=True):
        if not isinstance(x, Tensor) or x.type != type:
            got = x.type if isinstance(x, Tensor) else repr(x)
            raise located(TypeCheckError, f"{name}: expected a {what} of type {type}, got {got}")
    return leaves


def leaf_count(form: Form | None) -> int:
    """How many leaves a tree has."""
    return 1 if form is None else sum(map(leaf_count, form.children))


def _moved(env: dict[Node, Any], output: Node, tangent: Node | None) -> Tensor:
    """The tangent of ``output``: zeros where it does not move."""
    found: Tensor = _zeros(output.tensor) if tangent is None else env[tangent]
    return found


def _tensor(e: Expr) -> Tensor:
    found: Tensor = restore(e.value) if isinstance(e.value, Kept) else e.value
    return found


def _zeros(type: TensorType) -> Tensor:
    return dispatch.create(Full(type.shape, 0, type.dtype), running.device)
