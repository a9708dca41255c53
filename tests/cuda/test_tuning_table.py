"""The table of decisions on disk: shared by processes, and by machines."""

import json
import multiprocessing

import pytest

from vtc.codegen.decisions import Decision, Table
from vtc.errors import CacheError, VtcWarning

GPU = "NVIDIA Toy 80GB"


@pytest.fixture
def table(tmp_path):
    return Table(tmp_path, GPU)


ONE = Decision("matmul", "fast", "a", {"a": 1.5, "b": 2}, {"c": "no"}, "note")


def test_a_decision_in_words():
    assert str(Decision("m", "fast", "b", {"a": 1.5, "b": 20.0, "d": 9}, {"c": "no"})).split(
        "\n"
    ) == [
        "m: b",
        "        20.0 us  b",
        "         1.5 us  a",
        "         9.0 us  d",
        "        refused  c: no",
    ]


def test_a_table_is_one_file_for_each_gpu(table, tmp_path):
    table.put("k", ONE)
    assert [p.name for p in tmp_path.glob("*.json")] == ["NVIDIA-Toy-80GB.json"]
    assert Table(tmp_path, GPU).find("k") == ONE
    assert Table(tmp_path, "other").find("k") is None


def test_writers_keep_what_others_wrote(tmp_path):
    a, b = Table(tmp_path, GPU), Table(tmp_path, GPU)
    a.put("a", ONE)
    b.put("b", ONE)
    a.put("c", ONE)
    assert all(Table(tmp_path, GPU).find(k) == ONE for k in "abc")


def write(folder, name):
    table = Table(folder, GPU)
    for k in range(20):
        table.put(f"{name}{k}", ONE)


def test_processes_write_at_once(tmp_path):
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=write, args=(tmp_path, n)) for n in "ab"]
    for w in writers:
        w.start()
    for w in writers:
        w.join()
    table = Table(tmp_path, GPU)
    assert all(table.find(f"{n}{k}") == ONE for n in "ab" for k in range(20))
    assert not list(tmp_path.glob("*.partial"))


@pytest.mark.parametrize("text", ["", "{", "[]", '{"format": 1}', '{"format": 0}', "\0"])
def test_a_damaged_table_is_made_anew(text, table, tmp_path):
    table.path.write_text(text)
    with pytest.warns(VtcWarning, match="measured anew"):
        again = Table(tmp_path, GPU)
    again.put("k", ONE)
    assert Table(tmp_path, GPU).find("k") == ONE


def test_damaged_decisions_are_left_out(table, tmp_path):
    for k in "abc":
        table.put(k, ONE)
    fields = json.loads(table.path.read_text())
    fields["decisions"]["a"]["times"] = {"a": "soon"}
    fields["decisions"]["b"] = None
    table.path.write_text(json.dumps(fields))
    again = Table(tmp_path, GPU)
    assert [again.find(k) for k in "abc"] == [None, None, ONE]


def test_a_table_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    table = Table(tmp_path / "file" / "sub", GPU)
    with pytest.warns(VtcWarning, match="expected to write to .*: the next process measures again"):
        table.put("k", ONE)
    table.put("m", ONE)
    assert table.find("k") == ONE


def test_a_table_goes_elsewhere(table, tmp_path):
    table.put("a", ONE)
    table.put("b", ONE)
    other = Table(tmp_path / "other", GPU)
    mine = Decision("matmul", "full", "mine")
    other.put("a", mine)
    assert other.merge(table.export()) == 1
    again = Table(tmp_path / "other", GPU)
    assert (again.find("a"), again.find("b")) == (mine, ONE)
    with pytest.raises(CacheError, match="expected a table of NVIDIA Other, got one of NVIDIA Toy"):
        Table(tmp_path, "NVIDIA Other").merge(table.export())
    with pytest.raises(CacheError, match="expected JSON"):
        other.merge("nonsense")
