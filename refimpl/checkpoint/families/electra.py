"""ELECTRA (Clark et al. 2020): BERT's encoder. The width of the embeddings differs from the width of the
layers.

The generator has the head of a masked language model. The discriminator has one logit per token, which says
whether the token was replaced. Here this logit is the second of two labels of each token, and the first
label's logit is zero.
"""

from ...config import Dense, Embedding, EmbeddingProjection, Encoder, Learned, MaskedLM
from ..config_readers.heads import head, labels
from ..config_readers.keys import ACTIVATIONS, Keys
from ..weights.weight_map import weight_map
from . import Task, encoders
from .bert import TRUNK, encoder, layer_norm
from .roberta import LABELS

MODEL_TYPES = ("electra",)
DISCRIMINATOR = "ElectraForPreTraining"
ARCHITECTURES: dict[str, Task] = {**encoders("Electra"), DISCRIMINATOR: "tag"}
PREFIX = "electra."


def config(keys: Keys, task: Task) -> Encoder:
    # Of the head for multiple choice.
    keys.unused("summary_type", "summary_use_proj", "summary_activation", "summary_last_dropout")
    width, tables = keys.size("hidden_size"), keys.size("embedding_size", 128)
    discriminates = keys.get("architectures", list, None) == [DISCRIMINATOR]
    if discriminates and labels(keys) != 2:
        raise keys.fail("id2label", "two labels: original tokens, and replaced tokens")
    inner = EmbeddingProjection(tables, bias=True, late=True) if tables != width else None
    masked = Dense("gelu", norm=layer_norm(keys), width=tables)
    return encoder(
        keys,
        Embedding(
            keys.size("vocab_size"), width, token_types=keys.size("type_vocab_size", 2), projection=inner
        ),
        Learned(keys.size("max_position_embeddings", 512)),
        head(
            keys,
            task,
            masked=MaskedLM(keys.get("tie_word_embeddings", bool, True), masked),
            classify=Dense("gelu"),
            token=Dense(keys.choice("hidden_act", ACTIVATIONS, "gelu")) if discriminates else None,
        ),
    )


WEIGHTS = (
    TRUNK
    + weight_map("""
    embedding.project <- embeddings_project.weight : transpose
    embedding.project_bias <- embeddings_project.bias
    for MaskedLM:
    head.dense.weight <- generator_predictions.dense.weight : transpose
    head.dense.bias <- generator_predictions.dense.bias
    head.norm.{weight,bias} <- generator_predictions.LayerNorm.{weight,bias}
    head.{table,bias} <- generator_lm_head.{weight,bias}
    embedding.table == generator_lm_head.weight
    for Tag:
    head.dense.weight <- discriminator_predictions.dense.weight : transpose
    head.dense.bias <- discriminator_predictions.dense.bias
    head.out.weight <- discriminator_predictions.dense_prediction.weight : zero_first transpose
    head.out.bias <- discriminator_predictions.dense_prediction.bias : zero_first
""")
    + LABELS
)
