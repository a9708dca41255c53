"""Recurrent layers over sequences: RNN, LSTM, GRU, with PyTorch's parameters.

lstm = nn.LSTM(16, 32, num_layers=2, bidirectional=True, batch_first=True)
y, (h, c) = lstm(x)                                   # [N, T, 64], [4, N, 32] twice

The products with the input are one for all times; a step of a cell is a function ``(state, x) ->
(state, y)`` of the state before and of what the input gives at one time. Sequences of more than
``UNROLLED`` steps run it by ``vtc.scan``: a program has the step once, whatever the length. In the
gradient too, what concerns weights is one product for all times (the pass ``hoist``).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, TypeAlias, final

from vtc.errors import ArgumentError, TypeCheckError
from vtc.frontend import dispatch, flow
from vtc.frontend.functions.comparison import where
from vtc.frontend.functions.creation import empty, zeros
from vtc.frontend.functions.rearrange import cat, stack
from vtc.frontend.source import located
from vtc.frontend.tensor import Tensor
from vtc.ir.types import DType
from vtc.nn import functional as F
from vtc.nn.cells import (
    State,
    draw_uniform,
    gru_step,
    known_nonlinearity,
    lstm_step,
    rnn_step,
)
from vtc.nn.module import Module
from vtc.nn.parameter import Parameter
from vtc.nn.utils.rnn import PackedSequence, Rows
from vtc.runtime.device import Device

Step: TypeAlias = Callable[[State, Any], tuple[State, Tensor]]

UNROLLED = 2
"""Steps that are written out. From three on a loop takes no longer to run than they do, forward and
backward, and compiles sooner: an LSTM over 16 steps in a quarter of the time.
"""


def _over_time(step: Step, state: State, xs: Any, *, reverse: bool) -> tuple[State, Tensor]:
    """``step`` over the first dim of ``xs``, from the end if ``reverse``; stacks what it gives.

    ``xs`` is a tensor, or several of one length, of which a step gets a slice each.
    """
    rows: tuple[Tensor, ...] = (xs,) if isinstance(xs, Tensor) else xs
    steps = rows[0].type.shape[0]
    if not isinstance(steps, int) or steps > UNROLLED:
        found: tuple[State, Tensor] = flow.scan(step, state, xs, reverse=reverse)
        return found
    made: list[Tensor] = [rows[0]] * steps
    for t in reversed(range(steps)) if reverse else range(steps):
        x: Any = xs[t] if isinstance(xs, Tensor) else tuple([row[t] for row in rows])
        state, made[t] = step(state, x)
    return state, stack(made)


class RNNBase(Module, ABC):
    """Layers of cells over ``[T, N, input_size]``, in one direction or in both.

    ``batch_first``: ``[N, T, input_size]``; without ``N`` where there is no batch. States are
    ``[num_layers * directions, N, hidden_size]`` in any case. ``dropout`` is between layers. A
    ``PackedSequence`` gives one: a row's state is that after its own last step.
    """

    gates: int
    mode: str

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
        draw_uniform(self, self.hidden_size)

    @abstractmethod
    def next_state(self, state: State, x: Tensor, past: Tensor) -> State:
        """The state after one step."""

    def flatten_parameters(self) -> None:
        """Nothing: for cuDNN, PyTorch moves the weights together here."""

    @property
    def all_weights(self) -> list[list[Tensor]]:
        """The parameters of each layer and direction."""
        ends = [f"_l{layer}{end}" for layer in range(self.num_layers) for end in self._ends()]
        own = dict(self.named_parameters(recurse=False))
        return [[p for name, p in own.items() if name.endswith(end)] for end in ends]

    def _run(self, x: Any, state: State | None, sizes: tuple[int, ...]) -> tuple[Any, State]:
        """The last layer's output and the final states, whose parts have ``sizes``."""
        if isinstance(x, PackedSequence):
            return self._run_packed(x, state, sizes)
        x, single = self._inputs(x)
        if state is not None and single:
            state = tuple(s.unsqueeze(1) for s in state)
        y, last = self._layers(x, state, sizes, None)
        if single:
            return y.squeeze(1), tuple(s.squeeze(1) for s in last)
        return (y.transpose(0, 1) if self.batch_first else y), last

    def _run_packed(
        self, packed: PackedSequence, state: State | None, sizes: tuple[int, ...]
    ) -> tuple[PackedSequence, State]:
        if packed.data.ndim != 2 or packed.data.shape[-1] != self.input_size:
            message = f"expected packed rows [_, {self.input_size}], got {packed.data.type}"
            raise located(TypeCheckError, f"{type(self).__name__}: {message}")
        order, back = packed.sorted_indices, packed.unsorted_indices
        if state is not None and order is not None:
            state = tuple(s.index_select(1, order) for s in state)
        rows = Rows.of(packed)
        y, last = self._layers(rows.padded(packed.data), state, sizes, rows.live(packed.data))
        if back is not None:
            last = tuple(s.index_select(1, back) for s in last)
        return packed._replace(data=rows.packed(y)), last

    def _layers(
        self, x: Tensor, state: State | None, sizes: tuple[int, ...], live: Tensor | None
    ) -> tuple[Tensor, State]:
        """All layers over ``x``, ``[T, N, input_size]``; ``live`` is bool ``[T, N, 1]``: whether a
        row has that step.
        """
        count = self.num_layers * len(self._ends())
        if state is None:
            n = x.shape[1]
            state = tuple(zeros(count, n, s, dtype=x.dtype, device=x.device) for s in sizes)
        else:
            self._check_state(state, x, (count, x.shape[1]), sizes)
        finals: list[State] = []
        for layer in range(self.num_layers):
            if layer and self.dropout:
                x = F.dropout(x, self.dropout, self.training)
            parts = []
            for end in self._ends():
                start = tuple(s[len(finals)] for s in state)
                final_state, y = self._direction(x, start, live, f"_l{layer}{end}")
                finals.append(final_state)
                parts.append(y)
            x = cat(parts, -1) if len(parts) > 1 else parts[0]
        return x, tuple(stack(part) for part in zip(*finals, strict=True))

    def _direction(
        self, x: Tensor, start: State, live: Tensor | None, end: str
    ) -> tuple[State, Tensor]:
        """One layer in one direction; its parameters' names end in ``end``."""

        def own(name: str) -> Any:
            return getattr(self, name + end, None)

        weight, bias, projection = own("weight_hh"), own("bias_hh"), own("weight_hr")

        def step(state: State, given: Any) -> tuple[State, Tensor]:
            fed, here = (given, None) if live is None else given
            h, *rest = self.next_state(state, fed, F.linear(state[0], weight, bias))
            h = h if projection is None else F.linear(h, projection)
            after: State = (h, *rest)
            if here is not None:
                after = tuple(where(here, n, o) for n, o in zip(after, state, strict=True))
            return after, h

        fed = F.linear(x, own("weight_ih"), own("bias_ih"))
        start = tuple(s.to(fed.dtype) for s in start)  # under autocast steps are narrow as well
        xs = fed if live is None else (fed, live)
        return _over_time(step, start, xs, reverse=end.endswith("_reverse"))

    def _inputs(self, x: Tensor) -> tuple[Tensor, bool]:
        """``x`` as ``[T, N, input_size]``, and whether it had no ``N``."""
        if x.ndim not in (2, 3) or x.shape[-1] != self.input_size:
            order = "N, T" if self.batch_first else "T, N"
            raise located(
                TypeCheckError,
                f"{type(self).__name__}: expected [{order}, {self.input_size}] or "
                f"[T, {self.input_size}], got {x.type}",
            )
        single = x.ndim == 2
        x = x.unsqueeze(1) if single else x.transpose(0, 1) if self.batch_first else x
        if x.type.shape[0] == 0:
            message = f"expected a sequence of one step or more, got {x.type}"
            raise located(ArgumentError, f"{type(self).__name__}: {message}")
        return x, single

    def _check_state(
        self, state: State, x: Tensor, lead: tuple[Any, ...], sizes: tuple[int, ...]
    ) -> None:
        dtypes = None if dispatch.state.autocast else x.dtype
        for s, size in zip(state, sizes, strict=True):
            if tuple(s.shape) != (*lead, size) or s.dtype is not (dtypes or s.dtype):
                want = ", ".join(map(str, (*lead, size)))
                raise located(
                    TypeCheckError,
                    f"{type(self).__name__}: expected a state {x.dtype}[{want}], got {s.type}",
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
class RNN(RNNBase):
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
        self.nonlinearity = known_nonlinearity("RNN", nonlinearity)
        self.mode = f"RNN_{nonlinearity.upper()}"
        super().__init__(
            input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, 0,
            device, dtype,
        )  # fmt: skip

    def next_state(self, state: State, x: Tensor, past: Tensor) -> State:
        """The state after one step."""
        return rnn_step(state, x, past, self.nonlinearity)

    def forward(self, x: Any, hx: Tensor | None = None) -> tuple[Any, Tensor]:
        y, (h,) = self._run(x, None if hx is None else (hx,), (self.hidden_size,))
        return y, h


@final
class LSTM(RNNBase):
    """Long short-term memory (Hochreiter and Schmidhuber 1997); gives ``y, (h, c)``.

    ``proj_size`` projects ``h`` to fewer dims.
    """

    gates, mode = 4, "LSTM"

    def next_state(self, state: State, x: Tensor, past: Tensor) -> State:
        """The state after one step."""
        return lstm_step(state, x, past)

    def forward(
        self, x: Any, hx: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Any, tuple[Tensor, Tensor]]:
        sizes = (self.proj_size or self.hidden_size, self.hidden_size)
        y, (h, c) = self._run(x, None if hx is None else tuple(hx), sizes)
        return y, (h, c)


@final
class GRU(RNNBase):
    """Gated recurrent units (Cho et al. 2014); gives ``y, h``."""

    gates, mode = 3, "GRU"

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
        return gru_step(state, x, past)

    def forward(self, x: Any, hx: Tensor | None = None) -> tuple[Any, Tensor]:
        y, (h,) = self._run(x, None if hx is None else (hx,), (self.hidden_size,))
        return y, h
