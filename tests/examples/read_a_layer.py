"""Read one layer's weights from a model's file, its directory or by its name; the others stay on disk.

python tests/examples/read_a_layer.py MODEL [LAYER]
"""

# ruff: noqa: T201  (a script: what it prints is its result)

from __future__ import annotations

import argparse

from tfm.refimpl.checkpoint.open import open_checkpoint
from tfm.runtime.hub.locate import locate
from tfm.runtime.progress import silent


def main(model: str, layer: int) -> None:
    checkpoint = open_checkpoint(locate(model, silent).path)
    print(f"{checkpoint.config.context} tokens of context, mostly {checkpoint.float_dtype}")
    for name in checkpoint.leaves.names:
        if name.startswith(f"decoder.layers.{layer}."):
            weight = checkpoint.leaf(name)  # float32, dequantized where the file has blocks
            shape, kind = "x".join(map(str, weight.shape)), checkpoint.leaves.kind(name)
            print(f"{name:40} {kind:6} {shape:>12}  mean square {(weight**2).mean():.3g}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("model", metavar="MODEL")
    parser.add_argument("layer", metavar="LAYER", type=int, nargs="?", default=0)
    main(**vars(parser.parse_args()))
