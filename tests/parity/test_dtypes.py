"""``result_type``, ``promote_types``, ``can_cast``, ``finfo`` and ``iinfo``, beside PyTorch's."""

from itertools import product

import pytest

import vtc
from vtc.errors import TypeCheckError, VtcError

torch = pytest.importorskip("torch", reason="needs the extra 'parity'")
NARROW = ("float8_e4m3fn", "float8_e5m2")
NAMES = (
    *("bool", "uint8", "int8", "int16", "int32", "int64", "float16", "bfloat16", "float32"),
    *("float64", "complex64", "complex128", *NARROW),
)


def outcome(call, T):
    """What ``call`` gives, by name, or that it raises."""
    try:
        return repr(call(T)).split(".")[-1]
    except (VtcError, RuntimeError):
        return "an error"


def agree(call):
    got, want = outcome(call, vtc), outcome(call, torch)
    # There is no complex32 here, which PyTorch hardly computes with.
    return got == want or want == "complex32"


@pytest.mark.parametrize("a", NAMES)
def test_pairs(a):
    for b in NAMES:
        assert agree(lambda T, b=b: T.promote_types(getattr(T, a), getattr(T, b))), b
        assert agree(lambda T, b=b: T.can_cast(getattr(T, a), getattr(T, b))), b
        if {a, b} & {*NARROW} and {a, b} & {"complex64", "complex128"}:
            continue  # an error there, and c64 here
        for shapes in product([(2,), ()], repeat=2):

            def result(T, b=b, shapes=shapes):
                made = zip(shapes, (a, b), strict=True)
                return T.result_type(*(T.zeros(s, dtype=getattr(T, d)) for s, d in made))

            assert agree(result), (b, shapes)


@pytest.mark.parametrize("a", [n for n in NAMES if n not in NARROW])
def test_numbers(a):
    for value, shape in product([True, 2, 2.5, 1j], [(2,), ()]):
        assert agree(lambda T, s=shape, v=value: T.result_type(T.zeros(s, dtype=getattr(T, a)), v))


FLOATS = "bits eps max min tiny smallest_normal resolution dtype".split()  # noqa: SIM905


@pytest.mark.parametrize("name", NAMES)
def test_limits(name):
    for kind, fields in (("finfo", FLOATS), ("iinfo", ("bits", "max", "min", "dtype"))):
        try:
            want = getattr(torch, kind)(getattr(torch, name))
        except TypeError:
            with pytest.raises(TypeCheckError, match=f"{kind}: expected"):
                getattr(vtc, kind)(getattr(vtc, name))
            continue
        got = getattr(vtc, kind)(getattr(vtc, name))
        assert [getattr(got, f) for f in fields] == [getattr(want, f) for f in fields]
    assert repr(vtc.finfo()) == repr(torch.finfo())
    assert repr(vtc.iinfo(vtc.int8)) == repr(torch.iinfo(torch.int8))
