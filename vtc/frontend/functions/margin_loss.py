"""Losses of distances and margins: pairs and triplets of vectors, scores above others.

triplet_margin_loss(anchor, positive, negative)
multi_margin_loss(scores, target)                    # [N, C] and int64 [N]
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from vtc.errors import ArgumentError, TypeCheckError
from vtc.frontend import dispatch
from vtc.frontend.functions import (
    activation,
    comparison,
    elementwise,
    index,
    reduce,
    scan,
    view,
)
from vtc.frontend.functions.arguments import expect_tensor
from vtc.frontend.functions.loss import check_reduction, reduced
from vtc.frontend.functions.promotion import cast
from vtc.frontend.source import located
from vtc.ir.ops.fill import Iota
from vtc.ir.types import i64

if TYPE_CHECKING:
    from vtc.frontend.tensor import Tensor


def pairwise_distance(
    x1: Tensor, x2: Tensor, p: float = 2.0, eps: float = 1e-6, keepdim: bool = False
) -> Tensor:
    """The ``p``-norm of ``x1 - x2 + eps`` along the last dim."""
    apart = elementwise.add(elementwise.sub(x1, x2), eps)
    return reduce.norm(apart, p, -1, keepdim)


def triplet_margin_loss(
    anchor: Tensor,
    positive: Tensor,
    negative: Tensor,
    margin: float = 1.0,
    p: float = 2,
    eps: float = 1e-6,
    swap: bool = False,
    reduction: str = "mean",
) -> Tensor:
    """How much farther than ``margin`` short of the negative the positive is from the anchor.

    ``swap``: the negative counts by its distance from the positive where that is smaller.
    """
    check_reduction("triplet_margin_loss", reduction)
    near = pairwise_distance(anchor, positive, p, eps)
    far = pairwise_distance(anchor, negative, p, eps)
    if swap:
        far = elementwise.minimum(far, pairwise_distance(positive, negative, p, eps))
    return reduced(_above(elementwise.add(elementwise.sub(near, far), margin)), reduction)


def triplet_margin_with_distance_loss(
    anchor: Tensor,
    positive: Tensor,
    negative: Tensor,
    *,
    distance_function: Callable[[Tensor, Tensor], Tensor] | None = None,
    margin: float = 1.0,
    swap: bool = False,
    reduction: str = "mean",
) -> Tensor:
    """:func:`triplet_margin_loss` by any ``distance_function``, by default the Euclidean one."""
    expect_tensor("triplet_margin_with_distance_loss", "anchor", anchor)
    expect_tensor("triplet_margin_with_distance_loss", "positive", positive)
    expect_tensor("triplet_margin_with_distance_loss", "negative", negative)
    name = "triplet_margin_with_distance_loss"
    check_reduction(name, reduction)
    if margin <= 0:
        raise located(ArgumentError, f"{name}: expected margin > 0, got {margin}")
    if not anchor.ndim == positive.ndim == negative.ndim:
        types = ", ".join(str(x.type) for x in (anchor, positive, negative))
        raise located(TypeCheckError, f"{name}: expected tensors of one rank, got {types}")
    distance = distance_function or pairwise_distance
    near, far = distance(anchor, positive), distance(anchor, negative)
    if swap:
        far = elementwise.minimum(far, distance(positive, negative))
    return reduced(_above(elementwise.add(elementwise.sub(near, far), margin)), reduction)


def margin_ranking_loss(
    input1: Tensor, input2: Tensor, target: Tensor, margin: float = 0.0, reduction: str = "mean"
) -> Tensor:
    """``max(0, margin - target * (input1 - input2))``; ``target`` is 1 where the first should rank
    higher, else -1.
    """
    check_reduction("margin_ranking_loss", reduction)
    lead = elementwise.mul(target, elementwise.sub(input1, input2))
    return reduced(_above(elementwise.sub(margin, lead)), reduction)


def hinge_embedding_loss(
    input: Tensor, target: Tensor, margin: float = 1.0, reduction: str = "mean"
) -> Tensor:
    """The distance ``input`` where ``target`` is 1, ``max(0, margin - input)`` where it is -1."""
    check_reduction("hinge_embedding_loss", reduction)
    beyond = comparison.where(comparison.ne(target, 1), _above(elementwise.sub(margin, input)), 0.0)
    own = comparison.where(comparison.ne(target, -1), input, 0.0)
    return reduced(elementwise.add(beyond, own), reduction)


def cosine_embedding_loss(
    input1: Tensor, input2: Tensor, target: Tensor, margin: float = 0.0, reduction: str = "mean"
) -> Tensor:
    """1 minus the cosine of vectors along the last dim where ``target`` is 1, and what the cosine
    has above ``margin`` where it is -1.
    """
    check_reduction("cosine_embedding_loss", reduction)
    squares = [elementwise.add(reduce.sum(elementwise.square(x), -1), 1e-12)
               for x in (input1, input2)]  # fmt: skip
    product = reduce.sum(elementwise.mul(input1, input2), -1)
    cosine = elementwise.div(product, elementwise.sqrt(elementwise.mul(*squares)))
    alike = comparison.where(comparison.eq(target, 1), elementwise.sub(1, cosine), 0.0)
    unlike = comparison.where(
        comparison.eq(target, -1), _above(elementwise.sub(cosine, margin)), 0.0
    )
    return reduced(elementwise.add(alike, unlike), reduction)


def soft_margin_loss(input: Tensor, target: Tensor, reduction: str = "mean") -> Tensor:
    """``log(1 + exp(-target * input))`` without overflow; ``target`` is 1 or -1."""
    check_reduction("soft_margin_loss", reduction)
    loss = elementwise.neg(activation.logsigmoid(elementwise.mul(target, input)))
    return reduced(loss, reduction)


def multi_margin_loss(
    input: Tensor,
    target: Tensor,
    p: int = 1,
    margin: float = 1.0,
    weight: Tensor | None = None,
    reduction: str = "mean",
) -> Tensor:
    """The mean over other classes of ``max(0, margin - own + other) ** p``, where ``own`` is the
    score of ``input [N, C]`` at ``target``, int64 ``[N]``; ``weight [C]`` weighs classes.
    """
    expect_tensor("multi_margin_loss", "input", input)
    expect_tensor("multi_margin_loss", "target", target)
    check_reduction("multi_margin_loss", reduction)
    if p not in (1, 2):
        raise located(ArgumentError, f"multi_margin_loss: expected p of 1 or 2, got {p}")
    x, t = input.type, target.type
    if x.rank not in (1, 2) or t.shape != x.shape[:-1] or t.dtype is not i64:
        got = f"got {x} and {t}"
        raise located(TypeCheckError, f"multi_margin_loss: expected [N, C] and i64[N], {got}")
    at = view.unsqueeze(target, -1)
    own = index.gather(input, -1, at)
    loss = _above(elementwise.add(elementwise.sub(input, own), margin))
    loss = elementwise.square(loss) if p == 2 else loss
    if weight is not None:
        loss = elementwise.mul(loss, view.unsqueeze(index.take(weight, target), -1))
    classes = dispatch.create(Iota(shape=x.shape, axis=x.rank - 1, dtype=i64), input.device)
    others = comparison.where(comparison.eq(classes, at), 0.0, loss)
    return reduced(reduce.mean(others, -1), reduction)


def multilabel_margin_loss(input: Tensor, target: Tensor, reduction: str = "mean") -> Tensor:
    """The sum of ``max(0, 1 - own + other)`` over pairs of a class in ``target`` and one that is
    not, divided by the number of classes ``C``.

    ``input [N, C]`` or ``[C]`` holds scores, ``target`` int64 classes, as many as come before the
    first negative one.
    """
    expect_tensor("multilabel_margin_loss", "input", input)
    expect_tensor("multilabel_margin_loss", "target", target)
    name = "multilabel_margin_loss"
    check_reduction(name, reduction)
    x, t = input.type, target.type
    if x.rank not in (1, 2) or t.shape != x.shape or t.dtype is not i64:
        got = f"got {x} and {t}"
        raise located(TypeCheckError, f"{name}: expected [N, C] and i64[N, C], {got}")
    before = scan.cumprod(cast(comparison.ge(target, 0), i64), -1)
    chosen = comparison.gt(before, 0)
    at: Tensor = comparison.where(chosen, target, 0)
    own = view.unsqueeze(index.gather(input, -1, at), -1)
    gaps = _above(elementwise.add(elementwise.sub(view.unsqueeze(input, -2), own), 1.0))
    taken = index.scatter_add(elementwise.mul(before, 0), -1, at, before)
    others = view.unsqueeze(comparison.eq(taken, 0), -2)
    pairs = comparison.logical_and(view.unsqueeze(chosen, -1), others)
    loss = reduce.sum(comparison.where(pairs, gaps, 0.0), (-2, -1))
    return reduced(elementwise.div(loss, int(input.shape[-1])), reduction)


def multilabel_soft_margin_loss(
    input: Tensor, target: Tensor, weight: Tensor | None = None, reduction: str = "mean"
) -> Tensor:
    """The mean over classes, the last dim, of the cross-entropy of ``sigmoid(input)`` with 0 or 1
    in ``target``; ``weight [C]`` weighs classes.
    """
    check_reduction("multilabel_soft_margin_loss", reduction)
    yes = elementwise.mul(target, activation.logsigmoid(input))
    no = activation.logsigmoid(elementwise.neg(input))
    loss = elementwise.neg(elementwise.add(yes, elementwise.mul(elementwise.sub(1, target), no)))
    loss = loss if weight is None else elementwise.mul(loss, weight)
    return reduced(reduce.mean(loss, -1), reduction)


def _above(x: Tensor) -> Tensor:
    return elementwise.clamp(x, min=0)
