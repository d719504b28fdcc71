"""The lightning indexer, and latent attention over what it chooses, against transformers' DeepSeek-V3.2 and
Mistral Large 4; the indexer of blocks against transformers' MiniMax-M3."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from helpers.float64 import in_float64, randomize
from helpers.tolerances import equal
from hypothesis import given
from hypothesis import strategies as st
from tfm.refimpl.config import BlockIndexer, Indexer, Rope
from tfm.refimpl.ops.indexed_attention import IndexedAttention, IndexedKV, best_blocks, indexed_attention
from tfm.refimpl.ops.indexer import best_keys, index_scores
from tfm.refimpl.ops.latent_attention import LatentAttention, LatentCache, latent_attention
from tfm.refimpl.ops.position import Rotary, rope_frequencies, rope_tables
from transformers import DeepseekV32Config, MiniMaxM3VLTextConfig, MistralLarge4TextConfig
from transformers.cache_utils import KVSharingDict
from transformers.models.deepseek_v32.modeling_deepseek_v32 import DeepseekV32Attention
from transformers.models.minimax_m3_vl.modeling_minimax_m3_vl import MiniMaxM3VLAttention
from transformers.models.mistral_large4.modeling_mistral_large4 import MistralLarge4TextAttention

H, D, C, U, V, DIMS, T, RANK, X, P = 3, 15, 10, 4, 6, 8, 9, 11, 17, 14
OURS = {
    "q_a_proj": "wq_a", "q_b_proj": "wq", "kv_a_proj_with_mqa": "wkv_a", "o_proj": "wo",
    "q_a_layernorm": "q_norm", "kv_a_layernorm": "kv_norm", "indexer.wq_b": "wq_index",
    "indexer.wk": "wk_index", "indexer.weights_proj": "w_index", "q_proj": "wq",
    "softmax_scaling.scale": "q_slope", "softmax_scaling.bias": "q_offset",
    "indexer.softmax_scaling.scale": "index_slope", "indexer.softmax_scaling.bias": "index_offset",
    "indexer.q_input_norm": "index_q_norm", "indexer.q_input_norm.bias": "index_q_bias",
}  # fmt: skip


def module(topk: int, seed: int) -> Any:
    config = DeepseekV32Config(
        hidden_size=D, num_attention_heads=H, num_key_value_heads=H, kv_lora_rank=C, q_lora_rank=RANK,
        qk_nope_head_dim=U, qk_rope_head_dim=DIMS, v_head_dim=V, index_topk=topk, index_n_heads=X,
        index_head_dim=P, attn_implementation="eager",
    )  # fmt: skip
    return randomize(DeepseekV32Attention(config, 0), seed)


@given(st.integers(0, 2**32 - 1), st.sampled_from([1, 2, 4, 20]), st.integers(1, T - 1))
def test_indexer_is_deepseeks(seed: int, topk: int, cut: int):
    """A text at once there, in two calls here, with garbage in the cache before and behind it."""
    attention, rng = module(topk, seed), np.random.default_rng(seed)
    x = rng.standard_normal((2, T, D))
    rotary = Rotary(*rope_tables(np.arange(T + 3), rope_frequencies(np.arange(DIMS // 2), theta=100.0)))
    positions = tuple(torch.from_numpy(np.concatenate([a[:T], a[:T]], -1))[None] for a in rotary)
    mask = torch.full((2, 1, T, T), -torch.inf, dtype=torch.float64).triu(1)
    expected, _ = in_float64(
        attention, hidden_states=torch.from_numpy(x), attention_mask=mask, position_embeddings=positions
    )
    settings = LatentAttention(H, C, U, V, Rope(100.0, DIMS, True), RANK, indexer=Indexer(X, P, topk))
    equal(in_two_calls(x, cut, attention, rotary, settings), expected)


@given(st.integers(0, 2**32 - 1), st.sampled_from([1, 2, 4, 20]), st.integers(1, T - 1), st.booleans())
def test_indexer_is_mistrals(seed: int, topk: int, cut: int, rotates: bool):
    """Queries from x, scaled by their position, with positions and without them."""
    config = MistralLarge4TextConfig(
        hidden_size=D, num_attention_heads=H, num_key_value_heads=H, kv_lora_rank=C, qk_nope_head_dim=U,
        qk_rope_head_dim=DIMS, v_head_dim=V, index_topk=topk, index_n_heads=X, index_head_dim=P,
        attn_implementation="eager", attention_bias=False, num_hidden_layers=1,
        no_rope_layers=[int(rotates)], rms_norm_eps=1e-3,
    )  # fmt: skip
    attention, rng = randomize(MistralLarge4TextAttention(config, 0), seed), np.random.default_rng(seed)
    x = rng.standard_normal((2, T, D))
    rotary = Rotary(*rope_tables(np.arange(T + 3), rope_frequencies(np.arange(DIMS // 2), theta=100.0)))
    mask = torch.full((2, 1, T, T), -torch.inf, dtype=torch.float64).triu(1)
    expected, *_ = in_float64(
        attention,
        hidden_states=torch.from_numpy(x),
        attention_mask=mask,
        position_embeddings=tuple(torch.from_numpy(np.concatenate([a[:T], a[:T]], -1))[None] for a in rotary),
        shared_kv_states=KVSharingDict(),
        position_ids=torch.arange(T)[None],
    )
    position, shared, size = (Rope(100.0, DIMS, True), None, U) if rotates else (None, 0, U + DIMS)
    settings = LatentAttention(
        H, C, size, V, position, norm_eps=1e-3, indexer=Indexer(X, P, topk, interleaved=True),
        shared_size=shared, log_scale=True,
    )  # fmt: skip
    equal(in_two_calls(x, cut, attention, rotary if rotates else None, settings), expected)


def in_two_calls(
    x: np.ndarray, cut: int, attention: Any, rotary: Rotary | None, settings: LatentAttention
) -> np.ndarray:
    """Our outputs with the weights of transformers' module, in two calls cut there."""
    stored = {name: weight.detach().numpy() for name, weight in attention.named_parameters()}
    both = stored.pop("kv_b_proj.weight").reshape(H, settings.key_size + V, C)
    leaves: Any = {
        "wk_b": both[:, : settings.key_size].transpose(2, 0, 1).reshape(C, -1),
        "wv_b": both[:, settings.key_size :].transpose(2, 0, 1).reshape(C, -1),
        "index_norm": stored.pop("indexer.k_norm.weight"), "index_bias": stored.pop("indexer.k_norm.bias"),
        **{OURS[name.removesuffix(".weight")]: weight.T for name, weight in stored.items()},
    }  # fmt: skip
    cache = LatentCache(np.full((2, 1, T + 3, C + settings.key_dims), 9.0), np.full((2, 1, T + 3, P), 9.0))
    first, cache, _ = latent_attention(x[:, :cut], cache, np.array([0, 0]), leaves, rotary, settings=settings)
    second, *_ = latent_attention(x[:, cut:], cache, np.array([cut, cut]), leaves, rotary, settings=settings)
    return np.concatenate([first, second], 1)


def test_best_keys_is_topk():
    """Where no two scores are equal."""
    scores = np.random.default_rng(1).standard_normal((2, 6, 7))
    for topk in (1, 3, 7):
        index = torch.from_numpy(scores).topk(topk).indices
        expected = torch.zeros(scores.shape, dtype=torch.bool).scatter(2, index, True)
        assert (best_keys(scores, np.ones(scores.shape, bool), topk=topk) == expected.numpy()).all()


def test_a_score_by_hand():
    """Two heads; what is negative doesn't count, however large."""
    q, k = np.array([[[[1.0, 2.0], [3.0, -1.0]]]]), np.array([[[1.0, 1.0], [-2.0, 0.5]]])
    weights = np.array([[[0.5, 2.0]]])
    assert index_scores(q, k, weights).tolist() == [[[0.5 * 3 + 2 * 2, 0.0]]]


@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from([(1, 1), (2, 0), (2, 1), (3, 2), (9, 1)]),
    st.sampled_from([1, 2, 5]),
    st.integers(1, T - 1),
)
def test_indexed_attention_is_minimaxs(seed: int, chosen: tuple[int, int], block: int, cut: int):
    """A text at once there, in two calls here, with garbage in the cache before and behind it."""
    topk, local = chosen
    config = MiniMaxM3VLTextConfig(
        hidden_size=D, num_attention_heads=6, num_key_value_heads=3, head_dim=10, num_hidden_layers=1,
        layer_types=["minimax_m3_sparse"], index_n_heads=3, index_head_dim=P, index_block_size=block,
        index_topk_blocks=topk, index_local_blocks=local, rms_norm_eps=0.01, attn_implementation="eager",
    )  # fmt: skip
    attention, rng = randomize(MiniMaxM3VLAttention(config, 0), seed), np.random.default_rng(seed)
    x = rng.standard_normal((2, T, D))
    rotary = Rotary(*rope_tables(np.arange(T + 3), rope_frequencies(np.arange(DIMS // 2), theta=100.0)))
    positions = tuple(torch.from_numpy(np.concatenate([a[:T], a[:T]], -1))[None] for a in rotary)
    expected, _ = in_float64(
        attention, hidden_states=torch.from_numpy(x), position_embeddings=positions, attention_mask=None
    )
    stored = {name: weight.detach().numpy() for name, weight in attention.named_parameters()}
    leaves: Any = {f"w{n}": stored[f"{n}_proj.weight"].T for n in "qkvo"}
    for n in "qk":
        leaves |= {
            f"{n}_norm": 1 + stored[f"{n}_norm.weight"],
            f"{n}_index_norm": 1 + stored[f"indexer.{n}_norm.weight"],
            f"w{n}_index": stored[f"indexer.{n}_proj.weight"].T,
        }
    settings = IndexedAttention(6, 3, 10, Rope(100.0, DIMS), BlockIndexer(P, block, topk, local), 0.01)
    cache = IndexedKV(*(np.full((2, heads, T + 3, size), 9.0) for heads, size in ((3, 10), (3, 10), (1, P))))
    first, cache = indexed_attention(x[:, :cut], cache, np.array([0, 0]), leaves, rotary, settings=settings)
    second, _ = indexed_attention(x[:, cut:], cache, np.array([cut, cut]), leaves, rotary, settings=settings)
    equal(np.concatenate([first, second], 1), expected)


def test_best_blocks_by_hand():
    """Blocks of two keys, the last of one key: the largest score counts, of equal ones the first."""
    scores, at = np.array([[[1.0, 5.0, 2.0, 2.0, 9.0, 9.0, 3.0]] * 3]), np.array([[0, 3, 6]])
    for topk, local, expected in (
        (1, 0, [[0], [0, 1], [4, 5]]),
        (1, 1, [[0], [2, 3], [6]]),
        (2, 1, [[0], [0, 1, 2, 3], [4, 5, 6]]),
        (3, 2, [[0], [0, 1, 2, 3], [0, 1, 4, 5, 6]]),
    ):
        seen = best_blocks(scores, at, block_size=2, topk=topk, local=local)[0]
        assert [np.flatnonzero(row).tolist() for row in seen] == expected
    below = best_blocks(scores - 9, at, block_size=2, topk=1, local=0)  # later keys count for nothing, not 0
    assert [np.flatnonzero(row).tolist() for row in below[0]] == [[0], [0, 1], [4, 5]]
    later = best_blocks(-scores, np.array([[2, 2, 2]]), block_size=2, topk=1, local=0)
    assert [np.flatnonzero(row).tolist() for row in later[0]] == [[0, 1]] * 3
