"""A Llama: a whole prompt at once, or one token after many others, whose keys and values are kept.

    model = llama(peer, TINY, 2048)           # 1.1B parameters
    logits = model(ids)                       # [1, T, V]
    cached = llama(peer, TINY, 2048, context=1024)
    logits = cached(token)                    # [1, 1, V]; the next call has the next position

The position is a tensor of the model, which each call writes: nothing on the host knows it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.peer_gpu import Peer, Supply, Workload, integers

EPS = 1e-5
CONTEXT, CACHE, WINDOW = 1024, 2048, 64
"""Tokens before the first call, room for keys, and calls after which positions begin anew."""


@dataclass(frozen=True)
class LlamaSizes:
    """``shared`` heads for keys and values."""

    vocabulary: int
    width: int
    heads: int
    shared: int
    hidden: int
    layers: int

    @property
    def head(self) -> int:
        """Columns of a head."""
        return self.width // self.heads


TINY = LlamaSizes(32000, 2048, 32, 4, 5632, 22)


def block(supply: Supply, sizes: LlamaSizes, room: int | None) -> Any:
    """A layer; with ``room`` for so many keys it keeps them."""
    nn, F = supply.peer.library.nn, supply.peer.library.nn.functional
    width, few = sizes.width, sizes.shared * sizes.head

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.q, self.out = supply.parameter(width, width), supply.parameter(width, width)
            self.k, self.v = supply.parameter(few, width), supply.parameter(few, width)
            self.gate = supply.parameter(sizes.hidden, width)
            self.up = supply.parameter(sizes.hidden, width)
            self.down = supply.parameter(width, sizes.hidden)
            self.norm1 = supply.parameter(width, scale=0.5)
            self.norm2 = supply.parameter(width, scale=0.5)
            if room is not None:
                shape = (1, sizes.shared, room, sizes.head)
                self.keys = nn.Buffer(supply(*shape, scale=1.0))
                self.values = nn.Buffer(supply(*shape, scale=1.0))

        def heads(self, x: Any, weight: Any) -> Any:
            b, t, _ = x.shape
            return F.linear(x, weight).view(b, t, -1, sizes.head).transpose(1, 2)

        def attend(self, x: Any, turn: Any, place: Any, mask: Any) -> Any:
            q, k = (rotated(supply.peer, self.heads(x, w), *turn) for w in (self.q, self.k))
            v = self.heads(x, self.v)
            if room is None:
                return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
            self.keys.index_copy_(2, place, k)
            self.values.index_copy_(2, place, v)
            return F.scaled_dot_product_attention(
                q, self.keys, self.values, attn_mask=mask, enable_gqa=True
            )

        def forward(self, x: Any, turn: Any, place: Any, mask: Any) -> Any:
            a = self.attend(F.rms_norm(x, (width,), self.norm1, EPS), turn, place, mask)
            x = x + F.linear(a.transpose(1, 2).reshape(x.shape), self.out)
            h = F.rms_norm(x, (width,), self.norm2, EPS)
            return x + F.linear(F.silu(F.linear(h, self.gate)) * F.linear(h, self.up), self.down)

    return Block()


def llama(peer: Peer, sizes: LlamaSizes, length: int, *, context: int | None = None) -> Any:
    """A model for ``length`` positions. With a ``context`` so many keys and values of each layer
    are there, and a call adds one.
    """
    nn, F = peer.library.nn, peer.library.nn.functional
    supply, width = Supply(peer), sizes.width
    room = None if context is None else length

    class Llama(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.token = supply.parameter(sizes.vocabulary, width)
            self.blocks = nn.ModuleList([block(supply, sizes, room) for _ in range(sizes.layers)])
            self.norm = supply.parameter(width, scale=0.5)
            self.head = supply.parameter(sizes.vocabulary, width)
            self.cos, self.sin = (nn.Buffer(peer.narrow(t)) for t in angles(length, sizes.head))
            if context is not None:
                self.place = nn.Buffer(peer.tensor(np.array([context])))
                self.columns = nn.Buffer(peer.tensor(np.arange(length)))

        def forward(self, ids: Any) -> Any:
            turn, place, mask = (self.cos, self.sin), None, None
            if context is not None:
                place = self.place
                turn = tuple(t.index_select(0, place) for t in turn)
                mask = (self.columns <= place).view(1, length)
            x = F.embedding(ids, self.token)
            for layer in self.blocks:
                x = layer(x, turn, place, mask)
            if context is not None:
                self.place.copy_((self.place + 1 - context) % WINDOW + context)
            return F.linear(F.rms_norm(x, (width,), self.norm, EPS), self.head)

    return Llama()


def rotated(peer: Peer, x: Any, cos: Any, sin: Any) -> Any:
    """``x`` with pairs of its halves turned."""
    a, b = x.chunk(2, -1)
    return peer.library.cat([a * cos - b * sin, b * cos + a * sin], -1)


def angles(length: int, head: int) -> tuple[Any, Any]:
    """Cosines and sines of the angles by which positions turn heads."""
    rates = 10000.0 ** (-np.arange(0, head, 2) / head)
    found = (np.arange(length)[:, None] * rates).astype(np.float32)
    return np.cos(found), np.sin(found)


def inferred(peer: Peer, model: Any, *ids: Any) -> Workload:
    """A forward pass."""

    def logits(model: Any, ids: Any) -> Any:
        with peer.library.no_grad():
            return model(ids)

    return Workload(lambda: (model(), None), logits, ids)


def prefill(peer: Peer, sizes: LlamaSizes = TINY, length: int = 2048) -> Workload:
    """Llama 1.1B prefill, 1x2048, bf16"""
    ids = peer.tensor(integers(sizes.vocabulary, 1, length))
    return inferred(peer, lambda: llama(peer, sizes, length), ids)


def decode(
    peer: Peer, sizes: LlamaSizes = TINY, length: int = CACHE, context: int = CONTEXT
) -> Workload:
    """Llama 1.1B decode, 1 token, context 1024 to 1087, bf16"""
    ids = peer.tensor(integers(sizes.vocabulary, 1, 1))
    return inferred(peer, lambda: llama(peer, sizes, length, context=context), ids)
