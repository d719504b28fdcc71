"""Phi-3 and Phi-4-mini (Abdin et al. 2024): Llama's decoder with fused matrices, a sliding window and
LongRoPE.

The context here is the original context, within which the short divisors apply (see
`config_readers.rope`).
"""

from functools import partial

from ...config import Decoder
from ..config_readers.decoder import decoder
from ..config_readers.gguf_keys import PARTIAL, Row, fixed
from ..config_readers.keys import Keys
from ..config_readers.layers import read_window
from ..config_readers.rope import rope
from ..weights.weight_map import weight_map
from . import Gguf, Task, decoders

MODEL_TYPES = ("phi3",)
ARCHITECTURES: dict[str, Task] = decoders("Phi3", tasks=("classify", "tag"))

# What its older files call LongRoPE.
ROPE_TYPES = {"default": "default", "longrope": "longrope", "su": "longrope", "yarn": "longrope"}


def config(keys: Keys, task: Task) -> Decoder:
    for key in ("resid_pdrop", "embd_pdrop"):  # of training
        keys.get(key, float, None)
    for key in ("attention_bias", "mlp_bias"):
        if keys.get(key, bool, False):
            raise keys.fail(key, "false: Phi-3 has no biases")
    # Phi-4-mini's, read by no class: every layer attends in full, positions aren't interpolated.
    keys.harmless(full_attn_mod=(1,), interpolate_factor=(1,))
    return decoder(
        keys,
        context=4096,
        attention_bias=False,
        window=read_window(keys),
        eps=1e-5,
        positions=partial(rope, partial=1.0, original=4096, kinds=ROPE_TYPES),
    )


FUSED = weight_map("""
    decoder.layers.{i}.attn.wq, wk, wv <- layers.{i}.self_attn.qkv_proj.weight : transpose
    decoder.layers.{i}.mlp.gate, up <- layers.{i}.mlp.gate_up_proj.weight : transpose
""")
WEIGHTS = FUSED + weight_map("""
    {embedding,head}.table <- {embed_tokens,lm_head}.weight
    decoder.layers.{i}.{attn,mlp}_pre.weight <- layers.{i}.{input,post_attention}_layernorm.weight
    decoder.layers.{i}.attn.wo <- layers.{i}.self_attn.o_proj.weight : transpose
    decoder.layers.{i}.mlp.down <- layers.{i}.mlp.down_proj.weight : transpose
    decoder.norm.weight <- norm.weight
    embedding.table == lm_head.weight
""")


GGUF_WEIGHTS = weight_map("""
    {embedding,head}.table <- {token_embd,output}.weight
    decoder.layers.{i}.{attn,mlp}_pre.weight <- blk.{i}.{attn,ffn}_norm.weight
    decoder.layers.{i}.attn.wq, wk, wv <- blk.{i}.attn_qkv.weight : transpose
    decoder.layers.{i}.attn.wo <- blk.{i}.attn_output.weight : transpose
    decoder.layers.{i}.mlp.gate, up <- blk.{i}.ffn_up.weight : transpose
    decoder.layers.{i}.mlp.down <- blk.{i}.ffn_down.weight : transpose
    decoder.norm.weight <- output_norm.weight
    {short,long}_divisors == rope_factors_{short,long}.weight
""")
WINDOW = "attention.sliding_window"
# Files that say nothing of a window are older than the key, and may have one.
KEYS = {
    **PARTIAL,
    "model_type": fixed("phi3"),
    "sliding_window": Row(lambda keys, _: keys.get(WINDOW, int) or None, WINDOW),
}
GGUF = Gguf("phi3", KEYS, GGUF_WEIGHTS)
