"""StarCoder 2 (Lozhkov et al. 2024): grouped heads, LayerNorm and an mlp without a gate.

Either all projections have biases or none have. All layers may have a sliding window."""

from ...config import Attention, Decoder, FullAttention, LayerNorm, Plain, Window
from ..config_readers.decoder import build
from ..config_readers.gguf_keys import DECODER, EPS, fixed, has, optional, without
from ..config_readers.keys import ACTIVATIONS, Keys
from ..config_readers.layers import head_size, layer_count, read_window
from ..config_readers.rope import exact_context, rope
from ..weights.weight_map import weight_map
from . import Gguf, Task, decoders
from .llama import WEIGHTS as LLAMA
from .stablelm import GGUF_WEIGHTS

MODEL_TYPES = ("starcoder2",)
ARCHITECTURES: dict[str, Task] = decoders("Starcoder2", tasks=("classify", "tag"))


def config(keys: Keys, task: Task) -> Decoder:
    keys.unused("residual_dropout", "embedding_dropout")
    # Of its trainer's code, which knows other kinds too; transformers' class has one, by other names.
    keys.harmless(
        mlp_type=("default",), norm_type=("layer_norm",), activation_function=("gelu",),
        attention_softmax_in_fp32=(bool,), scale_attention_softmax_in_fp32=(bool,),
        scale_attn_weights=(True,), rms_norm_eps=(float,),
        layer_norm_epsilon=(keys.get("norm_epsilon", float, 1e-5),),
    )  # fmt: skip
    size, context = keys.size("head_dim", None), keys.size("max_position_embeddings", 4096)
    size = head_size(keys) if size is None else size
    norm, bias = LayerNorm(keys.positive("norm_epsilon", 1e-5)), keys.get("use_bias", bool, True)
    position, window = rope(keys, size, context), read_window(keys)
    activation = keys.choice("hidden_act", ACTIVATIONS, "gelu_pytorch_tanh")
    return build(
        vocabulary=keys.size("vocab_size"),
        width=keys.size("hidden_size"),
        layers=layer_count(keys),
        attention=Attention(
            keys.size("num_attention_heads"),
            keys.size("num_key_value_heads", 2),
            size,
            position,
            mask=FullAttention() if window is None else Window(window),
            qkv_bias=bias,
            out_bias=bias,
            pre=norm,
        ),
        mlp=Plain(keys.size("intermediate_size"), activation, bias=bias, pre=norm),
        tied=keys.get("tie_word_embeddings", bool, True),
        context=exact_context(context, position),
    )


WEIGHTS = LLAMA.renamed({"up_proj": "c_fc", "down_proj": "c_proj"}) + weight_map("""
    decoder.layers.{i}.{attn,mlp}_pre.bias <- layers.{i}.{input,post_attention}_layernorm.bias
    decoder.norm.bias <- norm.bias
""")


# llama.cpp's converter drops the window and its graph has none: in texts longer than the window, tokens of
# such a file see further than the original's. A stated window counts.
KEYS = {
    **without(DECODER, "rms_norm_eps"),
    "model_type": fixed("starcoder2"),
    "norm_epsilon": EPS,
    "sliding_window": optional("attention.sliding_window"),
    "use_bias": has("blk.0.ffn_up.bias"),
}
GGUF = Gguf("starcoder2", KEYS, GGUF_WEIGHTS)
