"""Define the schemes: what each name of a quantization (`quant`) means for matrices and for tables.

    quant         matrices                                        tables
    fp32, fp16    float                                           float
    int8          8-bit blocks of 64, on target standard of 32    8-bit blocks of 32
    int8-dynamic  8 bits with one scale per column, inputs with   8-bit blocks of 32
                  one scale per row
    int8-static   8 bits with one scale per column, inputs with   8 bits with one scale per row
                  a fixed scale from a calibration text
    w8a16         like int8-static, with inputs and outputs of    8 bits with one scale per row
                  16 bits
    int4          the file's own 4-bit blocks, else 4-bit blocks  the file's own 4-bit blocks, else 8-bit
                  of least error, of 64 in attention and 128 in   blocks of 32, or 4-bit blocks by an option
                  mlps, with feedback (`bundle.feedback`); if
                  most weights keep the file's blocks, the
                  others keep theirs too
    auto          a budget chooses for each: 4-bit blocks of      the same choice, with all blocks of 32
                  128, 64 or 32, 5-bit and 6-bit blocks of 32
                  (on ort-cpu), 8-bit blocks, or the file's own
    keep          the file's own blocks, else 8-bit blocks of 32  the same

On ort-cuda, all blocks except a file's own contain 32 weights and are symmetric. On ort-web, int8-dynamic
stores a table that is used in a product with 8 bits and one scale per row.

`runtime.bundle.weight_formats` derives the format of each weight from the scheme. The choices above come
from measurements of the KL divergence on SmolLM2. int8 in blocks of 64 has a divergence of 0.0034, or
0.0054 if activations aren't smoothed. Blocks of 32 have 0.0024, or 0.0036 without smoothing, but are a
fifth slower. int8-dynamic has 0.0180, or 0.029 without smoothing. Of all weights, the output table loses
the most accuracy in 4 bits.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

from ...refimpl.errors import ExportError
from .targets import FloatType, Target

if TYPE_CHECKING:
    from ...refimpl.config import Config

# Products of codes of 8 bits: none, by scales of rows that are computed, or by stored ones.
Products = Literal["float", "dynamic", "static"]
SchemeName = Literal["fp32", "fp16", "int8", "int8-dynamic", "int8-static", "w8a16", "int4", "auto", "keep"]


@dataclass(frozen=True)
class PerBlock:
    """A format of integer codes in which `block` neighbouring weights along a product's input axis share one
    scale.

    - `bits`: the bits of a code. Codes of 5 and 6 bits are stored in 8 bits; only tfm's kernels use the
      smaller number.
    - `block`: the length of a block. Kernels multiply long blocks faster: with 8 bits, blocks of 64 save 17
      % of a layer's time compared with blocks of 32, and blocks of 128 save only 7 % more.
    - `attention_block`: the length of blocks in attention, if it differs from `block`.
    - `float_block`: the length for products that don't quantize their inputs, if it differs from `block`.
    - `symmetric`: the codes need no zero points.
    - `rounding`: "nearest" takes the nearest code. "least-error" searches for the scale with the least error
      (`refimpl.calibrate.least_error`).
    """

    bits: Literal[4, 5, 6, 8]
    block: int = 32
    attention_block: int | None = None
    float_block: int | None = None
    symmetric: bool = False
    rounding: Literal["nearest", "least-error"] = "nearest"


@dataclass(frozen=True)
class PerColumn:
    """A format of signed 8-bit codes with one scale per column.

    `inputs` says how a product's input becomes codes: with one scale per row, or with one static scale.
    Codes of static inputs have `activation_bits` bits. With `rounds_output`, a product's output also gets
    a static scale and the same number of bits. This imitates devices that multiply integers and store
    outputs as codes.
    """

    inputs: Literal["row", "static"]
    activation_bits: Literal[8, 16] = 8
    rounds_output: bool = False


EIGHT_BITS = PerBlock(8)


@dataclass(frozen=True)
class Scheme:
    """A scheme: the rules by which a bundle's weights are quantized.

    - `matrices`, `tables`: the formats of matrices and of tables, or None if they stay float.
    - `floats`: the type of all floats, unless the target prescribes a type.
    - `smooths`: an export moves large activations into the weights before rounding
      (`refimpl.calibrate.smooth`).
    - `keeps_blocks`: an export copies the blocks of the checkpoint's file instead of rounding the weights
      again.
    - `finer`: the schemes from which a weight may get its format instead, if a budget asks for it.
    - `refused`: a dict from the name of each target that can't use this scheme to the reason.
    """

    name: SchemeName
    matrices: PerBlock | PerColumn | None = EIGHT_BITS
    tables: PerBlock | PerColumn | None = EIGHT_BITS
    floats: FloatType = "float32"
    smooths: bool = False
    keeps_blocks: bool = False
    finer: tuple[Scheme, ...] = ()
    refused: Mapping[str, str] = field(default_factory=dict)

    @property
    def calibrated(self) -> bool:
        """True if an export measures the ranges of activations over a calibration text."""
        return isinstance(self.matrices, PerColumn) and self.matrices.inputs == "static"

    @property
    def searches(self) -> bool:
        """True if an export searches for scales and weights each error by the importance of the product's
        inputs.
        """
        return isinstance(self.matrices, PerBlock) and self.matrices.rounding == "least-error"

    @property
    def needs_only_shapes(self) -> bool:
        """True if the stored sizes can be computed from a Config alone, without the checkpoint or a text."""
        return not (self.calibrated or self.keeps_blocks or self.finer)

    @property
    def fewest_bits(self) -> int:
        """The fewest bits that a code of a matrix may have; 8 if the scheme doesn't store matrices in
        blocks.
        """
        return self.matrices.bits if isinstance(self.matrices, PerBlock) else 8

    def takes_table_bits(self, bits: int) -> bool:
        """Return whether tables may have this number of bits.

        Tables may have 8 bits. If no budget chooses the formats, tables may also have as many bits as the
        matrices' blocks.
        """
        return bits == 8 or (bits == self.fewest_bits and not self.finer)

    def with_table_bits(self, bits: int) -> Scheme:
        """Return a copy of this scheme in which tables have this number of bits. Without blocks for matrices,
        return the scheme itself.
        """
        if bits == 8 or not isinstance(self.matrices, PerBlock):
            return self
        return replace(self, tables=PerBlock(self.matrices.bits, rounding=self.matrices.rounding))


BLOCKS_ON_THE_WEB = (
    "WebAssembly converts blocks to floats at each step; use quant=int8-dynamic, or target=ort-cpu"
)
INTEGER_PRODUCTS_ON_CPU = (
    "ONNX Runtime's CUDA provider computes products of integers on the CPU; use quant=int8"
)
STATIC_SCALES = (
    "this target can give each row of activations its own scale, which loses less than one static scale"
)
ONLY_ON_STANDARD = {
    "ort-cpu": f"{STATIC_SCALES}; use target=standard, or quant=int8-dynamic",
    "ort-cuda": INTEGER_PRODUCTS_ON_CPU,
    "ort-web": f"{STATIC_SCALES}; use quant=int8-dynamic",
}
FOUR_BITS = PerBlock(4, block=128, rounding="least-error")
SHORT = PerBlock(4, rounding="least-error")
WITH_16_BITS = PerColumn("static", activation_bits=16, rounds_output=True)

_ALL = (
    Scheme(
        "fp32",
        matrices=None,
        tables=None,
        refused={"ort-cuda": "GroupQueryAttention on CUDA can't compute in float32; use quant=fp16"},
    ),
    Scheme(
        "fp16",
        matrices=None,
        tables=None,
        floats="float16",
        refused={
            "ort-cpu": "float16 is slower than float32 on the CPU; use quant=fp32 or quant=int8",
            "ort-web": "WebAssembly can't compute products of float16; use quant=fp32 or quant=int8-dynamic",
        },
    ),
    Scheme(
        "int8",
        matrices=PerBlock(8, block=64, float_block=32),
        smooths=True,
        refused={"ort-web": BLOCKS_ON_THE_WEB},
    ),
    Scheme(
        "int8-dynamic",
        matrices=PerColumn("row"),
        smooths=True,
        refused={"ort-cuda": INTEGER_PRODUCTS_ON_CPU},
    ),
    Scheme(
        "int8-static",
        matrices=PerColumn("static"),
        tables=PerColumn("static"),
        refused=ONLY_ON_STANDARD,
    ),
    Scheme("w8a16", matrices=WITH_16_BITS, tables=WITH_16_BITS, refused=ONLY_ON_STANDARD),
    Scheme(
        "int4",
        matrices=PerBlock(4, block=128, attention_block=64, rounding="least-error"),
        refused={"ort-web": BLOCKS_ON_THE_WEB},
    ),
    Scheme(
        "auto",
        matrices=FOUR_BITS,
        tables=SHORT,
        finer=(
            Scheme("auto", matrices=replace(FOUR_BITS, block=64), tables=SHORT),
            Scheme("auto", matrices=SHORT, tables=SHORT),
            *(Scheme("auto", matrices=one, tables=one) for one in (PerBlock(5), PerBlock(6))),
            Scheme("auto", matrices=PerBlock(8, block=64, float_block=32)),
            Scheme("keep", keeps_blocks=True),
        ),
        refused={"ort-web": BLOCKS_ON_THE_WEB},
    ),
    Scheme("keep", keeps_blocks=True, refused={"ort-web": BLOCKS_ON_THE_WEB}),
)
SCHEMES: dict[str, Scheme] = {scheme.name: scheme for scheme in _ALL}


def find(name: str) -> Scheme:
    """Return the scheme with this name. Raises ExportError if there is none."""
    if name not in SCHEMES:
        raise ExportError(f"quant must be one of {', '.join(SCHEMES)}, got {name!r:.40}")
    return SCHEMES[name]


DEFAULTS = ("int8", "int8-dynamic")


def default(config: Config, target: Target) -> Scheme:
    """Return the default scheme of a model for a target: int8 or int8-dynamic.

    An encoder computes many tokens at once, and one scale per column (int8-dynamic) is the fastest format
    for many tokens. A decoder spends most of its time reading weights. Blocks (int8) are read as fast as
    columns and are more accurate. If the target refuses the better scheme for the model, the function
    returns the other scheme.
    """
    blocks, columns = (SCHEMES[name] for name in DEFAULTS)
    first, second = (blocks, columns) if "decoder" in config.stacks else (columns, blocks)
    return second if target.name in first.refused else first


def check_target(scheme: Scheme, target: Target) -> None:
    """Raise ExportError if the target doesn't support the scheme."""
    if target.name in scheme.refused:
        reason = scheme.refused[target.name]
        raise ExportError(f"quant={scheme.name} isn't supported for target={target.name}: {reason}")


def float_type(scheme: Scheme, target: Target) -> FloatType:
    """Return the type of all floats in a bundle: weights, scales, activations and cache."""
    return target.floats or scheme.floats
