"""Losses with weights of their own: AdaptiveLogSoftmaxWithLoss, LinearCrossEntropyLoss.

criterion = nn.AdaptiveLogSoftmaxWithLoss(512, 50_000, cutoffs=[2_000, 10_000])
output, loss = criterion(hidden, target)                # [N] log-probabilities, their mean
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple, final

from vtc.errors import ArgumentError, TypeCheckError
from vtc.frontend import dispatch
from vtc.frontend.functions.comparison import where
from vtc.frontend.functions.rearrange import cat
from vtc.frontend.source import located
from vtc.frontend.tensor import Tensor
from vtc.ir.types import DType
from vtc.nn import functional as F
from vtc.nn.containers import ModuleList, Sequential
from vtc.nn.linear import Linear
from vtc.nn.module import Module
from vtc.nn.parameter import Buffer
from vtc.runtime.device import Device


class ASMoutput(NamedTuple):
    """The log-probability of each target, and minus their mean."""

    output: Tensor
    loss: Tensor


@final
class AdaptiveLogSoftmaxWithLoss(Module):
    """Softmax over many classes, of which the rare ones share an output (Grave et al. 2017).

    Classes are sorted by how frequent they are: the first ``cutoffs[0]`` have an output each,
    others belong to clusters that end at the cutoffs, whose inputs are ``div_value`` times narrower
    from one to the next. ``forward`` takes ``[N, in_features]`` and int64 ``[N]``, or both without
    ``N``. All clusters are computed for all rows, so it compiles.
    """

    def __init__(
        self,
        in_features: int,
        n_classes: int,
        cutoffs: Sequence[int],
        div_value: float = 4.0,
        head_bias: bool = False,
        device: Device | str | None = None,
        dtype: DType | None = None,
    ) -> None:
        ends = list(cutoffs)
        rising = ends == sorted(set(ends)) and all(int(c) == c for c in ends)
        if not ends or not rising or ends[0] < 1 or ends[-1] >= n_classes:
            message = f"expected rising cutoffs from 1 to {n_classes - 1}, got {ends}"
            raise located(ArgumentError, f"AdaptiveLogSoftmaxWithLoss: {message}")
        self.in_features, self.n_classes, self.cutoffs = in_features, n_classes, [*ends, n_classes]
        self.div_value, self.head_bias = div_value, head_bias
        self.shortlist_size, self.n_clusters = ends[0], len(ends)
        self.head_size = self.shortlist_size + self.n_clusters
        self.head = Linear(in_features, self.head_size, head_bias, device, dtype)
        self.tail = ModuleList()
        for i, (start, end) in enumerate(pairwise(self.cutoffs)):
            width = int(in_features // div_value ** (i + 1))
            narrow = Linear(in_features, width, False, device, dtype)
            self.tail.append(Sequential(narrow, Linear(width, end - start, False, device, dtype)))

    def reset_parameters(self) -> None:
        """Draw all anew."""
        self.head.reset_parameters()
        for module in self.tail.modules():
            if isinstance(module, Linear):
                module.reset_parameters()

    def forward(self, input: Tensor, target: Tensor) -> ASMoutput:
        if target.ndim > 1 or input.ndim != target.ndim + 1 or input.shape[:-1] != target.shape:
            message = f"expected [N, in_features] and [N], got {input.type} and {target.type}"
            raise located(TypeCheckError, f"AdaptiveLogSoftmaxWithLoss: {message}")
        self._check_range(target)
        rows, classes = input.reshape(-1, self.in_features), target.reshape(-1)
        head = F.log_softmax(self.head(rows), -1)
        at = where(classes < self.shortlist_size, classes, 0)
        output = head.gather(1, at.unsqueeze(1)).squeeze(1)
        for i, (start, end) in enumerate(pairwise(self.cutoffs)):
            own = (classes >= start) & (classes < end)
            at = where(own, classes - start, 0).unsqueeze(1)
            inside = F.log_softmax(self.tail[i](rows), -1).gather(1, at).squeeze(1)
            output = where(own, inside + head[:, self.shortlist_size + i], output)
        loss = -output.mean()
        return ASMoutput(output if target.ndim else output.squeeze(0), loss)

    def log_prob(self, input: Tensor) -> Tensor:
        """The log-probabilities of all classes, ``[N, n_classes]`` of ``[N, in_features]``."""
        return self._all(input, F.log_softmax(self.head(input), -1))

    def predict(self, input: Tensor) -> Tensor:
        """The most probable classes, int64 ``[N]`` of ``[N, in_features]``.

        Where the head prefers a class to all clusters, it is that one.
        """
        head = F.log_softmax(self.head(input), -1)
        first = head.argmax(1)
        found: Tensor = where(first < self.shortlist_size, first, self._all(input, head).argmax(1))
        return found

    def _all(self, input: Tensor, head: Tensor) -> Tensor:
        parts = [head[:, : self.shortlist_size]]
        for i, module in enumerate(self.tail):
            inside = F.log_softmax(module(input), -1)
            parts.append(inside + head[:, self.shortlist_size + i].unsqueeze(1))
        return cat(parts, 1)

    def _check_range(self, target: Tensor) -> None:
        if dispatch.is_capturing() or not target.numel():
            return
        low, high = int(target.min()), int(target.max())
        if low < 0 or high >= self.n_classes:
            message = f"expected targets in [0, {self.n_classes - 1}], got {low} to {high}"
            raise located(ArgumentError, f"AdaptiveLogSoftmaxWithLoss: {message}")


@final
class LinearCrossEntropyLoss(Module):
    """A Linear and the cross-entropy of what it gives; see ``F.linear_cross_entropy``."""

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        *,
        out_features: tuple[int, ...] = (),
        bias: bool = False,
        device: Device | str | None = None,
        dtype: DType | None = None,
        reduction: str = "mean",
        weight: Tensor | None = None,
        ignore_index: int | None = None,
        label_smoothing: float = 0.0,
    ) -> None:
        if weight is not None and weight.type.shape != (num_classes,):
            message = f"expected weights of {num_classes} classes, got {weight.type}"
            raise located(TypeCheckError, f"LinearCrossEntropyLoss: {message}")
        self.num_classes, self.out_features = num_classes, tuple(out_features)
        self.reduction, self.ignore_index = reduction, ignore_index
        self.label_smoothing = label_smoothing
        self.weight = None if weight is None else Buffer(weight)
        outputs = num_classes * math.prod(out_features)
        self.linear = Linear(in_features, outputs, bias, device, dtype)

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        lead = (self.num_classes, *self.out_features)
        own, bias = self.linear.weight, self.linear.bias
        return F.linear_cross_entropy(
            input,
            own.reshape(*lead, self.linear.in_features),
            target,
            linear_bias=bias if bias is None else bias.reshape(lead),
            weight=self.weight,
            reduction=self.reduction,
            ignore_index=self.ignore_index,
            label_smoothing=self.label_smoothing,
        )

    def extra_repr(self) -> str:
        return (
            f"in_features={self.linear.in_features}, num_classes={self.num_classes}, "
            f"out_features={self.out_features}, bias={self.linear.bias is not None}, "
            f"reduction={self.reduction}, ignore_index={self.ignore_index}, "
            f"label_smoothing={self.label_smoothing}, options=None"
        )
