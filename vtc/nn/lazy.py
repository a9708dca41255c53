"""Layers that learn the size of their input from the first one: ``nn.LazyLinear`` and its like.

layer = nn.LazyLinear(10)
layer(x)                      # [N, 784]: now it is an nn.Linear(784, 10)

Until then their parameters have a dtype and a device and no shape. Call a model once (or load a
state dict) before it is compiled and before an optimizer is made for it.
"""

from __future__ import annotations

from abc import ABC
from typing import Any, ClassVar, final

from vtc.errors import ArgumentError, CaptureError, TypeCheckError
from vtc.frontend import dispatch
from vtc.frontend.source import located
from vtc.frontend.tensor import Tensor
from vtc.ir.types import DType
from vtc.nn import init
from vtc.nn.batchnorm import (
    BatchNorm1d,
    BatchNorm2d,
    BatchNorm3d,
    InstanceNorm1d,
    InstanceNorm2d,
    InstanceNorm3d,
)
from vtc.nn.conv import (
    Conv1d,
    Conv2d,
    Conv3d,
    ConvTranspose1d,
    ConvTranspose2d,
    ConvTranspose3d,
)
from vtc.nn.linear import Linear
from vtc.nn.module import Module
from vtc.nn.parameter import (
    UninitializedBuffer,
    UninitializedParameter,
    is_lazy,
    is_parameter,
    materialize,
)
from vtc.runtime.device import Device


class LazyModuleMixin(Module, ABC):
    """A module that makes its parameters from the first arguments it is called with.

    A subclass defines ``initialize_parameters``, which gives each UninitializedParameter a shape by
    ``materialize``; afterwards the module is a ``cls_to_become`` if that is set.
    """

    cls_to_become: type[Module] | None = None
    _initialized: bool = False

    def initialize_parameters(self, *args: Any, **kwargs: Any) -> None:
        """Make the parameters from what ``forward`` will be called with."""
        name = type(self).__name__
        raise located(ArgumentError, f"{name}: expected a method initialize_parameters, got none")

    def has_uninitialized_params(self) -> bool:
        """Whether a parameter or a buffer has no shape yet."""
        return any(map(is_lazy, vars(self).values()))

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self._initialized:
            return super().__call__(*args, **kwargs)
        name = type(self).__name__
        if dispatch.is_capturing():
            message = "a first call makes parameters; call the model once before it is compiled"
            raise located(CaptureError, f"{name}: {message}")
        self.initialize_parameters(*args, **kwargs)
        if self.has_uninitialized_params():
            raise located(ArgumentError, f"{name}: initialize_parameters left some without a shape")
        self._initialized = True
        if self.cls_to_become is not None:
            del self._initialized
            become: Any = self.cls_to_become
            self.__class__ = become
        return self(*args, **kwargs)


class _Sized(LazyModuleMixin, ABC):
    """A layer whose first argument, one number, is the size of a dim of its input."""

    size: ClassVar[str]
    """The attribute with that number."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.__dict__["_given"] = args, kwargs
        with init.skipped():
            like = self._made(0)
        for name, value in vars(like).items():
            if isinstance(value, Tensor) and value.ndim:
                kind = UninitializedParameter if is_parameter(value) else UninitializedBuffer
                setattr(self, name, kind(value.requires_grad, value.device, value.dtype))
            else:
                setattr(self, name, value)

    def _made(self, size: int) -> Module:
        """What this becomes for a size."""
        args, kwargs = self.__dict__["_given"]
        make: Any = self.cls_to_become
        made: Module = make(size, *args, **kwargs)
        return made

    def initialize_parameters(self, x: Tensor, *_: Any, **__: Any) -> None:
        """Make the parameters for inputs like ``x``."""
        found = self._size_in(x)
        setattr(self, self.size, found)
        if self.has_uninitialized_params():  # else a state dict was loaded
            like = self._made(found)
            for name, value in vars(self).items():
                if is_lazy(value):
                    drawn = getattr(like, name)
                    materialize(value, drawn.shape)
                    with dispatch.no_grad():
                        value.copy_(drawn)
        del self.__dict__["_given"]

    def _size_in(self, x: Tensor) -> int:
        """The number in question."""
        after = getattr(self.cls_to_become, "dims", 0)
        if x.ndim <= after:
            message = f"expected more than {after} dims, got {x.type}"
            raise located(TypeCheckError, f"{type(self).__name__}: {message}")
        return int(x.shape[-1 - after])

    def reset_parameters(self) -> None:
        """Nothing yet: they are drawn once they have shapes."""

    def extra_repr(self) -> str:
        with init.skipped():
            text: str = self._made(0).extra_repr()
        return text


class _Channels(_Sized, ABC):
    """A normalization: channels are dim 1."""

    size = "num_features"

    def __init__(
        self,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        device: Device | str | None = None,
        dtype: DType | None = None,
        *,
        bias: bool = True,
    ) -> None:
        super().__init__(eps, momentum, affine, track_running_stats, device, dtype, bias=bias)

    def _size_in(self, x: Tensor) -> int:
        if x.ndim < 2:
            message = f"expected two dims or more, got {x.type}"
            raise located(TypeCheckError, f"{type(self).__name__}: {message}")
        return int(x.shape[1])


@final
class LazyLinear(_Sized):
    """A Linear whose ``in_features`` is the last size of its first input."""

    cls_to_become, size = Linear, "in_features"


@final
class LazyConv1d(_Sized):
    """A Conv1d whose ``in_channels`` are those of its first input."""

    cls_to_become, size = Conv1d, "in_channels"


@final
class LazyConv2d(_Sized):
    """A Conv2d whose ``in_channels`` are those of its first input."""

    cls_to_become, size = Conv2d, "in_channels"


@final
class LazyConv3d(_Sized):
    """A Conv3d whose ``in_channels`` are those of its first input."""

    cls_to_become, size = Conv3d, "in_channels"


@final
class LazyConvTranspose1d(_Sized):
    """A ConvTranspose1d whose ``in_channels`` are those of its first input."""

    cls_to_become, size = ConvTranspose1d, "in_channels"


@final
class LazyConvTranspose2d(_Sized):
    """A ConvTranspose2d whose ``in_channels`` are those of its first input."""

    cls_to_become, size = ConvTranspose2d, "in_channels"


@final
class LazyConvTranspose3d(_Sized):
    """A ConvTranspose3d whose ``in_channels`` are those of its first input."""

    cls_to_become, size = ConvTranspose3d, "in_channels"


@final
class LazyBatchNorm1d(_Channels):
    """A BatchNorm1d whose ``num_features`` are those of its first input."""

    cls_to_become = BatchNorm1d


@final
class LazyBatchNorm2d(_Channels):
    """A BatchNorm2d whose ``num_features`` are those of its first input."""

    cls_to_become = BatchNorm2d


@final
class LazyBatchNorm3d(_Channels):
    """A BatchNorm3d whose ``num_features`` are those of its first input."""

    cls_to_become = BatchNorm3d


@final
class LazyInstanceNorm1d(_Channels):
    """An InstanceNorm1d whose ``num_features`` are those of its first input."""

    cls_to_become = InstanceNorm1d


@final
class LazyInstanceNorm2d(_Channels):
    """An InstanceNorm2d whose ``num_features`` are those of its first input."""

    cls_to_become = InstanceNorm2d


@final
class LazyInstanceNorm3d(_Channels):
    """An InstanceNorm3d whose ``num_features`` are those of its first input."""

    cls_to_become = InstanceNorm3d
