"""What an encoder reads and a decoder writes: one text or many, by the checkpoint's own rules."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from helpers import text_strategies, tiny_models
from helpers.refused import refused
from helpers.task_models import ModelFiles
from hypothesis import given
from hypothesis import strategies as st
from tfm.refimpl.checkpoint.generation_config import Generation
from tfm.refimpl.checkpoint.languages import Languages
from tfm.refimpl.decoding.beam import BeamSearch, beam_search
from tfm.refimpl.decoding.loop import GeneratedSequence, generate
from tfm.refimpl.decoding.sampler import Sampler
from tfm.refimpl.engine.numpy_engine import NumpyEngine
from tfm.refimpl.errors import ConfigError, LimitError
from tfm.runtime.tasks import Model
from tfm.runtime.tasks.continuous_batching import Batch, Row
from tokenizers import processors

WORDS = text_strategies.byte_level()
EN, DE, END = (WORDS.token_to_id(token) for token in ("<s>", "<|eot_id|>", "</s>"))
WORDS.post_processor = processors.TemplateProcessing("$A </s> <s>", None, [("</s>", END), ("<s>", EN)])
SIZE = WORDS.get_vocab_size()
CONFIG = replace(tiny_models.encoder_decoder(layers=1, vocabulary=SIZE), context=64)
ENGINE = NumpyEngine(CONFIG, tiny_models.weights(CONFIG, seed=6))
RULES = Generation(eos=(END,), start=END, max_new_tokens=9)


def model(rules: Generation = RULES, engine: Any = ENGINE) -> Model:
    return Model(engine, ModelFiles(WORDS.to_str(), generation=rules))


def plain(source: list[int], new: int = 9, sampler: Sampler | None = None, start: int = END) -> list[int]:
    row = GeneratedSequence([start], sampler or Sampler(), frozenset((END,)), new, encoder_ids=source)
    return list(generate(ENGINE, row))


def test_an_answer_is_written_of_what_was_read() -> None:
    source = [*WORDS.encode("the cat", add_special_tokens=False).ids, END, EN]
    answer = model().generate("the cat")
    assert "".join(answer) == model().text.decode(answer.tokens)
    assert answer.tokens == plain(source)
    assert answer.timings["prompt_tokens"] == len(source)
    assert model().generate_ids(source, max_new_tokens=5) == plain(source, 5)
    assert model().generate_ids(source, stop_on_eos=False) == model().generate_ids(
        source, stop_on_eos=False, max_new_tokens=9
    )
    prefixed = model(replace(RULES, prefix="x: "))
    assert prefixed.ask("the cat") == model().ask("x: the cat")
    assert prefixed.ask("the cat", raw=True).encoder_ids == source
    assert prefixed.ask("the cat", raw=True, control_tokens=True) == prefixed.ask("the cat", raw=True)


def test_a_cache_of_ones_own_has_read_the_text() -> None:
    """`start` and `step` of a Model are its engine's."""
    ids, lengths = np.array([[5, 6, 7], [8, 9, 0]]), np.array([3, 2])
    tokens = np.array([[END], [EN]])
    got, _ = model().step(tokens, model().start(2, ids, lengths))
    np.testing.assert_array_equal(got, ENGINE.step(tokens, ENGINE.start(2, ids, lengths))[0])


def test_the_checkpoint_says_how_as_a_rule_and_for_its_tasks() -> None:
    source = model().ask("say: the cat").encoder_ids
    task = replace(RULES, prefix="say: ", search={"beams": 3, "length_penalty": 2.0}, max_new_tokens=6)
    task = replace(task, defaults={"forced_tokens": [5], "no_repeat_ngram": 2})
    made = model(replace(RULES, tasks={"summarization": task}))
    rules = Sampler(forced_tokens=(5,), no_repeat_ngram=2)
    want = beam_search(ENGINE, BeamSearch([END], 3, rules, frozenset((END,)), 6, 2.0, encoder_ids=source))[0]
    for answer in (made.generate("the cat", task="summarization"), made.summarize("the cat")):
        list(answer)
        assert answer.tokens == want.tokens
        assert answer.tokens[0] == 5
    # A wish of the user's that beams don't go with leaves them out, and only them.
    greedy = made.generate("the cat", task="summarization", greedy=True)
    list(greedy)
    assert greedy.tokens == plain(source or [], 6, rules)
    assert made.options(task="summarization", max_new_tokens=3, beams=2).max_new_tokens == 3
    with refused(LimitError, "tasks", "summarization", "'x'"):
        made.generate("the cat", task="x")


def test_what_a_checkpoint_says_of_beams_counts_with_beams() -> None:
    said = model(replace(RULES, search={"length_penalty": 2.0}))
    assert said.options().beams is None
    assert said.options(beams=2).length_penalty == 2.0
    beams = model(replace(RULES, search={"beams": 2, "length_penalty": 2.0}))
    assert beams.options(length_penalty=0.5).length_penalty == 0.5
    with refused(LimitError, "length_penalty", "beams"):
        beams.options(length_penalty=0.5, temperature=1.0)


def test_a_translation_by_tasks() -> None:
    tasks = {f"translation_en_to_{to}": replace(RULES, prefix=f"to {to}: ") for to in ("de", "fr")}
    made = model(replace(RULES, tasks=tasks))
    answer = made.translate("the cat", origin="en", to="fr")
    list(answer)
    assert answer.tokens == plain(model().ask("to fr: the cat").encoder_ids or [])
    with refused(LimitError, "None", "de", "translation_en_to_de", "translation_en_to_fr"):
        made.translate("the cat", to="de")


def test_a_translation_by_tokens_of_languages() -> None:
    ids = WORDS.encode("the cat", add_special_tokens=False).ids
    names = {"en_XX": EN, "de_DE": DE}
    first, begins = (model(replace(RULES, languages=Languages(names, place))) for place in ("first", "start"))
    for made, origin, to, want in (
        (first, "de_DE", "en_XX", plain([*ids, END, DE], sampler=Sampler(forced_tokens=(EN,)))),
        (first, None, None, plain([*ids, END, EN])),
        (begins, "de", "de", plain([*ids, END, DE], start=DE)),
    ):
        answer = made.translate("the cat", to=to, origin=origin)
        list(answer)
        assert answer.tokens == want
    with refused(LimitError, "language", "de_DE", "en_XX", "'fr'"):
        first.translate("the cat", to="fr")
    with refused(LimitError, "language", "'de'"):
        model().translate("the cat", to="de")
    decoder = tiny_models.llama(vocabulary=SIZE, layers=1)
    other = model(Generation(), NumpyEngine(decoder, tiny_models.weights(decoder)))
    for task in (other.translate, other.summarize):
        with refused(ConfigError, "encoder", "decoder"):
            task("the cat")


SOURCES = st.lists(st.lists(st.integers(0, SIZE - 1), min_size=1, max_size=20), min_size=1, max_size=6)


@given(SOURCES, st.integers(1, 4), st.sampled_from([Sampler(), Sampler(temperature=2.0)]), st.integers(1, 9))
def test_rows_of_a_batch_are_as_alone(
    sources: list[list[int]], size: int, sampler: Sampler, new: int
) -> None:
    ends = frozenset(range(0, SIZE, 9))

    def rows() -> list[GeneratedSequence]:
        return [
            GeneratedSequence([END] * (1 + len(source) % 3), sampler, ends, new, 3, i, encoder_ids=source)
            for i, source in enumerate(sources)
        ]

    want, got = rows(), rows()
    for row in want:
        list(generate(ENGINE, row))
    list(Batch(ENGINE).run([*map(Row, got)], size))
    assert [(row.tokens, row.finish_reason) for row in got] == [
        (row.tokens, row.finish_reason) for row in want
    ]


def test_a_source_that_does_not_fit_is_refused_before_any_is_read() -> None:
    for sources, parts in (
        (([5], [5], [5] * 65), ("text", 3, 65, 64)),
        (([5], [], [5]), ("text", 2, 0)),
    ):
        rows = [Row(GeneratedSequence([END], index=i, encoder_ids=s)) for i, s in enumerate(sources)]
        with refused(LimitError, *parts):
            next(Batch(ENGINE).run(rows, 1))


def test_many_texts_are_written_for_a_task() -> None:
    task = replace(RULES, prefix="say: ", max_new_tokens=4, defaults={"forced_tokens": [5]})
    made, some = model(replace(RULES, tasks={"summarization": task})), ["the cat", "a"]
    alone = [made.generate(text, task="summarization") for text in some]
    want = ["".join(answer) for answer in alone]
    got = made.generate_many(some, task="summarization")
    assert [one.text for one in got] == want
    assert [one.tokens for one in got] == [answer.tokens for answer in alone]
    # Ids have no text that a prefix could stand before.
    with refused(TypeError, "task"):
        made.generate_ids([5, 6], task="summarization")


def test_many_texts_are_written() -> None:
    some = ["the cat", "def f(x):", "a"]
    alone = [model().generate(text) for text in some]
    want = ["".join(answer) for answer in alone]
    got = model().generate_many(some, batch=2)
    assert [made.text for made in got] == want
    beams = model(replace(RULES, search={"beams": 2}))
    with refused(LimitError, "beams", "greedy=True"):
        beams.generate_many(some)
    assert [made.text for made in beams.generate_many(some, greedy=True)] == want
