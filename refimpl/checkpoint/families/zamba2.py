"""Zamba 2 (Glorioso et al. 2024): layers of Mamba 2. Some of them come after a transformer block, and several
layers share the parameters of a block.

There are `num_mem_blocks` such blocks, which the hybrid layers use in turn. The checkpoint stores a block in
the first layer that uses it. There it also stores, for each layer that uses the block, the two factors of an
update to the block's projections (LoRA). The product of the factors is added when the checkpoint is read.
"""

from ...config import LM, Attention, Decoder, Embedding, Gated, Layer, NoMlp, RMSNorm, Stack
from ...ops.mamba2 import Mamba2
from ...ops.shared_block import SharedBlock
from ..config_readers.keys import ACTIVATIONS, Keys
from ..config_readers.mamba2 import MIXER, check_steps
from ..config_readers.rope import exact_context, rope
from ..weights.weight_map import WeightMap, weight_map
from . import Task, decoders

MODEL_TYPES = ("zamba2",)
ARCHITECTURES: dict[str, Task] = decoders("Zamba2", tasks=("classify",))
# No dialect of GGUF: llama.cpp has no architecture for it.
KINDS = {"mamba": False, "linear_attention": False, "hybrid": True}


def config(keys: Keys, task: Task) -> Decoder:
    """Read the Config of a Zamba 2 model. The steps of Mamba 2 have no lower limit here.

    As for Nemotron-H, transformers limits the steps of a prompt by time_step_min, but not the steps of later
    tokens."""
    check_steps(keys)
    keys.unused("use_mamba_kernels", "use_mem_eff_path", "num_logits_to_keep", "attention_dropout")
    keys.unused("num_hidden_layers", "hybrid_layer_ids")  # layers_block_type says both
    keys.harmless(use_conv_bias=(bool,), use_long_context=(False,))  # convolutions always have a bias
    width, heads = keys.size("hidden_size", 2560), keys.size("num_attention_heads", 32)
    size, bias = 2 * width // heads, keys.get("add_bias_linear", bool, False)
    norm = RMSNorm(keys.positive("rms_norm_eps", 1e-5))
    context = keys.size("max_position_embeddings", 4096)
    # The class computes these from the width, whatever the file says.
    keys.unused("attention_hidden_size", "attention_head_dim", "head_dim", "kv_channels", "num_query_groups")
    if not size:
        raise keys.fail("num_attention_heads", f"at most twice hidden_size ({2 * width})")
    position = None
    if keys.get("use_mem_rope", bool, False):
        position = rope(keys, size, context)
    else:
        keys.unused("rope_parameters", "rope_theta", "rope_scaling")
    mamba = _mamba(keys, width, bias=bias, norm=norm)
    attention = Attention(
        heads,
        keys.size("num_key_value_heads", heads, null=True) or heads,
        size,
        position,
        scale=(size / 2) ** -0.5,
        pre=norm,
    )
    if keys.get("use_shared_attention_adapter", bool, False) and attention.kv_heads != heads:
        raise keys.fail("num_key_value_heads", f"num_attention_heads ({heads}) if attention has adapters")
    mlp = Gated(
        keys.size("intermediate_size", 4 * width, null=True) or 4 * width,
        keys.choice("hidden_act", ACTIVATIONS, "gelu"),
        bias,
        pre=norm,
    )
    keys.size("num_mem_blocks", 1)  # the map of weights reads it
    keys.unused("adapter_rank")  # which the tensors tell
    hybrid, alone = Layer(SharedBlock(attention, mlp, mamba), NoMlp()), Layer(mamba, NoMlp())
    return Decoder(
        embedding=Embedding(keys.size("vocab_size", 32_000), width),
        stack=Stack(tuple(hybrid if both else alone for both in _hybrid(keys)), norm),
        head=LM(keys.get("tie_word_embeddings", bool, True)),
        context=exact_context(context, position),
    )


def _mamba(keys: Keys, width: int, *, bias: bool, norm: RMSNorm) -> Mamba2:
    expanded, heads = width * keys.size("mamba_expand", 2), keys.size("n_mamba_heads", 8)
    if expanded % heads:
        raise keys.fail("n_mamba_heads", f"a divisor of the total width of the heads ({expanded})")
    keys.restated(
        "mamba_headdim", expanded // heads, f"{expanded // heads}, the width of all heads by their number"
    )
    return Mamba2(
        heads=heads,
        groups=keys.size("mamba_ngroups", 1),
        state_size=keys.size("mamba_d_state", 64),
        head_size=expanded // heads,
        length=keys.size("mamba_d_conv", 4),
        bias=bias,
        out_bias=bias,
        pre=norm,
    )


def _hybrid(keys: Keys) -> list[bool]:
    """Return whether each layer is hybrid, that is, comes after a transformer block."""
    key = keys.spelled("layers_block_type", "layer_types")
    kinds = keys.get(key, list)
    if not kinds or any(not isinstance(kind, str) or kind not in KINDS for kind in kinds):
        raise keys.fail(key, f"a list of layers, each {' or '.join(KINDS)}")
    return [KINDS[kind] for kind in kinds[: 2**16]]


WEIGHTS = weight_map("""
    {embedding,head}.table <- {embed_tokens,lm_head}.weight
    decoder.layers.{i}.attn_pre.weight <- layers.{i}.input_layernorm.weight
    decoder.layers.{i}.attn.mamba_norm <- layers.{i}.mamba_decoder.input_layernorm.weight
    decoder.layers.{i}.attn.w_shared <- layers.{i}.linear.weight : transpose
    decoder.norm.weight <- final_layernorm.weight
    embedding.table == lm_head.weight
""")
WEIGHTS += MIXER.renamed({".mixer.": ".mamba."}) + MIXER.renamed({".mixer.": ".mamba_decoder.mamba."})
BLOCK = """
    decoder.layers.{i}.attn.attention_norm <- layers.BLOCK.input_layernorm.weight
    decoder.layers.{i}.attn.mlp_norm <- layers.BLOCK.pre_ff_layernorm.weight
    decoder.layers.{i}.attn.w_heads <- layers.BLOCK.self_attn.o_proj.weight : transpose
    decoder.layers.{i}.attn.mlp.gate, up <- layers.BLOCK.feed_forward.gate_up_proj.weight + \
        layers.BLOCK.feed_forward.gate_up_proj_adapter_list.USE.1.weight @ \
        layers.BLOCK.feed_forward.gate_up_proj_adapter_list.USE.0.weight : transpose
    decoder.layers.{i}.attn.mlp.bgate, bup <- layers.BLOCK.feed_forward.gate_up_proj.bias
    decoder.layers.{i}.attn.mlp.down <- layers.BLOCK.feed_forward.down_proj.weight : transpose
    decoder.layers.{i}.attn.mlp.bdown <- layers.BLOCK.feed_forward.down_proj.bias
"""
PLAIN = """
    decoder.layers.{i}.attn.{wq,wk,wv} <- layers.BLOCK.self_attn.{q,k,v}_proj.weight : transpose
"""
ADAPTED = "".join(
    f"""
    decoder.layers.{{i}}.attn.w{n} <- layers.BLOCK.self_attn.{n}_proj.weight + \
        layers.BLOCK.self_attn.linear_{n}_adapter_list.USE.1.weight @ \
        layers.BLOCK.self_attn.linear_{n}_adapter_list.USE.0.weight : transpose
"""
    for n in "qkv"
)
OTHERS = """
    left out <- layers.BLOCK.feed_forward.gate_up_proj_adapter_list.*
    left out <- layers.BLOCK.self_attn.linear_q_adapter_list.*
    left out <- layers.BLOCK.self_attn.linear_k_adapter_list.*
    left out <- layers.BLOCK.self_attn.linear_v_adapter_list.*
"""


def checkpoint_weights(keys: Keys) -> WeightMap:
    """Return the weight map of a Zamba 2 checkpoint.

    A hybrid layer reads the block that the checkpoint stores in this layer, or in the first layer of the same
    block. Without tie_word_embeddings, transformers shares nothing. Then each layer has a separate block,
    with updates for other layers, which nothing reads.
    """
    both = [i for i, hybrid in enumerate(_hybrid(keys)) if hybrid]
    blocks = keys.size("num_mem_blocks", 1)
    of_block = BLOCK + (ADAPTED if keys.get("use_shared_attention_adapter", bool, False) else PLAIN)
    lines = [
        (of_block, i, stored, use)
        for use, i in enumerate(both)
        for stored in dict.fromkeys((i, both[use % blocks]))
    ]
    if not keys.get("tie_word_embeddings", bool, True):
        lines += [(OTHERS, i, i, use) for use, i in enumerate(both)]
    text = "".join(
        part.replace("{i}", str(i)).replace("BLOCK", f"{stored}.shared_transformer").replace("USE", str(use))
        for part, i, stored, use in lines
    )
    return WEIGHTS + weight_map(text).tied()
