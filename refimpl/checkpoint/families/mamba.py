"""Mamba (Gu & Dao 2023): a stack of Mamba layers, without attention, positions and mlps."""

from ...config import LM, Decoder, Embedding, Layer, NoMlp, RMSNorm, Stack
from ...ops.mamba import Mamba
from ..config_readers.gguf_keys import RMS_EPS, Table, fixed
from ..config_readers.gguf_states import ALONE as STACK
from ..config_readers.gguf_states import GGUF_ALONE, GGUF_MAMBA
from ..config_readers.keys import Keys
from ..config_readers.layers import layer_count
from ..config_readers.mamba import ALONE, MIXER, context, convolved, step_rank
from . import Gguf, Task, decoders

MODEL_TYPES = ("mamba",)
ARCHITECTURES: dict[str, Task] = decoders("Mamba", tasks=())
PREFIX = "backbone."


def config(keys: Keys, task: Task) -> Decoder:
    # Of how steps were initialized in training, and of the type of sums.
    keys.unused("time_step_min", "time_step_max", "time_step_floor", "time_step_scale")
    keys.unused("time_step_init_scheme", "rescale_prenorm_residual", "residual_in_fp32")
    convolved(keys)
    width = keys.size("hidden_size", 768)
    expanded = keys.size("expand", 2) * width
    layers, norm = layer_count(keys, default=32), RMSNorm(keys.positive("layer_norm_epsilon", 1e-5))
    mixer = Mamba(
        # The key beats `expand` where both are there.
        width=keys.size("intermediate_size", expanded),
        state_size=keys.size("state_size", 16),
        rank=step_rank(keys, "time_step_rank", width),
        length=keys.size("conv_kernel", 4),
        conv_bias=keys.get("use_conv_bias", bool, True),
        bias=keys.get("use_bias", bool, False),
        pre=norm,
    )
    # The names that its trainer has for the same.
    keys.harmless(d_model=(width,), d_inner=(mixer.width,), n_layer=(layers,), ssm_cfg=({},))
    keys.harmless(rms_norm=(True,), fused_add_norm=(bool,), pad_vocab_size_multiple=(int,))
    return Decoder(
        embedding=Embedding(keys.size("vocab_size", 50_280), width),
        stack=Stack((Layer(mixer, NoMlp()),) * layers, norm),
        head=LM(keys.get("tie_word_embeddings", bool, True)),
        context=context(keys),
    )


WEIGHTS = MIXER + ALONE


def table(keys: Keys) -> Table:
    """Return GGUF's table for Mamba or Falcon Mamba. Falcon Mamba has the same architecture name, and
    norms.
    """
    return FALCON if keys.get("ssm.dt_b_c_rms", bool, False) else MAMBA


MAMBA = {
    **STACK,
    "model_type": fixed("mamba"),
    "intermediate_size": "ssm.inner_size",
    "time_step_rank": "ssm.time_step_rank",
}
FALCON = {**MAMBA, "model_type": fixed("falcon_mamba"), "mixer_rms_eps": RMS_EPS}
GGUF = Gguf("mamba", table, GGUF_MAMBA + GGUF_ALONE)
