"""What a package says of itself: its members, weights and entries, and what a call of one takes.

All of it is data; :mod:`vtc.runtime.manifest` reads and writes it as JSON. Sizes may be symbolic::

    entry = Entry(
        dims=(Dim("B", 1, 64),),
        inputs=(TensorInput("x", f32, (B, 784)),),
        tree=Form("tuple", (), (Form("tuple", (), (None,)), Form("dict", (), ()))),
        results=(FromOutput(0),),
        result_tree=None,
        variants=(Variant("0", (Dim("B", 1, 64),), (FromInput(0), FromWeight("up")), plans),),
    )

The leaves of ``tree``, the form of ``(args, kwargs)``, are ``inputs``, one for one. A variant
serves the ranges in its ``dims``; the first that fits is taken. Its ``params`` say where each input
of its plans comes from, its ``plans`` what runs it on each target.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, final

from vtc.ir.dims import Dim, Size
from vtc.ir.types import DType, TensorType

FORMAT = 1
RANK = 8
"""The most axes a tensor of a package has."""
DEPTH = 32
"""How deep the tree of arguments or results may be."""

Kind = Literal["tuple", "list", "dict", "namedtuple", "dataclass"]
KINDS: tuple[Kind, ...] = ("tuple", "list", "dict", "namedtuple", "dataclass")
Key = str | int | bool
Scalar = str | int | float | bool | None


@final
@dataclass(frozen=True, slots=True)
class Form:
    """An inner node of a tree: ``keys`` of a dict, or names of fields; a leaf is None."""

    kind: Kind
    keys: tuple[Key, ...]
    items: tuple[Form | None, ...]


@final
@dataclass(frozen=True, slots=True)
class TensorInput:
    """A tensor among the arguments; ``written`` in place if the function writes it."""

    name: str
    dtype: DType
    shape: tuple[Size, ...]
    written: bool = False

    @property
    def type(self) -> TensorType:
        """Its tensor type."""
        return TensorType(self.dtype, self.shape)


@final
@dataclass(frozen=True, slots=True)
class NumberInput:
    """A Python float among the arguments: it goes along with the call."""

    name: str


@final
@dataclass(frozen=True, slots=True)
class ConstantInput:
    """An argument that was fixed at export: a call gives the same value."""

    name: str
    value: Scalar


Input = TensorInput | NumberInput | ConstantInput


@final
@dataclass(frozen=True, slots=True)
class FromOutput:
    """Output ``index`` of the plan."""

    index: int


@final
@dataclass(frozen=True, slots=True)
class FromInput:
    """Input ``index`` of the entry."""

    index: int


@final
@dataclass(frozen=True, slots=True)
class FromWeight:
    """The held tensor ``name``."""

    name: str


@final
@dataclass(frozen=True, slots=True)
class FromSize:
    """A number that follows from the dims of the entry, such as ``x.shape[0]``."""

    size: Size


@final
@dataclass(frozen=True, slots=True)
class Value:
    """A constant."""

    value: Scalar


Result = FromOutput | FromInput | FromWeight | FromSize | Value
Param = FromInput | FromWeight


@final
@dataclass(frozen=True, slots=True)
class CpuPlan:
    """Members that hold a plan and its library."""

    plan: str
    library: str


@final
@dataclass(frozen=True, slots=True)
class Cubin:
    """The member that holds a kernel, and what its launch needs; see
    :class:`vtc.ir.plan.Binary`.
    """

    file: str
    warps: int
    shared: int = 0
    scratch: int = 0
    alignment: int = 1


@final
@dataclass(frozen=True, slots=True)
class CudaPlan:
    """The member that holds a plan, and its kernels by symbol."""

    plan: str
    kernels: Mapping[str, Cubin]


@final
@dataclass(frozen=True, slots=True)
class Variant:
    """See the module."""

    name: str
    dims: tuple[Dim, ...]
    params: tuple[Param, ...]
    plans: Mapping[str, CpuPlan | CudaPlan]


@final
@dataclass(frozen=True, slots=True)
class Entry:
    """See the module."""

    dims: tuple[Dim, ...]
    inputs: tuple[Input, ...]
    tree: Form | None
    results: tuple[Result, ...]
    result_tree: Form | None
    variants: tuple[Variant, ...]


@final
@dataclass(frozen=True, slots=True)
class Weight:
    """A tensor that entries hold; ``state`` if some entry overwrites it, or a user may set it."""

    dtype: DType
    shape: tuple[int, ...]
    state: bool = False

    @property
    def type(self) -> TensorType:
        """Its tensor type."""
        return TensorType(self.dtype, self.shape)


@final
@dataclass(frozen=True, slots=True)
class Member:
    """What the data of a member must be: hexadecimal ``crc32`` and ``sha256``."""

    bytes: int
    crc32: str
    sha256: str


@final
@dataclass(frozen=True, slots=True)
class Manifest:
    """See the module. ``members`` are all but the manifest itself; the writer fills them in."""

    vtc: str
    name: str
    weights: Mapping[str, Weight]
    entries: Mapping[str, Entry]
    targets: tuple[str, ...]
    members: Mapping[str, Member]


def leaves(form: Form | None) -> int:
    """How many leaves a tree has."""
    return 1 if form is None else sum(map(leaves, form.items))


def files(manifest: Manifest) -> Iterator[tuple[str, str]]:
    """The members that entries need, each with the folder it belongs in."""
    for entry in manifest.entries.values():
        for variant in entry.variants:
            for plan in variant.plans.values():
                yield "plans", plan.plan
                if isinstance(plan, CpuPlan):
                    yield "lib", plan.library
                else:
                    yield from (("cubin", k.file) for k in plan.kernels.values())


def describe(name: str, entry: Entry) -> str:
    """``decode(tokens: i64[B, 1], scale: number)``, with the ranges of its dims."""
    what = ", ".join(f"{i.name}: {_kind(i)}" for i in entry.inputs)
    where = "".join(f"\n  {d}" for d in entry.dims)
    return f"{name}({what}){where}"


def _kind(given: Input) -> str:
    match given:
        case TensorInput():
            return f"{given.type}{' (written)' if given.written else ''}"
        case NumberInput():
            return "number"
        case ConstantInput(value=value):
            return f"always {value!r}"
