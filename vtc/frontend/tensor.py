"""``vtc.Tensor``: one class, two states.

Concrete: an array view over a :class:`Storage`, which holds the version counter its views share.
Traced: a value of the program being captured. A view of either remembers what it was cut from and
how (``_link``), so a write through it reaches the base, and gradients know.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator, Sequence
from typing import Any, cast, final

import numpy as np

from vtc.errors import ArgumentError, CaptureError, DeviceError, GradientError, TypeCheckError
from vtc.frontend import devices, dispatch, eager
from vtc.frontend.deciding import ask
from vtc.frontend.dispatch import state
from vtc.frontend.ended import ended, is_ended
from vtc.frontend.functions.methods import TensorMethods
from vtc.frontend.gradient_methods import GradientMethods
from vtc.frontend.hooks import TensorHooks
from vtc.frontend.printing import show_array
from vtc.frontend.sizes import SymInt
from vtc.frontend.source import located
from vtc.ir.op import Op
from vtc.ir.ops.bitcast import Bitcast
from vtc.ir.ops.control import StopGradient
from vtc.ir.ops.expr import Expr
from vtc.ir.ops.view import Reshape, View
from vtc.ir.types import Array, DType, TensorType, i64
from vtc.runtime import buffer, dlpack
from vtc.runtime.device import Device

CPU = devices.CPU
Shape = tuple[int, ...]
MOMENTS = itertools.count()
"""Later ones are greater; a storage remembers when it was made."""


class Storage:
    """Memory shared by a tensor and its views.

    ``version`` counts writes, ``writes`` the differentiable ones; ``born`` is when it was made.
    """

    __slots__ = ("__weakref__", "born", "device", "version", "writes")

    def __init__(self, device: Device) -> None:
        self.born = next(MOMENTS)
        self.device = device
        self.version = 0
        self.writes = 0


@final
class Tensor(TensorMethods, GradientMethods):
    """A multi-dimensional array with a dtype, a device and, if asked, gradients."""

    __slots__ = (
        "__weakref__",
        "_array",
        "_cell",
        "_grad",
        "_hooks",
        "_kind",
        "_known",
        "_link",
        "_node",
        "_record",
        "_requires",
        "_stamp",
        "_storage",
        "_weak",
    )

    def __init__(self, data: Any = None, *_: Any, **__: Any) -> None:
        if data is not None:
            raise located(
                ArgumentError, "Tensor(...): use vtc.tensor(data) to make a tensor from data"
            )
        self._array: Array | None = None
        self._storage: Storage | None = None
        self._link: tuple[Tensor, Op] | None = None
        self._node: Any = None
        self._cell: Any = None
        self._record: Any = None
        self._stamp = 0
        self._requires = False
        self._grad: Tensor | None = None
        self._hooks: TensorHooks | None = None
        self._kind = ""
        self._weak = False
        self._known: Any = None  # what compiled calls ask of it: ``keys.Known``

    # what it is

    @property
    def type(self) -> TensorType:
        """The IR type: dtype and sizes, symbolic ones included."""
        if self._array is not None and state.capture is None:
            return TensorType.of(self._array)
        if state.capture is None:
            raise ended(self)
        found: TensorType = state.capture.type_of_tensor(self)
        return found

    @property
    def shape(self) -> tuple[int, ...]:
        """The sizes; while tracing, those of dynamic dims are symbolic."""
        if state.capture is None:
            return self._array.shape if self._array is not None else cast("Shape", self.type.shape)
        scope = state.capture.sizes
        sizes = [s if isinstance(s, int) else SymInt(s, scope) for s in self.type.shape]
        return cast("Shape", tuple(sizes))

    def size(self, dim: int | None = None) -> Any:
        """The shape, or the size of one dim."""
        return self.shape if dim is None else self.shape[dim]

    @property
    def dtype(self) -> DType:
        """The element type."""
        return self.type.dtype

    @property
    def ndim(self) -> int:
        """Number of dims."""
        return self._array.ndim if self._array is not None else self.type.rank

    def dim(self) -> int:
        """Number of dims."""
        return self.ndim

    def numel(self) -> int:
        """Number of elements."""
        total = 1
        for s in self.shape:
            total = total * s
        return total

    @property
    def device(self) -> Device:
        """Where the elements live."""
        if self._storage is not None:
            return self._storage.device
        if state.capture is None:
            if is_ended(self):
                raise ended(self)
            return CPU
        found: Device = state.capture.device_of(self)
        return found

    @property
    def is_cuda(self) -> bool:
        """Whether the elements live on an NVIDIA GPU."""
        return self.device.type == "cuda"

    @property
    def requires_grad(self) -> bool:
        """Whether gradients flow to this tensor."""
        if state.capture is not None:
            return bool(state.capture.requires(self))
        if self._array is None and is_ended(self):
            raise ended(self)
        return self._requires or dispatch.autograd().record_of(self) is not None

    @requires_grad.setter
    def requires_grad(self, value: bool) -> None:
        self.requires_grad_(value)

    @property
    def is_leaf(self) -> bool:
        """Whether this was made by the user and not by a differentiable operation."""
        if state.capture is not None:
            return bool(state.capture.is_leaf(self))
        if is_ended(self):
            raise ended(self)
        return dispatch.autograd().record_of(self) is None

    @property
    def _version(self) -> int:
        if self._storage is not None:
            return self._storage.version
        return 0

    # gradients

    def detach(self) -> Tensor:
        """The same memory without history."""
        return dispatch.view(StopGradient(), self)

    @property
    def data(self) -> Tensor:
        """The same memory without history."""
        return self.detach()

    @data.setter
    def data(self, value: Tensor) -> None:
        with dispatch.no_grad():
            dispatch.write(self, value)

    # out of vtc

    def _concrete(self, what: str, way_out: str) -> Array:
        if self._array is None or state.capture is not None:
            if state.capture is not None:
                ask(state.capture, self)
            raise located(
                CaptureError,
                f"{what} of a traced tensor {self.type}: its value is not known yet{way_out}",
            )
        return self._array

    def _on_host(self, what: str, way_out: str = "") -> Array:
        """The elements in NumPy, copied there from a GPU."""
        return devices.host(self._concrete(what, way_out))

    def _shared(self, what: str) -> Array:
        """The array itself, which the host has to be able to read."""
        array = self._concrete(what, "")
        if self.is_cuda:
            raise located(
                DeviceError,
                f"{what}: expected a tensor on the cpu, got one on {self.device}; use .cpu() first",
            )
        return array

    def numpy(self) -> Array:
        """The elements as a NumPy array that shares memory. GradientError if this requires grad.

        DeviceError for a tensor on a GPU: its elements cannot be shared.
        """
        array = self._shared("numpy()")
        if self.requires_grad:
            raise located(
                GradientError, "numpy() of a tensor that requires grad; use .detach().numpy()"
            )
        return array.view()

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        array = self._shared("numpy conversion").view()
        return np.array(array, dtype=dtype) if copy else np.asarray(array, dtype=dtype)

    def __dlpack__(
        self,
        *,
        stream: int | None = None,
        max_version: tuple[int, int] | None = None,
        dl_device: tuple[int, int] | None = None,
        copy: bool | None = None,
    ) -> object:
        if self.requires_grad:
            raise BufferError("dlpack: expected a tensor without gradient, use .detach()")
        array = self._concrete("dlpack", "")
        return dlpack.shared(array, stream, max_version, dl_device, copy)

    def __dlpack_device__(self) -> tuple[int, int]:
        return dlpack.device_pair(self._concrete("dlpack", ""))

    def item(self) -> Any:
        """The one element as a Python number."""
        return self._number("item()", "; a number leaves a compiled function by being returned")

    def _number(self, what: str, way_out: str) -> Any:
        found = self._concrete(what, way_out)
        if found.size != 1:
            raise located(ArgumentError, f"{what}: expected one element, got {self.type}")
        array = devices.host(found)
        return array.astype(np.float32).item() if array.dtype.kind == "V" else array.item()

    def tolist(self) -> Any:
        """The elements as nested Python lists."""
        return self._on_host("tolist()").tolist()

    def __bool__(self) -> bool:
        array = self._concrete(
            "a branch on data: bool()",
            ";\n       use vtc.where, vtc.cond, vtc.while_loop or vtc.scan, or return the value "
            "and branch outside the compiled function",
        )
        if array.size != 1:
            raise located(
                ArgumentError, f"bool(): the truth of {self.type} is ambiguous; use any() or all()"
            )
        return bool(devices.host(array).item())

    def __int__(self) -> int:
        return int(self._number("int()", "; pass it as an int argument, or use a 0-d tensor"))

    def __index__(self) -> int:
        if self.dtype.kind != "int":
            raise located(TypeCheckError, f"only integer tensors can be an index, got {self.type}")
        return int(self)

    def __float__(self) -> float:
        return float(self._number("float()", "; tensors and numbers mix in arithmetic"))

    def __len__(self) -> int:
        if self.ndim == 0:
            raise located(TypeCheckError, f"len() of a 0-d tensor {self.type}")
        return int(self.shape[0])

    def __iter__(self) -> Iterator[Tensor]:
        return iter([self[i] for i in range(len(self))])

    def __hash__(self) -> int:
        return id(self)

    def __contains__(self, element: Any) -> bool:
        return bool((self == element).any())

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        array, storage = self._concrete("deepcopy", ""), self._storage
        there = eager.copied(array) if self.is_cuda else buffer.copied(array, memo)
        shared = None if self.is_cuda else memo.get(id(storage))
        copied = memo[id(self)] = concrete_tensor(there, shared)
        memo[id(storage)] = copied._storage
        copied._requires, copied._kind = self._requires, self._kind
        copied._grad = copy.deepcopy(self._grad, memo)
        return copied

    # copies

    def clone(self) -> Tensor:
        """A copy that gradients flow through."""
        out = dispatch.apply(Reshape(self.type.shape), self)
        if (
            out._array is not None
            and self._array is not None
            and np.shares_memory(out._array, self._array)
        ):
            out._array = eager.copied(out._array)
        return out

    def to(self, *args: Any, **kwargs: Any) -> Tensor:
        """As another dtype, on another device: this tensor itself where it is that already.

        ``to(vtc.float16)``, ``to("cuda", non_blocking=True)``, ``to(other)``; with ``copy=True`` it
        never is. DeviceError if the device is not there.
        """
        device, dtype, non_blocking, copy = _to_arguments(args, kwargs)
        x = self
        if device is not None and device != self.device:
            x = dispatch.move(self, device, non_blocking=non_blocking)
        x = x if dtype is None or dtype is self.dtype else x._cast(dtype)
        return self.clone() if copy and x is self else x

    def cpu(self) -> Tensor:
        """On the CPU."""
        return self.to("cpu")

    def cuda(self, device: Device | str | int | None = None, non_blocking: bool = False) -> Tensor:
        """On an NVIDIA GPU: the current one, if none is named."""
        name = "cuda" if device is None else f"cuda:{device}" if type(device) is int else device
        return self.to(name, non_blocking=non_blocking)

    def pin_memory(self) -> Tensor:
        """In pinned memory of the host, from which ``to(device, non_blocking=True)`` does not wait.

        This tensor itself if it is there.
        """
        array = self._shared("pin_memory()")
        return self if devices.is_pinned(array) else concrete_tensor(devices.pin(array))

    def is_pinned(self) -> bool:
        """Whether the elements live in pinned memory."""
        return self._array is not None and devices.is_pinned(self._array)

    def record_stream(self, stream: Any) -> None:
        """Say that ``stream`` works with this tensor: its memory is not used again before that."""
        devices.use(self._concrete("record_stream()", ""), stream.cuda_stream)

    def __format__(self, spec: str) -> str:
        return format(self.item(), spec) if spec else str(self)

    def __repr__(self) -> str:
        if self._array is None:
            return (
                f"<traced {self.type}>"
                if state.capture is not None
                else "<traced value of an ended trace>"
            )
        return _show(self, self._array)


def _to_arguments(
    args: Sequence[Any], kwargs: dict[str, Any]
) -> tuple[Device | None, DType | None, bool, bool]:
    if unknown := kwargs.keys() - {"device", "dtype", "non_blocking", "copy"}:
        raise located(ArgumentError, f"to(): unknown argument {sorted(unknown)[0]!r}")
    device, dtype = kwargs.get("device"), kwargs.get("dtype")
    flags = [a for a in args if isinstance(a, bool)]
    for a in args[: len(args) - len(flags)]:
        if isinstance(a, DType):
            dtype = a
        elif isinstance(a, Tensor):
            device, dtype = a.device, a.dtype
        elif isinstance(a, (str, Device)):
            device = a
        else:
            raise located(ArgumentError, f"to(): expected a dtype, a device or a Tensor, got {a!r}")
    where = None if device is None else devices.resolve(device)
    non_blocking, copy = (*flags, False, False)[:2]
    return (
        where,
        dtype,
        bool(kwargs.get("non_blocking", non_blocking)),
        bool(kwargs.get("copy", copy)),
    )


def _show(x: Tensor, array: Array) -> str:
    """As PyTorch prints: four digits, nested brackets, dtype where it is not the default."""
    array = devices.host(array)
    text = show_array(array.astype(np.float64) if x.dtype.kind == "float" else array, "tensor(")
    notes = []
    if x.dtype is not dispatch.default_dtype() and x.dtype.name not in ("i64", "bool"):
        notes.append(f"dtype={x.dtype!r}")
    if x.device.type != "cpu":
        notes.append(f"device='{x.device}'")
    made, _ = dispatch.autograd().step_of(x)
    if made is not None:
        notes.append(f"grad_fn={made}")
    elif x._requires:
        notes.append("requires_grad=True")
    shown = f"tensor({', '.join([text, *notes])})"
    return f"Parameter containing:\n{shown}" if x._kind == "parameter" else shown


def write_through(path: Sequence[Op], base: Expr, value: Expr, part: Expr) -> Expr:
    """``base`` with the part that the view ``path[0]`` shows replaced by ``value``.

    ``part`` is what was written: what the rest of ``path`` shows of ``value``. Where the view shows
    elements more than once, only those are replaced: ``value`` holds others as they were, too.
    """
    op = path[0]
    if isinstance(op, StopGradient):
        return value.apply(op)
    if not isinstance(op, View):
        raise TypeCheckError(f"{op.name}: not a view")
    if len(path) == 1 or not op.repeats:
        return op.write(base, value)
    own = [*itertools.takewhile(lambda view: not isinstance(view, Bitcast), path)]
    own, whole = [v for v in own if not isinstance(v, StopGradient)], len(own) == len(path)
    part = part if whole else _through(own[1:], value)  # what of it is seen as another dtype
    count = (base.tensor.numel,)
    places = _through(own, base.iota(count, 0, i64).reshape(base.shape))
    put = base.reshape(count).op("index_put", part, places, axes=(0,), accumulate=False)
    return put.reshape(base.shape)


def _through(views: Sequence[Op], x: Expr) -> Expr:
    """What ``views`` show of ``x``."""
    for view in views:
        x = x.apply(view)
    return x


def concrete_tensor(array: Array, storage: Storage | None = None) -> Tensor:
    """A tensor over ``array``; ``storage`` where it shares one."""
    x = Tensor()
    x._array = array
    x._storage = storage or Storage(CPU if type(array) is np.ndarray else devices.home(array))
    return x


def concrete_type(x: Tensor) -> TensorType:
    """The type of a concrete tensor, traced or not."""
    return TensorType.of(array_of(x))


def array_of(x: Tensor) -> Array:
    """The array of a concrete tensor. CaptureError for what is left of an ended trace."""
    if x._array is None:
        raise ended(x)
    return x._array
