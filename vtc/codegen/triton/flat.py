"""Several loops as one: a block runs over the numbers of their iterations.

A read in the order of the loops is then plainly ``x0 + e``, which Triton loads 16 bytes at a time;
one that skips a loop is at ``e % 70`` or ``e // 70``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from vtc.codegen.loops import Loop
from vtc.codegen.sizes import Facts
from vtc.ir.dims import Size, floordiv, mod, product, substitute

Change = Callable[[Size], Size]


def flattened(facts: Facts, loops: Sequence[Loop], name: str) -> tuple[Loop, Change]:
    """One loop over all iterations of ``loops``, the last of which is the innermost, and what makes
    index expressions in it of those in ``loops``.
    """
    one = Loop(name, product(v.extent for v in loops))
    number = facts.loop(name, one.extent)
    values: dict[str, Size] = {}
    rest: Size = 1
    for k, loop in reversed(list(enumerate(loops))):
        value = floordiv(number, rest) if rest != 1 else number
        values[loop.name] = mod(value, loop.extent) if k else value
        rest = rest * loop.extent

    def change(size: Size) -> Size:
        return facts.simplify(substitute(size, values))

    return one, change
