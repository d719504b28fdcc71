"""Read untrusted JSON: it must have no duplicate keys, no NaN and a bounded depth. Every failure is a
TfmError.
"""

from __future__ import annotations

import json
from typing import Any

from ...errors import CheckpointError, TfmError

DEPTH = 32


def parse(
    data: bytes | str, where: str, error: type[TfmError] = CheckpointError, *, tagged: bool = False
) -> Any:
    """Return the value of a JSON text, or raise `error` with one line that names `where`.

    Python's own parser keeps the last of two equal keys, accepts NaN and 1e999, and raises RecursionError for
    deep nesting. This reader raises `error` for duplicate keys, for numbers that aren't finite, and for deep
    nesting. With `tagged`, Infinity and NaN are read as an object such as `{"__float__": "Infinity"}`, a form
    that transformers also writes. The reader never returns them as floats.
    """

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        values = dict(pairs)
        if len(values) < len(pairs):
            twice = next(k for k in values if sum(k == key for key, _ in pairs) > 1)
            raise error(f"{where}: each key may occur once, but {twice!r:.80} occurs twice")
        return values

    def refuse(constant: str) -> Any:
        if tagged and constant.isalpha():
            return {"__float__": constant}
        raise error(f"{where}: numbers must be finite, got {constant:.40}")

    def finite(text: str) -> float:
        value = float(text)
        return value if abs(value) < float("inf") else refuse(text)

    try:
        text = data if isinstance(data, str) else data.decode("utf-8")
        value = json.loads(text, object_pairs_hook=unique, parse_constant=refuse, parse_float=finite)
    except RecursionError:
        raise error(
            f"{where}: JSON may be nested at most {DEPTH} levels deep, but it is far deeper"
        ) from None
    except ValueError as problem:  # JSONDecodeError, UnicodeDecodeError, an integer of 5,000 digits
        raise error(f"{where}: must be JSON in UTF-8: {str(problem)[:120]}") from None
    level = [value]
    for _ in range(DEPTH):
        level = [child for item in level for child in _children(item)]
    if level:
        raise error(f"{where}: JSON may be nested at most {DEPTH} levels deep, but it is deeper")
    return value


def _children(value: Any) -> Any:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()
