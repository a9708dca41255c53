"""A little of everything, to run under compute-sanitizer: see ``test_sanitizer.py``.

python sanitized.py cuda memory products attention training

What it computes is compared with the CPU, so that a run by itself is a test too. The sizes are
awkward: no multiple of a block.
"""

import sys

import numpy as np

import vtc
import vtc.nn.functional as F
from vtc import nn


def tensor(*shape, dtype=np.float32, seed=0):
    return vtc.tensor(np.random.default_rng(seed).normal(size=shape).astype(dtype))


def integers(high, *shape, seed=0):
    return vtc.tensor(np.random.default_rng(seed).integers(0, high, shape))


def alike(function, *arguments, device, error=1e-4):
    """``function``, compiled on ``device``, twice, and on the CPU op by op."""
    want = function(*arguments)
    there = [a.to(device) for a in arguments]
    compiled = vtc.compile(function)
    for _ in range(2):
        got = compiled(*there)
        for g, w in zip(_leaves(got), _leaves(want), strict=True):
            a, b = (np.asarray(t.to("cpu").to(vtc.float64).tolist()) for t in (g, w))
            scale = np.abs(b).max(initial=1.0)
            assert np.abs(a - b).max(initial=0.0) <= error * scale, function.__name__


def _leaves(result):
    return result if isinstance(result, tuple) else (result,)


def memory(device):
    """The allocator, copies, views; on a GPU streams, events and pinned memory too."""
    kept = [tensor(n, 7).to(device) for n in (1, 100, 33, 5000)]
    del kept[1]
    assert sum(k.shape[0] for k in kept) == 5034
    x = tensor(45, 33).to(device)
    strided = x.T[1:20, ::3] + 1
    assert strided.to("cpu").tolist() == (x.to("cpu").T[1:20, ::3] + 1).tolist()
    if device == "cpu":
        return
    side, here = vtc.cuda.Stream(priority=-1), vtc.cuda.current_stream()
    with vtc.cuda.stream(side):
        y = tensor(1000, 3).pin_memory().to(device, non_blocking=True) * 2
        done = side.record_event()
    here.wait_event(done)
    y.record_stream(here)
    z = y + 1
    del y
    back = z.to("cpu", non_blocking=True)
    vtc.cuda.synchronize()
    assert back.shape == (1000, 3)
    vtc.cuda.empty_cache()


def graphs(device):
    """A program at several sizes, with numbers that go along, and with inputs that move."""

    def step(x, rate):
        return (x * rate + x.sum(-1, keepdim=True)).exp()

    compiled = vtc.compile(step, dynamic=True)
    for n, rate in ((5, 0.1), (33, 0.2), (5, 0.3), (70, 0.1)):
        x = tensor(n, 9) * 0.1
        got = compiled(x.to(device), vtc.tensor(rate))
        want = step(x, vtc.tensor(rate))
        assert np.allclose(got.to("cpu").tolist(), want.tolist(), rtol=1e-4)


def products(device):
    """Products with tensor cores and without, descriptors, vectors, epilogues."""

    def product(x, y):
        return x @ y

    def beside(x, y, b):
        return F.gelu(x @ y + b)

    for kind, error in ((np.float32, 1e-4), (np.float16, 1e-2), (np.float64, 1e-9)):
        x, y = tensor(70, 45, dtype=kind), tensor(45, 50, dtype=kind, seed=1)
        alike(product, x, y, device=device, error=error)
        alike(beside, x, y, tensor(50, dtype=kind), device=device, error=error)
    big = [tensor(n, m).to(vtc.bfloat16) for n, m in ((300, 256), (256, 264))]
    alike(product, *big, device=device, error=2e-2)
    alike(product, tensor(1, 300), tensor(300, 77), device=device)
    alike(product, tensor(3, 20, 30), tensor(3, 30, 17), device=device)


def attention(device):
    """Attention and its gradient, causal and not."""

    def causal(q, k, v):
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)

    def both(q, k, v):
        slopes = vtc.grad(lambda *qkv: (causal(*qkv) * v).sum(), argnums=(0, 1, 2))
        return (causal(q, k, v), *slopes(q, k, v))

    def forward(q, k, v):
        return F.scaled_dot_product_attention(q, k, v)

    few = [tensor(2, 3, 75, 32, seed=s) for s in range(3)]
    alike(both, *few, device=device, error=1e-3)
    half = [t.to(vtc.float16) for t in few]
    alike(forward, *half, device=device, error=1e-2)


def indices(device):
    """Gathers and scatters, with repeated indices."""

    def gathered(x, i):
        return x[i], x.gather(0, i.reshape(-1, 1))

    def scattered(x, i, y):
        return x.index_add(0, i, y), x.scatter_add(0, i.reshape(-1, 1), y)

    x, i = tensor(37, 5), integers(37, 90)
    alike(gathered, x, i, device=device)
    alike(scattered, x, i, tensor(90, 5, seed=2), device=device)


def softmax(device):
    def rows(x):
        return x.softmax(-1), x.logsumexp(0)

    alike(rows, tensor(35, 300), device=device)
    alike(rows, tensor(3, 9000), device=device)


def norms(device):
    def normed(x, w):
        return F.layer_norm(x, (w.shape[0],), w), F.rms_norm(x, (w.shape[0],), w)

    alike(normed, tensor(35, 100), tensor(100), device=device)


def sums(device):
    def summed(x):
        return x.sum(), x.sum(0), x.mean(-1), x.argmax(-1)

    alike(summed, tensor(75, 333), device=device)


def training(device):
    """Steps of a small model, forward, backward and optimizer in one graph; its loss falls."""

    class Model(nn.Module):
        def __init__(self):
            self.token, self.norm = nn.Embedding(29, 32), nn.LayerNorm(32)
            self.qkv, self.head = nn.Linear(32, 96), nn.Linear(32, 29)

        def forward(self, ids):
            x = self.token(ids)
            q, k, v = self.qkv(self.norm(x)).view(*ids.shape, 3, 2, 16).permute(2, 0, 3, 1, 4)
            a = F.scaled_dot_product_attention(q, k, v, is_causal=True)
            return self.head(x + a.transpose(1, 2).reshape(*ids.shape, 32))

    vtc.manual_seed(0)
    model = Model().to(device)
    optimizer = vtc.optim.AdamW(model.parameters(), lr=1e-2)

    @vtc.compile
    def step(ids):
        loss = F.cross_entropy(model(ids).reshape(-1, 29), ids.reshape(-1))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss

    losses = [step(integers(29, 3, 19).to(device)).item() for _ in range(5)]
    assert losses[-1] < losses[0], losses


PARTS = (memory, graphs, products, attention, indices, softmax, norms, sums, training)


def main(device, *names):
    """Run the named parts, or all."""
    known = {part.__name__: part for part in PARTS}
    for name in names or known:
        known[name](device)
        print("done:", name, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
