"""MiniMax-Text-01 (MiniMax 2025, arXiv 2501.08313), in transformers' form: Mixtral's decoder with lightning
attention in most layers. The residual stream is a weighted sum of the norms' outputs and the sublayers'
outputs.

If `rotary_dim` is stated, only that part of a head is rotated, as in the publisher's code. transformers'
class still rotates whole heads.

In GGUF the architecture is `minimax-01`, one factor stands for all α, and all β are 1.
"""

from collections.abc import Mapping
from dataclasses import replace

from ...config import Attention, Decoder, Layer, MoE, RMSNorm
from ...ops.lightning import Lightning
from ..config_readers.decoder import map_layers
from ..config_readers.gguf_keys import PARTIAL, RECURRENT, always, experts, fixed, recurrent_layers, required
from ..config_readers.gguf_weights import EXPERTS, UNPERMUTED_QK_WEIGHTS
from ..config_readers.keys import Keys
from ..config_readers.layers import stated_types
from ..weights.weight_map import weight_map
from . import Gguf, Task, decoders, mixtral
from .minimax_m2 import rotary_part

MODEL_TYPES = ("minimax",)
ARCHITECTURES: dict[str, Task] = decoders("MiniMax")
KINDS = ("full_attention", "linear_attention")


def config(keys: Keys, task: Task) -> Decoder:
    keys.size("block_size", 256)  # how it is computed
    # What the publisher's own code could do otherwise.
    keys.harmless(postnorm=(True,), shared_intermediate_size=(0,), shared_moe_mode=(str,))
    base = mixtral.config(keys, task, positions=rotary_part)
    types = stated_types(keys, KINDS) or [KINDS[i % 2] for i in range(len(base.layers))]
    shares = {
        kind: _factors(keys, name)
        for kind, name in zip((*KINDS, "mlp"), ("full_attn", "linear_attn", "mlp"), strict=True)
    }
    return _weighed(map_layers(base, lambda i, layer: _mixed(i, layer, types)), types, shares)


def _mixed(i: int, layer: Layer, types: list[str]) -> Layer:
    """Return the layer, with lightning attention if its type says so. Later layers forget more slowly."""
    a = layer.attention
    assert isinstance(a, Attention)
    assert isinstance(layer.mlp, MoE)
    assert isinstance(layer.mlp.activation, str)
    if types[i] == "full_attention":
        return layer
    speed = 1 - i / (len(types) - 1 + 1e-5) + 1e-5
    return replace(
        layer, attention=Lightning(a.heads, a.head_size, speed, layer.mlp.activation, **a.norms_around)
    )


def _weighed(base: Decoder, types: list[str], shares: Mapping[str, tuple[float, float]]) -> Decoder:
    """Return the decoder in which a sublayer gives α n + β y, from its norm's output n and its own output y.

    A norm reads each of these sums. So the sum may be n + (β/α) y, if the norm's eps is divided by α².
    """
    before, of_mlp = shares["mlp"]
    mlp = of_mlp / before

    def normed(norm: RMSNorm, alpha: float) -> RMSNorm:
        return RMSNorm(norm.eps / alpha**2)

    def change(i: int, layer: Layer) -> Layer:
        (alpha, beta), feed = shares[types[i]], layer.mlp
        assert isinstance(feed, MoE)
        assert isinstance(feed.pre, RMSNorm)
        scale = beta / alpha
        first = feed.pre if i == 0 else normed(feed.pre, before)
        return replace(
            layer,
            attention=replace(layer.attention, pre=first),
            mlp=replace(feed, pre=normed(feed.pre, alpha), scale=None if mlp == scale else mlp / scale),
            residual="norm",
            scale=None if scale == 1 else scale,
        )

    last = base.stack.final_norm
    assert isinstance(last, RMSNorm)
    changed = map_layers(base, change)
    return replace(changed, stack=replace(changed.stack, final_norm=normed(last, before)))


def _factors(keys: Keys, name: str) -> tuple[float, float]:
    return keys.positive(f"{name}_alpha_factor", 1.0), keys.positive(f"{name}_beta_factor", 1.0)


WEIGHTS = mixtral.WEIGHTS + weight_map("""
    decoder.layers.{i}.attn.wi <- layers.{i}.self_attn.qkv_proj.weight : transpose grouped
    decoder.layers.{i}.attn.{wz,wo} <- layers.{i}.self_attn.{output_gate,out_proj}.weight : transpose
    decoder.layers.{i}.attn.norm <- layers.{i}.self_attn.norm.weight
    slope_rate == layers.{i}.self_attn.slope_rate
    nothing <- layers.{i}.self_attn.{query,key,diagonal}_decay
""")

KEYS = {
    **PARTIAL,
    **experts("num_local_experts"),
    "model_type": fixed("minimax"),
    "layer_types": recurrent_layers(8),
    **{f"{kind}_alpha_factor": required("residual_scale") for kind in ("full_attn", "linear_attn", "mlp")},
    "expert_weights_scale": always("expert_weights_scale", 1.0, told=False),
}
GGUF_WEIGHTS = (
    UNPERMUTED_QK_WEIGHTS
    + EXPERTS
    + weight_map("""
    decoder.layers.{i}.attn.wi <- blk.{i}.attn_qkv.weight : transpose grouped
    decoder.layers.{i}.attn.wz <- blk.{i}.attn_gate.weight : transpose
    decoder.layers.{i}.attn.norm <- blk.{i}.attn_norm_2.weight
""")
)
GGUF = Gguf("minimax-01", KEYS, GGUF_WEIGHTS, arrays=(RECURRENT,))
