"""The samples of every op as programs: what all generated tests run over."""

import zlib
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pytest

import vtc.ir.ops  # noqa: F401  (fills the registry)
from vtc.errors import TypeCheckError
from vtc.ir.graph import GraphBuilder, Program
from vtc.ir.op import REGISTRY, Sample
from vtc.ir.types import TensorType, TupleType


@dataclass(frozen=True)
class Case:
    """One sample of one op."""

    sample: Sample
    id: str

    @property
    def op(self):
        return self.sample.op

    def arrays(self, dtype=None):
        """The inputs, floats as ``dtype``: all of them but those the op wants as they are."""
        given = self.sample.inputs
        floats = [i for i, a in enumerate(given) if dtype is not None and a.dtype.kind == "f"]
        for count in range(len(floats) + 1):
            for kept in combinations(reversed(floats), count):
                found = tuple(
                    a.astype(dtype.numpy) if i in floats and i not in kept else a
                    for i, a in enumerate(given)
                )
                if takes(self.op, found):
                    return found
        raise AssertionError(f"{self.op} does not take its own sample")

    def program(self, dtype=None):
        """The op applied to params; several results are several outputs."""
        return program_of(self.op, map(TensorType.of, self.arrays(dtype)))


def takes(op, arrays):
    """Whether the type rule of ``op`` accepts ``arrays``."""
    try:
        op.infer(*map(TensorType.of, arrays))
    except TypeCheckError:
        return False
    return True


def program_of(op, types):
    """``op`` on params of ``types``."""
    b = GraphBuilder()
    params = [b.param(f"x{i}", t) for i, t in enumerate(types)]
    graph = b.graph("main", params, results_of(b, b.apply(op, *params)))
    return Program((graph,))


def results_of(b, node):
    """The tensors a node stands for."""
    if not isinstance(node.type, TupleType):
        return [node]
    return [b.apply(REGISTRY["item"](index=i), node) for i in range(len(node.type.items))]


def samples_of(name):
    """The samples of one op; the same ones whatever other ops there are."""
    return list(REGISTRY[name].samples(np.random.default_rng(zlib.crc32(name.encode()))))


def all_cases():
    return [
        Case(sample, f"{name}-{i}")
        for name in sorted(REGISTRY)
        for i, sample in enumerate(samples_of(name))
    ]


CASES = all_cases()


def each(cases):
    """Parameters for a test, one per case."""
    return [pytest.param(c, id=c.id) for c in cases]
