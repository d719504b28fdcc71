"""Documents of a JSON schema: get the schema of a user's class, and parse texts into objects of the class.

A class is a pydantic model, or has pydantic's two methods `model_json_schema` and `model_validate_json`.
This module never imports pydantic.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ...refimpl.decoding.stop import FinishReason
from ...refimpl.errors import ArgumentError, LimitError

Schema = Mapping[str, Any] | type[Any]


def is_class(given: object) -> bool:
    """Return whether `given` is a class with pydantic's methods `model_json_schema` and
    `model_validate_json`.
    """
    names = ("model_json_schema", "model_validate_json")
    return isinstance(given, type) and all(hasattr(given, name) for name in names)


def schema_of(given: Schema) -> Mapping[str, Any]:
    """Return the given schema, or the schema of a given class.

    The schema of a class allows only the fields that the class has, unless the class states
    `additionalProperties` itself.
    """
    return given if isinstance(given, Mapping) else _closed(given.model_json_schema())


def _closed(schema: Any) -> Any:
    """Return the schema with `"additionalProperties": false` in every object schema that lists its properties
    and doesn't state `additionalProperties`.
    """
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
    """Parse a complete document: return an object of the given class, or a JSON value if a schema is given.

    Raises ArgumentError if neither is given, and LimitError for a document that was cut off. The class may
    raise its own errors for values that its schema can't rule out.
    """
    if given is None:
        raise ArgumentError("`parsed` needs json_schema: without json_schema, an answer is plain text")
    if finish_reason == "length":
        raise LimitError(
            "the document ended at the limit of max_new_tokens: raise max_new_tokens. The document "
            f"begins {text!r:.80}"
        )
    return json.loads(text) if isinstance(given, Mapping) else given.model_validate_json(text)
