"""Runs the packages of ``shown_models.py`` where the compiler cannot be imported; needs no pytest.

python shown_outside.py FOLDER cpu numpy 20      # arrays are given by NumPy, or by CuPy

Tokens, scores and the digits' scores go to ``FOLDER/outside-DEVICE-LIBRARY.npz``.
"""

import importlib
import importlib.abc
import sys
from pathlib import Path

import numpy as np

import vtc

BLOCKED = (
    "torch", "triton", "jinja2", "networkx", "rich", "vtc.build", "vtc.codegen", "vtc.frontend",
    "vtc.nn", "vtc.packing", "vtc.passes", "vtc.tuning", "vtc.ir.ops",
)  # fmt: skip


class Blocking(importlib.abc.MetaPathFinder):
    """Refuses what compiles."""

    def find_spec(self, name, path=None, target=None):
        if any(name == b or name.startswith(f"{b}.") for b in BLOCKED):
            raise ImportError(f"{name} is not there")


def tokens_of(prefill, decode, ids, steps):
    """Greedy decoding after a prompt: the tokens, and the scores of the first and the last step.

    ``prefill`` and ``decode`` take and give NumPy arrays.
    """
    found, tokens = prefill(ids), []
    first = found["scores"]
    for k in range(steps):
        tokens.append(int(found["next"][0, 0]))
        found = decode(found["next"], np.array([ids.shape[1] + k]))
    return tokens, first, found["scores"]


def package_tokens(package, ids, steps, library="numpy"):
    """:func:`tokens_of` a package that gets the arrays of a library."""
    give, take = arrays(library)

    def entry(name):
        call = package[name]
        return lambda *given: {k: take(v) for k, v in call(*map(give, given)).items()}

    return tokens_of(entry("prefill"), entry("decode"), ids, steps)


def arrays(library):
    """What makes an argument of a NumPy array, and a NumPy array of a result."""
    if library == "numpy":
        return np.asarray, np.asarray
    cupy = importlib.import_module("cupy")
    return cupy.asarray, lambda result: cupy.asnumpy(cupy.from_dlpack(result))


def main(folder, device, library, steps):
    sys.meta_path.insert(0, Blocking())
    assert not set(BLOCKED) & set(sys.modules)
    ids, images = (np.load(folder / f"{name}.npy") for name in ("ids", "images"))
    gpt = vtc.load(folder / "gpt.vtc", device=device, check="full")
    digits = vtc.load(folder / "digits.vtc", device=device)
    tokens, first, last = package_tokens(gpt, ids, int(steps), library)
    gpt.reset()
    assert package_tokens(gpt, ids, int(steps), library)[0] == tokens
    give, take = arrays(library)
    out = folder / f"outside-{device}-{library}.npz"
    np.savez(
        out, tokens=tokens, first=first, last=last, digits=take(digits(give(images))),
        target=gpt.target,
    )  # fmt: skip
    roots = {name.partition(".")[0] for name in sys.modules}
    assert library != "numpy" or not roots & {"scipy", "cupy"}


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
