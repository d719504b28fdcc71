"""Disentangled attention, and the convolution beside it, against transformers' DeBERTa."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from helpers.float64 import in_float64, randomize
from helpers.tolerances import equal
from hypothesis import given
from hypothesis import strategies as st
from tfm.refimpl.config import Distances
from tfm.refimpl.ops.disentangled import (
    DisentangledAttention,
    DistanceTable,
    disentangled_attention,
    distance_rows,
    distance_scores,
)
from tfm.refimpl.ops.neighbour_conv import neighbour_conv
from transformers import DebertaV2Config
from transformers.models.deberta_v2 import modeling_deberta_v2 as theirs

H, K, T, SPAN = 3, 5, 12, 4
KEYS: dict[str, Any] = {
    "hidden_size": H * K, "num_attention_heads": H, "relative_attention": True, "max_relative_positions": 9
}  # fmt: skip


def test_distance_rows_is_debertas():
    """With the sizes of v2 and v3, in transformers' float32 too; and with small ones."""
    for span, until in ((256, 512), (8, 20), (4, 6), (2, 9)):
        distances = torch.arange(-2 * until, 2 * until + 1)
        log = theirs.make_log_bucket_position
        for rows in (log(distances, span, until), in_float64(log, distances, span, until)):
            expected = torch.clamp(rows.long() + span, 0, 2 * span - 1)
            got = distance_rows(distances.numpy(), np.array([0]), span=span, log_until=until)
            assert np.array_equal(got[:, 0], expected)


def module(terms: list[str], seed: int, **more: Any) -> Any:
    config = DebertaV2Config(**KEYS, position_buckets=SPAN, pos_att_type=terms, **more)
    return randomize(theirs.DisentangledSelfAttention(config), seed)


def heads(x: Any) -> np.ndarray:
    """[N, L, K] of heads, or of rows and heads, as [L, N, K]."""
    return x.detach().numpy().transpose(1, 0, 2)


@given(st.integers(0, 2**32 - 1), st.sampled_from([["c2p", "p2c"], ["c2p"], ["p2c"]]))
def test_distance_scores_is_debertas(seed: int, terms: list[str]):
    attention, rng = module(terms, seed), np.random.default_rng(seed)
    q, k = (torch.from_numpy(rng.standard_normal((H, T, K))) for _ in range(2))
    vectors = torch.from_numpy(rng.standard_normal((2 * SPAN, H * K)))
    rows = distance_rows(np.arange(T), np.arange(T), span=SPAN, log_until=9)
    relative = theirs.build_relative_position(q, k, SPAN, 9)
    expected = in_float64(attention.disentangled_attention_bias, q, k, relative, vectors, 1 + len(terms))
    maps = {"q_pos": "pos_query_proj", "k_pos": "pos_key_proj"}
    split = {name: getattr(attention, leaf, None) for name, leaf in maps.items()}
    mapped = {
        name: None if leaf is None else leaf(vectors).detach().numpy().reshape(-1, H, K)
        for name, leaf in split.items()
    }
    scale = (K * (1 + len(terms))) ** -0.5
    got = distance_scores(heads(q)[None], heads(k)[None], rows, **mapped, scale=scale)
    equal(got[0], expected.numpy())


@given(st.integers(0, 2**32 - 1), st.booleans(), st.sampled_from([["c2p", "p2c"], ["c2p"], ["p2c"]]))
def test_disentangled_is_debertas(seed: int, shared: bool, terms: list[str]):
    """With an output map that changes nothing, which is another module there."""
    attention, rng = module(terms, seed, share_att_key=shared), np.random.default_rng(seed)
    x, vectors = rng.standard_normal((2, T, H * K)), rng.standard_normal((2 * SPAN, H * K))
    lengths = np.array([T, rng.integers(1, T + 1)])
    real = torch.from_numpy(np.arange(T) < lengths[:, None])
    mask = real[:, None, None] & real[:, None, :, None]
    rows = distance_rows(np.arange(T), np.arange(T), span=SPAN, log_until=9)
    expected, _ = in_float64(attention, torch.from_numpy(x), mask, rel_embeddings=torch.from_numpy(vectors))
    names = {"q": "query_proj", "k": "key_proj", "v": "value_proj"}
    if not shared:
        names |= {"q_pos": "pos_query_proj"} if "p2c" in terms else {}
        names |= {"k_pos": "pos_key_proj"} if "c2p" in terms else {}
    leaves: Any = {"wo": np.eye(H * K)}
    for name, leaf in names.items():
        leaves[f"w{name}"] = getattr(attention, leaf).weight.detach().numpy().T
        leaves[f"b{name}"] = getattr(attention, leaf).bias.detach().numpy()
    settings = DisentangledAttention(H, K, Distances(SPAN, 9), "c2p" in terms, "p2c" in terms, shared=shared)
    got = disentangled_attention(x, lengths, leaves, DistanceTable(rows, vectors), settings=settings)
    equal(got[real.numpy()], expected.numpy()[real.numpy()])


@given(st.integers(0, 2**32 - 1), st.sampled_from([1, 3, 5]))
def test_neighbour_conv_is_torchs(seed: int, size: int):
    conv = randomize(torch.nn.Conv1d(7, 7, size, padding=size // 2), seed)
    x = np.random.default_rng(seed).standard_normal((2, 6, 7))
    weight = conv.weight.detach().numpy().transpose(2, 1, 0).reshape(-1, 7)
    leaves: Any = {"weight": weight, "bias": conv.bias.detach().numpy()}
    full = conv(torch.from_numpy(x).mT).mT.detach().numpy()
    equal(neighbour_conv(x, np.array([6, 6]), leaves, neighbours=size // 2), full)
    x[:, 4:] = 0
    padded = conv(torch.from_numpy(x).mT).mT.detach().numpy()[:, :4]
    x[:, 4:] = 9
    equal(neighbour_conv(x, np.array([4, 4]), leaves, neighbours=size // 2)[:, :4], padded)
