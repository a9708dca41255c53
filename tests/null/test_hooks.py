"""Hooks on modules, and modules that hold others by name: eager and inside a compiled function."""

import copy

import numpy as np
import pytest

import vtc
import vtc.nn as nn
from vtc.errors import ArgumentError


class Scale(nn.Module):
    def __init__(self, factor):
        self.factor = factor

    def forward(self, x, plus=0.0):
        return x * self.factor + plus


def test_hooks_change_arguments_and_results():
    model = Scale(3.0)
    seen = []
    model.register_forward_pre_hook(lambda m, args: args[0] + 1)
    model.register_forward_hook(lambda m, args, out: seen.append(out.tolist()))
    model.register_forward_hook(lambda m, args, out: out * 10)
    assert model(vtc.ones(2)).tolist() == [60.0, 60.0]
    assert seen == [[6.0, 6.0]]


def test_hooks_with_keyword_arguments_and_their_order():
    model, order = Scale(2.0), []

    def before(m, args, kwargs):
        return args, {**kwargs, "plus": kwargs["plus"] + 1}

    model.register_forward_pre_hook(before, with_kwargs=True)
    model.register_forward_hook(lambda m, args, out: order.append("second"))
    model.register_forward_hook(lambda m, args, out: order.append("first"), prepend=True)
    model.register_forward_hook(lambda m, args, kwargs, out: out + kwargs["plus"], with_kwargs=True)
    assert model(vtc.ones(1), plus=4.0).tolist() == [12.0]
    assert order == ["first", "second"]


def test_a_removed_hook_is_gone():
    model = Scale(2.0)
    handle = model.register_forward_hook(lambda m, args, out: out + 1)
    assert model(vtc.ones(1)).item() == 3.0
    handle.remove()
    handle.remove()
    assert model(vtc.ones(1)).item() == 2.0
    with model.register_forward_hook(lambda m, args, out: out + 1):
        assert model(vtc.ones(1)).item() == 3.0
    assert model(vtc.ones(1)).item() == 2.0


def test_a_hook_that_is_always_called():
    model, seen = Scale(None), []
    model.register_forward_hook(lambda m, args, out: seen.append(out), always_call=True)
    model.register_forward_hook(lambda m, args, out: seen.append("not reached"))
    with pytest.raises(Exception, match="NoneType"):
        model(vtc.ones(1))
    assert seen == [None]


def test_a_compiled_model_follows_its_hooks():
    model = nn.Sequential(Scale(2.0), Scale(5.0))
    fast, x = vtc.compile(model), vtc.ones(2)
    assert fast(x).tolist() == [10.0, 10.0]
    handle = model[0].register_forward_hook(lambda m, args, out: out + 1)
    assert fast(x).tolist() == [15.0, 15.0]
    assert fast(x).tolist() == [15.0, 15.0]
    assert len(fast.entries) == 2
    handle.remove()
    assert fast(x).tolist() == [10.0, 10.0]
    assert len(fast.entries) == 2


def test_a_copy_has_its_own_hooks():
    model = Scale(2.0)
    model.register_forward_hook(lambda m, args, out: out + 1)
    twin = copy.deepcopy(model)
    twin.register_forward_hook(lambda m, args, out: out + 1)
    assert model(vtc.ones(1)).item() == 3.0
    assert twin(vtc.ones(1)).item() == 4.0


# registering


def test_registered_parts_are_found():
    model = nn.Module()
    model.register_buffer("seen", vtc.zeros(2))
    model.register_buffer("cache", vtc.zeros(3), persistent=False)
    model.register_buffer("later", None)
    model.register_parameter("scale", nn.Parameter(vtc.ones(2)))
    model.register_parameter("bias", None)
    model.add_module("inner", nn.Linear(2, 2))
    assert list(model.state_dict()) == ["scale", "seen", "inner.weight", "inner.bias"]
    assert list(model.state_dict(prefix="net.")) == [f"net.{k}" for k in model.state_dict()]
    assert model.state_dict(keep_vars=True)["scale"] is model.scale
    assert [k for k, _ in model.named_buffers()] == ["seen", "cache"]
    assert model.bias is None
    assert model.later is None
    model.register_buffer("seen", vtc.ones(2))
    assert model.seen.tolist() == [1.0, 1.0]
    assert model.get_parameter("inner.weight") is model.inner.weight
    assert model.get_buffer("cache") is model.cache
    assert model.get_submodule("inner") is model.inner
    assert model.get_submodule("") is model


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: m.register_buffer("a.b", None), "a name that is free and without dots"),
        (lambda m: m.register_buffer("forward", None), "a name that is free and without dots"),
        (lambda m: m.register_buffer("weight", None), "a name that is free and without dots"),
        (lambda m: m.register_parameter("p", vtc.ones(1)), "p: expected a Parameter or None"),
        (lambda m: m.get_submodule("x.y"), "no module at 'x.y'"),
        (lambda m: m.get_parameter("nothing"), "no parameter at 'nothing'"),
        (lambda m: m.get_buffer("weight"), "no buffer at 'weight'"),
    ],
)
def test_what_cannot_be_registered_or_found(call, message):
    with pytest.raises(ArgumentError, match=message):
        call(nn.Linear(2, 2))


def test_casts_by_name():
    model = nn.BatchNorm1d(2)
    for cast, dtype in (("double", vtc.float64), ("bfloat16", vtc.bfloat16), ("half", vtc.float16)):
        getattr(model, cast)()
        assert model.weight.dtype is model.running_mean.dtype is dtype
        assert model.num_batches_tracked.dtype is vtc.int64
    assert model.float().weight.dtype is vtc.float32


# modules and parameters by name


def test_module_dict():
    d = nn.ModuleDict({"a": nn.Linear(2, 3), "b": nn.ReLU()})
    d["c"] = nn.Linear(3, 1)
    d.update([("b", nn.Tanh())])
    assert list(d) == list(d.keys()) == ["a", "b", "c"]
    assert type(d["b"]) is nn.Tanh
    assert "a" in d
    assert len(d) == 3
    assert [k for k, _ in d.named_parameters()] == ["a.weight", "a.bias", "c.weight", "c.bias"]
    assert type(d.pop("b")) is nn.Tanh
    assert [type(m) for m in d.values()] == [nn.Linear, nn.Linear]
    d.clear()
    assert len(d) == 0
    with pytest.raises(ArgumentError, match="ModuleDict: expected a Module, got int"):
        d["x"] = 3
    for name in ("a.b", "items", ""):
        with pytest.raises(ArgumentError, match="ModuleDict: expected a name without dots"):
            d[name] = nn.ReLU()


def test_parameter_list_and_dict():
    p = nn.ParameterList([vtc.ones(2), nn.Parameter(vtc.zeros(3))])
    p.append(vtc.ones(1))
    p[0] = nn.Parameter(vtc.zeros(2))
    assert [k for k, _ in p.named_parameters()] == ["0", "1", "2"]
    assert [tuple(x.shape) for x in p] == [(2,), (3,), (1,)]
    assert p[-1].requires_grad
    assert len(p[1:]) == 2
    d = nn.ParameterDict({"a": vtc.ones(2)})
    d["b"] = vtc.zeros(1)
    assert dict(d.named_parameters()).keys() == {"a", "b"}
    assert d["a"].requires_grad
    assert list(d.keys()) == ["a", "b"]
    del d["a"]
    assert [k for k, _ in d.items()] == ["b"]


def test_a_module_dict_inside_a_compiled_model():
    class Heads(nn.Module):
        def __init__(self):
            self.heads = nn.ModuleDict({"a": nn.Linear(3, 2), "b": nn.Linear(3, 2)})
            self.scales = nn.ParameterList([vtc.ones(2), vtc.ones(2)])

        def forward(self, x):
            parts = zip(self.heads.values(), self.scales, strict=True)
            return sum(head(x) * scale for head, scale in parts)

    model, x = Heads(), vtc.ones(4, 3)
    fast = vtc.compile(model)
    with vtc.no_grad():
        np.testing.assert_allclose(fast(x).numpy(), model(x).numpy(), rtol=1e-5)
    assert "heads.a" in fast.lower(x).ir("captured", loc=True)


def test_sequential_grows():
    model = nn.Sequential(nn.ReLU()).extend([nn.Tanh()]).insert(1, nn.Sigmoid())
    assert [type(m).__name__ for m in model] == ["ReLU", "Sigmoid", "Tanh"]
    assert [k for k, _ in model.named_children()] == ["0", "1", "2"]


def test_tied_weights_are_one():
    class Tied(nn.Module):
        def __init__(self):
            self.token, self.head = nn.Embedding(5, 3), nn.Linear(3, 5, bias=False)
            self.head.weight = self.token.weight

        def forward(self, ids):
            return self.head(self.token(ids))

    model = Tied()
    assert [k for k, _ in model.named_parameters()] == ["token.weight"]
    assert list(model.state_dict()) == ["token.weight", "head.weight"]
    optimizer = vtc.optim.Adam(model.parameters(), lr=0.1)

    @vtc.compile
    def step(ids):
        loss = model(ids).square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss

    losses = [step(vtc.tensor([0, 1, 2])).item() for _ in range(4)]
    assert losses[-1] < losses[0]
    assert model.head.weight is model.token.weight
