"""Parameters with a mask (PyTorch's names): ``nn.utils.prune``.

prune.l1_unstructured(layer, "weight", amount=0.3)        # the 30% that are smallest count as zero
layer.weight_orig, layer.weight_mask                      # what is learned, and the mask
prune.remove(layer, "weight")                             # zeros for good

``layer.weight`` is computed as ``weight_orig * weight_mask``. Pruning again takes its share of what
is left.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Literal, Self, TypeVar, final

from vtc.errors import ArgumentError
from vtc.frontend import dispatch
from vtc.frontend.functions.creation import ones_like, zeros_like
from vtc.frontend.functions.random import rand
from vtc.frontend.functions.rearrange import cat
from vtc.frontend.functions.reduce import norm
from vtc.frontend.source import located
from vtc.frontend.tensor import Tensor
from vtc.nn.module import Module
from vtc.nn.parameter import Buffer
from vtc.nn.utils.computed import Computed, define, undefine
from vtc.nn.utils.weight_norm import own_parameter

M = TypeVar("M", bound=Module)
Amount = float | int


class BasePruningMethod(ABC):
    """A way to choose what is kept: ``compute_mask(t, default_mask)`` gives ones and zeros.

    ``PRUNING_TYPE`` says what it counts where something was pruned before: "unstructured" the
    elements that are left, "structured" the slices along ``dim`` that are left, "global" all.
    """

    PRUNING_TYPE: ClassVar[Literal["unstructured", "structured", "global"]] = "unstructured"

    @abstractmethod
    def compute_mask(self, t: Tensor, default_mask: Tensor) -> Tensor:
        """1 where ``t`` is kept; ``default_mask`` is what was kept so far, of one shape."""

    @classmethod
    def apply(
        cls, module: Module, name: str, *args: Any, importance_scores: Tensor | None = None,
        **kwargs: Any,
    ) -> Self:  # fmt: skip
        """Prune ``module.<name>`` by a method made of the other arguments, which is returned.

        ``importance_scores``, like the parameter, stand for its values when choosing.
        """
        method = cls(*args, **kwargs)
        before = vars(module).get(f"{name}_mask")
        value: Tensor = getattr(module, name) if before is not None else _own(module, name)
        scores = value if importance_scores is None else importance_scores
        if scores.type.shape != value.type.shape:
            message = f"expected importance_scores like {value.type}, got {scores.type}"
            raise located(ArgumentError, f"prune: {message}")
        with dispatch.no_grad():
            kept = ones_like(value, requires_grad=False) if before is None else before
            mask = method._mask(scores.detach(), kept)
        if before is None:
            delattr(module, name)
            setattr(module, f"{name}_orig", value)
            define(module, "", name, Computed(_masked))
        setattr(module, f"{name}_mask", Buffer(mask))
        return method

    def prune(
        self, t: Tensor, default_mask: Tensor | None = None, importance_scores: Tensor | None = None
    ) -> Tensor:
        """``t`` with zeros where it is not kept."""
        scores = t if importance_scores is None else importance_scores
        kept = ones_like(t) if default_mask is None else default_mask
        return t * self.compute_mask(scores, kept)

    def _mask(self, scores: Tensor, kept: Tensor) -> Tensor:
        """The mask where ``kept`` says what is left; the method sees only that."""
        if self.PRUNING_TYPE == "global":
            return self.compute_mask(scores, kept)
        if self.PRUNING_TYPE == "structured":
            dim: int = getattr(self, "dim", -1)
            rows = kept.movedim(dim, 0).reshape(int(kept.shape[dim]), -1)
            left = rows.sum(1).nonzero().flatten()
            part = self.compute_mask(scores.index_select(dim, left), kept.index_select(dim, left))
            return kept.index_copy(dim, left, part.to(kept.dtype))
        left = kept.flatten().nonzero().flatten()
        values = scores.flatten().index_select(0, left)
        part = self.compute_mask(values, ones_like(values))
        return zeros_like(kept).flatten().index_copy(0, left, part.to(kept.dtype)).reshape_as(kept)


@final
class Identity(BasePruningMethod):
    """Keeps all."""

    def compute_mask(self, t: Tensor, default_mask: Tensor) -> Tensor:
        """``default_mask``."""
        del t
        return default_mask


class _Share(BasePruningMethod, ABC):
    """Drops a share of what there is, or a number."""

    def __init__(self, amount: Amount) -> None:
        whole = isinstance(amount, int)
        if amount < 0 or (not whole and amount > 1):
            message = f"expected amount in [0, 1] or an int of 0 or more, got {amount}"
            raise located(ArgumentError, f"prune: {message}")
        self.amount = amount

    def count(self, size: int) -> int:
        """How many of ``size`` to drop."""
        if not isinstance(self.amount, int):
            return round(self.amount * size)
        if self.amount > size:
            message = f"expected amount of at most {size}, got {self.amount}"
            raise located(ArgumentError, f"prune: {message}")
        return self.amount


class _Elements(_Share, ABC):
    """Drops elements."""

    def compute_mask(self, t: Tensor, default_mask: Tensor) -> Tensor:
        """0 where elements score lowest."""
        n = self.count(int(t.numel()))
        worst = self.scores(t).flatten().topk(n, largest=False).indices
        flat = default_mask.flatten().index_fill(0, worst, 0)
        return flat.reshape_as(default_mask)

    @abstractmethod
    def scores(self, t: Tensor) -> Tensor:
        """What elements are compared by."""


@final
class RandomUnstructured(_Elements):
    """Drops elements by chance."""

    def scores(self, t: Tensor) -> Tensor:
        """Random numbers."""
        return rand(*t.shape, device=t.device)


@final
class L1Unstructured(_Elements):
    """Drops the smallest elements."""

    def scores(self, t: Tensor) -> Tensor:
        """Absolute values."""
        return t.abs()


class _Slices(_Share, ABC):
    """Drops slices along ``dim``."""

    PRUNING_TYPE = "structured"

    def __init__(self, amount: Amount, dim: int = -1) -> None:
        super().__init__(amount)
        self.dim = dim

    def compute_mask(self, t: Tensor, default_mask: Tensor) -> Tensor:
        """0 where slices score lowest."""
        if t.ndim < 2 or not -t.ndim <= self.dim < t.ndim:
            message = f"expected two dims or more, one of them {self.dim}, got {t.type}"
            raise located(ArgumentError, f"prune: {message}")
        n = self.count(int(t.shape[self.dim]))
        worst = self.scores(t).topk(n, largest=False).indices
        return default_mask.index_fill(self.dim, worst, 0)

    @abstractmethod
    def scores(self, t: Tensor) -> Tensor:
        """What slices are compared by, ``[n]``."""


@final
class RandomStructured(_Slices):
    """Drops slices by chance."""

    def scores(self, t: Tensor) -> Tensor:
        """Random numbers."""
        return rand(int(t.shape[self.dim]), device=t.device)


@final
class LnStructured(_Slices):
    """Drops the slices of the smallest ``n``-norm."""

    def __init__(self, amount: Amount, n: float, dim: int = -1) -> None:
        super().__init__(amount, dim)
        self.n = n

    def scores(self, t: Tensor) -> Tensor:
        """The norms."""
        return norm(t.movedim(self.dim, 0).flatten(1), self.n, 1)


@final
class CustomFromMask(BasePruningMethod):
    """Keeps what a mask says."""

    PRUNING_TYPE = "global"

    def __init__(self, mask: Tensor) -> None:
        self.mask = mask

    def compute_mask(self, t: Tensor, default_mask: Tensor) -> Tensor:
        """``default_mask`` and the mask."""
        if self.mask.type.shape != default_mask.type.shape:
            message = f"expected a mask like {t.type}, got {self.mask.type}"
            raise located(ArgumentError, f"prune: {message}")
        return default_mask * self.mask.to(default_mask.device, default_mask.dtype)


def identity(module: M, name: str) -> M:
    """Give ``module.<name>`` a mask that keeps all; returns ``module``."""
    Identity.apply(module, name)
    return module


def random_unstructured(module: M, name: str, amount: Amount) -> M:
    """Drop elements by chance: ``amount`` of them, or that share; returns ``module``."""
    RandomUnstructured.apply(module, name, amount)
    return module


def l1_unstructured(
    module: M, name: str, amount: Amount, importance_scores: Tensor | None = None
) -> M:
    """Drop the smallest elements: ``amount`` of them, or that share; returns ``module``."""
    L1Unstructured.apply(module, name, amount, importance_scores=importance_scores)
    return module


def random_structured(module: M, name: str, amount: Amount, dim: int) -> M:
    """Drop slices along ``dim`` by chance: ``amount``, or that share; returns ``module``."""
    RandomStructured.apply(module, name, amount, dim)
    return module


def ln_structured(
    module: M,
    name: str,
    amount: Amount,
    n: float,
    dim: int,
    importance_scores: Tensor | None = None,
) -> M:
    """Drop slices along ``dim`` of the smallest ``n``-norm: ``amount``, or that share."""
    LnStructured.apply(module, name, amount, n, dim, importance_scores=importance_scores)
    return module


def custom_from_mask(module: M, name: str, mask: Tensor) -> M:
    """Keep what ``mask`` says, and of that what is kept already; returns ``module``."""
    CustomFromMask.apply(module, name, mask)
    return module


def global_unstructured(
    parameters: Iterable[tuple[Module, str]],
    pruning_method: type[BasePruningMethod],
    importance_scores: Mapping[tuple[Module, str], Tensor] | None = None,
    **kwargs: Any,
) -> None:
    """Prune elements of several parameters as if they were one vector."""
    if pruning_method.PRUNING_TYPE != "unstructured":
        got = pruning_method.__name__
        raise located(ArgumentError, f"prune: expected an unstructured method, got {got}")
    pairs, given = list(parameters), importance_scores or {}
    values = [given.get(pair, getattr(*pair)).detach() for pair in pairs]
    both = zip(pairs, values, strict=True)
    masks = [vars(m).get(f"{name}_mask", ones_like(v)) for (m, name), v in both]
    with dispatch.no_grad():
        scores, kept = (cat([x.flatten() for x in part]) for part in (values, masks))
        mask = pruning_method(**kwargs)._mask(scores, kept)
        at = 0
        for (module, name), value in zip(pairs, values, strict=True):
            n = int(value.numel())
            custom_from_mask(module, name, mask[at : at + n].reshape_as(value))
            at += n


def remove(module: M, name: str) -> M:
    """Make ``module.<name>`` a parameter again, with zeros where it was pruned."""
    if f"{name}_mask" not in vars(module):
        owner = type(module).__name__
        raise located(ArgumentError, f"prune.remove: expected {owner}.{name} to be pruned")
    kept: Tensor = getattr(module, f"{name}_orig")
    with dispatch.no_grad():
        dispatch.write(kept, _masked(module, name))
    delattr(module, f"{name}_orig")
    delattr(module, f"{name}_mask")
    undefine(module, name)
    setattr(module, name, kept)
    return module


def is_pruned(module: Module) -> bool:
    """Whether a parameter of ``module``, or of a module below it, is pruned."""
    names = ((m, name) for m in module.modules() for name in vars(m) if name.endswith("_mask"))
    return any(f"{name.removesuffix('_mask')}_orig" in vars(m) for m, name in names)


def _own(module: Module, name: str) -> Tensor:
    return own_parameter("prune", module, name)


def _masked(module: Module, name: str) -> Tensor:
    orig: Tensor = getattr(module, f"{name}_orig")
    mask: Tensor = getattr(module, f"{name}_mask")
    return orig * mask.to(orig.dtype)
