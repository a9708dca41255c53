"""What the benchmarks make of what they measured; how fast anything is, they measure themselves."""

import numpy as np
import pytest

from benchmarks import table
from benchmarks.cpu import error, summary
from benchmarks.worker import PEERS, missing
from benchmarks.workloads import WORKLOADS, weights

RESULT = {
    "device": "2 cores, a CPU",
    "threads": 2,
    "date": "2026-11-22",
    "versions": {"torch": "2.13.0"},
    "skipped": {"jax": "jax is not installed"},
    "workloads": {"softmax": "softmax of rows", "mlp_step": "MLP"},
    "results": {
        "softmax": {
            "vtc": {"ms": 2.5, "low": 2.4, "high": 2.6, "error": 1e-7},
            "torch": {"ms": 12.0, "low": 11.0, "high": 13.0, "error": 2e-7},
        },
        "mlp_step": {
            "vtc": {"ms": 0.055, "low": 0.05, "high": 0.06, "error": 1e-7},
            "torch": {"failed": "torch ended: out of memory"},
        },
    },
    "first_calls": {"mlp_step": {"vtc": {"cold": {"s": 1.5}, "warm": {"s": 0.25}}}},
}
TABLE = """\
Milliseconds per call on 2 cores, a CPU, 2 threads, 2026-11-22; median of medians.

| workload | vtc | torch 2.13.0 | error: vtc, peers |
|---|---|---|---|
| softmax of rows | **2.5** | 12 | 1e-07, 2e-07 |
| MLP | **0.0550** |  | 1e-07 |
| first call of mlp_step, cold | **1.50 s** |  | |
| first call of mlp_step, warm | **0.25 s** |  | |

jax is missing: jax is not installed."""


def test_the_table_shows_the_fastest_and_what_failed():
    assert table.markdown(RESULT) == TABLE
    assert "torch ended: out of memory" in table.lines("mlp_step", RESULT["results"]["mlp_step"])


def test_the_table_goes_between_its_marks(tmp_path):
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{table.BEGIN}\nold\n{table.END}\nafter\n")
    for _ in range(2):
        table.write(readme, RESULT)
        assert readme.read_text() == f"before\n{table.BEGIN}\n{TABLE}\n{table.END}\nafter\n"
    readme.write_text("no marks")
    with pytest.raises(ValueError, match="expected <!-- written by"):
        table.write(readme, RESULT)


def test_the_figure_is_the_median_of_the_medians_of_processes():
    found = summary([[1.0, 2.0, 9.0], [3.0], [4.0, 5.0]])
    assert (found["ms"], found["processes"], found["calls"]) == (3.0, [2.0, 3.0, 4.5], 6)
    assert found["low"] < found["ms"] < found["high"]


def test_the_error_is_relative_to_the_largest_value():
    assert error([np.array([1.0, 4.0])], [np.array([1.0, 5.0])]) == pytest.approx(0.2)


def test_what_is_not_installed_is_named():
    assert missing("vtc") == missing("vtc64") == ""
    assert missing("nosuchpackage.compile") == "nosuchpackage is not installed"
    assert PEERS[0] == "vtc"


def test_weights_do_not_depend_on_the_order_of_names():
    shapes = {"b": (3,), "a": (2, 2)}
    first, second = weights(shapes), weights(dict(reversed(shapes.items())))
    assert all(np.array_equal(first[n], second[n]) for n in shapes)


def test_every_workload_says_what_it_is():
    assert all(w.__doc__ and "\n" not in w.__doc__ for w in WORKLOADS.values())
