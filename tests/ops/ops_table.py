"""Write ``docs/ops.md``: every op with its rules and kernels, and what PyTorch has beyond vtc.

    make ops-table

What an op takes is tried on its samples; its rules are read off its class.
"""

import re
import sys
import textwrap
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
from vtc.ir.ops.control import Control, Item, StopGradient
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

MACHINERY = re.compile(
    r"^(cudnn|miopen|mkldnn|mkl|mps|fbgemm|q|quantized?|fake_quantize|fused|sym|vitals|native|get_|"
    r"init_|import_|parse_|merge_|fork|wait|unify_|autocast_|batch_norm_|is_(vulkan|xla|xpu|mkldnn|"
    r"metal|mtia|maia|ipu|hpu|meta|ort|autocast|vitals)|set_(autocast|anomaly|vital|printoptions|"
    r"flush|warn)|clear_autocast|unsafe_|read_vitals|rowwise|slow_conv|thnn|to_(sparse|mkldnn|"
    r"padded)|ccol|crow|col_ind|row_ind|align_|refine_|rename|names|has_names|segment_|smm|sspaddmm|"
    r"hspmm|dsmm|saddmm|spmm|hsmm)|_copy$|_type$|sparse|coalesce|quant|int_repr|dense_dim|"
    r"batch_norm_gather|embedding_renorm|_functional|storage"
)
"""Names of other backends, of sparse, quantized and named tensors, and of how PyTorch is built."""
KEPT = {"get_default_device", "get_default_dtype", "get_num_threads", "get_rng_state"}


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
    return "pointwise" if issubclass(kind, Pointwise | StopGradient | Item) else ""


def beyond():
    """What PyTorch has that vtc has not."""
    version, spaces = torch_names.read()
    yield from (
        f"## What PyTorch {version} has, and vtc has not",
        "",
        "Public names, from `tests/parity/torch_names.txt`. Not counted: names of other backends,",
        "of sparse, quantized and named tensors, and of how PyTorch is built.",
        "",
        "| module | PyTorch | vtc | missing |",
        "|---|---|---|---|",
    )
    lists, rows = [], []
    for path, names in spaces.items():
        counted = [n for n in names if is_counted(path, n)]
        ours = vtc_space(path)
        missing = [n for n in counted if not hasattr(ours, n)]
        rows.append((path, len(counted), len(counted) - len(missing), len(missing)))
        lists += ["", f"### {path}", "", wrapped(missing)]
    totals = [sum(r[k] for r in rows) for k in (1, 2, 3)]
    for row in [*rows, ("all", *totals)]:
        yield f"| {' | '.join(map(str, row))} |"
    yield from lists


def is_counted(path, name):
    if path == "torch" and name[0].isupper():
        return name in ("Generator", "Size", "Tensor")
    return name in KEPT or not MACHINERY.search(name)


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
