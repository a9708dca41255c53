"""What the tests of whole packages export: a GPT that keeps a cache, and the digits conv net.

export_gpt(path, targets)      # prefill(ids[1, T]) and decode(ids[1, 1], position[1])
export_digits(path, targets)   # forward(images[batch, 1, 8, 8])
"""

import importlib.util
import sys
from pathlib import Path

import vtc
import vtc.nn as nn
import vtc.nn.functional as F

VOCABULARY, CONTEXT, WIDTH, HEADS, LAYERS = 61, 32, 32, 2, 4
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
        seen = vtc.arange(CONTEXT) <= position.unsqueeze(-1)
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


def export_gpt(path, targets):
    model = gpt()
    length = vtc.Dim("T", 1, 12)

    def prefill(ids):
        return model(ids, vtc.arange(ids.shape[1]))

    entries = {
        "prefill": vtc.EntryPoint(prefill, (prompt(5),), dynamic={"ids": {1: length}}),
        "decode": vtc.EntryPoint(model, (vtc.tensor([[1]]), vtc.tensor([5]))),
    }
    return vtc.export(entries, path=path, targets=targets)


def prompt(length):
    return (vtc.arange(length) * 7 % VOCABULARY).reshape(1, length)


def digits():
    """The conv net of ``examples/train_digits.py``, and images of scikit-learn."""
    spec = importlib.util.spec_from_file_location("train_digits", EXAMPLES / "train_digits.py")
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    vtc.manual_seed(0)
    return module.ConvNet().eval(), module.load_data(0)[1]


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
