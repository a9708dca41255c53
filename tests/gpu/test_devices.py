"""Tensors on a real GPU: every function against the CPU, few eager programs, equal losses."""

import re
import runpy
from pathlib import Path

import numpy as np
import pytest

import vtc
import vtc.nn.functional as F
from vtc import nn
from vtc.errors import VtcWarning

pytestmark = pytest.mark.gpu
TABLE = runpy.run_path(str(Path(__file__).parents[1] / "ops" / "functions_table.py"))
CALLS = [call for rows in TABLE["ROWS"].values() for call, _ in rows if "from_numpy" not in call]


class Words:
    """vtc, with the numbers that rows name."""

    inf = float("inf")

    def __getattr__(self, name):
        return getattr(vtc, name)


def found(call, device):
    """What a row gives with everything on ``device``."""
    arrays = {k: a for k, a in TABLE["operands"]().items() if re.search(rf"\b{k}\b", call)}
    tensors = {k: vtc.tensor(a, device=device) for k, a in arrays.items()}
    vtc.set_default_device(device)
    try:
        return eval(call, {"T": Words(), "F": F, "np": np, **tensors})
    finally:
        vtc.set_default_device("cpu")


@pytest.mark.parametrize("call", CALLS)
def test_functions_give_what_they_give_on_the_cpu(call):
    here, there = found(call, "cpu"), found(call, "cuda")
    many = isinstance(here, tuple)
    for a, b in zip(*((here, there) if many else ((here,), (there,))), strict=True):
        if not isinstance(a, vtc.Tensor):
            assert a == b
            continue
        assert (b.is_cuda, b.type) == (True, a.type)
        x, y = (t.detach().cpu().numpy().astype(np.float64) for t in (a, b))
        half = a.dtype.itemsize == 2
        np.testing.assert_allclose(y, x, rtol=4e-3 if half else 3e-5, atol=1e-3 if half else 1e-5)


def test_strided_copies():
    x = vtc.arange(10_000, device="cuda").reshape(50, 10, 20)
    here = x.cpu()
    assert x.permute(2, 0, 1)[::3, 1:, ::2].cpu().tolist() == (
        here.permute(2, 0, 1)[::3, 1:, ::2].tolist()
    )
    x[1::2, :, 3].fill_(-1)
    here[1::2, :, 3].fill_(-1)
    assert x.tolist() == here.tolist()


def program(n, m):
    x = vtc.randn(n, m, device="cuda")
    return (F.softmax(x @ x.T, -1) * 2 + x[:, :1]).sum(0).exp().mean()


def test_new_shapes_build_no_more_programs():
    rng = np.random.default_rng(0)
    for _ in range(20):
        program(*rng.integers(2, 200, 2))
    before = vtc.stats().eager_compiles
    for _ in range(80):
        program(*rng.integers(2, 200, 2))
    assert vtc.stats().eager_compiles == before


class Net(nn.Module):
    def __init__(self):
        self.up, self.norm, self.down = nn.Linear(16, 64), nn.LayerNorm(64), nn.Linear(64, 10)

    def forward(self, x):
        return self.down(F.gelu(self.norm(self.up(x))))


def losses(device, *, compiled):
    vtc.manual_seed(0)
    net = Net().to(device)
    optimizer = vtc.optim.AdamW(net.parameters(), lr=0.01)
    x, y = vtc.randn(32, 16).to(device), (vtc.arange(32) % 10).to(device)

    def step(x, y):
        loss = F.cross_entropy(net(x), y)
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return loss

    run = vtc.compile(step) if compiled else step
    return [run(x, y).item() for _ in range(10)]


@pytest.mark.parametrize("compiled", [False, True])
def test_training_gives_the_losses_of_the_cpu(compiled):
    here = losses("cpu", compiled=True)
    np.testing.assert_allclose(losses("cuda", compiled=compiled), here, rtol=1e-3)
    assert here[-1] < here[0]


@pytest.mark.filterwarnings("error")
def test_nothing_falls_back_to_the_host():
    try:
        losses("cuda", compiled=True)
    except VtcWarning as said:
        pytest.fail(str(said))
