"""How a checkpoint wants to be run: each key is honoured, harmless at its value, or named in an error."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import transformers
from helpers import tiny_models
from helpers.refused import refused
from tfm.refimpl.checkpoint.config_readers.generation_keys import (
    IGNORED_GENERATION_KEYS,
    KEYS,
    UNSUPPORTED,
)
from tfm.refimpl.checkpoint.config_readers.gguf_metadata import as_config_json
from tfm.refimpl.checkpoint.families import read_config
from tfm.refimpl.checkpoint.generation_config import WITH_ENCODER, Generation, read_generation
from tfm.refimpl.checkpoint.languages import Languages
from tfm.refimpl.decoding.sampler import Sampler
from tfm.refimpl.decoding.speech import SpeechTokens
from tfm.refimpl.errors import CheckpointError, ConfigError

PAIR, ALONE = tiny_models.encoder_decoder(), tiny_models.llama()


def read(own: dict[str, Any] | None, stated: dict[str, Any] | None = None, config: Any = PAIR) -> Generation:
    return read_generation(stated or {}, own, config, "g.json")


def test_every_key_of_transformers_is_known():
    """What its GenerationConfig has, and what its defaults are: nothing but greedy decoding is asked for."""
    theirs = transformers.GenerationConfig().to_dict()
    unknown = set(theirs) | set(transformers.GenerationConfig._get_default_generation_params())
    assert unknown - KEYS == set()
    defaults = {**theirs, **transformers.GenerationConfig._get_default_generation_params()}
    for config in (PAIR, ALONE):
        found = read(defaults, config=config)
        assert (found.defaults, found.search, found.tasks) == ({"temperature": None}, {}, {})


@pytest.mark.parametrize(
    ("key", "config"), [(key, PAIR) for key in UNSUPPORTED] + [(key, ALONE) for key in WITH_ENCODER]
)
def test_an_option_that_is_not_there_is_left_out_and_told(key: str, config: Any):
    for value in (UNSUPPORTED | WITH_ENCODER)[key]:
        assert read({key: value}, config=config) == Generation()
    other = True if key == "force_bos_token_to_be_generated" else 7
    found = read({key: other, "eos_token_id": 2}, config=config)
    assert found == Generation(eos=(2,), left_out=(key,))
    assert key in found.notes[0]


def test_how_a_sound_is_transcribed_is_known_of_a_model_that_hears():
    """What openai/whisper-large-v3's file states; a model of texts has none of it."""
    asked = {
        "alignment_heads": [[0, 1]], "begin_suppress_tokens": [5, 2], "forced_decoder_ids": [[1, None]],
        "is_multilingual": True, "lang_to_id": {"<|en|>": 7}, "max_initial_timestamp_index": 50,
        "max_length": 30, "no_timestamps_token_id": 11, "prev_sot_token_id": 12, "return_timestamps": False,
        "suppress_tokens": [9, -1], "task_to_id": {"transcribe": 8},
    }  # fmt: skip
    found = read(asked | {"decoder_start_token_id": 3}, config=tiny_models.hearing())
    suppressed = {"suppress_tokens": [9], "begin_suppress_tokens": [5, 2]}
    speech = SpeechTokens(11, {"en": 7}, {"transcribe": 8}, 12, 50, alignment_heads=((0, 1),))
    assert found == Generation(defaults=suppressed, start=3, max_new_tokens=30, speech=speech)
    forced = read(asked | {"forced_decoder_ids": [[1, 7], [2, 8]]}, config=tiny_models.hearing()).speech
    assert forced == replace(speech, language="en", task="transcribe")
    for key in asked.keys() - {"begin_suppress_tokens", "max_length", "suppress_tokens"}:
        with refused(ConfigError, "unknown", key):
            read({key: asked[key]})
    for key, odd in (
        ("no_timestamps_token_id", 96), ("no_timestamps_token_id", 0), ("forced_decoder_ids", [1]),
        ("max_initial_timestamp_index", -1), ("lang_to_id", {"<|en|>": "7"}),
        ("alignment_heads", [[3, 0]]), ("alignment_heads", [[0, 6]]), ("alignment_heads", [[0]]),
        ("alignment_heads", [[0, -1]]), ("alignment_heads", [[0, 1.0]]),
    ):  # fmt: skip
        with refused((ConfigError, CheckpointError), key):
            read(asked | {key: odd}, config=tiny_models.hearing())


def test_several_beams_draw_nothing():
    found = read({"num_beams": 2, "do_sample": True, "top_p": 0.5, "repetition_penalty": 2.0})
    wanted = Generation(defaults={"repetition_penalty": 2.0}, search={"beams": 2}, left_out=("do_sample",))
    assert found == wanted


def test_a_temperature_of_zero_is_greedy():
    found = read({"do_sample": True, "temperature": 0.0, "top_p": 0.5, "repetition_penalty": 2.0})
    assert found.defaults == {"temperature": None, "repetition_penalty": 2.0}


def test_texts_that_end_an_answer():
    assert read({"stop_strings": "###"}).stop == ("###",)
    assert read({"stop_strings": ["a", "b"]}, config=ALONE).stop == ("a", "b")
    for too_much in ("", ["a"] * 17, "a" * 1025):
        assert read({"stop_strings": too_much}) == Generation(left_out=("stop_strings",))


BART = {  # bart-large-cnn's, as it was written by versions 2 and 4
    "bos_token_id": 0, "decoder_start_token_id": 2, "eos_token_id": 2, "forced_bos_token_id": 0,
    "forced_eos_token_id": 2, "early_stopping": True, "length_penalty": 2.0, "max_length": 142,
    "min_length": 56, "no_repeat_ngram_size": 3, "num_beams": 4, "pad_token_id": 1,
}  # fmt: skip


def test_a_summarizer():
    wanted = Generation(
        bos=0, eos=(2,), start=2, max_new_tokens=141,
        defaults={"no_repeat_ngram": 3, "min_new_tokens": 55, "forced_tokens": [0], "forced_last": [2]},
        search={"beams": 4, "length_penalty": 2.0, "early_stopping": True},
    )  # fmt: skip
    assert read(BART) == read(None, BART) == wanted
    old = {k: v for k, v in BART.items() if k != "forced_bos_token_id"}
    assert read(None, old | {"force_bos_token_to_be_generated": True}) == wanted
    # A file of its own replaces what config.json says, but for the ids that it leaves out.
    assert read({"num_beams": 2}, BART) == Generation(bos=0, eos=(2,), start=2, search={"beams": 2})
    assert wanted.prompt == (2,)
    # Lists, as JSON has them, make the same sampler as tuples.
    assert Sampler(**wanted.defaults).forced_tokens == (0,)
    assert json.loads(json.dumps(wanted.defaults)) == wanted.defaults


@pytest.fixture(scope="module")
def bart(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A tiny BART's files, and its config.json without the ids that its class states."""
    sizes = {f"{side}_{key}": 1 for side in ("encoder", "decoder") for key in ("layers", "attention_heads")}
    sizes |= {"encoder_ffn_dim": 4, "decoder_ffn_dim": 4, "d_model": 4, "vocab_size": 97}
    folder = tmp_path_factory.mktemp("bart")
    transformers.BartForConditionalGeneration(transformers.BartConfig(**sizes)).save_pretrained(folder)
    stated = json.loads((folder / "config.json").read_text())
    return folder, {key: value for key, value in stated.items() if not key.endswith("_token_id")}


FORCED = {"force_bos_token_to_be_generated": True, "forced_bos_token_id": 7}


@pytest.mark.parametrize(
    ("stated", "own"),
    [
        ({}, None),
        ({"bos_token_id": 5, "eos_token_id": 6}, None),
        ({"bos_token_id": 5, "decoder_start_token_id": 6}, None),
        ({"bos_token_id": 5} | FORCED, None),
        ({"bos_token_id": None} | FORCED, None),
        ({"bos_token_id": 5} | FORCED | {"force_bos_token_to_be_generated": False}, None),
        (FORCED, {"bos_token_id": 5, "eos_token_id": 6}),
        ({}, {"bos_token_id": 5} | FORCED),
        ({}, {"bos_token_id": 5, "force_bos_token_to_be_generated": True}),
        ({}, {"bos_token_id": 5, "_from_model_config": True} | FORCED),
    ],
)
def test_ids_are_those_that_transformers_opens(bart, stated: dict[str, Any], own: dict[str, Any] | None):
    """Of what the files state: those that BART's class has by default are nobody's there."""
    folder, base = bart
    (folder / "config.json").write_text(json.dumps(base | stated))
    (folder / "generation_config.json").unlink(missing_ok=True)
    if own is not None:
        (folder / "generation_config.json").write_text(json.dumps(own))
    theirs = transformers.BartForConditionalGeneration.from_pretrained(folder).generation_config
    found = read(own, base | stated)
    start = theirs.bos_token_id if theirs.decoder_start_token_id is None else theirs.decoder_start_token_id
    assert (found.bos, found.start) == (theirs.bos_token_id, start)
    assert found.eos == (() if theirs.eos_token_id is None else (theirs.eos_token_id,))
    assert found.defaults.get("forced_tokens", [None]) == [theirs.forced_bos_token_id]
    assert found.defaults.get("forced_last") == theirs.forced_eos_token_id


@pytest.mark.parametrize(
    ("stated", "wanted"),
    [
        ({}, {}),
        (
            {"temp": 0.5, "top_k": 20, "top_p": 0.75, "min_p": 0.125, "penalty_repeat": 1.25},
            {"temperature": 0.5, "top_k": 20, "top_p": 0.75, "min_p": 0.125, "repetition_penalty": 1.25},
        ),
        ({"top_p": 0.75, "top_k": -1}, {"temperature": 1.0, "top_p": 0.75}),
        ({"temp": 0.5, "penalty_repeat": 1.0}, {"temperature": 0.5}),
        ({"temp": 0.0, "top_p": 0.75}, {"temperature": None}),
        ({"penalty_repeat": 1.25}, {"temperature": None, "repetition_penalty": 1.25}),
    ],
)
def test_a_gguf_file_states_how_to_sample(stated: dict[str, Any], wanted: dict[str, Any]):
    metadata = {f"general.sampling.{name}": value for name, value in stated.items()}
    assert read(None, as_config_json(metadata, "llama"), ALONE).defaults == wanted


def test_sampling_of_a_gguf_file_that_is_none():
    for name, value in (("temp", "hot"), ("temp", float("nan")), ("top_k", 0.5), ("top_p", 2.0)):
        with pytest.raises(ConfigError, match=r"g\.json: .*(temperature|top_)"):
            read(None, as_config_json({f"general.sampling.{name}": value}, "llama"), ALONE)


def test_a_translator():
    found = read({
        "bad_words_ids": [[58], [3, 4], [0]], "bos_token_id": 0, "decoder_start_token_id": 58,
        "eos_token_id": 0, "forced_eos_token_id": 0, "max_length": 512, "num_beams": 6,
        "renormalize_logits": True, "suppress_tokens": [7], "begin_suppress_tokens": [8, 9],
    })  # fmt: skip
    # The end alone is no bad word: nothing could end.
    bad = {"bad_words": [[58], [3, 4]], "suppress_tokens": [7], "begin_suppress_tokens": [8, 9]}
    assert found.defaults == bad | {"forced_last": [0]}
    assert found.search == {"beams": 6, "renormalize": True}
    assert Sampler(**found.defaults).bad_words == ((58,), (3, 4))


def test_tasks_have_prefixes_and_settings_of_their_own():
    """T5's."""
    shared = {"early_stopping": True, "max_length": 300, "num_beams": 4}
    stated = {
        "decoder_start_token_id": 0,
        "eos_token_id": 1,
        "prefix": None,
        "task_specific_params": {
            "summarization": {
                **shared, "length_penalty": 2.0, "max_length": 200, "min_length": 30,
                "no_repeat_ngram_size": 3, "prefix": "summarize: ",
            },
            "translation_en_to_de": {**shared, "prefix": "translate English to German: "},
        },
    }  # fmt: skip
    for own in (None, {"decoder_start_token_id": 0, "eos_token_id": 1, "pad_token_id": 0}):
        found = read(own, stated)
        assert (found.prefix, found.search, found.start) == ("", {}, 0)
        summary, german = found.tasks["summarization"], found.tasks["translation_en_to_de"]
        assert (summary.prefix, summary.max_new_tokens, summary.eos) == ("summarize: ", 199, (1,))
        assert summary.defaults == {"no_repeat_ngram": 3, "min_new_tokens": 29}
        assert summary.search == {"beams": 4, "length_penalty": 2.0, "early_stopping": True}
        assert (german.prefix, german.start, german.tasks) == ("translate English to German: ", 0, {})
    # A decoder alone has no such tasks: GPT-2's says that its texts are sampled, which we leave to the user.
    assert read(None, {"task_specific_params": {"text-generation": {"do_sample": True}}}, ALONE).tasks == {}


def test_lengths():
    assert read({"max_new_tokens": 7, "max_length": 30}).max_new_tokens == 7
    assert read({"min_new_tokens": 3, "min_length": 30}).defaults == {"min_new_tokens": 3}
    assert read({"min_length": 1}).defaults == {}
    assert read({"max_length": 30}, config=ALONE) == Generation()
    assert read({"min_length": 4}, config=ALONE).defaults == {}


def test_a_decoder_begins_with_something():
    assert read({"bos_token_id": 5}).prompt == (5,)
    with refused(ConfigError, "decoder_start_token_id"):
        _ = read({}).prompt


@pytest.mark.parametrize(
    ("own", "config", "words"),
    [
        ({"unheard_of": 1}, PAIR, "g.json 'unheard_of'"),
        ({"stop_strings": [3]}, PAIR, "stop_strings null"),
        ({"early_stopping": "soon"}, PAIR, "early_stopping 'soon'"),
        ({"early_stopping": 3}, PAIR, "early_stopping"),
        ({"early_stopping": 1}, PAIR, "early_stopping"),
        ({"early_stopping": []}, PAIR, "early_stopping"),
        ({"early_stopping": ""}, PAIR, "early_stopping"),
        ({"length_penalty": 10**400}, PAIR, "length_penalty 2^53"),
        ({"repetition_penalty": 10**400}, PAIR, "repetition_penalty 2^53"),
        ({"length_penalty": -41.0}, PAIR, "length_penalty -40 40"),
        ({"top_k": 50.0, "do_sample": True}, PAIR, "top_k 1"),
        ({"length_penalty": "long"}, PAIR, "length_penalty"),
        ({"num_beams": 0}, PAIR, "num_beams 1"),
        ({"num_beams": 65}, PAIR, "num_beams 1 64 65"),
        ({"renormalize_logits": 1}, PAIR, "renormalize_logits"),
        ({"no_repeat_ngram_size": -1}, PAIR, "no_repeat_ngram"),
        ({"forced_bos_token_id": [1, 2]}, PAIR, "forced_bos_token_id"),
        ({"bad_words_ids": [[]]}, PAIR, "bad_words_ids null"),
        ({"bad_words_ids": [3]}, PAIR, "bad_words_ids null"),
        ({"prefix": 3}, PAIR, "prefix"),
        ({"task_specific_params": {"a": 1}}, PAIR, "task_specific_params.a"),
        ({"task_specific_params": {"a": {"odd": 1}}}, PAIR, "g.json 'odd'"),
    ],
)
def test_refused(own: dict[str, Any], config: Any, words: str):
    with refused(ConfigError, *words.split()):
        read(own, own if "task_specific_params" in own else None, config)


@pytest.mark.parametrize("key", ["forced_eos_token_id", "suppress_tokens", "bad_words_ids", "eos_token_id"])
def test_ids_are_of_the_vocabulary(key: str):
    for bad in (97, -1, "2", True, 1.0):
        with refused(CheckpointError, key, 0, 96):
            read({key: [[bad]] if key == "bad_words_ids" else [bad]})


def test_a_config_json_may_hold_them_all():
    """Their values are another reader's; but with a model_type that we know, no key of theirs is unknown."""
    sizes = {"vocab_size": 50, "d_model": 64, "d_ff": 96, "num_layers": 2, "num_heads": 8}
    plain = read_config({"model_type": "t5", **sizes})[0]
    free = KEYS - set(IGNORED_GENERATION_KEYS)
    assert read_config({"model_type": "t5", **sizes, **dict.fromkeys(free)})[0] == plain


def test_special_ids_are_all_that_have_a_meaning_of_their_own():
    """Of the tasks too; tokens that are kept from an answer may be those of any text."""
    languages = Languages({"ro_RO": 7}, "first")
    task = Generation(start=4, defaults={"forced_tokens": [5], "forced_last": [6], "suppress_tokens": [9]})
    whole = Generation(bos=0, eos=(1, 2), mask=3, tasks={"summarization": task}, languages=languages)
    assert whole.special_ids == {*range(8)}
