"""Attention, and rotary position embeddings.

scaled_dot_product_attention(q, k, v, is_causal=True)      # [.., T, D], [.., S, D], [.., S, E]
rotary_embedding(q, cos, sin)                              # cos and sin: [T, D / 2]
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from vtc.errors import ArgumentError, TypeCheckError
from vtc.frontend import dispatch
from vtc.frontend.functions import (
    activation,
    comparison,
    contract,
    creation,
    elementwise,
    random,
    rearrange,
    view,
)
from vtc.frontend.functions.arguments import expect_tensor
from vtc.frontend.functions.promotion import common_shape, expand_to
from vtc.frontend.source import located
from vtc.ir.ops.attention import Rotary, ScaledDotProductAttention
from vtc.ir.types import bool_

if TYPE_CHECKING:
    from vtc.frontend.tensor import Tensor

NAME = "scaled_dot_product_attention"


def scaled_dot_product_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """``softmax(query @ key.T * scale + mask) @ value``; ``scale`` None is ``1 / sqrt(D)``.

    ``attn_mask`` broadcasts to ``[.., T, S]``: bool says where to attend, floats are added.
    ``is_causal`` lets row t attend to columns up to t. With ``enable_gqa`` query may have a
    multiple of the heads (dim -3) of key and value, which serve equal groups of them. A row that
    attends to nothing gives 0.
    """
    for name, x in (("query", query), ("key", key), ("value", value)):
        expect_tensor(NAME, name, x)
        if x.type.rank < 2:
            raise located(
                TypeCheckError, f"{NAME}: expected 2 dims or more in {name}, got {x.type}"
            )
    if is_causal and attn_mask is not None:
        raise located(ArgumentError, f"{NAME}: expected attn_mask or is_causal, got both")
    if enable_gqa:
        for x in (key, value):
            _check_heads(query, x)
    grouped = enable_gqa and not dropout_p and int(key.shape[-3]) == int(value.shape[-3])
    if enable_gqa and not grouped:
        key, value = (_repeat_heads(query, x) for x in (key, value))
    q, k, v = _one_group(query, key, value) if grouped else _one_batch(query, key, value)
    factor = 1.0 / math.sqrt(int(query.shape[-1])) if scale is None else float(scale)
    if dropout_p:
        return _with_dropout(q, k, v, attn_mask, dropout_p, is_causal, factor)
    op = ScaledDotProductAttention(is_causal=is_causal, scale=factor)
    masks = [] if attn_mask is None else [attn_mask]
    out, _ = dispatch.apply_tuple(op, q, k, v, *masks)
    return out


def _check_heads(query: Tensor, x: Tensor) -> None:
    if query.type.rank < 3 or x.type.rank < 3:
        got = f"got {query.type} and {x.type}"
        raise located(TypeCheckError, f"{NAME}: expected heads in dim -3, {got}")
    many, few = int(query.shape[-3]), int(x.shape[-3])
    if few == 0 or many % few:
        got = f"got {query.type} and {x.type}"
        raise located(
            TypeCheckError, f"{NAME}: expected query heads to be a multiple of key heads, {got}"
        )


def _repeat_heads(query: Tensor, x: Tensor) -> Tensor:
    many, few = int(query.shape[-3]), int(x.shape[-3])
    return x if many == few else rearrange.repeat_interleave(x, many // few, -3)


def _one_group(query: Tensor, *others: Tensor) -> list[Tensor]:
    """All with one batch, each with its own heads."""
    tensors = (query, *others)
    lead = common_shape(NAME, [t.type.with_shape(t.type.shape[:-3]) for t in tensors])
    return [expand_to(NAME, t, (*lead, *t.type.shape[-3:])) for t in tensors]


def _one_batch(*tensors: Tensor) -> list[Tensor]:
    lead = common_shape(NAME, [t.type.with_shape(t.type.shape[:-2]) for t in tensors])
    return [expand_to(NAME, t, (*lead, *t.type.shape[-2:])) for t in tensors]


def _with_dropout(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None,
    dropout_p: float,
    is_causal: bool,
    scale: float,
) -> Tensor:
    """Spelled out: the weights themselves are what drops."""
    scores = elementwise.mul(contract.matmul(q, view.transpose(k, -2, -1)), scale)
    if is_causal:
        sizes = scores.type.shape[-2:]
        mask = rearrange.tril(creation.ones(sizes, dtype=bool_, device=q.device))
    hidden = None
    if mask is not None and mask.type.dtype is bool_:
        scores = comparison.where(mask, scores, -math.inf)
        hidden = comparison.logical_not(mask)
    elif mask is not None:
        scores = elementwise.add(scores, mask)
    weights = activation.softmax(scores, -1)
    if hidden is not None:  # a row that attends to nothing is 0, not NaN
        weights = comparison.masked_fill(weights, hidden, 0.0)
    return contract.matmul(random.dropout(weights, dropout_p), v)


def rotary_embedding(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """``x [.., T, D]``, each pair of its halves turned by the angle of ``cos, sin [T, D / 2]``."""
    for name, t in (("x", x), ("cos", cos), ("sin", sin)):
        expect_tensor("rotary_embedding", name, t)
    return dispatch.apply(Rotary(), x, cos, sin)
