"""``vtc_control.h``: what the C runtime has of ``vtc.runtime.cuda.control`` is what Python has.

``pytest tests/package/test_native_control.py --update-golden`` writes it.
"""

from native_build import NATIVE

from vtc.ir.unroll import SPELLED
from vtc.runtime.cuda.control import BINARIES, KERNELS, LEVELS, THREADS, WIDE
from vtc.runtime.cuda.nodes import MOVERS

HEADER = NATIVE / "vtc_control.h"
HEAD = """\
/* Part of vtc_runtime.c: the kernels that steer conditional nodes, as PTX, and their numbers.
 *
 * A test wrote them from vtc/runtime/cuda/control.py, which says what they do, and compares. */
#ifndef VTC_CONTROL_H
#define VTC_CONTROL_H

#ifndef VTC_SPELLED
#define VTC_SPELLED {spelled} /* launches and copies of a loop that is spelled out, at most */
#endif

enum {{ VTC_LEVELS = {levels}, VTC_MOVE_BYTES = {move_bytes}, VTC_MOVERS = {movers} }};

static const struct {{ const char *symbol; int warps; const char *source; }} VTC_CONTROL[] = {{
"""


def text():
    """The header."""
    numbers = {"levels": LEVELS, "move_bytes": THREADS * WIDE, "movers": MOVERS}
    found = HEAD.format(spelled=SPELLED, **numbers)
    for kind, kernel in KERNELS.items():
        found += f'    {{"{kernel.symbol}", {BINARIES[kind].warps},\n'
        found += "".join(f'     "{line}\\n"\n' for line in kernel.source.splitlines())
        found = found[:-1] + "},\n"
    return found + "};\n\n#endif\n"


def test_the_kernels_of_the_c_runtime_are_those_of_python(update_golden):
    assert list(KERNELS) == ["test", "begin", "next", "move"]  # the numbers that vtc_kernels.h has
    assert all(k.source.endswith("}\n") and '"' not in k.source for k in KERNELS.values())
    if update_golden:
        HEADER.write_text(text())
    assert HEADER.read_text() == text(), "python -m pytest tests/package -k python --update-golden"
