"""BERT in both dialects: safetensors beside a sentence encoder's files, and GGUF as llama.cpp converts it."""

import json
from pathlib import Path

import gguf
import numpy as np
import pytest
import transformers
from helpers.float64 import randomize
from helpers.gguf_tokenizers import as_read
from helpers.refused import refused
from tfm.refimpl.checkpoint.open import open_checkpoint
from tfm.refimpl.checkpoint.tokenizers.from_gguf.reader import tokenizer
from tfm.refimpl.config import Pool
from tfm.refimpl.errors import TfmError
from tfm.refimpl.params.tree import flatten
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = [*SPECIALS, "the", "cat", "sat", "##s", "##ting", "on", "mat", "naive", ",", ".", "!"]
WORDS += ["中", "文", "a", "b", "##b", "run", "##n"]
CONTROL = len(SPECIALS)
SPECIAL = {"unknown": 1, "seperator": 3, "padding": 0, "mask": 4, "cls": 2}
FLAGS = {"cls": (2, "cls_token"), "mean": (1, "mean_tokens"), "last": (3, "lasttoken")}


def metadata(words: list[str], **more: object) -> dict[str, object]:
    """What a GGUF file says of a WordPiece vocabulary: "▁" before the words, no "##"."""
    phantom = [word[2:] if word.startswith("##") else f"▁{word}" for word in words[CONTROL:]]
    types = [3] * CONTROL + [1] * len(phantom)
    keys = {"model": "bert", "tokens": words[:CONTROL] + phantom, "token_type": types}
    keys |= {f"{name}_token_id": i for name, i in SPECIAL.items()} | more
    return {f"tokenizer.ggml.{key}": value for key, value in keys.items()}


@pytest.fixture(scope="module", params=["cls", "mean", "last"])
def both(request, tmp_path_factory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp(request.param)
    config = transformers.BertConfig(
        vocab_size=len(WORDS), hidden_size=24, num_hidden_layers=2, num_attention_heads=3,
        intermediate_size=40, max_position_embeddings=32, type_vocab_size=2, layer_norm_eps=2.0**-20,
    )  # fmt: skip
    model = randomize(transformers.BertModel(config), seed=5).float()
    model.save_pretrained(folder)
    number, flag = FLAGS[request.param]
    steps = [{"path": path, "type": f"sentence_transformers.models.{kind}"} for path, kind in
             (("", "Transformer"), ("1_Pooling", "Pooling"))]  # fmt: skip
    (folder / "modules.json").write_text(json.dumps(steps))
    (folder / "1_Pooling").mkdir()
    # A mean that isn't denied is one, as in sentence-transformers.
    pooling = {
        "word_embedding_dimension": 24,
        "pooling_mode_mean_tokens": False,
        f"pooling_mode_{flag}": True,
    }
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    file = folder / "model.gguf"
    writer = gguf.GGUFWriter(file, "bert")
    for key, value in {
        "block_count": 2, "context_length": 32, "embedding_length": 24, "feed_forward_length": 40,
        "attention.head_count": 3, "pooling_type": number,
    }.items():  # fmt: skip
        writer.add_uint32(f"bert.{key}", value)
    writer.add_layer_norm_eps(config.layer_norm_eps)
    writer.add_causal_attention(False)
    writer.add_tokenizer_model("bert")
    stated = metadata(WORDS)
    writer.add_token_list(stated["tokenizer.ggml.tokens"])
    writer.add_token_types(stated["tokenizer.ggml.token_type"])
    writer.add_token_type_count(2)
    for name, i in SPECIAL.items():
        writer.add_uint32(f"tokenizer.ggml.{name}_token_id", i)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.BERT, 2)
    for name, weight in model.state_dict().items():
        if "pooler" not in name and "position_ids" not in name:  # which the converter leaves out
            stem, end = name.rsplit(".", 1)
            writer.add_tensor(f"{names.get_name(stem)}.{end}", weight.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return folder, file


def test_both_dialects_give_equal_configs_and_leaves(both):
    ours, theirs = (open_checkpoint(path) for path in both)
    assert ours.config == theirs.config
    assert isinstance(theirs.config.head, Pool)
    leaves = dict(flatten(ours.params))
    for name, leaf in flatten(theirs.params):
        assert np.array_equal(leaf, leaves.pop(name)), name
    assert not leaves


def library(words: list[str] = WORDS, lower: bool = True, strip: bool | None = None) -> Tokenizer:
    """The tokenizer that the vocabulary is of, put together by the library's own parts."""
    made = Tokenizer(models.WordPiece({w: i for i, w in enumerate(words)}, unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer(lowercase=lower, strip_accents=strip)
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    made.decoder = decoders.WordPiece()
    made.add_special_tokens(SPECIALS)
    return made


TEXTS = ["The cats, sitting ON the mat!", "naïve 中文 runn abb", "", "[MASK] sat. zebra"]
TEXTS += ["a\tb\u200b cat" + "s" * 120]


def test_the_ids_are_those_of_the_vocabulary(both):
    text = open_checkpoint(both[1]).tokenizer
    assert text is not None
    got, want = Tokenizer.from_str(text), library()
    for one in TEXTS:
        ids = want.encode(one).ids
        assert got.encode(one).ids == ids
        assert got.decode(ids) == want.decode(ids)
    pair = got.encode("the cat", "the mat")
    assert (pair.ids, pair.type_ids) == (
        want.encode("the cat", "the mat").ids, want.encode("the cat", "the mat").type_ids,
    )  # fmt: skip


@pytest.mark.parametrize("lower", [True, False])
@pytest.mark.parametrize("strip", [True, False, None])
def test_capitals_and_accents_as_the_file_says(lower, strip):
    words = [*WORDS, "naïve"] if lower else [*WORDS, "naïve", "ON"]
    flags = {"normalizer.lowercase": lower, "normalizer.strip_accents": strip}
    stated = metadata(words, **{key: flag for key, flag in flags.items() if flag is not None})
    text = tokenizer(as_read(stated), 60, "x.gguf")
    assert text is not None
    got, want = Tokenizer.from_str(text), library(words, lower, strip)
    for one in TEXTS:
        assert got.encode(one).ids == want.encode(one).ids


@pytest.mark.parametrize(
    ("words", "more", "message"),
    [
        ([*WORDS, "Cat"], {}, "tokens.*'▁Cat'"),
        (WORDS, {"cls_token_id": 3}, r"cls_token_id.*\[CLS\]"),
        (WORDS, {"bos_token_id": 1}, r"bos_token_id.*\[CLS\]"),
        (WORDS, {"seperator_token_id": 2}, r"seperator_token_id.*\[SEP\]"),
        (["<s>", *WORDS[1:]], {}, None),
        ([*WORDS[:1], "<unk>", *WORDS[2:]], {}, r"unknown_token_id.*\[UNK\]"),
    ],
)
def test_vocabularies_that_are_refused(words, more, message):
    if message is None:
        assert tokenizer(as_read(metadata(words, **more)), 60, "x.gguf")
        return
    with pytest.raises(TfmError, match=message):
        tokenizer(as_read(metadata(words, **more)), 60, "x.gguf")


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("bert.pooling_type", 4, "pooling_type 1 2 3 4"),
        ("bert.pooling_type", 0, "pooling_type 1 2 3 0"),
        ("bert.attention.head_count", 5, "embedding_length attention.head_count"),
        ("bert.context_length", 31, "shape"),
    ],
)
def test_metadata_that_are_refused(both, tmp_path, key, value, message):
    data = both[1].read_bytes()
    at = data.index(key.encode()) + len(key) + 4  # its type stands before its value
    changed = tmp_path / "changed.gguf"
    changed.write_bytes(data[:at] + int(value).to_bytes(4, "little") + data[at + 4 :])
    with refused(TfmError, *message.split()):
        open_checkpoint(changed)


def test_an_encoder_that_sees_no_later_tokens_is_refused(both, tmp_path):
    data, key = both[1].read_bytes(), b"bert.attention.causal"
    at = data.index(key) + len(key) + 4
    (tmp_path / "x.gguf").write_bytes(data[:at] + b"\x01" + data[at + 1 :])
    with refused(TfmError, "attention.causal", "false"):
        open_checkpoint(tmp_path / "x.gguf")
