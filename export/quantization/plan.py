"""Which scheme each leaf gets, and the leaf in that scheme; the arithmetic is `refimpl.ops.quant`.

    quant         matrices                                        tables
    fp32, fp16    float                                           float
    int8          8-bit blocks of 64, on standard of 32           8-bit blocks of 32
    int8-dynamic  8 bits a column, inputs with one scale a row    8-bit blocks of 32
    int8-static   8 bits a column, inputs with a scale chosen   the same, by row
                  beforehand (`--calibrate`)
    int4          4-bit blocks, of 64 in attention and 128 in     8-bit blocks of 32, or 4-bit by choice
                  mlps, of least error
    keep          a GGUF's own blocks, else 8-bit blocks of 32    the same

8-bit blocks are a GGUF's own where it has them (Q8_0: nothing is rounded twice), else asymmetric; columns
are symmetric. Where inputs are rounded too, and no block is a file's own, int8 and int8-dynamic are made
of the smoothed model (`refimpl.calibrate.smooth`). KL divergence on SmolLM2: int8 in blocks of 64 0.0034,
not smoothed 0.0054; in blocks of 32, a fifth slower, 0.0024 and 0.0036; int8-dynamic 0.0180, not smoothed
0.029. Where norms stand after (post-norm) int8-dynamic smooths at the product, which divides its input.
Other queries, keys and values that no norm stands before have 8-bit blocks: the few large channels of their
input would cost a whole row its precision, and attention is what this hurts most. So do the experts of a
mixture: one that no token goes to has no row to take a scale of, and ONNX Runtime's ReduceMax of none has a
wrong shape.
On the targets of ONNX Runtime a product with blocks quantizes its input too; on `standard` it is in
float; in int8-static a table that is only read has 8-bit blocks. Norms, biases, what else is added,
what routes a mixture, and the last map to labels stay float. The output table is what four bits hurt most.

Over sentences of Wikipedia MiniLM's vectors, whose norms stand after, have in int8-dynamic a mean cosine of
0.9988 to the float ones (lowest 0.9961); with blocks for queries, keys and values, a quarter slower, 0.9986
(0.9949); with columns for all and nothing smoothed there 0.9972 (0.9891).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

from ...refimpl.calibrate import smooth
from ...refimpl.calibrate.least_error import least_error
from ...refimpl.config import Config
from ...refimpl.errors import ExportError, NumericError
from ...refimpl.ops import quant
from ...refimpl.ops.quant import Blocks
from ...refimpl.params import shapes as params
from ...runtime.bundle.weight_layout import Scheme
from ..targets import gqa_limits

if TYPE_CHECKING:
    from ...refimpl.checkpoint.open import Checkpoint

QUANTS = ("fp32", "fp16", "int8", "int8-dynamic", "int8-static", "int4", "keep")
TARGETS = ("ort-cpu", "ort-cuda", "standard")
BLOCK = 32
REFUSED = {
    ("fp32", "ort-cuda"): "CUDA's GroupQueryAttention has no float32; use --quant fp16",
    ("fp16", "ort-cpu"): "float16 is slower than float32 on the CPU; use --quant fp32 or int8",
    ("int8-dynamic", "ort-cuda"): "its integer products run on the CPU there; use --quant int8",
    ("int8-static", "ort-cpu"): "one scale for all rows is for devices that can't do better; "
    "use --target standard, or --quant int8-dynamic",
    ("int8-static", "ort-cuda"): "its integer products run on the CPU there; use --quant int8",
}
# Why keys and values aren't kept in 8 bits there.
FLOAT_CACHE = {
    "standard": "its attention reads a cache of floats",
    "ort-cuda": "it was never tried on a GPU",
}
OUTLIERS = (".wq", ".wk", ".wv")
Method = Literal["minmax", "percentile", "entropy"]
# Elements quantized at a time: the float temporaries stay small whatever the leaf.
CHUNK = 2**20


@dataclass(frozen=True)
class Calibration:
    """How activations get their ranges: from which text, by which method, smoothed by what alpha."""

    text: Path
    method: Method = "minmax"
    alpha: float | None = None

    def __post_init__(self) -> None:
        if self.method not in get_args(Method):
            raise ExportError(
                f"--ranges must be one of {', '.join(get_args(Method))}, got {self.method!r:.40}"
            )
        if self.alpha is not None and not 0 <= self.alpha <= 1:
            raise ExportError(f"--smooth must be 0 to 1, got {self.alpha}")


def check(quant: str, calibration: Calibration | None, kv: str = "float") -> None:
    """Raise ExportError when a quantization lacks its calibration, or has one that it doesn't use."""
    if quant == "int8-static" and calibration is None:
        raise ExportError(
            "--quant int8-static needs --calibrate FILE: a text like those that the model will read, "
            "from which each activation gets its range"
        )
    if quant != "int8-static" and calibration is not None:
        if kv == "float":
            raise ExportError(
                f"--calibrate goes with --quant int8-static and --kv int8, got --quant {quant} --kv {kv}"
            )
        if (calibration.method, calibration.alpha) != ("minmax", None):
            raise ExportError(f"--ranges and --smooth go with --quant int8-static, got --quant {quant}")


def check_cache(config: Config, kv: str, target: str) -> None:
    """Raise ExportError when a decoder's keys and values are to be kept in a way that can't be had."""
    if kv not in ("float", "int8"):
        raise ExportError(f"--kv must be float or int8, got {kv!r:.40}")
    if kv == "int8" and config.decoder is None:
        raise ExportError("--kv int8 is for what a decoder keeps of a text, and this model has no decoder")
    if kv == "int8" or config.rounds_cache:
        if target in FLOAT_CACHE:
            raise ExportError(f"--kv int8 isn't made for --target {target}: {FLOAT_CACHE[target]}")
        if reasons := gqa_limits.refusals(config):
            raise ExportError(f"--kv int8 needs a fused attention, which this model can't have: {reasons[0]}")


@dataclass(frozen=True)
class Chosen:
    """What was calibrated: scale and zero point of the input of each leaf's product, smoothing, and how
    much each coordinate of that input matters to a product with 4-bit weights (its mean square)."""

    inputs: Mapping[str, tuple[np.ndarray, np.ndarray]]
    factors: Mapping[smooth.SmoothingSite, np.ndarray]
    importance: Mapping[str, np.ndarray] = field(default_factory=dict)


NOTHING = Chosen({}, {})


def default(config: Config, target: str) -> str:
    """The quantization of a model for which none is asked: an encoder's work is prefill, which columns of
    8 bits serve best where a target takes them; a decoder's is reading weights, which is as fast with blocks,
    and closer."""
    reads = config.encoder is not None and config.decoder is None
    return "int8-dynamic" if reads and ("int8-dynamic", target) not in REFUSED else "int8"


def dtype(quant: str, target: str) -> Literal["float32", "float16"]:
    """The type of the floats in a bundle: weights, scales, activations and cache."""
    return "float16" if quant == "fp16" or target == "ort-cuda" else "float32"


def plan(
    checkpoint: Checkpoint, quant: str, table_bits: int, strict: bool, target: str
) -> dict[str, Scheme | None]:
    """Leaf name -> its Scheme, or None where it stays float; ExportError when that can't be had."""
    if quant not in QUANTS:
        raise ExportError(f"--quant must be one of {', '.join(QUANTS)}, got {quant!r:.40}")
    if target not in TARGETS:
        raise ExportError(f"--target must be one of {', '.join(TARGETS)}, got {target!r:.40}")
    if (quant, target) in REFUSED:
        raise ExportError(f"--quant {quant} isn't made for --target {target}: {REFUSED[quant, target]}")
    if table_bits not in (4, 8):
        raise ExportError(f"--table must be 4 or 8, got {table_bits!r:.40}")
    if table_bits == 4 and quant != "int4":
        raise ExportError(f"--table 4 goes with --quant int4, got --quant {quant}")
    if strict and quant != "keep":
        raise ExportError(f"--strict goes with --quant keep, got --quant {quant}")
    activations = "none" if target == "standard" else "block"
    made: dict[str, Scheme | None] = {}
    shapes = params.shapes(checkpoint.config)
    smoothable = {name for place in smooth.places(checkpoint.config) for name in place.read}
    streamed = {name for place in smooth.streams(checkpoint.config) for name in place.read}
    large = {name for name in shapes if name.endswith(OUTLIERS)} - smoothable - streamed
    for name, shape in shapes.items():
        table = name.endswith(".table")
        if not params.multiplied(name, shape) or quant in ("fp32", "fp16"):
            made[name] = None
            continue
        read_only = name == "embedding.table" and not getattr(checkpoint.config.head, "tied", False)
        if quant == "int8-static" and not read_only:
            made[name] = Scheme(bits=8, block=shape[int(table)], activations="static")
            continue
        own = _native(checkpoint, name)
        if quant == "keep" and own is None and strict:
            raise ExportError(
                f"--strict: {name} has no blocks of Q4_0, Q4_1 or Q8_0 in the checkpoint; "
                "without --strict it gets 8-bit blocks"
            )
        if quant == "int4" and (table_bits == 4 or not table):
            made[name] = Scheme(bits=4, block=_length(name, 4), activations=activations, symmetric=False)
        elif quant == "int8-dynamic" and not (table or name in large or ".experts." in name):
            row = "smoothed" if name in streamed else "row"
            made[name] = Scheme(bits=8, block=shape[0], activations=row)
        elif own is not None and (quant == "keep" or own.bits == 8):
            made[name] = _scheme(own, activations)
        else:
            block = _length(name, 8) if quant == "int8" and activations == "block" else BLOCK
            made[name] = Scheme(bits=8, block=block, activations=activations, symmetric=False)
    if quant == "keep" and not any(s is not None and s.native for s in made.values()):
        raise ExportError("--quant keep needs a GGUF file with Q4_0, Q4_1 or Q8_0 blocks; use --quant int8")
    return made


def smoothed(config: Config, quant: str, schemes: Mapping[str, Scheme | None]) -> list[smooth.SmoothingSite]:
    """The places whose large channels are smoothed: inputs are rounded too, and no leaf is a file's own."""

    def fits(name: str) -> bool:
        scheme = schemes[name]
        return scheme is None or (scheme.activations != "none" and not scheme.native)

    if quant not in ("int8", "int8-dynamic"):
        return []
    found = [place for place in smooth.places(config) if all(map(fits, (*place.made, *place.read)))]
    return found + (smooth.streams(config) if quant == "int8-dynamic" else [])


def leaf(
    checkpoint: Checkpoint, name: str, scheme: Scheme | None, dtype: str, chosen: Chosen = NOTHING
) -> np.ndarray | Blocks:
    """One leaf of the checkpoint in its scheme; NumericError where a number doesn't fit `dtype`."""
    kind = np.dtype(dtype)
    if scheme is not None and scheme.native:
        own = _native(checkpoint, name)
        assert own is not None, f"{name} was planned from its own blocks"
        return replace(own, scale=_cast(own.scale, kind, f"scale of {name}"), activations=scheme.activations)
    weight = smooth.apply(name, checkpoint.leaf(name), chosen.factors)
    if scheme is None:
        return _cast(weight, kind, name)
    if scheme.activations == "static":
        table = name.endswith(".table")
        made = quant.quantize_columns(weight.T if table else weight)
        given, zero = chosen.inputs[name]
        made = replace(made, input_scale=given, input_zero=zero)
        return quant.transpose(made) if table else made
    matters = chosen.importance.get(name) if scheme.bits == 4 else None
    made = _quantize(weight, scheme, kind, name, matters)
    if scheme.activations != "smoothed":
        return made
    [s] = [s for place, s in chosen.factors.items() if not place.made and name in place.read]
    return replace(made, input_factor=(1 / s).astype(kind))


def _native(checkpoint: Checkpoint, name: str) -> Blocks | None:
    """The checkpoint's own blocks with the zero point in the middle, which the fast kernels take.

    Q4_1 has w = d·q + m; with q − 8 in place of q that is d·(q − 8) + (m + 8·d). The sum is exact in
    float32 when d and m, 11 bits each, are not 2^13 apart.
    """
    own = checkpoint.native(name)
    if own is None or own.minimum is None:
        return own
    middle = np.float32(2 ** (own.bits - 1))
    return replace(own, zero=None, minimum=own.minimum + middle * own.scale)


def _scheme(own: Blocks, activations: str) -> Scheme:
    return Scheme(
        bits=own.bits,
        block=own.block,
        activations=activations,  # pyright: ignore[reportArgumentType]
        symmetric=own.zero is None,
        minimum=own.minimum is not None,
        native=True,
    )


def _cast(array: np.ndarray, kind: np.dtype, name: str) -> np.ndarray:
    """The array in the bundle's float type; only float16 can be too small for a finite number."""
    with np.errstate(over="ignore"):
        cast = array.astype(kind, copy=False)
    if kind == np.float16 and np.isinf(cast).any():
        index = tuple(int(i) for i in np.argwhere(np.isinf(cast))[0])
        raise NumericError(f"{name}{list(index)} must fit float16, is {array[index]}; use --quant fp32")
    return cast


def _length(name: str, bits: int) -> int:
    """Elements of a block: a kernel multiplies long ones faster, and mlps have most of the work. With 8 bits
    64 save 17 % of a layer's time beside 32, and 128 only 7 % more."""
    if name.endswith(".table"):
        return BLOCK
    return 2 * BLOCK if bits == 8 or ".attn." in name or ".cross." in name else 4 * BLOCK


def _quantize(
    weight: np.ndarray, scheme: Scheme, kind: np.dtype, name: str, importance: np.ndarray | None
) -> Blocks:
    """To nearest, or of least error where an importance is known, in pieces of whole vectors; the scale
    is rounded to the bundle's type."""
    table = name.endswith(".table")
    rows = weight if table else weight.T
    per_block = (rows.shape[0], -(-rows.shape[1] // scheme.block))
    codes, scale = np.empty(rows.shape, np.uint8), np.empty(per_block, kind)
    zero = None if scheme.symmetric else np.empty(per_block, np.uint8)
    step = max(1, CHUNK // rows.shape[1])
    for start in range(0, rows.shape[0], step):
        part = slice(start, start + step)
        if importance is None:
            made = quant.quantize(
                rows[part], bits=scheme.bits, block=scheme.block, axis=1, symmetric=scheme.symmetric
            )
        else:
            made = quant.transpose(
                least_error(rows[part].T, importance, bits=scheme.bits, block=scheme.block)
            )
        codes[part], scale[part] = made.codes, _cast(made.scale, kind, f"scale of {name}")
        if zero is not None and made.zero is not None:
            zero[part] = made.zero
    blocks = Blocks(codes, scale, zero, None, scheme.bits, scheme.block, 1, scheme.activations)
    return blocks if table else quant.transpose(blocks)
