"""What every op and every user function says of input it does not take, made from samples.

A type rule refuses in its own words (``name: expected .., got ..``) or gives the type of what the
reference computes; an index outside is an error everywhere, or brought inside as documented; user
functions raise errors of vtc's, at the user's line, eager and in a trace.
"""

import ast
import importlib
import inspect
from dataclasses import fields, replace

import functions_table
import numpy as np
import pytest
from cases import CASES, program_of, samples_of

import vtc
import vtc.linalg
import vtc.nn.functional as F
from vtc.build import compile_program, context_for
from vtc.codegen.c import find_compiler
from vtc.errors import IndexRangeError, TypeCheckError, VtcError
from vtc.ir.evaluate import evaluate
from vtc.ir.op import REGISTRY, infer
from vtc.ir.ops.elementwise import Elementwise
from vtc.ir.types import TensorType, TupleType, bool_, c64, f16, f32, i64, u8

NAMES = sorted({c.op.name for c in CASES})


def wrong_ones(op, types):
    """The op and its operands' types, one thing of them changed; some of it is fine."""
    if types:
        yield op, types[:-1]
        yield op, [*types, types[-1]]
    for i, t in enumerate(types):
        for new in (*reshaped(t), *(t.with_dtype(d) for d in (bool_, i64, u8, f16, f32, c64))):
            yield op, [*types[:i], new, *types[i + 1 :]]
        yield op, [*types[:i], TupleType((t, t)), *types[i + 1 :]]
    for f in fields(op):
        for value in other_values(getattr(op, f.name)):
            yield replace(op, **{f.name: value}), types


def reshaped(t):
    shapes = [(2, *t.shape), (*t.shape, 2), ()]
    if t.shape:
        first, last = t.shape[0], t.shape[-1]
        shapes += [t.shape[1:], (first + 1, *t.shape[1:]), (*t.shape[:-1], last + 1)]
        shapes += [(0, *t.shape[1:])]
    return map(t.with_shape, shapes)


def other_values(value):
    """Axes that are not there, too many of them, too few, twice the same, and negative sizes."""
    if type(value) is int:
        return (99, -1, -99)
    if type(value) is tuple and all(type(v) is int for v in value):
        n = len(value)
        return ((*value, 99), (*value, -1), value[1:], (*value, 0), (99,) * n, (-1,) * n, (0, 0))
    return ()


@pytest.mark.parametrize("name", NAMES)
def test_type_rules_refuse_in_their_own_words(name):
    said = []
    for sample in samples_of(name):
        for op, types in wrong_ones(sample.op, list(map(TensorType.of, sample.inputs))):
            try:
                infer(op, types)
            except TypeCheckError as e:
                said.append(str(e))
    assert said
    assert [text for text in said if not text.startswith(f"{name}: ")] == []


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_what_type_rules_accept_can_be_computed(name):
    rng = np.random.default_rng(0)
    for sample in samples_of(name):
        for op, types in wrong_ones(sample.op, list(map(TensorType.of, sample.inputs))):
            try:
                infer(op, types)
            except TypeCheckError:
                continue
            program = program_of(op, types)
            try:
                found = evaluate(program, *(drawn(rng, t) for t in types))
            except (IndexRangeError, TypeCheckError):  # values that the op does not take
                continue
            for node, array in zip(program.entry.outputs, found, strict=True):
                assert TensorType.of(array) == node.type, (op, types)


def drawn(rng, t):
    if t.dtype.kind in ("bool", "int"):
        return rng.integers(0, 2, t.shape).astype(t.dtype.numpy)
    return rng.uniform(0.1, 0.9, t.shape).astype(t.dtype.numpy)


def indexing():
    """A sample for each op that takes integers beside other operands, and which they are."""
    for name in NAMES:
        for sample in samples_of(name):
            found = [i for i, a in enumerate(sample.inputs) if i and a.dtype.kind == "i" and a.size]
            if found and not issubclass(REGISTRY[name], Elementwise):
                yield pytest.param(sample, found[-1], id=name)
                break


@pytest.mark.skipif(find_compiler() is None, reason="no C compiler")
@pytest.mark.parametrize(("sample", "i"), list(indexing()))
def test_an_index_outside_is_refused_or_brought_inside(sample, i):
    """Compiled code does what the reference does: nothing outside is read or written."""
    program = program_of(sample.op, map(TensorType.of, sample.inputs))
    built = compile_program(program, context_for(vtc.device("cpu")))
    for far in (10**6, -(10**6), 2**62):
        arrays = list(sample.inputs)
        arrays[i] = arrays[i].copy()
        arrays[i].reshape(-1)[-1] = far if arrays[i].dtype == np.int64 else np.sign(far) * 10**6
        try:
            want = evaluate(program, *arrays)
        except IndexRangeError:
            with pytest.raises(IndexRangeError, match="expected"):
                built.run(arrays)
        else:
            for w, g in zip(want, built.run(arrays), strict=True):
                np.testing.assert_allclose(g, w, 1e-5, 1e-5)


OPERANDS = functions_table.operands()
WRONG = {
    "0-d": np.array(1.5, np.float32),
    "bool": np.eye(2, dtype=bool),
    "vector of integers": np.arange(5),
    "empty": np.zeros((0, 2), np.float32),
    "deep": np.zeros((1, 2, 1, 2, 1, 2), np.float32),
    "complex": np.ones(3, np.complex64),
}
CALLS = [
    (row, name)
    for rows in functions_table.ROWS.values()
    for row, *_ in rows
    if "_(" not in row and "int(" not in row  # a call, not a statement
    for name in sorted({n.id for n in ast.walk(ast.parse(row)) if isinstance(n, ast.Name)})
    if name in OPERANDS
]


def complaints(kind):
    """What the calls say with one operand of a wrong ``kind``, where it is not an error of vtc's
    that shows the line of the call.
    """
    given = {k: vtc.tensor(a) for k, a in OPERANDS.items()}
    words = {"T": vtc, "F": F, "np": np}
    wrong, found, refused = vtc.tensor(WRONG[kind]), [], 0
    for row, name in CALLS:
        try:
            eval(row, words, {**given, name: wrong})
        except VtcError as e:
            refused += 1
            if "\n  at <string>:1" not in str(e):
                found.append(f"{row}, {name}: {type(e).__name__}: {e}")
        except Exception as e:
            found.append(f"{row}, {name}: {type(e).__name__}: {e}")
    assert refused
    return found


@pytest.mark.parametrize("kind", WRONG)
def test_calls_with_a_wrong_operand(kind):
    assert complaints(kind) == []


@pytest.mark.parametrize("kind", WRONG)
def test_traced_calls_with_a_wrong_operand(kind):
    """What failed leaves the trace as it was."""
    found = []

    @vtc.compile
    def f(x):
        found.extend(complaints(kind))
        return x + 1

    assert f(vtc.ones(2)).tolist() == [2.0, 2.0]
    assert found == []


def public():
    """Every public function that is written in a file of functions."""
    for name, (module, private) in vtc._NAMES.items():
        if module.startswith("vtc.frontend.functions."):
            yield name, getattr(importlib.import_module(module), private)
    for module in (F, vtc.linalg):
        yield from inspect.getmembers(module, inspect.isfunction)


FITTING = {"int": 0, "Dims": 0, "float": 1.0, "Number": 1.0}


def test_what_is_no_tensor_is_told_by_name():
    """A list in the place of each tensor in turn."""
    found, refused, x = [], 0, vtc.ones(2, 2)
    for name, function in public():
        needed = [
            p for p in inspect.signature(function).parameters.values() if p.default is p.empty
        ]
        needed = [p for p in needed if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
        for bad in (p for p in needed if p.annotation == "Tensor"):
            given = {p: [1, 2] if p is bad else FITTING.get(p.annotation, x) for p in needed}
            named = {p.name: v for p, v in given.items() if p.kind is p.KEYWORD_ONLY}
            try:
                function(*(v for p, v in given.items() if p.kind is not p.KEYWORD_ONLY), **named)
            except VtcError as e:
                refused += "Tensor" in str(e)
            except Exception as e:
                found.append(f"{name}({bad.name}): {type(e).__name__}: {e}")
    assert found == []
    assert refused > 200
