"""The text part of Mistral Large 4."""

from typing import Any

import transformers
from hypothesis import strategies as st

from .deepseek_v2 import latents
from .deepseek_v3 import GROUPS
from .glm_moe_dsa import SHARING
from .kit import SIZES, Row, per_layer, wrapped
from .llava import PIXTRAL

# Not of this class, or of the whole model.
ABSENT = ("q_lora_rank", "experts_implementation", "num_key_value_heads", "tie_word_embeddings")


@st.composite
def scaled(draw: st.DrawFn) -> dict[str, Any]:
    """DeepSeek's keys, with or without positions and experts in each layer. There are so many heads of the
    indexer that hardly any score has none above zero. Without positions, the first layer gives equal tokens
    equal scores, of which transformers takes any: its choice isn't shared then."""
    keys = latents(
        GROUPS,
        index_n_heads=st.sampled_from([17, 19]),
        index_head_dim=st.sampled_from([12, 14]),
        index_topk=st.sampled_from([2, 5, 64]),
        final_logit_softcapping=st.sampled_from([2.0, 30.0]),
    )
    drawn = {key: value for key, value in draw(keys).items() if key not in ABSENT}
    layers = draw(st.sampled_from([4, 3, 1]))
    drawn |= {"num_hidden_layers": layers, "num_key_value_heads": drawn["num_attention_heads"]}
    optional = {
        "no_rope_layers": per_layer(layers, 0, 1),
        "mlp_layer_types": per_layer(layers, "dense", "sparse"),
    }
    drawn |= draw(st.fixed_dictionaries({}, optional=optional))
    first = drawn.get("no_rope_layers", [1])[0]
    return drawn | (draw(st.sampled_from([*SHARING, {}])) if layers > 2 and first else {})


ROWS = {
    "mistral_large4": Row(
        transformers.MistralLarge4Config,
        (transformers.MistralLarge4ForConditionalGeneration,),
        wrapped(scaled(), PIXTRAL, experts_implementation="eager"),
        {"text_config": {**SIZES, "num_attention_heads": 64}, "vision_config": PIXTRAL},
        stays=False,  # its frequencies have factors that a tensor states
    )
}
