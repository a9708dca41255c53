"""``debug.print`` shows values when a call has run, with the values they had where it stands."""

import pytest

import vtc
from vtc.errors import ArgumentError, CaptureError


def test_it_prints_at_every_call(capsys):
    @vtc.compile
    def f(x, s):
        vtc.debug.print("x", x, s)
        y = x * 2
        x.add_(1)
        vtc.debug.print("then", x, y.sum())
        return {"y": y}

    x = vtc.tensor([1.0, 2.0])
    for k in range(3):
        assert f(x, 0.5)["y"].tolist() == [2.0 + 2 * k, 4.0 + 2 * k]
        lines = capsys.readouterr().out.splitlines()
        assert lines == [
            f"x tensor([{1 + k}., {2 + k}.]) 0.5",
            f"then tensor([{2 + k}., {3 + k}.]) tensor({6 + 4 * k}.)",
        ]


def test_it_prints_at_once_outside(capsys):
    vtc.debug.print(vtc.tensor([1, 2]), "a")
    assert capsys.readouterr().out == "tensor([1, 2]) a\n"


def test_gradients_pass_it_by(capsys):
    w = vtc.tensor([3.0], requires_grad=True)

    @vtc.compile
    def f(x):
        y = w * x
        vtc.debug.print(y)
        return y.sum()

    f(vtc.tensor([2.0, 5.0])).backward()
    assert w.grad.tolist() == [7.0]
    assert capsys.readouterr().out == "tensor([ 6., 15.])\n"


def test_branches_print_nothing():
    def printing(x):
        vtc.debug.print(x)
        return x + 1

    f = vtc.compile(lambda x: vtc.cond(x.sum() > 0, printing, lambda x: x - 1, (x,)))
    with pytest.raises(CaptureError, match=r"debug\.print: expected to be called in a compiled"):
        f(vtc.ones(2))


def test_packages_print_nothing(tmp_path):
    f = vtc.compile(lambda x: (vtc.debug.print(x), x + 1)[1])
    with pytest.raises(ArgumentError, match=r"export: .* take debug\.print out"):
        vtc.export(f, (vtc.zeros(2),), tmp_path / "f.vtc")
