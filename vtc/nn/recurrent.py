"""Recurrent layers: RNN, LSTM, GRU, and their cells, with PyTorch's parameters.

lstm = nn.LSTM(16, 32, num_layers=2, bidirectional=True, batch_first=True)
y, (h, c) = lstm(x)                                   # [N, T, 64], [4, N, 32] twice

The products with the input are one for all times; a step of a cell is a function ``(state, x) ->
(state, y)`` of the state before and of what the input gives at one time.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, TypeAlias, final

from vtc.errors import ArgumentError, TypeCheckError
from vtc.frontend.functions.creation import empty, zeros
from vtc.frontend.functions.rearrange import cat, stack
from vtc.frontend.source import located
from vtc.frontend.tensor import Tensor
from vtc.ir.types import DType
from vtc.nn import functional as F
from vtc.nn import init
from vtc.nn.module import Module
from vtc.nn.parameter import Parameter
from vtc.runtime.device import Device

State: TypeAlias = tuple[Tensor, ...]
Step: TypeAlias = Callable[[State, Tensor], tuple[State, Tensor]]


# one step: the state before, what the input gives, the product with the state before


def _rnn(state: State, x: Tensor, past: Tensor, nonlinearity: str) -> State:
    del state
    return ((x + past).tanh() if nonlinearity == "tanh" else F.relu(x + past),)


def _lstm(state: State, x: Tensor, past: Tensor) -> State:
    i, f, g, o = (x + past).chunk(4, -1)
    c = f.sigmoid() * state[1] + i.sigmoid() * g.tanh()
    return o.sigmoid() * c.tanh(), c


def _gru(state: State, x: Tensor, past: Tensor) -> State:
    (xr, xz, xn), (hr, hz, hn) = x.chunk(3, -1), past.chunk(3, -1)
    n = (xn + (xr + hr).sigmoid() * hn).tanh()
    return (n + (xz + hz).sigmoid() * (state[0] - n),)


def _over_time(step: Step, state: State, xs: Tensor, *, reverse: bool) -> tuple[State, Tensor]:
    """``step`` over the first dim of ``xs``, from the end if ``reverse``; stacks what it gives."""
    steps = int(xs.shape[0])
    made: list[Tensor] = [xs] * steps
    for t in reversed(range(steps)) if reverse else range(steps):
        state, made[t] = step(state, xs[t])
    return state, stack(made)


class Cell(Module, ABC):
    """The parameters of one step: ``weight_ih``, ``weight_hh``, ``bias_ih``, ``bias_hh``."""

    gates: int

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        device: Device | str | None = None,
        dtype: DType | None = None,
    ) -> None:
        self.input_size, self.hidden_size = input_size, hidden_size
        rows = self.gates * hidden_size

        def parameter(*shape: int) -> Tensor:
            return Parameter(empty(shape, device=device, dtype=dtype))

        self.weight_ih, self.weight_hh = parameter(rows, input_size), parameter(rows, hidden_size)
        self.bias_ih = parameter(rows) if bias else None
        self.bias_hh = parameter(rows) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw all anew: uniform within ``1 / sqrt(hidden_size)``."""
        _uniform(self, self.hidden_size)

    @abstractmethod
    def next_state(self, state: State, x: Tensor, past: Tensor) -> State:
        """The state after one step."""

    def _step(self, x: Tensor, state: State | None, parts: int) -> State:
        if x.ndim not in (1, 2) or x.shape[-1] != self.input_size:
            raise located(
                TypeCheckError,
                f"{type(self).__name__}: expected [N, {self.input_size}] or "
                f"[{self.input_size}], got {x.type}",
            )
        if state is None:
            empty_state = zeros(*x.shape[:-1], self.hidden_size, dtype=x.dtype, device=x.device)
            state = (empty_state,) * parts
        past = F.linear(state[0], self.weight_hh, self.bias_hh)
        return self.next_state(state, F.linear(x, self.weight_ih, self.bias_ih), past)

    def extra_repr(self) -> str:
        shown = f"{self.input_size}, {self.hidden_size}"
        return shown if self.bias_ih is not None else f"{shown}, bias=False"


@final
class RNNCell(Cell):
    """``h = tanh(W_ih x + b_ih + W_hh h + b_hh)``, or with relu."""

    gates = 1

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        nonlinearity: str = "tanh",
        device: Device | str | None = None,
        dtype: DType | None = None,
    ) -> None:
        self.nonlinearity = _nonlinearity("RNNCell", nonlinearity)
        super().__init__(input_size, hidden_size, bias, device, dtype)

    def next_state(self, state: State, x: Tensor, past: Tensor) -> State:
        """The state after one step."""
        return _rnn(state, x, past, self.nonlinearity)

    def forward(self, x: Tensor, hx: Tensor | None = None) -> Tensor:
        return self._step(x, None if hx is None else (hx,), 1)[0]

    def extra_repr(self) -> str:
        kind = "" if self.nonlinearity == "tanh" else f", nonlinearity={self.nonlinearity}"
        return super().extra_repr() + kind


@final
class LSTMCell(Cell):
    """A step of Hochreiter and Schmidhuber's memory; takes and gives ``(h, c)``."""

    gates = 4

    def next_state(self, state: State, x: Tensor, past: Tensor) -> State:
        """The state after one step."""
        return _lstm(state, x, past)

    def forward(self, x: Tensor, hx: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, Tensor]:
        h, c = self._step(x, None if hx is None else tuple(hx), 2)
        return h, c


@final
class GRUCell(Cell):
    """A step of Cho's gated unit."""

    gates = 3

    def next_state(self, state: State, x: Tensor, past: Tensor) -> State:
        """The state after one step."""
        return _gru(state, x, past)

    def forward(self, x: Tensor, hx: Tensor | None = None) -> Tensor:
        return self._step(x, None if hx is None else (hx,), 1)[0]


class Recurrent(Module, ABC):
    """Layers of cells over ``[T, N, input_size]``, in one direction or in both.

    ``batch_first``: ``[N, T, input_size]``; without ``N`` where there is no batch. States are
    ``[num_layers * directions, N, hidden_size]`` in any case. ``dropout`` is between layers.
    """

    gates: int

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        device: Device | str | None = None,
        dtype: DType | None = None,
    ) -> None:
        name = type(self).__name__
        if num_layers < 1 or hidden_size < 1 or not 0 <= proj_size < hidden_size:
            raise located(
                ArgumentError,
                f"{name}: expected num_layers >= 1, hidden_size >= 1 and proj_size below it, got "
                f"{num_layers}, {hidden_size} and {proj_size}",
            )
        if not 0.0 <= dropout <= 1.0:
            raise located(ArgumentError, f"{name}: expected 0 <= dropout <= 1, got {dropout}")
        self.input_size, self.hidden_size = input_size, hidden_size
        self.num_layers, self.bias, self.batch_first = num_layers, bias, batch_first
        self.dropout, self.bidirectional, self.proj_size = dropout, bidirectional, proj_size
        for layer in range(num_layers):
            for end in self._ends():
                self._make(layer, end, device, dtype)
        self.reset_parameters()

    def _ends(self) -> tuple[str, ...]:
        return ("", "_reverse") if self.bidirectional else ("",)

    def _make(self, layer: int, end: str, device: Device | str | None, dtype: DType | None) -> None:
        """The parameters of one layer in one direction, as PyTorch names them."""
        rows, out = self.gates * self.hidden_size, self.proj_size or self.hidden_size
        fed = self.input_size if layer == 0 else out * len(self._ends())
        shapes: dict[str, tuple[int, ...]] = {"weight_ih": (rows, fed), "weight_hh": (rows, out)}
        if self.bias:
            shapes |= {"bias_ih": (rows,), "bias_hh": (rows,)}
        if self.proj_size:
            shapes["weight_hr"] = (self.proj_size, self.hidden_size)
        for name, shape in shapes.items():
            made = Parameter(empty(shape, device=device, dtype=dtype))
            setattr(self, f"{name}_l{layer}{end}", made)

    def reset_parameters(self) -> None:
        """Draw all anew: uniform within ``1 / sqrt(hidden_size)``."""
        _uniform(self, self.hidden_size)

    @abstractmethod
    def next_state(self, state: State, x: Tensor, past: Tensor) -> State:
        """The state after one step."""

    def _run(self, x: Tensor, state: State | None, sizes: tuple[int, ...]) -> tuple[Tensor, State]:
        """The last layer's output and the final states, whose parts have ``sizes``."""
        x, single = self._inputs(x)
        count = self.num_layers * len(self._ends())
        if state is None:
            n = x.shape[1]
            state = tuple(zeros(count, n, s, dtype=x.dtype, device=x.device) for s in sizes)
        else:
            state = tuple(s.unsqueeze(1) if single else s for s in state)
            self._check_state(state, (count, x.shape[1]), sizes)
        finals: list[State] = []
        for layer in range(self.num_layers):
            if layer and self.dropout:
                x = F.dropout(x, self.dropout, self.training)
            parts = []
            for end in self._ends():
                start = tuple(s[len(finals)] for s in state)
                final_state, y = self._direction(x, start, layer, end)
                finals.append(final_state)
                parts.append(y)
            x = cat(parts, -1) if len(parts) > 1 else parts[0]
        last = tuple(stack(part) for part in zip(*finals, strict=True))
        if single:
            return x.squeeze(1), tuple(s.squeeze(1) for s in last)
        return (x.transpose(0, 1) if self.batch_first else x), last

    def _direction(self, x: Tensor, start: State, layer: int, end: str) -> tuple[State, Tensor]:
        def own(name: str) -> Any:
            return getattr(self, f"{name}_l{layer}{end}", None)

        weight, bias, projection = own("weight_hh"), own("bias_hh"), own("weight_hr")

        def step(state: State, fed: Tensor) -> tuple[State, Tensor]:
            h, *rest = self.next_state(state, fed, F.linear(state[0], weight, bias))
            h = h if projection is None else F.linear(h, projection)
            return (h, *rest), h

        fed = F.linear(x, own("weight_ih"), own("bias_ih"))
        return _over_time(step, start, fed, reverse=bool(end))

    def _inputs(self, x: Tensor) -> tuple[Tensor, bool]:
        """``x`` as ``[T, N, input_size]``, and whether it had no ``N``."""
        if x.ndim not in (2, 3) or x.shape[-1] != self.input_size:
            order = "N, T" if self.batch_first else "T, N"
            raise located(
                TypeCheckError,
                f"{type(self).__name__}: expected [{order}, {self.input_size}] or "
                f"[T, {self.input_size}], got {x.type}",
            )
        if x.ndim == 2:
            return x.unsqueeze(1), True
        return (x.transpose(0, 1) if self.batch_first else x), False

    def _check_state(self, state: State, lead: tuple[Any, ...], sizes: tuple[int, ...]) -> None:
        for s, size in zip(state, sizes, strict=True):
            if tuple(s.shape) != (*lead, size):
                want = ", ".join(map(str, (*lead, size)))
                raise located(
                    TypeCheckError,
                    f"{type(self).__name__}: expected a state [{want}], got {s.type}",
                )

    def extra_repr(self) -> str:
        shown = f"{self.input_size}, {self.hidden_size}"
        shown += f", proj_size={self.proj_size}" if self.proj_size else ""
        shown += f", num_layers={self.num_layers}" if self.num_layers != 1 else ""
        for name, usual in (
            ("bias", True), ("batch_first", False), ("dropout", 0), ("bidirectional", False)
        ):  # fmt: skip
            value = getattr(self, name)
            shown += f", {name}={value}" if value != usual else ""
        return shown


@final
class RNN(Recurrent):
    """Elman's: ``h = tanh(W_ih x + b_ih + W_hh h + b_hh)``, or with relu; gives ``y, h``."""

    gates = 1

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        nonlinearity: str = "tanh",
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        device: Device | str | None = None,
        dtype: DType | None = None,
    ) -> None:
        self.nonlinearity = _nonlinearity("RNN", nonlinearity)
        super().__init__(
            input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, 0,
            device, dtype,
        )  # fmt: skip

    def next_state(self, state: State, x: Tensor, past: Tensor) -> State:
        """The state after one step."""
        return _rnn(state, x, past, self.nonlinearity)

    def forward(self, x: Tensor, hx: Tensor | None = None) -> tuple[Tensor, Tensor]:
        y, (h,) = self._run(x, None if hx is None else (hx,), (self.hidden_size,))
        return y, h


@final
class LSTM(Recurrent):
    """Long short-term memory (Hochreiter and Schmidhuber 1997); gives ``y, (h, c)``.

    ``proj_size`` projects ``h`` to fewer dims.
    """

    gates = 4

    def next_state(self, state: State, x: Tensor, past: Tensor) -> State:
        """The state after one step."""
        return _lstm(state, x, past)

    def forward(
        self, x: Tensor, hx: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        sizes = (self.proj_size or self.hidden_size, self.hidden_size)
        y, (h, c) = self._run(x, None if hx is None else tuple(hx), sizes)
        return y, (h, c)


@final
class GRU(Recurrent):
    """Gated recurrent units (Cho et al. 2014); gives ``y, h``."""

    gates = 3

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        device: Device | str | None = None,
        dtype: DType | None = None,
    ) -> None:
        super().__init__(
            input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, 0,
            device, dtype,
        )  # fmt: skip

    def next_state(self, state: State, x: Tensor, past: Tensor) -> State:
        """The state after one step."""
        return _gru(state, x, past)

    def forward(self, x: Tensor, hx: Tensor | None = None) -> tuple[Tensor, Tensor]:
        y, (h,) = self._run(x, None if hx is None else (hx,), (self.hidden_size,))
        return y, h


def _uniform(module: Module, hidden_size: int) -> None:
    bound = 1.0 / math.sqrt(hidden_size) if hidden_size > 0 else 0.0
    for p in module.parameters():
        init.uniform_(p, -bound, bound)


def _nonlinearity(owner: str, name: str) -> str:
    if name not in ("tanh", "relu"):
        raise located(
            ArgumentError, f"{owner}: expected nonlinearity 'tanh' or 'relu', got {name!r}"
        )
    return name
