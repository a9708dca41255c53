"""What user functions refuse: the class of the error, its first line, and the user's line."""

import numpy as np
import pytest

import vtc
import vtc.nn.functional as F
from vtc.errors import ArgumentError, IndexRangeError, TypeCheckError

NAMES = {
    "vtc": vtc,
    "F": F,
    "np": np,
    "x": vtc.zeros(2, 3),
    "y": vtc.zeros(4),
    "i": vtc.tensor([[1, 2, 3], [4, 5, 6]]),
    "u": vtc.tensor([1, 2], dtype=vtc.uint8),
    "b": vtc.tensor([True, False]),
    "s": vtc.tensor(1.5),
    "z": vtc.zeros(2, 3, 4),
    "o": vtc.zeros(1, 4, 6, 6),
    "e": vtc.zeros(0, 3),
    "w": vtc.zeros(5, 3),
    "k": vtc.zeros(2, 4, 3, 3),
}
TYPE = [
    ("x + y", r"add: sizes 3 and 4 do not match at dim 1: f32\[2, 3\] and f32\[4\]"),
    ("b - b", r"sub: `-` of two bools is not supported, use `\^`"),
    ("-b", r"neg: `-` of a bool is not supported, use `~`"),
    ("abs(b)", r"abs: expected int or float, got bool\[2\]"),
    ("i ** -1", r"pow: integers take no negative integer powers, got i64\[2, 3\] \*\* -1"),
    ("vtc.addcdiv(x, i, i)", r"addcdiv: expected floating-point operands, got i64\[2, 3\] and"),
    ("x & x", r"bitwise_and: expected integers or bools, got f32"),
    ("~x", r"bitwise_not: expected integers or bools, got f32"),
    ("x << 1", r"bitwise_left_shift: expected integers, got f32"),
    ("b >> b", r"bitwise_right_shift: expected integers, got bool"),
    ("vtc.positive(b)", r"positive: expected numbers, got bool\[2\]"),
    ("vtc.heaviside(x, i)", r"heaviside: expected tensors of one dtype, got f32\[2, 3\] and i64"),
    ("vtc.hypot(x, y)", r"hypot: sizes 3 and 4 do not match at dim 1"),
    ("x.long().tan_()", r"tan_: result of f32 cannot be written in place into i64\[2, 3\]"),
    ("F.prelu(x, y)", r"prelu: expected a weight of 1 or 3 numbers, got f32\[4\] for f32\[2, 3\]"),
    ("F.multi_margin_loss(x, i)", r"multi_margin_loss: expected \[N, C\] and i64\[N\], got f32"),
    ("F.binary_cross_entropy(x, y)", r"binary_cross_entropy: expected tensors of one shape, got"),
    ("vtc.where(x, x, x)", r"where: expected a bool condition, got f32\[2, 3\]"),
    ("x.masked_fill(x, 0)", r"masked_fill: expected a bool mask, got f32\[2, 3\]"),
    ("x.masked_fill(x > 0, y)", r"masked_fill: expected a 0-d value, got f32\[4\]"),
    ("i.masked_fill(i > 0, float('inf'))", r"inf does not fit i64"),
    ("u.fill_(300)", r"fill_: 300 does not fit u8"),
    ("vtc.full((2,), 300, dtype=vtc.uint8)", r"full: 300 does not fit u8"),
    ("vtc.tensor([300], dtype=vtc.uint8)", r"tensor: a value does not fit u8"),
    ("x.fill_(1j)", r"fill_: 1j does not fit f32"),
    ("x.fill_(y)", r"fill_: expected a 0-d value, got f32\[4\]"),
    ("i.add_(1.5)", r"add_: result of f32 cannot be written in place into i64\[2, 3\]"),
    ("i.div_(2)", r"div_: result of f32 cannot be written in place into i64\[2, 3\]"),
    ("s.add_(x)", r"add_: f32\[\(\)\] cannot be written in place with a result of f32\[2, 3\]"),
    ("x.copy_(y)", r"copy_: f32\[4\] cannot be expanded to f32\[2, 3\]"),
    ("i.mean()", r"mean: expected a floating-point input, got i64\[2, 3\]"),
    ("x.mean(dtype=vtc.int64)", r"mean: expected a floating-point dtype, got i64"),
    ("i.std()", r"std: expected a floating-point input, got i64\[2, 3\]"),
    ("i.norm()", r"norm: expected a floating-point input, got i64\[2, 3\]"),
    ("x.view(4, 2)", r"view: shape \[4, 2\] is invalid for f32\[2, 3\] of 6 elements"),
    ("x.reshape(-1, 4)", r"reshape: shape \[1, 4\] is invalid for f32\[2, 3\] of 6 elements"),
    ("x.t().view(6)", r"view: f32\[3, 2\] is not laid out as f32\[6\] needs; use reshape"),
    ("x.unflatten(1, (2, 2))", r"unflatten: \[2, 2\] does not multiply up to dim 1 of f32\[2, 3\]"),
    ("x.expand(4, 3)", r"expand: f32\[2, 3\] cannot be expanded to f32\[4, 3\]"),
    ("x.expand(3)", r"expand: expected at least 2 sizes for f32\[2, 3\], got \[3\]"),
    ("z.t()", r"t: expected 2 dims or fewer, got f32\[2, 3, 4\]"),
    ("y.mT", r"mT: expected 2 dims or more, got f32\[4\]"),
    (
        "vtc.cat([x, z])",
        r"cat: sizes must match except in dim 0, got f32\[2, 3\] and f32\[2, 3, 4\]",
    ),
    (
        "vtc.cat([x, w[:, :2]])",
        r"cat: sizes must match except in dim 0, got f32\[2, 3\] and f32\[5, 2\]",
    ),
    ("vtc.cat([s, s])", r"cat: expected 1 dim or more, got f32\[\(\)\]; use stack"),
    ("vtc.stack([x, y])", r"stack: expected tensors of one shape, got f32\[2, 3\] and f32\[4\]"),
    ("x @ x", r"matmul: inner dims differ: f32\[2, 3\] @ f32\[2, 3\]"),
    ("x @ s", r"matmul: expected 1 dim or more: f32\[2, 3\] @ f32\[\(\)\]"),
    ("x @ i.t()", r"matmul: dtypes differ: f32\[2, 3\] @ i64\[3, 2\]"),
    ("z @ vtc.zeros(3, 4, 2)", r"matmul: sizes 2 and 3 do not match at dim 0"),
    ("vtc.mm(y, x)", r"mm: expected 2 and 2 dims, got f32\[4\] and f32\[2, 3\]"),
    ("s.split(2)", r"split: expected 1 dim or more, got f32\[\(\)\]"),
    ("s.index_add(0, b.long(), s)", r"index_add: expected 1 dim or more, got f32\[\(\)\]"),
    ("s.roll(1, 0)", r"roll: expected 1 dim or more, got f32\[\(\)\]"),
    ("x.repeat_interleave(i)", r"repeat_interleave: expected 6 repeats of i64 or i32, got i64"),
    ("vtc.bmm(z, vtc.zeros(1, 4, 2))", r"bmm: batch sizes differ: f32\[2, 3, 4\] @ f32\[1, 4, 2\]"),
    ("vtc.dot(y, y[:2])", r"dot: expected vectors of one type, got f32\[4\] and f32\[2\]"),
    ("vtc.outer(x, y)", r"outer: expected two vectors, got f32\[2, 3\] and f32\[4\]"),
    (
        "F.linear(x, x.t())",
        r"linear: expected \[.., in\] and \[out, in\], got f32\[2, 3\] and f32\[3, 2\]",
    ),
    ("F.linear(x, w, y)", r"linear: expected a bias f32\[5\], got f32\[4\]"),
    (
        "vtc.gather(x, 0, y.long())",
        r"gather: expected an index of as many dims as f32\[2, 3\], got i64",
    ),
    ("vtc.gather(x, 0, x)", r"gather: expected an index of i64 or i32, got f32\[2, 3\]"),
    ("x.index_select(0, i)", r"index_select: expected a vector of indices, got i64\[2, 3\]"),
    ("x.index_add(0, i[0, :1], y)", r"index_add: expected a source f32\[1, 3\], got f32\[4\]"),
    ("x.scatter(0, i, i)", r"scatter: expected a source of f32 and 2 dims, got i64\[2, 3\]"),
    ("F.embedding(i, y)", r"embedding: expected a weight \[N, D\], got f32\[4\]"),
    (
        "vtc.dynamic_slice(y, [s], [1])",
        r"dynamic_slice: expected 0-d starts of i64 or i32, got f32",
    ),
    ("vtc.masked_select(x, i)", r"masked_select: expected a bool mask, got i64\[2, 3\]"),
    ("F.softmax(i, 0)", r"softmax: expected a floating-point tensor, got i64\[2, 3\]"),
    ("F.relu(b)", r"relu: expected numbers, got bool\[2\]"),
    ("F.glu(x)", r"glu: expected dim 1 of f32\[2, 3\] to be even"),
    ("F.layer_norm(x, (2,))", r"layer_norm: expected an input that ends in \[2\], got f32\[2, 3\]"),
    ("F.rms_norm(x, ())", r"rms_norm: expected an input that ends in \[\], got f32\[2, 3\]"),
    ("F.batch_norm(y, None, None)", r"batch_norm: expected \[N, C, ..\], got f32\[4\]"),
    (
        "F.cross_entropy(x, i)",
        r"cross_entropy: expected \[N, C, ..\] and \[N, ..\], got f32\[2, 3\]",
    ),
    ("F.cross_entropy(x, b)", r"cross_entropy: expected integer targets, got bool\[2\]"),
    ("F.cross_entropy(x, y)", r"cross_entropy: expected probabilities like the input, got"),
    ("F.mse_loss(x, y)", r"mse_loss: sizes 3 and 4 do not match at dim 1"),
    ("F.binary_cross_entropy_with_logits(x, y)", r"logits: expected tensors of one shape, got"),
    (
        "F.scaled_dot_product_attention(y, y, y)",
        r"attention: expected 2 dims or more in query, got",
    ),
    ("F.scaled_dot_product_attention(x, x, x, enable_gqa=True)", r"expected heads in dim -3, got"),
    (
        "F.scaled_dot_product_attention(z, z[:0], z[:0], enable_gqa=True)",
        r"to be a multiple of key",
    ),
    ("F.conv2d(x, k)", r"conv2d: expected \[N, C, H, W\] or \[C, H, W\], got f32\[2, 3\]"),
    ("F.conv2d(o, x)", r"conv2d: expected a weight \[O, C / groups, KH, KW\], got f32\[2, 3\]"),
    ("F.conv1d(x, k)", r"conv1d: expected a weight \[O, C / groups, K\], got"),
    ("F.conv3d(o, k)", r"conv3d: expected a weight \[O, C / groups, KD, KH, KW\], got"),
    ("F.conv_transpose2d(o, k[:1])", r"conv_transpose2d: expected channels for 1 groups"),
    ("vtc.trace(s)", r"trace: expected a matrix, got f32\[\(\)\]"),
    ("vtc.einsum('ij,jk', x, x)", r"einsum: 'j' has sizes 3 and 2: 'ij,jk'"),
    ("vtc.tensordot(x, y, 1)", r"tensordot: expected equal sizes over dims, got \[3\] and \[4\]"),
    ("vtc.cross(x, x, dim=0)", r"cross: expected a dim of size 3, got f32\[2, 3\]"),
    ("vtc.hsplit(s, 1)", r"hsplit: expected 1 dims or more, got f32\[\(\)\]"),
    ("x.masked_scatter(x, x)", r"masked_scatter: expected a bool mask, got f32\[2, 3\]"),
    ("F.interpolate(x, 2)", r"interpolate: mode 'nearest' expects 3 to 5 dims, got f32\[2, 3\]"),
    ("F.grid_sample(o, x)", r"grid_sample: expected \[N, C, H, W\] and a grid \[N, OH, OW, 2\]"),
    ("F.pixel_shuffle(x, 2)", r"pixel_shuffle: expected \[.., C, H, W\], got f32\[2, 3\]"),
    ("F.max_pool2d(y, 2)", r"max_pool2d: expected \[N, C, H, W\] or \[C, H, W\], got f32\[4\]"),
]  # fmt: skip
ARGUMENT = [
    ("vtc.add(1, 2)", r"add: expected at least one Tensor, got numbers only"),
    ("vtc.add(x, 'a')", r"expected a Tensor or a number, got str 'a'"),
    ("vtc.exp(1)", r"exp: expected at least one Tensor, got numbers only"),
    ("vtc.add(i, i, alpha=1.5)", r"expected an integer factor for integers, got 1.5"),
    ("vtc.div(x, x, rounding_mode='up')", r"div: expected rounding_mode None, 'trunc' or 'floor'"),
    ("x.clamp()", r"clamp: expected min, max or both, got neither"),
    ("vtc.where(x > 0, x)", r"where: expected both input and other, got one"),
    ("vtc.where(True, x, x)", r"where: expected condition to be a Tensor, got bool"),
    ("x.sum((0, 0))", r"sum: a dim appears twice in \(0, 0\)"),
    ("x.sum('a')", r"sum: expected dim to be an int, got 'a'"),
    ("x.var(unbiased=True, correction=1)", r"var: expected unbiased or correction, got both"),
    ("x.norm('nuc')", r"norm: expected p to be a number or 'fro', got 'nuc'"),
    ("x.reshape(-1, -1)", r"reshape: expected at most one -1, got \[-1, -1\]"),
    ("e.reshape(0, -1)", r"reshape: -1 is ambiguous beside a size of 0: \[0, -1\]"),
    ("e.unflatten(0, (0, -1))", r"unflatten: -1 is ambiguous beside a size of 0"),
    ("z.flatten(2, 1)", r"flatten: start_dim 2 comes after end_dim 1"),
    ("x.expand(-1, 2, 3)", r"expand: -1 stands for no size of f32\[2, 3\] in \[-1, 2, 3\]"),
    ("x.permute(0, 0)", r"permute: expected each dim of f32\[2, 3\] once, got \(0, 0\)"),
    ("x.movedim((0, 1), 0)", r"movedim: expected as many distinct dims"),
    ("x.split([1, 3], 1)", r"split: expected sizes that sum to dim 1 of f32\[2, 3\], got \[1, 3\]"),
    ("x.split(0)", r"split: expected a size >= 1, got 0"),
    ("x.chunk(0)", r"chunk: expected chunks >= 1, got 0"),
    ("vtc.cat([])", r"cat: expected a non-empty sequence of Tensors, got an empty list"),
    ("vtc.cat([x, 1])", r"cat: expected a non-empty sequence of Tensors, got \[Tensor, int\]"),
    ("vtc.stack(x)", r"stack: expected a non-empty sequence of Tensors, got one Tensor"),
    ("F.pad(x, (1,))", r"pad: expected two sizes for each of up to 2 dims, got \[1\]"),
    ("F.pad(x, (1, 1), mode='odd')", r"pad: expected mode to be one of constant, reflect"),
    (
        "F.pad(x, (3, 0), mode='reflect')",
        r"pad: expected 0 <= pad <= 2 with mode 'reflect', got \(3, 0\)",
    ),
    ("F.pad(x, (-4, 0))", r"pad: .* cuts more than f32\[2, 3\] has"),
    ("x.repeat(2)", r"repeat: expected at least 2 numbers for f32\[2, 3\], got 1"),
    ("x.repeat_interleave(-1)", r"repeat_interleave: expected repeats >= 0, got -1"),
    ("x.repeat_interleave(i[0], 1, output_size=7)", r"output_size to be the sum 6, got 7"),
    ("y.quantile([0.5])", r"quantile: expected q to be a number or a Tensor, got list"),
    ("vtc.normal(x, -1.0)", r"normal: expected std >= 0, got -1.0"),
    ("vtc.sum([1, 2])", r"sum: expected input to be a Tensor, got list"),
    ("x.roll((1, 2), 0)", r"roll: expected as many shifts as dims"),
    ("vtc.matmul(x, 1)", r"matmul: expected other to be a Tensor, got int"),
    (
        "vtc.dynamic_slice(x, [0], [1, 1])",
        r"dynamic_slice: expected 2 starts for f32\[2, 3\], got 1",
    ),
    ("vtc.index_put(x, [None], 1)", r"index_put: expected at least one index tensor"),
    (
        "F.one_hot(vtc.zeros(0).long())",
        r"one_hot: expected num_classes for a tensor without elements",
    ),
    ("vtc.tensor('a')", r"tensor: expected numbers or nested sequences of them, got str"),
    ("vtc.tensor([[1, 2], [3]])", r"tensor: expected numbers in rows of equal length"),
    ("vtc.tensor([2**70])", r"tensor: expected numbers"),
    ("vtc.from_numpy([1])", r"from_numpy: expected a NumPy array, got list"),
    ("vtc.from_numpy(np.zeros(2, np.uint16))", r"expected an array of a dtype vtc has, got uint16"),
    ("vtc.zeros(-1)", r"zeros: expected sizes >= 0, got \(-1,\)"),
    ("vtc.zeros(1.5)", r"expected a size, got float 1.5"),
    ("vtc.arange(5, 0)", r"arange: expected end to lie beyond start, got 5 to 0 by 1"),
    ("vtc.arange(0, 5, 0)", r"arange: expected a step other than 0"),
    ("vtc.linspace(0, 1, -1)", r"linspace: expected steps >= 0, got -1"),
    ("vtc.polygamma(-1, x)", r"polygamma: expected an integer n >= 0, got -1"),
    ("F.celu(x, 0)", r"celu: expected alpha other than 0, got 0"),
    ("F.rrelu(x, 1, 0)", r"rrelu: expected lower <= upper, got 1 and 0"),
    ("F.softshrink(x, -1)", r"softshrink: expected lambd >= 0, got -1"),
    ("F.multi_margin_loss(x, i[0, :2], p=3)", r"multi_margin_loss: expected p of 1 or 2, got 3"),
    ("F.gelu(x, approximate='x')", r"gelu: expected approximate='none' or 'tanh', got 'x'"),
    ("F.group_norm(o, 3)", r"group_norm: expected num_groups to divide the channels, got f32"),
    ("F.batch_norm(o, None, None)", r"batch_norm: expected running figures outside of training"),
    (
        "F.mse_loss(x, x, reduction='x')",
        r"mse_loss: expected reduction 'mean', 'sum' or 'none', got 'x'",
    ),
    (
        "F.cross_entropy(x, i, label_smoothing=2)",
        r"cross_entropy: expected 0 <= label_smoothing <= 1",
    ),
    ("F.huber_loss(x, x, delta=0)", r"huber_loss: expected delta > 0, got 0"),
    (
        "F.scaled_dot_product_attention(z, z, z, x, is_causal=True)",
        r"expected attn_mask or is_causal",
    ),
    ("F.conv2d(o, k, stride=0)", r"conv2d: expected stride and dilation >= 1, got \(0, 0\)"),
    ("F.conv2d(o, k, padding='x')", r"conv2d: expected padding 'same' or 'valid', got 'x'"),
    (
        "F.conv2d(o, k, padding='same', stride=2)",
        r"conv2d: padding 'same' needs stride 1, got \(2, 2\)",
    ),
    ("F.conv2d(o, k, stride=(1, 2, 3))", r"conv2d: expected stride to be one or two ints"),
    ("F.conv1d(z, z, stride=(1, 2))", r"conv1d: expected stride to be one int, got \(1, 2\)"),
    ("F.max_pool2d(o, 0)", r"max_pool2d: expected kernel and stride >= 1 and padding >= 0"),
    ("F.adaptive_avg_pool2d(o, 'x')", r"adaptive_avg_pool2d: expected output_size to be sizes"),
    ("vtc.kron(x, 1)", r"kron: expected other to be a Tensor, got int"),
    ("x.diagonal(0, 1, 1)", r"diagonal: expected two dims, got 1 and 1"),
    ("x.unfold(0, 9, 1)", r"unfold: expected step >= 1 and size within dim 0, got size 9"),
    ("vtc.einsum('ij->jj', x)", r"einsum: expected each output label once"),
    ("vtc.einsum('ij', s)", r"einsum: 'ij' names 2 dims, got f32\[\(\)\]"),
    ("vtc.tensor_split(x, 0)", r"tensor_split: expected 1 part or more, got 0"),
    ("vtc.hsplit(x, 2)", r"hsplit: expected parts that divide dim 1 of f32\[2, 3\], got 2"),
    ("vtc.meshgrid(y, indexing='x')", r"meshgrid: expected indexing 'ij' or 'xy', got 'x'"),
    ("x.scatter_reduce(0, i, x, 'max')", r"scatter_reduce: expected reduce to be one of sum"),
    ("F.interpolate(o, mode='x')", r"interpolate: expected mode to be one of nearest"),
    ("F.interpolate(o)", r"interpolate: expected either size or scale_factor"),
    ("F.grid_sample(o, o[..., :2], 'x')", r"grid_sample: expected"),
    ("F.pixel_unshuffle(o, 7)", r"pixel_unshuffle: expected sizes divisible by 7"),
]  # fmt: skip
RANGE = [
    ("x.sum(2)", r"sum: expected dim to be in range of \[-2, 1\], got 2"),
    ("s.sum(1)", r"sum: expected dim to be in range of \[-1, 0\], got 1"),
    ("x.unsqueeze(4)", r"unsqueeze: expected dim to be in range of \[-3, 2\], got 4"),
    ("e.max()", r"amax: expected dims \(0, 1\) of f32\[0, 3\] not to be empty"),
    ("e.amax(0)", r"amax: expected dims \(0,\) of f32\[0, 3\] not to be empty"),
    ("e.max(0)", r"max: expected dims \(0,\) of f32\[0, 3\] not to be empty"),
    ("e.argmin()", r"argmin: expected dims \(0, 1\) of f32\[0, 3\] not to be empty"),
    (
        "x.narrow(1, 2, 2)",
        r"narrow: expected start and length inside dim 1 of f32\[2, 3\], got 2 and 2",
    ),
    ("vtc.gather(x, 0, i)", r"gather: expected 0 <= index < 2 along axis 0, got 2"),
    ("F.embedding(i, w)", r"index: expected 0 <= index < 5 along axis 0, got 5"),
    ("F.one_hot(i, 3)", r"one_hot: expected 0 <= class < 3, got 1 to 6"),
]  # fmt: skip
CASES = [
    pytest.param(call, kind, message, id=call)
    for kind, rows in ((TypeCheckError, TYPE), (ArgumentError, ARGUMENT), (IndexRangeError, RANGE))
    for call, message in rows
]


@pytest.mark.parametrize(("call", "kind", "message"), CASES)
def test_refused(call, kind, message):
    with pytest.raises(kind, match=message) as caught:
        eval(call, NAMES)
    assert "\n  at <string>:1" in str(caught.value)
    assert type(caught.value) is kind


def test_other_types_know_better():
    class Unit:
        def __radd__(self, other):
            return "unit"

    assert vtc.zeros(2) + Unit() == "unit"
    with pytest.raises(TypeError):
        vtc.zeros(2) + "a"
    assert (vtc.zeros(2) == "a") is False
    assert (vtc.zeros(2) != None) is True  # noqa: E711
