"""Some hundred damaged packages for the C runtime; ``fuzz_native.py`` runs thousands."""

import fuzz_native
import pytest
from native_build import compiler

pytestmark = pytest.mark.skipif(compiler() is None, reason="there is no C compiler")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz")


@pytest.fixture(scope="module")
def program(folder):
    return fuzz_native.harness(folder)


@pytest.fixture(scope="module")
def prepared(folder):
    return fuzz_native.prepared(folder)


@pytest.mark.parametrize("number", [0, 1, 2])
def test_mutations(program, prepared, number):
    assert fuzz_native.run(program, prepared[number], 300 if number < 2 else 150, 0) == []


@pytest.mark.parametrize("number", [1, 2])
def test_a_whole_package_is_no_failure(program, prepared, number):
    """What mutations are refused for is the mutation."""
    package, *_ = prepared[number]
    size = package.stat().st_size
    lines = f"flip 1 1 0 0\ncut 1 1 {size}\ntake 1 1 {size}\n".encode() + package.read_bytes()
    done = fuzz_native.told(program, prepared[number], lines)
    assert (done.returncode, done.stdout) == (0, b"0 \n" * 3), done.stderr
