"""Nemotron-H and Nemotron Nano 2 (NVIDIA 2025): Mamba 2's layers, attention without positions, and plain mlps
of a squared ReLU, in any order.

Its checkpoints count each of them as a layer; here an mlp belongs to the mixer before it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from ..config import LM, Attention, Decoder, Embedding, Layer, Mamba2, NoMlp, Plain, RMSNorm, Stack
from ..config_readers.gguf_metadata import embedding_rows, numbers_by_layer, own_head_size
from ..config_readers.gguf_states import GGUF_MAMBA2, gguf_mamba2, in_some_layer
from ..config_readers.keys import ACTIVATIONS, Keys
from ..config_readers.layers import head_size
from ..config_readers.mamba2 import MIXER, check_steps
from ..formats.tensor_source import TensorSource
from ..weights.weight_map import weight_map
from . import Gguf, Task

MODEL_TYPES = ("nemotron_h",)
ARCHITECTURES: dict[str, Task] = {"NemotronHForCausalLM": "lm"}
PREFIX = ("model.", "backbone.")

LETTERS = {"M": "mamba", "*": "attention", "-": "mlp"}
KINDS = {"linear_attention": "mamba", "full_attention": "attention"} | {k: k for k in LETTERS.values()}


def config(keys: Keys, task: Task) -> Decoder:
    """Steps have no least length here: transformers has time_step_min as one where it reads a text, and not
    where a token follows; NVIDIA's own code has none."""
    check_steps(keys)
    keys.unused("time_step_rank", "rescale_prenorm_residual", "residual_in_fp32", "num_logits_to_keep")
    keys.unused("tie_word_embeddings")  # its class never does
    keys.unused("use_mamba_kernels", "mamba_ssm_cache_dtype", "expand", "hidden_dropout")
    # Of mixtures of experts, which no layer is.
    keys.unused("moe_shared_expert_overlap", "output_router_logits", "mtp_layers_block_type", *EXPERTS)
    keys.unused("num_nextn_predict_layers", "mtp_hybrid_override_pattern")
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
    mlp = Plain(
        keys.size("intermediate_size", 21_504),
        keys.choice("mlp_hidden_act", ACTIVATIONS, "relu2"),
        bias=keys.get("mlp_bias", bool, False),
        pre=norm,
    )
    return Decoder(
        embedding=Embedding(keys.size("vocab_size", 131_072), width),
        stack=Stack(_layers(_kinds(keys), mixers, mlp), norm),
        head=LM(tied=False),
        context=keys.size("max_position_embeddings", 4096),
    )


def _layers(kinds: list[str], mixers: Mapping[str, Attention | Mamba2], mlp: Plain) -> tuple[Layer, ...]:
    """The mixers, each with the mlp that follows it, if one does."""
    return tuple(
        Layer(mixers[kind], mlp if after == "mlp" else NoMlp())
        for kind, after in zip(kinds, [*kinds[1:], None], strict=True)
        if kind != "mlp"
    )


def _follow(kinds: list[str]) -> bool:
    """Whether there are any, and each mlp stands after a mixer."""
    return bool(kinds) and all(a != "mlp" or b != "mlp" for a, b in zip(kinds, ["mlp", *kinds], strict=False))


def _kinds(keys: Keys) -> list[str]:
    """What each layer of the checkpoint is, from either spelling; an mlp must follow a mixer."""
    key = keys.spelled("layers_block_type", "layer_types")
    named, pattern = keys.get(key, list, None), keys.get("hybrid_override_pattern", str, None)
    if named is None and pattern is None:
        raise keys.fail(key, "a list of layers")
    known = LETTERS if named is None else KINDS
    stated = pattern if named is None else named
    kinds = [known.get(kind) if isinstance(kind, str) else None for kind in stated[: 2**16]]
    must = f"layers that are {' or '.join(known)}, without experts, each mlp after one that isn't"
    kinds_known = [kind for kind in kinds if kind is not None]
    if len(kinds_known) != len(kinds) or not _follow(kinds_known):
        raise keys.fail("hybrid_override_pattern" if named is None else key, must)
    keys.unused("num_hidden_layers")
    return kinds_known


EXPERTS = (
    "n_routed_experts", "num_local_experts", "n_shared_experts", "moe_intermediate_size", "moe_latent_size",
    "moe_shared_expert_intermediate_size", "num_experts_per_tok", "routed_scaling_factor", "n_group",
    "topk_group", "norm_topk_prob",
)  # fmt: skip
WEIGHTS = MIXER.renamed({"layers.{i}.mixer": "layers.{s}.mixer"}) + weight_map("""
    embedding.table <- (embeddings|embedding).weight
    decoder.layers.{i}.attn_pre.weight <- layers.{s}.norm.weight
    decoder.layers.{i}.attn.wq <- layers.{s}.mixer.q_proj.weight : transpose
    decoder.layers.{i}.attn.wk <- layers.{s}.mixer.k_proj.weight : transpose
    decoder.layers.{i}.attn.wv <- layers.{s}.mixer.v_proj.weight : transpose
    decoder.layers.{i}.attn.wo <- layers.{s}.mixer.o_proj.weight : transpose
    decoder.layers.{i}.mlp_pre.weight <- layers.{s}.norm.weight
    decoder.layers.{i}.mlp.up <- layers.{s}.mixer.up_proj.weight : transpose
    decoder.layers.{i}.mlp.bup <- layers.{s}.mixer.up_proj.bias
    decoder.layers.{i}.mlp.down <- layers.{s}.mixer.down_proj.weight : transpose
    decoder.layers.{i}.mlp.bdown <- layers.{s}.mixer.down_proj.bias
    decoder.norm.weight <- norm_f.weight
    head.table <- lm_head.weight
    left out <- mtp.*
""")


def gguf_config(keys: Keys, source: TensorSource) -> Decoder:
    """From GGUF's metadata: a layer with a width is an mlp, one with key/value heads attends, others have a
    state."""
    eps = keys.positive("attention.layer_norm_epsilon")
    norm = RMSNorm(keys.positive("attention.layer_norm_rms_epsilon", eps))
    # Positions, which no layer has.
    keys.unused("rope.dimension_count", "rope.freq_base")
    keys.harmless(**{"rope.scaling.finetuned": (False,)})
    widths, kv_heads = (numbers_by_layer(keys, key) for key in ("feed_forward_length", KV_HEADS))
    kinds = [
        "mlp" if width else "attention" if heads else "mamba"
        for width, heads in zip(widths, kv_heads, strict=True)
    ]
    if not _follow(kinds):
        raise keys.fail("feed_forward_length", "widths of mlps, each after a layer that isn't one")
    heads = keys.size("attention.head_count")
    mixers = {
        "attention": Attention(heads, max(kv_heads) or heads, own_head_size(keys), pre=norm),
        "mamba": replace(gguf_mamba2(keys, source, norm.eps), pre=norm),
    }
    biased = in_some_layer(source, "ffn_up.bias")
    mlp = Plain(max(widths) or 1, "relu_squared", bias=biased, pre=norm)
    return Decoder(
        embedding=Embedding(embedding_rows(keys, source), keys.size("embedding_length")),
        stack=Stack(_layers(kinds, mixers, mlp), norm),
        head=LM("output.weight" not in source.names),
        context=keys.size("context_length"),
    )


KV_HEADS = "attention.head_count_kv"
GGUF_WEIGHTS = GGUF_MAMBA2.renamed({"blk.{i}": "blk.{s}"}) + weight_map("""
    embedding.table <- token_embd.weight
    decoder.layers.{i}.attn_pre.weight <- blk.{s}.attn_norm.weight
    decoder.layers.{i}.attn.wq <- blk.{s}.attn_q.weight : unpermute transpose
    decoder.layers.{i}.attn.wk <- blk.{s}.attn_k.weight : unpermute transpose
    decoder.layers.{i}.attn.wv <- blk.{s}.attn_v.weight : transpose
    decoder.layers.{i}.attn.wo <- blk.{s}.attn_output.weight : transpose
    decoder.layers.{i}.mlp_pre.weight <- blk.{s}.attn_norm.weight
    decoder.layers.{i}.mlp.up <- blk.{s}.ffn_up.weight : transpose
    decoder.layers.{i}.mlp.bup <- blk.{s}.ffn_up.bias
    decoder.layers.{i}.mlp.down <- blk.{s}.ffn_down.weight : transpose
    decoder.layers.{i}.mlp.bdown <- blk.{s}.ffn_down.bias
    decoder.norm.weight <- output_norm.weight
    head.table <- output.weight
    embedding.table == output.weight
""")
GGUF = Gguf("nemotron_h", gguf_config, GGUF_WEIGHTS, by_layer=(KV_HEADS, "feed_forward_length"))
