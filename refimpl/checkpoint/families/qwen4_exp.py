"""Qwen3.8-Flash-Next (Qwen 2026), whose type is called Qwen4-Exp, as text: Qwen 3.5 with experts, with
several residual streams, with attention to chosen blocks, and with memories of n-grams.

A memory of n-grams, which the checkpoint stores in a layer, is a layer of its own here, before that layer.
The checkpoint's modules that predict further tokens are left out. A GGUF file (`qwen4exp`) has at most one
memory, states the numbers of its hash, and the gates of its recurrent layers are sigmoids.
"""

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from itertools import count, islice
from typing import Any

from ...config import Attention, Decoder, HyperConnections, Layer, MoE, NoMlp, RMSNorm
from ...config.bounds import LIMITS
from ...ops.ngram_memory import NgramMemory
from ...ops.pooled_attention import PooledAttention
from ..config_readers.gguf_keys import (
    RECURRENT,
    SECTIONED,
    Row,
    fixed,
    optional,
    recurrent_layers,
    unused,
    without,
)
from ..config_readers.gguf_metadata import gguf_rows
from ..config_readers.gguf_rope import SECTIONS
from ..config_readers.gguf_weights import EXPERTS
from ..config_readers.keys import ABSENT, Keys
from ..config_readers.layers import layer_count, stated_types
from ..config_readers.text_part import TextModel
from ..formats.tensor_source import TensorSource
from ..weights.weight_map import WeightMap, weight_map
from . import Gguf, Task, decoders
from .qwen2_moe import WEIGHTS as QWEN2_MOE
from .qwen2_vl import LEFT_OUT
from .qwen3_5 import GGUF_WEIGHTS as QWEN35_WEIGHTS
from .qwen3_5 import PREFIX as PREFIX
from .qwen3_5 import PROJECTIONS, text_keys, text_or_images
from .qwen3_5_moe import JOINED_EXPERTS
from .qwen3_next import MIXED_KEYS, delta, every, gated_decoder, gated_weights

MODEL_TYPES = ("qwen4_exp", "qwen4_exp_text")
ARCHITECTURES: dict[str, Task] = {
    "Qwen4ExpForConditionalGeneration": "lm",
    "Qwen4ExpTextModel": "pool",
    **decoders("Qwen4Exp", tasks=()),
}
# "full_attention" is what checkpoints call it.
KINDS = ("linear_attention", "indexed_attention", "full_attention")
INDEXER = (
    "indexer_n_heads", "indexer_kv_heads", "indexer_head_dim", "indexer_budget", "indexer_compress_ratio",
)  # fmt: skip
NGRAMS = (
    "ple_embed_dim", "ple_conv_kernel_size", "ngram_size", "heads_per_ngram", "ngram_vocab_size_base",
    "make_ngram_vocab_size_divisible_by",
)  # fmt: skip
# A table of n-grams in a layer, or one of its parts.
STORED_TABLE = re.compile(
    r"(?:^|\.)layers\.(\d{1,9})\.ple\.ple_embedding\.ngram_embedding\.(shard_\d+\.)?weight", re.ASCII
)
MOST_HEADS = 2**14  # of all memories of n-grams together


def config(keys: Keys, task: Task) -> Decoder:
    return text_or_images(keys, task, TEXT, "qwen4_exp")


def _text(keys: Keys, task: Task) -> Decoder:
    keys = text_keys(keys)
    keys.get("output_router_logits", bool, False)
    keys.get("router_aux_loss_coef", float, None)
    keys.unused("mtp_num_hidden_layers", "mtp_use_dedicated_embeddings")
    keys.unused("number_of_conv_states")  # it follows from ple_layer_ids
    shared = keys.size("shared_expert_intermediate_size", 512)
    keys.unused("intermediate_size")
    base = gated_decoder(keys.replaced({**keys.values, "intermediate_size": shared}), kv_heads=2, rotated=1.0)
    experts = MoE(
        keys.size("num_experts", 512),
        keys.size("num_experts_per_tok", 10),
        keys.size("moe_intermediate_size", 512),
        "silu",
        renormalize=keys.get("norm_topk_prob", bool, True),
        shared=shared,
        shared_gate=True,
    )
    norm = RMSNorm(keys.positive("rms_norm_eps", 1e-6))
    hyper = HyperConnections(keys.size("hc_count", 4), keys.size("hc_lowrank", 320), norm)
    if hyper.streams < 2:
        raise keys.fail("hc_count", "at least 2")
    types = stated_types(keys, KINDS)
    attends = every(keys, layer_count(keys)) if types is None else [kind != KINDS[0] for kind in types]
    if types is not None:
        keys.unused("full_attention_interval")
    recurrent = replace(delta(keys), sigmoid_gate=_sigmoid_gate(keys))
    attention = _indexed(keys, base.stack.attentions[0]) if any(attends) else recurrent
    if not any(attends):
        keys.unused(*INDEXER)
    memories, layers = _memories(keys, attends, hyper), list[Layer]()
    for i, one in enumerate(attends):
        if i in memories:
            layers.append(Layer(memories[i], NoMlp(), hyper=hyper))
        layers.append(Layer(attention if one else recurrent, experts, hyper=hyper))
    return replace(base, stack=replace(base.stack, layers=tuple(layers), final_norm=None))


def _sigmoid_gate(keys: Keys) -> bool:
    """Return whether the gate of a gated delta network is a sigmoid. Without the key it is hidden_act,
    SiLU."""
    key = "output_gate_type"
    return keys.get(key, str, None) is not None and keys.choice(key, {"silu": False, "sigmoid": True})


def _indexed(keys: Keys, attention: Attention) -> PooledAttention:
    """Return attention to the blocks that an indexer chooses, within a budget of tokens."""
    keys.harmless(indexer_kv_heads=(1,))
    budget, size = keys.size("indexer_budget"), keys.size("indexer_compress_ratio")
    if budget % size:
        raise keys.fail("indexer_budget", f"a multiple of indexer_compress_ratio, {size}")
    norm = attention.pre
    assert isinstance(norm, RMSNorm)
    return PooledAttention(
        replace(attention, pre=None),
        index_heads=keys.size("indexer_n_heads"),
        index_size=keys.size("indexer_head_dim"),
        block_size=size,
        blocks=budget // size,
        index_eps=norm.eps,
    )


def _memory_layers(keys: Keys) -> list[int]:
    """Return which layers, counted from 0, have a memory of n-grams before them."""
    stated = keys.get("ple_layer_ids", list, None) or []
    if any(type(i) is not int or not 1 <= i <= layer_count(keys) for i in stated):
        raise keys.fail("ple_layer_ids", f"a list of layers, counted from 1 to {layer_count(keys)}")
    return [i - 1 for i in sorted(set(stated))]


def _memories(keys: Keys, attends: list[bool], hyper: HyperConnections) -> dict[int, NgramMemory]:
    """Return the memory of n-grams of each layer that has one."""
    before = _memory_layers(keys)
    keys.unused("split_ngram_parts")  # the names of the tensors say it
    seed = keys.get("seed", int, 1234, null=True)
    if not before:
        keys.unused(*NGRAMS)
        return {}
    if seed is None:
        raise keys.fail("seed", "a whole number, from which the hash of n-grams follows")
    if any(attends[i] for i in before):
        raise keys.fail("ple_layer_ids", "numbers of layers of the type linear_attention")
    if keys.of_gguf:
        return _stated_memory(keys, before, hyper)
    width, vocabulary = keys.size("hidden_size"), keys.size("vocab_size")
    longest, each = keys.size("ngram_size", 3), keys.size("heads_per_ngram", 8)
    if not 2 <= longest <= LIMITS["kernel"]:
        raise keys.fail("ngram_size", f"from 2 to {LIMITS['kernel']} tokens")
    heads, base = (longest - 1) * each, keys.size("ngram_vocab_size_base", 20_000_000)
    if heads * len(before) > MOST_HEADS:
        raise keys.fail("heads_per_ngram", f"smaller: all layers must have {MOST_HEADS} heads or fewer")
    if base > LIMITS["ngrams"]:
        raise keys.fail("ngram_vocab_size_base", f"at most {LIMITS['ngrams']}")
    total = keys.size("ple_embed_dim", width, null=True) or width
    if total % heads:
        raise keys.fail("ple_embed_dim", f"a multiple of the number of heads of all n-grams, {heads}")
    multiple = keys.size("make_ngram_vocab_size_divisible_by", 128)
    length, end, primes = keys.size("ple_conv_kernel_size", 4), _end(keys), _primes(base)
    memories = {}
    for number, i in enumerate(before):
        rows = tuple(islice(primes, heads))
        memories[i] = NgramMemory(
            multipliers=_multipliers(longest, vocabulary, seed + 10_007 * number),
            primes=rows,
            rows=-(-sum(rows) // multiple) * multiple,
            width=total // heads,
            end=end,
            streams=hyper.streams,
            inputs=width,
            length=length,
            eps=hyper.norm.eps,
        )
    return memories


def _stated_memory(keys: Keys, before: list[int], hyper: HyperConnections) -> dict[int, NgramMemory]:
    """Return the memory of n-grams of a GGUF file, which states the numbers of the hash."""
    longest = keys.size("ngram_size")
    memory = NgramMemory(
        multipliers=_numbers(keys, MULTIPLIERS, longest),
        primes=_numbers(keys, PRIMES, (longest - 1) * keys.size("heads_per_ngram")),
        rows=keys.size("rows"),
        width=keys.size("ple_head_dim"),
        end=keys.get("eos_token_id", int),
        streams=hyper.streams,
        inputs=keys.size("hidden_size"),
        length=keys.size("ple_conv_kernel_size"),
        eps=hyper.norm.eps,
    )
    if keys.get(OFFSETS, list) != [*memory.offsets]:
        raise keys.fail(OFFSETS, f"the sums of the first of {PRIMES}")
    return dict.fromkeys(before, memory)


def _numbers(keys: Keys, key: str, size: int) -> tuple[int, ...]:
    stated = keys.get(key, list)
    if len(stated) != size or any(type(n) is not int or n < 1 for n in stated):
        raise keys.fail(key, f"{size} positive whole numbers")
    return tuple(stated)


def _end(keys: Keys) -> int:
    """Return the token that ends a text: eos_token_id, or the first of a list."""
    stated = keys.values.get("eos_token_id")
    end = stated[0] if isinstance(stated, list) and stated else stated
    if type(end) is not int:
        raise keys.fail(
            "eos_token_id",
            "the id of the token that ends a text, because memories of n-grams read this token",
        )
    return end


def _primes(least: int) -> Iterator[int]:
    """Yield the primes from `least` on, up to 2^31 and some more."""
    return (number for number in count(least) if _is_prime(number))


def _is_prime(number: int) -> bool:
    """Return whether a number below 3,215,031,751 is prime, by the test of Miller and Rabin, which is exact
    for four bases there.
    """
    if number < 2 or any(number % base == 0 for base in (2, 3, 5, 7)):
        return number in (2, 3, 5, 7)
    twos = (number - 1 & 1 - number).bit_length() - 1
    odd = number - 1 >> twos
    for base in (2, 3, 5, 7):
        power = pow(base, odd, number)
        if power != 1 and all(pow(power, 2**i, number) != number - 1 for i in range(twos)):
            return False
    return True


def _multipliers(longest: int, vocabulary: int, seed: int) -> tuple[int, ...]:
    """Return an odd multiplier for each token of an n-gram, from the generator splitmix64 (Steele et al.
    2014), so small that no product overflows 64 bits.
    """
    half, mask, gamma = max(1, (2**63 - 1) // vocabulary // 2), 2**64 - 1, 0x9E3779B97F4A7C15
    multipliers = []
    for i in range(longest):
        value = seed + gamma * (i + 2) & mask
        value = (value ^ value >> 30) * 0xBF58476D1CE4E5B9 & mask
        value = (value ^ value >> 27) * 0x94D049BB133111EB & mask
        multipliers.append(2 * ((value ^ value >> 31) % half) + 1)
    return tuple(multipliers)


TEXT = TextModel(
    _text,
    {"vocab_size": 248_320, "hidden_size": 2048, "num_hidden_layers": 40, "num_attention_heads": 16},
)
HYPER = weight_map("""
    decoder.layers.{i}.P_hyper.norm <- layers.{i}.P_hyper_connection.hc_norm.weight
    decoder.layers.{i}.P_hyper.{down,up} <- layers.{i}.P_hyper_connection.input_mix_weight_{down,up}.weight
    decoder.layers.{i}.P_hyper.open <- layers.{i}.P_hyper_connection.block_inject_weight.weight
""")
JOIN = weight_map("""
    decoder.join.norm <- hyper_connection_mixer.hc_norm.weight
    decoder.join.{down,up} <- hyper_connection_mixer.input_mix_weight_{down,up}.weight
""")
INDEX = weight_map("""
    decoder.layers.{i}.attn.wq_index, wk_index <- layers.{i}.self_attn.indexer.index_qk_proj.weight
    decoder.layers.{i}.attn.index_{q,k}_norm <- layers.{i}.self_attn.indexer.{q,k}_layernorm.weight
""")
MEMORY = weight_map("""
    decoder.layers.{i}.attn.table <- layers.{i}.ple.ple_embedding.ngram_embedding.weight
    decoder.layers.{i}.attn.{w_key,w_value} <- layers.{i}.ple.{key,value}_proj.weight
    decoder.layers.{i}.attn.{key,query,conv}_norm <- layers.{i}.ple.norm_{key,query,conv}.weight
    decoder.layers.{i}.attn.memory_conv <- layers.{i}.ple.conv1d.weight : taps
    decoder.layers.{i}.attn.multipliers == layers.{i}.ple.ple_embedding.layer_multipliers
    decoder.layers.{i}.attn.primes == layers.{i}.ple.ple_embedding.ngram_heads_vocab_sizes
    decoder.layers.{i}.attn.offsets == layers.{i}.ple.ple_embedding.ngram_heads_offsets
""")
# A memory and the layer after it have the same number in the checkpoint.
OWN = {"layers.{i}.": "layers.{block}.", "decoder.layers.{block}.": "decoder.layers.{i}."}
ADDED = (
    (
        HYPER.renamed({"P_hyper": "attn_hyper"})
        + HYPER.renamed({"P_hyper": "mlp_hyper"})
        + JOIN
        + INDEX
        + MEMORY
    )
    .then("plus_one", lambda tensor: "norm" in tensor)
    .then(
        "transpose",
        lambda tensor: tensor.endswith(("proj.weight", "inject_weight.weight")) or "mix_weight" in tensor,
    )
)
WEIGHTS = (gated_weights(QWEN2_MOE) + PROJECTIONS + JOINED_EXPERTS + ADDED).renamed(OWN) + LEFT_OUT


def checkpoint_weights(keys: Keys) -> WeightMap:
    """Return the weight map of a checkpoint. If tables of n-grams are in several parts, the names of the
    tensors say in how many.
    """
    found = [match for name in keys.tensors or () if (match := STORED_TABLE.search(name))]
    parts, lines = Counter(int(match[1]) for match in found if match[2]), list[str]()
    for earlier, block in enumerate(sorted({int(match[1]) for match in found})):
        table = f"layers.{block}.ple.ple_embedding.ngram_embedding"
        shards = " + ".join(f"{table}.shard_{n}.weight" for n in range(parts[block]))
        # Each memory is a layer of its own, so the decoder's numbers are greater by the earlier memories.
        lines += [f"decoder.layers.{block + earlier}.attn.table <- {shards}"] if shards else []
    return weight_map("\n".join(lines)) + WEIGHTS


def _block_size(keys: Keys, source: TensorSource) -> int:
    """Return the number of tokens of an indexer's block, the same in all layers that have an indexer."""
    stated, kinds = keys.get(RATIOS, list), LAYERS.read(keys, source)
    size = max((n for n in stated if type(n) is int), default=0)
    if size < 1 or stated[: len(kinds)] != [size * (kind == "full_attention") for kind in kinds]:
        raise keys.fail(RATIOS, "one number in all layers with full attention, and 0 in the others")
    return size


def _places(keys: Keys, _: TensorSource) -> list[Any]:
    """Return the layer with a memory of n-grams, counted from 1. llama.cpp has at most one."""
    stated = keys.get(PLACES, list, [])
    if len(stated) > 1 or any(type(i) is not int for i in stated):
        raise keys.fail(PLACES, "at most one layer")
    return [i + 1 for i in stated]


LAYERS, RATIOS = recurrent_layers(4), "attention.compress_ratios"
PLACES, OFFSETS = "ple.layers", "ple.head_offsets"
MULTIPLIERS, PRIMES = "ple.layer_multipliers", "ple.head_vocab_sizes"
TABLE = "per_layer_token_embd.weight"
KEYS = {
    **without(MIXED_KEYS, "mlp_only_layers", "intermediate_size"),
    **SECTIONED,
    "model_type": fixed("qwen4_exp_text"),
    "feed_forward_length": unused("feed_forward_length", int, 0),
    "output_gate_type": fixed("sigmoid"),
    "hc_count": "hyper_connection.count",
    "hc_lowrank": "hyper_connection.low_rank",
    "indexer_n_heads": "attention.indexer.head_count",
    "indexer_head_dim": "attention.indexer.key_length",
    "indexer_budget": "attention.indexer.top_k",
    "indexer_compress_ratio": Row(_block_size, RATIOS),
    "ple_layer_ids": Row(_places, PLACES),
    "ngram_size": optional("ple.ngram_size"),
    "heads_per_ngram": optional("ple.heads_per_ngram"),
    "ple_conv_kernel_size": optional("ple.conv_kernel"),
    "eos_token_id": optional("ple.eos_token_id"),
    "ple.image_token_id": unused("ple.image_token_id", int, 0),
    "ple_head_dim": optional("embedding_length_per_layer_input"),
    MULTIPLIERS: optional(MULTIPLIERS),
    OFFSETS: optional(OFFSETS),
    PRIMES: optional(PRIMES),
    "rows": Row(lambda keys, source: gguf_rows(keys, source, TABLE) if TABLE in source.names else ABSENT),
}
GGUF_HYPER = weight_map("""
    decoder.layers.{i}.P_hyper.norm <- blk.{block}.hc_P_norm.weight
    decoder.layers.{i}.P_hyper.{down,up,open} <- blk.{block}.hc_P_{down,up,inject}.weight : transpose
""")
GGUF_ADDED = (
    GGUF_HYPER.renamed({"P_hyper": "attn_hyper", "hc_P": "hc_attn"})
    + GGUF_HYPER.renamed({"P_hyper": "mlp_hyper", "hc_P": "hc_ffn"})
    + weight_map("""
    decoder.join.norm <- output_hc_norm.weight
    decoder.join.{down,up} <- output_hc_{down,up}.weight : transpose
    decoder.layers.{i}.attn.{wq,wk}_index <- blk.{block}.indexer.{q,k}_proj.weight : transpose
    decoder.layers.{i}.attn.index_{q,k}_norm <- blk.{block}.indexer.{q,k}_norm.weight
    decoder.layers.{i}.attn.table <- per_layer_token_embd.weight
    decoder.layers.{i}.attn.{w_key,w_value} <- blk.{block}.ple_{key,value}.weight : transpose
    decoder.layers.{i}.attn.{key,query,conv}_norm <- blk.{block}.ple_norm_{key,query,conv}.weight
    decoder.layers.{i}.attn.memory_conv <- blk.{block}.ple_conv1d.weight : transpose
""")
)
GGUF_OWN = {"blk.{i}.": "blk.{block}.", "decoder.layers.{block}.": "decoder.layers.{i}."}
GGUF = Gguf(
    "qwen4exp",
    KEYS,
    (QWEN35_WEIGHTS + EXPERTS).renamed(GGUF_OWN) + GGUF_ADDED,
    arrays=(SECTIONS, RECURRENT, RATIOS, PLACES, OFFSETS, MULTIPLIERS, PRIMES),
)
