"""Falcon-H1 (TII 2025): attention and Mamba 2 in parallel in each layer, on the same input.

Fixed multipliers scale the inputs or outputs of most projections. In training, these multipliers were tuned
together with the learning rate of each part.
"""

import math
import sys
from dataclasses import replace

from ...config import LM, Beside, Decoder, Gated, Layer
from ..config_readers.decoder import decoder, map_attention, map_layers
from ..config_readers.gguf_keys import DECODER, fixed, somewhere
from ..config_readers.gguf_states import GGUF_MAMBA2, MAMBA2
from ..config_readers.gguf_weights import UNPERMUTED_QK_WEIGHTS
from ..config_readers.keys import Keys
from ..config_readers.mamba2 import MIXER, mamba_mixer
from ..weights.weight_map import weight_map
from . import Gguf, Task, decoders
from .bamba import NAMES
from .llama import WEIGHTS as LLAMA

MODEL_TYPES = ("falcon_h1",)
ARCHITECTURES: dict[str, Task] = decoders("FalconH1", tasks=())


def config(keys: Keys, task: Task) -> Decoder:
    keys.unused("num_logits_to_keep")  # how many its class gives at once
    keys.harmless(mamba_use_mlp=(True,), mlp_expansion_factor=(int,))  # of the trainer: no class reads them
    base = decoder(
        keys,
        kv_heads=keys.size("num_key_value_heads", 8, null=True),
        context=8192,
        mlp_bias=keys.get("mlp_bias", bool, False),
        eps=1e-5,
    )
    of_keys = keys.positive("key_multiplier", 1.0)
    if of_keys != 1:
        base = map_attention(base, lambda _, a: replace(a, scale=of_keys / math.sqrt(a.head_size)))
    beside, (of_gate, of_down) = _beside(keys), _numbers(keys, "mlp_multipliers", 2)

    def change(_: int, layer: Layer) -> Layer:
        assert isinstance(layer.mlp, Gated)
        mlp = replace(layer.mlp, gate_scale=_or_none(of_gate), scale=_or_none(of_down))
        return replace(layer, mlp=mlp, beside=beside)

    assert isinstance(base.head, LM)
    return replace(
        map_layers(base, change),
        embedding=replace(base.embedding, scale=_or_none(keys.positive("embedding_multiplier", 1.0))),
        head=replace(base.head, scale=_or_none(keys.positive("lm_head_multiplier", 1.0))),
    )


def _beside(keys: Keys) -> Beside:
    expanded = keys.size("mamba_expand", 2) * keys.size("hidden_size")
    width = keys.size("mamba_d_ssm", 1024, null=True) or expanded
    mixer = mamba_mixer(keys, width, keys.positive("rms_norm_eps", 1e-5))
    place = "before_gate" if keys.get("mamba_norm_before_gate", bool, True) else "after_gate"
    multipliers = _numbers(keys, "ssm_multipliers", 5)
    return Beside(
        replace(
            mixer,
            out_bias=keys.get("projectors_bias", bool, False),
            norm=place if keys.get("mamba_rms_norm", bool, False) else None,
            multipliers=() if set(multipliers) == {1.0} else multipliers,
        ),
        scale_in=_or_none(keys.positive("ssm_in_multiplier", 1.0)),
        scale_out=_or_none(keys.positive("ssm_out_multiplier", 1.0)),
        attention_in=_or_none(keys.positive("attention_in_multiplier", 1.0)),
        attention_out=_or_none(keys.positive("attention_out_multiplier", 1.0)),
    )


def _or_none(multiplier: float) -> float | None:
    """Return the multiplier, or None for 1."""
    return None if multiplier == 1 else multiplier


def _numbers(keys: Keys, key: str, count: int) -> tuple[float, ...]:
    """Return the `count` multipliers of a key. Each is 1 by default."""
    numbers = keys.get(key, list, None)
    if numbers is None:
        return (1.0,) * count
    of_kind = len(numbers) == count and all(type(n) in (int, float) for n in numbers)
    if not of_kind or not all(0 < n <= sys.float_info.max for n in numbers):
        raise keys.fail(key, f"{count} numbers greater than 0, and finite")
    return tuple(map(float, numbers))


WEIGHTS = (
    LLAMA.renamed(NAMES).without("decoder.norm.weight")
    + MIXER.renamed({".attn.": ".beside.", ".mixer.": ".mamba."})
    + weight_map("decoder.norm.weight <- final_layernorm.weight")
)


MLP_NORM = "decoder.layers.{i}.mlp_pre.weight"
GGUF_WEIGHTS = (
    UNPERMUTED_QK_WEIGHTS.without(MLP_NORM)
    + GGUF_MAMBA2.renamed({".attn.": ".beside."})
    + weight_map(f"{MLP_NORM} <- blk.{{i}}.ffn_norm(|.weight)")  # the converter's has no ending
)
# The converter multiplies the weights, so no multiplier is left; llama.cpp has the norm of states after the
# gate, whatever the checkpoint says.
KEYS = {
    **DECODER,
    **MAMBA2,
    "model_type": fixed("falcon_h1"),
    "mamba_d_ssm": "ssm.inner_size",
    "mamba_rms_norm": somewhere("ssm_norm.weight"),
    "mamba_norm_before_gate": fixed(False),
}
GGUF = Gguf("falcon-h1", KEYS, GGUF_WEIGHTS)
