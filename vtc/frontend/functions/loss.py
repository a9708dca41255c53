"""Losses: ``reduction`` is "mean", "sum" or "none".

cross_entropy(logits, target, ignore_index=-1)       # [N, C] or [N, C, ..] and int64 [N, ..]
mse_loss(y, target)
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from vtc.errors import ArgumentError, TypeCheckError
from vtc.frontend import dispatch
from vtc.frontend.functions import activation, comparison, contract, elementwise, reduce, view
from vtc.frontend.functions.arguments import expect_chances, expect_tensor, is_tensor, own_axis
from vtc.frontend.functions.creation import full_like
from vtc.frontend.functions.promotion import cast, common_shape, expand_to, result_type
from vtc.frontend.source import located
from vtc.ir.dims import product
from vtc.ir.ops.index import Gather, Index
from vtc.ir.ops.loss import BinaryCrossEntropy, CrossEntropy
from vtc.ir.types import i64

if TYPE_CHECKING:
    from vtc.frontend.tensor import Tensor


# classes


def cross_entropy(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Tensor:
    """The cross-entropy of softmax over classes of ``input [N, C, ..]`` with ``target``.

    ``target`` holds int64 classes ``[N, ..]``, or probabilities in the shape of ``input``;
    ``weight [C]`` weighs classes. "mean" divides by the weights of the targets that are not
    ``ignore_index``.
    """
    expect_tensor("cross_entropy", "input", input)
    expect_tensor("cross_entropy", "target", target)
    check_reduction("cross_entropy", reduction)
    if not 0 <= label_smoothing <= 1:
        want = "expected 0 <= label_smoothing <= 1"
        raise located(ArgumentError, f"cross_entropy: {want}, got {label_smoothing}")
    if target.type.dtype.kind == "float":
        return _soft_targets(input, target, weight, reduction, label_smoothing)
    logits, classes = _rows("cross_entropy", input, target)
    op = CrossEntropy(
        ignore_index=ignore_index, label_smoothing=float(label_smoothing), reduction=reduction
    )
    out = dispatch.apply(op, logits, classes, *([weight] if weight is not None else []))
    return view.reshape(out, target.type.shape) if reduction == "none" else out


def nll_loss(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
) -> Tensor:
    """The negative of the log-probability ``input [N, C, ..]`` at each int64 ``target [N, ..]``."""
    check_reduction("nll_loss", reduction)
    rows, classes = _rows("nll_loss", input, target)
    kept = comparison.ne(classes, ignore_index)
    safe: Tensor = comparison.where(kept, classes, 0)
    picked = view.squeeze(dispatch.apply(Gather(axis=1), rows, view.unsqueeze(safe, 1)), 1)
    share = cast(kept, rows.type.dtype)
    if weight is not None:
        share = elementwise.mul(share, dispatch.apply(Index(axes=(0,)), weight, safe))
    # A where and not a product alone: what is ignored may be infinite.
    loss: Tensor = comparison.where(kept, elementwise.neg(elementwise.mul(share, picked)), 0.0)
    if reduction == "none":
        return view.reshape(loss, target.type.shape)
    total = reduce.sum(loss)
    return elementwise.div(total, reduce.sum(share)) if reduction == "mean" else total


def _rows(name: str, input: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Scores as ``[N, C]``, and targets as int64 ``[N]``."""
    for argument, value in (("input", input), ("target", target)):
        expect_tensor(name, argument, value)
    x, shape = input.type, target.type.shape
    at = min(1, x.rank - 1)
    if x.rank == 0 or (*x.shape[:at], *x.shape[at + 1 :]) != shape:
        raise located(
            TypeCheckError, f"{name}: expected [N, C, ..] and [N, ..], got {x} and {target.type}"
        )
    if target.type.dtype.kind != "int":
        raise located(TypeCheckError, f"{name}: expected integer targets, got {target.type}")
    logits = input if at == x.rank - 1 else view.movedim(input, at, -1)
    sizes = (product(shape), x.shape[at])
    return view.reshape(logits, sizes), cast(view.reshape(target, sizes[:1]), i64)


def _soft_targets(
    input: Tensor, target: Tensor, weight: Tensor | None, reduction: str, smoothing: float
) -> Tensor:
    x = input.type
    if target.type.shape != x.shape or x.rank == 0:
        got = f"got {x} and {target.type}"
        raise located(
            TypeCheckError, f"cross_entropy: expected probabilities like the input, {got}"
        )
    at = min(1, x.rank - 1)
    logp = activation.log_softmax(input, at)
    if smoothing:
        even = smoothing / int(input.shape[at])
        target = elementwise.add(elementwise.mul(target, 1 - smoothing), even)
    terms = elementwise.mul(logp, target)
    if weight is not None:
        spread = view.reshape(weight, (*weight.type.shape, *(1,) * (x.rank - at - 1)))
        terms = elementwise.mul(terms, spread)
    rows = elementwise.neg(reduce.sum(terms, at))
    return reduced(rows, reduction)


def linear_cross_entropy(
    input: Tensor,
    linear_weight: Tensor,
    target: Tensor,
    *,
    linear_bias: Tensor | None = None,
    weight: Tensor | None = None,
    reduction: str = "mean",
    ignore_index: int | None = None,
    label_smoothing: float = 0.0,
) -> Tensor:
    """:func:`cross_entropy` of the scores ``input @ linear_weight.T + linear_bias``.

    ``input`` is ``[N, in]`` or ``[in]``; ``linear_weight [C, ..., in]`` may have more dims, which
    then are those of targets ``[N, ...]``.
    """
    expect_tensor("linear_cross_entropy", "input", input)
    expect_tensor("linear_cross_entropy", "linear_weight", linear_weight)
    name = "linear_cross_entropy"
    x, w = input.type, linear_weight.type
    if x.rank not in (1, 2) or w.rank < 2 or w.shape[-1] != x.shape[-1] or x.rank + 1 < w.rank > 2:
        raise located(TypeCheckError, f"{name}: expected [N, in] and [C, ..., in], got {x} and {w}")
    rows = view.reshape(linear_weight, (product(w.shape[:-1]), w.shape[-1]))
    bias = linear_bias if linear_bias is None else view.flatten(linear_bias)
    scores = contract.linear(input, rows, bias)
    scores = view.reshape(scores, (*x.shape[:-1], *w.shape[:-1]))
    ignored = -100 if ignore_index is None else ignore_index
    return cross_entropy(scores, target, weight, ignored, reduction, label_smoothing)


# numbers


def mse_loss(input: Tensor, target: Tensor, reduction: str = "mean") -> Tensor:
    """The squared difference."""
    return reduced(elementwise.square(_difference("mse_loss", input, target, reduction)), reduction)


def l1_loss(input: Tensor, target: Tensor, reduction: str = "mean") -> Tensor:
    """The absolute difference."""
    return reduced(elementwise.abs(_difference("l1_loss", input, target, reduction)), reduction)


def smooth_l1_loss(
    input: Tensor, target: Tensor, reduction: str = "mean", beta: float = 1.0
) -> Tensor:
    """``d ** 2 / (2 * beta)`` of differences ``d`` below ``beta``, of others ``|d| - beta / 2``."""
    if beta <= 0:
        return l1_loss(input, target, reduction)
    size = elementwise.abs(_difference("smooth_l1_loss", input, target, reduction))
    near = elementwise.mul(elementwise.square(size), 0.5 / beta)
    loss: Tensor = comparison.where(
        comparison.lt(size, beta), near, elementwise.sub(size, beta / 2)
    )
    return reduced(loss, reduction)


def huber_loss(
    input: Tensor, target: Tensor, reduction: str = "mean", delta: float = 1.0
) -> Tensor:
    """``delta`` times :func:`smooth_l1_loss` with ``beta=delta``."""
    if delta <= 0:
        raise located(ArgumentError, f"huber_loss: expected delta > 0, got {delta}")
    return elementwise.mul(smooth_l1_loss(input, target, reduction, delta), delta)


def binary_cross_entropy_with_logits(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    reduction: str = "mean",
    pos_weight: Tensor | None = None,
) -> Tensor:
    """The cross-entropy of ``sigmoid(input)`` with probabilities ``target`` of the same shape."""
    expect_tensor("binary_cross_entropy_with_logits", "input", input)
    expect_tensor("binary_cross_entropy_with_logits", "target", target)
    name = "binary_cross_entropy_with_logits"
    check_reduction(name, reduction)
    if input.type.shape != target.type.shape:
        got = f"got {input.type} and {target.type}"
        raise located(TypeCheckError, f"{name}: expected tensors of one shape, {got}")
    log_p = activation.logsigmoid(input)
    positive = elementwise.mul(
        target, log_p if pos_weight is None else elementwise.mul(log_p, pos_weight)
    )
    negative = elementwise.mul(elementwise.sub(1, target), elementwise.sub(log_p, input))
    loss = elementwise.neg(elementwise.add(positive, negative))
    return reduced(loss if weight is None else elementwise.mul(loss, weight), reduction)


def binary_cross_entropy(
    input: Tensor, target: Tensor, weight: Tensor | None = None, reduction: str = "mean"
) -> Tensor:
    """The cross-entropy of probabilities ``input`` with ``target``, of one shape; logarithms count
    as at least -100.

    ArgumentError unless both are in [0, 1]; a compiled function does not look at them, and NaN
    comes of an ``input`` outside.
    """
    expect_tensor("binary_cross_entropy", "input", input)
    expect_tensor("binary_cross_entropy", "target", target)
    check_reduction("binary_cross_entropy", reduction)
    if input.type.shape != target.type.shape:
        got = f"got {input.type} and {target.type}"
        raise located(TypeCheckError, f"binary_cross_entropy: expected tensors of one shape, {got}")
    expect_chances("binary_cross_entropy", "input", input)
    expect_chances("binary_cross_entropy", "target", target)
    dtype = result_type(input, target)
    loss = dispatch.apply(BinaryCrossEntropy(), cast(input, dtype), cast(target, dtype))
    return reduced(loss if weight is None else elementwise.mul(loss, weight), reduction)


def poisson_nll_loss(
    input: Tensor,
    target: Tensor,
    log_input: bool = True,
    full: bool = False,
    eps: float = 1e-8,
    reduction: str = "mean",
) -> Tensor:
    """The negative log-likelihood of counts ``target`` at rates ``input``, or their logarithms if
    ``log_input``; ``full`` adds Stirling's approximation of the factorial.
    """
    check_reduction("poisson_nll_loss", reduction)
    if log_input:
        loss = elementwise.sub(elementwise.exp(input), elementwise.mul(target, input))
    else:
        logs = elementwise.log(elementwise.add(input, eps))
        loss = elementwise.sub(input, elementwise.mul(target, logs))
    if full:
        few = comparison.le(target, 1)
        count: Tensor = comparison.where(few, 1.0, target)
        logs = elementwise.log(count)
        half = elementwise.mul(elementwise.add(logs, math.log(2 * math.pi)), 0.5)
        factorial = elementwise.add(elementwise.sub(elementwise.mul(count, logs), count), half)
        loss = elementwise.add(loss, comparison.where(few, 0.0, factorial))
    return reduced(loss, reduction)


def gaussian_nll_loss(
    input: Tensor,
    target: Tensor,
    var: Tensor | float,
    full: bool = False,
    eps: float = 1e-6,
    reduction: str = "mean",
) -> Tensor:
    """The negative log-likelihood of ``target`` in normal distributions of mean ``input`` and of
    ``var``, which counts as at least ``eps`` and may lack the last dim; ``full`` adds the constant.
    """
    check_reduction("gaussian_nll_loss", reduction)
    expect_tensor("gaussian_nll_loss", "input", input)
    expect_tensor("gaussian_nll_loss", "target", target)
    if is_tensor(var):
        missing = var.type.shape == input.type.shape[:-1] and var.type.rank < input.type.rank
        var = view.unsqueeze(var, -1) if missing else var
        below = elementwise.sub(elementwise.clamp(var, min=eps), var).detach()
        spread = elementwise.add(var, below)  # the gradient is that of var where it is too small
    else:
        spread = full_like(input, max(float(var), eps), requires_grad=False)
    squares = elementwise.div(elementwise.square(elementwise.sub(input, target)), spread)
    loss = elementwise.mul(elementwise.add(elementwise.log(spread), squares), 0.5)
    loss = elementwise.add(loss, 0.5 * math.log(2 * math.pi)) if full else loss
    return reduced(loss, reduction)


def kl_div(
    input: Tensor, target: Tensor, reduction: str = "mean", log_target: bool = False
) -> Tensor:
    """``target * (log(target) - input)``; ``log_target``: ``target`` holds logarithms too."""
    if log_target:
        loss = elementwise.mul(elementwise.exp(target), elementwise.sub(target, input))
    else:
        zero = comparison.eq(target, 0)
        log_p = elementwise.log(comparison.where(zero, 1.0, target))
        loss = elementwise.mul(target, elementwise.sub(log_p, input))
    if reduction == "batchmean":
        return elementwise.div(reduce.sum(loss), input.shape[own_axis("kl_div", 0, input.type)])
    check_reduction("kl_div", reduction)
    return reduced(loss, reduction)


def cosine_similarity(x1: Tensor, x2: Tensor, dim: int = 1, eps: float = 1e-8) -> Tensor:
    """The cosine of the angle between vectors along ``dim``; norms count as at least ``eps``."""
    expect_tensor("cosine_similarity", "x1", x1)
    expect_tensor("cosine_similarity", "x2", x2)
    shape = common_shape("cosine_similarity", [x1.type, x2.type])
    x, y = (expand_to("cosine_similarity", v, shape) for v in (x1, x2))
    sizes = [elementwise.clamp(reduce.norm(v, 2, dim), min=eps) for v in (x, y)]
    return elementwise.div(reduce.sum(elementwise.mul(x, y), dim), elementwise.mul(*sizes))


def _difference(name: str, input: Tensor, target: Tensor, reduction: str) -> Tensor:
    check_reduction(name, reduction)
    for argument, value in (("input", input), ("target", target)):
        expect_tensor(name, argument, value)
    shape = common_shape(name, [input.type, target.type])
    return elementwise.sub(expand_to(name, input, shape), target)


def check_reduction(name: str, reduction: str) -> None:
    """ArgumentError unless ``reduction`` is one that losses know."""
    if reduction not in ("mean", "sum", "none"):
        want = "expected reduction 'mean', 'sum' or 'none'"
        raise located(ArgumentError, f"{name}: {want}, got {reduction!r}")


def reduced(loss: Tensor, reduction: str) -> Tensor:
    """``loss`` of every element, or its mean or sum."""
    if reduction == "none":
        return loss
    return reduce.mean(loss) if reduction == "mean" else reduce.sum(loss)
