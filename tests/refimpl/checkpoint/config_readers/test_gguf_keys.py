"""GGUF's metadata in config.json's words: what a table's rows give, and which names errors have."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.refused import refused
from tfm.refimpl.checkpoint.config_readers import gguf_keys, rope
from tfm.refimpl.checkpoint.config_readers.gguf_keys import COMMON, always, either, in_config_json, optional
from tfm.refimpl.checkpoint.config_readers.keys import Keys
from tfm.refimpl.checkpoint.families import falcon, families, gemma3n, read_gguf
from tfm.refimpl.config import Attention, Decoder, LinearScaling, MoE, Rope
from tfm.refimpl.errors import ConfigError

FALCON = {
    "block_count": 2, "context_length": 64, "embedding_length": 32, "feed_forward_length": 64,
    "attention.head_count": 4, "attention.layer_norm_epsilon": 1e-5, "vocab_size": 40,
}  # fmt: skip
GEMMA2 = {
    "block_count": 46, "context_length": 64, "embedding_length": 2, "feed_forward_length": 64,
    "attention.head_count": 4, "attention.key_length": 8, "attention.layer_norm_rms_epsilon": 1e-5,
}  # fmt: skip
PHI3 = {
    "block_count": 2, "context_length": 64, "embedding_length": 32, "feed_forward_length": 64,
    "attention.head_count": 4, "attention.layer_norm_rms_epsilon": 1e-5, "attention.sliding_window": 0,
    "rope.dimension_count": 1,
}  # fmt: skip


class File:
    """A file of metadata and of names of tensors; each is a matrix of 40 rows."""

    def __init__(self, architecture: str, metadata: dict[str, Any], *tensors: str) -> None:
        own = {f"{architecture}.{key}": value for key, value in metadata.items()}
        self.metadata, self.path = {"general.architecture": architecture, **own}, Path("x.gguf")
        self.names = ("token_embd.weight", *tensors)

    def kind(self, name: str) -> str:
        return "F32"

    def shape(self, name: str) -> tuple[int, ...]:
        return (40, 32)

    def load(self, name: str, part: int | None = None) -> np.ndarray:
        return np.zeros(0)

    def native(self, name: str, part: int | None = None) -> None:
        return None


def spelled(metadata: dict[str, Any], table: gguf_keys.Table, *tensors: str) -> tuple[Keys, Keys]:
    """The metadata's keys, and config.json's."""
    keys = Keys(metadata, "x")
    return keys, in_config_json(table, keys, File("a", metadata, *tensors))


def test_rows():
    table: gguf_keys.Table = {
        "hidden_size": "width", "there": optional("scale"), "absent": optional("other"),
        "default": optional("third", 7), "first": either("kv", "heads"), "second": either("none", "heads"),
        "norm": always("norm", True),
    }  # fmt: skip
    keys, stated = spelled({"width": 8, "scale": 2.0, "kv": 2, "heads": 4}, table)
    assert stated.values == {
        "hidden_size": 8, "there": 2.0, "default": 7, "first": 2, "second": 4, "norm": True,
    }  # fmt: skip
    assert not keys.unread


@pytest.mark.parametrize("value", [0, -1, 2**63, 1.5, True, "x"])
def test_an_error_has_the_files_own_name(value: Any):
    _, stated = spelled({"width": value}, {"hidden_size": "width"})
    with refused(ConfigError, "width"):
        stated.size("hidden_size")


def test_what_is_missing_or_contradicts_has_the_files_own_name():
    for row in ("width", gguf_keys.required("width"), either("width", "height")):
        with refused(ConfigError, "width", "missing"):
            spelled({}, {"hidden_size": row})
    with refused(ConfigError, "norm", "true", "llama.cpp", "False"):
        spelled({"norm": False}, {"norm_topk_prob": always("norm", True)})


def test_a_key_that_nobody_reads_is_an_error_on_both_sides():
    keys, stated = spelled({"width": 8, "other": 1}, {"hidden_size": "width"})
    with refused(ConfigError, "'other'"):
        keys.finish({})
    with refused(ConfigError, "'width'"):
        stated.finish({})


def test_biases_show_in_tensors_of_any_layer():
    _, stated = spelled({}, {}, "blk.3.attn_q.bias", "enc.blk.0.ffn_gate.weight")
    assert stated.shows("attn_q.bias", stated=False)
    assert stated.shows("ffn_gate.weight", stated=False)
    assert not stated.shows("attn_output.bias", stated=True)
    assert Keys({}, "config.json").shows("attn_output.bias", stated=True)
    assert stated.replaced({}).of_gguf


@pytest.mark.parametrize("size", [2, 6, 49, 80, 96, 128, 249, 256])
def test_every_number_of_rotated_dims_comes_back(size: int):
    for dims in range(2, size + 1, 2):
        metadata = {"rope.dimension_count": dims, "context_length": 64}
        _, stated = spelled(metadata, gguf_keys.rotary(lambda _: size, partial=True))
        assert rope.rope(stated, size, 64, partial=0.25).dims == dims


def test_a_row_that_its_family_doesnt_read_is_an_error(monkeypatch: pytest.MonkeyPatch):
    keys = {**falcon.KEYS, "rope_local_base_freq": optional("rope.freq_base_swa")}
    family = families()["falcon"]
    monkeypatch.setitem(families(), "falcon", replace(family, GGUF=replace(falcon.GGUF, keys=keys)))
    with refused(ConfigError, "'rope.freq_base_swa'"):
        read_gguf(File("falcon", {**FALCON, "rope.freq_base_swa": 1e4}))


def test_each_dialect_says_which_family_reads_it():
    """A table without one would fail in the reader alone; those that are chosen have it each."""
    for family in families().values():
        for dialect in family.GGUF.dialects.values() if family.GGUF else ():
            assert callable(dialect.keys) or "model_type" in dialect.keys, dialect.architecture
    assert "model_type" not in COMMON


@pytest.mark.parametrize(("layers", "readers"), [(4, 0), (20, 0), (30, 10)])
def test_gemma_3n_reads_others_keys_from_the_20th_layer_on_where_no_key_says_so(layers: int, readers: int):
    _, stated = spelled({"block_count": layers}, {"n": gemma3n.KEYS["num_kv_shared_layers"]})
    assert stated.values == {"n": readers}


def test_falcons_positions_may_be_scaled():
    config, _ = read_gguf(File("falcon", {**FALCON, "rope.scaling.factor": 4.0}))
    assert isinstance(config, Decoder)
    attention = config.layers[0].attention
    assert isinstance(attention, Attention)
    assert attention.position == Rope(10_000.0, 8, scaling=LinearScaling(4.0))


@pytest.mark.parametrize(
    ("file", "message"),
    [
        (File("gemma2", GEMMA2), "query_pre_attn_scalar 0"),
        (
            File("phi3", PHI3, "rope_factors_short.weight", "rope_factors_long.weight"),
            "rope_factors_short.weight 0 positive",
        ),
    ],
)
def test_sizes_that_dont_go_together_are_refused(file: File, message: str):
    with refused(ConfigError, *message.split()):
        read_gguf(file)


def test_a_granite_without_routers_is_still_one_with_experts():
    """So the error is about the tensors, which its weight map names."""
    metadata = {**GEMMA2, "block_count": 2, "embedding_length": 32, "expert_count": 4, "expert_used_count": 2}
    config, _ = read_gguf(File("granitemoe", metadata))
    assert isinstance(config, Decoder)
    assert all(isinstance(layer.mlp, MoE) for layer in config.layers)


@pytest.mark.parametrize(("further", "every"), [(0, 8), (0, 4), (2, 8)])
def test_recurrent_layers_that_a_file_doesnt_mark(further: int, every: int):
    metadata = {"block_count": 17 + further, "nextn_predict_layers": further}
    _, stated = spelled(metadata, {"layer_types": gguf_keys.recurrent_layers(every)})
    kinds = ["linear_attention"] * (every - 1) + ["full_attention"]
    assert stated.values["layer_types"] == (kinds * 17)[:17]


def test_recurrent_layers_that_a_file_marks():
    """With a mark for the layer that predicts further tokens, as llama.cpp's converter writes them."""
    metadata = {"block_count": 4, "nextn_predict_layers": 1}
    marks = {"attention.recurrent_layers": [True, True, False, False], "full_attention_interval": 2}
    _, stated = spelled(metadata | marks, {"layer_types": gguf_keys.recurrent_layers(4)})
    assert stated.values["layer_types"] == ["linear_attention", "linear_attention", "full_attention"]
