"""The simulated GPU that tests of this folder run on."""

import gc

import pytest
import small_kernels
import small_plans
from entries import Entries
from simulated import Simulated

from vtc import config
from vtc.codegen.c import compile_patch, find_compiler
from vtc.runtime.cache import Store
from vtc.runtime.cuda import copies
from vtc.runtime.cuda.driver import installed
from vtc.runtime.cuda.executable import CudaExecutable


@pytest.fixture(scope="session", autouse=True)
def nothing_stored(tmp_path_factory):
    """A stored kernel would be loaded without Triton, and this GPU cannot run it."""
    with config.override(cache_dir=tmp_path_factory.mktemp("store")):
        yield


@pytest.fixture
def sim():
    """One GPU of 64 MiB."""
    with installed(Simulated()) as gpu:
        yield gpu
        gc.collect()


@pytest.fixture
def two():
    """Two of them."""
    with installed(Simulated(2)) as gpus:
        yield gpus
        gc.collect()


@pytest.fixture(scope="session")
def patcher(tmp_path_factory):
    return compile_patch(find_compiler(), Store(tmp_path_factory.mktemp("patch")))


@pytest.fixture(params=["compiled", "python", "one by one"])
def make(request, sim, patcher):
    """Makes the executable of a plan."""
    small_kernels.install(sim)
    library = None
    if request.param == "compiled":
        library, sim.symbol = patcher, Entries(sim).address

    def made(plan, **more):
        return CudaExecutable(plan, small_plans.BINARIES | more, 0, library)

    made.mode = request.param
    with config.override(cuda_graphs=request.param != "one by one"):
        yield made


@pytest.fixture(autouse=True)
def _copies_by_way_of_the_host(monkeypatch):
    """A simulated GPU does not run the kernel that copies with strides."""
    monkeypatch.setattr(copies, "strided", None)
