"""Trains a byte-level GPT on the documentation of Python, then lets it write.

    python examples/train_gpt.py --steps 300 --layers 6

Forward, backward, clipping and optimizer are one graph; so is a step of decoding, which writes its
keys and values into a cache in place.
"""

import argparse
import math
import time
from pydoc_data.topics import topics

import numpy as np
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

import vtc
import vtc.nn as nn
import vtc.nn.functional as F

BYTES = 256


class Attention(nn.Module):
    """Causal self-attention with rotary positions."""

    def __init__(self, d: int, heads: int, context: int) -> None:
        self.heads = heads
        self.qkv = nn.Linear(d, 3 * d, bias=False)
        self.out = nn.Linear(d, d, bias=False)
        cache = (1, heads, context, d // heads)
        self.keys = nn.Buffer(vtc.zeros(cache), persistent=False)
        self.values = nn.Buffer(vtc.zeros(cache), persistent=False)

    def forward(self, x, cos, sin, position=None):
        batch, length, d = x.shape
        q, k, v = self.qkv(x).view(batch, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        q, k = (F.rotary_embedding(t, cos, sin) for t in (q, k))
        if position is None:
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        else:
            self.keys.index_copy_(2, position, k)
            self.values.index_copy_(2, position, v)
            seen = vtc.arange(self.keys.shape[2]) <= position
            y = F.scaled_dot_product_attention(q, self.keys, self.values, attn_mask=seen)
        return self.out(y.transpose(1, 2).reshape(batch, length, d))


class Mlp(nn.Module):
    """SwiGLU."""

    def __init__(self, d: int) -> None:
        hidden = (8 * d // 3 + 31) // 32 * 32
        self.gate = nn.Linear(d, hidden, bias=False)
        self.up = nn.Linear(d, hidden, bias=False)
        self.down = nn.Linear(hidden, d, bias=False)

    def forward(self, x):
        return self.down(F.silu(self.gate(x)) * self.up(x))


class Block(nn.Module):
    def __init__(self, d: int, heads: int, context: int) -> None:
        self.attn_norm, self.attn = nn.RMSNorm(d), Attention(d, heads, context)
        self.mlp_norm, self.mlp = nn.RMSNorm(d), Mlp(d)

    def forward(self, x, cos, sin, position=None):
        x = x + self.attn(self.attn_norm(x), cos, sin, position)
        return x + self.mlp(self.mlp_norm(x))


class Gpt(nn.Module):
    def __init__(self, layers: int, d: int, heads: int, context: int) -> None:
        self.embed = nn.Embedding(BYTES, d)
        self.blocks = nn.ModuleList([Block(d, heads, context) for _ in range(layers)])
        self.norm = nn.RMSNorm(d)
        frequency = 10000.0 ** -np.linspace(0, 1, d // heads // 2, endpoint=False)
        angle = np.outer(np.arange(context), frequency).astype(np.float32)
        self.cos = nn.Buffer(vtc.tensor(np.cos(angle)))
        self.sin = nn.Buffer(vtc.tensor(np.sin(angle)))
        for name, p in self.named_parameters():
            if p.ndim == 2:
                residual = name.endswith(("out.weight", "down.weight"))
                nn.init.normal_(p, std=0.02 / math.sqrt(2 * layers) if residual else 0.02)

    def forward(self, ids, position=None):
        """Logits [batch, time, 256]; ``position`` [1] is where the token of a decode step is."""
        here = slice(ids.shape[1]) if position is None else position
        x = self.embed(ids)
        for block in self.blocks:
            x = block(x, self.cos[here], self.sin[here], position)
        return F.linear(self.norm(x), self.embed.weight)  # the head is tied to the embedding


def load_data(context: int, batch: int, rng: np.random.Generator):
    """A source of training batches, and held-out ones: bytes, and the bytes that follow them."""
    text = np.frombuffer("\n".join(topics.values()).encode(), np.uint8).astype(np.int64)
    split = len(text) * 9 // 10

    def windows(part, starts):
        rows = part[starts[:, None] + np.arange(context + 1)]
        return vtc.tensor(rows[:, :-1]), vtc.tensor(rows[:, 1:])

    def draw():
        return windows(text[:split], rng.integers(0, split - context, batch))

    starts = np.linspace(0, len(text) - split - context - 1, 4 * batch).astype(np.int64)
    return draw, [windows(text[split:], s) for s in starts.reshape(4, batch)]


def train(model: Gpt, draw, args) -> None:
    matrices = [p for p in model.parameters() if p.ndim == 2]
    vectors = [p for p in model.parameters() if p.ndim == 1]
    optimizer = vtc.optim.AdamW(
        [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}],
        lr=args.lr,
        betas=(0.9, 0.95),
    )
    warmup = max(args.steps // 10, 1)

    def rate(i: int) -> float:
        done = (i - warmup) / max(args.steps - warmup, 1)
        return (i + 1) / warmup if i < warmup else 0.1 + 0.45 * (1 + math.cos(math.pi * done))

    schedule = vtc.optim.lr_scheduler.LambdaLR(optimizer, rate)

    @vtc.compile  # one graph
    def step(x, y):
        loss = F.cross_entropy(model(x).view(-1, BYTES), y.view(-1))
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return loss

    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[note]}"))
    with Progress("training", *columns, TimeRemainingColumn()) as progress:
        task = progress.add_task("training", total=args.steps, note="compiling")
        start = time.perf_counter()
        for i in range(args.steps):
            loss = step(*draw()).item()
            schedule.step()
            if i == 0:  # the first step compiles
                start = time.perf_counter()
            speed = i * args.batch * args.context / max(time.perf_counter() - start, 1e-9)
            progress.update(task, advance=1, note=f"loss {loss:.3f}, {speed:,.0f} tokens/s")


def write(model: Gpt, prompt: bytes, length: int, temperature: float) -> str:
    """``prompt`` and what the model writes after it, one compiled step per byte."""

    @vtc.compile
    def decode(token, position):
        with vtc.no_grad():
            logits = model(token.view(1, 1), position)[0, -1]
            return vtc.multinomial(F.softmax(logits / temperature, -1), 1)

    text = list(prompt)
    for i in range(min(length, model.cos.shape[0] - 1)):
        token = decode(vtc.tensor(text[i]), vtc.tensor([i]))
        if i + 1 == len(text):
            text.append(token.item())
    return bytes(text).decode(errors="replace")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    sizes = {"steps": 400, "layers": 4, "d-model": 128, "heads": 4, "batch": 8, "context": 128}
    for name, value in {**sizes, "lr": 3e-3, "temperature": 0.7, "seed": 0}.items():
        parser.add_argument(f"--{name}", type=type(value), default=value, help=f"default {value}")
    parser.add_argument("--device", help="cpu or cuda; cuda if there is a GPU")
    args = parser.parse_args()
    vtc.set_default_device(args.device or ("cuda" if vtc.cuda.is_available() else "cpu"))
    vtc.manual_seed(args.seed)
    model = Gpt(args.layers, args.d_model, args.heads, args.context)
    draw, held_out = load_data(args.context, args.batch, np.random.default_rng(args.seed))
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters")

    @vtc.compile
    def loss_of(x, y):
        with vtc.no_grad():
            return F.cross_entropy(model(x).view(-1, BYTES), y.view(-1))

    def report(when: str) -> None:
        loss = sum(loss_of(x, y).item() for x, y in held_out) / len(held_out)
        print(f"held-out loss {when}: {loss:.3f}")

    report("before")
    train(model, draw, args)
    report("after")
    print(write(model, b"The ", args.context, args.temperature))


if __name__ == "__main__":
    main()
