"""GGUF's tokenizer as the text of a tokenizer.json, and its chat template.

Three kinds: byte-level BPE ("gpt2"), whose way of cutting text into words has a name in
`tokenizer.ggml.pre`; SentencePiece's BPE with byte fallback ("llama"), whose merges follow from
the pieces' scores; and BERT's WordPiece without capitals ("bert"). A name that isn't listed is an
error: a wrong cut gives wrong ids in silence.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ..errors import CheckpointError

CONTROL, UNKNOWN, USER, BYTE = 3, 2, 4, 6  # token types; 1 is a normal piece, 5 an unused one
LONGEST_PIECE = 256  # SentencePiece's own limit is 16; merges are found by all cuts of a piece
TEMPLATE_LIMIT = 256 * 1024

_ENGLISH = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_WORDS = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_TEKKEN = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def _byte_level(regex: bool) -> dict[str, Any]:
    return {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": regex}


def _split(pattern: str) -> list[dict[str, Any]]:
    cut = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    return [cut, _byte_level(False)]


_GPT2 = [_byte_level(True)]
_DIGITS = [{"type": "Digits", "individual_digits": True}, _byte_level(True)]
_LLAMA3 = _split(rf"{_ENGLISH}|{_WORDS}|\p{{N}}{{1,3}}|{_REST}")
_QWEN2 = _split(rf"{_ENGLISH}|{_WORDS}|\p{{N}}|{_REST}")

# name -> (pre-tokenizers, normalizer, whole words that are tokens skip the merges, bos by default)
PRE: dict[str, tuple[list[dict[str, Any]], str | None, bool, bool]] = {
    **dict.fromkeys(("gpt-2", "phi-2", "mpt", "olmo"), (_GPT2, None, False, False)),
    **dict.fromkeys(("smollm", "starcoder", "refact", "codeshell"), (_DIGITS, None, False, False)),
    **dict.fromkeys(("llama-bpe", "llama3", "llama-v3"), (_LLAMA3, None, True, True)),
    **dict.fromkeys(("qwen2", "deepseek-r1-qwen"), (_QWEN2, "NFC", False, False)),
    "tekken": (_split(_TEKKEN), None, True, True),
}


def tokenizer(metadata: Mapping[str, Any], vocabulary: int, where: str) -> str | None:
    """The tokenizer.json of a GGUF file's metadata, None if it has no tokenizer at all.

    Raises CheckpointError for a kind that isn't known, for twice the same token, for more tokens
    than the model has rows, and for a merge of things that aren't tokens.
    """
    reader = _Reader(metadata, vocabulary, where)
    match metadata.get("tokenizer.ggml.model"):
        case None:
            return None
        case "gpt2":
            made = reader.byte_level()
        case "llama":
            made = reader.sentencepiece()
        case "bert":
            made = reader.wordpiece()
        case other:
            raise CheckpointError(
                f"{where}: tokenizer.ggml.model must be gpt2, llama or bert, got {other!r:.80}"
            )
    return json.dumps(made, ensure_ascii=False, separators=(",", ":"))


def chat_template(metadata: Mapping[str, Any], where: str) -> str | None:
    """The chat template, if there is one; CheckpointError if it isn't a text of at most 256 KB."""
    found = metadata.get("tokenizer.chat_template")
    if found is not None and (not isinstance(found, str) or len(found) > TEMPLATE_LIMIT):
        raise CheckpointError(f"{where}: tokenizer.chat_template must be a text of at most 256 KB")
    return found


class _Reader:
    def __init__(self, metadata: Mapping[str, Any], vocabulary: int, where: str) -> None:
        self._metadata, self._vocabulary, self._where = metadata, vocabulary, where

    def _fail(self, message: str) -> CheckpointError:
        return CheckpointError(f"{self._where}: tokenizer.ggml.{message}")

    def _get(self, key: str, kind: type, default: Any) -> Any:
        value = self._metadata.get(f"tokenizer.ggml.{key}", default)
        if value is not default and type(value) is not kind:
            raise self._fail(f"{key} must be of type {kind.__name__}, got {value!r:.40}")
        return value

    def _list(self, key: str, item: type, length: int | None = None) -> list[Any]:
        values = self._get(key, list, None)
        if values is None or not all(type(v) is item for v in values):
            raise self._fail(f"{key} must be a list of {item.__name__}")
        if length is not None and len(values) != length:
            raise self._fail(f"{key} must have {length} items, one a token, got {len(values)}")
        return values

    def _tokens(self) -> tuple[list[str], dict[str, int], list[int]]:
        tokens = self._list("tokens", str)
        if not 1 <= len(tokens) <= self._vocabulary:
            raise self._fail(
                f"tokens must be 1 to {self._vocabulary}, the rows of the table, got {len(tokens)}"
            )
        ids = {token: i for i, token in enumerate(tokens)}
        if len(ids) < len(tokens):
            twice = next(token for i, token in enumerate(tokens) if ids[token] != i)
            raise self._fail(f"tokens must differ, {twice!r:.40} stands twice")
        return tokens, ids, self._list("token_type", int, len(tokens))

    def _json(
        self, tokens: list[str], types: list[int], model: dict[str, Any], *, bos: bool, **parts: Any
    ) -> dict[str, Any]:
        flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
        added = [
            {"id": i, "content": tokens[i], **flags, "special": kind != USER}
            for i, kind in enumerate(types)
            if kind in (CONTROL, UNKNOWN, USER) and tokens[i]
        ]
        return {
            "version": "1.0", "truncation": None, "padding": None, "added_tokens": added,
            "normalizer": parts["normalizer"], "pre_tokenizer": parts["pre_tokenizer"],
            "post_processor": parts.get("frame") or self._frame(tokens, bos),
            "decoder": parts["decoder"], "model": model,
        }  # fmt: skip

    def _frame(self, tokens: list[str], bos: bool) -> dict[str, Any] | None:
        """The ids that stand around every text: bos before it, eos after it, where the file says so."""
        sequence: list[dict[str, Any]] = [{"Sequence": {"id": "A", "type_id": 0}}]
        special: dict[str, Any] = {}
        for name, before, default in (("bos", True, bos), ("eos", False, False)):
            if not self._get(f"add_{name}_token", bool, default):
                continue
            i = self._get(f"{name}_token_id", int, -1)
            if not 0 <= i < len(tokens):
                raise self._fail(f"{name}_token_id must be 0 to {len(tokens) - 1}, got {i}")
            piece = {"SpecialToken": {"id": tokens[i], "type_id": 0}}
            sequence = [piece, *sequence] if before else [*sequence, piece]
            special[tokens[i]] = {"id": tokens[i], "ids": [i], "tokens": [tokens[i]]}
        if not special:
            return None
        second = [{next(iter(p)): {**next(iter(p.values())), "type_id": 1}} for p in sequence]
        for piece in second:
            if "Sequence" in piece:
                piece["Sequence"]["id"] = "B"
        return {
            "type": "TemplateProcessing",
            "single": sequence,
            "pair": sequence + second,
            "special_tokens": special,
        }

    def byte_level(self) -> dict[str, Any]:
        """Byte-level BPE (Radford et al. 2019), its merges given."""
        name = self._get("pre", str, "default")
        if name not in PRE:
            raise self._fail(f"pre must be one of {', '.join(PRE)}, got {name!r:.80}")
        steps, normalizer, whole, bos = PRE[name]
        tokens, ids, types = self._tokens()
        merges = [merge.split(" ") for merge in self._list("merges", str)]
        for merge in merges:
            if len(merge) != 2 or not all(part in ids for part in (*merge, "".join(merge))):
                raise self._fail(f"merges must join two tokens into a third, got {' '.join(merge)!r:.80}")
        model = {
            "type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
            "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": whole,
            "vocab": ids, "merges": merges,
        }  # fmt: skip
        return self._json(
            tokens, types, model,
            bos=bos,
            normalizer=None if normalizer is None else {"type": normalizer},
            pre_tokenizer=steps[0] if len(steps) == 1 else {"type": "Sequence", "pretokenizers": steps},
            decoder=_byte_level(True),
        )  # fmt: skip

    def sentencepiece(self) -> dict[str, Any]:
        """SentencePiece's BPE (Kudo & Richardson 2018): "▁" for a space, unknown letters as bytes."""
        tokens, ids, types = self._tokens()
        scores = self._list("scores", float, len(tokens))
        unknown = next((tokens[i] for i, kind in enumerate(types) if kind == UNKNOWN), None)
        prefix = self._get("add_space_prefix", bool, True)
        model = {
            "type": "BPE", "dropout": None, "unk_token": unknown, "continuing_subword_prefix": None,
            "end_of_word_suffix": None, "fuse_unk": True, "byte_fallback": BYTE in types,
            "ignore_merges": False, "vocab": ids, "merges": self._merges(tokens, ids, types, scores),
        }  # fmt: skip
        space = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
        back = {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}
        strip = [{"type": "Strip", "content": " ", "start": 1, "stop": 0}] if prefix else []
        start = [{"type": "Prepend", "prepend": "▁"}] if prefix else []
        decoders = [back, {"type": "ByteFallback"}, {"type": "Fuse"}, *strip]
        return self._json(
            tokens, types, model,
            bos=True,
            normalizer={"type": "Sequence", "normalizers": [*start, space]},
            pre_tokenizer=None,
            decoder={"type": "Sequence", "decoders": decoders},
        )  # fmt: skip

    def wordpiece(self) -> dict[str, Any]:
        """WordPiece: "▁" stands before what begins a word, nothing where a vocabulary has "##".

        llama.cpp lowers capitals and strips accents whatever the model does, so the file doesn't say;
        a token with capitals is one of a model that doesn't.
        """
        tokens, _, types = self._tokens()
        for i, kind in enumerate(types):
            if kind not in (CONTROL, UNKNOWN, USER):
                if tokens[i] != tokens[i].lower():
                    raise self._fail(f"tokens must be without capitals, got {tokens[i]!r:.40}")
                tokens[i] = tokens[i][1:] if tokens[i].startswith("▁") else f"##{tokens[i]}"
        ids = {token: i for i, token in enumerate(tokens)}
        frame = {}
        for token, *keys in (("[CLS]", "cls", "bos"), ("[SEP]", "seperator", "eos"), ("[UNK]", "unknown")):
            for key in (f"{name}_token_id" for name in keys):
                if token not in ids or self._get(key, int, ids[token]) != ids[token]:
                    raise self._fail(f"{key} must be that of {token}, a token")
            frame[token] = {"id": token, "ids": [ids[token]], "tokens": [token]}
        piece = lambda token, text: {"SpecialToken": {"id": token, "type_id": text}}  # noqa: E731
        first, second = ({"Sequence": {"id": name, "type_id": i}} for i, name in enumerate("AB"))
        single = [piece("[CLS]", 0), first, piece("[SEP]", 0)]
        model = {
            "type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100, "vocab": ids,
        }  # fmt: skip
        return self._json(
            tokens, types, model,
            bos=False,
            normalizer={
                "type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True,
                "strip_accents": None, "lowercase": True,
            },
            pre_tokenizer={"type": "BertPreTokenizer"},
            decoder={"type": "WordPiece", "prefix": "##", "cleanup": True},
            frame={
                "type": "TemplateProcessing",
                "single": single,
                "pair": [*single, second, piece("[SEP]", 1)],
                "special_tokens": {token: frame[token] for token in ("[CLS]", "[SEP]")},
            },
        )  # fmt: skip

    def _merges(
        self, tokens: list[str], ids: dict[str, int], types: list[int], scores: list[float]
    ) -> list[tuple[str, str]]:
        """Every cut of a piece into two, best score first; of one piece's cuts the longest left first."""
        found = []
        for token, kind, score in zip(tokens, types, scores, strict=True):
            if kind in (CONTROL, UNKNOWN, BYTE):
                continue
            if len(token) > LONGEST_PIECE:
                raise self._fail(f"tokens may have {LONGEST_PIECE} letters, got {token!r:.40}")
            for cut in range(1, len(token)):
                left, right = token[:cut], token[cut:]
                if left in ids and right in ids:
                    found.append((score, len(left), left, right))
        found.sort(key=lambda merge: merge[:2], reverse=True)
        return [(left, right) for _, _, left, right in found]
