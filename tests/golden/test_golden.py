"""What each pass does to a program, as text: every ``*.vtc`` beside this file.

    # pass: cse
    # keeps: softmax, gelu
    # options: nominal=8
    def f(x: f32[4]) -> f32[4]: ...
    # ---- becomes
    def f(x: f32[4]) -> f32[4]: ...

Optional are ``keeps`` (composites the target keeps whole), ``target`` (``cuda`` if it is a GPU; it
has the facts of an H100 then, but for ``keeps``), ``options`` (fields of ``Options``)
``unevaluated`` (why the first half cannot run) and, for ``partition``, ``cut`` (how many outputs
are results, how many params tangents). Both halves run on the same inputs, so a file
cannot record a miscompilation. ``make golden`` writes the second halves, with places if the first
has some.
"""

import ast
import re
import sys
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

import vtc.ir.ops  # noqa: F401
from vtc.errors import IndexRangeError
from vtc.ir.evaluate import evaluate
from vtc.ir.graph import Graph, GraphBuilder, Node, Program
from vtc.ir.ops.control import Call, Item
from vtc.ir.target import cpu, cuda
from vtc.ir.text import parse, show
from vtc.ir.types import TupleType, dtype_of
from vtc.ir.verify import verify
from vtc.passes.check import TOLERANCE, difference, random_inputs
from vtc.passes.cost import nominal
from vtc.passes.partition import Pair, partition
from vtc.passes.pipeline import Context, Options

FILES = sorted(Path(__file__).parent.glob("*.vtc"))
BECOMES = "# ---- becomes\n"
HEADER = re.compile(r"# (pass|keeps|target|options|unevaluated|cut): *(.*)\n")


@dataclass(frozen=True)
class Golden:
    """One file in its parts; ``after`` is None where it is still to be written."""

    before: str
    after: str | None
    header: dict[str, str]

    @classmethod
    def read(cls, path: Path) -> "Golden":
        before, mark, after = path.read_text("utf-8").partition(BECOMES)
        header: dict[str, str] = {}
        end = 0
        while found := HEADER.match(before, end):
            header[found[1]] = found[2]
            end = found.end()
        assert "pass" in header, f"{path.name} begins with '# pass: name'"
        return cls(before, after if mark else None, header)

    @property
    def context(self) -> Context:
        keeps = frozenset(self.header.get("keeps", "").split(", ")) - {""}
        options = Options(**self.values("options"))
        gpu = self.header.get("target") == "cuda"
        target = cuda() if gpu else cpu()
        return Context(replace(target, name="golden", keeps=keeps), options)

    def values(self, line: str) -> dict[str, int]:
        keywords = ast.parse(f"f({self.header.get(line, '')})", mode="eval").body.keywords
        return {k.arg: ast.literal_eval(k.value) for k in keywords}

    def run(self, before: Program) -> Program:
        name = self.header["pass"]
        if name == "partition":
            return joined(partition(before, **self.values("cut"), context=self.context), before)
        return getattr(import_module(f"vtc.passes.{name}"), name)(before, self.context)


def joined(pair: Pair, whole: Program) -> Program:
    """The pair as one program that calls both halves, so that it can be run beside ``whole``."""
    b = GraphBuilder()
    params = [b.param(p.name, p.type) for p in whole.entry.params]
    forward, backward = pair.forward.entry, pair.backward.entry
    taken, tangents = params[: len(forward.params)], params[len(forward.params) :]
    results = called(b, forward, taken)
    gradients = called(b, backward, pair.arguments(taken, results, tangents))
    count = len(whole.entry.outputs) - len(gradients)
    entry = b.graph(whole.entry.name, params, [*results[:count], *gradients])
    return Program((forward, backward, entry), whole.dims, whole.facts)


def called(b: GraphBuilder, graph: Graph, arguments: list[Node]) -> list[Node]:
    types = graph.result
    if len(types) == 1:
        return [b.apply(Call(graph.name, types[0]), *arguments)]
    whole = b.apply(Call(graph.name, TupleType(types)), *arguments)
    return [b.apply(Item(i), whole) for i in range(len(types))]


def check(path: Path, *, update: bool) -> None:
    golden = Golden.read(path)
    before = parse(golden.before)
    verify(before)
    after = golden.run(before)
    verify(after)
    assert parse(show(after)) == after
    if "unevaluated" not in golden.header:
        check_meaning(before, after)
    if update:
        path.write_text(f"{golden.before}{BECOMES}{show(after, loc=has_places(before))}", "utf-8")
        return
    if golden.after is None:
        here = f"tests/golden/test_golden.py::test_golden[{path.stem}]"
        pytest.fail(f"no second half yet: python -m pytest '{here}' --update-golden", pytrace=False)
    assert show(after, loc=has_places(parse(golden.after))) == golden.after


def has_places(program: Program) -> bool:
    return any(n.loc for g in program.graphs for n in (*g.params, *g.nodes))


def check_meaning(before: Program, after: Program) -> None:
    """Both compute the same, on inputs of both signs and on positive ones (for logarithms)."""
    rng = np.random.default_rng(0)
    sizes = nominal(before, 3)
    for positive in (False, True):
        arrays = random_inputs(before, sizes, rng)
        arrays = [np.abs(a) if positive and a.dtype != bool else a for a in arrays]
        try:
            expected = evaluate(before, *arrays)
        except IndexRangeError:  # an axis of one element is indexed
            arrays = [np.zeros_like(a) if dtype_of(a.dtype).kind == "int" else a for a in arrays]
            expected = evaluate(before, *arrays)
        found = evaluate(after, *arrays)
        for o, want, have in zip(before.entry.outputs, expected, found, strict=True):
            floating = dtype_of(want.dtype).is_floating_point
            allowed = TOLERANCE[want.dtype.itemsize] / 10 if floating else 0.0
            assert difference(want, have) <= allowed, f"{o.name} is {have}, it was {want}"


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_golden(path, update_golden):
    check(path, update=update_golden)


# The runner itself

NEGATE = """\
# pass: negate
B: Dim(2, 4)
def f(x: f32[B, 4], i: i64[3]) -> (f32[B, 4], i64[3]):
    y: f32[B, 4] = neg(x)
    return y, i
"""


@pytest.fixture
def file(tmp_path, monkeypatch):
    """A golden file of a pass that takes negations away, unless its context tells it not to."""

    def negate(program: Program, context: Context) -> Program:
        if "neg" in context.target.keeps or context.options.nominal == 7:
            return program
        g = program.entry
        outputs = tuple(o if o.op is None else o.inputs[0] for o in g.outputs)
        return program.with_entry(Graph(g.name, g.params, (), outputs))

    module = ModuleType("vtc.passes.negate")
    module.negate = negate
    monkeypatch.setitem(sys.modules, "vtc.passes.negate", module)
    return tmp_path / "negate_once.vtc"


def with_header(line: str) -> str:
    return NEGATE.replace("\nB", f"\n{line}\nB")


def test_a_miscompilation_is_noticed_and_never_written(file):
    file.write_text(NEGATE)
    with pytest.raises(AssertionError, match="y is "):
        check(file, update=True)
    assert file.read_text() == NEGATE


@pytest.mark.parametrize("line", ["# options: nominal=7", "# keeps: exp, neg"])
def test_what_is_missing_is_written(file, line):
    text = with_header(line)
    file.write_text(text)
    with pytest.raises(pytest.fail.Exception, match=r"test_golden\[negate_once\]' --update-golden"):
        check(file, update=False)
    check(file, update=True)
    assert file.read_text() == text + BECOMES + text.partition(f"{line}\n")[2]
    check(file, update=False)


def test_what_cannot_run_says_so(file):
    text = with_header("# unevaluated: it is wrong")
    file.write_text(text)
    check(file, update=True)
    assert "return x, i" in file.read_text()


def test_another_text_is_noticed(file):
    text = with_header("# keeps: neg")
    file.write_text(text + BECOMES + text.partition(": neg\n")[2].replace("y", "z"))
    with pytest.raises(AssertionError):
        check(file, update=False)


def test_places_are_written_where_there_are_some(file):
    file.write_text(with_header("# keeps: neg").replace("(x)", "(x)  # a.py:3 up"))
    check(file, update=True)
    assert file.read_text().count("# a.py:3 up") == 2
    check(file, update=False)
    before, after = file.read_text().split(BECOMES)
    file.write_text(before + BECOMES + after.replace("up", "down"))
    with pytest.raises(AssertionError):
        check(file, update=False)


def test_an_axis_of_one_can_be_indexed(file):
    text = "# pass: negate\n# keeps: neg\ndef f(x: f32[1, 4], i: i64[9]) -> f32[9, 4]:\n"
    text += "    y: f32[9, 4] = index(x, i, axes=(0,))\n    return y\n"
    file.write_text(text)
    check(file, update=True)


def test_the_pass_is_named(file):
    file.write_text("def f() -> ():\n    return ()\n")
    with pytest.raises(AssertionError, match="begins with '# pass: name'"):
        Golden.read(file)
