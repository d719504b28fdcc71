"""Model families: each family is one declarative file in this folder. tfm finds every file in the folder.

A family's file defines

    MODEL_TYPES      the model_type of its config.json
    ARCHITECTURES    transformers' class -> task; the first class is the default if config.json names none
    config           (keys, task) -> Config
    UNREAD_ARCHITECTURES
                     why tfm doesn't read further classes, if a reason helps
    PREFIX           what checkpoints with a head put before the names of the backbone's tensors; "model." by
                     default. If there are several prefixes, the first that a name begins with counts
    WEIGHTS          which tensor is which parameter, as a `weights.weight_map`, with names without PREFIX.
                     The heads of decoders that read whole texts are in `READING`, for all families
    checkpoint_weights
                     (keys) -> WEIGHTS of one checkpoint, if config.json numbers the layers
    with_tensors     (Config, tensors) -> Config with settings that only a tensor of the checkpoint states
    GGUF             how GGUF stores the family, if it does: a table of config.json's keys, and a weight map
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cache
from itertools import chain
from typing import Any, Literal

import numpy as np

from ...config import (
    LM,
    Alibi,
    Attention,
    Config,
    Decoder,
    Encoder,
    EncoderDecoder,
    Pool,
    QuestionAnswering,
    Window,
)
from ...errors import ConfigError
from ..config_readers.decoder import map_attention
from ..config_readers.generation_keys import UNREAD
from ..config_readers.gguf_heads import READING as GGUF_READING
from ..config_readers.gguf_heads import gguf_pooled, gguf_reading, labelled
from ..config_readers.gguf_keys import Table, in_config_json
from ..config_readers.heads import reading
from ..config_readers.keys import Keys, unknown
from ..config_readers.quantization import read_quantization
from ..config_readers.unknown_type import describe
from ..formats.quantized.weight import Quantization
from ..formats.tensor_source import GgufSource, TensorSource
from ..weights.loader import Leaves
from ..weights.steps import STEPS
from ..weights.weight_map import WeightMap, weight_map

Task = Literal["lm", "masked", "classify", "tag", "answer", "pool", "ctc"]
# How transformers names the classes that read whole texts, by task.
CLASS_SUFFIXES: dict[str, Task] = {
    "Model": "pool",
    "ForMaskedLM": "masked",
    "ForSequenceClassification": "classify",
    "ForTokenClassification": "tag",
    "ForQuestionAnswering": "answer",
}


def encoders(*names: str, without: Collection[Task] = ()) -> dict[str, Task]:
    """Return the architectures of an encoder with all heads except `without`. `names` are prefixes of class
    names.
    """
    tasks: dict[str, Task] = {end: task for end, task in CLASS_SUFFIXES.items() if task not in without}
    return {name + end: task for name in names for end, task in tasks.items()}


def decoders(
    name: str, lm: str = "ForCausalLM", tasks: Collection[Task] = ("classify", "tag", "answer")
) -> dict[str, Task]:
    """Return the architectures of a decoder that generates text. For `tasks` the decoder reads whole texts
    instead.
    """
    architectures: dict[str, Task] = {name + lm: "lm"}
    architectures.update(
        (name + suffix, task) for suffix, task in CLASS_SUFFIXES.items() if task in ("pool", *tasks)
    )
    return architectures


# The heads of decoders that read whole texts: transformers names them alike in all families.
READING = weight_map("""
    nothing <- lm_head.{weight,bias}
    nothing <- embed_out.weight
    head.dense.weight <- (decoder.project_out|classification_head.dense).weight : transpose
    head.dense.bias <- classification_head.dense.bias
    for Classify, Tag:
    head.out.weight <- (score|classifier|classification_head.out_proj).weight : transpose
    head.out.bias <- (score|classifier|classification_head.out_proj).bias
    for QuestionAnswering:
    head.out.weight <- qa_outputs.weight : transpose
    head.out.bias <- qa_outputs.bias
""")

# The Dense modules of a sentence encoder, counted from 0: each has a file of its own.
DENSE_MODULE = """
    head.projections.{p}.weight <- Dense.{p}.linear.weight : transpose
    head.projections.{p}.bias <- Dense.{p}.linear.bias
"""


@dataclass(frozen=True)
class Gguf:
    """How GGUF stores a family: the architecture's name, the table of the metadata, and the weight map.

    If several families share the architecture's name, `keys` is a function that returns the table of the
    family in the file. `task` is "pool" for encoders. `other` is another architecture of the same model_type,
    if GGUF has one: the family's encoder alone, or a related model. `by_layer` are the keys of the metadata
    that may contain an array with an element for each layer. The table then gets a list, or one number if it
    is the same for all layers. `arrays` are the keys that contain another array.
    """

    architecture: str
    keys: Table | Callable[[Keys], Table]
    weights: WeightMap
    other: Gguf | None = None
    task: Task = "lm"
    by_layer: tuple[str, ...] = ()
    arrays: tuple[str, ...] = ()

    @property
    def dialects(self) -> dict[str, Gguf]:
        """The GGUF architectures of this family by name: this one and `other`."""
        return {self.architecture: self} | (self.other.dialects if self.other else {})


@dataclass(frozen=True)
class Family:
    """A model family: the names that its file in this folder defines."""

    MODEL_TYPES: tuple[str, ...]
    ARCHITECTURES: Mapping[str, Task]
    config: Callable[[Keys, Task], Config]
    WEIGHTS: WeightMap
    PREFIX: str | tuple[str, ...] = "model."
    GGUF: Gguf | None = None
    UNREAD_ARCHITECTURES: Mapping[str, str] = field(default_factory=dict)
    checkpoint_weights: Callable[[Keys], WeightMap] | None = None
    with_tensors: Callable[[Config, TensorSource], Config] | None = None


@cache
def families() -> dict[str, Family]:
    """Return all families by model_type."""
    names, stated = sorted(module.name for module in pkgutil.iter_modules(__path__)), fields(Family)
    modules = (vars(importlib.import_module(f"{__name__}.{name}")) for name in names)
    found = [Family(**{f.name: module[f.name] for f in stated if f.name in module}) for module in modules]
    return {model_type: family for family in found for model_type in family.MODEL_TYPES}


def with_model_type(values: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the keys of a config.json with a model_type.

    If the file states no model_type, the result has the type that the file's class is named after. An example
    is the config.json of google/umt5-small.
    """
    match values:
        case {"model_type": _}:
            return values
        case {"architectures": [str(name)]}:
            letters = {kind: kind.replace("_", "").replace("-", "") for kind in families()}
            kinds = [
                kind
                for kind, family in families().items()
                if name in family.ARCHITECTURES and name.lower().startswith(letters[kind])
            ]
            return {**values, "model_type": kinds[0]} if len(kinds) == 1 else values
    return values


def read_config(
    values: Any,
    where: str = "config.json",
    tensors: Collection[str] | None = None,
    task: Task | None = None,
    *,
    mtp: bool = False,
    ignore: Collection[str] = (),
) -> tuple[Config, Family]:
    """Read a config.json: return the Config that it states, and the model's family.

    Raises ConfigError for anything unknown except keys to `ignore`. `tensors` are the names of the weights
    beside config.json, if there are any. With `task`, the Config has the head for this task, whatever
    architecture config.json names. With `mtp`, the Config has the module that predicts further tokens.
    """
    if not isinstance(values, Mapping):
        raise ConfigError(f"{where}: must be a JSON object, got {values!r:.80}")
    keys = Keys(with_model_type(values), where, tensors, ignore)
    family, named, _ = identify(keys)
    if task not in (None, *family.ARCHITECTURES.values()):
        raise keys.fail("model_type", f"a model for the task {task}")
    if task is None and len(named) > 1:
        raise _architecture(keys, family)
    chosen = task or named.pop()
    if chosen == "lm" and keys.values.get("is_causal") is False and "pool" in family.ARCHITECTURES.values():
        chosen = "pool"  # it can't write: gte-Qwen2, whose config.json names the class that does
    config = family.config(keys, chosen)
    pair = isinstance(config, EncoderDecoder)
    stated = keys.get("is_encoder_decoder", bool, pair)
    if stated != pair and (stated or chosen == "lm"):
        raise keys.fail("is_encoder_decoder", f"{str(pair).lower()} for {keys.values['model_type']}")
    if isinstance(config, Decoder):
        config = _read_causally(config, keys, chosen)
    elif chosen != "lm" and isinstance(config.head, LM):
        config = reading(config, keys, chosen)
    if isinstance(config.head, Pool):
        config = replace(config, head=replace(config.head, cuts=_cuts(keys)))
    keys.finish(UNREAD)
    if family.checkpoint_weights is not None:
        family = replace(family, WEIGHTS=family.checkpoint_weights(keys))
    return _with_module(config, where, mtp), family


def _cuts(keys: Keys) -> tuple[int, ...] | None:
    """Return the widths to which vectors may be cut, or None if any width is allowed."""
    stated = keys.get("matryoshka_dimensions", list, None, null=True) or ()
    if not all(type(width) is int for width in stated):
        raise keys.fail("matryoshka_dimensions", "whole numbers")
    return None if keys.get("is_matryoshka", bool, False) and not stated else tuple(stated)


def _with_module(config: Config, where: str, mtp: bool) -> Config:
    """Return the Config with or without the module that predicts further tokens, as `mtp` says."""
    stated = config.mtp if isinstance(config, Decoder) else None
    if mtp and stated is None:
        raise ConfigError(
            f"{where}: mtp needs a model with exactly one module for multi-token prediction "
            "(num_nextn_predict_layers or mtp_num_hidden_layers of 1, or mtp.fc.weight; in GGUF glm4moe's "
            "nextn_predict_layers of 1), but tfm found no such module"
        )
    return config if stated is None or mtp else replace(config, mtp=None)


def _read_causally(config: Decoder, keys: Keys, task: Task) -> Config:
    """Return the decoder, or the encoder that it becomes for a task that reads whole texts.

    transformers hides later tokens from each token unless `is_causal` is false. With `is_causal` false, a
    window of n tokens means n tokens on either side of a token. A causal window of n tokens includes the
    token itself.
    """
    causal = keys.get("is_causal", bool, True)
    if task == "lm" and not causal:
        raise keys.fail("is_causal", "true for a model that generates text")
    if task == "lm":
        return config
    if causal:
        return reading(config, keys, task)
    if config.stack.stepwise or not all(isinstance(layer.attention, Attention) for layer in config.layers):
        raise keys.fail("is_causal", "true for a model whose layers see only earlier tokens")

    def widened(attention: Attention) -> Attention:
        if isinstance(attention.position, Alibi):
            raise keys.fail("is_causal", "true if biases depend on the distance")
        window = attention.window
        return attention if window is None else replace(attention, mask=Window(window + 1))

    config = map_attention(config, lambda _, attention: widened(attention))
    return reading(config, keys, task, causal=False)


def identify(keys: Keys) -> tuple[Family, set[Task], Quantization | None]:
    """Return the family, the tasks and the weights' quantization that a config.json names.

    The quantization is None for weights in floats. Raises ConfigError for a model that tfm doesn't know or
    can't read. This function needs no weights, so an error about weights in an unknown format can name their
    format.
    """
    keys = keys.replaced(with_model_type(keys.values))
    try:
        family, tasks = _family(keys)
    except ConfigError as error:
        if keys.values.get("auto_map"):
            raise ConfigError(f"{error}. tfm never runs the repository's own code (auto_map)") from None
        raise
    quantization = read_quantization(keys)
    if quantization is not None and not _stores_outputs_first(family):
        raise ConfigError(
            f"{keys.where}: quantization_config isn't supported for {keys.values['model_type']}, because "
            "its matrices are stored with the input axis first: use the original checkpoint, or a .gguf file "
            "of the model"
        )
    return family, tasks, quantization


def _stores_outputs_first(family: Family) -> bool:
    """Return whether a family stores matrices as [out, in], as quantizing libraries do."""
    projections = [line for line in family.WEIGHTS.lines if line.leaves[0].endswith((".wq", ".wo"))]
    return bool(projections) and all(STEPS["transpose"] in line.steps for line in projections)


def _family(keys: Keys) -> tuple[Family, set[Task]]:
    """Return the family of a config.json's model_type, and the tasks of its architectures.

    Raises ConfigError for an unknown model_type or architecture.
    """
    family = families().get(keys.get("model_type", str))
    if family is None:
        stated = keys.values["model_type"]
        why = describe(keys.values, families())
        raise ConfigError(f"{keys.where}: tfm doesn't support model_type {stated!r:.80}. {why}")
    named = keys.get("architectures", list, None) or [next(iter(family.ARCHITECTURES))]
    if not all(isinstance(name, str) and name in family.ARCHITECTURES for name in named):
        raise _architecture(keys, family)
    return family, {family.ARCHITECTURES[name] for name in named}


def _architecture(keys: Keys, family: Family) -> ConfigError:
    stated = {name for name in keys.values.get("architectures") or () if isinstance(name, str)}
    why = "".join(
        f"; {name} {reason}" for name, reason in family.UNREAD_ARCHITECTURES.items() if name in stated
    )
    return keys.fail("architectures", f"one of {', '.join(family.ARCHITECTURES)}{why}")


def _dense_modules(config: Config) -> WeightMap:
    count = len(config.head.projections) if isinstance(config.head, Pool) else 0
    return weight_map("".join(DENSE_MODULE.replace("{p}", str(p)) for p in range(count)))


def checkpoint_map(config: Config, family: Family) -> tuple[WeightMap, list[str]]:
    """Return a family's weight map for a Config, and the prefixes that tensors' names may have."""
    table, stated = family.WEIGHTS, family.PREFIX
    prefixes = [stated] if isinstance(stated, str) else [*stated]
    if not table.is_identity:
        table = table + _dense_modules(config)
    if not isinstance(config.head, LM) and table.has("decoder"):
        table = table + READING
        if isinstance(config.head, QuestionAnswering):
            prefixes.append("transformer.")  # as some of transformers' classes for it have
    return table, prefixes


def read_leaves(
    config: Config, source: TensorSource, family: Family, elsewhere: Collection[str] = ()
) -> Leaves:
    """Return the parameters that a family's checkpoint contains. Parameters in `elsewhere` are left out."""
    return Leaves(config, source, *checkpoint_map(config, family), elsewhere)


def families_of(architecture: str) -> list[Family]:
    """Return the families that GGUF stores under an architecture's name."""
    named = {id(f): f for f in families().values() if f.GGUF and architecture in f.GGUF.dialects}
    return list(named.values())


def _by_layer(values: np.ndarray, layers: Any) -> Any:
    """Return the elements of an array as a list, or one number if it is the same for all layers."""
    same = values.dtype != bool and len(values) == layers and len(set(values.tolist())) == 1
    return values.tolist()[0] if same else values.tolist()


def read_gguf(source: GgufSource, *, mtp: bool = False, ignore: Collection[str] = ()) -> tuple[Config, Gguf]:
    """Return the Config that the metadata of a GGUF file states, and how GGUF stores the model's family.

    `mtp` and `ignore` have the same meaning as in `read_config`.
    """
    dialects = (f.GGUF.dialects.items() for f in families().values() if f.GGUF is not None)
    by_architecture, where = dict(chain.from_iterable(dialects)), str(source.path)
    single = {key: value for key, value in source.metadata.items() if not isinstance(value, np.ndarray)}
    if single.get("general.architecture") == "clip":
        raise ConfigError(
            f"{where}: the file is only the vision or audio part of a model (mmproj), which tfm doesn't "
            "read: give the .gguf file of the text model"
        )
    dialect = Keys(single, where).choice("general.architecture", by_architecture)
    prefix = dialect.architecture + "."
    layers = single.get(prefix + "block_count")
    stated = {key: source.metadata.get(prefix + key) for key in (*dialect.by_layer, *dialect.arrays)}
    known = single | {
        prefix + key: _by_layer(value, layers) if key in dialect.by_layer else value.tolist()
        for key, value in stated.items()
        if isinstance(value, np.ndarray)
    }
    for key, value in source.metadata.items():
        if key.startswith(prefix) and key not in known:
            raise ConfigError(
                f"{where}: key {key!r:.80} must be a single value, got an array of {len(value)}"
            )
        known_parts = (prefix, "general.", "tokenizer.", "quantize.", "split.")
        if not key.startswith(known_parts) and key not in ignore:
            raise unknown(where, key, ignore)
        if key == "split.count" and single.get(key) != 1:
            raise ConfigError(
                f"{where}: split.count must be 1, got {value!r:.40}: a model in several parts needs all "
                "parts in one folder, with names like …-00001-of-0000N.gguf"
            )
    family_metadata = {k.removeprefix(prefix): v for k, v in known.items() if k.startswith(prefix)}
    keys = Keys(family_metadata, f"{where}: {dialect.architecture}", ignore=ignore)
    config = _read_dialect(dialect, keys, source)
    keys.finish({})
    if isinstance(config, Encoder) and dialect.weights.has("decoder"):
        dialect = replace(dialect, weights=dialect.weights + GGUF_READING)
    return _with_module(config, where, mtp), dialect


def _read_dialect(dialect: Gguf, keys: Keys, source: TensorSource) -> Config:
    """Return the Config of a GGUF file: what the family reads from the metadata, with the head that the file
    states.
    """
    table = dialect.keys(keys) if callable(dialect.keys) else dialect.keys
    stated = in_config_json(table, keys, source)
    task = "classify" if dialect.task == "pool" and labelled(keys, source) else dialect.task
    config = families()[stated.get("model_type", str)].config(stated, task)
    stated.finish({})
    match config:
        case Decoder():
            return gguf_reading(config, keys)
        case Encoder():
            return gguf_pooled(config, keys, source)
        case _:
            return config if task == "lm" else reading(config, stated, task)
