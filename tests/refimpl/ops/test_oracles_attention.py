"""The kinds of attention against others: torch's flash kernel and autograd, flex attention, Longformer.

No library has the linear forms with a quotient (neither torch nor transformers nor ONNX): they are held to
their quadratic form, written in torch, and random features to softmax attention, which they estimate.
`delta_attend` is held to ONNX's LinearAttention in test_onnx_cases. Ring attention in torch needs a GPU, so
the result is held to torch's attention in one piece.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from helpers.tolerances import equal, largest
from hypothesis import given, settings
from hypothesis import strategies as st
from tfm.refimpl.config import Attention, BlockSparse
from tfm.refimpl.ops.attention import attend, cached_attention
from tfm.refimpl.ops.banded import banded_attend
from tfm.refimpl.ops.cache import KVCache
from tfm.refimpl.ops.flash import Saved, flash_attend, flash_backward
from tfm.refimpl.ops.linear_attention import (
    LinearAttention,
    LinearState,
    linear_attend,
    linear_attention,
    linear_chunked,
    linear_parallel,
    random_features,
)
from tfm.refimpl.ops.ring import Placement, place, ring_attend
from tfm.refimpl.ops.sparse import (
    BlockPairs,
    bigbird_pattern,
    block_pairs,
    longformer_layout,
    longformer_mask,
    sparse_attend,
)
from torch.nn import functional
from torch.nn.attention.flex_attention import create_block_mask, flex_attention
from transformers import LongformerConfig
from transformers.models.gpt_oss.modeling_gpt_oss import eager_attention_forward
from transformers.models.longformer.modeling_longformer import LongformerSelfAttention

seeds = st.integers(0, 2**32 - 1)
SINGLE = 1e-6


def normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng([seed, len(shape), *shape]).standard_normal(shape)


def t(a: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(a)


def drawn(seed: int, b: int, length: int, heads: int, groups: int) -> tuple[np.ndarray, ...]:
    """q, k, v of that many heads of 8 elements."""
    counts = (heads, groups, groups)
    q, k, v = (normal(seed + i, b, length, count, 8) for i, count in enumerate(counts))
    return q, k, v


@given(seeds, st.integers(1, 20), st.booleans(), st.integers(1, 9))
def test_flash_is_torchs_kernel(seed: int, length: int, causal: bool, tile: int):
    """Output and log-sum-exp of the kernel that torch runs on a CPU, and its backward."""
    q, k, v = drawn(seed, 2, length, 3, 3)
    grad = normal(seed + 3, 2, length, 3, 8)
    heads = [t(a).transpose(1, 2).contiguous() for a in (q, k, v, grad)]
    aten = torch.ops.aten
    out, lse = aten._scaled_dot_product_flash_attention_for_cpu(*heads[:3], 0.0, causal)
    got = flash_attend(q, k, v, tile=tile, causal=causal)
    equal(got[0], out.transpose(1, 2))
    equal(got[1], lse.reshape(got[1].shape) if lse.shape == got[1].shape else lse.transpose(1, 2))
    expected = aten._scaled_dot_product_flash_attention_for_cpu_backward(
        heads[3], *heads[:3], out, lse, 0.0, causal
    )
    gradients = flash_backward(Saved(q, k, v, *got), grad, tile=tile, causal=causal)
    for mine, theirs in zip(gradients, expected, strict=True):
        equal(mine, theirs.transpose(1, 2))


@given(
    seeds, st.integers(1, 5), st.integers(1, 7), st.integers(1, 3), st.sampled_from((None, 0.7)),
    st.sampled_from((None, 2.0)), st.booleans(), st.booleans(), st.integers(1, 9),
)  # fmt: skip
def test_flash_backward_is_autograds(
    seed: int, rows: int, s: int, share: int, scale: float, cap: float, masked: bool, causal: bool, tile: int
):
    """Of plain attention in float64: grouped heads, mask, causal, scale, soft cap."""
    q, k, v = normal(seed, 2, rows, 2 * share, 4), normal(seed, 2, s, 2, 4), normal(seed, 2, s, 2, 3)
    grad, seen = normal(seed + 1, 2, rows, 2 * share, 3), np.ones((2, rows, s), bool)
    mask = np.random.default_rng(seed).random(seen.shape) < 0.6 if masked else None
    settings: dict[str, Any] = {"tile": tile, "causal": causal, "scale": scale, "softcap": cap}
    out, lse = flash_attend(q, k, v, mask, **settings)
    if causal:
        seen &= np.arange(s) <= np.arange(s - rows, s)[:, None]
    if mask is not None:
        seen &= mask
    leaves = [t(a).requires_grad_() for a in (q, k, v)]
    keys, values = (a.repeat_interleave(share, 2) for a in leaves[1:])
    scores = torch.einsum("bthk,bshk->bhts", leaves[0], keys) * (scale or 0.5)
    if cap:
        scores = cap * torch.tanh(scores / cap)
    # Rows that see nothing have no softmax: they are put to zero, and so is their gradient.
    weights = torch.softmax(scores.masked_fill(~t(seen)[:, None], -1e300), -1) * t(seen)[:, None]
    result = torch.einsum("bhts,bshv->bthv", weights, values)
    equal(out, result.detach())
    result.backward(t(grad))
    for mine, leaf in zip(
        flash_backward(Saved(q, k, v, out, lse, mask), grad, **settings), leaves, strict=True
    ):
        equal(mine, leaf.grad)


def flex(q: np.ndarray, k: np.ndarray, v: np.ndarray, rule: Any) -> torch.Tensor:
    """torch's attention under a rule of query and key place."""
    mask = create_block_mask(
        lambda b, h, i, j: rule(i, j), None, None, q.shape[1], k.shape[1], device="cpu", BLOCK_SIZE=16
    )
    heads = [t(a).transpose(1, 2) for a in (q, k, v)]
    return flex_attention(*heads, block_mask=mask, enable_gqa=True).transpose(1, 2)


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize(("band", "two_sided", "sinks"), [(1, False, 0), (5, False, 3), (4, True, 2)])
def test_banded_is_flex_attention(band: int, two_sided: bool, sinks: int):
    q, k, v = drawn(band, 2, 23, 6, 2)

    def rule(i: torch.Tensor, j: torch.Tensor) -> torch.Tensor:
        near = (i - j < band) | (j < sinks)
        return near & (j - i < band if two_sided else j <= i)

    equal(banded_attend(q, k, v, band=(band, band - 1 if two_sided else 0), sinks=sinks), flex(q, k, v, rule))


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_bigbird_is_flex_attention():
    chosen = np.random.default_rng(0).integers(0, 6, (6, 2))
    pattern = bigbird_pattern(np.arange(6), np.arange(6), chosen, reach=1, first=1)
    q, k, v = drawn(0, 2, 24, 6, 2)
    blocks = [a.reshape(2, 6, 4, *a.shape[2:]) for a in (q, k, v)]
    expected = flex(q, k, v, lambda i, j: t(pattern)[i // 4, j // 4])
    equal(sparse_attend(*blocks, BlockPairs(*block_pairs(pattern))).reshape(q.shape), expected)


def test_sparse_is_longformer():
    """transformers' self-attention with its global projections equal to the local ones."""
    config = LongformerConfig(
        hidden_size=24, num_attention_heads=3, attention_window=[8], attention_probs_dropout_prob=0.0
    )
    torch.manual_seed(0)
    theirs = LongformerSelfAttention(config, 0).double().eval()
    for name in ("query", "key", "value"):
        getattr(theirs, f"{name}_global").load_state_dict(getattr(theirs, name).state_dict())
    x, is_global = normal(0, 1, 32, 24), np.zeros((1, 32), bool)
    is_global[0, [0, 13]] = True
    flags = t(is_global)
    with torch.no_grad():
        expected = theirs(
            t(x),
            attention_mask=torch.where(flags, 10000.0, 0.0).double(),
            is_index_masked=torch.zeros(1, 32, dtype=torch.bool),
            is_index_global_attn=flags,
            is_global_attn=True,
        )[0]
        q, k, v = (getattr(theirs, n)(t(x)).numpy().reshape(1, 8, 4, 3, 8) for n in ("query", "key", "value"))
    rows, columns = block_pairs(longformer_layout(is_global.reshape(8, 4), reach=4))
    at = np.arange(32).reshape(8, 4)
    inside = is_global.reshape(8, 4)
    mask = longformer_mask(at[rows], at[columns], inside[rows], inside[columns], reach=4)
    assert len(rows) < 64
    # Their softmax is float32 whatever goes in.
    equal(sparse_attend(q, k, v, BlockPairs(rows, columns, mask)).reshape(1, 32, 24), expected, SINGLE)


def test_random_features_estimate_softmax_attention():
    """Performer: with more features the error shrinks as their inverse root, and is small at last."""
    q, k, v = (a * 0.5 for a in drawn(0, 1, 12, 6, 2))
    heads = [t(a).transpose(1, 2) for a in (q, k, v)]
    expected = functional.scaled_dot_product_attention(*heads, enable_gqa=True)
    errors = []
    for count in (2**10, 2**16):
        features = [random_features(a * 8**-0.25, normal(count, count, 8)) for a in (q, k)]
        errors.append(largest(linear_attend(*features, v) - expected.transpose(1, 2).numpy()))
    assert errors[1] < 0.02
    assert 3 < errors[0] / errors[1] < 20


def test_ring_is_torchs_attention():
    q, k, v = drawn(0, 2, 11, 6, 2)
    heads = [t(a).transpose(1, 2) for a in (q, k, v)]
    expected = functional.scaled_dot_product_attention(*heads, is_causal=True, enable_gqa=True)
    owner = place(np.arange(11), np.arange(4), placement="zigzag")
    equal(ring_attend(q, k, v, Placement(owner, np.arange(4)), tile=2, causal=True), expected.transpose(1, 2))


@pytest.mark.parametrize("features", ["elu", "relu"])
@settings(max_examples=20)
@given(seeds, st.lists(st.integers(1, 6), min_size=1, max_size=4), st.booleans())
def test_linear_attention_is_its_quadratic_form(features: str, seed: int, parts: list[int], biases: bool):
    """Read in parts, with 6 query heads over 2 of keys: the whole matrix φ(q)·φ(k) ∘ lower triangle in torch,
    its rows normalized by torch."""
    settings_, total = LinearAttention(6, 2, 4, features, biases, biases), sum(parts)
    sizes = {"q": 24, "k": 8, "v": 8, "o": 10}
    layers = {n: torch.nn.Linear(24 if n == "o" else 10, size, biases).double() for n, size in sizes.items()}
    for i, linear in enumerate(layers.values()):
        for j, weight in enumerate(linear.parameters()):
            weight.data = t(normal(seed + 2 * i + j, *weight.shape))
    x = normal(seed, 2, total, 10)
    with torch.no_grad():
        phi = (lambda a: functional.elu(a) + 1) if features == "elu" else functional.relu
        q, k, v = (layers[n](t(x)).unflatten(2, (-1, 4)).transpose(1, 2) for n in "qkv")
        k, v = k.repeat_interleave(3, 1), v.repeat_interleave(3, 1)
        weights = functional.normalize(torch.tril(phi(q) @ phi(k).mT), p=1.0, dim=-1, eps=1e-300)
        expected = layers["o"]((weights @ v).transpose(1, 2).flatten(2))
        leaves = {f"w{n}": linear.weight.T.numpy() for n, linear in layers.items()}
        leaves |= {f"b{n}": linear.bias.numpy() for n, linear in layers.items() if biases}
    cache, at, results = LinearState(np.zeros((2, 2, 4, 4)), np.zeros((2, 2, 4))), 0, []
    for part in parts:
        y, cache = linear_attention(x[:, at : at + part], cache, np.full(2, at), leaves, settings=settings_)
        at += part
        results.append(y)
    equal(np.concatenate(results, 1), expected)


@settings(max_examples=20)
@given(seeds, st.integers(0, 6), st.integers(1, 9), st.integers(1, 4))
def test_linear_forms_are_their_quadratic_form(seed: int, past: int, time: int, chunk: int):
    """6 heads of positive queries over 2 of keys: the matrix q·k of real keys, or of earlier ones, its rows
    normalized by torch; in chunks from the sums of a first part on."""
    (q, k, _), v = drawn(seed, 3, past + time, 6, 2), normal(seed, 3, past + time, 2, 5)
    q, k = np.exp(q), np.exp(k)
    of_q, of_k, of_v = (t(a).transpose(1, 2) for a in (q, k, v))
    weights = of_q @ of_k.repeat_interleave(3, 1).mT

    def read(seen: torch.Tensor) -> torch.Tensor:
        shares = functional.normalize(weights * seen, p=1.0, dim=-1)
        return (shares @ of_v.repeat_interleave(3, 1)).transpose(1, 2)

    real = np.arange(past + time) < np.array([[past + time], [1], [past + 1]])
    equal(linear_attend(q, k, v, real), read(t(real)[:, None, None]))
    causal = read(torch.ones(past + time, past + time).tril())
    equal(linear_parallel(q, k, v), causal)
    state, norm, results = np.zeros((3, 2, 8, 5)), np.zeros((3, 2, 8)), []
    for part in (slice(0, past), slice(past, None)):
        y, state, norm = linear_chunked(q[:, part], k[:, part], v[:, part], state, norm, chunk=chunk)
        results.append(y)
    equal(np.concatenate(results, 1), causal)
    equal(state, of_k.mT @ of_v)
    equal(norm, of_k.sum(2))


@settings(max_examples=20)
@given(seeds, st.integers(1, 9), st.integers(1, 9), st.integers(1, 3), st.integers(0, 2), st.integers(0, 2))
def test_block_sparse_attention_is_dense_attention_with_a_mask(
    seed: int, past: int, time: int, block: int, reach: int, first: int
):
    """Cached attention under the mask of a Config: torch's dense attention, the mask written out token by
    token."""
    q, k, v = drawn(seed, 1, past + time, 4, 2)
    seen = np.zeros((past + time, past + time), bool)
    for i, j in np.ndindex(seen.shape):
        a, b = i // block, j // block
        seen[i, j] = j <= i and (a - b <= reach or b < first)
    heads = [t(a).transpose(1, 2) for a in (q, k, v)]
    dense = functional.scaled_dot_product_attention(*heads, t(seen), enable_gqa=True).transpose(1, 2)
    mask = Attention(4, 2, 8, mask=BlockSparse(block, reach, first))
    cache, at = KVCache(np.zeros((1, 2, past + time, 8)), np.zeros((1, 2, past + time, 8))), 0
    for part in (past, time):
        tokens = slice(at, at + part)
        y, cache = cached_attention(
            q[:, tokens], k[:, tokens], v[:, tokens], cache, np.array([at]), settings=mask
        )
        equal(y, dense[:, tokens])
        at += part


@given(seeds, st.integers(1, 9), st.sampled_from((0.1, 1.0, 10.0)))
def test_sinks_are_gpt_oss(seed: int, length: int, spread: float):
    """Sinks from below the scores to far above them, under a causal mask."""
    q, k, v = drawn(seed, 2, length, 6, 2)
    logits = spread * np.random.default_rng(seed).standard_normal(6)
    module = SimpleNamespace(sinks=t(logits), num_key_value_groups=3, training=False)
    seen = np.tril(np.ones((length, length), bool))
    heads = [t(a).transpose(1, 2) for a in (q, k, v)]
    added = torch.zeros(length, length, dtype=torch.float64).masked_fill(~t(seen), -torch.inf)
    theirs, _ = eager_attention_forward(module, *heads, added, 0.3)
    mask = np.broadcast_to(seen, (2, length, length))
    equal(attend(q, k, v, mask, sink_logits=logits, scale=0.3), theirs)
