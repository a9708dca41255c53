"""What the C runtime does with loops and branches on a CPU; see ``native_cpu_cases.py``.

The package is that of ``flow_models.py``; ``calls.npz`` has calls in order, and what Python gives.
"""

import hashlib
import json
import shutil
import tempfile
import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from native_binding import Native, array
from native_cpu_cases import refuses


def given(library, folder):
    """The library, the package as a folder, and the calls with what they give."""
    folder = Path(folder)
    with np.load(folder / "calls.npz") as known:
        arrays = dict(known)
    calls = [
        (name, few(arrays, f"{k}.in"), few(arrays, f"{k}.out"))
        for k, name in enumerate(arrays.pop("names").tolist())
    ]
    state = {name[6:]: a for name, a in arrays.items() if name.startswith("state.")}
    return SimpleNamespace(native=Native(library), folder=folder, calls=calls, state=state)


def few(arrays, stem):
    """The arrays ``<stem>0``, ``<stem>1`` ..."""
    return [a for name, a in arrays.items() if name.startswith(stem)]


def case_outputs_and_state_are_those_of_python(t):
    assert len({name for name, _, _ in t.calls}) == 8
    with t.native.open(t.folder / "flow.vtc") as package:
        for name, inputs, outputs in t.calls:
            found = package.run(name, *inputs)
            assert len(found) == len(outputs)
            for a, b in zip(found, outputs, strict=True):
                np.testing.assert_array_equal(a, b, err_msg=name)
        assert t.state
        for name, a in t.state.items():
            np.testing.assert_array_equal(array(package.state(name)), a)


def case_the_number_of_threads_changes_nothing(t):
    name, inputs, (y,) = next(call for call in t.calls if call[0] == "wide")
    for threads in (1, 3):
        with t.native.open(t.folder / "flow.vtc", threads=threads) as package:
            np.testing.assert_array_equal(package.run(name, *inputs)[0], y)


def case_many_threads_call_at_once(t):
    wrong = []

    def work(package, seed):
        for k in range(seed, seed + 60):
            name, inputs, outputs = t.calls[k % len(t.calls)]
            if name != "train" and not all(
                np.array_equal(a, b)
                for a, b in zip(package.run(name, *inputs), outputs, strict=True)
            ):
                wrong.append(name)

    with t.native.open(t.folder / "flow.vtc", threads=2) as package:
        workers = [threading.Thread(target=work, args=(package, 5 * s)) for s in range(6)]
        [w.start() for w in workers]
        [w.join() for w in workers]
    assert not wrong


def case_an_index_out_of_range_in_a_loop_names_its_line(t):
    table, good = np.arange(10, dtype="f4"), np.array([3, 9, 0], "i8")
    with t.native.open(t.folder / "flow.vtc") as package:
        right = package.run("look", table, good)
        refuses("OUT_OF_RANGE", "got one outside it\n  at flow_models.py:",
                package.run, "look", table, np.array([3, 9, 10], "i8"))  # fmt: skip
        for a, b in zip(package.run("look", table, good), right, strict=True):
            np.testing.assert_array_equal(a, b)


# plans that are no plans: the package as a folder, with a plan changed


def opened(t, entry, change):
    """Open the package where ``change`` has changed the plan of ``entry``."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "package"
        shutil.copytree(t.folder / "flow", folder)
        (path,) = folder.glob(f"plans/{entry}.0.*.json")
        fields = json.loads(path.read_text())
        change(fields["steps"])
        path.write_text(json.dumps(fields, indent=1))
        manifest = json.loads((folder / "manifest.json").read_text())
        about = manifest["members"][str(path.relative_to(folder))]
        about["bytes"] = path.stat().st_size
        about["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
        (folder / "manifest.json").write_text(json.dumps(manifest))
        t.native.open(folder).close()


def inside(steps):
    """All steps, with those in loops and branches."""
    for step in steps:
        yield step
        for part in {"loop": (5, 2), "branch": (2, 3)}.get(step[0], ()):
            yield from inside(step[part])


def loop(steps, *, counts=True):
    """The first loop that counts, or does not."""
    return next(s for s in inside(steps) if s[0] == "loop" and (s[6] is None) == counts)


def branch(steps):
    return next(s for s in inside(steps) if s[0] == "branch")


def moving(steps):
    """The first place that moves: base, loop, step."""
    refs = [s[2] if s[0] == "launch" else s[1:3] for s in inside(loop(steps)[2])]
    return next(r[1] for part in refs for r in part if r[0] == "moving")


def set_at(find, key, value):
    """A change of the list that ``find`` finds in the steps."""

    def change(steps):
        find(steps)[key] = value

    return change


def nest(depth, kind):
    """A change: the first step goes ``depth`` deep."""

    def change(steps):
        for k in range(depth):
            around = {
                "loop": ["loop", 1000 + k, [steps[0]], 1, False, [], None, ""],
                "branch": ["branch", ["arena", 0], [], [steps[0]], ""],
            }
            steps[0] = around[kind]

    return change


def twice(steps):
    outer = loop(steps)
    outer[2] = [[*outer[:2], outer[2], *outer[3:]]]


def case_an_unchanged_plan_opens(t):
    for change in (lambda steps: None, nest(64, "loop"), nest(64, "branch")):
        opened(t, "choose", change)


def case_places_outside_the_memory_of_a_plan_are_refused(t):
    outside = "expected memory of the plan, got a place outside it"
    (path,) = (t.folder / "flow").glob("plans/walk.0.*.json")
    end = json.loads(path.read_text())["arena"]
    for change, words in {
        set_at(moving, 2, 1 << 30): outside,
        set_at(moving, 2, "N*N*N*N"): outside,
        set_at(loop, 3, 1 << 62): "got a loop that leaves it",
        set_at(loop, 3, "64*N"): outside,
        set_at(lambda s: loop(s, counts=False), 6, ["arena", 1 << 20]): outside,
        set_at(branch, 1, ["arena", end]): outside,
        set_at(branch, 1, ["arena", "1048576*N"]): outside,
        set_at(branch, 2, [["copy", ["arena", 0], ["out", 0], 1 << 20]]): outside,
        set_at(loop, 3, "N - 65"): "expected a size of at least 0",
        set_at(moving, 2, "0 - N"): "expected a size of at least 0",
    }.items():
        refuses("BAD_PACKAGE", words, opened, t, "walk", change)


def case_loops_and_branches_that_are_none_are_refused(t):
    for change, words in {
        set_at(moving, 1, 77): "expected the number of a loop around it that counts, got 77",
        set_at(moving, 1, 0): "expected the number of a loop around it that counts, got 0",
        set_at(moving, 0, ["moving", ["in", 0]]): "a moving place [base, loop, step]",
        set_at(moving, 0, ["in", 1]): "expected an integer from 0 to 0",
        twice: "expected a loop with a number of its own",
        set_at(loop, 1, "1"): "expected an integer",
        set_at(loop, 3, -1): "expected a size of at least 0",
        set_at(loop, 3, "M"): 'expected a declared dim, got "M"',
        set_at(loop, 4, 3): "expected true or false, got 3",
        set_at(loop, 5, [["branch"]]): "expected a condition for a test, got null",
        set_at(loop, 7, None): "expected a text, got null",
        set_at(branch, 1, ["there", 0]): "expected in, out, arena or moving",
        set_at(branch, 2, None): "expected a list, got null",
        set_at(branch, 3, [["branch", ["arena", 0], []]]): "a branch [branch, condition",
        set_at(branch, 3, [["loop", 9, []]]): "a loop [loop, number",
        set_at(branch, 3, [["goto", 0]]): 'a loop or a branch, got [ "goto", 0 ]',
        set_at(branch, 3, [["launch", "k99", [], [], "", 0, []]]): "expected a kernel of the plan",
        nest(65, "loop"): "expected at most 64 loops and branches in each other, got more",
        nest(65, "branch"): "expected at most 64 loops and branches in each other, got more",
        nest(200, "branch"): "expected values that are less deep",
    }.items():
        refuses("BAD_PACKAGE", words, opened, t, "walk", change)
