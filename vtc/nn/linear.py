"""Layers that are one product or one lookup: Linear, Bilinear, Embedding, EmbeddingBag."""

from __future__ import annotations

import math
from abc import ABC
from typing import Any, final

from vtc.errors import ArgumentError
from vtc.frontend import dispatch
from vtc.frontend.functions.creation import empty
from vtc.frontend.source import located
from vtc.frontend.tensor import Tensor
from vtc.ir.types import DType
from vtc.nn import functional as F
from vtc.nn import init
from vtc.nn.module import Module
from vtc.nn.parameter import Parameter
from vtc.runtime.device import Device


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
class Bilinear(Module):
    """``x1 @ weight[o] @ x2 + bias[o]``; ``weight`` is ``[out, in1, in2]`` features."""

    def __init__(
        self,
        in1_features: int,
        in2_features: int,
        out_features: int,
        bias: bool = True,
        device: Device | str | None = None,
        dtype: DType | None = None,
    ) -> None:
        self.in1_features, self.in2_features = in1_features, in2_features
        self.out_features = out_features
        shape = (out_features, in1_features, in2_features)
        self.weight = Parameter(empty(shape, device=device, dtype=dtype))
        self.bias: Tensor | None = None
        if bias:
            self.bias = Parameter(empty(out_features, device=device, dtype=dtype))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw weight and bias anew, as PyTorch does: uniform within ``1 / sqrt(in1_features)``."""
        bound = 1.0 / math.sqrt(self.in1_features)
        init.uniform_(self.weight, -bound, bound)
        if self.bias is not None:
            init.uniform_(self.bias, -bound, bound)

    def forward(self, x1: Tensor, x2: Tensor) -> Tensor:
        return F.bilinear(x1, x2, self.weight, self.bias)

    def extra_repr(self) -> str:
        return (
            f"in1_features={self.in1_features}, in2_features={self.in2_features}, "
            f"out_features={self.out_features}, bias={self.bias is not None}"
        )


class Rows(Module, ABC):
    """A table ``weight`` of ``num_embeddings`` rows that indices pick from."""

    padding_idx: int | None
    max_norm: float | None
    norm_type: float
    scale_grad_by_freq: bool

    def _make(
        self,
        num_embeddings: int,
        embedding_dim: int,
        padding_idx: int | None,
        weight: Tensor | None,
        device: Device | str | None,
        dtype: DType | None,
    ) -> None:
        if padding_idx is not None and not -num_embeddings <= padding_idx < num_embeddings:
            raise located(
                ArgumentError,
                f"{type(self).__name__}: expected padding_idx below {num_embeddings}, "
                f"got {padding_idx}",
            )
        self.num_embeddings, self.embedding_dim = num_embeddings, embedding_dim
        self.padding_idx = padding_idx if padding_idx is None else padding_idx % num_embeddings
        if weight is not None:
            self.weight = Parameter(weight)
            return
        self.weight = Parameter(empty(num_embeddings, embedding_dim, device=device, dtype=dtype))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the weight anew, as PyTorch does: standard normal, zero at ``padding_idx``."""
        init.normal_(self.weight)
        if self.padding_idx is not None:
            with dispatch.no_grad():
                self.weight[self.padding_idx] = 0.0

    def shown(self, **usual: object) -> str:
        """The sizes, and the options that are not as ``usual``."""
        options = {name: getattr(self, name) for name in usual}
        unusual = [f"{name}={found!r}" for name, found in options.items() if found != usual[name]]
        return ", ".join([str(self.num_embeddings), str(self.embedding_dim), *unusual])


@final
class Embedding(Rows):
    """Row ``i`` of ``weight`` for each index ``i``; row ``padding_idx`` starts and stays zero.

    ``max_norm`` shortens the rows that are used, in place; ``scale_grad_by_freq`` divides their
    gradients by how often they are used. Gradients are dense, ``sparse`` or not.
    """

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        padding_idx: int | None = None,
        max_norm: float | None = None,
        norm_type: float = 2.0,
        scale_grad_by_freq: bool = False,
        sparse: bool = False,
        _weight: Tensor | None = None,
        *,
        device: Device | str | None = None,
        dtype: DType | None = None,
    ) -> None:
        self.max_norm, self.norm_type = max_norm, norm_type
        self.scale_grad_by_freq, self.sparse = scale_grad_by_freq, sparse
        self._make(num_embeddings, embedding_dim, padding_idx, _weight, device, dtype)

    @staticmethod
    def from_pretrained(
        embeddings: Tensor, freeze: bool = True, padding_idx: int | None = None, **options: Any
    ) -> Embedding:
        """A layer over rows that are there; ``freeze`` keeps them from training."""
        rows, columns = (int(n) for n in embeddings.shape)
        layer = Embedding(rows, columns, padding_idx, **options, _weight=embeddings)
        layer.weight.requires_grad_(not freeze)
        return layer

    def forward(self, x: Tensor) -> Tensor:
        options: dict[str, Any] = {}
        if self.max_norm is not None:
            options |= {"max_norm": self.max_norm, "norm_type": self.norm_type}
        if self.scale_grad_by_freq:
            options["scale_grad_by_freq"] = True
        return F.embedding(x, self.weight, padding_idx=self.padding_idx, **options)

    def extra_repr(self) -> str:
        limits = {"max_norm": None, "norm_type": 2, "scale_grad_by_freq": False}
        return self.shown(padding_idx=None, **limits, sparse=False)


@final
class EmbeddingBag(Rows):
    """The sum, mean or largest of the rows of each bag of indices.

    Bags are the rows of a matrix of indices, or begin at ``offsets`` in a vector of them.
    Gradients are dense, ``sparse`` or not.
    """

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        max_norm: float | None = None,
        norm_type: float = 2.0,
        scale_grad_by_freq: bool = False,
        mode: str = "mean",
        sparse: bool = False,
        _weight: Tensor | None = None,
        include_last_offset: bool = False,
        padding_idx: int | None = None,
        *,
        device: Device | str | None = None,
        dtype: DType | None = None,
    ) -> None:
        self.max_norm, self.norm_type = max_norm, norm_type
        self.scale_grad_by_freq, self.mode, self.sparse = scale_grad_by_freq, mode, sparse
        self.include_last_offset = include_last_offset
        self._make(num_embeddings, embedding_dim, padding_idx, _weight, device, dtype)

    def forward(
        self, x: Tensor, offsets: Tensor | None = None, per_sample_weights: Tensor | None = None
    ) -> Tensor:
        return F.embedding_bag(
            x,
            self.weight,
            offsets,
            self.max_norm,
            self.norm_type,
            self.scale_grad_by_freq,
            self.mode,
            per_sample_weights=per_sample_weights,
            include_last_offset=self.include_last_offset,
            padding_idx=self.padding_idx,
        )

    def extra_repr(self) -> str:
        limits = {"max_norm": None, "norm_type": 2, "scale_grad_by_freq": False}
        return self.shown(**limits, mode="", padding_idx=None)


def reset_fan_in(weight: Tensor, bias: Tensor | None) -> None:
    """What PyTorch gives Linear and Conv2d: both uniform within ``1 / sqrt(fan_in)``."""
    init.kaiming_uniform_(weight, a=math.sqrt(5.0))
    if bias is not None:
        bound = 1.0 / math.sqrt(max(init.fan_in(weight), 1))
        init.uniform_(bias, -bound, bound)
