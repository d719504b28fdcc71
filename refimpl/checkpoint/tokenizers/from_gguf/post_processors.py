"""Make post-processor templates, the special tokens around texts, from the flags and ids in a GGUF file.

A GGUF file doesn't contain the template itself. Flags that contradict the usual template of the kind of
tokenizer are an error.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

from .vocabulary import Vocabulary

Part: TypeAlias = tuple[int | str, int]  # (a token's id or a text, "A" or "B"; its segment)


def template(vocabulary: Vocabulary, single: Sequence[Part], pair: Sequence[Part]) -> dict[str, Any] | None:
    """Return the post-processor that makes `single` of one text and `pair` of two texts. Returns None if it
    adds no token.
    """
    tokens = {i: vocabulary.tokens[i] for i, _ in pair if isinstance(i, int)}
    if not tokens:
        return None

    def template_part(part: int | str, type_id: int) -> dict[str, Any]:
        if isinstance(part, str):
            return {"Sequence": {"id": part, "type_id": type_id}}
        return {"SpecialToken": {"id": tokens[part], "type_id": type_id}}

    return {
        "type": "TemplateProcessing",
        "single": [template_part(*part) for part in single],
        "pair": [template_part(*part) for part in pair],
        "special_tokens": {
            token: {"id": token, "ids": [i], "tokens": [token]} for i, token in tokens.items()
        },
    }


def bos_eos_template(
    vocabulary: Vocabulary, *, bos: bool, eos: bool, second: int = 1
) -> dict[str, Any] | None:
    """Return a template with bos before each text and eos after each text, if the file's flags say so.

    `bos` and `eos` are the defaults of the flags. `second` is the segment of a pair's second text."""

    def around(text: str, segment: int) -> list[Part]:
        before = [vocabulary.token_id("bos")] if vocabulary.get("add_bos_token", bool, bos) else []
        after = [vocabulary.token_id("eos")] if vocabulary.get("add_eos_token", bool, eos) else []
        return [(part, segment) for part in (*before, text, *after) if part is not None]

    single = around("A", 0)
    return template(vocabulary, single, [*single, *around("B", second)])


def cls_sep_ids(vocabulary: Vocabulary, kind: str) -> tuple[int, int]:
    """Return the ids of the tokens around an encoder's text: cls, which is bos, and sep, which is eos.

    Raises CheckpointError if the file's flags or ids say otherwise. The error names the tokenizer `kind`.
    """
    for flag in ("add_bos_token", "add_eos_token"):
        if (got := vocabulary.get(flag, bool, None)) is not True:
            raise vocabulary.fail(f"{flag} must be true for {kind}, got {got}")
    ids = []
    for name, other in (("bos", "cls"), ("eos", "seperator")):
        one, two = vocabulary.token_id(name, None), vocabulary.token_id(other, None)
        if one is None or two not in (one, None):
            raise vocabulary.fail(f"{name}_token_id must be {other}_token_id for {kind}, got {one} and {two}")
        ids.append(one)
    return ids[0], ids[1]


def roberta_ids(vocabulary: Vocabulary, kind: str) -> tuple[int, int]:
    """Return the ids of cls and sep for RoBERTa's template, <s> A </s></s> B </s>.

    Raises CheckpointError if the file's flag `add_sep_token` is false, since it denies the second
    separator.
    """
    if vocabulary.get("add_sep_token", bool, True) is not True:
        raise vocabulary.fail(f"add_sep_token must be true for {kind}, got False")
    return cls_sep_ids(vocabulary, kind)
