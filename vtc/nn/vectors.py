"""All parameters as one vector and back: ``nn.utils.parameters_to_vector`` (PyTorch's names).

v = nn.utils.parameters_to_vector(model.parameters())
nn.utils.vector_to_parameters(v * 0.5, model.parameters())
"""

from __future__ import annotations

from collections.abc import Iterable

from vtc.errors import ArgumentError
from vtc.frontend import dispatch
from vtc.frontend.functions.rearrange import cat
from vtc.frontend.source import located
from vtc.frontend.tensor import Tensor


def parameters_to_vector(parameters: Iterable[Tensor]) -> Tensor:
    """One vector with the elements of all, in order."""
    return cat([p.reshape(-1) for p in parameters])


def vector_to_parameters(vec: Tensor, parameters: Iterable[Tensor]) -> None:
    """Write the elements of ``vec`` into the parameters, in order."""
    if vec.ndim != 1:
        raise located(ArgumentError, f"vector_to_parameters: expected a vector, got {vec.type}")
    found = list(parameters)
    sizes = [int(p.numel()) for p in found]
    if sum(sizes) > int(vec.shape[0]):
        got = f"expected {sum(sizes)} elements, got {vec.type}"
        raise located(ArgumentError, f"vector_to_parameters: {got}")
    at = 0
    with dispatch.no_grad():
        for p, n in zip(found, sizes, strict=True):
            dispatch.write(p, vec[at : at + n].reshape(p.shape).to(p.dtype))
            at += n
