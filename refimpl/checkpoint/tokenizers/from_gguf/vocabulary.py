"""Read the tokens of a GGUF file. Each key is checked when it is read."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from ....errors import CheckpointError

UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 2, 3, 4, 5, 6  # llama.cpp's token types; 1 is a normal token


class Vocabulary:
    """The tokens of a GGUF file by id, with their types. Methods read other keys that begin with
    `tokenizer.ggml.`. Errors name the file and the key.
    """

    def __init__(self, metadata: Mapping[str, Any], rows: int, where: str) -> None:
        self._metadata, self._where = metadata, where
        self.architecture = metadata.get("general.architecture")
        self.tokens = self.get_strings("tokens")
        if not 1 <= len(self.tokens) <= rows:
            raise self.fail(
                f"tokens must be a list of 1 to {rows} tokens, the rows of the table, got {len(self.tokens)}"
            )
        self.ids = {token: i for i, token in enumerate(self.tokens)}
        if len(self.ids) < len(self.tokens):
            duplicate = next(token for i, token in enumerate(self.tokens) if self.ids[token] != i)
            raise self.fail(f"tokens must differ, but {duplicate!r:.40} occurs twice")
        self.types: list[int] = self.get_numbers("token_type", int, len(self.tokens)).tolist()

    def fail(self, message: str) -> CheckpointError:
        return CheckpointError(f"{self._where}: tokenizer.ggml.{message}")

    def get(self, key: str, kind: type, default: Any) -> Any:
        """Return the value of a key, or `default` if the file doesn't have the key. Raises CheckpointError if
        the value isn't of the type `kind`.
        """
        value = self._metadata.get(f"tokenizer.ggml.{key}", default)
        if value is not default and type(value) is not kind:
            raise self.fail(f"{key} must be of type {kind.__name__}, got {value!r:.40}")
        return value

    def has(self, key: str) -> bool:
        """Return whether the file has this key."""
        return f"tokenizer.ggml.{key}" in self._metadata

    def get_strings(self, key: str) -> list[str]:
        """Return the list of strings under a key. Raises CheckpointError for any other value."""
        values = self._metadata.get(f"tokenizer.ggml.{key}")
        if not isinstance(values, list) or not all(type(value) is str for value in values):
            raise self.fail(f"{key} must be a list of str")
        return values

    def get_numbers(self, key: str, kind: type[int] | type[float], length: int | None = None) -> np.ndarray:
        """Return the array of integers or of floats under a key. Raises CheckpointError for another type, or
        if the array doesn't have `length` items.
        """
        values = self._metadata.get(f"tokenizer.ggml.{key}")
        if not isinstance(values, np.ndarray) or values.dtype.kind not in {int: "iu", float: "f"}[kind]:
            raise self.fail(f"{key} must be an array of {kind.__name__}")
        if length is not None and len(values) != length:
            raise self.fail(f"{key} must have {length} items, one for each token, got {len(values)}")
        return values

    def scores(self) -> list[float]:
        """Return the score of each token. Raises CheckpointError for a score that isn't finite, since NaNs
        have no order.
        """
        scores = self.get_numbers("scores", float, len(self.tokens))
        if not np.isfinite(scores).all():
            i = int(np.argmin(np.isfinite(scores)))
            raise self.fail(f"scores must be finite, got {scores[i]} for token {i}")
        return scores.tolist()

    def merges(self) -> list[list[str]]:
        """Return the two tokens of each merge, in order. Raises CheckpointError unless each merge joins two
        tokens into a third token.
        """
        merges = [merge.split(" ") for merge in self.get_strings("merges")]
        for merge in merges:
            if len(merge) != 2 or not all(part in self.ids for part in (*merge, "".join(merge))):
                raise self.fail(f"merges must join two tokens into a third, got {' '.join(merge)!r:.80}")
        return merges

    def token_id(self, name: str, default: int | None = -1) -> int | None:
        """Return the id of the token that the file calls `name`, such as bos, eos or mask. If the file
        doesn't state the id, use `default`; None means that there is no such token.

        Raises CheckpointError for an id that no token has, such as the default −1."""
        i = self.get(f"{name}_token_id", int, default)
        if i is not None and not 0 <= i < len(self.tokens):
            raise self.fail(f"{name}_token_id must be 0 to {len(self.tokens) - 1}, got {i}")
        return i


def tokenizer_json(
    tokens: Sequence[str],
    types: Sequence[int],
    *,
    lstrip: Collection[int | None] = (),
    rstrip: Collection[int] = (),
    **parts: Any,
) -> dict[str, Any]:
    """Return a tokenizer.json with these tokens and these further parts. Control, unknown and user-defined
    tokens become added tokens.

    `lstrip` and `rstrip` are the ids of tokens that include the white space before or after them.
    """
    added = [
        {
            "id": i, "content": tokens[i], "single_word": False, "lstrip": i in lstrip, "rstrip": i in rstrip,
            "normalized": False, "special": kind != USER_DEFINED,
        }
        for i, kind in enumerate(types)
        if kind in (CONTROL, UNKNOWN, USER_DEFINED) and tokens[i]
    ]  # fmt: skip
    return {"version": "1.0", "truncation": None, "padding": None, "added_tokens": added, **parts}
