"""safetensors in and out: one file or several, lazily, and what is refused."""

import json
import struct

import ml_dtypes
import numpy as np
import pytest

import vtc
from vtc import nn
from vtc.errors import ArgumentError, PackageError
from vtc.runtime.weights import Mapped, open_all, save, save_sharded

DTYPES = [
    np.bool_, np.uint8, np.int8, np.int16, np.int32, np.int64, np.float16, np.float32, np.float64,
    np.complex64, ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2,
]  # fmt: skip


def written(path, header, data=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


def tensor(dtype="F32", shape=(2,), offsets=(0, 8)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


def test_every_dtype_comes_back_aligned(tmp_path):
    rng = np.random.default_rng(0)
    arrays = {str(np.dtype(d)): rng.integers(0, 2, (3, 5)).astype(d) for d in DTYPES}
    arrays |= {"scalar": np.float32(7).reshape(()), "empty": np.zeros((0, 3), "f4")}
    arrays["strided"] = np.arange(12, dtype="f4").reshape(3, 4).T
    found = Mapped.file(save(tmp_path / "all.safetensors", arrays, {"made": "here"}))
    assert set(found) == set(arrays)
    for name, want in arrays.items():
        assert found[name].dtype == want.dtype
        assert found[name].flags.aligned
        np.testing.assert_array_equal(found[name], want)


def test_writes_stay_in_this_process(tmp_path):
    path = save(tmp_path / "x.safetensors", {"x": np.zeros(4, "f4")})
    before, mapped = path.read_bytes(), Mapped.file(path)
    mapped["x"][:] = 1
    assert mapped["x"].sum() == 4
    assert path.read_bytes() == before


def test_a_file_of_others_may_be_misaligned(tmp_path):
    header = {"b": tensor("U8", (1,), (0, 1)), "x": tensor("F32", (2,), (1, 9))}
    data = b"\7" + np.float32([1, 2]).tobytes()
    found = Mapped.file(written(tmp_path / "x.safetensors", header, data))
    np.testing.assert_array_equal(found["x"], [1, 2])
    assert found["x"].flags.aligned


BAD = {
    "no length": b"1234567",
    "a length beyond the file": struct.pack("<Q", 1 << 40) + b"{}",
    "no json": (b"{", b""),
    "a list": (b"[]", b""),
    "a space first": (b" {}", b""),
    "a tab last": (b"{}\t", b""),
    "latin": (b'{"\xe9":1}', b""),
    "deep": (b"[" * 100_000, b""),
    "a key twice": (b'{"x":1,"x":1}', b""),
    "an unknown dtype": ({"x": tensor("F4")}, bytes(8)),
    "a negative size": ({"x": tensor(shape=(-2,))}, bytes(8)),
    "a size that is no integer": ({"x": tensor(shape=(2.0,))}, bytes(8)),
    "true as a size": ({"x": tensor("F64", shape=(True,))}, bytes(8)),
    "a shape too large": ({"x": tensor(shape=(1 << 62, 4), offsets=(0, 8))}, bytes(8)),
    "an empty shape that overflows": ({"x": tensor(shape=(0, 1 << 62), offsets=(0, 0))}, b""),
    "bytes that disagree": ({"x": tensor(offsets=(0, 4))}, bytes(4)),
    "ends swapped": ({"x": tensor(offsets=(8, 0))}, bytes(8)),
    "an end outside": ({"x": tensor()}, bytes(4)),
    "bytes left over": ({"x": tensor()}, bytes(9)),
    "a gap": ({"x": tensor(offsets=(4, 12))}, bytes(12)),
    "an overlap": ({"x": tensor(), "y": tensor(offsets=(4, 12))}, bytes(12)),
    "one field more": ({"x": tensor() | {"more": 1}}, bytes(8)),
    "metadata of numbers": ({"__metadata__": {"a": 1}}, b""),
}


@pytest.mark.parametrize("content", BAD.values(), ids=BAD)
def test_what_is_refused(content, tmp_path):
    path = tmp_path / "bad.safetensors"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        written(path, *content)
    with pytest.raises(PackageError, match="expected"):
        Mapped.file(path)


def test_shards_with_an_index(tmp_path):
    arrays = {f"w{k}": np.full(100, k, "f4") for k in range(5)}
    index = save_sharded(tmp_path / "model.safetensors", arrays, 900)
    assert index.name == "model.safetensors.index.json"
    files = sorted(p.name for p in tmp_path.glob("*.safetensors"))
    assert files == [f"model-0000{k}-of-00003.safetensors" for k in (1, 2, 3)]
    for path in (index, tmp_path, tmp_path / "model.safetensors"):
        found = open_all(path)
        assert list(found) == list(arrays)
        assert all(np.array_equal(found[k], a) for k, a in arrays.items())
    (tmp_path / files[2]).unlink()
    assert open_all(index)["w0"][0] == 0
    with pytest.raises(PackageError, match="No such file"):
        open_all(index)["w4"]


@pytest.mark.parametrize("file", ["../x.safetensors", "/x", "a/b", "..", ""])
def test_an_index_names_files_beside_it(file, tmp_path):
    index = tmp_path / "m.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"x": file}}))
    with pytest.raises(PackageError, match="names of files beside it"):
        open_all(index)


def test_what_cannot_be_saved(tmp_path):
    with pytest.raises(ArgumentError, match=r"x: expected one of bool.*got complex128"):
        save(tmp_path / "x", {"x": np.zeros(2, "c16")})
    with pytest.raises(ArgumentError, match="save_file: x: expected a tensor, got int"):
        vtc.save_file({"x": 1}, tmp_path / "x")
    with pytest.raises(ArgumentError, match="max_shard_size: expected bytes or '5GB', got 'many'"):
        vtc.save_file({}, tmp_path / "x", max_shard_size="many")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("size", [None, "1KiB"])
def test_state_dicts(size, tmp_path):
    model, other = nn.Linear(16, 32), nn.Linear(16, 32)
    path = vtc.save_file(model.state_dict(), tmp_path / "m.safetensors", max_shard_size=size)
    assert (path.suffix == ".json") == (size is not None)
    other.load_state_dict(vtc.load_file(path))
    x = vtc.ones(2, 16)
    assert vtc.equal(model(x), other(x))


def test_half_precision_state(tmp_path):
    state = {"a": vtc.ones(3).to(vtc.bfloat16), "b": vtc.ones(3).to(vtc.float8_e4m3fn)}
    found = vtc.load_file(vtc.save_file(state, tmp_path / "m.safetensors"))
    assert {k: t.dtype for k, t in found.items()} == {k: t.dtype for k, t in state.items()}


def test_the_library_agrees(tmp_path):
    library = pytest.importorskip("safetensors.numpy", reason="safetensors is not installed")
    arrays = {"x": np.arange(6, dtype="f4").reshape(2, 3), "y": np.arange(3)}
    save(tmp_path / "ours.safetensors", arrays)
    library.save_file(arrays, tmp_path / "theirs.safetensors")
    theirs = library.load_file(tmp_path / "ours.safetensors")
    ours = Mapped.file(tmp_path / "theirs.safetensors")
    for name, want in arrays.items():
        np.testing.assert_array_equal(theirs[name], want)
        np.testing.assert_array_equal(ours[name], want)
