"""Read the names of a head's labels (`id2label` in a checkpoint), and the id of the mask token."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from ..config import Classify, Config, MaskedLM, Tag
from ..errors import CheckpointError
from .formats.strict_json import parse

# How the labels of tokens become those of entities, see `runtime.tasks.tag`.
Aggregation = Literal["none", "simple", "first", "average", "max"]


def read_labels(values: Mapping[str, Any], config: Config, where: str) -> tuple[str, ...]:
    """Return the name of each label of a classification head, in the order of the head's outputs.

    If the checkpoint has no names, they are `LABEL_0`, `LABEL_1`, … Raises CheckpointError unless each label
    has its own name.
    """
    if not isinstance(config.head, Classify | Tag):
        return ()
    count = config.head.labels
    id2label = values.get("id2label")
    if id2label is None:
        return tuple(f"LABEL_{i}" for i in range(count))
    if not isinstance(id2label, Mapping) or id2label.keys() != {str(i) for i in range(count)}:
        raise CheckpointError(
            f"{where}: id2label must give names to the labels 0 to {count - 1}, got {id2label!r:.80}"
        )
    labels = tuple(id2label[str(i)] for i in range(count))
    if not all(isinstance(label, str) and label for label in labels) or len(set(labels)) != count:
        raise CheckpointError(f"{where}: id2label must give each label its own name, got {id2label!r:.80}")
    return labels


def mask_id(
    values: Mapping[str, Any],
    special_tokens: Mapping[str, str],
    tokenizer: str | None,
    config: Config,
    where: str,
) -> int | None:
    """Return the id of the mask token of a masked language model, or None for other models.

    The token is `mask_token` of tokenizer_config.json: a name, or an object that contains a name. Without
    this key, it is the mask token in `special_tokens`, which may come from the tokenizer's class. Raises
    CheckpointError if tokenizer_config.json names a token that isn't among the added tokens of
    tokenizer.json.
    """
    stated = values.get("mask_token")
    if isinstance(stated, Mapping):
        stated = stated.get("content")
    name = special_tokens.get("mask_token") if stated is None else stated
    if name is None or tokenizer is None or not isinstance(config.head, MaskedLM):
        return None
    vocabulary = config.embedding.vocabulary
    plan = parse(tokenizer, "tokenizer.json")
    added = plan.get("added_tokens") if isinstance(plan, dict) else None
    for token in added if isinstance(added, list) else ():
        if isinstance(token, dict) and token.get("content") == name:
            number = token.get("id")
            if type(number) is int and 0 <= number < vocabulary:
                return number
    if stated is None:
        return None
    raise CheckpointError(
        f"{where}: mask_token {name!r:.60} must be an added token of tokenizer.json, below {vocabulary}"
    )
