"""What stands around a text and between two: post-processors made of the flags and ids that a file states.

A GGUF file doesn't hold the template itself. Where its flags contradict the one that the kind of
tokenizer has, that is an error.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

from .vocabulary import Vocabulary

Part: TypeAlias = tuple[int | str, int]  # a token's id, or which text, "A" or "B"; and its segment


def template(vocabulary: Vocabulary, single: Sequence[Part], pair: Sequence[Part]) -> dict[str, Any] | None:
    """The post-processor of a text and of a pair; None where no token stands around them."""
    tokens = {i: vocabulary.tokens[i] for i, _ in pair if isinstance(i, int)}
    if not tokens:
        return None

    def piece(part: int | str, segment: int) -> dict[str, Any]:
        if isinstance(part, str):
            return {"Sequence": {"id": part, "type_id": segment}}
        return {"SpecialToken": {"id": tokens[part], "type_id": segment}}

    return {
        "type": "TemplateProcessing",
        "single": [piece(*part) for part in single],
        "pair": [piece(*part) for part in pair],
        "special_tokens": {
            token: {"id": token, "ids": [i], "tokens": [token]} for i, token in tokens.items()
        },
    }


def flagged(vocabulary: Vocabulary, *, bos: bool, eos: bool, second: int = 1) -> dict[str, Any] | None:
    """bos before each text and eos after it where the flags say so; they are what an absent flag means."""

    def around(text: str, segment: int) -> list[Part]:
        before = [vocabulary.id("bos")] if vocabulary.get("add_bos_token", bool, bos) else []
        after = [vocabulary.id("eos")] if vocabulary.get("add_eos_token", bool, eos) else []
        return [(part, segment) for part in (*before, text, *after) if part is not None]

    single = around("A", 0)
    return template(vocabulary, single, [*single, *around("B", second)])


def ends(vocabulary: Vocabulary, kind: str) -> tuple[int, int]:
    """The tokens around an encoder's text: bos, which is cls, and eos, which is the separator."""
    for flag in ("add_bos_token", "add_eos_token"):
        if (got := vocabulary.get(flag, bool, None)) is not True:
            raise vocabulary.fail(f"{flag} must be true for {kind}, got {got}")
    found = []
    for name, other in (("bos", "cls"), ("eos", "seperator")):
        one, two = vocabulary.id(name, None), vocabulary.id(other, None)
        if one is None or two not in (one, None):
            raise vocabulary.fail(f"{name}_token_id must be {other}_token_id for {kind}, got {one} and {two}")
        found.append(one)
    return found[0], found[1]


def doubled(vocabulary: Vocabulary, kind: str) -> tuple[int, int]:
    """The ends of <s> A </s></s> B </s>: one separator more, which the flag must not deny."""
    if vocabulary.get("add_sep_token", bool, True) is not True:
        raise vocabulary.fail(f"add_sep_token must be true for {kind}, got False")
    return ends(vocabulary, kind)
