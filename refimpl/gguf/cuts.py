"""How byte-level tokenizers cut a text into words: `tokenizer.ggml.pre` names it, and no key says it.

Each cut is what the models' own tokenizer.json does; where llama.cpp's expressions only come near
it, the original's steps stand here. A name that isn't listed is an error: a wrong cut gives wrong
ids in silence. "default" is llama.cpp's guess for files that say nothing, and no model's own cut.
"""

from __future__ import annotations

from typing import Any, NamedTuple


class Cut(NamedTuple):
    """The pre-tokenizers, and what else goes with a name."""

    steps: list[dict[str, Any]]
    normalizer: str | None = None
    whole: bool = False  # whole words that are tokens skip the merges
    bos: bool = False  # where the file doesn't say


def _byte_level(regex: bool) -> dict[str, Any]:
    return {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": regex}


def _split(pattern: str) -> dict[str, Any]:
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}


_ENGLISH = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_WORDS = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_REST_SLASH = r" ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"


def _cased(after: str) -> str:
    """Words that begin anew at a capital, and what may hang on to them."""
    start = r"[^\r\n\p{L}\p{N}]?"
    return rf"{start}{_UPPER}*{_LOWER}+{after}|{start}{_UPPER}+{_LOWER}*{after}"


_GPT2 = [_byte_level(True)]
_DIGITS = [{"type": "Digits", "individual_digits": True}, _byte_level(True)]
_CL100K = [_split(rf"{_ENGLISH}|{_WORDS}|\p{{N}}{{1,3}}|{_REST}"), _byte_level(False)]
_QWEN2 = [_split(rf"{_ENGLISH}|{_WORDS}|\p{{N}}|{_REST}"), _byte_level(False)]
_TEKKEN = [_split(rf"{_cased('')}|\p{{N}}|{_REST_SLASH}"), _byte_level(False)]
PRE: dict[str, Cut] = {
    **dict.fromkeys(("gpt-2", "phi-2", "mpt", "olmo"), Cut(_GPT2)),
    **dict.fromkeys(("smollm", "starcoder", "refact", "codeshell"), Cut(_DIGITS)),
    **dict.fromkeys(("llama-bpe", "llama3", "llama-v3"), Cut(_CL100K, whole=True, bos=True)),
    **dict.fromkeys(("qwen2", "deepseek-r1-qwen"), Cut(_QWEN2, "NFC")),
    "tekken": Cut(_TEKKEN, whole=True, bos=True),
}
