"""What PyTorch users know as ``F.name``; the functions live in ``vtc/frontend/functions``."""

from __future__ import annotations

from vtc.frontend.functions.activation import (
    elu,
    gelu,
    glu,
    hardtanh,
    leaky_relu,
    log_softmax,
    logsigmoid,
    mish,
    relu,
    relu6,
    sigmoid,
    silu,
    softmax,
    softmin,
    softplus,
)
from vtc.frontend.functions.attention import rotary_embedding, scaled_dot_product_attention
from vtc.frontend.functions.contract import linear
from vtc.frontend.functions.conv import (
    adaptive_avg_pool2d,
    avg_pool2d,
    conv1d,
    conv2d,
    max_pool2d,
)
from vtc.frontend.functions.elementwise import tanh
from vtc.frontend.functions.index import embedding, one_hot
from vtc.frontend.functions.loss import (
    binary_cross_entropy_with_logits,
    cosine_similarity,
    cross_entropy,
    huber_loss,
    kl_div,
    l1_loss,
    mse_loss,
    nll_loss,
    smooth_l1_loss,
)
from vtc.frontend.functions.normalization import (
    batch_norm,
    group_norm,
    layer_norm,
    normalize,
    rms_norm,
)
from vtc.frontend.functions.random import dropout
from vtc.frontend.functions.rearrange import pad

__all__ = [
    "adaptive_avg_pool2d",
    "avg_pool2d",
    "batch_norm",
    "binary_cross_entropy_with_logits",
    "conv1d",
    "conv2d",
    "cosine_similarity",
    "cross_entropy",
    "dropout",
    "elu",
    "embedding",
    "gelu",
    "glu",
    "group_norm",
    "hardtanh",
    "huber_loss",
    "kl_div",
    "l1_loss",
    "layer_norm",
    "leaky_relu",
    "linear",
    "log_softmax",
    "logsigmoid",
    "max_pool2d",
    "mish",
    "mse_loss",
    "nll_loss",
    "normalize",
    "one_hot",
    "pad",
    "relu",
    "relu6",
    "rms_norm",
    "rotary_embedding",
    "scaled_dot_product_attention",
    "sigmoid",
    "silu",
    "smooth_l1_loss",
    "softmax",
    "softmin",
    "softplus",
    "tanh",
]
