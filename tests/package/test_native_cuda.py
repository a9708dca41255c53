"""The C runtime on a GPU that is simulated: graphs, streams, errors, under sanitizers."""

import native_cuda_cases
import native_cuda_packages
import pytest
from native_build import SANITIZED, build, cases, compiler, run_cases

pytestmark = pytest.mark.skipif(compiler() is None, reason="there is no C compiler")


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """What the cases say."""
    folder = tmp_path_factory.mktemp("gpu")
    native_cuda_packages.make(folder)
    library = build(folder / "libvtc.so", ["vtc_runtime.c"], shared=True)
    flags = (*SANITIZED, "-Wl,-soname,libcuda.so.1")
    stub = build(folder / "libcuda.so.1", ["stub_cuda.c"], flags, shared=True)
    return run_cases("native_cuda_cases", library, folder, stub)


@pytest.mark.parametrize("case", cases(native_cuda_cases))
def test_case(results, case):
    assert results[case] == "", results[case]
