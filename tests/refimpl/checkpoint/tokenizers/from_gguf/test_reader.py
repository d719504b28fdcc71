"""GGUF's tokenizers as tokenizer.json: the same ids as the tokenizer that the file was made from."""

import itertools
import json
import random
import re
from functools import cache

import pytest
import transformers
from helpers.gguf_tokenizers import BYTES, TEXT, UNICODE, learned, mixed, read, same
from helpers.refused import refused
from hypothesis import given
from hypothesis import strategies as st
from tfm.refimpl.checkpoint.tokenizers.from_gguf.pre_tokenizers import PRE_TOKENIZERS
from tfm.refimpl.checkpoint.tokenizers.from_gguf.reader import chat_template, tokenizer
from tfm.refimpl.errors import CheckpointError
from tfm.runtime.text.tokenizer import Tokenizer as RuntimeTokenizer
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers.tokenization_utils_base import generate_merges

GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
CL100K = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
O200K = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
TEKKEN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
SPECIALS = ["<s>", "</s>"]
WORDS = pre_tokenizers.ByteLevel(add_prefix_space=False)


def split(pattern: str) -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.Split(Regex(pattern), "isolated")


# What the models' own tokenizers do, each written out once more; transformers' class where it has one.
ORIGINALS = {
    "gpt-2": WORDS,
    "olmo": transformers.GPTNeoXTokenizer(),
    "smollm": [split(r"\p{N}"), split(GPT2), BYTES],
    "command-r": transformers.CohereTokenizer(),
    "llama-bpe": [split(CL100K), BYTES],
    "smaug-bpe": [split(CL100K), BYTES],
    "dbrx": [pre_tokenizers.Split(Regex(CL100K), "removed", invert=True), BYTES],
    "gpt-4o": [pre_tokenizers.Split(Regex(O200K), "removed", invert=True), BYTES],
    "qwen2": transformers.Qwen2Tokenizer(),
    "stablelm2": transformers.Qwen2Tokenizer(),
    "tekken": [split(TEKKEN), BYTES],
    "falcon": [
        pre_tokenizers.Punctuation("contiguous"), WORDS, pre_tokenizers.Digits(), split("[0-9]{3}"),
    ],
    "bloom": [split(r" ?[^()\s|.,!?…。，、।۔،]+"), BYTES],
    "deepseek-coder": [
        split(r"[\r\n]"), split(r"\s?\p{L}+"), split(r"\s?\p{P}+"), split("[\u0800-\u9fa5\uac00-\ud7ff]+"),
        split(r"\p{N}"), BYTES,
    ],
}  # fmt: skip


def bare(pre: str) -> Tokenizer:
    """The original's normalizer and cut around no vocabulary yet."""
    made, stated = Tokenizer(models.BPE()), ORIGINALS[pre]
    if isinstance(stated, transformers.PreTrainedTokenizerBase):
        backend = stated.backend_tokenizer
        made.normalizer, made.pre_tokenizer = backend.normalizer, backend.pre_tokenizer
    else:
        made.pre_tokenizer = pre_tokenizers.Sequence(stated) if isinstance(stated, list) else stated
    return made


@cache
def trained(pre: str) -> Tokenizer:
    """What was learned, with a model's own cut."""
    made = bare(pre)
    made.model, made.decoder = models.BPE(*learned(*SPECIALS)), decoders.ByteLevel()
    made.add_special_tokens(SPECIALS)
    return made


def metadata(made: Tokenizer, pre: str, **more: object) -> dict:
    """What a GGUF file of that tokenizer states."""
    tokens = sorted(made.get_vocab(), key=made.token_to_id)
    merges = json.loads(made.to_str())["model"]["merges"]
    keys = {
        "model": "gpt2", "pre": pre, "tokens": tokens, "merges": [" ".join(m) for m in merges],
        "token_type": [3 if t in SPECIALS else 1 for t in tokens], "bos_token_id": 0,
        "eos_token_id": 1, **more,
    }  # fmt: skip
    return {f"tokenizer.ggml.{key}": value for key, value in keys.items() if value is not None}


@pytest.mark.parametrize("pre", ORIGINALS)
def test_byte_level(pre):
    original, ours = trained(pre), read(metadata(trained(pre), pre, add_bos_token=False))
    for text in TEXT + mixed(300):
        same(ours, original, text)


@pytest.mark.parametrize("pre", ORIGINALS)
@given(text=UNICODE)
def test_byte_level_on_any_unicode(pre, text):
    same(read_once(pre), trained(pre), text)


@cache
def read_once(pre: str) -> Tokenizer:
    return read(metadata(trained(pre), pre, add_bos_token=False))


def test_the_texts_tell_the_cuts_apart():
    """Else the tests above couldn't tell a wrong table from a right one."""
    seen = {}
    for pre in ORIGINALS:
        cutter = bare(pre)
        words = [cutter.normalizer.normalize_str(t) if cutter.normalizer else t for t in TEXT]
        seen.setdefault(str([cutter.pre_tokenizer.pre_tokenize_str(word) for word in words]), []).append(pre)
    twins = [names for names in seen.values() if len(names) > 1]
    assert twins == [["llama-bpe", "smaug-bpe", "dbrx"], ["qwen2", "stablelm2"]]


def test_names_for_the_same_cut():
    for names in (
        ("gpt-2", "phi-2"), ("mpt", "olmo"), ("smollm", "starcoder", "refact", "codeshell"),
        ("llama-bpe", "llama3", "llama-v3"), ("dbrx", "chatglm-bpe", "glm4"),
        ("gpt-4o", "llama4", "minimax-m2"),
        ("qwen2", "stablelm2", "deepseek-r1-qwen"),
    ):  # fmt: skip
        assert len({json.dumps(PRE_TOKENIZERS[name]) for name in names}) == 1, names


def test_special_tokens_stay_whole_and_user_tokens_are_not_special():
    found = metadata(trained("gpt-2"), "gpt-2")
    tokens = found["tokenizer.ggml.tokens"]
    tokens.append("<think>")
    found["tokenizer.ggml.token_type"].append(4)
    ours = read(found)
    assert ours.encode("</s><think> </s>").tokens == ["</s>", "<think>", "Ġ", "</s>"]
    assert ours.decode([1, len(tokens) - 1], skip_special_tokens=True) == "<think>"


@pytest.mark.parametrize(
    ("pre", "flags", "frame"),
    [
        ("gpt-2", {}, ([], [])),
        ("llama-bpe", {}, ([0], [])),
        ("llama-bpe", {"add_bos_token": False}, ([], [])),
        ("gpt-2", {"add_bos_token": True, "add_eos_token": True}, ([0], [1])),
    ],
)
def test_what_stands_around_a_text(pre, flags, frame):
    ours = read(metadata(trained("gpt-2"), pre, **flags))
    bare = ours.encode("quick", add_special_tokens=False).ids
    assert ours.encode("quick").ids == frame[0] + bare + frame[1]
    assert ours.encode("quick", "quick").ids == (frame[0] + bare + frame[1]) * 2


def test_a_whole_word_that_is_a_token_skips_the_merges():
    skip = {"gpt-2": False, "dbrx": False, "llama-bpe": True, "smaug-bpe": True, "tekken": True}
    for pre, skips in skip.items():
        found = metadata(trained(pre), pre, add_bos_token=False)
        found["tokenizer.ggml.tokens"].append("zqzq")
        found["tokenizer.ggml.token_type"].append(1)
        assert (read(found).encode("zqzq").tokens == ["zqzq"]) is skips, pre


PIECES = ["▁", *"abcdé", "ab", "bc", "▁a", "▁ab", "cd", "abc", "▁▁", "da", "dab", "▁c", "ca", "<user>"]


def sentencepiece(**more: object) -> dict:
    """A SentencePiece vocabulary: unknown, two control pieces, all bytes, then pieces with scores."""
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{b:02X}>" for b in range(256)), *PIECES]
    scores = [0.0] * 259 + [-1.5 * ((7 * i) % 19) for i in range(len(PIECES))]
    types = [2, 3, 3, *[6] * 256, *[1] * (len(PIECES) - 1), 4]
    keys = {
        "model": "llama", "tokens": tokens, "scores": scores, "token_type": types, "bos_token_id": 1,
        "eos_token_id": 2, "add_bos_token": False, **more,
    }  # fmt: skip
    return {f"tokenizer.ggml.{key}": value for key, value in keys.items() if value is not None}


def by_hand(text: str) -> list[int]:
    """SentencePiece's own algorithm: join the neighbours that make the best piece, leftmost first."""
    found = sentencepiece()
    ids = {token: i for i, token in enumerate(found["tokenizer.ggml.tokens"])}
    scores = found["tokenizer.ggml.scores"]
    parts = list("▁" + text.replace(" ", "▁")) if text else []
    while True:
        joins = [
            (-scores[ids[a + b]], i) for i, (a, b) in enumerate(itertools.pairwise(parts)) if a + b in ids
        ]
        if not joins:
            break
        i = min(joins)[1]
        parts[i : i + 2] = [parts[i] + parts[i + 1]]
    return [i for p in parts for i in ([ids[p]] if p in ids else [b + 3 for b in p.encode()])]


@given(text=st.text(alphabet="abcd é😀", max_size=30))
def test_sentencepiece(text):
    ours = read(sentencepiece())
    ids = ours.encode(text).ids
    assert ids == by_hand(text)
    assert ours.decode(ids) == text


def test_sentencepiece_without_prefix_and_with_user_pieces():
    ours = read(sentencepiece(add_space_prefix=False, add_bos_token=None))
    assert ours.encode("ab", add_special_tokens=False).tokens == ["ab"]
    assert ours.encode("ab").tokens == ["<s>", "ab"], "bos is the default"
    assert ours.decode(ours.encode(" ab").ids) == " ab"
    assert "<user>" in read(sentencepiece()).encode("a<user>b").tokens


@cache
def with_user_blanks(space: str) -> Tokenizer:
    """Two spaces are user-defined, with the score that the converter gives to such pieces."""
    found = sentencepiece(add_space_prefix=False)
    blank = found["tokenizer.ggml.tokens"].index("▁▁")
    found["tokenizer.ggml.tokens"][blank] = 2 * space
    found["tokenizer.ggml.token_type"][blank] = 4
    found["tokenizer.ggml.scores"][blank] = -1000.0
    return read(found)


@given(text=st.text(alphabet="abc d", max_size=30))
def test_user_defined_blanks_are_found_with_either_space(text):
    """llama.cpp's converter writes spaces since July 2024, before it wrote "▁"."""
    kept, spelled = (with_user_blanks(space) for space in "▁ ")
    same(kept, spelled, text)
    blank = spelled.token_to_id("  ")
    assert kept.encode(text).ids.count(blank) == sum(len(run) // 2 for run in re.findall(" +", text))
    assert RuntimeTokenizer(kept.to_str(), 1000).encode(text) == spelled.encode(text).ids


@cache
def gemma(kind: str) -> tuple[Tokenizer, Tokenizer]:
    """The same pieces as Gemma's file states them, and as transformers builds Gemma's tokenizer of them.

    Gemma 4's file has merges, here in another order than the scores give.
    """
    found = sentencepiece(add_space_prefix=False, add_bos_token=True, model=kind)
    tokens, scores = found["tokenizer.ggml.tokens"], found["tokenizer.ggml.scores"]
    ids = {token: i for i, token in enumerate(tokens)}
    merges = generate_merges(ids, dict(zip(tokens, scores, strict=True)), skip_tokens=["<user>"])
    if kind == "gemma4":
        merges = merges[::-1]
        found["tokenizer.ggml.merges"] = [" ".join(merge) for merge in merges]
    made = transformers.GemmaTokenizer(
        vocab=ids, merges=merges, bos_token="<s>", eos_token="</s>", pad_token="</s>", mask_token="<unk>",
        add_bos_token=True,
    )  # fmt: skip
    return read(found), made.backend_tokenizer


@pytest.mark.parametrize("kind", ["llama", "gemma4"])
@given(text=st.text(st.sampled_from("abcd é😀▁\n") | st.characters(exclude_categories=("Cs",)), max_size=30))
def test_gemma_has_no_space_before_a_text(kind, text):
    ours, theirs = gemma(kind)
    same(ours, theirs, text)
    assert ours.encode(text, "ab").type_ids == theirs.encode(text, "ab").type_ids


@pytest.mark.parametrize(
    ("architecture", "tokens"),
    [
        ("llama", ["▁a", "<|end|>", "▁▁", "<0x0A>", "d", "<s>", "▁▁", "d"]),
        ("phi3", ["▁a", "<|end|>", "▁", "d", "<s>", "▁▁", "d"]),
    ],
)
def test_phi3_s_added_tokens_take_white_space_along(architecture, tokens):
    found = sentencepiece() | {"general.architecture": architecture}
    found["tokenizer.ggml.tokens"][-1] = "<|end|>"
    ours = read(found)
    assert [ours.id_to_token(i) for i in ours.encode("a<|end|> \nd<s> d").ids] == tokens


PLAIN = metadata(trained("gpt-2"), "gpt-2")


@pytest.mark.parametrize("kind", ["none", "no_vocab"])
def test_a_file_may_say_that_it_has_no_tokenizer(kind):
    assert tokenizer({**PLAIN, "tokenizer.ggml.model": kind}, 9, "x.gguf") is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": "rwkv"}, "gpt2 t5 gemma4 'rwkv'"),
        ({"model": 3}, "gpt2 t5 gemma4 3"),
        ({"model": "gemma4", "add_space_prefix": True}, "add_space_prefix false gemma4"),
        ({"model": "gemma4", "merges": ["a zzzz"]}, "merges"),
        ({"pre": "default"}, "pre 'default'"),
        ({"pre": ["gpt-2"]}, "pre"),
        ({"tokens": None}, "tokens"),
        ({"tokens": [1, 2]}, "tokens"),
        ({"tokens": []}, "tokens 1 2000"),
        ({"tokens": [str(i) for i in range(2001)]}, "tokens 1 2000 2001"),
        ({"tokens": ["a", "b", "a"]}, "tokens 'a'"),
        ({"token_type": [1]}, "token_type items"),
        ({"merges": ["a"]}, "merges"),
        ({"merges": ["a b c"]}, "merges"),
        ({"merges": ["a zzzz"]}, "merges"),
        ({"merges": None}, "merges"),
        ({"add_bos_token": 1}, "add_bos_token"),
        ({"add_bos_token": True, "bos_token_id": 10**6}, "bos_token_id 0"),
        ({"add_eos_token": True, "eos_token_id": -1}, "eos_token_id 0"),
    ],
)
def test_refused(change, message):
    found = {**PLAIN, **{f"tokenizer.ggml.{key}": value for key, value in change.items()}}
    with refused(CheckpointError, *message.split()):
        read(found)


def test_a_piece_too_long_for_its_merges():
    found = sentencepiece()
    found["tokenizer.ggml.tokens"][-2] = "x" * 10_000
    with refused(CheckpointError, "tokens", 256):
        read(found, 1000)


@pytest.mark.parametrize("score", [float("nan"), float("inf"), -float("inf")])
def test_scores_without_an_order(score):
    found = sentencepiece()
    found["tokenizer.ggml.scores"][-1] = score
    with refused(CheckpointError, "scores", "finite", score, 276):
        read(found, 1000)


def test_no_tokenizer_and_the_template():
    assert tokenizer({}, 10, "x") is None
    assert chat_template({}, "x") is None
    assert chat_template({"tokenizer.chat_template": "{{ x }}"}, "x") == "{{ x }}"
    both = {"tokenizer.chat_template": "x", "tokenizer.chat_template.tool_use": "t"}
    assert [chat_template(both, "x", kind) for kind in ("", ".tool_use", ".rag")] == ["x", "t", None]
    for bad in (1, "x" * 2**19):
        with refused(CheckpointError, "chat_template"):
            chat_template({"tokenizer.chat_template": bad}, "x")


@pytest.mark.real
def test_the_real_tokenizer_gives_the_ids_of_transformers(smollm2_gguf):
    from tfm.refimpl.checkpoint.formats.gguf import GGUF
    from transformers import AutoTokenizer

    theirs = AutoTokenizer.from_pretrained(smollm2_gguf.parent, gguf_file=smollm2_gguf.name)
    ours = read(GGUF(smollm2_gguf).metadata, 49_152)
    rng = random.Random(0)
    letters = [c for text in TEXT for c in text]
    chat = "<|im_start|>user\nHow many is 12 × 34?<|im_end|>\n<|im_start|>assistant\n"
    texts = [*TEXT, chat, *("".join(rng.choices(letters, k=60)) for _ in range(300))]
    got = {text: ours.encode(text).ids for text in texts}
    plain = [text for text in texts if not re.search(r"\s\s\d", text)]
    assert len(plain) > 200
    for text in plain:
        assert got[text] == theirs(text)["input_ids"], repr(text)
    # transformers takes GPT-2's cut for every byte-level GGUF; SmolLM2's own tokenizer.json splits
    # digits off first, which shows where two spaces stand before one.
    steps = [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    theirs.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(steps)
    for text in texts:
        assert got[text] == theirs(text)["input_ids"], repr(text)
        assert ours.decode(got[text], skip_special_tokens=False) == text
