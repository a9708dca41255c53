"""A batch normalization in evaluation mode folded into the layer before it (PyTorch's names).

conv = nn.utils.fuse_conv_bn_eval(conv.eval(), bn.eval())       # conv(x) is now bn(conv(x))
"""

from __future__ import annotations

import copy
from typing import TypeVar

from vtc.errors import ArgumentError
from vtc.frontend import dispatch
from vtc.frontend.functions.creation import ones_like, zeros_like
from vtc.frontend.source import located
from vtc.frontend.tensor import Tensor
from vtc.nn.batchnorm import BatchNorm
from vtc.nn.conv import Convolution
from vtc.nn.linear import Linear
from vtc.nn.module import Module
from vtc.nn.parameter import Parameter

C = TypeVar("C", bound=Convolution)


def fuse_conv_bn_eval(conv: C, bn: BatchNorm, transpose: bool = False) -> C:
    """A convolution that computes ``bn(conv(x))``; ``transpose`` for a transposed one.

    ArgumentError unless both are in evaluation mode and ``bn`` has running figures.
    """
    mean, var = _figures("fuse_conv_bn_eval", conv, bn)
    fused = copy.deepcopy(conv)
    fused.weight, fused.bias = fuse_conv_bn_weights(
        conv.weight, conv.bias, mean, var, bn.eps, bn.weight, bn.bias, transpose
    )
    return fused


def fuse_conv_bn_weights(
    conv_w: Tensor,
    conv_b: Tensor | None,
    bn_rm: Tensor,
    bn_rv: Tensor,
    bn_eps: float,
    bn_w: Tensor | None,
    bn_b: Tensor | None,
    transpose: bool = False,
) -> tuple[Tensor, Tensor]:
    """Weight and bias of :func:`fuse_conv_bn_eval`, with the dtypes of those of the convolution."""
    rest = (1,) * (conv_w.ndim - 2)
    shape = (1, -1, *rest) if transpose else (-1, 1, *rest)
    return _folded(conv_w, conv_b, bn_rm, bn_rv, bn_eps, bn_w, bn_b, shape)


def fuse_linear_bn_eval(linear: Linear, bn: BatchNorm) -> Linear:
    """A Linear that computes ``bn(linear(x))`` of ``x``, ``[N, in_features]``.

    ArgumentError unless both are in evaluation mode, ``bn`` has running figures, and as many
    features as ``linear`` has outputs, or one.
    """
    mean, var = _figures("fuse_linear_bn_eval", linear, bn)
    if bn.num_features not in (linear.out_features, 1):
        got = f"got {bn.num_features}"
        message = f"expected a bn of {linear.out_features} features or of 1, {got}"
        raise located(ArgumentError, f"fuse_linear_bn_eval: {message}")
    fused = copy.deepcopy(linear)
    fused.weight, fused.bias = fuse_linear_bn_weights(
        linear.weight, linear.bias, mean, var, bn.eps, bn.weight, bn.bias
    )
    return fused


def fuse_linear_bn_weights(
    linear_w: Tensor,
    linear_b: Tensor | None,
    bn_rm: Tensor,
    bn_rv: Tensor,
    bn_eps: float,
    bn_w: Tensor | None,
    bn_b: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Weight and bias of :func:`fuse_linear_bn_eval`, with the dtypes of those of the layer."""
    return _folded(linear_w, linear_b, bn_rm, bn_rv, bn_eps, bn_w, bn_b, (-1, 1))


def _folded(
    w: Tensor,
    b: Tensor | None,
    mean: Tensor,
    var: Tensor,
    eps: float,
    scale: Tensor | None,
    shift: Tensor | None,
    shape: tuple[int, ...],
) -> tuple[Tensor, Tensor]:
    with dispatch.no_grad():
        factor = (var + eps).rsqrt() * (ones_like(mean) if scale is None else scale)
        bias = zeros_like(mean) if b is None else b
        bias = (bias - mean) * factor + (0.0 if shift is None else shift)
        weight = (w * factor.reshape(shape)).to(w.dtype)
        bias = bias.to(w.dtype if b is None else b.dtype)
    learned = w.requires_grad
    return Parameter(weight, learned), Parameter(bias, learned if b is None else b.requires_grad)


def _figures(what: str, layer: Module, bn: BatchNorm) -> tuple[Tensor, Tensor]:
    if layer.training or bn.training:
        raise located(ArgumentError, f"{what}: expected both in evaluation mode; call eval()")
    if bn.running_mean is None or bn.running_var is None:
        raise located(ArgumentError, f"{what}: expected running_mean and running_var, got none")
    return bn.running_mean, bn.running_var
