"""Beam search: transformers' own, exhaustive search, and the same texts on all engines."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import numpy as np
import pytest
import torch
import transformers
from helpers.refused import refused
from helpers.tolerances import equal
from hypothesis import given, settings
from hypothesis import strategies as st
from tfm.refimpl.checkpoint.open import materialize, open_checkpoint
from tfm.refimpl.decoding.beam import BeamSearch, Hypothesis, beam_search
from tfm.refimpl.decoding.loop import GeneratedSequence, generate
from tfm.refimpl.decoding.sampler import Sampler
from tfm.refimpl.engine.numpy_engine import NumpyEngine
from tfm.refimpl.errors import LimitError, NumericError

many = settings(max_examples=2 * settings.default.max_examples)  # pyright: ignore[reportOptionalOperand]
seeds = st.integers(0, 2**32 - 1)
N = 23
PROMPT = [5, 17, 8, 3]
early = st.sampled_from((False, True, "never"))
penalties = st.sampled_from((-1.0, 0.0, 0.5, 1.0, 2.0))


class Table:
    """An engine whose logits are a table's row, chosen by the last two tokens; its cache is the texts."""

    def __init__(self, seed: int, n: int = N, context: int = 64) -> None:
        self.logits = np.random.default_rng(seed).standard_normal((n, n, n)).astype(np.float32) * 2
        self.config = SimpleNamespace(context=context)

    def start(self, batch: int = 1) -> Texts:
        return Texts([[] for _ in range(batch)])

    def step(self, tokens: np.ndarray, cache: Texts, lengths: Any = None, at: Any = None) -> Any:
        texts = [[*text, *map(int, new)] for text, new in zip(cache.texts, tokens, strict=True)]
        rows = [self.logits[(0, *text)[-2], text[-1]] for text in texts]
        return np.stack(rows)[:, None], Texts(texts)


class Texts:
    def __init__(self, texts: list[list[int]]) -> None:
        self.texts, self.lengths = texts, np.array([len(t) for t in texts])

    def select(self, rows: np.ndarray) -> Texts:
        return Texts([self.texts[r] for r in rows])


class TheirTable(transformers.PreTrainedModel, transformers.GenerationMixin):
    """The same table as a model of transformers."""

    config_class = transformers.PretrainedConfig
    _supports_cache_class = True

    def __init__(self, table: Table) -> None:
        super().__init__(transformers.PretrainedConfig(vocab_size=N, is_encoder_decoder=False))
        self.table = torch.from_numpy(table.logits)
        self.unused = torch.nn.Parameter(torch.zeros(1))

    def forward(self, input_ids: Any, attention_mask: Any = None, **_: Any) -> Any:
        before = torch.nn.functional.pad(input_ids, (1, 0))[:, :-1]
        return transformers.modeling_outputs.CausalLMOutput(logits=self.table[before, input_ids])

    def prepare_inputs_for_generation(self, input_ids: Any, *args: Any, **kwargs: Any) -> Any:
        return {"input_ids": input_ids}


def theirs(model: Any, prompt: list[int], beams: int, stops: list[int], steps: int, **more: Any) -> Any:
    made = model.generate(
        torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt), dtype=torch.int64),
        num_beams=beams, num_return_sequences=beams, do_sample=False, max_new_tokens=steps,
        eos_token_id=stops or None, pad_token_id=N - 1,
        return_dict_in_generate=True, output_scores=True, **more,
    )  # fmt: skip
    return made.sequences[:, len(prompt) :].tolist(), made.sequences_scores.double().numpy()


def until_stop(ids: list[int], stops: list[int]) -> list[int]:
    return next((ids[:i] for i, t in enumerate(ids) if t in stops), ids)


@many
@given(
    seeds, st.sampled_from((0.0, 2.0, 5.0)), st.integers(2, 5),
    st.lists(st.integers(0, N - 2), max_size=3, unique=True),
    st.integers(1, 12), penalties, early, st.sampled_from((None, 1.3)), st.sampled_from((None, 2)),
    st.sampled_from((None, 3)),
)  # fmt: skip
def test_hypotheses_are_transformers(
    seed: int, lift: float, beams: int, stops: list[int], steps: int, penalty: float,
    stopping: bool | Literal["never"], repetition: float | None, ngram: int | None, least: int | None,
) -> None:  # fmt: skip
    """All hypotheses, best first, with their scores: length penalties, early stopping, bans, likely ends."""
    table = Table(seed)
    table.logits[..., stops] += np.float32(lift)
    least = least if least and stops and least <= steps else None
    ids, scores = theirs(
        TheirTable(table), PROMPT, beams, stops, steps, length_penalty=penalty, early_stopping=stopping,
        repetition_penalty=repetition or 1.0, no_repeat_ngram_size=ngram or 0, min_new_tokens=least,
        use_cache=False,
    )  # fmt: skip
    sampler = Sampler(repetition_penalty=repetition, no_repeat_ngram=ngram, min_new_tokens=least)
    wanted = BeamSearch(PROMPT, beams, sampler, frozenset(stops), steps, penalty, stopping)
    found = beam_search(table, wanted)
    assert [h.tokens for h in found] == [until_stop(row[:steps], stops) for row in ids]
    equal([h.score for h in found], scores, 1e-5)


def test_a_model_of_transformers(tmp_path: Path) -> None:
    """A random Llama through the production reader, with keys and values of both caches moved about."""
    torch.manual_seed(1)
    config = transformers.LlamaConfig(
        vocab_size=N, hidden_size=24, intermediate_size=20, num_hidden_layers=2, num_attention_heads=6,
        num_key_value_heads=2, head_dim=8, max_position_embeddings=64, initializer_range=0.4,
        bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    model = transformers.LlamaForCausalLM(config).eval()
    model.save_pretrained(tmp_path)
    opened = open_checkpoint(tmp_path)
    engine = NumpyEngine(opened.config, materialize(opened.params))
    for beams, penalty, stopping in ((3, 1.0, False), (5, -0.5, "never"), (2, 2.0, True)):
        ids, scores = theirs(
            model, PROMPT, beams, [2, 9], 12, length_penalty=penalty, early_stopping=stopping
        )
        wanted = BeamSearch(PROMPT, beams, Sampler(), frozenset({2, 9}), 12, penalty, stopping)
        found = beam_search(engine, wanted)
        assert [h.tokens for h in found] == [until_stop(row, [2, 9]) for row in ids]
        equal([h.score for h in found], scores, 1e-5)


@given(seeds, st.integers(0, 2), penalties)
def test_beams_enough_find_the_best_of_all_texts(seed: int, stop: int, penalty: float):
    table, steps = Table(seed, n=3), 4
    logits = table.logits.astype(np.float64)
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    every: list[Hypothesis] = []

    def grow(text: list[int], score: float) -> None:
        for token in range(3):
            here, n = score + float(log_p[(0, *text)[-2], text[-1], token]), len(text) - 1
            if token == stop:
                every.append(Hypothesis(text[2:], here / (n**penalty), "stop"))
            elif n == steps:
                every.append(Hypothesis([*text[2:], token], here / n**penalty, "length"))
            else:
                grow([*text, token], here)

    grow([1, 2], 0.0)
    every.sort(key=lambda h: -h.score)
    found = beam_search(
        table, BeamSearch([1, 2], 3**steps, Sampler(), frozenset({stop}), steps, penalty, "never")
    )
    # Two texts may walk the same pairs in another order: those scores are equal but for rounding.
    equal([h.score for h in found], [h.score for h in every])
    scores = {(*h.tokens, h.finish_reason): h.score for h in every}
    assert {(*h.tokens, h.finish_reason) for h in found} == set(scores)
    equal([scores[*h.tokens, h.finish_reason] for h in found], [h.score for h in every])


@given(seeds, st.integers(0, N - 1), st.integers(1, 9))
def test_one_beam_is_greedy(seed: int, stop: int, steps: int):
    row = GeneratedSequence(PROMPT, stop_ids=frozenset({stop}), max_new_tokens=steps)
    list(generate(Table(seed), row))
    wanted = BeamSearch(PROMPT, 1, stop_ids=frozenset({stop}), max_new_tokens=steps, early_stopping=True)
    (found,) = beam_search(Table(seed), wanted)
    assert (found.tokens, found.finish_reason) == (row.tokens, row.finish_reason)


def test_equals_go_by_beam_and_id() -> None:
    wanted = BeamSearch([0], 3, stop_ids=frozenset({1}), max_new_tokens=2, length_penalty=0.0)
    rows, tokens = wanted.advance(np.zeros((1, 4))) or ((), ())
    assert (list(rows), list(tokens)) == ([0, 0, 0], [0, 2, 3])
    assert [h.tokens for h in wanted.hypotheses] == [[]]
    assert wanted.advance(np.zeros((3, 4))) is None
    assert [h.tokens for h in wanted.hypotheses] == [[], [0, 0], [0]]
    assert [h.finish_reason for h in wanted.hypotheses] == ["stop", "length", "stop"]


def test_where_length_costs_hope_is_the_present_length() -> None:
    """Below 0 the penalty favours short texts: a beam is never better than if it ended now."""
    wanted = BeamSearch([0], 2, stop_ids=frozenset({0}), length_penalty=-1.0, early_stopping="never")
    assert wanted.advance(np.log([[0.3, 0.5, 0.2]])) is not None
    assert wanted.advance(np.log([[0.3, 0.6, 0.1], [0.34, 0.33, 0.33]])) is not None
    equal([h.score for h in wanted.hypotheses], [np.log(0.3), 2 * np.log(0.15)])


def test_fewer_beams_where_bans_leave_fewer() -> None:
    table, bans = Table(3), Sampler(suppress_tokens=tuple(range(2, N)), no_repeat_ngram=2)
    found = beam_search(table, BeamSearch([0], 4, bans, max_new_tokens=3))
    # 0 0 1 is one text that repeats no pair, and so on: no text of four tokens of 0 and 1 is left out.
    assert sorted(h.tokens for h in found) == [[0, 1, 0], [0, 1, 1], [1, 0, 0], [1, 1, 0]]
    with refused(LimitError, "token", "suppress"):
        beam_search(table, BeamSearch([0], 4, bans, max_new_tokens=9))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("beams", 0),
        ("max_new_tokens", 0),
        ("length_penalty", np.nan),
        ("length_penalty", -40.5),
        ("length_penalty", 10**400),
        ("early_stopping", 1),
    ],
)
def test_what_cannot_be_is_refused(name: str, value: float) -> None:
    with refused(LimitError, name, f"{value!r:.80}"):
        BeamSearch([0], **{"beams": 2, name: value})


def test_a_sampler_that_draws_is_refused() -> None:
    with refused(LimitError, "beam"):
        BeamSearch([0], 2, Sampler(temperature=1.0))


@pytest.mark.parametrize("penalty", [-40, 40])
@pytest.mark.parametrize("stopping", [False, "never"])
def test_length_penalties_at_their_ends(penalty: int, stopping: Literal["never"] | bool) -> None:
    wanted = BeamSearch([0], 2, Sampler(), frozenset({2}), 2**24, penalty, stopping)
    wanted._tokens = [[0] * (2**24 - 2)]
    wanted.advance(np.array([[0.0, 1.0, 2.0]]))
    assert 0 < -wanted.hypotheses[0].score < np.inf


def test_logits_must_be_finite() -> None:
    with refused(NumericError, "logits", "finite"):
        BeamSearch([0], 2).advance(np.full((1, 4), np.nan))


def test_the_context_bounds_the_search() -> None:
    found = beam_search(Table(0, context=7), BeamSearch(PROMPT, 2, max_new_tokens=50))
    assert [len(h.tokens) for h in found] == [3, 3]


def test_all_engines_find_the_same(engines: list[Any]) -> None:
    """NumPy, torch and both kinds of ONNX cache: rows are selected, copied and grown alike."""
    for stopping in (False, "never"):
        made = []
        for engine in engines:
            _, cache = engine.step(np.array([PROMPT[:2]]), engine.start(1))
            wanted = BeamSearch(PROMPT, 4, Sampler(), frozenset({11, 12, 13}), 20, 0.8, stopping)
            made.append(beam_search(engine, wanted, cache))
        assert len({tuple(h.tokens) for h in made[0]}) == 4
        for other in made[1:]:
            assert [(h.tokens, h.finish_reason) for h in other] == [
                (h.tokens, h.finish_reason) for h in made[0]
            ]
            equal([h.score for h in other], [h.score for h in made[0]], 1e-5)
