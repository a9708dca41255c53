"""PTX run by Python, thread after thread: as much of it as ``vtc.runtime.cuda.control`` is made of.

    code = Code(text)
    code.name, code.words                              # "vtc_flow_test", 5
    code.run(grid, threads, values, memory, calls)     # calls: what the kernel calls, by name

``memory(address, nbytes)`` allows or refuses an access. An unknown instruction is an error: nothing
is taken for granted. Addresses must be multiples of what is loaded or stored there.
"""

import ctypes
import re

SIZES = {"u8": 1, "u32": 4, "u64": 8, "b32": 4, "b64": 8}
UNSIGNED = {1: ctypes.c_uint8, 4: ctypes.c_uint32, 8: ctypes.c_uint64}
SPECIAL = ("%tid.x", "%ntid.x", "%ctaid.x", "%nctaid.x")
MOST = 100_000
"""Instructions of a thread."""
VALUES = {
    "setp.ne": lambda a, b: a != b,
    "setp.eq": lambda a, b: a == b,
    "setp.ge": lambda a, b: a >= b,
    "selp": lambda a, b, p: a if p else b,
    "mov": lambda a: a,
    "cvt.u64": lambda a: a,
    "add": lambda a, b: a + b,
    "mul.lo": lambda a, b: a * b,
    "mul.wide": lambda a, b: a * b,
    "mad.lo": lambda a, b, c: a * b + c,
    "and": lambda a, b: a & b,
    "or": lambda a, b: a | b,
    "xor": lambda a, b: a ^ b,
}
"""By instruction without the type; results are of that type, or twice as wide."""


class Code:
    """One kernel; see the module."""

    def __init__(self, text):
        assert text.isascii()
        self.name, params, body = re.search(
            r"\.visible \.entry (\w+)\(\n(.*?)\n\)\n\{\n(.*)\n\}\n", text, re.S
        ).groups()
        self.params = re.findall(r"\.param \.u64 (\w+)", params)
        self.words = len(self.params)
        self.externs = re.findall(r"\.extern \.func (\w+)", text)
        labels, lines = {}, []
        for line in map(str.strip, body.splitlines()):
            if line.endswith(":"):
                labels[line[:-1]] = len(lines)
            elif line not in ("{", "}") and not line.startswith((".reg", ".param")):
                assert line.endswith(";"), line
                lines.append(line[:-1])
        self.steps = [_step(line, labels) for line in lines]

    def run(self, grid, threads, values, memory, calls):
        """All threads of all blocks; ``values`` are the arguments."""
        assert set(self.externs) <= set(calls)
        words = (v & (1 << 64) - 1 for v in values)
        given = dict(zip(self.params, words, strict=True))
        for block in range(grid[0]):
            for thread in range(threads):
                special = dict(zip(SPECIAL, (thread, threads, block, grid[0]), strict=True))
                _Thread(given, special, memory, calls).run(self.steps)


class _Thread:
    def __init__(self, given, special, memory, calls):
        self.given, self.memory, self.calls = given, memory, calls
        self.registers, self.sent = special, {}
        self.at = 0

    def run(self, steps):
        for _ in range(MOST):
            guard, wanted, step = steps[self.at]
            self.at += 1
            if guard and self.registers[guard] != wanted:
                continue
            if step is None:
                return
            step(self)
        raise AssertionError("a thread that does not end")

    def access(self, load, size, names, where):
        at = self.registers[where]
        assert at % (size * len(names)) == 0, f"misaligned: {size * len(names)} bytes at {at:#x}"
        self.memory(at, size * len(names))
        for k, register in enumerate(names):
            cell = UNSIGNED[size].from_address(at + k * size)
            if load:
                self.registers[register] = cell.value
            else:
                cell.value = self.registers[register]


def _step(line, labels):
    """The register that guards an instruction, what it must hold, and what is done; None ends."""
    guard, line = re.fullmatch(r"(?:@(!?%\w+) )?(.*)", line).groups()
    name, wanted = (guard or "").lstrip("!"), not (guard or "").startswith("!")
    if line == "ret":
        return name, wanted, None
    op, rest = line.split(None, 1)
    kind = op.split(".")[0]
    make = {"bra": _branch, "call": _call, "ld": _access, "st": _access}.get(kind, _compute)
    return name, wanted, make(op, rest, labels)


def _branch(op, rest, labels):
    to = labels[rest]
    return lambda t: setattr(t, "at", to)


def _call(op, rest, labels):
    function, args = re.fullmatch(r"(\w+), \((.*)\)", rest).groups()
    names = args.split(", ")
    return lambda t: t.calls[function](*(t.sent.pop(a) for a in names))


def _access(op, rest, labels):
    load, (space, *kinds) = op.startswith("ld"), op.split(".")[1:]
    order = r"(.*), \[(%?\w+)\]" if load else r"\[(%?\w+)\], (.*)"
    found = re.fullmatch(order, rest).groups()
    registers, where = found if load else found[::-1]
    if space == "param":
        if load:
            return lambda t: t.registers.__setitem__(registers, t.given[where])
        return lambda t: t.sent.__setitem__(where, t.registers[registers])
    assert space == "global"
    names, size = registers.strip("{}").split(", "), SIZES[kinds[-1]]
    assert len(names) == (4 if kinds[:-1] == ["v4"] else 1)
    return lambda t: t.access(load, size, names, where)


def _compute(op, rest, labels):
    name, kind = op.rsplit(".", 1)
    value, size = VALUES[name], SIZES[kind] * (2 if name == "mul.wide" else 1)
    to, *args = rest.split(", ")
    mask = (1 << 8 * max(size, 8 if name.startswith("cvt") else size)) - 1
    if name.startswith("setp"):
        mask = 1
    numbers = [None if a.startswith("%") else int(a) for a in args]

    def step(t):
        given = [t.registers[a] if n is None else n for a, n in zip(args, numbers, strict=True)]
        t.registers[to] = value(*given) & mask

    return step
