"""The kernels of ``tests/cuda/small_plans.py`` in PTX, with the arguments that Triton's have.

The driver compiles PTX by itself, so no other compiler takes part in these tests.
"""

from dataclasses import replace

HEAD = """.version 7.0
.target sm_80
.address_size 64
.visible .entry {name}({params})
{{
 .reg .pred %q<4>;
 .reg .b32 %t<8>;
 .reg .f32 %f<8>;
 .reg .b64 %r<40>;
{loads}
 mov.u32 %t0, %tid.x;
 mov.u32 %t1, %ctaid.x;
 mov.u32 %t2, %ntid.x;
 mov.u32 %t3, %nctaid.x;
 mul.wide.u32 %r20, %t1, %t2;
 cvt.u64.u32 %r21, %t0;
 add.u64 %r20, %r20, %r21;
 mul.wide.u32 %r21, %t3, %t2;
{body}
 ret;
}}
"""
LOOP = """{before}
NEXT:
 setp.ge.u64 %q0, %r20, %r{size};
 @%q0 bra DONE;
 shl.b64 %r22, %r20, 2;
{body}
 add.u64 %r20, %r20, %r21;
 bra NEXT;
DONE:"""


def entry(name, arguments, body):
    """A kernel with 64-bit arguments ``%r0``, ``%r1``...; Triton's two scratch pointers follow."""
    params = ", ".join(f".param .u64 p{k}" for k in range(arguments + 2))
    loads = "\n".join(f" ld.param.u64 %r{k}, [p{k}];" for k in range(arguments))
    return HEAD.format(name=name, params=params, loads=loads, body=body).encode() + b"\0"


def loop(size, body, before=""):
    """``body`` for each i (``%r20``, times four ``%r22``) below argument ``size``."""
    return LOOP.format(size=size, body=body, before=before)


def load(to, argument):
    return f" add.u64 %r23, %r{argument}, %r22;\n ld.global.f32 %f{to}, [%r23];"


def store(argument, value):
    return f" add.u64 %r23, %r{argument}, %r22;\n st.global.f32 [%r23], %f{value};"


def lines(*parts):
    return "\n".join(parts)


ADD = (load(0, 0), load(1, 1), " add.f32 %f2, %f0, %f1;", store(2, 2))
POINTERS = """ mov.u64 %r5, %r0;
 ld.global.u64 %r0, [%r5];
 mov.u64 %r6, %r1;
 ld.global.u64 %r1, [%r5+8];
 ld.global.u64 %r2, [%r5+16];"""
GATHER = """ shl.b64 %r24, %r20, 3;
 add.u64 %r24, %r1, %r24;
 ld.global.u64 %r25, [%r24];
 setp.lt.u64 %q1, %r25, %r3;
 mov.f32 %f0, 0f00000000;
 shl.b64 %r25, %r25, 2;
 add.u64 %r25, %r0, %r25;
 @%q1 ld.global.f32 %f0, [%r25];
 mov.u32 %t4, 1;
 @!%q1 st.global.u32 [%r4], %t4;"""
SPIN = """ mov.u64 %r10, %globaltimer;
AGAIN:
 mov.u64 %r11, %globaltimer;
 sub.u64 %r11, %r11, %r10;
 setp.lt.u64 %q1, %r11, %r2;
 @%q1 bra AGAIN;
 ld.global.f32 %f0, [%r0];
 st.global.f32 [%r1], %f0;"""
CRASH = """ mov.u64 %r10, 64;
 mov.f32 %f0, 0f3F800000;
 st.global.f32 [%r10], %f0;"""

BELOW = """ ld.global.f32 %f0, [%r0];
 cvt.rn.f32.u64 %f1, %r2;
 setp.lt.f32 %q1, %f0, %f1;
 selp.u32 %t4, 1, 0, %q1;
 st.global.u8 [%r1], %t4;"""

SOURCES = {
    "add_one": (
        3, loop(2, lines(load(0, 0), " add.f32 %f1, %f0, 0f3F800000;", store(1, 1)))
    ),
    "double": (3, loop(2, lines(load(0, 0), " add.f32 %f1, %f0, %f0;", store(1, 1)))),
    "add": (4, loop(3, lines(*ADD))),
    "step": (
        5,
        loop(
            4,
            lines(
                load(0, 0),
                load(1, 1),
                " mul.rn.f32 %f4, %f3, %f1;",
                " sub.rn.f32 %f5, %f0, %f4;",
                store(3, 5),
            ),
            " ld.global.f32 %f3, [%r2];",
        ),
    ),
    "gather": (5, loop(3, lines(GATHER, store(2, 0)))),
    "add_all": (2, loop(6, lines(*ADD), POINTERS)),
    "spin": (3, SPIN),
    "crash": (3, CRASH),
    "below": (3, BELOW),
}  # fmt: skip
"""By name: how many arguments, and what it does."""


def binaries(simulated):
    """``small_plans.BINARIES`` with code."""
    return {
        symbol: replace(b, cubin=entry(b.name, *SOURCES[b.name])) for symbol, b in simulated.items()
    }
