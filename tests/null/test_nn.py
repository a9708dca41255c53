"""Modules: what is found in them, how they save, load, move, print; layers and their formulas."""

import copy
import math

import numpy as np
import pytest

import vtc
import vtc.nn as nn
import vtc.nn.functional as F
from vtc.errors import ArgumentError, CaptureError, GradientError, IndexRangeError, TypeCheckError
from vtc.frontend.guards import epoch

RNG = np.random.default_rng(0)


def floats(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


class Mlp(nn.Module):
    def __init__(self, d=3):
        self.up, self.down = nn.Linear(d, 2 * d), nn.Linear(2 * d, d)
        self.scale = nn.Parameter(vtc.ones(1))
        self.seen = nn.Buffer(vtc.zeros(2))
        self.cache = nn.Buffer(vtc.zeros(2), persistent=False)

    def forward(self, x):
        return x + self.scale * self.down(F.relu(self.up(x)))


class Stack(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList([Mlp() for _ in range(2)])
        self.head = nn.Linear(3, 3, bias=False)
        self.tied = self.head

    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        return self.tied(x)


def names(pairs):
    return [name for name, _ in pairs]


# parameters and buffers


def test_a_parameter_is_a_tensor_of_that_kind():
    data = vtc.zeros(2, 3)
    p = nn.Parameter(data)
    assert type(p) is vtc.Tensor
    assert isinstance(p, nn.Parameter)
    assert not isinstance(p, nn.Buffer)
    assert not isinstance(data, nn.Parameter)
    assert p.requires_grad
    assert p.is_leaf
    assert not data.requires_grad
    assert np.shares_memory(p.detach().numpy(), data.numpy())
    assert not nn.Parameter(data, requires_grad=False).requires_grad
    assert isinstance(copy.deepcopy(p), nn.Parameter)
    assert not isinstance(p * 1, nn.Parameter)


def test_a_buffer_does_not_require_grad():
    b = nn.Buffer(vtc.ones(2).requires_grad_())
    assert isinstance(b, nn.Buffer)
    assert not b.requires_grad


def test_what_cannot_be_a_parameter():
    with pytest.raises(
        ArgumentError, match=r"parameter: expected a Tensor, got list; use vtc.tensor"
    ):
        nn.Parameter([1.0])
    with pytest.raises(GradientError, match="only floating-point tensors can require gradients"):
        nn.Parameter(vtc.zeros(2, dtype=vtc.int64))


# what is inside a module


def test_what_is_found_inside():
    model = Stack()
    block = ["scale", "up.weight", "up.bias", "down.weight", "down.bias"]
    expected = [f"blocks.{i}.{name}" for i in range(2) for name in block]
    assert names(model.named_parameters()) == [*expected, "head.weight"]
    assert names(model.named_buffers()) == [
        f"blocks.{i}.{b}" for i in (0, 1) for b in ("seen", "cache")
    ]
    assert names(model.named_children()) == ["blocks", "head"]
    assert names(model.named_modules())[:3] == ["", "blocks", "blocks.0"]
    assert len(list(model.parameters())) == 11
    assert names(model.blocks[0].named_parameters(recurse=False)) == ["scale"]
    assert "tied.weight" in names(model.named_parameters(remove_duplicate=False))


def test_the_order_is_pytorchs():
    torch = pytest.importorskip("torch")

    class Theirs(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.LayerNorm(2))
            self.register_buffer("b", torch.zeros(1))
            self.w = torch.nn.Parameter(torch.zeros(1))

    class Ours(nn.Module):
        def __init__(self):
            self.inner = nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2))
            self.b = nn.Buffer(vtc.zeros(1))
            self.w = nn.Parameter(vtc.zeros(1))

    assert names(Ours().named_parameters()) == names(Theirs().named_parameters())
    assert list(Ours().state_dict()) == list(Theirs().state_dict())


def test_modules_know_their_names():
    model = Stack()
    assert [b._name for b in model.blocks] == ["blocks.0", "blocks.1"]
    assert model.blocks[1].up._name == "up"
    model.blocks.append(Mlp())
    model.blocks[:2]
    assert [b._name for b in model.blocks] == ["blocks.0", "blocks.1", "blocks.2"]


def test_values_know_the_module_that_made_them():
    text = vtc.compile(Stack()).lower(vtc.tensor(floats(2, 3))).ir("captured", loc=True)
    assert "blocks.1.up" in text
    assert 'param("blocks.0.scale")' in text


def test_setting_an_attribute_is_noticed():
    model = Mlp()
    for change in (
        lambda: setattr(model, "depth", 3),
        lambda: delattr(model, "depth"),
        model.eval,
        lambda: model.to(vtc.float64),
        lambda: model.requires_grad_(False),
    ):
        before = epoch()
        change()
        assert epoch() > before


def test_a_parameter_is_not_replaced_by_a_value():
    model = Mlp()
    with pytest.raises(
        ArgumentError, match=r"Mlp.scale: expected a Parameter or None, got a Tensor f32\[1\]"
    ):
        model.scale = vtc.zeros(1)
    model.scale = None
    assert "scale" not in names(model.named_parameters())
    model.seen = vtc.ones(2)
    assert isinstance(model.seen, nn.Buffer)


def test_a_module_without_forward():
    with pytest.raises(ArgumentError, match="Module: expected a forward method, got none"):
        nn.Module()(1)


def test_train_and_eval_reach_all_below():
    model = Stack()
    assert model.training
    assert not model.eval().blocks[1].up.training
    assert all(m.training for m in model.train().modules())


def test_apply_visits_children_first():
    seen = []
    Mlp().apply(lambda m: seen.append(type(m).__name__))
    assert seen == ["Linear", "Linear", "Mlp"]


def test_zero_grad():
    model = Mlp()
    model(vtc.tensor(floats(2, 3))).sum().backward()
    assert all(p.grad is not None for p in model.parameters())
    model.zero_grad(set_to_none=False)
    assert all(not p.grad.numpy().any() for p in model.parameters())
    model.zero_grad()
    assert all(p.grad is None for p in model.parameters())


def test_to_keeps_the_tensors():
    model = Mlp()
    before = list(model.parameters())
    model(vtc.tensor(floats(2, 3))).sum().backward()
    assert model.to(vtc.float64) is model
    assert [id(p) for p in model.parameters()] == [id(p) for p in before]
    assert model.scale.dtype is model.scale.grad.dtype is model.seen.dtype is vtc.float64
    assert model.scale.requires_grad
    out = model(vtc.tensor(floats(2, 3).astype(np.float64)))
    out.sum().backward()
    assert out.dtype is vtc.float64
    with pytest.raises(
        ArgumentError, match=r"Module.to: expected a floating-point dtype, got vtc.int64"
    ):
        model.to(vtc.int64)


def test_to_inside_a_compiled_function():
    model = Mlp()
    with pytest.raises(CaptureError, match=r"Mlp.to\(\) inside a compiled function"):
        vtc.compile(lambda x: model.to(vtc.float64)(x))(vtc.tensor(floats(2, 3)))


def test_a_compiled_model_follows_a_cast():
    model = Mlp()
    fast, x = vtc.compile(model), floats(2, 3)
    with vtc.no_grad():
        first = fast(vtc.tensor(x))
        model.to(vtc.float64)
        second = fast(vtc.tensor(x.astype(np.float64)))
    assert second.dtype is vtc.float64
    np.testing.assert_allclose(first.numpy(), second.numpy(), rtol=1e-5, atol=1e-6)


def test_a_compiled_model_follows_its_mode():
    layer = nn.Dropout(0.5)
    fast, x = vtc.compile(layer), vtc.ones(64)
    assert (fast(x).numpy() == 0).any()
    layer.eval()
    assert (fast(x).numpy() == 1).all()
    layer.train()
    assert (fast(x).numpy() == 0).any()
    assert len(fast.entries) == 2


def test_a_deep_copy_is_separate():
    model = Stack()
    twin = copy.deepcopy(model)
    nn.init.zeros_(twin.head.weight)
    assert model.head.weight.detach().numpy().any()
    assert twin.tied is twin.head
    assert names(twin.named_parameters()) == names(model.named_parameters())


# saving and loading


def test_state_dict_round_trip():
    model, twin = Stack(), Stack()
    state = model.state_dict()
    assert "blocks.0.cache" not in state
    assert "tied.weight" in state
    assert not any(t.requires_grad for t in state.values())
    assert twin.load_state_dict(state) == ([], [])
    assert str(twin.load_state_dict(state)) == "<All keys matched successfully>"
    x = vtc.tensor(floats(2, 3))
    np.testing.assert_array_equal(model(x).detach().numpy(), twin(x).detach().numpy())


def test_loading_keeps_tensors_and_casts():
    model = Mlp()
    before = model.scale
    state = {k: v.numpy().astype(np.float64) for k, v in model.state_dict().items()}
    model.load_state_dict({**state, "scale": np.array([5.0])})
    assert model.scale is before
    assert model.scale.dtype is vtc.float32
    assert model.scale.item() == 5.0


def test_loading_says_all_that_is_wrong():
    model = Mlp()
    state = model.state_dict()
    del state["scale"], state["up.bias"]
    state |= {"extra": vtc.zeros(1), "seen": vtc.zeros(3)}
    message = (
        r"^Mlp.load_state_dict: missing scale, up.bias; unexpected extra; "
        r"seen: expected f32\[2\], got f32\[3\]\n  at .*test_nn.py"
    )
    with pytest.raises(ArgumentError, match=message):
        model.load_state_dict(state)
    state["seen"] = vtc.ones(2)
    assert model.load_state_dict(state, strict=False) == (["scale", "up.bias"], ["extra"])
    assert model.seen.tolist() == [1.0, 1.0]
    with pytest.raises(ArgumentError, match="seen: expected a tensor or an array, got object"):
        model.load_state_dict({"seen": object()}, strict=False)


# containers


def test_sequential():
    layers = nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)
    model = nn.Sequential(*layers)
    x = vtc.tensor(floats(5, 3))
    expected = layers[2](layers[1](layers[0](x)))
    np.testing.assert_array_equal(model(x).detach().numpy(), expected.detach().numpy())
    assert len(model) == 3
    assert model[-1] is layers[2]
    assert list(model[:2]) == list(layers[:2])
    assert names(nn.Sequential({"a": layers[0]}).named_parameters()) == ["a.weight", "a.bias"]
    with pytest.raises(ArgumentError, match="Sequential: expected a Module, got int"):
        nn.Sequential(3)


def test_module_list():
    a, b, c = (nn.Identity() for _ in range(3))
    modules = nn.ModuleList([a, c])
    modules.insert(1, b)
    assert list(modules) == [a, b, c]
    assert modules[-1] is c
    assert list(modules[1:]) == [b, c]
    modules[0] = c
    assert names(modules.named_children()) == ["0", "1"]
    assert b in modules
    with pytest.raises(ArgumentError, match="ModuleList: expected a Module, got NoneType"):
        modules.append(None)


# printing


def test_repr_is_pytorchs():
    torch = pytest.importorskip("torch")

    def make(n):
        return n.Sequential(
            n.Conv2d(1, 4, 3, padding=1, bias=False),
            n.ModuleList([n.Linear(2, 2), n.Linear(2, 2), n.Sequential(n.ReLU(), n.Dropout(0.1))]),
            n.MaxPool2d(2),
            n.AvgPool2d((2, 1), padding=1),
            n.Flatten(),
            n.LayerNorm(4),
            n.RMSNorm((4, 3), eps=1e-5),
            n.Embedding(3, 4, padding_idx=-1),
            n.Softmax(dim=-1),
            n.GELU(),
            n.SiLU(),
            n.Identity(),
            n.ModuleList(),
        )

    assert repr(make(nn)) == repr(make(torch.nn))


def test_repr_without_torch():
    assert repr(nn.Linear(2, 3)) == "Linear(in_features=2, out_features=3, bias=True)"
    assert repr(nn.Sequential(nn.ReLU())) == "Sequential(\n  (0): ReLU()\n)"


# layers


def test_linear_is_its_formula():
    layer, x = nn.Linear(3, 4), floats(2, 5, 3)
    w, b = layer.weight.detach().numpy(), layer.bias.detach().numpy()
    np.testing.assert_allclose(
        layer(vtc.tensor(x)).detach().numpy(), x @ w.T + b, rtol=1e-5, atol=1e-6
    )
    assert nn.Linear(3, 4, bias=False).bias is None
    assert nn.Linear(3, 4, dtype=vtc.bfloat16).bias.dtype is vtc.bfloat16


def test_norms_are_their_formulas():
    x = floats(2, 3, 4)
    mean, var = x.mean((1, 2), keepdims=True), x.var((1, 2), keepdims=True)
    got = nn.LayerNorm((3, 4))(vtc.tensor(x)).detach().numpy()
    np.testing.assert_allclose(got, (x - mean) / np.sqrt(var + 1e-5), rtol=1e-4, atol=1e-5)
    layer = nn.RMSNorm(4)
    nn.init.constant_(layer.weight, 2.0)
    rms = np.sqrt((x * x).mean(-1, keepdims=True) + np.finfo(np.float32).eps)
    np.testing.assert_allclose(
        layer(vtc.tensor(x)).detach().numpy(), 2 * x / rms, rtol=1e-4, atol=1e-5
    )
    assert list(nn.LayerNorm(4, elementwise_affine=False).parameters()) == []
    assert names(nn.LayerNorm(4, bias=False).named_parameters()) == ["weight"]


def test_embedding_looks_up_rows():
    layer = nn.Embedding(5, 3, padding_idx=1)
    rows = layer.weight.detach().numpy()
    assert not rows[1].any()
    ids = vtc.tensor(np.array([[0, 1], [4, 4]]))
    out = layer(ids)
    np.testing.assert_array_equal(out.detach().numpy(), rows[ids.numpy()])
    out.sum().backward()
    np.testing.assert_array_equal(layer.weight.grad.numpy()[:, 0], [1, 0, 0, 0, 2])
    with pytest.raises(IndexRangeError):
        layer(vtc.tensor([5]))


def test_layers_agree_with_pytorch():
    torch = pytest.importorskip("torch")
    image = floats(2, 4, 7, 6)
    cases = [
        (lambda n: n.Conv2d(4, 6, (3, 2), stride=2, padding=1, dilation=1, groups=2), image),
        (lambda n: n.Conv2d(4, 2, 3, dilation=2, bias=False), image),
        (lambda n: n.MaxPool2d(3, 2, 1), image),
        (lambda n: n.AvgPool2d(2, stride=1, padding=1), image),
        (lambda n: n.LayerNorm((7, 6)), image),
        (lambda n: n.RMSNorm(6, eps=1e-3), image),
        (lambda n: n.Linear(6, 2), image),
        (lambda n: n.Flatten(1, 2), image),
        (lambda n: n.Sequential(n.Linear(6, 3), n.GELU("tanh"), n.Softmax(-1)), image),
        *((lambda n, a=a: getattr(n, a)(), image) for a in ACTIVATIONS),
    ]
    for make, x in cases:
        ours, theirs = make(nn), make(torch.nn)
        theirs.load_state_dict({k: torch.tensor(v.numpy()) for k, v in ours.state_dict().items()})
        a, b = vtc.tensor(x).requires_grad_(), torch.tensor(x, requires_grad=True)
        out, expected = ours(a), theirs(b)
        (out * out).sum().backward()
        (expected * expected).sum().backward()
        np.testing.assert_allclose(
            out.detach().numpy(),
            expected.detach().numpy(),
            rtol=1e-4,
            atol=1e-5,
            err_msg=repr(ours),
        )
        np.testing.assert_allclose(
            a.grad.numpy(), b.grad.numpy(), rtol=1e-4, atol=1e-4, err_msg=repr(ours)
        )


ACTIVATIONS = ("ReLU", "GELU", "SiLU", "Sigmoid", "Tanh", "Identity")


def test_dropout_drops_and_scales():
    vtc.manual_seed(0)
    out = nn.Dropout(0.25)(vtc.ones(4000)).numpy()
    assert set(np.unique(out.round(5))) == {0.0, np.float32(4 / 3).round(5)}
    assert abs((out == 0).mean() - 0.25) < 0.03
    with pytest.raises(ArgumentError, match=r"[Dd]ropout: expected"):
        nn.Dropout(1.5)(vtc.ones(2))


def test_conv_refuses_uneven_groups():
    with pytest.raises(
        ArgumentError, match="Conv2d: expected channels divisible by groups=3, got in_channels=4"
    ):
        nn.Conv2d(4, 6, 3, groups=3)


def test_a_wrong_shape_names_the_line():
    with pytest.raises(TypeCheckError, match=r"f32\[2, 4\](.|\n)*test_nn.py"):
        nn.Linear(3, 2)(vtc.zeros(2, 4))


# initial values


def spread(fill, *shape):
    vtc.manual_seed(0)
    return fill(vtc.empty(*shape)).numpy().astype(np.float64)


def test_default_weights_are_uniform_within_the_fan():
    for layer, fan in ((nn.Linear(64, 256), 64), (nn.Conv2d(16, 64, 3), 144)):
        bound = 1 / math.sqrt(fan)
        for p in (layer.weight, layer.bias):
            x = p.detach().numpy()
            assert abs(x).max() <= bound
            assert x.std() == pytest.approx(bound / math.sqrt(3), rel=0.15)
    assert nn.Embedding(100, 100).weight.detach().numpy().std() == pytest.approx(1.0, rel=0.05)


@pytest.mark.parametrize(
    ("fill", "std", "bound"),
    [
        (lambda t: nn.init.uniform_(t, -2, 2), 4 / math.sqrt(12), 2),
        (lambda t: nn.init.normal_(t, std=0.5), 0.5, math.inf),
        (nn.init.xavier_uniform_, math.sqrt(2 / 300), math.sqrt(6 / 300)),
        (lambda t: nn.init.xavier_normal_(t, gain=2.0), 2 * math.sqrt(2 / 300), math.inf),
        (nn.init.kaiming_uniform_, math.sqrt(2 / 200), math.sqrt(6 / 200)),
        (
            lambda t: nn.init.kaiming_normal_(t, mode="fan_out", nonlinearity="tanh"),
            1 / 6,
            math.inf,
        ),
        (lambda t: nn.init.trunc_normal_(t, std=2.0, a=-2.0, b=2.0), 2 * 0.53956, 2),
    ],
)
def test_distributions(fill, std, bound):
    x = spread(fill, 100, 200)
    assert abs(x.mean()) < 0.03 * std
    assert x.std() == pytest.approx(std, rel=0.02)
    assert abs(x).max() <= bound


def test_orthogonal_rows():
    x = spread(lambda t: nn.init.orthogonal_(t, gain=2.0), 3, 4, 2)
    flat = x.reshape(3, 8)
    np.testing.assert_allclose(flat @ flat.T, 4 * np.eye(3), atol=1e-5)


def test_constants():
    np.testing.assert_array_equal(spread(nn.init.ones_, 2, 3), np.ones((2, 3)))
    np.testing.assert_array_equal(spread(lambda t: nn.init.constant_(t, 3.0), 2), [3.0, 3.0])
    np.testing.assert_array_equal(spread(nn.init.eye_, 2, 3), np.eye(2, 3))


def test_init_draws_from_the_generator():
    draw = lambda g: nn.init.normal_(vtc.empty(4), generator=g).tolist()  # noqa: E731
    generators = [vtc.Generator().manual_seed(7) for _ in range(2)]
    assert draw(generators[0]) == draw(generators[1]) != draw(generators[1])


def test_what_init_refuses():
    with pytest.raises(
        ArgumentError, match=r"fan-in and fan-out: expected at least two dims, got f32\[3\]"
    ):
        nn.init.xavier_uniform_(vtc.empty(3))
    with pytest.raises(ArgumentError, match="kaiming: expected mode fan_in or fan_out, got 'fan'"):
        nn.init.kaiming_normal_(vtc.empty(3, 3), mode="fan")
    with pytest.raises(
        ArgumentError, match=r"calculate_gain: expected one of linear, .*, got 'gelu'"
    ):
        nn.init.calculate_gain("gelu")


# clipping


def clipped(norm_type, scale, *, compiled):
    grads = [scale * floats(3, 4), scale * floats(5)]
    leaves = [vtc.zeros(*g.shape).requires_grad_() for g in grads]

    def step(a, b):
        sum((p * g).sum() for p, g in zip(leaves, (a, b), strict=True)).backward()
        return nn.utils.clip_grad_norm_(leaves, 1.5, norm_type=norm_type)

    total = (vtc.compile(step) if compiled else step)(*map(vtc.tensor, grads)).item()
    return grads, total, [p.grad.numpy() for p in leaves]


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("scale", [0.01, 10.0])
@pytest.mark.parametrize("norm_type", [2.0, 1.0, 3.0, math.inf])
def test_clip_grad_norm(norm_type, scale, compiled):
    grads, total, got = clipped(norm_type, scale, compiled=compiled)
    norm = np.linalg.norm(np.concatenate([g.ravel() for g in grads]).astype(np.float64), norm_type)
    assert total == pytest.approx(norm, rel=1e-5)
    for g, x in zip(grads, got, strict=True):
        np.testing.assert_allclose(x, g * min(1.0, 1.5 / (norm + 1e-6)), rtol=1e-5)


def test_clip_without_gradients():
    assert nn.utils.clip_grad_norm_([nn.Parameter(vtc.zeros(2))], 1.0).item() == 0.0
    with pytest.raises(ArgumentError, match="clip_grad_norm_: expected norm_type > 0, got 0"):
        nn.utils.clip_grad_norm_([], 1.0, norm_type=0)
