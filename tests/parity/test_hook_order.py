"""Hooks beside PyTorch's: the same program, eager there, eager and compiled here.

Which hooks run, in what order and how often, and what they leave of gradients must be the same.
"""

import contextlib

import numpy as np
import pytest

import vtc

torch = pytest.importorskip("torch")


def start(lib, *values):
    """Leaves."""
    found = [lib.tensor(v, dtype=lib.float32) for v in values]
    return [x.requires_grad_() for x in found]


def show(value):
    """As NumPy."""
    if isinstance(value, (tuple, list)):
        return [show(v) for v in value]
    if isinstance(value, (int, float)):
        return value
    return value if value is None or isinstance(value, str) else value.detach().numpy()


def compare(got, want):
    assert len(got) == len(want)
    for a, b in zip(got, want, strict=True):
        if b is None or isinstance(b, str):
            assert a == b
        elif isinstance(b, list):
            compare(a, b)
        else:
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def on_all(program, count, build=lambda lib: ()):
    """``program(lib, log, here, *leaves)`` on both sides: its log, results, ``.grad`` of leaves.

    ``here`` keeps a hook until the program returns: those on leaves from outside may not stay.
    ``build(lib)`` gives modules, which come before the leaves.
    """
    rng = np.random.default_rng(0)
    values = [rng.normal(size=3).astype(np.float32).tolist() for _ in range(count)]
    logs = []

    def run(lib, around):
        log, leaves, models = [], start(lib, *values), build(lib)

        def call(*xs):
            with contextlib.ExitStack() as stack:
                return program(lib, log.append, stack.enter_context, *models, *xs)

        result = around(call)(*leaves)
        leaves += [p for m in models for p in m.parameters()]
        logs.append(log)
        return show(list(result)), show([x.grad for x in leaves])

    want = run(torch, lambda fn: fn)
    for around in (lambda fn: fn, vtc.compile):
        got = run(vtc, around)
        assert logs[-1] == logs[0]
        for a, b in zip(got, want, strict=True):
            compare(a, b)


def label(log, name, change=lambda g: None):
    """A hook that says its name."""

    def hook(g):
        log(name)
        return change(g)

    return hook


# tensors


def order(lib, log, here, x, w, v):
    """Values that are read twice, branches, leaves used early and late."""
    h = x * w
    k = h.exp()
    m = k * v + h * w
    for name, t in zip("xwvhkm", (x, w, v, h, k, m), strict=True):
        here(t.register_hook(label(log, name)))
    for name, t in zip("xwv", (x, w, v), strict=True):
        here(t.register_post_accumulate_grad_hook(label(log, f"{name} added")))
    (m * m).sum().backward()
    return ()


def replaced(lib, log, here, x, w, v):
    """Several hooks: each sees what the one before left, and the sum of all gradients."""
    h = x * w
    h.register_hook(lambda g: g * g)
    h.register_hook(lambda g: g + 1)
    h.register_hook(lambda g: None)
    h.retain_grad()
    here(w.register_hook(lambda g: g.clamp(-1, 1)))
    y = h * v + h.sin()
    y.retain_grad()
    y.sum().backward()
    return h.grad, y.grad


def retained_twice(lib, log, here, x):
    h = x * 2
    h.retain_grad()
    h.retain_grad()
    (h * h).sum().backward(retain_graph=True)
    first = h.grad.clone()
    (h * 3).sum().backward()
    return first, h.grad


def in_place(lib, log, here, x):
    """Hooks stay with the value they were registered on; retain_grad goes along."""
    h = x * 2
    h.register_hook(label(log, "old", lambda g: g + 1))
    h.retain_grad()
    h.mul_(3)
    h.register_hook(label(log, "new", lambda g: g * 2))
    h.sin().sum().backward()
    return (h.grad,)


def copied(lib, log, here, w):
    """A value that was written whole is not that whose value it has."""
    h, k = lib.zeros_like(w), w * 2
    h.copy_(k)
    h.register_hook(lambda g: g * 10)
    k.register_hook(lambda g: g + 1)
    (h * 3 + k * 5).sum().backward()
    return ()


def removed(lib, log, here, x):
    """Taken away by another hook: from the next backward on."""
    h = x * 2
    handles = []
    handles.append(h.register_hook(label(log, "first", lambda g: handles[1].remove())))
    handles.append(h.register_hook(label(log, "second")))
    h.register_hook(label(log, "third"))
    y = (h * h).sum()
    y.backward(retain_graph=True)
    handles[0].remove()
    handles[0].remove()
    y.backward()
    return ()


def added(lib, log, here, x):
    """By another hook: from the next backward on."""
    h = x * 2
    h.register_hook(lambda g: h.register_hook(label(log, "later")) and None)
    y = (h * h).sum()
    y.backward(retain_graph=True)
    log("again")
    y.backward()
    return ()


def views_and_parts(lib, log, here, x, w):
    a, b, c = (x * w).chunk(3)
    b.register_hook(label(log, "b", lambda g: g * 10))
    row = (w * 2).reshape(1, 3)[0]
    row.register_hook(label(log, "row", lambda g: g + 1))
    row.retain_grad()
    y = lib.cat([a * 2, b * 3, c]) * row
    y.sum().backward()
    return (row.grad,)


def root(lib, log, here, x):
    """On what backward begins with, and on a leaf that it begins with."""
    y = (x * x).sum()
    y.register_hook(label(log, "y", lambda g: g * 3))
    y.backward()
    here(x.register_hook(label(log, "x", lambda g: g * 5)))
    x.backward(lib.ones_like(x))
    return ()


def used_up(lib, log, here, x, w):
    """A hook that steps and drops ``.grad`` while backward goes on."""

    def step(p):
        log("step")
        with lib.no_grad():
            p.sub_(p.grad * 0.1)
        p.grad = None

    here(w.register_post_accumulate_grad_hook(step))
    h = x * 2
    (h * w).sum().backward()
    return (w * 1,)


def unused_ways(lib, log, here, x, w):
    """Hooks of what backward does not come by are not called."""
    h, k = x * 2, w * 3
    h.register_hook(label(log, "h"))
    k.register_hook(label(log, "k"))
    h.sum().backward()
    return ()


def asked_for(lib, log, here, x, w):
    """``autograd.grad``: hooks of leaves count, those of values on the way only where it ends."""
    h = x * w
    h.register_hook(label(log, "h", lambda g: g * 10))
    h.retain_grad()
    here(x.register_hook(label(log, "x", lambda g: g + 1)))
    here(x.register_post_accumulate_grad_hook(label(log, "never")))
    y = (h * 3).sum()
    both = lib.autograd.grad(y, [h, x], retain_graph=True)
    first = h.grad.clone()
    return *both, *lib.autograd.grad(y, h), first, h.grad


def again(lib, log, here, x):
    """Gradients of gradients, through a hook."""
    h = x * x
    h.register_hook(lambda g: g * h)
    (g,) = lib.autograd.grad(h.exp().sum(), x, create_graph=True)
    g.register_hook(lambda g: g * 2)
    g.sum().backward()
    return (g,)


def several_roots(lib, log, here, x, w):
    h = x * w
    h.register_hook(label(log, "h", lambda g: g * g))
    lib.autograd.backward([h.sum(), h * 2], [None, lib.ones_like(x)])
    return ()


def only_inputs(lib, log, here, x, w):
    h = x * w
    h.register_hook(label(log, "h", lambda g: g * 2))
    here(w.register_hook(label(log, "w")))
    (h * w).sum().backward(inputs=[w, h])
    return (h.grad,)


PROGRAMS = (
    (order, 3), (replaced, 3), (retained_twice, 1), (in_place, 1), (copied, 1), (removed, 1),
    (added, 1), (views_and_parts, 2), (root, 1), (used_up, 2), (unused_ways, 2), (asked_for, 2),
    (again, 1), (several_roots, 2), (only_inputs, 2),
)  # fmt: skip


@pytest.mark.parametrize(("program", "count"), PROGRAMS, ids=lambda v: getattr(v, "__name__", ""))
def test_hooks_on_tensors_are_torchs(program, count):
    on_all(program, count)


# modules


def two(lib):
    """A module with two arguments and two results, inside one with one of each."""

    class Two(lib.nn.Module):
        def __init__(self):
            super().__init__()
            self.w = lib.nn.Parameter(lib.tensor([1.0, -2.0, 0.5]))

        def forward(self, a, b, scale=1.0):
            return a * self.w * scale, b.sin() + a

    class Whole(lib.nn.Module):
        def __init__(self):
            super().__init__()
            self.two, self.v = Two(), lib.nn.Parameter(lib.tensor([0.5, 3.0, 1.0]))

        def forward(self, x):
            p, q = self.two(x * self.v, x.exp(), scale=2.0)
            return p * q

    return (Whole(),)


def forward_hooks(lib, log, here, model, x):
    """Their order, what they are given, and what they replace."""

    def before(module, args, kwargs):
        log(f"before {len(args)} {sorted(kwargs)}")
        return (args[0] + 1, args[1]), {"scale": kwargs["scale"] * 2}

    def after(module, args, kwargs, out):
        log(f"after {kwargs['scale']}")
        return out[0] * 2, out[1]

    here(model.two.register_forward_pre_hook(before, with_kwargs=True))
    here(model.two.register_forward_pre_hook(lambda m, a: log("first"), prepend=True))
    here(model.two.register_forward_hook(after, with_kwargs=True))
    here(model.two.register_forward_hook(lambda m, a, out: log("late")))
    here(model.two.register_forward_hook(lambda m, a, out: log("early"), prepend=True))
    here(model.register_forward_pre_hook(lambda m, args: args[0] * 3))
    y = model(x)
    y.sum().backward()
    return (y,)


def full_backward(lib, log, here, model, x):
    """Gradients of results, then of arguments; each may be replaced."""

    def back(name, factor):
        def hook(module, grad_input, grad_output):
            log(f"{name} {len(grad_input)} {len(grad_output)}")
            return tuple(g * factor + grad_output[0] for g in grad_input)

        return hook

    def pre(module, grad_output):
        log("pre")
        return tuple(g * 2 for g in grad_output)

    here(model.two.register_full_backward_hook(back("two", 3)))
    here(model.two.register_full_backward_hook(back("prepended", 2), prepend=True))
    here(model.two.register_full_backward_pre_hook(pre))
    here(model.two.register_full_backward_pre_hook(lambda m, g: log("first"), prepend=True))
    here(model.register_full_backward_hook(lambda m, gi, go: log("whole")))
    model(x).sum().backward()
    return ()


def results_unused(lib, log, here, model, x):
    """None for results that nothing flows from; zeros for arguments that nothing flows to."""
    kept = []

    def hook(module, grad_input, grad_output):
        log(" ".join("None" if g is None else "tensor" for g in (*grad_input, *grad_output)))
        kept.append(grad_input)
        return grad_input[0] * 2, None

    here(model.two.register_full_backward_hook(hook))
    y, _ = model.two(x * 1, x.exp())
    y.sum().backward()
    (found,) = kept
    kept.clear()
    return found


def nothing_required(lib, log, here, model, x):
    """No argument requires grad: the hook comes with the gradients of results."""

    def hook(module, grad_input, grad_output):
        log(" ".join("None" if g is None else "tensor" for g in (*grad_input, *grad_output)))

    here(model.two.register_full_backward_hook(hook))
    p, q = model.two(x.detach(), x.detach())
    (p * q).sum().backward()
    return ()


def mixed(lib, log, here, model, x):
    """With hooks on the very tensors that go in and come out, and on parameters."""
    h = x * 1
    here(model.two.w.register_hook(label(log, "w", lambda g: g * 2)))
    h.register_hook(label(log, "in"))
    here(model.two.register_full_backward_hook(lambda m, gi, go: log("module")))
    p, q = model.two(h, h)
    p.register_hook(label(log, "p", lambda g: g + 1))
    q.register_hook(label(log, "q"))
    (p * q).sum().backward()
    return ()


def everywhere(lib, log, here, model, x):
    """Hooks of all modules come first."""
    at = lib.nn.modules.module if lib is torch else lib.nn

    def say(what):
        return lambda module, *_: log(f"{what} {type(module).__name__}")

    here(model.two.register_forward_hook(say("own after")))
    here(model.two.register_full_backward_hook(say("own back")))
    here(at.register_module_forward_pre_hook(say("before")))
    here(at.register_module_forward_hook(lambda m, args, kwargs, out: None, with_kwargs=True))
    here(at.register_module_forward_hook(say("after")))
    here(at.register_module_full_backward_pre_hook(say("pre")))
    here(at.register_module_full_backward_hook(say("back")))
    model(x).sum().backward()
    return ()


def none_returned(lib, log, here, model, x):
    """In a tuple: nothing flows on from arguments; from results, zeros."""
    here(model.two.register_full_backward_hook(lambda m, gi, go: (None, gi[1])))
    p, q = model.two(x * 1, x * 2)
    (p * q).sum().backward()
    here(model.two.register_full_backward_pre_hook(lambda m, go: (None, go[1])))
    p, q = model.two(x * 1, x * 2)
    (p * q).sum().backward()
    return ()


def twice(lib, log, here, model, x):
    """Gradients of gradients come by again."""
    here(model.two.register_full_backward_hook(lambda m, gi, go: log("two")))
    p, q = model.two(x * 1, x * 1)
    (g,) = lib.autograd.grad((p * q).exp().sum(), x, create_graph=True)
    g.sum().backward()
    return (g,)


MODULES = (
    forward_hooks, full_backward, results_unused, nothing_required, mixed, everywhere,
    none_returned, twice,
)  # fmt: skip


@pytest.mark.filterwarnings("ignore:Full backward hook is firing")
@pytest.mark.parametrize("program", MODULES, ids=lambda p: p.__name__)
def test_hooks_on_modules_are_torchs(program):
    on_all(program, 1, two)
