"""GLM-4 of April 2025 (9B and 32B, Z1): GLM with a second norm after each sublayer.

In GGUF the text parts of GLM-4.1V and GLM-OCR have this architecture too. Their files have M-RoPE's sections,
and the rotated pairs of a head are its halves.
"""

from dataclasses import replace

from ...config import Decoder, Layer
from ..config_readers.decoder import map_layers
from ..config_readers.gguf_keys import PERHAPS_SECTIONED, Row, fixed, trunk_layers
from ..config_readers.gguf_rope import SECTIONS
from ..config_readers.keys import Keys
from ..weights.weight_map import weight_map
from . import Gguf, Task, decoders, glm

MODEL_TYPES = ("glm4",)
ARCHITECTURES: dict[str, Task] = decoders("Glm4", tasks=("classify", "tag"))


def config(keys: Keys, task: Task) -> Decoder:
    return map_layers(glm.config(keys, task), sandwiched)


def sandwiched(_: int, layer: Layer) -> Layer:
    """Return the layer with a second norm after each sublayer, of the same kind as the norm before it."""
    norm = layer.mlp.pre
    return replace(layer, attention=replace(layer.attention, post=norm), mlp=replace(layer.mlp, post=norm))


WEIGHTS = glm.WEIGHTS + weight_map("""
    decoder.layers.{i}.{attn,mlp}_post.weight <- layers.{i}.post_{self_attn,mlp}_layernorm.weight
""")


GGUF_WEIGHTS = glm.GGUF_WEIGHTS + weight_map("""
    decoder.layers.{i}.{attn,mlp}_post.weight <- blk.{i}.post_{attention,ffw}_norm.weight
    left out <- blk.{n}.*
""")
KEYS = {
    **glm.KEYS,
    **PERHAPS_SECTIONED,
    "model_type": fixed("glm4"),
    "num_hidden_layers": Row(trunk_layers, "block_count"),
    "rotates_halves": Row(lambda keys, _: min(keys.get(SECTIONS, list, [0])[:2]) > 0),
}
GGUF = Gguf("glm4", KEYS, GGUF_WEIGHTS, arrays=(SECTIONS,))
