"""vtc: a graph-capture compiler for tensor programs.

    import vtc, vtc.nn as nn, vtc.nn.functional as F

    @vtc.compile
    def step(x, y): ...

Names follow PyTorch where PyTorch has the thing. Everything public is in the table below; a name
loads its module when it is first used, so ``import vtc`` stays fast.
"""

from __future__ import annotations

import importlib
from operator import attrgetter
from typing import Any

from vtc.version import __version__ as __version__

_TABLE: dict[str, tuple[str, ...]] = {
    "vtc.ir.types": (
        "float32=f32 float64=f64 float16=f16 bfloat16=bf16 float8_e4m3fn=f8e4m3 float8_e5m2=f8e5m2 "
        "bool=bool_ uint8=u8 int8=i8 int16=i16 int32=i32 int64=i64 complex64=c64 complex128=c128 "
        "float=f32 double=f64 half=f16 short=i16 int=i32 long=i64 cfloat=c64 cdouble=c128",
        "dtype=DType",
    ),
    "math": ("e pi inf nan",),
    "vtc.ir.dims": ("Dim",),
    "vtc.ir.text": ("parse", "show"),
    "vtc.ir.evaluate": ("evaluate",),
    "vtc.runtime.device": ("device=Device",),
    "vtc.runtime.threads": ("set_num_threads get_num_threads",),
    "vtc.runtime.package": ("load",),
    "vtc.errors": ("VtcError PackageError",),
    "vtc.frontend.tensor": ("Tensor",),
    "vtc.frontend.jit": ("compile", "mark_dynamic"),
    "vtc.frontend.transform": ("grad", "value_and_grad"),
    "vtc.frontend.vmap": ("vmap",),
    "vtc.frontend.autocast": ("autocast",),
    "vtc.frontend.checkpoint": ("checkpoint",),
    "vtc.frontend.flow": ("cond while_loop scan map",),
    "vtc.frontend.weights": ("save_file load_file",),
    "vtc.frontend.export": ("export EntryPoint",),
    "vtc.frontend.eager": ("stats",),
    "vtc.frontend.dispatch": (
        "no_grad enable_grad inference_mode set_grad_enabled is_grad_enabled=grad_enabled",
        "set_default_device",
        "get_default_device=default_device set_default_dtype get_default_dtype=default_dtype",
        "use_deterministic_algorithms are_deterministic_algorithms_enabled=deterministic",
    ),
    "vtc.frontend.functions.activation": (
        "relu sigmoid softmax log_softmax selu celu prelu rrelu threshold hardshrink",
    ),
    "vtc.frontend.functions.arguments": ("is_tensor",),
    "vtc.frontend.functions.attention": ("rotary_embedding",),
    "vtc.frontend.functions.comparison": (
        "eq ne lt le gt ge equal isnan isinf isfinite isclose allclose logical_and logical_or",
        "logical_xor logical_not bitwise_and bitwise_or bitwise_xor bitwise_not where masked_fill",
        "bitwise_left_shift bitwise_right_shift greater=gt greater_equal=ge less=lt less_equal=le",
        "not_equal=ne",
    ),
    "vtc.frontend.functions.contract": (
        "matmul mm bmm mv dot outer ger=outer addmm addmv addr addbmm baddbmm bilinear",
    ),
    "vtc.frontend.functions.creation": (
        "tensor as_tensor from_numpy from_dlpack full zeros ones empty full_like zeros_like",
        "ones_like empty_like arange linspace eye logspace range asarray frombuffer scalar_tensor",
        "to_dlpack",
    ),
    "vtc.frontend.functions.elementwise": (
        "add sub mul div floor_divide remainder fmod pow neg abs sign addcmul addcdiv lerp",
        "maximum minimum clamp exp log log2 log10 sqrt rsqrt reciprocal square tanh erf sin cos",
        "floor ceil trunc round frac true_divide clip=clamp absolute=abs divide=div fix=trunc",
        "multiply=mul negative=neg subtract=sub",
    ),
    "vtc.frontend.functions.index": (
        "index_select index_add index_copy index_fill gather take_along_dim scatter scatter_add",
        "index_put take nonzero masked_select dynamic_slice dynamic_update",
    ),
    "vtc.frontend.functions.promotion": ("promote_types result_type can_cast broadcast_shapes",),
    "vtc.frontend.functions.random": (
        "Generator default_generator manual_seed seed initial_seed get_rng_state set_rng_state",
        "rand randn rand_like randn_like normal randint randint_like randperm bernoulli",
        "multinomial",
    ),
    "vtc.frontend.functions.bessel": ("i0",),
    "vtc.frontend.functions.distance": ("cdist pdist",),
    "vtc.frontend.functions.embedding": ("embedding_bag",),
    "vtc.frontend.functions.factors": (
        "geqrf lu=old_lu lu_solve=old_lu_solve lu_unpack matrix_exp orgqr=householder_product",
        "ormqr pca_lowrank svd_lowrank vander=old_vander",
    ),
    "vtc.frontend.functions.facts": (
        "is_complex is_conj=is_lazy is_floating_point is_neg=is_lazy is_nonzero is_same_size",
        "is_signed numel resolve_conj=itself resolve_neg=itself",
    ),
    "vtc.frontend.functions.normalization": ("rms_norm",),
    "vtc.frontend.functions.numbers": (
        "angle conj conj_physical=conj fill frexp isreal ldexp real rsub",
    ),
    "vtc.frontend.functions.places": ("nonzero_static unravel_index",),
    "vtc.frontend.functions.pool": (
        "adaptive_avg_pool1d avg_pool1d max_pool1d max_pool2d max_pool3d",
    ),
    "vtc.frontend.functions.pool_places": (
        "adaptive_max_pool1d=adaptive_max_pool1d_with_indices max_pool1d_with_indices",
    ),
    "vtc.frontend.functions.probability": ("mvlgamma",),
    "vtc.frontend.functions.statistics": (
        "frobenius_norm gradient histogram histogramdd isin nanmean nansum norm_except_dim renorm",
        "std_mean",
    ),
    "vtc.frontend.functions.windows": (
        "bartlett_window blackman_window hamming_window hann_window kaiser_window",
    ),
    "vtc.frontend.functions.einsum": ("einsum tensordot inner vdot kron cross chain_matmul",),
    "vtc.frontend.functions.conv": (
        "conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d conv_tbc",
    ),
    "vtc.frontend.functions.joined": (
        "atleast_1d atleast_2d atleast_3d hstack vstack row_stack=vstack dstack column_stack",
        "tensor_split hsplit vsplit dsplit meshgrid cartesian_prod combinations",
    ),
    "vtc.frontend.functions.linalg": (
        "cholesky=old_cholesky cholesky_solve cholesky_inverse det logdet inverse=inv",
        "matrix_power pinverse=pinv qr=old_qr slogdet triangular_solve svd=old_svd",
    ),
    "vtc.frontend.functions.pixels": ("pixel_shuffle pixel_unshuffle channel_shuffle",),
    "vtc.frontend.functions.scattering": (
        "scatter_reduce index_reduce masked_scatter put argwhere",
    ),
    "vtc.frontend.functions.strides": (
        "as_strided diagonal diag diagflat diag_embed trace block_diag rot90 fliplr flipud",
        "tril_indices triu_indices diagonal_scatter select_scatter slice_scatter",
        "as_strided_scatter empty_strided empty_permuted",
    ),
    "vtc.frontend.functions.rearrange": (
        "cat concat=cat concatenate=cat stack repeat_interleave tile flip roll tril triu",
    ),
    "vtc.frontend.functions.reduce": (
        "sum prod mean var std var_mean norm logsumexp count_nonzero max min amax amin aminmax",
        "argmax argmin any all",
    ),
    "vtc.frontend.functions.inplace": ("relu_ selu_ celu_ rrelu_ threshold_",),
    "vtc.frontend.functions.loss": ("cosine_similarity",),
    "vtc.frontend.functions.margin_loss": ("pairwise_distance",),
    "vtc.frontend.functions.info": ("finfo iinfo",),
    "vtc.frontend.functions.special": (
        "tan asin acos atan atan2 hypot deg2rad rad2deg sinc sinh cosh asinh acosh atanh exp2",
        "expm1 log1p logit logaddexp logaddexp2 xlogy float_power erfc erfinv lgamma digamma",
        "polygamma sgn positive signbit copysign isposinf isneginf nan_to_num fmax fmin heaviside",
        "clamp_min clamp_max dist arccos=acos arccosh=acosh arcsin=asin arcsinh=asinh arctan=atan",
        "arctan2=atan2 arctanh=atanh",
    ),
    "vtc.frontend.functions.scan": (
        "cumsum cumprod logcumsumexp cummax cummin diff trapezoid cumulative_trapezoid",
        "trapz=trapezoid",
    ),
    "vtc.frontend.functions.sort": (
        "sort argsort msort topk kthvalue median nanmedian mode quantile nanquantile",
    ),
    "vtc.frontend.functions.histogram": (
        "searchsorted bucketize histc bincount unique unique_consecutive cov corrcoef",
    ),
    "vtc.frontend.functions.view": (
        "reshape flatten unflatten squeeze unsqueeze broadcast_to broadcast_tensors permute",
        "transpose t movedim narrow select chunk split unbind ravel swapaxes swapdims moveaxis",
        "adjoint split_with_sizes unsafe_chunk=chunk unsafe_split=split",
        "unsafe_split_with_sizes=split_with_sizes",
    ),
}
_OF_TENSOR = (
    "abs_ absolute_ acos_ acosh_ addmv_ arccos_ arccosh_ arcsin_ arcsinh_ arctan_ arctanh_",
    "as_strided_ asin_ asinh_ atan_ atanh_ ceil_ clamp_ clamp_max_ clamp_min_ clip_ clone",
    "conj_physical_ cos_ cosh_ deg2rad_ detach detach_ erf_ erfc_ exp2_ exp_ expm1_ fill_ fix_",
    "floor_ frac_ i0_ index_put_ ldexp_ log10_ log1p_ log2_ log_ logit_ nan_to_num_ neg_",
    "negative_ rad2deg_ reciprocal_ round_ rsqrt_ sigmoid_ sin_ sinc_ sinh_ sqrt_ square_ tan_",
    "tanh_ trunc_ xlogy_ zero_",
)
"""Methods of ``Tensor`` that are functions of this module, too."""
_ALONE = ("math", "vtc.runtime.package", "vtc.errors")
"""What works without the compiler."""
_SUBMODULES = (
    *("amp", "autograd", "codegen", "cuda", "debug", "errors", "frontend", "func", "ir", "linalg"),
    *("nn", "optim", "passes", "random", "runtime", "special"),
)


def _names() -> dict[str, tuple[str, str]]:
    found: dict[str, tuple[str, str]] = {}
    for module, groups in _TABLE.items():
        for name in " ".join(groups).split():
            public, _, private = name.partition("=")
            found[public] = (module, private or public)
    for name in " ".join(_OF_TENSOR).split():
        found[name] = ("vtc.frontend.tensor", f"Tensor.{name}")
    return found


_NAMES = _names()


def __getattr__(name: str) -> Any:
    if name in _NAMES:
        module, attribute = _NAMES[name]
        if module not in _ALONE:
            importlib.import_module("vtc.frontend.jit")  # the whole dispatch stack
        value = attrgetter(attribute)(importlib.import_module(module))
        if module.startswith("vtc.frontend.functions."):
            out = importlib.import_module("vtc.frontend.functions.out")
            value = out.with_out(value) if {name, attribute} & out.TAKES_OUT else value
    elif name in _SUBMODULES:
        value = importlib.import_module(f"vtc.{name}")
    else:
        raise AttributeError(f"module 'vtc' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_NAMES, *_SUBMODULES})
