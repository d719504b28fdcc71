"""Longformer's attention against transformers', with global tokens anywhere that a head puts them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from helpers.float64 import in_float64, randomize
from helpers.tolerances import equal
from hypothesis import given
from hypothesis import strategies as st
from tfm.refimpl.config import FirstToken, GlobalTokens, QuestionTokens
from tfm.refimpl.ops.longformer import LongformerAttention, longformer_attention, question_end
from transformers import LongformerConfig
from transformers.models.longformer import modeling_longformer as theirs

H, K, T = 3, 5, 12


def test_question_end_is_longformers():
    """Among texts with three separators, which transformers wants."""
    tokens = torch.tensor([[7, 2, 2, 9, 9, 2], [2, 5, 2, 5, 5, 2], [4, 4, 4, 2, 2, 2]])
    expected = theirs._get_question_end_index(tokens, 2)
    assert question_end(tokens.numpy(), separator=2).tolist() == expected.tolist()
    assert question_end(tokens.numpy(), separator=8).tolist() == [6, 6, 6], "all is question"


@given(st.integers(0, 2**32 - 1), st.sampled_from([2, 3, 6]))
@pytest.mark.parametrize("spread", [None, FirstToken(), QuestionTokens(2)])
def test_longformer_is_longformers(spread: GlobalTokens | None, seed: int, reach: int):
    """With an output map that changes nothing, which is another module there"""
    config: Any = LongformerConfig(hidden_size=H * K, num_attention_heads=H, attention_window=[2 * reach])
    attention, rng = randomize(theirs.LongformerSelfAttention(config, 0), seed), np.random.default_rng(seed)
    x, lengths = rng.standard_normal((2, T, H * K)), np.array([T, rng.integers(1, T + 1)])
    question = rng.integers(1, T + 1, 2)
    first = {type(None): 0, FirstToken: 1, QuestionTokens: question}[type(spread)]
    real, wide = np.arange(T) < lengths[:, None], np.arange(T) < np.broadcast_to(first, 2)[:, None]
    # Below zero for padding, above it for global tokens.
    mask = torch.from_numpy(np.where(real, np.where(wide, 1e4, 0.0), -1e4))
    given_ = {
        "attention_mask": mask, "is_index_masked": mask < 0, "is_index_global_attn": mask > 0,
        "is_global_attn": bool((mask > 0).any()),
    }  # fmt: skip
    expected = in_float64(attention, torch.from_numpy(x), **given_)[0].detach().numpy()
    leaves: Any = {"wo": np.eye(H * K), "bo": np.zeros(H * K)}
    for end in ("", "_global"):
        for name in ("query", "key", "value"):
            leaves[f"w{name[0]}{end}"] = getattr(attention, name + end).weight.detach().numpy().T
            leaves[f"b{name[0]}{end}"] = getattr(attention, name + end).bias.detach().numpy()
    settings = LongformerAttention(H, K, reach, spread)
    got = longformer_attention(x, lengths, leaves, question, settings=settings)
    equal(got[real], expected[real])
