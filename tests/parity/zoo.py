"""Models of four kinds, for ``test_models``: each takes a library and returns a module of it.

A U-Net, a recurrent language model by ``scan``, experts chosen by top-k, a masked autoencoder.
"""

import numpy as np

rng = np.random.default_rng(7)


def module(L, init, forward):
    """A module of library ``L`` with these methods."""

    def start(self):
        L.nn.Module.__init__(self)
        init(self)

    return type("Model", (L.nn.Module,), {"__init__": start, "forward": forward})()


def unet(L):
    """Down twice, up twice by transposed and by resized convolution, with what was there before."""
    nn, F, T = L.nn, L.F, L.T

    def block(inputs, outputs):
        return nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, padding=1), nn.GroupNorm(2, outputs), nn.SiLU()
        )

    def init(self):
        self.first, self.second, self.deep = block(1, 4), block(4, 6), block(6, 8)
        self.pool = nn.MaxPool2d(2)
        self.up = nn.ConvTranspose2d(8, 6, 2, stride=2)
        self.fourth, self.fifth = block(12, 6), block(10, 4)
        self.head = nn.Conv2d(4, 2, 1)

    def forward(self, x):
        a = self.first(x)
        b = self.second(self.pool(a))
        c = self.deep(self.pool(b))
        d = self.fourth(T.cat([self.up(c), b], 1))
        d = F.interpolate(d, scale_factor=2, mode="bilinear", align_corners=False)
        return self.head(self.fifth(T.cat([d, a], 1))).permute(0, 2, 3, 1)

    return module(L, init, forward)


def scanned(L, step, state, xs):
    """``vtc.scan``, and what it means, for libraries without."""
    if hasattr(L.T, "scan"):
        return L.T.scan(step, state, xs)
    found = []
    for x in xs:
        state, y = step(state, x)
        found.append(y)
    return state, L.T.stack(found)


def language(L):
    """An LSTM over tokens, written as one step; the head is tied to the embedding."""
    nn, F, T = L.nn, L.F, L.T
    width, vocabulary = 8, 11

    def init(self):
        self.token = nn.Embedding(vocabulary, width)
        self.inner = nn.Linear(2 * width, 4 * width)
        self.out = nn.Linear(width, width)

    def forward(self, ids):
        def step(state, x):
            h, c = state
            i, f, g, o = self.inner(T.cat([x, h], -1)).chunk(4, -1)
            c = f.sigmoid() * c + i.sigmoid() * g.tanh()
            h = o.sigmoid() * c.tanh()
            return (h, c), h

        start = T.zeros(ids.shape[0], width)
        _, hidden = scanned(L, step, (start, start), self.token(ids).transpose(0, 1))
        return F.linear(self.out(hidden.transpose(0, 1)), self.token.weight)

    return module(L, init, forward)


def mixture(L):
    """Two of four experts for each token, by top-k, and a loss that balances them."""
    nn, F, T = L.nn, L.F, L.T

    def init(self):
        self.router = nn.Linear(6, 4, bias=False)
        self.up = nn.Parameter(T.zeros(4, 6, 12))
        self.down = nn.Parameter(T.zeros(4, 12, 6))
        self.norm = nn.LayerNorm(6)

    def forward(self, x):
        share = F.softmax(self.router(self.norm(x)), -1)
        best, chosen = T.topk(share, 2, dim=-1)
        best = best / best.sum(-1, keepdim=True)
        hidden = F.gelu(T.einsum("nd,nkdh->nkh", x, self.up[chosen]))
        y = T.einsum("nkh,nkhd,nk->nd", hidden, self.down[chosen], best)
        used = F.one_hot(chosen, 4).sum((0, 1)).to(share.dtype) / chosen.numel()
        return (x + y)[:, :3] + 0.01 * (used * share.mean(0)).sum()

    return module(L, init, forward)


KEPT = 3


def autoencoder(L):
    """Some patches are kept by gather; a mask token fills the others, put in order by scatter."""
    nn, F, T = L.nn, L.F, L.T
    patches, width = 8, 8

    def init(self):
        self.embed, self.place = nn.Linear(4, width), nn.Parameter(T.zeros(patches, width))
        self.encoder = nn.TransformerEncoderLayer(width, 2, 16, 0.0, batch_first=True)
        self.missing = nn.Parameter(T.zeros(width))
        self.head = nn.Linear(width, 4)

    def forward(self, x):
        x = x.reshape(x.shape[0], patches, 4)
        order = x.sum(-1).argsort(dim=1)  # as good as any
        kept = order[:, :KEPT, None].expand(-1, -1, width)
        seen = self.encoder((self.embed(x) + self.place).gather(1, kept))
        full = self.missing.expand(x.shape[0], patches, width).scatter(1, kept, seen)
        return self.head(F.gelu(full + self.place))

    return module(L, init, forward)


def pictures():
    return rng.normal(size=(2, 1, 8, 8)).astype(np.float32), rng.integers(0, 2, (2, 8, 8))


def sentences():
    ids = rng.integers(0, 11, (3, 7))
    return ids[:, :-1].copy(), ids[:, 1:].copy()


def cells():
    x = rng.normal(size=(3, 8, 4)).astype(np.float32)
    return x, x
