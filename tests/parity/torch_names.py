"""Write ``torch_names.txt``: the public names of PyTorch, which ``docs/ops.md`` compares with.

    python tests/parity/torch_names.py          # needs PyTorch; the list was made with 2.13

Public is what does not begin with an underscore and is no module, of those that PyTorch made.
"""

import inspect
import textwrap
from pathlib import Path

FILE = Path(__file__).with_suffix(".txt")
SPACES = ("torch", "torch.nn", "torch.nn.functional", "torch.Tensor", "torch.optim",
          "torch.linalg", "torch.special", "torch.func")  # fmt: skip


def public(space):
    """The public names of a module or a class."""
    return [name for name in sorted(dir(space)) if is_public(space, name)]


def is_public(space, name):
    """Whether ``name`` is one that PyTorch documents, or could."""
    if name.startswith("_"):
        return False
    try:
        value = getattr(space, name)
    except AttributeError:  # a property of classes alone
        return True
    if inspect.ismodule(value):
        return False
    if isinstance(value, float):  # pi, inf
        return True
    home = getattr(value, "__module__", None)
    if callable(value) and isinstance(home, str):
        return home.partition(".")[0] in ("torch", "builtins")
    return inspect.isclass(space) or type(value).__module__.partition(".")[0] == "torch"


def text(version, found):
    """The list as it is in the file."""
    parts = [f"# The public names of PyTorch {version}, by tests/parity/torch_names.py"]
    for space, names in found.items():
        parts += ["", f"[{space}]", textwrap.fill(" ".join(names), 100, break_long_words=False,
                                                  break_on_hyphens=False)]  # fmt: skip
    return "\n".join(parts) + "\n"


def read():
    """The version of PyTorch that the file was made with, and names by module."""
    first, *lines = FILE.read_text().splitlines()
    found = {}
    for line in lines:
        if line.startswith("["):
            found[line[1:-1]] = names = []
        elif line:
            names += line.split()
    return first.split(",")[0].rpartition(" ")[2], found


def collect():
    """What the PyTorch that is installed has."""
    import torch  # noqa: PLC0415  (the list is read where PyTorch is not)
    import torch.nn.functional  # noqa: PLC0415

    version = ".".join(torch.__version__.split("+")[0].split(".")[:2])
    found = {}
    for path in SPACES:
        space = torch
        for part in path.split(".")[1:]:
            space = getattr(space, part)
        found[path] = public(space)
    return version, found


if __name__ == "__main__":
    FILE.write_text(text(*collect()))
