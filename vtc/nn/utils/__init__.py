"""PyTorch's ``nn.utils``: what one does to all parameters of a model at once."""

from vtc.nn.clip import clip_grad_norm_

__all__ = ["clip_grad_norm_"]
