"""What types ops infer on symbolic sizes, and what they say when they refuse."""

import re

import pytest

from vtc.errors import TypeCheckError
from vtc.ir.dims import Sym, parse_size
from vtc.ir.ops.contract import Matmul
from vtc.ir.ops.elementwise import Abs, Add, Cast, Div, Exp, Neg
from vtc.ir.ops.fill import Concat, Full, Iota, Pad, Tril
from vtc.ir.ops.logic import Eq, Isnan, LogicalAnd, Where
from vtc.ir.ops.reduce import Argmax, Max, Sum
from vtc.ir.ops.view import Expand, Flip, Permute, Reshape, Slice
from vtc.ir.ops.window import Unwindow, Window
from vtc.ir.types import DTYPES, TensorType, TupleType, bf16, c64, f32, i64, u8

B, T = Sym.var("B"), Sym.var("T")


def type_of(text):
    """``f32[B, 4]`` as a type; sizes hold no commas here."""
    dtype, sizes = re.fullmatch(r"(\w+)\[(.*)\]", text).groups()
    shape = () if sizes == "()" else [parse_size(s) for s in sizes.split(", ")]
    return TensorType(DTYPES[dtype], tuple(shape))


INFERRED = (
    (Add(), "f32[B, 4] f32[B, 4]", "f32[B, 4]"),
    (Eq(), "bool[T] bool[T]", "bool[T]"),
    (Isnan(), "bf16[T]", "bool[T]"),
    (Cast(bf16), "i64[B]", "bf16[B]"),
    (Where(), "bool[B] i64[B] i64[B]", "i64[B]"),
    (Sum((0, 2)), "f16[B, T, 4]", "f16[T]"),
    (Max((1,)), "bool[B, T]", "bool[B]"),
    (Argmax(1), "f32[B, T]", "i64[B]"),
    (Matmul(), "f32[B, T, 8] f32[B, 8, 2*T]", "f32[B, T, 2*T]"),
    (Matmul(transpose_y=True), "f32[B*T, 784] f32[512, 784]", "f32[B*T, 512]"),
    (Reshape((B * T, 4)), "f32[B, T, 4]", "f32[B*T, 4]"),
    (Reshape((B, 2, T)), "f32[B, 2*T]", "f32[B, 2, T]"),
    (Permute((2, 0, 1)), "f32[B, T, 4]", "f32[4, B, T]"),
    (Expand((0, 2), (B, T)), "f32[4]", "f32[B, 4, T]"),
    (Slice((0, 1), (B, T), (1, 1)), "f32[B, T]", "f32[B, T - 1]"),
    (Slice((0,), (2 * T,), (2,)), "f32[2*T]", "f32[T]"),
    (Flip((0,)), "f32[B]", "f32[B]"),
    (Window(1, 3, 2, 2), "f32[B, T]", "f32[B, (T - 5)//2 + 1, 3]"),
    (Unwindow(1, T, 2, 2), "f32[B, (T - 5)//2 + 1, 3]", "f32[B, T]"),
    (Pad(((T, 0, 0), (1, 2, 1)), 0.0), "f32[B, T]", "f32[B + T, 2*T + 2]"),
    (Concat(0), "f32[B, 4] f32[3, 4] f32[T, 4]", "f32[B + T + 3, 4]"),
    (Tril(0), "f32[B, T, T]", "f32[B, T, T]"),
    (Full((B, 4), 1.0, f32), "", "f32[B, 4]"),
    (Iota((B, T), 1, i64), "", "i64[B, T]"),
)


@pytest.mark.parametrize(("op", "inputs", "out"), INFERRED)
def test_infers(op, inputs, out):
    types = [type_of(t) for t in re.findall(r"\w+\[.*?\]", inputs)]
    assert op.infer(*types) == type_of(out)


REFUSED = (
    (Add(), "f32[4]", "add: expected 2 operands, got 1"),
    (Add(), "f32[4] f32[5]", "add: expected operands of one type, got f32[4] and f32[5]"),
    (Add(), "f32[B] bf16[B]", "add: expected operands of one type, got f32[B] and bf16[B]"),
    (Neg(), "bool[4]", "neg: expected int or float, got bool[4]"),
    (Abs(), "c64[4]", "abs: expected int or float, got c64[4]"),
    (Div(), "i64[4] i64[4]", "div: expected float, got i64[4]"),
    (Exp(), "i64[()]", "exp: expected float, got i64[()]"),
    (LogicalAnd(), "f32[4] f32[4]", "logical_and: expected bool or int, got f32[4]"),
    (Where(), "f32[4] f32[4] f32[4]", "where: expected a bool condition, got f32[4]"),
    (
        Where(),
        "bool[3] f32[4] f32[4]",
        "where: expected one shape and two equal types, got bool[3], f32[4], f32[4]",
    ),
    (Where(), "bool[3] f32[4]", "where: expected 3 operands, got 2"),
    (Cast(c64), "f32[4]", "cast: complex numbers are not cast: f32[4] to c64"),
    (Cast(f32), "f32[4] f32[4]", "cast: expected 1 operand, got 2"),
    (Sum((2,)), "f32[3, 4]", "sum: expected ascending axes of f32[3, 4], got (2,)"),
    (Sum((1, 0)), "f32[3, 4]", "sum: expected ascending axes of f32[3, 4], got (1, 0)"),
    (Sum((0,)), "bool[3]", "sum: expected int or float, got bool[3]"),
    (Max((1,)), "f32[B, 0]", "max: expected axes (1,) of f32[B, 0] not to be empty"),
    (Argmax(1), "f32[B]", "argmax: expected an axis of f32[B], got 1"),
    (Argmax(0), "bool[B]", "argmax: expected int or float, got bool[B]"),
    (Argmax(0), "f32[0]", "argmax: expected axis 0 of f32[0] not to be empty"),
    (
        Matmul(),
        "f32[B, 784] f32[512, 256]",
        "matmul: inner dims differ: f32[B, 784] @ f32[512, 256]",
    ),
    (
        Matmul(transpose_y=True),
        "f32[B, 784] f32[784, 256]",
        "matmul: inner dims differ: f32[B, 784] @ f32[784, 256].T",
    ),
    (Matmul(), "f32[4] f32[4, 4]", "matmul: expected matrices: f32[4] @ f32[4, 4]"),
    (Matmul(), "f32[4, 4] f64[4, 4]", "matmul: dtypes differ: f32[4, 4] @ f64[4, 4]"),
    (
        Matmul(),
        "f32[B, 4, 4] f32[T, 4, 4]",
        "matmul: leading dims differ: f32[B, 4, 4] @ f32[T, 4, 4]",
    ),
    (
        Matmul(),
        "bool[4, 4] bool[4, 4]",
        "matmul: expected int or float: bool[4, 4] @ bool[4, 4]",
    ),
    (
        Reshape((B, 3)),
        "f32[B, 4]",
        "reshape: expected as many elements as f32[B, 4] has (4*B), got f32[B, 3] (3*B)",
    ),
    (Reshape((-1, -4)), "f32[4]", "reshape: expected sizes, got (-1, -4)"),
    (Permute((0, 0)), "f32[3, 4]", "permute: expected each axis of f32[3, 4] once, got (0, 0)"),
    (
        Expand((3,), (2,)),
        "f32[3, 4]",
        "expand: expected ascending axes of a result of rank 3, got (3,)",
    ),
    (Expand((0,), ()), "f32[3]", "expand: expected a size for each of axes (0,), got ()"),
    (
        Slice((0,), (5,), (1,)),
        "f32[4]",
        "slice: expected a slice inside axis 0 of f32[4], got [0:5]",
    ),
    (
        Slice((0,), (T + 1,), (1,)),
        "f32[T]",
        "slice: expected a slice inside axis 0 of f32[T], got [0:T + 1]",
    ),
    (
        Slice((3,), (2,), (1,)),
        "f32[4]",
        "slice: expected a slice inside axis 0 of f32[4], got [3:2]",
    ),
    (Slice((0,), (4,), (0,)), "f32[4]", "slice: expected steps >= 1, got (0,)"),
    (
        Slice((0,), (4,), (1,)),
        "f32[4, 4]",
        "slice: expected a start, stop and step per axis of f32[4, 4], got ((0,), (4,), (1,))",
    ),
    (Flip((1,)), "f32[4]", "flip: expected distinct axes of f32[4], got (1,)"),
    (
        Window(0, 3, 1, 2),
        "f32[4]",
        "window: expected axis 0 of f32[4] to hold a window over 5 elements",
    ),
    (
        Window(0, 3, 0, 2),
        "f32[4]",
        "window: expected size, stride and dilation >= 1, got (3, 0, 2)",
    ),
    (Window(1, 3, 1, 1), "f32[4]", "window: expected an axis of f32[4], got 1"),
    (
        Unwindow(0, 4, 1, 1),
        "f32[3, 3]",
        "unwindow: expected 2 windows to make f32[4], got f32[3, 3]",
    ),
    (
        Unwindow(0, 4, 1, 1),
        "f32[B, T]",
        "unwindow: expected windows of a known size, got f32[B, T]",
    ),
    (Unwindow(0, 4, 1, 1), "bool[3, 2]", "unwindow: expected int or float, got bool[3, 2]"),
    (
        Pad(((0, 0, 0),), 0.0),
        "f32[3, 4]",
        "pad: expected pads per axis of f32[3, 4], got ((0, 0, 0),)",
    ),
    (Pad(((-1, 0, 0),), 0.0), "f32[3]", "pad: expected pads >= 0, got ((-1, 0, 0),)"),
    (Pad(((1, 0, 0),), 0.5), "i64[3]", "pad: expected a value of i64, got 0.5"),
    (Pad(((0, 0, 1),), 0.0), "f32[0]", "pad: expected elements to pad between, got f32[0]"),
    (Tril(0), "f32[4]", "tril: expected matrices, got f32[4]"),
    (Concat(0), "", "concat: expected at least one tensor, got none"),
    (
        Concat(0),
        "f32[3, 4] f32[3, 5]",
        "concat: expected equal types but for axis 0, got f32[3, 4] and f32[3, 5]",
    ),
    (
        Concat(0),
        "f32[3] bf16[3]",
        "concat: expected equal types but for axis 0, got f32[3] and bf16[3]",
    ),
    (Concat(1), "f32[3]", "concat: expected an axis of f32[3], got 1"),
    (Full((-1,), 0.0, f32), "", "full: expected sizes, got (-1,)"),
    (Full((), 256, u8), "", "full: expected a value of u8, got 256"),
    (Full((), float("inf"), i64), "", "full: expected a value of i64, got inf"),
    (Full((), float("nan"), i64), "", "full: expected a value of i64, got nan"),
    (Iota((3,), 1, i64), "", "iota: expected an axis of i64[3], got 1"),
    (Iota((3,), 0, DTYPES["bool"]), "", "iota: expected int or float, got bool"),
)


@pytest.mark.parametrize(("op", "inputs", "message"), REFUSED)
def test_refuses(op, inputs, message):
    types = [type_of(t) for t in re.findall(r"\w+\[.*?\]", inputs)]
    with pytest.raises(TypeCheckError) as error:
        op.infer(*types)
    assert str(error.value) == message


def test_several_results_are_no_operand():
    with pytest.raises(TypeCheckError, match=r"neg: expected a tensor, got several results"):
        Neg().infer(TupleType((type_of("f32[4]"),)))
