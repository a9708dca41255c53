"""Normalization by the statistics of a batch or of each sample: BatchNorm, InstanceNorm, 1d to 3d.

The running figures are buffers that training writes in place, inside a compiled step too. ::

    layer = nn.BatchNorm2d(16)
    y = layer(x)                  # [N, 16, H, W]; moves running_mean and running_var
    layer.eval()                  # from now on by those
"""

from __future__ import annotations

from abc import ABC, abstractmethod

from vtc.errors import TypeCheckError
from vtc.frontend import dispatch
from vtc.frontend.functions.creation import empty, ones, zeros
from vtc.frontend.source import located
from vtc.frontend.tensor import Tensor
from vtc.ir.types import DType, i64
from vtc.nn import functional as F
from vtc.nn import init
from vtc.nn.module import Module
from vtc.nn.parameter import Buffer, Parameter
from vtc.runtime.device import Device


class Running(Module, ABC):
    """Scale and shift per channel, and figures that follow those of the batches."""

    ranks: tuple[int, ...]
    """How many dims an input may have."""

    def __init__(
        self,
        num_features: int,
        eps: float,
        momentum: float | None,
        affine: bool,
        track_running_stats: bool,
        device: Device | str | None,
        dtype: DType | None,
        *,
        bias: bool,
    ) -> None:
        self.num_features, self.eps, self.momentum = num_features, eps, momentum
        self.affine, self.track_running_stats = affine, track_running_stats
        self.weight: Tensor | None = None
        self.bias: Tensor | None = None
        self.running_mean: Tensor | None = None
        self.running_var: Tensor | None = None
        self.num_batches_tracked: Tensor | None = None
        if affine:
            self.weight = Parameter(empty(num_features, device=device, dtype=dtype))
        if affine and bias:
            self.bias = Parameter(empty(num_features, device=device, dtype=dtype))
        if track_running_stats:
            self.running_mean = Buffer(zeros(num_features, device=device, dtype=dtype))
            self.running_var = Buffer(ones(num_features, device=device, dtype=dtype))
            self.num_batches_tracked = Buffer(zeros((), device=device, dtype=i64))
        self.reset_parameters()

    def reset_running_stats(self) -> None:
        """Mean 0, variance 1, no batch seen."""
        if self.running_mean is not None and self.running_var is not None:
            init.zeros_(self.running_mean)
            init.ones_(self.running_var)
        if self.num_batches_tracked is not None:
            init.zeros_(self.num_batches_tracked)

    def reset_parameters(self) -> None:
        """Scale 1, shift 0, and the running figures as at first."""
        self.reset_running_stats()
        if self.weight is not None:
            init.ones_(self.weight)
        if self.bias is not None:
            init.zeros_(self.bias)

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """The normalized input."""

    def _check(self, x: Tensor) -> None:
        if x.ndim not in self.ranks:
            dims = " or ".join(map(str, self.ranks))
            name = type(self).__name__
            raise located(TypeCheckError, f"{name}: expected {dims} dims, got {x.type}")

    def extra_repr(self) -> str:
        return (
            f"{self.num_features}, eps={self.eps}, momentum={self.momentum}, "
            f"affine={self.affine}, bias={self.bias is not None}, "
            f"track_running_stats={self.track_running_stats}"
        )


class BatchNorm(Running, ABC):
    """Mean 0, variance 1 per channel over a batch; then a learned scale and shift.

    While training by the batch itself, whose figures move the running ones by ``momentum`` (None:
    they are the plain mean of all batches); in evaluation by the running ones, or again by the
    batch where ``track_running_stats`` is off.
    """

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        device: Device | str | None = None,
        dtype: DType | None = None,
        *,
        bias: bool = True,
    ) -> None:
        options = (eps, momentum, affine, track_running_stats, device, dtype)
        super().__init__(num_features, *options, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        self._check(x)
        moves = self.training and self.track_running_stats
        uses = not self.training or self.track_running_stats
        return F.batch_norm(
            x,
            self.running_mean if uses else None,
            self.running_var if uses else None,
            self.weight,
            self.bias,
            self.training or self.running_mean is None,
            self._share() if moves else 0.0,
            self.eps,
        )

    def _share(self) -> float | Tensor:
        """How far the running figures move; counts this batch."""
        count = self.num_batches_tracked
        if count is not None:
            with dispatch.no_grad():
                dispatch.write(count, count + 1)
        if self.momentum is not None or count is None:
            return self.momentum or 0.0
        return 1.0 / count.to(self.running_mean.dtype) if self.running_mean is not None else 0.0


class BatchNorm1d(BatchNorm):
    """Batch normalization of ``[N, C]`` or ``[N, C, L]``."""

    ranks = (2, 3)


class BatchNorm2d(BatchNorm):
    """Batch normalization of ``[N, C, H, W]``."""

    ranks = (4,)


class BatchNorm3d(BatchNorm):
    """Batch normalization of ``[N, C, D, H, W]``."""

    ranks = (5,)


class InstanceNorm(Running, ABC):
    """Mean 0, variance 1 per channel of each sample; by default nothing is learned or tracked."""

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float = 0.1,
        affine: bool = False,
        track_running_stats: bool = False,
        device: Device | str | None = None,
        dtype: DType | None = None,
        *,
        bias: bool = True,
    ) -> None:
        options = (eps, momentum, affine, track_running_stats, device, dtype)
        super().__init__(num_features, *options, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        self._check(x)
        single = x.ndim == self.ranks[0]
        y = F.instance_norm(
            x.unsqueeze(0) if single else x,
            self.running_mean,
            self.running_var,
            self.weight,
            self.bias,
            self.training or not self.track_running_stats,
            self.momentum or 0.0,
            self.eps,
        )
        return y.squeeze(0) if single else y


class InstanceNorm1d(InstanceNorm):
    """Instance normalization of ``[N, C, L]`` or ``[C, L]``."""

    ranks = (2, 3)


class InstanceNorm2d(InstanceNorm):
    """Instance normalization of ``[N, C, H, W]`` or ``[C, H, W]``."""

    ranks = (3, 4)


class InstanceNorm3d(InstanceNorm):
    """Instance normalization of ``[N, C, D, H, W]`` or ``[C, D, H, W]``."""

    ranks = (4, 5)
