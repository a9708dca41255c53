"""Which CUDA driver is in use: the machine's own, or one that tests install.

>>> with installed(Simulated()) as gpu:
...     driver() is gpu
True

:class:`Driver` says what a driver does.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from vtc.runtime.cuda.interface import Driver, Facts, Grid
from vtc.runtime.cuda.native import CudaDriver

__all__ = ["Driver", "Facts", "Grid", "driver", "install", "installed"]

_driver: Driver = CudaDriver()


def driver() -> Driver:
    """The driver in use."""
    return _driver


def install(other: Driver) -> None:
    """Use another driver from now on; arrays of the one before must not be used any more."""
    global _driver
    _driver = other


@contextmanager
def installed(other: Driver) -> Iterator[Driver]:
    """Use another driver for the length of a ``with`` block; for tests."""
    before = driver()
    install(other)
    try:
        yield other
    finally:
        install(before)
