"""Activations as layers.

nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.Linear(8, 2), nn.LogSoftmax(-1))
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import final

from vtc.frontend import dispatch
from vtc.frontend.functions.creation import full
from vtc.frontend.tensor import Tensor
from vtc.ir.types import DType
from vtc.nn import functional as F
from vtc.nn import init as initial
from vtc.nn.module import Module
from vtc.nn.parameter import Parameter
from vtc.runtime.device import Device


class InPlace(Module, ABC):
    """An activation that may write its result over its input."""

    inplace: bool = False

    @abstractmethod
    def compute(self, x: Tensor) -> Tensor:
        """The activation of ``x``."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.compute(x)
        return dispatch.write(x, y) if self.inplace else y

    def options(self) -> str:
        """What the repr shows besides ``inplace``."""
        return ""

    def extra_repr(self) -> str:
        shown = [text for text in (self.options(), "inplace=True" if self.inplace else "") if text]
        return ", ".join(shown)


@final
class ReLU(InPlace):
    """``max(x, 0)``."""

    def __init__(self, inplace: bool = False) -> None:
        self.inplace = inplace

    def compute(self, x: Tensor) -> Tensor:
        """The activation of ``x``."""
        return F.relu(x)


@final
class LeakyReLU(InPlace):
    """``x``, times ``negative_slope`` below 0."""

    def __init__(self, negative_slope: float = 0.01, inplace: bool = False) -> None:
        self.negative_slope, self.inplace = negative_slope, inplace

    def compute(self, x: Tensor) -> Tensor:
        """The activation of ``x``."""
        return F.leaky_relu(x, self.negative_slope)

    def options(self) -> str:
        """What the repr shows besides ``inplace``."""
        return f"negative_slope={self.negative_slope}"


@final
class ReLU6(InPlace):
    """``x`` clamped to ``[0, 6]``."""

    def __init__(self, inplace: bool = False) -> None:
        self.inplace = inplace

    def compute(self, x: Tensor) -> Tensor:
        """The activation of ``x``."""
        return F.relu6(x)


@final
class Hardtanh(InPlace):
    """``x`` clamped to ``[min_val, max_val]``."""

    def __init__(self, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False) -> None:
        self.min_val, self.max_val, self.inplace = min_val, max_val, inplace

    def compute(self, x: Tensor) -> Tensor:
        """The activation of ``x``."""
        return F.hardtanh(x, self.min_val, self.max_val)

    def options(self) -> str:
        """What the repr shows besides ``inplace``."""
        return f"min_val={self.min_val}, max_val={self.max_val}"


@final
class Threshold(InPlace):
    """``x`` where it is above ``threshold``, elsewhere ``value``."""

    def __init__(self, threshold: float, value: float, inplace: bool = False) -> None:
        self.threshold, self.value, self.inplace = threshold, value, inplace

    def compute(self, x: Tensor) -> Tensor:
        """The activation of ``x``."""
        return F.threshold(x, self.threshold, self.value)

    def options(self) -> str:
        """What the repr shows besides ``inplace``."""
        return f"threshold={self.threshold}, value={self.value}"


@final
class ELU(InPlace):
    """``x``, or ``alpha * (exp(x) - 1)`` below 0."""

    def __init__(self, alpha: float = 1.0, inplace: bool = False) -> None:
        self.alpha, self.inplace = alpha, inplace

    def compute(self, x: Tensor) -> Tensor:
        """The activation of ``x``."""
        return F.elu(x, self.alpha)

    def options(self) -> str:
        """What the repr shows besides ``inplace``."""
        return f"alpha={self.alpha}"


@final
class CELU(InPlace):
    """``x``, or ``alpha * (exp(x / alpha) - 1)`` below 0."""

    def __init__(self, alpha: float = 1.0, inplace: bool = False) -> None:
        self.alpha, self.inplace = alpha, inplace

    def compute(self, x: Tensor) -> Tensor:
        """The activation of ``x``."""
        return F.celu(x, self.alpha)

    def options(self) -> str:
        """What the repr shows besides ``inplace``."""
        return f"alpha={self.alpha}"


@final
class SELU(InPlace):
    """ELU scaled so that mean 0 and variance 1 stay (Klambauer et al. 2017)."""

    def __init__(self, inplace: bool = False) -> None:
        self.inplace = inplace

    def compute(self, x: Tensor) -> Tensor:
        """The activation of ``x``."""
        return F.selu(x)


@final
class SiLU(InPlace):
    """``x * sigmoid(x)``."""

    def __init__(self, inplace: bool = False) -> None:
        self.inplace = inplace

    def compute(self, x: Tensor) -> Tensor:
        """The activation of ``x``."""
        return F.silu(x)


@final
class Mish(InPlace):
    """``x * tanh(softplus(x))``."""

    def __init__(self, inplace: bool = False) -> None:
        self.inplace = inplace

    def compute(self, x: Tensor) -> Tensor:
        """The activation of ``x``."""
        return F.mish(x)


@final
class Hardswish(InPlace):
    """``x * relu6(x + 3) / 6``."""

    def __init__(self, inplace: bool = False) -> None:
        self.inplace = inplace

    def compute(self, x: Tensor) -> Tensor:
        """The activation of ``x``."""
        return F.hardswish(x)


@final
class Hardsigmoid(InPlace):
    """``relu6(x + 3) / 6``."""

    def __init__(self, inplace: bool = False) -> None:
        self.inplace = inplace

    def compute(self, x: Tensor) -> Tensor:
        """The activation of ``x``."""
        return F.hardsigmoid(x)


@final
class RReLU(InPlace):
    """``x``, below 0 times a slope drawn from ``[lower, upper]``; its mean in evaluation."""

    def __init__(
        self, lower: float = 1.0 / 8.0, upper: float = 1.0 / 3.0, inplace: bool = False
    ) -> None:
        self.lower, self.upper, self.inplace = lower, upper, inplace

    def compute(self, x: Tensor) -> Tensor:
        """The activation of ``x``."""
        return F.rrelu(x, self.lower, self.upper, self.training)

    def options(self) -> str:
        """What the repr shows besides ``inplace``."""
        return f"lower={self.lower}, upper={self.upper}"


@final
class PReLU(Module):
    """``x``, below 0 times a learned slope: one, or one for each channel."""

    def __init__(
        self,
        num_parameters: int = 1,
        init: float = 0.25,
        device: Device | str | None = None,
        dtype: DType | None = None,
    ) -> None:
        self.num_parameters, self.init = num_parameters, init
        self.weight = Parameter(full((num_parameters,), init, device=device, dtype=dtype))

    def reset_parameters(self) -> None:
        """The slopes as at first."""
        initial.constant_(self.weight, self.init)

    def forward(self, x: Tensor) -> Tensor:
        return F.prelu(x, self.weight)

    def extra_repr(self) -> str:
        return f"num_parameters={self.num_parameters}"


@final
class GELU(Module):
    """``x`` times the normal distribution function at it; ``approximate`` is "none" or "tanh"."""

    def __init__(self, approximate: str = "none") -> None:
        self.approximate = approximate

    def forward(self, x: Tensor) -> Tensor:
        return F.gelu(x, self.approximate)

    def extra_repr(self) -> str:
        return f"approximate={self.approximate!r}"


@final
class GLU(Module):
    """The first half of ``dim`` times the sigmoid of the second."""

    def __init__(self, dim: int = -1) -> None:
        self.dim = dim

    def forward(self, x: Tensor) -> Tensor:
        return F.glu(x, self.dim)

    def extra_repr(self) -> str:
        return f"dim={self.dim}"


@final
class Sigmoid(Module):
    """``1 / (1 + exp(-x))``."""

    def forward(self, x: Tensor) -> Tensor:
        return F.sigmoid(x)


@final
class LogSigmoid(Module):
    """``log(sigmoid(x))`` without overflow."""

    def forward(self, x: Tensor) -> Tensor:
        return F.logsigmoid(x)


@final
class Tanh(Module):
    """Hyperbolic tangent."""

    def forward(self, x: Tensor) -> Tensor:
        return F.tanh(x)


@final
class Tanhshrink(Module):
    """``x - tanh(x)``."""

    def forward(self, x: Tensor) -> Tensor:
        return F.tanhshrink(x)


@final
class Hardshrink(Module):
    """``x``, but 0 within ``[-lambd, lambd]``."""

    def __init__(self, lambd: float = 0.5) -> None:
        self.lambd = lambd

    def forward(self, x: Tensor) -> Tensor:
        return F.hardshrink(x, self.lambd)

    def extra_repr(self) -> str:
        return f"{self.lambd}"


@final
class Softshrink(Module):
    """``x`` brought nearer to 0 by ``lambd``; 0 where it is as near."""

    def __init__(self, lambd: float = 0.5) -> None:
        self.lambd = lambd

    def forward(self, x: Tensor) -> Tensor:
        return F.softshrink(x, self.lambd)

    def extra_repr(self) -> str:
        return f"{self.lambd}"


@final
class Softsign(Module):
    """``x / (1 + |x|)``."""

    def forward(self, x: Tensor) -> Tensor:
        return F.softsign(x)


@final
class Softplus(Module):
    """``log(1 + exp(beta * x)) / beta``; ``x`` itself where ``beta * x > threshold``."""

    def __init__(self, beta: float = 1.0, threshold: float = 20.0) -> None:
        self.beta, self.threshold = beta, threshold

    def forward(self, x: Tensor) -> Tensor:
        return F.softplus(x, self.beta, self.threshold)

    def extra_repr(self) -> str:
        return f"beta={self.beta}, threshold={self.threshold}"


@final
class Softmax(Module):
    """``exp(x)`` divided by its sum along ``dim``."""

    def __init__(self, dim: int) -> None:
        self.dim = dim

    def forward(self, x: Tensor) -> Tensor:
        return F.softmax(x, self.dim)

    def extra_repr(self) -> str:
        return f"dim={self.dim}"


@final
class Softmin(Module):
    """Softmax of ``-x``."""

    def __init__(self, dim: int) -> None:
        self.dim = dim

    def forward(self, x: Tensor) -> Tensor:
        return F.softmin(x, self.dim)

    def extra_repr(self) -> str:
        return f"dim={self.dim}"


@final
class Softmax2d(Module):
    """Softmax over the channels of ``[N, C, H, W]`` or ``[C, H, W]``."""

    def forward(self, x: Tensor) -> Tensor:
        return F.softmax(x, -3)


@final
class LogSoftmax(Module):
    """The logarithm of softmax along ``dim``, without overflow."""

    def __init__(self, dim: int) -> None:
        self.dim = dim

    def forward(self, x: Tensor) -> Tensor:
        return F.log_softmax(x, self.dim)

    def extra_repr(self) -> str:
        return f"dim={self.dim}"
