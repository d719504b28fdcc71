"""Mamba 2 (Dao & Gu 2024): a stack of Mamba 2 layers, without attention, positions and mlps."""

from ...config import LM, Decoder, Embedding, Layer, NoMlp, RMSNorm, Stack
from ...ops.mamba2 import Mamba2
from ..config_readers.gguf_keys import fixed, quotient
from ..config_readers.gguf_states import ALONE as STACK
from ..config_readers.gguf_states import GGUF_ALONE, GGUF_MAMBA2
from ..config_readers.keys import Keys
from ..config_readers.layers import layer_count
from ..config_readers.mamba import ALONE, context
from ..config_readers.mamba2 import MIXER, check_steps
from . import Gguf, Task, decoders

MODEL_TYPES = ("mamba2",)
ARCHITECTURES: dict[str, Task] = decoders("Mamba2", tasks=())
PREFIX = "backbone."


def config(keys: Keys, task: Task) -> Decoder:
    check_steps(keys)
    keys.unused("time_step_rank", "rescale_prenorm_residual", "residual_in_fp32")
    # Of the trainer's code: no class of transformers reads these, and its norm follows the gate.
    keys.harmless(norm_before_gate=(bool,), rms_norm=(True,), time_step_scale=(float,))
    keys.harmless(time_step_init_scheme=(str,))
    keys.choice("hidden_act", {"silu": "silu", "swish": "silu"}, "silu")
    width, heads = keys.size("hidden_size", 4096), keys.size("num_heads", 128)
    size, expand = keys.size("head_dim", 64), keys.size("expand", 2)
    if width * expand != heads * size:
        raise keys.fail("expand", f"num_heads * head_dim / hidden_size ({heads} * {size} / {width})")
    keys.harmless(intermediate_size=(heads * size,))
    norm = RMSNorm(keys.positive("layer_norm_epsilon", 1e-5))
    bias = keys.get("use_bias", bool, False)
    mixer = Mamba2(
        heads=heads,
        groups=keys.size("n_groups", 8),
        state_size=keys.size("state_size", 128),
        head_size=size,
        length=keys.size("conv_kernel", 4),
        conv_bias=keys.get("use_conv_bias", bool, True),
        bias=bias,
        out_bias=bias,
        eps=norm.eps,
        pre=norm,
    )
    return Decoder(
        embedding=Embedding(keys.size("vocab_size", 32_768), width),
        stack=Stack((Layer(mixer, NoMlp()),) * layer_count(keys, default=64), norm),
        head=LM(keys.get("tie_word_embeddings", bool, False)),
        context=context(keys),
    )


WEIGHTS = MIXER + ALONE


KEYS = {
    **STACK,
    "model_type": fixed("mamba2"),
    "num_heads": "ssm.time_step_rank",
    "head_dim": quotient("ssm.inner_size", "ssm.time_step_rank"),
    "expand": quotient("ssm.inner_size", "embedding_length"),
    "n_groups": "ssm.group_count",
}
GGUF = Gguf("mamba2", KEYS, GGUF_MAMBA2 + GGUF_ALONE)
