"""Program text: a subset of Python, so ``ast`` reads it and every editor highlights it.

    B: Dim(1, 64)
    def mlp(x: f32[B, 784], w: f32[784, 256] = param("up.weight")) -> f32[B, 256]:
        h: f32[B, 256] = matmul(x, w)  # mlp.py:14 up
        return h

Laws: ``parse(show(p)) == p``, and ``show(parse(t)) == t`` for canonical ``t``. With ``loc=True``
comments hold places, and ``parse`` restores them. Positional arguments are values, keywords are
attributes (left out where they equal the default); names in attributes and types are symbols and
dtypes. By hand, annotations of results may be left out.
"""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Iterator, Sequence
from itertools import chain, repeat
from typing import Any, TypeVar, final

from vtc.errors import ParseError, VtcError
from vtc.ir.attribute import Attribute, attributes, fits, show_value
from vtc.ir.dims import Dim, Size, size_of, symbols
from vtc.ir.graph import RESERVED, Fact, Graph, GraphBuilder, Loc, Node, Program
from vtc.ir.op import REGISTRY, Op
from vtc.ir.types import DTYPES, TensorType, TupleType, Type

WIDTH = 120
"""A longer signature is written with one param a line."""

T = TypeVar("T")
Located = ast.stmt | ast.expr | ast.arg | ast.keyword


def show(what: Program | Graph, *, loc: bool = False) -> str:
    """The text of a program, or of one graph; with ``loc`` lines end in the user's line."""
    if isinstance(what, Graph):
        return _show_graph(what, (), loc)
    dims = "".join(f"{d}\n" for d in what.dims)
    others = [_show_graph(g, (), loc) for g in what.graphs[:-1]]
    return dims + "\n".join([*others, _show_graph(what.entry, what.facts, loc)])


def show_node(node: Node) -> str:
    """One line of a body: ``h: f32[B, 256] = matmul(x, w)``; ``x: f32[B, 784]`` for a param."""
    if node.op is None:
        return f"{node.name}: {node.type}"
    arguments = [*(i.name for i in node.inputs), *_show_attributes(node.op)]
    return f"{node.name}: {node.type} = {node.op.name}({', '.join(arguments)})"


def excerpt(graph: Graph, node: Node | None, reach: int = 3) -> str:
    """``node`` (None: the return) and ``reach`` lines of its graph either side, for errors."""
    lines = [*graph.params, *graph.nodes, None]
    at = next((i for i, n in enumerate(lines) if n is node), len(lines) - 1)
    first = max(0, at - reach)
    near = lines[first : at + reach + 1]
    shown = [_show_return(graph) if n is None else show_node(n) for n in near]
    marked = [f"     {'>' if first + i == at else ' '} {line}" for i, line in enumerate(shown)]
    return "\n".join([f"  in graph {graph.name}:", *marked])


def parse(text: str) -> Program:
    """The program that ``text`` says, typechecked as it is read; ParseError names the line."""
    return _Parser(text).program()


def _show_graph(graph: Graph, facts: Sequence[Fact], loc: bool) -> str:
    body = [f"    {show_node(n)}{_comment(n, loc)}" for n in graph.nodes]
    lines = [*_signature(graph, facts, loc), *body, f"    {_show_return(graph)}"]
    return "\n".join(lines) + "\n"


def _signature(graph: Graph, facts: Sequence[Fact], loc: bool) -> list[str]:
    params = list(_show_params(graph, facts))
    result = _show_types(graph.result)
    line = f"def {graph.name}({', '.join(params)}) -> {result}:"
    comments = [_comment(p, loc) for p in graph.params]
    if not params or (len(line) <= WIDTH and not any(comments)):
        return [line]
    listed = [f"    {p},{c}" for p, c in zip(params, comments, strict=True)]
    return [f"def {graph.name}(", *listed, f") -> {result}:"]


def _show_params(graph: Graph, facts: Sequence[Fact]) -> Iterator[str]:
    """Python wants a default after a default: an empty fact after a stated one is ``param()``."""
    stated = False
    for p, fact in zip(graph.params, chain(facts, repeat(Fact())), strict=False):
        stated = stated or fact != Fact()
        yield f"{show_node(p)} = {_show_fact(fact)}" if stated else show_node(p)


def _show_fact(fact: Fact) -> str:
    path = [show_value(fact.path)] if fact.path else []
    return f"param({', '.join([*path, *_show_attributes(fact, skip='path')])})"


def _show_attributes(of: Op | Fact, skip: str = "") -> Iterator[str]:
    for name, attribute in attributes(type(of)).items():
        value = show_value(getattr(of, name))
        if value != attribute.default and name != skip:
            yield f"{name}={value}"


def _show_return(graph: Graph) -> str:
    return f"return {', '.join(o.name for o in graph.outputs) or '()'}"


def _show_types(types: Sequence[Type]) -> str:
    return str(types[0]) if len(types) == 1 else f"({', '.join(map(str, types))})"


def _comment(node: Node, loc: bool) -> str:
    if not loc or node.loc is None or not (place := str(node.loc)).isprintable():
        return ""
    return f"  # {place}"


_PLACE = re.compile(r"[\s,;]*# (?P<file>\S.*?):(?P<line>[0-9]{1,9})(?: (?P<module>\S.*?))?\s*")
_FLOATS = {"inf": math.inf, "nan": math.nan}


@final
class _Parser:
    """One text being read; ``builder`` and ``values`` belong to the graph at hand."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.lines = re.split(r"\r\n|\r|\n", text)
        self.builder = GraphBuilder()
        self.values: dict[str, Node] = {}

    def program(self) -> Program:
        try:
            return self.top(ast.parse(self.text).body)
        except SyntaxError as e:
            raise self.error(e.lineno or 1, (e.offset or 1) - 1, e.msg) from None
        except (RecursionError, MemoryError):
            raise ParseError("expected a program, got text nested too deeply") from None
        except ValueError as e:  # null bytes, lone surrogates
            raise ParseError(f"expected a program, got text with {e}") from e

    def top(self, body: Sequence[ast.stmt]) -> Program:
        count = next((i for i, s in enumerate(body) if isinstance(s, ast.FunctionDef)), len(body))
        dims = tuple(self.dim(s) for s in body[:count])
        if count == len(body):
            raise self.error(len(self.lines), 0, "expected a graph, got the end of the text")
        graphs = []
        for stmt in body[count:]:
            graph, facts = self.graph(stmt)
            if stmt is not body[-1] and any(f != Fact() for f in facts):
                why = f"expected facts on the last graph only, got some on {graph.name}"
                raise self.fail(stmt, why)
            graphs.append(graph)
        return Program(tuple(graphs), dims, facts)

    def dim(self, stmt: ast.stmt) -> Dim:
        match stmt:
            case ast.AnnAssign(
                target=ast.Name(id=name),
                annotation=ast.Call(func=ast.Name(id="Dim"), args=args) as call,
                value=None,
            ):
                return self.make(Dim, f"Dim {name}", call, args, {"name": name})
        raise self.fail(stmt, "expected a graph or a dim like 'B: Dim(1, 64)'")

    def graph(self, stmt: ast.stmt) -> tuple[Graph, tuple[Fact, ...]]:
        match stmt:
            case ast.FunctionDef(
                args=ast.arguments(posonlyargs=[], vararg=None, kwonlyargs=[], kwarg=None) as a,
                decorator_list=[],
            ):
                pass
            case _:
                raise self.fail(stmt, "expected a graph like 'def f(x: f32[4]) -> f32[4]:'")
        self.builder, self.values = GraphBuilder(), {}
        missing = [None] * (len(a.args) - len(a.defaults))
        read = [self.param(*p) for p in zip(a.args, [*missing, *a.defaults], strict=True)]
        for s in stmt.body[:-1]:
            self.statement(s)
        outputs = self.outputs(stmt.body[-1])
        graph = self.builder.graph(stmt.name, [node for node, _ in read], outputs)
        self.same(stmt.returns, stmt.name, _result(graph))
        return graph, tuple(fact for _, fact in read)

    def param(self, arg: ast.arg, default: ast.expr | None) -> tuple[Node, Fact]:
        if arg.annotation is None:
            raise self.fail(arg, f"expected the type of {arg.arg}, got none")
        node = self.builder.param(arg.arg, self.type(arg.annotation), self.place(default or arg))
        self.bind(arg, arg.arg, node)
        match default:
            case None:
                return node, Fact()
            case ast.Call(func=ast.Name(id="param"), args=args) as call:
                return node, self.make(Fact, "param", call, args, {})
        raise self.fail(default, "expected a fact like 'param(\"up.weight\")'")

    def statement(self, stmt: ast.stmt) -> None:
        match stmt:
            case ast.AnnAssign(target=ast.Name(id=name), value=ast.Call() as call):
                written: ast.expr | None = stmt.annotation
            case ast.Assign(targets=[ast.Name(id=name)], value=ast.Call() as call):
                written = None
            case _:
                raise self.fail(stmt, "expected a node like 'y: f32[4] = exp(x)'")
        if not isinstance(call.func, ast.Name) or call.func.id not in REGISTRY:
            raise self.fail(call, f"expected an op, got {ast.unparse(call.func)}")
        op = self.make(REGISTRY[call.func.id], call.func.id, call, (), {})
        inputs = [self.value(a) for a in call.args]
        try:
            node = self.builder.apply(op, *inputs, hint=name, loc=self.place(stmt))
        except Exception as e:  # an op's infer may trip over operands it does not expect
            raise self.fail(call, str(e) if isinstance(e, VtcError) else f"{op.name}: {e}") from e
        self.same(written, name, node.type)
        self.bind(stmt, name, node)

    def outputs(self, stmt: ast.stmt) -> list[Node]:
        match stmt:
            case ast.Return(value=ast.Tuple(elts=elts)):
                return [self.value(e) for e in elts]
            case ast.Return(value=ast.Name() as name):
                return [self.value(name)]
        raise self.fail(stmt, "expected a return of values at the end of the graph")

    def bind(self, at: Located, name: str, node: Node) -> None:
        if name in self.values:
            raise self.fail(at, f"expected a new name, got {name}, which is bound already")
        if node.name != name:
            raise self.fail(at, f"expected a name for a value, got {name}, which is reserved")
        self.values[name] = node

    def value(self, at: ast.expr) -> Node:
        if not isinstance(at, ast.Name) or at.id not in self.values:
            raise self.fail(at, f"expected a value bound above, got {ast.unparse(at)}")
        return self.values[at.id]

    def same(self, at: ast.expr | None, name: str, have: Type) -> None:
        if at is not None and (written := self.type(at)) != have:
            raise self.fail(at, f"{name} is {have}, but written as {written}")

    def place(self, at: Located) -> Loc | None:
        line = self.lines[(at.end_lineno or at.lineno) - 1]
        if "#" not in line:
            return None
        rest = line.encode()[at.end_col_offset or 0 :].decode()
        found = _PLACE.fullmatch(rest)
        return Loc(found["file"], int(found["line"]), found["module"] or "") if found else None

    def make(
        self,
        cls: type[T],
        label: str,
        call: ast.Call,
        args: Sequence[ast.expr],
        given: dict[str, Any],
    ) -> T:
        """``cls`` of fields ``given``, then positional ``args``, then the keywords of ``call``."""
        known = attributes(cls)
        free = [name for name in known if name not in given]
        if len(args) > len(free):
            raise self.fail(args[len(free)], f"{label}: expected at most {len(free)} arguments")
        written = [*zip(free, args, strict=False), *((k.arg, k.value) for k in call.keywords)]
        for name, expr in written:
            if name is None or name not in known or name in given:
                why = "twice" if name in given else f"of {', '.join(free) or 'none'}"
                raise self.fail(expr, f"{label}: expected attributes {why}, got {name}")
            given[name] = self.attribute(f"{label}: {name}", known[name], expr)
        if missing := [n for n, a in known.items() if a.default is None and n not in given]:
            raise self.fail(call, f"{label}: expected {', '.join(missing)}, got none")
        try:
            return cls(**given)
        except Exception as e:  # a class may refuse combinations of attributes
            raise self.fail(call, str(e)) from e

    # attributes and types

    def attribute(self, label: str, want: Attribute, at: ast.expr) -> Any:
        value = self.constant(at)
        if fits(value, want.kind):
            return value
        # (f32[4], i64[4]) reads as a tuple of types; wanted is one type: several results.
        if isinstance(value, tuple) and all(isinstance(v, TensorType) for v in value):
            several = TupleType(value)
            if fits(several, want.kind):
                return several
        raise self.fail(at, f"{label}: expected {want.written}, got {show_value(value)}")

    def type(self, at: ast.expr) -> Type:
        if isinstance(at, ast.Tuple):
            return TupleType(tuple(self.tensor(e) for e in at.elts))
        return self.tensor(at)

    def tensor(self, at: ast.expr) -> TensorType:
        match at:
            case ast.Subscript(value=ast.Name(id=name), slice=inner) if name in DTYPES:
                sizes = inner.elts if isinstance(inner, ast.Tuple) else [inner]
                return TensorType(DTYPES[name], tuple(self.size(s) for s in sizes))
        raise self.fail(at, f"expected a type like f32[B, 4], got {ast.unparse(at)}")

    def constant(self, at: ast.expr) -> object:
        match at:
            case ast.Constant(value=bool() | float() | str() | None as value):
                return value
            case ast.Name(id=name) if name in DTYPES or name in _FLOATS:
                return DTYPES[name] if name in DTYPES else _FLOATS[name]
            case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=float(value))):
                return -value
            case ast.UnaryOp(op=ast.USub(), operand=ast.Name(id="inf")):
                return -math.inf
            case ast.Call(func=ast.Name(id="complex"), args=[_, _] as args, keywords=[]):
                match [self.constant(a) for a in args]:
                    case [float(real), float(imag)]:
                        return complex(real, imag)
            case ast.Tuple(elts=elts):
                return tuple(self.constant(e) for e in elts)
            case ast.Subscript():
                return self.tensor(at)
        return self.size(at, "a number, text, dtype, size or type")

    def size(self, at: ast.expr, wanted: str = "a size") -> Size:
        try:
            size = size_of(at)
        except (ParseError, ZeroDivisionError):
            raise self.fail(at, f"expected {wanted}, got {ast.unparse(at)}") from None
        if reserved := symbols(size) & RESERVED:
            raise self.fail(at, f"expected {wanted}, got {', '.join(sorted(reserved))}")
        numbers = (size,) if isinstance(size, int) else (c for _, c in size.terms)
        if any(n.bit_length() > 64 for n in numbers):
            raise self.fail(at, "expected integers of at most 64 bits")
        return size

    # errors

    def fail(self, at: ast.AST, message: str) -> ParseError:
        line: int = getattr(at, "lineno", 1)
        offset: int = getattr(at, "col_offset", 0)  # in bytes
        before = self.lines[line - 1].encode()[:offset]
        return self.error(line, len(before.decode(errors="ignore")), message)

    def error(self, line: int, column: int, message: str) -> ParseError:
        line = min(max(line, 1), len(self.lines))
        source = self.lines[line - 1]
        margin = re.sub(r"[^\t]", " ", source[: max(column, 0)])
        return ParseError(f"line {line}: {message}\n  {source}\n  {margin}^")


def _result(graph: Graph) -> Type:
    """What the annotation of ``graph`` says: one type, or several in parentheses."""
    types = graph.result
    if len(types) == 1:
        return types[0]
    return TupleType(tuple(t for t in types if isinstance(t, TensorType)))
