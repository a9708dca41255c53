"""The C runtime on a CPU: results, errors, threads, and its sample program, under sanitizers."""

import json
import shutil
import subprocess
import zipfile
from dataclasses import replace

import flow_models
import handmade
import native_cpu_cases
import native_flow_cases
import numpy as np
import pytest
from handmade import added, params, positional, target
from native_build import NATIVE, WARNINGS, build, cases, compiler, run_cases

import vtc
from vtc.errors import PackageError
from vtc.ir.dims import Sym
from vtc.ir.graph import GraphBuilder, Program
from vtc.ir.ops.index import Gather
from vtc.ir.types import TensorType, f32, i64
from vtc.packing import Packing, goals
from vtc.runtime.archive import WEIGHTS, Archive, write
from vtc.runtime.package import load
from vtc.runtime.signature import (
    Entry,
    Form,
    FromInput,
    FromOutput,
    FromSize,
    Manifest,
    TensorInput,
    Variant,
)
from vtc.runtime.weights import Safetensors, save

pytestmark = pytest.mark.skipif(compiler() is None, reason="there is no C compiler")


def package(path, program, inputs):
    """A package of one entry without weights."""
    members = {}
    plans = added(members, "forward.0", program)
    sources = tuple(map(FromInput, range(len(inputs))))
    variants = (Variant("0", (), sources, plans),)
    entry = Entry((), tuple(inputs), positional(len(inputs)), (FromOutput(0),), None, variants)
    return write(path, members, Manifest("0", path.stem, {}, {"forward": entry}, (target(),), {}))


def lookup(path):
    """forward(table, index) = table[index]"""
    b = GraphBuilder()
    table, index = b.param("table", TensorType(f32, (10,))), b.param("index", TensorType(i64, (3,)))
    graph = b.graph("lookup", [table, index], [b.apply(Gather(axis=0), table, index)])
    inputs = TensorInput("table", f32, (10,)), TensorInput("index", i64, (3,))
    return package(path, Program((graph,)), inputs)


def wide(path):
    """forward(x) = max(x, 0) + 1, large enough for several threads."""
    b = GraphBuilder()
    nodes, (x,) = params(b, {"x": (1 << 18,)})
    graph = b.graph("wide", nodes, [(x.maximum(0) + 1).value])
    return package(path, Program((graph,)), [TensorInput("x", f32, (1 << 18,))])


def unpack(path, folder):
    """The members of a package as files."""
    with zipfile.ZipFile(path) as archive:
        archive.extractall(folder)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Packages, and what they compute."""
    folder = tmp_path_factory.mktemp("native")
    handmade.mlp(folder / "mlp.vtc")
    handmade.mlp(folder / "bare.vtc", weights=False)
    handmade.counter(folder / "counter.vtc")
    unpack(folder / "mlp.vtc", folder / "unpacked")
    lookup(folder / "lookup.vtc")
    wide(folder / "wide.vtc")
    weights = handmade.mlp_weights()
    save(folder / "weights.safetensors", weights)
    save(folder / "other.safetensors", {**weights, "w1": weights["w1"].T.copy()})
    save(folder / "some.safetensors", {"w2": weights["w2"] + np.float32(1e-6)})
    save(folder / "none.safetensors", {"w9": weights["w2"]})
    odd_weights(folder / "odd.safetensors", weights)
    with Archive(folder / "mlp.vtc") as archive:
        elsewhere(folder / "elsewhere.vtc", archive, weights)
    x = np.random.default_rng(1).normal(size=(64, 64)).astype("f4")
    known = np.random.default_rng(2).normal(size=1 << 18).astype("f4")
    y = computed(folder / "mlp.vtc", x)
    np.savez(folder / "known.npz", x=x, y=y, wide=known, narrow=np.maximum(known, 0) + 1, **weights)
    return folder


def computed(path, x):
    """What Python computes."""
    return np.asarray(load(path)(x))


def odd_weights(path, weights):
    """A file of another writer: a name that nobody asks for, at the begin, of an odd length."""
    made = b"".join(Safetensors({**weights}).chunks())
    size = int.from_bytes(made[:8], "little")
    header = json.loads(made[8 : 8 + size])
    for about in header.values():
        about["data_offsets"] = [n + 3 for n in about["data_offsets"]]
    header = {"zz": {"dtype": "U8", "shape": [3], "data_offsets": [0, 3]}, **header}
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + b"abc" + made[8 + size :])


def elsewhere(path, archive, weights):
    """The package for a machine that is not here."""
    manifest = archive.manifest
    entry = manifest.entries["forward"]
    (variant,) = entry.variants
    (plan,) = variant.plans.values()
    entry = replace(entry, variants=(replace(variant, plans={"cpu-vax": plan}),))
    members = {n: archive.read(n) for n in manifest.members if n != WEIGHTS}
    members[WEIGHTS] = Safetensors(weights)
    write(path, members, replace(manifest, entries={"forward": entry}, targets=("cpu-vax",)))


@pytest.fixture(scope="module")
def library(folder):
    """The runtime with sanitizers."""
    return build(folder / "libvtc.so", ["vtc_runtime.c"], shared=True)


@pytest.fixture(scope="module")
def results(library, folder):
    """What the cases say: see ``native_cpu_cases.py``."""
    return run_cases("native_cpu_cases", library, folder)


@pytest.mark.parametrize("case", cases(native_cpu_cases))
def test_case(results, case):
    assert results[case] == "", results[case]


@pytest.fixture(scope="module")
def flow(folder):
    """The package with loops and branches, and what Python computes."""
    path = flow_models.export_flow(folder / "flow.vtc")
    unpack(path, folder / "flow")
    package, known, names = load(path), {}, []
    for k, (name, arguments) in enumerate(flow_models.calls()):
        names.append(name)
        known |= {f"{k}.in{j}": a for j, a in enumerate(arguments)}
        outputs = getattr(package, name)(*arguments)
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        known |= {f"{k}.out{j}": np.asarray(a) for j, a in enumerate(outputs)}
    state = {f"state.{name}": np.asarray(a) for name, a in package.state.items()}
    np.savez(folder / "calls.npz", names=np.array(names), **known, **state)
    return path


@pytest.fixture(scope="module")
def flow_results(library, folder, flow):
    """What the cases say: see ``native_flow_cases.py``."""
    return run_cases("native_flow_cases", library, folder)


@pytest.mark.parametrize("case", cases(native_flow_cases))
def test_flow(flow_results, case):
    assert flow_results[case] == "", flow_results[case]


@pytest.fixture(scope="module")
def program(folder):
    """``main.c`` with sanitizers, leaks included."""
    return build(folder / "main", ["main.c", "npy.c", "vtc_runtime.c"])


def read(folder):
    """What is known."""
    with np.load(folder / "known.npz") as known:
        return dict(known)


def ran(command, folder):
    return subprocess.run(
        list(map(str, command)), cwd=folder, capture_output=True, text=True, check=False
    )


def test_main_runs_a_package_on_npy_files(program, folder):
    known = read(folder)
    np.save(folder / "x.npy", known["x"])
    done = ran([program, folder / "mlp.vtc", "forward", "x.npy"], folder)
    assert (done.returncode, done.stdout) == (0, "forward.0.npy\n"), done.stderr
    np.testing.assert_array_equal(np.load(folder / "forward.0.npy"), known["y"])


def test_main_leaves_out_results_that_are_sizes(program, folder):
    members = {WEIGHTS: Safetensors(handmade.mlp_weights())}
    manifest = handmade.mlp_manifest(members)
    pair = Form("tuple", (), (None, None))
    results = (FromSize(2 * handmade.B), FromOutput(0))
    entry = replace(manifest.entries["forward"], results=results, result_tree=pair)
    path = write(folder / "sized.vtc", members, replace(manifest, entries={"forward": entry}))
    known = read(folder)
    np.save(folder / "x.npy", known["x"])
    done = ran([program, path, "forward", "x.npy"], folder)
    assert (done.returncode, done.stdout) == (0, "forward.1.npy\n"), done.stderr
    assert vtc.load(path)(known["x"])[0] == 2 * len(known["x"])
    unknown = replace(entry, results=(FromSize(Sym.var("other")), FromOutput(0)))
    with pytest.raises(PackageError, match="expected a declared dim, got other"):
        write(folder / "bad.vtc", members, replace(manifest, entries={"forward": unknown}))


def test_main_says_what_is_wrong(program, folder):
    np.save(folder / "flat.npy", np.ones(4))
    done = ran([program, folder / "mlp.vtc", "forward", "flat.npy"], folder)
    assert done.returncode == 1
    assert done.stderr == "error: x: expected f32[B, 64], got f64[4]\n"
    done = ran([program, folder / "none.vtc", "forward"], folder)
    assert "none.vtc: expected a package, got No such file" in done.stderr


def test_main_takes_numbers_and_says_what_there_is(program, folder):
    np.save(folder / "ones.npy", np.ones(4, "f4"))
    done = ran([program, folder / "counter.vtc", "count", "ones.npy", "0.5"], folder)
    assert (done.returncode, done.stderr) == (0, "")
    assert np.load(folder / "count.1.npy").tolist() == [0.5, 1.5, 2.5, 3.5]
    done = ran([program, folder / "counter.vtc", "count", "ones.npy", "0.5x"], folder)
    assert done.stderr == "0.5x: No such file or directory\n"
    done = ran([program, folder / "counter.vtc"], folder)
    assert list(json.loads(done.stdout)["entries"]) == ["count", "peek"]


@pytest.mark.parametrize(
    "dtype", ["?", "u1", "i1", "i2", "i4", "i8", "f2", "f4", "f8", "c8", "c16"]
)
@pytest.mark.parametrize("shape", [(), (0, 3), (3,), (2, 3, 4)])
def test_npy_files_are_read_and_written(npy, folder, dtype, shape):
    a = np.arange(np.prod(shape)).reshape(shape).astype(dtype)
    np.save(folder / "in.npy", a)
    assert ran([npy, "in.npy", "out.npy"], folder).returncode == 0
    found = np.load(folder / "out.npy")
    assert found.dtype == a.dtype
    np.testing.assert_array_equal(found, a)


@pytest.fixture(scope="module")
def npy(folder):
    return build(folder / "npy", ["copy_npy.c", "npy.c"])


def test_bad_npy_files_are_refused(npy, folder):
    np.save(folder / "good.npy", np.ones((2, 3), "f4"))
    good = (folder / "good.npy").read_bytes()
    np.save(folder / "fortran.npy", np.asfortranarray(np.ones((2, 3))))
    np.save(folder / "big.npy", np.ones(3, ">f4"))
    bad = [good[:n] for n in (0, 5, 9, 11, 60, 100, len(good) - 1)]
    bad += [good.replace(b"(2, 3)", b"(2,-3)"), good.replace(b"'shape'", b"'shade'")]
    for k, data in enumerate(bad):
        (folder / f"bad{k}.npy").write_bytes(data)
    for name in (*(f"bad{k}.npy" for k in range(len(bad))), "fortran.npy", "big.npy"):
        done = ran([npy, name, "out.npy"], folder)
        assert done.returncode == 1, name
        assert "runtime error" not in done.stderr
        assert "Sanitizer" not in done.stderr


def test_the_makefile_builds_main(folder):
    made = folder / "emitted"
    shutil.copytree(NATIVE, made)
    done = ran(["make", f"CC={compiler()}", "CFLAGS=-O1 -Werror"], made)
    assert done.returncode == 0, done.stderr
    np.save(folder / "x.npy", read(folder)["x"])
    done = ran([made / "main", folder / "unpacked", "forward", "x.npy"], folder)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def checked(folder):
    """The words that run ``main.c`` under valgrind."""
    if shutil.which("valgrind") is None:
        pytest.skip("valgrind is not installed")
    plain = build(folder / "plain", ["main.c", "npy.c", "vtc_runtime.c"], ("-g", "-O1"))
    leaks = "--leak-check=full", "--errors-for-leak-kinds=all"
    return ["valgrind", "--error-exitcode=9", *leaks, plain]


def test_main_is_clean_under_valgrind(checked, folder):
    np.save(folder / "x.npy", read(folder)["x"])
    low = low_level(folder / "low.vtc")
    done = ran([*checked, low, "forward", "x.npy"], folder)
    assert done.returncode == 0, done.stderr


def test_loops_are_clean_under_valgrind(checked, folder, flow):
    calls = dict(flow_models.calls())
    for name in ("train", "walk"):
        np.save(folder / "x.npy", *calls[name])
        done = ran([*checked, flow, name, "x.npy"], folder)
        assert done.returncode == 0, done.stderr


def low_level(path):
    """A package for the level that valgrind knows: it has no vectors of 64 bytes."""
    pack = Packing(goals(["cpu-x86-64-v3"]))
    plans = pack.add("forward", "0", pack.plans(handmade.mlp_program()))
    manifest = handmade.mlp_manifest({})
    entry = manifest.entries["forward"]
    entry = replace(entry, variants=(replace(entry.variants[0], plans=plans),))
    members = {**pack.members, WEIGHTS: Safetensors(handmade.mlp_weights())}
    fields = {"entries": {"forward": entry}, "targets": ("cpu-x86-64-v3",)}
    return write(path, members, replace(manifest, **fields))


def test_threads_are_clean_under_their_sanitizer(folder, flow):
    flags = ("-g", "-O1", "-fsanitize=thread")
    program = build(folder / "threads", ["threads_native.c", "npy.c", "vtc_runtime.c"], flags)
    known, calls = read(folder), dict(flow_models.calls())
    for package, entry, x in (
        ("mlp", "forward", known["x"]),
        ("wide", "forward", known["wide"]),
        ("flow", "wide", *calls["wide"]),
    ):
        np.save(folder / "in.npy", x)
        done = ran([program, folder / f"{package}.vtc", entry, "in.npy"], folder)
        assert (done.returncode, done.stderr) == (0, "")


def test_the_header_is_c_plus_plus_too(folder):
    found = shutil.which("c++")
    if found is None:
        pytest.skip("there is no C++ compiler")
    (folder / "header.cpp").write_text('#include "vtc_runtime.h"\nint main() { return VTC_OK; }\n')
    done = ran([found, *WARNINGS[1:], f"-I{NATIVE}", "header.cpp", "-o", "header"], folder)
    assert done.returncode == 0, done.stderr


def test_only_the_interface_is_visible(folder):
    build(folder / "plain.so", ["vtc_runtime.c"], ("-O1",), shared=True)
    done = ran(["nm", "-D", "--defined-only", folder / "plain.so"], folder)
    names = {line.split()[-1] for line in done.stdout.splitlines()}
    header = (NATIVE / "vtc_runtime.h").read_text()
    assert len(names) == 11
    assert all(f"{name}(" in header for name in names)
