"""Vision transformers: patches are cut out by views, so that a linear layer embeds them.

model = vit(peer, VitSizes(image=224, patch=16, width=768, heads=12, layers=12, classes=1000))
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from benchmarks.peer_gpu import Peer, Workload, integers
from benchmarks.workloads import numbers


@dataclass(frozen=True)
class VitSizes:
    """``extra`` tokens are learned and stand before those of the patches; the first is read."""

    image: int
    patch: int
    width: int
    heads: int
    layers: int
    classes: int
    extra: int = 1

    @property
    def side(self) -> int:
        """Patches along a side of the image."""
        return self.image // self.patch


SMALL = VitSizes(image=32, patch=4, width=256, heads=8, layers=6, classes=10, extra=16)
BASE = VitSizes(image=224, patch=16, width=768, heads=12, layers=12, classes=1000)


def patches(x: Any, sizes: VitSizes) -> Any:
    """``x [B, 3, H, W]`` as ``[B, patches, 3 * patch * patch]``."""
    side, patch = sizes.side, sizes.patch
    cut = x.view(x.shape[0], 3, side, patch, side, patch).permute(0, 2, 4, 1, 3, 5)
    return cut.reshape(x.shape[0], side * side, 3 * patch * patch)


def vit(peer: Peer, sizes: VitSizes, *, narrow: bool = False) -> Any:
    """A pre-norm transformer over patches and learned tokens."""
    library, nn = peer.library, peer.library.nn
    F, d, heads = nn.functional, sizes.width, sizes.heads

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm1, self.norm2 = nn.LayerNorm(d), nn.LayerNorm(d)
            self.qkv, self.out = nn.Linear(d, 3 * d), nn.Linear(d, d)
            self.up, self.down = nn.Linear(d, 4 * d), nn.Linear(4 * d, d)

        def forward(self, x: Any) -> Any:
            b, t, _ = x.shape
            qkv = self.qkv(self.norm1(x)).view(b, t, 3, heads, d // heads)
            q, k, v = qkv.permute(2, 0, 3, 1, 4)
            a = F.scaled_dot_product_attention(q, k, v)
            x = x + self.out(a.transpose(1, 2).reshape(b, t, d))
            return x + self.down(F.gelu(self.up(self.norm2(x))))

    class Vit(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            tokens = sizes.side**2 + sizes.extra
            self.embed = nn.Linear(3 * sizes.patch**2, d)
            self.extra = nn.Parameter(library.zeros(1, sizes.extra, d))
            self.place = nn.Parameter(library.zeros(1, tokens, d))
            self.blocks = nn.ModuleList([Block() for _ in range(sizes.layers)])
            self.norm, self.head = nn.LayerNorm(d), nn.Linear(d, sizes.classes)

        def forward(self, x: Any) -> Any:
            first = self.extra.expand(x.shape[0], sizes.extra, d)
            x = library.cat([first, self.embed(patches(x, sizes))], 1) + self.place
            for block in self.blocks:
                x = block(x)
            return self.head(self.norm(x)[:, 0])

    return peer.ready(Vit(), narrow=narrow)


def vit_step(peer: Peer, sizes: VitSizes = SMALL, batch: int = 256) -> Workload:
    """ViT CIFAR-10, 80 tokens (64 patches, 16 learned) d256 h8 L6, b256, AdamW, fp32"""
    F = peer.library.nn.functional
    x = peer.tensor(numbers(batch, 3, sizes.image, sizes.image))
    y = peer.tensor(integers(sizes.classes, batch))

    def make() -> tuple[Any, Any]:
        model = vit(peer, sizes)
        return model, peer.library.optim.AdamW(model.parameters(), lr=3e-4)

    return Workload(make, lambda model, x, y: F.cross_entropy(model(x), y), (x, y))


def classify(peer: Peer, sizes: VitSizes, batch: int) -> Workload:
    """A forward pass in bf16, weights in bf16."""
    x = peer.narrow(numbers(batch, 3, sizes.image, sizes.image))

    def scores(model: Any, x: Any) -> Any:
        with peer.library.no_grad():
            return model(x)

    return Workload(lambda: (vit(peer, sizes, narrow=True), None), scores, (x,))


def vit_b64(peer: Peer) -> Workload:
    """ViT-B/16 forward, b64, bf16"""
    return classify(peer, BASE, 64)


def vit_b1(peer: Peer) -> Workload:
    """ViT-B/16 forward, b1, bf16"""
    return classify(peer, BASE, 1)
