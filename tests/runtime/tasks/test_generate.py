"""Text after text: options, stop strings, conversations and logits, over the specification's own engine."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from helpers import text_strategies, tiny_models
from helpers.refused import refused
from helpers.task_models import ModelFiles
from hypothesis import given
from hypothesis import strategies as st
from tfm.refimpl.checkpoint.open import Generation
from tfm.refimpl.decoding.beam import BeamSearch, beam_search
from tfm.refimpl.decoding.loop import GeneratedSequence, generate
from tfm.refimpl.decoding.sampler import Sampler
from tfm.refimpl.decoding.speculative import PromptLookup
from tfm.refimpl.engine.numpy_engine import NumpyEngine
from tfm.refimpl.errors import ArgumentError, CheckpointError, LimitError
from tfm.runtime.tasks import Conversation, Model, Options
from tfm.runtime.tasks.generate import Prompt
from tfm.runtime.tasks.generate_batch import generate_many
from tfm.runtime.tasks.options import CHAT_SAMPLING, SamplingOptions, sampler

TEXT = text_strategies.byte_level().to_str()
SIZE = text_strategies.byte_level().get_vocab_size()
CONFIG = tiny_models.llama(vocabulary=SIZE, context=96, layers=1)
ENGINE = NumpyEngine(CONFIG, tiny_models.weights(CONFIG, seed=3))
CHAT = "{% for m in messages %}<|im_start|>{{ m.role }}: {{ m.content }}<|im_end|>{% endfor %}<|im_start|>"


def model(
    eos: tuple[int, ...] = (),
    template: str | None = CHAT,
    text: str | None = TEXT,
    engine: Any = ENGINE,
    **defaults: Any,
) -> Model:
    """A model whose checkpoint asks for greedy decoding, unless `defaults` ask for something else."""
    return Model(engine, ModelFiles(text, template, Generation(None, eos, {"temperature": None, **defaults})))


MODEL = model()


def plain(prompt: list[int], new: int, eos: tuple[int, ...] = ()) -> list[int]:
    """Greedy tokens, the whole text computed anew for each."""
    made: list[int] = []
    for _ in range(new):
        token = int(MODEL.logits([*prompt, *made])[-1].argmax())
        if token in eos:
            break
        made.append(token)
    return made


def test_answer_is_the_plain_loop() -> None:
    prompt = MODEL.prompt("the cat")
    want = plain(prompt, 12)
    answer = MODEL.generate("the cat", max_new_tokens=12)
    assert "".join(answer) == answer.text == MODEL.text.decode(want)
    assert (answer.tokens, answer.finish_reason) == (want, "length")
    assert MODEL.generate_ids(prompt, max_new_tokens=12) == want
    assert answer.timings["prompt_tokens"] == len(prompt)
    assert answer.timings["new_tokens"] == 12
    assert answer.timings["decode_tokens_per_s"] > 0


def test_stop_token_ends_and_is_not_kept() -> None:
    prompt = MODEL.prompt("the cat")
    want = plain(prompt, 12)
    stop = want[5]
    answer = model(eos=(stop,)).generate("the cat", max_new_tokens=12)
    list(answer)
    assert (answer.tokens, answer.finish_reason) == (want[: want.index(stop)], "stop")
    assert model(eos=(stop,)).generate_ids(prompt, max_new_tokens=12, stop_on_eos=False) == want


def test_stop_string_ends_the_text_before_it() -> None:
    whole = "".join(MODEL.generate("the cat", max_new_tokens=20))
    stop = whole[4:7]
    answer = MODEL.generate("the cat", max_new_tokens=20, stop=(stop,))
    assert "".join(answer) == answer.text == whole[: whole.index(stop)]
    assert answer.finish_reason == "stop"
    assert len(answer.tokens) < 20


def test_a_model_may_ask_for_texts_that_end_its_answers() -> None:
    whole = "".join(MODEL.generate("the cat", max_new_tokens=20))
    asked = Generation(defaults={"temperature": None}, stop=(whole[4:7],))
    silent = Model(ENGINE, ModelFiles(TEXT, CHAT, asked))
    assert "".join(silent.generate("the cat", max_new_tokens=20)) == whole[: whole.index(whole[4:7])]
    assert "".join(silent.generate("the cat", max_new_tokens=20, stop=())) == whole
    assert silent.options(regex="a*").stop == ()


def test_sampling_defaults() -> None:
    assert sampler({}) == Sampler()
    assert sampler({}, top_k=5, top_p=None) == Sampler(temperature=1.0, top_k=5)
    assert sampler({"temperature": 0.5, "top_k": 50}) == Sampler(0.5, 50)
    assert sampler({"temperature": 0.5, "top_k": 50}, top_p=0.9) == Sampler(0.5, 50, 0.9)
    assert sampler({"temperature": 0.5}, greedy=True) == Sampler()
    assert sampler({"temperature": 0.5, "top_k": 50}, temperature=0, top_p=0.9) == Sampler()
    assert sampler({}, repetition_penalty=1.2) == Sampler(repetition_penalty=1.2)
    for off in (0, -1):
        assert sampler({"temperature": 0.5, "top_k": 50, "min_p": 0.1}, top_k=off, min_p=0) == Sampler(0.5)
        assert sampler({"temperature": 0.5, "top_k": 50}, top_k=off, greedy=True) == Sampler()
        assert sampler({"no_repeat_ngram": 3}, top_k=off, no_repeat_ngram=0) == Sampler()
    with refused(LimitError, "top_k", "-2"):
        sampler({}, top_k=-2)
    with refused(LimitError, "greedy", "beam", "top_k"):
        sampler({}, greedy=True, top_k=3)
    assert model(temperature=0.5).options(seed=None, stop=("x",)) == Options(
        sampler=Sampler(0.5), stop=("x",)
    )


def test_a_chat_that_nobody_says_how_to_sample_uses_the_defaults() -> None:
    silent = Model(ENGINE, ModelFiles(TEXT, CHAT))
    chat = sampler({}, **CHAT_SAMPLING)
    assert chat != Sampler()
    assert silent.options(greedy=False, seed=3, logit_bias=[(1, 2.0)]) == Options(
        sampler=replace(chat, logit_bias=((1, 2.0),)), seed=3
    )
    # Drafts keep the distribution, so they change nothing of it.
    assert silent.options(draft=(draft := PromptLookup())) == Options(sampler=chat, draft=draft)
    row = GeneratedSequence(silent.prompt("the cat"), chat, max_new_tokens=12)
    want = list(generate(ENGINE, row))
    assert want != plain(silent.prompt("the cat"), 12)
    talk = Conversation(silent)
    for answer in (
        silent.generate("the cat", max_new_tokens=12),
        silent.chat([{"role": "user", "content": "the cat"}], max_new_tokens=12),
        talk.say("the cat", max_new_tokens=12),
    ):
        assert "".join(answer) == silent.text.decode(want)
    assert silent.generate_many(["the cat"], max_new_tokens=12)[0].tokens == want


def test_the_defaults_of_a_chat_count_nowhere_else() -> None:
    silent, base = (Model(ENGINE, ModelFiles(TEXT, template)) for template in (CHAT, None))
    for made in (
        silent.generate("the cat", raw=True, max_new_tokens=12),
        base.generate("the cat", max_new_tokens=12),
    ):
        assert "".join(made) == MODEL.text.decode(plain(MODEL.prompt("the cat", raw=True), 12))
    [many] = silent.generate_many(["the cat"], raw=True, max_new_tokens=12)
    assert many.tokens == plain(MODEL.prompt("the cat", raw=True), 12)
    assert silent.generate_ids([5, 6, 7], max_new_tokens=12) == plain([5, 6, 7], 12)
    assert silent.sampler() == base.options().sampler == silent.options(beams=2).sampler == Sampler()
    chosen: list[SamplingOptions] = [
        {"greedy": True}, {"temperature": 2.0}, {"top_k": 2}, {"top_p": 0.5}, {"min_p": 0.5},
        {"typical_p": 0.5}, {"repetition_penalty": 1.5}, {"presence_penalty": 1.0},
        {"frequency_penalty": 1.0}, {"no_repeat_ngram": 3},
    ]  # fmt: skip
    for option in chosen:
        assert silent.options(**option).sampler == sampler({}, **option)
        if "greedy" not in option:
            stating = Model(ENGINE, ModelFiles(TEXT, CHAT, Generation(defaults={**option})))
            assert stating.options().sampler == Sampler(**option)
    assert silent.options(temperature=0) == silent.options(greedy=True)
    assert silent.options(top_k=0, min_p=0.0, no_repeat_ngram=0) == silent.options()
    assert silent.options(temperature=0.0, beams=2) == silent.options(beams=2)
    assert MODEL.options().sampler == Sampler()
    assert MODEL.options(top_k=3).sampler == Sampler(1.0, 3)
    beams = Model(ENGINE, ModelFiles(TEXT, CHAT, Generation(search={"beams": 2})))
    assert (beams.options().beams, beams.options().sampler) == (2, Sampler())


def test_beams_give_the_likeliest_text_they_find() -> None:
    prompt = MODEL.prompt("the cat")
    best, *_ = beam_search(ENGINE, BeamSearch(prompt, 3, max_new_tokens=10, length_penalty=0.5))
    answer = model(temperature=0.5).generate("the cat", beams=3, length_penalty=0.5, max_new_tokens=10)
    assert "".join(answer) == answer.text == MODEL.text.decode(best.tokens)
    assert (answer.tokens, answer.finish_reason, answer.cache) == (best.tokens, "length", None)
    assert answer.timings["decode_tokens_per_s"] == 0
    assert answer.timings["total_s"] == answer.timings["first_token_s"] > 0
    stopped = MODEL.generate(
        "the cat", beams=3, length_penalty=0.5, max_new_tokens=10, stop=(answer.text[3:5],)
    )
    assert "".join(stopped) == answer.text[: answer.text.index(answer.text[3:5])]
    assert stopped.finish_reason == "stop"
    ends, made = tuple(range(0, SIZE, 3)), []
    for penalty in (-4.0, 4.0):
        wanted = BeamSearch(prompt, 3, Sampler(), frozenset(ends), 10, penalty)
        made.append(model(eos=ends).generate("the cat", beams=3, length_penalty=penalty, max_new_tokens=10))
        list(made[-1])
        assert made[-1].tokens == beam_search(ENGINE, wanted)[0].tokens
    assert made[0].tokens != made[1].tokens
    for wrong in ({"length_penalty": 0.5}, {"early_stopping": True}, {"renormalize": True}):
        with refused(LimitError, next(iter(wrong)), "beams", "set"):
            MODEL.options(**wrong)
    drafted = {"beams": 2, "draft": PromptLookup()}
    beams = ({"beams": 0}, "beams"), ({"beams": 65}, "beams")
    for wrong, named in (*beams, ({"beams": 2, "top_k": 3}, "top_k"), (drafted, "draft")):
        with refused(LimitError, named):
            MODEL.options(**wrong)


def test_drafts_change_no_text() -> None:
    want = plain(MODEL.prompt("the cat the cat"), 16)
    other = NumpyEngine(CONFIG, tiny_models.weights(CONFIG, seed=4))
    for draft in (PromptLookup(), MODEL.drafter(MODEL), MODEL.drafter(model(engine=other))):
        answer = MODEL.generate("the cat the cat", draft=draft, max_new_tokens=16)
        assert "".join(answer) == MODEL.text.decode(want)
        assert (answer.tokens, answer.finish_reason) == (want, "length")
        sampled = {"temperature": 2.0, "top_p": 0.9, "seed": 5, "max_new_tokens": 16}
        answer = MODEL.generate("the cat the cat", draft=draft, **sampled)
        assert str(answer) == str(MODEL.generate("the cat the cat", **sampled))
    with refused(LimitError, "draft", "tokenizer"):
        MODEL.drafter(model(text=None))


def test_a_conversation_goes_on_after_beams_and_drafts() -> None:
    talk, kinds = Conversation(MODEL), ({"beams": 2}, {"draft": PromptLookup()}, {})
    cached = 0
    for question, more in zip(("the cat", "the dog", "the cow"), kinds, strict=True):
        prompt = talk.template.encode([*talk.messages, {"role": "user", "content": question}])
        answer = talk.say(question, max_new_tokens=6, **more)
        "".join(answer)
        cached = answer.timings["cached_tokens"]
        if "beams" not in more:
            assert answer.tokens == plain(prompt, 6), "the kept cache changed the answer"
    assert cached > 10


def test_a_seed_gives_the_text_again() -> None:
    texts_made = [MODEL.generate("the", temperature=2.0, seed=seed, max_new_tokens=16) for seed in (1, 1, 2)]
    one, again, other = ("".join(answer) for answer in texts_made)
    assert one == again != other


def test_raw_and_template() -> None:
    assert MODEL.prompt("the cat", raw=True) == MODEL.text.encode("the cat", add_special_tokens=True)
    assert model(template=None).prompt("the cat") == MODEL.prompt("the cat", raw=True)
    assert MODEL.prompt("the cat") == MODEL.text.encode_template(
        "<|im_start|>user: the cat<|im_end|><|im_start|>"
    )


def test_a_templates_variables() -> None:
    """They reach the prompt, however an answer is asked for; where no template is used they are refused."""
    chosen = model(template="{{ tone }}" + CHAT)
    variables = {"tone": "the dog "}
    asked = [{"role": "user", "content": "the cat"}]
    want = chosen.text.encode_template("the dog <|im_start|>user: the cat<|im_end|><|im_start|>")
    assert chosen.template is not None
    assert chosen.template.encode(asked, chat_template_kwargs=variables) == want
    talk = Conversation(chosen, chat_template_kwargs=variables)
    for stream in (
        chosen.generate("the cat", max_new_tokens=1, chat_template_kwargs=variables),
        chosen.chat(asked, max_new_tokens=1, chat_template_kwargs=variables),
        talk.say("the cat", max_new_tokens=1),
    ):
        assert stream.prompt == want
    [many] = chosen.generate_many(["the cat"], max_new_tokens=6, chat_template_kwargs=variables)
    assert many.tokens == plain(want, 6) != plain(chosen.prompt("the cat"), 6)
    for other, options in ((chosen, {"raw": True}), (model(template=None), {})):
        with refused(ArgumentError, "chat_template_kwargs"):
            other.ask("the cat", chat_template_kwargs=variables, **options)


def test_a_system_message_comes_first() -> None:
    """However an answer is asked for; where no template is used it is refused."""
    messages = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "the cat"}]
    want = MODEL.chat_template.encode(messages)
    assert MODEL.ask("the cat", system="be brief").ids == want
    assert MODEL.generate("the cat", system="be brief", max_new_tokens=1).prompt == want
    [many] = MODEL.generate_many(["the cat"], system="be brief", max_new_tokens=6)
    assert many.tokens == plain(want, 6) != plain(MODEL.prompt("the cat"), 6)
    for other, options in ((MODEL, {"raw": True}), (model(template=None), {})):
        with refused(ArgumentError, "system"):
            other.ask("the cat", system="be brief", **options)


def test_a_raw_text_may_name_control_tokens() -> None:
    """Where it is asked for, with the tokens around a text as always; never in a chat."""
    text = "<|im_start|>the cat"
    assert MODEL.text.control_tokens["<|im_start|>"] not in MODEL.ask(text, raw=True).ids
    want = MODEL.text.with_special_tokens(MODEL.text.encode_template(text))
    assert MODEL.text.control_tokens["<|im_start|>"] in want
    assert MODEL.ask(text, raw=True, control_tokens=True) == Prompt(want, None)
    assert MODEL.generate(text, raw=True, control_tokens=True, max_new_tokens=1).prompt == want
    [many] = MODEL.generate_many([text], raw=True, control_tokens=True, max_new_tokens=6)
    assert many.tokens == plain(want, 6)
    with refused(ArgumentError, "control_tokens"):
        MODEL.ask(text, control_tokens=True)


def test_a_template_for_tools_is_the_files() -> None:
    files = ModelFiles(TEXT, CHAT, tool_use_template="{{ tools | length }}")
    assert Model(ENGINE, files).chat_template.render([], tools=[{}]) == "1"


def test_conversation_reads_only_what_is_new() -> None:
    talk = Conversation(MODEL, system="be kind")
    for question in ("the cat", "the dog"):
        asked = [*talk.messages, {"role": "user", "content": question}]
        answer = talk.say(question, max_new_tokens=6)
        "".join(answer)
        assert MODEL.template is not None
        prompt = MODEL.template.encode(asked)
        assert answer.tokens == plain(prompt, 6), "the kept cache changed the answer"
        assert talk.messages == [*asked, {"role": "assistant", "content": answer.text}]
    assert answer.timings["cached_tokens"] > 10


def test_conversation_survives_what_was_not_read_to_its_end() -> None:
    talk, fresh = Conversation(MODEL), Conversation(MODEL)
    list(talk.say("the cat", max_new_tokens=4))
    list(fresh.say("the cat", max_new_tokens=4))
    next(talk.say("never mind", max_new_tokens=4))
    with refused(LimitError, "context", "96"):
        talk.say("the cat sat on the mat " * 40)
    assert list(talk.say("the dog", max_new_tokens=6)) == list(fresh.say("the dog", max_new_tokens=6))


@given(st.integers(1, 3), st.integers(1, 9), st.data())
def test_masked_tokens_are_not_there(batch: int, t: int, data: st.DataObject) -> None:
    mask = np.array([data.draw(st.lists(st.booleans(), min_size=t, max_size=t)) for _ in range(batch)])
    ids = np.random.default_rng(t).integers(0, SIZE, (batch, t))
    got = MODEL.logits(ids, mask)
    for row in range(batch):
        assert not got[row, ~mask[row]].any()
        if mask[row].any():
            want = MODEL.logits(ids[row, mask[row]])
            assert np.abs(got[row, mask[row]] - want).max() < 1e-4 * max(1, np.abs(want).max())


def test_logits_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    ids = np.random.default_rng(0).integers(0, SIZE, (2, 11))
    mask = np.arange(11) < np.array([[11], [6]])
    whole = MODEL.logits(ids, mask)
    monkeypatch.setattr("tfm.runtime.tasks.logits.CHUNK", 4)
    assert np.abs(MODEL.logits(ids, mask) - whole).max() < 1e-4


def test_refusals() -> None:
    with refused(LimitError, "prompt", "tokens", "context", "96"):
        MODEL.generate("the cat sat on the mat " * 40)
    with refused(LimitError, "max_new_tokens", 0):
        MODEL.generate("the", max_new_tokens=0)
    for stop in (("",), ("x" * 2000,), ("x",) * 40):
        with refused(LimitError, "stop"):
            MODEL.generate("the", stop=stop)
    with refused(CheckpointError, "tokenizer.json"):
        model(text=None).generate("the")
    with refused(TypeError, "task"):
        Conversation(MODEL).say("the", task="summarization")
    with refused(CheckpointError, "chat", "template"):
        Conversation(model(template=None))
    for ids, mask in (([], None), ([1, 2], [1]), (np.zeros((1, 1, 1)), None)):
        with refused(LimitError, "ids", "[T]", "[B,", "T]"):
            MODEL.logits(ids, mask)
    assert model(text=None).generate_ids([1, 2, 3], max_new_tokens=2)


def test_output_is_clipped_to_the_room_left() -> None:
    prompt = list(range(90))
    assert len(MODEL.generate_ids(prompt, max_new_tokens=50)) == 6
    with refused(LimitError, "token", "prompt", "3"):
        list(
            generate(
                ENGINE, GeneratedSequence([1, 2, 3]), ENGINE.step(np.array([[1, 2, 3]]), ENGINE.start(1))[1]
            )
        )


def test_many_texts_are_as_each_alone() -> None:
    prompts = ["the cat", "привет", "a", "def f(x):"]
    options: dict[str, Any] = {"temperature": 1.5, "seed": 5, "max_new_tokens": 12, "stop": ("t",)}
    ends = tuple(range(0, SIZE, 40))
    many = model(eos=ends)
    seen: list[tuple[str, int, int]] = []
    got = many.generate_many(prompts, batch=2, progress=lambda *at: seen.append(at), **options)
    assert seen == [("answering prompts", i + 1, 4) for i in range(4)]
    first = many.generate(prompts[0], **options)
    list(first)
    assert got[0][:4] == (first.tokens, first.text, first.finish_reason, None)
    for i, (prompt, made) in enumerate(zip(prompts, got, strict=True)):
        row = GeneratedSequence(many.prompt(prompt), many.sampler(temperature=1.5), frozenset(ends), 12, 5, i)
        tokens = list(generate(ENGINE, row))
        assert made.tokens == tokens[: len(made.tokens)]
        whole = many.text.decode(tokens)
        assert made.text == whole.split("t")[0]
        assert made.finish_reason == ("stop" if "t" in whole else row.finish_reason)
    assert {made.finish_reason for made in got} == {"stop", "length"}
    assert many.generate_many([], batch=2) == []
    bare = model(text=None)
    [made] = generate_many(bare, [Prompt([1, 2, 3], None)], bare.options(max_new_tokens=3))
    assert (made.tokens, made.text) == (bare.generate_ids([1, 2, 3], max_new_tokens=3), "")
    for wrong in ({"beams": 2}, {"draft": PromptLookup()}):
        with refused(LimitError, "beams", "draft", "texts"):
            many.generate_many(prompts, **wrong)


def test_a_document_of_a_schema_with_and_without_drafts() -> None:
    """The answer ends where the document is complete; a draft changes nothing of it."""
    stop = text_strategies.byte_level().token_to_id("<|im_end|>")
    schema = {"type": "array", "items": {"enum": ["the cat", "the dog"]}, "minItems": 2, "maxItems": 5}
    complete = 0
    for seed in range(12):
        options = {"json_schema": schema, "temperature": 1.5, "seed": seed, "max_new_tokens": 60}
        answer = model(eos=(stop,)).generate("the cat, the dog", **options)
        text = str(answer)
        drafted = model(eos=(stop,)).generate("the cat, the dog", **options, draft=PromptLookup())
        assert (str(drafted), drafted.finish_reason) == (text, answer.finish_reason)
        if answer.finish_reason == "stop":
            complete += 1
            assert set(json.loads(text)) <= {"the cat", "the dog"}
    assert complete
    for wrong in ({"beams": 2}, {"stop": ("a",)}, {"stop_on_eos": False}):
        for language in ({"json_schema": schema}, {"regex": "a"}, {"grammar": 'root ::= "a"'}):
            with refused(LimitError, "don't set"):
                model(eos=(stop,)).generate("a", **language, **wrong)
    with refused(LimitError, "grammar", "regex"):
        model(eos=(stop,)).generate("a", regex="a", grammar='root ::= "a"')
    with refused(ArgumentError, "regex", "3"):
        model(eos=(stop,)).generate("a", regex=3)
    with refused(ArgumentError, "json_schema", "mapping"):
        model(eos=(stop,)).generate("a", json_schema="{}")
    with refused(CheckpointError, "stop", "token"):
        model().generate("a", json_schema=schema)
