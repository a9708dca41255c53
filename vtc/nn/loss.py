"""Losses as layers; ``reduction`` is "mean", "sum" or "none". The formulas are in ``F``.

criterion = nn.CrossEntropyLoss(label_smoothing=0.1, ignore_index=-1)
loss = criterion(model(x), y)
"""

from __future__ import annotations

from abc import ABC
from collections.abc import Callable
from typing import Any, final

from vtc.errors import ArgumentError
from vtc.frontend.source import located
from vtc.frontend.tensor import Tensor
from vtc.nn import functional as F
from vtc.nn.module import Module
from vtc.nn.parameter import Buffer


class Loss(Module, ABC):
    """A loss with options: attributes that the function of the same names takes."""

    reductions: tuple[str, ...] = ("mean", "sum", "none")
    _options: tuple[str, ...] = ()

    def __init__(self, reduction: str, **options: Any) -> None:
        if reduction not in self.reductions:
            want = f"expected reduction one of {', '.join(self.reductions)}"
            raise located(ArgumentError, f"{type(self).__name__}: {want}, got {reduction!r}")
        self.reduction = reduction
        for name, value in options.items():
            setattr(self, name, Buffer(value) if isinstance(value, Tensor) else value)
        self.__dict__["_options"] = tuple(options)

    def _call(self, function: Callable[..., Tensor], *inputs: Any) -> Tensor:
        options = {name: getattr(self, name) for name in self._options}
        return function(*inputs, **options, reduction=self.reduction)


@final
class L1Loss(Loss):
    """The absolute difference."""

    def __init__(self, reduction: str = "mean") -> None:
        super().__init__(reduction)

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return self._call(F.l1_loss, input, target)


@final
class MSELoss(Loss):
    """The squared difference."""

    def __init__(self, reduction: str = "mean") -> None:
        super().__init__(reduction)

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return self._call(F.mse_loss, input, target)


@final
class SmoothL1Loss(Loss):
    """Squared below ``beta``, absolute above."""

    def __init__(self, reduction: str = "mean", beta: float = 1.0) -> None:
        super().__init__(reduction, beta=beta)

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return self._call(F.smooth_l1_loss, input, target)


@final
class HuberLoss(Loss):
    """Squared below ``delta``, absolute above."""

    def __init__(self, reduction: str = "mean", delta: float = 1.0) -> None:
        super().__init__(reduction, delta=delta)

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return self._call(F.huber_loss, input, target)


@final
class BCELoss(Loss):
    """The cross-entropy of probabilities with probabilities."""

    def __init__(self, weight: Tensor | None = None, reduction: str = "mean") -> None:
        super().__init__(reduction, weight=weight)

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return self._call(F.binary_cross_entropy, input, target)


@final
class BCEWithLogitsLoss(Loss):
    """The cross-entropy of ``sigmoid(input)`` with probabilities."""

    def __init__(
        self,
        weight: Tensor | None = None,
        reduction: str = "mean",
        pos_weight: Tensor | None = None,
    ) -> None:
        super().__init__(reduction, weight=weight, pos_weight=pos_weight)

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return self._call(F.binary_cross_entropy_with_logits, input, target)


@final
class CrossEntropyLoss(Loss):
    """The cross-entropy of softmax over classes with classes or probabilities."""

    def __init__(
        self,
        weight: Tensor | None = None,
        ignore_index: int = -100,
        reduction: str = "mean",
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__(
            reduction, weight=weight, ignore_index=ignore_index, label_smoothing=label_smoothing
        )

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return self._call(F.cross_entropy, input, target)


@final
class NLLLoss(Loss):
    """The negative of the log-probability of the target."""

    def __init__(
        self, weight: Tensor | None = None, ignore_index: int = -100, reduction: str = "mean"
    ) -> None:
        super().__init__(reduction, weight=weight, ignore_index=ignore_index)

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return self._call(F.nll_loss, input, target)


@final
class KLDivLoss(Loss):
    """``target * (log(target) - input)``."""

    reductions = ("mean", "sum", "none", "batchmean")

    def __init__(self, reduction: str = "mean", log_target: bool = False) -> None:
        super().__init__(reduction, log_target=log_target)

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return self._call(F.kl_div, input, target)


@final
class PoissonNLLLoss(Loss):
    """The negative log-likelihood of counts."""

    def __init__(
        self, log_input: bool = True, full: bool = False, eps: float = 1e-8, reduction: str = "mean"
    ) -> None:
        super().__init__(reduction, log_input=log_input, full=full, eps=eps)

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return self._call(F.poisson_nll_loss, input, target)


@final
class GaussianNLLLoss(Loss):
    """The negative log-likelihood of a normal distribution: mean, target, variance."""

    def __init__(self, *, full: bool = False, eps: float = 1e-6, reduction: str = "mean") -> None:
        super().__init__(reduction, full=full, eps=eps)

    def forward(self, input: Tensor, target: Tensor, var: Tensor) -> Tensor:
        return self._call(F.gaussian_nll_loss, input, target, var)


@final
class HingeEmbeddingLoss(Loss):
    """The distance where the target is 1, how far it is below ``margin`` where -1."""

    def __init__(self, margin: float = 1.0, reduction: str = "mean") -> None:
        super().__init__(reduction, margin=margin)

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return self._call(F.hinge_embedding_loss, input, target)


@final
class CosineEmbeddingLoss(Loss):
    """1 less the cosine where the target is 1, the cosine above ``margin`` where -1."""

    def __init__(self, margin: float = 0.0, reduction: str = "mean") -> None:
        super().__init__(reduction, margin=margin)

    def forward(self, input1: Tensor, input2: Tensor, target: Tensor) -> Tensor:
        return self._call(F.cosine_embedding_loss, input1, input2, target)


@final
class MarginRankingLoss(Loss):
    """How far the first falls short of the second by ``margin``, or the reverse."""

    def __init__(self, margin: float = 0.0, reduction: str = "mean") -> None:
        super().__init__(reduction, margin=margin)

    def forward(self, input1: Tensor, input2: Tensor, target: Tensor) -> Tensor:
        return self._call(F.margin_ranking_loss, input1, input2, target)


@final
class MultiMarginLoss(Loss):
    """How far other classes come within ``margin`` of the target's score."""

    def __init__(
        self, p: int = 1, margin: float = 1.0, weight: Tensor | None = None, reduction: str = "mean"
    ) -> None:
        super().__init__(reduction, p=p, margin=margin, weight=weight)

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return self._call(F.multi_margin_loss, input, target)


@final
class SoftMarginLoss(Loss):
    """``log(1 + exp(-target * input))``."""

    def __init__(self, reduction: str = "mean") -> None:
        super().__init__(reduction)

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return self._call(F.soft_margin_loss, input, target)


@final
class MultiLabelSoftMarginLoss(Loss):
    """The binary cross-entropy of several labels, their mean."""

    def __init__(self, weight: Tensor | None = None, reduction: str = "mean") -> None:
        super().__init__(reduction, weight=weight)

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return self._call(F.multilabel_soft_margin_loss, input, target)


@final
class TripletMarginLoss(Loss):
    """How much nearer than ``margin`` the negative is than the positive."""

    def __init__(
        self,
        margin: float = 1.0,
        p: float = 2.0,
        eps: float = 1e-6,
        swap: bool = False,
        reduction: str = "mean",
    ) -> None:
        super().__init__(reduction, margin=margin, p=p, eps=eps, swap=swap)

    def forward(self, anchor: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
        return self._call(F.triplet_margin_loss, anchor, positive, negative)


@final
class TripletMarginWithDistanceLoss(Module):
    """As TripletMarginLoss, by any ``distance_function``; by default the Euclidean one."""

    def __init__(
        self,
        *,
        distance_function: Callable[[Tensor, Tensor], Tensor] | None = None,
        margin: float = 1.0,
        swap: bool = False,
        reduction: str = "mean",
    ) -> None:
        if margin <= 0:
            message = f"TripletMarginWithDistanceLoss: expected margin > 0, got {margin}"
            raise located(ArgumentError, message)
        self.distance_function: Any = distance_function or PairwiseDistance()
        self.margin, self.swap, self.reduction = margin, swap, reduction

    def forward(self, anchor: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
        return F.triplet_margin_with_distance_loss(
            anchor,
            positive,
            negative,
            distance_function=self.distance_function,
            margin=self.margin,
            swap=self.swap,
            reduction=self.reduction,
        )


@final
class MultiLabelMarginLoss(Loss):
    """How far classes that count are from a margin of 1 above the others."""

    def __init__(self, reduction: str = "mean") -> None:
        super().__init__(reduction)

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return self._call(F.multilabel_margin_loss, input, target)


@final
class CTCLoss(Loss):
    """Labels without their times, by any alignment (Graves et al. 2006); see ``F.ctc_loss``."""

    def __init__(
        self, blank: int = 0, reduction: str = "mean", zero_infinity: bool = False
    ) -> None:
        super().__init__(reduction, blank=blank, zero_infinity=zero_infinity)

    def forward(
        self, log_probs: Tensor, targets: Tensor, input_lengths: Any, target_lengths: Any
    ) -> Tensor:
        return self._call(F.ctc_loss, log_probs, targets, input_lengths, target_lengths)


@final
class CosineSimilarity(Module):
    """The cosine of the angle between vectors along ``dim``."""

    def __init__(self, dim: int = 1, eps: float = 1e-8) -> None:
        self.dim, self.eps = dim, eps

    def forward(self, x1: Tensor, x2: Tensor) -> Tensor:
        return F.cosine_similarity(x1, x2, self.dim, self.eps)


@final
class PairwiseDistance(Module):
    """The ``p``-norm of ``x1 - x2 + eps`` along the last dim."""

    def __init__(self, p: float = 2.0, eps: float = 1e-6, keepdim: bool = False) -> None:
        self.norm, self.eps, self.keepdim = p, eps, keepdim

    def forward(self, x1: Tensor, x2: Tensor) -> Tensor:
        return (x1 - x2 + self.eps).norm(self.norm, -1, self.keepdim)
