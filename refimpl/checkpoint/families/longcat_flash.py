"""LongCat-Flash (Meituan 2025, arXiv 2509.01322): DeepSeek's latent attention with scaled latents, and a
mixture of experts.

Some experts return their input. The mixture's result is added one layer later. Two layers here are one layer
of the checkpoint. tfm leaves out the modules that predict further tokens.
"""

from dataclasses import replace

from ...config import Decoder, Gated, Layer, MoE, Rope
from ...ops.latent_attention import LatentAttention
from ..config_readers.decoder import map_layers
from ..config_readers.keys import Keys
from ..config_readers.layers import layer_count
from ..config_readers.rope import rope
from ..weights.weight_map import weight_map
from . import Task, decoders
from .deepseek_v2 import LATENTS, latent_decoder
from .llama import WEIGHTS as LLAMA

MODEL_TYPES = ("longcat_flash",)
ARCHITECTURES: dict[str, Task] = decoders("LongcatFlash", tasks=())
# Keys that have other names in the other families.
NAMES = {
    "intermediate_size": "ffn_hidden_size", "moe_intermediate_size": "expert_ffn_hidden_size",
    "num_experts_per_tok": "moe_topk", "num_local_experts": "n_routed_experts",
}  # fmt: skip


def config(keys: Keys, task: Task) -> Decoder:
    # What Meituan's own code could do otherwise: no class reads these.
    keys.harmless(
        mla_scale_q_lora=(True,), mla_scale_kv_lora=(True,), router_bias=(False,), norm_topk_prob=(False,),
        zero_expert_type=("identity",), attention_method=("MLA",),
    )  # fmt: skip
    keys.get("output_router_logits", bool, False)  # of training
    for name, own in NAMES.items():
        keys.spelled(own, name)
    count = 2 * layer_count(keys, "num_layers")
    keys.restated("num_hidden_layers", count, f"twice num_layers ({count})")
    values = {name: keys.values[own] for name, own in NAMES.items() if own in keys}
    base = latent_decoder(
        keys.replaced({"rms_norm_eps": 1e-5, **keys.values, **values, "num_hidden_layers": count}),
        context=131_072,
        rope_interleave=True,
        positions=_positions,
    )
    width, dense = base.embedding.width, base.layers[0].mlp
    assert isinstance(dense, Gated)
    scale = keys.positive("routed_scaling_factor", 6.0)
    shortcut = MoE(
        keys.size("n_routed_experts", 512),
        keys.size("moe_topk", 12),
        keys.size("expert_ffn_hidden_size", 2048),
        dense.activation,
        renormalize=False,
        scale=None if scale == 1 else scale,
        choice_bias=True,
        shared=dense.width,
        **dense.norms_around,
        identities=keys.get("zero_expert_num", int, 256, null=True) or 0,
        late=True,
    )

    def change(i: int, layer: Layer) -> Layer:
        a = layer.attention
        assert isinstance(a, LatentAttention)
        assert a.query_rank is not None
        plain = a.head_size**-0.5 if a.scale is None else a.scale
        a = replace(a, scale=plain * (width / a.query_rank) ** 0.5, latent_scale=(width / a.rank) ** 0.5)
        return replace(layer, attention=a, mlp=layer.mlp if i % 2 else shortcut)

    return map_layers(base, change)


def _positions(keys: Keys, size: int, context: int, *, theta: float) -> Rope | None:
    return rope(keys, size, context, theta=10_000_000.0)


HALVES = {
    ".{i}.self_attn.": ".{l}.self_attn.{half}.",
    "{i}.input_layernorm": "{l}.input_layernorm.{half}",
    "{i}.post_attention_layernorm": "{l}.post_attention_layernorm.{half}",
}
WEIGHTS = (LLAMA + LATENTS).renamed(HALVES) + weight_map("""
    decoder.layers.{i}.mlp.router <- layers.{l}.mlp.router.classifier.weight : transpose
    decoder.layers.{i}.mlp.bias <- layers.{l}.mlp.router.e_score_correction_bias
    decoder.layers.{i}.mlp.experts.{e}.gate <- layers.{l}.mlp.experts.{e}.gate_proj.weight : transpose
    decoder.layers.{i}.mlp.experts.{e}.up <- layers.{l}.mlp.experts.{e}.up_proj.weight : transpose
    decoder.layers.{i}.mlp.experts.{e}.down <- layers.{l}.mlp.experts.{e}.down_proj.weight : transpose
    decoder.layers.{i}.mlp.{gate,up,down} <- layers.{l}.mlps.{half}.{gate,up,down}_proj.weight : transpose
    decoder.layers.{i}.mlp.shared.{gate,up} <- layers.{l}.mlps.{half}.{gate,up}_proj.weight : transpose
    decoder.layers.{i}.mlp.shared.down <- layers.{l}.mlps.{half}.down_proj.weight : transpose
    nothing <- layers.{l}.mlp.experts.{e}.{gate,up,down}_proj.weight
    left out <- mtp.*
""")
