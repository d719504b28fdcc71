"""Model families: one declarative file each, found by being in this folder.

A family states

    MODEL_TYPES      the model_type of its config.json
    ARCHITECTURES    transformers' class -> task; the first is taken where config.json names none
    config           (keys, task) -> Config
    PREFIX           what checkpoints with a head put before the names of the trunk's tensors
    WEIGHTS          which tensor is which leaf, as a `weights.weight_map`; names without PREFIX. Heads of
                     decoders that read whole texts are left out: they are `READING`
    GGUF             its dialect in that format, or None
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import cache
from itertools import chain
from typing import Any, Literal, Protocol

import numpy as np

from ..config import LM, Config, EncoderDecoder, QuestionAnswering
from ..config_readers.generation_keys import KEYS as GENERATION
from ..config_readers.heads import reading
from ..config_readers.keys import ANY, HARMLESS, Keys
from ..config_readers.quantization import read_quantization
from ..errors import ConfigError
from ..formats.tensor_source import GgufSource, TensorSource
from ..weights.loader import Leaves
from ..weights.steps import STEPS
from ..weights.weight_map import WeightMap, weight_map

Task = Literal["lm", "masked", "classify", "tag", "answer", "pool"]
# How transformers names the classes that read whole texts, by task.
CLASS_SUFFIXES: dict[str, Task] = {
    "Model": "pool",
    "ForMaskedLM": "masked",
    "ForSequenceClassification": "classify",
    "ForTokenClassification": "tag",
    "ForQuestionAnswering": "answer",
}

# What needs no reader here: keys of generation are read by `checkpoint.generation_config`.
UNREAD = dict.fromkeys(GENERATION, ANY) | HARMLESS


def encoders(*names: str) -> dict[str, Task]:
    """The architectures of an encoder with all heads; `names` are the prefixes of its class names."""
    return {name + suffix: task for name in names for suffix, task in CLASS_SUFFIXES.items()}


def decoders(
    name: str, lm: str = "ForCausalLM", tasks: Collection[Task] = ("classify", "tag", "answer")
) -> dict[str, Task]:
    """The architectures of a decoder, which generates, or reads whole texts for `tasks`."""
    architectures: dict[str, Task] = {name + lm: "lm"}
    architectures.update(
        (name + suffix, task) for suffix, task in CLASS_SUFFIXES.items() if task in ("pool", *tasks)
    )
    return architectures


# The heads of decoders that read whole texts: transformers names them alike in all families.
READING = weight_map("""
    nothing <- lm_head.weight
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


@dataclass(frozen=True)
class Gguf:
    """A family in GGUF: its architecture's name, the reader of its metadata, and its weight map.

    `encoder` is the dialect of its encoder alone, if GGUF has an architecture for it.
    """

    architecture: str
    config: Callable[[Keys, TensorSource], Config]
    weights: WeightMap
    encoder: Gguf | None = None

    @property
    def dialects(self) -> dict[str, Gguf]:
        """This dialect and the encoder's, by their architectures."""
        return {self.architecture: self} | (self.encoder.dialects if self.encoder else {})


class Family(Protocol):
    """The fields of a file in this folder."""

    MODEL_TYPES: tuple[str, ...]
    ARCHITECTURES: Mapping[str, Task]
    PREFIX: str
    WEIGHTS: WeightMap
    GGUF: Gguf | None

    def config(self, keys: Keys, task: Task) -> Config: ...


@cache
def families() -> dict[str, Family]:
    """Every family by model_type."""
    names = sorted(module.name for module in pkgutil.iter_modules(__path__))
    modules: list[Any] = [importlib.import_module(f"{__name__}.{name}") for name in names]
    return {model_type: module for module in modules for model_type in module.MODEL_TYPES}


def read_config(
    values: Any,
    where: str = "config.json",
    tensors: Collection[str] | None = None,
    task: Task | None = None,
) -> tuple[Config, Family]:
    """The Config that a config.json states, and its family; ConfigError for what isn't known.

    `tensors` are the names of the weights beside it, if there are any. With `task` the head is the one for
    it, whatever architecture is named.
    """
    if not isinstance(values, Mapping):
        raise ConfigError(f"{where}: must be a JSON object, got {values!r:.80}")
    keys = Keys(values, where, tensors)
    family, named_task = identify(keys)
    if task not in (None, *family.ARCHITECTURES.values()):
        raise keys.fail("model_type", f"a model for the task {task}")
    chosen = task or named_task
    config = family.config(keys, chosen)
    pair = isinstance(config, EncoderDecoder)
    stated = keys.get("is_encoder_decoder", bool, pair)
    if stated != pair and (stated or chosen == "lm"):
        raise keys.fail("is_encoder_decoder", f"{str(pair).lower()} for {keys.values['model_type']}")
    if chosen != "lm" and isinstance(config.head, LM):
        config = reading(config, keys, chosen)
    keys.finish(UNREAD)
    return config, family


def identify(keys: Keys) -> tuple[Family, Task]:
    """The family and the task that a config.json names; ConfigError for what isn't known or can't be read.

    It needs no weights, so that weights in a format that isn't read are refused for what they are.
    """
    try:
        family, task = _family(keys)
    except ConfigError as error:
        if keys.values.get("auto_map"):
            raise ConfigError(f"{error}; the repository's own code (auto_map) is never run") from None
        raise
    if read_quantization(keys) is not None and not _stores_outputs_first(family):
        raise ConfigError(
            f"{keys.where}: quantization_config isn't read for {keys.values['model_type']}, whose matrices "
            "are stored inputs first: take the original checkpoint, or a .gguf file of the model"
        )
    return family, task


def _stores_outputs_first(family: Family) -> bool:
    """Whether a family's matrices are [out, in], as those of quantizing libraries are."""
    projections = [line for line in family.WEIGHTS.lines if line.leaves[0].endswith((".wq", ".wo"))]
    return bool(projections) and all(STEPS["transpose"] in line.steps for line in projections)


def _family(keys: Keys) -> tuple[Family, Task]:
    """The family of the model_type, and the task of the architectures; ConfigError for what isn't known."""
    family = keys.choice("model_type", families())
    named = keys.get("architectures", list, None) or [next(iter(family.ARCHITECTURES))]
    tasks = {family.ARCHITECTURES.get(a) if isinstance(a, str) else None for a in named}
    task = tasks.pop()
    if tasks or task is None:
        raise keys.fail("architectures", f"one of {', '.join(family.ARCHITECTURES)}")
    return family, task


def checkpoint_map(config: Config, family: Family) -> tuple[WeightMap, list[str]]:
    """The map of a family's checkpoints for a Config, and what may stand before their tensors' names."""
    table, prefixes = family.WEIGHTS, [family.PREFIX]
    if not isinstance(config.head, LM) and table.has("decoder"):
        table = table + READING
        if isinstance(config.head, QuestionAnswering):
            prefixes.append("transformer.")  # as some of transformers' classes for it have
    return table, prefixes


def read_leaves(
    config: Config, source: TensorSource, family: Family, elsewhere: Collection[str] = ()
) -> Leaves:
    """The leaves of a Config that a family's checkpoint holds, but for those that come from `elsewhere`."""
    return Leaves(config, source, *checkpoint_map(config, family), elsewhere)


def families_of(architecture: str) -> list[Family]:
    """The families whose models have this architecture in GGUF."""
    named = {id(f): f for f in families().values() if f.GGUF and architecture in f.GGUF.dialects}
    return list(named.values())


def read_gguf(source: GgufSource) -> tuple[Config, Gguf]:
    """The Config that a GGUF file's metadata state, and their dialect."""
    dialects = (f.GGUF.dialects.items() for f in families().values() if f.GGUF is not None)
    by_architecture, where = dict(chain.from_iterable(dialects)), str(source.path)
    single = {key: value for key, value in source.metadata.items() if not isinstance(value, np.ndarray)}
    dialect = Keys(single, where).choice("general.architecture", by_architecture)
    prefix = dialect.architecture + "."
    for key, value in source.metadata.items():
        if key.startswith(prefix) and key not in single:
            raise ConfigError(f"{where}: key {key!r:.80} must be one value, got an array of {len(value)}")
        if not key.startswith((prefix, "general.", "tokenizer.", "quantize.", "split.")):
            raise ConfigError(f"{where}: key {key!r:.80} isn't known, ignoring it could give a wrong model")
        if key == "split.count" and single.get(key) != 1:
            raise ConfigError(f"{where}: split.count must be 1: join the parts first, got {value!r:.40}")
    family_metadata = {k.removeprefix(prefix): v for k, v in single.items() if k.startswith(prefix)}
    keys = Keys(family_metadata, f"{where}: {dialect.architecture}")
    config = dialect.config(keys, source)
    keys.finish({})
    return config, dialect
