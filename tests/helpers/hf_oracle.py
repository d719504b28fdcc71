"""A drawn model of a family, and its outputs from transformers in float64."""

from __future__ import annotations

import copy
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from families import ROWS
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from tfm.refimpl.checkpoint.families import read_config
from tfm.refimpl.checkpoint.open import open_checkpoint
from tfm.refimpl.config import CTC, LM, Config, Decoder, SampleStem
from tfm.refimpl.engine.numpy_engine import NumpyEngine
from tfm.refimpl.engine.passes import noise
from tfm.refimpl.params.tree import map_leaves
from transformers.initialization import no_init_weights

from helpers.float64 import Float64

LARGEST_ERROR = 1e-9  # float64 against float64, relative to the largest number


def draw_keys(name: str, count: int) -> list[dict[str, Any]]:
    """Keys of that many configs, the same each time; the first three, the simplest, are left out."""
    drawn: list[dict[str, Any]] = []

    @settings(
        max_examples=count + 3, derandomize=True, database=None, deadline=None, phases=(Phase.generate,),
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(ROWS[name].keys)
    def draw(keys: dict[str, Any]) -> None:
        drawn.append(keys)

    draw()
    return drawn[3:]


def make_model(name: str, keys: dict[str, Any], kind: int = 0, seed: int = 0) -> torch.nn.Module:
    """transformers' model in float32 with random weights, norms and biases too.

    Vectors have few digits, so that a norm's weight plus one (Gemma) is exact in float32.
    """
    model_class = ROWS[name].models[kind]
    if model_class.__name__.removesuffix("Simple").endswith("QuestionAnswering"):
        keys = keys | {"num_labels": 2}
    text = keys.get("text_config", keys)
    if model_class.__name__.endswith("SequenceClassification") and text.get("pad_token_id") is None:
        text = text | {"pad_token_id": 0}  # a decoder finds the end of a text by it
        keys = keys | ({"text_config": text} if "text_config" in keys else text)
    config = ROWS[name].config(**keys, attn_implementation=ROWS[name].attention)
    model = without_values(model_class, config)
    noise = torch.Generator().manual_seed(len(json.dumps(keys)) + 1000 * seed)
    with torch.no_grad():
        for weight in model.parameters():
            drawn = torch.randn(weight.shape, generator=noise)
            vector = (drawn * 0.3 + 1).mul(2**16).round() / 2**16
            weight.copy_(vector if weight.ndim == 1 else drawn * weight.shape[1] ** -0.5)
        ROWS[name].amend(model)
    return model


def without_values(model_class: Any, config: Any) -> Any:
    """transformers' model before its weights get values, which takes it longer than to compute with them."""
    with no_init_weights():
        model = model_class(config).eval()
    model.tie_weights()
    return model


def make_inputs(model: Any, config: Config, seed: int, length: int) -> dict[str, np.ndarray]:
    """Two rows of tokens as transformers takes them; an encoder's second row is padded from `length` on."""
    rng = np.random.default_rng(seed)
    tokens = rng.integers(0, config.embedding.vocabulary, (2, 12))
    if isinstance(config, Decoder):
        return {"input_ids": tokens, "use_cache": np.array(False)}
    # The text doesn't contain the padding token: RoBERTa doesn't count it as a position.
    padding = getattr(model.config.get_text_config(), "pad_token_id", None)
    tokens[tokens == padding] = 2
    real = np.arange(12) < [[12], [length]]
    if padding is not None:
        tokens[~real] = padding
    separator = config.stacks["encoder"].separator if "encoder" in config.stacks else None
    if separator is not None:  # transformers wants three, wherever they are
        tokens[tokens == separator] = 3
        for row in tokens:
            row[rng.choice(12, 3, replace=False)] = separator
    if "reader" in config.stacks:  # its head reads the last position, that of the end token
        tokens[tokens == model.config.eos_token_id] = 3
        ends = np.array([11, length - 1])
        if getattr(config.head, "end", None) is not None:  # the last one, wherever it is
            ends = rng.integers(0, ends + 1)
        tokens[[0, 1], ends] = model.config.eos_token_id
    arguments = {"input_ids": tokens, "attention_mask": real.astype(np.int64)}
    if isinstance(config.head, CTC):
        return {"input_values": noise(config, rng, 2, length)}
    if isinstance(config.stem, SampleStem):
        arguments = {"input_values": noise(config, rng, 2, length)}
    elif config.sound_shape is not None:  # bands before frames
        arguments = {"input_features": rng.standard_normal((2, *config.sound_shape[::-1]))}
    if isinstance(config.head, LM):
        written = rng.integers(0, config.embedding.vocabulary, (2, 9))
        written[written == padding] = 2  # M2M100 neither
        arguments |= {"decoder_input_ids": written}
    elif config.embedding.token_types is not None:
        arguments |= {"token_type_ids": rng.integers(0, config.embedding.token_types, (2, 12))}
    elif config.layers:  # those that a decoder's pass computes
        arguments |= {"use_cache": np.array(False)}
    return arguments


def in_float64(config: Any) -> Any:
    """A config that asks for float64: Apertus makes parameters of its type, a name after a save."""
    copied = copy.deepcopy(config)
    copied.dtype = torch.float64
    return copied


def transformers_outputs(model: Any, arguments: dict[str, np.ndarray]) -> list[np.ndarray]:
    """transformers' outputs in float64: the head's.

    Without a head: an encoder's vectors and the pooler's output, or their mean where there is no pooler; a
    decoder's vectors and the last one. Where a batch changes its rows (`Row.alone`), each is computed alone.
    """
    if not ROWS[model.config.model_type].alone:
        return _outputs(model, arguments)
    lengths = arguments["attention_mask"].sum(1)
    rows = [
        _outputs(model, {name: value[i : i + 1, :length] for name, value in arguments.items()})
        for i, length in enumerate(lengths)
    ]

    def joined(parts: tuple[np.ndarray, ...]) -> np.ndarray:
        times = [part.shape[1] for part in parts]
        if times != list(lengths):
            return np.concatenate(parts)
        return np.concatenate([
            np.pad(part, [(0, 0), (0, max(times) - part.shape[1]), *[(0, 0)] * (part.ndim - 2)])
            for part in parts
        ])  # fmt: skip

    return [joined(parts) for parts in zip(*rows, strict=True)]


def _outputs(model: Any, arguments: dict[str, np.ndarray]) -> list[np.ndarray]:
    """Those of one call."""
    with Float64(), torch.no_grad():
        exact = without_values(type(model), in_float64(model.config)).double()
        exact.load_state_dict(model.state_dict())
        ROWS[model.config.model_type].amend(exact)
        got = exact(**{name: torch.from_numpy(value) for name, value in arguments.items()})
    if "start_logits" in got:
        return [torch.stack([got.start_logits, got.end_logits], -1).numpy()]
    for name in ("logits", "prediction_logits"):
        if name in got:
            return [got[name].numpy()]
    states, real = got.last_hidden_state.numpy(), arguments["attention_mask"][:, :, None]
    if "pooler_output" in got:
        return [states, got.pooler_output.numpy()]
    if ROWS[model.config.model_type].models[0] is not type(model) and not hasattr(model, "encoder"):
        return [states[[0, 1], real.sum((1, 2)) - 1]]
    mean = (states * real).sum(1) / real.sum(1)
    mapped = hasattr(model.config.get_text_config(), "embedding_dim")  # by what is a head here
    return [mean] if mapped else [states, mean]


def specification_outputs(
    engine: NumpyEngine, arguments: dict[str, np.ndarray], vectors: bool
) -> list[np.ndarray]:
    """The same from the specification; with `vectors` an encoder's vectors come first."""
    config = engine.config
    samples = arguments.get("input_values")
    if isinstance(config.head, CTC):
        return [engine.predict(samples)]
    frames = arguments.get("input_features")
    tokens = samples if samples is not None else None if frames is None else frames.swapaxes(1, 2)
    tokens = arguments["input_ids"] if tokens is None else tokens
    token_types = arguments.get("token_type_ids")
    lengths = arguments["attention_mask"].sum(1) if "attention_mask" in arguments else None
    if not isinstance(config.head, LM):
        predicted = engine.predict(tokens, lengths, token_types)
        return [engine.encode(tokens, lengths, token_types), predicted] if vectors else [predicted]
    cache = engine.start(2) if isinstance(config, Decoder) else engine.start(2, tokens, lengths)
    tokens = arguments.get("decoder_input_ids", tokens)
    at = np.tile(np.arange(tokens.shape[1]), (2, 1))
    return [engine.step(tokens, cache, at=at)[0]]


def compare_with_transformers(name: str, kind: int, data: st.DataObject, **more: Any) -> float:
    """Draw a model and compare it: `more` are keys that count beside those drawn."""
    keys = data.draw(ROWS[name].keys, label="keys") | more
    seed = data.draw(st.integers(0, 2**32 - 1), label="tokens")
    return compare(name, kind, keys, seed, data.draw(st.integers(1, 12), label="length"))


def compare(name: str, kind: int, keys: dict[str, Any], seed: int, length: int) -> float:
    """Read a model from its files: the relative error, at most `LARGEST_ERROR`, over a text of `length`."""
    drawn = {"model_type": name, **copy.deepcopy(keys)}
    drawn.pop("experts_implementation", None)  # how transformers computes, not what
    model = make_model(name, keys, kind)
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        ROWS[name].restate(Path(folder))
        checkpoint = open_checkpoint(folder)
        params = map_leaves(lambda _, leaf: leaf.astype(np.float64), checkpoint.params)
    if kind == 0 and ROWS[name].stays:
        # transformers writes more keys than were drawn, such as each layer's type, but means the same.
        assert read_config(drawn)[0] == checkpoint.config
    arguments = make_inputs(model, checkpoint.config, seed, length)
    expected = transformers_outputs(model, arguments)
    engine = NumpyEngine(checkpoint.config, params)
    specification = specification_outputs(engine, arguments, vectors=len(expected) == 2)
    errors = []
    for got, want in zip(specification, expected, strict=True):
        assert got.shape == want.shape
        if "attention_mask" in arguments and want.shape[1:-1] == arguments["input_ids"].shape[1:]:
            real = arguments["attention_mask"] == 1
            got, want = got[real], want[real]
        errors.append(float(np.abs(got - want).max() / np.abs(want).max()))
        assert errors[-1] <= LARGEST_ERROR, f"{type(model).__name__}: relative error {errors[-1]:.3g}"
    return max(errors)
