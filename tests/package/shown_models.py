"""What the tests of whole packages export: a GPT that keeps a cache, and the digits conv net.

export_gpt(path, targets)      # prefill(ids[1, T]) and decode(ids[1, 1], position[1])
export_digits(path, targets)   # forward(images[batch, 1, 8, 8])

As a program: python shown_models.py FOLDER TARGET... writes both, and what they take, to a folder.
"""

import importlib.util
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from shown_outside import tokens_of

import vtc
import vtc.nn as nn
import vtc.nn.functional as F

VOCABULARY, CONTEXT, WIDTH, HEADS, LAYERS = 61, 32, 32, 2, 4
LONGEST = 12
"""Tokens of a prompt."""
EXAMPLES = Path(__file__).parents[2] / "examples"


class Attention(nn.Module):
    def __init__(self) -> None:
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        shape = (1, HEADS, CONTEXT, WIDTH // HEADS)
        self.keys = nn.Buffer(vtc.zeros(*shape), persistent=False)
        self.values = nn.Buffer(vtc.zeros(*shape), persistent=False)

    def forward(self, x, position):
        n, t, _ = x.shape
        q, k, v = self.qkv(x).reshape(n, t, 3, HEADS, -1).permute(2, 0, 3, 1, 4).unbind(0)
        self.keys.index_copy_(2, position, k)
        self.values.index_copy_(2, position, v)
        seen = vtc.arange(CONTEXT, device=x.device) <= position.unsqueeze(-1)
        y = F.scaled_dot_product_attention(q, self.keys, self.values, attn_mask=seen)
        return self.out(y.transpose(1, 2).reshape(n, t, WIDTH))


class Block(nn.Module):
    def __init__(self) -> None:
        self.before, self.attention = nn.LayerNorm(WIDTH), Attention()
        self.between = nn.LayerNorm(WIDTH)
        self.mlp = nn.Sequential(
            nn.Linear(WIDTH, 4 * WIDTH), nn.GELU(), nn.Linear(4 * WIDTH, WIDTH)
        )

    def forward(self, x, position):
        x = x + self.attention(self.before(x), position)
        return x + self.mlp(self.between(x))


class Gpt(nn.Module):
    def __init__(self) -> None:
        self.tokens, self.places = nn.Embedding(VOCABULARY, WIDTH), nn.Embedding(CONTEXT, WIDTH)
        self.blocks = nn.ModuleList([Block() for _ in range(LAYERS)])
        self.last, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, VOCABULARY)

    def forward(self, ids, position):
        with vtc.no_grad():
            x = self.tokens(ids) + self.places(position)
            for block in self.blocks:
                x = block(x, position)
            scores = self.head(self.last(x[:, -1]))
            return {"next": scores.argmax(-1, keepdim=True), "scores": scores}


def gpt():
    """The model, the same in every process."""
    vtc.manual_seed(3)
    return Gpt()


def prefill_of(model):
    """The entry that takes a whole prompt."""

    def prefill(ids):
        return model(ids, vtc.arange(ids.shape[1], device=ids.device))

    return prefill


def export_gpt(path, targets):
    model = gpt()
    entries = {
        "prefill": vtc.EntryPoint(
            prefill_of(model), (prompt(5),), dynamic={"ids": {1: vtc.Dim("T", 1, LONGEST)}}
        ),
        "decode": vtc.EntryPoint(model, (vtc.tensor([[1]]), vtc.tensor([5]))),
    }
    return vtc.export(entries, path=path, targets=targets)


def prompt(length):
    return (vtc.arange(length) * 7 % VOCABULARY).reshape(1, length)


def digits():
    """The conv net of ``examples/train_digits.py``, and images: of scikit-learn, if it is there."""
    there = importlib.util.find_spec("sklearn") is not None
    if not there:
        stand_in = SimpleNamespace(load_digits=None, train_test_split=None)
        sys.modules["sklearn.datasets"] = sys.modules["sklearn.model_selection"] = stand_in
    spec = importlib.util.spec_from_file_location("train_digits", EXAMPLES / "train_digits.py")
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    vtc.manual_seed(0)
    noise = np.random.default_rng(0).uniform(-1, 1, (64, 1, 8, 8)).astype("f4")
    return module.ConvNet().eval(), module.load_data(0)[1] if there else noise


def export_digits(path, targets):
    net, images = digits()
    batch = vtc.Dim("batch", 1, 64)
    return vtc.export(net, (images[:8],), path, dynamic={"x": {0: batch}}, targets=targets)


def export_step(path, targets):
    vtc.manual_seed(0)
    net = nn.Linear(4, 2)
    optimizer = vtc.optim.AdamW(net.parameters(), lr=1e-2)

    def step(x, y):
        loss = F.mse_loss(net(x), y)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss

    batch = {0: vtc.Dim("batch", 1, 64)}
    x, y = vtc.randn(8, 4), vtc.randn(8, 2)
    entries = {
        "step": vtc.EntryPoint(step, (x, y), dynamic={"x": batch, "y": batch}),
        "predict": vtc.EntryPoint(net, (x,), dynamic={0: batch}),
    }
    return vtc.export(entries, path=path, targets=targets)


def compiled_tokens(steps, device="cpu"):
    """What the compiled model generates, as :func:`shown_outside.tokens_of` has it; and what
    compiled it, prefill and decode.

    Prompts have any length, as in the package.
    """
    model = gpt().to(device)
    prefill, decode = vtc.compile(prefill_of(model)), vtc.compile(model)

    def first(ids):
        x = vtc.tensor(ids, device=device)
        vtc.mark_dynamic(x, 1, min=1, max=LONGEST, name="T")
        return arrays(prefill(x))

    def then(ids, position):
        return arrays(decode(*(vtc.tensor(a, device=device) for a in (ids, position))))

    return tokens_of(first, then, prompt(5).numpy(), steps), (prefill, decode)


def arrays(found):
    return {name: x.cpu().numpy() for name, x in found.items()}


def write(folder, targets):
    """Both packages, and what they are given."""
    export_gpt(folder / "gpt.vtc", targets)
    export_digits(folder / "digits.vtc", targets)
    np.save(folder / "ids.npy", prompt(5).numpy())
    np.save(folder / "images.npy", digits()[1][:13])


if __name__ == "__main__":
    write(Path(sys.argv[1]), sys.argv[2:])
    loaded = Path("/proc/self/maps").read_text()
    assert "libcuda" not in loaded, "no driver is needed to make a package"
