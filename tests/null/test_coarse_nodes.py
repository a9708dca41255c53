"""Which values of a region are seen only after rounding."""

import vtc
from vtc.codegen.coarse import coarse


def names(text):
    program = vtc.parse(text)
    return {n.name for n in coarse(program.entry)}


def test_what_ends_in_a_narrow_float_is_coarse():
    assert names("""
def f(x: f32[8], y: f32[8]) -> (bf16[8], f32[8]):
    e: f32[8] = exp(x)
    s: f32[8] = add(x, y)
    p: f32[8] = div(e, s)
    z: bf16[8] = cast(p, dtype=bf16)
    return z, s
""") == {"e", "p", "z"}


def test_what_makes_much_of_an_error_stops_it():
    found = names("""
def f(x: f32[8], y: f32[8]) -> (bf16[8], bool[8]):
    a: f32[8] = exp(x)
    b: f32[8] = sin(a)
    c: f32[8] = exp(y)
    d: bool[8] = lt(c, x)
    e: f32[8] = mul(b, c)
    z: bf16[8] = cast(e, dtype=bf16)
    return z, d
""")
    assert found == {"b", "e", "z"}


def test_sums_and_narrow_values():
    found = names("""
def f(x: f32[8, 4]) -> (bf16[8, 4], f32[8]):
    a: f32[8, 4] = exp(x)
    s: f32[8] = sum(a, axes=(1,))
    t: f32[8, 4] = expand(s, axes=(1,), sizes=(4,))
    p: f32[8, 4] = div(a, t)
    z: bf16[8, 4] = cast(p, dtype=bf16)
    w: f32[8, 4] = cast(z, dtype=f32)
    r: f32[8] = sum(w, axes=(1,))
    return z, r
""")
    assert found == {"a", "s", "t", "p", "z"}
    wide = "def f(x: f64[8]) -> bf16[8]:\n    a: f64[8] = exp(x)\n"
    assert names(f"{wide}    y: bf16[8] = cast(a, dtype=bf16)\n    return y\n") == {"y"}
