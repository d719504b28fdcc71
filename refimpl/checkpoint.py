"""A checkpoint, whatever its format: `open_checkpoint(path)` gives Config, params and tokenizer.

Read are directories with config.json and safetensors, and .gguf files. Formats that run code when
they are opened (.bin, .pt, …) aren't. Weights stay in the file until they are asked for.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from .config import Config, to_json
from .directory import LIMITS, Directory
from .errors import CheckpointError
from .families import read_config, read_gguf
from .generation import Generation, read_generation
from .gguf import GGUF
from .gguf.tokenizer import chat_template, tokenizer
from .labels import mask_id, read_labels
from .languages import read_languages
from .ops.quant import Blocks
from .params import Tree, flatten, shapes, unflatten
from .safetensors import SafeTensors, save
from .sentence import read_sentence
from .storage import map_file
from .weights import Lazy, Leaves, check_finite, materialize

__all__ = ["Checkpoint", "Generation", "check_finite", "materialize", "open_checkpoint", "save_checkpoint"]

OWN = "generation_config.json"
SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
CODE = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".npz")  # formats that can run code, or bombs


@dataclass(frozen=True)
class Checkpoint:
    """An opened model. `params` is lazy: a leaf is read each time it is asked for.

    `labels` are the names of what the head says, if it says labels. `added` are leaves that no file holds.
    """

    path: Path
    config: Config
    leaves: Leaves
    tokenizer: str | None
    chat_template: str | None
    generation: Generation
    files: Mapping[str, Path]
    labels: tuple[str, ...] = ()
    added: Mapping[str, np.ndarray] = field(default_factory=dict)

    @property
    def params(self) -> Tree:
        return Lazy(unflatten({name: name for name in shapes(self.config)}), self.leaf)

    def leaf(self, name: str) -> np.ndarray:
        """One leaf by its dotted name, as float32."""
        return self.added[name] if name in self.added else self.leaves.load(name)

    def native(self, name: str) -> Blocks | None:
        """One leaf in the file's own blocks, or None."""
        return None if name in self.added else self.leaves.native(name)

    def for_context(self, context: int | None) -> Checkpoint:
        """The same for texts of up to `context` tokens; ConfigError where its positions don't reach that far.

        Scalings that depend on a length take this one for every text. Past LongRoPE's original context
        these are its long divisors, past dynamic NTK's a larger theta: a text that is shorter than that is
        then turned otherwise than by transformers, one of more tokens as there.
        """
        return self if context is None else replace(self, config=replace(self.config, context=context))

    @property
    def float_dtype(self) -> str:
        """How most of the numbers are stored: F32, F16, BF16, Q4_1, …"""
        sizes: dict[str, int] = {}
        for name in self.leaves.names:
            kind = self.leaves.kind(name)
            sizes[kind] = sizes.get(kind, 0) + int(np.prod(self.leaves.shape(name)))
        return max(sizes, key=lambda kind: sizes[kind])

    @cached_property
    def source(self) -> dict[str, str]:
        """The name of the checkpoint, and a hash over the names and bytes of all files that were read."""
        digests = {name: hashlib.sha256(map_file(file).data).hexdigest() for name, file in self.files.items()}
        if len(digests) == 1:
            return {"name": self.path.name, "sha256": next(iter(digests.values()))}
        listed = "".join(f"{name} {digests[name]}\n" for name in sorted(digests))
        return {"name": self.path.resolve().name, "sha256": hashlib.sha256(listed.encode()).hexdigest()}


def open_checkpoint(path: Path | str) -> Checkpoint:
    """Open a model directory or a .gguf file; nothing is read but headers, config and tokenizer.

    Raises CheckpointError for files that can't be read or lie about themselves, ConfigError for
    a model that isn't known in full.
    """
    path = Path(path)
    if path.is_dir():
        return _open_directory(path)
    if path.suffix == ".gguf":
        return _open_gguf(path)
    if path.suffix in CODE:
        raise CheckpointError(
            f"{path}: {path.suffix} files can run code and aren't opened: convert to safetensors"
        )
    raise CheckpointError(f"{path}: must be a .gguf file, or a directory with config.json and safetensors")


def _open_gguf(path: Path) -> Checkpoint:
    file = GGUF(path)
    config, dialect = read_gguf(file)
    get = file.metadata.get
    ids = [get(f"tokenizer.ggml.{name}_token_id") for name in ("bos", "eos", "eot", "eom")]
    return Checkpoint(
        path=path,
        config=config,
        leaves=Leaves(config, file, dialect.weights),
        tokenizer=tokenizer(file.metadata, config.embedding.vocabulary, str(path)),
        chat_template=chat_template(file.metadata, str(path)),
        generation=read_generation(
            {"bos_token_id": ids[0], "eos_token_id": _present(ids[1:])}, None, config, str(path)
        ),
        files={path.name: path},
    )


def _present(values: Iterable[Any]) -> list[Any]:
    return [value for value in values if value is not None]


def _open_directory(path: Path) -> Checkpoint:
    directory = Directory(path)
    raw = directory.object("config.json")
    if raw is None:
        found = [file.name for file in path.glob("*.gguf")]
        hint = f": name the file itself, {found[0]}" if found else ""
        raise CheckpointError(f"{path}: a model directory holds config.json{hint}")
    where = str(path / "config.json")
    sentence = read_sentence(directory)
    source = Shards(_shards(directory))
    config, family = read_config(raw, where, source.names, "pool" if sentence else None)
    config = sentence.of(config) if sentence else config
    leaves = Leaves(config, source, family.WEIGHTS, family.PREFIX)
    own = directory.object(OWN)
    generation = read_generation(raw, own, config, where if own is None else str(path / OWN))
    tokenizer = directory.text("tokenizer.json")
    about = directory.object("tokenizer_config.json") or {}
    mask = mask_id(about, tokenizer, config, str(path / "tokenizer_config.json"))
    return Checkpoint(
        path=path,
        config=config,
        leaves=leaves,
        tokenizer=tokenizer,
        chat_template=directory.text("chat_template.jinja") or _old_template(path, about),
        generation=replace(
            generation, mask=mask, languages=read_languages(tokenizer, generation.start, config)
        ),
        files=directory.files,
        labels=read_labels(raw, config, where),
    )


def _old_template(path: Path, about: dict[str, Any]) -> str | None:
    """The chat template where older checkpoints have it: a string, or a list of named ones."""
    found = about.get("chat_template")
    if isinstance(found, list):
        named = {item.get("name"): item.get("template") for item in found if isinstance(item, dict)}
        found = named.get("default")
    if found is None:
        return None
    if not isinstance(found, str) or len(found) > LIMITS["chat_template.jinja"]:
        raise CheckpointError(
            f"{path / 'tokenizer_config.json'}: chat_template must be a text of at most 256 KB"
        )
    return found


def _shards(directory: Directory) -> list[SafeTensors]:
    """The safetensors files of a directory, which hold what the index says, and nothing else."""
    path = directory.path
    if (whole := directory.find(SINGLE)) is not None:
        return [SafeTensors(whole)]
    index = directory.object(INDEX)
    if index is None:
        code = [file.name for file in path.iterdir() if file.suffix in CODE]
        hint = f": {code[0]} can run code and isn't opened, convert it" if code else ""
        raise CheckpointError(f"{path}: must hold {SINGLE} or {INDEX}{hint}")
    where, named = path / INDEX, index.get("weight_map")
    if not isinstance(named, dict) or not all(isinstance(v, str) for v in named.values()):
        raise CheckpointError(f"{where}: weight_map must map names to files, got {named!r:.80}")
    shards = {file: SafeTensors(directory.find(file) or path / file) for file in sorted(set(named.values()))}
    found = {(name, file) for file, shard in shards.items() for name in shard.names}
    if odd := sorted(found ^ set(named.items())):
        raise CheckpointError(
            f"{where}: weight_map and the files disagree on {odd[0][0]!r:.80} in {odd[0][1]}"
        )
    return list(shards.values())


class Shards:
    """Several files as one Source; a name may stand in one of them only."""

    def __init__(self, files: list[SafeTensors]) -> None:
        self._of = {name: file for file in files for name in file.names}

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._of)

    def kind(self, name: str) -> str:
        return self._of[name].kind(name)

    def shape(self, name: str) -> tuple[int, ...]:
        return self._of[name].shape(name)

    def load(self, name: str, part: int | None = None) -> np.ndarray:
        return self._of[name].load(name, part)

    def native(self, name: str, part: int | None = None) -> Blocks | None:
        return self._of[name].native(name, part)


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
    """Write a checkpoint of model_type `tfm`; the same values give the same bytes.

    `generation` are keys of generation_config.json: special ids, and how the model wants to be run.
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
        files[OWN] = json.dumps(dict(generation), indent=1)
    for name, text in files.items():
        if text is not None:
            (directory / name).write_text(text, encoding="utf-8")
