"""User code to programs. Importing this package puts every rule on the dispatch stack."""

from __future__ import annotations

from vtc.frontend import autocast, autograd, capture, concrete, pickles, shortcut, tensor

__all__ = ["autocast", "autograd", "capture", "concrete", "pickles", "shortcut", "tensor"]
