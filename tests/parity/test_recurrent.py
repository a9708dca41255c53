"""Recurrent layers by a scan beside PyTorch's: long and packed sequences, and what is refused."""

import numpy as np
import pytest

import vtc
import vtc.nn as nn
from vtc.errors import ArgumentError, CaptureError, TypeCheckError

torch = pytest.importorskip("torch", reason="needs the extra 'parity'")

RNG = np.random.default_rng(0)
X = RNG.normal(size=(4, 6, 3)).astype(np.float32)
H = RNG.normal(size=(4, 4, 5)).astype(np.float32)
LENGTHS = [3, 6, 1, 4]


def pair(name, *args, **options):
    """torch's layer, and vtc's with the same weights."""
    torch.manual_seed(0)
    theirs = getattr(torch.nn, name)(*args, **options)
    ours = getattr(nn, name)(*args, **options)
    ours.load_state_dict({k: v.numpy() for k, v in theirs.state_dict().items()})
    return theirs, ours


def packed(T, layer, x, h):
    """What a layer makes of packed sequences, and gradients."""
    rnn = T.nn.utils.rnn
    given = rnn.pack_padded_sequence(x, LENGTHS, batch_first=True, enforce_sorted=False)
    y, last = layer(given, (h, h * 2) if layer.mode == "LSTM" else h)
    y, lengths = rnn.pad_packed_sequence(y, True, 7.0, 7)
    finals = last if isinstance(last, tuple) else (last,)
    ((y * y).sum() + sum((s * s * s).sum() for s in finals)).backward()
    grads = [p.grad * 1 for p in layer.parameters()]
    for p in layer.parameters():
        p.grad = None
    return [y.detach(), lengths * 1, *(s.detach() for s in finals), *grads]


def close(got, want):
    for a, b in zip(got, want, strict=True):
        np.testing.assert_allclose(a.detach().numpy(), b.detach().numpy(), 2e-4, 2e-5)


@pytest.mark.parametrize("name", ["LSTM", "GRU", "RNN"])
def test_packed_sequences(name):
    theirs, ours = pair(name, 3, 5, 2, bidirectional=True)
    want = packed(torch, theirs, torch.tensor(X), torch.tensor(H))
    close(packed(vtc, ours, vtc.tensor(X), vtc.tensor(H)), want)


def test_packed_sequences_compiled():
    theirs, ours = pair("GRU", 3, 5)
    run = vtc.compile(lambda x, h: packed(vtc, ours, x, h))
    want = packed(torch, theirs, torch.tensor(X), torch.tensor(H[:1]))
    close(run(vtc.tensor(X), vtc.tensor(H[:1])), want)


def test_packing_and_padding():
    rows = [RNG.normal(size=(n, 2)).astype(np.float32) for n in (3, 1, 2)]
    for side in ("left", "right"):
        for first in (False, True):
            a, b = (
                T.nn.utils.rnn.pad_sequence([T.tensor(r) for r in rows], first, -1.0, side)
                for T in (vtc, torch)
            )
            np.testing.assert_array_equal(a.numpy(), b.numpy())
    R = nn.utils.rnn
    given = R.pack_sequence([vtc.tensor(rows[i]) for i in (0, 2, 1)])
    want = torch.nn.utils.rnn.pack_sequence([torch.tensor(rows[i]) for i in (0, 2, 1)])
    assert given.batch_sizes.tolist() == want.batch_sizes.tolist() == [3, 2, 1]
    np.testing.assert_array_equal(given.data.numpy(), want.data.numpy())
    back = R.unpack_sequence(R.pack_sequence([vtc.tensor(r) for r in rows], enforce_sorted=False))
    for a, b in zip(back, rows, strict=True):
        np.testing.assert_array_equal(a.numpy(), b)
    order = vtc.tensor([2, 0, 3, 1])
    assert R.invert_permutation(order).tolist() == [1, 3, 0, 2]


def test_packing_refuses():
    R = nn.utils.rnn
    with pytest.raises(ArgumentError, match="expected lengths that do not increase"):
        R.pack_padded_sequence(vtc.zeros(6, 2, 3), [2, 5])
    with pytest.raises(ArgumentError, match=r"expected 2 lengths in \[1, 6\], got \[7, 0\]"):
        R.pack_padded_sequence(vtc.zeros(6, 2, 3), vtc.tensor([7, 0]))
    with pytest.raises(ArgumentError, match="expected a total_length of at least 5, got 4"):
        R.pad_packed_sequence(R.pack_padded_sequence(vtc.zeros(6, 2, 3), [5, 2]), total_length=4)
    with pytest.raises(CaptureError, match="value is not known yet"):
        vtc.compile(lambda n: R.pack_padded_sequence(vtc.zeros(6, 2, 3), n))(vtc.tensor([5, 2]))
    with pytest.raises(TypeCheckError, match=r"GRU: expected packed rows \[_, 4\]"):
        nn.GRU(4, 5)(R.pack_padded_sequence(vtc.zeros(6, 2, 3), [5, 2]))


def test_a_program_is_as_long_for_any_length():
    theirs, ours = pair("LSTM", 3, 4)

    def loss_of(T, layer):
        def run(x):
            loss = (layer(x)[0] * T.tensor(1.5)).square().sum()
            loss.backward()
            grads = [p.grad * 1 for p in layer.parameters()]
            for p in layer.parameters():
                p.grad = None
            return [loss.detach(), *grads]

        return run

    sizes = []
    for steps in (5, 64):
        x = RNG.normal(size=(steps, 2, 3)).astype(np.float32)
        run = vtc.compile(loss_of(vtc, ours))
        close(run(vtc.tensor(x)), loss_of(torch, theirs)(torch.tensor(x)))
        sizes.append(len(run.ir("lowered").splitlines()))
    assert sizes[0] == sizes[1]


def test_one_program_for_all_lengths():
    theirs, ours = pair("GRU", 3, 4)
    run = vtc.compile(lambda x: ours(x)[0], dynamic=True)
    with vtc.no_grad():
        for steps in (5, 9, 33):
            x = RNG.normal(size=(steps, 2, 3)).astype(np.float32)
            close([run(vtc.tensor(x))], [theirs(torch.tensor(x))[0]])
    assert len(run.entries) == 1, run.misses


def test_narrow_under_autocast():
    x = vtc.randn(4, 2, 3)
    with vtc.autocast("cpu"):
        for name in ("RNN", "LSTM", "GRU"):
            assert getattr(nn, name)(3, 4)(x)[0].dtype is vtc.bfloat16


def test_what_layers_refuse():
    with pytest.raises(ArgumentError, match="RNN: expected a sequence of one step or more"):
        nn.RNN(3, 4)(vtc.zeros(0, 2, 3))
    with pytest.raises(TypeCheckError, match=r"GRU: expected a state f32\[1, 2, 4\], got f64"):
        nn.GRU(3, 4)(vtc.zeros(5, 2, 3), vtc.zeros(1, 2, 4, dtype=vtc.float64))
    with pytest.raises(TypeCheckError, match=r"LSTM: expected a state f32\[1, 2, 4\], got f32\[1"):
        nn.LSTM(3, 4)(vtc.zeros(5, 2, 3), (vtc.zeros(1, 3, 4), vtc.zeros(1, 3, 4)))


def test_names_of_all_layers():
    theirs, ours = pair("LSTM", 3, 4, 2, bidirectional=True, proj_size=2)
    assert isinstance(ours, nn.RNNBase)
    assert ours.mode == theirs.mode
    ours.flatten_parameters()
    shapes = [[tuple(p.shape) for p in layer] for layer in ours.all_weights]
    assert shapes == [[tuple(p.shape) for p in layer] for layer in theirs.all_weights]
    assert isinstance(nn.GRUCell(2, 3), nn.RNNCellBase)
    assert nn.RNN(2, 3, nonlinearity="relu").mode == torch.nn.RNN(2, 3, nonlinearity="relu").mode
