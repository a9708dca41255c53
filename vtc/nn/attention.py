"""Multi-head attention as a layer, with PyTorch's parameters and masks.

attention = nn.MultiheadAttention(64, 8, batch_first=True)
out, weights = attention(x, x, x, attn_mask=mask)          # mask True: do not attend there
"""

from __future__ import annotations

import math
from typing import final

from vtc.errors import ArgumentError, TypeCheckError
from vtc.frontend.functions.comparison import logical_not, logical_or
from vtc.frontend.functions.contract import matmul
from vtc.frontend.functions.creation import empty, zeros
from vtc.frontend.functions.rearrange import cat, pad
from vtc.frontend.source import located
from vtc.frontend.tensor import Tensor
from vtc.ir.types import DType, bool_
from vtc.nn import functional as F
from vtc.nn import init
from vtc.nn.linear import Linear
from vtc.nn.module import Module
from vtc.nn.parameter import Parameter
from vtc.runtime.device import Device


@final
class MultiheadAttention(Module):
    """Attention of ``query [T, N, E]`` to ``key [S, N, kdim]`` and ``value [S, N, vdim]``.

    ``batch_first``: ``[N, T, E]`` and so on; without ``N`` where there is no batch. ``add_bias_kv``
    appends a learned key and value, ``add_zero_attn`` one of zeros.
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        dropout: float = 0.0,
        bias: bool = True,
        add_bias_kv: bool = False,
        add_zero_attn: bool = False,
        kdim: int | None = None,
        vdim: int | None = None,
        batch_first: bool = False,
        device: Device | str | None = None,
        dtype: DType | None = None,
    ) -> None:
        if num_heads < 1 or embed_dim % num_heads:
            got = f"got {embed_dim} and {num_heads}"
            raise located(
                ArgumentError,
                f"MultiheadAttention: expected embed_dim divisible by num_heads, {got}",
            )
        self.embed_dim, self.num_heads, self.dropout = embed_dim, num_heads, dropout
        self.kdim = embed_dim if kdim is None else kdim
        self.vdim = embed_dim if vdim is None else vdim
        self.batch_first, self.add_zero_attn = batch_first, add_zero_attn
        e = embed_dim

        def parameter(*shape: int) -> Tensor:
            return Parameter(empty(shape, device=device, dtype=dtype))

        one = self.kdim == self.vdim == e
        self.in_proj_weight = parameter(3 * e, e) if one else None
        self.q_proj_weight = None if one else parameter(e, e)
        self.k_proj_weight = None if one else parameter(e, self.kdim)
        self.v_proj_weight = None if one else parameter(e, self.vdim)
        self.in_proj_bias = parameter(3 * e) if bias else None
        self.out_proj = Linear(e, e, bias=bias, device=device, dtype=dtype)
        self.bias_k = parameter(1, 1, e) if add_bias_kv else None
        self.bias_v = parameter(1, 1, e) if add_bias_kv else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the projections anew as PyTorch does: Xavier's, biases zero."""
        for weight in (
            self.in_proj_weight, self.q_proj_weight, self.k_proj_weight, self.v_proj_weight
        ):  # fmt: skip
            if weight is not None:
                init.xavier_uniform_(weight)
        for bias in (self.in_proj_bias, self.out_proj.bias):
            if bias is not None:
                init.zeros_(bias)
        for extra in (self.bias_k, self.bias_v):
            if extra is not None:
                init.xavier_normal_(extra)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """What is attended to, and the weights ``[N, T, S]`` (``[N, heads, T, S]``) or None.

        ``key_padding_mask [N, S]`` and ``attn_mask [T, S]`` or ``[N * heads, T, S]`` hide where
        they are True, or are added. ``is_causal`` says that ``attn_mask`` is the causal one.
        """
        if is_causal and attn_mask is None:
            message = "expected attn_mask with is_causal, which only describes it, got none"
            raise located(ArgumentError, f"MultiheadAttention: {message}")
        single = self._check(query, key, value)
        q, k, v = self._project(query, key, value, single=single)  # [N, heads, .., D]
        causal = is_causal and key_padding_mask is None and not need_weights
        given = None if causal else self._mask(attn_mask, q.shape[0])
        padding = key_padding_mask
        if padding is not None:
            padding = (padding.unsqueeze(0) if single else padding)[:, None, None, :]
        hidden = _widened(_joined(given, padding, q.dtype), k.shape[2])
        p = self.dropout if self.training else 0.0
        weights = None
        if need_weights:
            out, weights = _spelled_out(q, k, v, hidden, p)
        else:
            allowed = logical_not(hidden) if hidden is not None and _is_bool(hidden) else hidden
            out = F.scaled_dot_product_attention(q, k, v, allowed, p, is_causal=causal)
        return self._joined_heads(out, single=single), _shown(
            weights, single=single, average=average_attn_weights
        )

    def _check(self, query: Tensor, key: Tensor, value: Tensor) -> bool:
        """Whether there is no batch dim."""
        ranks = (query.ndim, key.ndim, value.ndim)
        if ranks not in ((2, 2, 2), (3, 3, 3)):
            got = f"got {query.type}, {key.type} and {value.type}"
            raise located(TypeCheckError, f"MultiheadAttention: expected 2 or 3 dims each, {got}")
        return ranks[0] == 2

    def _project(
        self, query: Tensor, key: Tensor, value: Tensor, *, single: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = self._products(query, key, value)
        if single:
            q, k, v = (x.unsqueeze(0) for x in (q, k, v))
        elif not self.batch_first:
            q, k, v = (x.transpose(0, 1) for x in (q, k, v))
        if self.bias_k is not None and self.bias_v is not None:
            n = k.shape[0]
            k = cat([k, self.bias_k.to(k.dtype).expand(n, 1, -1)], 1)
            v = cat([v, self.bias_v.to(v.dtype).expand(n, 1, -1)], 1)
        q, k, v = (self._heads(x) for x in (q, k, v))
        if self.add_zero_attn:
            k, v = (
                cat([x, zeros(*x.shape[:2], 1, x.shape[3], dtype=x.dtype, device=x.device)], 2)
                for x in (k, v)
            )
        return q, k, v

    def _products(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, ...]:
        """The three projections, as few products as the arguments allow."""
        e, weight, bias = self.embed_dim, self.in_proj_weight, self.in_proj_bias
        if weight is not None and query is key and key is value:
            return F.linear(query, weight, bias).chunk(3, -1)
        if weight is not None and key is value:
            first, rest = (None, None) if bias is None else (bias[:e], bias[e:])
            both = F.linear(key, weight[e:], rest).chunk(2, -1)
            return (F.linear(query, weight[:e], first), *both)
        if weight is not None:
            weights: tuple[Tensor | None, ...] = tuple(weight.chunk(3))
        else:
            weights = (self.q_proj_weight, self.k_proj_weight, self.v_proj_weight)
        biases = (None, None, None) if bias is None else bias.chunk(3)
        parts = zip((query, key, value), weights, biases, strict=True)
        return tuple(F.linear(x, w, b) for x, w, b in parts if w is not None)

    def _heads(self, x: Tensor) -> Tensor:
        n, t, e = x.shape
        return x.reshape(n, t, self.num_heads, e // self.num_heads).transpose(1, 2)

    def _joined_heads(self, out: Tensor, *, single: bool) -> Tensor:
        n, _, t, _ = out.shape
        y: Tensor = self.out_proj(out.transpose(1, 2).reshape(n, t, self.embed_dim))
        if single:
            return y.squeeze(0)
        return y if self.batch_first else y.transpose(0, 1)

    def _mask(self, mask: Tensor | None, n: int) -> Tensor | None:
        """``mask`` in four dims."""
        if mask is None or mask.ndim == 2:
            return None if mask is None else mask[None, None]
        if mask.ndim != 3 or mask.shape[0] != n * self.num_heads:
            raise located(
                TypeCheckError,
                "MultiheadAttention: expected attn_mask [T, S] or "
                f"[{n * self.num_heads}, T, S], got {mask.type}",
            )
        return mask.reshape(n, self.num_heads, *mask.shape[1:])


def _is_bool(x: Tensor) -> bool:
    return x.dtype is bool_


def _joined(a: Tensor | None, b: Tensor | None, dtype: DType) -> Tensor | None:
    """Both masks in one: where one hides, or what they add."""
    if a is None or b is None:
        return b if a is None else a
    if _is_bool(a) and _is_bool(b):
        return logical_or(a, b)
    return _added(a, dtype) + _added(b, dtype)


def _added(mask: Tensor, dtype: DType) -> Tensor:
    if not _is_bool(mask):
        return mask
    return zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill(mask, -math.inf)


def _widened(mask: Tensor | None, columns: int) -> Tensor | None:
    """``mask`` with columns that hide nothing for the keys that were appended."""
    if mask is None:
        return None
    more = columns - mask.shape[-1]
    if more and _is_bool(mask):
        open_ = zeros(*mask.shape[:-1], more, dtype=bool_, device=mask.device)
        return cat([mask, open_], -1)
    return pad(mask, (0, more)) if more else mask


def _spelled_out(
    q: Tensor, k: Tensor, v: Tensor, hidden: Tensor | None, dropout: float
) -> tuple[Tensor, Tensor]:
    """The result and the weights, which have to be made for that."""
    scores = matmul(q / math.sqrt(int(q.shape[-1])), k.transpose(-2, -1))
    if hidden is not None:
        scores = scores + _added(hidden, scores.dtype)
    weights = F.dropout(F.softmax(scores, -1), dropout)
    return matmul(weights, v), weights


def _shown(weights: Tensor | None, *, single: bool, average: bool) -> Tensor | None:
    if weights is None:
        return None
    found = weights.mean(1) if average else weights
    return found.squeeze(0) if single else found
