"""Only with the Triton whose interpreter these tests know: ``make triton`` makes .venv-triton."""

import os
from importlib.metadata import PackageNotFoundError, version

import pytest

from vtc.codegen.triton.compile import TRITON
from vtc.runtime.cache import Store

# Before Triton is imported: it then interprets every kernel of this process.
os.environ["TRITON_INTERPRET"] = "1"


def lacking():
    """Why these tests cannot run here; "" if they can."""
    try:
        found = version("triton")
    except PackageNotFoundError:
        return "triton is not installed: make triton"
    if found != TRITON:
        return f"triton {TRITON} wanted, {found} here"
    if tuple(map(int, version("numpy").split(".")[:2])) >= (2, 4):
        return "Triton's interpreter needs NumPy below 2.4: make triton"
    return ""


LACKING = lacking()
if LACKING:
    collect_ignore_glob = ["test_*.py"]


@pytest.fixture(scope="session")
def store(tmp_path_factory):
    """One for all tests: equal kernels are compiled once."""
    return Store(tmp_path_factory.mktemp("cache"))
