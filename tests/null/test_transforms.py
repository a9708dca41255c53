"""What ``vtc.func`` refuses, and what it does besides computing: writing, drawing, modules."""

import numpy as np
import pytest

import vtc
from vtc import func, nn
from vtc.errors import ArgumentError, CaptureError, GradientError, TypeCheckError, VersionError


def tensor(*shape):
    return vtc.from_numpy(np.random.default_rng(0).normal(size=shape).astype(np.float32))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: func.vmap(lambda a, b: a)(x, x.T), "mapped dims of one size, got 3, 4"),
        (lambda x: func.vmap(lambda a: a, in_dims=None)(x), "a tensor to map over, got none"),
        (lambda x: func.vmap(lambda a: a, in_dims=2)(x), r"a dim of f32\[3, 4\], got 2"),
        (lambda x: func.vmap(lambda a: a, in_dims=(0, 0))(x), "as many in_dims as there are"),
        (lambda x: func.vmap(lambda a, n: a)(x, 2), "a tensor where in_dims is 0, got int 2"),
        (lambda x: func.vmap(lambda a: 2)(x), "a function that returns tensors, got 2"),
        (lambda x: func.vmap(lambda a: a, out_dims=3)(x), "a dim of"),
        (lambda x: func.vmap(lambda a: a, out_dims=None)(x), "the same for all slices"),
        (lambda x: func.vmap(lambda a: a, randomness="some"), "expected randomness"),
        (lambda x: func.vmap(lambda a: a, chunk_size=0), "chunk_size >= 1, got 0"),
        (lambda x: func.vmap(lambda a: x.add_(1.0) * a)(x[:, 0]), None),
        (lambda x: func.jvp(lambda a: a, x, x), "a tuple of primals, got Tensor"),
        (lambda x: func.vjp(lambda a: 2, x), "a function that returns tensors, got 2"),
        (lambda x: func.vjp(lambda a: a, x, has_aux=True), r"\(result, aux\) with has_aux"),
        (lambda x: func.functional_call(nn.Linear(2, 2), {"w": x}, x), "Linear has no w"),
        (
            lambda x: func.functional_call(nn.Linear(2, 2), {"bias": x}, x, strict=True),
            "expected weight",
        ),
        (
            lambda x: func.functional_call(nn.Linear(2, 2), ({"bias": x}, {"bias": x}), x),
            "in several dicts",
        ),
        (lambda x: func.stack_module_state([]), "a module or more, got none"),
        (
            lambda x: func.stack_module_state([nn.Linear(2, 2), nn.ReLU()]),
            "modules of a kind, got Linear, ReLU",
        ),
    ],
)
def test_bad_arguments_are_refused(call, message):
    if message is None:  # a write that is the same for all slices is none of them
        call(tensor(3, 4))
        return
    with pytest.raises(ArgumentError, match=message):
        call(tensor(3, 4))


def test_types_of_tangents_and_cotangents_are_those_of_the_primals():
    x = tensor(3)
    _, pull = func.vjp(lambda a: a.sum(), x)
    with pytest.raises(TypeCheckError, match=r"a cotangent of type f32\[\(\)\], got f32\[3\]"):
        pull(x)
    with pytest.raises(TypeCheckError, match=r"a tangent of type f32\[3\], got f64"):
        func.jvp(lambda a: a, (x,), (x.double(),))
    with pytest.raises(GradientError, match="floating-point tensors, got i64"):
        func.vjp(lambda a: a, vtc.arange(3))
    with pytest.raises(GradientError, match="strict"):
        func.jvp(lambda a: (a, vtc.ones(2)), (x,), (x,), strict=True)


def test_backward_and_numbers_have_no_meaning_for_many_examples():
    x = tensor(3).requires_grad_()
    with pytest.raises(GradientError, match=r"use vtc\.func\.grad"):
        func.vmap(lambda a: (a * 2).backward())(x)
    with pytest.raises(CaptureError, match=r"item\(\) of a traced tensor"):
        func.vmap(lambda a: a.item())(x.detach())


def test_a_value_left_behind_is_refused():
    left = []
    with pytest.raises(CaptureError, match="was left in"):
        func.vmap(lambda a: left.append(a * 2) or a)(tensor(3))


def test_errors_name_the_line_of_the_user():
    with pytest.raises(TypeCheckError, match=r"test_transforms.py:\d+"):
        func.vmap(lambda a: a @ vtc.ones(7))(tensor(3, 4))


def test_writes_reach_mapped_arguments_and_shared_tensors():
    x, count = vtc.zeros(3, 2), vtc.zeros(())

    def step(row, value):
        row.add_(value)
        count.add_(1.0)
        return row * 2

    y = func.vmap(step)(x, vtc.arange(6.0).reshape(3, 2))
    assert x.tolist() == [[0, 1], [2, 3], [4, 5]]
    assert y.tolist() == [[0, 2], [4, 6], [8, 10]]
    assert count.item() == 1
    with pytest.raises(ArgumentError, match="values that differ among them"):
        func.vmap(lambda row: count.add_(row))(vtc.ones(3))


def test_what_was_written_since_is_not_pulled_back():
    x = tensor(3)
    _, pull = func.vjp(lambda a: a * a, x)
    x.add_(1.0)
    with pytest.raises(VersionError):
        pull(vtc.ones(3))


def test_random_numbers_are_refused_different_or_the_same():
    def noise(a):
        return a + vtc.rand(2) + vtc.rand(2)

    x = vtc.zeros(3, 2)
    with pytest.raises(TypeCheckError, match="randomness='different' or 'same'"):
        func.vmap(noise)(x)
    same = func.vmap(noise, randomness="same")(x)
    assert (same[0] == same[1]).all()
    vtc.manual_seed(1)
    first = func.vmap(noise, randomness="different")(x)
    second = func.vmap(noise, randomness="different")(x)
    drawn = [v for row in (*first.tolist(), *second.tolist()) for v in row]
    assert len(set(drawn)) == len(drawn)
    vtc.manual_seed(1)
    compiled = vtc.compile(lambda x: func.vmap(noise, randomness="different")(x))
    assert (compiled(x) == first).all()
    assert (compiled(x) == second).all()


def test_dropout_masks_differ_or_not_as_asked():
    x = vtc.ones(4, 64)
    drop = lambda a: nn.functional.dropout(a, 0.5)  # noqa: E731
    same = func.vmap(drop, randomness="same")(x)
    assert (same == same[0]).all()
    many = func.vmap(drop, randomness="different")(x)
    assert not (many == many[0]).all()


def test_transforms_respect_no_grad_inside_and_ignore_it_outside():
    x = tensor(3)

    def half(a):
        with vtc.no_grad():
            fixed = a * 2
        return (a * fixed).sum()

    want = (2 * x).tolist()
    assert func.vjp(half, x)[1](vtc.ones(()))[0].tolist() == want
    assert func.jacfwd(half)(x).tolist() == want
    with vtc.no_grad():
        assert func.vjp(half, x)[1](vtc.ones(()))[0].tolist() == want


def test_gradients_flow_through_vmap_into_leaves():
    w, x = tensor(4).requires_grad_(), tensor(3, 4)
    func.vmap(lambda row: (row * w).sum())(x).sum().backward()
    np.testing.assert_allclose(w.grad.numpy(), x.sum(0).numpy(), rtol=1e-6)


def test_modules_are_functions_of_their_state():
    models = [nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2)) for _ in range(3)]
    x = tensor(5, 4)
    params, buffers = func.stack_module_state(models)
    assert all(p.requires_grad and p.is_leaf for p in params.values())

    def ensemble(params, buffers, x):
        one = lambda p, b: func.functional_call(models[0], (p, b), (x,))  # noqa: E731
        return func.vmap(one)(params, buffers)

    want = vtc.stack([m(x) for m in models]).detach().numpy()
    before = dict(models[0].named_parameters())
    for run in (ensemble, vtc.compile(ensemble)):
        np.testing.assert_allclose(run(params, buffers, x).detach().numpy(), want, rtol=1e-5)
    assert all(before[k] is p for k, p in models[0].named_parameters())


def test_tied_weights_are_replaced_together():
    model = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False))
    model[1].weight = model[0].weight
    eye, x = vtc.eye(3), tensor(2, 3)
    assert (func.functional_call(model, {"0.weight": eye}, x) == x).all()
    other = func.functional_call(model, {"0.weight": eye}, x, tie_weights=False)
    assert not (other == x).all()


def test_a_compiled_function_is_recorded_through():
    inner = vtc.compile(lambda a: (a * a).sum())
    x = tensor(3, 4)
    np.testing.assert_allclose(func.vmap(func.grad(inner))(x).numpy(), 2 * x.numpy(), rtol=1e-6)


def test_dynamic_sizes():
    f = vtc.compile(lambda x: func.vmap(func.grad(lambda a: (a**3).sum()))(x), dynamic=True)
    for n in (3, 5, 7):
        x = tensor(n, 4)
        np.testing.assert_allclose(f(x).numpy(), 3 * x.numpy() ** 2, rtol=1e-5)
