"""Tensors on a GPU, as users meet them; on the simulated one, where ops without a kernel run on
the host."""

import gc
import re
import runpy
from pathlib import Path

import numpy as np
import pytest
from simulated import Simulated

import vtc
import vtc.nn.functional as F
from vtc import nn
from vtc.errors import DeviceError, GradientError, VtcError
from vtc.frontend.functions import random
from vtc.runtime.cuda.driver import installed

pytestmark = pytest.mark.filterwarnings("ignore::vtc.errors.VtcWarning")
TABLE = runpy.run_path(str(Path(__file__).parents[1] / "ops" / "functions_table.py"))
CALLS = [call for rows in TABLE["ROWS"].values() for call, _ in rows if "from_numpy" not in call]


@pytest.fixture(autouse=True, scope="module")
def gpus():
    """One driver for all tests here: default generators keep memory of it."""
    with installed(Simulated(2)) as gpus:
        yield gpus
        for device in [d for d in random._defaults if d.type == "cuda"]:
            del random._defaults[device]
        gc.collect()


def refused(kind, pattern):
    """An error that names this file."""
    return pytest.raises(kind, match=re.compile(f"{pattern}.*test_frontend.py", re.DOTALL))


def on(device, **arrays):
    return {k: vtc.tensor(a, device=device) for k, a in arrays.items()}


# where tensors are


def test_cuda_is_the_current_gpu():
    x = vtc.zeros(2, 3, device="cuda")
    assert x.device == vtc.device("cuda:0")
    assert x.is_cuda
    assert vtc.ones(2, device="cuda:1").device == vtc.device("cuda:1")
    assert not x.cpu().is_cuda


def test_no_such_gpu():
    with refused(DeviceError, "expected cuda:0 to cuda:1, got 'cuda:2'"):
        vtc.zeros(2, device="cuda:2")
    with refused(DeviceError, "expected cuda:0 to cuda:1, got 'cuda:7'"):
        vtc.set_default_device("cuda:7")


def test_the_default_device():
    vtc.set_default_device("cuda")
    try:
        made = [vtc.zeros(2), vtc.tensor([1.0]), vtc.arange(3), vtc.randn(2), vtc.eye(2)]
        assert {x.device for x in made} == {vtc.device("cuda:0")}
        assert nn.Linear(2, 3).weight.is_cuda
    finally:
        vtc.set_default_device("cpu")


@pytest.mark.parametrize("dtype", [vtc.float32, vtc.float64, vtc.float16, vtc.bfloat16, vtc.int64])
def test_there_and_back(dtype):
    x = vtc.tensor([[1, 2, 3], [4, 5, 6]], dtype=dtype)
    for y in (x.cuda(), x.to("cuda:1").to("cuda:0"), x.T.cuda().T):
        assert y.dtype is dtype
        assert y.tolist() == x.tolist()
    assert x.cuda().to(x).device == x.device
    assert x.cuda(1).device == vtc.device("cuda:1")


def test_made_on_the_device_are_the_same_numbers():
    for make in (
        lambda d: vtc.full((2, 3), 7.5, device=d),
        lambda d: vtc.full((3,), -1, device=d),
        lambda d: vtc.arange(2, 11, 3, device=d),
        lambda d: vtc.linspace(0, 1, 7, device=d),
        lambda d: vtc.eye(3, 4, device=d),
        lambda d: vtc.ones(0, 4, device=d),
        lambda d: vtc.empty(2, device=d),
        lambda d: vtc.randint(0, 9, (5,), device=d),
        lambda d: vtc.randperm(6, device=d),
    ):
        vtc.manual_seed(3)
        assert make("cuda").tolist() == make("cpu").tolist()


def test_random_numbers_of_a_device():
    vtc.manual_seed(0)
    there = [vtc.rand(2, 3, device="cuda"), vtc.randn(4, device="cuda")]
    vtc.manual_seed(0)
    here = [vtc.rand(2, 3), vtc.randn(4)]
    for a, b in zip(there, here, strict=True):
        np.testing.assert_array_equal(a.cpu().numpy(), b.numpy())
    g = vtc.Generator("cuda").manual_seed(5)
    assert g.get_state().is_cuda
    with refused(DeviceError, "expected a generator on cpu, got one on cuda:0"):
        vtc.rand(2, generator=g, device="cpu")


def test_numbers_and_text_come_from_the_device():
    x = vtc.tensor(2.5, device="cuda")
    assert (x.item(), float(x), int(x), bool(x), x.tolist()) == (2.5, 2.5, 2, True, 2.5)
    assert str(vtc.ones(2, device="cuda")) == "tensor([1., 1.], device='cuda:0')"
    assert f"{x:.1f}" == "2.5"


def test_the_host_reads_no_memory_of_a_gpu():
    x = vtc.ones(2, device="cuda")
    with refused(DeviceError, r"numpy\(\): expected a tensor on the cpu, got one on cuda:0"):
        x.numpy()
    with refused(DeviceError, "use .cpu\\(\\) first"):
        np.asarray(x)


def test_pinned_memory():
    x = vtc.arange(4.0).pin_memory()
    assert x.is_pinned()
    assert x.pin_memory() is x
    assert x.to("cuda", non_blocking=True).tolist() == [0, 1, 2, 3]
    assert not vtc.ones(2).is_pinned()


def test_record_stream():
    vtc.ones(3, device="cuda").record_stream(vtc.cuda.Stream())


# one device


def test_mixed_devices():
    x = vtc.ones(2, 3, device="cuda")
    with refused(DeviceError, "add: expected one device, got cpu and cuda:0: .*f32\\[2, 3\\]"):
        x + vtc.ones(2, 3)
    with refused(DeviceError, "cuda:0 and cuda:1"):
        x + x.to("cuda:1")
    with refused(DeviceError, "in-place write: expected one device"):
        x[0] = vtc.ones(3)


def test_numbers_on_the_cpu_go_with_any():
    x = vtc.ones(2, 3, device="cuda")
    half = vtc.tensor(0.5)
    assert (x * half).tolist() == (x.cpu() * half).tolist()
    assert vtc.where(x > 0, half, x).device == x.device
    assert vtc.compile(lambda x, s: x * s)(x, half).tolist() == [[0.5] * 3] * 2
    x[0] = half
    assert x.tolist() == [[0.5] * 3, [1] * 3]
    with refused(DeviceError, "expected one device"):
        vtc.tensor(2.0, device="cuda") + vtc.ones(3)


# views and writes


def test_views_share_memory_and_launch_nothing():
    x = vtc.arange(24.0, device="cuda").reshape(2, 3, 4)
    before = vtc.stats().eager_calls
    views = [x.T, x[1], x[:, ::2], x.permute(2, 0, 1), x[..., None].expand(2, 3, 4, 2), x.view(-1)]
    views += [x.view(vtc.int32), x.view(vtc.int16), x[:, 1].view(vtc.float64)]
    assert vtc.stats().eager_calls == before
    assert all(v._storage is x._storage for v in views)
    here = x.cpu()
    assert [v.tolist() for v in views] == [
        v.tolist()
        for v in (
            here.T, here[1], here[:, ::2], here.permute(2, 0, 1),
            here[..., None].expand(2, 3, 4, 2), here.view(-1),
            here.view(vtc.int32), here.view(vtc.int16), here[:, 1].view(vtc.float64),
        )
    ]  # fmt: skip


@pytest.mark.parametrize(
    "write",
    [
        lambda x: x.zero_(),
        lambda x: x.fill_(3.0),
        lambda x: x[1:].copy_(x[:-1]),
        lambda x: x[:, 1].add_(10),
        lambda x: x.T[2].mul_(2),
        lambda x: x[::2, ::3].fill_(-1),
        lambda x: x.view(-1)[3:9].copy_(vtc.arange(6.0, device=x.device)),
        lambda x: x[1].view(vtc.int32)[1:].fill_(0x40490FDB),
        lambda x: x.view(vtc.uint8)[..., 3::4].fill_(64),
        lambda x: x.__setitem__(x > 7, 0.0),
        lambda x: x.__setitem__((slice(None), [0, 2]), 5.0),
        lambda x: x.index_add_(0, vtc.tensor([0, 2, 0], device=x.device), x.clone()),
        lambda x: x.T.copy_(vtc.ones(4, 3)),
    ],
)
def test_writes_go_through_views(write):
    here, there = vtc.arange(12.0).reshape(3, 4), vtc.arange(12.0, device="cuda").reshape(3, 4)
    write(here)
    write(there)
    assert there.tolist() == here.tolist()


def test_a_repetition_is_not_writable():
    with pytest.raises(VtcError, match="clone"):
        vtc.ones(1, device="cuda").expand(3).mul_(2)


def test_a_repetition_is_filled():
    base = vtc.ones(2, 1, device="cuda")
    base.expand(2, 3).fill_(2)
    base[:1].expand(5, 1).t()[0].fill_(7)
    assert base.tolist() == [[7], [2]]


def test_clones_are_apart():
    x = vtc.arange(6.0, device="cuda").reshape(2, 3)
    for y in (x.clone(), x.T.clone(), vtc.tensor(x), x.contiguous().clone()):
        assert y._storage is not x._storage
        y.fill_(0)
    assert x.sum().item() == 15


# every function


def found(call, device):
    """What a row gives with everything on ``device``."""
    arrays = {k: a for k, a in TABLE["operands"]().items() if re.search(rf"\b{k}\b", call)}
    words = {"T": Words(), "F": F, "np": np, **on(device, **arrays)}
    vtc.set_default_device(device)
    try:
        return eval(call, words)
    finally:
        vtc.set_default_device("cpu")


class Words:
    """vtc, with the numbers that rows name."""

    inf = float("inf")

    def __getattr__(self, name):
        return getattr(vtc, name)


@pytest.mark.parametrize("call", CALLS)
def test_functions_give_what_they_give_on_the_cpu(call):
    here, there = found(call, "cpu"), found(call, "cuda")
    many = isinstance(here, tuple)
    for a, b in zip(*((here, there) if many else ((here,), (there,))), strict=True):
        if not isinstance(a, vtc.Tensor):
            assert a == b
            continue
        assert b.is_cuda
        assert b.type == a.type
        x, y = (t.detach().cpu().numpy().astype(np.float64) for t in (a, b))
        np.testing.assert_allclose(y, x, rtol=1e-5, atol=1e-6)


# gradients


def test_gradients_are_on_the_device_of_the_leaf():
    arrays = {"x": np.linspace(-1, 1, 12, dtype="f4").reshape(3, 4), "w": np.ones((4, 2), "f4")}
    found = []
    for device in ("cpu", "cuda"):
        t = on(device, **arrays)
        for leaf in t.values():
            leaf.requires_grad_()
        loss = (F.softmax(t["x"] @ t["w"], -1).log() * 0.5).mean() + t["x"][1:].T.exp().sum()
        loss.backward()
        assert {leaf.grad.device for leaf in t.values()} == {loss.device}
        found.append([leaf.grad.tolist() for leaf in t.values()])
    for a, b in zip(*found, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_second_gradients_of_calls_with_numbers():
    x = vtc.tensor([1.0, 2.0, 3.0], device="cuda", requires_grad=True)
    for _ in range(4):  # the third call is a known one
        (first,) = vtc.autograd.grad((2 * x * x / 4).sum(), [x], create_graph=True)
        (second,) = vtc.autograd.grad((first * first).sum(), [x])
        assert first.tolist() == [1, 2, 3]
        assert second.tolist() == [2, 4, 6]
        assert second.device == x.device


def test_gradients_flow_back_through_a_move():
    x = vtc.ones(3, requires_grad=True)
    (x.cuda() * 2).to("cuda:1").sum().backward()
    assert x.grad.device.type == "cpu"
    assert x.grad.tolist() == [2, 2, 2]
    with pytest.raises(GradientError):
        vtc.ones(2).cuda().sum().backward()


# compiled


def test_a_compiled_function_runs_where_its_inputs_are():
    f = vtc.compile(lambda x, w: F.relu(x @ w) + 1.0)
    x, w = vtc.randn(4, 3), vtc.randn(3, 5)
    for device in ("cpu", "cuda:0", "cuda:1"):
        for _ in range(4):
            y = f(x.to(device), w.to(device))
            assert y.device == vtc.device(device)
            np.testing.assert_allclose(y.tolist(), f(x, w).tolist(), rtol=1e-5, atol=1e-6)
    assert len(f.entries) == 3
    assert "cuda:1" in f.explain()


def test_a_compiled_function_keeps_to_one_device():
    x = vtc.ones(3, device="cuda")
    with refused(DeviceError, "add: expected one device"):
        vtc.compile(lambda a, b: a + b)(x, vtc.ones(3))
    with refused(DeviceError, "expected inputs and results on one device, got cuda:0 .* and cpu"):
        vtc.compile(lambda a, b: (a + 1, b + 1))(x, vtc.ones(3))
    with refused(DeviceError, "expected inputs and results on one device"):
        vtc.compile(lambda a: (a * 2).cpu())(x)


def test_constants_of_a_trace_are_on_its_device():
    table = np.arange(100, dtype=np.float32)

    @vtc.compile
    def f(x):
        mask = vtc.arange(100, device=x.device) > 50
        return vtc.where(mask, x + vtc.tensor(table, device=x.device), vtc.zeros_like(x))

    x = vtc.ones(100, device="cuda")
    for _ in range(3):
        assert f(x).tolist() == [n + 1 if n > 50 else 0 for n in range(100)]


def test_a_compiled_function_without_inputs():
    f = vtc.compile(lambda: vtc.full((3,), 2.0, device="cuda") * 2)
    for _ in range(3):
        assert f().device == vtc.device("cuda:0")
        assert f().tolist() == [4, 4, 4]


def test_random_numbers_of_a_compiled_function():
    f = vtc.compile(lambda x: x + vtc.rand(3, device=x.device))
    x = vtc.zeros(3, device="cuda")
    vtc.manual_seed(1)
    drawn = [f(x).tolist() for _ in range(4)]
    vtc.manual_seed(1)
    assert drawn == [vtc.rand(3).tolist() for _ in range(4)]


class Net(nn.Module):
    def __init__(self):
        self.up, self.norm, self.down = nn.Linear(4, 8), nn.LayerNorm(8), nn.Linear(8, 3)
        self.seen = nn.Buffer(vtc.zeros((), dtype=vtc.int64))

    def forward(self, x):
        with vtc.no_grad():
            self.seen.add_(1)
        return self.down(F.gelu(self.norm(self.up(x))))


def train(device, *, compiled):
    vtc.manual_seed(0)
    net = Net().to(device)
    optimizer = vtc.optim.AdamW(net.parameters(), lr=0.05)
    x = vtc.tensor(np.linspace(-1, 1, 24, dtype="f4").reshape(6, 4), device=device)
    y = vtc.tensor([0, 1, 2, 0, 1, 2], device=device)

    def step(x, y):
        loss = F.cross_entropy(net(x), y)
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return loss

    run = vtc.compile(step) if compiled else step
    losses = [run(x, y).item() for _ in range(4)]
    places = {t.device for t in (*net.parameters(), *net.buffers())}
    places |= {t.device for s in optimizer.state.values() for t in s.values()}
    assert places == {x.device}
    assert net.seen.item() == 4
    return losses


@pytest.mark.parametrize("compiled", [False, True])
def test_training_gives_the_losses_of_the_cpu(compiled):
    here = train("cpu", compiled=compiled)
    np.testing.assert_allclose(train("cuda", compiled=compiled), here, rtol=1e-4)
    assert here[-1] < here[0]


def test_a_compiled_model_with_a_backward_of_its_own():
    vtc.manual_seed(0)
    net = Net().cuda()
    fast, x = vtc.compile(net), vtc.randn(5, 4).cuda()
    for _ in range(3):
        fast(x).sum().backward()
    found = net.up.weight.grad.tolist()
    net.zero_grad()
    for _ in range(3):
        net(x).sum().backward()
    np.testing.assert_allclose(found, net.up.weight.grad.tolist(), rtol=1e-4, atol=1e-5)


def test_a_model_moves_with_its_gradients():
    net = Net()
    net(vtc.ones(2, 4)).sum().backward()
    fast = vtc.compile(net)
    want = fast(vtc.ones(2, 4)).tolist()
    net.cuda()
    assert net.up.weight.grad.is_cuda
    np.testing.assert_allclose(fast(vtc.ones(2, 4).cuda()).tolist(), want, rtol=1e-5, atol=1e-6)
    net.cpu()
    assert not net.up.weight.grad.is_cuda
    state = net.cuda().state_dict()
    Net().load_state_dict(state)


def test_an_optimizer_loads_what_it_saved_on_another_device():
    net = Net().cuda()
    optimizer = vtc.optim.AdamW(net.parameters())
    net(vtc.ones(2, 4).cuda()).sum().backward()
    optimizer.step()
    other = vtc.optim.AdamW(Net().parameters())
    other.load_state_dict(optimizer.state_dict())
    (state, *_) = other.state.values()
    assert state["exp_avg"].device.type == "cpu"
    assert state["step"].item() == 1


# eager programs


def test_new_shapes_build_no_more_programs():
    rng = np.random.default_rng(0)

    def program(n, m):
        x = vtc.randn(n, m, device="cuda")
        return (F.softmax(x @ x.T, -1) * 2 + x[:, :1]).sum(0).exp().mean()

    for _ in range(30):
        program(*rng.integers(2, 40, 2))
    before = vtc.stats().eager_compiles
    for _ in range(70):
        program(*rng.integers(2, 40, 2))
    assert vtc.stats().eager_compiles == before


def test_numbers_are_no_part_of_an_eager_program():
    x = vtc.ones(3, device="cuda")
    x * 0.5
    before = vtc.stats().eager_compiles
    assert [(x * s).sum().item() for s in (1.0, 2.0, 3.0)] == [3, 6, 9]
    after = vtc.stats().eager_compiles
    assert after - before <= 1  # the sum
