"""How kernels of programs for a GPU are chosen, on this machine, and what was found.

    tuning = Tuning(gpu(0), "fast", target, store)
    chosen = tuning.tune(planned)                   # measures what the table does not know
    text = tuning_table(store, gpu(0).facts.name).export()      # to be merged elsewhere

A plan is kept on disk together with its decisions, and used as long as the table has no others.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import final

from vtc.codegen.decisions import Decision, Table, from_fields, to_fields
from vtc.codegen.tune import Chosen, Tools, attempts, tune
from vtc.config import Tune
from vtc.errors import CompilerError
from vtc.ir.graph import Program
from vtc.ir.plan import Binary, Kernel
from vtc.ir.target import Target
from vtc.runtime.cache import Store, digest
from vtc.runtime.cuda.device import Gpu
from vtc.runtime.cuda.measure import Bench


@final
class Tuning:
    """See the module."""

    def __init__(self, there: Gpu, mode: Tune, target: Target, store: Store) -> None:
        self._there, self._mode, self._target, self._store = there, mode, target, store

    def tune(self, planned: Program) -> Chosen:
        """The candidates for a ``planned`` program, by measuring if need be."""

        def compiled(kernels: Sequence[Kernel]) -> Sequence[Binary | CompilerError]:
            return attempts(kernels, self._target, self._store)

        bench = None if self._mode == "off" else Bench(self._there)
        return tune(planned, self._target, Tools(self._mode, compiled, bench, self._table()))

    def key(self, key: str) -> str:
        """``key`` of a plan, which depends on how it was tuned, and for what."""
        return digest(key, self._mode, self._there.facts.name)

    def known(self, key: str) -> tuple[Decision, ...] | None:
        """The decisions that the plan ``key`` was made with; None if the table has others now."""
        found = self._store.find(digest("decisions", key))
        try:
            fields = json.loads(found.read_text("utf-8")) if found is not None else None
        except (OSError, ValueError):
            return None
        if not isinstance(fields, dict):
            return None
        decisions = {name: from_fields(value) for name, value in fields.items()}
        table = None if self._mode == "off" else self._table()
        for name, decision in decisions.items():
            now = None if table is None else table.find(name)
            if decision is None or (now is not None and now.chosen != decision.chosen):
                return None
        return tuple(d for d in decisions.values() if d is not None)

    def remember(self, key: str, chosen: Chosen) -> None:
        """Keep the decisions that the plan ``key`` was made with."""
        fields = {name: to_fields(d) for name, d in chosen.decisions.items()}
        self._store.put(digest("decisions", key), json.dumps(fields).encode(), ".json")

    def _table(self) -> Table:
        return tuning_table(self._store, self._there.facts.name)


def tuning_table(store: Store, gpu: str) -> Table:
    """What is known of candidates on GPUs of this name."""
    return _table(store.root / "tuning", gpu)


@lru_cache(8)
def _table(folder: Path, gpu: str) -> Table:
    return Table(folder, gpu)
