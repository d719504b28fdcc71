"""adapter_config.json: each key is honoured, harmless at its value, or refused by name."""

from __future__ import annotations

import math
from typing import Any

import peft
import pytest
from tfm.refimpl.checkpoint.config_readers.adapter_config import read_adapter_config
from tfm.refimpl.checkpoint.formats.adapters.name_patterns import Work
from tfm.refimpl.errors import ConfigError, TfmError

PLAIN = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj"]}
# Each value would give other numbers than the ones that are merged.
REFUSED: dict[str, list[Any]] = {
    "peft_type": ["IA3", "LOHA", "LOKR", "VERA", "ADALORA", "PREFIX_TUNING", "XLORA", "new"],
    "task_type": ["NEW_TASK", 3],
    "init_lora_weights": ["pissa", "pissa_niter_16", "olora", "corda", "loftq", "lora_ga", 1, None, []],
    "alora_invocation_tokens": [[1, 2]],
    "arrow_config": [{}],
    "corda_config": [{"corda_method": "kpm"}],
    "kasa_config": [{}],
    "layer_replication": [[[0, 2]]],
    "lora_ga_config": [{}],
    "loftq_config": [{"loftq_bits": 4}],
    "lora_bias": [True, 1],
    "megatron_config": [{}],
    "monteclora_config": [{}],
    "target_parameters": [["mlp.experts.gate_up_proj"]],
    "trainable_token_indices": [[1], {"embed_tokens": [1]}],
    "use_bdlora": [{}],
    "use_qalora": [True],
    "velora_config": [{}],
    "bias": ["some"],
    "r": [0, -1, 2.5, "8", True, 2**70],
    "lora_alpha": ["8", True, None, 2**70],
    "rank_pattern": [{"q": 0}, {"q": 1.5}, {"(?=q)": 2}, ["q"], {"q": True}],
    "alpha_pattern": [{"q": "1"}, {"(a": 2}, {"q": 2**70}],
    "layers_to_transform": [[-1], ["0"], "0", [True]],
    "layers_pattern": ["a.b", ["(a|a)*b"], 3],
    "target_modules": [[3], {"q": 1}, "(?!x)q", [""]],
    "modules_to_save": [[3], {"q": 1}],
    "use_dora": ["yes", 1],
    "use_rslora": [None, "no"],
    "key_of_tomorrow": [None, 1],
}


@pytest.mark.parametrize("key", REFUSED)
def test_what_cannot_be_honoured_is_refused_by_name(key: str):
    read_adapter_config(PLAIN, "here")
    for value in REFUSED[key]:
        with pytest.raises(ConfigError, match=f"here.*{key}"):
            read_adapter_config(PLAIN | {key: value}, "here")


def test_every_key_that_peft_writes_is_known():
    """A key of a newer peft turns this test red, until somebody decided what it means here."""
    written = peft.LoraConfig(r=4, target_modules=["q_proj"]).to_dict()
    written = {key: sorted(value) if isinstance(value, set) else value for key, value in written.items()}
    assert read_adapter_config(written | {"peft_type": "LORA"}, "here").rank == 4
    for key in written.keys() - {"peft_type", "task_type"}:
        for odd in (object, "odd", {"odd": 1}, [None], -1, 2.5):
            try:
                read_adapter_config({**PLAIN, key: odd}, "here")
            except TfmError:
                break
        else:
            assert key in {
                "auto_mapping", "eva_config", "inference_mode", "lora_dropout", "megatron_core",
                "peft_version", "qalora_group_size", "revision",
            }, key  # fmt: skip


def test_scales():
    settings = read_adapter_config(PLAIN | {"rank_pattern": {"a.q": 9}, "alpha_pattern": {"b": 3.5}}, "here")
    assert settings.scale_of("x.q", Work("")) == 8 / 4
    assert settings.scale_of("x.a.q", Work("")) == 8 / 9
    assert settings.scale_of("b", Work("")) == 3.5 / 4
    stabilized = read_adapter_config(PLAIN | {"use_rslora": True, "r": 3}, "here")
    assert stabilized.scale_of("q", Work("")) == 8 / math.sqrt(3)


def test_layers_are_counted_by_the_first_number():
    for lists, module, wanted in (
        (None, "model.layers.1.experts.0.q_proj", True),
        (None, "layers.1.q_proj", False),  # peft wants something before the list
        (None, "model.layers.0.experts.1.q_proj", False),
        ("layers", "layers.1.q_proj", True),
        ("experts", "model.layers.0.experts.1.q_proj", True),
        (["h", "layers"], "model.layers.1.q_proj", True),
        (None, "q_proj", True),  # a name stated in full is taken
    ):
        more = {"layers_to_transform": 1, "layers_pattern": lists}
        assert read_adapter_config(PLAIN | more, "here").adapts(module, Work("")) == wanted, module
