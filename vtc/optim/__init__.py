"""Optimizers and schedules of their learning rate, by PyTorch's names."""

from vtc.optim import lr_scheduler
from vtc.optim.adamw import AdamW
from vtc.optim.optimizer import Optimizer
from vtc.optim.sgd import SGD

__all__ = ["SGD", "AdamW", "Optimizer", "lr_scheduler"]
