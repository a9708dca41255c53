"""What vtc asks of the CUDA driver: all that the runtime uses of a GPU.

Import the names from :mod:`vtc.runtime.cuda.driver`::

    gpu = driver()
    at = gpu.reserve(0, 4096)
    gpu.fill(0, at, 0, 4096, stream=0)
    gpu.synchronize(0)

Devices are counted from 0. Streams, events, functions, graphs and nodes are integer handles; stream
0 is the default stream *of the device named beside it*. Streams made here never wait for it. Every
method may be called from any thread, and makes the device current on it by itself. What is given
to a stream runs in order, later; failures of such work show at a later call.

Errors: DeviceError (no driver, no such device, too old), OutOfMemoryError, RunError (all else, with
CUDA's name and words for it).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, final

if TYPE_CHECKING:
    from vtc.ir.plan import Binary

Grid = tuple[int, int, int]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """A device. ``shared`` is the most bytes of shared memory a block may ask for."""

    name: str
    capability: tuple[int, int]
    memory: int
    shared: int
    multiprocessors: int
    l2: int


class Driver(Protocol):
    """See the module."""

    def count(self) -> int:
        """Devices; 0 where none can be used, and ``why`` says why. Never raises."""

    def why(self) -> str:
        """Why there is no device: what was expected, what was got, what to do."""

    def facts(self, device: int) -> Facts:
        """What the device is."""

    def mem_info(self, device: int) -> tuple[int, int]:
        """Bytes that are free on the device, and all of them."""

    # memory

    def reserve(self, device: int, nbytes: int) -> int | None:
        """The address of new device memory, aligned to 512 bytes; None if there is not so much."""

    def release(self, device: int, address: int) -> None:
        """Give device memory back, after the work that was given to the device."""

    def pinned(self, nbytes: int) -> int:
        """New host memory that devices read and write too, at the same address."""

    def free_pinned(self, address: int) -> None:
        """Give memory of ``pinned`` back."""

    def copy(self, device: int, target: int, source: int, nbytes: int, stream: int) -> None:
        """Copy in stream order; each end is device or host memory, also of another device.

        Host memory must stay until the work is done, if it is pinned; other host memory has been
        read (or written) when this returns.
        """

    def fill(self, device: int, target: int, value: int, nbytes: int, stream: int) -> None:
        """Set bytes of device memory in stream order."""

    # streams and events

    def priorities(self, device: int) -> tuple[int, int]:
        """The least and the greatest priority; lower numbers are greater."""

    def stream(self, device: int, priority: int) -> int:
        """A new stream."""

    def destroy_stream(self, device: int, stream: int) -> None:
        """Forget a stream; its work still runs."""

    def synchronize_stream(self, device: int, stream: int) -> None:
        """Wait for all work of a stream."""

    def stream_done(self, device: int, stream: int) -> bool:
        """Whether a stream has no work left."""

    def wait_event(self, device: int, stream: int, event: int) -> None:
        """Let later work of the stream wait for the event, which may be of another device."""

    def event(self, device: int, *, timing: bool) -> int:
        """A new event; one that was never recorded is done."""

    def destroy_event(self, device: int, event: int) -> None:
        """Forget an event."""

    def record(self, device: int, event: int, stream: int) -> None:
        """The event is done when all work is that the stream has now."""

    def event_done(self, device: int, event: int) -> bool:
        """Whether an event is done."""

    def synchronize_event(self, device: int, event: int) -> None:
        """Wait for an event."""

    def elapsed(self, device: int, start: int, end: int) -> float:
        """Milliseconds between two events with timing that are done."""

    def synchronize(self, device: int) -> None:
        """Wait for all work of the device."""

    # kernels

    def module(self, device: int, binary: Binary) -> int:
        """The function ``binary.name``, loaded, and allowed the shared memory it wants."""

    def launch(
        self,
        device: int,
        function: int,
        grid: Grid,
        warps: int,
        shared: int,
        params: int,
        stream: int,
    ) -> None:
        """Launch a function; ``params`` is the address of a ``void *[]``, read before this returns.

        An empty grid is not allowed.
        """

    # graphs

    def create_graph(self, device: int) -> int:
        """A new graph without nodes; it must outlive what is instantiated from it."""

    def add_kernel(
        self,
        device: int,
        graph: int,
        after: Sequence[int],
        function: int,
        grid: Grid,
        warps: int,
        shared: int,
        params: int,
    ) -> int:
        """A new node that launches a function after the nodes ``after``."""

    def add_copy(
        self, device: int, graph: int, after: Sequence[int], target: int, source: int, nbytes: int
    ) -> int:
        """A new node that copies; host memory is read and written when the graph runs."""

    def add_fill(
        self, device: int, graph: int, after: Sequence[int], target: int, value: int, nbytes: int
    ) -> int:
        """A new node that sets bytes of device memory."""

    def conditional(self, device: int) -> str:
        """Why graphs of the device cannot have conditional nodes; "" if they can."""

    def create_handle(self, device: int, graph: int) -> int:
        """A new handle, which kernels set with ``cudaGraphSetConditional``: before a conditional
        node of ``graph``, or of one inside it, that it decides for.
        """

    def add_conditional(
        self, device: int, graph: int, after: Sequence[int], handle: int, *, loop: bool
    ) -> tuple[int, int]:
        """A new node that runs a graph if its handle is set, or as long as it is, for a ``loop``;
        and that graph, which belongs to it and is empty.
        """

    def instantiate(self, device: int, graph: int) -> int:
        """A graph that can be launched; one launch of it runs at a time. Only once, if the graph
        has conditional nodes. Nodes inside these are changed as all others.
        """

    def set_kernel_params(
        self,
        device: int,
        executable: int,
        node: int,
        function: int,
        grid: Grid,
        warps: int,
        shared: int,
        params: int,
    ) -> None:
        """Change a kernel node for later launches; those given to a stream before keep theirs."""

    def set_copy_params(
        self, device: int, executable: int, node: int, target: int, source: int, nbytes: int
    ) -> None:
        """Change a copy node for later launches, between the same kinds of memory."""

    def set_fill_params(
        self, device: int, executable: int, node: int, target: int, value: int, nbytes: int
    ) -> None:
        """Change a fill node for later launches."""

    def upload(self, device: int, executable: int, stream: int) -> None:
        """Prepare the first launch."""

    def graph_launch(self, device: int, executable: int, stream: int) -> None:
        """Run a graph in stream order."""

    def destroy_executable(self, device: int, executable: int) -> None:
        """Forget an instantiated graph once its launches are done."""

    def destroy_graph(self, device: int, graph: int) -> None:
        """Forget a graph."""

    def symbol(self, name: str) -> int:
        """The address of the C function ``name`` of libcuda, for compiled code that calls it; 0
        where there is none (graphs are then patched through the methods above).
        """
