"""InternLM 2 and 2.5 (Cai et al. 2024): Llama's decoder under other names, with fused queries, keys and
values.

transformers has no class for InternLM 2. Its keys and names come from the code that the checkpoints include.
tfm never runs this code.
"""

from functools import partial

from ...config import Decoder
from ..config_readers.decoder import decoder
from ..config_readers.gguf_keys import DECODER, fixed
from ..config_readers.gguf_weights import PERMUTED_QK_WEIGHTS
from ..config_readers.keys import Keys
from ..config_readers.layers import head_size
from ..config_readers.rope import rope
from ..weights.weight_map import weight_map
from . import Gguf, Task, decoders

MODEL_TYPES = ("internlm2",)
ARCHITECTURES: dict[str, Task] = decoders("InternLM2")


def config(keys: Keys, task: Task) -> Decoder:
    # Several slices of one product, summed: the same mathematics.
    keys.get("pretraining_tp", int, 1, null=True)
    keys.restated("head_dim", head_size(keys), "hidden_size / num_attention_heads")
    return decoder(
        keys,
        context=2048,
        attention_bias=keys.get("bias", bool, True),
        positions=partial(rope, kinds={kind: kind for kind in ("default", "linear", "dynamic")}),
    )


WEIGHTS = weight_map("""
    {embedding,head}.table <- {tok_embeddings,output}.weight
    decoder.layers.{i}.{attn,mlp}_pre.weight <- layers.{i}.{attention,ffn}_norm.weight
    decoder.layers.{i}.attn.wq, wk, wv <- layers.{i}.attention.wqkv.weight : transpose grouped
    decoder.layers.{i}.attn.bq, bk, bv <- layers.{i}.attention.wqkv.bias : grouped
    decoder.layers.{i}.attn.wo <- layers.{i}.attention.wo.weight : transpose
    decoder.layers.{i}.attn.bo <- layers.{i}.attention.wo.bias
    decoder.layers.{i}.mlp.{gate,up,down} <- layers.{i}.feed_forward.{w1,w3,w2}.weight : transpose
    decoder.norm.weight <- norm.weight
    embedding.table == output.weight
    inv_freq == layers.{i}.attention.rotary_emb.inv_freq
    for Classify, Tag, QuestionAnswering, Pool:
    nothing <- output.weight
""")

GGUF = Gguf("internlm2", {**DECODER, "model_type": fixed("internlm2")}, PERMUTED_QK_WEIGHTS)
