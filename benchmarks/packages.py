"""What a model costs once it is a file: vtc beside AOTInductor and ONNX Runtime, on this CPU.

    python -m benchmarks.packages [--json FILE] [--peers vtc,vtc-c,aoti,onnx] [--rounds 5]

A GPT of 4 layers (that of ``cpu.py``) and ``x + 1`` on 8 elements, for the overhead of a call. Each
measurement is a process of its own; peers take turns. Time to the first result counts from the
start of the process, imports and all, with files in the cache of the system. ``needs`` is what has
to be installed: the packages that are imported beyond Python itself, or the program in C.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.workloads import BATCH, TIME, VOCABULARY, Peer, gpt, numbers, whole_numbers
from vtc import lazy

vtc = lazy.module("vtc")
package = lazy.module("vtc.runtime.package")
torch = lazy.module("torch")
inductor = lazy.module("torch._inductor")
onnxruntime = lazy.module("onnxruntime")

HERE = Path(__file__).resolve().parent
NATIVE = HERE.parent / "vtc" / "runtime" / "native"
MODELS = {"gpt": 20, "tiny": 20_000}
"""Models, and how many calls are timed."""
ENTRY = "forward"
C_TYPES = {"gpt": "6", "tiny": "11"}
"""``vtc_dtype`` of the input of each."""
PEERS = {
    "vtc": ("vtc",), "vtc-c": ("vtc",), "aoti": ("torch",),
    "onnx": ("torch", "onnx", "onnxruntime"),
}  # fmt: skip
"""What has to be there to make and to run each."""


def inputs(model: str) -> np.ndarray:
    """The argument of a model."""
    return whole_numbers(VOCABULARY, BATCH, TIME) if model == "gpt" else numbers(8)


# making the files; they are named alike


def make_vtc(model: str, folder: Path) -> Path:
    peer = Peer("vtc", vtc, vtc.compile)
    fn: Any = gpt(peer).eval() if model == "gpt" else lambda x: x + 1
    return vtc.export(fn, (inputs(model),), folder / f"{model}.vtc", example=False)


def make_aoti(model: str, folder: Path) -> Path:
    with torch.no_grad():
        exported = torch.export.export(_torch(model), (torch.from_numpy(inputs(model)),))
        path = str(folder / f"{model}.pt2")
        return Path(inductor.aoti_compile_and_package(exported, package_path=path))


def make_onnx(model: str, folder: Path) -> Path:
    path = folder / f"{model}.onnx"
    given = (torch.from_numpy(inputs(model)),)
    torch.onnx.export(_torch(model), given, path, dynamo=True, external_data=False)
    return path


def _torch(model: str) -> Any:
    class Plus(torch.nn.Module):
        def forward(self, x: Any) -> Any:
            return x + 1

    if model == "tiny":
        return Plus()
    return gpt(Peer("torch", torch, lambda f: f)).eval()


# loading them: each gives a function that is called again and again


def load_vtc(path: Path, threads: int) -> Callable[[np.ndarray], Any]:
    del threads  # VTC_NUM_THREADS
    return package.load(path)


def load_aoti(path: Path, threads: int) -> Callable[[np.ndarray], Any]:
    torch.set_num_threads(threads)
    model = inductor.aoti_load_package(str(path))
    return lambda x: model(torch.from_numpy(x)).numpy()


def load_onnx(path: Path, threads: int) -> Callable[[np.ndarray], Any]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda x: session.run(None, {name: x})[0]


def measure(peer: str, model: str, path: Path, threads: int) -> dict[str, float]:
    """In this process: the first result, and many calls."""
    x = inputs(model)
    begin = time.perf_counter()
    run = globals()[f"load_{peer}"](path, threads)
    loaded = time.perf_counter()
    result = run(x)
    first, epoch = time.perf_counter(), time.time()
    resident = _resident()
    times = []
    for _ in range(MODELS[model]):
        start = time.perf_counter()
        run(x)
        times.append(time.perf_counter() - start)
    np.save(path.with_suffix(f".{peer}.npy"), np.asarray(result))
    return {
        "load": loaded - begin, "first": first - loaded, "epoch": epoch, "resident": resident,
        "call": statistics.median(times), "needs": _installed(),
    }  # fmt: skip


def _resident() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmRSS"))


def _installed() -> int:
    """Bytes of the packages that were imported, Python's own aside."""
    own = Path(os.__file__).parent
    roots = set()
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if file is None or "." in name or name in ("benchmarks", "__main__", "__mp_main__"):
            continue
        path = Path(file)
        if own in path.parents and "site-packages" not in path.parts:
            continue
        roots.add(path.parent if path.name == "__init__.py" else path)
        libraries = path.parent.parent / f"{name}.libs"
        roots |= {libraries} if libraries.is_dir() else set()
    files = {f for r in roots for f in (r.rglob("*") if r.is_dir() else [r])}
    return sum(f.stat().st_size for f in files if f.is_file() and f.suffix != ".pyc")


def in_c(model: str, path: Path, program: Path) -> dict[str, float]:
    """The same by the program in C."""
    x = inputs(model)
    raw = path.with_suffix(".raw")
    raw.write_bytes(x.tobytes())
    words = [program, path, ENTRY, raw, C_TYPES[model], MODELS[model], *x.shape]
    start = time.time()
    done = subprocess.run(list(map(str, words)), capture_output=True, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout)
    return {**found, "total": found["epoch"] - start, "needs": program.stat().st_size}


def build_c(folder: Path) -> Path:
    """The program in C."""
    program = folder / "main"
    sources = [HERE / "packages_main.c", NATIVE / "vtc_runtime.c"]
    flags = ["-std=c11", "-O2", "-pthread", f"-I{NATIVE}", "-s", "-o", program]
    command = [os.environ.get("CC", "cc"), *flags, *sources, "-ldl", "-lm"]
    subprocess.run(list(map(str, command)), check=True)
    return program


def main() -> None:
    """Make the files, measure in turns, print a table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--peers", default=",".join(PEERS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--child", nargs=4, metavar=("DO", "PEER", "MODEL", "PATH"))
    args = parser.parse_args()
    threads = len(os.sched_getaffinity(0))
    if args.child:
        do, peer, model, path = args.child
        if do == "make":
            print(globals()[f"make_{peer}"](model, Path(path)))
        else:
            print(json.dumps(measure(peer, model, Path(path), threads)))
        return
    wanted = args.peers.split(",")
    peers = [p for p in wanted if all(find_spec(m) is not None for m in PEERS[p])]
    for p in wanted:
        if p not in peers:
            print(f"{p}: skipped, it needs {', '.join(PEERS[p])}")
    with tempfile.TemporaryDirectory(prefix="vtc-") as folder:
        results = compare(peers, Path(folder), args.rounds)
    print(table(results))
    if args.json:
        names = sorted({m for p in peers for m in PEERS[p]} | {"numpy"})
        about = {
            "date": datetime.now(UTC).date().isoformat(),
            "device": f"{threads} cores, {platform.machine()}",
            "versions": {name: version(name) for name in names},
            "rounds": args.rounds,
        }
        args.json.write_text(json.dumps({**about, "results": results}, indent=1) + "\n")


def compare(peers: list[str], folder: Path, rounds: int) -> dict[str, Any]:
    """Medians by peer and model."""
    files: dict[tuple[str, str], Path] = {}
    for peer in peers:
        for model in MODELS:
            files[peer, model] = (
                files["vtc", model]
                if peer == "vtc-c" and ("vtc", model) in files
                else Path(child("make", peer.removesuffix("-c"), model, folder).splitlines()[-1])
            )
    program = build_c(folder) if "vtc-c" in peers else None
    runs: dict[tuple[str, str], list[dict[str, float]]] = {key: [] for key in files}
    for _ in range(rounds + 1):
        for (peer, model), path in files.items():
            if peer == "vtc-c":
                assert program is not None
                runs[peer, model].append(in_c(model, path, program))
                continue
            start = time.time()
            found = json.loads(child("measure", peer, model, path).splitlines()[-1])
            runs[peer, model].append({**found, "total": found["epoch"] - start})
    outputs = [np.load(p) for p in folder.glob("gpt.*.npy")]
    results: dict[str, Any] = {"largest_difference": _apart(outputs)}
    for (peer, model), found in runs.items():
        some = found[1:]  # the first reads files from the disk
        medians = {key: statistics.median(r[key] for r in some) for key in some[0]}
        medians["spread"] = max(r["call"] for r in some) / min(r["call"] for r in some)
        results.setdefault(peer, {})[model] = {**medians, "file": files[peer, model].stat().st_size}
    return results


def _apart(outputs: list[np.ndarray]) -> float:
    return max((float(np.abs(o - outputs[0]).max()) for o in outputs), default=0.0)


def child(*words: object) -> str:
    """What a process of its own prints."""
    command = [sys.executable, "-m", "benchmarks.packages", "--child", *map(str, words)]
    done = subprocess.run(command, cwd=HERE.parent, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, words))} failed:\n{done.stderr[-3000:]}")
    return done.stdout


def table(results: dict[str, Any]) -> str:
    """As Markdown."""
    heads = (
        "", "file", "needs", "resident", "load", "first result after", "GPT forward", "small call",
    )  # fmt: skip
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for peer in PEERS:
        if peer not in results:
            continue
        big, small = results[peer]["gpt"], results[peer]["tiny"]
        cells = (
            peer, _mib(big["file"]), _mib(big["needs"]), _mib(big["resident"]),
            f"{1e3 * big['load']:.1f} ms", f"{1e3 * big['total']:.0f} ms",
            f"{1e3 * big['call']:.1f} ms", f"{1e6 * small['call']:.2f} us",
        )  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _mib(nbytes: float) -> str:
    return f"{nbytes / 2**20:.1f} MiB" if nbytes < 100 * 2**20 else f"{nbytes / 2**20:.0f} MiB"


if __name__ == "__main__":
    main()
