"""Damaged and hostile packages: each must be refused with a PackageError, and nothing else.

    python tests/package/fuzz_package.py --count 5000 --seed 0
    make fuzz-packages COUNT=5000 SEED=0

* Bytes that changed, went missing or were added: a plain load finds those outside the weights, a
  full one and ``vtc verify`` all.
* Contents that changed and were hashed again, as nobody but an attacker does: fields of the
  manifest and of plans, names and kinds of members. Those that must be refused are; what is left
  (another name, say) may load, but nothing except a PackageError may come out of it.

A failure prints the mutation and how to make it again.
"""

import argparse
import contextlib
import hashlib
import io
import json
import random
import sys
import tempfile
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import flow_models
import handmade
import shown_models

from vtc.__main__ import main as command
from vtc.errors import PackageError
from vtc.runtime import archive
from vtc.runtime.archive import MANIFEST, WEIGHTS, Archive
from vtc.runtime.manifest import canonical
from vtc.runtime.package import Package
from vtc.runtime.signature import Member

HOSTILE = [
    None, True, False, -1, 0, 1, 2**31, 2**62, 2**63, 2**64, 10**30, 0.5, "", "x", "../x", "/etc/x",
    "B", "B//0", "B*" * 3000 + "B", "(" * 500, "-B", "9**9", "C", [], {}, [[]], [None], {"": None},
    [0] * 100, "\x00", "é", "1e999",
]  # fmt: skip


@dataclass
class Base:
    """A package, its members, and where the data of its weights is."""

    data: bytes
    members: dict
    start: int
    end: int

    @classmethod
    def of(cls, path):
        with Archive(path) as found:
            members = {name: found.read(name) for name in (MANIFEST, *found.manifest.members)}
            start, size = found.place(WEIGHTS)
        header = 8 + int.from_bytes(members[WEIGHTS][:8], "little")
        return cls(path.read_bytes(), members, start + header, start + size)


@dataclass
class Mutant:
    """``verdict``: "refused" by a plain load, "full" only by a full one, "any": no matter."""

    about: str
    data: bytes
    verdict: str = "refused"


def forged(members):
    """A file with these members, all of it hashed again."""
    members = dict(members)
    text = members.pop(MANIFEST)
    try:
        fields = json.loads(text)
        fields["members"] = {n: vars_of(d) for n, d in members.items()} | fields.get("extra", {})
        fields.pop("extra", None)
        text = canonical(fields).encode()
    except (ValueError, TypeError, AttributeError, RecursionError):
        pass  # what is no manifest goes in as it is
    about = {n: Member(**vars_of(d)) for n, d in members.items()}
    layout = archive._lay_out(text, about)
    parts = {MANIFEST: text, **members}
    body = b"".join(p.header + parts[p.name] for p in layout.parts)
    return body + layout.end


def vars_of(data):
    crc = f"{zlib.crc32(data):08x}"
    return {"bytes": len(data), "crc32": crc, "sha256": hashlib.sha256(data).hexdigest()}


# bytes


def flip(rng, base):
    at = rng.randrange(len(base.data))
    data = bytearray(base.data)
    data[at] ^= rng.randrange(1, 256)
    inside = base.start <= at < base.end
    return Mutant(f"flip at {at}", bytes(data), "full" if inside else "refused")


def cut(rng, base):
    n = rng.randrange(len(base.data))
    return Mutant(f"cut at {n}", base.data[:n])


def insert(rng, base):
    at, more = rng.randrange(len(base.data) + 1), rng.randbytes(rng.randrange(1, 100))
    return Mutant(f"insert {len(more)} at {at}", base.data[:at] + more + base.data[at:])


def remove(rng, base):
    at = rng.randrange(len(base.data) - 1)
    n = rng.randrange(1, 100)
    return Mutant(f"remove {n} at {at}", base.data[:at] + base.data[at + n :])


def overwrite(rng, base):
    at, n = rng.randrange(base.start), rng.randrange(1, 64)
    data = base.data[:at] + rng.choice([b"\0", b"\xff", b"P"]) * n + base.data[at + n :]
    verdict = "any" if data == base.data or at + n > base.start else "refused"
    return Mutant(f"overwrite {n} at {at}", data, verdict)


# contents that are hashed again


def edited(rng, base, name, edits):
    fields = json.loads(base.members[name])
    about = [edit(rng, fields) for edit in [mutate] * edits]
    text = json.dumps(fields, indent=1).encode()
    return forged(base.members | {name: text}), "; ".join(about)


def mutate(rng, root):
    """Replace, double or drop something in a tree of JSON; what was done."""
    spots = list(inner(root))
    holder, key = rng.choice(spots)
    match rng.randrange(4):
        case 0:
            about = f"drop {key!r}"
            del holder[key]
        case 1 if isinstance(holder, list):
            holder.insert(key, holder[key])
            about = f"double {key!r}"
        case 2 if isinstance(holder[key], int) and not isinstance(holder[key], bool):
            holder[key] += rng.choice([-64, -1, 1, 64, 1 << 40])
            about = f"{key!r} is {holder[key]}"
        case _:
            value = rng.choice(HOSTILE)
            about = f"{key!r} becomes {str(value)[:40]!r}"
            holder[key] = value
    return about


def inner(node):
    keys = node if isinstance(node, dict) else range(len(node))
    for key in keys:
        yield node, key
        if isinstance(node[key], (dict, list)):
            yield from inner(node[key])


def manifest_fields(rng, base):
    data, about = edited(rng, base, MANIFEST, rng.randrange(1, 3))
    return Mutant(f"manifest: {about}", data, "any")


def plan_fields(rng, base):
    name = rng.choice([n for n in base.members if n.startswith("plans/")])
    data, about = edited(rng, base, name, rng.randrange(1, 3))
    return Mutant(f"{name}: {about}", data, "any")


def header_of_weights(rng, base):
    data = base.members[WEIGHTS]
    size = 8 + int.from_bytes(data[:8], "little")
    at = rng.randrange(size)
    changed = bytearray(data)
    changed[at] ^= rng.randrange(1, 256)
    about = f"weights: flip at {at} of the header"
    return Mutant(about, forged(base.members | {WEIGHTS: bytes(changed)}))


def met(base, name):
    """A plain load reads the plans of one target, a full one all."""
    here = f".{handmade.target()}."
    other = here not in name and any(here in n for n in base.members)
    return "full" if other and name.startswith("plans/") else "refused"


def arena(rng, base):
    """A step whose memory leaves the arena."""
    name = rng.choice([n for n in base.members if n.startswith("plans/")])
    plan = json.loads(base.members[name])
    step = rng.choice([s for s in within(plan["steps"]) if s[0] == "launch"])
    offset = rng.choice([1 << 20, -64, "64*B + 1048576" if plan["dims"] else 1 << 40, 1 << 60])
    step[2][rng.randrange(len(step[2]))] = ["arena", offset]
    text = json.dumps(plan, indent=1).encode()
    return Mutant(f"{name}: arena+{offset}", forged(base.members | {name: text}), met(base, name))


def within(steps):
    """All steps, with those of loops and branches."""
    for step in steps:
        yield step
        for some in {"loop": (5, 2), "branch": (2, 3)}.get(step[0], ()):
            yield from within(step[some])


def flow(rng, base):
    """A loop or a branch that cannot be; a copy that leaves its memory where there is none."""
    name = rng.choice([n for n in base.members if n.startswith("plans/")])
    plan = json.loads(base.members[name])
    found = [s for s in within(plan["steps"]) if s[0] in ("loop", "branch")]
    if found:
        about = rng.choice([unbound, endless, elsewhere, deeper, doubled])(rng, rng.choice(found))
    else:
        about = "a copy outside"
        plan["steps"].append(["copy", ["arena", 1 << 40], ["arena", 0], 64])
        plan["after"] = []
    text = json.dumps(plan, indent=1).encode()
    return Mutant(f"{name}: {about}", forged(base.members | {name: text}), met(base, name))


def unbound(rng, step):
    """A place that moves with a loop that is not around it."""
    moving = ["moving", [["arena", 0], rng.choice([-1, 99, 1 << 40]), 4]]
    body(step).append(["copy", moving, ["arena", 64], 4])
    return "a place that moves with no loop"


def endless(rng, step):
    """A place that a loop takes far away."""
    far = rng.choice([1 << 30, 1 << 61, "1073741824*1073741824"])
    moving = ["moving", [["arena", 0], 1000, far]]
    copy = ["copy", moving, ["arena", 64], 4]
    body(step)[:] = [["loop", 1000, [copy], rng.choice([3, 1 << 62]), False, [], None, ""]]
    return f"a step of {far}"


def elsewhere(rng, step):
    """A predicate outside the arena."""
    at = ["arena", rng.choice([-1, 1 << 30, 1 << 62])]
    body(step).append(["branch", at, [], [], ""])
    return f"a predicate at {at}"


def deeper(rng, step):
    """Branches in branches."""
    for _ in range(rng.choice([65, 90, 140, 200])):
        body(step)[:] = [["branch", ["arena", 0], [*body(step)], [], ""]]
    return "branches in branches"


def doubled(rng, step):
    """A loop in one of its own number."""
    inner = ["loop", 1000, [], 2, False, [], None, ""]
    body(step).append(["loop", 1000, [inner], 2, rng.random() < 0.5, [], None, ""])
    return "a number twice"


def body(step):
    """Steps of a loop or a branch."""
    return step[2]


def path(rng, base):
    """A member where none may be."""
    name = rng.choice(["../x", "a/../../x", "/x", "a//x", "./x", "a\\x", "A", "x" * 300, "", "c:x"])
    return Mutant(f"member {name[:20]!r}", forged(base.members | {name: b"x"}))


def compressed(rng, base):
    """What a zip bomb needs, and everything else that other tools write."""
    out = io.BytesIO()
    method = rng.choice([zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA, 0])
    with zipfile.ZipFile(out, "w", method) as z:
        for name, data in base.members.items():
            z.writestr(name, data)
        z.comment = hashlib.sha256(base.members[MANIFEST]).hexdigest().encode()
    return Mutant(f"written by zipfile, method {method}", out.getvalue())


def twice(rng, base):
    """A member that is there twice."""
    name = rng.choice([n for n in base.members if n != MANIFEST])
    text = base.members[MANIFEST].decode()
    at = text.index(f'"{name}": {{')
    end = text.index("}", at) + 1
    text = f"{text[:end]},\n{text[at:end]}{text[end:]}"
    members = {n: d for n, d in base.members.items() if n != MANIFEST}
    about = {n: Member(**vars_of(d)) for n, d in members.items()}
    layout = archive._lay_out(text.encode(), about)
    parts = {MANIFEST: text.encode(), **members}
    data = b"".join(p.header + parts[p.name] for p in layout.parts) + layout.end
    return Mutant(f"{name} twice", data)


def sizes(rng, base):
    """A manifest whose members have other sizes than the file."""
    extra = rng.choice([
        {WEIGHTS: {"bytes": 1 << 61, "crc32": "0" * 8, "sha256": "0" * 64}},
        {f"m{k}": {"bytes": 1 << 61, "crc32": "0" * 8, "sha256": "0" * 64} for k in range(40)},
        {f"m{k}": {"bytes": 0, "crc32": "0" * 8, "sha256": "0" * 64} for k in range(20_000)},
        {"m": {"bytes": 1, "crc32": "0" * 8, "sha256": "0" * 64}},
    ])  # fmt: skip
    fields = json.loads(base.members[MANIFEST]) | {"extra": extra}
    text = json.dumps(fields).encode()
    return Mutant(
        f"{len(extra)} members that are not there", forged(base.members | {MANIFEST: text})
    )


def bomb(rng, base):
    """JSON that is deep, long or full of digits."""
    name = rng.choice([n for n in base.members if n.startswith("plans/")] + [MANIFEST])
    text = rng.choice([
        b"[" * 100_000, b'{"a":' * 50_000, b"1" * 100_000, b'"' + b"a" * 1_000_000, b"\xff\xfe",
        b"NaN", b"", b"[" + b"0," * 100_000 + b"0]",
    ])  # fmt: skip
    return Mutant(f"{name}: {text[:8]!r}...", forged(base.members | {name: text}), met(base, name))


def newer(rng, base):
    fields = json.loads(base.members[MANIFEST]) | {"format": rng.choice([2, 99, 1 << 70])}
    return Mutant("a newer format", forged(base.members | {MANIFEST: canonical(fields).encode()}))


MUTATORS = [flip] * 8 + [cut] * 2 + [insert, remove, overwrite] + [manifest_fields] * 6
MUTATORS += [plan_fields] * 6 + [header_of_weights, arena, flow, path, compressed, twice, sizes]
MUTATORS += [bomb, newer]


def loads(file, check):
    """Whether a package loads; anything but a PackageError comes out of here."""
    try:
        Package(Archive(file, check), None, check, None, None)
    except PackageError:
        return False
    return True


def verified(file):
    """Whether ``vtc verify`` is content."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        return command(["verify", str(file)]) == 0


def wrong(mutant, file):
    """What is wrong with how ``mutant`` was met; empty if nothing is."""
    file.write_bytes(mutant.data)
    try:
        plain = loads(file, "fast")
        full = plain and loads(file, "full")
        missed = mutant.verdict != "any" and verified(file)
    except Exception as error:
        return f"{type(error).__name__}: {str(error)[:200]}"
    if mutant.verdict == "refused" and plain:
        return "it was loaded"
    if mutant.verdict == "full" and full:
        return "it was loaded with a full check"
    if missed:
        return "vtc verify did not find it"
    if mutant.verdict == "full" and not plain:
        return "a plain load refused what it need not read"
    return ""


def run(bases, count, seed, folder):
    """The failures, as text."""
    failures = []
    file = folder / "mutant.vtc"
    for k in range(count):
        rng = random.Random(f"{seed}.{k}")
        base = rng.choice(bases)
        mutant = rng.choice(MUTATORS)(rng, base)
        if why := wrong(mutant, file):
            failures.append(f"seed {seed}, number {k}: {mutant.about}: {why}")
    return failures


def bases(folder):
    made = [handmade.mlp(folder / "mlp.vtc"), handmade.counter(folder / "counter.vtc")]
    made.append(shown_models.export_step(folder / "step.vtc", ["cpu"]))
    made.append(flow_models.export_flow(folder / "flow.vtc"))
    return [Base.of(p) for p in made]


def main():
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--count", type=int, default=5000)
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("packages", nargs="*", type=Path, help="instead of those it makes")
    asked = options.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        found = [Base.of(p) for p in asked.packages] or bases(folder)
        failures = run(found, asked.count, asked.seed, folder)
    print("\n".join([*failures, f"{asked.count} mutations, {len(failures)} failures"]))
    return min(len(failures), 1)


if __name__ == "__main__":
    sys.exit(main())
