"""Schedules of the learning rate. Call ``step()`` once after each ``optimizer.step()``.

A compiled step reads ``lr`` anew at each call, so a schedule never makes it compile again. ::

    schedule = vtc.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=1000)
    for x, y in batches:
        step(x, y)
        schedule.step()
"""

from __future__ import annotations

from vtc.optim.cycles import CosineAnnealingWarmRestarts, CyclicLR, OneCycleLR
from vtc.optim.decay import (
    ConstantLR,
    CosineAnnealingLR,
    ExponentialLR,
    LambdaLR,
    LinearLR,
    MultiplicativeLR,
    MultiStepLR,
    PolynomialLR,
    StepLR,
)
from vtc.optim.plateau import ChainedScheduler, ReduceLROnPlateau, SequentialLR
from vtc.optim.schedule import LRScheduler

__all__ = [
    "ChainedScheduler",
    "ConstantLR",
    "CosineAnnealingLR",
    "CosineAnnealingWarmRestarts",
    "CyclicLR",
    "ExponentialLR",
    "LRScheduler",
    "LambdaLR",
    "LinearLR",
    "MultiStepLR",
    "MultiplicativeLR",
    "OneCycleLR",
    "PolynomialLR",
    "ReduceLROnPlateau",
    "SequentialLR",
    "StepLR",
]
