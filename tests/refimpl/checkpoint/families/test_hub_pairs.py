"""Encoder-decoders of many languages and of many turns, as the hub has them: keys, tables, translations."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from helpers.configs import ROWS
from helpers.generation_oracle import START, N, model, opened, theirs
from helpers.hf_oracle import make_model, transformers_outputs
from helpers.refused import refused
from safetensors.torch import load_file, save_file
from tfm.refimpl.checkpoint.families import read_config
from tfm.refimpl.checkpoint.open import open_checkpoint
from tfm.refimpl.checkpoint.translation import directed
from tfm.refimpl.config import EncoderDecoder, RelativeBias
from tfm.refimpl.decoding.loop import GeneratedSequence, generate
from tfm.refimpl.decoding.sampler import Sampler
from tfm.refimpl.engine.numpy_engine import NumpyEngine
from tfm.refimpl.errors import CheckpointError, ConfigError, LimitError
from tfm.refimpl.params.tree import map_leaves
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers, processors

UMT5 = ROWS["umt5"]

SIDES = ("encoder", "decoder")


def read(keys: dict[str, Any]) -> EncoderDecoder:
    config = read_config(keys)[0]
    assert isinstance(config, EncoderDecoder)
    return config


def test_leds_encoder_reads_longer_texts_than_its_decoder_writes(tmp_path: Path):
    """Logits are transformers', of a text beyond the decoder's positions; each side has its own limit."""
    keys = {
        "vocab_size": 61, "d_model": 12, "encoder_layers": 2, "decoder_layers": 1, "encoder_ffn_dim": 7,
        "encoder_attention_heads": 2, "decoder_attention_heads": 3, "decoder_ffn_dim": 5,
        "attention_window": [4, 8], "max_encoder_position_embeddings": 40,
        "max_decoder_position_embeddings": 9,
    }  # fmt: skip
    hf_model = make_model("led", keys)
    hf_model.save_pretrained(tmp_path)
    checkpoint = open_checkpoint(tmp_path)
    params = map_leaves(lambda _, leaf: leaf.astype(np.float64), checkpoint.params)
    engine = NumpyEngine(checkpoint.config, params)
    text, written = (np.random.default_rng(n).integers(3, 61, (1, n)) for n in (33, 9))
    (want,) = transformers_outputs(hf_model, {"input_ids": text, "decoder_input_ids": written})
    got, cache = engine.step(written, engine.start(1, text), at=np.arange(9)[None])
    assert np.abs(got - want).max() <= 1e-12 * np.abs(want).max()
    with refused(LimitError, 10, "context", 9):
        engine.step(written[:, :1], cache)
    with refused(LimitError, 41, "context", 40):
        engine.start(1, np.full((1, 41), 3))


def nllb(seed: int) -> Any:
    return model("m2m_100", seed, {"max_length": 20})


def test_positions_that_a_file_of_m2m100_states_are_checked(tmp_path: Path):
    hf_model = nllb(0)
    hf_model.save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    tables = {side: getattr(hf_model.model, side).embed_positions.weights.clone() for side in SIDES}
    stored = {f"model.{side}.embed_positions.weights": table for side, table in tables.items()}
    save_file({**tensors, **stored}, tmp_path / "model.safetensors")
    open_checkpoint(tmp_path)
    wrong = {name: table + 0.01 * torch.eye(*table.shape) for name, table in stored.items()}
    save_file({**tensors, **wrong}, tmp_path / "model.safetensors")
    with refused(CheckpointError, "embed_positions.weights'"):
        open_checkpoint(tmp_path)


def test_a_file_without_a_model_type_is_of_the_family_of_its_class(tmp_path: Path):
    """As google/umt5-small's; the class's name tells it from the others of a family."""
    nllb(0).save_pretrained(tmp_path)
    config = open_checkpoint(tmp_path).config
    path = tmp_path / "config.json"
    stated = {**json.loads(path.read_text()), "auto_map": {"AutoModel": "own.Model"}}
    del stated["model_type"]
    path.write_text(json.dumps(stated))
    checkpoint = open_checkpoint(tmp_path)
    assert (checkpoint.config, checkpoint.code_replaced_by) == (config, "m2m_100")
    untyped = {key: value for key, value in UMT5.items() if key != "model_type"}
    assert read(untyped) == read(UMT5)
    del untyped["scalable_attention"]
    t5 = read({**untyped, "architectures": ["T5ForConditionalGeneration"]})
    assert t5.encoder.layers[0].attention.position == RelativeBias(32, 128)
    for named in (None, [], ["T5ForConditionalGeneration"] * 2, ["OwnT5Model"], [[]]):
        with refused(ConfigError, "model_type", "missing"):
            read({**untyped, "architectures": named})


def tokenizer() -> Tokenizer:
    """Words as NLLB's tokenizer has them: the language before the text, the end after it."""
    words = Tokenizer(models.WordLevel({"<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 3}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.add_tokens([f"w{i}" for i in range(4, N - 3)])
    words.add_special_tokens([AddedToken(name) for name in ("eng_Latn", "ron_Latn", "zho_Hans")])
    english = words.token_to_id("eng_Latn")
    words.post_processor = processors.TemplateProcessing(
        "eng_Latn $A </s>", None, [("eng_Latn", english), ("</s>", 2)]
    )
    return words


def test_a_translation_is_transformers(tmp_path: Path):
    """The text's language before it, the answer's is the first token that the decoder is made to write."""
    words, translations = tokenizer(), set()
    for seed in range(3):
        hf_model = nllb(seed)
        hf_model.save_pretrained(tmp_path)
        (tmp_path / "tokenizer.json").write_text(words.to_str())
        (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
        languages = open_checkpoint(tmp_path).generation.languages
        checkpoint, engine = opened(hf_model)
        found = replace(checkpoint.generation, languages=languages)
        ids = words.encode("w7 w90 w12").ids
        generation, source = directed(found, ids, "zho", "ron")
        assert source == [words.token_to_id("zho_Hans"), 7, 90, 12, 2]
        got = list(generate(engine, GeneratedSequence(
            generation.prompt, Sampler(**generation.defaults), frozenset(generation.eos), 19,
            encoder_ids=source,
        )))  # fmt: skip
        ron = words.token_to_id("ron_Latn")
        want = theirs(hf_model, source, forced_bos_token_id=ron).sequences[0].tolist()
        assert want[:2] == [START, ron]
        assert got == [token for token in want[1:] if token != 2]
        translations.add(tuple(got))
    assert len(translations) == 3
