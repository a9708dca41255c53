"""Find composites that were spelled by hand, where the target has a kernel for them.

    a: f32[4, 8] = exp(x)
    b: f32[4] = sum(a, axes=(1,))
    c: f32[4, 8] = expand(b, axes=(1,), sizes=(8,))
    p: f32[4, 8] = div(a, c)                        ==>     p: f32[4, 8] = softmax(x, axis=1)

Patterns are written over canonical programs, and match only where nothing else needs what is
inside: a backward graph that reads it keeps it. A composite may compute more exactly than its
spelling.
"""

from __future__ import annotations

from vtc.ir.graph import Program
from vtc.ir.rules import Rule, rewrite
from vtc.passes import activation_patterns as activation
from vtc.passes import norm_patterns as norm
from vtc.passes.attention_patterns import attention
from vtc.passes.pipeline import Context
from vtc.passes.splice import each_graph

ATTENTION = "scaled_dot_product_attention"
RULES: tuple[tuple[Rule, frozenset[str]], ...] = (
    (activation.softmax, frozenset({"softmax", ATTENTION})),
    (activation.log_softmax, frozenset({"log_softmax"})),
    (activation.silu, frozenset({"silu"})),
    (activation.sigmoid, frozenset({"sigmoid", "silu"})),
    (activation.gelu, frozenset({"gelu"})),
    (activation.gelu_tanh, frozenset({"gelu"})),
    (norm.layer_norm, frozenset({"layer_norm"})),
    (norm.rms_norm, frozenset({"rms_norm"})),
    (norm.weight, frozenset({"layer_norm", "rms_norm"})),
    (norm.bias, frozenset({"layer_norm"})),
    (attention, frozenset({ATTENTION})),
)
"""Each rule, and the composites that it finds or helps to find."""


def recognize(program: Program, context: Context) -> Program:
    """See the module."""
    keeps = context.target.keeps
    rules = [rule for rule, names in RULES if not keeps.isdisjoint(names)]
    return each_graph(program, lambda g: rewrite(g, rules)) if rules else program
