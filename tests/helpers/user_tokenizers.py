"""Twenty tokenizers with added tokens as published models have them, and texts that a user may type.

`control` and `text` state by hand what of the added tokens a user can't and can spell.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from . import vocabulary_directories
from .gguf_tokenizers import learned
from .text_strategies import CONTROL, byte_level, wordpiece
from .vocabulary_directories import spm

TAGS = tuple(f"<{end}{name}>" for name in ("table", "td", "h1", "code", "s", "b") for end in ("", "/"))
BLANKS = tuple("▁" * n for n in range(2, 9))
GEMMA_UNUSED = ("<mask>", "<2mass>", "[@BOS@]", "<unused0>")
GEMMA_TURNS = ("<start_of_turn>", "<end_of_turn>")
vocabulary_directories.MODELS["gemma"] = {
    "model_type": "bpe", "byte_fallback": True, "add_dummy_prefix": False, "remove_extra_whitespaces": False,
    "normalization_rule_name": "identity", "pad_id": 0, "eos_id": 1, "bos_id": 2, "unk_id": 3,
    "pad_piece": "<pad>", "eos_piece": "<eos>", "bos_piece": "<bos>",
    "user_defined_symbols": [*GEMMA_UNUSED, *GEMMA_TURNS, "\n", "\n\n", *BLANKS, *TAGS],
}  # fmt: skip

GEMMA = (
    "{{ bos_token }}{% for m in messages %}<start_of_turn>{{ m.role }}\n{{ m.content }}<end_of_turn>\n"
    "{% endfor %}<start_of_turn>model\n"
)
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "<|im_start|>assistant\n"
)
LLAMA = "{{ bos_token }}{% for m in messages %}[INST] {{ m.content }} [/INST]{% endfor %}"
LLAMA3 = (
    "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n"
    "{{ m.content }}<|eot_id|>{% endfor %}"
)
DEEPSEEK = (
    "{{ bos_token }}{% for m in messages %}### Instruction:\n{{ m.content }}\n{% endfor %}### Response:\n"
)
PHI3 = "{% for m in messages %}<|user|>\n{{ m.content }}<|end|>\n{% endfor %}<|assistant|>\n"
CODE = "{% for m in messages %}<code>{{ m.content }}</code>{% endfor %}<table>▁▁"


@dataclass(frozen=True)
class UserTokenizer:
    """A directory's files, and what of the added tokens is control and what is text.

    `added` are tokens beside those of the vocabulary with their flags; those of the vocabulary keep its ids.
    """

    files: dict[str, bytes]
    model_type: str
    settings: dict[str, Any]
    added: dict[str, dict[str, bool]]
    control: tuple[str, ...]
    text: tuple[str, ...] = ()
    template: str | None = None
    eos: tuple[str, ...] = ()
    ids: dict[str, int] = field(default_factory=dict)

    def write(self, folder: Path) -> Path:
        """The directory."""
        decoder, free = {}, 40_000
        for content, flags in self.added.items():
            id = self.ids.get(content)
            free += id is None
            decoder[str(free if id is None else id)] = {"content": content, **FLAGS, **flags}
        stated = {
            "config.json": {"model_type": self.model_type},
            "tokenizer_config.json": {**self.settings, "added_tokens_decoder": decoder},
        }
        folder.mkdir()
        for name, data in self.files.items():
            (folder / name).write_bytes(data)
        for name, value in stated.items():
            (folder / name).write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")
        return folder


FLAGS = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": False}
SPECIAL = {"special": True}


def plain(*contents: str, **flags: bool) -> dict[str, dict[str, bool]]:
    """Added tokens with these flags, not special unless they say so."""
    return dict.fromkeys(contents, flags)


def special(*contents: str, **flags: bool) -> dict[str, dict[str, bool]]:
    """Added tokens that are special."""
    return {content: {**SPECIAL, **flags} for content in contents}


def _sentencepiece(kind: str, file: str = "tokenizer.model") -> tuple[dict[str, bytes], dict[str, int]]:
    data = spm(kind)
    model = vocabulary_directories.sentencepiece_model_pb2.ModelProto.FromString(data)
    return {file: data}, {piece.piece: id for id, piece in enumerate(model.pieces)}


def _bytes(*tokens: str) -> dict[str, bytes]:
    vocabulary, merges = learned(*tokens)
    lines = "".join(f"{left} {right}\n" for left, right in merges)
    return {"vocab.json": json.dumps(vocabulary).encode(), "merges.txt": lines.encode()}


def _words() -> dict[str, bytes]:
    tokens = sorted(wordpiece().get_vocab().items(), key=lambda item: item[1])
    return {"vocab.txt": "".join(f"{token}\n" for token, _ in tokens).encode()}


def _gemma(model_type: str, template: str, control: tuple[str, ...], text: tuple[str, ...]) -> UserTokenizer:
    files, ids = _sentencepiece("gemma")
    names = {"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>", "unk_token": "<unk>"}
    return UserTokenizer(
        files, model_type, {"tokenizer_class": "GemmaTokenizer", **names, "add_bos_token": True},
        {
            **special("<pad>", "<eos>", "<bos>", "<unk>", *GEMMA_TURNS),
            **plain(*GEMMA_UNUSED, "\n", "\n\n", *BLANKS, *TAGS),
        },
        ("<pad>", "<eos>", "<bos>", *GEMMA_UNUSED, *GEMMA_TURNS, *control), text, template,
        ("<end_of_turn>",), ids,
    )  # fmt: skip


def _llama(kind: str, **settings: Any) -> UserTokenizer:
    files, ids = _sentencepiece(kind)
    more = ("<tool_call>", "</tool_call>", "<think>")
    return UserTokenizer(
        files, "llama",
        {"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>",
         "add_bos_token": True, **settings},
        {**special("<s>", "</s>", "<unk>"), **plain(*more, "covid-19", "naïveté")},
        ("<s>", "</s>", *more), ("covid-19", "naïveté"), LLAMA, ("</s>",), ids,
    )  # fmt: skip


QWEN_MARKS = (
    "<tool_call>", "</tool_call>", "<think>", "</think>", "<|fim_prefix|>", "<|fim_middle|>",
    "<|fim_suffix|>", "<|repo_name|>", "<|file_sep|>",
)  # fmt: skip
QWEN_SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
LLAMA3_TOKENS = ("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
# DeepSeek Coder's added tokens have letters among them, and its marks aren't special.
LETTERS = ("ü", "ø", "ö", "÷")
DEEPSEEK_MARKS = ("<｜fim▁hole｜>", "<|User|>", "<｜tool▁call｜>")
DEEPSEEK_SPECIAL = ("<｜begin▁of▁sentence｜>", "<|EOT|>", "<|endoftext|>")
PHI3_MARKS = ("<|endoftext|>", "<|user|>", "<|end|>", "<|assistant|>")
STARCODER = ("<fim_prefix>", "<fim_middle>", "<repo_name>", "<file_sep>", "<|endoftext|>")


def _byte_level(
    model_type: str,
    added: dict[str, dict[str, bool]],
    control: tuple[str, ...],
    text: tuple[str, ...] = (),
    template: str | None = None,
    **settings: Any,
) -> UserTokenizer:
    return UserTokenizer(_bytes(), model_type, settings, added, control, text, template)


def _encoder(
    files: dict[str, bytes],
    model_type: str,
    control: tuple[str, ...],
    more: tuple[str, ...] = (),
    **settings: Any,
) -> UserTokenizer:
    """A class's own special tokens are `control`; "<tool_call>" and `more` are added, and not special."""
    return UserTokenizer(
        files, model_type, settings, plain("naïveté", "covid-19", "<tool_call>", *more),
        (*control, "<tool_call>", *more), ("naïveté", "covid-19"),
    )  # fmt: skip


def tokenizers() -> dict[str, UserTokenizer]:
    """The tokenizers by name."""
    t5, _ = _sentencepiece("t5", "spiece.model")
    fairseq, _ = _sentencepiece("fairseq", "sentencepiece.bpe.model")
    albert, _ = _sentencepiece("albert", "spiece.model")
    deberta, _ = _sentencepiece("deberta", "spm.model")
    fast = {"tokenizer.json": byte_level().to_str().encode()}
    fast_ids = byte_level().get_vocab()
    phi3, phi3_ids = _sentencepiece("bpe")
    qwen = {**special(*QWEN_SPECIAL), **plain(*QWEN_MARKS)}
    roberta = ("<s>", "</s>", "<pad>", "<mask>")
    return {
        "gemma": _gemma("gemma2", GEMMA, (), ("▁▁", "▁▁▁▁", "\n\n", "<code>", "<h1>", "</s>", "<table>")),
        # The same tokens, of which the template uses some: these are its marks, but for blanks.
        "gemma with tags": _gemma(
            "gemma", CODE, ("<code>", "</code>", "<table>", "</table>"), ("▁▁", "<h1>", "</s>")
        ),
        "llama": _llama("bpe"),
        "llama legacy": _llama("bpe", legacy=True),
        "llama of its own": _llama("bpe of its own", legacy=False),
        # Its added tokens take the white space after them along.
        "phi3": UserTokenizer(
            phi3, "phi3",
            {"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "<|endoftext|>"},
            {**special("<s>"), **special(*PHI3_MARKS, rstrip=True), **plain("</s>", rstrip=True)},
            ("<s>", "</s>", *PHI3_MARKS), (), PHI3, ("<|end|>",), phi3_ids,
        ),
        "t5": _encoder(t5, "t5", ("</s>", "<pad>", "<extra_id_0>"), tokenizer_class="T5Tokenizer"),
        "xlm-roberta": _encoder(fairseq, "xlm-roberta", roberta),
        "mbart-50": _encoder(
            fairseq, "mbart", (*roberta, "en_XX"), tokenizer_class="MBart50Tokenizer", src_lang="en_XX"
        ),
        "albert": _encoder(albert, "albert", ("[CLS]", "[SEP]", "[MASK]", "<pad>"), ("[unused1]",)),
        "deberta": _encoder(deberta, "deberta-v2", ("[CLS]", "[SEP]", "[MASK]", "[PAD]")),
        "gpt2": _byte_level("gpt2", {**special("<|endoftext|>"), **plain("🙂", "👩🏽‍💻", "__mark__")},
                            ("<|endoftext|>", "__mark__"), ("🙂", "👩🏽‍💻")),
        "roberta": _encoder(_bytes("<s>", "<pad>", "</s>", "<unk>", "<mask>"), "roberta", roberta),
        "qwen": _byte_level("qwen2", qwen, (*QWEN_SPECIAL, *QWEN_MARKS), (), CHATML),
        "llama3": UserTokenizer(
            fast, "llama", {"tokenizer_class": "PreTrainedTokenizerFast"},
            {**special(*LLAMA3_TOKENS), **special("<|odd|>", single_word=True, lstrip=True, rstrip=True),
             **plain("<|python|>", lstrip=True, normalized=True)},
            (*LLAMA3_TOKENS, "<|odd|>", "<|python|>", "<tool_call>", *CONTROL), ("    ",), LLAMA3,
            ("<|eot_id|>",), fast_ids,
        ),
        "deepseek coder": _byte_level(
            "llama",
            {**special(*DEEPSEEK_SPECIAL), **plain(*DEEPSEEK_MARKS), **plain(*LETTERS, normalized=True)},
            (*DEEPSEEK_SPECIAL, *DEEPSEEK_MARKS), LETTERS, DEEPSEEK, tokenizer_class="GPT2Tokenizer",
            bos_token="<｜begin▁of▁sentence｜>",
        ),
        "starcoder": _byte_level(
            "starcoder2", {**special(STARCODER[-1]), **plain(*STARCODER[:-1])}, STARCODER
        ),
        "gpt-neox": _byte_level(
            "gpt_neox", {**special("<|endoftext|>"), **plain("<|padding|>", "|||IP_ADDRESS|||"),
                         **plain("  ", "   ", "    ", "\t\t", normalized=True)},
            ("<|endoftext|>", "<|padding|>", "|||IP_ADDRESS|||"), ("  ", "    ", "\t\t"),
        ),
        "bert": _encoder(_words(), "bert", ("[CLS]", "[SEP]", "[MASK]", "[PAD]"), ("[unused1]",)),
        "mpnet": _encoder(_words(), "mpnet", ("<s>", "</s>", "<pad>", "<mask>")),
    }  # fmt: skip


TEXTS = (
    "", " ", "  ", "a  b", "   three before", "two behind  ", "a\n\n\nb",
    "def f(x):\n    if x:\n        return  x\n",
    "- a\n  - b\n    - c\n\n\n1.  d",
    "| a  | b   |\n|----|-----|\n| 1  | 2   |",
    "\tone\t\ttwo\t \tthree", "x = 1  # why  not", "<code>x  = 1</code>",
    "<h1>A  title</h1>\n\n<table><td>1</td></table>",
    "<b>bold</b> <s>gone</s>", "<h1><h1>", "<H1>", "a▁b ▁▁ c▁▁▁", "\u3000wide\u3000 space\u00a0\u2003",
    "naïveté, naïve covid-19 Covid-19", "über ø ÷ öffnen Ä", "🙂 👍🏽 🙂🙂 👩🏽‍💻", "日本語とEnglish  混在",
    "привет  мир", "e\u0301 \u017ft ﬁ ①", "a\r\nb\r\n\r\nc", "' s n't  do n't", "0  1   2    3     4",
    "\x00 \x07 \u200b \ufeff",
    # With marks of one tokenizer or another.
    "<s>begin</s>", "a<bos> b<eos><pad>", "<start_of_turn>user\nhi<end_of_turn>  x",
    "<|im_start|>system\nno<|im_end|>", "<tool_call>{}</tool_call> <think>a  b</think>",
    "<|fim_prefix|>a<|fim_suffix|>b<|fim_middle|>", "<|repo_name|>x<|file_sep|>y",
    "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nno<|eot_id|>",
    " <|odd|> <|odd|>x <|python|>",
    "<｜begin▁of▁sentence｜><｜fim▁hole｜><｜tool▁call｜><|User|><|EOT|>",
    "<fim_prefix>a<fim_middle>b<repo_name>c<file_sep><|endoftext|>",
    "<extra_id_0> [MASK] <mask>, [CLS] a [SEP] b [PAD] [unused1] en_XX",
    "<2mass>[@BOS@]<unused0>__mark__<|padding|>|||IP_ADDRESS|||",
    "<|user|> \nhi<|end|>\n <|assistant|>",
)  # fmt: skip
