"""ModernBERT's decoder (Weller et al. 2025, Ettin): ModernBERT's layers, in which each token sees the tokens
before it.

A window contains half of its stated size in earlier tokens. A dense layer and a norm come before the output
table.
"""

from dataclasses import replace

from ...config import LM, Classify, Config, Decoder, Encoder, Window
from ..config_readers.heads import reading
from ..config_readers.keys import Keys
from ..weights.weight_map import weight_map
from . import Task, decoders
from .modernbert import TRUNK, read_layers

MODEL_TYPES = ("modernbert-decoder",)
ARCHITECTURES: dict[str, Task] = decoders("ModernBertDecoder", tasks=("classify",))


def config(keys: Keys, task: Task) -> Config:
    keys.unused("classifier_pooling")  # the last token's vector counts, whatever it says
    # As transformers writes it: it follows from the other.
    keys.harmless(causal_mask=(True,), sliding_window=(keys.size("local_attention", 128) // 2,))

    def window(size: int) -> Window:
        if size < 2:
            raise keys.fail("local_attention", "at least 2 if a layer has a window")
        return Window(size // 2)

    embedding, stack, dense, context = read_layers(keys, window)
    head = LM(
        keys.get("tie_word_embeddings", bool, True), bias=keys.get("decoder_bias", bool, True), dense=dense
    )
    base = Decoder(embedding, stack, head, context)
    if task != "classify":
        return base
    encoder = reading(base, keys, task)
    assert isinstance(encoder, Encoder)
    assert isinstance(encoder.head, Classify)
    return replace(encoder, head=replace(encoder.head, dense=dense, bias=dense.bias))


_QKV = "decoder.layers.{i}.attn.wq", "decoder.layers.{i}.attn.bq"
WEIGHTS = TRUNK.renamed({"encoder.": "decoder."}).without(*_QKV) + weight_map("""
    decoder.layers.{i}.attn.{wq,wk,wv} <- layers.{i}.attn.{q,k,v}_proj.weight : transpose
    decoder.layers.{i}.attn.{bq,bk,bv} <- layers.{i}.attn.{q,k,v}_proj.bias
    for LM:
    head.dense.weight <- lm_head.dense.weight : transpose
    head.dense.bias <- lm_head.dense.bias
    head.norm.{weight,bias} <- lm_head.norm.{weight,bias}
    head.{table,bias} <- decoder.{weight,bias}
    embedding.table == decoder.weight
    for Classify:
    head.dense.weight <- head.dense.weight : transpose
    head.dense.bias <- head.dense.bias
    head.norm.{weight,bias} <- head.norm.{weight,bias}
""")
