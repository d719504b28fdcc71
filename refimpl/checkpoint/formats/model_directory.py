"""Read the files of a model directory. The size of each file is limited, and no file outside the directory is
read. The directory records which files were found.
"""

from __future__ import annotations

import errno
import re
from pathlib import Path
from typing import Any

from ...errors import CheckpointError
from .file_bytes import read_file
from .strict_json import parse

KILO = 1024
# The settings of an encoder in sentence-transformers, which reads the first of these files that exists.
ENCODERS = tuple(
    f"sentence_{kind}_config.json"
    for kind in ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
)
LIMITS = {
    "config.json": 1024 * KILO,
    "adapter_config.json": 1024 * KILO,
    "generation_config.json": 1024 * KILO,
    "hf_quant_config.json": 1024 * KILO,
    "chat_template.jinja": 256 * KILO,
    "tool_use.jinja": 256 * KILO,
    "chat_template.json": 1024 * KILO,
    "tokenizer_config.json": 16 * 1024 * KILO,
    "special_tokens_map.json": 1024 * KILO,
    "added_tokens.json": 16 * 1024 * KILO,
    "model.safetensors.index.json": 64 * 1024 * KILO,
    "pytorch_model.bin.index.json": 64 * 1024 * KILO,
    "tokenizer.json": 64 * 1024 * KILO,
    "tekken.json": 64 * 1024 * KILO,
    "vocab.json": 16 * 1024 * KILO,
    "preprocessor_config.json": 1024 * KILO,
    "processor_config.json": 1024 * KILO,
    "merges.txt": 16 * 1024 * KILO,
    "vocab.txt": 16 * 1024 * KILO,
    "modules.json": 64 * KILO,
    **dict.fromkeys(ENCODERS, 64 * KILO),
    "config_sentence_transformers.json": 256 * KILO,
}


class Directory:
    """A model directory. `files` maps the names of the files found so far to their paths."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.files: dict[str, Path] = {}

    def find(self, name: str, folder: str = "") -> Path | None:
        """Return the path of a file in the directory or in its folder `folder`, or None if there is no such
        file.

        A link may point within the directory. If the directory is a snapshot in the hub's cache, a link may
        also point into the `blobs` folder of the repository. Raises CheckpointError for a name or a link that
        leads elsewhere.
        """
        for part in (name, *([folder] if folder else [])):
            if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.\-]{0,254}", part):
                raise CheckpointError(
                    f"{self.path}: a file's name must not contain folders, got {part!r:.80}"
                )
        stated = self.path / folder / name
        try:
            home, target = self.path.resolve(), stated.resolve()
            there = _is_there(target)
        except (OSError, RuntimeError) as error:  # a loop of links is either; a folder may not be searched
            if isinstance(error, OSError) and error.errno != errno.ELOOP:
                raise CheckpointError(f"{stated}: can't be opened: {error.strerror}") from None
            raise CheckpointError(f"{stated}: can't be opened: its links form a loop") from None
        blobs = home.parent.parent / "blobs" if home.parent.name == "snapshots" else home
        if target.parent not in (home / folder, home, blobs):
            raise CheckpointError(
                f"{stated}: must not link out of the model's directory, but it links to {target}"
            )
        if not there:
            return None
        self.files[stated.relative_to(self.path).as_posix()] = target
        return target

    def text(self, name: str, folder: str = "") -> str | None:
        """Return the text of a file, or None if there is no such file. Raises CheckpointError if the file
        isn't UTF-8 or is too large.
        """
        file = self.find(name, folder)
        try:
            return None if file is None else read_file(file, LIMITS[name]).decode("utf-8")
        except UnicodeDecodeError:
            raise CheckpointError(f"{self.path / folder / name}: must be UTF-8") from None

    def value(self, name: str, folder: str = "") -> Any:
        """Return the JSON value of a file, or None if there is no such file."""
        text = self.text(name, folder)
        where, tagged = str(self.path / folder / name), name == "config.json"
        return None if text is None else parse(text, where, tagged=tagged)

    def object(self, name: str, folder: str = "") -> dict[str, Any] | None:
        """Return the JSON object of a file, or None if there is no such file. Raises CheckpointError for any
        other JSON value.
        """
        value = self.value(name, folder)
        if value is not None and not isinstance(value, dict):
            raise CheckpointError(f"{self.path / folder / name}: must be a JSON object, got {value!r:.80}")
        return value

    def chat_templates(self, about: dict[str, Any]) -> dict[str, str]:
        """Return the chat templates by name: `default`, and `tool_use` for chats with tools.

        Separate template files come first. If there is no default template among them, the templates of
        tokenizer_config.json (`about`) are added, which are one text or a list of named texts. If there is
        still no default template, the template of chat_template.json is used, which belongs to a
        processor.
        """
        files = {
            "default": self.text("chat_template.jinja"),
            "tool_use": self.text("tool_use.jinja", "additional_chat_templates"),
        }
        found: dict[str, Any] = {name: text for name, text in files.items() if text}
        if "default" not in found:
            found = {**self._templates(about, "tokenizer_config.json"), **found}
        if "default" not in found:
            stated = self.object("chat_template.json") or {}
            found = {**self._templates(stated, "chat_template.json"), **found}
        return found

    def _templates(self, stated: dict[str, Any], name: str) -> dict[str, Any]:
        """Return the templates in the JSON object `stated`. Errors name its file `name`."""
        value, where = stated.get("chat_template"), self.path / name
        if not isinstance(value, list):
            value = [{"name": "default", "template": value}]
        if not all(isinstance(item, dict) and isinstance(item.get("name"), str) for item in value):
            raise CheckpointError(
                f"{where}: each template in chat_template must have a name, got {value!r:.80}"
            )
        named = {item["name"]: item.get("template") for item in value}
        found = {name: named[name] for name in ("default", "tool_use") if named.get(name) is not None}
        for text in found.values():
            if not isinstance(text, str) or len(text) > LIMITS["chat_template.jinja"]:
                raise CheckpointError(f"{where}: chat_template must be a text of at most 256 KB")
        return found


def _is_there(path: Path) -> bool:
    """Return whether the path leads to a file or folder. Raises OSError if the system can't tell.

    `Path.exists` also returns False for a loop of links, and in newer Pythons for a path in a folder that may
    not be searched.
    """
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True
