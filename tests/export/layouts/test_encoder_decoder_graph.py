"""The graphs of an encoder and its decoder with other runtimes' ports compute the specification.

However texts are padded.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import transformers
from helpers import tiny_models
from helpers.exported import exported
from helpers.within_budget import assert_within_budget
from tfm.export.layouts import (
    encoder_decoder_graph,
    genai,
    genai_hearing,
    hub_files,
    optimum,
    transformers_js,
)
from tfm.export.layouts.convert import LAYOUTS
from tfm.refimpl.checkpoint.generation_config import Generation
from tfm.refimpl.config import Attention, EncoderDecoder, Rope, Stack
from tfm.refimpl.engine.numpy_engine import NumpyEngine
from tfm.runtime.bundle import targets
from tfm.runtime.bundle.bundle import Bundle

TEXTS = ([5, 17, 3, 88, 41], [9, 2], [60, 33, 7])
MASKS = {
    "right": ([1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [1, 1, 1, 0, 0]),
    "left": ([1, 1, 1, 1, 1], [0, 0, 0, 1, 1], [0, 0, 1, 1, 1]),
    "between": ([1, 1, 1, 1, 1], [0, 1, 0, 1, 0], [1, 0, 1, 0, 1]),
}
STEPS = ([[3, 70], [3, 4], [3, 28]], [[11], [90], [6]], [[8], [8], [51]])


def shared_cache() -> EncoderDecoder:
    """Rotary positions and biases, layers with a window, and a cache that GroupQueryAttention writes."""
    config = tiny_models.rotary_encoder_decoder(context=40)
    assert isinstance(config.decoder, Stack)
    layers = []
    for layer in config.decoder.layers:
        assert isinstance(layer.attention, Attention)
        cross = Attention(6, 6, 16, qkv_bias=True, out_bias=True, pre=layer.attention.pre)
        layers.append(replace(layer, cross=cross, attention=replace(layer.attention, kv_heads=6)))
    return replace(config, decoder=replace(config.decoder, layers=tuple(layers)))


def few_places() -> EncoderDecoder:
    """Rotary positions of fewer places than GroupQueryAttention takes, and so a copied cache."""
    config = shared_cache()
    assert isinstance(config.decoder, Stack)
    layers = [
        replace(layer, attention=replace(layer.attention, position=Rope(100.0, 8)))
        for layer in config.decoder.layers
        if isinstance(layer.attention, Attention)
    ]
    return replace(config, decoder=replace(config.decoder, layers=tuple(layers)))


CONFIGS = {
    "copied": tiny_models.encoder_decoder(), "shared": shared_cache(), "copied, rotary": few_places(),
    "copied, one softmax": tiny_models.merging(context=40),
}  # fmt: skip
RARER = [pytest.param(name, marks=pytest.mark.long) for name in [*CONFIGS][1:]]


@pytest.fixture(scope="module", params=["copied", *RARER])
def bundle(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """One whose decoder copies its cache at each step, and one whose decoder writes it in place."""
    bundle = exported(tmp_path_factory.mktemp("reader"), CONFIGS[request.param], seed=4)
    assert bundle.cache == request.param.partition(",")[0]
    return bundle


class Client:
    """What another runtime does: it hands the encoder's output on, and feeds the cache again."""

    def __init__(self, folder: Path, ids: np.ndarray, mask: np.ndarray) -> None:
        encoder, self.decoder = (
            ort.InferenceSession(str(folder / name), providers=["CPUExecutionProvider"])
            for name in ("encoder.onnx", "decoder.onnx")
        )
        (states,) = encoder.run(None, {"input_ids": ids, "attention_mask": mask})
        self.text = {"encoder_hidden_states": states, "encoder_attention_mask": mask}
        self.past = {
            port.name: np.zeros((len(ids), port.shape[1], 0, port.shape[3]), np.float32)
            for port in self.decoder.get_inputs()
            if port.name.startswith("past_key_values.")
        }
        self.cached = False

    def step(self, ids: Any) -> np.ndarray:
        feeds = {"input_ids": np.array(ids), "use_cache_branch": np.array([self.cached]), **self.text}
        logits, *present = self.decoder.run(None, {**feeds, **self.past})
        names = [port.name.replace("present", "past_key_values") for port in self.decoder.get_outputs()[1:]]
        self.past, self.cached = dict(zip(names, present, strict=True)), True
        # From here on the keys of the text are all that is read of it.
        self.text["encoder_hidden_states"] = np.full_like(self.text["encoder_hidden_states"], np.nan)
        return np.asarray(logits)


@pytest.mark.parametrize("every", [False, True], ids=["last", "every"])
def test_texts_may_be_padded_on_any_side(bundle: Bundle, every: bool, tmp_path: Path):
    config, weights = bundle.config, tiny_models.weights(bundle.config, seed=4)
    paths = tmp_path / "encoder.onnx", tmp_path / "decoder.onnx"
    encoder_decoder_graph.write(bundle, *paths, every_position=every)
    for mask in map(np.array, MASKS.values()):
        ids = np.full(mask.shape, 96)
        ids[mask == 1] = np.concatenate(TEXTS)
        client = Client(tmp_path, ids, mask)
        read: list[list[int]] = [[] for _ in TEXTS]
        for step in STEPS:
            logits = client.step(step)
            assert logits.shape[1] == (len(step[0]) if every else 1)
            for row, text in enumerate(TEXTS):
                read[row] += step[row]
                expect(logits[row], config, weights, text, read[row])


def expect(got: np.ndarray, config: Any, weights: Any, text: list[int], tokens: list[int]) -> None:
    """Logits of a row's last tokens are the specification's."""

    def specified(leaves: Any) -> np.ndarray:
        engine, at = NumpyEngine(config, leaves), np.arange(len(tokens))[None, -len(got) :]
        return engine.step(np.array([tokens]), engine.start(1, np.array([text])), at=at)[0][0]

    assert_within_budget(got, weights, specified)


def test_the_files_hold_what_their_graphs_read(bundle: Bundle, tmp_path: Path):
    paths = tmp_path / "encoder.onnx", tmp_path / "decoder.onnx"
    encoder_decoder_graph.write(bundle, *paths, every_position=False)
    for path, other in zip(paths, ("decoder.", "encoder."), strict=True):
        tensors = onnx.load(path, load_external_data=False).graph.initializer
        stored = [tensor for tensor in tensors if tensor.data_location == onnx.TensorProto.EXTERNAL]
        assert not [tensor.name for tensor in stored if tensor.name.startswith(other)]
        lengths = [int(e.value) for tensor in stored for e in tensor.external_data if e.key == "length"]
        # Each begins at a multiple of 4096 bytes.
        assert Path(f"{path}_data").stat().st_size <= sum(lengths) + 4096 * len(stored)


def test_ports_have_the_names_and_axes_that_runtimes_look_for(bundle: Bundle, tmp_path: Path):
    paths = tmp_path / "encoder.onnx", tmp_path / "decoder.onnx"
    encoder_decoder_graph.write(bundle, *paths, every_position=False)
    encoder, decoder = (ort.InferenceSession(str(path), providers=["CPUExecutionProvider"]) for path in paths)
    assert [port.name for port in encoder.get_inputs()] == ["input_ids", "attention_mask"]
    assert [port.name for port in encoder.get_outputs()] == ["last_hidden_state"]
    inputs = {port.name: port.shape for port in decoder.get_inputs()}
    outputs = {port.name: port.shape for port in decoder.get_outputs()}
    heads, size = encoder_decoder_graph.heads(bundle.config)
    assert inputs["input_ids"] == ["batch_size", "sequence_length"]
    assert inputs["past_key_values.1.encoder.value"] == [
        "batch_size",
        heads,
        "past_encoder_sequence_length",
        size,
    ]
    # Runtimes pair a layer's four arrays by their order.
    four = ("decoder.key", "decoder.value", "encoder.key", "encoder.value")
    layers = range(len(bundle.config.layers))
    assert [name for name in inputs if "." in name] == [
        f"past_key_values.{i}.{n}" for i in layers for n in four
    ]
    assert list(outputs) == ["logits", *(f"present.{i}.{name}" for i in layers for name in four)]


def test_configuration_files_state_how_to_generate(bundle: Bundle):
    task = Generation(prefix="summarize: ", search={"beams": 4})
    stated = Generation(
        None,
        (1,),
        {"forced_tokens": [5], "forced_last": [1], "encoder_no_repeat_ngram": 3},
        start=3,
        search={"renormalize": True},
        max_new_tokens=7,
        tasks={"summarization": task},
    )
    bundle = replace(bundle, manifest=replace(bundle.manifest, generation=stated))
    heads, size = encoder_decoder_graph.heads(bundle.config)
    config = hub_files.config(bundle)
    assert (config["d_model"], config["num_heads"]) == (heads * size, heads)
    assert (config["num_layers"], config["num_decoder_layers"]) == (3, 2)
    summary = config["task_specific_params"]["summarization"]
    assert (summary["prefix"], summary["num_beams"]) == ("summarize: ", 4)
    assert hub_files.generation_config(bundle) == {
        "eos_token_id": [1],
        "pad_token_id": 1,
        "decoder_start_token_id": 3,
        "forced_bos_token_id": 5,
        "forced_eos_token_id": [1],
        "encoder_no_repeat_ngram_size": 3,
        "renormalize_logits": True,
        "max_new_tokens": 7,
        "do_sample": False,
    }


def test_what_a_runtime_doesnt_choose_by_is_left_out_and_said():
    task = Generation(search={"beams": 2, "early_stopping": True}, defaults={"no_repeat_ngram": 3})
    defaults = {"temperature": 0.5, "top_k": 7, "top_p": 0.9}
    stated = Generation(None, (1,), defaults, start=3, search={"beams": 4}, tasks={"summarization": task})
    written = transformers_js.LAYOUT.stated(stated)
    assert (written.defaults, written.search) == ({"temperature": 0.5, "top_k": 7}, {})
    assert (written.eos, written.start) == ((1,), 3)
    assert written.tasks == {"summarization": Generation(defaults={"no_repeat_ngram": 3})}
    without = "doesn't apply these settings of the model:"
    told = {one.name: one.left_out(stated) for one in LAYOUTS.values()}
    assert told == {
        "transformers.js": f"transformers.js {without} top_p=0.9, beams=4, beams=2, early_stopping=True",
        "genai": f"genai {without} beams=4, no_repeat_ngram=3, beams=2, early_stopping=True",
        "optimum": None,
    }
    assert optimum.LAYOUT.stated(stated) == stated
    assert transformers_js.LAYOUT.left_out(Generation(defaults={"temperature": None})) is None
    ends = "genai ends texts at token 0, because the model states no end token"
    assert LAYOUTS["genai"].left_out(Generation()) == ends
    assert LAYOUTS["genai"].left_out(Generation(search={"beams": 4})) == f"genai {without} beams=4; {ends}"


TYPES = replace(CONFIGS["copied"], embedding=replace(CONFIGS["copied"].embedding, token_types=2))
REFUSED = {
    "must have an encoder and a decoder": (tiny_models.llama(), "ort-cpu"),
    "a decoder that generates text": (tiny_models.reading_decoder(), "ort-cpu"),
    "but it is for standard": (CONFIGS["copied"], "standard"),
    "kv=float": (CONFIGS["shared"].with_kv("int8"), "ort-cpu"),
    "must have no token types": (TYPES, "ort-cpu"),
    "must have the same heads": (tiny_models.rotary_encoder_decoder(), "ort-cpu"),
}


@pytest.mark.parametrize("words", REFUSED)
def test_what_the_ports_dont_cover_is_refused_with_its_reason(words: str):
    config, target = REFUSED[words]
    assert words in (encoder_decoder_graph.refusal(config, targets.find(target)) or "")


def test_genai_refuses_them():
    for config, words in (
        (CONFIGS["copied"], "Marian with a recurrent decoder"),
        (HEARING, "3000 frames"),
        (tiny_models.writing(), "3000 frames, got samples"),
    ):
        assert words in (genai.LAYOUT.refusal(config, targets.find("ort-cpu")) or "")


def test_samples_are_refused():
    refused = encoder_decoder_graph.refusal(tiny_models.writing(), targets.find("ort-cpu"))
    assert "samples" in (refused or "")


HEARING = tiny_models.hearing()
# Of each form: its files, what the encoder is fed, and what the decoder is fed of a past.
FORMS = {
    "merged": ("input_features", "past_key_values.", "present.", "last_hidden_state"),
    "genai": ("audio_features", "past_", "present_", "hidden_states"),
}


@pytest.mark.parametrize("form", FORMS)
def test_a_sound_is_heard_as_specified(form: str, tmp_path: Path):
    """Two sounds side by side, and three steps."""
    bundle, weights = exported(tmp_path / "bundle", HEARING, seed=4), tiny_models.weights(HEARING, seed=4)
    paths = tmp_path / "encoder.onnx", tmp_path / "decoder.onnx"
    if form == "merged":
        encoder_decoder_graph.write(bundle, *paths, every_position=False)
    else:
        genai_hearing.write_encoder(bundle, paths[0])
        genai_hearing.write_decoder(bundle, paths[1])
    encoder, decoder = (ort.InferenceSession(str(path), providers=["CPUExecutionProvider"]) for path in paths)
    name, past, present, states = FORMS[form]
    sounds = np.random.default_rng(0).normal(size=(2, 10, 6)).astype(np.float32)
    found = encoder.run(None, {name: sounds.transpose(0, 2, 1)})
    kept = dict(zip((port.name for port in encoder.get_outputs()), found, strict=True))
    feeds = {port.name: np.zeros((2, 6, 0, 8), np.float32) for port in decoder.get_inputs()}
    feeds |= {key.replace(present, past): value for key, value in kept.items() if key != states}
    if form == "merged":
        feeds |= {"encoder_hidden_states": kept[states], "use_cache_branch": np.array([False])}
    read = np.zeros((2, 0), np.int64)
    for step in ([[3, 70], [3, 4]], [[11], [90]], [[8], [7]]):
        read = np.concatenate([read, step], 1)
        logits, *later = decoder.run(None, feeds | {"input_ids": np.array(step)})
        names = [port.name.replace(present, past) for port in decoder.get_outputs()[1:]]
        feeds |= dict(zip(names, later, strict=True))
        if form == "merged":
            feeds |= {"use_cache_branch": np.array([True])}
            feeds["encoder_hidden_states"] = np.full_like(
                kept[states], np.nan
            )  # its keys are all that is read

        def specified(leaves: Any, tokens: np.ndarray = read) -> np.ndarray:
            engine, at = NumpyEngine(HEARING, leaves), np.full((2, 1), tokens.shape[1] - 1)
            return engine.step(tokens, engine.start(2, sounds), at=at)[0]

        assert_within_budget(np.asarray(logits), weights, specified)


def test_what_a_model_that_hears_is_called():
    frames, bands = (3000, 80)
    stated = hub_files.preprocessor_config((frames, bands))
    theirs = transformers.WhisperFeatureExtractor(feature_size=bands).to_dict()
    assert {key: theirs[key] for key in stated if key != "processor_class"} == {
        key: value for key, value in stated.items() if key != "processor_class"
    }


@pytest.mark.parametrize("name", CONFIGS)
def test_what_they_cover_is_not_refused(name: str):
    assert encoder_decoder_graph.refusal(CONFIGS[name], targets.find("ort-cpu")) is None
