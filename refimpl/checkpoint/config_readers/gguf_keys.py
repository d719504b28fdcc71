"""Translate GGUF's metadata into config.json's keys. One table per architecture says where each key comes
from.

    "hidden_size": "embedding_length"                          a key of the metadata, which must be present
    "sliding_window": optional("attention.sliding_window")     a key that the file may leave out
    "vocab_size": Row(embedding_rows)                          computed from several keys, or from tensors

So a family's `config` reads both formats, and its errors name the keys that the file has. The table also
states llama.cpp's constants, and llama.cpp's defaults if they differ from transformers' defaults. A row that
only checks a key has the key's name in the metadata. Whether there are biases can be seen only from the
tensors' names, which `Keys.shows` reports.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ..formats.tensor_source import TensorSource
from .gguf_metadata import (
    embedding_rows,
    gguf_rows,
    kv_heads_by_layer,
    own_head_size,
    read_gguf_sliding_layers,
)
from .gguf_rope import SECTIONS, check_sections, rope_scaling, share_of_dims
from .keys import ABSENT, Keys
from .layers import LAYER_TYPES, SPARSE, layer_count

SOFTMAX, SIGMOID = 1, 2
SCORES = {SOFTMAX: "a softmax", SIGMOID: "a sigmoid"}
GATING = "expert_gating_func"


@dataclass(frozen=True)
class Row:
    """A row of a table: the function `read` that computes the value of a key of config.json from a GGUF file.

    `key` is the key of the metadata, which error messages name.
    """

    read: Callable[[Keys, TensorSource], Any]
    key: str | None = None


Table = Mapping[str, str | Row]


def in_config_json(table: Table, keys: Keys, source: TensorSource) -> Keys:
    """Return the keys of config.json that a table computes from a GGUF file's metadata and tensors. Raises
    ConfigError for a missing or wrong value.
    """
    rows = {name: required(row) if isinstance(row, str) else row for name, row in table.items()}
    values = {name: row.read(keys, source) for name, row in rows.items()}
    stated = {name: value for name, value in values.items() if value is not ABSENT}
    return keys.in_config_json(stated, {name: row.key for name, row in rows.items() if row.key}, source.names)


def required(key: str) -> Row:
    """Return a `Row` that reads a key of the metadata that must be present."""
    return Row(lambda keys, _: keys.stated(key), key)


def optional(key: str, default: Any = ABSENT) -> Row:
    """Return a `Row` that reads a key of the metadata that llama.cpp doesn't require, with its default.
    Without a default, a missing key is left out.
    """
    return Row(lambda keys, _: keys.stated(key, default), key)


def fixed(value: Any) -> Row:
    """Return a `Row` that gives a value that is a constant in llama.cpp."""
    return Row(lambda *_: value)


def without(table: Table, *names: str) -> Table:
    """Return the table without the rows of these names."""
    return {name: row for name, row in table.items() if name not in names}


def lacks(tensor: str) -> Row:
    """Return a `Row` that gives True if the file has no tensor with this name."""
    return Row(lambda _, source: tensor not in source.names)


def has(*tensors: str) -> Row:
    """Return a `Row` that gives True if the file has a tensor with one of these names."""
    return Row(lambda _, source: not set(tensors).isdisjoint(source.names))


def unused(key: str, kind: type, *default: Any) -> Row:
    """Return a `Row` that checks only the type of a key of the metadata and gives no value. Without a
    default, the key must be present."""

    def read(keys: Keys, _: TensorSource) -> Any:
        keys.get(key, kind, *default)
        return ABSENT

    return Row(read)


def only(key: str, *values: Any) -> Row:
    """Return a `Row` that checks that a key of the metadata has one of these values, or is absent. The `Row`
    gives no value.
    """

    def read(keys: Keys, _: TensorSource) -> Any:
        keys.harmless(**{key: values})
        return ABSENT

    return Row(read)


def rows_of(tensor: str) -> Row:
    """Return a `Row` that gives the number of rows of a matrix, for a size that no key states. The matrix
    must be present.
    """
    return Row(lambda keys, source: gguf_rows(keys, source, tensor))


def either(*keys: str) -> Row:
    """Return a `Row` that reads the first of these keys that is present. At least one must be present."""
    return Row(lambda own, _: own.stated(next((k for k in keys if k in own), keys[0])), keys[0])


def rotary(
    size: Callable[[Keys], int] = own_head_size,
    *,
    partial: bool = False,
    names: tuple[str, str] = ("rope_theta", "partial_rotary_factor"),
) -> dict[str, Row]:
    """Return the rows of rotary positions. `size` computes the size of a head.

    With `partial`, the file may state that only a part of each head is rotated. `names` are the keys of
    config.json for theta and for the rotated part."""
    return {
        names[0]: optional(THETA, 10_000.0),
        "rope_scaling": Row(lambda keys, source: rope_scaling(keys, source, size(keys))),
        names[1]: Row(
            lambda keys, _: share_of_dims(keys, size(keys), partial=partial), "rope.dimension_count"
        ),
    }


def layers_with_heads(kinds: tuple[str, str] = ("linear_attention", "full_attention")) -> dict[str, Row]:
    """Return rows for a model with two kinds of layers. Layers of the first kind have no key/value heads, and
    all others have the same number.

    `kinds` are config.json's names of the two kinds.
    """
    key = "attention.head_count_kv"
    return {
        "layer_types": Row(lambda keys, _: [kinds[n > 0] for n in kv_heads_by_layer(keys)], key),
        "num_key_value_heads": Row(lambda keys, _: max(kv_heads_by_layer(keys)), key),
    }


def sliding_layers(every: int, *, windowless: bool = False, trunk: bool = False, first: bool = False) -> Row:
    """Return a `Row` that gives the type of each layer: with a window or without.

    Either a list marks the layers with a window, or all layers have a window except the last of every N
    layers. With `first`, the exception is the first of every N layers. N is `every` if the file doesn't state
    it. With `windowless`, no layer has a window if the file states no window. With `trunk`, layers that
    predict further tokens don't count.
    """

    def read(keys: Keys, source: TensorSource) -> list[str]:
        count = trunk_layers(keys, source) if trunk else layer_count(keys, "block_count")
        if windowless and "attention.sliding_window" not in keys:
            return [LAYER_TYPES[0]] * count
        return [LAYER_TYPES[mark] for mark in read_gguf_sliding_layers(keys, count, every, first=first)]

    return Row(read, "attention.sliding_window_pattern")


def recurrent_layers(every: int) -> Row:
    """Return a `Row` that gives the type of each layer: linear attention or full attention.

    Either a list marks the layers with linear attention, or the last of every N layers has full attention. N
    is `every` if the file doesn't state it. Layers that predict further tokens don't count.
    """

    def read(keys: Keys, source: TensorSource) -> list[str]:
        count, each = trunk_layers(keys, source), keys.size("full_attention_interval", every)
        marks = keys.get(RECURRENT, list, [(i + 1) % each != 0 for i in range(count)])
        if len(marks) not in (count, layer_count(keys, "block_count")) or any(
            type(mark) is not bool for mark in marks
        ):
            raise keys.fail(RECURRENT, f"a list of {count}, each true or false")
        return ["linear_attention" if mark else "full_attention" for mark in marks[:count]]

    return Row(read, RECURRENT)


def experts(count: str = "num_experts", top: str = "num_experts_per_tok") -> dict[str, str | Row]:
    """Return rows for the number of experts and the number of experts that a token uses, under these names of
    config.json."""
    return {count: Row(lambda keys, _: keys.size("expert_count"), "expert_count"), top: "expert_used_count"}


def scores(*allowed: int, default: int | None = None) -> Row:
    """Return a `Row` that checks which function makes the scores of experts. The function must have one of
    the `allowed` numbers of llama.cpp. `default` is the number if no key states one.
    """

    def read(keys: Keys, _: TensorSource) -> Any:
        if keys.get(GATING, int, *(() if default is None else (default,))) not in allowed:
            raise keys.fail(GATING, " or ".join(f"{n} ({SCORES[n]})" for n in allowed))
        return ABSENT

    return Row(read)


def experts_width(dense: Callable[[int, int], int], *keys: str) -> Row:
    """Return a `Row` that gives the width of an expert. If no key states this width, `dense` computes it.

    The arguments of `dense` are the width of a dense mlp and the number of experts that a token uses. The
    first key of `keys` that is present states the width of a dense mlp.
    """

    def read(own: Keys, _: TensorSource) -> int:
        width = own.size(next((key for key in keys if key in own), "feed_forward_length"))
        top = own.size("expert_used_count")
        return own.size("expert_feed_forward_length", None) or dense(width, top)

    return Row(read, "expert_feed_forward_length")


def layers_without(tensor: str) -> Row:
    """Return a `Row` that gives the indices of the layers that have no tensor of this name."""

    def read(keys: Keys, source: TensorSource) -> list[int]:
        names = set(source.names)
        return [i for i in range(layer_count(keys, "block_count")) if f"blk.{i}.{tensor}" not in names]

    return Row(read)


def mlp_types(tensor: str = "ffn_gate_inp.weight") -> Row:
    """Return a `Row` that gives the type of each layer's mlp: "sparse" if the layer has the router's tensor,
    otherwise "dense". What the file says about leading dense layers is ignored.
    """

    def read(keys: Keys, source: TensorSource) -> list[str]:
        keys.unused("leading_dense_block_count", "moe_every_n_layers")
        names = set(source.names)
        return [SPARSE[f"blk.{i}.{tensor}" in names] for i in range(trunk_layers(keys, source))]

    return Row(read)


def always(key: str, value: bool | float, *, told: bool = True) -> Row:
    """Return a `Row` for a value that is a constant in llama.cpp. If the file states another value, the `Row`
    raises ConfigError.

    `told` says whether config.json has a key for the value.
    """

    def read(keys: Keys, _: TensorSource) -> Any:
        if keys.get(key, type(value), value) != value:
            raise keys.fail(key, f"{str(value).lower()}, because llama.cpp always uses this value")
        return value if told else ABSENT

    return Row(read, key)


def quotient(key: str, by: str) -> Row:
    """Return a `Row` that gives the size of the key `key` divided by the size of the key `by`. The `Row`
    raises ConfigError if there is a remainder.
    """

    def read(keys: Keys, _: TensorSource) -> int:
        size, part = keys.size(key), keys.size(by)
        if size % part:
            raise keys.fail(key, f"a multiple of {by} ({part})")
        return size // part

    return Row(read, key)


def somewhere(tensor: str) -> Row:
    """Return a `Row` that gives True if any layer has a tensor with this name. All layers are searched, since
    the first layer may be of another kind.
    """
    return Row(lambda _, source: any(name.endswith(f".{tensor}") for name in source.names))


def thetas(size: Callable[[Keys], int], near: float | None = None, *, partial: bool = False) -> Row:
    """Return a `Row` that gives the rotary positions of each type of layer. Layers with a window have a theta
    of their own, and no scaling.

    If no key states the theta of layers with a window, it is `near`. Without `near`, it is the theta of the
    other layers. With `partial`, only a part of each head may be rotated, and the part may differ between the
    types of layers.
    """

    def read(keys: Keys, source: TensorSource) -> dict[str, Any]:
        theta = keys.positive(THETA, 10_000.0)
        far = {"rope_theta": theta, **rope_scaling(keys, source, size(keys))}
        near_theta = keys.positive(THETA_NEAR, theta if near is None else near)
        close = {"rope_type": "default", "rope_theta": near_theta}
        share = share_of_dims(keys, size(keys), partial=partial)
        if partial:
            far["partial_rotary_factor"] = close["partial_rotary_factor"] = share
        if partial and DIMS_NEAR in keys:
            close["partial_rotary_factor"] = share_of_dims(keys, size(keys), partial=True, key=DIMS_NEAR)
        return {"full_attention": far, "sliding_attention": close}

    return Row(read)


def trunk_layers(keys: Keys, _: TensorSource) -> int:
    """Return the number of layers of the backbone: `block_count` without the layers that predict further
    tokens.
    """
    further, count = keys.get(FURTHER, int, 0), layer_count(keys, "block_count")
    if not 0 <= further < count:
        raise keys.fail(FURTHER, f"0 or more, and fewer than block_count ({count})")
    return count - further


def agreeing(key: str, other: str) -> Row:
    """Return a `Row` that reads a key of the metadata that newer converters also write under the name
    `other`. If both are present, their values must agree.
    """
    return Row(lambda keys, _: keys.stated(keys.spelled(key, other)), key)


def restated(key: str, size: Callable[[Keys], int]) -> Row:
    """Return a `Row` that checks a size that follows from other sizes. If the file states the size, it must
    equal `size`. The `Row` gives no value.
    """

    def read(keys: Keys, _: TensorSource) -> Any:
        keys.restated(key, size(keys), f"{size(keys)}")
        return ABSENT

    return Row(read, key)


SHARED = "expert_shared_feed_forward_length"
# The width of all shared experts together, which some files state beside their number.
SHARED_WIDTH: Table = {
    SHARED: restated(
        SHARED,
        lambda keys: keys.size("expert_feed_forward_length") * (keys.get("expert_shared_count", int, 0) or 1),
    )
}
SECTIONED: Table = {SECTIONS: Row(lambda keys, _: check_sections(keys))}
# The same for architectures that also have models without sections.
PERHAPS_SECTIONED: Table = {
    SECTIONS: Row(lambda keys, _: check_sections(keys) if SECTIONS in keys else ABSENT)
}
EPS, RMS_EPS = "attention.layer_norm_epsilon", "attention.layer_norm_rms_epsilon"
THETA, THETA_NEAR = "rope.freq_base", "rope.freq_base_swa"
DIMS_NEAR = "rope.dimension_count_swa"
FURTHER = "nextn_predict_layers"
RECURRENT = "attention.recurrent_layers"
# Decoders: what all have, those of Llama's form, and the same where a part of a head is rotated.
COMMON: Table = {
    "vocab_size": Row(embedding_rows),
    "hidden_size": "embedding_length",
    "num_hidden_layers": "block_count",
    "num_attention_heads": "attention.head_count",
    "max_position_embeddings": "context_length",
    "tie_word_embeddings": lacks("output.weight"),
}
DECODER: Table = {
    **COMMON,
    "intermediate_size": "feed_forward_length",
    "num_key_value_heads": either("attention.head_count_kv", "attention.head_count"),
    "head_dim": Row(lambda keys, _: own_head_size(keys), "attention.key_length"),
    "rms_norm_eps": RMS_EPS,
    **rotary(),
}
PARTIAL: Table = {**DECODER, **rotary(partial=True)}
# Experts chosen by sigmoids and biases (DeepSeek-V3).
SIGMOID_EXPERTS: Table = {
    **experts("n_routed_experts"),
    "moe_intermediate_size": "expert_feed_forward_length",
    "norm_topk_prob": optional("expert_weights_norm", False),
    "routed_scaling_factor": optional("expert_weights_scale", 1.0),
    "n_shared_experts": optional("expert_shared_count", 0),
    "n_group": optional("expert_group_count", 1),
    "topk_group": optional("expert_group_used_count", 1),
    "first_k_dense_replace": optional("leading_dense_block_count", 0),
    "expert_gating_func": scores(SIGMOID),
}
