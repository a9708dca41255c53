"""Trees without the user's types, arrays of other libraries, libraries from memory."""

import ctypes
import gc
import os
from collections import namedtuple
from dataclasses import dataclass

import handmade
import ml_dtypes
import numpy as np
import pytest

import vtc
from vtc.errors import ArgumentError, PackageError
from vtc.runtime import dlpack
from vtc.runtime import library as libraries
from vtc.runtime.library import library
from vtc.runtime.signature import Form
from vtc.runtime.trees import flatten, unflatten

Pair = namedtuple("Pair", ["a", "b"])


@dataclass
class Both:
    a: object
    b: object


LEAVES = (None, None)
FORMS = {
    "tuple": (Form("tuple", (), LEAVES), (1, 2), (1, 2)),
    "list": (Form("list", (), LEAVES), [1, 2], [1, 2]),
    "dict": (Form("dict", ("a", 3), LEAVES), {3: 2, "a": 1}, {"a": 1, 3: 2}),
    "namedtuple": (Form("namedtuple", ("a", "b"), LEAVES), Pair(1, 2), (1, 2)),
    "a tuple for it": (Form("namedtuple", ("a", "b"), LEAVES), (1, 2), Pair(1, 2)),
    "dataclass": (Form("dataclass", ("a", "b"), LEAVES), Both(1, 2), (1, 2)),
    "a namedtuple for it": (Form("dataclass", ("a", "b"), LEAVES), Pair(1, 2), (1, 2)),
    "nested": (Form("list", (), (Form("dict", ("x",), LEAVES[:1]), None)), [{"x": 1}, 2],
               [{"x": 1}, 2]),
}  # fmt: skip


@pytest.mark.parametrize(("form", "tree", "back"), FORMS.values(), ids=FORMS)
def test_trees(form, tree, back):
    assert flatten(form, tree, "args") == [1, 2]
    assert unflatten(form, [1, 2]) == back


WRONG = {
    "too few": (FORMS["tuple"][0], (1,), "args: expected 2 items, got 1 items"),
    "no tuple": (FORMS["tuple"][0], 1, "args: expected a tuple of 2, got int"),
    "other keys": (FORMS["dict"][0], {"a": 1}, "args: expected a dict with a, 3, got one with a"),
    "no field": (FORMS["dataclass"][0], 1, "args: expected an object with a, b, got int"),
    "inside": (FORMS["nested"][0], [{"y": 1}, 2], r"args\[0\]: expected a dict with x"),
}


@pytest.mark.parametrize(("form", "tree", "why"), WRONG.values(), ids=WRONG)
def test_trees_that_do_not_fit(form, tree, why):
    with pytest.raises(ArgumentError, match=why):
        flatten(form, tree, "args")


DTYPES = ["bool", "uint8", "int8", "int16", "int32", "int64", "float16", "bfloat16", "float32"]
DTYPES += ["float64", "complex64", "complex128", "float8_e4m3fn", "float8_e5m2"]


@pytest.mark.parametrize("dtype", DTYPES)
def test_dlpack_with_torch(dtype):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    theirs = torch.arange(6).reshape(2, 3).to(getattr(torch, dtype)).T
    ours = vtc.from_dlpack(theirs)
    assert ours.dtype is getattr(vtc, dtype)
    back = torch.from_dlpack(ours)
    assert (back.data_ptr(), back.stride()) == (theirs.data_ptr(), theirs.stride())
    del back, ours
    gc.collect()
    assert not dlpack._GIVEN


def test_dlpack_with_numpy():
    x = vtc.arange(6).reshape(2, 3)
    np.testing.assert_array_equal(np.from_dlpack(x), x)
    array = np.arange(4.0)[::-1]
    np.testing.assert_array_equal(vtc.from_dlpack(array), array)
    fixed = np.zeros(3)
    fixed.flags.writeable = False
    assert not dlpack.taken(fixed).flags.writeable


def test_a_capsule_nobody_takes_gives_its_memory_back():
    capsule = vtc.ones(3).__dlpack__()
    assert len(dlpack._GIVEN) == 1
    del capsule
    assert not dlpack._GIVEN


def test_dlpack_errors():
    with pytest.raises(ArgumentError, match="expected an object with __dlpack__, got int"):
        vtc.from_dlpack(1)
    with pytest.raises(ArgumentError, match="expected a dtype that vtc has, got code 1, 16 bits"):
        vtc.from_dlpack(np.zeros(2, np.uint16))
    with pytest.raises(BufferError, match="asked for a copy"):
        np.from_dlpack(vtc.ones(2), copy=True)


def test_half_precision_without_dlpack():
    x = np.ones(3, ml_dtypes.bfloat16)
    assert vtc.from_numpy(x).dtype is vtc.bfloat16


@pytest.mark.parametrize("memory", [True, False])
def test_a_library_from_memory(memory, monkeypatch):
    monkeypatch.setattr(libraries, "_loaded", {})
    if not memory:
        monkeypatch.delattr(os, "memfd_create")
    path = library(handmade.pool(), "a" * 64)
    assert str(path).startswith("/proc/self/fd/") is memory
    assert ctypes.CDLL(str(path)).vtc_pool_of_process
    assert library(b"not read", "a" * 64) == path
    with pytest.raises(PackageError, match="expected a library, got"):
        library(b"no library", "b" * 64)
