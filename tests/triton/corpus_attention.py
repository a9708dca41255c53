"""Attention and its gradient as they are taken without measuring: for the table of resources."""

from dataclasses import replace

from test_attention import backward, forward, region, types

from vtc.codegen.cuda import generate
from vtc.ir.target import cuda
from vtc.ir.types import bf16, f32

SHAPES = {
    "bf16_64": (bf16, 64, 1024),
    "bf16_128": (bf16, 128, 4096),
    "bf16_256": (bf16, 256, 4096),
    "bf16_64_decode": (bf16, 64, 1),
    "f32_64": (f32, 64, 1024),
}


def kernels():
    """By kind of program, type and columns; causal but where there is one query, whose keys are
    divided.
    """
    for name, (dtype, columns, queries) in SHAPES.items():
        for body in (forward, backward):
            given = types(dtype, body, (8, 16), queries, max(queries, 1024), columns)
            plan = generate(region(given, body(causal=queries > 1)), cuda(90))
            kinds = ["of_keys", "of_queries"]
            if body is forward:
                kinds = ["forward"] if len(plan.kernels) == 1 else ["part", "whole"]
            for kind, kernel in zip(kinds, plan.kernels, strict=True):
                yield replace(kernel, name=f"attention_{kind}_{name}")
