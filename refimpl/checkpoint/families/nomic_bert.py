"""Nomic Embed 1 and 1.5 (Nussbaum et al. 2024): BERT's encoder with rotary positions and gated mlps, without
biases.

The first checkpoints use GPT-2's names of keys. They also state further settings of the code in their
repository: mixtures of experts (nomic-embed-text-v2), norms before sublayers, and other rotations. With
`rotary_scaling_factor`, texts longer than `max_trained_positions` have a larger theta.
"""

from dataclasses import replace

from ...config import (
    Attention,
    Dense,
    DynamicNTK,
    Embedding,
    Encoder,
    Gated,
    LayerNorm,
    MaskedLM,
    Rope,
)
from ..config_readers.gguf_keys import fixed, rotary
from ..config_readers.gguf_metadata import gguf_head_size
from ..config_readers.heads import head
from ..config_readers.keys import ACTIVATIONS, Keys
from ..config_readers.layers import head_size, layer_count
from ..config_readers.rope import exact_context, rope
from ..weights.weight_map import weight_map
from . import Gguf, Task, encoders
from .bert import HEADS, build
from .bert import KEYS as BERT

MODEL_TYPES = ("nomic_bert",)
ARCHITECTURES = encoders("NomicBert", without=("answer",))
PREFIX = "nomic_bert."


def config(keys: Keys, task: Task) -> Encoder:
    _check_older(keys)
    width, heads = keys.spelled("hidden_size", "n_embd"), keys.spelled("num_attention_heads", "n_head")
    size = keys.size("head_dim", None) or head_size(keys, width, heads)
    context, position = _positions(keys, size)
    norm = LayerNorm(keys.positive(keys.spelled("layer_norm_eps", "layer_norm_epsilon"), 1e-12))
    activation = keys.choice("hidden_act", ACTIVATIONS, "silu")
    count = keys.size(heads)
    dense = Dense(activation, norm=norm)
    return build(
        Embedding(
            keys.size("vocab_size"),
            keys.size(width),
            token_types=keys.size("type_vocab_size", 2, null=keys.of_gguf),
        ),
        Attention(count, count, size, position, after=norm),
        Gated(keys.size(keys.spelled("intermediate_size", "n_inner")), activation, after=norm),
        head(
            keys,
            task,
            masked=MaskedLM(keys.get("tie_word_embeddings", bool, True), dense),
            classify=Dense("tanh"),
        ),
        layers=layer_count(keys, keys.spelled("num_hidden_layers", "n_layer")),
        context=exact_context(context, position),
    )


def _positions(keys: Keys, size: int) -> tuple[int, Rope]:
    """Return the length of the longest text, and the rotary positions for heads of `size` elements."""
    context = keys.size(keys.spelled("max_position_embeddings", "n_positions"), 2048)
    names = keys.spelled("rope_theta", "rotary_emb_base"), "rotary_emb_fraction"
    position = rope(keys, size, context, theta=1000.0, names=names)
    factor, trained = keys.positive("rotary_scaling_factor", None), keys.size("max_trained_positions", 2048)
    if factor is None:
        return context, position
    if position.scaling is not None:
        raise keys.fail("rotary_scaling_factor", "null if rope_scaling or rope_parameters states a scaling")
    return min(context, trained), replace(position, scaling=DynamicNTK(factor, trained))


def _check_older(keys: Keys) -> None:
    """Raise ConfigError for a setting of the repository's own code that changes what is computed."""
    off = (
        "causal", "qkv_proj_bias", "mlp_fc1_bias", "mlp_fc2_bias", "prenorm", "parallel_block",
        "use_rms_norm", "rotary_emb_interleaved", "scale_attn_by_inverse_layer_idx",
    )  # fmt: skip
    keys.harmless(
        activation_function=("swiglu",),
        **dict.fromkeys(off, (False, None)),
        **dict.fromkeys(("moe_every_n_layers", "num_experts"), (0, None)),
        rotary_emb_scale_base=(None,),
        scale_attn_weights=(True,),
    )
    keys.unused("attn_pdrop", "embd_pdrop", "resid_pdrop", "dense_seq_output", "pad_vocab_size_multiple")
    keys.unused("fused_bias_fc", "fused_dropout_add_ln", "reorder_and_upcast_attn")
    keys.unused("use_xentropy", "parallel_block_tied_norm")
    keys.unused(*(f"summary_{key}" for key in SUMMARY))


SUMMARY = ("activation", "first_dropout", "proj_to_labels", "type", "use_proj")
WEIGHTS = weight_map("""
    embedding.{table,token_types} <- embeddings.{word,token_type}_embeddings.weight
    encoder.first_norm.{weight,bias} <- emb_ln.{weight,bias}
    encoder.layers.{i}.attn.wq, wk, wv <- encoder.layers.{i}.attn.Wqkv.weight : transpose
    encoder.layers.{i}.attn.wo <- encoder.layers.{i}.attn.out_proj.weight : transpose
    encoder.layers.{i}.attn_after.{weight,bias} <- encoder.layers.{i}.norm1.{weight,bias}
    encoder.layers.{i}.mlp.{up,gate,down} <- encoder.layers.{i}.mlp.{fc11,fc12,fc2}.weight : transpose
    encoder.layers.{i}.mlp_after.{weight,bias} <- encoder.layers.{i}.norm2.{weight,bias}
""") + HEADS.renamed({"transform.LayerNorm": "transform.layer_norm"})


GGUF_WEIGHTS = weight_map("""
    embedding.table <- token_embd.weight
    embedding.token_types <- token_types.weight : table
    encoder.first_norm.{weight,bias} <- token_embd_norm.{weight,bias}
    encoder.layers.{i}.attn.wq, wk, wv <- blk.{i}.attn_qkv.weight : transpose
    encoder.layers.{i}.attn.wo <- blk.{i}.attn_output.weight : transpose
    encoder.layers.{i}.attn_after.{weight,bias} <- blk.{i}.attn_output_norm.{weight,bias}
    encoder.layers.{i}.mlp.{up,gate,down} <- blk.{i}.ffn_{up,gate,down}.weight : transpose
    encoder.layers.{i}.mlp_after.{weight,bias} <- blk.{i}.layer_output_norm.{weight,bias}
""")
KEYS = {
    **BERT,
    **rotary(gguf_head_size, names=("rope_theta", "rotary_emb_fraction")),
    "model_type": fixed("nomic_bert"),
}
GGUF = Gguf("nomic-bert", KEYS, GGUF_WEIGHTS, task="pool")
