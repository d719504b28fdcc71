"""Jina embeddings v3 (Sturua et al. 2024) in transformers' form: XLM-RoBERTa with rotary positions.

Each task has an adapter, in a separate directory beside the model. The first checkpoint, whose weights
contain all adapters, has the `model_type` of XLM-RoBERTa. The family of XLM-RoBERTa refuses this
checkpoint.
"""

from ...config import Attention, Dense, Embedding, Encoder, LayerNorm, Plain
from ..config_readers.gguf_keys import fixed, rotary
from ..config_readers.gguf_metadata import gguf_head_size
from ..config_readers.keys import ACTIVATIONS, Keys
from ..config_readers.layers import head_size, layer_count
from ..config_readers.rope import exact_context, rope
from ..weights.weight_map import weight_map
from . import Gguf, Task, encoders
from .bert import KEYS as BERT
from .bert import bert_head, build
from .nomic_bert import GGUF_WEIGHTS as GATED
from .roberta import HEADS

MODEL_TYPES = ("jina_embeddings_v3",)
ARCHITECTURES = encoders("JinaEmbeddingsV3")
PREFIX = "roberta."


def config(keys: Keys, task: Task) -> Encoder:
    heads, norm = keys.size("num_attention_heads"), LayerNorm(keys.positive("layer_norm_eps", 1e-5))
    size = keys.size("head_dim", None) or head_size(keys)
    context = keys.size("max_position_embeddings", 8194)
    position = rope(keys, size, context, theta=20_000.0)
    return build(
        Embedding(
            keys.size("vocab_size"),
            keys.size("hidden_size"),
            token_types=keys.size("type_vocab_size", 1, null=keys.of_gguf),
        ),
        Attention(heads, heads, size, position, qkv_bias=True, out_bias=True, after=norm),
        Plain(keys.size("intermediate_size"), keys.choice("hidden_act", ACTIVATIONS, "gelu"), after=norm),
        bert_head(keys, task, Dense("gelu", norm=norm)),
        layers=layer_count(keys),
        context=exact_context(context, position),
    )


WEIGHTS = (
    weight_map("""
    embedding.{table,token_types} <- embeddings.{word,token_type}_embeddings.weight
    encoder.first_norm.{weight,bias} <- emb_ln.{weight,bias}
    encoder.layers.{i}.attn.wq, wk, wv <- encoder.layers.{i}.mixer.Wqkv.weight : transpose
    encoder.layers.{i}.attn.bq, bk, bv <- encoder.layers.{i}.mixer.Wqkv.bias
    encoder.layers.{i}.attn.wo <- encoder.layers.{i}.mixer.out_proj.weight : transpose
    encoder.layers.{i}.attn.bo <- encoder.layers.{i}.mixer.out_proj.bias
    encoder.layers.{i}.attn_after.{weight,bias} <- encoder.layers.{i}.norm1.{weight,bias}
    encoder.layers.{i}.mlp.{up,down} <- encoder.layers.{i}.mlp.{fc1,fc2}.weight : transpose
    encoder.layers.{i}.mlp.{bup,bdown} <- encoder.layers.{i}.mlp.{fc1,fc2}.bias
    encoder.layers.{i}.mlp_after.{weight,bias} <- encoder.layers.{i}.norm2.{weight,bias}
""")
    + HEADS
)


GGUF_WEIGHTS = GATED + weight_map("""
    encoder.layers.{i}.attn.bq, bk, bv <- blk.{i}.attn_qkv.bias
    encoder.layers.{i}.attn.bo <- blk.{i}.attn_output.bias
    encoder.layers.{i}.mlp.{bup,bdown} <- blk.{i}.ffn_{up,down}.bias
""")
# The base alone, as the converter writes each adapter to a file of its own.
KEYS = {**BERT, **rotary(gguf_head_size), "model_type": fixed("jina_embeddings_v3")}
GGUF = Gguf("jina-bert-v3", KEYS, GGUF_WEIGHTS, task="pool")
