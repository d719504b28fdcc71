"""Longformer (Beltagy et al. 2020): RoBERTa's encoder with attention within windows, and global tokens.

The head decides which tokens are global, as in transformers: the first token for labels of a text, the
question's tokens for an answer, otherwise none. In transformers a mask can make other tokens global; tfm
doesn't support this. For answers, transformers requires three separators, as in
`<s>question</s></s>text</s>`; tfm uses only the first one.
"""

from ...config import (
    Dense,
    Embedding,
    Encoder,
    FirstToken,
    GlobalTokens,
    Layer,
    Learned,
    Plain,
    QuestionTokens,
    Stack,
)
from ...ops.longformer import LongformerAttention
from ..config_readers.keys import ACTIVATIONS, Keys
from ..config_readers.layers import head_size, layer_count
from ..weights.weight_map import weight_map
from . import Task, encoders
from .bert import TRUNK, bert_head, layer_norm
from .roberta import HEADS

MODEL_TYPES = ("longformer",)
ARCHITECTURES = encoders("Longformer")
PREFIX = "longformer."


def config(keys: Keys, task: Task) -> Encoder:
    keys.choice("attention_mode", {"longformer": None}, "longformer")
    keys.choice("position_embedding_type", {"absolute": None}, "absolute")
    keys.harmless(ignore_attention_mask=(False,))
    keys.unused("onnx_export")
    vocabulary, width, norm = keys.size("vocab_size"), keys.size("hidden_size"), layer_norm(keys)
    heads, size = keys.size("num_attention_heads"), head_size(keys)
    kind = keys.choice("hidden_act", ACTIVATIONS, "gelu")
    offset, rows = keys.get("pad_token_id", int, 1) + 1, keys.size("max_position_embeddings", 512)
    if not 0 < offset < rows:
        raise keys.fail("pad_token_id", f"0 to {rows - 2}, because positions begin after it")
    spread: GlobalTokens | None = FirstToken() if task == "classify" else None
    if task == "answer":
        separator = keys.get("sep_token_id", int, 2)
        if not 0 <= separator < vocabulary:
            raise keys.fail("sep_token_id", f"0 to {vocabulary - 1}")
        spread = QuestionTokens(separator)
    layers = tuple(
        Layer(
            LongformerAttention(heads, size, window // 2, spread, after=norm),
            Plain(keys.size("intermediate_size"), kind, after=norm),
        )
        for window in windows(keys, layer_count(keys))
    )
    positions = Learned(rows - offset, offset)
    embedding = Embedding(vocabulary, width, token_types=keys.size("type_vocab_size", 2))
    head = bert_head(keys, task, Dense("gelu", norm=norm))
    return Encoder(embedding, Stack(layers, None, positions, norm), head, positions.size)


def windows(keys: Keys, layers: int) -> list[int]:
    """Return the size of each layer's window. Sizes are even: half of a window is on each side of a token."""
    if isinstance(keys.values.get("attention_window"), list):
        stated = keys.get("attention_window", list)
    else:
        stated = [keys.size("attention_window", 512)] * layers
    even = all(type(window) is int and window > 0 and window % 2 == 0 for window in stated)
    if len(stated) != layers or not even:
        raise keys.fail("attention_window", f"an even number above 0, or a list of {layers} such numbers")
    return stated


# Maps of global queries, in heads that have such; others bring theirs for nothing.
GLOBAL = weight_map("""
    encoder.layers.{i}.attn.wq_global <- encoder.layer.{i}.attention.self.query_global.weight : transpose
    encoder.layers.{i}.attn.wk_global <- encoder.layer.{i}.attention.self.key_global.weight : transpose
    encoder.layers.{i}.attn.wv_global <- encoder.layer.{i}.attention.self.value_global.weight : transpose
    encoder.layers.{i}.attn.{bq,bk}_global <- encoder.layer.{i}.attention.self.{query,key}_global.bias
    encoder.layers.{i}.attn.bv_global <- encoder.layer.{i}.attention.self.value_global.bias
    nothing <- encoder.layer.{i}.attention.self.{query,key,value}_global.weight
    nothing <- encoder.layer.{i}.attention.self.{query,key,value}_global.bias
""")
WEIGHTS = TRUNK + GLOBAL + HEADS
