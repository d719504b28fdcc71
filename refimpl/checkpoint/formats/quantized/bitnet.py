"""BitNet's weights (Ma et al. 2024, arXiv:2402.17764): -1, 0 and 1 with one scale for each matrix.

    X.weight        U8 [F / 4, D]    codes 0, 1 and 2, four rows of the matrix in one row of bytes
    X.weight_scale  float [1]

    w[f, d] = (code[f, d] - 1) * s

Bits 2i and 2i + 1 of byte [r, d] are the code of row i * F / 4 + r, as in transformers' `pack_weights`. For
`autobitlinear`, s is the scale, and X.weight may also be unpacked floats [F, D], which are multiplied by s.
For `bitlinear`, s is 1 / scale. Trained weights (quantization_mode "online") are floats without a scale:

    s = 1 / a,  a = 1 / max(mean |w|, 1e-5),  code - 1 = clip(rint(w * a), -1, 1)

**Conventions.** The mean is computed in float64 and rounded to float32; torch's own may differ by an ulp. The
rest is float32; rint rounds halves to even. In "online" checkpoints, only the layers' projections are
rounded, which have names that end in `_proj`. Embeddings and the output matrix aren't rounded.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ....errors import CheckpointError
from ..tensor_source import RawSource
from . import packed
from .affine import Affine, AffineWeight
from .scaled import ScaledWeight
from .weight import FLOATS, Shape, check, modules

ZERO = 8  # the zero point of symmetric codes of 4 bits, the fewest that blocks have
WHOLE = ("embed_tokens", "lm_head")


@dataclass(frozen=True)
class BitNet:
    """BitNet's format. `divides` means that weights are divided by the stored scale. `online` means that the
    file stores floats, which are rounded when they are read.
    """

    divides: bool = False
    online: bool = False

    def weights(self, source: RawSource) -> Iterator[tuple[str, AffineWeight | ScaledWeight]]:
        if self.online:
            for name in source.names:
                if name.endswith(".weight") and len(source.shape(name)) == 2 and _is_map(name):
                    yield name, _trained(source, name)
            return
        for module in modules(source, "weight_scale"):
            name, scale = f"{module}.weight", f"{module}.weight_scale"
            shape = check(source, name, ("U8",) if self.divides else ("U8", *FLOATS))
            check(source, scale, FLOATS, (1,))
            if source.kind(name) == "U8":
                yield name, self._packed(source, name, scale, shape)
            else:
                yield name, ScaledWeight(source, name, scale, block=shape)

    def _packed(self, source: RawSource, name: str, scale: str, shape: Shape) -> AffineWeight:
        def read() -> Affine:
            step = source.load(scale)
            with np.errstate(divide="ignore"):  # whoever loads a weight checks that it is finite
                step = np.float32(1) / step if self.divides else step
            rows, columns = shape
            fields = packed.fields(source.raw(name).reshape(-1, 1), np.arange(0, 8, 2, dtype=np.uint8), 2)
            return _ternary(fields.reshape(rows, columns, 4).transpose(2, 0, 1).reshape(-1, columns), step)

        return AffineWeight("BitNet", (4 * shape[0], shape[1]), (name, scale), read)


def _is_map(name: str) -> bool:
    """Return whether BitNet rounds the matrix with this name. Raises CheckpointError for a name that tfm
    doesn't know.
    """
    module = name.removesuffix(".weight").rpartition(".")[2]
    if not module.endswith("_proj") and module not in WHOLE:
        raise CheckpointError(f"tfm doesn't know whether BitNet rounds tensor {name!r:.120}")
    return module not in WHOLE


def _trained(source: RawSource, name: str) -> AffineWeight:
    """Return a weight that the file stores as floats, and that is rounded to −1, 0 and 1 when it is read."""
    shape = check(source, name, FLOATS)

    def read() -> Affine:
        weight = source.load(name)
        mean = np.abs(weight).mean(dtype=np.float64).astype(np.float32)
        with np.errstate(all="ignore"):  # whoever loads a weight checks that it is finite
            factor = np.float32(1) / np.maximum(mean, np.float32(1e-5))
            codes = np.nan_to_num(np.clip(np.rint(weight * factor), -1, 1))
            return _ternary((codes + 1).astype(np.uint8), np.ones(1, np.float32) / factor)

    return AffineWeight("BitNet", shape, (name,), read)


def _ternary(codes: np.ndarray, step: np.ndarray) -> Affine:
    """Return the matrix with the values (code − 1) · step, for codes [F, D] from 0 to 2 and one step [1]."""
    rows, columns = codes.shape
    return Affine(
        codes=codes + np.uint8(ZERO - 1),
        scale=np.tile(step, (rows, 1)),
        zero=np.full((rows, 1), ZERO, np.int16),
        group=np.zeros(columns, np.intp),
        bits=4,
    )
