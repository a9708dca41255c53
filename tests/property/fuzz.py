"""Random graphs through the whole compiler: what runs must be what the graph means.

    python tests/property/fuzz.py --graphs 2000 --seed 0        # or: make fuzz

A graph that fails is shrunk and written to ``failures/``, where an ordinary test runs it from then
on. Graphs run in worker processes, so a crash is a failure like any other.
"""

import argparse
import json
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

from graphs import random_program
from trial import Inputs, shrink, try_program, write

from vtc.ir.graph import Program
from vtc.ir.ops.attention import Attention

FAILURES = Path(__file__).parent / "failures"
SPECIAL = 0.08
"""Share of graphs whose inputs hold NaN and infinities."""


def inputs_of(seed: int, program: Program) -> Inputs:
    """Where keys come after a query, kernels do not look: what NaN there does is not said."""
    ops = [n.op for n in program.entry.nodes]
    ahead = any(isinstance(op, Attention) and op.is_causal for op in ops)
    return Inputs(seed, 0.05 if seed % 100 < 100 * SPECIAL and not ahead else 0.0)


def work(seeds: list[int], optimize: str) -> None:
    """A worker: a line of JSON before and after each graph."""
    for seed in seeds:
        print(json.dumps({"begin": seed}), flush=True)
        program = random_program(seed)
        why = try_program(program, inputs_of(seed, program), optimize)
        ops = sorted({n.op.name for n in program.entry.nodes if n.op})
        print(json.dumps({"end": seed, "why": why, "ops": ops}), flush=True)


def shrink_one(seed: int, why: str, optimize: str) -> Path:
    """Write the failure of ``seed`` as small as it gets; a crash stays as it is."""
    program = random_program(seed)
    inputs = inputs_of(seed, program)
    if not why.startswith("crash"):
        program = shrink(program, lambda p: kind(try_program(p, inputs, optimize)) == kind(why))
        why = try_program(program, inputs, optimize) or why
    path = FAILURES / f"graph-{seed}.vtc"
    write(path, program, inputs, why)
    return path


def kind(why: str) -> str:
    """The part of ``why`` that smaller graphs share: out2: ... is out."""
    return why.partition(":")[0].rstrip("0123456789")


class Worker:
    """A process that works off some seeds."""

    def __init__(self, seeds: list[int], optimize: str) -> None:
        self.seeds, self.optimize = seeds, optimize
        self.begun: int | None = None
        given = ",".join(map(str, seeds))
        command = [sys.executable, __file__, "--work", given, f"--optimize={optimize}"]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    def results(self):
        """(seed, why, ops) of each graph; a crash is one."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if not line.startswith("{"):
                continue
            found = json.loads(line)
            if "begin" in found:
                self.begun = found["begin"]
            else:
                self.begun = None
                yield found["end"], found["why"], found["ops"]
        code = self.process.wait()
        if code and self.begun is None:
            raise RuntimeError(f"a worker ended with exit status {code}")
        if code:
            yield self.begun, f"crash: exit status {code}", []


def fuzz(first: int, count: int, optimize: str, chunk: int = 25) -> dict[int, str]:
    """Why each seed that failed did."""
    failed: dict[int, str] = {}
    ops: Counter[str] = Counter()
    start, done = time.perf_counter(), 0
    seeds = list(range(first, first + count))
    todo = [seeds[k : k + chunk] for k in range(0, count, chunk)]
    while todo:
        seeds = todo.pop(0)
        for seed, why, names in Worker(seeds, optimize).results():
            done += 1
            ops.update(names)
            if why:
                failed[seed] = why
                print(f"seed {seed}: {why}", flush=True)
            if why.startswith("crash") and (rest := [s for s in seeds if s > seed]):
                todo.insert(0, rest)
        if done // 250 != (done - len(seeds)) // 250:
            print(f"{done} graphs, {time.perf_counter() - start:.0f} s", flush=True)
    seconds = time.perf_counter() - start
    print(f"{done} graphs, {len(failed)} failed, {len(ops)} ops, {seconds:.0f} s")
    return failed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--graphs", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--optimize", default="-O1", help="of the C compiler: --optimize=-O3")
    parser.add_argument("--keep", action="store_true", help="shrink failures and write them")
    parser.add_argument("--work", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.work:
        work([int(s) for s in args.work.split(",")], args.optimize)
        return 0
    failed = fuzz(args.seed, args.graphs, args.optimize)
    for seed, why in failed.items() if args.keep else ():
        print(f"kept {shrink_one(seed, why, args.optimize)}", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
