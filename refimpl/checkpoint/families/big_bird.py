"""BigBird (Zaheer et al. 2020): BERT's encoder with block-sparse attention in long texts (`ops.bigbird`).

A text of up to (5 + 2 · num_random_blocks) · block_size tokens (704 in the published models) has full
attention. In transformers, a model that has once read such a text keeps full attention for all later texts,
and all rows of a batch have the same kind of attention. Here each text has the result that a newly loaded
model gives for the text by itself. The head for answers has an mlp of its own. transformers' class subtracts
1e6 from the logits of the question's tokens. Here these logits stay unchanged, because answers are searched
only in the context.
"""

from dataclasses import replace

from ...config import (
    Attention,
    BigBirdBlocks,
    Dense,
    Embedding,
    Encoder,
    FullAttention,
    Learned,
    Mask,
    MaskedLM,
    Plain,
    QuestionAnswering,
)
from ..config_readers.heads import head
from ..config_readers.keys import ACTIVATIONS, Keys
from ..config_readers.layers import head_size, layer_count
from ..weights.weight_map import weight_map
from . import Task, encoders
from .bert import PREDICTIONS, TRUNK, build, layer_norm

MODEL_TYPES = ("big_bird",)
ARCHITECTURES: dict[str, Task] = {
    **encoders("BigBird"),
    "BigBirdForPreTraining": "masked",
}
PREFIX = "bert."


def config(keys: Keys, task: Task) -> Encoder:
    keys.choice("position_embedding_type", {"absolute": None}, "absolute")
    width, norm = keys.size("hidden_size"), layer_norm(keys)
    context = keys.size("max_position_embeddings", 4096)
    heads, size = keys.size("num_attention_heads"), head_size(keys)
    kind, bias = keys.choice("hidden_act", ACTIVATIONS, "gelu_new"), keys.get("use_bias", bool, True)
    tied = keys.get("tie_word_embeddings", bool, True)
    plain = Plain(keys.size("intermediate_size"), kind, after=norm)
    own = head(
        keys,
        task,
        masked=MaskedLM(tied, Dense(kind, norm=norm)),
        classify=Dense(kind),
        pooler=Dense("tanh"),
    )
    if isinstance(own, QuestionAnswering):
        own = replace(own, mlp=plain)
    return build(
        Embedding(
            keys.size("vocab_size"),
            width,
            width**0.5 if keys.get("rescale_embeddings", bool, False) else None,
            keys.size("type_vocab_size", 2),
        ),
        Attention(heads, heads, size, mask=_mask(keys, context), qkv_bias=bias, out_bias=True, after=norm),
        plain,
        own,
        layers=layer_count(keys),
        context=context,
        positions=Learned(context),
    )


def _mask(keys: Keys, context: int) -> Mask:
    """Return the block-sparse mask, or full attention if no text can be long enough for blocks."""
    blocks = BigBirdBlocks(keys.size("block_size", 64), keys.get("num_random_blocks", int, 3))
    if not 0 <= blocks.random_blocks < 2**24:
        raise keys.fail("num_random_blocks", f"0 to {2**24 - 1}")
    sparse = keys.choice("attention_type", {"original_full": False, "block_sparse": True}, "block_sparse")
    return blocks if sparse and blocks.longest_whole < context else FullAttention()


WEIGHTS = (
    TRUNK
    + PREDICTIONS
    + weight_map("""
    nothing <- pooler.{weight,bias}
    nothing <- cls.seq_relationship.{weight,bias}
    for Pool:
    head.dense.weight <- pooler.weight : transpose
    head.dense.bias <- pooler.bias
    for Classify:
    head.{dense,out}.weight <- classifier.{dense,out_proj}.weight : transpose
    head.{dense,out}.bias <- classifier.{dense,out_proj}.bias
    for Tag:
    head.out.weight <- classifier.weight : transpose
    head.out.bias <- classifier.bias
    for QuestionAnswering:
    head.mlp.{up,down} <- qa_classifier.{intermediate,output}.dense.weight : transpose
    head.mlp.{bup,bdown} <- qa_classifier.{intermediate,output}.dense.bias
    head.mlp_after.{weight,bias} <- qa_classifier.output.LayerNorm.{weight,bias}
    head.out.weight <- qa_classifier.qa_outputs.weight : transpose
    head.out.bias <- qa_classifier.qa_outputs.bias
""")
)
