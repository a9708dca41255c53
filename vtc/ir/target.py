"""Facts of a device that passes, code generation and packages agree on. Nothing here looks at this
machine.

``keeps`` names the composites a target has kernels for: ``decompose`` leaves them whole and
``recognize`` looks for them spelled by hand::

    Target(name="toy", kind="cpu", keeps=frozenset({"softmax"}))
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, final

Kind = Literal["cpu", "cuda"]
ATTENTION = frozenset({"attention_gradient", "scaled_dot_product_attention"})


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A device as the compiler sees it.

    ``vector`` is the bytes one vector register (or load) holds; ``arch`` the compute capability of
    a GPU (90 for 9.0), ``processors`` how many multiprocessors it has, ``shared`` the bytes of
    shared memory a block may have and ``l2`` those of its cache.
    ``deterministic`` asks for kernels that compute the same each time they run, if slower.
    """

    name: str
    kind: Kind
    keeps: frozenset[str] = frozenset()
    vector: int = 16
    arch: int = 0
    processors: int = 0
    shared: int = 0
    l2: int = 0
    deterministic: bool = False


def cpu(*, vector: int = 32) -> Target:
    """A CPU, programmed in C with vectors of ``vector`` bytes; it keeps attention whole."""
    return Target(name="cpu", kind="cpu", keeps=ATTENTION, vector=vector)


def cuda(
    arch: int = 90,
    *,
    processors: int = 132,
    shared: int = 232_448,
    l2: int = 50 << 20,
    deterministic: bool = False,
) -> Target:
    """An NVIDIA GPU, programmed in Triton; an H100 if nothing else is said."""
    return Target(
        name=f"sm_{arch}",
        kind="cuda",
        keeps=ATTENTION,
        arch=arch,
        processors=processors,
        shared=shared,
        l2=l2,
        deterministic=deterministic,
    )
