"""Read the keys of a config file. Each key must be read or be known as harmless, because an unread key could
mean that the model computes something else.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection, Mapping
from typing import Any

from ...config import Activation
from ...errors import ConfigError

ANY = object()
ABSENT: Any = object()  # instead of the value of a key that isn't there
_REQUIRED = object()
_LAYER = re.compile(r"^(enc\.|dec\.)?blk\.\d+\.")  # before a tensor's name, in GGUF

# Keys without effect on the outputs, with the values, or types of values, for which that holds.
HARMLESS: dict[str, Any] = {
    **dict.fromkeys(
        (
            "model_type", "_name_or_path", "transformers_version", "torch_dtype", "dtype", "use_cache",
            "bos_token_id", "eos_token_id", "pad_token_id", "initializer_range",
            "attention_dropout", "id2label", "label2id", "problem_type", "output_attentions",
            "output_hidden_states", "return_dict", "num_labels", "_num_labels", "finetuning_task",
            "output_past", "_attn_implementation", "_attn_implementation_autoset",
        ),
        ANY,
    ),
    "is_decoder": (False, True), "add_cross_attention": (False,),
    "cross_attention_hidden_size": (None,), "tie_encoder_decoder": (False,), "chunk_size_feed_forward": (0,),
    "pruned_heads": ({}, None), "quantization_config": (None,),
    # Code of the repository's own, which isn't run: see `checkpoint.custom_code`.
    "auto_map": (dict, None), "custom_pipelines": (dict, None),
    # Notes of who trained, converted or repaired the checkpoint: no model of transformers' reads them.
    **dict.fromkeys(("name", "name_or_path", "model_name", "tokenizer_class"), (str, None)),
    "language": (str, list, None), "unsloth_fixed": (bool,), "unsloth_version": (str,),
    "transformers.js_config": (dict,), "save_step": (int,), "total_flos": (float,),
    "sep_token_id": (int, None), "eos_token_ids": (int, None), "_model_name_or_path": (str, None),
    **dict.fromkeys(("license", "base_model", "datasets", "tags"), (str, list, None)),
    **dict.fromkeys(
        ("license_name", "license_link", "library_name", "pipeline_tag", "author", "description"), (str, None)
    ),
    # What tokens were trained with, how many at a time, and which code computes attention or experts.
    **dict.fromkeys(("padding_side", "tokenizer_padding_side", "loss_type"), (str, None)),
    **dict.fromkeys(("tokenizer_model_max_length", "max_seq_length"), (int, None)),
    **dict.fromkeys(
        (
            "attn_implementation", "_attn_implementation_internal", "experts_implementation",
            "_experts_implementation", "_experts_implementation_internal",
        ),
        (str, None),
    ),
    **dict.fromkeys(
        (
            "use_flash_attn", "use_flash_attention", "use_flash_attention_2", "_flash_attn_2_enabled",
            "use_liger", "use_liger_kernel", "model_parallel", "fp16", "bf16",
        ),
        (bool, None),
    ),
    # An adapter that was merged: the tensors of one that wasn't are refused.
    **dict.fromkeys(("lora_rank", "lora_r", "seed"), (int, None)),
    **dict.fromkeys(("lora_alpha", "lora_dropout", "neftune_noise_alpha", "learning_rate"), (float, None)),
    # Switches of training, of TensorFlow and TorchScript.
    "gradient_checkpointing": (bool, None), "torchscript": (bool, None), "use_bfloat16": (bool, None),
    "tf_legacy_loss": (bool, None), "xla_device": (bool, None),
    "attention_probs_dropout_prob": (float, None), "hidden_dropout_prob": (float, None),
    "classifier_dropout": (float, None),
    # BERT's, whose families read it; and what other models have, and this one says that it hasn't.
    "type_vocab_size": (int,), "use_mrope": (False,), "lm_head_bias": (False,),
}  # fmt: skip
# How messages name the types.
_TYPES = {
    str: "a text", bool: "true or false", int: "a whole number", float: "a number", dict: "an object",
    list: "a list",
}  # fmt: skip
ACTIVATIONS: dict[str, Activation] = {
    "silu": "silu", "swish": "silu", "relu": "relu", "gelu": "gelu", "gelu_python": "gelu",
    "gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh", "gelu_fast": "gelu_tanh",
    "gelu_python_tanh": "gelu_tanh", "gelu_accurate": "gelu_tanh", "quick_gelu": "quick_gelu",
    "relu2": "relu_squared", "sigmoid": "sigmoid", "tanh": "tanh", "mish": "mish",
}  # fmt: skip


class Keys:
    """The keys of a config file, with a record of the keys that were read. Unread keys must be harmless.

    `tensors` are the names of the checkpoint's tensors, if known. These names decide questions that a config
    leaves open. `ignore` are keys that the caller asks to ignore, or None if no caller can name any. Keys
    that were made from a GGUF file also know the names of the metadata, and the names of the layers'
    tensors.
    """

    def __init__(
        self,
        values: Mapping[str, Any],
        where: str,
        tensors: Collection[str] | None = None,
        ignore: Collection[str] | None = None,
    ) -> None:
        self.values, self.where, self.tensors, self.ignore = values, where, tensors, ignore
        self._read: set[str] = set()
        self._names: Mapping[str, str] = {}
        self._of_layers: frozenset[str] | None = None

    def __contains__(self, key: str) -> bool:
        return key in self.values

    @property
    def unread(self) -> set[str]:
        """The keys that haven't been read so far."""
        return self.values.keys() - self._read

    @property
    def in_vain(self) -> int:
        """The number of keys that readers asked for but the file doesn't have."""
        return len(self._read - self.values.keys())

    def replaced(self, values: Mapping[str, Any]) -> Keys:
        """Return `Keys` with other values and the same record of read keys. A key that is read from the
        result also counts as read here.
        """
        keys = Keys(values, self.where, self.tensors, self.ignore)
        keys._read, keys._names, keys._of_layers = self._read, self._names, self._of_layers
        return keys

    def with_defaults(self, defaults: Mapping[str, Any]) -> Keys:
        """Return `Keys` with these values, and with a family's defaults for keys that the file doesn't
        state.
        """
        return self.replaced({**defaults, **self.values})

    def in_config_json(
        self, values: Mapping[str, Any], names: Mapping[str, str], tensors: Collection[str]
    ) -> Keys:
        """Return `Keys` with the `values` of a GGUF file under the keys of config.json. `names` maps a key to
        its name in the metadata, and `tensors` are the names of the file's tensors.
        """
        keys = Keys(values, self.where)
        keys._names = names
        keys._of_layers = frozenset(_LAYER.sub("", name) for name in tensors)
        return keys

    @property
    def of_gguf(self) -> bool:
        """Whether these keys were made from a GGUF file's metadata."""
        return self._of_layers is not None

    def shows(self, tensor: str, *, stated: bool) -> bool:
        """Return whether the layers of a GGUF file have a tensor with this name. For the keys of a
        config.json, return `stated`.
        """
        return stated if self._of_layers is None else tensor in self._of_layers

    def name(self, key: str) -> str:
        """Return the key as the file spells it."""
        return self._names.get(key, key)

    def fail(self, key: str, must: str) -> ConfigError:
        return ConfigError(f"{self.where}: {self.name(key)} must be {must}, got {self.values.get(key)!r:.80}")

    def stated(self, key: str, default: Any = _REQUIRED) -> Any:
        """Return the key's value, of any type. Raise ConfigError if the key is missing and has no default."""
        return self.get(key, type(self.values.get(key)), default)

    def get(self, key: str, kind: type, default: Any = _REQUIRED, *, null: bool = False) -> Any:
        """Return the key's value. Raise ConfigError if the value isn't of this `kind`, or if the key is
        missing and has no default. With `null`, the value may be null.
        """
        self._read.add(key)
        if key not in self.values:
            if default is _REQUIRED:
                raise ConfigError(f"{self.where}: {self.name(key)} is missing")
            return default
        value = self.values[key]
        if value is None and (null or default is None):
            return None
        if kind is float and type(value) is int and abs(value) < 2**53:
            return float(value)
        if type(value) is not kind:
            raise self.fail(key, f"of type {kind.__name__}")
        return value

    def size(self, key: str, default: Any = _REQUIRED, *, null: bool = False) -> Any:
        """Return the key's value, which must be an integer of at least 1 and below 2^63. This limit prevents
        overflows in arithmetic with the value.
        """
        value = self.get(key, int, default, null=null)
        if value is not None and not 1 <= value < 2**63:
            raise self.fail(key, "at least 1 and below 2^63")
        return value

    def restated(self, key: str, size: int, must: str) -> None:
        """Check a size that follows from other sizes: if the key is present, its value must equal `size`."""
        if self.size(key, size) != size:
            raise self.fail(key, must)

    def positive(self, key: str, default: Any = _REQUIRED, *, null: bool = False) -> Any:
        """Return the key's value, which must be a finite number greater than 0."""
        value = self.get(key, float, default, null=null)
        if value is not None and not 0 < value < math.inf:
            raise self.fail(key, "greater than 0, and finite")
        return value

    def choice(self, key: str, choices: Mapping[str, Any], default: Any = _REQUIRED) -> Any:
        """Return the entry of `choices` that the key's value names. For any other value, raise a ConfigError
        that lists the allowed names.
        """
        value = self.get(key, str, default)
        if value not in choices:
            raise self.fail(key, f"one of {', '.join(choices)}")
        return choices[value]

    def unused(self, *keys: str) -> None:
        """Mark keys as read although their values don't matter, such as keys of training or of other
        heads.
        """
        self._read.update(keys)

    def harmless(self, **allowed: tuple[Any, ...]) -> None:
        """Mark keys as read that don't matter at the `allowed` values or types. Any other value raises
        ConfigError.
        """
        for key in sorted(allowed.keys() & self.values.keys()):
            self._read.add(key)
            self._check(key, allowed[key])

    def at_other_values(self, allowed: Mapping[str, tuple[Any, ...]]) -> tuple[str, ...]:
        """Mark the keys of `allowed` as read. Return the keys with a value that is neither an allowed value
        nor of an allowed type.
        """
        found = sorted(allowed.keys() & self.values.keys())
        self._read.update(found)
        return tuple(key for key in found if not any(_is(self.values[key], one) for one in allowed[key]))

    def _check(self, key: str, allowed: tuple[Any, ...]) -> None:
        if not any(_is(self.values[key], one) for one in allowed):
            words = [_TYPES[one] if isinstance(one, type) else f"{json.dumps(one):.40}" for one in allowed]
            raise self.fail(key, " or ".join(words))

    def spelled(self, key: str, *others: str) -> str:
        """Return which of several spellings of a key the file uses. If the file uses several, their values
        must agree.
        """
        present = [name for name in (key, *others) if name in self.values]
        self._read.update(present)
        for other in present[1:]:
            if self.values[other] != self.values[present[0]]:
                raise self.fail(other, f"the same as {present[0]} ({self.values[present[0]]!r:.80})")
        return present[0] if present else key

    def finish(self, harmless: Mapping[str, Any] = HARMLESS) -> None:
        """Raise ConfigError for a key that wasn't read. Harmless keys with a harmless value and keys that the
        caller asks to ignore are allowed.

        Also raise ConfigError for a key that the caller asks to ignore although a reader read it.
        """
        if known := sorted(self._read & {*(self.ignore or ())} & self.values.keys()):
            raise ConfigError(
                f"{self.where}: key {known[0]!r:.80} can't be ignored, because the model's family uses this "
                "key"
            )
        for key in sorted(self.unread):
            if key in harmless and harmless[key] is not ANY:
                self._check(key, harmless[key])
            elif key not in harmless and key not in (self.ignore or ()):
                raise unknown(self.where, self.name(key), self.ignore)


def unknown(where: str, key: str, ignore: Collection[str] | None) -> ConfigError:
    """Return the error for an unknown key. If a caller can name keys to ignore, the error says how."""
    advice = "" if ignore is None else f"; if you know that it doesn't, ignore it with ignore_keys={key}"
    return ConfigError(
        f"{where}: unknown key {key!r:.80}, which may change what the model computes{advice:.120}"
    )


def _is(value: Any, allowed: Any) -> bool:
    """Return whether a value equals `allowed`, or is of the type `allowed`. Integers also count as floats."""
    if isinstance(allowed, type):
        return type(value) is allowed or (allowed is float and type(value) is int)
    return value == allowed
