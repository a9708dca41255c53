"""``vtc.export``: what goes into a package, for which sizes and targets, and what is refused."""

import json
import os
import platform
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

import vtc
import vtc.nn as nn
import vtc.nn.functional as F
from vtc import lazy
from vtc.codegen.c import find_compiler
from vtc.errors import (
    ArgumentError,
    CaptureError,
    CompilerError,
    LeakError,
    PackageError,
    TypeCheckError,
    VtcError,
    VtcWarning,
)
from vtc.runtime.machine import best_cpu

TARGET = best_cpu(("cpu-x86-64-v3", "cpu-x86-64-v4")) or ""
ROOT = Path(__file__).parents[2]
pytestmark = [
    pytest.mark.skipif(find_compiler() is None, reason="no C compiler"),
    pytest.mark.skipif(not TARGET, reason="no x86-64 with AVX2"),
]


class Mlp(nn.Module):
    def __init__(self, d: int) -> None:
        self.up, self.down = nn.Linear(d, 4 * d), nn.Linear(4 * d, d)

    def forward(self, x: vtc.Tensor) -> vtc.Tensor:
        return x + self.down(F.gelu(self.up(x)))


def manifest(path):
    return json.loads(zipfile.ZipFile(path).read("manifest.json"))


def ranges(path):
    """The ranges of the first dim of the first entry's variants."""
    (entry,) = manifest(path)["entries"].values()
    return [tuple(v["dims"][0][1:3]) for v in entry["variants"]]


def test_both_levels_compute_what_the_module_computes(tmp_path):
    model = Mlp(24)
    x = vtc.randn(8, 24)
    batch = vtc.Dim("batch", 1, 64)
    path = vtc.export(vtc.compile(model), (x,), tmp_path / "m.vtc", dynamic={"x": {0: batch}})
    assert ranges(path) == [(1, 64)]
    names = zipfile.ZipFile(path).namelist()
    assert {n for n in names if n.startswith("lib/")} == {
        f"lib/cpu-{level}/{name}.so"
        for level in ("x86-64-v3", "x86-64-v4")
        for name in ("forward.0", "pool")
    }
    assert list(manifest(path)["weights"]) == ["down.bias", "down.weight", "up.bias", "up.weight"]
    package, compiled = vtc.load(path), vtc.compile(model)
    for n in (1, 3, 64):
        x = vtc.randn(n, 24)
        np.testing.assert_allclose(package(x), compiled(x).detach().numpy(), rtol=1e-5, atol=1e-5)
    with pytest.raises(ArgumentError, match=r"batch.*64"):
        package(vtc.randn(65, 24))


def test_arm_needs_a_compiler_for_it(tmp_path):
    def made():
        return vtc.export(abs, (vtc.ones(3),), tmp_path / "f.vtc", targets=["cpu-aarch64"])

    if lazy.available("ziglang") or platform.machine() == "aarch64":
        library = zipfile.ZipFile(made()).read("lib/cpu-aarch64/abs.0.so")
        assert library[18] == 0xB7  # the machine in the ELF header
    else:
        with pytest.raises(CompilerError, match=r"expected a compiler for aarch64.*vtc\[cc\]"):
            made()


def test_sources_and_folders_stay_out(tmp_path):
    path = vtc.export(Mlp(8), (vtc.randn(4, 8),), tmp_path / "m.vtc", targets=[TARGET])
    with zipfile.ZipFile(path) as file:
        everything = b"".join(file.read(name) for name in file.namelist())
        plan = json.loads(file.read(f"plans/forward.0.{TARGET}.json"))
    for secret in (str(ROOT), str(tmp_path), str(Path.home()), "vtc-cache"):
        assert secret.encode() not in everything
    assert all(source == "" for _, _, source, *_ in plan["kernels"])
    assert plan["host"] == ""
    assert any("test_export.py" in note for *_, note, _ in plan["kernels"])


EXPORT = """
import sys, vtc, vtc.nn as nn, vtc.nn.functional as F
vtc.manual_seed(0)
net = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Dropout(0.1), nn.Linear(16, 4))
optimizer = vtc.optim.AdamW(net.parameters(), lr=1e-2)
def step(x, y):
    loss = F.cross_entropy(net(x), y)
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    return loss
B = vtc.Dim("B", 1, 64)
vtc.export(step, (vtc.ones(8, 8), vtc.zeros(8, dtype=vtc.int64)), sys.argv[1],
           dynamic={"x": {0: B}, "y": {0: B}}, targets=[sys.argv[2]], license="free")
"""


def test_two_processes_write_the_same_bytes(tmp_path):
    files = []
    for seed in ("1", "2"):
        file, cache = tmp_path / f"{seed}.vtc", tmp_path / f"cache-{seed}"
        changed = {"PYTHONHASHSEED": seed, "VTC_CACHE_DIR": str(cache)}
        command = [sys.executable, "-c", EXPORT, str(file), TARGET]
        subprocess.run(command, cwd=ROOT, env=os.environ | changed, check=True)
        files.append(file.read_bytes())
    assert files[0] == files[1]


def test_one_is_a_program_of_its_own_where_code_asks_for_it(tmp_path):
    def f(x):
        return x * 2.0 if x.shape[0] == 1 else x + 1.0

    path = vtc.export(
        f, (vtc.ones(4),), tmp_path / "f.vtc", dynamic={0: {0: vtc.Dim("n", 0, 9)}},
        targets=[TARGET],
    )  # fmt: skip
    assert ranges(path) == [(0, 0), (1, 1), (2, 9)]
    package = vtc.load(path)
    assert package(np.ones(1, np.float32)).tolist() == [2.0]
    assert package(np.full(3, 5, np.float32)).tolist() == [6.0] * 3
    assert package(np.ones(0, np.float32)).shape == (0,)


def test_few_sizes_get_a_program_each(tmp_path):
    def f(x):
        return x[:2].sum() if x.shape[0] > 4 else x.sum()

    dim = vtc.Dim("n", 2, 8, multiple=2)
    with pytest.warns(VtcWarning, match="f has 4 programs, one for each size of n") as warned:
        path = vtc.export(
            f, (vtc.ones(4),), tmp_path / "f.vtc", dynamic={0: {0: dim}}, targets=[TARGET]
        )
    assert warned[0].filename == __file__
    assert ranges(path) == [(n, n) for n in (2, 4, 6, 8)]
    package = vtc.load(path)
    assert [float(package(np.ones(n, np.float32))) for n in (2, 4, 6, 8)] == [2, 4, 2, 2]
    with pytest.raises(ArgumentError, match="n"):
        package(np.ones(5, np.float32))
    many = {0: {0: vtc.Dim("n", 2, 500)}}
    with pytest.raises(CaptureError, match=r"test_export.py:\d+ in .*f\n.*x\[:2\]") as caught:
        vtc.export(f, (vtc.ones(4),), tmp_path / "f.vtc", dynamic=many, targets=[TARGET])
    assert "more than 64" in caught.value.__notes__[0]


def test_sizes_that_follow_from_a_dim(tmp_path):
    def f(x, pairs, more):
        return pairs[::2] + x, more[1:] * x

    n = vtc.Dim("n", 1, 6)
    x, pairs, more = vtc.randn(3), vtc.randn(6), vtc.randn(4)
    dynamic = {"x": {0: n}, "pairs": {0: 2 * n}, "more": {0: n + 1}}
    path = vtc.export(f, (x, pairs, more), tmp_path / "f.vtc", dynamic=dynamic, targets=TARGET)
    assert ranges(path) == [(1, 6)]
    package = vtc.load(path)
    for k in (1, 6):
        args = vtc.randn(k), vtc.randn(2 * k), vtc.randn(k + 1)
        for found, wanted in zip(package(*args), f(*args), strict=True):
            np.testing.assert_array_equal(found, wanted.numpy())
    with pytest.raises(ArgumentError, match=r"pairs: expected f32\[6\], got f32\[5\]"):
        package(x, pairs[:5], more)
    for axes, said in (
        ({"pairs": {0: 2 * n}}, "expected n to be the size of an axis itself, as 2"),
        ({"x": {0: n}, "pairs": {0: 3 * n}}, r"expected 3\*n = 9, got 6 \(axis 0 of pairs\)"),
        ({"x": {0: n}, "more": {0: n - 2}}, r"n - 2 \(axis 0 of more\) to be at least 0 .*got -1"),
    ):
        with pytest.raises(ArgumentError, match=said):
            vtc.export(f, (x, pairs, more), path, dynamic=axes, targets=TARGET)


def test_sizes_are_results(tmp_path):
    def f(x):
        y = x * 2.0 if x.shape[0] == 1 else x + 1.0
        return {"rows": x.shape[0], "y": y, "shape": y.shape, "more": 2 * x.numel() + 1}

    dynamic = {0: {0: vtc.Dim("n", 0, 9)}}
    path = vtc.export(f, (vtc.ones(4, 3),), tmp_path / "f.vtc", dynamic=dynamic, targets=TARGET)
    assert ranges(path) == [(0, 0), (1, 1), (2, 9)]
    package = vtc.load(path)
    for n in (0, 1, 9, 2):
        found = package(np.ones((n, 3), "f4"))
        assert found.pop("y").shape == (n, 3)
        assert found == {"rows": n, "shape": (n, 3), "more": 6 * n + 1}


def test_results_may_be_arguments_for_some_sizes_only(tmp_path):
    """A part of ``x`` is ``x`` where it is all of it, and two parts may be one."""

    def f(x):
        return x, x[-1:], x[:2], x + 1

    dynamic = {0: {0: vtc.Dim("n", 0, 9)}}
    path = vtc.export(f, (vtc.ones(4),), tmp_path / "f.vtc", dynamic=dynamic, targets=TARGET)
    package = vtc.load(path)
    for n in (0, 1, 2, 9):
        x = np.arange(n, dtype="f4")
        assert package(x)[0] is x
        assert [y.tolist() for y in package(x)] == [y.tolist() for y in f(x)]


def test_one_dim_in_two_arguments_is_one_size(tmp_path):
    n = vtc.Dim("n", 2, 16)
    both = {"x": {0: n}, "y": {1: n}}
    path = vtc.export(
        lambda x, y: y @ x, (vtc.ones(4, 3), vtc.ones(2, 4)), tmp_path / "f.vtc", dynamic=both,
        targets=[TARGET],
    )  # fmt: skip
    package = vtc.load(path)
    assert package(np.ones((7, 3), "f4"), np.ones((2, 7), "f4")).tolist() == [[7] * 3] * 2
    with pytest.raises(ArgumentError, match="n"):
        package(np.ones((7, 3), "f4"), np.ones((2, 6), "f4"))


class Pair(NamedTuple):
    first: object
    second: object


class Spans(NamedTuple):
    low: object
    high: object


def test_a_dict_serves_as_an_object_of_these_fields(tmp_path):
    """A caller may not have the classes of the model's code."""
    x = np.arange(3, dtype="f4")
    path = vtc.export(lambda s: s.high - s.low, (Spans(x, x),), tmp_path / "f.vtc", targets=TARGET)
    package = vtc.load(path)
    for given in (Spans(x, x * 2), {"low": x, "high": x * 2}, (x, x * 2)):
        assert package(given).tolist() == [0, 1, 2]
    with pytest.raises(ArgumentError, match="expected an object with low, high, got one with low"):
        package({"low": x})


def test_results_keep_their_form_and_dtypes(tmp_path):
    def f(x):
        y = x.to(vtc.bfloat16)
        return Pair([y, y.t()], {"many": x.argmax(-1), 3: "text"})

    x = vtc.randn(3, 4)
    package = vtc.load(vtc.export(f, (x,), tmp_path / "f.vtc", targets=[TARGET]))
    found, wanted = package(x), f(x)
    assert found.second[3] == "text"
    assert found.first[0].dtype == wanted.first[0].numpy().dtype
    np.testing.assert_array_equal(found.first[1], wanted.first[1].numpy())
    np.testing.assert_array_equal(found.second["many"], wanted.second["many"].numpy())


def test_weights_may_be_given_at_load(tmp_path):
    model = Mlp(8)
    x = vtc.randn(4, 8)
    path = vtc.export(model, (x,), tmp_path / "m.vtc", targets=[TARGET], weights=False)
    assert "weights.safetensors" not in zipfile.ZipFile(path).namelist()
    state = {name: p.numpy() for name, p in model.state_dict().items()}
    package = vtc.load(path, weights=state)
    np.testing.assert_allclose(package(x), model(x).detach().numpy(), rtol=1e-5, atol=1e-5)


class Noisy(nn.Module):
    """What a state_dict has: ``up.weight`` and ``mean``."""

    def __init__(self) -> None:
        self.up, self.drop = nn.Linear(70, 3, bias=False), nn.Dropout(0.5)
        self.mean = nn.Buffer(vtc.zeros(3))
        self.cache = nn.Buffer(vtc.zeros(3), persistent=False)

    def forward(self, x):
        self.cache.add_(1)
        ramp = vtc.tensor(np.arange(70, dtype=np.float32))
        return self.up(self.drop(x) + ramp).sum(0) + self.mean + self.cache


def test_only_what_a_state_dict_has_is_given_at_load(tmp_path):
    model, x = Noisy(), vtc.ones(2, 70)
    optimizer = vtc.optim.SGD(model.parameters(), lr=0.5, momentum=0.5)

    def step(x):
        model(x).sum().backward()
        optimizer.step()
        optimizer.zero_grad()

    whole, bare = (
        vtc.export(step, (x,), tmp_path / f"{weights}.vtc", weights=weights, targets=TARGET)
        for weights in (True, False)
    )
    with pytest.raises(PackageError, match=r"the weight (mean|up\.weight): .*give weights="):
        vtc.load(bare)
    one, other = vtc.load(whole), vtc.load(bare, weights=model.state_dict())
    assert not set(other.state) - set(one.state)
    for package in (one, other):
        package(x)
    np.testing.assert_array_equal(one.state["up.weight"], other.state["up.weight"])
    assert abs(one.state["up.weight"] - model.up.weight.detach().numpy()).max() > 0.1


def test_views_of_one_buffer_are_one_weight(tmp_path):
    whole = vtc.arange(12.0).reshape(3, 4).clone()
    row = whole[1]

    def f(x):
        row.add_(x)
        return whole.sum() + row[0]

    path = vtc.export(f, (vtc.ones(4),), tmp_path / "f.vtc", targets=[TARGET])
    (weight,) = manifest(path)["weights"].values()
    assert weight == {"dtype": "f32", "shape": [3, 4], "state": True}
    package = vtc.load(path)
    assert float(package(np.ones(4, np.float32))) == 66 + 4 + 5
    assert float(package(np.ones(4, np.float32))) == 66 + 8 + 6


def leaves_a_gradient(x):
    PARAMETER.sum().backward()
    return x


def branches(x):
    if x.sum() > 0:
        return x
    return -x


def leaks(x):
    KEPT.append(x * 2)
    return x


PARAMETER = vtc.ones(3).requires_grad_()
KEPT: list[object] = []


def decomposed(x):
    return vtc.linalg.svd(x.outer(x)).S


DIMS = {
    "unknown": {"z": {0: vtc.Dim("n")}},
    "small": {"x": {0: vtc.Dim("n", 8)}},
    "word": {"x": {0: vtc.Dim("min")}},
}
WIDE = {0: {0: vtc.Dim("n", 1, 16)}}
GRADIENT = r"expected \.grad of .* to be None .*\n.*test_export.py:\d+ in leaves_a_gradient"


@pytest.mark.parametrize(
    ("fn", "args", "options", "error", "said"),
    [
        (leaves_a_gradient, (), {}, CaptureError, GRADIENT),
        (branches, (), {}, CaptureError, r"(?s)test_export.py:\d+ in branches\n.*if x.sum"),
        (leaks, (), {}, LeakError, "was left in"),
        (lambda x, o: x, (object(),), {}, ArgumentError, "expected o to be a tensor, a number"),
        (lambda x, o: x, (Path(),), {}, ArgumentError, r"got pathlib\.\w+; let the function"),
        (lambda x: object(), (), {}, CaptureError, "expected results that are tensors"),
        (lambda x: float("nan"), (), {}, CaptureError, "results to be finite, got nan"),
        (lambda x: decomposed(x), (), {}, PackageError, r"got svd.*\n.*test_export.py:\d+"),
        (abs, (), {"dynamic": DIMS["unknown"]}, ArgumentError, "arguments x, got 'z'"),
        (abs, (), {"dynamic": {"x": vtc.Dim("n")}}, ArgumentError, r"expected dynamic=.*got Dim"),
        (abs, (), {"dynamic": [{0: vtc.Dim("n")}]}, ArgumentError, r"expected dynamic=.*got list"),
        (abs, (), {"kwargs": [1]}, ArgumentError, "expected a dict of keywords, got list"),
        (abs, (), {"license": Path("LICENSE")}, ArgumentError, "expected the text of a licence"),
        (abs, (), {"dynamic": DIMS["small"]}, ArgumentError, r"n: Dim\(8, None\), got 3 \(axis 0"),
        (abs, (), {"dynamic": DIMS["word"]}, ArgumentError, "no word of programs, got 'min'"),
        (abs, (), {"dynamic": {0: {5: vtc.Dim("n")}}}, ArgumentError, "to have axis 5"),
        (lambda x: x.unfold(0, 3, 1), (), {"dynamic": WIDE}, VtcError, r"(?s)window.*test_export"),
        (abs, (), {"targets": ["cuda:75"]}, ArgumentError, "target of cpu, .*got 'cuda:75'"),
        (abs, (), {"targets": []}, ArgumentError, "expected a target, got none"),
        (abs, (), {"targets": [90]}, ArgumentError, r"expected targets=\[.cpu., .*got \[90\]"),
        (abs, (), {"targets": 90}, ArgumentError, r"expected targets=.*, got 90"),
        (abs, (), {"name": 3}, ArgumentError, "expected a name, got int"),
        (abs, (), {"dynamic": {0: {"0": vtc.Dim("n")}}}, ArgumentError, "to have axis '0'"),
        (lambda x: x.expand(*[1] * 8, 3), (), {}, CaptureError, r"at most 8 axes, got f32\[1, 1"),
        (3, (), {}, ArgumentError, "expected a function or a Module, got int"),
    ],
)
def test_what_is_refused(fn, args, options, error, said, tmp_path):
    some = {"targets": [TARGET], **options}
    with pytest.raises(error, match=said):
        vtc.export(fn, (vtc.ones(3), *args), tmp_path / "f.vtc", **some)
    PARAMETER.grad = None
    KEPT.clear()
    assert not list(tmp_path.iterdir())


def test_sizes_that_differ_and_dims_of_one_name_are_refused(tmp_path):
    x, y = vtc.ones(3), vtc.ones(4)
    for dims in (vtc.Dim("n"), vtc.Dim("n")), (vtc.Dim("n"), vtc.Dim("n", 2)):
        dynamic = {0: {0: dims[0]}, 1: {0: dims[1]}}
        with pytest.raises(ArgumentError, match="expected one"):
            vtc.export(lambda x, y: x, (x, y), tmp_path / "f.vtc", dynamic=dynamic)
    entries = {"a": vtc.EntryPoint(abs, (x,)), "A": vtc.EntryPoint(abs, (x,))}
    with pytest.raises(ArgumentError, match="distinct names"):
        vtc.export(entries, path=tmp_path / "f.vtc")


def test_loops_and_branches_too_deep_in_each_other_are_refused(tmp_path, monkeypatch):
    def inner(x):
        return vtc.cond(x[0] > 0, lambda: x, lambda: -x)

    def outer(x):
        return vtc.scan(lambda c, _: (inner(c), None), x, length=3)[0]

    monkeypatch.setattr("vtc.packing.NESTED", 1)
    with pytest.raises(PackageError, match=r"outer: expected at most 1 loops and .*, got 2"):
        vtc.export(outer, (vtc.ones(3),), tmp_path / "f.vtc", targets=TARGET)
    assert vtc.load(vtc.export(inner, (vtc.ones(3),), tmp_path / "f.vtc", targets=TARGET))


def test_what_a_newcomer_gets_wrong(tmp_path):
    x, path = vtc.ones(3), tmp_path / "f.vtc"
    with pytest.raises(VtcError, match="expected the path of a file, got none"):
        vtc.export(abs, (x,))
    with pytest.raises(ArgumentError, match=r"got f\.vtc as the arguments: path='f\.vtc'"):
        vtc.export({"a": (abs, (x,))}, "f.vtc")
    with pytest.raises(ArgumentError, match="got tuple; the arguments come before it"):
        vtc.export(abs, str(path), (x,))
    with pytest.raises(VtcError, match="expected the path of a file, got the folder"):
        vtc.export(abs, (x,), tmp_path)
    with pytest.raises(ArgumentError, match="abs: expected a tuple of arguments, got Tensor"):
        vtc.export(abs, x, path)
    with pytest.raises(ArgumentError, match="expected a to be an EntryPoint or a tuple of"):
        vtc.export({"a": abs}, path=path)
    assert vtc.load(vtc.export(abs, (-x,), path, targets=TARGET))(-x).tolist() == [1, 1, 1]
    two = {"x": {0: vtc.Dim("n", 1, 4)}, "y": {0: vtc.Dim("m", 1, 4)}}
    with pytest.raises(TypeCheckError, match="sizes 2 and 3 do not match") as caught:
        vtc.export(lambda x, y: x + y, (x, x), path, dynamic=two, targets=TARGET)
    assert "where n = 2 and m = 3; sizes that are always equal are" in caught.value.__notes__[0]
    with pytest.raises(TypeCheckError, match="sizes n and 3 do not match") as caught:
        vtc.export(lambda x, y: x + y, (x, x), path, dynamic={"x": two["x"]}, targets=TARGET)
    said = "one for each size does not either: add: sizes 2 and 3 do not match at dim 0: f32"
    assert said in caught.value.__notes__[0]
    few = {"x": {0: vtc.Dim("n", 2, 3)}}
    said = "equal constants, for every size, got False where n = 2 and True where n = 3"
    with pytest.raises(CaptureError, match=said), pytest.warns(VtcWarning, match="2 programs"):
        vtc.export(lambda x: x.shape[0] > 2, (x,), path, dynamic=few, targets=TARGET)
    with pytest.raises(ArgumentError, match="path of a file that can be written, got"):
        vtc.export(abs, (x,), path / "below_a_file.vtc", targets=TARGET)


def test_what_is_of_pytorch_is_refused_with_a_way_out(tmp_path):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    with pytest.raises(ArgumentError, match=r"got torch\.Tensor; vtc\.from_dlpack takes it"):
        vtc.export(abs, (torch.ones(3),), tmp_path / "f.vtc")
    with pytest.raises(ArgumentError, match=r"Module of vtc, got Linear of PyTorch; write it with"):
        vtc.export(torch.nn.Linear(3, 3), (vtc.ones(3),), tmp_path / "f.vtc")


def test_leaves_are_named_by_the_fields_they_are_in(tmp_path):
    pair = Pair(vtc.ones(3), {"a": [vtc.ones(4)]})
    dynamic = {"p_first": {0: vtc.Dim("n", 2, 9)}}
    path = vtc.export(
        lambda p: (p.first * 2, p.second["a"][0]), (pair,), tmp_path / "f.vtc", dynamic=dynamic,
        targets=TARGET,
    )  # fmt: skip
    assert repr(vtc.load(path).forward).startswith("<forward(p_first: f32[n], p_second_a_0: f32[4]")
