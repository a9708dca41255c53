"""What all tests share."""

import gc

import pytest


def pytest_collection_finish():
    _freeze()


@pytest.fixture(scope="module", autouse=True)
def _only_this_file_is_collected():
    """Many tests ask the garbage collector; what is alive before their file is not theirs."""
    _freeze()


def _freeze():
    gc.collect()
    gc.freeze()
