"""Adapters: find and open a directory of the peft library, and merge its adapter into the base model."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..config import CTC, LM, Classify, Config, MaskedLM, Pool, QuestionAnswering, Tag
from ..errors import CheckpointError
from .config_readers.adapter_config import read_adapter_config
from .families import Family, Task, checkpoint_map, families_of, read_config, read_leaves
from .formats.adapters import SETTINGS, AdapterChoice, lies_beside
from .formats.adapters.settings import LoraSettings
from .formats.adapters.tensors import AdapterTensors
from .formats.model_directory import Directory
from .formats.safetensors import SafeTensors
from .formats.tensor_source import WEIGHTS, TensorSource
from .formats.torch_file import TorchFile
from .weights.adapter_map import AdapterMap
from .weights.loader import Leaves
from .weights.merge import MergedLeaves

TENSORS, TORCH_TENSORS = "adapter_model.safetensors", "adapter_model.bin"
HEADS: dict[type, Task] = {
    LM: "lm",
    MaskedLM: "masked",
    Classify: "classify",
    Tag: "tag",
    QuestionAnswering: "answer",
    Pool: "pool",
    CTC: "ctc",
}


@dataclass(frozen=True)
class Adapter:
    """An opened adapter. Its tensors are read only when they are needed."""

    path: Path
    settings: LoraSettings
    tensors: AdapterTensors
    files: Mapping[str, Path]
    has_tokenizer: bool


def open_adapter(path: Path | str) -> Adapter:
    """Open an adapter: a directory with adapter_config.json and adapter_model.safetensors or
    adapter_model.bin.

    If both files of weights exist, tfm reads the safetensors file. Raises CheckpointError if files are
    missing, are damaged or contain something else. Raises ConfigError for settings that tfm doesn't
    support.
    """
    path = Path(path)
    directory = Directory(path)
    raw = directory.object(SETTINGS) if path.is_dir() else None
    if raw is None:
        raise CheckpointError(f"{path}: an adapter must be a directory with {SETTINGS} and {TENSORS}")
    settings = read_adapter_config(raw, str(path / SETTINGS))
    if (file := directory.find(TENSORS)) is not None:
        tensors = AdapterTensors(SafeTensors(file))
    elif (file := directory.find(TORCH_TENSORS)) is not None:
        tensors = AdapterTensors(TorchFile(file))
    else:
        raise CheckpointError(f"{path}: an adapter must have {TENSORS} or {TORCH_TENSORS}")
    files = dict(directory.files)
    return Adapter(path, settings, tensors, files, directory.find("tokenizer.json") is not None)


def require_choice(base: Path, choice: AdapterChoice) -> None:
    """Raise CheckpointError if an adapter is beside the base model and the caller hasn't said whether to use
    it.

    The base is a directory or a .gguf file. Without this error, a caller who wants the adapter could silently
    get only the base. A caller who wants only the base could silently get the adapter. A directory that
    contains only an adapter is an error too.
    """
    if base.is_dir() and _holds_adapter_alone(base):
        raise adapter_alone(base)
    if choice is None and lies_beside(base):
        directory = base if base.is_dir() else base.parent
        raise CheckpointError(
            f"{base}: the model's folder contains an adapter: merge the adapter with "
            f"adapter={str(directory)!r}, or ignore the adapter with adapter=False"
        )


def chosen(base: Path, choice: AdapterChoice) -> Adapter | None:
    """Return the adapter to merge into a base, or None to use only the base."""
    require_choice(base, choice)
    return None if choice is None or choice is False else open_adapter(choice)


def _holds_adapter_alone(path: Path) -> bool:
    """Return whether a directory contains an adapter but no weights of a base model."""
    return lies_beside(path) and not any(map(Directory(path).find, WEIGHTS))


def adapter_alone(path: Path) -> CheckpointError:
    """Return the error for a directory that contains an adapter without its base model.

    The error's text tells the user which base model to give.
    """
    base = open_adapter(path).settings.base
    return CheckpointError(
        f"{path}: contains an adapter without its base model: give the base model"
        f"{f' {base!r:.200}' if base else ''} as the model, and adapter={str(path)!r}"
    )


def read_adapted_config(
    raw: Mapping[str, Any],
    where: str,
    source: TensorSource,
    adapter: Adapter,
    task: Task | None,
    ignore: Collection[str],
) -> tuple[Config, Family, Mapping[str, Any]]:
    """Return a base model's Config with the head that the adapter needs, its family, and the keys of
    config.json.

    If config.json doesn't state labels, the number of labels comes from the adapter's head. This number is
    then added to the returned keys as `num_labels`.
    """
    task = task or adapter.settings.task
    config, family = read_config(raw, where, source.names, task, ignore=ignore)
    if isinstance(config.head, Classify | Tag) and not {"id2label", "num_labels"} & raw.keys():
        labels = _rows_of_head(config, family, adapter.tensors)
        if labels not in (None, config.head.labels):
            raw = {**raw, "num_labels": labels}
            config, family = read_config(raw, where, source.names, task, ignore=ignore)
    return config, family, raw


def _rows_of_head(config: Config, family: Family, tensors: AdapterTensors) -> int | None:
    """Return the number of labels of the adapter's head, or None if the adapter contains no head."""
    weights, _ = checkpoint_map(config, family)
    rules = [r for r in weights.rules(config) if r.use == "read" and r.leaves[0] == "head.out.weight"]
    names = {names[0] for rule in rules for names in rule.choices}
    shapes = [tensors.shape(tensor) for name, tensor in tensors.replaced.items() if name in names]
    return next((shape[0] for shape in shapes if len(shape) == 2), None)


def merge_directory(
    config: Config, source: TensorSource, family: Family, adapter: Adapter
) -> tuple[Config, MergedLeaves]:
    """Merge an adapter into the checkpoint of a model directory. Return the Config and the merged
    parameters.
    """
    weights, prefixes = checkpoint_map(config, family)
    changed = AdapterMap(config, weights, prefixes, adapter.settings, adapter.tensors)
    # A head that the adapter brings along, where the base has another one.
    present = {name.removeprefix(next(filter(name.startswith, prefixes), "")) for name in source.names}
    elsewhere = {
        leaf
        for rule in weights.rules(config)
        if rule.use == "read" and not any(names[0] in present for names in rule.choices)
        for leaf in rule.leaves
        if leaf in changed.changes and changed.changes[leaf].replacement is not None
    }
    base = read_leaves(config, source, family, elsewhere)
    return changed.shapes.config, MergedLeaves(changed.shapes, base, adapter.tensors, changed.changes)


def merge_gguf(
    config: Config, base: Leaves, architecture: str, adapter: Adapter, where: str
) -> tuple[Config, MergedLeaves]:
    """Merge an adapter into the model of a GGUF file. Return the Config and the merged parameters.

    The adapter names parameters as a family's checkpoints do. Several families may share a GGUF architecture
    (Llama and Mixtral). tfm uses the first family that knows the adapter's names.
    """
    task = adapter.settings.task
    if task not in (None, HEADS[type(config.head)]):
        raise CheckpointError(
            f"{where}: task_type must be for the model's task, {HEADS[type(config.head)]}, but it is "
            f"for {task}"
        )
    problem: CheckpointError | None = None
    for family in families_of(architecture):
        weights, prefixes = checkpoint_map(config, family)
        try:
            changed = AdapterMap(config, weights, prefixes, adapter.settings, adapter.tensors)
        except CheckpointError as error:
            problem = problem or error
        else:
            return changed.shapes.config, MergedLeaves(changed.shapes, base, adapter.tensors, changed.changes)
    assert problem is not None
    raise problem


def notes(adapter: Adapter, base: Path, config: Mapping[str, Any]) -> tuple[str, ...]:
    """Return notes for the user about an adapter.

    A note says that the adapter names another base model than the one given. Another says that the adapter's
    own tokenizer isn't used.
    """
    stated = adapter.settings.base
    found = [str(base.resolve()), str(config.get("_name_or_path", ""))]
    named = _letters((stated or "").rstrip("/").rsplit("/", 1)[-1])
    result: list[str] = []
    if not any(named in _letters(name) for name in found):
        result.append(
            f"the adapter's config names the base model {stated!r:.200}, but the given base model is "
            f"{base.name!r:.200}"
        )
    if adapter.has_tokenizer and adapter.path.resolve() != base.resolve():
        result.append(
            "tfm uses the tokenizer of the base model, not the tokenizer in the adapter's directory"
        )
    return tuple(result)


def _letters(name: str) -> str:
    return re.sub("[^a-z0-9]+", "", name.lower())
