"""EuroBERT (Boizard et al. 2025): Llama's layers, in which tokens see both directions."""

from ...config import Dense, Encoder, MaskedLM
from ..config_readers.decoder import decoder
from ..config_readers.gguf_keys import DECODER, fixed
from ..config_readers.gguf_weights import UNPERMUTED_QK_WEIGHTS
from ..config_readers.heads import head
from ..config_readers.keys import Keys
from ..weights.weight_map import weight_map
from . import Gguf, Task, encoders
from .llama import WEIGHTS as LLAMA

MODEL_TYPES = ("eurobert",)
ARCHITECTURES = encoders("EuroBert", without=("answer",))


def config(keys: Keys, task: Task) -> Encoder:
    keys.unused("pretraining_tp", "mask_token_id", "hidden_dropout")
    # Of the repositories' own code, which has transformers' poolings under another name.
    keys.harmless(**dict.fromkeys(("bos_token", "eos_token", "pad_token", "mask_token"), (str,)))
    pooling = keys.spelled("classifier_pooling", "clf_pooling")
    mlp_bias = keys.get("mlp_bias", bool, False)
    base = decoder(keys, context=8192, mlp_bias=mlp_bias, eps=1e-5)
    read = head(
        keys,
        task,
        masked=MaskedLM(base.head.tied, bias=mlp_bias),
        classify=Dense("gelu"),
        pooling=keys.choice(pooling, {"bos": "first", "mean": "mean", "late": "mean"}, "late"),
        late=keys.get(pooling, str, "late") == "late",
    )
    return Encoder(base.embedding, base.stack, read, base.context)


WEIGHTS = LLAMA.without("embedding.table", "head.table").renamed({"decoder.": "encoder."}) + weight_map("""
    embedding.table <- embed_tokens.weight
    nothing <- lm_head.{weight,bias}
    for MaskedLM:
    head.{table,bias} <- lm_head.{weight,bias}
    embedding.table == lm_head.weight
    for Classify:
    head.dense.weight <- dense.weight : transpose
    head.dense.bias <- dense.bias
    for Classify, Tag:
    head.out.weight <- classifier.weight : transpose
    head.out.bias <- classifier.bias
""")


GGUF = Gguf("eurobert", {**DECODER, "model_type": fixed("eurobert")}, UNPERMUTED_QK_WEIGHTS, task="pool")
