"""Directories of tokenizers without tokenizer.json: older vocabularies, with drawn settings beside them."""

from __future__ import annotations

import io
import json
import random
from functools import cache
from pathlib import Path

import sentencepiece
from sentencepiece import sentencepiece_model_pb2

from .gguf_tokenizers import TEXT, learned, mixed
from .text_strategies import wordpiece
from .tokenizer_directories import drawn_settings

CONTROL, USER_DEFINED = ["<ctl>"], ["<user>", "\n\n"]
# How a model is trained -> options of SentencePiece's trainer.
MODELS = {
    "fairseq": {"model_type": "unigram", "unk_id": 0, "bos_id": 1, "eos_id": 2},
    "t5": {"model_type": "unigram", "pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1},
    "albert": {
        "model_type": "unigram", "pad_id": 0, "unk_id": 1, "bos_id": -1, "eos_id": -1,
        "control_symbols": ["[CLS]", "[SEP]", "[MASK]"],
    },
    "deberta": {
        "model_type": "unigram", "pad_id": 0, "bos_id": 1, "eos_id": 2, "unk_id": 3, "pad_piece": "[PAD]",
        "bos_piece": "[CLS]", "eos_piece": "[SEP]", "unk_piece": "[UNK]",
    },
    "bpe": {"model_type": "bpe", "byte_fallback": True, "normalization_rule_name": "identity"},
    "bpe of its own": {
        "model_type": "bpe", "byte_fallback": True, "normalization_rule_name": "nmt_nfkc",
        "user_defined_symbols": USER_DEFINED, "control_symbols": CONTROL,
    },
    "no prefix": {
        "model_type": "bpe", "byte_fallback": True, "add_dummy_prefix": False,
        "remove_extra_whitespaces": False, "normalization_rule_name": "identity",
        "user_defined_symbols": USER_DEFINED,
    },
}  # fmt: skip


@cache
def spm(kind: str) -> bytes:
    """A small SentencePiece model of a few sentences in several scripts."""
    writer = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([line for text in (*TEXT * 20, *mixed(200)) for line in text.split("\n")]),
        model_writer=writer, vocab_size=600, hard_vocab_limit=False, minloglevel=2, num_threads=1,
        character_coverage=0.98, **MODELS[kind],
    )  # fmt: skip
    if kind != "bpe of its own":
        return writer.getvalue()
    model = sentencepiece_model_pb2.ModelProto.FromString(writer.getvalue())
    normal = [piece for piece in model.pieces if piece.type == piece.NORMAL]
    scores = random.Random(0).sample([piece.score for piece in normal], len(normal))
    for piece, score in zip(normal, scores, strict=True):  # in another order than the ids
        piece.score = score
    return model.SerializeToString()


def _wordpiece() -> dict[str, bytes]:
    tokens = sorted(wordpiece().get_vocab().items(), key=lambda item: item[1])
    return {"vocab.txt": "".join(f"{token}\n" for token, _ in tokens).encode()}


def _bytes() -> dict[str, bytes]:
    vocabulary, merges = learned("<s>", "</s>", "<|im_end|>")
    lines = "".join(f"{left} {right}\n" for left, right in merges)
    return {"vocab.json": json.dumps(vocabulary).encode(), "merges.txt": f"#version: 0.2\n{lines}".encode()}


# The vocabulary -> model_type:tokenizer_class, or the model_type alone where none is named.
TABLE = {
    "vocab.txt": "bert bert:BertTokenizer distilbert:DistilBertTokenizer electra:ElectraTokenizer "
    "mpnet mpnet:MPNetTokenizer",
    "vocab.json": "gpt2 gpt2:GPT2Tokenizer roberta roberta:RobertaTokenizer bart:BartTokenizer "
    "opt:GPT2Tokenizer qwen2 qwen3:Qwen2Tokenizer gpt_neox starcoder2:GPT2Tokenizer",
    "t5/spiece.model": "t5 t5:T5Tokenizer mt5:T5Tokenizer pegasus pegasus:PegasusTokenizer",
    "fairseq/sentencepiece.bpe.model": "xlm-roberta xlm-roberta:XLMRobertaTokenizer mbart:MBartTokenizer "
    "mbart:MBart50Tokenizer camembert",
    "albert/spiece.model": "albert albert:AlbertTokenizer",
    "bpe/tokenizer.model": "llama:LlamaTokenizer llama:CodeLlamaTokenizer gemma gemma2:GemmaTokenizer",
    "bpe of its own/tokenizer.model": "mistral:LlamaTokenizer mixtral llama:LlamaTokenizer "
    "phi3:LlamaTokenizer",
    "no prefix/tokenizer.model": "mistral gemma:GemmaTokenizer",
    "fairseq/tokenizer.model": "mistral",
    "deberta/spm.model": "deberta-v2 deberta-v2:DebertaV2Tokenizer",
}
DIRECTORIES = [
    (model_type, name or None, kind)
    for kind, entries in TABLE.items()
    for model_type, _, name in (entry.partition(":") for entry in entries.split())
]
DIRECTORIES += [("deberta", None, "vocab.json"), ("deberta", "DebertaTokenizer", "vocab.json")]
DIRECTORIES += [("big_bird", None, "fairseq/spiece.model")]
DIRECTORIES += [("longformer", None, "vocab.json"), ("longformer", "LongformerTokenizer", "vocab.json")]
DIRECTORIES += [("led", None, "vocab.json"), ("led", "LEDTokenizer", "vocab.json")]
DIRECTORIES += [("whisper", None, "vocab.json"), ("whisper", "WhisperTokenizer", "vocab.json")]


def write(number: int, seed: int, folder: Path) -> Path:
    """The directory of this number, with settings that follow from the seed."""
    model_type, name, kind = DIRECTORIES[number]
    folder.mkdir()
    trained, _, file = kind.rpartition("/")
    files = {file: spm(trained)} if trained else (_wordpiece() if kind == "vocab.txt" else _bytes())
    draw = random.Random(1000 * seed + number)
    settings = drawn_settings(draw, name)
    if draw.random() < 0.5:  # of pieces, which then have another name, and of new tokens
        ids, flags = (4, 300, 5000), ("lstrip", "rstrip", "normalized", "special")
        settings["added_tokens_decoder"] = {
            str(id): {"content": f"<named {id}>", **{flag: draw.random() < 0.4 for flag in flags}}
            for id in draw.sample(ids, draw.randint(0, 3))
        }
    if model_type == "deberta-v2":
        settings["split_by_punct"] = draw.random() < 0.5
    stated = {"config.json": {"model_type": model_type}, "tokenizer_config.json": settings if seed else {}}
    if name is not None:
        stated["tokenizer_config.json"]["tokenizer_class"] = name
    for path, data in (files | {path: json.dumps(value).encode() for path, value in stated.items()}).items():
        (folder / path).write_bytes(data)
    return folder
