"""Optimizers and schedules of their learning rate, by PyTorch's names."""

from vtc.optim import lr_scheduler, swa_utils
from vtc.optim.adafactor import Adafactor
from vtc.optim.adam import Adam
from vtc.optim.adamw import AdamW
from vtc.optim.asgd import ASGD, Rprop
from vtc.optim.lbfgs import LBFGS
from vtc.optim.lion import Lion
from vtc.optim.muon import Muon
from vtc.optim.nadam import Adamax, NAdam, RAdam
from vtc.optim.optimizer import Optimizer
from vtc.optim.rmsprop import Adadelta, Adagrad, RMSprop
from vtc.optim.sgd import SGD

__all__ = [
    "ASGD",
    "LBFGS",
    "SGD",
    "Adadelta",
    "Adafactor",
    "Adagrad",
    "Adam",
    "AdamW",
    "Adamax",
    "Lion",
    "Muon",
    "NAdam",
    "Optimizer",
    "RAdam",
    "RMSprop",
    "Rprop",
    "lr_scheduler",
    "swa_utils",
]
