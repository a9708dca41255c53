"""``nn.utils`` and ``nn.init`` beside PyTorch's; layers that draw, by their statistics."""

import math

import numpy as np
import pytest

import vtc
import vtc.nn as nn
from vtc.errors import ArgumentError

torch = pytest.importorskip("torch", reason="needs the extra 'parity'")

GRADS = [np.array([[3.0, -4.0], [0.5, 2.0]], np.float32), np.array([-12.0], np.float32)]


def leaves(T, grads=GRADS):
    params = [T.nn.Parameter(T.zeros(tuple(g.shape))) for g in grads]
    for p, g in zip(params, grads, strict=True):
        p.grad = T.tensor(g)
    return [*params, T.nn.Parameter(T.ones(2))]  # the last has no gradient


@pytest.mark.parametrize("norm_type", [1, 2, 3.5, math.inf])
@pytest.mark.parametrize("max_norm", [1.0, 100.0])
def test_clip_grad_norm(norm_type, max_norm):
    seen = []
    for T in (vtc, torch):
        params = leaves(T)
        total = T.nn.utils.clip_grad_norm_(params, max_norm, norm_type)
        seen.append([total.numpy(), *[p.grad.numpy() for p in params[:2]]])
        other = T.nn.utils.get_total_norm([T.tensor(g) for g in GRADS], norm_type)
        seen[-1].append(other.numpy())
    for a, b in zip(*seen, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)


def test_clip_grad_norm_refuses_what_is_not_finite():
    wrong = leaves(vtc, [np.array([math.inf, 1.0], np.float32)])
    assert math.isinf(nn.utils.clip_grad_norm_(wrong, 1.0).item())
    with pytest.raises(ArgumentError, match="clip_grad_norm_: expected a finite norm"):
        nn.utils.clip_grad_norm_(leaves(vtc, [np.array([math.nan], np.float32)]), 1.0, 2.0, True)


def test_clip_grad_value():
    seen = []
    for T in (vtc, torch):
        params = leaves(T)
        T.nn.utils.clip_grad_value_(params, 2.5)
        seen.append([p.grad.numpy() for p in params[:2]])
    for a, b in zip(*seen, strict=True):
        np.testing.assert_array_equal(a, b)


def test_clipping_inside_a_compiled_step():
    p = nn.Parameter(vtc.tensor([3.0, -4.0]))

    @vtc.compile
    def step():
        (p * p).sum().backward()
        nn.utils.clip_grad_value_([p], 7.0)
        total = nn.utils.clip_grad_norm_([p], 1.0)
        grad = p.grad * 1
        p.grad = None
        return total, grad

    total, grad = step()
    assert total.item() == pytest.approx(math.hypot(6, 7))
    np.testing.assert_allclose(np.linalg.norm(grad.numpy()), 1.0, rtol=1e-5)


def test_parameters_as_a_vector():
    seen = []
    for T in (vtc, torch):
        params = leaves(T)
        v = T.nn.utils.parameters_to_vector(params)
        T.nn.utils.vector_to_parameters(v.detach() + T.arange(7), params)
        seen.append([v.detach().numpy(), *[p.detach().numpy() for p in params]])
    for a, b in zip(*seen, strict=True):
        np.testing.assert_array_equal(a, b)
    with pytest.raises(ArgumentError, match="vector_to_parameters: expected 7 elements"):
        nn.utils.vector_to_parameters(vtc.zeros(3), leaves(vtc))


@pytest.mark.parametrize(
    ("layer", "norm", "shape"),
    [
        ("Conv2d(3, 4, 2)", "BatchNorm2d(4)", (2, 3, 4, 5)),
        ("Conv1d(4, 6, 2, groups=2, bias=False)", "BatchNorm1d(6, affine=False)", (2, 4, 5)),
        ("ConvTranspose2d(3, 4, 2)", "BatchNorm2d(4)", (2, 3, 4, 5)),
        ("Linear(3, 4)", "BatchNorm1d(4)", (5, 3)),
    ],
)
def test_fused_batch_norm(layer, norm, shape):
    seen = []
    for T in (vtc, torch):
        rng = np.random.default_rng(0)
        model = T.nn.Sequential(*(eval(f"nn.{text}", {"nn": T.nn}) for text in (layer, norm)))
        state = {
            k: rng.uniform(0.5, 2, tuple(v.shape)).astype(np.float32)
            for k, v in model.state_dict().items()
            if "num" not in k
        }
        model.load_state_dict({k: T.tensor(v) for k, v in state.items()}, strict=False)
        x = T.tensor(rng.normal(size=shape).astype(np.float32))
        with pytest.raises((ArgumentError, AssertionError), match="eval"):
            T.nn.utils.fuse_conv_bn_eval(*model)
        one, bn = model.eval()
        utils = T.nn.utils
        if "Linear" in layer:
            fused = utils.fuse_linear_bn_eval(one, bn)
        else:
            fused = utils.fuse_conv_bn_eval(one, bn, "Transpose" in layer)
        assert fused.weight.requires_grad
        np.testing.assert_allclose(fused(x).detach().numpy(), model(x).detach().numpy(), 1e-4, 1e-5)
        seen.append([p.detach().numpy() for p in fused.parameters()])
    for a, b in zip(*seen, strict=True):
        np.testing.assert_allclose(a, b, 1e-5)


# starting values


def test_skip_init():
    vtc.manual_seed(0)
    want = vtc.randn(3)
    vtc.manual_seed(0)
    layer = nn.utils.skip_init(nn.TransformerEncoderLayer, 8, 2, dtype=vtc.float64)
    assert layer.linear1.weight.dtype is vtc.float64
    np.testing.assert_array_equal(vtc.randn(3).numpy(), want.numpy())  # nothing was drawn
    nn.init.normal_(layer.linear1.weight)
    with pytest.raises(ArgumentError, match="skip_init: expected a module with a device, got ReLU"):
        nn.utils.skip_init(nn.ReLU)


@pytest.mark.parametrize("shape", [(4, 3, 3), (6, 2, 3, 4), (2, 5, 2, 2, 3)])
@pytest.mark.parametrize("groups", [1, 2])
def test_dirac(shape, groups):
    got, want = (T.nn.init.dirac_(T.ones(shape), groups).numpy() for T in (vtc, torch))
    np.testing.assert_array_equal(got, want)


def test_sparse():
    w = nn.init.sparse_(vtc.ones(50, 20), 0.3, std=2.0).numpy()
    assert ((w == 0).sum(0) == 15).all()
    assert 1.7 < w[w != 0].std() < 2.3


@pytest.mark.parametrize(
    "text",
    [
        "nn.Linear(40, 60)",
        "nn.Bilinear(20, 10, 30)",
        "nn.Conv1d(20, 30, 3)",
        "nn.ConvTranspose2d(20, 30, 3)",
        "nn.LSTM(30, 40)",
        "nn.GRUCell(30, 40)",
        "nn.MultiheadAttention(40, 4, add_bias_kv=True)",
        "nn.MultiheadAttention(40, 4, kdim=20, vdim=30)",
        "nn.TransformerDecoderLayer(40, 4, 30)",
        "nn.Embedding(50, 20, padding_idx=3)",
        "nn.EmbeddingBag(50, 20)",
    ],
)
def test_layers_start_as_in_pytorch(text):
    """By the spread of each parameter: the bits are of another generator."""
    vtc.manual_seed(0)
    torch.manual_seed(0)
    ours, theirs = (dict(eval(text, {"nn": n}).named_parameters()) for n in (nn, torch.nn))
    assert list(ours) == list(theirs)
    for name, p in ours.items():
        got, want = p.detach().numpy(), theirs[name].detach().numpy()
        assert got.shape == want.shape
        assert got.std() == pytest.approx(want.std(), rel=0.35, abs=1e-6), name
        assert abs(got).max() == pytest.approx(abs(want).max(), rel=0.35, abs=1e-6), name


# layers that draw


@pytest.mark.parametrize(
    ("text", "shape", "whole"),
    [
        ("nn.Dropout(0.3)", (40, 50, 6), ()),
        ("nn.Dropout1d(0.3)", (40, 50, 6), (2,)),
        ("nn.Dropout2d(0.3)", (40, 50, 3, 2), (2, 3)),
        ("nn.Dropout3d(0.3)", (40, 50, 3, 2, 2), (2, 3, 4)),
        ("nn.Dropout1d(0.3)", (2000, 6), (1,)),
    ],
)
@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
def test_dropped_share(text, shape, whole, compiled):
    vtc.manual_seed(3)
    layer = eval(text, {"nn": nn})
    run = vtc.compile(layer) if compiled else layer
    out = run(vtc.ones(shape)).numpy()
    kept = np.unique(out)
    np.testing.assert_allclose(kept, [0.0, 1 / 0.7], rtol=1e-6)
    assert (out == 0).mean() == pytest.approx(0.3, abs=0.05)
    if whole:
        assert (out.max(whole) == out.min(whole)).all()
    assert (layer.eval()(vtc.ones(shape)).numpy() == 1).all()


@pytest.mark.parametrize("text", ["nn.AlphaDropout(0.2)", "nn.FeatureAlphaDropout(0.2)"])
def test_alpha_dropout_keeps_mean_and_variance(text):
    vtc.manual_seed(5)
    x = vtc.randn(200, 300, 2)
    out = eval(text, {"nn": nn})(x).numpy()
    assert abs(out.mean()) < 0.02
    assert out.std() == pytest.approx(1.0, abs=0.02)


def test_dropout_refuses_more_than_all():
    for name in ("Dropout", "Dropout2d", "AlphaDropout"):
        with pytest.raises(ArgumentError, match=f"{name}: expected 0 <= p <= 1, got 1.5"):
            getattr(nn, name)(1.5)


def test_recurrent_dropout_is_between_layers_only():
    vtc.manual_seed(0)
    x = vtc.randn(4, 3, 5)
    one = nn.LSTM(5, 6, dropout=0.5)
    np.testing.assert_array_equal(one(x)[0].detach().numpy(), one(x)[0].detach().numpy())
    two = nn.GRU(5, 6, 2, dropout=0.5)
    assert (two(x)[0].detach().numpy() != two(x)[0].detach().numpy()).any()
    two.eval()
    np.testing.assert_array_equal(two(x)[0].detach().numpy(), two(x)[0].detach().numpy())


def test_batch_norm_in_a_compiled_training_step():
    """Its running figures follow the batches as PyTorch's do, written in place."""
    seen = []
    for T in (vtc, torch):
        rng = np.random.default_rng(0)
        model = T.nn.Sequential(T.nn.Linear(4, 5), T.nn.BatchNorm1d(5), T.nn.ReLU())
        with T.no_grad():
            for p in model.parameters():
                p.copy_(T.tensor(rng.normal(size=tuple(p.shape)).astype(np.float32)))
        optimizer = T.optim.SGD(model.parameters(), lr=0.1)

        def step(x, model=model, optimizer=optimizer):
            loss = (model(x) * model(x)).mean()
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            return loss.detach()

        run = vtc.compile(step) if T is vtc else step
        for _ in range(3):
            run(T.tensor(rng.normal(size=(6, 4)).astype(np.float32)))
        seen.append({k: v.numpy() for k, v in model.state_dict().items()})
    assert seen[0].keys() == seen[1].keys()
    for k, want in seen[1].items():
        np.testing.assert_allclose(seen[0][k], want, rtol=1e-4, atol=1e-5, err_msg=k)
    assert seen[0]["1.num_batches_tracked"] == 6
