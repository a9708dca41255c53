"""Packages made where no GPU can be seen, on a real GPU: by Python without the compiler, by
programs in C, and beside the compiled models.

The kernels are those that the compiled models have here (``VTC_TUNE=off``), so every bit is equal.
Where a GPU gets other kernels than ``cuda:90`` does, scores are close, and tokens are equal still.
"""

import ctypes
import json
import os
import subprocess
import sys
import threading
import zipfile
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import vtc
from vtc.commands.unpack import unpack
from vtc.errors import ArgumentError, DeviceError, IndexRangeError, PackageError
from vtc.packing import GPUS
from vtc.runtime.cuda.device import gpu

PACKAGE_TESTS = Path(__file__).parents[1] / "package"
sys.path.append(str(PACKAGE_TESTS))
binding, native_build, outside, shown, flow_models = map(
    import_module,
    ("native_binding", "native_build", "shown_outside", "shown_models", "flow_models"),
)

pytestmark = [pytest.mark.gpu, pytest.mark.filterwarnings("ignore:::cupy")]
STEPS = 20
OPTIMIZED = ("-O2", "-g", "-Wno-error")
BLIND = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}


def run(*command, **options):
    """What a program prints; it must not fail."""
    done = subprocess.run(
        list(map(str, command)), capture_output=True, text=True, check=False, **options
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def target():
    """What packages are made for: the architecture of this GPU."""
    major, minor = gpu(0).facts.capability
    if 10 * major + minor not in GPUS:
        pytest.skip(f"packages have no code for compute capability {major}.{minor}")
    return f"cuda:{major}{minor}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory, target):
    """The packages, for the CPU too, and what they take; made by a process that sees no GPU."""
    folder = tmp_path_factory.mktemp("packages")
    models = PACKAGE_TESTS / "shown_models.py"
    run(sys.executable, models, folder, "cpu", target, env=BLIND)
    alone = (
        f"import pathlib, shown_models as m; out = pathlib.Path({str(folder)!r}); "
        f"m.export_digits(out / 'alone.vtc', [{target!r}]); "
        f"m.export_step(out / 'step.vtc', [{target!r}])"
    )
    run(sys.executable, "-c", alone, env=BLIND, cwd=PACKAGE_TESTS)
    return folder


@pytest.fixture(scope="module")
def compiled():
    """What the compiled models give on this GPU, and what compiled them."""
    (tokens, first, last), (prefill, decode) = shown.compiled_tokens(STEPS, "cuda")
    net, images = shown.digits()
    x = vtc.tensor(images[:13], device="cuda")
    vtc.mark_dynamic(x, 0, min=1, max=64, name="batch")
    forward = vtc.compile(net.to("cuda"))
    with vtc.no_grad():
        digits = forward(x).cpu().numpy()
    entries = {"prefill": prefill, "decode": decode, "forward": forward}
    return SimpleNamespace(
        tokens=tokens, entries=entries, scores={"first": first, "last": last, "digits": digits}
    )


def ran_outside(folder, device, library):
    """The results of a process that can only run packages."""
    script = PACKAGE_TESTS / "shown_outside.py"
    run(sys.executable, script, folder, device, library, STEPS)
    with np.load(folder / f"outside-{device}-{library}.npz") as found:
        return dict(found)


@pytest.fixture(scope="module")
def by_numpy(folder):
    return ran_outside(folder, "cuda", "numpy")


def kernels_of(file, entry):
    """The kernels that the GPU's plan of an entry has."""
    with zipfile.ZipFile(file) as package:
        (variant,) = json.loads(package.read("manifest.json"))["entries"][entry]["variants"]
        (name,) = (n for n in variant["plans"] if n.startswith("sm_"))
        return set(variant["plans"][name]["kernels"])


def compiled_kernels(function):
    return {k.symbol for e in function.entries for k in e.forward.plan.kernels}


@pytest.mark.parametrize("entry", ["prefill", "decode", "forward"])
def test_the_kernels_are_those_of_the_compiled_models(folder, compiled, entry):
    """If this fails alone, scores need not be equal bit for bit: the compiler knew another L2."""
    file = folder / ("digits.vtc" if entry == "forward" else "gpt.vtc")
    assert kernels_of(file, entry) == compiled_kernels(compiled.entries[entry])


def test_without_the_compiler(folder, compiled, by_numpy):
    assert len(set(compiled.tokens)) > 3
    assert by_numpy["target"].item().startswith("sm_")
    assert by_numpy["tokens"].tolist() == compiled.tokens
    for name, want in compiled.scores.items():
        np.testing.assert_array_equal(by_numpy[name], want, err_msg=name)


def test_arrays_of_cupy(folder, by_numpy):
    pytest.importorskip("cupy")
    found = ran_outside(folder, "cuda", "cupy")
    for name, want in by_numpy.items():
        np.testing.assert_array_equal(found[name], want, err_msg=name)


def test_the_cpu_of_the_same_file(folder, by_numpy):
    found = ran_outside(folder, "cpu", "numpy")
    assert found["target"].item().startswith("cpu-")
    for name in ("first", "digits"):
        np.testing.assert_allclose(found[name], by_numpy[name], rtol=1e-3, atol=1e-4)


def test_the_program_in_c(folder, compiled, by_numpy):
    program = native_build.build(
        folder / "generate", ["generate.c", "npy.c", "vtc_runtime.c"], OPTIMIZED
    )
    linked = run("ldd", program)
    assert not any(word in linked for word in ("libcuda", "libtorch", "libpython"))
    said = run(program, folder / "gpt.vtc", folder / "ids.npy", STEPS, "cuda", cwd=folder)
    assert list(map(int, said.split())) == compiled.tokens
    np.testing.assert_array_equal(np.load(folder / "scores.npy"), by_numpy["last"])


def test_the_program_that_comes_with_a_package(folder, by_numpy):
    """A package for GPUs alone: ``main.c`` asks for no target."""
    out = unpack(folder / "alone.vtc", folder / "alone")
    run("make", "-s", f"CC={native_build.compiler()}", cwd=out)
    run("./main", ".", "forward", folder / "images.npy", cwd=out)
    np.testing.assert_array_equal(np.load(out / "forward.0.npy"), by_numpy["digits"])


def test_on_the_command_line(folder, by_numpy):
    vtc_command = (sys.executable, "-m", "vtc")
    for name, entries in (("gpt", ["decode", "prefill"]), ("alone", ["forward"])):
        said = run(*vtc_command, "verify", folder / f"{name}.vtc", "--device", "cuda")
        for entry in entries:
            assert f"{entry}: " in said
            assert "are those of the export" in said
    out = folder / "y.npy"
    given = ("--input", folder / "images.npy", "--output", out)
    run(*vtc_command, "run", folder / "alone.vtc", *given)
    np.testing.assert_array_equal(np.load(out), by_numpy["digits"])


# in Python


def test_wrong_arguments(folder):
    package = vtc.load(folder / "gpt.vtc", device="cuda")
    ids = np.load(folder / "ids.npy")
    with pytest.raises(ArgumentError, match=r"ids: expected i64\[1, T\], got i32\[1, 5\]"):
        package.prefill(ids.astype("i4"))
    with pytest.raises(ArgumentError, match=r"ids: axis 1: expected T: Dim\(1, 12\), got 13"):
        package.prefill(np.zeros((1, 13), "i8"))
    with pytest.raises(ArgumentError, match=r"ids: expected i64\[1, T\]"):
        package.prefill(ids[0])
    with pytest.raises(DeviceError, match="cuda:99"):
        vtc.load(folder / "gpt.vtc", device="cuda:99")
    with pytest.raises(PackageError, match="expected code for"):
        vtc.load(folder / "alone.vtc", device="cpu")


def test_an_index_out_of_range_shows_when_the_host_waits(folder):
    package = vtc.load(folder / "gpt.vtc", device="cuda")
    with pytest.raises(IndexRangeError, match=r"shown_models\.py"):
        np.asarray(package.prefill(np.full((1, 3), shown.VOCABULARY))["next"])
    package.reset()
    np.asarray(package.prefill(np.load(folder / "ids.npy"))["next"])


def test_a_flipped_byte_of_the_weights(folder, tmp_path):
    data = bytearray((folder / "alone.vtc").read_bytes())
    with zipfile.ZipFile(folder / "alone.vtc") as package:
        about = package.getinfo("weights.safetensors")
    data[about.header_offset + about.file_size] ^= 1  # near the end of that member
    (tmp_path / "flipped.vtc").write_bytes(data)
    with pytest.raises(PackageError, match=r"weights\.safetensors"):
        vtc.load(tmp_path / "flipped.vtc", device="cuda", check="full")


def together(work, count=2):
    """Run ``work(k)`` in threads; what went wrong."""
    wrong = []

    def guarded(k):
        try:
            work(k)
        except BaseException as error:
            wrong.append(error)

    threads = [threading.Thread(target=guarded, args=(k,)) for k in range(count)]
    [t.start() for t in threads]
    [t.join() for t in threads]
    assert not wrong, wrong


def test_two_threads_share_a_package(folder, by_numpy):
    package, images = vtc.load(folder / "alone.vtc"), np.load(folder / "images.npy")
    wanted = {n: np.asarray(package(images[:n])) for n in (1, 4, 13)}

    def work(k):
        with vtc.cuda.stream(vtc.cuda.Stream()):
            for turn in range(30):
                n = (1, 4, 13)[(turn + k) % 3]
                np.testing.assert_array_equal(np.asarray(package(images[:n])), wanted[n])

    together(work)
    np.testing.assert_array_equal(wanted[13], by_numpy["digits"])


# in C, by ctypes: device pointers, streams and allocators of the caller


@pytest.fixture(scope="module")
def cupy():
    return pytest.importorskip("cupy")


@pytest.fixture(scope="module")
def native(folder):
    library = folder / "libvtc.so"
    return binding.Native(native_build.build(library, ["vtc_runtime.c"], OPTIMIZED, shared=True))


@pytest.fixture
def digits(native, folder):
    with native.open(folder / "digits.vtc", target=b"cuda") as package:
        yield package


def there(a):
    """The tensor that a CuPy array is."""
    t = binding.Tensor(a.data.ptr, a.nbytes, rank=a.ndim, device=binding.GPU)
    t.dtype = binding.dtype_number(a.dtype)
    t.shape[: a.ndim] = a.shape
    return t


def fetched(cupy, t):
    """A copy on the host of a tensor on the GPU."""
    memory = cupy.cuda.UnownedMemory(t.data, t.bytes, None)
    shape, dtype = tuple(t.shape[: t.rank]), np.dtype(binding.DTYPES[t.dtype])
    return cupy.ndarray(shape, dtype, cupy.cuda.MemoryPointer(memory, 0)).get()


def test_c_takes_and_gives_memory_of_the_host(digits, folder, by_numpy):
    images = np.load(folder / "images.npy")
    assert digits.describe()["device"] == "cuda:0"
    for n in (13, 1, 13):
        (y,) = digits.run("forward", images[:n])
        assert y.shape == (n, 10)
    np.testing.assert_array_equal(y, by_numpy["digits"])


def test_c_takes_device_pointers_and_streams(digits, folder, by_numpy, cupy):
    images = np.load(folder / "images.npy")
    streams = [cupy.cuda.Stream(non_blocking=True) for _ in range(3)]
    results = []
    for turn in range(12):
        with streams[turn % 3] as stream:
            x, y = cupy.asarray(images), cupy.zeros((13, 10), "f4")
            digits.call("forward", [there(x)], [there(y)], stream.ptr)
            results.append((x, y + 1))  # after it, on the same stream, without a wait between
    for stream in streams:
        digits.synchronize(stream.ptr)
    for _, y in results:
        np.testing.assert_array_equal(y.get(), by_numpy["digits"] + 1)


def test_c_makes_memory_on_the_gpu(digits, folder, by_numpy, cupy):
    x = cupy.asarray(np.load(folder / "images.npy"))
    cupy.cuda.get_current_stream().synchronize()
    (y,) = digits.call("forward", [there(x)], [binding.Tensor(device=binding.GPU)])
    digits.synchronize()
    assert (y.device, y.owned, tuple(y.shape[:2])) == (binding.GPU, 1, (13, 10))
    np.testing.assert_array_equal(fetched(cupy, y), by_numpy["digits"])
    digits.release(y)
    assert not y.data


def test_c_refuses_what_does_not_fit(native, folder, cupy):
    ids = cupy.zeros((1, 5), "i8")
    short, long, flat = (cupy.zeros(s, "i8") for s in ((1, 5), (1, 13), (5,)))
    cases = {
        "ids: expected i64[1, T], got i32[1, 5]": there(short.astype("i4")),
        "ids: expected T: Dim(1, 12), got 13": there(long),
        "ids: expected i64[1, T], got i64[5]": there(flat),
        "ids: expected memory of the CPU or the GPU of the package, got that of device 2": there(
            ids
        ),
        "ids: expected memory aligned to 16 bytes": there(ids),
    }
    tensors = list(cases.values())
    tensors[3].device = 2
    tensors[4].data += 8
    with native.open(folder / "gpt.vtc", target=b"cuda", full_check=1) as package:
        outs = [binding.Tensor() for _ in range(2)]
        for words, tensor in cases.items():
            with pytest.raises(binding.Failed) as failed:
                package.call("prefill", [tensor], outs)
            assert failed.value.status == "BAD_ARGUMENT"
            assert words in failed.value.words
        (_, scores) = package.run("prefill", np.load(folder / "ids.npy"))
        assert np.isfinite(scores).all()


def test_c_says_that_an_index_is_out_of_range(native, folder):
    with native.open(folder / "gpt.vtc", target=b"cuda") as package:
        with pytest.raises(binding.Failed, match=r"OUT_OF_RANGE.*(\n.*)*shown_models\.py"):
            package.run("prefill", np.full((1, 3), shown.VOCABULARY))
        package.reset()
        package.run("prefill", np.load(folder / "ids.npy"))


def test_c_generates_what_python_does(native, folder, by_numpy):
    with native.open(folder / "gpt.vtc", target=b"cuda") as package:

        def entry(name):
            return lambda *given: dict(
                zip(("next", "scores"), package.run(name, *given), strict=True)
            )

        for _ in range(2):
            tokens, first, last = outside.tokens_of(
                entry("prefill"), entry("decode"), np.load(folder / "ids.npy"), STEPS
            )
            assert tokens == by_numpy["tokens"].tolist()
            np.testing.assert_array_equal(first, by_numpy["first"])
            np.testing.assert_array_equal(last, by_numpy["last"])
            package.reset()


def test_c_on_two_threads(digits, folder, cupy):
    images = np.load(folder / "images.npy")
    wanted = {n: digits.run("forward", images[:n])[0] for n in (1, 4, 13)}

    def work(k):
        stream = cupy.cuda.Stream(non_blocking=True)
        for turn in range(30):
            n = (1, 4, 13)[(turn + k) % 3]
            (y,) = digits.run("forward", images[:n], stream=stream.ptr)
            np.testing.assert_array_equal(y, wanted[n])

    together(work)


def test_c_takes_memory_from_the_caller(native, folder, by_numpy, cupy):
    held, taken = {}, []

    def allocate(_, size, alignment, stream):
        memory = cupy.cuda.alloc(size)
        assert memory.ptr % alignment == 0
        held[memory.ptr] = memory
        taken.append(size)
        return memory.ptr

    def release(_, memory, size, stream):
        del held[memory]

    callbacks = binding.ALLOCATE(allocate), binding.RELEASE(release)
    allocator = ctypes.pointer(binding.Allocator(None, *callbacks))
    with native.open(folder / "digits.vtc", target=b"cuda", allocator=allocator) as package:
        (y,) = package.run("forward", np.load(folder / "images.npy"))
    np.testing.assert_array_equal(y, by_numpy["digits"])
    assert len(taken) >= 3  # an input, an output, and what kernels work in
    assert not held


def test_a_training_step(native, folder, cupy):
    """Steps in Python and in C leave the same parameters, whatever the sizes on the way."""
    rng = np.random.default_rng(0)
    sizes = (8, 64, 8, 3, 64, 8, 8)
    batches = [(rng.normal(size=(n, 4)), rng.normal(size=(n, 2))) for n in sizes]
    batches = [tuple(a.astype("f4") for a in pair) for pair in batches]
    package = vtc.load(folder / "step.vtc", device="cuda")
    losses = [np.asarray(package.step(*map(cupy.asarray, pair))) for pair in batches]
    with native.open(folder / "step.vtc", target=b"cuda") as other:
        again = [other.run("step", *pair)[0] for pair in batches]
        np.testing.assert_array_equal(np.stack(losses), np.stack(again))
        for name in ("weight", "bias", "weight.exp_avg_sq", "step"):
            state = fetched(cupy, other.state(name))
            np.testing.assert_array_equal(state, np.asarray(package.state[name]), err_msg=name)
        assert other.state("step").device == binding.GPU
    assert float(np.asarray(package.state["step"])) == len(sizes)
    x = batches[0][0]
    predicted = np.asarray(package.predict(x))
    w, b = (np.asarray(package.state[n]) for n in ("weight", "bias"))
    np.testing.assert_allclose(predicted, x @ w.T + b, rtol=1e-4, atol=1e-5)


# loops and branches


@pytest.fixture(scope="module")
def flow(folder, target):
    """The package with loops and branches; made by a process that sees no GPU."""
    path = folder / "flow.vtc"
    made = f"import flow_models; flow_models.export_flow({str(path)!r}, [{target!r}])"
    run(sys.executable, "-c", made, env=BLIND, cwd=PACKAGE_TESTS)
    return path


@pytest.fixture(scope="module")
def flow_calls(flow):
    """Calls in order, with what Python gives; and the state that they leave."""
    package, made = vtc.load(flow, device="cuda"), []
    for name, arguments in flow_models.calls():
        found = getattr(package, name)(*arguments)
        found = found if isinstance(found, tuple) else (found,)
        made.append((name, arguments, list(map(np.asarray, found))))
    state = {name: np.asarray(a) for name, a in package.state.items()}
    return SimpleNamespace(calls=made, state=state)


@pytest.mark.parametrize("waits", ["", "VTC_CUDA_GRAPHS is 0"])
def test_loops_and_branches_in_c(native, flow, flow_calls, cupy, monkeypatch, waits):
    """By conditional nodes, and launched one by one."""
    monkeypatch.setenv("VTC_CUDA_GRAPHS", "0" if waits else "1")
    with native.open(flow, target=b"cuda") as package:
        assert package.describe()["waits"] == waits
        for _ in range(2):
            for name, arguments, want in flow_calls.calls:
                for a, b in zip(package.run(name, *arguments), want, strict=True):
                    np.testing.assert_array_equal(a, b, err_msg=name)
            for name, a in flow_calls.state.items():
                np.testing.assert_array_equal(fetched(cupy, package.state(name)), a, err_msg=name)
            package.reset()


def test_loops_and_branches_in_the_program_in_c(folder, flow, flow_calls):
    program = native_build.build(folder / "main", ["main.c", "npy.c", "vtc_runtime.c"], OPTIMIZED)
    for name in ("running", "root", "choose", "walk"):
        *_, (_, arguments, want) = (call for call in flow_calls.calls if call[0] == name)
        np.save(folder / "in.npy", *arguments)
        run(program, flow, name, folder / "in.npy", cwd=folder)
        for k, a in enumerate(want):
            np.testing.assert_array_equal(np.load(folder / f"{name}.{k}.npy"), a)


def test_an_index_out_of_range_in_a_loop_in_c(native, flow):
    table, index = np.arange(10, dtype="f4"), np.array([3, 9, 10])
    with native.open(flow, target=b"cuda") as package:
        with pytest.raises(binding.Failed, match=r"OUT_OF_RANGE.*(\n.*)*flow_models\.py"):
            package.run("look", table, index)
        package.run("look", table, index - 1)


def test_queued_loops_keep_their_addresses_in_c(native, flow, cupy):
    """Those change from call to call, in the bodies of conditional nodes too."""
    xs = [cupy.asarray(np.full(7, 2.0 + k, "f4")) for k in range(8)]
    ys = [cupy.zeros(7, "f4") for _ in xs]
    stream = cupy.cuda.Stream(non_blocking=True)
    cupy.cuda.get_current_stream().synchronize()
    with native.open(flow, target=b"cuda") as package:
        outs = [[binding.Tensor(device=binding.GPU), there(y)] for y in ys]
        turns = [
            package.call("root", [there(x)], out, stream.ptr)[0]
            for x, out in zip(xs, outs, strict=True)
        ]
        package.synchronize(stream.ptr)
        assert all(fetched(cupy, t) > 1 for t in turns)
        [package.release(t) for t in turns]
    for x, y in zip(xs, ys, strict=True):
        np.testing.assert_allclose(y.get() ** 2, x.get(), rtol=1e-3)
