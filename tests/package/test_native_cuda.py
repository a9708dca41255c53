"""The C runtime on a GPU that is simulated: graphs, streams, errors, under sanitizers."""

import native_cuda_cases
import native_cuda_flow_cases
import native_cuda_flow_packages
import native_cuda_packages
import pytest
from native_build import SANITIZED, build, cases, compiler, run_cases

pytestmark = pytest.mark.skipif(compiler() is None, reason="there is no C compiler")


# Loops of more than two launches and copies are long, and graphs are small.
FLAGS = (*SANITIZED, f"-DVTC_SPELLED={native_cuda_flow_packages.SHORT}", "-DVTC_MOST_NODES=600")


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """What the cases are given: the runtime, a folder with packages, and the driver."""
    folder = tmp_path_factory.mktemp("gpu")
    native_cuda_packages.make(folder)
    native_cuda_flow_packages.make(folder)
    library = build(folder / "libvtc.so", ["vtc_runtime.c"], FLAGS, shared=True)
    flags = (*SANITIZED, "-Wl,-soname,libcuda.so.1")
    return library, folder, build(folder / "libcuda.so.1", ["stub_cuda.c"], flags, shared=True)


@pytest.fixture(scope="module")
def results(built):
    """What the cases say."""
    return run_cases("native_cuda_cases", *built)


@pytest.mark.parametrize("case", cases(native_cuda_cases))
def test_case(results, case):
    assert results[case] == "", results[case]


@pytest.fixture(scope="module")
def flow_results(built):
    """What the cases of loops and branches say."""
    return run_cases("native_cuda_flow_cases", *built)


@pytest.mark.parametrize("case", cases(native_cuda_flow_cases))
def test_flow(flow_results, case):
    assert flow_results[case] == "", flow_results[case]
