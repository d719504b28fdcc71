"""Choose the format of each weight of a model from a scheme and a target.

If the checkpoint's file already stores a weight in blocks with the scheme's number of bits, tfm keeps
these blocks, so that no weight is rounded twice. For 8 bits, tfm keeps Q8_0. For 4 bits, tfm keeps Q4_0,
Q4_1, Q4_K, GPTQ and AWQ. On ort-cpu, `int4` also keeps types that store 4-bit indices into a table of
values (IQ4, MXFP4, NVFP4). The bundle then stores codes of 8 bits, and tfm's kernels read only 4 bits.
With the scheme `keep`, tfm keeps all blocks of the file. Matrix products read codes of 4 and 8 bits. So
tfm widens codes of any other number of bits, which changes no weight.

Blocks that tfm rounds itself are asymmetric, except on ort-cuda, where blocks are symmetric and contain 32
weights. Formats with one scale per column are symmetric. On targets of ONNX Runtime, tfm stores the scales
of blocks as float16 numbers if possible, because tfm's own kernels and CUDA's kernels read float16 scales.
Norms, biases, added position embeddings, a mixture's router, an indexer's matrices and the projection to
labels stay float.

Some weights get 8-bit blocks of 32 instead of the format of their scheme:

- If inputs have one scale per row: queries, keys and values with inputs that can't be smoothed, because no
  norm precedes these products. A few large channels of the input would cost the whole row its precision, and
  attention suffers most from this. An example is MiniLM, which applies its norms after each sublayer. Over
  sentences of Wikipedia, MiniLM's int8-dynamic vectors have a mean cosine of 0.9988 to the float vectors
  (lowest 0.9961). With blocks for queries, keys and values, which is a quarter slower, the mean is 0.9986
  (0.9949). With one scale per column for all weights and without smoothing, the mean is 0.9972 (0.9891).
- If inputs have one scale per row: the experts of a mixture. An expert that gets no token has no row from
  which to take a scale, and ONNX Runtime's ReduceMax of an empty tensor has a wrong shape.
- If inputs have static scales: a table that the model only looks up, because no product gives the table an
  input.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Literal

from ...refimpl.checkpoint.formats.ggml_blocks import BLOCK_TYPES
from ...refimpl.ops.quant import ROW_SCALED, Blocks
from ...refimpl.params.parameter_shapes import ParameterShapes
from ...refimpl.params.shapes import multiplied
from .schemes import EIGHT_BITS, PerBlock, PerColumn, Scheme
from .targets import Target

# Leaf name, most bits of a code -> the checkpoint's own blocks, None where none may stay.
NativeBlocks = Callable[[str, int], Blocks | None]
ATTENTION = (".attn.", ".cross.")
PROJECTIONS = (".wq", ".wk", ".wv", ".wq_global", ".wk_global", ".wv_global")
PER_LAYER = "embedding.per_layer.table"
# Types of quantizing libraries, named by their bits (`refimpl.checkpoint.formats.quantized`).
CODES = re.compile("(GPTQ|AWQ|INT)[1-8]")
# Types of 4 bits whose numbers aren't at equal distances: a table of 16 has codes of 8 bits for them.
LOOKED_UP = frozenset({"IQ4_NL", "IQ4_XS", "MXFP4", "NVFP4"})


@dataclass(frozen=True)
class WeightFormat:
    """The format in which a bundle stores one quantized weight.

    - `bits`: the number of bits of a stored code.
    - `block`: how many neighbouring weights share a scale.
    - `activations`: how a product with this weight quantizes its input (`refimpl.ops.quant.Blocks`).
    - `symmetric`: the codes need no zero points.
    - `minimum`: each block also has a minimum, which is added to its weights.
    - `native`: the codes are copied from the checkpoint's own blocks.
    - `halves`: scales are rounded to float16 if the rounded scales are near enough
      (`refimpl.ops.quant.half_scales`).
    - `source`: the weight's type in the checkpoint (Q5_0, F16, …). It is stated if the scheme keeps blocks,
      and no computation depends on it.
    - `activation_bits`: the number of bits of static inputs.
    - `rounds_output`: the product's output is rounded to `activation_bits` bits too.
    - `code_bits`: if not 0, the stored 8-bit codes use only this many bits around the middle of their range,
      and tfm's kernels read only these bits.
    """

    bits: int
    block: int
    activations: Literal["none", "block", "row", "smoothed", "static"]
    symmetric: bool = True
    minimum: bool = False
    native: bool = False
    halves: bool = field(default=False, metadata={"optional": True})
    source: str = field(default="", compare=False, metadata={"optional": True})
    activation_bits: Literal[8, 16] = field(default=8, metadata={"optional": True})
    rounds_output: bool = field(default=False, metadata={"optional": True})
    code_bits: Literal[0, 5, 6] = field(default=0, metadata={"optional": True})

    @property
    def by_column(self) -> bool:
        """True if one scale covers a whole column of a matrix, or a whole row of a table."""
        return self.activations in ROW_SCALED

    @property
    def searched(self) -> bool:
        """True if an export may search for the scales with the least error
        (`refimpl.calibrate.least_error`).
        """
        return (self.code_bits or self.bits) < 8 and not self.native


def is_widened(bits: int, source: str) -> bool:
    """Return whether stored codes of `bits` bits are wider than the codes of the checkpoint's type `source`.
    The result is False if `source` is a float type.
    """
    if CODES.fullmatch(source):
        return bits > int(source[-1])
    block_type = BLOCK_TYPES.get(source)
    return block_type is not None and bits > block_type.bits_per_weight


def is_table(name: str) -> bool:
    """Return whether the parameter with this name is a token table [N, D]. All other matrices have shape [D,
    F].
    """
    return name.endswith(".table")


def formats(
    shapes: ParameterShapes,
    scheme: Scheme,
    target: Target,
    native: NativeBlocks = lambda name, most: None,
) -> dict[str, WeightFormat]:
    """Return a dict from the name of each quantized parameter to its format. A parameter that isn't in the
    dict stays float.

    `native(name, bits)` returns a parameter's blocks of the checkpoint's file with centred zero points, if
    codes of at most `bits` bits may keep these blocks. Otherwise `native` returns None.
    """
    products = multiplied(shapes.config)
    smoothed_norms = {name for site in shapes.smoothing_sites for name in site.consumers}
    smoothed_products = {name for site in shapes.post_norm_sites for name in site.consumers}

    def is_product(name: str) -> bool:
        """Return whether the model multiplies by a parameter. A table that the model only looks up isn't
        multiplied.
        """
        read = name in (PER_LAYER, "encoder_embedding.table")
        return not read and (name != "embedding.table" or getattr(shapes.config.head, "tied", False))

    def format_of(name: str, shape: tuple[int, ...]) -> WeightFormat | None:
        spec = scheme.tables if is_table(name) else scheme.matrices
        if target.storage.tables_by_row and is_table(name) and is_product(name):
            spec = scheme.matrices
        if spec is None or name not in products:
            return None
        if isinstance(spec, PerColumn):
            length = shape[1] if is_table(name) else shape[0]
            if spec.inputs == "static":
                if is_product(name):
                    return WeightFormat(
                        8,
                        length,
                        "static",
                        activation_bits=spec.activation_bits,
                        rounds_output=spec.rounds_output,
                    )
                # Beside static products ONNX Runtime can't run a file's own blocks (`runtime.ort.session`).
                return _per_block(EIGHT_BITS, name, target)
            elif name in smoothed_products:
                return WeightFormat(8, length, "smoothed")
            elif ".experts." not in name and (name in smoothed_norms or not name.endswith(PROJECTIONS)):
                return WeightFormat(8, length, "row")
            spec = EIGHT_BITS
        blocks = native(name, spec.bits)
        return _per_block(spec, name, target) if blocks is None else _native(blocks, target)

    made = {name: format_of(name, shape) for name, shape in shapes.items()}
    return {name: form for name, form in made.items() if form is not None}


def _per_block(spec: PerBlock, name: str, target: Target) -> WeightFormat:
    halves = target.storage.blocks == "nbits"
    if spec.bits in (5, 6):
        narrow = _per_block(replace(EIGHT_BITS, symmetric=True), name, target)
        return replace(narrow, code_bits=spec.bits) if target.name == "ort-cpu" else narrow
    if (symmetric := target.storage.symmetric_block) is not None:
        return WeightFormat(spec.bits, symmetric, target.storage.activations, halves=halves)
    block = spec.block
    if spec.attention_block is not None and any(part in name for part in ATTENTION):
        block = spec.attention_block
    if spec.float_block is not None and target.storage.activations == "none":
        block = spec.float_block
    return WeightFormat(spec.bits, block, target.storage.activations, symmetric=spec.symmetric, halves=halves)


def _native(blocks: Blocks, target: Target) -> WeightFormat:
    return WeightFormat(
        bits=blocks.bits,
        block=blocks.block,
        activations=target.storage.activations,
        symmetric=blocks.zero is None,
        minimum=blocks.minimum is not None,
        native=True,
    )
