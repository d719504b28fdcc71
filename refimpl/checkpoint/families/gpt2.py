"""GPT-2 (Radford et al. 2019): learned positions, norms before the sublayers, and fused matrices.

The matrices are stored with the input axis first."""

from ...config import LM, Attention, Decoder, Embedding, Layer, LayerNorm, Learned, Plain, Stack
from ..config_readers.gguf_keys import COMMON, EPS, fixed
from ..config_readers.gguf_weights import FUSED_QKV_WEIGHTS as GGUF_WEIGHTS
from ..config_readers.keys import ACTIVATIONS, Keys
from ..config_readers.layers import head_size, layer_count
from ..weights.weight_map import weight_map
from . import Gguf, Task, decoders

MODEL_TYPES = ("gpt2",)
ARCHITECTURES: dict[str, Task] = decoders("GPT2", "LMHeadModel")
PREFIX = "transformer."


def config(keys: Keys, task: Task) -> Decoder:
    unused(keys)
    keys.unused("n_special", "predict_special_tokens")
    # The same products in another order and, in half precision, of a wider type.
    keys.get("reorder_and_upcast_attn", bool, False)
    width, heads, size, layers, context = sizes(keys, 1024)
    scaled = keys.get("scale_attn_weights", bool, True)
    inverse = keys.get("scale_attn_by_inverse_layer_idx", bool, False)
    scale = size**-0.5 if scaled else 1.0
    scales = [None if scaled and not inverse else scale / (i + 1 if inverse else 1) for i in range(layers)]
    norm = LayerNorm(keys.positive("layer_norm_epsilon", 1e-5))
    activation = keys.choice("activation_function", ACTIVATIONS, "gelu_new")
    mlp = Plain(keys.size("n_inner", None) or 4 * width, activation, pre=norm)
    attentions = [
        Attention(heads, heads, size, qkv_bias=True, out_bias=True, scale=scale, pre=norm) for scale in scales
    ]
    return Decoder(
        embedding=Embedding(keys.size("vocab_size"), width),
        stack=Stack(tuple(Layer(a, mlp) for a in attentions), norm, Learned(context)),
        head=LM(keys.get("tie_word_embeddings", bool, True)),
        context=context,
    )


def sizes(keys: Keys, context: int) -> tuple[int, int, int, int, int]:
    """Read width, heads, head size, layers and context, in either spelling of the keys.

    `context` is the family's default context."""
    wide, many = keys.spelled("n_embd", "hidden_size"), keys.spelled("n_head", "num_attention_heads")
    layers = layer_count(keys, keys.spelled("n_layer", "num_hidden_layers"))
    context = keys.size(keys.spelled("n_positions", "max_position_embeddings"), context)
    return keys.size(wide), keys.size(many), head_size(keys, wide, many), layers, context


def unused(keys: Keys) -> None:
    """Mark keys as known that concern training or heads that summarize a text, for GPT-2 and similar models.

    The key n_ctx once stated the mask's size, which n_positions states now.
    """
    keys.unused("resid_pdrop", "embd_pdrop", "attn_pdrop", "n_ctx", "output_past", "_num_labels")
    keys.unused("summary_type", "summary_use_proj", "summary_activation", "summary_proj_to_labels")
    keys.unused("summary_first_dropout", "task_specific_params")


WEIGHTS = weight_map("""
    {embedding,head}.table <- {wte,lm_head}.weight
    decoder.positions <- wpe.weight
    decoder.layers.{i}.attn_pre.{weight,bias} <- h.{i}.ln_1.{weight,bias}
    decoder.layers.{i}.attn.wq, wk, wv <- h.{i}.attn.c_attn.weight
    decoder.layers.{i}.attn.bq, bk, bv <- h.{i}.attn.c_attn.bias
    decoder.layers.{i}.attn.{wo,bo} <- h.{i}.attn.c_proj.{weight,bias}
    decoder.layers.{i}.mlp_pre.{weight,bias} <- h.{i}.ln_2.{weight,bias}
    decoder.layers.{i}.mlp.{up,bup} <- h.{i}.mlp.c_fc.{weight,bias}
    decoder.layers.{i}.mlp.{down,bdown} <- h.{i}.mlp.c_proj.{weight,bias}
    decoder.norm.{weight,bias} <- ln_f.{weight,bias}
    embedding.table == lm_head.weight
    {causal,masked_score} == h.{i}.attn.{bias,masked_bias}
""")


KEYS = {
    **COMMON,
    "model_type": fixed("gpt2"),
    "n_inner": "feed_forward_length",
    "layer_norm_epsilon": EPS,
}
GGUF = Gguf("gpt2", KEYS, GGUF_WEIGHTS)
