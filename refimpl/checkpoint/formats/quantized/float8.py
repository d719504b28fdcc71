"""Weights in 8-bit floats with scales: one for the tensor, for each output or for each block.

    X.weight        F8_E4M3 or F8_E5M2 [F, D]
    X.weight_scale  or X.weight_scale_inv, float or F8_E8M0:
                    [], [1] or [1, 1]          one for the whole tensor
                    [F] or [F, 1]              one for each output
                    [⌈F / a⌉, ⌈D / b⌉]         one for each block [a, b]

    w[f, d] = weight[f, d] · scale[f // a, d // b]

Weights are stored in this form by transformers' fp8 (the blocks of DeepSeek-V3, arXiv:2412.19437, and Qwen),
fbgemm_fp8, vLLM's and modelopt's fp8, and compressed-tensors' float-quantized.

**Conventions.** `weight_scale_inv` is a factor too, despite its name. The product is rounded to float32.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ....errors import CheckpointError
from .scaled import ScaledWeight
from .weight import FLOATS, RawSource, Shape, check

CODES = ("F8_E4M3", "F8_E5M2")
SCALES = ("weight_scale_inv", "weight_scale")


@dataclass(frozen=True)
class Float8:
    """The format of weights in 8-bit floats. `block` is the size [a, b] of the blocks that share a scale, or
    None if scales are only for tensors or outputs.
    """

    block: Shape | None = None

    def weights(self, source: RawSource) -> Iterator[tuple[str, ScaledWeight]]:
        for name in source.names:
            if name.endswith(".weight") and source.kind(name) in CODES:
                yield name, self.weight(source, name)

    def weight(self, source: RawSource, name: str) -> ScaledWeight:
        shape = check(source, name, CODES)
        module = name.removesuffix("weight")
        scale = next((module + part for part in SCALES if module + part in source.names), module + SCALES[1])
        blocks = self._blocks(shape)
        if scale in source.names and source.shape(scale) not in blocks:
            raise CheckpointError(
                f"tensor {scale!r:.120} must have a shape of {', '.join(str(list(s)) for s in blocks)}, "
                f"but it has {list(source.shape(scale))}"
            )
        check(source, scale, (*FLOATS, "F8_E8M0"), source.shape(scale) if scale in source.names else ())
        return ScaledWeight(source, name, scale, blocks[source.shape(scale)])

    def _blocks(self, shape: Shape) -> dict[Shape, Shape]:
        """Return the shapes that the tensor of scales may have. Each shape maps to the size of the block that
        one scale is for.
        """
        rows, columns = shape
        blocks = {}
        if self.block is not None:
            a, b = min(self.block[0], rows), min(self.block[1], columns)
            blocks[-(-rows // a), -(-columns // b)] = a, b
        return (
            blocks
            | {(rows,): (1, columns), (rows, 1): (1, columns)}
            | dict.fromkeys(((), (1,), (1, 1)), shape)
        )
