"""Nemotron-H, Nemotron Nano 2 and Nemotron 3 (NVIDIA 2025): layers of Mamba 2, attention without positions,
and mlps or mixtures of experts, in any order.

The mlps have no gate; their activation is a squared ReLU. Sigmoids and biases choose experts, as in
DeepSeek-V3, but the experts have no gates. With a latent, they read and write narrower vectors. Checkpoints
count each mixer, mlp and mixture as a layer. Here an mlp or mixture belongs to the layer of the mixer before
it. tfm leaves out the layers after the last, which predict further tokens. In GGUF, models with experts have
the architecture `nemotron_h_moe`. In such a file no layer has a dense mlp, and the layers to leave out are
the last block.
"""

from collections.abc import Mapping
from typing import Any

from ...config import (
    LM,
    XIELU,
    Attention,
    Decoder,
    Embedding,
    ExpertGroups,
    Layer,
    MoE,
    NoMlp,
    Plain,
    RMSNorm,
    Stack,
)
from ...ops.mamba2 import Mamba2
from ..config_readers.gguf_keys import (
    COMMON,
    EPS,
    FURTHER,
    RMS_EPS,
    SIGMOID,
    SIGMOID_EXPERTS,
    Row,
    Table,
    fixed,
    only,
    optional,
    quotient,
    somewhere,
    unused,
    without,
)
from ..config_readers.gguf_metadata import numbers_by_layer, own_head_size
from ..config_readers.gguf_states import GGUF_MAMBA2
from ..config_readers.gguf_weights import EXPERTS as EXPERT_LEAVES
from ..config_readers.keys import ABSENT, ACTIVATIONS, Keys
from ..config_readers.layers import head_size
from ..config_readers.mamba2 import MIXER, check_steps
from ..formats.tensor_source import TensorSource
from ..weights.weight_map import weight_map
from . import Gguf, Task, decoders

MODEL_TYPES = ("nemotron_h",)
ARCHITECTURES: dict[str, Task] = decoders("NemotronH", tasks=())
PREFIX = ("model.", "backbone.")

LETTERS = {"M": "mamba", "*": "attention", "-": "mlp", "E": "moe"}
MLPS = ("mlp", "moe")
KINDS = {"linear_attention": "mamba", "full_attention": "attention"} | {k: k for k in LETTERS.values()}


def config(keys: Keys, task: Task) -> Decoder:
    """Read the Config of a Nemotron-H model. The steps of Mamba 2 have no lower limit here.

    transformers limits the steps of a prompt by time_step_min, but not the steps of later tokens. NVIDIA's
    own code has no such limit."""
    check_steps(keys)
    keys.unused("time_step_rank", "rescale_prenorm_residual", "residual_in_fp32", "num_logits_to_keep")
    keys.unused("use_mamba_kernels", "mamba_ssm_cache_dtype", "expand", "hidden_dropout")
    keys.unused("moe_shared_expert_overlap", "output_router_logits")
    keys.unused("n_shared_experts")  # its class has one, of a width of its own
    keys.unused("num_nextn_predict_layers", "mtp_layers_block_type", "mtp_hybrid_override_pattern")
    keys.harmless(attention_bias=(False,), sliding_window=(None,), mamba_proj_bias=(False,))
    width = keys.size("hidden_size", 4096)
    norm = RMSNorm(keys.positive("layer_norm_epsilon", 1e-5))
    keys.harmless(rms_norm_eps=(norm.eps,))
    heads, bias = keys.size("num_attention_heads", 32), keys.get("use_bias", bool, False)
    keys.choice("mamba_hidden_act", {"silu": "silu", "swish": "silu"}, "silu")
    size = keys.size(keys.spelled("head_dim", "attention_head_dim"), 128, null=True)
    mixers = {
        "attention": Attention(heads, keys.size("num_key_value_heads", 8), size or head_size(keys), pre=norm),
        "mamba": Mamba2(
            heads=keys.size("mamba_num_heads", 128),
            groups=keys.size("n_groups", 8),
            state_size=keys.size("ssm_state_size", 128),
            head_size=keys.size("mamba_head_dim", 64),
            length=keys.size("conv_kernel", 4),
            conv_bias=keys.get("use_conv_bias", bool, True),
            bias=bias,
            out_bias=bias,
            eps=norm.eps,
            pre=norm,
        ),
    }
    kinds = _kinds(keys)
    mlp = Plain(
        keys.size("intermediate_size", 21_504),
        keys.choice("mlp_hidden_act", ACTIVATIONS, "relu2"),
        bias=keys.get("mlp_bias", bool, False),
        pre=norm,
    )
    mlps: dict[str, Plain | MoE] = {"mlp": mlp}
    if "moe" in kinds:
        mlps["moe"] = _mixture(keys, mlp)
    keys.unused(*EXPERTS)  # where no layer is a mixture
    return Decoder(
        embedding=Embedding(keys.size("vocab_size", 131_072), width),
        stack=Stack(_layers(kinds, mixers, mlps), norm),
        head=LM(keys.get("tie_word_embeddings", bool, False) and keys.of_gguf),  # its class never ties them
        context=keys.size("max_position_embeddings", 4096),
    )


def _mixture(keys: Keys, mlp: Plain) -> MoE:
    """Return experts with the mlp's activation. Only the shared expert has biases."""
    scale = keys.positive("routed_scaling_factor", 1.0)
    assert not isinstance(mlp.activation, XIELU)
    return MoE(
        keys.size(keys.spelled("n_routed_experts", "num_local_experts"), 8),
        keys.size("num_experts_per_tok", 2),
        keys.size("moe_intermediate_size", 7688),
        mlp.activation,
        "sigmoid",
        keys.get("norm_topk_prob", bool, True),
        scale=None if scale == 1 else scale,
        choice_bias=True,
        shared=keys.size("moe_shared_expert_intermediate_size", 7688),
        groups=ExpertGroups(keys.size("n_group", 1), keys.size("topk_group", 1)),
        **mlp.norms_around,
        gated=False,
        latent=keys.size("moe_latent_size", None),
        shared_bias=mlp.bias,
    )


def _layers(
    kinds: list[str], mixers: Mapping[str, Attention | Mamba2], mlps: Mapping[str, Plain | MoE]
) -> tuple[Layer, ...]:
    """Return a layer for each mixer, with the mlp or mixture that follows it, if any."""
    return tuple(
        Layer(mixers[kind], mlps.get(after, NoMlp()))
        for kind, after in zip(kinds, [*kinds[1:], ""], strict=True)
        if kind not in MLPS
    )


def _follow(kinds: list[str]) -> bool:
    """Return whether there are layers, and each mlp or mixture comes after a mixer."""
    before = ["mlp", *kinds]
    return bool(kinds) and all(a not in MLPS or b not in MLPS for a, b in zip(kinds, before, strict=False))


def _kinds(keys: Keys) -> list[str]:
    """Return the kind of each layer of the checkpoint, from either spelling. An mlp or mixture must follow a
    mixer.
    """
    key = keys.spelled("layers_block_type", "layer_types")
    named, pattern = keys.get(key, list, None), keys.get("hybrid_override_pattern", str, None)
    if named is None and pattern is None:
        raise keys.fail(key, "a list of the types of all layers")
    known = LETTERS if named is None else KINDS
    stated = pattern if named is None else named
    kinds = [known.get(kind) if isinstance(kind, str) else None for kind in stated[: 2**16]]
    must = f"layers of the types {', '.join(known)}, each mlp or mixture after a layer of another type"
    kinds_known = [kind for kind in kinds if kind is not None]
    if len(kinds_known) != len(kinds) or not _follow(kinds_known):
        raise keys.fail("hybrid_override_pattern" if named is None else key, must)
    keys.unused("num_hidden_layers")
    return kinds_known


EXPERTS = (
    "n_routed_experts", "num_local_experts", "moe_intermediate_size", "moe_latent_size",
    "moe_shared_expert_intermediate_size", "num_experts_per_tok", "routed_scaling_factor", "n_group",
    "topk_group", "norm_topk_prob",
)  # fmt: skip
WEIGHTS = MIXER.renamed({"layers.{i}.mixer": "layers.{s}.mixer"}) + weight_map("""
    {embedding,head}.table <- {(embeddings|embedding),lm_head}.weight
    decoder.layers.{i}.attn_pre.weight <- layers.{s}.norm.weight
    decoder.layers.{i}.attn.{wq,wk,wv,wo} <- layers.{s}.mixer.{q,k,v,o}_proj.weight : transpose
    decoder.layers.{i}.mlp_pre.weight <- layers.{s}.norm.weight
    decoder.layers.{i}.mlp.{up,down} <- layers.{s}.mixer.{up,down}_proj.weight : transpose
    decoder.layers.{i}.mlp.{bup,bdown,latent_bdown} <- layers.{s}.mixer.{up,down,fc1_latent}_proj.bias
    decoder.layers.{i}.mlp.router <- layers.{s}.mixer.gate.weight : transpose
    decoder.layers.{i}.mlp.bias <- layers.{s}.mixer.gate.e_score_correction_bias
    decoder.layers.{i}.mlp.experts.{e}.up <- layers.{s}.mixer.experts.{e}.up_proj.weight : transpose
    decoder.layers.{i}.mlp.experts.{e}.down <- layers.{s}.mixer.experts.{e}.down_proj.weight : transpose
    decoder.layers.{i}.mlp.shared.up <- layers.{s}.mixer.shared_experts.up_proj.weight : transpose
    decoder.layers.{i}.mlp.shared.{bup,bdown} <- layers.{s}.mixer.shared_experts.{up,down}_proj.bias
    decoder.layers.{i}.mlp.shared.down <- layers.{s}.mixer.shared_experts.down_proj.weight : transpose
    decoder.layers.{i}.mlp.latent_{down,up} <- layers.{s}.mixer.{fc1,fc2}_latent_proj.weight : transpose
    decoder.layers.{i}.mlp.latent_bup <- layers.{s}.mixer.fc2_latent_proj.bias
    decoder.norm.weight <- norm_f.weight
    left out <- mtp.*
""")


KV_HEADS = "attention.head_count_kv"
BY_LAYER = (KV_HEADS, "feed_forward_length")
GGUF_WEIGHTS = (GGUF_MAMBA2 + EXPERT_LEAVES).renamed({"blk.{i}": "blk.{s}"}) + weight_map("""
    {embedding,head}.table <- {token_embd,output}.weight
    decoder.layers.{i}.attn_pre.weight <- blk.{s}.attn_norm.weight
    decoder.layers.{i}.attn.{wq,wk} <- blk.{s}.attn_{q,k}.weight : unpermute transpose
    decoder.layers.{i}.attn.{wv,wo} <- blk.{s}.attn_{v,output}.weight : transpose
    decoder.layers.{i}.mlp_pre.weight <- blk.{s}.attn_norm.weight
    decoder.layers.{i}.mlp.{up,down} <- blk.{s}.ffn_{up,down}.weight : transpose
    decoder.layers.{i}.mlp.{bup,bdown} <- blk.{s}.ffn_{up,down}.bias
    decoder.norm.weight <- output_norm.weight
    embedding.table == output.weight
""")
# With experts the last block may be layers that predict further tokens.
AND_AFTER = GGUF_WEIGHTS + weight_map("""
    decoder.layers.{i}.mlp.latent_{down,up} <- blk.{s}.ffn_latent_{down,up}.weight : transpose
    left out <- blk.{s}.*
""")


def _blocks(keys: Keys, _: TensorSource) -> list[str]:
    """Return the kind of each block of a GGUF file.

    A block with an mlp's width is an mlp, or a mixture if the model has experts. A block with key/value
    heads is attention. Other blocks have a state. In files with experts, blocks after the last layer are
    left out."""
    experts, after = keys.size("expert_count", None), keys.get(FURTHER, int, 0)
    sizes = (numbers_by_layer(keys, key) for key in (WIDTHS, KV_HEADS))
    return [
        ("moe" if experts else "mlp") if width else "attention" if heads else "mamba"
        for width, heads in zip(*sizes, strict=True)
    ][: -after or None]


def _eps(keys: Keys, _: TensorSource) -> float:
    """Return the eps of norms. If the file states two, the eps of RMSNorm counts."""
    eps = keys.positive(EPS)
    return keys.positive(RMS_EPS, eps)


def _positionless(keys: Keys, _: TensorSource) -> Any:
    """Check what the file states about positions, although no layer has positions."""
    keys.unused("rope.dimension_count", "rope.freq_base")
    keys.harmless(**{"rope.scaling.finetuned": (False,)})
    return ABSENT


WIDTHS = "feed_forward_length"
DENSE = {
    **COMMON,
    "model_type": fixed("nemotron_h"),
    "layers_block_type": Row(_blocks, WIDTHS),
    "num_key_value_heads": Row(
        lambda keys, _: max(numbers_by_layer(keys, KV_HEADS)) or keys.size("attention.head_count"), KV_HEADS
    ),
    "head_dim": Row(lambda keys, _: own_head_size(keys), "attention.key_length"),
    "intermediate_size": Row(lambda keys, _: max(numbers_by_layer(keys, WIDTHS)) or 1, WIDTHS),
    "mlp_bias": somewhere("ffn_up.bias"),
    "layer_norm_epsilon": Row(_eps, RMS_EPS),
    "mamba_num_heads": "ssm.time_step_rank",
    "mamba_head_dim": quotient("ssm.inner_size", "ssm.time_step_rank"),
    "n_groups": "ssm.group_count",
    "ssm_state_size": "ssm.state_size",
    "conv_kernel": "ssm.conv_kernel",
    "use_conv_bias": somewhere("ssm_conv1d.bias"),
    "rope.freq_base": Row(_positionless),
}
MIXED = {
    **DENSE,
    **without(SIGMOID_EXPERTS, "n_shared_experts", "first_k_dense_replace"),
    "moe_shared_expert_intermediate_size": "expert_shared_feed_forward_length",
    "moe_latent_size": optional("moe_latent_size"),
    "expert_gating_func": only("expert_gating_func", SIGMOID),
    "expert_shared_count": unused("expert_shared_count", int, 0),
}


def table(keys: Keys) -> Table:
    return MIXED if "expert_count" in keys else DENSE


GGUF = Gguf(
    "nemotron_h",
    table,
    GGUF_WEIGHTS,
    other=Gguf("nemotron_h_moe", table, AND_AFTER, by_layer=BY_LAYER),
    by_layer=BY_LAYER,
)
