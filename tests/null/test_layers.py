"""The shape of vtc: who may import whom, where third parties live, how long things get.

Every rule is a generator of complaints over all files of the package. ``BROKEN`` holds, for each
rule, the smallest package that breaks it, so no rule can pass by never firing.
"""

import ast
import builtins
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# From the top down; a layer may import those below it, names on one line not each other.
LAYERS = (
    ("vtc.__main__",),
    ("vtc.commands",),
    ("vtc.amp", "vtc.debug", "vtc.optim"),
    ("vtc.autograd", "vtc.func", "vtc.linalg", "vtc.nn", "vtc.random", "vtc.special"),
    ("vtc.frontend",),
    ("vtc.packing",),
    ("vtc.build", "vtc.cuda"),
    ("vtc.tuning",),
    ("vtc.passes", "vtc.codegen", "vtc.runtime"),
    ("vtc.ir.ops",),
    ("vtc.ir",),
    ("vtc.config", "vtc.lazy"),
    ("vtc.errors", "vtc.version"),
)
RANK = {name: -height for height, names in enumerate(LAYERS) for name in names}
RUNTIME_SEES = tuple(f"vtc.ir.{m}" for m in ("plan", "unroll", "saved", "types", "dims", "target"))

# The only place that may import each of these.
HOMES = {
    "torch": "vtc.frontend.torch",
    "triton": "vtc.codegen.triton",
    "cuda": "vtc.runtime",
    "jinja2": "vtc.codegen.render",
}
ONLY_LAZY = {"jinja2", "networkx", "scipy", "cuda"}

BANNED = re.compile(r"utils?|helpers?|common|base|misc|managers?|handlers?|.*_v\d+|new_.*")
PYTORCH_SPELLING = "vtc/nn/utils/"  # users know nn.utils.clip_grad_norm_; it only re-exports
FILE_LINES, OPS_FILE_LINES, FUNCTION_LINES = 500, 600, 60

Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Source:
    """One file of the package; a template has no syntax tree to speak of."""

    path: str
    text: str

    @cached_property
    def module(self) -> str:
        return self.path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.text if self.path.endswith(".py") else "")

    @cached_property
    def imports(self) -> list["Import"]:
        return list(find_imports(self, self.tree))


@dataclass(frozen=True)
class Import:
    """``target`` is dotted, with the imported name last: ``from vtc.ir import op`` is vtc.ir.op."""

    source: Source
    line: int
    name: str
    target: str
    typing: bool = False
    function: bool = False
    lazy: bool = False

    @property
    def bound(self) -> str:
        """What ``name`` stands for: after ``import vtc.ir.op`` the name vtc is vtc itself."""
        return self.name if within(self.target, self.name) else self.target

    def complain(self, why: str) -> str:
        return f"{self.source.path}:{self.line} imports {self.target}: {why}"


def find_imports(
    source: Source, node: ast.AST, typing: bool = False, function: bool = False
) -> Iterator[Import]:
    match node:
        case ast.Import(names=names):
            for a in names:
                name = a.asname or a.name.split(".")[0]
                yield Import(source, node.lineno, name, a.name, typing, function)
        case ast.ImportFrom(names=names):
            for a in names:
                target = f"{absolute(source, node)}.{a.name}"
                yield Import(source, node.lineno, a.asname or a.name, target, typing, function)
        case ast.Call(
            func=ast.Attribute(value=ast.Name("lazy"), attr="module"),
            args=[ast.Constant(value=str(target)), *_],
        ):
            yield Import(source, node.lineno, "", target, lazy=True)
    function = function or isinstance(node, Function | ast.Lambda)
    guarded = node.body if isinstance(node, ast.If) and is_type_checking(node.test) else ()
    for child in ast.iter_child_nodes(node):
        yield from find_imports(source, child, typing or child in guarded, function)


def is_type_checking(test: ast.expr) -> bool:
    return ast.unparse(test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")


def absolute(source: Source, node: ast.ImportFrom) -> str:
    if not node.level:
        return node.module or ""
    package = source.module.split(".")
    keep = len(package) - node.level + source.path.endswith("__init__.py")
    return ".".join(package[:keep] + ([node.module] if node.module else []))


def within(module: str, package: str) -> bool:
    return f"{module}.".startswith(f"{package}.")


def layer_of(module: str) -> str | None:
    return max((name for name in RANK if within(module, name)), key=len, default=None)


def imports_point_down(sources: list[Source]) -> Iterator[str]:
    for source in sources:
        here = layer_of(source.module)
        if here is None and source.path.endswith(".py") and source.module != "vtc":
            yield f"{source.path} is in no layer"
        for i in source.imports:
            if i.typing or here is None or not within(i.target, "vtc"):
                continue
            there = layer_of(i.target)
            if there is None:
                yield i.complain("import the module that defines it, not the public name")
            elif there != here and RANK[there] >= RANK[here]:
                yield i.complain(f"{there} is not below {here}")


def runtime_sees_only_plans(sources: list[Source]) -> Iterator[str]:
    for i in (i for s in sources if within(s.module, "vtc.runtime") for i in s.imports):
        seen = any(within(i.target, name) for name in RUNTIME_SEES)
        if within(i.target, "vtc.ir") and not seen and not i.typing:
            yield i.complain(f"the runtime sees only {', '.join(RUNTIME_SEES)}")


def third_parties_stay_home(sources: list[Source]) -> Iterator[str]:
    for i in (i for s in sources for i in s.imports):
        home = HOMES.get(i.target.split(".")[0])
        if home is not None and not within(i.source.module, home):
            yield i.complain(f"only {home} may")


def heavy_packages_load_late(sources: list[Source]) -> Iterator[str]:
    for i in (i for s in sources for i in s.imports):
        if i.target.split(".")[0] in ONLY_LAZY and not i.lazy and not i.typing:
            yield i.complain("use lazy.module")


def no_import_inside_a_function(sources: list[Source]) -> Iterator[str]:
    for source in (s for s in sources if s.module != "vtc.lazy"):
        yield from (i.complain("inside a function") for i in source.imports if i.function)
        if source.path.endswith("__init__.py"):
            continue  # a PEP 562 table of public names imports by name
        if not re.search("import_module|__import__", source.text):
            continue
        for node in ast.walk(source.tree):
            if isinstance(node, ast.Call) and re.search(
                r"\b(import_module|__import__)$", ast.unparse(node.func)
            ):
                yield f"{source.path}:{node.lineno} imports by name: use lazy.module"


def only_config_reads_the_environment(sources: list[Source]) -> Iterator[str]:
    for source in (s for s in sources if s.module != "vtc.config"):
        if not re.search("environ|getenv|putenv", source.text):
            continue
        for node in ast.walk(source.tree):
            if isinstance(node, ast.Attribute | ast.alias) and re.fullmatch(
                r"(\w+\.)?(environb?|getenvb?|putenv)( as \w+)?", ast.unparse(node)
            ):
                yield f"{source.path}:{node.lineno} reads the environment: add a field to Config"


def files_are_short(sources: list[Source]) -> Iterator[str]:
    for source in sources:
        limit = OPS_FILE_LINES if source.path.startswith("vtc/ir/ops/") else FILE_LINES
        if (lines := len(source.text.splitlines())) > limit:
            yield f"{source.path} has {lines} lines, at most {limit} allowed"


def functions_are_short(sources: list[Source]) -> Iterator[str]:
    for source in sources:
        for node in ast.walk(source.tree):
            if not isinstance(node, Function):
                continue
            if (lines := node.end_lineno - node.lineno + 1) > FUNCTION_LINES:
                yield f"{source.path}:{node.lineno} {node.name} has {lines} lines"


def names_say_what_is_inside(sources: list[Source]) -> Iterator[str]:
    for source in sources:
        for part in Path(source.path.replace(PYTORCH_SPELLING, "vtc/nn/")).parts:
            if BANNED.fullmatch(part.split(".")[0].strip("_")):
                yield f"{source.path}: {part!r} says nothing about what it holds"


def classes_are_abstract_or_final(sources: list[Source]) -> Iterator[str]:
    classes = {
        f"{s.module}.{node.name}": node
        for s in sources
        for node in ast.walk(s.tree)
        if isinstance(node, ast.ClassDef)
    }
    names = {f"{i.source.module}.{i.name}": i.bound for s in sources for i in s.imports}
    for name, node in classes.items():
        for base in (resolve(name.rpartition(".")[0], b, classes, names) for b in node.bases):
            if base in classes and not may_be_subclassed(base, classes, names):
                yield f"{name} subclasses {base}: make that abstract (ABC, Protocol, abstract=True)"


def resolve(module: str, base: ast.expr, classes: dict, names: dict) -> str:
    """The full name of a base class, followed through imports and re-exports."""
    text = ast.unparse(base.value if isinstance(base, ast.Subscript) else base)
    first, _, rest = text.partition(".")
    name = f"{names.get(f'{module}.{first}', f'{module}.{first}')}.{rest}".rstrip(".")
    while name not in classes and name in names:
        name = names[name]
    return name


def may_be_subclassed(name: str, classes: dict, names: dict) -> bool:
    node = classes[name]
    bases = [resolve(name.rpartition(".")[0], b, classes, names) for b in node.bases]
    keywords = {ast.unparse(k) for k in node.keywords}
    return (
        (within(name, "vtc.nn") and node.name == "Module")
        or bool({b.rpartition(".")[2] for b in bases} & {"ABC", "Protocol", "TypedDict"})
        or any(k == "abstract=True" or k.endswith("ABCMeta") for k in keywords)
        or any("abstractmethod" in ast.unparse(d) for f in node.body for d in decorators(f))
        or is_exception(name, classes, names)
    )


def decorators(node: ast.stmt) -> list[ast.expr]:
    return node.decorator_list if isinstance(node, Function) else []


def is_exception(name: str, classes: dict, names: dict) -> bool:
    if name in classes:
        module = name.rpartition(".")[0]
        bases = (resolve(module, b, classes, names) for b in classes[name].bases)
        return any(is_exception(b, classes, names) for b in bases)
    builtin = getattr(builtins, name.rpartition(".")[2], None)
    return isinstance(builtin, type) and issubclass(builtin, BaseException)


RULES = (
    imports_point_down,
    runtime_sees_only_plans,
    third_parties_stay_home,
    heavy_packages_load_late,
    no_import_inside_a_function,
    only_config_reads_the_environment,
    files_are_short,
    functions_are_short,
    names_say_what_is_inside,
    classes_are_abstract_or_final,
)

BROKEN = (
    (imports_point_down, {"vtc/ir/graph.py": "from vtc.passes.cse import cse"}),
    (imports_point_down, {"vtc/ir/graph.py": "import vtc.passes.cse"}),
    (imports_point_down, {"vtc/ir/graph.py": "from ..passes import cse"}),
    (imports_point_down, {"vtc/ir/graph.py": "from vtc.ir.ops import expr"}),
    (imports_point_down, {"vtc/ir/graph.py": "from vtc import Tensor"}),
    (imports_point_down, {"vtc/passes/cse.py": "from vtc import codegen"}),
    (imports_point_down, {"vtc/tools.py": ""}),
    (runtime_sees_only_plans, {"vtc/runtime/cpu.py": "from vtc.ir.graph import Graph"}),
    (runtime_sees_only_plans, {"vtc/runtime/cpu.py": "from vtc.ir import graph"}),
    (third_parties_stay_home, {"vtc/build.py": "import torch"}),
    (third_parties_stay_home, {"vtc/codegen/c.py": "from jinja2 import Template"}),
    (third_parties_stay_home, {"vtc/build.py": "cuda = lazy.module('cuda.bindings')"}),
    (heavy_packages_load_late, {"vtc/passes/fuse.py": "import networkx as nx"}),
    (no_import_inside_a_function, {"vtc/build.py": "def f():\n    import json"}),
    (no_import_inside_a_function, {"vtc/build.py": "importlib.import_module('json')"}),
    (only_config_reads_the_environment, {"vtc/build.py": "import os\nos.environ['CC']"}),
    (only_config_reads_the_environment, {"vtc/build.py": "from os import getenv as g"}),
    (files_are_short, {"vtc/build.py": "\n" * 501}),
    (files_are_short, {"vtc/codegen/templates/matmul.c.jinja": "\n" * 501}),
    (files_are_short, {"vtc/ir/ops/view.py": "\n" * 601}),
    (functions_are_short, {"vtc/build.py": "def f():\n" + "    1\n" * 60}),
    (names_say_what_is_inside, {"vtc/ir/utils.py": ""}),
    (names_say_what_is_inside, {"vtc/common/x.py": ""}),
    (names_say_what_is_inside, {"vtc/nn/utils/helpers.py": ""}),
    (names_say_what_is_inside, {"vtc/codegen/templates/matmul_v2.c.jinja": ""}),
    (classes_are_abstract_or_final, {"vtc/build.py": "class A: ...\nclass B(A): ..."}),
    (
        classes_are_abstract_or_final,
        {
            "vtc/ir/op.py": "class Op(Generic[T]): ...",
            "vtc/ir/__init__.py": "from vtc.ir.op import Op",
            "vtc/build.py": "from vtc import ir\nclass B(ir.Op[int]): ...",
        },
    ),
    (
        classes_are_abstract_or_final,
        {
            "vtc/ir/op.py": "class Op: ...",
            "vtc/build.py": "import vtc.ir.op\nclass B(vtc.ir.op.Op): ...",
        },
    ),
)

SOUND = {
    "vtc/__init__.py": "def __getattr__(name):\n    return import_module(name)",
    "vtc/errors.py": "class VtcError(Exception): ...\nclass PassError(VtcError): ...",
    "vtc/config.py": "import os\nfrom vtc.errors import PassError\nos.environ",
    "vtc/ir/op.py": "class Op(abc.ABC): ...\nclass Unary(Op, abstract=True): ...",
    "vtc/ir/ops/view.py": "from vtc.ir.op import Unary\nclass View(Unary): ...",
    "vtc/ir/plan.py": "if TYPE_CHECKING:\n    from vtc.build import build",
    "vtc/runtime/cuda.py": "from vtc.ir import plan\ncuda = lazy.module('cuda.bindings.driver')",
    "vtc/nn/module.py": "class Module: ...",
    "vtc/nn/layers.py": "from vtc.nn.module import Module\nclass Linear(Module): ...",
    "vtc/codegen/templates/matmul.c.jinja": "{% import 'x' as x %}",
}


@cache
def package() -> list[Source]:
    files = sorted(p for p in (ROOT / "vtc").rglob("*") if p.suffix in (".py", ".jinja"))
    return [Source(p.relative_to(ROOT).as_posix(), p.read_text("utf-8")) for p in files]


def named(rule) -> str:
    return getattr(rule, "__name__", None)


@pytest.mark.parametrize("rule", RULES, ids=named)
def test_vtc_keeps(rule):
    complaints = list(rule(package()))
    assert not complaints, "\n" + "\n".join(complaints)


@pytest.mark.parametrize(("rule", "files"), BROKEN)
def test_is_noticed(rule, files):
    assert list(rule([Source(path, text) for path, text in files.items()]))


@pytest.mark.parametrize("rule", RULES, ids=named)
def test_sound_code_passes(rule):
    assert list(rule([Source(path, text) for path, text in SOUND.items()])) == []
