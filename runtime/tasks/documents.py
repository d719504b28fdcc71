"""Documents of a JSON schema: which schema a class of the user's stands for, and texts back into its objects.

A class is one of pydantic's, or has its two methods; pydantic itself is never imported here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ...refimpl.decoding.stop import FinishReason
from ...refimpl.errors import ArgumentError, LimitError

Schema = Mapping[str, Any] | type[Any]


def is_class(given: object) -> bool:
    """Whether something is a class that has a schema and reads documents of it, as pydantic's do."""
    names = ("model_json_schema", "model_validate_json")
    return isinstance(given, type) and all(hasattr(given, name) for name in names)


def schema_of(given: Schema) -> Mapping[str, Any]:
    """The schema that is given, or that of a class, whose objects have its fields and no others."""
    return given if isinstance(given, Mapping) else _closed(given.model_json_schema())


def _closed(schema: Any) -> Any:
    """The schema, with no keys that it doesn't name where it doesn't say whether others may come."""
    match schema:
        case dict():
            inner = {key: _closed(value) for key, value in schema.items()}
            return {"additionalProperties": False, **inner} if _states_fields(schema) else inner
        case list():
            return [_closed(one) for one in schema]
        case _:
            return schema


def _states_fields(schema: Mapping[str, Any]) -> bool:
    return schema.get("type") == "object" and "properties" in schema


def parsed(text: str, given: Schema | None, finish_reason: FinishReason | None) -> Any:
    """The object of a class, or what JSON says, of a document that is complete.

    ArgumentError where no schema was given, LimitError for a document that was cut, and what the class raises
    for values that its schema can't rule out.
    """
    if given is None:
        raise ArgumentError("parsed goes with json_schema: without it an answer is a text")
    if finish_reason == "length":
        raise LimitError(f"the document was cut: raise max_new_tokens; it begins {text!r:.80}")
    return json.loads(text) if isinstance(given, Mapping) else given.model_validate_json(text)
