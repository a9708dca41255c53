"""The cache on disk: whole or absent, whoever dies, whatever breaks."""

import multiprocessing
import os
import threading
import time
import warnings

import pytest

from vtc.errors import CacheError, VtcWarning
from vtc.runtime import cache
from vtc.runtime.cache import Store, digest

KEY = digest("kernel", "gcc", "-O3")


def refuse(path):
    raise AssertionError(f"{path} was made again")


def test_what_was_put_is_found(tmp_path):
    path = Store(tmp_path).put(KEY, b"code", ".so")
    assert path.read_bytes() == b"code"
    assert path.suffix == ".so"
    assert Store(tmp_path).find(KEY) == path


def test_make_runs_once(tmp_path):
    path = Store(tmp_path).make(KEY, lambda p: p.write_bytes(b"code") and None, ".so")
    assert Store(tmp_path).make(KEY, refuse, ".so") == path


def test_a_missing_key_is_none(tmp_path):
    assert Store(tmp_path).find(KEY) is None
    assert Store(tmp_path / "nowhere").find(KEY) is None


def test_keys_do_not_run_together():
    assert digest("ab", "c") != digest("a", "bc")
    assert digest("a") != digest("a", "")


def test_put_replaces(tmp_path):
    store = Store(tmp_path)
    store.put(KEY, b"old")
    assert store.put(KEY, b"new").read_bytes() == b"new"
    assert store.find(KEY).read_bytes() == b"new"


@pytest.mark.parametrize("damage", [b"", b"cod", b"Code", b"code and more"])
def test_a_damaged_object_is_made_again(tmp_path, damage):
    path = Store(tmp_path).put(KEY, b"code")
    path.write_bytes(damage)
    store = Store(tmp_path)
    assert store.find(KEY) is None
    assert not path.exists()
    assert store.make(KEY, lambda p: p.write_bytes(b"code") and None) == path
    assert path.read_bytes() == b"code"


@pytest.mark.parametrize("damage", [b"", b"\xff\xfe", b"../../etc/passwd\n", b"0" * 64])
def test_a_damaged_entry_is_made_again(tmp_path, damage):
    store = Store(tmp_path)
    store.put(KEY, b"code")
    (entry,) = (p for p in (tmp_path / "entries").rglob("*") if p.is_file())
    entry.write_bytes(damage)
    assert Store(tmp_path).find(KEY) is None
    assert store.make(KEY, lambda p: p.write_bytes(b"code") and None).read_bytes() == b"code"


def test_a_file_that_vanished_is_made_again(tmp_path):
    store = Store(tmp_path)
    store.put(KEY, b"code").unlink()
    assert store.find(KEY) is None


def test_an_error_of_the_maker_is_its_own(tmp_path):
    def fail(path):
        raise FileNotFoundError("no compiler")

    store = Store(tmp_path)
    with pytest.raises(FileNotFoundError, match="no compiler"):
        store.make(KEY, fail)
    assert store.find(KEY) is None
    assert store.root == tmp_path


def full(path, content):
    raise OSError(28, "No space left on device")


def test_a_full_disk_moves_the_cache(tmp_path, monkeypatch):
    store = Store(tmp_path)
    real = Store._write

    def write(self, path, content):
        full(path, content) if self.root == tmp_path else real(self, path, content)

    monkeypatch.setattr(Store, "_write", write)
    with pytest.warns(VtcWarning, match="No space left"):
        path = store.put(KEY, b"code")
    assert path.read_bytes() == b"code"
    assert tmp_path not in path.parents
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert Store(tmp_path).find(KEY) == path  # said once, and shared


def test_no_place_at_all_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(Store, "_write", lambda self, path, content: full(path, content))
    with pytest.warns(VtcWarning), pytest.raises(CacheError, match="expected to write to"):
        Store(tmp_path).put(KEY, b"code")


def test_a_root_that_cannot_be_made_moves_the_cache(tmp_path):
    (tmp_path / "file").write_text("in the way")
    store = Store(tmp_path / "file" / "vtc")
    with pytest.warns(VtcWarning, match="expected to write to"):
        path = store.put(KEY, b"code")
    assert path.read_bytes() == b"code"


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_a_read_only_root_moves_the_cache(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.warns(VtcWarning, match="Permission denied"):
        Store(tmp_path).put(KEY, b"code")


def test_leftovers_of_killed_writers_go(tmp_path):
    store = Store(tmp_path)
    store.put(KEY, b"code")
    left = tmp_path / "partial" / "left"
    left.write_bytes(b"half")
    store.put(KEY, b"code")
    assert left.exists()
    old = time.time() - 2 * cache.ABANDONED
    os.utime(left, (old, old))
    store.put(KEY, b"code")
    assert not left.exists()


def content(key):
    return key.encode() * 20_000


def write_forever(root, keys, started):
    store = Store(root)
    while True:
        for key in keys:
            store.put(key, content(key), ".so")
            started.set()


def test_killed_writers_leave_nothing_broken(tmp_path):
    context = multiprocessing.get_context("spawn")
    keys = [digest(str(i)) for i in range(4)]
    for _ in range(3):
        writers = []
        for _ in range(2):
            started = context.Event()
            writer = context.Process(target=write_forever, args=(tmp_path, keys, started))
            writer.start()
            writers.append((writer, started))
        reader = Store(tmp_path)
        for writer, started in writers:
            assert started.wait(30)
            for key in keys:
                path = Store(tmp_path).find(key)
                assert path is None or path.read_bytes() == content(key)
            writer.kill()
            writer.join()
        for key in keys:
            path = reader.make(key, lambda p, k=key: p.write_bytes(content(k)) and None, ".so")
            assert path.read_bytes() == content(key)


def test_threads_make_the_same_file_at_once(tmp_path):
    store = Store(tmp_path)
    paths = []
    gate = threading.Barrier(4)

    def work():
        gate.wait()
        paths.append(store.make(KEY, lambda p: p.write_bytes(b"code") and None))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert len(paths) == 4
    assert {p.read_bytes() for p in paths} == {b"code"}
