"""The Transformer of Vaswani et al. (2017) and its layers, with PyTorch's names and parameters.

layer = nn.TransformerEncoderLayer(d_model=64, nhead=8, batch_first=True, norm_first=True)
y = nn.TransformerEncoder(layer, num_layers=6)(x)                  # [N, T, 64]

Masks are those of ``nn.MultiheadAttention``: True hides, floats are added.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import final

from vtc.errors import ArgumentError
from vtc.frontend.functions.creation import full
from vtc.frontend.functions.rearrange import triu
from vtc.frontend.source import located
from vtc.frontend.tensor import Tensor
from vtc.ir.types import DType
from vtc.nn import functional as F
from vtc.nn import init
from vtc.nn.attention import MultiheadAttention
from vtc.nn.containers import ModuleList
from vtc.nn.dropout import Dropout
from vtc.nn.linear import Linear
from vtc.nn.module import Module
from vtc.nn.norm import LayerNorm
from vtc.runtime.device import Device

Activation = str | Callable[[Tensor], Tensor]


@final
class TransformerEncoderLayer(Module):
    """Self-attention, then two products with ``activation`` between; residuals around both.

    ``norm_first`` normalizes what goes into each part, otherwise what comes out of each sum.
    """

    def __init__(
        self,
        d_model: int,
        nhead: int,
        dim_feedforward: int = 2048,
        dropout: float = 0.1,
        activation: Activation = F.relu,
        layer_norm_eps: float = 1e-5,
        batch_first: bool = False,
        norm_first: bool = False,
        bias: bool = True,
        device: Device | str | None = None,
        dtype: DType | None = None,
    ) -> None:
        self.self_attn = MultiheadAttention(
            d_model, nhead, dropout, bias, batch_first=batch_first, device=device, dtype=dtype
        )
        self.linear1 = Linear(d_model, dim_feedforward, bias, device, dtype)
        self.dropout = Dropout(dropout)
        self.linear2 = Linear(dim_feedforward, d_model, bias, device, dtype)
        self.norm_first, self.activation = norm_first, _function(activation)
        norm = (d_model, layer_norm_eps, True, bias, device, dtype)
        self.norm1, self.norm2 = LayerNorm(*norm), LayerNorm(*norm)
        self.dropout1, self.dropout2 = Dropout(dropout), Dropout(dropout)

    def forward(
        self,
        src: Tensor,
        src_mask: Tensor | None = None,
        src_key_padding_mask: Tensor | None = None,
        is_causal: bool = False,
    ) -> Tensor:
        x, masks = src, (src_mask, src_key_padding_mask, is_causal)
        if self.norm_first:
            x = x + _attend(self.self_attn, self.dropout1, self.norm1(x), None, *masks)
            x = x + self._products(self.norm2(x))
        else:
            x = self.norm1(x + _attend(self.self_attn, self.dropout1, x, None, *masks))
            x = self.norm2(x + self._products(x))
        return x

    def _products(self, x: Tensor) -> Tensor:
        y: Tensor = self.dropout2(self.linear2(self.dropout(self.activation(self.linear1(x)))))
        return y


@final
class TransformerDecoderLayer(Module):
    """As the encoder's layer, with attention to ``memory`` between its two parts."""

    def __init__(
        self,
        d_model: int,
        nhead: int,
        dim_feedforward: int = 2048,
        dropout: float = 0.1,
        activation: Activation = F.relu,
        layer_norm_eps: float = 1e-5,
        batch_first: bool = False,
        norm_first: bool = False,
        bias: bool = True,
        device: Device | str | None = None,
        dtype: DType | None = None,
    ) -> None:
        self.self_attn, self.multihead_attn = (
            MultiheadAttention(
                d_model, nhead, dropout, bias, batch_first=batch_first, device=device, dtype=dtype
            )
            for _ in range(2)
        )
        self.linear1 = Linear(d_model, dim_feedforward, bias, device, dtype)
        self.dropout = Dropout(dropout)
        self.linear2 = Linear(dim_feedforward, d_model, bias, device, dtype)
        self.norm_first, self.activation = norm_first, _function(activation)
        norm = (d_model, layer_norm_eps, True, bias, device, dtype)
        self.norm1, self.norm2, self.norm3 = (LayerNorm(*norm) for _ in range(3))
        self.dropout1, self.dropout2, self.dropout3 = (Dropout(dropout) for _ in range(3))

    def forward(
        self,
        tgt: Tensor,
        memory: Tensor,
        tgt_mask: Tensor | None = None,
        memory_mask: Tensor | None = None,
        tgt_key_padding_mask: Tensor | None = None,
        memory_key_padding_mask: Tensor | None = None,
        tgt_is_causal: bool = False,
        memory_is_causal: bool = False,
    ) -> Tensor:
        own = (tgt_mask, tgt_key_padding_mask, tgt_is_causal)
        other = (memory_mask, memory_key_padding_mask, memory_is_causal)
        x = tgt
        if self.norm_first:
            x = x + _attend(self.self_attn, self.dropout1, self.norm1(x), None, *own)
            x = x + _attend(self.multihead_attn, self.dropout2, self.norm2(x), memory, *other)
            x = x + self._products(self.norm3(x))
        else:
            x = self.norm1(x + _attend(self.self_attn, self.dropout1, x, None, *own))
            x = self.norm2(x + _attend(self.multihead_attn, self.dropout2, x, memory, *other))
            x = self.norm3(x + self._products(x))
        return x

    def _products(self, x: Tensor) -> Tensor:
        y: Tensor = self.dropout3(self.linear2(self.dropout(self.activation(self.linear1(x)))))
        return y


def _attend(
    attention: MultiheadAttention,
    drop: Dropout,
    x: Tensor,
    memory: Tensor | None,
    mask: Tensor | None,
    padding: Tensor | None,
    is_causal: bool,
) -> Tensor:
    other = x if memory is None else memory
    out, _ = attention(x, other, other, padding, False, mask, is_causal=is_causal)
    dropped: Tensor = drop(out)
    return dropped


@final
class TransformerEncoder(Module):
    """``num_layers`` copies of ``encoder_layer``, and ``norm`` at the end."""

    def __init__(
        self, encoder_layer: TransformerEncoderLayer, num_layers: int, norm: Module | None = None
    ) -> None:
        self.layers = ModuleList(copy.deepcopy(encoder_layer) for _ in range(num_layers))
        self.num_layers, self.norm = num_layers, norm

    def forward(
        self,
        src: Tensor,
        mask: Tensor | None = None,
        src_key_padding_mask: Tensor | None = None,
        is_causal: bool | None = None,
    ) -> Tensor:
        x = src
        for layer in self.layers:
            x = layer(x, mask, src_key_padding_mask, bool(is_causal))
        return x if self.norm is None else self.norm(x)


@final
class TransformerDecoder(Module):
    """``num_layers`` copies of ``decoder_layer``, and ``norm`` at the end."""

    def __init__(
        self, decoder_layer: TransformerDecoderLayer, num_layers: int, norm: Module | None = None
    ) -> None:
        self.layers = ModuleList(copy.deepcopy(decoder_layer) for _ in range(num_layers))
        self.num_layers, self.norm = num_layers, norm

    def forward(
        self,
        tgt: Tensor,
        memory: Tensor,
        tgt_mask: Tensor | None = None,
        memory_mask: Tensor | None = None,
        tgt_key_padding_mask: Tensor | None = None,
        memory_key_padding_mask: Tensor | None = None,
        tgt_is_causal: bool | None = None,
        memory_is_causal: bool = False,
    ) -> Tensor:
        masks = (tgt_mask, memory_mask, tgt_key_padding_mask, memory_key_padding_mask)
        x = tgt
        for layer in self.layers:
            x = layer(x, memory, *masks, bool(tgt_is_causal), memory_is_causal)
        return x if self.norm is None else self.norm(x)


@final
class Transformer(Module):
    """An encoder of ``src`` and a decoder of ``tgt`` that attends to it."""

    def __init__(
        self,
        d_model: int = 512,
        nhead: int = 8,
        num_encoder_layers: int = 6,
        num_decoder_layers: int = 6,
        dim_feedforward: int = 2048,
        dropout: float = 0.1,
        activation: Activation = F.relu,
        custom_encoder: Module | None = None,
        custom_decoder: Module | None = None,
        layer_norm_eps: float = 1e-5,
        batch_first: bool = False,
        norm_first: bool = False,
        bias: bool = True,
        device: Device | str | None = None,
        dtype: DType | None = None,
    ) -> None:
        width = (d_model, nhead, dim_feedforward, dropout, activation, layer_norm_eps)
        options = (batch_first, norm_first, bias, device, dtype)
        norm = (d_model, layer_norm_eps, True, bias, device, dtype)
        self.encoder: Module = custom_encoder or TransformerEncoder(
            TransformerEncoderLayer(*width, *options), num_encoder_layers, LayerNorm(*norm)
        )
        self.decoder: Module = custom_decoder or TransformerDecoder(
            TransformerDecoderLayer(*width, *options), num_decoder_layers, LayerNorm(*norm)
        )
        self.d_model, self.nhead, self.batch_first = d_model, nhead, batch_first
        for p in self.parameters():
            if p.ndim > 1:
                init.xavier_uniform_(p)

    def forward(
        self,
        src: Tensor,
        tgt: Tensor,
        src_mask: Tensor | None = None,
        tgt_mask: Tensor | None = None,
        memory_mask: Tensor | None = None,
        src_key_padding_mask: Tensor | None = None,
        tgt_key_padding_mask: Tensor | None = None,
        memory_key_padding_mask: Tensor | None = None,
        src_is_causal: bool | None = None,
        tgt_is_causal: bool | None = None,
        memory_is_causal: bool = False,
    ) -> Tensor:
        memory = self.encoder(src, src_mask, src_key_padding_mask, src_is_causal)
        masks = (tgt_mask, memory_mask, tgt_key_padding_mask, memory_key_padding_mask)
        out: Tensor = self.decoder(tgt, memory, *masks, tgt_is_causal, memory_is_causal)
        return out

    @staticmethod
    def generate_square_subsequent_mask(
        sz: int, device: Device | str | None = None, dtype: DType | None = None
    ) -> Tensor:
        """``[sz, sz]``: minus infinity above the diagonal, elsewhere 0; to add to scores."""
        return triu(full((sz, sz), -math.inf, device=device, dtype=dtype), 1)


def _function(activation: Activation) -> Callable[[Tensor], Tensor]:
    if not isinstance(activation, str):
        return activation
    if activation not in ("relu", "gelu"):
        raise located(
            ArgumentError, f"Transformer: expected activation 'relu' or 'gelu', got {activation!r}"
        )
    return F.relu if activation == "relu" else F.gelu
