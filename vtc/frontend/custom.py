"""Functions whose gradient the user spells: ``vtc.autograd.Function``, as PyTorch has it.

    class Square(vtc.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x * x

        @staticmethod
        def backward(ctx, g):
            (x,) = ctx.saved_tensors
            return 2 * x * g

    y = Square.apply(x)

``forward`` runs without gradients; ``backward`` is called by hooks: those of the results tell it
what the gradient is, and those of the arguments put what it returns in the gradient's place. So it
is traced like any other code, and may be differentiated again. In the program a result is
``custom(y, x)``.
"""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, final

from vtc.errors import ArgumentError, CaptureError, GradientError, VersionError, VtcError
from vtc.frontend import dispatch
from vtc.frontend.autograd import ENGINE
from vtc.frontend.dispatch import state
from vtc.frontend.functions.reduce import sum_to_size
from vtc.frontend.hooks import Gradients, describe, joined
from vtc.frontend.inputs import place
from vtc.frontend.source import located
from vtc.frontend.tape import Saved, restore
from vtc.frontend.tensor import Tensor
from vtc.ir.ops.control import Custom
from vtc.ir.types import TensorType
from vtc.runtime.device import Device


class Function(ABC):
    """What to compute, and its gradient. Subclasses have static methods, and no instances.

    ``forward(ctx, *args)``, or ``forward(*args)`` with ``setup_context(ctx, inputs, output)``,
    returns a tensor or a tuple; ``backward(ctx, *grads)`` is given one gradient for each result,
    and returns one for each argument: None where there is none.
    """

    @staticmethod
    @abstractmethod
    def forward(*args: Any) -> Any:
        """The result."""

    @staticmethod
    @abstractmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        """The gradients of the arguments, given those of the results."""

    setup_context: Any = None
    """Keeps in ``ctx`` what ``backward`` needs, where ``forward`` does not take one."""

    @classmethod
    def apply(cls, *args: Any, **kwargs: Any) -> Any:
        """``forward`` of ``args``, with the gradient that ``backward`` gives.

        Gradients flow to the tensors among ``args`` themselves, not to those in lists. Arguments by
        name are put in their places, and with ``setup_context`` so are defaults. ArgumentError for
        what ``forward`` does not take; CaptureError in a function that a compiled loop or branch
        runs.
        """
        if kwargs or cls.setup_context is not None:
            args = _in_places(cls, args, kwargs)
        where = [k for k, x in enumerate(args) if isinstance(x, Tensor) and x.requires_grad]
        where = where if dispatch.grad_enabled() else []
        ctx = Context([k in where for k in range(len(args))])
        with dispatch.no_grad():
            if cls.setup_context is None:
                out = cls.forward(ctx, *args)
            else:
                out = cls.forward(*args)
                cls.setup_context(ctx, args, out)
        return _Applied(cls, ctx, args, where).results(out) if where else out


def _in_places(fn: type[Function], args: Sequence[Any], kwargs: dict[str, Any]) -> tuple[Any, ...]:
    """The arguments of ``forward`` in its order; ``setup_context`` is given the defaults, too."""
    plain = fn.setup_context is not None
    form = inspect.signature(fn.forward)
    try:
        bound = form.bind(*args, **kwargs) if plain else form.bind(None, *args, **kwargs)
    except TypeError as e:
        raise located(ArgumentError, f"{fn.__name__}.apply: {e}") from None
    if plain:
        bound.apply_defaults()
    if bound.kwargs:
        names = ", ".join(bound.kwargs)
        message = f"expected arguments that have places, got {names}, only to be given by name"
        raise located(ArgumentError, f"{fn.__name__}.apply: {message}")
    return bound.args if plain else bound.args[1:]


@final
class Context:
    """What ``forward`` leaves for ``backward``: tensors that were saved, and any attribute.

    ``needs_input_grad`` says of each argument whether its gradient is wanted.
    """

    def __init__(self, needs: Sequence[bool]) -> None:
        self.needs_input_grad = tuple(needs)
        self._saved: tuple[Any, ...] = ()
        self._constant: tuple[Tensor, ...] = ()
        self._dirty: tuple[Tensor, ...] = ()
        self._materialize = True

    def save_for_backward(self, *tensors: Tensor | None) -> None:
        """Keep ``tensors``: arguments, results, or what was computed between."""
        for x in tensors:
            if x is not None and not isinstance(x, Tensor):
                got = type(x).__name__
                message = f"save_for_backward: expected tensors or None, got a {got}"
                raise located(ArgumentError, f"{message}; keep it as an attribute of ctx")
        self._saved = tensors

    def save_for_forward(self, *tensors: Tensor | None) -> None:
        """Nothing: what a ``jvp`` of the Function would read, which is not asked here."""

    @property
    def saved_tensors(self) -> tuple[Tensor | None, ...]:
        """What was kept. VersionError for what was written in place since."""
        return tuple([None if x is None else _read(x) for x in self._saved])

    def mark_non_differentiable(self, *tensors: Tensor) -> None:
        """No gradient flows to these results."""
        self._constant = tensors

    def set_materialize_grads(self, value: bool) -> None:
        """Whether ``backward`` is given zeros, or None, for results without a gradient."""
        self._materialize = value

    def mark_dirty(self, *tensors: Tensor) -> None:
        """``forward`` wrote into these arguments, and returns them: the results they become."""
        self._dirty = tensors


@final
class _Applied:
    """One application. ``grads`` are those of the results, once they are known."""

    def __init__(
        self, fn: type[Function], ctx: Context, args: Sequence[Any], where: Sequence[int]
    ) -> None:
        if state.capture is not None and (frame := state.capture.frames.current) is not None:
            raise located(
                CaptureError,
                f"{frame.name}: {fn.__name__}.backward would have to run in each step, but the "
                "gradient is taken of all steps at once; apply it to what goes in or comes out",
            )
        self.fn, self.ctx, self.where = fn, ctx, where
        self.types = [_place(args[k]) for k in where]
        self.views = joined([args[k] for k in where], self._at_arguments)
        self.count = len(args)
        self.left: list[int] = []
        self.made: list[tuple[TensorType, Device] | None] = []
        self.grads: tuple[Any, ...] | None = None

    def results(self, out: Any) -> Any:
        """What ``forward`` returned, as functions of the arguments."""
        given = list(out) if isinstance(out, (tuple, list)) else [out]
        dirty = self._dirty(given)
        plain = {id(x) for x in self.ctx._constant}
        self.left = [k for k, y in enumerate(given) if _flows(y) and id(y) not in plain]
        self.made = [_place(y) if _flows(y) else None for y in given]
        found = [dispatch.apply(Custom(), given[k], *self.views) for k in self.left]
        named = {id(y): y for y in given}
        for k, view in zip(self.left, joined(found, self._at_results), strict=True):
            y = view if state.capture is None else _alone(view)
            made = dispatch.write(given[k], y) if id(given[k]) in dirty else y
            named[id(given[k])] = given[k] = made
        saved = [named.get(id(x), x) for x in self.ctx._saved]
        self.ctx._saved = tuple([None if x is None else _kept(x) for x in saved])
        self.views = []
        if isinstance(out, list):
            return given
        return tuple(given) if isinstance(out, tuple) else given[0]

    def _dirty(self, given: Sequence[Any]) -> set[int]:
        """Which results are arguments that were written, by their ``id``."""
        found = {id(x) for x in self.ctx._dirty}
        if not found <= {id(y) for y in given}:
            message = "mark_dirty: expected arguments that forward returns, too"
            raise located(ArgumentError, f"{self.fn.__name__}: {message}")
        return found

    def _at_results(self, given: Gradients) -> Gradients:
        grads: list[Any] = [None] * len(self.made)
        for k, g in zip(self.left, given, strict=True):
            grads[k] = g
        for k, known in enumerate(self.made):
            if grads[k] is None and known is not None and self.ctx._materialize:
                type, device = known
                grads[k] = dispatch.constant(0, type.dtype, type.shape, device)
        self.grads = tuple(grads)
        return given

    def _at_arguments(self, given: Gradients) -> Gradients:
        if self.grads is None:
            return given
        grads, self.grads = self.grads, None
        found = self.fn.backward(self.ctx, *grads)
        found = found if isinstance(found, (tuple, list)) else (found,)
        name = f"{self.fn.__name__}.backward"
        if len(found) < self.count or any(g is not None for g in found[self.count :]):
            message = f"expected {self.count} gradients, one for each argument of forward"
            raise located(GradientError, f"{name}: {message}, got {len(found)}")
        return [
            None if found[k] is None else _fitted(f"{name}: argument {k}", found[k], *place)
            for k, place in zip(self.where, self.types, strict=True)
        ]


def _alone(view: Tensor) -> Tensor:
    """A traced ``view`` as a tensor cut from nothing. A write that is not recorded keeps the
    history of a root: here ``view`` itself, and with it ``backward``.
    """
    capture = state.capture
    found: Tensor = capture.tensor(capture.node(view), requires=True, device=place(view))
    return found


def _flows(y: Any) -> bool:
    return isinstance(y, Tensor) and y.dtype.kind in ("float", "complex")


def _place(x: Tensor) -> tuple[TensorType, Device]:
    return x.type, x.device


def _fitted(where: str, g: Any, type: TensorType, device: Device) -> Tensor:
    """``g`` as a gradient of a tensor of ``type``: summed and cast where that makes it one."""
    if not isinstance(g, Tensor) or g.device != device or g.type.rank < type.rank:
        message = f"expected a gradient {type} on {device} or None, got {describe(g)}"
        raise located(GradientError, f"{where}: {message}")
    if g.type.shape != type.shape:
        try:
            g = sum_to_size(g, *type.shape)
        except VtcError:
            message = f"expected a gradient {type}, got {g.type}"
            raise located(GradientError, f"{where}: {message}") from None
    fitted: Tensor = g.to(type.dtype)
    return fitted


def _kept(x: Tensor) -> Saved | tuple[Tensor, Any]:
    """``x`` as it is now."""
    return ENGINE.save(x) if state.capture is None else (x, state.capture.node(x))


def _read(kept: Any) -> Tensor:
    if isinstance(kept, Tensor):
        return kept  # read by forward itself
    if isinstance(kept, Saved):
        return restore(kept)
    x, node = kept
    if state.capture.node(x) is not node:
        message = f"a value saved for backward was changed in place: {x.type}"
        raise located(VersionError, message)
    found: Tensor = x
    return found
