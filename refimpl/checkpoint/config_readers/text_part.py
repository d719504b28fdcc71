"""Read the text model (`text_config`) from the config.json of a model that also reads images or sound.

For a text without images or sound, such a model computes the same as its text model. As in transformers, keys
and sizes that text_config leaves out have the defaults of the text model's class. Most such families have no
GGUF form of their own: in GGUF, the text model is converted under its own architecture.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from ...config import Config
from .generation_keys import IDS, UNREAD
from .keys import Keys

Model = TypeVar("Model", bound=Config)


@dataclass(frozen=True)
class TextModel(Generic[Model]):
    """How to read one type of text model: the `config` function of its family, and the `defaults` of
    transformers' class that `config` doesn't have.
    """

    config: Callable[[Keys, Any], Model]
    defaults: Mapping[str, Any]


def sizes(vocabulary: int, width: int, *, mlp: int, layers: int, heads: int, **more: Any) -> dict[str, Any]:
    """Return the default sizes of a transformers class under config.json's keys."""
    named = {"vocab_size": vocabulary, "hidden_size": width, "intermediate_size": mlp}
    return {**named, "num_hidden_layers": layers, "num_attention_heads": heads, **more}


def text_model(
    keys: Keys,
    task: str,
    models: Mapping[str, TextModel[Model]],
    default: str,
    *,
    tied: bool,
    either: bool = False,
    flat: bool = False,
) -> Model:
    """Return the text model that a config states. `models` maps each supported model_type to its reader, and
    `default` is the model_type if text_config states none.

    `tied` is the class's default for the output table. With `either`, the text model's own key can also tie
    the output table to the token table. `flat` says that older files have no text_config, and have the text
    model's keys beside the other keys.
    """
    stated = keys.get("text_config", dict, None)
    if stated is None and flat:
        text, model = keys, models[default]
    elif stated is None:
        raise keys.fail("text_config", "an object with the keys of the text model")
    else:
        text = Keys(stated, f"{keys.where}: text_config", ignore=keys.ignore)
        model = text.choice("model_type", models, default)
        text.unused("architectures")
        text.harmless(is_encoder_decoder=(False,))
    shared = _tied(keys, text, tied=tied, either=either)
    config = model.config(
        text.replaced({**model.defaults, **text.values, "tie_word_embeddings": shared}), task
    )
    if text is not keys:
        text.finish(UNREAD)
        _check_restated(keys, text)
    return config


def text_part(
    models: Mapping[str, TextModel[Model]], default: str, *, tied: bool, unused: Sequence[str]
) -> Callable[[Keys, Any], Model]:
    """Return the `config` function of a family. The function ignores the keys `unused` of the model's other
    parts, and reads all other keys by `text_model`.
    """

    def config(keys: Keys, task: Any) -> Model:
        keys.unused(*unused)
        return text_model(keys, task, models, default, tied=tied)

    return config


def _tied(keys: Keys, text: Keys, *, tied: bool, either: bool) -> bool:
    """Return whether the output table is the token table. If the keys disagree or are missing, the names of
    the tensors decide.
    """
    own, inner = (each.get("tie_word_embeddings", bool, None) for each in (keys, text))
    if own == inner and own is not None:
        return own
    if keys.tensors is not None:
        return not any(name.endswith("lm_head.weight") or name == "output.weight" for name in keys.tensors)
    return bool(tied if own is None else own) or (either and bool(inner))


def _check_restated(keys: Keys, text: Keys) -> None:
    """Check that keys of the text model have the same value inside and outside of text_config, if they are in
    both.

    If windows are switched off, the two sizes of windows may differ.
    """
    off = text.values.get("use_sliding_window") is False
    for key in sorted((keys.unread & text.values.keys()) - UNREAD.keys()):
        if keys.values[key] != text.values[key] and not (off and key == "sliding_window"):
            raise keys.fail(key, f"the same as in text_config ({text.values[key]!r:.80})")
        keys.unused(key)


def without_sections(keys: Keys, theta: float) -> Keys:
    """Return the keys with plain rotary positions in place of M-RoPE. `theta` is the class's default.

    M-RoPE rotates each section of a head's pairs by a different coordinate of the token: time, height or
    width (Wang et al. 2024, Qwen2-VL, §2.1). In text all three coordinates of a token are equal.
    """
    values = dict(keys.values)
    for name in {"rope_scaling", "rope_parameters"} & values.keys():
        if not isinstance(values[name], dict):
            continue
        inner = Keys(values[name], f"{keys.where}: {name}")
        if any(type(n) is not int or n < 0 for n in inner.get("mrope_section", list, None) or ()):
            raise inner.fail("mrope_section", "a list of whole numbers")
        for key in ("mrope_interleaved", "interleaved"):
            inner.get(key, bool, None)
        values[name] = {
            key: "default" if key in ("type", "rope_type") and value == "mrope" else value
            for key, value in inner.values.items()
            if key not in ("mrope_section", "mrope_interleaved", "interleaved")
        }
    dicts = [
        values,
        *(values[n] for n in ("rope_scaling", "rope_parameters") if isinstance(values.get(n), dict)),
    ]
    if all(each.get("rope_theta") is None for each in dicts):
        values["rope_theta"] = theta
    return keys.replaced(values)


def with_text_ids(config_json: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a config.json that includes the special ids of its text model, unless the config.json states
    them itself.
    """
    text = config_json.get("text_config")
    ids = {key: text[key] for key in IDS if key in text} if isinstance(text, dict) else {}
    return {**ids, **config_json}
