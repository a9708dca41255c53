"""Type promotion: every pair of dtypes, in every kind of operand, against a table and torch."""

import itertools

import numpy as np
import pytest

import vtc
from vtc.errors import ArgumentError, TypeCheckError
from vtc.frontend.functions import promotion
from vtc.ir.types import DTYPES, TensorType, f32

NAMES = ["bool", "u8", "i8", "i16", "i32", "i64", "f16", "bf16", "f32", "f64", "c64", "c128"]
PROMOTED = """
bool u8  i8  i16 i32 i64 f16 bf16 f32 f64 c64 c128
u8   u8  i16 i16 i32 i64 f16 bf16 f32 f64 c64 c128
i8   i16 i8  i16 i32 i64 f16 bf16 f32 f64 c64 c128
i16  i16 i16 i16 i32 i64 f16 bf16 f32 f64 c64 c128
i32  i32 i32 i32 i32 i64 f16 bf16 f32 f64 c64 c128
i64  i64 i64 i64 i64 i64 f16 bf16 f32 f64 c64 c128
f16  f16 f16 f16 f16 f16 f16 f32  f32 f64 c64 c128
bf16 bf16 bf16 bf16 bf16 bf16 f32 bf16 f32 f64 c64 c128
f32  f32 f32 f32 f32 f32 f32 f32  f32 f64 c64 c128
f64  f64 f64 f64 f64 f64 f64 f64  f64 f64 c128 c128
c64  c64 c64 c64 c64 c64 c64 c64  c64 c128 c64 c128
c128 c128 c128 c128 c128 c128 c128 c128 c128 c128 c128 c128
"""
TABLE = {
    (a, b): row.split()[i]
    for a, row in zip(NAMES, PROMOTED.strip().splitlines(), strict=True)
    for i, b in enumerate(NAMES)
}
CATEGORY = {"bool": 0, "int": 1, "float": 2, "complex": 3}
SCALARS = (True, 2, 2.5, 1j)


def zero_d(name):
    return vtc.from_numpy(np.array(1, DTYPES[name].numpy))


def vector(name):
    return vtc.from_numpy(np.ones(2, DTYPES[name].numpy))


def category(dtype):
    return CATEGORY[dtype.kind]


@pytest.mark.parametrize(("a", "b"), TABLE)
def test_promote_types(a, b):
    assert promotion.promote_types(DTYPES[a], DTYPES[b]).name == TABLE[a, b]


@pytest.mark.parametrize(("a", "b"), TABLE)
def test_tensors_of_one_group_promote_by_the_table(a, b):
    for make in (vector, zero_d):
        assert vtc.result_type(make(a), make(b)).name == TABLE[a, b]


@pytest.mark.parametrize(("a", "b"), TABLE)
def test_a_0d_tensor_matters_by_category_only(a, b):
    high, low = DTYPES[a], DTYPES[b]
    got = vtc.result_type(vector(a), zero_d(b))
    if category(low) <= category(high):
        assert got is high
    elif high.kind == "float":
        assert got.name == ("c128" if a == "f64" else "c64")
    else:
        assert got.name == TABLE[a, b]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("make", [vector, zero_d])
def test_a_number_matters_by_category_only(name, make):
    x = make(name)
    for scalar in SCALARS:
        dtype = {bool: "bool", int: "i64", float: "f32", complex: "c64"}[type(scalar)]
        got = vtc.result_type(x, scalar)
        if category(DTYPES[dtype]) <= category(x.dtype):
            assert got is x.dtype
        elif x.dtype.kind == "float":
            assert got.name == ("c128" if name == "f64" else "c64")
        else:
            assert got.name == TABLE[name, dtype]
        assert vtc.result_type(scalar, x) is got


def test_numbers_among_themselves():
    assert vtc.result_type(True, 2) is vtc.int64
    assert vtc.result_type(2, 2.5) is vtc.float32
    assert vtc.result_type(np.float64(1), np.int32(1)) is vtc.float32


def test_the_default_dtype_decides_floats():
    vtc.set_default_dtype(vtc.float64)
    try:
        assert vtc.result_type(vector("i32"), 2.5) is vtc.float64
        assert (vector("i64") / 2).dtype is vtc.float64
    finally:
        vtc.set_default_dtype(vtc.float32)


def test_a_weak_tensor_counts_as_a_number():
    weak = zero_d("f64")
    weak._weak = True
    assert vtc.result_type(vector("f16"), weak) is vtc.float16
    assert vtc.result_type(vector("i64"), weak) is vtc.float32
    assert vtc.result_type(zero_d("f16"), weak) is vtc.float16


def test_fp8_promotes_with_itself_only():
    x = vector("f8e4m3")
    assert vtc.result_type(x, x) is vtc.float8_e4m3fn
    for other in ("f32", "f8e5m2", "i64"):
        with pytest.raises(TypeCheckError, match="do not promote"):
            vtc.result_type(x, vector(other))


def test_nothing_has_no_result_type():
    with pytest.raises(ArgumentError, match="at least one"):
        vtc.result_type()


@pytest.mark.parametrize(
    ("shapes", "want"),
    [
        ([(2, 3), (3,)], (2, 3)),
        ([(2, 1), (1, 3)], (2, 3)),
        ([(), (0, 1)], (0, 1)),
        ([(1,), (0,)], (0,)),
        ([(2, 1, 4), (3, 1), (4,)], (2, 3, 4)),
    ],
)
def test_broadcast_shapes(shapes, want):
    types = [TensorType(f32, s) for s in shapes]
    assert promotion.common_shape("add", types) == want
    assert vtc.broadcast_shapes(*shapes) == want == np.broadcast_shapes(*shapes)


def test_shapes_that_do_not_broadcast():
    with pytest.raises(
        TypeCheckError, match=r"add: sizes 3 and 4 do not match at dim 1: f32\[2, 3\]"
    ):
        vtc.zeros(2, 3) + vtc.zeros(4)


# against torch


def torch_dtype(torch, name):
    return getattr(torch, DTYPES[name].torch)


def test_promote_types_as_torch():
    torch = pytest.importorskip("torch")
    for a, b in TABLE:
        if {a, b} == {"f16", "c64"}:
            continue
        want = torch.promote_types(torch_dtype(torch, a), torch_dtype(torch, b))
        assert want == torch_dtype(torch, TABLE[a, b]), (a, b)


@pytest.mark.parametrize("shapes", list(itertools.product([(2,), ()], repeat=2)))
def test_result_type_as_torch(shapes):
    torch = pytest.importorskip("torch")
    for a, b in TABLE:
        if "f16" in (a, b) and any(n.startswith("c") for n in (a, b)):
            continue  # torch has a complex32, vtc has none
        x, y = (
            torch.ones(s, dtype=torch_dtype(torch, n)) for s, n in zip(shapes, (a, b), strict=True)
        )
        mine = [
            vtc.from_numpy(np.ones(s, DTYPES[n].numpy)) for s, n in zip(shapes, (a, b), strict=True)
        ]
        want = torch.result_type(x, y)
        assert torch_dtype(torch, vtc.result_type(*mine).name) == want, (a, b, shapes)


@pytest.mark.parametrize("shape", [(2,), ()])
def test_result_type_with_numbers_as_torch(shape):
    torch = pytest.importorskip("torch")
    for name, scalar in itertools.product(NAMES, SCALARS):
        if name == "f16" and isinstance(scalar, complex):
            continue
        want = torch.result_type(torch.ones(shape, dtype=torch_dtype(torch, name)), scalar)
        got = vtc.result_type(vtc.from_numpy(np.ones(shape, DTYPES[name].numpy)), scalar)
        assert torch_dtype(torch, got.name) == want, (name, scalar)


def test_can_cast_as_torch():
    torch = pytest.importorskip("torch")
    for a, b in TABLE:
        want = torch.can_cast(torch_dtype(torch, a), torch_dtype(torch, b))
        assert vtc.can_cast(DTYPES[a], DTYPES[b]) == want, (a, b)
