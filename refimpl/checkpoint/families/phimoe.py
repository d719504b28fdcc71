"""Phi-3.5-MoE (Abdin et al. 2024): Mixtral's form with LayerNorms and LongRoPE. A sparse mixer chooses two
experts for each token, one after the other.

The context here is the original context, within which the short divisors apply: see `config_readers.rope`.
tfm doesn't read GGUF files of this model. They state neither the jitter nor the magnitudes of rotations, and
llama.cpp computes RMSNorms and a softmax over the two experts.
"""

from dataclasses import replace
from functools import partial

from ...config import LM, Decoder, Gated, LayerNorm, MoE, SparseMixer
from ..config_readers.decoder import decoder, with_experts
from ..config_readers.keys import Keys
from ..config_readers.layers import read_window
from ..config_readers.rope import ORIGINAL, rope
from ..weights.weight_map import weight_map
from . import Task, decoders
from .mixtral import WEIGHTS as MIXTRAL

MODEL_TYPES = ("phimoe",)
ARCHITECTURES: dict[str, Task] = decoders("PhiMoE", tasks=()) | decoders("Phimoe", tasks=("classify",))
MAGNITUDES = ("short_mscale", "long_mscale")
ROPE_TYPES = {"default": "default", "longrope": "longrope"}


def config(keys: Keys, task: Task) -> Decoder:
    # Of training.
    keys.get("output_router_logits", bool, False)
    for key in ("router_aux_loss_coef", "input_jitter_noise", "hidden_dropout"):
        keys.get(key, float, None)
    keys.restated("num_experts_per_tok", 2, "2: this model's router always chooses two experts")
    bias = keys.get("attention_bias", bool, False)
    base = decoder(
        _with_magnitude(keys),
        kv_heads=keys.size("num_key_value_heads", 8, null=True),
        context=131_072,
        attention_bias=bias,
        window=read_window(keys),
        theta=1_000_000.0,
        norm=LayerNorm(keys.positive("rms_norm_eps", 1e-5)),
        positions=partial(rope, kinds=ROPE_TYPES),
    )
    experts, mixer = (
        keys.size("num_local_experts", 16),
        SparseMixer(keys.positive("router_jitter_noise", 0.01)),
    )

    def mixture(mlp: Gated) -> MoE:
        return MoE(experts, 2, mlp.width, mlp.activation, mixer, renormalize=False, **mlp.norms_around)

    head = LM(base.head.tied, bias=keys.get("lm_head_bias", bool, False))
    return replace(with_experts(base, mixture), head=head)


def _with_magnitude(keys: Keys) -> Keys:
    """Rename the key for the rotary scaling's magnitude within the trained context to the name that other
    models use.
    """
    values, outer = dict(keys.values), keys.size(ORIGINAL, None)
    for name in {"rope_scaling", "rope_parameters"} & values.keys():
        stated = keys.get(name, dict, None) or {}
        inner = Keys(stated, f"{keys.where}: {name}")
        rotary = {key: value for key, value in stated.items() if key not in MAGNITUDES}
        if inner.size(ORIGINAL, outer) != outer and outer is not None:
            raise inner.fail(ORIGINAL, f"the same as {ORIGINAL} at the top level ({outer})")
        if stated.get("rope_type", stated.get("type", "default")) != "default":
            inner.positive("long_mscale")  # of texts beyond the trained context
            rotary["attention_factor"] = inner.positive("short_mscale")
        values[name] = rotary
    return keys.replaced(values)


WEIGHTS = MIXTRAL + weight_map("""
    decoder.layers.{i}.{attn,mlp}_pre.bias <- layers.{i}.{input,post_attention}_layernorm.bias
    decoder.norm.bias <- norm.bias
    head.bias <- lm_head.bias
""")
