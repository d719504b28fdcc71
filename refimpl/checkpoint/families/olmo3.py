"""OLMo 3 (OLMo Team 2025): OLMo 2 with sliding windows in three of four layers. Positions in these layers are
never scaled.

In GGUF the architecture is olmo2.
"""

from dataclasses import replace

from ...config import Decoder
from ..config_readers.decoder import decoder, map_attention, map_layers
from ..config_readers.keys import Keys
from ..config_readers.layers import head_size, layer_masks, layer_types, read_window
from ..config_readers.rope import exact_context, ropes
from . import Task, decoders
from .olmo2 import GGUF as GGUF
from .olmo2 import WEIGHTS as WEIGHTS
from .olmo2 import with_post_norms

MODEL_TYPES = ("olmo3",)
ARCHITECTURES: dict[str, Task] = decoders("Olmo3", tasks=("classify",))
THETA = 500_000.0
THETAS = {"full_attention": ("rope_theta", THETA), "sliding_attention": ("rope_theta", THETA)}


def config(keys: Keys, task: Task) -> Decoder:
    # Older versions of transformers give it to all layers, newer ones to those without a window.
    if keys.positive("rope_theta", THETA) != THETA:
        raise keys.fail(
            "rope_theta", f"{THETA}, or rope_parameters must give each type of layer its own rope_theta"
        )
    types = layer_types(keys, lambda i: (i + 1) % 4 != 0)
    masks = layer_masks(keys, types, read_window(keys, 4096, everywhere=False))
    context = keys.size("max_position_embeddings", 2048)
    size = keys.size("head_dim", None) or head_size(keys)
    positions = ropes(keys, size, context, THETAS, scaled=("full_attention",))
    base = decoder(keys, context=2048, eps=1e-5, positions=lambda *_, theta: positions["full_attention"])
    base = map_layers(base, with_post_norms)
    base = map_attention(base, lambda i, a: replace(a, mask=masks[i], position=positions[types[i]]))
    return replace(base, context=exact_context(context, *(positions[kind] for kind in types)))
