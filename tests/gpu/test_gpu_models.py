"""Whole models and awkward calls on a real GPU, compiled: as on the CPU, and as eager code."""

import json
import re
import runpy
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

import vtc
import vtc.nn.functional as F
from vtc import config, nn
from vtc.errors import IndexRangeError, OutOfMemoryError
from vtc.runtime.cuda.executable import CudaExecutable

pytestmark = pytest.mark.gpu
DEVICE = "cuda"
V, T, B, D, HEADS = 64, 32, 4, 64, 4
STEPS = 10


class Block(nn.Module):
    def __init__(self):
        self.norm1, self.norm2 = nn.LayerNorm(D), nn.RMSNorm(D)
        self.qkv, self.out = nn.Linear(D, 3 * D, bias=False), nn.Linear(D, D)
        self.up, self.down = nn.Linear(D, 4 * D), nn.Linear(4 * D, D)
        self.drop = nn.Dropout(0.1)

    def forward(self, x):
        b, t, d = x.shape
        q, k, v = self.qkv(self.norm1(x)).view(b, t, 3, HEADS, d // HEADS).permute(2, 0, 3, 1, 4)
        a = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.drop(self.out(a.transpose(1, 2).reshape(b, t, d)))
        return x + self.drop(self.down(F.gelu(self.up(self.norm2(x)))))


class Gpt(nn.Module):
    def __init__(self):
        self.token, self.place = nn.Embedding(V, D), nn.Embedding(T, D)
        self.blocks = nn.ModuleList([Block(), Block()])
        self.norm, self.head = nn.LayerNorm(D), nn.Linear(D, V, bias=False)

    def forward(self, ids):
        x = self.token(ids) + self.place(vtc.arange(ids.shape[1], device=ids.device))
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


def training(device, dtype=None):
    """The losses of the steps; numbers and masks are drawn alike everywhere."""
    vtc.manual_seed(0)
    model = Gpt().to(device)
    optimizer = vtc.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.1)
    rng = np.random.default_rng(0)
    batches = [vtc.tensor(rng.integers(0, V // 4, (B, T + 1)), device=device) for _ in range(STEPS)]
    vtc.manual_seed(1)

    @vtc.compile
    def step(ids):
        with vtc.autocast(device, dtype=dtype or vtc.bfloat16, enabled=dtype is not None):
            logits = model(ids[:, :-1])
        loss = F.cross_entropy(logits.float().reshape(-1, V), ids[:, 1:].reshape(-1))
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return loss

    losses = [step(ids).item() for ids in batches]
    assert len(step.entries) == 1, step.explain()
    return losses


@pytest.mark.parametrize(("dtype", "rtol"), [(None, 1e-4), (vtc.bfloat16, 1e-2)])
def test_training_gives_the_losses_of_the_cpu(dtype, rtol):
    here, there = training("cpu", dtype), training(DEVICE, dtype)
    np.testing.assert_allclose(there, here, rtol=rtol)
    assert here[-1] < here[0] - 0.3


def test_deterministic_training_gives_the_same_bits():
    vtc.use_deterministic_algorithms(True)
    try:
        first = training(DEVICE)
        assert training(DEVICE) == first
    finally:
        vtc.use_deterministic_algorithms(False)
    np.testing.assert_allclose(training(DEVICE), first, rtol=1e-4)


def test_sums_in_any_order_are_ordered_on_request():
    rng = np.random.default_rng(0)
    x = vtc.tensor(rng.normal(size=(50_000, 8)).astype("f4"), device=DEVICE)
    at = vtc.tensor(rng.integers(0, 3, 50_000), device=DEVICE)
    f = vtc.compile(lambda x, at: vtc.zeros(3, 8, device=x.device).index_add(0, at, x))
    want = np.zeros((3, 8))
    np.add.at(want, at.cpu().numpy(), x.cpu().numpy().astype("f8"))
    vtc.use_deterministic_algorithms(True)
    try:
        compiled, eager = ([call(x, at).tolist() for _ in range(5)] for call in (f, f.fn))
    finally:
        vtc.use_deterministic_algorithms(False)
    assert all(y == compiled[0] for y in compiled)
    assert all(y == eager[0] for y in eager)
    for y in (compiled[0], eager[0], f(x, at).tolist()):
        np.testing.assert_allclose(y, want, rtol=1e-4, atol=2e-2)


ALONE = """
import json, sys
sys.path[:0] = {folders!r}
from test_gpu_models import training
print(json.dumps(training({device!r})))
"""


@pytest.mark.parametrize("setting", ["VTC_CUDA_GRAPHS=0", "VTC_TUNE=off", "VTC_TUNE=fast"])
def test_settings_change_no_losses(setting, tmp_path):
    """Kernels of other candidates, and sums by atomics, round differently."""
    name, _, value = setting.partition("=")
    environment = config.environment(without=()) | {name: value}
    if value == "fast":  # what is decided here is for no other test
        environment["VTC_CACHE_DIR"] = str(tmp_path)
    script = ALONE.format(folders=[str(Path(__file__).parent)], device=DEVICE)
    done = subprocess.run(
        [sys.executable, "-W", "error::vtc.errors.VtcWarning", "-c", script],
        capture_output=True, text=True, env=environment, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    np.testing.assert_allclose(json.loads(done.stdout), training(DEVICE), rtol=1e-4)


@pytest.fixture
def by_default():
    """New tensors are on the GPU."""
    vtc.set_default_device(DEVICE)
    yield
    vtc.set_default_device("cpu")


@pytest.mark.usefixtures("by_default")
def test_decoding_writes_its_cache_in_place():
    """Compiled, eager, and all at once: the same logits, and the same cache."""
    path = Path(__file__).parents[2] / "examples" / "train_gpt.py"
    make = runpy.run_path(str(path))["Gpt"]
    ids = np.random.default_rng(0).integers(0, 256, (1, 8))
    tokens = [vtc.tensor(ids[:, i : i + 1], device=DEVICE) for i in range(8)]
    places = [vtc.tensor([i], device=DEVICE) for i in range(8)]
    models = []
    for _ in range(2):
        vtc.manual_seed(0)
        models.append(make(2, 32, 2, 8).to(DEVICE))
    decode = vtc.compile(models[1])
    with vtc.no_grad():
        whole = models[0](vtc.tensor(ids, device=DEVICE)).cpu().numpy()
        eager, compiled = (
            [m(t, p) for t, p in zip(tokens, places, strict=True)] for m in (models[0], decode)
        )
    assert len(decode.entries) == 1, decode.explain()
    if DEVICE == "cuda":
        assert isinstance(decode.entries[0].forward.executable, CudaExecutable)
    for steps in (eager, compiled):  # outputs of earlier calls were kept
        found = np.concatenate([y.cpu().numpy() for y in steps], 1)
        np.testing.assert_allclose(found, whole, rtol=1e-4, atol=1e-5)
    for a, b in zip(models[0].blocks, models[1].blocks, strict=True):
        keys = [m.attn.keys.cpu().numpy() for m in (a, b)]
        assert np.abs(keys[0]).sum(3).all()
        np.testing.assert_allclose(*keys, rtol=1e-4, atol=1e-6)


def inner(x):
    return F.softmax(x @ x.T, -1) + 1


def outer(y):
    return (y * 2).sum(0), y.exp()


def numpy_of(*tensors):
    return [t.cpu().numpy() for t in tensors]


def test_outputs_that_are_kept_stay_as_they_are():
    f, g = vtc.compile(inner), vtc.compile(outer)
    rng = np.random.default_rng(0)
    xs = [vtc.tensor(rng.normal(size=(16, 16)).astype("f4"), device=DEVICE) for _ in range(20)]
    ys = [f(x) for x in xs]
    zs = [g(y) for y in ys]
    for x, y, z in zip(xs, ys, zs, strict=True):
        want = inner(x.cpu())
        for got, wanted in zip(numpy_of(y, *z), numpy_of(want, *outer(want)), strict=True):
            np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-5)


def test_threads_on_their_own_streams():
    f, wrong = vtc.compile(inner), []
    f(vtc.ones(24, 24, device=DEVICE))

    def work(seed):
        rng = np.random.default_rng(seed)
        try:
            with vtc.cuda.stream(vtc.cuda.Stream()):
                for _ in range(30):
                    x = rng.normal(size=(24, 24)).astype("f4")
                    y = f(vtc.tensor(x, device=DEVICE)).cpu().numpy()
                    e = np.exp((s := x.astype("f8") @ x.T) - s.max(1, keepdims=True))
                    want = e / e.sum(1, keepdims=True) + 1
                    np.testing.assert_allclose(y, want, rtol=1e-4, atol=1e-5)
        except BaseException as error:
            wrong.append(error)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not wrong
    assert len(f.entries) == 1


def test_random_numbers_differ_between_replays_and_are_those_of_the_cpu():
    def draw(x):
        numbers = x + vtc.rand(64, device=x.device)
        return numbers, F.dropout(x + 1, 0.5), vtc.randint(0, 1000, (9,), device=x.device)

    found = []
    for device in ("cpu", DEVICE):
        f, x = vtc.compile(draw), vtc.zeros(64, device=device)
        vtc.manual_seed(5)
        found.append([[t.tolist() for t in f(x)] for _ in range(6)])
        assert len(f.entries) == 1
    here, there = found
    assert there == here
    for k in range(3):
        assert len({str(call[k]) for call in there}) == 6


def test_new_shapes_are_captured_anew():
    f = vtc.compile(inner)
    rng = np.random.default_rng(0)
    for n in (3, 5, 3, 7, 130, 5, 1, 3, 1000, 130):
        x = vtc.tensor(rng.normal(size=(n, 8)).astype("f4"), device=DEVICE)
        got, want = numpy_of(f(x), inner(x.cpu()))
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)
    assert len(f.entries) <= 3, f.explain()


def test_out_of_memory_in_a_compiled_call():
    @vtc.compile
    def table(x):
        return x[:, None] * x[None, :]

    kept = vtc.zeros(1 << 24, device=DEVICE)
    assert kept.is_cuda
    total = vtc.cuda.mem_get_info()[1]
    small, large = (vtc.arange(float(n), device=DEVICE) for n in (100, int(total**0.5)))
    for x in (small, vtc.arange(200.0, device=DEVICE)):
        table(x)
    for _ in range(2):
        with pytest.raises(OutOfMemoryError) as caught:
            table(large)
        assert str(caught.value).startswith("table: ")
        assert re.search(r"test_gpu_models\.py:\d+", str(caught.value)), str(caught.value)
        assert table(small)[3].tolist() == [3.0 * i for i in range(100)]


def test_an_index_out_of_range_names_the_line():
    def look(x, at):
        return vtc.index_select(x, 0, at) * 2

    f, x = vtc.compile(look), vtc.arange(4.0, device=DEVICE)
    line = look.__code__.co_firstlineno + 1
    good, bad = (vtc.tensor(i, device=DEVICE) for i in ([3, 2, 1, 0], [0, 99, 1, 2]))
    for _ in range(3):
        assert f(x, good).tolist() == [6, 4, 2, 0]
        with pytest.raises(IndexRangeError, match=rf"test_gpu_models\.py:{line}\b"):
            f(x, bad).tolist()
    assert f(x, good).tolist() == [6, 4, 2, 0]
