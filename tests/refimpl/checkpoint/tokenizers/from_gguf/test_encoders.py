"""Byte-level tokenizers of encoders from GGUF: RoBERTa's and ModernBERT's frames, masks and segments."""

import json
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import transformers
from helpers.gguf_tokenizers import (
    CONTROL,
    NORMAL,
    TEXT,
    UNICODE,
    USER,
    converted,
    learned,
    mixed,
    read,
    same,
    survives,
)
from helpers.refused import refused
from hypothesis import given
from hypothesis import strategies as st
from tfm.refimpl.errors import CheckpointError
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

ROBERTA = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")
MODERN = ("[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]")


def roberta() -> transformers.PreTrainedTokenizerBase:
    vocabulary, merges = learned(*ROBERTA)
    return transformers.RobertaTokenizer(
        vocab=vocabulary, merges=merges, mask_token=AddedToken("<mask>", lstrip=True)
    )


def modern() -> transformers.PreTrainedTokenizerBase:
    """ModernBERT's, of the library's parts: GPT-NeoX's cut, BERT's frame."""
    vocabulary, merges = learned(*MODERN)
    made = Tokenizer(models.BPE(vocabulary, merges))
    made.normalizer = normalizers.NFC()
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens([AddedToken(t, lstrip=t == "[MASK]", normalized=False) for t in MODERN])
    made.add_tokens([AddedToken("    ", normalized=True), AddedToken("|||IP|||", normalized=True)])
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", vocabulary["[CLS]"]), ("[SEP]", vocabulary["[SEP]"])],
    )  # fmt: skip
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=made, unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]", pad_token="[PAD]",
        mask_token=AddedToken("[MASK]", lstrip=True),
    )  # fmt: skip


KINDS = {"roberta-bpe": roberta, "modern-bert": modern}


@cache
def stated(pre: str) -> tuple[transformers.PreTrainedTokenizerBase, dict]:
    """The original, and the metadata of the file that the converter makes of it."""
    original = KINDS[pre]()
    added, ids = original.added_tokens_decoder, original.get_vocab()
    tokens = sorted(ids, key=lambda token: ids[token])
    kinds = {i: CONTROL if token.special else USER for i, token in added.items()}
    types = [kinds.get(i, NORMAL) for i in range(len(tokens))]
    by_hand = {} if pre == "roberta-bpe" else dict.fromkeys(("bos", "eos", "sep"), True)
    flags = {f"add_{name}_token": value for name, value in by_hand.items()}
    with TemporaryDirectory() as folder:
        found = converted(Path(folder), original, "gpt2", tokens, types, tokenizer_pre=pre, **flags)
    return original, found


@cache
def both(pre: str) -> tuple[Tokenizer, Tokenizer]:
    original, found = stated(pre)
    tokenizer = original.backend_tokenizer
    assert isinstance(tokenizer, Tokenizer)
    return read(found), tokenizer


MARKED = [f"a {mask}b" for mask in ("<mask>", "[MASK]")]
MARKED += ["  <mask> [MASK]", "<s>x</s> [CLS]y[SEP]", "a    b|||IP|||      c", "", " ", " a"]


@pytest.mark.parametrize("pre", KINDS)
def test_texts_and_pairs(pre):
    ours, original = both(pre)
    for text in TEXT + MARKED + mixed(100):
        same(ours, original, text)
        same(ours, original, text, TEXT[0])


@pytest.mark.parametrize("pre", KINDS)
@given(texts=st.lists(UNICODE, min_size=1, max_size=2))
def test_any_unicode(pre, texts):
    same(*both(pre), *texts)


def test_what_the_frames_are():
    """By hand: the originals above may not be the models'."""
    ids = both("roberta-bpe")[0].encode("x", "y")
    assert [t for t in ids.tokens if len(t) > 1] == ["<s>", "</s>", "</s>", "</s>"]
    assert ids.tokens[2:4] == ["</s>", "</s>"]
    assert set(ids.type_ids) == {0}
    ids = both("modern-bert")[0].encode("x", "y")
    assert ids.tokens == ["[CLS]", "x", "[SEP]", "y", "[SEP]"]
    assert ids.type_ids == [0, 0, 0, 1, 1]


@pytest.mark.parametrize("pre", KINDS)
def test_a_mask_that_only_its_name_tells(pre):
    found = dict(stated(pre)[1])
    assert found.pop("tokenizer.ggml.mask_token_id") == 4
    assert json.loads(read(found).to_str()) == json.loads(both(pre)[0].to_str())


@pytest.mark.parametrize(
    ("pre", "change", "words"),
    [
        ("roberta-bpe", {"add_bos_token": False}, "add_bos_token true False"),
        ("modern-bert", {"add_eos_token": False}, "add_eos_token true False"),
        ("roberta-bpe", {"add_eos_token": None}, "add_eos_token true None"),
        ("roberta-bpe", {"add_sep_token": False}, "add_sep_token true False"),
        ("roberta-bpe", {"add_sep_token": 1}, "add_sep_token"),
        ("roberta-bpe", {"cls_token_id": 1}, "bos_token_id cls_token_id 0 1"),
        ("modern-bert", {"seperator_token_id": 3}, "eos_token_id seperator_token_id 2 3"),
        ("modern-bert", {"bos_token_id": None}, "bos_token_id cls_token_id None"),
        ("modern-bert", {"eos_token_id": 10**6}, "eos_token_id 0"),
        ("modern-bert", {"mask_token_id": 10**6}, "mask_token_id 0"),
        ("roberta-bpe", {"mask_token_id": "4"}, "mask_token_id"),
    ],
)
def test_what_contradicts_the_frame(pre, change, words):
    found = stated(pre)[1] | {f"tokenizer.ggml.{key}": value for key, value in change.items()}
    with refused(CheckpointError, *words.split()):
        read(found)


@pytest.mark.parametrize(("pre", "flags"), [("modern-bert", (True, False, None)), ("roberta-bpe", (None,))])
def test_what_versions_of_the_converter_say_of_one_separator_more(pre, flags):
    """By hand it once called for one that ModernBERT's frame doesn't have; of RoBERTa's it said nothing."""
    for flag in flags:
        found = stated(pre)[1] | {"tokenizer.ggml.add_sep_token": flag}
        ours = read(found)
        assert ours.to_str() == both(pre)[0].to_str()


@pytest.mark.parametrize("pre", KINDS)
def test_odd_values(pre):
    assert survives(stated(pre)[1]) > 100
