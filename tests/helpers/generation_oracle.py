"""Encoder-decoders whose texts are compared with transformers', by the checkpoint's own generation rules.

They are tiny and random, taken through files and the production reader, and both sides compute in float64, so
that tokens are equal and not only likely to be.
"""

from __future__ import annotations

import tempfile
from typing import Any

import numpy as np
import torch
import transformers
from families import ROWS
from hypothesis import strategies as st
from tfm.refimpl.checkpoint.generation_config import Generation
from tfm.refimpl.checkpoint.open import Checkpoint, open_checkpoint
from tfm.refimpl.decoding.beam import BeamSearch, beam_search
from tfm.refimpl.decoding.loop import GeneratedSequence, generate
from tfm.refimpl.decoding.sampler import Sampler
from tfm.refimpl.engine.numpy_engine import NumpyEngine
from tfm.refimpl.params.tree import map_leaves

from helpers.float64 import Float64
from helpers.tolerances import equal

PAIRS = (
    "bart", "marian", "mbart", "pegasus", "m2m_100", "blenderbot", "blenderbot-small", "t5", "mt5", "umt5",
)  # fmt: skip
N, EOS, START = 251, 2, 3


def model(name: str, seed: int, rules: dict[str, Any]) -> Any:
    """A random model whose logits are far apart, with its generation rules.

    It has an output table of its own: with the input's, a random model repeats its last token.
    """
    row, kind = ROWS[name], name in ("t5", "mt5", "umt5")
    small = {key: 24 if key == "d_model" else 3 if "heads" in key else 2 for key in row.sizes}
    small |= {"vocab_size": N, "pad_token_id": 1, "eos_token_id": EOS, "decoder_start_token_id": START}
    small |= {"max_position_embeddings": 64, "tie_word_embeddings": False} if not kind else {}
    hf_model = row.models[kind](row.config(**small, attn_implementation="eager")).eval()
    noise = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for key, weight in hf_model.named_parameters():
            drawn = torch.randn(weight.shape, generator=noise)
            vector = drawn * 0.3 + (not key.endswith("bias"))
            # Tokens count for more than what attention adds, or all places are alike.
            sizes = {"shared.weight": 20.0, "lm_head.weight": 9.0, "out_proj.weight": 0.3, "fc2.weight": 0.3}
            size = next((value for end, value in sizes.items() if key.endswith(end)), 1.0)
            weight.copy_(vector if weight.ndim == 1 else size * drawn * weight.shape[1] ** -0.5)
        row.amend(hf_model)
    hf_model.generation_config = transformers.GenerationConfig(
        pad_token_id=1, **{"decoder_start_token_id": START, "eos_token_id": EOS} | rules
    )
    return hf_model


def opened(hf_model: Any) -> tuple[Checkpoint, NumpyEngine]:
    """The model as our reader opens it; afterwards the transformers model is in float64."""
    with tempfile.TemporaryDirectory() as folder:
        hf_model.save_pretrained(folder)
        checkpoint = open_checkpoint(folder)
        params = map_leaves(lambda _, leaf: leaf.astype(np.float64), checkpoint.params)
    with torch.no_grad():
        ROWS[hf_model.config.model_type].amend(hf_model.double())
    return checkpoint, NumpyEngine(checkpoint.config, params)


def theirs(hf_model: Any, source: list[int], **more: Any) -> Any:
    ids = torch.tensor([source])
    torch.set_default_dtype(torch.float64)
    try:
        with Float64(), torch.no_grad():
            return hf_model.generate(
                ids, attention_mask=torch.ones_like(ids), return_dict_in_generate=True, output_scores=True,
                **more,
            )  # fmt: skip
    finally:
        torch.set_default_dtype(torch.float32)


def row(generation: Generation, source: list[int], **more: Any) -> GeneratedSequence:
    most = generation.max_new_tokens or 20
    return GeneratedSequence(
        generation.prompt,
        Sampler(**generation.defaults),
        frozenset(generation.eos),
        most,
        encoder_ids=source,
        **more,
    )


def until_stop(ids: list[int], stops: tuple[int, ...]) -> list[int]:
    return next((ids[:i] for i, t in enumerate(ids) if t in stops), ids)


def sources(seed: int) -> list[int]:
    rng = np.random.default_rng(seed)
    return rng.integers(4, N, rng.integers(1, 9)).tolist()


@st.composite
def rules(draw: st.DrawFn) -> dict[str, Any]:
    """Possible keys of a generation_config.json."""
    some = lambda values: draw(st.one_of(st.none(), values))  # noqa: E731
    ids, beams, longest = st.integers(4, N - 1), draw(st.integers(1, 5)), draw(st.sampled_from((2, 3, 8, 16)))
    searched = {
        "length_penalty": draw(st.sampled_from((-1.0, 0.0, 0.6, 1.0, 2.0))),
        "early_stopping": draw(st.sampled_from((False, True, "never"))),
    }
    return (searched if beams > 1 else {}) | {
        "num_beams": beams,
        "max_length": longest,
        "min_length": draw(st.sampled_from([least for least in (None, 0, 1, 6) if (least or 0) < longest])),
        "eos_token_id": draw(st.sampled_from((EOS, [EOS, 7], [EOS, 5, 9, 11]))),
        "forced_bos_token_id": some(ids),
        "forced_eos_token_id": some(st.sampled_from((EOS, 7))),
        "no_repeat_ngram_size": draw(st.sampled_from((0, 1, 2, 3))),
        "encoder_no_repeat_ngram_size": draw(st.sampled_from((0, 1, 2))),
        "repetition_penalty": draw(st.sampled_from((1.0, 1.3))),
        "bad_words_ids": some(st.lists(st.lists(ids, min_size=1, max_size=2), min_size=1, max_size=9)),
        "suppress_tokens": some(st.lists(ids, min_size=1, max_size=3)),
        "begin_suppress_tokens": some(st.lists(ids, min_size=1, max_size=20)),
        "renormalize_logits": draw(st.booleans()),
    }


def same_texts(name: str, seed: int, options: dict[str, Any]) -> None:
    """All hypotheses of a search are transformers', with their scores; with one beam the greedy text is."""
    options = {key: value for key, value in options.items() if value is not None}
    # A forced token that is banned leaves transformers nothing to choose; here it is forced.
    banned = {word[0] for word in options.get("bad_words_ids", [])} | {*options.get("suppress_tokens", [])}
    if {options.get("forced_bos_token_id"), options.get("forced_eos_token_id")} & banned:
        options = {
            key: value for key, value in options.items() if key not in ("bad_words_ids", "suppress_tokens")
        }
    hf_model, source = model(name, seed, options), sources(seed)
    checkpoint, engine = opened(hf_model)
    generation, beams = checkpoint.generation, options["num_beams"]
    expected = theirs(hf_model, source, num_return_sequences=beams)
    texts = [until_stop(ids[1:], generation.eos) for ids in expected.sequences.tolist()]
    text = row(generation, source)
    if beams == 1:
        assert list(generate(engine, text)) == texts[0]
        return
    made_ = beam_search(engine, BeamSearch(
        generation.prompt, sampler=text.sampler, stop_ids=text.stop_ids, max_new_tokens=text.max_new_tokens,
        encoder_ids=source, **generation.search,
    ))  # fmt: skip
    # Where forced tokens leave fewer texts than beams, transformers fills up with impossible ones.
    scores = expected.sequences_scores.numpy()
    assert [h.tokens for h in made_] == [t for t, score in zip(texts, scores, strict=True) if score > -1e6]
    equal([h.score for h in made_], scores[scores > -1e6], 1e-9)
