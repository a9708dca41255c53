"""The file of a package: canonical, aligned, and every byte outside the weights checked at load."""

import random
import zipfile
from dataclasses import replace

import handmade
import pytest

from vtc.errors import ArgumentError, PackageError
from vtc.runtime.archive import WEIGHTS, Archive, write
from vtc.runtime.manifest import from_json, to_json
from vtc.runtime.signature import Manifest


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    return handmade.mlp(tmp_path_factory.mktemp("archive") / "mlp.vtc")


def test_other_tools_read_it(package):
    with zipfile.ZipFile(package) as z:
        assert z.testzip() is None
        names = z.namelist()
        assert {i.compress_type for i in z.infolist()} == {zipfile.ZIP_STORED}
        assert {i.date_time for i in z.infolist()} == {(1980, 1, 1, 0, 0, 0)}
    assert names[0] == "manifest.json"
    assert names[-1] == WEIGHTS
    assert names[1:-1] == sorted(names[1:-1])


def test_members_are_aligned_and_whole(package):
    with Archive(package) as archive, zipfile.ZipFile(package) as z:
        for name in archive.manifest.members:
            assert archive.place(name)[0] % 64 == 0
            assert archive.read(name) == z.read(name)


def test_equal_content_is_equal_bytes(package, tmp_path):
    again = handmade.mlp(tmp_path / "again.vtc")
    assert again.read_bytes() == package.read_bytes()


def test_a_manifest_reads_back(package):
    with Archive(package) as archive:
        manifest = archive.manifest
    assert from_json(to_json(manifest)) == manifest


def test_every_flipped_byte_outside_the_weights_is_found(package, tmp_path):
    data = bytearray(package.read_bytes())
    with Archive(package) as archive:
        start, size = archive.place(WEIGHTS)
    rng = random.Random(0)
    outside = [*range(start), *range(start + size, len(data))]
    ends = [0, 1, start - 1, start + size, len(data) - 1]
    damaged = tmp_path / "damaged.vtc"
    for at in ends + rng.sample(outside, 300):
        was, data[at] = data[at], data[at] ^ (1 << rng.randrange(8))
        damaged.write_bytes(data)
        data[at] = was
        with pytest.raises(PackageError):
            Archive(damaged)


def test_a_flipped_weight_is_found_by_a_full_check(package, tmp_path):
    data = bytearray(package.read_bytes())
    with Archive(package) as archive:
        start, size = archive.place(WEIGHTS)
    data[start + size - 1] ^= 1
    damaged = tmp_path / "damaged.vtc"
    damaged.write_bytes(data)
    Archive(damaged).close()
    with pytest.raises(PackageError, match=r"weights\.safetensors as it was written"):
        Archive(damaged, "full")


def test_every_length_but_its_own_is_refused(package, tmp_path):
    data = package.read_bytes()
    cut = tmp_path / "cut.vtc"
    lengths = [0, 1, 21, 30, 43, 64, len(data) // 2, len(data) - 1]
    for n in lengths:
        cut.write_bytes(data[:n])
        with pytest.raises(PackageError):
            Archive(cut)
    cut.write_bytes(data + b"\0")
    with pytest.raises(PackageError):
        Archive(cut)


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("../up", "without '.' and '..'"),
        ("a/../b", "without '.' and '..'"),
        ("/etc/passwd", "a relative path"),
        ("a//b", "a relative path"),
        ("Up", "a relative path"),
        ("a\\b", "a relative path"),
        ("", "a relative path"),
        ("a" * 256, "at most 255"),
        ("manifest.json", "one manifest"),
    ],
)
def test_names_that_cannot_be_members(name, why, tmp_path):
    members = {}
    manifest = handmade.mlp_manifest(members)
    with pytest.raises(ArgumentError, match=why):
        write(tmp_path / "bad.vtc", {**members, name: b""}, manifest)
    assert not list(tmp_path.iterdir())


def test_a_large_member_has_zip64_fields(tmp_path, monkeypatch):
    """A limit of 64 KiB stands for that of 4 GiB."""
    members = {}
    manifest = handmade.mlp_manifest(members)
    monkeypatch.setattr("vtc.runtime.archive._FULL", 1 << 16)
    path = write(tmp_path / "large.vtc", {**members, WEIGHTS: bytes(1 << 17)}, manifest)
    with Archive(path, "full") as archive:
        assert archive.place(WEIGHTS)[1] == 1 << 17
    assert b"PK\6\6" in path.read_bytes()


def test_a_newer_format_says_so(package):
    with Archive(package) as archive:
        text = to_json(archive.manifest).replace('"format": 1', '"format": 2')
    with pytest.raises(PackageError, match="a newer vtc wrote"):
        from_json(text)


def test_errors_of_a_manifest_say_where(package):
    with Archive(package) as archive:
        manifest: Manifest = archive.manifest
    entry = manifest.entries["forward"]
    text = to_json(manifest)
    changes = {
        text.replace('"f32"', '"f33"'): "expected one of bool",
        text.replace('"bytes": ', '"bytes": -'): r"members\..*bytes: expected an integer",
        text.replace("\n", "\n ", 1): "canonical",
        text.replace('"crc32"', '"crc33"', 1): "an object with bytes, crc32, sha256",
        text.replace('"name"', '"name": 1, "name"', 1): "a key twice",
        text[:-3]: "expected JSON",
        "[" * 100_000: "expected JSON",
        '{"format": 1}': "an object with format",
        "null": "an object with",
        to_json(replace(manifest, entries={})): "expected an entry",
        to_json(replace(manifest, weights={})): "expected a weight, got 'w1'",
        to_json(replace(manifest, targets=())): "expected a target of the package",
        to_json(replace(manifest, members={})): r"expected a member in plans/",
        to_json(
            replace(manifest, entries={"forward": replace(entry, tree=None)})
        ): "expected a tree of",
        to_json(
            replace(manifest, entries={"forward": replace(entry, dims=())})
        ): "expected a declared dim, got B",
    }
    for changed, why in changes.items():
        assert changed != text
        with pytest.raises(PackageError, match=why):
            from_json(changed)


def test_what_is_no_file(tmp_path):
    with pytest.raises(PackageError, match="No such file"):
        Archive(tmp_path / "none.vtc")
    with pytest.raises(PackageError):
        Archive(tmp_path)
