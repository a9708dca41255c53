"""The kernels that steer a CUDA graph: they set handles of its conditional nodes and count turns.

    vtc_flow_test    set the handle to whether the byte at a place is true, or is not
    vtc_flow_begin   begin to count the turns of a loop, and set its handle
    vtc_flow_next    count one turn, and set the handle to whether there is another
    vtc_flow_move    copy bytes between places that move with the loops around

They are PTX, which the driver compiles for its device; ``cudaGraphSetConditional`` is the driver's
own, so neither a toolkit nor its library is needed. The text is for the oldest GPU that vtc knows,
and newer ones take it too; the C runtime has a copy, ``native/vtc_control.h``. Arguments are 64-bit
words: places, then numbers, then the two scratch pointers of Triton's kernels, which these ignore.
The first thread does the work, but of ``vtc_flow_move``, where all do.

>>> sorted(KERNELS)
['begin', 'move', 'next', 'test']
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from vtc.errors import VtcError
from vtc.ir.plan import Binary, Kernel
from vtc.runtime.cuda.device import Gpu

LEVELS: Final = 3
"""Loops that a copy may move with."""
THREADS: Final = 128
"""Of a block that moves bytes."""
WIDE: Final = 16
"""Bytes that a thread moves at once, where both places and the size are multiples of it."""
_HEAD: Final = """.version 7.0
.target sm_80
.address_size 64

.extern .func cudaGraphSetConditional
(
 .param .b64 handle,
 .param .b32 value
)
;
"""
_ENTRY: Final = """
.visible .entry {name}(
{params}
)
{{
 .reg .pred %q<8>;
 .reg .b32 %t<12>;
 .reg .b64 %r<40>;
{loads}
 mov.u32 %t0, %tid.x;
{body}
DONE:
 ret;
}}
"""
_ALONE: Final = """ setp.ne.u32 %q0, %t0, 0;
 @%q0 bra DONE;
"""
_SET: Final = """ {
 .param .b64 where;
 .param .b32 what;
 st.param.b64 [where], %r1;
 st.param.b32 [what], %t2;
 call.uni cudaGraphSetConditional, (where, what);
 }"""
_TEST: Final = (
    _ALONE
    + """ ld.global.u8 %t1, [%r0];
 setp.ne.u32 %q1, %t1, 0;
 selp.u32 %t2, 1, 0, %q1;
 setp.ne.u64 %q2, %r2, 0;
 @%q2 bra WANTED;
 xor.b32 %t2, %t2, 1;
WANTED:
"""
    + _SET
)
"""Arguments: the place of a byte; the handle; 1, or 0 to set it where the byte is false."""
_BEGIN: Final = (
    _ALONE
    + """ st.global.u64 [%r0], %r2;
 mov.u32 %t2, 1;
"""
    + _SET
)
"""Arguments: the place of the turn; the handle; the first turn."""
_NEXT: Final = (
    _ALONE
    + """ ld.global.u64 %r4, [%r0];
 add.u64 %r4, %r4, %r2;
 st.global.u64 [%r0], %r4;
 setp.ne.u64 %q1, %r4, %r3;
 selp.u32 %t2, 1, 0, %q1;
"""
    + _SET
)
"""Arguments: the place of the turn; the handle; the step; the turn that is none any more."""


def _moved(level: int) -> str:
    """Add what ``level`` moves both ends by, if it does: its turn is read only then."""
    turn, to, source = 2 + level, 6 + 2 * level, 7 + 2 * level
    return f""" or.b64 %r20, %r{to}, %r{source};
 setp.eq.u64 %q1, %r20, 0;
 @%q1 bra STILL{level};
 ld.global.u64 %r21, [%r{turn}];
 mad.lo.u64 %r0, %r21, %r{to}, %r0;
 mad.lo.u64 %r1, %r21, %r{source}, %r1;
STILL{level}:"""


def _copying(name: str, width: int, load: str, store: str) -> str:
    """From ``%r23`` on, every ``%r24``-th element of ``width`` bytes."""
    return f"""{name}:
 mul.lo.u64 %r25, %r23, {width};
 mul.lo.u64 %r26, %r24, {width};
{name}_NEXT:
 setp.ge.u64 %q2, %r25, %r5;
 @%q2 bra DONE;
 add.u64 %r27, %r1, %r25;
 add.u64 %r28, %r0, %r25;
 {load}
 {store}
 add.u64 %r25, %r25, %r26;
 bra {name}_NEXT;"""


_FOUR = "{%t4, %t5, %t6, %t7}"
_MOVE: Final = "\n".join(
    [
        *(_moved(level) for level in range(LEVELS)),
        """ mov.u32 %t1, %ctaid.x;
 mov.u32 %t2, %ntid.x;
 mov.u32 %t3, %nctaid.x;
 mul.wide.u32 %r22, %t1, %t2;
 cvt.u64.u32 %r23, %t0;
 add.u64 %r23, %r22, %r23;
 mul.wide.u32 %r24, %t3, %t2;
 or.b64 %r29, %r0, %r1;
 or.b64 %r29, %r29, %r5;
 and.b64 %r30, %r29, 15;
 setp.eq.u64 %q3, %r30, 0;
 @%q3 bra WIDE;
 and.b64 %r30, %r29, 3;
 setp.eq.u64 %q3, %r30, 0;
 @%q3 bra WORDS;""",
        _copying("BYTES", 1, "ld.global.u8 %t4, [%r27];", "st.global.u8 [%r28], %t4;"),
        _copying("WORDS", 4, "ld.global.u32 %t4, [%r27];", "st.global.u32 [%r28], %t4;"),
        _copying(
            "WIDE", 16, f"ld.global.v4.u32 {_FOUR}, [%r27];", f"st.global.v4.u32 [%r28], {_FOUR};"
        ),
    ]
)
"""Arguments: target; source; the places of ``LEVELS`` turns; bytes; and of each turn, the bytes
that target and source move with it. What moves with none has any place of a turn, which is not
read.
"""
WORDS: Final = {"test": 3, "begin": 3, "next": 4, "move": 6 + 2 * LEVELS}
"""Arguments of each kernel, Triton's scratch pointers apart."""


def _entry(kind: str, body: str) -> str:
    words = range(WORDS[kind])
    params = ",\n".join(f" .param .u64 p{k}" for k in range(WORDS[kind] + 2))
    loads = "\n".join(f" ld.param.u64 %r{k}, [p{k}];" for k in words)
    return _ENTRY.format(name=f"vtc_flow_{kind}", params=params, loads=loads, body=body)


def _source(kind: str, body: str) -> str:
    """Only kernels that set a handle name the driver's function."""
    head = _HEAD if kind != "move" else _HEAD[: _HEAD.index(".extern")]
    return head + _entry(kind, body)


_BODIES = {"test": _TEST, "begin": _BEGIN, "next": _NEXT, "move": _MOVE}
KERNELS: Final[Mapping[str, Kernel]] = {
    kind: Kernel(f"vtc_flow_{kind}", f"vtc_flow_{kind}", _source(kind, body))
    for kind, body in _BODIES.items()
}
"""By what they do; the source is PTX."""
BINARIES: Final[Mapping[str, Binary]] = {
    kind: Binary(k.symbol, k.source.encode() + b"\0", THREADS // 32 if kind == "move" else 1)
    for kind, k in KERNELS.items()
}


def functions(gpu: Gpu) -> Mapping[str, int]:
    """The kernels on a device, by symbol. VtcError if its driver does not take them."""
    driver, index = gpu.driver, gpu.index
    return {KERNELS[kind].symbol: driver.module(index, b) for kind, b in BINARIES.items()}


def why_not(gpu: Gpu) -> str:
    """Why graphs of a device cannot have loops and branches; "" if they can."""
    why = gpu.driver.conditional(gpu.index)
    if why:
        return why
    try:
        functions(gpu)
        _try(gpu)
    except VtcError as error:
        return str(error)
    return ""


def _try(gpu: Gpu) -> None:
    """Make a conditional node. VtcError if the device cannot have any."""
    driver, index = gpu.driver, gpu.index
    graph = driver.create_graph(index)
    try:
        handle = driver.create_handle(index, graph)
        driver.add_conditional(index, graph, (), handle, loop=True)
    finally:
        driver.destroy_graph(index, graph)
