"""SantaCoder and StarCoder (Ben Allal et al. 2023; Li et al. 2023), also called GPT-BigCode: GPT-2 with one
key/value head for all query heads."""

from ...config import LM, Attention, Decoder, Embedding, Layer, LayerNorm, Learned, Plain, Stack
from ..config_readers.gguf_keys import COMMON, EPS, Row, fixed
from ..config_readers.gguf_weights import FUSED_QKV_WEIGHTS as GGUF_WEIGHTS
from ..config_readers.keys import ACTIVATIONS, Keys
from ..formats.tensor_source import TensorSource
from . import Gguf, Task, decoders
from .gpt2 import WEIGHTS as GPT2
from .gpt2 import sizes, unused

MODEL_TYPES = ("gpt_bigcode",)
ARCHITECTURES: dict[str, Task] = decoders("GPTBigCode", tasks=("classify", "tag"))
PREFIX = "transformer."


def config(keys: Keys, task: Task) -> Decoder:
    unused(keys)
    # In which type it computes, and how the first releases' own code lays out memory.
    keys.harmless(
        attention_softmax_in_fp32=(bool,), scale_attention_softmax_in_fp32=(bool,), pad_key_length=(bool,),
        inference_runner=(int, None), validate_runner_input=(bool,), pre_allocate_kv_cache=(bool,),
        max_batch_size=(int, None), max_sequence_length=(int, None), runner_max_sequence_length=(int, None),
    )  # fmt: skip
    width, heads, size, layers, context = sizes(keys, 1024)
    shared = keys.get("multi_query", bool, True)
    keys.restated(
        "num_key_value_heads", 1 if shared else heads, f"{1 if shared else heads}, to agree with multi_query"
    )
    norm = LayerNorm(keys.positive("layer_norm_epsilon", 1e-5))
    scale = None if keys.get("scale_attn_weights", bool, True) else 1.0
    groups = 1 if shared else heads
    activation = keys.choice("activation_function", ACTIVATIONS, "gelu_pytorch_tanh")
    layer = Layer(
        Attention(heads, groups, size, qkv_bias=True, out_bias=True, scale=scale, pre=norm),
        Plain(keys.size("n_inner", None) or 4 * width, activation, pre=norm),
    )
    return Decoder(
        embedding=Embedding(keys.size("vocab_size"), width),
        stack=Stack((layer,) * layers, norm, Learned(context)),
        head=LM(keys.get("tie_word_embeddings", bool, True)),
        context=context,
    )


# Linear maps are stored output first; where heads have keys of their own, the three stand head by head.
WEIGHTS = GPT2.then("transpose", lambda tensor: ".c_" in tensor and tensor.endswith(".weight")).then(
    "grouped", lambda tensor: ".c_attn." in tensor
)


def _shared(keys: Keys, _: TensorSource) -> bool:
    """Return whether all query heads share one key/value head."""
    heads = keys.size("attention.head_count")
    count = keys.size("attention.head_count_kv", heads)
    if count not in (1, heads):
        raise keys.fail("attention.head_count_kv", f"1, or the number of all heads ({heads})")
    return count == 1


KEYS = {
    **COMMON,
    "model_type": fixed("gpt_bigcode"),
    "multi_query": Row(_shared),
    "n_inner": "feed_forward_length",
    "layer_norm_epsilon": EPS,
}
GGUF = Gguf("starcoder", KEYS, GGUF_WEIGHTS)
