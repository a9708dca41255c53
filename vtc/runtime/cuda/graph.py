"""The launches of one layout, made ready once and run again and again, as a CUDA graph.

The arguments of all nodes are 64-bit words; some hold addresses. A call compares the address in
each slot with the one that the nodes have, changes the words that follow from it, tells the driver
about the nodes that have them, and launches. Launches before it keep what they were given::

    replay = Replay(side, layout, functions, quick)
    side.table[0] = address(x)
    replay.launch()

A C function does this in one call where there is one (``patch.c.jinja``); Python does it where
there is none, and after an error, to say it in words. With ``VTC_CUDA_GRAPHS=0`` there is no graph,
and the nodes are launched one by one. Loops and branches are conditional nodes of the graph, which
go with the others; or the host walks through them (:mod:`vtc.runtime.cuda.walk`).
"""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache, partial
from itertools import count
from pathlib import Path
from typing import Any, final

from vtc.config import config
from vtc.errors import OutOfMemoryError, RunError, VtcError
from vtc.ir.plan import Kernel
from vtc.runtime.cuda.cells import CELL, Cells
from vtc.runtime.cuda.interface import Driver
from vtc.runtime.cuda.launches import HINT, Launches, Mark
from vtc.runtime.cuda.steps import POINTER, Fork, Layout, Move, Node, Place, Run
from vtc.runtime.cuda.walk import Walk

ENTRY = "vtc_graph_run"
DRIVER = (
    "cuGraphExecKernelNodeSetParams_v2",
    "cuGraphExecMemcpyNodeSetParams",
    "cuMemcpyHtoDAsync_v2",
    "cuGraphLaunch",
    "cuCtxSetCurrent",
    "cuCtxGetCurrent",
)
"""What the C function calls, in the order of its fields."""
_UNKNOWN = (1 << 64) - 1
_numbers = count(1)
Words = ctypes.Array[ctypes.c_uint64]
Quick = Callable[[Any], int]


@final
@dataclass(frozen=True, slots=True)
class Side:
    """What the launches of one instance share. ``table`` has the address in each slot, ``numbers``
    what is copied to the arena before a launch, the first ``number_bytes`` of it. ``held`` is the
    number of the replay that had the arena last: only its tables are still there.
    """

    name: str
    driver: Driver
    device: int
    stream: ctypes.c_uint64
    table: Words
    numbers: ctypes.Array[ctypes.c_uint8]
    number_bytes: ctypes.c_uint64
    cells: Cells | None
    launches: Launches
    held: ctypes.c_uint64


def quick(patcher: Path | None, driver: Driver) -> tuple[Quick, tuple[int, ...]] | None:
    """The C function of the library ``patcher``, and what it calls; None where Python must do.

    RunError if the library cannot be loaded.
    """
    if patcher is None:
        return None
    calls = tuple(driver.symbol(name) for name in DRIVER)
    return (_load(patcher), calls) if all(calls) else None


@final
class Replay:
    """See the module."""

    def __init__(
        self,
        side: Side,
        layout: Layout,
        functions: Mapping[str, int],
        quick: tuple[Quick, tuple[int, ...]] | None,
        *,
        graphs: bool = True,
    ) -> None:
        self.layout = layout
        self._side = side
        self._functions = functions
        self._mark = side.launches.mark(side.name, side.stream)
        self._number = next(_numbers)
        self._words = words = _Words(layout, side.cells)
        self._graph: _Graph | None = None
        self.quick: Callable[[], int] | None = None
        """:meth:`launch` in one step, where there is a C function; if it does not give 0, it takes
        ``launch_slowly``."""
        self._walk: Walk | None = None
        if layout.items is not None:
            self._walk = Walk(side, layout.items, words, self._one, self._tables)
        elif layout.nodes and (layout.forks or (graphs and config().cuda_graphs)):
            words.update(side.table)
            self._graph = _Graph(side, layout, functions, words)
            if quick is not None:
                function, calls = quick
                made = self._graph, calls, self._mark, self._number
                self._fields = _fields(side, layout, functions, words, *made)
                self.quick = partial(function, ctypes.byref(self._fields[0]))

    def launch(self) -> None:
        """Run it with the addresses and numbers of now, on the stream of now.

        IndexRangeError, and nothing done, if a launch before met an index out of its range.
        """
        if self.quick is not None and not self.quick():
            return
        self.launch_slowly()

    def launch_slowly(self) -> None:
        """:meth:`launch` where ``quick`` did not work."""
        if self._side.cells is not None:
            self._side.cells.look()
        try:
            self._launch()
        except BaseException:
            self._words.forget()
            raise

    def _launch(self) -> None:
        side, layout, words = self._side, self.layout, self._words
        changed = words.update(side.table)
        others = side.held.value != self._number
        side.held.value = self._number
        if layout.table_bytes and (others or len(layout.nodes) in changed):
            self._tables()
        if side.number_bytes.value:
            at = ctypes.addressof(side.numbers)
            self._write(layout.numbers, at, side.number_bytes.value)
        side.launches.note(self._mark)
        if self._walk is not None:
            self._walk.run()
            return
        if self._graph is None:
            for k in range(len(layout.nodes)):
                self._one(k)
            return
        try:
            self._graph.patch(changed)
            side.driver.graph_launch(side.device, self._graph.executable, side.stream.value)
        except OutOfMemoryError:
            raise
        except RunError as error:
            hint = "" if HINT in str(error) else f"; {HINT}"
            raise RunError(f"{error}\n  in {side.name}{hint}") from error

    def _tables(self) -> None:
        """Copy the tables as they are now."""
        layout = self.layout
        self._write(layout.tables, self._words.address, layout.table_bytes)

    def _write(self, to: int, source: int, nbytes: int) -> None:
        """Copy from the host into the arena."""
        side = self._side
        side.driver.copy(side.device, side.table[-1] + to, source, nbytes, side.stream.value)

    def _one(self, k: int) -> None:
        """Launch node ``k``."""
        side, words, node = self._side, self._words, self.layout.nodes[k]
        assert not isinstance(node, Fork)
        if isinstance(node, Move):
            side.driver.copy(side.device, *words.ends(k), node.nbytes, side.stream.value)
            return
        what = _launch(node, self._functions)
        with blaming(node.kernel, node.note):
            side.driver.launch(side.device, *what, words.params(k), side.stream.value)


@contextmanager
def blaming(kernel: Kernel, note: str = "") -> Iterator[None]:
    """Let a RunError say which kernel it is about, and where that comes from."""
    try:
        yield
    except OutOfMemoryError:
        raise
    except RunError as error:
        at = note or kernel.note
        where = f"\n  at {at}" if at else ""
        raise RunError(f"{error}\n  in kernel {kernel.name} ({kernel.symbol}){where}") from error


@final
class _Words:
    """The tables, then of each node its addresses and other arguments."""

    def __init__(self, layout: Layout, cells: Cells | None) -> None:
        self._layout = layout
        arena, first = layout.slots - 1, layout.table_bytes // POINTER
        words, self._starts = [0] * first, list[int]()
        self.sites: list[list[tuple[int, int, int]]] = [[] for _ in range(layout.slots)]
        """Of each slot: word, bytes after the address, node; its own number is that of tables."""
        self._moving: dict[int, list[tuple[int, Place]]] = {}
        for k, node in enumerate(layout.nodes):
            self._starts.append(len(words))
            table = node.table if isinstance(node, Run) else None
            places = _ends(node)
            start = len(words) if table is None else table // POINTER
            moving = [(start + j, p) for j, p in enumerate(places) if p.moves]
            if moving:
                self._moving[k] = moving
            if table is not None:
                for j, place in enumerate(places, table // POINTER):
                    self.sites[place.slot].append((j, place.add, len(layout.nodes)))
                places = (Place(arena, layout.tables + table),)
            for place in places:
                self.sites[place.slot].append((len(words), place.add, k))
                words.append(0)
            if isinstance(node, Run):
                words += self._rest(node, cells, len(words), k)
        self.words: Words = (ctypes.c_uint64 * len(words))(*words)
        self.address = ctypes.addressof(self.words)
        each = range(self.address, self.address + POINTER * len(words), POINTER)
        self._params = (ctypes.c_uint64 * len(words))(*each)
        self.known: Words = (ctypes.c_uint64 * layout.slots)(*[_UNKNOWN] * layout.slots)

    def _rest(self, node: Run, cells: Cells | None, end: int, k: int) -> list[int]:
        """What follows the pointers: sizes, the error cell, Triton's two scratch pointers."""
        rest = [*node.sizes]
        if node.cell is not None and cells is not None:
            rest.append(cells.address + CELL * node.cell)
        if node.scratch is not None:
            self.sites[node.scratch.slot].append((end + len(rest), node.scratch.add, k))
        return [*rest, 0, 0]

    def update(self, table: Words) -> set[int]:
        """Take the addresses of ``table``; the nodes that have other words now."""
        changed: set[int] = set()
        for slot, at in enumerate(table):
            if at != self.known[slot]:
                self.known[slot] = at
                for word, add, node in self.sites[slot]:
                    self.words[word] = at + add
                    changed.add(node)
        return changed

    def forget(self) -> None:
        """The nodes may have other words than these."""
        ctypes.memset(self.known, 0xFF, ctypes.sizeof(self.known))

    def steer(self, k: int, handle: int) -> None:
        """Let node ``k`` set ``handle``."""
        node = self._layout.nodes[k]
        self.words[self._starts[k] + len(_ends(node))] = handle

    def turn(self, k: int, turns: Mapping[int, int]) -> bool:
        """Let node ``k``, which is launched by itself, have the addresses of these turns; whether
        they are in a table, which is to be written again.
        """
        moving = self._moving.get(k, [])
        for word, place in moving:
            self.words[word] = self.at(place, turns)
        return bool(moving) and moving[0][0] < self._layout.table_bytes // POINTER

    def at(self, place: Place, turns: Mapping[int, int]) -> int:
        """The address of ``place`` in these turns, as the tables have it."""
        further = sum(turns[loop] * step for loop, step in place.moves)
        return self.known[place.slot] + place.add + further

    def params(self, k: int) -> int:
        """The address of pointers to the arguments of node ``k``."""
        return ctypes.addressof(self._params) + POINTER * self._starts[k]

    def ends(self, k: int) -> tuple[int, int]:
        """Target and source of node ``k``, a copy."""
        start = self._starts[k]
        return self.words[start], self.words[start + 1]


@final
class _Graph:
    """A graph and what was instantiated from it; both go when this does."""

    def __init__(
        self, side: Side, layout: Layout, functions: Mapping[str, int], words: _Words
    ) -> None:
        self._driver, self._device, self._words = side.driver, side.device, words
        self._layout, self._functions = layout, functions
        driver, device = side.driver, side.device
        self.graph = driver.create_graph(device)
        self._graphs, self._handles = {0: self.graph}, dict[int, int]()
        held = [self.graph]
        weakref.finalize(self, _destroy, driver, device, held).atexit = False
        self.nodes: list[int] = []
        for k, node in enumerate(layout.nodes):
            after = [self.nodes[j] for j in node.after]
            self.nodes.append(self._add(k, node, after))
        self.executable = driver.instantiate(device, self.graph)
        held.append(self.executable)

    def _add(self, k: int, node: Node, after: list[int]) -> int:
        driver, words, graph = self._driver, self._words, self._graphs[node.graph]
        if isinstance(node, Move):
            ends = words.ends(k)
            return driver.add_copy(self._device, graph, after, *ends, node.nbytes)
        if isinstance(node, Fork):
            handle = self._handles[node.handle]
            made = driver.add_conditional(self._device, graph, after, handle, loop=node.loop)
            self._graphs[node.body] = made[1]
            return made[0]
        if node.handle is not None:
            words.steer(k, self._handle(node.handle, graph))
        what = _launch(node, self._functions)
        with blaming(node.kernel, node.note):
            return driver.add_kernel(self._device, graph, after, *what, words.params(k))

    def _handle(self, number: int, graph: int) -> int:
        """The handle of that number, of the graph whose conditional node it decides for: there is
        it set first.
        """
        if number not in self._handles:
            self._handles[number] = self._driver.create_handle(self._device, graph)
        return self._handles[number]

    def patch(self, changed: Iterable[int]) -> None:
        """Give these nodes the words of now."""
        driver, device, words = self._driver, self._device, self._words
        for k in sorted(changed):
            if k == len(self.nodes):
                continue
            node, handle = self._layout.nodes[k], self.nodes[k]
            assert not isinstance(node, Fork)
            if isinstance(node, Move):
                ends = words.ends(k)
                driver.set_copy_params(device, self.executable, handle, *ends, node.nbytes)
            else:
                what = _launch(node, self._functions)
                driver.set_kernel_params(device, self.executable, handle, *what, words.params(k))


def _ends(node: Node) -> tuple[Place, ...]:
    if isinstance(node, Fork):
        return ()
    return (node.target, node.source) if isinstance(node, Move) else node.places


def _launch(node: Run, functions: Mapping[str, int]) -> tuple[int, tuple[int, int, int], int, int]:
    return functions[node.kernel.symbol], node.grid, node.binary.warps, node.binary.shared


def _destroy(driver: Driver, device: int, held: list[int]) -> None:
    graph, *executables = held
    with suppress(VtcError):
        for executable in executables:
            driver.destroy_executable(device, executable)
        driver.destroy_graph(device, graph)


@cache
def _load(patcher: Path) -> Quick:
    try:
        # The interpreter lock is kept: another thread might hold it for longer than a launch takes.
        function = getattr(ctypes.PyDLL(str(patcher)), ENTRY)
    except (OSError, AttributeError) as error:
        raise RunError(f"load: expected a library with {ENTRY}, got {error}") from error
    function.restype = ctypes.c_int
    entry: Quick = function
    return entry


def _fields(
    side: Side,
    layout: Layout,
    functions: Mapping[str, int],
    words: _Words,
    graph: _Graph,
    calls: tuple[int, ...],
    mark: Mark,
    number: int,
) -> tuple[Words, ...]:
    """``vtc_graph`` of ``patch.c.jinja``, and what it points to."""
    sites = [s for slot in words.sites for s in slot]
    first = [sum(map(len, words.sites[:slot])) for slot in range(layout.slots + 1)]
    flat = [x for w, add, node in sites for x in (words.address + POINTER * w, add, node)]
    nodes = [x for k, n in enumerate(layout.nodes) for x in _node(k, n, functions, words, graph)]
    queue = [0] * len(layout.nodes)
    firsts, flats, listed, queued = (
        (ctypes.c_uint64 * max(len(values), 1))(*values) for values in (first, flat, nodes, queue)
    )
    cells = side.cells
    head = [
        *calls,
        0,
        graph.executable,
        *map(ctypes.addressof, (side.stream, side.table, words.known)),
        layout.slots,
        *map(ctypes.addressof, (firsts, flats, listed)),
        len(layout.nodes),
        ctypes.addressof(queued),
        *((cells.address, cells.count) if cells is not None else (0, 0)),
        *map(ctypes.addressof, (side.number_bytes, side.numbers)),
        layout.numbers,
        words.address,
        layout.table_bytes,
        layout.tables,
        ctypes.addressof(side.launches.turn),
        ctypes.addressof(mark.last),
        ctypes.addressof(side.held),
        number,
    ]
    return (ctypes.c_uint64 * len(head))(*head), firsts, flats, listed, queued


def _node(
    k: int, node: Node, functions: Mapping[str, int], words: _Words, graph: _Graph
) -> tuple[int, ...]:
    if isinstance(node, Fork):
        return graph.nodes[k], *[0] * 8  # it has no address that may change
    if isinstance(node, Move):
        return graph.nodes[k], 0, node.nbytes, 0, 0, 0, 0, words.params(k), 0
    function, grid, warps, shared = _launch(node, functions)
    return graph.nodes[k], function, *grid, warps, shared, words.params(k), 0
