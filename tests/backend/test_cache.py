"""The cache on disk: whole or absent, whoever dies, whatever breaks."""

import multiprocessing
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from vtc.errors import VtcWarning
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


def test_a_root_that_cannot_be_made_moves_the_cache(tmp_path):
    (tmp_path / "file").write_text("in the way")
    store = Store(tmp_path / "file" / "vtc")
    with pytest.warns(VtcWarning, match="expected to write to"):
        path = store.put(KEY, b"code")
    assert path.read_bytes() == b"code"


SAID_ONCE = """
import pathlib, sys, threading, warnings
from vtc.runtime.cache import Store, digest
warnings.simplefilter("always")
root = pathlib.Path(sys.argv[1])
gate = threading.Barrier(4)
found = []
def put(k, store):
    gate.wait()
    found.append(store.put(digest(str(k)), b"code " * 4096, ".so"))
one = Store(root)
threads = [threading.Thread(target=put, args=(k, one if k < 2 else Store(root))) for k in range(4)]
[t.start() for t in threads]
[t.join() for t in threads]
print(*found)
assert Store(root).find(digest("0")) and one.find(digest("3"))
"""


def in_new_process(code, *arguments, before=()):
    command = [*before, sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)


def mounted(folder, options, *, then=""):
    """What runs a command where ``folder`` is a file system with ``options``."""
    script = f'mount {options} "$0" && {then or "true"} && exec "$@"'
    return ["unshare", "-Urm", "sh", "-c", script, str(folder)]


CANNOT_MOUNT = (
    subprocess.run(
        [*mounted("/mnt", "-t tmpfs none"), "true"], capture_output=True, check=False
    ).returncode
    if shutil.which("unshare")
    else 1
)
needs_mount = pytest.mark.skipif(CANNOT_MOUNT != 0, reason="no file system can be mounted")


@needs_mount
@pytest.mark.parametrize(
    ("options", "why"),
    [
        ("-t tmpfs -o ro none", "Read-only file system"),
        ("-t tmpfs -o size=4k none", "No space left"),
    ],
)
def test_a_disk_that_takes_nothing_moves_the_cache_and_says_so_once(tmp_path, options, why):
    done = in_new_process(SAID_ONCE, tmp_path, before=mounted(tmp_path, options))
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("VtcWarning: cache: expected to write to") == 1
    assert why in done.stderr
    paths = [Path(line) for line in done.stdout.split()]
    assert len({p.parents[2] for p in paths}) == 1  # one folder for all
    assert tmp_path not in paths[0].parents
    assert not paths[0].parents[2].exists()  # it went with the process


NOWHERE = """
import pathlib, resource, signal, sys
from vtc.errors import CacheError
from vtc.runtime.cache import Store, digest
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
for k in range(2):
    try:
        Store(pathlib.Path(sys.argv[1])).put(digest(str(k)), b"code" * 1000)
    except CacheError as error:
        print(error)
"""


def test_no_place_at_all_is_an_error(tmp_path):
    done = in_new_process(NOWHERE, tmp_path)
    first, second = done.stdout.splitlines()
    assert first == second
    assert first.startswith("cache: expected to write to ")
    assert "File too large" in first
    assert done.stderr.count("VtcWarning") == 1
    assert not [p for p in tmp_path.rglob("*") if p.is_file()]


def test_a_kept_file_serves_from_a_folder_that_cannot_be_written(tmp_path):
    kept = Store(tmp_path).put(KEY, b"code")
    (tmp_path / "partial").rmdir()
    (tmp_path / "partial").write_text("in the way")
    store = Store(tmp_path)
    with pytest.warns(VtcWarning, match="expected to write to"):
        other = store.put(digest("other"), b"more")
    assert tmp_path not in other.parents
    assert store.find(KEY) == kept


def test_what_is_dropped_is_made_again(tmp_path):
    store = Store(tmp_path)
    path = store.put(KEY, b"code")
    store.drop(path)
    assert store.find(KEY) is None
    assert store.make(KEY, lambda p: p.write_bytes(b"code") and None) == path
    assert store.find(KEY) == path


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
