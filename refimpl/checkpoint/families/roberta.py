"""RoBERTa and XLM-RoBERTa (Liu et al. 2019): BERT's encoder, with positions that begin after the padding's
id.

A padding token within a text has a position here, like any other token. In transformers such a token has
none.
"""

from ...config import Dense, Embedding, Encoder, Learned
from ..config_readers.keys import Keys
from ..weights.weight_map import weight_map
from . import Task, encoders
from .bert import ENCODER, TRUNK, bert_head, encoder, layer_norm

MODEL_TYPES = ("roberta", "xlm-roberta")
ARCHITECTURES = encoders("Roberta", "XLMRoberta")
PREFIX = "roberta."
GGUF = ENCODER


def config(keys: Keys, task: Task) -> Encoder:
    if "lora_adaptations" in keys:  # of jina-embeddings-v3
        raise keys.fail(
            "lora_adaptations",
            "absent: tfm doesn't read adapters of several tasks in one file; use "
            "jinaai/jina-embeddings-v3-hf",
        )
    masked = Dense("gelu", norm=layer_norm(keys))
    return encoder(
        keys,
        Embedding(
            keys.size("vocab_size"), keys.size("hidden_size"), token_types=keys.size("type_vocab_size", 2)
        ),
        after_padding(keys, keys.size("max_position_embeddings", 512)),
        bert_head(keys, task, masked),
    )


def after_padding(keys: Keys, rows: int) -> Learned:
    """Return learned positions. Their first row comes after the row of the padding's id."""
    offset = keys.get("pad_token_id", int, 1) + 1
    if not 0 < offset < rows:
        raise keys.fail("pad_token_id", f"0 to {rows - 2}, because positions begin after it")
    return Learned(rows - offset, offset)


LABELS = weight_map("""
    for Classify:
    head.{dense,out}.weight <- classifier.{dense,out_proj}.weight : transpose
    head.{dense,out}.bias <- classifier.{dense,out_proj}.bias
    for Tag:
    head.out.weight <- classifier.weight : transpose
    head.out.bias <- classifier.bias
    for QuestionAnswering:
    head.out.weight <- qa_outputs.weight : transpose
    head.out.bias <- qa_outputs.bias
""")
HEADS = (
    weight_map("""
    nothing <- pooler.dense.{weight,bias}
    for Pool:
    head.dense.weight <- pooler.dense.weight : transpose
    head.dense.bias <- pooler.dense.bias
    for MaskedLM:
    head.dense.weight <- lm_head.dense.weight : transpose
    head.dense.bias <- lm_head.dense.bias
    head.norm.{weight,bias} <- lm_head.layer_norm.{weight,bias}
    head.table <- lm_head.decoder.weight
    embedding.table == lm_head.decoder.weight
    head.bias <- lm_head.(decoder.bias|bias)
    head.bias == lm_head.bias
""")
    + LABELS
)
WEIGHTS = TRUNK + HEADS
