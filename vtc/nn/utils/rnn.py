"""Sequences of several lengths, padded to one tensor or packed without padding (PyTorch's names).

packed = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
y, h = gru(packed)
y, lengths = nn.utils.rnn.pad_packed_sequence(y, batch_first=True)

Lengths are numbers that decide shapes: inside a compiled function give them as a list of ints.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Self, final

import numpy as np

from vtc.errors import ArgumentError
from vtc.frontend import dispatch
from vtc.frontend.functions.comparison import where
from vtc.frontend.functions.creation import full
from vtc.frontend.functions.rearrange import cat, stack
from vtc.frontend.source import located
from vtc.frontend.tensor import Tensor
from vtc.ir.types import DType
from vtc.runtime.device import Device


class PackedSequence(NamedTuple):
    """Steps of several sequences without padding: those of all at time 0, then at time 1 ...

    ``data [sum(lengths), *]``; ``batch_sizes``, int64 on the CPU: how many sequences are that long;
    longer sequences come first, ``sorted_indices`` says from where, and ``unsorted_indices`` back.
    """

    data: Tensor
    batch_sizes: Tensor
    sorted_indices: Tensor | None = None
    unsorted_indices: Tensor | None = None

    def to(self, device: Device | str | DType | None = None, dtype: DType | None = None) -> Self:
        """The same on another device, or with another dtype of ``data``."""
        data = self.data.to(device) if isinstance(device, DType) else self.data.to(device, dtype)
        places = [i if i is None else i.to(data.device)
                  for i in (self.sorted_indices, self.unsorted_indices)]  # fmt: skip
        return type(self)(data, self.batch_sizes, *places)

    def cpu(self) -> Self:
        """The same on the CPU."""
        return self.to("cpu")

    def cuda(self) -> Self:
        """The same on the current GPU."""
        return self.to("cuda")

    @property
    def is_cuda(self) -> bool:
        """Whether the data lies on a GPU."""
        return self.data.device.type == "cuda"


@final
@dataclass(frozen=True, slots=True)
class Rows:
    """Where rows of packed data lie in padded data ``[T, N, *]``, for each time how many."""

    counts: tuple[int, ...]

    @classmethod
    def of(cls, packed: PackedSequence) -> Self:
        """Those of ``packed``."""
        return cls(tuple(int(n) for n in _numbers(packed.batch_sizes)))

    @classmethod
    def of_lengths(cls, lengths: Sequence[int]) -> Self:
        """Those of sequences that get no longer from one to the next."""
        return cls(tuple(sum(n > t for n in lengths) for t in range(lengths[0])))

    def lengths(self) -> np.ndarray[Any, np.dtype[np.int64]]:
        """How long each sequence is."""
        lengths: np.ndarray[Any, np.dtype[np.int64]] = self._here().sum(0)
        return lengths

    def _here(self) -> np.ndarray[Any, np.dtype[np.bool_]]:
        return np.arange(self.counts[0])[None, :] < np.array(self.counts)[:, None]

    def padded(self, data: Tensor) -> Tensor:
        """``data`` as ``[T, N, *]``; what no sequence has is its first row."""
        here = self._here()
        table = np.where(here, here.ravel().cumsum().reshape(here.shape) - 1, 0)
        rows = data.index_select(0, dispatch.from_array(table.ravel(), device=data.device))
        return rows.reshape(*here.shape, *data.shape[1:])

    def packed(self, x: Tensor) -> Tensor:
        """The rows of ``x``, ``[T, N, *]``, that sequences have."""
        places = np.flatnonzero(self._here()) if self.counts else np.zeros(0, np.int64)
        flat = x.reshape(-1, *x.shape[2:])
        return flat.index_select(0, dispatch.from_array(places, device=x.device))

    def live(self, like: Tensor) -> Tensor:
        """bool ``[T, N, 1]``: whether a sequence has that step; on the device of ``like``."""
        return dispatch.from_array(self._here()[..., None], device=like.device)


def pack_padded_sequence(
    input: Tensor,
    lengths: Tensor | Sequence[int],
    batch_first: bool = False,
    enforce_sorted: bool = True,
) -> PackedSequence:
    """Pack ``input [T, N, *]``, or ``[N, T, *]`` if ``batch_first``; ``lengths`` has ``N`` numbers.

    Lengths must not increase unless ``enforce_sorted`` is off, which sorts them. ArgumentError for
    others, and for lengths below 1 or above ``T``.
    """
    x = input.transpose(0, 1) if batch_first else input
    counts = [int(n) for n in (lengths.tolist() if isinstance(lengths, Tensor) else lengths)]
    steps, n = int(x.shape[0]), int(x.shape[1])
    if len(counts) != n or not counts or min(counts) < 1 or max(counts) > steps:
        message = f"expected {n} lengths in [1, {steps}], got {counts}"
        raise located(ArgumentError, f"pack_padded_sequence: {message}")
    order = np.arange(n)
    if not enforce_sorted:
        order = np.argsort(-np.array(counts), kind="stable")
        counts = [counts[i] for i in order]
    elif counts != sorted(counts, reverse=True):
        message = f"expected lengths that do not increase, got {counts}; or enforce_sorted=False"
        raise located(ArgumentError, f"pack_padded_sequence: {message}")
    rows = Rows.of_lengths(counts)
    sizes = dispatch.from_array(np.array(rows.counts, np.int64))
    if enforce_sorted:
        return PackedSequence(rows.packed(x[: counts[0]]), sizes)
    at, back = (dispatch.from_array(i, device=x.device) for i in (order, np.argsort(order)))
    return PackedSequence(rows.packed(x.index_select(1, at)[: counts[0]]), sizes, at, back)


def pad_packed_sequence(
    sequence: PackedSequence,
    batch_first: bool = False,
    padding_value: float = 0.0,
    total_length: int | None = None,
) -> tuple[Tensor, Tensor]:
    """The padded tensor, of ``total_length`` steps if given, and the lengths, int64 ``[N]``."""
    rows = Rows.of(sequence)
    longest = len(rows.counts)
    if total_length is not None and total_length < longest:
        message = f"expected a total_length of at least {longest}, got {total_length}"
        raise located(ArgumentError, f"pad_packed_sequence: {message}")
    data = sequence.data
    x = rows.padded(data)
    live = rows.live(data).reshape(*x.shape[:2], *(1,) * (x.ndim - 2))
    x = where(live, x, full((), padding_value, dtype=x.dtype, device=x.device))
    if total_length is not None and total_length > longest:
        more = (total_length - longest, *x.shape[1:])
        x = cat([x, full(more, padding_value, dtype=x.dtype, device=x.device)])
    lengths = dispatch.from_array(rows.lengths().astype(np.int64))
    if sequence.unsorted_indices is not None:
        x = x.index_select(1, sequence.unsorted_indices)
        lengths = lengths.index_select(0, sequence.unsorted_indices.cpu())
    return (x.transpose(0, 1) if batch_first else x), lengths


def pad_sequence(
    sequences: Iterable[Tensor],
    batch_first: bool = False,
    padding_value: float = 0.0,
    padding_side: str = "right",
) -> Tensor:
    """Tensors ``[T_i, *]`` as one ``[T, N, *]``, or ``[N, T, *]`` if ``batch_first``; shorter ones
    are padded on the ``padding_side``, "right" or "left".
    """
    found = list(sequences)
    if not found or padding_side not in ("left", "right"):
        message = "expected sequences and padding_side 'left' or 'right'"
        raise located(ArgumentError, f"pad_sequence: {message}, got {padding_side!r}")
    longest = max(int(x.shape[0]) for x in found)
    padded = []
    for x in found:
        more = (longest - int(x.shape[0]), *x.shape[1:])
        rest = full(more, padding_value, dtype=x.dtype, device=x.device)
        padded.append(cat([x, rest] if padding_side == "right" else [rest, x]))
    return stack(padded, 0 if batch_first else 1)


def unpad_sequence(
    padded_sequences: Tensor, lengths: Tensor | Sequence[int], batch_first: bool = False
) -> list[Tensor]:
    """The first ``lengths[i]`` steps of each sequence."""
    x = padded_sequences if batch_first else padded_sequences.transpose(0, 1)
    counts = lengths.tolist() if isinstance(lengths, Tensor) else lengths
    return [x[i, : int(n)] for i, n in enumerate(counts)]


def pack_sequence(sequences: Sequence[Tensor], enforce_sorted: bool = True) -> PackedSequence:
    """Pack tensors ``[T_i, *]``; see :func:`pack_padded_sequence`."""
    lengths = [int(x.shape[0]) for x in sequences]
    return pack_padded_sequence(pad_sequence(sequences), lengths, False, enforce_sorted)


def unpack_sequence(packed_sequences: PackedSequence) -> list[Tensor]:
    """The tensors that were packed."""
    return unpad_sequence(*pad_packed_sequence(packed_sequences, batch_first=True), True)


def invert_permutation(permutation: Tensor | None) -> Tensor | None:
    """The permutation that undoes ``permutation``, int64 ``[n]``; None of None."""
    return None if permutation is None else permutation.argsort()


def _numbers(x: Tensor) -> list[int]:
    """The elements; in a trace, of what was made there from numbers. CaptureError for others."""
    trace = dispatch.state.capture
    made_here = trace is not None and trace.born_here.get(id(x)) is x
    return list((x._array if made_here and x._array is not None else x).tolist())
