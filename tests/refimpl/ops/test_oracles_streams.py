"""Hyper-connections, memories of n-grams and attention to chosen blocks against transformers' Qwen4-Exp."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from helpers.float64 import in_float64, randomize
from helpers.tolerances import equal
from hypothesis import given, settings
from hypothesis import strategies as st
from tfm.refimpl.checkpoint.families import read_config
from tfm.refimpl.config import HyperConnections, RMSNorm
from tfm.refimpl.ops.hyper_connections import join_streams, mix_streams, to_streams
from tfm.refimpl.ops.ngram_memory import NgramMemory, NgramState, ngram_memory, ngram_rows
from tfm.refimpl.ops.pooled_attention import IndexedKV, PooledAttention, pooled_attention
from tfm.refimpl.ops.position import Rotary, rope_frequencies, rope_tables
from transformers import Qwen4ExpTextConfig
from transformers.models.qwen4_exp import modeling_qwen4_exp as qwen4

D, X, T, EPS = 10, 3, 13, 1e-3
seeds = st.integers(0, 2**32 - 1)


def config(**more: Any) -> Qwen4ExpTextConfig:
    """Sizes that all differ, of one recurrent and one attending layer."""
    return Qwen4ExpTextConfig(
        vocab_size=23, hidden_size=D, num_hidden_layers=2, num_attention_heads=6, num_key_value_heads=2,
        head_dim=8, hc_count=X, hc_lowrank=7, rms_norm_eps=EPS, eos_token_id=4, indexer_kv_heads=1,
        layer_types=["linear_attention", "full_attention"], attn_implementation="eager",
        rope_parameters={"rope_type": "default", "rope_theta": 100.0, "partial_rotary_factor": 0.5},
        **{"indexer_n_heads": 17, "indexer_head_dim": 14, "indexer_budget": 6, "indexer_compress_ratio": 3}
        | more,
    )  # fmt: skip


def stored(module: Any) -> dict[str, np.ndarray]:
    return {name: weight.detach().numpy() for name, weight in module.named_parameters()}


@given(seeds)
def test_mix_streams_is_qwen4s(seed: int):
    module: Any = randomize(qwen4.Qwen4ExpTextGatedResidual(config()), seed)
    theirs, rng = stored(module), np.random.default_rng(seed)
    x, y = rng.standard_normal((2, 5, X, D)), rng.standard_normal((2, 5, D))
    names = {"down": "input_mix_weight_down", "up": "input_mix_weight_up", "open": "block_inject_weight"}
    weights: Any = {ours: theirs[f"{name}.weight"].T for ours, name in names.items()}
    weights["norm"] = 1 + theirs["hc_norm.weight"]
    hyper = HyperConnections(X, 7, RMSNorm(EPS))
    read, openings = mix_streams(x, weights, settings=hyper)
    mixed, _, opened = in_float64(module, torch.from_numpy(x.reshape(2, 5, -1)))
    equal(read, mixed)
    equal(to_streams(y, openings), torch.from_numpy(y)[:, :, None] * opened[..., None])
    del weights["open"]
    equal(join_streams(x, weights, settings=hyper), mixed)


def memory(longest: int, each: int, seed: int) -> tuple[Any, NgramMemory, Any]:
    """transformers' layer, its settings and its weights here."""
    keys = {
        "ple_layer_ids": [1], "ple_embed_dim": 5 * each * (longest - 1), "ngram_size": longest,
        "heads_per_ngram": each, "ngram_vocab_size_base": 11, "ple_conv_kernel_size": 3,
        "make_ngram_vocab_size_divisible_by": 16, "split_ngram_parts": 1,
    }  # fmt: skip
    module: Any = randomize(qwen4.Qwen4ExpTextPLELayer(config(**keys), 0, 0), seed)
    ours, _ = read_config(config(**keys).to_dict())
    settings: Any = ours.layers[0].attention
    theirs = stored(module)
    weights: Any = {
        "table": theirs["ple_embedding.ngram_embedding.weight"],
        "w_key": theirs["key_proj.weight"].T, "w_value": theirs["value_proj.weight"].T,
        "memory_conv": theirs["conv1d.weight"][:, 0].T,
        **{f"{name}_norm": 1 + theirs[f"norm_{name}.weight"] for name in ("key", "query", "conv")},
    }  # fmt: skip
    return module, settings, weights


@settings(max_examples=20)
@given(seeds, st.integers(2, 4), st.integers(1, 2), st.integers(1, T - 1))
def test_ngram_memory_is_qwen4s(seed: int, longest: int, each: int, cut: int):
    """A text at once there, in two calls here, after what another text left; with ends inside of it.

    Then a row that is padded on the right.
    """
    module, own, weights = memory(longest, each, seed)
    rng = np.random.default_rng(seed)
    x, tokens = rng.standard_normal((2, T, X, D)), rng.integers(2, 7, (2, T))
    want = in_float64(module, torch.from_numpy(x.reshape(2, T, -1)), torch.from_numpy(tokens), None)
    want = want.reshape(x.shape)
    tail = np.full((2, 2 * longest, X * D), 9.0)
    garbage, none = NgramState(tail, np.full((2, longest - 1), 3.0)), np.zeros(2, np.int64)

    def run(first: int, end: int, state: Any, past: np.ndarray, of: np.ndarray = x) -> Any:
        return ngram_memory(of[:, first:end], state, past, weights, tokens[:, first:end], settings=own)

    first, state = run(0, cut, garbage, none)
    second, _ = run(cut, T, state, none + cut)
    equal(np.concatenate([first, second], 1), want)
    # The second row has only `cut` tokens in the first call, and then goes on alone.
    lengths = np.array([T, cut])
    first, state = run(0, T, garbage._replace(lengths=lengths), none)
    equal(first[1, :cut], want[1, :cut])
    rest, _ = run(cut, T, state, lengths)
    equal(rest[1], want[1, cut:])


def test_an_ngram_ends_with_a_text_by_hand():
    """Of the token 4, which ends a text, nothing before is seen. Rows follow from the sums by hand."""
    own = NgramMemory((1, 10, 100), (1000, 997), 2000, 1, end=4, streams=X, inputs=D)
    context, tokens = np.array([[7, 4]]), np.array([[5, 4, 6, 3]])
    first = [5 ^ 40, 4 ^ 50, 6 ^ 40, 3 ^ 60]
    second = [5 ^ 40 ^ 400, 4 ^ 50 ^ 400, 6 ^ 40 ^ 400, 3 ^ 60 ^ 400]
    assert not own.cache_kind().in_chunks, "all of this takes memory for each token alone"
    rows = ngram_rows(context, tokens, settings=own)
    assert rows[0].T.tolist() == [first, [1000 + one % 997 for one in second]]


@settings(max_examples=20)
@given(seeds, st.sampled_from([1, 2, 9]), st.integers(2, 4), st.integers(1, T - 1))
def test_pooled_attention_is_qwen4s(seed: int, blocks: int, size: int, cut: int):
    """A text at once there, in two calls here, with garbage in the cache before and behind it."""
    keys = config(indexer_budget=blocks * size, indexer_compress_ratio=size)
    module: Any = randomize(qwen4.Qwen4ExpTextAttention(keys, 1), seed)
    read, _ = read_config(keys.to_dict())
    own: Any = read.layers[1].attention
    assert isinstance(own, PooledAttention)
    assert (own.blocks, own.block_size) == (blocks, size)
    theirs, x = stored(module), np.random.default_rng(seed).standard_normal((2, T, D))
    rotary = Rotary(*rope_tables(np.arange(T + 2), rope_frequencies(np.arange(2), theta=100.0)))
    twice = (np.concatenate([a[:T], a[:T]], -1) for a in rotary)
    positions = tuple(torch.from_numpy(a)[None].repeat(2, 1, 1) for a in twice)
    mask = torch.full((2, 1, T, T), -torch.inf, dtype=torch.float64).triu(1)
    want, _ = in_float64(module, torch.from_numpy(x), positions, mask)
    both = theirs["q_proj.weight"].reshape(6, 2, 8, D)
    weights: Any = {
        "wq": both[:, 0].reshape(48, D).T, "wg": both[:, 1].reshape(48, D).T,
        **{f"w{n}": theirs[f"{n}_proj.weight"].T for n in "kvo"},
        **{f"{n}_norm": 1 + theirs[f"{n}_norm.weight"] for n in "qk"},
        "wq_index": theirs["indexer.index_qk_proj.weight"][:-14].T,
        "wk_index": theirs["indexer.index_qk_proj.weight"][-14:].T,
        **{f"index_{n}_norm": 1 + theirs[f"indexer.{n}_layernorm.weight"] for n in "qk"},
    }  # fmt: skip
    shapes = (2, 2, T + 2, 8), (2, 2, T + 2, 8), (2, 1, T + 2, 14)
    cache, none = IndexedKV(*(np.full(shape, 9.0) for shape in shapes)), np.zeros(2, np.int64)
    first, cache = pooled_attention(x[:, :cut], cache, none, weights, rotary, settings=own)
    second, _ = pooled_attention(x[:, cut:], cache, none + cut, weights, rotary, settings=own)
    equal(np.concatenate([first, second], 1), want)


@pytest.mark.parametrize("product", [-3.0, -1e-9, 0.0, 1e-9, 3.0])
def test_a_gate_of_a_memory_has_the_sign_of_its_product(product: float):
    """Streams of one number, which is its own norm: the gate is σ(±√3), or a half for no product."""
    own = NgramMemory((1, 1), (1,), 1, 1, 0, streams=2, inputs=1, length=2, eps=1e-12)
    ones = np.ones(2)
    weights: Any = {
        "table": np.ones((1, 1)), "w_key": np.ones((1, 2)), "w_value": np.ones((1, 1)),
        "key_norm": ones * product, "query_norm": ones, "conv_norm": ones, "memory_conv": np.zeros((2, 2)),
    }  # fmt: skip
    state = NgramState(np.zeros((1, 2, 2)), np.zeros((1, 1)))
    y, _ = ngram_memory(np.ones((1, 1, 2, 1)), state, np.array([0]), weights, np.array([[0]]), settings=own)
    root = np.sign(product) * max(abs(product), 1e-6) ** 0.5
    np.testing.assert_allclose(y.ravel(), 1 / (1 + np.exp(-root)), rtol=1e-6)
