"""Pre-tokenizers of byte-level tokenizers by name. A GGUF file contains only the name, `tokenizer.ggml.pre`.

Each pre-tokenizer here is from the tokenizer.json of the models that use it. llama.cpp's regular expressions
sometimes only approximate it. An unlisted name is an error, since a wrong pre-tokenizer silently gives wrong
ids. "default" is llama.cpp's guess for files without a name, and isn't listed, because no model has it in its
own tokenizer.json.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, TypeAlias

Template: TypeAlias = Literal["bos_eos", "roberta", "bert"]


class PreTokenizer(NamedTuple):
    """The steps of a pre-tokenizer, and the other settings of a tokenizer that follow from the
    pre-tokenizer's name.
    """

    steps: list[dict[str, Any]]
    normalizer: str | None = None
    ignore_merges: bool = False  # a word that is a token is taken whole
    add_bos: bool = False  # if the file doesn't say
    template: Template = "bos_eos"


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
    """Return a regular expression for words. A capital after small letters begins a new word. `after` is an
    expression for what may follow at the end of a word.
    """
    start = r"[^\r\n\p{L}\p{N}]?"
    return rf"{start}{_UPPER}*{_LOWER}+{after}|{start}{_UPPER}+{_LOWER}*{after}"


BYTE_LEVEL = _byte_level(True)
_GPT2 = [BYTE_LEVEL]
_DIGITS = [_digits(True), BYTE_LEVEL]
_CL100K = [_split(rf"{_ENGLISH}|{_WORDS}|\p{{N}}{{1,3}}|{_REST}"), _byte_level(False)]
_O200K = [_split(rf"{_cased(f'{_ENGLISH}?')}|\p{{N}}{{1,3}}|{_REST_SLASH}"), _byte_level(False)]
_QWEN2 = [_split(rf"{_ENGLISH}|{_WORDS}|\p{{N}}|{_REST}"), _byte_level(False)]
_TEKKEN = [_split(rf"{_cased('')}|\p{{N}}|{_REST_SLASH}"), _byte_level(False)]
# The step for digits separates the space before a number. llama.cpp's expressions don't.
_FALCON = [
    {"type": "Punctuation", "behavior": "Contiguous"},
    BYTE_LEVEL,
    _digits(False),
    _split("[0-9][0-9][0-9]"),
]
# The inner brackets are a nested class. llama.cpp has no nested classes and drops the brackets.
_BLOOM = [_split(r" ?[^(\s|[.,!?…。，、।۔،])]+"), _byte_level(False)]
_DEEPSEEK = [
    _split(r"[\r\n]"),
    _split(r"\s?\p{L}+"),
    _split(r"\s?\p{P}+"),
    _split("[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+"),
    _digits(True),
    _byte_level(False),
]

PRE_TOKENIZERS: dict[str, PreTokenizer] = {
    **dict.fromkeys(("gpt-2", "phi-2"), PreTokenizer(_GPT2)),
    # GPT-NeoX's tokenizer, which MPT, OLMo and StableLM 1 share; the converter calls it "olmo".
    **dict.fromkeys(("mpt", "olmo"), PreTokenizer(_GPT2, "NFC")),
    "roberta-bpe": PreTokenizer(_GPT2, template="roberta"),
    "modern-bert": PreTokenizer(_GPT2, "NFC", template="bert"),
    **dict.fromkeys(
        ("smollm", "starcoder", "refact", "codeshell"), PreTokenizer(_DIGITS)
    ),  # Granite 3: refact
    "command-r": PreTokenizer(_DIGITS, "NFC"),
    **dict.fromkeys(
        ("llama-bpe", "llama3", "llama-v3"), PreTokenizer(_CL100K, ignore_merges=True, add_bos=True)
    ),
    "smaug-bpe": PreTokenizer(_CL100K, ignore_merges=True),  # SmolLM3: Llama 3's, without bos
    # OLMo 2 and 3, Phi 4 and Granite 4: dbrx. llama.cpp also calls it by the names of the GLMs.
    **dict.fromkeys(("dbrx", "chatglm-bpe", "glm4"), PreTokenizer(_CL100K)),
    **dict.fromkeys(("gpt-4o", "llama4", "minimax-m2"), PreTokenizer(_O200K)),  # Phi 4 mini: gpt-4o
    **dict.fromkeys(("qwen2", "deepseek-r1-qwen", "stablelm2"), PreTokenizer(_QWEN2, "NFC")),
    "tekken": PreTokenizer(_TEKKEN, ignore_merges=True, add_bos=True),
    "falcon": PreTokenizer(_FALCON),
    "bloom": PreTokenizer(_BLOOM),
    "deepseek-coder": PreTokenizer(_DEEPSEEK),
}
