"""Layers that are one product or one lookup: Linear, Embedding."""

from __future__ import annotations

import math
from typing import final

from vtc.frontend import dispatch
from vtc.frontend.functions.creation import empty
from vtc.frontend.tensor import Tensor
from vtc.ir.types import DType
from vtc.nn import functional as F
from vtc.nn import init
from vtc.nn.module import Module
from vtc.nn.parameter import Parameter
from vtc.runtime.device import Device


@final
class Linear(Module):
    """``x @ weight.T + bias`` over the last dim; ``weight`` is ``[out_features, in_features]``."""

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        device: Device | str | None = None,
        dtype: DType | None = None,
    ) -> None:
        self.in_features, self.out_features = in_features, out_features
        self.weight = Parameter(empty(out_features, in_features, device=device, dtype=dtype))
        self.bias: Tensor | None = None
        if bias:
            self.bias = Parameter(empty(out_features, device=device, dtype=dtype))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw weight and bias anew, as PyTorch does: uniform within ``1 / sqrt(in_features)``."""
        reset_fan_in(self.weight, self.bias)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias)

    def extra_repr(self) -> str:
        bias = self.bias is not None
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={bias}"


@final
class Embedding(Module):
    """Row ``i`` of ``weight`` for each index ``i``; row ``padding_idx`` starts and stays zero."""

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        padding_idx: int | None = None,
        device: Device | str | None = None,
        dtype: DType | None = None,
    ) -> None:
        self.num_embeddings, self.embedding_dim = num_embeddings, embedding_dim
        self.padding_idx = padding_idx if padding_idx is None else padding_idx % num_embeddings
        self.weight = Parameter(empty(num_embeddings, embedding_dim, device=device, dtype=dtype))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the weight anew, as PyTorch does: standard normal, zero at ``padding_idx``."""
        init.normal_(self.weight)
        if self.padding_idx is not None:
            with dispatch.no_grad():
                self.weight[self.padding_idx] = 0.0

    def forward(self, x: Tensor) -> Tensor:
        return F.embedding(x, self.weight, padding_idx=self.padding_idx)

    def extra_repr(self) -> str:
        padding = "" if self.padding_idx is None else f", padding_idx={self.padding_idx}"
        return f"{self.num_embeddings}, {self.embedding_dim}{padding}"


def reset_fan_in(weight: Tensor, bias: Tensor | None) -> None:
    """What PyTorch gives Linear and Conv2d: both uniform within ``1 / sqrt(fan_in)``."""
    init.kaiming_uniform_(weight, a=math.sqrt(5.0))
    if bias is not None:
        bound = 1.0 / math.sqrt(max(init.fan_in(weight), 1))
        init.uniform_(bias, -bound, bound)
