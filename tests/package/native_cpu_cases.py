"""What the C runtime does on a CPU; each case runs in a process with the address sanitizer."""

import ctypes
import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from native_binding import (
    ALLOCATE,
    GPU,
    RELEASE,
    RUN,
    Allocator,
    Failed,
    Native,
    Pool,
    Tensor,
    array,
    described,
)


def given(library, folder):
    """The library, and packages in a folder: see ``test_native.py``."""
    folder = Path(folder)
    with np.load(folder / "known.npz") as known:
        return SimpleNamespace(native=Native(library), folder=folder, **known)


def mlp(t, **options):
    return t.native.open(t.folder / "mlp.vtc", **options)


def counter(t, **options):
    return t.native.open(t.folder / "counter.vtc", **options)


def refuses(status, words, work, *args):
    """``work`` fails with a status and words that begin so."""
    with pytest.raises(Failed) as caught:
        work(*args)
    assert caught.value.status == status, caught.value
    assert words in caught.value.words, caught.value.words


def case_outputs_are_those_of_python(t):
    with mlp(t) as package:
        for n in (1, 5, 64):
            (y,) = package.run("forward", t.x[:n])
            np.testing.assert_array_equal(y, t.y[:n])


def case_a_folder_is_a_package(t):
    with t.native.open(t.folder / "unpacked") as package:
        np.testing.assert_array_equal(package.run("forward", t.x)[0], t.y)


def case_bytes_are_a_package(t):
    with t.native.open((t.folder / "counter.vtc").read_bytes()) as package:
        package.run("count", np.ones(4, "f4"), np.float64(1))
        assert package.run("peek")[0].tolist() == [2, 3, 4, 5]


def case_state_is_shared_by_entries_and_reset(t):
    with counter(t) as package:
        x = np.ones(4, "f4")
        for k in (1, 2):
            y, total, what = package.run("count", x, np.float64(2))
            assert total.tolist() == (np.arange(4) + 2 * k if k == 1 else total).tolist()
            assert what is None
            np.testing.assert_array_equal(y, x)
            assert package.run("peek")[0].tolist() == (total + 1).tolist()
        assert array(package.state("total")).tolist() == total.tolist()
        package.reset()
        assert package.run("peek")[0].tolist() == [1, 2, 3, 4]
    with counter(t) as package:  # the file has what it had
        assert package.run("peek")[0].tolist() == [1, 2, 3, 4]


def case_state_can_be_set(t):
    with counter(t) as package:
        held = package.state("total")
        assert not held.read_only
        ctypes.memmove(held.data, np.full(4, 7, "f4").ctypes.data, 16)
        assert package.run("peek")[0].tolist() == [8] * 4
        refuses("BAD_ARGUMENT", "expected a tensor of the package", package.state, "other")


def case_weights_that_nobody_writes_are_read_only(t):
    with mlp(t) as package:
        assert package.state("w1").read_only


def case_numbers_have_any_width(t):
    for number in (np.float64(3), np.float32(3), np.int64(3)):
        with counter(t) as package:
            assert package.run("count", np.ones(4, "f4"), number)[1].tolist() == [3, 4, 5, 6]


def case_it_describes_itself(t):
    with mlp(t) as package:
        found = package.describe()
        assert found["name"] == "mlp"
        assert found["device"] == "cpu"
        assert found["target"] in found["targets"]
        assert found["entries"]["forward"]["inputs"][0]["shape"] == ["B", 64]
        assert package.count("forward") == (1, 1)
        refuses("BAD_ARGUMENT", "expected one of the entries forward", package.count, "other")


def case_wrong_inputs_are_refused(t):
    x = t.x
    wrong = {
        "x: expected f32[B, 64], got f64[5, 64]": described(x[:5].astype("f8")),
        "x: expected f32[B, 64], got f32[320]": described(x[:5].ravel()),
        "x: expected f32[B, 64], got f32[5, 63]": described(x[:5, :63].copy()),
        "x: expected B: Dim(1, 64), got 65": described(np.ones((65, 64), "f4")),
        "x: expected B: Dim(1, 64), got 0": described(np.ones((0, 64), "f4")),
        "x: expected memory of the CPU, got that of device 1": described(x[:5], GPU),
    }
    short, null, negative, odd, deep, kind = (described(x[:5]) for _ in range(6))
    short.bytes -= 1
    null.data = None
    negative.shape[0] = -1
    odd.data += 1
    deep.rank = 9
    kind.dtype = 77
    wrong |= {
        "x: expected 1280 bytes for f32[5, 64], got 1279": short,
        "got 1280 at a null pointer": null,
        "x: expected sizes of at least 0": negative,
        "x: expected memory aligned to 4 bytes": odd,
        "x: expected f32[B, 64], got f32[()]": deep,
        "x: expected f32[B, 64], got ?[5, 64]": kind,
    }
    with mlp(t) as package:
        for words, tensor in wrong.items():
            refuses("BAD_ARGUMENT", words, package.call, "forward", [tensor], [Tensor()])
        np.testing.assert_array_equal(package.run("forward", x)[0], t.y)


def case_wrong_calls_are_refused(t):
    x = described(t.x)
    with mlp(t) as package:
        refuses("BAD_ARGUMENT", "expected 1 inputs and 1 outputs, got 0 and 1",
                package.call, "forward", [], [Tensor()])  # fmt: skip
        refuses("BAD_ARGUMENT", "expected 1 inputs and 1 outputs, got 1 and 2",
                package.call, "forward", [x], [Tensor(), Tensor()])  # fmt: skip
        refuses("BAD_ARGUMENT", 'got "backward"', package.call, "backward", [x], [Tensor()])
        refuses("BAD_ARGUMENT", "forward: expected its inputs and outputs, got a null pointer",
                package.null_call, "forward")  # fmt: skip
    with counter(t) as package:
        given = [described(np.ones(4, "f4")), described(np.ones((1,)))]
        refuses("BAD_ARGUMENT", "scale: expected a number: f64[()], got f64[1]",
                package.call, "count", given, [Tensor()] * 3)  # fmt: skip


def case_what_is_written_is_writable_and_alone(t):
    x = np.ones(8, "f4")
    number = described(np.float64(1))
    with counter(t) as package:
        fixed = described(x[:4])
        fixed.read_only = 1
        refuses("BAD_ARGUMENT", "x: expected memory to overwrite",
                package.call, "count", [fixed, number], [Tensor()] * 3)  # fmt: skip
        inside = described(np.float64(1))
        inside.data = x.ctypes.data + 8
        words = "x: expected memory of its own, since it is written, got some of scale"
        given = [described(x[:4]), inside]
        refuses("BAD_ARGUMENT", words, package.call, "count", given, [Tensor()] * 3)
        assert package.run("peek")[0].tolist() == [1, 2, 3, 4]


def case_outputs_go_where_the_caller_says(t):
    y = np.zeros((64, 10), "f4")
    with mlp(t) as package:
        (made,) = package.call("forward", [described(t.x)], [described(y)])
        assert made.data == y.ctypes.data
        assert not made.owned
        np.testing.assert_array_equal(y, t.y)
        small, odd = described(y[:3]), described(y)
        odd.data += 2
        refuses("BAD_ARGUMENT", "output 0: expected room for 2560 bytes of f32[64, 10], got 120",
                package.call, "forward", [described(t.x)], [small])  # fmt: skip
        refuses("BAD_ARGUMENT", "output 0: expected memory aligned to 4 bytes",
                package.call, "forward", [described(t.x)], [odd])  # fmt: skip
        x = t.x.copy()
        inside = described(x)
        refuses("BAD_ARGUMENT", "output 0: expected memory of its own, got some of x",
                package.call, "forward", [described(x)], [inside])  # fmt: skip


def case_an_owned_output_is_used_again(t):
    with mlp(t) as package:
        (first,) = package.call("forward", [described(t.x[:9])], [Tensor()])
        at, n = first.data, first.bytes
        (second,) = package.call("forward", [described(t.x[:5])], [first])
        assert (second.data, second.bytes, second.owned) == (at, n, 1)
        np.testing.assert_array_equal(array(second), t.y[:5])
        (third,) = package.call("forward", [described(t.x)], [second])
        np.testing.assert_array_equal(array(third), t.y)
        package.release(third)
        assert not third.data


def case_memory_comes_from_the_callers_allocator(t):
    lib, live = ctypes.CDLL(None), {}
    lib.aligned_alloc.restype, lib.aligned_alloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t] * 2
    lib.free.argtypes = [ctypes.c_void_p]
    left = [3]

    def allocate(context, nbytes, alignment, stream):
        assert alignment == 64
        assert context == 77
        if not left[0]:
            return None
        left[0] -= 1
        at = lib.aligned_alloc(64, -(-nbytes // 64) * 64)
        live[at] = nbytes
        return at

    def release(context, at, nbytes, stream):
        assert live.pop(at) == nbytes
        lib.free(at)

    made = Allocator(77, ALLOCATE(allocate), RELEASE(release))
    with mlp(t, allocator=ctypes.pointer(made)) as package:
        for _ in range(2):
            np.testing.assert_array_equal(package.run("forward", t.x)[0], t.y)
        assert len(live) <= 1  # the arena
        left[0] = 0
        refuses("OUT_OF_MEMORY", "expected 2560 bytes of memory, got none",
                package.run, "forward", t.x)  # fmt: skip
        left[0] = 1
        np.testing.assert_array_equal(package.run("forward", t.x)[0], t.y)
    assert not live


def case_kernels_run_on_the_callers_threads(t):
    asked = []

    def run(pool, kernel, p, n, parts):
        asked.append(parts)
        function = ctypes.CFUNCTYPE(ctypes.c_int, *[ctypes.c_void_p] * 2, *[ctypes.c_int64] * 2)
        return max(function(kernel)(p, n, k, parts) for k in reversed(range(parts)))

    pool = Pool(RUN(run), 3)
    with t.native.open(t.folder / "wide.vtc", pool=ctypes.pointer(pool)) as package:
        np.testing.assert_array_equal(package.run("forward", t.wide)[0], t.narrow)
    assert asked
    assert max(asked) <= 3


def case_the_number_of_threads_changes_nothing(t):
    for threads in (1, 2, 5):
        with t.native.open(t.folder / "wide.vtc", threads=threads) as package:
            for _ in range(3):
                np.testing.assert_array_equal(package.run("forward", t.wide)[0], t.narrow)
    refuses("BAD_ARGUMENT", "threads: expected 0 to 1024, got 5000",
            lambda: mlp(t, threads=5000))  # fmt: skip


def case_many_threads_call_at_once(t):
    wrong = []

    def work(package, seed):
        for k in range(30):
            n = (seed * 7 + k) % 64 + 1
            (y,) = package.run("forward", t.x[:n])
            if not np.array_equal(y, t.y[:n]):
                wrong.append(n)
            try:
                package.run("forward", t.x[:n, :3].copy())
            except Failed as error:
                if f"got f32[{n}, 3]" not in error.words:
                    wrong.append(error.words)

    with mlp(t, threads=3) as package:
        workers = [threading.Thread(target=work, args=(package, s)) for s in range(12)]
        [w.start() for w in workers]
        [w.join() for w in workers]
    assert not wrong


def case_calls_that_write_the_same_state_wait_for_each_other(t):
    with counter(t) as package:

        def work():
            for _ in range(50):
                package.run("count", np.ones(4, "f4"), np.float64(1))
                package.run("peek")

        workers = [threading.Thread(target=work) for _ in range(6)]
        [w.start() for w in workers]
        [w.join() for w in workers]
        assert package.run("peek")[0].tolist() == [301, 302, 303, 304]


def case_words_of_a_failure_are_of_a_thread(t):
    with mlp(t) as package:
        refuses("BAD_ARGUMENT", "x:", package.run, "forward", t.x[0])
        said = []
        other = threading.Thread(target=lambda: said.append(package.error()))
        other.start()
        other.join()
        assert said == [""]
        assert package.error().startswith("x: ")


def case_an_index_out_of_range_names_its_line(t):
    with t.native.open(t.folder / "lookup.vtc") as package:
        table, good = np.arange(10, dtype="f4"), np.array([3, 9, 0], "i8")
        assert package.run("forward", table, good)[0].tolist() == [3, 9, 0]
        bad = np.array([3, 10, 0], "i8")
        refuses("OUT_OF_RANGE", "index: expected an index inside its axis, got one outside it",
                package.run, "forward", table, bad)  # fmt: skip
        assert package.run("forward", table, good)[0].tolist() == [3, 9, 0]


def case_weights_can_be_given_at_open(t):
    refuses("BAD_PACKAGE", "expected the weight b1, got a package without it: name a",
            t.native.open, t.folder / "bare.vtc")  # fmt: skip
    for name in ("weights.safetensors", "odd.safetensors"):
        weights = str(t.folder / name).encode()
        with t.native.open(t.folder / "bare.vtc", weights=weights) as package:
            np.testing.assert_array_equal(package.run("forward", t.x)[0], t.y)
    other = str(t.folder / "other.safetensors").encode()
    refuses("BAD_PACKAGE", "weights: w1: expected the shape in the manifest",
            lambda: t.native.open(t.folder / "bare.vtc", weights=other))  # fmt: skip
    some, none = (str(t.folder / f"{name}.safetensors").encode() for name in ("some", "none"))
    with mlp(t, weights=some) as package:  # the others are those inside
        change = package.run("forward", t.x)[0] - t.y
        assert 0 < abs(change).max() < 1e-3
    refuses("BAD_PACKAGE", "weights: expected a tensor b1, got none",
            lambda: t.native.open(t.folder / "bare.vtc", weights=some))  # fmt: skip
    refuses("BAD_PACKAGE", "none.safetensors: expected weights like b1, got no such",
            lambda: mlp(t, weights=none))  # fmt: skip


def case_targets_that_do_not_run_here_are_refused(t):
    refuses("NO_TARGET", "cuda:0: expected", lambda: mlp(t, target=b"cuda"))
    refuses("NO_TARGET", "expected a target that runs here (cpu-z80), got a package for",
            lambda: mlp(t, target=b"cpu-z80"))  # fmt: skip
    refuses("NO_TARGET", "got a package for cpu-vax; export it again with targets=[...]",
            t.native.open, t.folder / "elsewhere.vtc")  # fmt: skip
    with mlp(t) as package:
        found = package.describe()["target"]
    mlp(t, target=found.encode()).close()


def case_what_is_no_package_is_refused(t):
    whole = (t.folder / "mlp.vtc").read_bytes()
    for n in (0, 1, 29, 30, 43, 100, 5000, len(whole) - 1):
        refuses("BAD_PACKAGE", "expected", t.native.open, whole[:n])
    refuses("BAD_PACKAGE", "expected", t.native.open, whole + b"\0")
    refuses("BAD_PACKAGE", "expected", t.native.open, b"\0" + whole)
    refuses("BAD_PACKAGE", "No such file", t.native.open, t.folder / "none.vtc")
    refuses("BAD_PACKAGE", "manifest.json", t.native.open, t.folder)


def case_a_flip_in_the_weights_is_found_by_a_full_check(t):
    whole = bytearray((t.folder / "mlp.vtc").read_bytes())
    at = whole.index(t.w1.tobytes())
    whole[at + 10] ^= 4
    t.native.open(bytes(whole)).close()
    mlp(t, full_check=1).close()
    refuses("BAD_PACKAGE", "expected weights.safetensors as it was written",
            lambda: t.native.open(bytes(whole), full_check=1))  # fmt: skip


def case_a_closed_or_broken_package_answers(t):
    lib = t.native.lib
    assert b"expected memory" in lib.vtc_error(None)
    lib.vtc_close(None)
    package = ctypes.c_void_p()
    assert lib.vtc_open(b"/none", None, ctypes.byref(package)) == 1
    ins = ctypes.c_int32()
    assert lib.vtc_count(package, b"forward", ctypes.byref(ins), ctypes.byref(ins)) == 2
    assert b"/none" in lib.vtc_error(package)
    assert lib.vtc_describe(package) is None
    lib.vtc_close(package)
