"""A few hundred mutations of packages; ``make fuzz-packages`` runs thousands."""

import random

import fuzz_package
import pytest

from vtc.errors import PackageError
from vtc.runtime.archive import Archive


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    return fuzz_package.bases(tmp_path_factory.mktemp("fuzz"))


def test_mutations(bases, tmp_path):
    assert fuzz_package.run(bases, 300, 0, tmp_path) == []


@pytest.mark.parametrize("mutator", dict.fromkeys(fuzz_package.MUTATORS))
def test_every_kind_of_mutation(mutator, bases, tmp_path):
    for base in bases:
        assert fuzz_package.wrong(mutator(random.Random(0), base), tmp_path / "x.vtc") == ""


def test_forging_works(bases, tmp_path):
    """Without a change it makes a good package: what it is refused for is the change."""
    for base in bases:
        (tmp_path / "same.vtc").write_bytes(fuzz_package.forged(base.members))
        assert fuzz_package.loads(tmp_path / "same.vtc", "full")


def test_the_fuzz_can_fail(bases, tmp_path, monkeypatch):
    monkeypatch.setattr(Archive, "_hash", lambda *_: None)
    assert fuzz_package.run(bases, 100, 0, tmp_path) != []
    monkeypatch.undo()
    with pytest.raises(PackageError):
        Archive(tmp_path / "none.vtc")
