"""Model families: one declarative file each, found by being in this folder.

A family states MODEL_TYPES, ARCHITECTURE (how the class ends whose checkpoints it reads),
`config(keys) -> Config`, WEIGHTS (the language of `refimpl.weights`) and GGUF, its dialect in that
format, or None.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Protocol

from ..config import Activation, Config, LinearScaling, Llama3Scaling, Rope
from ..errors import ConfigError
from ..weights import Source

ANY = object()
_REQUIRED = object()

# Keys that say nothing about the model's mathematics, at the values at which that is true.
HARMLESS: dict[str, Any] = {
    **dict.fromkeys(
        (
            "model_type", "_name_or_path", "transformers_version", "torch_dtype", "dtype", "use_cache",
            "auto_map", "bos_token_id", "eos_token_id", "pad_token_id", "initializer_range",
            "attention_dropout", "id2label", "label2id", "problem_type", "output_attentions",
            "output_hidden_states", "return_dict", "_attn_implementation", "_attn_implementation_autoset",
        ),
        ANY,
    ),
    "is_encoder_decoder": (False,), "is_decoder": (False, True), "add_cross_attention": (False,),
    "cross_attention_hidden_size": (None,), "tie_encoder_decoder": (False,), "chunk_size_feed_forward": (0,),
    "pruned_heads": ({}, None), "quantization_config": (None,), "partial_rotary_factor": (1.0, None),
}  # fmt: skip
ACTIVATIONS: dict[str, Activation] = {
    "silu": "silu", "swish": "silu", "relu": "relu", "gelu": "gelu",
    "gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh", "gelu_fast": "gelu_tanh",
}  # fmt: skip


class Keys:
    """The keys of a config, which remembers those that were read: the others must be harmless."""

    def __init__(self, values: Mapping[str, Any], where: str) -> None:
        self.values, self.where = values, where
        self._read: set[str] = set()

    def __contains__(self, key: str) -> bool:
        return key in self.values

    def fail(self, key: str, must: str) -> ConfigError:
        return ConfigError(f"{self.where}: {key} must be {must}, got {self.values.get(key)!r:.80}")

    def get(self, key: str, kind: type, default: Any = _REQUIRED, *, null: bool = False) -> Any:
        """The key's value; `null` says that null is a value. ConfigError if it isn't of its kind."""
        self._read.add(key)
        if key not in self.values:
            if default is _REQUIRED:
                raise ConfigError(f"{self.where}: {key} is missing")
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
        """A whole number of at least 1."""
        value = self.get(key, int, default, null=null)
        if value is not None and value < 1:
            raise self.fail(key, "at least 1")
        return value

    def positive(self, key: str, default: Any = _REQUIRED) -> Any:
        """A number greater than 0."""
        value = self.get(key, float, default)
        if value is not None and not value > 0:
            raise self.fail(key, "greater than 0")
        return value

    def choice(self, key: str, known: Mapping[str, Any], default: Any = _REQUIRED) -> Any:
        """What a name stands for; ConfigError lists the names that are known."""
        value = self.get(key, str, default)
        if value not in known:
            raise self.fail(key, f"one of {', '.join(known)}")
        return known[value]

    def finish(self, harmless: Mapping[str, Any] = HARMLESS) -> None:
        """Raise ConfigError for a key that nobody read, unless it is harmless at its value."""
        for key in sorted(set(self.values) - self._read):
            if key not in harmless:
                raise ConfigError(
                    f"{self.where}: key {key!r:.80} isn't known, ignoring it could give a wrong model"
                )
            allowed = harmless[key]
            if allowed is not ANY and self.values[key] not in allowed:
                raise self.fail(key, f"one of {allowed}")


def rope(keys: Keys, dims: int) -> Rope:
    """Rotary positions from either spelling: rope_theta with rope_scaling, or rope_parameters."""
    old = keys.get("rope_scaling", dict, None)
    new = keys.get("rope_parameters", dict, None)
    if old and new and old != new:
        raise keys.fail("rope_parameters", "the same as rope_scaling where both stand")
    inner = Keys(new or old or {}, f"{keys.where}: {'rope_parameters' if new else 'rope_scaling'}")
    theta, own = keys.positive("rope_theta", None), inner.positive("rope_theta", None)
    if theta is not None and own is not None and theta != own:
        raise keys.fail("rope_theta", f"the same as in rope_parameters, {own}")
    kind, alias = inner.get("rope_type", str, None), inner.get("type", str, None)
    if kind and alias and kind != alias:
        raise inner.fail("type", f"the same as rope_type, {kind!r}")
    scaling: LinearScaling | Llama3Scaling | None = None
    match kind or alias or "default":
        case "default":
            pass
        case "linear":
            scaling = LinearScaling(inner.positive("factor"))
        case "llama3":
            scaling = Llama3Scaling(
                inner.positive("factor"),
                inner.positive("low_freq_factor"),
                inner.positive("high_freq_factor"),
                inner.size("original_max_position_embeddings"),
            )
            if scaling.high_freq_factor <= scaling.low_freq_factor:
                raise inner.fail(
                    "high_freq_factor", f"greater than low_freq_factor, {scaling.low_freq_factor}"
                )
        case other:
            raise ConfigError(
                f"{inner.where}: rope_type must be one of default, linear, llama3, got {other!r:.80}"
            )
    inner.finish({"partial_rotary_factor": (1.0,)})
    return Rope(theta or own or 10_000.0, dims, scaling=scaling)


@dataclass(frozen=True)
class Gguf:
    """A family's dialect in GGUF: its architecture's name, how its metadata reads, its tensors."""

    architecture: str
    config: Callable[[Keys, Source], Config]
    weights: str


class Family(Protocol):
    """What a file in this folder states."""

    MODEL_TYPES: tuple[str, ...]
    ARCHITECTURE: str
    WEIGHTS: str
    GGUF: Gguf | None

    def config(self, keys: Keys) -> Config: ...


@cache
def families() -> dict[str, Family]:
    """Every family by model_type."""
    names = sorted(module.name for module in pkgutil.iter_modules(__path__))
    modules: list[Any] = [importlib.import_module(f"{__name__}.{name}") for name in names]
    return {model_type: module for module in modules for model_type in module.MODEL_TYPES}


def read_config(values: Any, where: str = "config.json") -> tuple[Config, Family]:
    """The Config that a config.json states, and its family; ConfigError for what isn't known."""
    if not isinstance(values, Mapping):
        raise ConfigError(f"{where}: must be a JSON object, got {values!r:.80}")
    keys = Keys(values, where)
    family = keys.choice("model_type", families())
    architectures = keys.get("architectures", list, None) or []
    if not all(isinstance(a, str) and a.endswith(family.ARCHITECTURE) for a in architectures):
        raise keys.fail("architectures", f"a …{family.ARCHITECTURE}")
    config = family.config(keys)
    keys.finish()
    return config, family


def read_gguf(source: Any) -> tuple[Config, Gguf]:
    """The Config that a GGUF file's metadata state, and the dialect that they are in."""
    dialects = {f.GGUF.architecture: f.GGUF for f in families().values() if f.GGUF is not None}
    where = str(source.path)
    dialect = Keys(source.metadata, where).choice("general.architecture", dialects)
    prefix = dialect.architecture + "."
    for key, value in source.metadata.items():
        if not key.startswith((prefix, "general.", "tokenizer.", "quantize.", "split.")):
            raise ConfigError(f"{where}: key {key!r:.80} isn't known, ignoring it could give a wrong model")
        if key == "split.count" and value != 1:
            raise ConfigError(f"{where}: split.count must be 1: join the parts first, got {value!r:.40}")
    own = {k.removeprefix(prefix): v for k, v in source.metadata.items() if k.startswith(prefix)}
    keys = Keys(own, f"{where}: {dialect.architecture}")
    config = dialect.config(keys, source)
    keys.finish({})
    return config, dialect
