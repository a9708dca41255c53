"""What a trace makes of user code, and the text of every refusal."""

import numpy as np
import pytest

import vtc
import vtc.nn as nn
import vtc.nn.functional as F
from vtc.errors import (
    ArgumentError,
    CaptureError,
    DeviceError,
    GradientError,
    LeakError,
    TypeCheckError,
    VersionError,
)


def arange(*shape):
    return vtc.arange(int(np.prod(shape)), dtype=vtc.float32).reshape(*shape)


class Box:
    pass


def test_values_bear_the_names_of_variables():
    @vtc.compile
    def f(x):
        hidden = vtc.exp(x)
        total = hidden.sum()
        return total  # noqa: RET504

    f(arange(3))
    text = f.ir("captured")
    assert "hidden: f32[3] = exp(x)" in text
    assert "total: f32[()] = sum(hidden, axes=(0,))" in text


@pytest.mark.parametrize("stage", ["captured", "joint", "lowered", "fused", "planned"])
def test_every_stage_parses_back(stage):
    w = vtc.randn(3, 2).requires_grad_()

    @vtc.compile
    def step(x):
        loss = vtc.tanh(x @ w).sum()
        loss.backward()
        with vtc.no_grad():
            w.sub_(0.1 * w.grad)
        w.grad = None
        return loss

    step(vtc.randn(4, 3))
    program = step.program(stage)
    assert vtc.parse(vtc.show(program)) == program


def test_a_write_through_a_view_reaches_the_argument():
    @vtc.compile
    def f(x):
        x[1].mul_(10.0)
        return x.sum()

    x = arange(2, 2)
    assert f(x).item() == 0 + 1 + 20 + 30
    assert x.tolist() == [[0.0, 1.0], [20.0, 30.0]]


def test_arguments_that_share_memory_are_views_of_one():
    @vtc.compile
    def f(x, y):
        x.add_(1.0)
        return y * 1.0

    base = arange(4)
    assert f(base, base[1:3]).tolist() == [2.0, 3.0]
    assert f(arange(4), arange(2)).tolist() == [0.0, 1.0]
    assert base.tolist() == [1.0, 2.0, 3.0, 4.0]


def test_a_result_that_is_an_input_is_that_input():
    @vtc.compile
    def f(x):
        return x, x.t()

    x = arange(2, 3)
    same, turned = f(x)
    assert same is x
    assert turned.shape == (3, 2)
    x[0, 1] = 9.0
    assert turned[1, 0].item() == 9.0


def test_a_changed_global_or_attribute_is_seen():
    box = Box()
    box.scale = 2.0

    @vtc.compile
    def f(x):
        return x * box.scale

    assert f(arange(2)).tolist() == [0.0, 2.0]
    box.scale = 3.0
    assert f(arange(2)).tolist() == [0.0, 3.0]
    assert "box.scale was 2.0, is 3.0" in f.explain()


def test_train_and_eval_are_two_programs():
    drop = nn.Sequential(nn.Dropout(0.5))
    fast = vtc.compile(drop)
    x = vtc.ones(1000)
    assert (fast(x).numpy() == 0).any()
    drop.eval()
    assert (fast(x).numpy() == 1).all()
    assert "training" in fast.explain()


def test_float_arguments_do_not_recompile():
    @vtc.compile
    def f(x, s):
        return x * s

    assert f(arange(2), 2.0).tolist() == [0.0, 2.0]
    assert f(arange(2), 3.0).tolist() == [0.0, 3.0]
    assert len(f.entries) == 1


def test_a_size_that_varies_becomes_symbolic():
    @vtc.compile
    def f(x):
        return x.sum() * x.shape[0]

    for n in (3, 5, 7, 9):
        assert f(vtc.ones(n)).item() == n * n
    assert len(f.entries) == 2
    assert "Dim(2, None)" in f.ir("captured")


def test_random_numbers_are_fresh_and_follow_the_seed():
    @vtc.compile
    def f():
        return vtc.rand(8)

    vtc.manual_seed(1)
    a, b = f().numpy(), f().numpy()
    vtc.manual_seed(1)
    eager = vtc.rand(8).numpy()
    assert (a != b).any()
    assert (a == eager).all()


def test_trees_go_in_and_out():
    @vtc.compile
    def f(batch):
        return {"sum": batch["x"] + batch["pair"][0], "n": 3, "pair": (batch["pair"][1], None)}

    out = f({"x": arange(2), "pair": (arange(2), arange(3))})
    assert out["sum"].tolist() == [0.0, 2.0]
    assert (out["n"], out["pair"][1]) == (3, None)


def test_compiled_model_has_an_eager_backward():
    vtc.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))
    x = vtc.randn(5, 3)
    model(x).sum().backward()
    want = [p.grad.numpy().copy() for p in model.parameters()]
    model.zero_grad()
    fast = vtc.compile(model)
    fast(x).sum().backward()
    for p, w in zip(model.parameters(), want, strict=True):
        np.testing.assert_allclose(p.grad.numpy(), w, rtol=1e-5, atol=1e-6)


def test_module_classes_and_methods_compile():
    @vtc.compile
    class Twice(nn.Module):
        def forward(self, x):
            return x + x

    class Host:
        def __init__(self, k):
            self.k = k

        @vtc.compile
        def run(self, x):
            return x * self.k

    assert Twice()(arange(2)).tolist() == [0.0, 2.0]
    assert Host(3).run(arange(2)).tolist() == [0.0, 3.0]
    assert Host(4).run(arange(2)).tolist() == [0.0, 4.0]


def test_gradients_of_gradients():
    def f(x):
        return (x * x * x).sum()

    x = arange(3)
    assert vtc.grad(vtc.grad(lambda x: f(x)).__wrapped__)(x) is not None
    second = vtc.grad(lambda x: vtc.grad(f)(x).sum())
    assert second(x).tolist() == [0.0, 6.0, 12.0]
    assert vtc.compile(second)(x).tolist() == [0.0, 6.0, 12.0]


def test_value_and_grad_of_several_arguments():
    both = vtc.value_and_grad(lambda a, b: (a * b).sum(), argnums=(0, 1))
    value, (da, db) = both(arange(2), arange(2) + 1)
    assert (value.item(), da.tolist(), db.tolist()) == (2.0, [1.0, 2.0], [0.0, 1.0])


# refusals: class and text


def refused(error, *words):
    return pytest.raises(error, match="(?s)" + ".*".join(words) + ".*test_capture.py")


def test_wrong_shapes():
    with refused(TypeCheckError, "matmul", r"f32\[2, 3\]", r"f32\[2, 3\]"):
        arange(2, 3) @ arange(2, 3)


def test_wrong_dtype():
    with refused((TypeCheckError, ArgumentError), "embedding"):
        F.embedding(vtc.ones(2), vtc.ones(3, 4))


def test_branch_on_traced_data():
    @vtc.compile
    def f(x):
        if x.sum() > 0:
            return x
        return -x

    with refused(CaptureError, "a branch on data", "vtc.where"):
        f(arange(3))


def test_int_of_traced_data():
    @vtc.compile
    def f(x):
        return x * int(x.sum())

    with refused(CaptureError, r"int\(\) of a traced tensor"):
        f(arange(3))


def test_a_leak_names_the_attribute():
    box = Box()

    @vtc.compile
    def f(x):
        box.hidden = x * 2
        return x + 1

    with refused(LeakError, r"Box\.hidden"):
        f(arange(3))


def test_a_leak_in_a_list_is_found():
    box = Box()
    box.seen = []

    @vtc.compile
    def f(x):
        box.seen.append(x * 2)
        return x + 1

    with refused(LeakError, r"Box\.seen"):
        f(arange(3))


def test_saved_value_changed_before_backward():
    w = vtc.ones(3).requires_grad_()
    y = vtc.exp(w)
    y.add_(1.0)
    with refused(VersionError, "changed in place", "version 1", "expected version 0"):
        y.sum().backward()


def test_leaf_changed_before_backward_in_a_trace():
    w = vtc.ones(3).requires_grad_()

    @vtc.compile
    def f():
        loss = (w * w).sum()
        with vtc.no_grad():
            w.mul_(2.0)
        loss.backward()
        return loss

    with refused(VersionError, "changed in place"):
        f()


def test_write_to_a_leaf():
    w = vtc.ones(3).requires_grad_()
    with refused(GradientError, "leaf", "no_grad"):
        w.add_(1.0)


def test_unsupported_argument():
    @vtc.compile
    def f(x):
        return x

    with refused(ArgumentError, "argument of type generator"):
        f(i for i in range(3))


def test_second_backward():
    w = vtc.ones(3).requires_grad_()
    loss = vtc.exp(w).sum()
    loss.backward()
    with refused(GradientError, "backward a second time", "retain_graph=True"):
        loss.backward()

    @vtc.compile
    def f():
        loss = vtc.exp(w).sum()
        loss.backward()
        loss.backward()

    with refused(GradientError, "backward a second time"):
        f()


def test_backward_without_gradients():
    with refused(GradientError, "does not depend on anything that requires grad"):
        arange(3).sum().backward()


def test_backward_of_a_vector():
    with refused(GradientError, "expected a scalar", r"f32\[3\]"):
        arange(3).requires_grad_().mul(2.0).backward()


def test_no_such_device():
    with refused(DeviceError, "cuda"):
        arange(3).to("cuda")


def test_a_recorded_write_into_a_detached_tensor():
    @vtc.compile
    def f(x, y, cut):
        h = x * 2
        h.detach()[0] = y.detach() if cut else y
        (h * 3).sum().backward()
        return h

    x, y = arange(3).requires_grad_(), vtc.tensor(5.0, requires_grad=True)
    with refused(GradientError, "was written into a detached tensor"):
        f(x, y, False)
    assert f(x, y, True).tolist() == [5.0, 2.0, 4.0]
    assert x.grad.tolist() == [6.0, 6.0, 6.0]  # what is detached has no say in gradients
    assert y.grad is None


def test_mixed_devices():
    here, there = arange(3), arange(3)
    there._storage.device = vtc.device("cuda:0")  # no GPU is needed to be on the wrong one
    with refused(DeviceError, "add: expected one device, got cpu and cuda:0"):
        here + there

    @vtc.compile
    def f(x, y):
        return x + y

    with refused(DeviceError, "expected one device"):
        f(here, there)


def test_a_traced_value_is_of_no_use_after_its_trace():
    seen = {}

    @vtc.compile
    def f(x):
        try:
            seen["x"] = x * 2
            raise KeyError
        except KeyError:
            return x

    with refused(LeakError, "a dict, under 'x'"):
        f(arange(2))
    assert not seen

    @vtc.compile
    def g(x):
        raise KeyError(x * 2)

    with pytest.raises(KeyError) as caught:
        g(arange(2))
    (left,) = caught.value.args
    with pytest.raises(CaptureError, match=r"f32\[2\], made at .*:\d+, was used after its trace"):
        left + 1
