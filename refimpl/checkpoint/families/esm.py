"""ESM-1b and ESM-2, models of proteins (Rives et al. 2021, Lin et al. 2023): RoBERTa's encoder with norms
before sublayers, and with learned or rotary positions.

The model treats masked tokens as if they had been dropped, as in training (`token_dropout`). transformers 5
saves one tensor of rotary frequencies, under the name of layer "*".
"""

from ...config import Attention, Dense, Embedding, Encoder, Plain, Rope, TokenDropout
from ..config_readers.keys import Keys
from ..config_readers.layers import head_size, layer_count
from ..weights.weight_map import weight_map
from . import Task, encoders
from .bert import TRUNK, bert_head, build, layer_norm
from .megatron_bert import norms_before
from .roberta import HEADS, after_padding

MODEL_TYPES = ("esm",)
ARCHITECTURES: dict[str, Task] = encoders("Esm", without=("answer",))
UNREAD_ARCHITECTURES = {"EsmForProteinFolding": "predicts the positions of atoms, which tfm doesn't support"}
PREFIX = "esm."


def config(keys: Keys, task: Task) -> Encoder:
    # No class reads its activation, which is the exact gelu.
    keys.harmless(hidden_act=("gelu",), is_folding_model=(False,), esmfold_config=(None,), vocab_list=(None,))
    size, rows, norm = head_size(keys), keys.size("max_position_embeddings", 1026), layer_norm(keys)
    rotary = keys.choice("position_embedding_type", {"absolute": False, "rotary": True}, "absolute")
    theta = keys.positive("rope_theta", 10_000.0)
    positions = None if rotary else after_padding(keys, rows)
    dropped, mask = keys.get("token_dropout", bool, False), keys.get("mask_token_id", int, None)
    if dropped and mask is None:
        raise keys.fail("mask_token_id", "the id of a token, because token_dropout is true")
    heads, first = keys.size("num_attention_heads"), keys.get("emb_layer_norm_before", bool, False, null=True)
    base = build(
        Embedding(
            keys.size("vocab_size"),
            keys.size("hidden_size"),
            token_dropout=TokenDropout(mask) if dropped else None,
        ),
        Attention(
            heads,
            heads,
            size,
            Rope(theta, size) if rotary else None,
            qkv_bias=True,
            out_bias=True,
            after=norm,
        ),
        Plain(keys.size("intermediate_size"), "gelu", after=norm),
        bert_head(keys, task, Dense("gelu", norm=norm)),
        layers=layer_count(keys),
        context=rows if positions is None else positions.size,
        positions=positions,
    )
    return norms_before(base, norm if first else None)


WEIGHTS = (
    TRUNK
    + HEADS
    + weight_map("""
    encoder.first_norm.{weight,bias} <- embeddings.layer_norm.{weight,bias}
    encoder.layers.{i}.attn_pre.weight <- encoder.layer.{i}.attention.LayerNorm.(weight|gamma)
    encoder.layers.{i}.attn_pre.bias <- encoder.layer.{i}.attention.LayerNorm.(bias|beta)
    encoder.layers.{i}.mlp_pre.{weight,bias} <- encoder.layer.{i}.LayerNorm.{(weight|gamma),(bias|beta)}
    encoder.norm.{weight,bias} <- encoder.emb_layer_norm_after.{weight,bias}
    inv_freq == encoder.layer.{i}.attention.self.rotary_embeddings.inv_freq
    inv_freq == encoder.layer.*.attention.self.rotary_embeddings.inv_freq
    nothing <- contact_head.regression.{weight,bias}
    nothing <- embeddings.position_embeddings.weight
""")
)
