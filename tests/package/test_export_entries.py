"""Packages whose entries share weights and state: they compute what compiled functions compute."""

import numpy as np
import pytest

import vtc
import vtc.nn as nn
import vtc.nn.functional as F
from vtc.codegen.c import find_compiler
from vtc.errors import ArgumentError, VtcWarning
from vtc.runtime.machine import best_cpu

TARGET = best_cpu(("cpu-x86-64-v3", "cpu-x86-64-v4")) or ""
pytestmark = [
    pytest.mark.skipif(find_compiler() is None, reason="no C compiler"),
    pytest.mark.skipif(not TARGET, reason="no x86-64 with AVX2"),
]


class Attention(nn.Module):
    """Of one head, with a cache that decoding writes in place."""

    def __init__(self, d: int, context: int) -> None:
        self.qkv, self.out = nn.Linear(d, 3 * d), nn.Linear(d, d)
        self.keys = nn.Buffer(vtc.zeros(1, context, d), persistent=False)
        self.values = nn.Buffer(vtc.zeros(1, context, d), persistent=False)

    def forward(self, x, position):
        q, k, v = self.qkv(x).chunk(3, -1)
        self.keys.index_copy_(1, position, k)
        self.values.index_copy_(1, position, v)
        seen = vtc.arange(self.keys.shape[1]) <= position.unsqueeze(-1)
        y = F.scaled_dot_product_attention(q, self.keys, self.values, attn_mask=seen)
        return self.out(y)


class Lm(nn.Module):
    def __init__(self) -> None:
        self.embed, self.attention = nn.Embedding(11, 16), Attention(16, 12)

    def forward(self, ids, position):
        with vtc.no_grad():
            x = self.embed(ids)
            return F.linear(x + self.attention(x, position), self.embed.weight)  # a tied head


def close(got, want):
    np.testing.assert_allclose(got, want, rtol=2e-5, atol=2e-5)


def test_prefill_and_decode_share_weights_and_cache(tmp_path):
    vtc.manual_seed(0)
    model = Lm()
    ids = vtc.tensor(np.random.default_rng(0).integers(0, 11, (1, 5)))
    first, second = (ids, vtc.arange(5)), (vtc.tensor([[3]]), vtc.tensor([5]))
    path = vtc.export(
        {
            "prefill": vtc.EntryPoint(
                lambda ids, position: model(ids, position),
                first,
                dynamic={"ids": {1: vtc.Dim("T", 1, 12)}, "position": {0: vtc.Dim("T", 1, 12)}},
            ),
            "decode": (model, second),
        },
        path=tmp_path / "lm.vtc",
        targets=[TARGET],
    )
    package = vtc.load(path)
    assert set(package.entries) == {"prefill", "decode"}
    weights = package.manifest.weights
    assert {n for n, w in weights.items() if w.state} == {"attention.keys", "attention.values"}
    assert len(weights) == 7  # the tied head is no weight of its own
    assert not model.attention.keys.numpy().any()  # the example ran on copies
    compiled = vtc.compile(model)
    for length in (5, 3):
        package.reset()
        model.attention.keys.zero_()
        model.attention.values.zero_()
        given = ids[:, :length].clone(), vtc.arange(length)
        close(package.prefill(*given), compiled(*given).numpy())
        for step in range(length, 8):
            given = vtc.tensor([[step]]), vtc.tensor([step])
            close(package.decode(*given), compiled(*given).numpy())
        close(package.state["attention.keys"], model.attention.keys.numpy())


def test_a_training_step_keeps_its_optimizer(tmp_path):
    vtc.manual_seed(0)
    net = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Dropout(0.2), nn.Linear(32, 4))
    optimizer = vtc.optim.AdamW(net.parameters(), lr=1e-2)

    def step(x, y):
        loss = F.cross_entropy(net(x), y)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss

    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((8, 16), np.float32), rng.integers(0, 4, 8)
    batch = vtc.Dim("batch", 1, 64)
    path = vtc.export(
        step, (x, y), tmp_path / "step.vtc", dynamic={0: {0: batch}, 1: {0: batch}},
        targets=[TARGET],
    )  # fmt: skip
    package, compiled = vtc.load(path), vtc.compile(step)
    for n in (8, 5, 8, 1, 8):
        close(package(x[:n], y[:n]), compiled(vtc.tensor(x[:n]), vtc.tensor(y[:n])).numpy())
    for name, p in net.named_parameters():
        close(package.state[name], p.detach().numpy())
    close(package.state["step"], 5.0)
    optimizer.param_groups[0]["lr"] = 0.5
    package.state["param_groups.0.lr"] = np.float32(0.5)
    close(package(x, y), compiled(vtc.tensor(x), vtc.tensor(y)).numpy())
    close(package.state["0.weight"], net[0].weight.detach().numpy())
    package.reset()
    close(package.state["step"], 0.0)


def test_arguments_are_written_in_place_and_results_are_dense(tmp_path):
    held = vtc.arange(6.0)

    def f(x, pair, scale, mode):
        assert mode == "plain"
        x.add_(pair["a"] * scale)
        held.mul_(2.0)
        return {"turned": pair["b"].t(), "x": x, "held": held, "scale": scale, "none": None}

    given = (np.ones(3, np.float32), {"a": np.ones(3, np.float32), "b": np.ones((2, 5), "i1")}, 3.0)
    constant = {"mode": "plain"}
    path = vtc.export(f, given, tmp_path / "f.vtc", kwargs=constant, targets=[TARGET])
    package = vtc.load(path)
    x = np.ones(3, np.float32)
    b = np.arange(10, dtype=np.int8).reshape(2, 5)
    found = package(x, {"a": np.full(3, 2, np.float32), "b": b}, 4.0, mode="plain")
    assert x.tolist() == [9, 9, 9]
    assert found["x"] is x
    assert found["scale"] == 4.0
    assert found["none"] is None
    assert found["turned"].flags.c_contiguous
    assert found["turned"].tolist() == b.T.tolist()
    assert np.asarray(found["held"]).tolist() == [0, 2, 4, 6, 8, 10]
    assert held.tolist() == [0, 1, 2, 3, 4, 5]
    with pytest.raises(ArgumentError, match="mode"):
        package(x, {"a": x.copy(), "b": b}, 4.0, mode="other")


def test_an_entry_may_have_a_name_that_packages_use(tmp_path):
    entries = {"reset": vtc.EntryPoint(lambda x: x + 1, (vtc.ones(2),))}
    with pytest.warns(VtcWarning, match=r"reset is called as package\['reset'\]\(...\)") as warned:
        path = vtc.export(entries, path=tmp_path / "f.vtc", targets=TARGET)
    assert warned[0].filename == __file__
    package = vtc.load(path)
    assert package["reset"](np.ones(2, np.float32)).tolist() == [2, 2]
    assert package.reset() is None
