"""What a user of the Python interface meets: answers that print, log-probabilities, named errors, help."""

from __future__ import annotations

import inspect
import json
import math
import re
from typing import Any, Literal

import numpy as np
import pydantic
import pytest
from helpers.refused import refused
from helpers.task_models import CHAT, chat_model, tiny_reader
from tfm.refimpl.config import Classify, MaskedLM, Pool
from tfm.refimpl.errors import ArgumentError, CheckpointError, ConfigError, LimitError, TfmError
from tfm.runtime.tasks import Conversation, GenerateOptions, Model
from tfm.runtime.tasks.documents import schema_of
from tfm.runtime.tasks.options import SamplingOptions


def model(template: str | None = CHAT) -> Model:
    return chat_model(template, context=256)


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
        ({"logprobs": -1}, "logprobs 1000 -1"),
        ({"logprobs": 1001}, "logprobs 1000 1001"),
        ({"logprobs": 2, "beams": 2}, "beam logprobs"),
    ):
        with refused(LimitError, *words.split()):
            MODEL.generate("the", **wrong)


def test_an_answer_prints_as_its_text() -> None:
    answer = MODEL.generate("the cat", **GREEDY)
    assert repr(answer).startswith("<TextStream '', not complete")
    first = next(answer)
    assert first in repr(answer)
    assert str(answer) == answer.text == str(MODEL.generate("the cat", **GREEDY))
    assert str(answer) == answer.text
    assert repr(answer) == f"<TextStream {answer.text!r}, length>"


def test_what_cannot_be_chatted_with_is_told() -> None:
    with refused(ArgumentError, "messages", "one"):
        MODEL.chat([])
    with refused(ConfigError, "fill", "generate"):
        tiny_reader(MaskedLM(tied=True)).chat("hi")


def test_chat_asks_by_the_template() -> None:
    assert str(MODEL.chat(HELLO, **GREEDY)) == str(MODEL.generate("the cat", **GREEDY))
    messages = [{"role": "system", "content": "be kind"}, *HELLO, {"role": "assistant", "content": "no"}]
    messages += [user("why?")]
    answer = MODEL.chat(messages, **GREEDY)
    assert list(answer.prompt) == MODEL.chat_template.encode(messages)
    talk = Conversation(MODEL)
    talk.replace(messages[:-1])
    assert str(talk.say("why?", **GREEDY)) == str(answer)


def test_a_text_is_a_message_and_a_string_is_one_to_stop_at() -> None:
    assert str(MODEL.chat("the cat", **GREEDY)) == str(MODEL.chat(HELLO, **GREEDY))
    text = str(MODEL.chat(HELLO, **GREEDY))
    assert str(MODEL.chat(HELLO, stop=text[3], **GREEDY)) == text[: text.index(text[3])]
    assert MODEL.options(stop="ab").stop == ("ab",)
    assert MODEL.options(stop=["ab"]).stop == ["ab"]


class Reply(pydantic.BaseModel):
    agrees: bool
    count: Literal[1, 22]


@pytest.mark.parametrize(
    "given", [Reply, {**Reply.model_json_schema(), "additionalProperties": False}, {"enum": [7]}]
)
def test_an_answer_of_a_schema_is_parsed(given: Any) -> None:
    options = {"json_schema": given, "max_new_tokens": 400}
    ends = chat_model(ends=True)
    answer = ends.chat("the cat", **options)
    first = answer.parsed  # what is missing is generated
    [many] = ends.generate_many(["the cat"], **options)
    again = json.loads(answer.text)
    assert json.loads(many.text) == again
    for value in (first, many.parsed):
        assert value == (Reply(**again) if given is Reply else again)


def test_parsed_says_why_there_is_no_document() -> None:
    with refused(ArgumentError, "json_schema"):
        _ = MODEL.chat("the cat", **GREEDY).parsed
    with refused(LimitError, "max_new_tokens"):
        _ = chat_model(ends=True).chat("the cat", json_schema=Reply, max_new_tokens=3).parsed


class Inner(pydantic.BaseModel):
    x: int


class Open(pydantic.BaseModel, extra="allow"):
    one: Inner
    many: list[Inner]
    table: dict[str, int]


def test_the_objects_of_a_class_have_its_fields_alone() -> None:
    """Unless it says that they may have others; a mapping is taken as it is."""
    schema = schema_of(Open)
    assert schema["additionalProperties"] is True
    assert schema["$defs"]["Inner"]["additionalProperties"] is False
    assert schema["properties"]["table"]["additionalProperties"] == {"type": "integer"}
    assert schema_of(plain := {"type": "object", "properties": {}}) is plain


def test_a_model_says_what_it_is_and_counts_tokens() -> None:
    named = model()
    named.name = "tiny"
    assert re.fullmatch("<Model tiny, .*generate: NumpyEngine, .* 256 .*>", repr(named))
    assert repr(Conversation(named, "be kind")) == f"<Conversation with {named!r}, 1 messages>"
    assert named.context == 256
    assert named.count_tokens("the cat") == len(named.prompt("the cat", raw=True)) - 1, (
        "without what begins a text"
    )
    assert named.count_tokens(HELLO) == len(named.prompt("the cat"))
    assert named.count_tokens("") == 0


def test_a_model_is_closed_at_the_end_of_a_block() -> None:
    with model() as opened:
        assert str(opened.chat("hi", **GREEDY))
    assert "closed" in repr(opened)
    for use in (lambda: opened.chat("hi", **GREEDY), lambda: opened.context, lambda: opened.logits([1])):
        with refused(ArgumentError, "closed"):
            use()
    assert opened.count_tokens("hi") == 2, "which computes nothing"


def test_similarity_is_the_cosine_of_embeddings() -> None:
    reader = tiny_reader(Pool("mean"))
    texts = ["the cat", "a dog", "the cat"]
    vectors = reader.embed(texts)
    cosines = vectors @ vectors.T / np.outer(*2 * [np.linalg.norm(vectors, axis=1)])
    assert reader.similarity(texts) == pytest.approx(cosines, abs=1e-6)
    assert reader.similarity("the cat", texts) == pytest.approx(cosines[:1], abs=1e-6)


@pytest.mark.parametrize("kind", ["multi", "regression"])
def test_texts_are_ranked_by_their_one_label(kind: Any) -> None:
    reader = tiny_reader(Classify(1, kind=kind), ("relevant",))
    texts = ["the cat", "a dog", "on the mat", "a dog"]
    scores = [row[0].score for row in reader.classify([("who", text) for text in texts])]
    want = scores if kind == "multi" else [1 / (1 + math.exp(-score)) for score in scores]
    ranked = reader.rerank("who", texts)
    assert [one.index for one in ranked] == sorted(range(4), key=lambda i: -want[i])
    assert [one.score for one in ranked] == pytest.approx(sorted(want, reverse=True))
    assert [one.text for one in ranked] == [texts[one.index] for one in ranked]
    assert reader.rerank("who", texts, top=2) == ranked[:2]
    with refused(ConfigError, "label"):
        tiny_reader(Classify(2), ("a", "b")).rerank("who", texts)
    with refused(ConfigError, "embed", "label"):
        tiny_reader(Pool("mean")).rerank("who", texts)


def test_ctrl_c_leaves_model_and_conversation_usable() -> None:
    """As in a notebook: the cell ends where it was, and the next one goes on from the last whole answer."""
    talk = Conversation(model())
    engine = talk.model.engine
    str(talk.say("the cat", **GREEDY))
    before, step, calls = list(talk.messages), engine.step, []

    def interrupted(*arguments: Any, **options: Any) -> Any:
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return step(*arguments, **options)

    engine.step = interrupted
    with pytest.raises(KeyboardInterrupt):
        str(talk.say("the dog", **GREEDY))
    assert talk.messages == before
    engine.step = step
    fresh = talk.model.chat([*before, user("the cow")], **GREEDY)
    assert str(talk.say("the cow", **GREEDY)) == str(fresh)


def test_wrong_arguments_are_named() -> None:
    for wrong, kind, words in (
        (HELLO[0], ArgumentError, "messages list"),
        (["hi"], ArgumentError, "message 0"),
        ([*HELLO, {"role": "user"}], ArgumentError, "message 1"),
        ([{"role": "user", "content": None}], ArgumentError, "message 0"),
        ([{"role": "boss", "content": "hi"}], LimitError, "role system"),
    ):
        with refused(kind, *words.split()):
            MODEL.chat(wrong)
    with refused(CheckpointError, "chat", "template"):
        model(template=None).chat(HELLO)
    with refused(ArgumentError, "['hi']", "generate"):
        MODEL.generate_many("hi")
    with refused(ArgumentError, "generate_many"):
        MODEL.generate(["hi"])
    with refused(LimitError, "seed", -1):
        MODEL.generate("hi", seed=-1)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"temprature": 1.0}, "'temprature' temperature?"),
        ({"max_tokens": 3}, "'max_tokens' max_new_tokens?"),
        ({"zzz": 3}, "'zzz' help()"),
        ({"temperature": "hot"}, "temperature 'hot'"),
        ({"temperature": True}, "temperature True"),
        ({"max_new_tokens": 2.5}, "max_new_tokens 2.5"),
        ({"max_new_tokens": True}, "max_new_tokens True"),
        ({"greedy": 1}, "greedy True False 1"),
        ({"stop": 5}, "stop 5"),
        ({"json_schema": 5}, "json_schema 5"),
        ({"json_schema": dict}, "json_schema 'dict'"),
        ({"suppress_tokens": 5}, "suppress_tokens 5"),
    ],
)
def test_a_wrong_option_is_named(options: dict[str, Any], words: str) -> None:
    for function, argument in (
        (MODEL.generate, "hi"),
        (MODEL.chat, HELLO),
        (MODEL.generate_many, ["hi"]),
        (Conversation(MODEL).say, "hi"),
    ):
        with refused(ArgumentError, *words.split()) as caught:
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
    with refused(ArgumentError, "message", "0"):
        talk.replace(["hi"])
    assert talk.messages == before
