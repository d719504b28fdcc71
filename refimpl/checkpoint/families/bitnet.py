"""BitNet b1.58 (Ma et al. 2025, arXiv 2504.12285): Llama's decoder with norms before the output projections.

The output of the heads and the mlp's hidden units are normalized, so that 8 bits suffice for them. The model
was trained with weights of -1, 0 and 1 (`formats.quantized.bitnet`).
"""

from dataclasses import replace

from ...config import Attention, Decoder, Gated, Layer, RMSNorm
from ..config_readers.decoder import decoder, map_layers
from ..config_readers.gguf_keys import DECODER, fixed
from ..config_readers.gguf_weights import UNPERMUTED_QK_WEIGHTS
from ..config_readers.keys import ACTIVATIONS, Keys
from ..weights.weight_map import weight_map
from . import Gguf, Task, decoders, llama

MODEL_TYPES = ("bitnet",)
ARCHITECTURES: dict[str, Task] = decoders("BitNet", tasks=())


def config(keys: Keys, task: Task) -> Decoder:
    base = decoder(
        keys, kv_heads=keys.size("num_key_value_heads", 5, null=True), context=2048, theta=500_000.0, eps=1e-5
    )
    activation = keys.choice("hidden_act", ACTIVATIONS, "relu2")

    def normalized(_: int, layer: Layer) -> Layer:
        attention, mlp, norm = layer.attention, layer.mlp, layer.mlp.pre
        assert isinstance(attention, Attention)
        assert isinstance(mlp, Gated)
        assert isinstance(norm, RMSNorm)
        if attention.heads * attention.head_size != base.embedding.width:
            raise keys.fail(
                "head_dim", "hidden_size / num_attention_heads, since the heads' norm has hidden_size weights"
            )
        mlp = replace(mlp, activation=activation, down_norm=norm)
        return replace(layer, attention=replace(attention, out_norm=norm), mlp=mlp)

    return map_layers(base, normalized)


WEIGHTS = llama.WEIGHTS + weight_map("""
    decoder.layers.{i}.attn.out_norm <- layers.{i}.self_attn.attn_sub_norm.weight
    decoder.layers.{i}.mlp.down_norm <- layers.{i}.mlp.ffn_sub_norm.weight
""")
# llama.cpp has the first models' SiLU, and no architecture for Microsoft's 2B4T, whose mlps have a square.
KEYS = {**DECODER, "model_type": fixed("bitnet"), "hidden_act": fixed("silu")}
GGUF_WEIGHTS = UNPERMUTED_QK_WEIGHTS + weight_map("""
    decoder.layers.{i}.attn.out_norm <- blk.{i}.attn_sub_norm.weight
    decoder.layers.{i}.mlp.down_norm <- blk.{i}.ffn_sub_norm.weight
""")
GGUF = Gguf("bitnet", KEYS, GGUF_WEIGHTS)
