"""Packages loaded and called: equal results, state, and an error for every call that is wrong."""

import copy
import json
import pickle
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import handmade
import numpy as np
import pytest

import vtc
from vtc.errors import ArgumentError, DeviceError, PackageError
from vtc.ir.saved import FORMAT
from vtc.runtime import machine
from vtc.runtime.archive import WEIGHTS, write
from vtc.runtime.package import OWN
from vtc.runtime.signature import CudaPlan
from vtc.runtime.weights import Safetensors, save

X = np.random.default_rng(1).normal(size=(64, 64)).astype("f4")


def expected(x, w):
    return np.maximum(x @ w["w1"] + w["b1"], 0) @ w["w2"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("package")


@pytest.fixture(scope="module")
def mlp_file(folder):
    return handmade.mlp(folder / "mlp.vtc")


@pytest.fixture(scope="module")
def counter_file(folder):
    return handmade.counter(folder / "counter.vtc")


@pytest.fixture(scope="module")
def mlp(mlp_file):
    return vtc.load(mlp_file)


@pytest.fixture
def counter(counter_file):
    return vtc.load(counter_file)


@pytest.mark.parametrize("n", [1, 5, 64])
def test_results(mlp, n):
    have = mlp(X[:n])
    assert isinstance(have, np.ndarray)
    np.testing.assert_allclose(have, expected(X[:n], handmade.mlp_weights()), rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(mlp.forward(X[:n]), have)
    np.testing.assert_array_equal(mlp["forward"](X[:n]), have)
    np.testing.assert_array_equal(mlp(x=X[:n]), have)


def test_what_it_says(mlp):
    assert mlp.entries == ("forward",)
    assert str(mlp.signature().inputs[0].type) == "f32[B, 64]"
    assert "forward(x: f32[B, 64])" in repr(mlp.forward)
    assert mlp.target == handmade.target()
    assert "forward" in dir(mlp)


def test_arrays_of_others(mlp):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    want = mlp(X)
    np.testing.assert_array_equal(mlp(torch.from_numpy(X)), want)
    np.testing.assert_array_equal(mlp(vtc.from_numpy(X)), want)
    np.testing.assert_array_equal(mlp(memoryview_of(X)), want)
    np.testing.assert_array_equal(mlp(torch.from_numpy(X.T.copy()).T), want)
    with pytest.raises(ArgumentError, match=r"x: expected an array, got Tensor: .*grad"):
        mlp(torch.from_numpy(X).requires_grad_())


def memoryview_of(x):
    class Interface:
        __array_interface__ = x.__array_interface__

    return Interface()


def test_written_arguments(counter):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    x = torch.ones(4)
    assert counter.count(x, scale=2.0)["y"] is x
    np.testing.assert_array_equal(x, [3, 4, 5, 6])
    strided = np.ones((4, 2), "f4")
    counter.count(strided[:, 0], scale=0.0)
    np.testing.assert_array_equal(strided[:, 0], [3, 4, 5, 6])
    assert (strided[:, 1] == 1).all()
    repeated = np.lib.stride_tricks.as_strided(np.ones(1, "f4"), (4,), (0,))
    with pytest.raises(ArgumentError, match="x: expected elements with memory of their own"):
        counter.count(repeated, scale=0.0)
    fixed = np.ones(4, "f4")
    fixed.flags.writeable = False
    with pytest.raises(ArgumentError, match="x: expected an array to overwrite, got a read-only"):
        counter.count(fixed, scale=1.0)
    x = vtc.ones(4)
    counter.count(x, scale=0.0)
    np.testing.assert_array_equal(x, [3, 4, 5, 6])


def test_state(counter, counter_file):
    before = counter_file.read_bytes()
    out = counter.count(np.ones(4, "f4"), scale=1.0)
    assert out["total"] is counter.state["total"]
    assert out["what"] == "counted"
    np.testing.assert_array_equal(counter.peek(), [2, 3, 4, 5])
    counter.state["total"] = [7, 7.0, 7, 7]
    np.testing.assert_array_equal(counter.peek(), [8, 8, 8, 8])
    counter.reset()
    np.testing.assert_array_equal(counter.peek(), [1, 2, 3, 4])
    assert list(counter.state) == ["total"]
    with pytest.raises(KeyError, match="expected one of total, got 'sum'"):
        counter.state["sum"]
    with pytest.raises(ArgumentError, match=r"total: expected f32\[4\], got f64\[3\]"):
        counter.state["total"] = np.zeros(3)
    with pytest.raises(ArgumentError, match=r"total: expected an array, got .* inhomogeneous"):
        counter.state["total"] = [1, [2, 3]]
    with pytest.raises(ArgumentError, match="total: expected numbers, got <U1"):
        counter.state["total"] = np.array(list("1234"))
    assert counter_file.read_bytes() == before


def test_a_package_is_loaded_and_not_pickled(counter):
    with pytest.raises(TypeError, match=r"a Package cannot be pickled or copied: load '.*counter"):
        pickle.dumps(counter)
    with pytest.raises(TypeError, match="the entry peek cannot be pickled or copied"):
        copy.copy(counter.peek)


def test_names_that_a_package_has_itself(counter):
    public = {name for name in dir(counter) if not name.startswith("_")}
    assert public - set(counter.entries) == OWN


def test_state_is_saved_and_loaded(counter, counter_file, tmp_path):
    counter.count(np.ones(4, "f4"), scale=1.0)
    path = counter.state.save(tmp_path / "state.safetensors")
    counter.reset()
    again = vtc.load(counter_file, weights=path)
    np.testing.assert_array_equal(again.peek(), [2, 3, 4, 5])
    again.count(np.ones(4, "f4"), scale=1.0)
    np.testing.assert_array_equal(again.peek(), [3, 4, 5, 6])
    np.testing.assert_array_equal(vtc.load(counter_file, weights=path).peek(), [2, 3, 4, 5])


def test_two_loads_have_their_own_state(counter_file):
    one, other = vtc.load(counter_file), vtc.load(counter_file)
    one.count(np.ones(4, "f4"), scale=1.0)
    np.testing.assert_array_equal(other.peek(), [1, 2, 3, 4])


def test_weights_are_read_only(mlp):
    weight = mlp._held.get("w1")
    assert not weight.flags.writeable
    assert "w1" not in mlp.state
    with pytest.raises(KeyError, match="expected no name, as entries keep nothing, got 'w1'"):
        mlp.state["w1"]


def test_threads(counter_file):
    counter = vtc.load(counter_file)
    start = threading.Barrier(4)

    def count(_):
        start.wait()
        for _ in range(50):
            counter.count(np.ones(4, "f4"), scale=1.0)

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(count, range(4)))
    np.testing.assert_array_equal(counter.state["total"], np.arange(4) + 200)


WRONG = {
    "none": ((), {}, "expected 1 positional argument, as it was exported, got 0: forward"),
    "two": ((X, X), {}, r"expected 1 positional argument, .* got 2: forward\(x: "),
    "a keyword": ((X,), {"y": 1}, r"expected 1 positional argument, .* got 1 and the keywords y: "),
    "a list": (([[1.0]],), {}, r"\(DLPack or __array__\), got list; numpy\.asarray makes one"),
    "a dtype": ((X.astype("f8"),), {}, r"x: expected f32\[B, 64\], got f64\[64, 64\]"),
    "a byte order": ((X.astype(">f4"),), {}, r"x: expected f32\[B, 64\], got >f4"),
    "a rank": ((X[0],), {}, r"x: expected f32\[B, 64\], got f32\[64\]"),
    "a size": ((X[:, :3],), {}, r"x: expected f32\[64, 64\], got f32\[64, 3\]"),
    "too many": ((np.zeros((65, 64), "f4"),), {}, r"x: axis 0: expected B: Dim\(1, 64\), got 65"),
    "too few": ((X[:0],), {}, r"x: axis 0: expected B: Dim\(1, 64\), got 0"),
}


@pytest.mark.parametrize(("args", "kwargs", "why"), WRONG.values(), ids=WRONG)
def test_wrong_calls(mlp, args, kwargs, why):
    with pytest.raises(ArgumentError, match=why):
        mlp(*args, **kwargs)


def test_wrong_numbers_and_names(counter):
    x = np.ones(4, "f4")
    with pytest.raises(ArgumentError, match="scale: expected a number, got str"):
        counter.count(x, scale="1")
    with pytest.raises(ArgumentError, match="scale: expected a number, got complex"):
        counter.count(x, scale=1j)
    for one in (1, np.float32(1), np.int64(1), 1.0):
        counter.reset()
        np.testing.assert_array_equal(counter.count(x * 0 + 1, scale=one)["total"], [1, 2, 3, 4])
    assert counter.count(scale=1.0, x=x)["y"] is x
    with pytest.raises(ArgumentError, match=r"and the keywords scale, .* got 1 and .* scale, x: "):
        counter.count(x, scale=1.0, x=x)
    with pytest.raises(ArgumentError, match=r"and the keywords scale, .* got 1: "):
        counter.count(x)
    with pytest.raises(ArgumentError, match=r"expected one of its entries \(count, peek\)"):
        counter(x)
    with pytest.raises(ArgumentError, match=r"an entry \(count, peek\), got 'cnt'"):
        counter["cnt"]
    with pytest.raises(AttributeError, match=r"an entry \(count, peek\), got 'cnt'"):
        _ = counter.cnt


def test_an_entry_by_name(counter_file):
    np.testing.assert_array_equal(vtc.load(counter_file, entry="peek")(), [1, 2, 3, 4])
    with pytest.raises(ArgumentError, match=r"expected an entry \(count, peek\), got 'cnt'"):
        vtc.load(counter_file, entry="cnt")


def test_weights_from_outside(folder, mlp, mlp_file):
    bare = handmade.mlp(folder / "bare.vtc", weights=False)
    arrays, path = handmade.mlp_weights(), folder / "outside.safetensors"
    with pytest.raises(PackageError, match=r"weight b1: f32\[32\], got none \(give weights="):
        vtc.load(bare)
    np.testing.assert_array_equal(vtc.load(bare, weights=arrays)(X), mlp(X))
    save(path, arrays)
    np.testing.assert_array_equal(vtc.load(bare, weights=path)(X), mlp(X))
    other = handmade.mlp_weights(1)
    have = vtc.load(mlp_file, weights=other)(X)
    np.testing.assert_allclose(have, expected(X, other), rtol=1e-5, atol=1e-5)
    with pytest.raises(PackageError, match=r"b1: expected f32\[32\], got f64\[32\]"):
        vtc.load(bare, weights=arrays | {"b1": np.zeros(32)})
    with pytest.raises(PackageError, match="expected weights like b1, got no such"):
        vtc.load(mlp_file, weights={"fc.w1": arrays["w1"]})


@pytest.mark.parametrize(
    ("target", "said"), [("cpu-aarch64", ""), ("sm_90", r" \(no GPU is found: .+\)")]
)
def test_no_target_for_this_machine(folder, target, said):
    if vtc.cuda.is_available():
        pytest.skip("there is a GPU")
    members = {}
    manifest = handmade.mlp_manifest(members)
    entry = manifest.entries["forward"]
    (variant,) = entry.variants
    plan = variant.plans[handmade.target()]
    plan = CudaPlan(plan.plan, {}) if target == "sm_90" else plan
    there = replace(variant, plans={target: plan})
    entries = {"forward": replace(entry, variants=(there,))}
    manifest = replace(manifest, entries=entries, targets=(target,))
    path = write(folder / "there.vtc", members, manifest)
    here = " or ".join(machine.cpu_targets())
    why = f"expected code for {here}{said}, got code for {target}; export it again with targets="
    with pytest.raises(PackageError, match=why):
        vtc.load(path)


def test_no_gpu(mlp_file):
    if vtc.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(DeviceError, match="cuda"):
        vtc.load(mlp_file, device="cuda")


@pytest.mark.parametrize(
    ("capability", "target"),
    [
        ((9, 0), "sm_90"), ((8, 0), "sm_80"), ((8, 9), "sm_86"), ((10, 0), "sm_100"),
        ((12, 0), None), ((7, 5), None), ((10, 3), None),
    ],
)  # fmt: skip
def test_the_best_architecture(capability, target):
    there = ["cpu-x86-64-v3", "sm_80", "sm_86", "sm_90", "sm_100"]
    assert machine.best_cuda(capability, there) == target


def test_levels_of_cpus(monkeypatch, tmp_path):
    info = tmp_path / "cpuinfo"
    monkeypatch.setattr(machine, "_CPUINFO", info)
    monkeypatch.setattr(machine.platform, "machine", lambda: "x86_64")
    names = {frozenset(): (), machine.V3: ("cpu-x86-64-v3",)}
    names[machine.V4] = ("cpu-x86-64-v4", "cpu-x86-64-v3")
    for flags, targets in names.items():
        info.write_text(f"processor\t: 0\nflags\t\t: sse {' '.join(flags)}\n")
        assert machine.cpu_targets.__wrapped__() == targets


def test_variants(folder):
    """Two plans for one dim: the first that fits is taken; between them there is none."""
    members = {}
    manifest = handmade.mlp_manifest(members)
    entry = manifest.entries["forward"]
    (variant,) = entry.variants
    few, many = (handmade.Dim("B", 1, 4), handmade.Dim("B", 8, 64))
    both = tuple(replace(variant, name=f"{d.min}", dims=(d,)) for d in (few, many))
    manifest = replace(manifest, entries={"forward": replace(entry, variants=both)})
    members[WEIGHTS] = Safetensors(handmade.mlp_weights())
    model = vtc.load(write(folder / "variants.vtc", members, manifest))
    for n in (4, 8):
        assert model(X[:n]).shape == (n, 10)
    with pytest.raises(ArgumentError, match=r"sizes in B: Dim\(1, 4\); B: Dim\(8, 64\); got B = 5"):
        model(X[:5])


def first_launch(plan):
    return next(step for step in plan["steps"] if step[0] == "launch")


def stepped(step):
    """A change of a plan: one step more, after all others."""
    return lambda p: p["steps"].append(step) or p["after"].clear()


def branches(depth):
    """Branches in each other; the predicate is a byte of the first input."""
    steps = []
    for _ in range(depth):
        steps = [["branch", ["in", 0], steps, [], ""]]
    return steps[0]


FAR = ["copy", ["moving", [["arena", 0], 7, "4096*B"]], ["arena", 0], 4]
UNFIT = {
    "predicate": (stepped(["branch", ["arena", "640*B"], [], [], ""]), "inside the arena"),
    "test": (
        stepped(["loop", 0, [], 0, False, [], ["arena", "640*B"], ""]),
        "inside the arena",
    ),
    "turns": (stepped(["loop", 7, [FAR], "B + 9", False, [], None, ""]), "inside the arena"),
    "depth": (stepped(branches(65)), "at most 64 loops and branches in each other, got 65"),
    "dtype": (
        lambda p: p["inputs"][0].__setitem__(0, "f64"),
        r"in0: expected f32\[B, 64\], got f64",
    ),
    "shape": (
        lambda p: p["inputs"][2].__setitem__(1, [33]),
        r"in2: expected f32\[32\], got f32\[33",
    ),
    "inputs": (lambda p: p["inputs"].append(["f32", [2], "", None]), "expected 4 inputs, got 5"),
    "outputs": (lambda p: p["outputs"].clear(), "expected memory of the plan"),
    "reference": (lambda p: first_launch(p)[2].__setitem__(0, ["in", 9]), "expected memory of the"),
    "arena": (lambda p: first_launch(p)[2].__setitem__(0, ["arena", "640*B"]), "inside the arena"),
    "huge arena": (lambda p: p.__setitem__("arena", 1 << 60), "expected an arena of at most"),
    "negative": (lambda p: p.__setitem__("arena", "-1*B"), "expected an arena of at most"),
    "no size": (lambda p: p.__setitem__("arena", "B//(B-B)"), "expected a"),
    "overwriting": (
        lambda p: p["outputs"].append(p["inputs"][1]) or p["inputs"][1].__setitem__(3, 1),
        "in1: expected an input that is only read",
    ),
    "kernels": (lambda p: p["kernels"][0].__setitem__(4, [[], 4, 3, False, False]), "of a CPU"),
    "format": (lambda p: p.__setitem__("format", 99), f"expected format {FORMAT}, got 99"),
}


def changed(path, change):
    """The network of two layers, with another plan; its weights are given at load."""
    members = {}
    manifest = handmade.mlp_manifest(members)
    (file,) = (name for name in members if name.startswith("plans/"))
    plan = json.loads(members[file])
    change(plan)
    members[file] = json.dumps(plan).encode()
    return write(path, members, manifest)


@pytest.mark.parametrize(("change", "why"), UNFIT.values(), ids=UNFIT)
def test_a_plan_that_does_not_fit(change, why, tmp_path):
    with pytest.raises(PackageError, match=why):
        vtc.load(changed(tmp_path / "bad.vtc", change), weights=handmade.mlp_weights())


def test_deep_branches_and_loops_without_a_turn_are_fine(tmp_path):
    never = ["loop", 7, [FAR], 0, False, [], None, ""]
    for step in (branches(64), never):
        file = changed(tmp_path / "fine.vtc", stepped(step))
        assert vtc.load(file, weights=handmade.mlp_weights())(X[:3]).shape == (3, 10)


BLOCK = """
import sys
BLOCKED = ("jinja2", "networkx", "scipy", "rich", "triton", "torch", "vtc.passes", "vtc.codegen",
           "vtc.frontend", "vtc.build", "vtc.nn", "vtc.optim", "vtc.tuning", "safetensors")
class Block:
    def find_spec(self, name, path=None, target=None):
        if any(name == b or name.startswith(b + ".") for b in BLOCKED):
            raise ImportError(f"{name} is not for the runtime")
sys.meta_path.insert(0, Block())
import numpy as np
import vtc.runtime
model = vtc.runtime.load(sys.argv[1], check="full")
assert model(np.ones((3, 64), "f4")).shape == (3, 10)
import vtc
assert vtc.load is vtc.runtime.load
counter = vtc.load(sys.argv[2])
counter.count(np.ones(4, "f4"), scale=1.0)
counter.reset()
"""


def test_what_loading_needs(mlp_file, counter_file, tmp_path):
    files = [str(mlp_file), str(counter_file)]
    subprocess.run([sys.executable, "-c", BLOCK, *files], check=True, cwd=tmp_path)
