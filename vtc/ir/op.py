"""What an op is: a frozen dataclass whose fields are its attributes and whose methods are its
rules.

``Sum(axes=(0,)) == Sum(axes=(0,))`` and both hash alike, so CSE, caching, printing and parsing
need no per-op code. A class that is not abstract is final: it is registered, under its snake_case
name, the moment it is defined. The tests of an op appear by themselves from ``samples``.
"""

from __future__ import annotations

import abc
import math
import re
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from functools import cache, cached_property
from inspect import signature
from typing import Any, ClassVar, Protocol, Self, TypeVar

import numpy as np

from vtc.errors import TypeCheckError
from vtc.ir.dims import Size, replace_in
from vtc.ir.scalar import Index, Operand, Scalar, Scalars
from vtc.ir.types import Array, TensorType, Type

REGISTRY: dict[str, type[Op]] = {}
Needs = tuple[bool, ...]
V = TypeVar("V")


@dataclass(frozen=True)
class Sample:
    """An op with inputs small enough to differentiate numerically.

    ``smooth``: finite differences hold there.
    """

    op: Op
    inputs: tuple[Array, ...]
    smooth: bool = True


@dataclass(frozen=True)
class Op(abc.ABC):
    """The rules every op states."""

    name: ClassVar[str]
    moves: ClassVar[bool] = False
    """Only moves data: low precision passes through ``reference`` untouched."""
    draws: ClassVar[bool] = False
    """Draws random numbers from the state of a generator, its last input."""

    def __init_subclass__(cls, abstract: bool = False) -> None:
        if abstract:
            return
        for rule in ("__eq__", "__hash__"):  # in the class itself, so that @dataclass makes none
            if rule not in vars(cls):
                setattr(cls, rule, getattr(Op, rule))
        cls.name = re.sub(r"(?<!^)(?=[A-Z])", "_", cls.__name__).lower()
        if cls.name in REGISTRY:
            raise TypeError(f"op {cls.name!r} is defined twice: {REGISTRY[cls.name]} and {cls}")
        REGISTRY[cls.name] = cls

    @cached_property
    def _exact(self) -> Hashable:
        return tuple([_exact(getattr(self, name)) for name in _attributes(type(self))])

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and self._exact == other._exact

    def __hash__(self) -> int:
        return hash((type(self), self._exact))

    @abc.abstractmethod
    def infer(self, *inputs: Any) -> Type:
        """The output type, or TypeCheckError. The only shape rule there is."""

    @abc.abstractmethod
    def reference(self, *inputs: Any) -> Any:
        """The meaning, in NumPy.

        An array, or a tuple of them. Floats arrive in the accumulation dtype.
        """

    def vjp(self, g: Any, out: Any, inputs: Any, needs: Needs) -> Sequence[Any]:
        """One cotangent per input, None where there is none.

        ``g`` is the cotangent of ``out`` (for several results a tuple, None where absent);
        ``inputs`` are the inputs as Exprs; ``needs[i]`` is False where the cotangent of input i is
        not wanted. The default is for ops without a gradient (integers, comparisons).
        """
        return (None,) * len(inputs)

    def lifted(self, size: Size, *inputs: Any) -> Op | None:
        """This op for inputs that all have one more axis of ``size`` in front, as its results then
        do; ``inputs`` are their types without it. None where no single op says that.
        """
        return None

    def batch(self, size: Size, inputs: Any, batched: Needs) -> Any:
        """The results for ``size`` examples at once, each with an axis of them in front.

        ``inputs``, as Exprs, have that axis where ``batched`` says so; one at least has. An Expr,
        or a tuple where there are several results. The default is ``lifted``, on inputs that are
        repeated; NotImplemented where there is none.
        """
        pairs = list(zip(inputs, batched, strict=True))
        types = [x.tensor.with_shape(x.shape[1:]) if b else x.tensor for x, b in pairs]
        op = self.lifted(size, *types)
        if op is None:
            return NotImplemented
        first, *others = [x if b else x.expand((0,), (size,)) for x, b in pairs]
        return first.apply(op, *others)

    @classmethod
    @abc.abstractmethod
    def samples(cls, rng: np.random.Generator) -> Iterator[Sample]:
        """Small typical and edge inputs: they drive the generated tests and the fuzzer."""

    def substitute(self, values: dict[str, Size]) -> Self:
        """This op with the symbols in its attributes replaced."""
        if not values:
            return self
        new = {f.name: replace_in(getattr(self, f.name), values) for f in fields(self)}
        same = all(new[f.name] is getattr(self, f.name) for f in fields(self))
        return self if same else replace(self, **new)

    def check(self, condition: bool, message: str) -> None:
        """Raise TypeCheckError ``name: message`` unless ``condition``."""
        if not condition:
            raise TypeCheckError(f"{self.name}: {message}")


@dataclass(frozen=True)
class Pointwise(Op, abstract=True):
    """An op whose element at an index reads a bounded number of elements of its inputs.

    All of these fuse with each other: ``element`` composes.
    """

    @abc.abstractmethod
    def element(
        self, s: Scalars, index: Index, out: TensorType, inputs: Sequence[Operand]
    ) -> Scalar:
        """The output's element at ``index``, in ``out.dtype.accumulate``."""


def infer(op: Op, types: Sequence[Type]) -> Type:
    """The type of ``op`` on ``types``; TypeCheckError also for another number of them."""
    least, most = _operands(type(op))
    if not least <= len(types) <= (len(types) if most is None else most):
        want = f"{least} operand{'' if least == 1 else 's'}"
        raise TypeCheckError(f"{op.name}: expected {want}, got {len(types)}")
    return op.infer(*types)


@cache
def _operands(kind: type[Op]) -> tuple[int, int | None]:
    """How many operands an op takes, as its type rule says: at least, and at most if limited."""
    parameters = list(signature(kind.infer).parameters.values())[1:]
    least = len([p for p in parameters if p.kind is not p.VAR_POSITIONAL])
    return least, least if least == len(parameters) else None


def make(name: str, **attributes: Any) -> Op:
    """The op called ``name``, for callers that only know it by name."""
    kind: Any = REGISTRY[name]
    op: Op = kind(**attributes)
    return op


class Builder(Protocol[V]):
    """Something ops can be applied with.

    One records nodes, one computes arrays, one runs tensors.
    """

    def apply(self, op: Op, *inputs: V, hint: str = "") -> V:
        """The value of ``op`` on ``inputs``."""

    def type_of(self, value: V) -> Type:
        """The type of a value."""


Own = TypeVar("Own", bound=Op)


def shifted(op: Own) -> Own:
    """``op`` with each axis it names one further back: what its inputs' new first axis makes of
    it.
    """
    new: dict[str, Any] = {}
    for f in fields(op):
        value = getattr(op, f.name)
        if f.name in ("axis", "axis1", "axis2"):
            new[f.name] = value + 1
        elif f.name == "axes":
            new[f.name] = tuple(a + 1 for a in value)
    return replace(op, **new)


def tensor_type(op: Op, x: Type) -> TensorType:
    """``x``, which must be a tensor's type."""
    if not isinstance(x, TensorType):
        raise TypeCheckError(f"{op.name}: expected a tensor, got several results {x}")
    return x


@cache
def _attributes(cls: type[Op]) -> tuple[str, ...]:
    return tuple(f.name for f in fields(cls))


def _exact(value: object) -> Hashable:
    """``value`` as a key under which NaN equals itself, and -0.0 does not equal 0.0."""
    if isinstance(value, tuple):
        return tuple(map(_exact, value))
    if isinstance(value, float) and (value != value or math.copysign(1.0, value) < 0 == value):
        return float, repr(value)
    return value
