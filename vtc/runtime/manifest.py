"""``manifest.json``: a :class:`~vtc.runtime.signature.Manifest` as JSON, and strictly back.

    from_json(to_json(manifest)) == manifest

The text is canonical (sorted keys, indent 1, ASCII): another text of the same manifest, a key that
is unknown or missing, a number where text belongs, a reference to what is not there are each
refused with a PackageError that says where.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any, Final, TypeVar, cast, final

from vtc.errors import ArgumentError, PackageError, ParseError
from vtc.ir.dims import Dim, Size, Sym, parse_size, symbols
from vtc.ir.types import DTYPES, DType
from vtc.runtime.signature import (
    DEPTH,
    FORMAT,
    KINDS,
    RANK,
    ConstantInput,
    CpuPlan,
    Cubin,
    CudaPlan,
    Entry,
    Form,
    FromInput,
    FromOutput,
    FromSize,
    FromWeight,
    Input,
    Key,
    Manifest,
    Member,
    NumberInput,
    Param,
    Result,
    Scalar,
    TensorInput,
    Value,
    Variant,
    Weight,
    files,
    leaves,
)

MOST: Final = (1 << 62) - 1
"""The largest integer: sums of two do not overflow 64 bits."""
EXPRESSION: Final = 4096
"""The longest text of a size."""
T = TypeVar("T")
P = TypeVar("P", bound=Param)


def to_json(manifest: Manifest) -> str:
    """The text of ``manifest``."""
    fields = {
        "format": FORMAT,
        "vtc": manifest.vtc,
        "name": manifest.name,
        "members": {
            path: {"bytes": m.bytes, "crc32": m.crc32, "sha256": m.sha256}
            for path, m in manifest.members.items()
        },
        "weights": {
            name: {"dtype": w.dtype.name, "shape": list(w.shape), "state": w.state}
            for name, w in manifest.weights.items()
        },
        "entries": {name: _entry_out(entry) for name, entry in manifest.entries.items()},
        "targets": list(manifest.targets),
    }
    return canonical(fields)


def from_json(text: str) -> Manifest:
    """The manifest in ``text``; PackageError if it is not one."""
    root = _Json(load_json(text, "manifest"), "manifest")
    version = root.value.get("format") if isinstance(root.value, dict) else None
    if isinstance(version, int) and version > FORMAT:
        raise PackageError(
            f"manifest: expected format {FORMAT}, got {version}: a newer vtc wrote this package"
        )
    fields = root.fields("format", "vtc", "name", "members", "weights", "entries", "targets")
    if version != FORMAT or isinstance(version, bool):
        raise PackageError(f"manifest: expected format {FORMAT}, got {version!r}")
    manifest = Manifest(
        vtc=fields["vtc"].text(),
        name=fields["name"].text(),
        weights=fields["weights"].mapping(_weight_in),
        entries=fields["entries"].mapping(_entry_in),
        targets=fields["targets"].items(_Json.text),
        members=fields["members"].mapping(_member_in),
    )
    if to_json(manifest) != text:
        raise PackageError("manifest: expected canonical JSON, got another spelling of it")
    return check(manifest)


def check(manifest: Manifest) -> Manifest:
    """``manifest`` itself; PackageError where it names what is not there."""
    for folder, path in files(manifest):
        if not path.startswith(f"{folder}/") or path not in manifest.members:
            raise PackageError(f"manifest: expected a member in {folder}/, got {path!r}")
    if len(set(manifest.targets)) != len(manifest.targets):
        raise PackageError(f"manifest: expected distinct targets, got {manifest.targets}")
    if not manifest.entries:
        raise PackageError("manifest: expected an entry, got none")
    for name, entry in manifest.entries.items():
        if not name.isidentifier():
            raise PackageError(f"manifest: expected an entry's name, got {name!r}")
        _check_entry(manifest, f"manifest: entry {name}", entry)
    return manifest


def canonical(fields: Any) -> str:
    """JSON in its one spelling."""
    return json.dumps(fields, sort_keys=True, indent=1, ensure_ascii=True, allow_nan=False) + "\n"


def load_json(text: str, where: str) -> Any:
    """What JSON ``text`` says; PackageError if it is none, or says something twice."""

    def distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            raise ValueError("a key twice")
        return found

    def number(text: str) -> float:
        raise ValueError(f"the number {text}")

    try:
        return json.loads(text, object_pairs_hook=distinct, parse_constant=number)
    except (ValueError, RecursionError) as error:
        raise PackageError(f"{where}: expected JSON, got {error}") from None


# out


def _size_out(size: Size) -> int | str:
    return str(size) if isinstance(size, Sym) else size


def _dims_out(dims: tuple[Dim, ...]) -> list[Any]:
    return [[d.name, d.min, d.max, d.multiple] for d in dims]


def _entry_out(entry: Entry) -> dict[str, Any]:
    return {
        "dims": _dims_out(entry.dims),
        "inputs": [_input_out(i) for i in entry.inputs],
        "tree": _form_out(entry.tree),
        "results": [_source_out(r) for r in entry.results],
        "result_tree": _form_out(entry.result_tree),
        "variants": [_variant_out(v) for v in entry.variants],
    }


def _input_out(given: Input) -> dict[str, Any]:
    match given:
        case TensorInput(name, dtype, shape, written):
            sizes = [_size_out(s) for s in shape]
            about = {"dtype": dtype.name, "shape": sizes, "written": written}
            return {"kind": "argument", "name": name, **about}
        case NumberInput(name):
            return {"kind": "number", "name": name}
        case ConstantInput(name, value):
            return {"kind": "constant", "name": name, "value": value}


def _source_out(source: Result) -> dict[str, Any]:
    match source:
        case FromOutput(index):
            return {"output": index}
        case FromInput(index):
            return {"input": index}
        case FromWeight(name):
            return {"weight": name}
        case FromSize(size):
            return {"size": _size_out(size)}
        case Value(value):
            return {"value": value}


def _form_out(form: Form | None) -> dict[str, Any] | None:
    if form is None:
        return None
    items = [_form_out(i) for i in form.items]
    return {"kind": form.kind, "keys": list(form.keys), "items": items}


def _variant_out(variant: Variant) -> dict[str, Any]:
    return {
        "name": variant.name,
        "dims": _dims_out(variant.dims),
        "params": [_source_out(p) for p in variant.params],
        "plans": {target: _plan_out(plan) for target, plan in variant.plans.items()},
    }


def _plan_out(plan: CpuPlan | CudaPlan) -> dict[str, Any]:
    if isinstance(plan, CpuPlan):
        return {"plan": plan.plan, "library": plan.library}
    return {"plan": plan.plan, "kernels": {name: asdict(k) for name, k in plan.kernels.items()}}


# in


@final
class _Json:
    """A value, and where in the manifest it stands."""

    __slots__ = ("value", "where")

    def __init__(self, value: Any, where: str) -> None:
        self.value = value
        self.where = where

    def wrong(self, expected: str) -> PackageError:
        shown = repr(self.value)
        got = shown if len(shown) < 80 else f"{shown[:77]}..."
        return PackageError(f"{self.where}: expected {expected}, got {got}")

    def text(self) -> str:
        if not isinstance(self.value, str):
            raise self.wrong("text")
        return self.value

    def whole(self, least: int = 0) -> int:
        if type(self.value) is not int or not least <= self.value <= MOST:
            raise self.wrong(f"an integer of at least {least}")
        return self.value

    def flag(self) -> bool:
        if not isinstance(self.value, bool):
            raise self.wrong("true or false")
        return self.value

    def scalar(self) -> Scalar:
        if isinstance(self.value, (list, dict)):
            raise self.wrong("a text, a number, true, false or null")
        return cast(Scalar, self.value)

    def items(self, item: Callable[[_Json], T]) -> tuple[T, ...]:
        if not isinstance(self.value, list):
            raise self.wrong("a list")
        return tuple([item(_Json(v, f"{self.where}[{k}]")) for k, v in enumerate(self.value)])

    def mapping(self, item: Callable[[_Json], T]) -> dict[str, T]:
        if not isinstance(self.value, dict):
            raise self.wrong("an object")
        return {k: item(_Json(v, f"{self.where}.{k}")) for k, v in self.value.items()}

    def fields(self, *names: str) -> Mapping[str, _Json]:
        if not isinstance(self.value, dict) or set(self.value) != set(names):
            raise self.wrong(f"an object with {', '.join(names)}")
        return {k: _Json(v, f"{self.where}.{k}") for k, v in self.value.items()}


def _member_in(at: _Json) -> Member:
    fields = at.fields("bytes", "crc32", "sha256")
    return Member(fields["bytes"].whole(), _hex(fields["crc32"], 8), _hex(fields["sha256"], 64))


def _hex(at: _Json, digits: int) -> str:
    text = at.text()
    if len(text) != digits or set(text) - set("0123456789abcdef"):
        raise at.wrong(f"{digits} hexadecimal digits")
    return text


def _weight_in(at: _Json) -> Weight:
    fields = at.fields("dtype", "shape", "state")
    shape = fields["shape"].items(_Json.whole)
    _ranked(fields["shape"], shape)
    return Weight(_dtype_in(fields["dtype"]), shape, fields["state"].flag())


def _dtype_in(at: _Json) -> DType:
    name = at.text()
    if name not in DTYPES:
        raise at.wrong(f"one of {', '.join(DTYPES)}")
    return DTYPES[name]


def _ranked(at: _Json, shape: tuple[Size, ...]) -> None:
    if len(shape) > RANK:
        raise at.wrong(f"at most {RANK} axes")


def _size_in(at: _Json) -> Size:
    if not isinstance(at.value, str):
        return at.whole()
    if len(at.value) > EXPRESSION:
        raise at.wrong(f"a size of at most {EXPRESSION} characters")
    try:
        size = parse_size(at.value)
    except ParseError as error:
        raise PackageError(f"{at.where}: {error}") from None
    if not isinstance(size, Sym):
        raise at.wrong("a number as a number")
    return size


def _dim_in(at: _Json) -> Dim:
    parts = at.items(lambda item: item)
    if len(parts) != 4:
        raise at.wrong("a dim [name, min, max, multiple]")
    name, low, high, multiple = parts
    most = None if high.value is None else high.whole()
    try:
        return Dim(name.text(), low.whole(), most, multiple.whole(1))
    except ArgumentError as error:
        raise PackageError(f"{at.where}: {error}") from None


def _entry_in(at: _Json) -> Entry:
    fields = at.fields("dims", "inputs", "tree", "results", "result_tree", "variants")
    return Entry(
        dims=fields["dims"].items(_dim_in),
        inputs=fields["inputs"].items(_input_in),
        tree=_form_in(fields["tree"], 0),
        results=fields["results"].items(_result_in),
        result_tree=_form_in(fields["result_tree"], 0),
        variants=fields["variants"].items(_variant_in),
    )


def _input_in(at: _Json) -> Input:
    kind = at.value.get("kind") if isinstance(at.value, dict) else None
    match kind:
        case "argument":
            fields = at.fields("kind", "name", "dtype", "shape", "written")
            shape = fields["shape"].items(_size_in)
            _ranked(fields["shape"], shape)
            name, dtype = fields["name"].text(), _dtype_in(fields["dtype"])
            return TensorInput(name, dtype, shape, fields["written"].flag())
        case "number":
            return NumberInput(at.fields("kind", "name")["name"].text())
        case "constant":
            fields = at.fields("kind", "name", "value")
            return ConstantInput(fields["name"].text(), fields["value"].scalar())
    raise at.wrong("an argument, a number or a constant")


def _form_in(at: _Json, depth: int) -> Form | None:
    if at.value is None:
        return None
    if depth >= DEPTH:
        raise PackageError(
            f"{at.where}: expected a tree of at most {DEPTH} levels, got a deeper one"
        )
    fields = at.fields("kind", "keys", "items")
    kind = fields["kind"].text()
    if kind not in KINDS:
        raise fields["kind"].wrong(f"one of {', '.join(KINDS)}")
    keys = fields["keys"].items(_key_in)
    items = fields["items"].items(lambda item: _form_in(item, depth + 1))
    if len(keys) != (0 if kind in ("tuple", "list") else len(items)):
        raise fields["keys"].wrong("a key for each item of a dict, none of a tuple or a list")
    if kind in ("namedtuple", "dataclass") and not all(_is_field(k) for k in keys):
        raise fields["keys"].wrong("names of fields")
    if len(set(keys)) != len(keys):
        raise fields["keys"].wrong("distinct keys")
    return Form(kind, keys, items)


def _key_in(at: _Json) -> Key:
    if not isinstance(at.value, (str, int)):
        raise at.wrong("a text, an integer, true or false")
    return at.value


def _is_field(key: Key) -> bool:
    return isinstance(key, str) and key.isidentifier()


def _result_in(at: _Json) -> Result:
    match at.value:
        case {"output": _}:
            return FromOutput(at.fields("output")["output"].whole())
        case {"size": _}:
            return FromSize(_size_in(at.fields("size")["size"]))
        case {"value": _}:
            return Value(at.fields("value")["value"].scalar())
    return _param_in(at)


def _param_in(at: _Json) -> Param:
    match at.value:
        case {"input": _}:
            return FromInput(at.fields("input")["input"].whole())
        case {"weight": _}:
            return FromWeight(at.fields("weight")["weight"].text())
    raise at.wrong("an input or a weight")


def _variant_in(at: _Json) -> Variant:
    fields = at.fields("name", "dims", "params", "plans")
    return Variant(
        name=fields["name"].text(),
        dims=fields["dims"].items(_dim_in),
        params=fields["params"].items(_param_in),
        plans=fields["plans"].mapping(_plan_in),
    )


def _plan_in(at: _Json) -> CpuPlan | CudaPlan:
    if isinstance(at.value, dict) and "library" in at.value:
        fields = at.fields("plan", "library")
        return CpuPlan(fields["plan"].text(), fields["library"].text())
    fields = at.fields("plan", "kernels")
    return CudaPlan(fields["plan"].text(), fields["kernels"].mapping(_cubin_in))


def _cubin_in(at: _Json) -> Cubin:
    fields = at.fields("file", "warps", "shared", "scratch", "alignment")
    return Cubin(
        file=fields["file"].text(),
        warps=fields["warps"].whole(1),
        shared=fields["shared"].whole(),
        scratch=fields["scratch"].whole(),
        alignment=fields["alignment"].whole(1),
    )


# checks of an entry


def _check_entry(manifest: Manifest, where: str, entry: Entry) -> None:
    names = [d.name for d in entry.dims]
    if len(set(names)) != len(names):
        raise PackageError(f"{where}: expected distinct dims, got {', '.join(names)}")
    for tree, what in ((entry.tree, entry.inputs), (entry.result_tree, entry.results)):
        if leaves(tree) != len(what):
            raise PackageError(
                f"{where}: expected a tree of {len(what)} leaves, got {leaves(tree)}"
            )
    kinds = [] if entry.tree is None else [i.kind if i else "leaf" for i in entry.tree.items]
    if kinds != ["tuple", "dict"]:
        raise PackageError(
            f"{where}: expected a tree of positional and named arguments, got {kinds}"
        )
    plain = _check_sizes(where, entry)
    if missing := [n for n in names if n not in plain]:
        raise PackageError(f"{where}: expected an axis of size {missing[0]}, got none")
    if not entry.variants:
        raise PackageError(f"{where}: expected a variant, got none")
    for result in entry.results:
        _check_source(manifest, where, entry, result)
    for variant in entry.variants:
        _check_variant(manifest, f"{where}, variant {variant.name}", entry, variant)


def _check_sizes(where: str, entry: Entry) -> set[str]:
    """The dims that are sizes of axes themselves: a call learns their values there."""
    known = {d.name for d in entry.dims}
    shapes = [i.shape for i in entry.inputs if isinstance(i, TensorInput)]
    results = [r.size for r in entry.results if isinstance(r, FromSize)]
    for size in (*results, *(s for shape in shapes for s in shape)):
        if unknown := sorted(symbols(size) - known):
            raise PackageError(f"{where}: expected a declared dim, got {unknown[0]}")
    return {str(s) for shape in shapes for s in shape if isinstance(s, Sym)}


def _check_source(manifest: Manifest, where: str, entry: Entry, source: Result) -> None:
    match source:
        case FromInput(index) if index >= len(entry.inputs):
            raise PackageError(f"{where}: expected one of {len(entry.inputs)} inputs, got {index}")
        case FromWeight(name) if name not in manifest.weights:
            raise PackageError(f"{where}: expected a weight, got {name!r}")


def _check_variant(manifest: Manifest, where: str, entry: Entry, variant: Variant) -> None:
    if [d.name for d in variant.dims] != [d.name for d in entry.dims]:
        raise PackageError(f"{where}: expected the dims of its entry, got {len(variant.dims)}")
    for param in variant.params:
        _check_source(manifest, where, entry, param)
        if isinstance(param, FromInput) and isinstance(entry.inputs[param.index], ConstantInput):
            raise PackageError(f"{where}: expected a tensor or a number, got a constant")
    if not variant.plans:
        raise PackageError(f"{where}: expected a plan, got none")
    for target, plan in variant.plans.items():
        if target not in manifest.targets:
            raise PackageError(f"{where}: expected a target of the package, got {target!r}")
        if isinstance(plan, CpuPlan) != target.startswith("cpu-"):
            raise PackageError(f"{where}: expected a plan of {target}, got one of another kind")
