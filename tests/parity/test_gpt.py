"""The same GPT in PyTorch: 20 training steps give the same losses."""

import numpy as np
import pytest

import vtc
import vtc.nn as nn
import vtc.nn.functional as F

torch = pytest.importorskip("torch", reason="needs the extra 'parity'")

V, T, B, D, HEADS, LAYERS, STEPS = 64, 16, 4, 32, 4, 4, 20


class Block(nn.Module):
    def __init__(self):
        self.norm1, self.norm2 = nn.RMSNorm(D, eps=1e-6), nn.RMSNorm(D, eps=1e-6)
        self.qkv, self.out = nn.Linear(D, 3 * D, bias=False), nn.Linear(D, D)
        self.up, self.down = nn.Linear(D, 4 * D), nn.Linear(4 * D, D)

    def forward(self, x):
        b, t, d = x.shape
        q, k, v = self.qkv(self.norm1(x)).view(b, t, 3, HEADS, d // HEADS).permute(2, 0, 3, 1, 4)
        a = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(a.transpose(1, 2).reshape(b, t, d))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class Gpt(nn.Module):
    def __init__(self):
        self.token, self.place = nn.Embedding(V, D), nn.Embedding(T, D)
        self.blocks = nn.ModuleList([Block() for _ in range(LAYERS)])
        self.norm = nn.LayerNorm(D)
        self.head = nn.Linear(D, V, bias=False)

    def forward(self, ids):
        x = self.token(ids) + self.place(vtc.arange(ids.shape[1]))
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


def torch_twin():
    tn, tf = torch.nn, torch.nn.functional

    class TBlock(tn.Module):
        def __init__(self):
            super().__init__()
            self.norm1, self.norm2 = tn.RMSNorm(D, eps=1e-6), tn.RMSNorm(D, eps=1e-6)
            self.qkv, self.out = tn.Linear(D, 3 * D, bias=False), tn.Linear(D, D)
            self.up, self.down = tn.Linear(D, 4 * D), tn.Linear(4 * D, D)

        def forward(self, x):
            b, t, d = x.shape
            qkv = self.qkv(self.norm1(x)).view(b, t, 3, HEADS, d // HEADS)
            q, k, v = qkv.permute(2, 0, 3, 1, 4)
            a = tf.scaled_dot_product_attention(q, k, v, is_causal=True)
            x = x + self.out(a.transpose(1, 2).reshape(b, t, d))
            return x + self.down(tf.gelu(self.up(self.norm2(x))))

    class TGpt(tn.Module):
        def __init__(self):
            super().__init__()
            self.token, self.place = tn.Embedding(V, D), tn.Embedding(T, D)
            self.blocks = tn.ModuleList([TBlock() for _ in range(LAYERS)])
            self.norm = tn.LayerNorm(D)
            self.head = tn.Linear(D, V, bias=False)

        def forward(self, ids):
            x = self.token(ids) + self.place(torch.arange(ids.shape[1]))
            for block in self.blocks:
                x = block(x)
            return self.head(self.norm(x))

    return TGpt()


def batches():
    rng = np.random.default_rng(0)
    return [rng.integers(0, V, (B, T + 1)) for _ in range(STEPS)]


@pytest.fixture(scope="module")
def step_and_losses():
    vtc.manual_seed(0)
    model = Gpt()
    twin = torch_twin()
    with torch.no_grad():
        for name, p in twin.named_parameters():
            p.copy_(torch.from_numpy(model.state_dict()[name].numpy().copy()))
    optimizer = vtc.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.1)

    @vtc.compile
    def step(ids):
        logits = model(ids[:, :-1])
        loss = F.cross_entropy(logits.reshape(-1, V), ids[:, 1:].reshape(-1))
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return loss

    losses = [step(vtc.from_numpy(ids)).item() for ids in batches()]
    return step, losses, twin


def test_losses_agree_with_torch(step_and_losses):
    _, losses, twin = step_and_losses
    optimizer = torch.optim.AdamW(twin.parameters(), lr=1e-2, weight_decay=0.1)
    want = []
    for ids in batches():
        ids = torch.from_numpy(ids)
        logits = twin(ids[:, :-1])
        loss = torch.nn.functional.cross_entropy(logits.reshape(-1, V), ids[:, 1:].reshape(-1))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(twin.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        want.append(loss.item())
    assert want[-1] < want[0]
    np.testing.assert_allclose(losses, want, rtol=1e-4)


@pytest.mark.parametrize("stage", ["captured", "joint", "lowered", "fused", "planned"])
def test_the_step_is_one_program_that_prints_and_parses(step_and_losses, stage):
    step, _, _ = step_and_losses
    assert len(step.entries) == 1
    program = step.program(stage)
    assert vtc.parse(step.ir(stage)) == program
