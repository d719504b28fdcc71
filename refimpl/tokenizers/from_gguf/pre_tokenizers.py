"""How byte-level tokenizers cut a text into words: `tokenizer.ggml.pre` names it, and no key says it.

Each cut is what the models' own tokenizer.json does; where llama.cpp's expressions only come near
it, the original's steps stand here. A name that isn't listed is an error: a wrong cut gives wrong
ids in silence. "default" is llama.cpp's guess for files that say nothing, and no model's own cut.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, TypeAlias

Frame: TypeAlias = Literal["flags", "roberta", "bert"]


class Cut(NamedTuple):
    """The pre-tokenizers, and what else goes with a name."""

    steps: list[dict[str, Any]]
    normalizer: str | None = None
    whole: bool = False  # whole words that are tokens skip the merges
    bos: bool = False  # where the file doesn't say
    frame: Frame = "flags"


def _byte_level(regex: bool) -> dict[str, Any]:
    return {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": regex}


def _split(pattern: str) -> dict[str, Any]:
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}


def _digits(individual: bool) -> dict[str, Any]:
    return {"type": "Digits", "individual_digits": individual}


_ENGLISH = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_WORDS = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_REST_SLASH = r" ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"


def _cased(after: str) -> str:
    """Words that begin anew at a capital, and what may hang on to them."""
    start = r"[^\r\n\p{L}\p{N}]?"
    return rf"{start}{_UPPER}*{_LOWER}+{after}|{start}{_UPPER}+{_LOWER}*{after}"


BYTE_LEVEL = _byte_level(True)
_GPT2 = [BYTE_LEVEL]
_DIGITS = [_digits(True), BYTE_LEVEL]
_CL100K = [_split(rf"{_ENGLISH}|{_WORDS}|\p{{N}}{{1,3}}|{_REST}"), _byte_level(False)]
_O200K = [_split(rf"{_cased(f'{_ENGLISH}?')}|\p{{N}}{{1,3}}|{_REST_SLASH}"), _byte_level(False)]
_QWEN2 = [_split(rf"{_ENGLISH}|{_WORDS}|\p{{N}}|{_REST}"), _byte_level(False)]
_TEKKEN = [_split(rf"{_cased('')}|\p{{N}}|{_REST_SLASH}"), _byte_level(False)]
# The digits' step sets the space before a number apart, which llama.cpp's expressions don't.
_FALCON = [
    {"type": "Punctuation", "behavior": "Contiguous"},
    BYTE_LEVEL,
    _digits(False),
    _split("[0-9][0-9][0-9]"),
]
# The inner brackets are a class in the class; llama.cpp, whose expressions know none, drops them.
_BLOOM = [_split(r" ?[^(\s|[.,!?…。，、।۔،])]+"), _byte_level(False)]
_DEEPSEEK = [
    _split(r"[\r\n]"),
    _split(r"\s?\p{L}+"),
    _split(r"\s?\p{P}+"),
    _split("[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+"),
    _digits(True),
    _byte_level(False),
]

PRE: dict[str, Cut] = {
    **dict.fromkeys(("gpt-2", "phi-2"), Cut(_GPT2)),
    # GPT-NeoX's tokenizer, which MPT, OLMo and StableLM 1 share; the converter calls it "olmo".
    **dict.fromkeys(("mpt", "olmo"), Cut(_GPT2, "NFC")),
    "roberta-bpe": Cut(_GPT2, frame="roberta"),
    "modern-bert": Cut(_GPT2, "NFC", frame="bert"),
    **dict.fromkeys(("smollm", "starcoder", "refact", "codeshell"), Cut(_DIGITS)),  # Granite 3: refact
    "command-r": Cut(_DIGITS, "NFC"),
    **dict.fromkeys(("llama-bpe", "llama3", "llama-v3"), Cut(_CL100K, whole=True, bos=True)),
    "smaug-bpe": Cut(_CL100K, whole=True),  # SmolLM3: Llama 3's, without bos
    "dbrx": Cut(_CL100K),  # OLMo 2, Phi 4, Granite 4
    "gpt-4o": Cut(_O200K),  # Phi 4 mini
    **dict.fromkeys(("qwen2", "deepseek-r1-qwen", "stablelm2"), Cut(_QWEN2, "NFC")),
    "tekken": Cut(_TEKKEN, whole=True, bos=True),
    "falcon": Cut(_FALCON),
    "bloom": Cut(_BLOOM),
    "deepseek-coder": Cut(_DEEPSEEK),
}
