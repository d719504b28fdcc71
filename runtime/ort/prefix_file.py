"""Store the cache of a text's first tokens in a file, so that a later run need not compute them again.

    8 bytes    MAGIC
    u32        n, at most HEADER
    n bytes    JSON: {"bundle": SHA-256 of its tfm.json, "backend": the code that computed the cache, and the
               cache's type, "tokens": [ids], "dropped": {window: number of tokens that its layers no longer
               hold}}
    …          the arrays of the cache in the order of `cache_kinds.array_names`, with only these tokens
    32 bytes   SHA-256 of all bytes before

Numbers are little-endian. Such a file is checked as strictly as a model, because it may come from somebody
else. The sizes of its arrays follow from the bundle and the tokens, and are compared before an array is
read. All its floats must be finite.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ...refimpl.checkpoint.formats.file_bytes import FileBytes
from ...refimpl.checkpoint.formats.sha256 import new, sha256_of
from ...refimpl.checkpoint.formats.strict_json import parse
from ...refimpl.checkpoint.formats.whole_file import write_whole
from ...refimpl.errors import ArgumentError, ExportError, LimitError
from ..bundle.bundle import is_finite
from .engine import OrtEngine
from .kv_cache import OrtCache

MAGIC = b"tfm-kv01"
HEADER = 2**24  # bytes
DIGEST = 32  # bytes


class Header(NamedTuple):
    """The JSON header of a prefix file: the bundle's hash, the backend, the tokens, and the dropped tokens by
    window.
    """

    bundle: str
    backend: str
    tokens: list[int]
    dropped: dict[int, int]


def write(path: Path, engine: OrtEngine, tokens: list[int], cache: OrtCache) -> None:
    """Write the cache of these tokens to a prefix file, completely or not at all. The cache must have one
    row.

    Only the file's owner can read it. Raises ExportError if the file can't be written.
    """
    dropped, arrays = cache.content()
    header = Header(engine.bundle_hash, engine.backend, tokens, dropped)
    text = json.dumps(header._asdict(), separators=(",", ":")).encode()
    content = b"".join([MAGIC, len(text).to_bytes(4, "little"), text, *(a.tobytes() for a in arrays)])
    try:
        write_whole(path, content + sha256_of(content).digest(), mode=0o600)
    except OSError as error:
        raise ExportError(f"{path} can't be written: {error.strerror}") from None


def read(path: Path, engine: OrtEngine) -> tuple[list[int], OrtCache]:
    """Read a prefix file, and return its tokens and their cache.

    Raises ArgumentError if the file is damaged, or if another bundle or another backend wrote it.
    """
    file = FileBytes(path, ArgumentError)
    digest = new(len(file))

    def next_bytes(begin: int, count: int) -> np.ndarray:
        if begin + count + DIGEST > len(file):
            raise ArgumentError(
                f"{path}: must be a file that `--prefix` wrote, but it is another file or truncated"
            )
        data = file.read(begin, begin + count)
        digest.update(data.data)
        return data

    start = len(MAGIC) + 4
    first = next_bytes(0, start).tobytes()
    length = int.from_bytes(first[len(MAGIC) :], "little")
    if first[: len(MAGIC)] != MAGIC or length > HEADER:
        raise ArgumentError(f"{path}: isn't a file that `--prefix` wrote")
    header = _header(parse(next_bytes(start, length).tobytes(), str(path), ArgumentError), path, engine)
    cache = engine.start(1).grow(len(header.tokens))
    try:
        kinds = cache.content_shapes(len(header.tokens), header.dropped)
    except LimitError as error:
        raise ArgumentError(f"{path}: {error}") from None
    sizes = [math.prod(shape) * dtype.itemsize for shape, dtype in kinds]
    at = start + length
    if at + sum(sizes) + DIGEST != len(file):
        raise ArgumentError(
            f"{path}: must have {at + sum(sizes) + DIGEST} bytes for {len(header.tokens)} tokens, but it has "
            f"{len(file)}"
        )
    arrays = []
    for (shape, dtype), size in zip(kinds, sizes, strict=True):
        arrays.append(next_bytes(at, size).view(dtype).reshape(shape))
        at += size
    if file.read(at, at + DIGEST).tobytes() != digest.digest():
        raise ArgumentError(f"{path}: is damaged (its SHA-256 differs): remove this file")
    if not all(is_finite(array) for array in arrays if array.dtype.kind == "f"):
        raise ArgumentError(
            f"{path}: must contain finite numbers, but it contains NaN or infinity: remove this file"
        )
    return header.tokens, cache.filled(len(header.tokens), header.dropped, arrays)


def _header(value: Any, path: Path, engine: OrtEngine) -> Header:
    """Check the JSON of a prefix file and return it as a Header. Raises ArgumentError if `write` can't have
    written it, or if its bundle or backend is another one.
    """
    if not isinstance(value, dict) or value.keys() != set(Header._fields):
        raise ArgumentError(
            f"{path}: must be a file that `--prefix` wrote, with the header fields "
            f"{', '.join(Header._fields)}"
        )
    if value["bundle"] != engine.bundle_hash:
        raise ArgumentError(
            f"{path}: was written with another bundle: give another file, or remove this file"
        )
    if value["backend"] != engine.backend:
        raise ArgumentError(
            f"{path}: was computed by {value['backend']!r:.60}, but this run computes with {engine.backend}: "
            "give another file, or remove this file"
        )
    tokens, dropped = value["tokens"], value["dropped"]
    config = engine.config
    if not _integers(tokens, config.embedding.vocabulary) or not 1 <= len(tokens) <= config.context:
        raise ArgumentError(
            f"{path}: the header's `tokens` must be 1 to {config.context} token ids of the model"
        )
    windows = {str(kind.window): kind.window for kind in engine.kinds if kind.window is not None}
    if not isinstance(dropped, dict) or dropped.keys() != windows.keys():
        raise ArgumentError(
            f"{path}: the header's `dropped` must have the keys {', '.join(windows) or '(none)'}"
        )
    if not _integers(list(dropped.values()), len(tokens) + 1):
        raise ArgumentError(
            f"{path}: the header's `dropped` must be numbers of tokens, at most {len(tokens)}"
        )
    return Header(value["bundle"], value["backend"], tokens, {windows[w]: n for w, n in dropped.items()})


def _integers(values: Any, below: int) -> bool:
    return isinstance(values, list) and all(type(v) is int and 0 <= v < below for v in values)
