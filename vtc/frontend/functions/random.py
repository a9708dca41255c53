"""Random numbers: Philox, so eager and compiled programs draw the same ones.

A :class:`Generator` owns a state of two int64; each draw reads it and moves it on. In a compiled
function the state is an input that the program overwrites, so every call draws fresh numbers::

    vtc.manual_seed(0)
    rand(2, 3)
    x.normal_(0, 0.02, generator=g)
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, final

import numpy as np

from vtc.errors import ArgumentError, DeviceError, TypeCheckError
from vtc.frontend import dispatch
from vtc.frontend.functions import comparison, elementwise, rearrange, reduce, view
from vtc.frontend.functions.arguments import (
    Value,
    Where,
    expect_chances,
    expect_tensor,
    is_tensor,
    place,
    shape,
)
from vtc.frontend.functions.promotion import assign, cast, common_shape, expand_to, plain
from vtc.frontend.source import located
from vtc.ir.dims import Size, floordiv, product
from vtc.ir.op import Op
from vtc.ir.ops.activation import Dropout
from vtc.ir.ops.fill import Iota
from vtc.ir.ops.random import Advance, Bits, Normal, Uniform
from vtc.ir.ops.sort import Argsort
from vtc.ir.types import DType, f32, f64, i64
from vtc.runtime.device import Device

if TYPE_CHECKING:
    from vtc.frontend.tensor import Tensor

_FIRST_SEED = 67280421310721  # PyTorch's


@final
class Generator:
    """A stream of random numbers on a device; ``state`` is int64 (seed, offset)."""

    def __init__(self, device: Where = None) -> None:
        self.device = place(device)
        self._seed = _FIRST_SEED
        self._state: Tensor | None = None

    @property
    def state(self) -> Tensor:
        """The seed, and how many blocks of four numbers were drawn."""
        if self._state is None:
            # Made on first use; where that is in a trace, it still is no value of the trace.
            tracing, dispatch.state.capture = dispatch.state.capture, None
            try:
                self._state = dispatch.from_array(_start(self._seed), device=self.device)
            finally:
                dispatch.state.capture = tracing
            assert self._state._storage is not None
            self._state._storage.born = -1  # as old as the generator, or older
        return self._state

    def manual_seed(self, seed: int) -> Generator:
        """Start the stream of ``seed``, any 64-bit integer."""
        if not isinstance(seed, int | np.integer) or not -(2**63) <= seed < 2**64:
            raise located(ArgumentError, f"manual_seed: expected a 64-bit integer, got {seed!r}")
        seed = int(seed)
        if dispatch.state.capture is not None:
            dispatch.state.capture.changed.note(self, "_seed")
        self._seed = seed
        self.set_state(dispatch.from_array(_start(seed), device=self.device))
        return self

    def seed(self) -> int:
        """Start a stream the operating system chose, and return its seed."""
        seed = int.from_bytes(os.urandom(8), "little")
        self.manual_seed(seed)
        return seed

    def initial_seed(self) -> int:
        """The seed last set, or that of the state last set."""
        if self._state is None or dispatch.state.capture is not None:
            return self._seed
        return int(self._state[0].item()) % 2**64

    def get_state(self) -> Tensor:
        """A copy of the state."""
        return self.state.clone()

    def clone_state(self) -> Generator:
        """A generator that draws what this one will, and leaves it as it is."""
        made = Generator(self.device)
        made._seed = self._seed
        return made.set_state(self.get_state())

    def set_state(self, new_state: Tensor) -> Generator:
        """Go on from a state that :meth:`get_state` returned."""
        state = self.state
        if not is_tensor(new_state) or new_state.type != state.type:
            got = new_state.type if is_tensor(new_state) else type(new_state).__name__
            raise located(TypeCheckError, f"set_state: expected {state.type}, got {got}")
        dispatch.write(state, new_state.to(state.device))
        return self

    def state_dict(self) -> dict[str, Any]:
        """The seed and the state, for a checkpoint."""
        return {"seed": self._seed, "state": self.get_state()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from :meth:`state_dict`."""
        self._seed = int(state_dict["seed"])
        self.set_state(state_dict["state"])

    def __repr__(self) -> str:
        return f"Generator(device={str(self.device)!r}, seed={self.initial_seed()})"


def _start(seed: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    return np.array([seed - 2**64 if seed >= 2**63 else seed, 0], np.int64)


_defaults: dict[Device, Generator] = {}
_seed = _FIRST_SEED


def default_generator(device: Where = None) -> Generator:
    """The generator that draws on ``device`` come from if none is given."""
    where = place(device)
    if where not in _defaults:
        found = _defaults[where] = Generator(where)
        found._seed = _seed
    return _defaults[where]


def manual_seed(seed: int) -> Generator:
    """Seed the default generators of all devices; returns that of the default device."""
    global _seed
    main = default_generator().manual_seed(seed)
    for generator in _defaults.values():
        generator.manual_seed(seed)
    _seed = seed
    return main


def seed() -> int:
    """Seed the default generators from the operating system, and return the seed."""
    chosen = default_generator().seed()
    manual_seed(chosen)
    return chosen


def initial_seed() -> int:
    """The seed of the default generator."""
    return default_generator().initial_seed()


def get_rng_state() -> Tensor:
    """The state of the default generator."""
    return default_generator().get_state()


def set_rng_state(new_state: Tensor) -> None:
    """Go on from :func:`get_rng_state`."""
    default_generator().set_state(new_state)


@contextmanager
def fork_rng(
    devices: Iterable[Where | int] | None = None, enabled: bool = True, *, device_type: str = "cuda"
) -> Iterator[None]:
    """A block after which the default generators go on as if nothing had been drawn in it.

    ``devices``: those besides the CPU, a number is one of ``device_type``; by default all that were
    used. With ``enabled`` False the block is like any other.
    """
    global _seed
    if not enabled:
        yield
        return
    named = [Device(device_type, d) if isinstance(d, int) else d for d in devices or ()]
    places = ["cpu", *(_defaults if devices is None else named)]
    kept = list(dict.fromkeys([default_generator(p) for p in places]))
    states = [(g.initial_seed(), g.get_state()) for g in kept]
    before = _seed
    try:
        yield
    finally:
        _seed = before
        for generator, (own, state) in zip(kept, states, strict=True):
            generator.set_state(state)
            generator._seed = own
        for generator in _defaults.values() if devices is None else ():
            if generator not in kept:
                generator.manual_seed(before)


def draw(
    op: Op, count: Size, generator: Generator | None, device: Where, *inputs: Tensor
) -> Tensor:
    """``op`` on ``inputs`` and the state, which then moves on by ``count`` numbers."""
    if not isinstance(generator, Generator | None):
        got = type(generator).__name__
        raise located(ArgumentError, f"{op.name}: expected a Generator, got {got}")
    source = generator or default_generator(device)
    if device is not None and source.device != place(device):
        want, got = place(device), source.device
        raise located(DeviceError, f"expected a generator on {want}, got one on {got}")
    state = source.state
    # The write below changes the state: a backward that draws again needs what it was.
    before = state if dispatch.is_capturing() or not inputs else state.clone()
    out = dispatch.apply(op, *inputs, before)
    moved = dispatch.apply(Advance(count=floordiv(count + 3, 4)), state)
    dispatch.write(state, moved)
    return out


# floats


def rand(
    *size: Any,
    generator: Generator | None = None,
    dtype: DType | None = None,
    device: Where = None,
    requires_grad: bool = False,
) -> Tensor:
    """Numbers drawn evenly from ``[0, 1)``."""
    out = _uniform(shape("rand", size), dtype or dispatch.default_dtype(), generator, device)
    return out.requires_grad_() if requires_grad else out


def randn(
    *size: Any,
    generator: Generator | None = None,
    dtype: DType | None = None,
    device: Where = None,
    requires_grad: bool = False,
) -> Tensor:
    """Numbers drawn from the normal distribution of mean 0 and variance 1."""
    out = _normal(shape("randn", size), dtype or dispatch.default_dtype(), generator, device)
    return out.requires_grad_() if requires_grad else out


def rand_like(
    input: Tensor, *, dtype: DType | None = None, generator: Generator | None = None
) -> Tensor:
    """:func:`rand` in the shape and dtype of ``input``."""
    expect_tensor("rand_like", "input", input)
    return _uniform(input.type.shape, dtype or input.type.dtype, generator, input.device)


def randn_like(
    input: Tensor, *, dtype: DType | None = None, generator: Generator | None = None
) -> Tensor:
    """:func:`randn` in the shape and dtype of ``input``."""
    expect_tensor("randn_like", "input", input)
    return _normal(input.type.shape, dtype or input.type.dtype, generator, input.device)


def normal(
    mean: Value = 0.0, std: Value = 1.0, size: Any = None, *, generator: Generator | None = None
) -> Tensor:
    """Normal numbers of ``mean`` and ``std``: tensors, or numbers with ``size``."""
    given = [v for v in (mean, std) if is_tensor(v)]
    if not given and size is None:
        raise located(ArgumentError, "normal: expected a tensor mean or std, or size")
    if isinstance(std, (int, float)) and std < 0:
        raise located(ArgumentError, f"normal: expected std >= 0, got {std}")
    sizes = common_shape("normal", [v.type for v in given]) if given else shape("normal", size)
    dtype = given[0].type.dtype if given else dispatch.default_dtype()
    where = given[0].device if given else None
    noise = _normal(sizes, dtype, generator, where)
    return cast(_spread(noise, std, mean), dtype)


def uniform_(
    input: Tensor, start: float = 0.0, to: float = 1.0, *, generator: Generator | None = None
) -> Tensor:
    """Overwrite ``input`` with numbers drawn evenly from ``[start, to)``."""
    if start > to:
        raise located(ArgumentError, f"uniform_: expected start <= to, got {start} and {to}")
    found = rand_like(input, generator=generator)
    return assign("uniform_", input, _spread(found, to - start, start))


def normal_(
    input: Tensor, mean: float = 0.0, std: float = 1.0, *, generator: Generator | None = None
) -> Tensor:
    """Overwrite ``input`` with normal numbers of ``mean`` and ``std``."""
    if std < 0:
        raise located(ArgumentError, f"normal_: expected std >= 0, got {std}")
    found = randn_like(input, generator=generator)
    return assign("normal_", input, _spread(found, std, mean))


def _spread(drawn: Tensor, scale: Value, start: Value) -> Tensor:
    """``drawn * scale + start`` in f64, to be rounded once: a kernel may merge the two, NumPy does
    not, and the bits are to be the same. They are, since a product of f32 is exact.
    """
    if drawn.type.dtype is not f64:
        scale = cast(scale, f32) if is_tensor(scale) else _single(scale)
    return elementwise.add(elementwise.mul(cast(drawn, f64), scale), start)


def _single(number: Value) -> float:
    with np.errstate(over="ignore"):
        return float(np.float32(plain(number)))


def _uniform(
    sizes: tuple[Size, ...], dtype: DType, generator: Generator | None, device: Where
) -> Tensor:
    op = Uniform(shape=sizes, dtype=_floating("rand", dtype), offset=0)
    return draw(op, product(sizes), generator, device)


def _normal(
    sizes: tuple[Size, ...], dtype: DType, generator: Generator | None, device: Where
) -> Tensor:
    op = Normal(shape=sizes, dtype=_floating("randn", dtype), offset=0)
    return draw(op, product(sizes), generator, device)


def _floating(name: str, dtype: DType) -> DType:
    if not dtype.is_floating_point:
        raise located(TypeCheckError, f"{name}: expected a floating-point dtype, got {dtype}")
    return dtype


# integers


def randint(
    low: int,
    high: Any = None,
    size: Any = None,
    *,
    generator: Generator | None = None,
    dtype: DType | None = None,
    device: Where = None,
) -> Tensor:
    """Integers from ``low`` up to, not including, ``high``; ``randint(high, size)`` starts at 0."""
    if size is None:
        low, high, size = 0, low, high
    if size is None or high is None:
        raise located(ArgumentError, "randint: expected a size")
    span = int(high) - int(low)
    if span < 1:
        raise located(ArgumentError, f"randint: expected low < high, got {low} and {high}")
    sizes = shape("randint", (size,))
    bits = _bits(sizes, generator, device)
    if span > 2**32:
        bits = elementwise.add(elementwise.mul(_bits(sizes, generator, device), 2**32), bits)
    found = elementwise.add(elementwise.remainder(bits, span), int(low))
    return cast(found, dtype or i64)


def randint_like(
    input: Tensor,
    low: int,
    high: int | None = None,
    *,
    dtype: DType | None = None,
    generator: Generator | None = None,
) -> Tensor:
    """:func:`randint` in the shape and dtype of ``input``; one bound alone is ``high``."""
    expect_tensor("randint_like", "input", input)
    low, high = (0, low) if high is None else (low, high)
    kind, where = dtype or input.type.dtype, input.device
    return randint(low, high, input.shape, generator=generator, dtype=kind, device=where)


def randperm(
    n: int, *, generator: Generator | None = None, dtype: DType | None = None, device: Where = None
) -> Tensor:
    """The integers below ``n`` in random order."""
    low, high = (_bits((dispatch.size(n),), generator, device) for _ in range(2))
    if dispatch.is_capturing():
        keys = elementwise.add(elementwise.mul(high, 2**31), elementwise.floor_divide(low, 2))
        return cast(dispatch.apply(Argsort(axis=0, descending=False), keys), dtype or i64)
    order = np.lexsort([low.cpu().numpy() >> 1, high.cpu().numpy()])
    return cast(dispatch.from_array(order, device=place(device)), dtype or i64)


def _bits(sizes: tuple[Size, ...], generator: Generator | None, device: Where) -> Tensor:
    return draw(Bits(shape=sizes, offset=0), product(sizes), generator, device)


# choices


def bernoulli(input: Tensor, *, generator: Generator | None = None) -> Tensor:
    """1 with the probability that ``input`` gives, else 0.

    ArgumentError unless all are in [0, 1]; a compiled function does not look at them.
    """
    expect_tensor("bernoulli", "input", input)
    expect_chances("bernoulli", "probabilities", input)
    dtype = _floating("bernoulli", input.type.dtype)
    number = _uniform(input.type.shape, f64 if dtype is f64 else f32, generator, input.device)
    return cast(comparison.lt(number, input), dtype)


def bernoulli_(input: Tensor, p: Value = 0.5, *, generator: Generator | None = None) -> Tensor:
    """Overwrite ``input`` with 1, with probability ``p``, or 0."""
    if not is_tensor(p) and not 0 <= plain(p) <= 1:
        raise located(ArgumentError, f"bernoulli_: expected 0 <= p <= 1, got {p}")
    number = _uniform(input.type.shape, f32, generator, input.device)
    return assign("bernoulli_", input, cast(comparison.lt(number, p), input.type.dtype))


def multinomial(
    input: Tensor,
    num_samples: int,
    replacement: bool = False,
    *,
    generator: Generator | None = None,
) -> Tensor:
    """``num_samples`` indices drawn from each row of weights ``[.., n]``, which need not sum to 1.

    Each index wins where weight / exponential noise is largest (Gumbel's trick), so it compiles.
    """
    expect_tensor("multinomial", "input", input)
    type = input.type
    _floating("multinomial", type.dtype)
    if type.rank not in (1, 2) or num_samples < 1:
        got = f"got {type} and {num_samples}"
        raise located(
            TypeCheckError, f"multinomial: expected [n] or [rows, n] and num_samples >= 1, {got}"
        )
    if not replacement and num_samples > (count := input.shape[-1]):
        message = f"multinomial: expected {num_samples} weights in each row, got {count}"
        raise located(ArgumentError, f"{message}; or replacement=True")
    if not dispatch.is_capturing():
        _check_weights(input, num_samples, replacement)
    scores = elementwise.log(cast(input.detach(), f64))
    if replacement:
        every = (*type.shape[:-1], num_samples, type.shape[-1])
        spread = expand_to("multinomial", view.unsqueeze(scores, -2), every)
        return reduce.argmax(_noisy(spread, generator), dim=-1)
    scores = _noisy(scores, generator)
    line = Iota(shape=type.shape, axis=type.rank - 1, dtype=i64)
    classes = dispatch.create(line, input.device)
    found = []
    for _ in range(num_samples):
        best = reduce.argmax(scores, dim=-1, keepdim=True)
        found.append(best)
        scores = comparison.where(comparison.eq(classes, best), -math.inf, scores)
    return rearrange.cat(found, dim=-1)


def _noisy(scores: Tensor, generator: Generator | None) -> Tensor:
    number = cast(_uniform(scores.type.shape, f32, generator, scores.device), f64)
    # An exponential number; bounded below, since a score of -inf must never win.
    wait = elementwise.clamp(
        elementwise.neg(elementwise.log(elementwise.sub(1, number))), min=1e-30
    )
    return elementwise.sub(scores, elementwise.log(wait))


def _check_weights(input: Tensor, num_samples: int, replacement: bool) -> None:
    weights = input.detach().cpu().numpy().astype(np.float64)
    if not np.isfinite(weights).all() or (weights < 0).any():
        raise located(ArgumentError, "multinomial: expected finite weights >= 0")
    possible = int((weights > 0).sum(axis=-1).min()) if weights.size else 0
    needed = 1 if replacement else num_samples
    if possible < needed:
        message = f"multinomial: expected {needed} weights > 0 in each row, got {possible}"
        raise located(ArgumentError, message)


def dropout(
    input: Tensor,
    p: float = 0.5,
    training: bool = True,
    inplace: bool = False,
    *,
    generator: Generator | None = None,
) -> Tensor:
    """``input`` with elements zeroed with probability ``p`` and the rest divided by ``1 - p``."""
    if not 0 <= p <= 1:
        raise located(ArgumentError, f"dropout: expected 0 <= p <= 1, got {p}")
    if not training or p == 0:
        return input
    expect_tensor("dropout", "input", input)
    op = Dropout(p=float(p), offset=0)
    out = draw(op, input.type.numel, generator, input.device, input)
    return dispatch.write(input, out) if inplace else out
