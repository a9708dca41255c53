"""A test that ends all use of CUDA in its process ends the process too.

After an illegal address, say, CUDA answers every call with that error, so all tests after it would
fail. Of several processes (``-n 8``) the one is replaced by a new one, and the test that it would
have run next counts as crashed; a single process stops there, and says so.
"""

import os

import pytest

from vtc.errors import VtcError
from vtc.runtime.cuda.device import all_used

LOST = pytest.StashKey[str]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item):
    report = yield
    if report.failed and LOST not in item.session.stash and (why := lost()):
        item.session.stash[LOST] = f"{item.nodeid} left a device that can do no more: {why}"
    return report


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item):
    why = item.session.stash.get(LOST, "")
    if why and "PYTEST_XDIST_WORKER" in os.environ:
        os.write(2, f"\n{why}\n".encode())
        os._exit(1)
    if why:
        pytest.exit(why, returncode=1)


def lost():
    """What a device says that does no more; "" if all work."""
    for gpu in all_used():
        try:
            gpu.driver.synchronize(gpu.index)
        except VtcError as error:
            return str(error).splitlines()[0]
    return ""
