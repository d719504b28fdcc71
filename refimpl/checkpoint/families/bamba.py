"""Bamba (IBM, Princeton, CMU and UIUC 2024): layers of Mamba 2, and attention in a few layers.

Bamba's attention rotates half of each head. In GGUF its architecture is `granitehybrid`. tfm reads such a
file only if whole heads are rotated. llama.cpp's converter orders the queries and keys as if whole heads were
rotated, so a file with half-rotated heads contains a wrong model.
"""

from functools import partial

from ...config import Decoder, Rope
from ..config_readers.decoder import decoder
from ..config_readers.keys import Keys
from ..config_readers.layers import layer_count
from ..config_readers.mamba2 import MIXER, with_mamba2
from ..config_readers.rope import rope
from ..weights.weight_map import weight_map
from . import Task, decoders
from .llama import WEIGHTS as LLAMA

MODEL_TYPES = ("bamba",)
ARCHITECTURES: dict[str, Task] = decoders("Bamba", tasks=())


def config(keys: Keys, task: Task) -> Decoder:
    # Of training, and how many logits its class gives at once.
    keys.unused("z_loss_coefficient", "num_logits_to_keep")
    base = decoder(
        keys,
        kv_heads=keys.size("num_key_value_heads", 8, null=True),
        context=262_144,
        mlp_bias=keys.get("mlp_bias", bool, False),
        eps=1e-5,
        positions=partial(rope, partial=0.5),
    )
    rotary = base.stack.attentions[0].position
    keys.harmless(attn_rotary_emb=(rotary.dims if isinstance(rotary, Rope) else None,))
    attends = keys.get("attn_layer_indices", list, None) or []
    if not all(type(i) is int for i in attends):
        raise keys.fail("attn_layer_indices", "a list of layers, counted from 0")
    return with_mamba2(base, keys, [i for i in range(layer_count(keys)) if i not in attends])


NAMES = {"mlp.gate_proj": "feed_forward.gate_proj", "mlp.up_proj": "feed_forward.up_proj"}
NAMES |= {"mlp.down_proj": "feed_forward.down_proj", "post_attention_layernorm": "pre_ff_layernorm"}
WEIGHTS = (
    LLAMA.renamed(NAMES).without("decoder.norm.weight")
    + MIXER.renamed({".mixer.": ".mamba."})
    + weight_map("decoder.norm.weight <- final_layernorm.weight")
)
