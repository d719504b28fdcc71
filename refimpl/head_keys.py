"""Heads of encoders as config.json states them: how many labels, their names, how their logits are read."""

from __future__ import annotations

from typing import Literal

from .config import LIMITS, Answer, Classify, Dense, Head, MaskedLM, Pool, Pooling, Tag
from .keys import Keys

Kind = Literal["single", "multi", "regression"]
KINDS: dict[str, Kind] = {
    "regression": "regression",
    "single_label_classification": "single",
    "multi_label_classification": "multi",
}


def labels(keys: Keys) -> tuple[str, ...]:
    """The names of the labels by id: two, LABEL_0 and LABEL_1, where the config says nothing."""
    named, count = keys.get("id2label", dict, None), keys.size("num_labels", None)
    if named is None:
        if (count := count or 2) > LIMITS["vocabulary"]:
            raise keys.fail("num_labels", f"at most {LIMITS['vocabulary']}")
        return tuple(f"LABEL_{i}" for i in range(count))
    found = {str(key): name for key, name in named.items() if isinstance(name, str)}
    if not found or set(found) != set(map(str, range(len(named)))):
        raise keys.fail("id2label", "names of the ids 0, 1, … without a gap")
    if count not in (None, len(found)):
        raise keys.fail("num_labels", f"the number of names in id2label, {len(found)}")
    return tuple(found[str(i)] for i in range(len(found)))


def kind(keys: Keys, count: int) -> Kind:
    """How the logits of `count` labels are read: by softmax, by a sigmoid each, or as they are.

    What a config doesn't say is what transformers' pipeline does: a sigmoid of a single label, else softmax.
    """
    named = keys.get("problem_type", str, None)
    if named is None:
        return "single" if count > 1 else "multi"
    known = {name: kind for name, kind in KINDS.items() if count > 1 or kind != "single"}
    return keys.choice("problem_type", known)


def head(
    keys: Keys,
    task: str,
    *,
    masked: MaskedLM,
    classify: Dense | None,
    pooling: Pooling = "first",
    token: Dense | None = None,
    pooler: Dense | None = None,
) -> Head:
    """The head of a task. `token` is what stands before the logits of each token; a model without a pooler
    gives the mean of its vectors."""
    match task:
        case "masked":
            return masked
        case "classify":
            count = len(labels(keys))
            return Classify(count, pooling, classify, kind=kind(keys, count))
        case "tag":
            return Tag(len(labels(keys)), token)
        case "answer":
            if len(labels(keys)) != 2:
                raise keys.fail("id2label", "two labels, start and end of an answer")
            return Answer(token)
        case _:
            return Pool("mean") if pooler is None else Pool("first", pooler)
