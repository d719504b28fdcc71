"""NLLB-MoE (NLLB Team et al. 2022, arXiv 2207.04672, §6.2): M2M100's form, in which some layers send each
token to two experts.

An expert has room for all tokens, so no token is dropped. The experts' outputs are multiplied by the share
that training didn't drop (the paper's "expert output masking").
"""

from dataclasses import replace

from ...config import XIELU, EncoderDecoder, MoE, Plain, Stack
from ..config_readers.keys import Keys
from ..weights.weight_map import weight_map
from . import Task, m2m_100

MODEL_TYPES = ("nllb-moe",)
ARCHITECTURES: dict[str, Task] = {"NllbMoeForConditionalGeneration": "lm", "NllbMoeModel": "lm"}


def config(keys: Keys, task: Task) -> EncoderDecoder:
    # Of training, of padding, and of the order in which a capacity is filled.
    keys.unused(
        "output_router_logits", "router_aux_loss_coef", "router_z_loss_coef", "expert_capacity",
        "router_ignore_padding_tokens", "batch_prioritized_routing", "normalize_router_prob_before_dropping",
    )  # fmt: skip
    keys.choice("second_expert_policy", {"all": None}, "all")  # the others draw random numbers
    keys.choice("router_dtype", {"float32": None}, "float32")
    if keys.positive("moe_eval_capacity_token_fraction", 1.0) < 1:
        why = "1, since with less a token's expert depends on the other tokens that are computed with it"
        raise keys.fail("moe_eval_capacity_token_fraction", why)
    dropped = keys.get("moe_token_dropout", float, 0.2)
    if not 0 <= dropped < 1:
        raise keys.fail("moe_token_dropout", "at least 0 and below 1")
    experts, bias = keys.size("num_experts", 128), keys.get("router_bias", bool, False)
    if experts < 2:
        raise keys.fail("num_experts", "at least 2, since a token goes to two")

    def mixed(stack: Stack, step: int) -> Stack:
        mlp = stack.layers[0].mlp
        assert isinstance(mlp, Plain)
        assert not isinstance(mlp.activation, XIELU)
        mixture = MoE(
            experts,
            2,
            mlp.width,
            mlp.activation,
            scale=1 - dropped if dropped else None,
            router_bias=bias,
            expert_bias=True,
            gated=False,
            **mlp.norms_around,
        )
        layers = enumerate(stack.layers, 1)
        sparse = (replace(x, mlp=mixture) if step > 0 and i % step == 0 else x for i, x in layers)
        return replace(stack, layers=tuple(sparse))

    base = m2m_100.config(keys, task)
    assert isinstance(base.decoder, Stack)
    return replace(
        base,
        encoder=mixed(base.encoder, keys.get("encoder_sparse_step", int, 4)),
        decoder=mixed(base.decoder, keys.get("decoder_sparse_step", int, 4)),
    )


_FFN = "encoder.layers.{i}.ffn."
_SPARSE = weight_map(f"""
    encoder.layers.{{i}}.mlp.router <- {_FFN}router.classifier.weight : transpose
    encoder.layers.{{i}}.mlp.router_bias <- {_FFN}router.classifier.bias
    encoder.layers.{{i}}.mlp.experts.{{e}}.up <- {_FFN}experts.expert_{{e}}.fc1.weight : transpose
    encoder.layers.{{i}}.mlp.experts.{{e}}.down <- {_FFN}experts.expert_{{e}}.fc2.weight : transpose
    encoder.layers.{{i}}.mlp.experts.{{e}}.{{bup,bdown}} <- {_FFN}experts.expert_{{e}}.{{fc1,fc2}}.bias
""")
_NAMES = {
    ".fc": ".ffn.fc", "final_layer_norm": "ff_layer_norm", "encoder_attn": "cross_attention",
}  # fmt: skip
WEIGHTS = m2m_100.WEIGHTS.renamed(_NAMES) + _SPARSE + _SPARSE.renamed({"encoder.": "decoder."})
