"""The workloads of ``workloads.py`` in plain ``jax.numpy``: the same numbers, jitted.

State (weights, moments) is donated to the step, so it is updated in place as elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.workloads import (
    BATCH,
    HEADS,
    LAYERS,
    LOSSES,
    MLP,
    TIME,
    VOCABULARY,
    WIDTH,
    Array,
    Workload,
    numbers,
    weights,
    whole_numbers,
)

State = Any


def function(fn: Callable[..., Any], *inputs: Array) -> Workload:
    run, given = jax.jit(fn), [jnp.asarray(a) for a in inputs]
    return Workload(
        lambda: run(*given).block_until_ready(), lambda: [np.asarray(run(*given), np.float64)]
    )


def training(step: Callable[..., Any], begin: Callable[[], State], *data: Array) -> Workload:
    """``step(state, *data)`` gives the next state and the loss."""
    run, given = jax.jit(step, donate_argnums=0), [jnp.asarray(a) for a in data]

    def fresh() -> Callable[[], Any]:
        state = begin()

        def once() -> Any:
            nonlocal state
            state, loss = run(state, *given)
            return loss.block_until_ready()

        return once

    def results() -> list[Array]:
        once = fresh()
        return [np.array([float(once()) for _ in range(LOSSES)])]

    return Workload(fresh(), results)


def linear(x: Any, w: Any, b: Any = None) -> Any:
    y = x @ w.T
    return y if b is None else y + b


def norm(x: Any, w: Any, b: Any) -> Any:
    mean = x.mean(-1, keepdims=True)
    centered = x - mean
    return centered * jax.lax.rsqrt((centered**2).mean(-1, keepdims=True) + 1e-5) * w + b


def cross_entropy(logits: Any, targets: Any) -> Any:
    picked = jnp.take_along_axis(jax.nn.log_softmax(logits), targets[:, None], -1)
    return -picked.mean()


def attend(q: Any, k: Any, v: Any, *, causal: bool) -> Any:
    scores = (q @ k.swapaxes(-1, -2)).astype(jnp.float32) / np.sqrt(q.shape[-1])
    if causal:
        scores = jnp.where(jnp.tril(jnp.ones(scores.shape[-2:], bool)), scores, -jnp.inf)
    return jax.nn.softmax(scores.astype(jnp.float32)).astype(v.dtype) @ v


def chain() -> Workload:
    def fn(x: Any, b: Any, r: Any) -> Any:
        return jax.nn.gelu(x + b, approximate=True) + r

    return function(fn, numbers(4096, 4096), numbers(4096, seed=1), numbers(4096, 4096, seed=2))


def softmax() -> Workload:
    return function(jax.nn.softmax, numbers(8192, 1024))


def layer_norm() -> Workload:
    return function(norm, numbers(8192, 1024), numbers(1024, seed=1), numbers(1024, seed=2))


def attention() -> Workload:
    q, k, v = (numbers(1, 12, 512, 64, seed=s) for s in range(3))
    return function(lambda q, k, v: attend(q, k, v, causal=False), q, k, v)


def conv() -> Workload:
    def fn(x: Any, w: Any, b: Any) -> Any:
        y = jax.lax.conv_general_dilated(
            x, w, (1, 1), "SAME", dimension_numbers=("NCHW", "OIHW", "NCHW")
        )
        return y + b[:, None, None]

    w = numbers(64, 64, 3, 3, seed=1, scale=0.05)
    return function(fn, numbers(8, 64, 32, 32), w, numbers(64, seed=2))


def matmul() -> Workload:
    return function(jnp.matmul, numbers(512, 768), numbers(768, 3072, seed=1))


def overhead() -> Workload:
    return function(lambda x: x + 1, numbers(8))


def mlp_step() -> Workload:
    shapes = {
        "0.weight": (MLP[1], MLP[0]),
        "0.bias": (MLP[1],),
        "2.weight": (MLP[2], MLP[1]),
        "2.bias": (MLP[2],),
    }

    def loss(p: Any, x: Any, y: Any) -> Any:
        h = jax.nn.relu(linear(x, p["0.weight"], p["0.bias"]))
        return cross_entropy(linear(h, p["2.weight"], p["2.bias"]), y)

    def step(p: Any, x: Any, y: Any) -> tuple[Any, Any]:
        found, g = jax.value_and_grad(loss)(p, x, y)
        return jax.tree.map(lambda p, g: p - 0.01 * g, p, g), found

    def begin() -> State:
        return {n: jnp.array(a) for n, a in weights(shapes).items()}

    return training(step, begin, numbers(64, MLP[0]), whole_numbers(MLP[2], 64))


def gpt_shapes() -> dict[str, tuple[int, ...]]:
    found: dict[str, tuple[int, ...]] = {
        "token.weight": (VOCABULARY, WIDTH),
        "place.weight": (TIME, WIDTH),
        "head.weight": (VOCABULARY, WIDTH),
    }
    layers = {"qkv": (3, 1), "out": (1, 1), "up": (4, 1), "down": (1, 4)}
    norms = ["norm"]
    for k in range(LAYERS):
        at = f"blocks.{k}"
        norms += [f"{at}.norm1", f"{at}.norm2"]
        for name, (rows, columns) in layers.items():
            found[f"{at}.{name}.weight"] = (rows * WIDTH, columns * WIDTH)
            found[f"{at}.{name}.bias"] = (rows * WIDTH,)
    return found | {f"{n}.{p}": (WIDTH,) for n in norms for p in ("weight", "bias")}


def gpt(p: Any, ids: Any, low: Any = jnp.float32) -> Any:
    """Logits; products and attention in dtype ``low``."""

    def dense(x: Any, name: str) -> Any:
        w, b = p[f"{name}.weight"], p.get(f"{name}.bias")
        return linear(x.astype(low), w.astype(low), None if b is None else b.astype(low))

    def normed(x: Any, name: str) -> Any:
        return norm(x.astype(jnp.float32), p[f"{name}.weight"], p[f"{name}.bias"])

    x = p["token.weight"][ids] + p["place.weight"]
    for k in range(LAYERS):
        at = f"blocks.{k}"
        qkv = dense(normed(x, f"{at}.norm1"), f"{at}.qkv")
        qkv = qkv.reshape(BATCH, TIME, 3, HEADS, WIDTH // HEADS).transpose(2, 0, 3, 1, 4)
        a = attend(*qkv, causal=True).swapaxes(1, 2).reshape(BATCH, TIME, WIDTH)
        x = x + dense(a, f"{at}.out")
        h = jax.nn.gelu(dense(normed(x, f"{at}.norm2"), f"{at}.up"), approximate=False)
        x = x + dense(h, f"{at}.down")
    return dense(normed(x, "norm"), "head")


def gpt_weights() -> State:
    return {n: jnp.array(a) for n, a in weights(gpt_shapes()).items()}


def gpt_forward() -> Workload:
    ids = whole_numbers(VOCABULARY, BATCH, TIME)
    p = gpt_weights()
    run, given = jax.jit(gpt), jnp.asarray(ids)
    return Workload(
        lambda: run(p, given).block_until_ready(), lambda: [np.asarray(run(p, given), np.float64)]
    )


def gpt_forward_bf16() -> Workload:
    p, given = gpt_weights(), jnp.asarray(whole_numbers(VOCABULARY, BATCH, TIME))
    run = jax.jit(lambda p, ids: gpt(p, ids, jnp.bfloat16))
    return Workload(
        lambda: run(p, given).block_until_ready(),
        lambda: [np.asarray(run(p, given).astype(jnp.float32), np.float64)],
    )


def gpt_step() -> Workload:
    ids = whole_numbers(VOCABULARY, BATCH, TIME)

    def loss(p: Any, ids: Any, targets: Any) -> Any:
        return cross_entropy(gpt(p, ids).reshape(-1, VOCABULARY), targets.reshape(-1))

    def step(state: State, ids: Any, targets: Any) -> tuple[State, Any]:
        p, m, v, count = state
        found, g = jax.value_and_grad(loss)(p, ids, targets)
        count = count + 1
        m = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, m, g)
        v = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g * g, v, g)
        rate, root = 1e-3 / (1 - 0.9**count), jnp.sqrt(1 - 0.999**count)

        def update(p: Any, m: Any, v: Any) -> Any:
            return p * (1 - 1e-3 * 0.01) - rate * m / (jnp.sqrt(v) / root + 1e-8)

        return (jax.tree.map(update, p, m, v), m, v, count), found

    def begin() -> State:
        p = gpt_weights()
        zeros = [jax.tree.map(jnp.zeros_like, p) for _ in range(2)]
        return p, *zeros, jnp.zeros(())

    return training(step, begin, ids, ids)


WORKLOADS: dict[str, Callable[[], Workload]] = {
    w.__name__: w
    for w in (
        mlp_step,
        gpt_forward,
        gpt_step,
        gpt_forward_bf16,
        chain,
        softmax,
        layer_norm,
        attention,
        conv,
        matmul,
        overhead,
    )
}
