"""Directories of tokenizers with drawn settings: what AutoTokenizer reads beside tokenizer.json."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from . import text_strategies
from .gguf_tokenizers import charsmap, learned

SPECIAL = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]


def _unigram(special: Sequence[str] = SPECIAL) -> Tokenizer:
    """Unknown pieces where the classes look for them: 2 for T5 and for Pegasus, 3 for the others."""
    pieces = [(token, 0.0) for token in special]
    pieces += [("▁", -3.0), ("▁the", -2.0), ("▁T", -2.5), ("<extra_id_0>", 0.0), ("<mask_1>", 0.0)]
    pieces += [
        ("en_XX", 0.0),
        ("ro_RO", 0.0),
        ("▁.", -5.0),
        ("▁'", -5.0),
        ("<unk_2>", 0.0),
        ("<mask_2>", 0.0),
    ]
    pieces += [(c, -4.0) for c in "abcdefghijklmnopqrstuvwxyzATSé.,'!?<>/|_0123456789"]
    made = Tokenizer(models.Unigram(pieces, unk_id=3))
    made.normalizer = normalizers.Sequence(
        [
            normalizers.Precompiled(charsmap({"Ａ".encode(): "A", "\u3000".encode(): " "})),
            normalizers.Replace("  ", " "),
        ]
    )
    made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    made.decoder = decoders.Metaspace(prepend_scheme="first")
    made.add_special_tokens(list(special))
    return made


def _albert() -> Tokenizer:
    """A Unigram model that has the tokens around a text itself."""
    return _unigram(("<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]"))


def _bytes() -> Tokenizer:
    """Byte-level, with merges over every border that a pre-tokenizer may set, so that each of them shows."""
    vocabulary, merges = learned("<s>", "</s>", "<|im_end|>")
    made = Tokenizer(models.BPE(vocabulary, merges))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens(["<s>", "<|im_start|>", AddedToken("[MASK]", lstrip=True, special=True)])
    made.post_processor = processors.TemplateProcessing(
        "<s> $A", "<s> $A $B", [("<s>", made.token_to_id("<s>"))]
    )
    return made


def _digits() -> Tokenizer:
    """The same, with single digits, as SmolLM2's."""
    made = _bytes()
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    return made


def _whisper() -> Tokenizer:
    """The same, with tokens of Whisper's, where it has them."""
    made = _bytes()
    made.add_special_tokens(["<|endoftext|>", "<|startoftranscript|>", "<|en|>", "<|zh|>", "<|de|>"])
    made.add_special_tokens(["<|translate|>", "<|transcribe|>", "<|notimestamps|>"])
    return made


KINDS = {
    "wordpiece": text_strategies.wordpiece,
    "bytes": _bytes,
    "digits": _digits,
    "whisper": _whisper,
    "bpe": text_strategies.sentencepiece,
    "unigram": _unigram,
    "albert": _albert,
}


@cache
def _definition(kind: str) -> str:
    return KINDS[kind]().to_str()


# Kind of tokenizer.json -> model_type:tokenizer_class, or the model_type alone where none is named.
TABLE = {
    "wordpiece": "bert bert:BertTokenizer bert:BertTokenizerFast bert:PreTrainedTokenizerFast distilbert "
    "distilbert:DistilBertTokenizer electra electra:ElectraTokenizerFast gpt2:BertTokenizer",
    "unigram": "bert:XLMRobertaTokenizer xlm-roberta xlm-roberta:XLMRobertaTokenizerFast t5:T5TokenizerFast "
    "mt5 pegasus:PegasusTokenizerFast mbart:MBartTokenizerFast mbart:MBart50TokenizerFast",
    "bytes": "roberta roberta:RobertaTokenizerFast bart:BartTokenizer gpt2 opt:GPT2Tokenizer mpt "
    "gpt_neox:GPTNeoXTokenizerFast qwen2:Qwen2Tokenizer qwen2:LlamaTokenizerFast qwen3:Qwen2TokenizerFast "
    "qwen3_moe:PreTrainedTokenizerFast llama:LlamaTokenizerFast llama:PreTrainedTokenizerFast "
    "stablelm:GPTNeoXTokenizerFast modernbert:PreTrainedTokenizerFast cohere:CohereTokenizerFast "
    "bloom:BloomTokenizerFast smollm3:PreTrainedTokenizerFast",
    "digits": "gpt2:GPT2TokenizerFast gpt2:PreTrainedTokenizerFast starcoder2 qwen2_moe llama:GPT2Tokenizer "
    "granite:GPT2Tokenizer olmo2:GPT2Tokenizer cohere falcon:PreTrainedTokenizerFast",
    "bpe": "llama llama:LlamaTokenizer llama:LlamaTokenizerFast llama:CodeLlamaTokenizer "
    "gemma:GemmaTokenizer gemma2 gemma3_text:GemmaTokenizerFast mistral:LlamaTokenizer "
    "mixtral phi3:LlamaTokenizerFast m2m_100:NllbTokenizerFast",
}
CLASSES = [
    (model_type, name or None, kind)
    for kind, entries in TABLE.items()
    for model_type, _, name in (entry.partition(":") for entry in entries.split())
]
CLASSES += [
    ("mpnet", None, "wordpiece"), ("bert", "MPNetTokenizerFast", "wordpiece"), ("camembert", None, "unigram"),
    ("albert", None, "albert"), ("bert", "AlbertTokenizerFast", "albert"),
    ("qwen3_5", None, "bytes"), ("qwen3_5_text", "Qwen3_5Tokenizer", "bytes"), ("mamba2", None, "bytes"),
    ("deberta", None, "bytes"), ("deberta-v2", None, "unigram"),
    ("deberta-v2", "DebertaV2TokenizerFast", "albert"), ("big_bird", None, "albert"),
    ("longformer", None, "bytes"), ("mamba", None, "bytes"),
    ("whisper", "WhisperTokenizer", "whisper"), ("whisper", None, "whisper"), ("whisper", None, "bytes"),
    ("falcon_mamba", None, "bytes"),
    ("rwkv", None, "bytes"), ("jamba", "LlamaTokenizer", "bpe"), ("led", None, "bytes"),
    ("convbert", "ConvBertTokenizer", "wordpiece"),
]  # fmt: skip
FLAGS = {
    "do_lower_case": (True, False), "tokenize_chinese_chars": (True, False),
    "strip_accents": (True, False, None),
    "add_prefix_space": (True, False), "trim_offsets": (True, False), "legacy": (True, False, None),
    "add_bos_token": (True, False), "add_eos_token": (True, False), "model_max_length": (3, 512, 10**30),
    "clean_up_tokenization_spaces": (True, False), "from_slow": (True,), "use_fast": (False,),
    "padding_side": ("left", "right"), "truncation_side": ("left",), "errors": ("replace",), "max_len": (4,),
    "extra_ids": (100, 3), "src_lang": ("ro_RO", None),
    "legacy_behaviour": (True, False), "offset": (103, 4), "keep_accents": (True,),
    "clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output": (True, False),
    "image_token": ("<image>",),
}  # fmt: skip
NAMES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
# Words of the vocabularies, special tokens of some, and tokens of none.
CONTENTS = (
    "<s>",
    "</s>",
    "[SEP]",
    "[MASK]",
    "the",
    "<|im_end|>",
    "<new>",
    "New Token",
    "<mask>",
    "café",
    "<|im_start|>",
)


def _flags(draw: random.Random) -> dict[str, bool]:
    names = ("lstrip", "rstrip", "single_word", "normalized")
    return {name: draw.random() < 0.4 for name in names}


def _special(draw: random.Random, tagged: bool) -> Any:
    """A special token as tokenizer_config.json writes it, or as special_tokens_map.json does."""
    content = draw.choice(CONTENTS)
    if draw.random() < 0.6:
        return content
    return {**({"__type": "AddedToken"} if tagged else {}), "content": content, **_flags(draw)}


def _named(draw: random.Random, tagged: bool) -> dict[str, Any]:
    return {name: _special(draw, tagged) for name in NAMES if draw.random() < 0.3}


@dataclass(frozen=True)
class Files:
    """The JSON files of a directory by their names."""

    values: dict[str, Any]

    def write(self, folder: Path) -> Path:
        folder.mkdir()
        for name, value in self.values.items():
            (folder / name).write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")
        return folder


def drawn_settings(draw: random.Random, name: str | None) -> dict[str, Any]:
    """A tokenizer_config.json that names a class, or none."""
    settings: dict[str, Any] = {} if name is None else {"tokenizer_class": name}
    settings |= {key: draw.choice(values) for key, values in FLAGS.items() if draw.random() < 0.35}
    if name is not None and name.startswith("Nllb") and settings.get("src_lang") is not None:
        settings["src_lang"] = "ron_Latn"
    settings |= _named(draw, True)
    if draw.random() < 0.3:
        settings["additional_special_tokens"] = [_special(draw, True) for _ in range(3)]
    if draw.random() < 0.2:
        settings["extra_special_tokens"] = draw.choice(
            ([], ["<more>"], {"audio_token": "<audio>"}, [_special(draw, True), "the"])
        )
    return settings


def drawn(number: int, seed: int) -> Files:
    """The directory of a class, with settings that follow from the seed."""
    model_type, name, kind = CLASSES[number]
    draw = random.Random(1000 * seed + number)
    definition = json.loads(_definition(kind))
    if kind == "bpe" and draw.random() < 0.5:
        definition["post_processor"] = None
    if draw.random() < 0.3:
        definition["padding"] = {
            "strategy": "BatchLongest", "direction": "Right", "pad_to_multiple_of": None, "pad_id": 1,
            "pad_type_id": 0, "pad_token": draw.choice(CONTENTS),
        }  # fmt: skip
        definition["truncation"] = {
            "direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0
        }  # fmt: skip
    settings = drawn_settings(draw, name)
    values: dict[str, Any] = {"config.json": {"model_type": model_type}, "tokenizer.json": definition}
    if draw.random() < 0.5:
        tokens = draw.sample(definition["added_tokens"], draw.randint(0, len(definition["added_tokens"])))
        decoder = {str(t["id"]): {k: v for k, v in t.items() if k != "id"} for t in tokens}
        decoder |= {
            str(5000 + i): {"content": draw.choice(CONTENTS), **_flags(draw), "special": draw.random() < 0.5}
            for i in range(draw.randint(0, 3))
        }
        settings["added_tokens_decoder"] = decoder
    if draw.random() < 0.4:
        values["special_tokens_map.json"] = _named(draw, False)
        if draw.random() < 0.5:
            values["special_tokens_map.json"]["additional_special_tokens"] = ["<a>", "<b>", "the"]
    if draw.random() < 0.3:
        values["added_tokens.json"] = {"<legacy>": 6000, "cat": 6001}
    if settings or draw.random() < 0.5:
        values["tokenizer_config.json"] = settings
    if model_type == "deberta-v2":
        settings["split_by_punct"] = draw.random() < 0.5
    if kind == "whisper":
        stated = {"language": ("German", "en", "mandarin", None), "task": ("transcribe", "translate", None)}
        settings |= {key: draw.choice(values) for key, values in stated.items()}
        settings["predict_timestamps"] = draw.random() < 0.5
    if name is not None and name.startswith("Nllb"):
        # Where its vocabulary lacks the unknown token, the library encodes no text with an unknown letter.
        for file in values.values():
            file.pop("unk_token", None)
    return Files(values)
