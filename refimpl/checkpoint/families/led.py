"""LED, Longformer's encoder before BART's decoder (Beltagy et al. 2020, §7, arXiv 2004.05150), which
summarizes texts of up to 16,384 tokens.

    encoder   each token sees a window around it (`ops.longformer`): T · window scores, not T · T
    decoder   each token sees all tokens before it, and all outputs of the encoder, without a window

Encoder and decoder have separate tables of learned positions, so each has a separate context
(`EncoderDecoder.encoder_context`). The first token has row 0 of the table; in BART it has row 2. Global
tokens are an argument of transformers' classes, but its `generate` and its heads never pass any. So tfm has
no global tokens here. The paper's authors recommend making the first token global for a summary. The files
contain the projections for global tokens, which tfm doesn't read. transformers pads a text to a multiple of
the widest window, which doesn't change the result.
"""

from dataclasses import replace

from ...config import Attention, EncoderDecoder, Layer
from ...ops.longformer import LongformerAttention
from ..config_readers.keys import Keys
from ..weights.weight_map import weight_map
from . import Task, bart
from .longformer import GLOBAL, windows

MODEL_TYPES = ("led",)
ARCHITECTURES: dict[str, Task] = {
    "LEDForConditionalGeneration": "lm",
    "LEDModel": "lm",
    "LEDForQuestionAnswering": "answer",
}
PREFIX = "led."


def config(keys: Keys, task: Task) -> EncoderDecoder:
    keys.harmless(scale_embedding=(False,))
    contexts = (
        keys.size("max_encoder_position_embeddings", 16384),
        keys.size("max_decoder_position_embeddings", 1024),
    )
    both = bart.pair(keys, norms="after", first=True, offset=0, contexts=contexts)
    encoder = both.encoder.layers

    def within(layer: Layer, window: int) -> Layer:
        a = layer.attention
        assert isinstance(a, Attention)
        return replace(
            layer, attention=LongformerAttention(a.heads, a.head_size, window // 2, **a.norms_around)
        )

    layers = tuple(map(within, encoder, windows(keys, len(encoder))))
    return replace(both, encoder=replace(both.encoder, layers=layers))


_SELF = "encoder.layers.{i}.self_attn.longformer_self_attn."
WEIGHTS = (
    weight_map("""
    encoder.layers.{i}.attn.{wq,wk,wv} <- SELF.{query,key,value}.weight : transpose
    encoder.layers.{i}.attn.{bq,bk,bv} <- SELF.{query,key,value}.bias
    encoder.layers.{i}.attn.wo <- encoder.layers.{i}.self_attn.output.weight : transpose
    encoder.layers.{i}.attn.bo <- encoder.layers.{i}.self_attn.output.bias
""").renamed({"SELF.": _SELF})
    + GLOBAL.renamed({"encoder.layer.{i}.attention.self.": _SELF})
    + bart.WEIGHTS
)
