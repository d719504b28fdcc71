"""XLNet (Yang et al. 2019, arXiv 1906.08237): an encoder with relative positions and segments.

XLNet was trained to predict tokens in any order. For this it has a second stream of vectors, which contain a
position but not its token. tfm doesn't support this stream (`XLNetLMHeadModel`). The stream predicts the
positions that the call names, with a pass over the whole text for each, so no cache helps. tfm also doesn't
support the search over pairs of ends in `XLNetForQuestionAnswering`. The memory of earlier segments is empty
if a text is read at once, whatever `mem_len` and `reuse_len` say. No table limits the length. The published
models were trained on 512 tokens. The context here is 4,096 tokens, because the memory for scores grows with
the square of the length.
"""

from ...config import Dense, Embedding, Encoder, Layer, MaskedLM, Plain, Pooling, ReadingHead, Stack
from ...ops.xlnet import XLNetAttention
from ..config_readers.heads import head
from ..config_readers.keys import ACTIVATIONS, Keys
from ..config_readers.layers import head_size, layer_count
from ..weights.weight_map import weight_map
from . import Task
from .bert import layer_norm

MODEL_TYPES = ("xlnet",)
ARCHITECTURES: dict[str, Task] = {
    "XLNetModel": "pool",
    "XLNetForSequenceClassification": "classify",
    "XLNetForTokenClassification": "tag",
    "XLNetForQuestionAnsweringSimple": "answer",
}
UNREAD_ARCHITECTURES = {
    "XLNetLMHeadModel": "predicts tokens at positions that each call names, not the next token, so tfm "
    "doesn't support it",
    "XLNetForQuestionAnswering": "finds answers by a beam search, which tfm doesn't support: use "
    "XLNetForQuestionAnsweringSimple",
}
PREFIX = "transformer."

CONTEXT = 4096
# The tokenizer's segments: two texts, the last token's own, and that of padding.
SEGMENTS = 4
# transformers takes the last vector for "cls_index" too, where no index is given.
POOLINGS: dict[str, Pooling] = {"last": "last", "first": "first", "mean": "mean", "cls_index": "last"}


def config(keys: Keys, task: Task) -> Encoder:
    keys.choice("attn_type", {"bi": None}, "bi")
    # Its second half of a batch reads distances backwards, and each token would see itself alone.
    keys.harmless(bi_data=(False,), same_length=(False,))
    keys.unused("mem_len", "reuse_len", "use_mems_eval", "use_mems_train", "untie_r", "n_token")
    keys.unused("start_n_top", "end_n_top", "summary_last_dropout", "summary_first_dropout", "dropout")
    keys.unused("tie_word_embeddings")  # of the head for tokens
    named, counted = keys.spelled("d_model", "hidden_size"), keys.spelled("n_head", "num_attention_heads")
    width, heads, norm = keys.size(named), keys.size(counted), layer_norm(keys)
    size = head_size(keys, named, counted)
    keys.restated("d_head", size, f"{named} / {counted} ({size})")
    clamp = keys.get("clamp_len", int, -1)
    attention = XLNetAttention(heads, size, clamp if clamp > 0 else None, after=norm)
    activation = keys.choice("ff_activation", ACTIVATIONS, "gelu")
    layer = Layer(attention, Plain(keys.size("d_inner"), activation, after=norm))
    layers = (layer,) * layer_count(keys, keys.spelled("n_layer", "num_hidden_layers"))
    embedding = Embedding(keys.size("vocab_size"), width, token_types=SEGMENTS)
    return Encoder(embedding, Stack(layers, None), _head(keys, task), CONTEXT)


def _head(keys: Keys, task: Task) -> ReadingHead:
    """Return the head for a task. The labels of a text come after a summary: one vector, a dense layer, an
    activation.
    """
    if task != "classify":
        keys.unused("summary_type", "summary_use_proj", "summary_activation", "summary_proj_to_labels")
        return head(keys, task, masked=MaskedLM(True), classify=None)
    keys.harmless(summary_proj_to_labels=(False,))
    pooling = keys.choice("summary_type", POOLINGS, "last")
    mapped = keys.get("summary_use_proj", bool, True)
    function = keys.get("summary_activation", str, "tanh", null=True)
    kind = keys.choice("summary_activation", ACTIVATIONS, "tanh") if function else None
    if not mapped and kind is not None:
        raise keys.fail("summary_use_proj", "true if summary_activation isn't null")
    dense = Dense(kind) if mapped else None
    return head(keys, task, masked=MaskedLM(True), classify=dense, pooling=pooling)


WEIGHTS = weight_map("""
    nothing <- mask_emb
    nothing <- lm_loss.{weight,bias}
    embedding.table <- word_embedding.weight
    encoder.layers.{i}.attn.{wq,wk,wv,wk_pos} <- layer.{i}.rel_attn.{q,k,v,r} : merge_heads
    encoder.layers.{i}.attn.wo <- layer.{i}.rel_attn.o : merge_heads transpose
    encoder.layers.{i}.attn.{content,position}_bias <- layer.{i}.rel_attn.r_{w,r}_bias : merge_heads
    encoder.layers.{i}.attn.segment_bias <- layer.{i}.rel_attn.r_s_bias : merge_heads
    encoder.layers.{i}.attn.segments <- layer.{i}.rel_attn.seg_embed : merge_heads
    encoder.layers.{i}.attn_after.{weight,bias} <- layer.{i}.rel_attn.layer_norm.{weight,bias}
    encoder.layers.{i}.mlp.{up,down} <- layer.{i}.ff.layer_{1,2}.weight : transpose
    encoder.layers.{i}.mlp.{bup,bdown} <- layer.{i}.ff.layer_{1,2}.bias
    encoder.layers.{i}.mlp_after.{weight,bias} <- layer.{i}.ff.layer_norm.{weight,bias}
    for Classify:
    head.dense.weight <- sequence_summary.summary.weight : transpose
    head.dense.bias <- sequence_summary.summary.bias
    head.out.weight <- logits_proj.weight : transpose
    head.out.bias <- logits_proj.bias
    for Tag:
    head.out.weight <- classifier.weight : transpose
    head.out.bias <- classifier.bias
    for QuestionAnswering:
    head.out.weight <- qa_outputs.weight : transpose
    head.out.bias <- qa_outputs.bias
""")
