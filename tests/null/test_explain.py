"""What ``explain`` says of a compiled function."""

import vtc
import vtc.nn.functional as F


@vtc.compile
def norm_of_product(x, w):
    h = F.gelu(x @ w)
    return h / h.square().sum(-1, keepdim=True).sqrt()


def test_kernels_bytes_and_reasons_are_told():
    x, w = vtc.ones(8, 16), vtc.ones(16, 16)
    said = norm_of_product.explain(x, w).splitlines()
    assert said[0] == "norm_of_product: 1 compiled programs"
    assert said[1].startswith("  program 0: called 0 times; ")
    moved = 4 * (8 * 16 + 16 * 16 + 8 * 16) + 4 * 2 * 8 * 16
    assert said[2].startswith(f"    2 launches of 2 kernels move {moved / 1e6:.2f} MB; ")
    told = "\n".join(said)
    assert "add, erf, matmul, mul at test_explain.py:9" in told
    assert "matmul does not have whole rows at hand" in told


def test_it_tells_of_the_calls_that_were_made():
    x, w = vtc.ones(4, 16), vtc.ones(16, 16)
    before = norm_of_product.explain(x, w).count("called 0 times")
    norm_of_product(x, w)
    assert norm_of_product.explain().count("called 0 times") == before - 1
