"""Modules, layers and what goes with them, by PyTorch's names: ``import vtc.nn as nn``."""

from vtc.nn import functional, init, utils
from vtc.nn.containers import ModuleList, Sequential
from vtc.nn.conv import AvgPool2d, Conv2d, MaxPool2d
from vtc.nn.linear import Embedding, Linear
from vtc.nn.module import Module
from vtc.nn.norm import LayerNorm, RMSNorm
from vtc.nn.parameter import Buffer, Parameter
from vtc.nn.parameterless import (
    ELU,
    GELU,
    Dropout,
    Flatten,
    Identity,
    LeakyReLU,
    LogSigmoid,
    LogSoftmax,
    Mish,
    ReLU,
    ReLU6,
    Sigmoid,
    SiLU,
    Softmax,
    Softplus,
    Tanh,
)

__all__ = [
    "ELU",
    "GELU",
    "AvgPool2d",
    "Buffer",
    "Conv2d",
    "Dropout",
    "Embedding",
    "Flatten",
    "Identity",
    "LayerNorm",
    "LeakyReLU",
    "Linear",
    "LogSigmoid",
    "LogSoftmax",
    "MaxPool2d",
    "Mish",
    "Module",
    "ModuleList",
    "Parameter",
    "RMSNorm",
    "ReLU",
    "ReLU6",
    "Sequential",
    "SiLU",
    "Sigmoid",
    "Softmax",
    "Softplus",
    "Tanh",
    "functional",
    "init",
    "utils",
]
