"""Read adapter_config.json of the peft library: the settings of a LoRA adapter. Other kinds of adapters are
refused by name.

A key that changes numbers is applied or refused. An unknown key is an error, as in config.json.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from ...errors import ConfigError
from ..formats.adapters.name_patterns import NamePattern
from ..formats.adapters.settings import ALL_LINEAR, LoraSettings, ModuleNames, Numbers, Task
from .keys import ANY, Keys

# peft's names of tasks, and ours; None leaves the base's.
TASKS: dict[str, Task] = {
    "CAUSAL_LM": "lm",
    "SEQ_2_SEQ_LM": "lm",
    "SEQ_CLS": "classify",
    "TOKEN_CLS": "tag",
    "QUESTION_ANS": "answer",
    "FEATURE_EXTRACTION": "pool",
}
# Ways to draw the first weights that leave the base as it is. PiSSA, OLoRA, CorDA, LoRA-GA and LoftQ change
# the base too: what is saved without conversion belongs to another base than the one on disk.
PLAIN_INIT = (True, False, "gaussian", "orthogonal", "eva", "mica")
MOST_NAMES = 10_000

HARMLESS: dict[str, Any] = {
    # Of training, or of how and by what the file was written.
    **dict.fromkeys(
        (
            "auto_mapping", "eva_config", "inference_mode", "lora_dropout", "megatron_core", "peft_version",
            "qalora_group_size", "revision", "runtime_config",
        ),
        ANY,
    ),
    # peft goes by the module's class, and so does the family's weight map.
    "fan_in_fan_out": (False, True),
    "bias": ("none", "all", "lora_only"),  # the biases are in the file, or they aren't
    # Each of these changes what the tensors mean, or the base.
    **dict.fromkeys(
        (
            "alora_invocation_tokens", "arrow_config", "corda_config", "kasa_config", "layer_replication",
            "lora_ga_config", "megatron_config", "monteclora_config", "trainable_token_indices", "use_bdlora",
            "velora_config",
        ),
        (None,),
    ),
    "loftq_config": (None, {}), "target_parameters": (None, []), "lora_bias": (False,),
    "use_qalora": (False,), "enable_lora": (None,), "merge_weights": (False,),  # of peft before 0.3
}  # fmt: skip


def read_adapter_config(values: Mapping[str, Any], where: str) -> LoraSettings:
    """Return the settings of an adapter_config.json. Raises ConfigError for a setting that can't be
    applied.
    """
    keys = Keys(values, where)
    keys.choice("peft_type", {"LORA": None})
    task = keys.get("task_type", str, None)
    if task is not None and task not in TASKS:
        raise keys.fail("task_type", f"one of {', '.join(TASKS)}")
    init = keys.values.get("init_lora_weights", True)
    keys.unused("init_lora_weights")
    if not isinstance(init, bool | str) or init not in PLAIN_INIT:
        raise keys.fail(
            "init_lora_weights",
            f"one of {PLAIN_INIT}: other methods change the base model too; save the adapter with peft's "
            "path_initial_model_for_weight_conversion",
        )
    settings = LoraSettings(
        base=keys.get("base_model_name_or_path", str, None),
        task=None if task is None else TASKS[task],
        rank=keys.size("r", 8),
        alpha=keys.get("lora_alpha", float, 8.0),
        ranks=_numbers(keys, "rank_pattern", whole=True),
        alphas=_numbers(keys, "alpha_pattern", whole=False),
        rank_stabilized=keys.get("use_rslora", bool, False),
        dora=keys.get("use_dora", bool, False),
        keeps_ties=keys.get("ensure_weight_tying", bool, False),
        targets=_targets(keys),
        excluded=_modules(keys, "exclude_modules") or ModuleNames(),
        saved=_names(keys, "modules_to_save"),
        layers=_layers(keys),
        layer_lists=_names(keys, "layers_pattern"),
    )
    if odd := [name for name in settings.layer_lists if not re.fullmatch("[A-Za-z0-9_]+", name)]:
        raise ConfigError(
            f"{where}: layers_pattern must contain plain names of lists of layers, got {odd[0]!r:.80}"
        )
    keys.finish(HARMLESS)
    return settings


def _targets(keys: Keys) -> ModuleNames | None:
    """Return the names of the modules that the adapter changes.

    Return None if target_modules is all-linear or absent. Then the names of the adapter's tensors show which
    modules it changes.
    """
    if keys.values.get("target_modules") == ALL_LINEAR:
        keys.unused("target_modules")
        return None
    return _modules(keys, "target_modules")


def _modules(keys: Keys, key: str) -> ModuleNames | None:
    """Return the modules that a key names, by the endings of their names or by a pattern for whole names.
    Return None if the key is null or absent.
    """
    stated = keys.values.get(key)
    if isinstance(stated, str):
        return ModuleNames(pattern=NamePattern(keys.get(key, str), f"{keys.where}: {key}"))
    names = _names(keys, key)
    return None if stated is None else ModuleNames(frozenset(names))


def _names(keys: Keys, key: str) -> tuple[str, ...]:
    """Return the names that a key states as one text or as a list. Return no names if the key is null or
    absent.
    """
    stated = keys.values.get(key)
    if isinstance(stated, str):
        return (keys.get(key, str),)
    names = keys.get(key, list, None) or []
    if not all(isinstance(name, str) and name for name in names) or len(names) > MOST_NAMES:
        raise keys.fail(key, f"a list of at most {MOST_NAMES} names")
    return tuple(names)


def _layers(keys: Keys) -> frozenset[int] | None:
    stated = keys.values.get("layers_to_transform")
    if type(stated) is int:
        return frozenset([keys.get("layers_to_transform", int)])
    layers = keys.get("layers_to_transform", list, None) or None
    if layers is not None and not all(type(layer) is int and layer >= 0 for layer in layers):
        raise keys.fail(
            "layers_to_transform", "the number of a layer, counted from 0, or a list of such numbers"
        )
    return None if layers is None else frozenset(layers)


def _numbers(keys: Keys, key: str, *, whole: bool) -> Numbers:
    stated = keys.get(key, dict, None) or {}
    kinds = (int,) if whole else (int, float)
    least = 1 if whole else -math.inf
    for value in stated.values():
        if type(value) not in kinds or not least <= value < 2**53:
            raise keys.fail(
                key, f"an object with a {'whole number from 1' if whole else 'number'} for each pattern"
            )
    if len(stated) > MOST_NAMES:
        raise keys.fail(key, f"at most {MOST_NAMES} patterns")
    return tuple((NamePattern(text, f"{keys.where}: {key}"), value) for text, value in stated.items())
