"""Writes after reshape, contiguous and ravel: eager and compiled code agree on what was copied."""

import pytest

import vtc

LAYOUTS = {
    "dense": lambda x: x,
    "turned": lambda x: x.t(),
    "columns": lambda x: x[:, ::2],
    "rows": lambda x: x[1:],
}
COPIES = {
    "flatten": lambda x: x.flatten(),
    "contiguous": lambda x: x.contiguous(),
    "turned": lambda x: x.t().reshape(-1),
    "turned and dense": lambda x: x.t().contiguous().view(-1),
    "some columns": lambda x: x[:, :2].reshape(-1),
    "every other row": lambda x: x[::2].flatten(),
    "turned twice": lambda x: x.t().unsqueeze(0).permute(2, 1, 0).reshape(-1),
    "repeated": lambda x: x.expand(2, *x.shape).reshape(-1),
    "ravel": lambda x: x.squeeze().ravel(),
    "diagonal": lambda x: x.diagonal().reshape(2, -1) if x.shape[0] == x.shape[1] else x[0],
}


def changed(copy, x):
    y = copy(x)
    y.mul_(2)
    return x + 0, y


@pytest.mark.parametrize("copy", COPIES.values(), ids=COPIES)
def test_compiled_code_copies_what_eager_code_does(copy):
    compiled = vtc.compile(lambda x: changed(copy, x))
    for layout in LAYOUTS.values():  # one function for all of them
        x, same = (layout(vtc.arange(16.0).view(4, 4)) for _ in range(2))
        want, got = changed(copy, x), compiled(same)
        assert [t.tolist() for t in got] == [t.tolist() for t in want]
        assert same.tolist() == x.tolist()


def test_sizes_that_vary():
    compiled = vtc.compile(lambda x: changed(lambda x: x.t().reshape(-1), x), dynamic=True)
    for n in (3, 5, 1):
        x = vtc.arange(4.0 * n).view(n, 4)
        kept, doubled = compiled(x)
        assert kept.tolist() == vtc.arange(4.0 * n).view(n, 4).mul(2 if n == 1 else 1).tolist()
        assert doubled.tolist() == vtc.arange(4.0 * n).view(n, 4).t().flatten().mul(2).tolist()
