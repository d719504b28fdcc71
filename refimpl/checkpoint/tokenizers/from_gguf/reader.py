"""Convert the tokenizer of a GGUF file to the text of a tokenizer.json, and read its chat template.

`tokenizer.ggml.model` names the kind: byte-level BPE ("gpt2"), SentencePiece's BPE ("llama", or "gemma4" with
stated merges), SentencePiece's Unigram ("t5"), and BERT's WordPiece ("bert").
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ....errors import CheckpointError
from .byte_level import byte_level
from .sentencepiece import gemma4, sentencepiece
from .unigram import unigram
from .vocabulary import Vocabulary
from .wordpiece import wordpiece

CONVERTERS = {
    "gpt2": byte_level, "llama": sentencepiece, "bert": wordpiece, "t5": unigram, "gemma4": gemma4,
}  # fmt: skip
TEMPLATE_LIMIT = 256 * 1024


def tokenizer(metadata: Mapping[str, Any], vocabulary: int, where: str) -> str | None:
    """Return the text of the tokenizer.json that follows from a GGUF file's metadata, or None if the metadata
    contain no tokenizer.

    `vocabulary` is the number of rows of the embedding. Raises CheckpointError for an unknown kind, a token
    that occurs twice, more tokens than the embedding has rows, and a merge of anything other than tokens.
    """
    kind = metadata.get("tokenizer.ggml.model")
    if kind in (None, "none", "no_vocab"):  # llama.cpp's names for it
        return None
    if not isinstance(kind, str) or kind not in CONVERTERS:
        *names, last = CONVERTERS
        raise CheckpointError(
            f"{where}: tokenizer.ggml.model must be {', '.join(names)} or {last}, got {kind!r:.80}"
        )
    definition = CONVERTERS[kind](Vocabulary(metadata, vocabulary, where))
    return json.dumps(definition, ensure_ascii=False, separators=(",", ":"))


def chat_template(metadata: Mapping[str, Any], where: str, kind: str = "") -> str | None:
    """Return the chat template in a GGUF file's metadata, or None if there is none. If `kind` is ".tool_use",
    return the template for chats with tools.

    Raises CheckpointError if the template isn't a text of at most 256 KB.
    """
    template = metadata.get(f"tokenizer.chat_template{kind}")
    if template is not None and (not isinstance(template, str) or len(template) > TEMPLATE_LIMIT):
        raise CheckpointError(f"{where}: tokenizer.chat_template must be a text of at most 256 KB")
    return template
