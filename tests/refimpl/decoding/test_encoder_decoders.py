"""Texts of encoder-decoders are transformers': greedy and through beams, by the checkpoint's own rules."""

from __future__ import annotations

from typing import Any

import pytest
from helpers.generation_oracle import (
    EOS,
    PAIRS,
    model,
    opened,
    row,
    rules,
    same_texts,
    sources,
    theirs,
    until_stop,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from tfm.refimpl.decoding.loop import generate
from tfm.refimpl.decoding.sampler import Sampler
from tfm.refimpl.decoding.speculative import DraftModel, PromptLookup, speculate

some = settings(max_examples=settings.default.max_examples // 4)  # pyright: ignore[reportOptionalOperand]
seeds = st.integers(0, 2**32 - 1)


@pytest.mark.parametrize("name", PAIRS)
def test_greedy_tokens_are_transformers(name: str):
    """48 steps with our cache, theirs without one; texts of fewer than 8 tokens are drawn anew."""
    for seed in range(40):
        made = model(name, seed, {"max_length": 49})
        checkpoint, engine = opened(made)
        tokens = list(generate(engine, row(checkpoint.generation, sources(seed))))
        if len(set(tokens)) < 8:
            continue
        wanted = theirs(made, sources(seed), use_cache=False).sequences[0].tolist()
        assert tokens == until_stop(wanted[1:], (EOS,))
        for draft in (PromptLookup(), DraftModel(engine, engine)):
            again = row(checkpoint.generation, sources(seed))
            assert list(speculate(engine, again, draft)) == tokens
        return
    raise AssertionError("no model wrote 8 different tokens")


@some
@given(st.sampled_from(PAIRS), seeds, rules())
def test_texts_by_the_checkpoints_rules_are_transformers(name: str, seed: int, asked: dict[str, Any]):
    same_texts(name, seed, asked)


def test_an_ngram_that_the_encoder_has_read_is_not_written():
    """With this seed a token of the text would be."""
    rules = {"num_beams": 1, "max_length": 16, "eos_token_id": EOS, "encoder_no_repeat_ngram_size": 1}
    same_texts("m2m_100", 6, rules)
    sampler = Sampler(encoder_no_repeat_ngram=2, bad_words=((9,),))
    assert sampler.after_reading([5, 6, 7, 5, 6]) == Sampler(bad_words=((9,), (5, 6), (6, 7), (7, 5)))
    assert sampler.after_reading([5]) == Sampler(bad_words=((9,),))
    assert sampler.after_reading(None) == sampler
