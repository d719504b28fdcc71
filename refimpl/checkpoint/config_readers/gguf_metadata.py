"""Read values that a GGUF file states in several keys of its metadata, or in keys and tensors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...decoding.options import SamplerOptions, options
from ...errors import ConfigError
from ..formats.tensor_source import TensorSource
from .keys import Keys
from .layers import head_size, layer_count


def embedding_rows(keys: Keys, source: TensorSource) -> int:
    """Return the vocabulary's size: the number of rows of the token table. No key states this number
    reliably.
    """
    count = gguf_rows(keys, source, "token_embd.weight")
    keys.restated("vocab_size", count, f"the rows of token_embd.weight ({count})")
    return count


def rows(source: TensorSource, name: str) -> int:
    """Return the number of rows of a table in a GGUF file. A vector is one row, since llama.cpp's tools drop
    an axis of size 1.
    """
    shape = source.shape(name)
    return shape[0] if len(shape) > 1 else 1


def gguf_rows(keys: Keys, source: TensorSource, name: str) -> int:
    """Return the number of rows of a matrix in a GGUF file, for a size that no key states. Raises ConfigError
    if there is no such matrix.
    """
    shape = source.shape(name) if name in source.names else ()
    if len(shape) != 2:
        raise ConfigError(f"{keys.where}: {name} must be a matrix, got shape {list(shape)}")
    return shape[0]


# general.sampling.*, how llama.cpp samples where nobody asks for something else, and the keys of
# generation_config.json that its converter makes them from.
SAMPLING = {option.gguf: option.key for option in options(SamplerOptions).values() if option.gguf}


def as_config_json(metadata: Mapping[str, Any], architecture: str) -> dict[str, Any]:
    """Return the special ids, label names and sampling settings of a GGUF file in the form of config.json."""
    ends = (metadata.get(f"tokenizer.ggml.{name}_token_id") for name in ("eos", "eot", "eom"))
    labels = metadata.get(f"{architecture}.classifier.output_labels")
    return {
        "bos_token_id": metadata.get("tokenizer.ggml.bos_token_id"),
        "eos_token_id": [end for end in ends if end is not None],
        "decoder_start_token_id": metadata.get(f"{architecture}.decoder_start_token_id"),
        "id2label": None if labels is None else {str(i): label for i, label in enumerate(labels)},
        **_sampling(metadata),
    }


def _sampling(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Return the sampling settings that a GGUF file states, under the keys of generation_config.json.

    In GGUF, a temperature of 0 means greedy decoding, and a negative top_k means no limit.
    """
    keys = {f"general.sampling.{name}": key for name, key in SAMPLING.items()}
    stated = {key: metadata[name] for name, key in keys.items() if name in metadata}
    if not stated:
        return {}
    temperature = stated.get("temperature", 1.0)
    draws = stated.keys() != {"repetition_penalty"} and (type(temperature) is not float or temperature > 0)
    top_k = stated.setdefault("top_k", 0)
    if type(top_k) is int:
        stated["top_k"] = max(top_k, 0)
    return {**stated, "do_sample": draws}


def read_gguf_window_pattern(keys: Keys, default: int) -> int:
    """Return the number N that the metadata state for windows: one of every N layers sees the whole text, and
    the other layers have a window.
    """
    return keys.size("attention.sliding_window_pattern", default)


def read_gguf_sliding_layers(keys: Keys, layers: int, default: int, *, first: bool = False) -> list[bool]:
    """Return for each layer whether it has a window. Either a list in the metadata marks these layers, or all
    layers have a window except one of every N.

    The exception is the last of every N layers, or with `first` the first of them. A list may also have 1 for
    true and 0 for false. A list may have further elements for layers that predict further tokens.
    """
    key = "attention.sliding_window_pattern"
    if not isinstance(keys.values.get(key), list):
        every = read_gguf_window_pattern(keys, default)
        return [(i + (not first)) % every != 0 for i in range(layers)]
    marks = keys.get(key, list)
    count = layer_count(keys, "block_count")  # with the layers that predict further tokens
    if len(marks) not in (layers, count) or any(
        type(mark) not in (bool, int) or mark not in (0, 1) for mark in marks
    ):
        raise keys.fail(key, f"a number, or a list of {layers} values, each true or false")
    return [mark == 1 for mark in marks[:layers]]


def numbers_by_layer(keys: Keys, key: str, *, some: bool = False) -> list[int]:
    """Return a key's number for each layer. Each number must be 0 or the same number as in the other layers.
    With `some`, at least one number must not be 0.
    """
    layers, stated = layer_count(keys, "block_count"), keys.values.get(key)
    numbers = keys.get(key, list) if isinstance(stated, list) else [keys.get(key, int)] * layers
    whole = all(type(n) is int and 0 <= n < 2**63 for n in numbers)
    if len(numbers) != layers or not whole or not some <= len(set(numbers) - {0}) <= 1:
        raise keys.fail(key, f"a number, or a list of {layers} numbers, each 0 or the same number")
    return numbers


def kv_heads_by_layer(keys: Keys) -> list[int]:
    """Return the number of key/value heads of each layer. This number is 0 for a layer without attention, and
    the same for all other layers.
    """
    return numbers_by_layer(keys, "attention.head_count_kv", some=True)


def gguf_head_size(keys: Keys) -> int:
    """Return the size of a head: the width divided by the number of heads."""
    return head_size(keys, "embedding_length", "attention.head_count")


def own_head_size(keys: Keys) -> int:
    """Return the size of a head that a key states, or otherwise the width divided by the number of heads.
    Raises ConfigError if values have another size.
    """
    size = keys.size("attention.key_length", None) or gguf_head_size(keys)
    keys.restated("attention.value_length", size, f"the head's size ({size})")
    return size
