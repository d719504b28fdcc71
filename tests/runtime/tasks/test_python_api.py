"""What a user of the Python interface meets: answers that print, log-probabilities, named errors, help."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import pytest
from helpers import text_strategies, tiny_models
from helpers.task_models import ModelFiles
from tfm.refimpl.checkpoint.open import Generation
from tfm.refimpl.engine.numpy_engine import NumpyEngine
from tfm.refimpl.errors import ArgumentError, CheckpointError, LimitError, TfmError
from tfm.runtime.tasks import Conversation, GenerateOptions, Model
from tfm.runtime.tasks.options import SamplingOptions

TEXT = text_strategies.byte_level()
CONFIG = tiny_models.llama(vocabulary=TEXT.get_vocab_size(), context=256, layers=1)
CHAT = "{% for m in messages %}<|im_start|>{{ m.role }}: {{ m.content }}<|im_end|>{% endfor %}<|im_start|>"


def model(template: str | None = CHAT) -> Model:
    engine = NumpyEngine(CONFIG, tiny_models.weights(CONFIG, seed=3))
    return Model(engine, ModelFiles(TEXT.to_str(), template, Generation()))


MODEL = model()
GREEDY: dict[str, Any] = {"greedy": True, "max_new_tokens": 8}
HELLO = [{"role": "user", "content": "the cat"}]


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def log_probabilities(ids: list[int]) -> np.ndarray:
    logits = MODEL.logits(ids).astype(np.float64)
    return logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))


@pytest.mark.parametrize("drafted", [False, True])
def test_logprobs_are_of_the_models_own_distribution(drafted: bool) -> None:
    draft = MODEL.drafter(MODEL) if drafted else None  # of which every token is accepted
    sampled = {"temperature": 3.0, "top_k": 4, "repetition_penalty": 1.3, "seed": 2, "max_new_tokens": 12}
    answer = MODEL.generate("the cat the cat", draft=draft, logprobs=5, **sampled)
    text = str(answer)
    prompt = MODEL.prompt("the cat the cat")
    expected = log_probabilities([*prompt, *answer.tokens])[len(prompt) - 1 : -1]
    assert answer.logprobs is not None
    assert [one.token for one in answer.logprobs] == answer.tokens
    assert text == str(MODEL.generate("the cat the cat", draft=draft, **sampled)), "logprobs changed the text"
    for one, row in zip(answer.logprobs, expected, strict=True):
        assert one.logprob == pytest.approx(row[one.token], abs=1e-5)
        assert [token for token, _ in one.top] == np.argsort(-row, kind="stable")[:5].tolist()
        assert [p for _, p in one.top] == pytest.approx(np.sort(row)[:-6:-1], abs=1e-5)
    if not drafted:
        (many,) = MODEL.generate_many(["the cat the cat"], logprobs=0, **sampled)
        assert many.logprobs is not None
        assert [one.logprob for one in many.logprobs] == pytest.approx(
            [one.logprob for one in answer.logprobs]
        )
        assert {len(one.top) for one in many.logprobs} == {0}
        assert str(many) == many.text == text


def test_logprobs_are_none_unless_asked_for_and_have_limits() -> None:
    assert MODEL.generate("the", **GREEDY).logprobs is None
    for wrong, words in (
        ({"logprobs": -1}, "logprobs must be 0 to 1000, got -1"),
        ({"logprobs": 1001}, "got 1001"),
        ({"logprobs": 2, "beams": 2}, "beam search takes no logprobs"),
    ):
        with pytest.raises(LimitError, match=words):
            MODEL.generate("the", **wrong)


def test_an_answer_prints_as_its_text() -> None:
    answer = MODEL.generate("the cat", **GREEDY)
    assert repr(answer) == "<TextStream '', not complete: iterate over it, or print it>"
    first = next(answer)
    assert first in repr(answer)
    assert str(answer) == answer.text == str(MODEL.generate("the cat", **GREEDY))
    assert str(answer) == answer.text
    assert repr(answer) == f"<TextStream {answer.text!r}, length>"


def test_chat_asks_by_the_template() -> None:
    assert str(MODEL.chat(HELLO, **GREEDY)) == str(MODEL.generate("the cat", **GREEDY))
    messages = [{"role": "system", "content": "be kind"}, *HELLO, {"role": "assistant", "content": "no"}]
    messages += [user("why?")]
    answer = MODEL.chat(messages, **GREEDY)
    assert list(answer.prompt) == MODEL.chat_template.encode(messages)
    talk = Conversation(MODEL)
    talk.replace(messages[:-1])
    assert str(talk.say("why?", **GREEDY)) == str(answer)


def test_wrong_arguments_are_named() -> None:
    for wrong, kind, words in (
        ("hi", ArgumentError, r"messages must be a list of \{.*\}, got 'hi'"),
        (HELLO[0], ArgumentError, "messages must be a list"),
        (["hi"], ArgumentError, "message 0 must be like"),
        ([*HELLO, {"role": "user"}], ArgumentError, "message 1 must be like"),
        ([{"role": "user", "content": None}], ArgumentError, "message 0 must be like"),
        ([{"role": "boss", "content": "hi"}], LimitError, "role must be one of system"),
    ):
        with pytest.raises(kind, match=words):
            MODEL.chat(wrong)
    with pytest.raises(CheckpointError, match="no chat template"):
        model(template=None).chat(HELLO)
    with pytest.raises(ArgumentError, match=r"got one text: pass \['hi'\], or use generate"):
        MODEL.generate_many("hi")
    with pytest.raises(ArgumentError, match=r"a prompt must be a text, got .*: generate_many takes several"):
        MODEL.generate(["hi"])
    with pytest.raises(LimitError, match="seed must be at least 0, got -1"):
        MODEL.generate("hi", seed=-1)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"temprature": 1.0}, "no option is named 'temprature': did you mean temperature?"),
        ({"max_tokens": 3}, "no option is named 'max_tokens': did you mean max_new_tokens?"),
        ({"zzz": 3}, r"no option is named 'zzz': help\(\) of the function lists them"),
        ({"temperature": "hot"}, "temperature must be a number, got 'hot'"),
        ({"temperature": True}, "temperature must be a number, got True"),
        ({"max_new_tokens": 2.5}, "max_new_tokens must be a whole number, got 2.5"),
        ({"max_new_tokens": True}, "max_new_tokens must be a whole number, got True"),
        ({"greedy": 1}, "greedy must be True or False, got 1"),
        ({"stop": "end"}, "stop must be a list, got 'end'"),
        ({"suppress_tokens": 5}, "suppress_tokens must be a list, got 5"),
    ],
)
def test_a_wrong_option_is_named(options: dict[str, Any], words: str) -> None:
    for function, argument in (
        (MODEL.generate, "hi"),
        (MODEL.chat, HELLO),
        (MODEL.generate_many, ["hi"]),
        (Conversation(MODEL).say, "hi"),
    ):
        with pytest.raises(ArgumentError, match=words) as caught:
            function(argument, **options)
        assert isinstance(caught.value, TfmError)


def test_options_may_be_numbers_of_numpy() -> None:
    resolved = MODEL.options(temperature=np.float32(0.5), top_k=np.int64(3), stop=("a",), early_stopping=None)
    assert (resolved.sampler.temperature, resolved.sampler.top_k) == (0.5, 3)


def test_help_lists_and_describes_every_option() -> None:
    every = set(GenerateOptions.__annotations__)
    methods = ("generate", "chat", "generate_many", "generate_ids", "translate", "summarize", "options")
    functions = [*(getattr(Model, name) for name in methods), Conversation.say]
    for function, names in (*((one, every) for one in functions), (Model.sampler, {"top_k", "greedy"})):
        signature = inspect.signature(function)
        assert names <= set(signature.parameters), function
        assert not [p for p in signature.parameters.values() if p.kind is p.VAR_KEYWORD], function
        described = {line.partition(":")[0] for line in inspect.getdoc(function).splitlines()}
        assert names <= described, function
    assert set(SamplingOptions.__annotations__) < every
    assert "max_new_tokens" not in inspect.signature(Model.sampler).parameters


def test_a_stopped_answer_stays_in_the_conversation() -> None:
    talk = Conversation(MODEL)
    answer = talk.say("the cat", **GREEDY | {"max_new_tokens": 40})
    shown = next(answer)
    tokens = list(answer.tokens)
    answer.stop()
    shown += "".join(answer)
    assert (answer.complete, answer.finish_reason, answer.text) == (True, "stop", shown)
    assert answer.tokens == tokens
    assert talk.messages == [user("the cat"), {"role": "assistant", "content": shown}]
    again = talk.say("the dog", **GREEDY)
    str(again)
    assert again.timings["cached_tokens"] > len("the cat"), "the stopped answer was read again"


def test_replaced_messages_are_read_only_where_they_differ() -> None:
    talk = Conversation(MODEL)
    str(talk.say("the cat", **GREEDY))
    before = list(talk.messages)
    str(talk.say("the dog", **GREEDY))
    talk.replace(before)
    assert talk.messages == before
    answer = talk.say("the cow", **GREEDY)
    fresh = MODEL.chat([*before, user("the cow")], **GREEDY)
    assert str(answer) == str(fresh)
    assert answer.timings["cached_tokens"] > len("the cat")
    dropped = talk.say("never mind", **GREEDY)
    next(dropped)
    talk.replace(before)
    assert str(dropped)
    assert talk.messages == before
    with pytest.raises(ArgumentError, match="message 0"):
        talk.replace(["hi"])
    assert talk.messages == before
