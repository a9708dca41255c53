"""What every test shares: options, hypothesis profiles, skipping without a GPU, garbage.

It is here, not in ``tests``: pytest puts the folder of a conftest on the path, where PyTorch would
find ``tests/triton`` and take it for Triton.
"""

import ctypes
import gc
import os
import signal
from importlib.metadata import PackageNotFoundError, version

import pytest
from hypothesis import HealthCheck, settings

# Before vtc is imported: it reads the environment once.
os.environ["VTC_CHECK"] = "2"
os.environ["VTC_TUNE"] = "off"  # but where a test says so

# Shells start background jobs with ^C ignored, and children inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

settings.register_profile(
    "ci",
    derandomize=True,
    deadline=None,
    max_examples=50,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.register_profile(  # pytest --hypothesis-profile=deep
    "deep", parent=settings.get_profile("ci"), derandomize=False, max_examples=2000
)
settings.load_profile("ci")


def pytest_addoption(parser):
    parser.addoption(
        "--update-golden", action="store_true", help="write what the code does now into the goldens"
    )


@pytest.fixture
def update_golden(request):
    """Whether golden files are to be written instead of compared."""
    return request.config.getoption("--update-golden")


LONG = tuple(f"tests/{name}/" for name in ("backend", "e2e", "package", "parity", "property"))
"""Folders whose files take longest: they come first, so that at the end no process is left alone
with one of them.
"""


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: not item.nodeid.startswith(LONG))
    needs = {"gpu": 1, "multi": 2}
    marked = [
        (item, n) for item in items for name, n in needs.items() if item.get_closest_marker(name)
    ]
    if not marked:
        return
    devices, reason = count_gpus()
    for item, wanted in marked:
        if devices < wanted:
            why = reason or f"{wanted} GPUs wanted, {devices} here"
            item.add_marker(pytest.mark.skip(reason=why))


def count_gpus():
    """How many GPUs vtc can use here, and why none where there are none."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return 0, "no NVIDIA driver"
    count = ctypes.c_int()
    if driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count)) or not count.value:
        return 0, "no NVIDIA GPU"
    try:  # the folder tests/cuda would be found as a module
        version("cuda-bindings")
    except PackageNotFoundError:
        return 0, "cuda-bindings is not installed: pip install -e '.[cuda13]'"
    return count.value, None


def pytest_collection_finish():
    _freeze()


@pytest.fixture(scope="module", autouse=True)
def _only_this_file_is_collected():
    """Many tests ask the garbage collector; what is alive before their file is not theirs."""
    _freeze()


def _freeze():
    gc.collect()
    gc.freeze()
