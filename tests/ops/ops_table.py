"""Write ``docs/ops.md``: every op with its rules and kernels, and what PyTorch has beyond vtc.

    make ops-table

What an op takes is tried on its samples; its rules are read off its class.
"""

import re
import sys
import textwrap
from collections import Counter
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "parity"))

import numpy as np
import torch_names
from cases import samples_of, takes

import vtc
from vtc.codegen import families
from vtc.codegen.triton import families as triton_families
from vtc.ir.op import REGISTRY, Op, Pointwise
from vtc.ir.ops.composite import Composite
from vtc.ir.ops.control import Control, Custom, Item, StopGradient
from vtc.ir.ops.flow import Flow
from vtc.ir.ops.random import Random
from vtc.ir.ops.vendor import Vendor
from vtc.ir.types import DTYPES, TensorType, TupleType

FILE = Path(__file__).parents[2] / "docs" / "ops.md"
KINDS = {
    "bool": ("bool",),
    "int": ("u8", "i8", "i16", "i32", "i64"),
    "f8": ("f8e4m3", "f8e5m2"),
    "half": ("f16", "bf16"),
    "float": ("f32", "f64"),
    "complex": ("c64", "c128"),
}


@dataclass(frozen=True)
class Left:
    """Names that ``pattern`` finds are left out for a ``reason``, in ``spaces`` or everywhere.

    ``torch.linalg.solve`` is no ``torch.solve``, which is gone.
    """

    reason: str
    pattern: str
    spaces: tuple[str, ...] = ()


LEFT_OUT = (
    Left(
        "of other backends, and of sparse, quantized and named tensors",
        (
            r"^(cudnn|miopen|mkldnn|mkl|mps|fbgemm|q_|qint|qscheme|quint|quantized?_|"
            r"fake_quantize|is_(vulkan|xla|xpu|mkldnn|"
            r"metal|mtia|maia|ipu|hpu|meta|ort|mps|nested)|to_(sparse|mkldnn|padded)|ccol|crow|col_ind|"
            r"row_ind|align_|refine_|rename|names|has_names|smm|sspaddmm|hspmm|dsmm|saddmm|spmm|hsmm|"
            r"ipu|mtia|xpu|per_(channel|tensor)_|choose_qparams|values|indices|name|jagged)|sparse|"
            r"coalesce|quant(?!ile)|int_repr|dense_dim"
        ),
    ),
    Left(
        "of how PyTorch is built, dispatches and traces",
        (
            r"^(fused|sym_|symeig|vitals|native|get_|init_|import_|parse_|merge_|fork|wait|unify_|"
            r"autocast_|"
            r"is_(autocast|vitals|warn|anomaly|deterministic|distributed|inference_mode_)|"
            r"set_(autocast|anomaly|vital|printoptions|flush|warn|deterministic_debug|num_interop)|"
            r"clear_autocast|read_vitals|profiler_|prepare_multiprocessing|typename|"
            r"classproperty|compiled_with|thread_safe|hash_tensor|slice_inverse|const_data_ptr|"
            r"module_load|factory_kwargs|has_torch_function|handle_torch|boolean_dispatch|assert_int)|"
            r"_copy$|(tensor|comment)_type$|_functional|storage$|storage_type$|is_storage"
        ),
    ),
    Left(
        "types for annotations, and classes of TorchScript, storages and devices",
        r"^[A-Z]",
        ("torch", "torch.nn.functional", "torch.special"),
    ),
    Left(
        "dtypes without arithmetic",
        r"^(u?int[1-7]|bits?\d*|bits\d+x\d+)$",
    ),
    Left(
        "memory formats and layouts: vtc's tensors lie in memory as NumPy's do",
        (r"_format(_3d)?$|^(channels_last|channels_last_3d|layout|strided)$"),
    ),
    Left(
        "undocumented functions beneath `nn`, with flags of cuDNN and numbers for names",
        (
            r"^(batch_norm|rowwise|slow_conv|thnn|embedding_renorm|convolution|constant_pad_nd|"
            r"grid_sampler|affine_grid_gen|(alpha_|feature_|feature_alpha_)?dropout_?$|embedding$|"
            r"(layer|group|instance)_norm$|(gru|lstm|rnn_tanh|rnn_relu)(_cell)?$|nuclear_norm|kl_div$|"
            r"(ctc|cosine_embedding|hinge_embedding|margin_ranking|poisson_nll|triplet_margin)_loss$|"
            r"binary_cross_entropy_with_logits$)"
        ),
        ("torch",),
    ),
    Left(
        "names that PyTorch keeps to say that they are gone, or deprecated",
        (r"^(eig|lstsq|solve|matrix_rank|reinforce|volatile|resize|resize_as|new)$"),
        ("torch", "torch.Tensor"),
    ),
)
"""Why names of PyTorch's are not counted: they are no vocabulary of tensors."""
KEPT = {
    *("torch.Generator", "torch.Size", "torch.Tensor", "torch.get_default_device"),
    *("torch.get_default_dtype", "torch.get_num_threads", "torch.get_rng_state"),
    *("torch.index_copy", "torch.Tensor.get_device", "torch.Tensor.index_copy"),
    "torch.Tensor.narrow_copy",
}


def text():
    """The page."""
    return "\n".join([*head(), *table(), "", *beyond()]) + "\n"


def head():
    names = sorted(REGISTRY)
    gradients = sum(gradient(REGISTRY[n]) != "" for n in names)
    batched = sum(batching(REGISTRY[n]) != "" for n in names)
    return [
        "# Ops",
        "",
        "Written by `make ops-table`; a test compares. An op is one class in `vtc/ir/ops`; what",
        "users call is made of ops (`vtc/frontend/functions`).",
        "",
        f"{len(names)} ops: {gradients} with a gradient, {batched} batched by `vmap`.",
        "",
        "* *takes*: dtypes of the first operand; `half` is f16 and bf16, `float` f32 and f64, `f8`",
        "  both of 8 bits.",
        "* *gradient*: `rule` of its own, `parts`: that of the ops it is made of.",
        "* *batching*: `axis`: the same op on one more axis; `rule`: its own; `parts`: of the ops",
        "  it is made of; `each`: example by example.",
        "* *C*, *Triton*: the family of kernels, or `parts`; `steps` of a plan have none.",
        "",
        "| op | takes | gradient | batching | C | Triton |",
        "|---|---|---|---|---|---|",
    ]


def table():
    for name in sorted(REGISTRY):
        kind = REGISTRY[name]
        cells = (
            f"`{name}`",
            " ".join(accepted(name)),
            gradient(kind),
            batching(kind),
            kernel(kind, families.FAMILIES),
            kernel(kind, triton_families.FAMILIES),
        )
        yield f"| {' | '.join(cells)} |"


def accepted(name):
    """The kinds of dtype that an op takes as its first operand, and as all that are like it."""
    found = set()
    for sample in samples_of(name):
        if not sample.inputs:
            continue
        own = sample.inputs[0].dtype
        for dtype in DTYPES.values():
            if dtype.name not in found and takes(sample.op, retyped(sample, own, dtype)):
                found.add(dtype.name)
    return [k for k, dtypes in KINDS.items() if found.issuperset(dtypes)]


def retyped(sample, own, dtype):
    """Inputs like those of ``sample``, with ``dtype`` in place of ``own``."""
    return [np.empty(a.shape, dtype.numpy if a.dtype == own else a.dtype) for a in sample.inputs]


def gradient(kind):
    """How an op is differentiated, "" where nothing flows."""
    if issubclass(kind, Control) or kind in (Item, StopGradient) or issubclass(kind, Random):
        return "rule" if kind.__dict__.get("gradient") or kind.__name__ == "After" else ""
    if kind.vjp is Op.vjp or not any(gives_floats(s) for s in samples_of(kind.name)):
        return ""
    return "parts" if kind.vjp is Composite.vjp else "rule"


def gives_floats(sample):
    out = sample.op.infer(*map(TensorType.of, sample.inputs))
    first = out.items[0] if isinstance(out, TupleType) else out
    return first.dtype.kind == "float"


def batching(kind):
    """How an op runs for many examples at once."""
    if kind.draws and not issubclass(kind, Composite):
        return "each"
    if kind.batch not in (Op.batch, Composite.batch):
        return "rule"
    if kind.lifted is not Op.lifted:
        return "axis"
    if issubclass(kind, Composite):
        return "parts"
    return "rule" if issubclass(kind, Flow) else ""


def kernel(kind, table):
    """The family of kernels that computes an op."""
    for parent, family in table.items():
        if issubclass(kind, parent):
            return getattr(family, "make", family).__name__
    if issubclass(kind, Composite):
        return "parts"
    if issubclass(kind, Vendor):
        return "library, on the host"
    if issubclass(kind, Control):
        return "steps"
    return "pointwise" if issubclass(kind, Pointwise | StopGradient | Custom | Item) else ""


def beyond():
    """What PyTorch has that vtc has not."""
    version, spaces = torch_names.read()
    yield from (
        f"## What PyTorch {version} has, and vtc has not",
        "",
        "Public names, from `tests/parity/torch_names.txt`. Of those, not counted are",
        "",
    )
    reasons = Counter(left_out(path, n) for path, names in spaces.items() for n in names)
    for left in LEFT_OUT:
        yield f"* {reasons[left.reason]} {left.reason},"
    yield from (
        "",
        f"which is {reasons.total() - reasons['']} of {reasons.total()}.",
        "",
        "| module | PyTorch | vtc | missing |",
        "|---|---|---|---|",
    )
    lists, rows = [], []
    for path, names in spaces.items():
        counted = [n for n in names if not left_out(path, n)]
        ours = vtc_space(path)
        missing = [n for n in counted if not hasattr(ours, n)]
        rows.append((path, len(counted), len(counted) - len(missing), len(missing)))
        lists += ["", f"### {path}", "", wrapped(missing)]
    totals = [sum(r[k] for r in rows) for k in (1, 2, 3)]
    for row in [*rows, ("all", *totals)]:
        yield f"| {' | '.join(map(str, row))} |"
    yield from lists


def left_out(path, name):
    """Why a name is not counted, "" where it is."""
    if f"{path}.{name}" in KEPT:
        return ""
    for left in LEFT_OUT:
        if path in (left.spaces or (path,)) and re.search(left.pattern, name):
            return left.reason
    return ""


def vtc_space(path):
    """What answers to a module, or a class, of PyTorch's."""
    if path == "torch.Tensor":
        return vtc.Tensor
    try:
        return import_module(path.replace("torch", "vtc"))
    except ModuleNotFoundError:
        return None


def wrapped(names):
    if not names:
        return "Nothing."
    shown = " ".join(f"`{n}`" for n in names)
    return textwrap.fill(shown, 100, break_long_words=False, break_on_hyphens=False)


if __name__ == "__main__":
    FILE.write_text(text())
