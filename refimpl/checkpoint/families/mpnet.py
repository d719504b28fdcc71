"""MPNet (Song et al. 2020): BERT's encoder without token types. It has learned positions and T5's relative
biases.

The first token has row 2 of the positions, whatever `pad_token_id` says, as in transformers' class.
"""

from ...config import Dense, Embedding, Encoder, Learned, RelativeBias
from ..config_readers.keys import Keys
from ..weights.weight_map import weight_map
from . import Task, encoders
from .bert import TRUNK, bert_head, encoder, layer_norm
from .roberta import HEADS

MODEL_TYPES = ("mpnet",)
ARCHITECTURES = encoders("MPNet")
PREFIX = "mpnet."
OFFSET = 2
BIAS = RelativeBias(buckets=32, max_distance=128)


def config(keys: Keys, task: Task) -> Encoder:
    if keys.size("relative_attention_num_buckets", BIAS.buckets) != BIAS.buckets:
        # It sizes the table alone; distances always fall into 32 buckets.
        raise keys.fail("relative_attention_num_buckets", f"{BIAS.buckets}")
    rows = keys.size("max_position_embeddings", 512)
    if rows <= OFFSET:
        raise keys.fail(
            "max_position_embeddings", f"more than {OFFSET}, since positions begin at row {OFFSET}"
        )
    masked = Dense("gelu", norm=layer_norm(keys))
    return encoder(
        keys,
        Embedding(keys.size("vocab_size"), keys.size("hidden_size")),
        Learned(rows - OFFSET, OFFSET),
        bert_head(keys, task, masked),
        position=BIAS,
    )


WEIGHTS = (
    TRUNK.renamed(
        {
            "attention.self.query": "attention.attn.q",
            "attention.self.key": "attention.attn.k",
            "attention.self.value": "attention.attn.v",
            "attention.output.dense": "attention.attn.o",
            "attention.output.LayerNorm": "attention.LayerNorm",
        }
    )
    + weight_map("encoder.relative_bias <- encoder.relative_attention_bias.weight")
    + HEADS
)
