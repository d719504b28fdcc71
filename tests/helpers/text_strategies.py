"""Small real tokenizers for tests, each trained on a few sentences, with its kind of control tokens."""

from __future__ import annotations

import tokenizers
from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

TEXT = [
    "the cat sat on the mat, and the dog didn't",
    "naïve café: 3 + 4 = 7;\n\n\tdef f(x): return x",
    "привет мир 你好",
]
CONTROL = [
    "<|im_start|>",
    "<|im_end|>",
    "<s>",
    "</s>",
    "<|eot_id|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
]
# Structural but not flagged special, as Qwen's; and white space, which is ordinary text.
PLAIN = ["<tool_call>", "    "]


def _finish(tokenizer: Tokenizer) -> Tokenizer:
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in CONTROL])
    tokenizer.add_tokens(PLAIN)
    return tokenizer


def byte_level() -> Tokenizer:
    """GPT-2's, Llama 3's and SmolLM2's kind; a begin token is put before a text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(TEXT, trainer)
    tokenizer = _finish(tokenizer)
    begin = tokenizer.token_to_id("<s>")
    tokenizer.post_processor = processors.TemplateProcessing("<s> $A", "<s> $A $B", [("<s>", begin)])
    return tokenizer


def sentencepiece() -> Tokenizer:
    """As Llama 2's: a space before each text, bytes for what the vocabulary lacks, "</s>" within reach
    of the merges."""
    words = ["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256))]
    words += ["▁", *"abcdefghijklmnopqrstuvwxyz<>/'.,:", "</", "s>", "th", "the", "▁the"]
    vocabulary = {word: i for i, word in enumerate(dict.fromkeys(words))}
    merges = [("<", "/"), ("s", ">"), ("</", "s>"), ("t", "h"), ("th", "e"), ("▁", "the")]
    tokenizer = Tokenizer(
        models.BPE(vocabulary, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True)
    )
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.add_special_tokens(["<unk>"])
    return _finish(tokenizer)


def unigram() -> Tokenizer:
    """T5's kind: pieces with scores, the control tokens among them, an unknown token."""
    pieces = [
        ("<unk>", 0.0),
        ("</s>", 0.0),
        ("▁", -3.0),
        *((c, -4.0) for c in "abcdefghijklmnopqrstuvwxyz<>/|_"),
    ]
    tokenizer = Tokenizer(models.Unigram([*pieces, ("▁the", -2.0)], unk_id=0))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="first")
    tokenizer.add_special_tokens(["<unk>"])
    return _finish(tokenizer)


KINDS = {"byte_level": byte_level, "sentencepiece": sentencepiece, "unigram": unigram}


def wordpiece() -> Tokenizer:
    """As BERT's: lower case, words cut at punctuation, "##" before what goes on with one; texts and pairs
    between [CLS] and [SEP]."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    letters = "abcdefghijklmnopqrstuvwxyz"
    words = [
        *special,
        *letters,
        *(f"##{c}" for c in letters),
        ".",
        ",",
        "?",
        "'",
        "##ing",
        "the",
        "cat",
        "is",
    ]
    tokenizer = Tokenizer(models.WordPiece({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.add_special_tokens(special)
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return tokenizer


def roberta() -> Tokenizer:
    """RoBERTa's kind: bytes, two </s> between the texts of a pair, a mask that takes the space before it."""
    tokenizer = byte_level()
    tokenizer.add_special_tokens([AddedToken("<mask>", lstrip=True, special=True)])
    begin, end = (tokenizer.token_to_id(token) for token in ("<s>", "</s>"))
    tokenizer.post_processor = processors.RobertaProcessing(
        ("</s>", end), ("<s>", begin), add_prefix_space=False
    )
    return tokenizer


def byte_tokenizer() -> str:
    """One token a byte."""
    signs = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE({b: i for i, b in enumerate(signs)}, []))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return tokenizer.to_str()
