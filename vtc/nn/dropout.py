"""Dropout layers: of elements, of whole channels, and the one for SELU. Active while training.

nn.Sequential(nn.Conv2d(3, 16, 3), nn.Dropout2d(0.2))
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import final

from vtc.errors import ArgumentError
from vtc.frontend.source import located
from vtc.frontend.tensor import Tensor
from vtc.nn import functional as F
from vtc.nn.module import Module


class Dropping(Module, ABC):
    """A layer with the probability ``p`` of dropping."""

    def __init__(self, p: float = 0.5, inplace: bool = False) -> None:
        if not 0.0 <= p <= 1.0:
            name = type(self).__name__
            raise located(ArgumentError, f"{name}: expected 0 <= p <= 1, got {p}")
        self.p, self.inplace = p, inplace

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """``x`` with some of it dropped."""

    def extra_repr(self) -> str:
        return f"p={self.p}, inplace={self.inplace}"


@final
class Dropout(Dropping):
    """While training, zero with probability ``p``, elsewhere ``1 / (1 - p)`` times the input."""

    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.p, self.training, self.inplace)


@final
class Dropout1d(Dropping):
    """Dropout of whole channels of ``[N, C, L]`` or ``[C, L]``."""

    def forward(self, x: Tensor) -> Tensor:
        return F.dropout1d(x, self.p, self.training, self.inplace)


@final
class Dropout2d(Dropping):
    """Dropout of whole channels of ``[N, C, H, W]``."""

    def forward(self, x: Tensor) -> Tensor:
        return F.dropout2d(x, self.p, self.training, self.inplace)


@final
class Dropout3d(Dropping):
    """Dropout of whole channels of ``[N, C, D, H, W]`` or ``[C, D, H, W]``."""

    def forward(self, x: Tensor) -> Tensor:
        return F.dropout3d(x, self.p, self.training, self.inplace)


@final
class AlphaDropout(Dropping):
    """Dropout that keeps mean and variance behind SELU."""

    def forward(self, x: Tensor) -> Tensor:
        return F.alpha_dropout(x, self.p, self.training, self.inplace)


@final
class FeatureAlphaDropout(Dropping):
    """AlphaDropout of whole channels of ``[N, C, ..]``."""

    def forward(self, x: Tensor) -> Tensor:
        return F.feature_alpha_dropout(x, self.p, self.training, self.inplace)
