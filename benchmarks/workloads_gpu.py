"""What ``gpu.py`` runs: one source for vtc and PyTorch.

work = WORKLOADS["mlp"](peer)       # see Workload
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

from benchmarks.llama_gpu import decode, prefill
from benchmarks.peer_gpu import Peer, Workload, integers
from benchmarks.vit_gpu import vit_b1, vit_b64, vit_step
from benchmarks.workloads import numbers


def mlp(peer: Peer) -> Workload:
    """MNIST MLP 784-256-10, b128, SGD, fp32"""
    nn, F = peer.library.nn, peer.library.nn.functional
    x, y = peer.tensor(numbers(128, 784)), peer.tensor(integers(10, 128))

    def make() -> tuple[Any, Any]:
        model = peer.ready(nn.Sequential(nn.Linear(784, 256), nn.ReLU(), nn.Linear(256, 10)))
        return model, peer.library.optim.SGD(model.parameters(), lr=0.01)

    return Workload(make, lambda model, x, y: F.cross_entropy(model(x), y), (x, y))


def gpt(peer: Peer, vocabulary: int, time: int, width: int, heads: int, layers: int) -> Any:
    """A GPT with learned places, pre-norm blocks and a tied head."""
    nn, F = peer.library.nn, peer.library.nn.functional

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
            self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
            self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

        def forward(self, x: Any) -> Any:
            b, t, d = x.shape
            qkv = self.qkv(self.norm1(x)).view(b, t, 3, heads, d // heads)
            q, k, v = qkv.permute(2, 0, 3, 1, 4)
            a = F.scaled_dot_product_attention(q, k, v, is_causal=True)
            x = x + self.out(a.transpose(1, 2).reshape(b, t, d))
            return x + self.down(F.gelu(self.up(self.norm2(x)), approximate="tanh"))

    class Gpt(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.token, self.place = nn.Embedding(vocabulary, width), nn.Embedding(time, width)
            self.blocks = nn.ModuleList([Block() for _ in range(layers)])
            self.norm = nn.LayerNorm(width)

        def forward(self, ids: Any) -> Any:
            x = self.token(ids) + self.place.weight
            for block in self.blocks:
                x = block(x)
            return F.linear(self.norm(x), self.token.weight)

    return peer.ready(Gpt())


def _language(
    peer: Peer, sizes: tuple[int, int, int, int, int], batch: int, optimizer: str, *, narrow: bool
) -> Workload:
    F = peer.library.nn.functional
    vocabulary, time = sizes[:2]
    ids, next_ids = (peer.tensor(integers(vocabulary, batch, time, seed=s)) for s in (9, 10))

    def make() -> tuple[Any, Any]:
        model = gpt(peer, *sizes)
        if optimizer == "SGD":
            return model, peer.library.optim.SGD(model.parameters(), lr=0.1)
        return model, peer.library.optim.AdamW(model.parameters(), lr=3e-4)

    def loss(model: Any, ids: Any, next_ids: Any) -> Any:
        with peer.autocast() if narrow else nullcontext():
            logits = model(ids)
            return F.cross_entropy(logits.reshape(-1, vocabulary), next_ids.reshape(-1))

    return Workload(make, loss, (ids, next_ids))


def transformer(peer: Peer) -> Workload:
    """Transformer V256 d128 h4 L2, 4x32, SGD, fp32"""
    return _language(peer, (256, 32, 128, 4, 2), 4, "SGD", narrow=False)


def reverse(peer: Peer) -> Workload:
    """miniGPT reverse V36 d128 h4 L2, 64x64, SGD, fp32"""
    return _language(peer, (36, 64, 128, 4, 2), 64, "SGD", narrow=False)


def shakespeare(peer: Peer) -> Workload:
    """miniGPT Shakespeare V4096 d256 h8 L6, 64x128, AdamW, fp32"""
    return _language(peer, (4096, 128, 256, 8, 6), 64, "AdamW", narrow=False)


def gpt2_step(peer: Peer) -> Workload:
    """GPT-2 124M, 8x1024, bf16 autocast, AdamW"""
    return _language(peer, (50304, 1024, 768, 12, 12), 8, "AdamW", narrow=True)


def gpt2_forward(peer: Peer) -> Workload:
    """GPT-2 124M forward, 8x1024, bf16"""
    ids = peer.tensor(integers(50304, 8, 1024))

    def logits(model: Any, ids: Any) -> Any:
        with peer.library.no_grad(), peer.autocast():
            return model(ids)

    return Workload(lambda: (gpt(peer, 50304, 1024, 768, 12, 12), None), logits, (ids,))


def overhead(peer: Peer) -> Workload:
    """x + 1 on 8 elements"""
    return Workload(lambda: (None, None), lambda model, x: x + 1, (peer.tensor(numbers(8)),))


WORKLOADS = {
    w.__name__: w
    for w in (
        mlp,
        transformer,
        reverse,
        shakespeare,
        vit_step,
        gpt2_step,
        gpt2_forward,
        vit_b64,
        vit_b1,
        prefill,
        decode,
        overhead,
    )
}
"""In the order of the table."""
