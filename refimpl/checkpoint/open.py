"""Open a checkpoint of any format: `open_checkpoint(path)` returns its Config, parameters and tokenizer.

`open_checkpoint` opens directories with config.json and safetensors or pytorch_model.bin, and .gguf files. It
reads weights only when they are needed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..config import CTC, LM, Config, KVFormat, MaskedLM, SampleStem, to_json
from ..errors import CheckpointError, ConfigError
from ..ops.quant import Blocks
from ..params.lazy import materialize
from ..params.parameter_shapes import ParameterShapes
from ..params.tree import Tree, flatten
from .adapter import (
    Adapter,
    chosen,
    merge_directory,
    merge_gguf,
    notes,
    read_adapted_config,
)
from .config_readers.gguf_metadata import as_config_json
from .config_readers.keys import Keys
from .config_readers.quantization import with_modelopt
from .config_readers.text_part import with_text_ids
from .ctc_files import expect_samples, read_ctc
from .ctranslate2 import as_transformers, is_ctranslate2
from .custom_code import replaced_by
from .families import Family, identify, read_config, read_gguf, read_leaves, with_model_type
from .formats.adapters import AdapterChoice
from .formats.file_bytes import FileBytes
from .formats.gguf_parts import parts_of
from .formats.hub_cache import model_in_cache, repository_of
from .formats.model_directory import Directory
from .formats.named_tensors import LayerNumbers, Rescaled, Tensors, WeightNormed, joined, stripped
from .formats.quantized.source import Quantized
from .formats.safetensors import save
from .formats.split_gguf import open_gguf
from .formats.tensor_source import (
    CODE,
    SINGLE,
    TensorSource,
    not_opened,
    shards,
)
from .generation_config import Generation, read_generation
from .labels import mask_id, read_labels
from .languages import read_languages
from .licence import Licence, read_licence
from .sentence_transformers import read_sentence
from .tokenizer_files import missing_template, read_tokenizer, unread_tokenizer, with_special_tokens
from .tokenizers.from_gguf.reader import chat_template, tokenizer
from .weights.left_out import LeftOut, describe
from .weights.loader import Leaves, OtherTableError, check_finite
from .weights.merge import MergedLeaves

__all__ = ["Checkpoint", "Generation", "check_finite", "materialize", "open_checkpoint", "save_checkpoint"]

GENERATION_JSON = "generation_config.json"
MODELOPT = "hf_quant_config.json"
# Before all names: torch.compile's, and those of PyTorch's data parallel training; and both.
WRAPPERS = ("_orig_mod.module.", "module._orig_mod.", "_orig_mod.", "module.")


@dataclass(frozen=True)
class Checkpoint:
    """An opened model. `params` reads a parameter from the file each time it is accessed.

    `labels` are the names of the labels of a classification head. `adapter` is the adapter that is merged
    into the weights. `notes` tell the user about the adapter, the tokenizer and parts that are left out.
    `added` are parameters that no file contains. `code_replaced_by` names the family that tfm uses in place
    of the repository's own code. `metadata` is the metadata of a .gguf file. `ignored_keys` are keys of the
    model's files that tfm doesn't know, and that the caller asked to ignore.
    """

    path: Path
    config: Config
    leaves: Leaves | MergedLeaves
    tokenizer: str | None
    chat_template: str | None
    generation: Generation
    files: Mapping[str, Path]
    labels: tuple[str, ...] = ()
    adapter: Adapter | None = None
    notes: tuple[str, ...] = ()
    added: Mapping[str, np.ndarray] = field(default_factory=dict)
    code_replaced_by: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    ignored_keys: tuple[str, ...] = ()
    tool_use_template: str | None = None  # the chat template where there are tools, if it is another one

    @property
    def licence(self) -> Licence:
        """The licence that the model's source states, with the licence files. Each access reads the files
        again.
        """
        return read_licence(self.path, self.metadata)

    @property
    def shapes(self) -> ParameterShapes:
        return ParameterShapes(self.config)

    @property
    def params(self) -> Tree:
        return self.shapes.lazily(self.leaf)

    def leaf(self, name: str) -> np.ndarray:
        """Return one parameter as float32. `name` is its dotted name."""
        return self.added[name] if name in self.added else self.leaves.load(name)

    def native(self, name: str) -> Blocks | None:
        """Return one parameter in the blocks that the file stores, or None if the file stores it without
        blocks."""
        return None if name in self.added else self.leaves.native(name)

    def kind(self, name: str) -> str:
        """Return the type in which the file stores a parameter: F32, BF16, Q4_1, …"""
        return "F32" if name in self.added else self.leaves.kind(name)

    def for_context(self, context: int | None) -> Checkpoint:
        """Return the same checkpoint for texts of up to `context` tokens.

        Raises ConfigError if the model has fewer positions. Two position scalings depend on a length, for
        which tfm takes `context`, whatever the length of a text is. If `context` is above the original
        context, LongRoPE uses its long divisors, and dynamic NTK uses a theta that grows with `context`.

        transformers instead takes the length of each text. So if `context` is above the original context, tfm
        rotates some texts differently than transformers: with LongRoPE the texts of at most the original
        context, with dynamic NTK the texts of fewer than `context` tokens. All other texts are rotated as
        transformers rotates them in one pass over the whole text.
        """
        return self if context is None else replace(self, config=replace(self.config, context=context))

    def with_kv(self, kv: KVFormat, scales: Mapping[str, np.ndarray] | None = None) -> Checkpoint:
        """Return the same checkpoint with keys and values cached in the format `kv`: as floats or as codes.

        `scales` are the scales of codes. If the checkpoint's own files contain scales, they are used
        instead.
        """
        added = {name: scale for name, scale in (scales or {}).items() if name not in self.leaves.names}
        return replace(self, config=self.config.with_kv(kv), added=added)

    @property
    def left_out(self) -> Mapping[str, LeftOut]:
        """The parts of the model's files that tfm doesn't read, by the prefix of their tensors' names."""
        return self.leaves.left_out

    @property
    def stored(self) -> dict[str, int]:
        """The number of parameters that the files store in each type (F32, F16, BF16, Q4_1, …), the commonest
        type first.
        """
        counts: dict[str, int] = {}
        for name, shape in self.leaves.shapes.items():
            kind = self.leaves.kind(name)
            counts[kind] = counts.get(kind, 0) + int(np.prod(shape))
        return dict(sorted(counts.items(), key=lambda item: -item[1]))

    @property
    def float_dtype(self) -> str:
        """The type in which the files store most parameters."""
        return next(iter(self.stored))

    @property
    def source(self) -> dict[str, str]:
        """The name of the checkpoint, and a hash of the names and contents of all files that were read."""
        home = self.path.resolve()
        name = self.path.name if self.path.suffix == ".gguf" else repository_of(home) or home.name
        return {"name": name, "sha256": _digest(self.files)}

    @property
    def adapter_source(self) -> dict[str, str] | None:
        """The name and hash of the adapter that is merged into the weights, or None without an adapter."""
        if self.adapter is None:
            return None
        return {"name": self.adapter.path.resolve().name, "sha256": _digest(self.adapter.files)}

    @property
    def changed(self) -> tuple[str, ...]:
        """The names of the parameters that an adapter changes."""
        return self.leaves.changed if isinstance(self.leaves, MergedLeaves) else ()


def _digest(files: Mapping[str, Path]) -> str:
    digests = {name: FileBytes(file).sha256() for name, file in files.items()}
    if len(digests) == 1:
        return next(iter(digests.values()))
    listed = "".join(f"{name} {digests[name]}\n" for name in sorted(digests))
    return hashlib.sha256(listed.encode()).hexdigest()


def open_checkpoint(
    path: Path | str, adapter: AdapterChoice = None, *, mtp: bool = False, ignore_keys: Collection[str] = ()
) -> Checkpoint:
    """Open a model directory or a .gguf file. Only headers, config and tokenizer are read at once.

    `adapter` is a directory with an adapter to merge into the weights. If an adapter is beside the model,
    False opens the model without it. With `mtp`, tfm also reads the module that predicts further tokens
    (`ops.mtp`). `ignore_keys` are keys of config.json, generation_config.json or a .gguf file that tfm
    doesn't know and should ignore. The caller is responsible for knowing that these keys have no effect.

    Raises CheckpointError for files that can't be read or contradict each other. Raises ConfigError for a
    model with anything that tfm doesn't know. With `mtp`, also raises ConfigError for a model without such a
    module.
    """
    path = model_in_cache(Path(path))
    if path.is_dir():
        return _open_directory(path, adapter, ignore_keys, mtp=mtp)
    if path.suffix == ".gguf":
        return _open_gguf(path, adapter, ignore_keys, mtp=mtp)
    if path.suffix in CODE:
        raise not_opened(path)
    raise CheckpointError(
        f"{path}: isn't a model: it must be a .gguf file, or a directory with config.json and weights"
    )


def _chosen(path: Path, choice: AdapterChoice, *, mtp: bool) -> Adapter | None:
    """Open the adapter that the caller chose. Raises ConfigError if a module for drafts is asked for too."""
    adapter = chosen(path, choice)
    if mtp and adapter is not None:
        raise ConfigError(
            f"{path}: mtp can't be used with an adapter: the module was trained for the model without an "
            "adapter"
        )
    return adapter


def _ignored(path: Path, keys: Collection[str], stated: Collection[str]) -> tuple[str, ...]:
    """Return the sorted keys to ignore. Raises ConfigError for a key that the model's files don't contain."""
    if absent := sorted({*keys} - {*stated}):
        raise ConfigError(
            f"{path}: key {absent[0]!r:.80} can't be ignored, because the model's files don't have this key"
        )
    return tuple(sorted({*keys}))


def _open_gguf(path: Path, choice: AdapterChoice, ignore: Collection[str], *, mtp: bool) -> Checkpoint:
    adapter = _chosen(path, choice, mtp=mtp)
    file = LayerNumbers(Rescaled(open_gguf(path)))
    config, dialect = read_gguf(file, mtp=mtp, ignore=ignore)
    names = {name.removeprefix(f"{dialect.architecture}.") for name in file.metadata}
    stated = as_config_json(file.metadata, dialect.architecture)
    leaves: Leaves | MergedLeaves = Leaves(config, file, dialect.weights)
    if adapter is not None:
        config, leaves = merge_gguf(config, leaves, dialect.architecture, adapter, str(path))
    return Checkpoint(
        path=path,
        config=config,
        leaves=leaves,
        tokenizer=tokenizer(file.metadata, config.embedding.vocabulary, str(path)),
        chat_template=chat_template(file.metadata, str(path)),
        tool_use_template=chat_template(file.metadata, str(path), ".tool_use"),
        generation=read_generation(stated, None, config, str(path)),
        files={part.name: part for part in parts_of(path)},
        labels=read_labels(stated, config, str(path)),
        adapter=adapter,
        notes=() if adapter is None else notes(adapter, path, {}),
        metadata=file.metadata,
        ignored_keys=_ignored(path, ignore, names),
    )


def _open_directory(path: Path, choice: AdapterChoice, ignore: Collection[str], *, mtp: bool) -> Checkpoint:
    adapter = _chosen(path, choice, mtp=mtp)
    directory = Directory(path)
    raw = directory.object("config.json")
    if raw is None:
        gguf_files = [file.name for file in path.glob("*.gguf")]
        hint = f"; to open the .gguf file in it, give the path of {gguf_files[0]}" if gguf_files else ""
        raise CheckpointError(f"{path}: has no config.json, which a model directory must have{hint}")
    where = str(path / "config.json")
    generation_json, converted = directory.object(GENERATION_JSON), None
    if is_ctranslate2(directory, raw):
        raw, generation_json, converted = as_transformers(directory, raw)
    raw = with_model_type(with_modelopt(raw, directory.object(MODELOPT), str(path / MODELOPT)))
    _, _, quantization = identify(Keys(raw, where))
    sentence = read_sentence(directory)
    files, unwrapped = _unwrapped(Tensors(joined(shards(directory) if converted is None else [converted])))
    source: TensorSource = WeightNormed(files) if quantization is None else Quantized(files, quantization)
    source = sentence.with_projections(source) if sentence else source
    task = "pool" if sentence else None
    if adapter is None:
        config, family = read_config(raw, where, source.names, task, mtp=mtp, ignore=ignore)
        config = sentence.of(config) if sentence else config
    else:
        config, family, raw = read_adapted_config(raw, where, source, adapter, task, ignore)
        config = sentence.of(config) if sentence else config
    config = config if family.with_tensors is None else family.with_tensors(config, source)
    config, leaves, untied = _leaves(config, source, family, adapter)
    generation = read_generation(
        with_text_ids(raw),
        generation_json,
        config,
        where if generation_json is None else str(path / GENERATION_JSON),
        ignore,
    )
    text = raw.get("text_config")
    stated = {*raw, *(generation_json or {}), *(text if isinstance(text, dict) else {})}
    about = directory.object("tokenizer_config.json") or {}
    if isinstance(config.head, CTC):
        rows = config.embedding.vocabulary
        applied, ctc = read_ctc(directory, about, raw.get("tokenizer_class"), rows) or (None, None)
        generation = replace(generation, ctc=ctc)
    else:
        applied = read_tokenizer(directory, about, raw)
        if isinstance(config.stem, SampleStem):
            expect_samples(directory)
    tokenizer = None if applied is None else applied.text
    special_tokens = {} if applied is None else applied.special_tokens
    mask = mask_id(about, special_tokens, tokenizer, config, str(path / "tokenizer_config.json"))
    templates = directory.chat_templates(about)
    if raw.get("model_type") != "tfm":  # tfm's own files name no tokens
        templates = {name: with_special_tokens(text, special_tokens) for name, text in templates.items()}
    return Checkpoint(
        path=path,
        config=config,
        leaves=leaves,
        tokenizer=tokenizer,
        chat_template=templates.get("default"),
        tool_use_template=templates.get("tool_use"),
        generation=replace(
            generation, mask=mask, languages=read_languages(tokenizer, generation.start, config)
        ),
        files=directory.files,
        labels=read_labels(raw, config, where),
        code_replaced_by=replaced_by(raw),
        adapter=adapter,
        notes=(
            *unwrapped,
            *(
                ("tfm converts the weights in F64 to float32",)
                if "F64" in map(files.kind, files.names)
                else ()
            ),
            *untied,
            *leaves.notes,
            *(() if quantization is None else quantization.notes),
            *(unread_tokenizer(directory, raw) if applied is None else applied.notes),
            *missing_template(directory, templates),
            *(() if adapter is None else notes(adapter, path, raw)),
            *((describe(leaves.left_out),) if leaves.left_out else ()),
            *generation.notes,
        ),
        ignored_keys=_ignored(path, ignore, stated),
    )


def _unwrapped(files: Tensors) -> tuple[Tensors, tuple[str, ...]]:
    """Remove the prefix that training wrappers such as torch.compile put before all tensor names.

    Returns the tensors, and a note that names the prefix.
    """
    for prefix in WRAPPERS:
        if files.names and all(name.startswith(prefix) for name in files.names):
            told = f"the names of all tensors begin with {prefix!r}, and tfm removes this prefix"
            return Tensors(stripped(files, (prefix,))), (told,)
    return files, ()


def _leaves(
    config: Config, source: TensorSource, family: Family, adapter: Adapter | None
) -> tuple[Config, Leaves | MergedLeaves, tuple[str, ...]]:
    """Return the Config, the parameters, and a note if the file's own output table is used.

    If config.json ties the output table to the input table, but the file contains a different output table,
    tfm uses the file's output table, as transformers does."""

    def read(config: Config) -> tuple[Config, Leaves | MergedLeaves]:
        if adapter is None:
            return config, read_leaves(config, source, family)
        return merge_directory(config, source, family, adapter)

    try:
        return *read(config), ()
    except OtherTableError as error:
        assert isinstance(config.head, LM | MaskedLM)
        try:
            config, leaves = read(replace(config, head=replace(config.head, tied=False)))
        except CheckpointError:
            raise error from None
        told = (
            "config.json ties the output table to the input table, but tfm uses the weights' own output table"
        )
        return config, leaves, (told,)


def save_checkpoint(
    directory: Path,
    config: Config,
    params: Tree,
    tokenizer: str | None = None,
    template: str | None = None,
    *,
    labels: Sequence[str] = (),
    mask: str | None = None,
    generation: Mapping[str, Any] | None = None,
) -> None:
    """Write a checkpoint of model_type `tfm`. The same values always give the same bytes.

    `generation` contains keys of generation_config.json: ids of special tokens, and generation settings.
    """
    directory.mkdir(parents=True, exist_ok=True)
    save(directory / SINGLE, dict(flatten(params)))
    stated: dict[str, Any] = {"model_type": "tfm", "config": to_json(config)}
    if labels:
        stated["id2label"] = {str(i): label for i, label in enumerate(labels)}
    files = {"tokenizer.json": tokenizer, "chat_template.jinja": template}
    files["config.json"] = json.dumps(stated, indent=1)
    if mask is not None:
        files["tokenizer_config.json"] = json.dumps({"mask_token": mask}, indent=1)
    if generation is not None:
        files[GENERATION_JSON] = json.dumps(dict(generation), indent=1)
    for name, text in files.items():
        if text is not None:
            (directory / name).write_text(text, encoding="utf-8")
