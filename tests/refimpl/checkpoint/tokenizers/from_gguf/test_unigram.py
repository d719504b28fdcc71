"""SentencePiece's Unigram from GGUF: T5's and XLM-RoBERTa's tokenizers, as the converter writes them."""

import json
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
import transformers
from helpers.gguf_tokenizers import (
    BYTE,
    CONTROL,
    NORMAL,
    TEXT,
    UNICODE,
    UNKNOWN,
    UNUSED,
    USER,
    charsmap,
    converted,
    mixed,
    read,
    same,
    survives,
)
from helpers.refused import refused
from hypothesis import given
from hypothesis import strategies as st
from tfm.refimpl.errors import CheckpointError
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

RULES = {
    "\n": " ", "\t": " ", "\r": " ", "\u3000": " ", "ﬁ": "fi", "①": "1", "e\u0301": "é", "\u200b": "",
    "＜": "<", "＞": ">", "／": "/", "ｐ": "p", "ａ": "a", "ｄ": "d", "½": "1⁄2",
}  # fmt: skip
CHARSMAP = charsmap({key.encode(): new for key, new in RULES.items()})
ROWS = 7  # that fill the table up
T5, XLM = ("<pad>", "</s>", "<unk>"), ("<s>", "<pad>", "</s>", "<unk>")
SENTINELS = tuple(f"<extra_id_{i}>" for i in range(4, -1, -1))


@cache
def pieces() -> list[tuple[str, float]]:
    """Pieces with their log-probabilities, learned from the texts; scores as a file keeps them."""
    made = Tokenizer(models.Unigram())
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=400, unk_token="<unk>", special_tokens=["<unk>"], show_progress=False
    )
    made.train_from_iterator(TEXT * 3 + mixed(100), trainer)
    scored = json.loads(made.to_str())["model"]["vocab"][1:]
    scored.append(["x▁y", -1.0])  # which no word may hold: words begin at each "▁"
    return [(piece, float(np.float32(score))) for piece, score in scored]


def t5(*sentinels: str) -> transformers.PreTrainedTokenizerBase:
    vocabulary = [*((token, 0.0) for token in T5), *pieces(), *((token, 0.0) for token in sentinels)]
    return transformers.T5Tokenizer(
        vocab=vocabulary, _spm_precompiled_charsmap=CHARSMAP, extra_ids=len(sentinels),
        additional_special_tokens=list(sentinels) or None,
    )  # fmt: skip


def xlm_roberta() -> transformers.PreTrainedTokenizerBase:
    vocabulary = [*((token, 0.0) for token in XLM), *pieces(), ("<mask>", 0.0)]
    return transformers.XLMRobertaTokenizer(
        vocab=vocabulary, _spm_precompiled_charsmap=CHARSMAP, mask_token=AddedToken("<mask>", lstrip=True)
    )


def filled(entries: list[tuple[str, float, int]], rows: int) -> dict:
    """The tokens, scores and types of a table, its last rows without a name as the converter leaves them."""
    entries = entries + [(f"[PAD{i}]", -10_000.0, UNUSED) for i in range(len(entries), rows)]
    tokens, scores, types = zip(*entries, strict=True)
    return {"tokens": tokens, "types": types, "token_scores": scores}


def learned(kind: int = NORMAL) -> list[tuple[str, float, int]]:
    return [(piece, score, kind) for piece, score in pieces()]


def t5_file(*sentinels: str) -> dict:
    """From spiece.model, and added_tokens.json if there is one."""
    control = [(token, 0.0, UNKNOWN if token == "<unk>" else CONTROL) for token in T5]
    entries = control + learned() + [(token, -1000.0, USER) for token in sentinels]
    return filled(entries, len(entries) + ROWS) | {"remove_extra_whitespaces": True}


def xlm_file(model: bool) -> dict:
    """From sentencepiece.bpe.model, which has no mask, its ids moved; or from tokenizer.json."""
    control = [(token, 0.0, UNKNOWN if token == "<unk>" else CONTROL) for token in XLM]
    entries = control + learned() + ([] if model else [("<mask>", 0.0, CONTROL)])
    # Without a model the converter writes another flag of the tokenizer for this one.
    return filled(entries, len(control) + len(pieces()) + 1) | {
        "remove_extra_whitespaces": model, "token_type_count": 1,
    }  # fmt: skip


KINDS = {
    "t5": (t5, t5_file),
    "t5 with sentinels": (lambda: t5(*SENTINELS), lambda: t5_file(*SENTINELS)),
    "xlm-roberta": (xlm_roberta, lambda: xlm_file(True)),
    "xlm-roberta without a model": (xlm_roberta, lambda: xlm_file(False)),
}


@cache
def stated(kind: str) -> tuple[transformers.PreTrainedTokenizerBase, dict]:
    """The original, and the metadata of the file that the converter makes of it."""
    original, entries = KINDS[kind][0](), KINDS[kind][1]()
    with TemporaryDirectory() as folder:
        found = converted(
            Path(folder), original, "t5", entries.pop("tokens"), entries.pop("types"),
            tokenizer_pre="default", add_space_prefix=True, precompiled_charsmap=CHARSMAP, **entries,
        )  # fmt: skip
    return original, found


@cache
def both(kind: str) -> tuple[Tokenizer, Tokenizer]:
    original, found = stated(kind)
    tokenizer = original.backend_tokenizer
    assert isinstance(tokenizer, Tokenizer)
    return read(found), tokenizer


MARKED = [
    "a <mask>b", "  <mask> x<mask>", "<extra_id_0> x <extra_id_4>y", "<pad>a</s> <unk><s>", "", " ", " a ",
    "＜pad＞＜/s＞ ＜extra_id_1＞", "＜mask＞ ＜unk＞", "▁a▁▁b ▁ x▁y", "ﬁ①e\u0301\u200b½ \u3000x",
    "[PAD404] 中国人你好",
]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_texts_and_pairs(kind):
    ours, original = both(kind)
    for text in TEXT + MARKED + mixed(100):
        same(ours, original, text)
        same(ours, original, text, TEXT[0])


RULED = st.lists(st.sampled_from([*"abc ▁<mask>中", *RULES]), max_size=20).map("".join)


@pytest.mark.parametrize("kind", KINDS)
@given(texts=st.lists(UNICODE | RULED, min_size=1, max_size=2))
def test_any_unicode(kind, texts):
    same(*both(kind), *texts)


def test_what_the_frames_are():
    """By hand: the originals above may not be the models'."""
    frames = {"t5": "x </s> y </s>", "xlm-roberta": "<s> x </s> </s> y </s>"}
    for kind, frame in frames.items():
        found = both(kind)[0].encode("x", "y")
        assert " ".join(found.tokens).replace("▁ ", "").replace("▁", "") == frame
        assert set(found.type_ids) == {0}


def changed(kind: str, **change: object) -> dict:
    found = stated(kind)[1] | {f"tokenizer.ggml.{key}": value for key, value in change.items()}
    return {key: value for key, value in found.items() if value is not None}


def test_what_ends_a_text_of_t5():
    """Files of models that were saved without a tokenizer.json say nothing of it."""
    assert read(changed("t5", add_eos_token=None)).to_str() == both("t5")[0].to_str()
    without = read(changed("t5", add_eos_token=False))
    assert without.encode("x").ids == both("t5")[0].encode("x").ids[:-1]


def test_without_rules_and_without_a_space_before_words():
    ours, original = (
        read(changed("t5", precompiled_charsmap=None, add_space_prefix=False)),
        t5().backend_tokenizer,
    )
    original.normalizer = None
    original.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(prepend_scheme="never")]
    )
    original.decoder = decoders.Metaspace(prepend_scheme="never")
    for text in TEXT + MARKED + mixed(50):
        same(ours, original, text)


def test_rules_in_signed_bytes():
    """llama.cpp takes both."""
    signed = np.frombuffer(CHARSMAP, np.int8).tolist()
    assert min(signed) < 0
    assert read(changed("t5", precompiled_charsmap=signed)).to_str() == both("t5")[0].to_str()


def test_letters_that_no_piece_has_in_bytes():
    entries = [*((t, 0.0, UNKNOWN if t == "<unk>" else CONTROL) for t in T5), *learned()]
    entries += [(f"<0x{byte:02X}>", -1.0, BYTE) for byte in range(256)]
    file = filled(entries, len(entries))
    original = t5().backend_tokenizer
    original.model = models.Unigram([entry[:2] for entry in entries], unk_id=2, byte_fallback=True)
    original.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace()])
    ours = read(changed("t5", tokens=list(file["tokens"]), scores=list(file["token_scores"]),
                        token_type=list(file["types"])))  # fmt: skip
    assert "<0xF0>" in ours.encode("\U00013000").tokens
    for text in TEXT + MARKED + ["\U00013000 \u1234x\u1234"]:
        same(ours, original, text)


def test_a_mask_has_only_its_id_or_only_its_name():
    found = stated("xlm-roberta")[1]
    last = len(found["tokenizer.ggml.tokens"]) - 1
    assert found["tokenizer.ggml.tokens"][last] == f"[PAD{last}]"
    assert both("xlm-roberta")[0].token_to_id("<mask>") == found["tokenizer.ggml.mask_token_id"] == last
    named = read(changed("xlm-roberta without a model", mask_token_id=None))
    assert named.to_str() == both("xlm-roberta without a model")[0].to_str()
    assert read(changed("xlm-roberta", mask_token_id=None)).token_to_id("<mask>") is None


def replaced(kind: str, key: str, at: int, value: object) -> dict:
    items = list(stated(kind)[1][f"tokenizer.ggml.{key}"])
    items[at] = value
    return {key: items}


@pytest.mark.parametrize(
    ("kind", "change", "message"),
    [
        ("t5", {"add_bos_token": True}, "add_bos_token false T5"),
        ("t5", {"add_sep_token": True}, "add_sep_token false T5"),
        ("t5", {"add_eos_token": 1}, "add_eos_token"),
        ("t5", {"eos_token_id": True}, "eos_token_id True"),
        ("t5", {"eos_token_id": 10**6}, "eos_token_id 0"),
        ("t5", {"remove_extra_whitespaces": False}, "remove_extra_whitespaces true T5"),
        ("t5", {"remove_extra_whitespaces": None}, "remove_extra_whitespaces"),
        ("t5", {"add_space_prefix": None}, "add_space_prefix"),
        ("t5", {"token_type_count": 2}, "add_sep_token true XLM-RoBERTa False"),
        ("xlm-roberta", {"token_type_count": None}, "add_bos_token false T5"),
        ("xlm-roberta", {"token_type_count": "1"}, "token_type_count"),
        ("xlm-roberta", {"add_bos_token": False}, "add_bos_token true XLM-RoBERTa False"),
        ("xlm-roberta", {"add_sep_token": False}, "add_sep_token true XLM-RoBERTa"),
        ("xlm-roberta", {"cls_token_id": 1}, "bos_token_id cls_token_id"),
        ("xlm-roberta", {"mask_token_id": 10**6}, "mask_token_id 0"),
        ("t5", {"unknown_token_id": 1}, "unknown_token_id 2 type 1"),
        ("t5", replaced("t5", "token_type", 2, NORMAL), "token_type 2 0"),
        ("t5", replaced("t5", "token_type", 1, UNKNOWN), "token_type 2 2"),
        ("t5", replaced("t5", "token_type", 9, UNUSED), "token_type 5 9"),
        ("t5", {"token_type": [UNUSED] * len(T5)}, "token_type"),
        ("t5", {"scores": None}, "scores"),
        ("t5", replaced("t5", "scores", 9, float("nan")), "scores nan 9"),
        ("t5", replaced("t5", "scores", 9, -float("inf")), "scores -inf 9"),
        ("t5", replaced("t5", "tokens", 9, "</s>"), "tokens '</s>'"),
        ("t5", {"precompiled_charsmap": "abc"}, "precompiled_charsmap"),
        ("t5", {"precompiled_charsmap": [1.5] * 99}, "precompiled_charsmap"),
        ("t5", {"precompiled_charsmap": [256] * 99}, "precompiled_charsmap 9 1048576"),
        ("t5", {"precompiled_charsmap": [4, *[0] * 7]}, "precompiled_charsmap 9 8"),
        ("t5", {"precompiled_charsmap": [0] * (2**20 + 1)}, "9 1048576 bytes 1048577"),
        ("t5", {"precompiled_charsmap": [0] * 99}, "precompiled_charsmap 0"),
        ("t5", {"precompiled_charsmap": [6, *[0] * 98]}, "longer 6"),
        ("t5", {"precompiled_charsmap": [96, *[0] * 99]}, "longer 96"),
    ],
)
def test_refused(kind, change, message):
    with refused(CheckpointError, *message.split()):
        read(changed(kind, **change))


def test_two_masks():
    found = replaced("xlm-roberta", "tokens", 9, "<mask>")
    with refused(CheckpointError, "mask_token_id", "<mask>"):
        read(changed("xlm-roberta", **found))


@pytest.mark.parametrize("kind", KINDS)
def test_odd_values(kind):
    assert survives(stated(kind)[1]) > 100
