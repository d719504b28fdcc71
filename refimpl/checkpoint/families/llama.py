"""Llama, SmolLM2, TinyLlama, Vicuna and other models of Llama's form.

The sources are Touvron et al. 2023, and Dubey et al. 2024 for the rotary scaling of Llama 3.1.
"""

from ...config import Decoder
from ..config_readers.decoder import decoder
from ..config_readers.gguf_keys import DECODER, Table, always, experts, experts_width, fixed, optional
from ..config_readers.gguf_weights import EXPERTS, PERMUTED_QK_WEIGHTS
from ..config_readers.keys import Keys
from ..config_readers.layers import layer_count
from ..weights.weight_map import weight_map
from . import Gguf, Task, decoders

MODEL_TYPES = ("llama",)
ARCHITECTURES: dict[str, Task] = decoders("Llama")


def config(keys: Keys, task: Task) -> Decoder:
    # Several slices of one product, summed: the same mathematics.
    keys.get("pretraining_tp", int, 1, null=True)
    # SmolLM2's, of the trainer it comes from: weights whose pairs are neighbours would be in another order.
    keys.harmless(is_llama_config=(True,), rope_interleaved=(False,))
    # The context again, by names that no class reads; and what Mistral's have, null where that is no window.
    context = keys.get("max_position_embeddings", int, 2048)
    keys.harmless(max_sequence_length=(context,), seq_length=(context,), sliding_window=(None,))
    # The tokenizer's; and a window's switch and layers, which no class reads here: where it is off.
    keys.harmless(model_max_length=(int, None), use_sliding_window=(False,), max_window_layers=(int, None))
    keys.harmless(layer_types=(["full_attention"] * layer_count(keys), None))
    return decoder(keys, context=2048, mlp_bias=keys.get("mlp_bias", bool, False))


# Weights that Gemma 2 has too; its norms are elsewhere.
TRUNK = weight_map("""
    {embedding,head}.table <- {embed_tokens,lm_head}.weight
    decoder.layers.{i}.attn_pre.weight <- layers.{i}.input_layernorm.weight
    decoder.layers.{i}.attn.{wq,wk,wv,wo} <- layers.{i}.self_attn.{q,k,v,o}_proj.weight : transpose
    decoder.layers.{i}.attn.{bq,bk,bv,bo} <- layers.{i}.self_attn.{q,k,v,o}_proj.bias
    decoder.layers.{i}.mlp.{gate,up,down} <- layers.{i}.mlp.{gate,up,down}_proj.weight : transpose
    decoder.norm.weight <- norm.weight
    embedding.table == lm_head.weight
""")
WEIGHTS = TRUNK + weight_map("""
    decoder.layers.{i}.mlp_pre.weight <- layers.{i}.post_attention_layernorm.weight
    decoder.layers.{i}.mlp.{bgate,bup,bdown} <- layers.{i}.mlp.{gate,up,down}_proj.bias
    inv_freq == layers.{i}.self_attn.rotary_emb.inv_freq
""")
# Norms of queries and keys, for the families that have them.
QK_NORM = weight_map("""
    decoder.layers.{i}.attn.{q,k}_norm <- layers.{i}.self_attn.{q,k}_norm.weight
""")


LLAMA = {**DECODER, "model_type": fixed("llama")}
MISTRAL = {**LLAMA, "model_type": fixed("mistral"), "sliding_window": optional("attention.sliding_window")}
MIXTRAL = {
    **MISTRAL,
    **experts("num_local_experts"),
    "model_type": fixed("mixtral"),
    "intermediate_size": experts_width(lambda width, _: width),
    "expert_weights_norm": always("expert_weights_norm", True, told=False),
}


def table(keys: Keys) -> Table:
    """Return GGUF's table for the family that the file contains. Several families share the architecture
    `llama`."""
    if keys.get("expert_count", int, 0):
        return MIXTRAL
    return MISTRAL if "attention.sliding_window" in keys else LLAMA


GGUF = Gguf("llama", table, PERMUTED_QK_WEIGHTS + EXPERTS)
