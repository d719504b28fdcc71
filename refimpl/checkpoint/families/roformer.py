"""RoFormer (Su et al. 2021): BERT's encoder with rotary positions.

The width of the embeddings may differ from the width of the layers. Rotary positions rotate neighbouring
elements, as in the paper. Checkpoints store the sines and cosines of all positions.
"""

from ...config import Attention, Dense, Embedding, EmbeddingProjection, Encoder, MaskedLM, Plain, Rope
from ..config_readers.heads import head
from ..config_readers.keys import ACTIVATIONS, Keys
from ..config_readers.layers import head_size, layer_count
from ..weights.weight_map import weight_map
from . import Task, encoders
from .bert import PREDICTIONS, TRUNK, build, layer_norm
from .roberta import LABELS

MODEL_TYPES = ("roformer",)
ARCHITECTURES = encoders("RoFormer")
PREFIX = "roformer."


def config(keys: Keys, task: Task) -> Encoder:
    if keys.get("rotary_value", bool, False):
        raise keys.fail("rotary_value", "false: tfm doesn't rotate values")
    keys.harmless(norm_type=("layer_norm",), use_bias=(True,))  # RoFormerV2 has neither shifts nor biases
    width, heads, size = keys.size("hidden_size"), keys.size("num_attention_heads"), head_size(keys)
    tables = keys.size("embedding_size", None) or width
    activation, norm = keys.choice("hidden_act", ACTIVATIONS, "gelu"), layer_norm(keys)
    masked = Dense(activation, norm=norm, width=tables)
    rope = Rope(10_000.0, size, interleaved=True)
    return build(
        Embedding(
            keys.size("vocab_size"),
            width,
            token_types=keys.size("type_vocab_size", 2),
            projection=EmbeddingProjection(tables, bias=True, late=True) if tables != width else None,
        ),
        Attention(heads, heads, size, rope, qkv_bias=True, out_bias=True, after=norm),
        Plain(keys.size("intermediate_size"), activation, after=norm),
        head(
            keys,
            task,
            masked=MaskedLM(keys.get("tie_word_embeddings", bool, True), masked),
            classify=Dense(activation),
        ),
        layers=layer_count(keys),
        context=keys.size("max_position_embeddings", 1536),
    )


WEIGHTS = (
    TRUNK
    + weight_map("""
    embedding.project <- embeddings_project.weight : transpose
    embedding.project_bias <- embeddings_project.bias
    rotary_waves == encoder.embed_positions.weight
""")
    + PREDICTIONS
    + LABELS
)
