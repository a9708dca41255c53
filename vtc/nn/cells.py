"""One step of a recurrent layer: RNNCell, LSTMCell, GRUCell, with PyTorch's parameters.

cell = nn.GRUCell(16, 32)
h = cell(x, h)                                        # [N, 16], [N, 32] -> [N, 32]
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import TypeAlias, final

from vtc.errors import ArgumentError, TypeCheckError
from vtc.frontend.functions.creation import empty, zeros
from vtc.frontend.source import located
from vtc.frontend.tensor import Tensor
from vtc.ir.types import DType
from vtc.nn import functional as F
from vtc.nn import init
from vtc.nn.module import Module
from vtc.nn.parameter import Parameter
from vtc.runtime.device import Device

State: TypeAlias = tuple[Tensor, ...]


# one step: the state before, what the input gives, the product with the state before


def rnn_step(state: State, x: Tensor, past: Tensor, nonlinearity: str) -> State:
    """Of RNN: ``(h,)``."""
    del state
    return ((x + past).tanh() if nonlinearity == "tanh" else F.relu(x + past),)


def lstm_step(state: State, x: Tensor, past: Tensor) -> State:
    """Of LSTM: ``(h, c)``."""
    i, f, g, o = (x + past).chunk(4, -1)
    c = f.sigmoid() * state[1] + i.sigmoid() * g.tanh()
    return o.sigmoid() * c.tanh(), c


def gru_step(state: State, x: Tensor, past: Tensor) -> State:
    """Of GRU: ``(h,)``."""
    (xr, xz, xn), (hr, hz, hn) = x.chunk(3, -1), past.chunk(3, -1)
    n = (xn + (xr + hr).sigmoid() * hn).tanh()
    return (n + (xz + hz).sigmoid() * (state[0] - n),)


class RNNCellBase(Module, ABC):
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
        draw_uniform(self, self.hidden_size)

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
class RNNCell(RNNCellBase):
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
        self.nonlinearity = known_nonlinearity("RNNCell", nonlinearity)
        super().__init__(input_size, hidden_size, bias, device, dtype)

    def next_state(self, state: State, x: Tensor, past: Tensor) -> State:
        """The state after one step."""
        return rnn_step(state, x, past, self.nonlinearity)

    def forward(self, x: Tensor, hx: Tensor | None = None) -> Tensor:
        return self._step(x, None if hx is None else (hx,), 1)[0]

    def extra_repr(self) -> str:
        kind = "" if self.nonlinearity == "tanh" else f", nonlinearity={self.nonlinearity}"
        return super().extra_repr() + kind


@final
class LSTMCell(RNNCellBase):
    """A step of Hochreiter and Schmidhuber's memory; takes and gives ``(h, c)``."""

    gates = 4

    def next_state(self, state: State, x: Tensor, past: Tensor) -> State:
        """The state after one step."""
        return lstm_step(state, x, past)

    def forward(self, x: Tensor, hx: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, Tensor]:
        h, c = self._step(x, None if hx is None else tuple(hx), 2)
        return h, c


@final
class GRUCell(RNNCellBase):
    """A step of Cho's gated unit."""

    gates = 3

    def next_state(self, state: State, x: Tensor, past: Tensor) -> State:
        """The state after one step."""
        return gru_step(state, x, past)

    def forward(self, x: Tensor, hx: Tensor | None = None) -> Tensor:
        return self._step(x, None if hx is None else (hx,), 1)[0]


def draw_uniform(module: Module, hidden_size: int) -> None:
    """Draw all parameters anew: uniform within ``1 / sqrt(hidden_size)``."""
    bound = 1.0 / math.sqrt(hidden_size) if hidden_size > 0 else 0.0
    for p in module.parameters():
        init.uniform_(p, -bound, bound)


def known_nonlinearity(owner: str, name: str) -> str:
    """``name``; ArgumentError unless it is one that RNN has."""
    if name not in ("tanh", "relu"):
        raise located(
            ArgumentError, f"{owner}: expected nonlinearity 'tanh' or 'relu', got {name!r}"
        )
    return name
