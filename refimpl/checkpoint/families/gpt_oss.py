"""gpt-oss (OpenAI 2025): a sink in every head's softmax, sliding windows in every other layer, and experts.

The experts have biases and a clamped SwiGLU. The rows of gate and up alternate. In GGUF the ramp of YaRN ends
at whole pairs, as llama.cpp computes it. GGUF can't state `truncate`, which the published models set to
false. So a GGUF file of them contains a slightly different model, in llama.cpp too.
"""

from dataclasses import replace

from ...config import Decoder, Gated, MoE, SwiGLUOAI
from ..config_readers.decoder import decoder, map_attention, with_experts
from ..config_readers.gguf_keys import DECODER, always, experts, experts_width, fixed
from ..config_readers.gguf_weights import EXPERTS, UNPERMUTED_QK_WEIGHTS
from ..config_readers.keys import Keys
from ..config_readers.layers import layer_masks, layer_types, read_window
from ..weights.weight_map import weight_map
from . import Gguf, Task, decoders
from .llama import WEIGHTS as LLAMA

MODEL_TYPES = ("gpt_oss",)
ARCHITECTURES: dict[str, Task] = decoders("GptOss", tasks=("classify", "tag"))
# transformers' scaling where a config states none.
YARN = {
    "rope_type": "yarn", "factor": 32.0, "beta_fast": 32.0, "beta_slow": 1.0, "truncate": False,
    "original_max_position_embeddings": 4096,
}  # fmt: skip


def config(keys: Keys, task: Task) -> Decoder:
    # Of training; what experts compute is stated by other keys; the context that YaRN's keys state again.
    keys.harmless(output_router_logits=(bool,), router_aux_loss_coef=(float,), hidden_act=("silu",))
    keys.harmless(initial_context_length=(int,))
    if not (keys.values.get("rope_parameters") or keys.values.get("rope_scaling")):
        keys = keys.replaced({**keys.values, "rope_parameters": YARN})
    base = decoder(
        keys,
        kv_heads=keys.size("num_key_value_heads", 8, null=True),
        context=131_072,
        attention_bias=keys.get("attention_bias", bool, True),
        theta=150_000.0,
        eps=1e-5,
        head=64,
    )
    experts = keys.size(keys.spelled("num_local_experts", "num_experts"), 128)
    top = keys.size("num_experts_per_tok", 4)
    keys.restated("experts_per_token", top, f"num_experts_per_tok ({top})")
    activation = SwiGLUOAI(keys.positive("swiglu_alpha", 1.702), keys.positive("swiglu_limit", 7.0))

    def mixture(mlp: Gated) -> MoE:
        return MoE(
            experts, top, mlp.width, activation, router_bias=True, expert_bias=True, **mlp.norms_around
        )

    types = layer_types(keys, lambda i: i % 2 == 0)
    masks = layer_masks(keys, types, read_window(keys, 128, everywhere=False))
    mixed = with_experts(base, mixture)
    return map_attention(mixed, lambda i, a: replace(a, mask=masks[i], sink_logits=True))


WEIGHTS = LLAMA + weight_map("""
    decoder.layers.{i}.attn.sink_logits <- layers.{i}.self_attn.sinks
    decoder.layers.{i}.mlp.router <- layers.{i}.mlp.router.weight : transpose
    decoder.layers.{i}.mlp.router_bias <- layers.{i}.mlp.router.bias
    decoder.layers.{i}.mlp.experts.{e}.gate, up <- layers.{i}.mlp.experts.gate_up_proj[{e}] : in_turn
    decoder.layers.{i}.mlp.experts.{e}.bgate, bup <- layers.{i}.mlp.experts.gate_up_proj_bias[{e}] : in_turn
    decoder.layers.{i}.mlp.experts.{e}.down <- layers.{i}.mlp.experts.down_proj[{e}]
    decoder.layers.{i}.mlp.experts.{e}.bdown <- layers.{i}.mlp.experts.down_proj_bias[{e}]
""")


GGUF_WEIGHTS = (
    UNPERMUTED_QK_WEIGHTS.renamed({"ffn_norm": "post_attention_norm"})
    + EXPERTS
    + weight_map("""
    decoder.layers.{i}.attn.sink_logits <- blk.{i}.attn_sinks.weight
    decoder.layers.{i}.mlp.router_bias <- blk.{i}.ffn_gate_inp.bias
    decoder.layers.{i}.mlp.experts.{e}.{bgate,bup,bdown} <- blk.{i}.ffn_{gate,up,down}_exps.bias[{e}]
""")
)
KEYS = {
    **DECODER,
    **experts("num_local_experts"),
    "model_type": fixed("gpt_oss"),
    "intermediate_size": experts_width(lambda width, _: width),
    "sliding_window": "attention.sliding_window",
    "expert_weights_norm": always("expert_weights_norm", True, told=False),
}
GGUF = Gguf("gpt-oss", KEYS, GGUF_WEIGHTS)
