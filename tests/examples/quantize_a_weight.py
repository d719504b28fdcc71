"""Quantize a weight and see the error: bits, block length, and a block's scale each cost something.

python tests/examples/quantize_a_weight.py
"""

# ruff: noqa: T201  (a script: what it prints is its result)

from __future__ import annotations

import numpy as np
from tfm.refimpl.ops.quant import dequantize, quantize


def main() -> None:
    weight = np.random.default_rng(0).standard_normal((512, 256)).astype(np.float32)
    print("bits  block  bits a weight  error")
    for bits in (8, 4):
        for block in (32, 128):
            blocks = quantize(weight, bits=bits, block=block)
            error = np.linalg.norm(dequantize(blocks) - weight) / np.linalg.norm(weight)
            stored = bits + 8 * blocks.scale.nbytes / weight.size
            print(f"{bits:4}  {block:5}  {stored:13.2f}  {error:.2%}")


if __name__ == "__main__":
    main()
