"""Calls of one entry of a package: what is given is checked, a variant chosen, results put back.

    forward = Call("forward", entry, target, device, weights, runner)
    y = forward(x)

Shapes that were checked once are known: a later call with them only looks up what to run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, NoReturn, Protocol, final

import numpy as np

from vtc.errors import ArgumentError, DeviceError
from vtc.ir.dims import Dim, Sym
from vtc.ir.plan import Plan
from vtc.ir.types import DTYPES, Array
from vtc.runtime.anywhere import copies, device_of
from vtc.runtime.buffer import address
from vtc.runtime.device import Device
from vtc.runtime.fit import shape_at, size_at
from vtc.runtime.outside import incoming, on, outgoing, shown
from vtc.runtime.signature import (
    ConstantInput,
    Entry,
    Form,
    FromInput,
    FromOutput,
    FromSize,
    FromWeight,
    NumberInput,
    TensorInput,
    Value,
    Variant,
    describe,
)
from vtc.runtime.trees import flatten, unflatten

_REAL = (int, float, np.floating, np.integer)
KNOWN: Final = 1024
"""Shapes that are remembered."""


class Runner(Protocol):
    """An executable of a device."""

    @property
    def plan(self) -> Plan:
        """What it runs."""

    def run(self, inputs: Sequence[Array]) -> list[Array]:
        """The outputs."""

    def check(self, inputs: Sequence[Array]) -> None:
        """ArgumentError or DeviceError unless ``run`` can take ``inputs``."""

    def bind(
        self, inputs: Sequence[Array], varying: Mapping[int, int], numbers: Sequence[int] = ()
    ) -> Bound | None:
        """A call like that of ``inputs``, where others take the place of some of them."""


class Bound(Protocol):
    """A call of fixed sizes."""

    def run(self, places: Sequence[int], numbers: Sequence[float] = ()) -> list[tuple[Array, int]]:
        """The outputs that overwrite no input, each with its address."""


@final
class Call:
    """An entry of a package: called as the function was that is in it.

    ``weights`` gives held tensors by name, ``runner`` what runs a variant.
    """

    def __init__(
        self,
        name: str,
        entry: Entry,
        target: str,
        device: Device,
        weights: Callable[[str], Array],
        runner: Callable[[Variant], Runner],
    ) -> None:
        self.name, self.entry = name, entry
        self._target, self._device = target, device
        self._weights, self._runner = weights, runner
        self._variants = tuple([v for v in entry.variants if target in v.plans])
        self._ready: dict[tuple[Any, ...], _Ready] = {}
        self._gathering: dict[str, _Ready] = {}
        self._written = tuple(
            [k for k, i in enumerate(entry.inputs) if isinstance(i, TensorInput) and i.written]
        )
        self._flat = entry.tree is not None and _flat(entry)

    def __repr__(self) -> str:
        return f"<{describe(self.name, self.entry)}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            f"the entry {self.name} cannot be pickled or copied: load its package where it is "
            "needed"
        )

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """What the entry computes. ArgumentError or DeviceError before anything runs."""
        entry = self.entry
        if self._flat and not kwargs and len(args) == len(entry.inputs):
            leaves: Sequence[Any] = args
        else:
            leaves = self._leaves(args, kwargs)
        arrays = [self._array(i, x) for i, x in zip(entry.inputs, leaves, strict=True)]
        key = tuple([a.shape for a in arrays if a is not None])
        ready = self._ready.get(key)
        if ready is None:
            ready = self._prepare(key, arrays, leaves)
        if self._written:
            self._check_written(arrays)
        bound = ready.bound
        if bound is not None and all([self._plain(arrays[k]) for k in ready.tensors]):
            made = bound.run(
                [address(arrays[k]) for k in ready.tensors],
                [float(leaves[k]) for k in ready.leaves],
            )
            return self._results(leaves, ready, ready.outputs(made, arrays))
        inputs = ready.gather(arrays, leaves)
        return self._results(leaves, ready, ready.runner.run(inputs))

    def _plain(self, array: Array) -> bool:
        """Whether kernels read ``array`` where it is."""
        flags = array.flags
        return flags.c_contiguous and flags.aligned and on(array, self._device)

    def _leaves(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Any]:
        form = self.entry.tree
        assert form is not None
        positional, named = form.items
        assert positional is not None
        assert named is not None
        args, kwargs = self._placed(positional, args, kwargs)
        if len(args) != len(positional.items) or set(kwargs) != set(named.keys):
            many = "" if len(positional.items) == 1 else "s"
            want = f"{len(positional.items)} positional argument{many}{_and(named.keys)}"
            raise ArgumentError(
                f"{self.name}: expected {want}, as it was exported, got {len(args)}"
                f"{_and(kwargs)}: {describe(self.name, self.entry)}"
            )
        leaves = flatten(positional, args, "arguments")
        return leaves + flatten(named, kwargs, "keywords")

    def _placed(
        self, positional: Form, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Keywords that name what the export gave by position, in their places."""
        if not kwargs or any(positional.items):
            return args, kwargs
        names = [i.name for i in self.entry.inputs[len(args) : len(positional.items)]]
        if not names or not kwargs.keys() >= set(names):
            return args, kwargs
        rest = {name: x for name, x in kwargs.items() if name not in names}
        return (*args, *[kwargs[name] for name in names]), rest

    def _array(self, wanted: TensorInput | NumberInput | ConstantInput, leaf: Any) -> Any:
        """The array of a tensor; None for what is none."""
        match wanted:
            case TensorInput(name, dtype, shape, written):
                array = incoming(leaf, name, written=written)
                if array.dtype != dtype.numpy or array.ndim != len(shape):
                    raise ArgumentError(f"{name}: expected {wanted.type}, got {shown(array)}")
                if on(array, self._device) or (array.ndim == 0 and _is_host(array)):
                    return array
                return self._brought(wanted, array)
            case NumberInput(name):
                if isinstance(leaf, (bool, str)) or not isinstance(leaf, _REAL):
                    raise ArgumentError(f"{name}: expected a number, got {type(leaf).__name__}")
            case ConstantInput(name, value):
                if type(leaf) is not type(value) or leaf != value:
                    raise ArgumentError(
                        f"{name}: expected {value!r}, as it was exported, got {leaf!r}"
                    )
        return None

    def _brought(self, wanted: TensorInput, array: Array) -> Array:
        """A copy on the GPU of an array on the host that is only read; DeviceError for others."""
        there = device_of(array)
        if there.type == "cpu" and self._device.type == "cuda" and not wanted.written:
            return copies.to_device(array, self._device.index or 0)
        to = " to overwrite" if wanted.written else ""
        want = f"expected an array on {self._device}{to}"
        raise DeviceError(f"{wanted.name}: {want}, got one on {there}")

    def _prepare(
        self, key: tuple[Any, ...], arrays: Sequence[Any], leaves: Sequence[Any]
    ) -> _Ready:
        """What serves calls with shapes like these."""
        values = self._bind(arrays)
        variant = next((v for v in self._variants if _serves(v, values)), None)
        if variant is None:
            raise self._no_variant(values)
        found = self._gathered(variant)
        inputs = found.gather(arrays, leaves)
        found.runner.check(inputs)
        if len(self._ready) >= KNOWN:
            self._ready.clear()
        sized = [r for r in self.entry.results if isinstance(r, FromSize)]
        sizes = {r: size_at(r.size, values) for r in sized}
        ready = replace(found, bound=self._bound(found, inputs), sizes=sizes)
        self._ready[key] = ready
        return ready

    def _bound(self, ready: _Ready, inputs: Sequence[Array]) -> Bound | None:
        """A call of these sizes, bound; None where one input is not as kernels read it."""
        given = {p: k for p, (k, _) in enumerate(ready.params) if k is not None}
        if not all(self._plain(inputs[p]) for p in given):
            return None
        if any(dtype.itemsize not in (4, 8) for _, _, dtype in ready.numbers):
            return None
        places = {k: j for j, k in enumerate(ready.tensors)}
        varying = {p: places[k] for p, k in given.items()}
        return ready.runner.bind(inputs, varying, [p for p, _, _ in ready.numbers])

    def _bind(self, arrays: Sequence[Any]) -> dict[str, int]:
        """The dims; ArgumentError where a size does not fit."""
        dims = {d.name: d for d in self.entry.dims}
        values: dict[str, int] = {}
        where: dict[str, str] = {}
        given = [
            (i, a)
            for i, a in zip(self.entry.inputs, arrays, strict=True)
            if isinstance(i, TensorInput)
        ]
        for wanted, array in given:
            for axis, (size, n) in enumerate(zip(wanted.shape, array.shape, strict=True)):
                dim = dims.get(str(size)) if isinstance(size, Sym) else None
                if dim is None:
                    continue
                place = f"{wanted.name}: axis {axis}"
                if values.setdefault(dim.name, n) != n:
                    raise ArgumentError(
                        f"{place}: expected {dim.name} = {values[dim.name]} as in "
                        f"{where[dim.name]}, got {n}"
                    )
                where.setdefault(dim.name, place)
                if not _within(dim, n):
                    raise ArgumentError(f"{place}: expected {dim}, got {n}")
        for wanted, array in given:
            if (shape := shape_at(wanted.shape, values)) != array.shape:
                want = wanted.type.with_shape(shape)
                raise ArgumentError(f"{wanted.name}: expected {want}, got {shown(array)}")
        return values

    def _gathered(self, variant: Variant) -> _Ready:
        """The executable of a variant, and where its inputs come from."""
        found = self._gathering.get(variant.name)
        if found is not None:
            return found
        runner = self._runner(variant)
        params: list[tuple[int | None, Any]] = []
        numbers = []
        for p, param in enumerate(variant.params):
            if isinstance(param, FromWeight):
                params.append((None, self._weights(param.name)))
            elif isinstance(self.entry.inputs[param.index], TensorInput):
                params.append((param.index, None))
            else:
                params.append((None, None))
                numbers.append((p, param.index, runner.plan.inputs[p].dtype.numpy))
        tensors = tuple(sorted({k for k, _ in params if k is not None}))
        over = {b.overwritten: params[p] for p, b in enumerate(runner.plan.inputs)}
        made = self._gathering[variant.name] = _Ready(
            runner, tuple(params), tuple(numbers), tensors, over, len(runner.plan.outputs)
        )
        return made

    def _no_variant(self, values: Mapping[str, int]) -> ArgumentError:
        got = ", ".join(f"{name} = {n}" for name, n in values.items())
        if not self._variants:
            return ArgumentError(f"{self.name}: expected code for {self._target}, got none")
        served = "; ".join(", ".join(map(str, v.dims)) for v in self._variants)
        return ArgumentError(f"{self.name}: expected sizes in {served}; got {got}")

    def _check_written(self, arrays: Sequence[Any]) -> None:
        for k in self._written:
            wanted, array = self.entry.inputs[k], arrays[k]
            if not array.flags.writeable:
                raise ArgumentError(
                    f"{wanted.name}: expected an array to overwrite, got a read-only one"
                )
            if 0 in array.strides and not _apart(array):
                raise ArgumentError(
                    f"{wanted.name}: expected elements with memory of their own, as it is "
                    "written, got an array that repeats some"
                )
            for j, other in enumerate(arrays):
                if j != k and other is not None and np.may_share_memory(array, other):
                    raise ArgumentError(
                        f"{wanted.name}: expected memory of its own, as it is written, got that "
                        f"of {self.entry.inputs[j].name} too"
                    )

    def _results(self, leaves: Sequence[Any], ready: _Ready, outputs: Sequence[Array]) -> Any:
        found: list[Any] = []
        for result in self.entry.results:
            match result:
                case FromOutput(index):
                    found.append(outgoing(outputs[index]))
                case FromInput(index):
                    found.append(leaves[index])
                case FromWeight(name):
                    found.append(outgoing(self._weights(name)))
                case FromSize():
                    found.append(ready.sizes[result])
                case Value(value):
                    found.append(value)
        form = self.entry.result_tree
        return found[0] if form is None else unflatten(form, found)


@final
@dataclass(frozen=True, slots=True)
class _Ready:
    """A variant that runs.

    ``params``: for each input of the plan the argument it is, or None and the held tensor;
    ``numbers``: inputs that are numbers among the arguments, which, and their dtype; ``tensors``:
    the arguments whose addresses a ``bound`` call takes; ``over``: what outputs overwrite;
    ``sizes``: the results that are sizes.
    """

    runner: Runner
    params: tuple[tuple[int | None, Any], ...]
    numbers: tuple[tuple[int, int, np.dtype[Any]], ...]
    tensors: tuple[int, ...]
    over: Mapping[int | None, tuple[int | None, Any]]
    count: int
    bound: Bound | None = None
    sizes: Mapping[FromSize, int] = field(default_factory=dict)

    @property
    def leaves(self) -> list[int]:
        """The arguments that are numbers."""
        return [k for _, k, _ in self.numbers]

    def gather(self, arrays: Sequence[Any], leaves: Sequence[Any]) -> list[Array]:
        """The inputs of the plan."""
        inputs = [w if k is None else arrays[k] for k, w in self.params]
        for p, k, dtype in self.numbers:
            inputs[p] = np.asarray(leaves[k], dtype)
        return inputs

    def outputs(self, made: Sequence[tuple[Array, int]], arrays: Sequence[Any]) -> Sequence[Array]:
        """All outputs, from those that overwrite nothing."""
        if len(made) == self.count:
            return [m[0] for m in made]
        fresh = iter(made)
        over = [self.over.get(i) for i in range(self.count)]
        return [
            next(fresh)[0] if o is None else o[1] if o[0] is None else arrays[o[0]] for o in over
        ]


def _within(dim: Dim, n: int) -> bool:
    return n >= dim.min and (dim.max is None or n <= dim.max) and n % dim.multiple == 0


def _serves(variant: Variant, values: Mapping[str, int]) -> bool:
    return all(_within(d, values[d.name]) for d in variant.dims)


def _apart(array: Array) -> bool:
    """Whether no element of ``array`` is repeated along an axis."""
    return all(s or n < 2 for s, n in zip(array.strides, array.shape, strict=True))


def _and(keywords: Iterable[Any]) -> str:
    names = ", ".join(map(str, keywords))
    return f" and the keywords {names}" if names else ""


def _is_host(array: Array) -> bool:
    return device_of(array).type == "cpu" and array.dtype in (
        DTYPES["f32"].numpy,
        DTYPES["f64"].numpy,
    )


def _flat(entry: Entry) -> bool:
    """Whether the leaves are the positional arguments themselves."""
    form = entry.tree
    if form is None or len(form.items) != 2:
        return False
    positional, named = form.items
    if positional is None or named is None or positional.kind != "tuple" or named.items:
        return False
    return all(i is None for i in positional.items)
