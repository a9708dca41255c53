"""Trains a small conv net on scikit-learn's handwritten digits and exports it as one file.

    python examples/export_digits.py --output digits.vtc
    vtc verify digits.vtc                       # hashes, plans, and the example it was made with
    vtc export ... --emit-c DIR                 # or a folder that `make` turns into a program

The package has code for two levels of x86-64 and for batches of 1 to 64. Loading it needs neither
the model's code nor a compiler.
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
from train_digits import ConvNet, load_data, train

import vtc
import vtc.nn as nn


class Classifier(nn.Module):
    """Scores and the best class."""

    def __init__(self, net: nn.Module) -> None:
        self.net = net

    def forward(self, images: vtc.Tensor) -> dict[str, vtc.Tensor]:
        scores = self.net(images)
        return {"scores": scores, "digit": scores.argmax(1)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, help="where the package stays")
    parser.add_argument("--target", action="append", help="cpu if not given; cuda:90 ...")
    args = parser.parse_args()

    train_x, test_x, train_y, test_y = load_data(args.seed)
    vtc.manual_seed(args.seed)
    net = ConvNet()
    train(net, train_x, train_y, args)
    model = Classifier(net).eval()

    with tempfile.TemporaryDirectory() as folder:
        batch = vtc.Dim("batch", min=1, max=64)
        path = vtc.export(
            model,
            (test_x[:8],),
            args.output or Path(folder) / "digits.vtc",
            dynamic={"images": {0: batch}},
            targets=args.target or ["cpu"],
        )
        print(f"{path.name}: {path.stat().st_size:,} bytes")

        start = time.perf_counter()
        package = vtc.load(path)
        first = package(test_x[:1])
        print(f"loaded, first result after {1e3 * (time.perf_counter() - start):.1f} ms")

        compiled = vtc.compile(model)
        pieces = [test_x[k : k + 64] for k in range(0, len(test_x), 64)]
        found = [package(x) for x in pieces]
        with vtc.no_grad():
            wanted = [compiled(vtc.tensor(x)) for x in pieces]
        pairs = zip(found, wanted, strict=True)
        off = max(float(np.abs(f["scores"] - w["scores"].numpy()).max()) for f, w in pairs)
        right = np.concatenate([f["digit"] for f in found]) == test_y
        print(
            f"{right.mean():.1%} of held-out digits, scores within {off:.1e} of the compiled model"
        )
        assert first["digit"][0] == found[0]["digit"][0]


if __name__ == "__main__":
    main()
