"""T5 in both dialects: the pair with either mlp, its encoder alone, the tokens it begins and ends with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
import transformers
from families.t5 import NEW, OWN, V10, untied
from helpers import gguf_writer
from helpers.refused import refused
from safetensors.numpy import load_file
from tfm.refimpl.checkpoint.open import open_checkpoint
from tfm.refimpl.config import LM, Pool
from tfm.refimpl.errors import TfmError
from tfm.refimpl.params.tree import flatten

EPS = 2.0**-17  # GGUF holds it in float32
START, EOS, VOCABULARY = 3, 2, 61
Tensors = dict[str, np.ndarray]
SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY, "d_model": 24, "d_kv": 5, "d_ff": 40, "num_heads": 3, "num_layers": 2,
    "num_decoder_layers": 4, "relative_attention_num_buckets": 8, "layer_norm_epsilon": EPS,
    "decoder_start_token_id": START, "eos_token_id": EOS, "pad_token_id": 0,
}  # fmt: skip
ENCODER = {
    "context_length": 512, "embedding_length": 24, "feed_forward_length": 40, "block_count": 2,
    "attention.head_count": 3, "attention.key_length": 5, "attention.value_length": 5,
    "attention.layer_norm_epsilon": EPS, "attention.layer_norm_rms_epsilon": EPS,
    "attention.relative_buckets_count": 8, ":tokenizer.ggml.eos_token_id": EOS,
}  # fmt: skip
PAIR = {**ENCODER, "decoder_block_count": 4, "decoder_start_token_id": START}
GATED = {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}


def converted(folder: Path, model: Any, arch: gguf.MODEL_ARCH) -> Tensors:
    """Saves a model, all of its weights random, as transformers does; its tensors by GGUF's names. Of several
    names of the one token table the converter takes the first."""
    noise = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in model.eval().parameters():
            weight.copy_(torch.randn(weight.shape, generator=noise))
    model.save_pretrained(folder)
    tables = ("decoder.embed_tokens.weight", "encoder.embed_tokens.weight")
    tensors = load_file(folder / "model.safetensors")
    return gguf_writer.renamed(arch, {k: v for k, v in tensors.items() if k not in tables})


def same(one: Path, other: Path) -> tuple[Any, Any]:
    ours, theirs = open_checkpoint(one), open_checkpoint(other)
    assert ours.config == theirs.config
    want = dict(flatten(ours.params))
    for name, leaf in flatten(theirs.params):
        assert np.array_equal(leaf, want.pop(name)), name
    assert not want
    return ours, theirs


@pytest.mark.parametrize(
    ("build", "keys", "metadata"),
    [
        (V10, {}, {}),
        (V10, {"num_decoder_layers": 2, "n_positions": 5000}, {"context_length": 5000}),
        (untied(V10), GATED, {}),
        (untied(NEW), GATED, {}),
        (untied(OWN), GATED, {}),
    ],
)
def test_both_dialects_give_equal_leaves(tmp_path: Path, build: Any, keys: Any, metadata: Any):
    model = build(build.config_class(**{**SIZES, **keys}))
    tensors = converted(tmp_path, model, gguf.MODEL_ARCH.T5)
    assert ("output.weight" in tensors) == ("enc.blk.0.ffn_gate.weight" in tensors) == bool(keys is GATED)
    told = {**PAIR, **metadata}
    if keys.get("num_decoder_layers") == 2:
        del told["decoder_block_count"]  # as many as the encoder has
    ours, theirs = same(tmp_path, gguf_writer.write(tmp_path / "x.gguf", "t5", told, tensors))
    assert theirs.config.head == LM(tied=keys is not GATED, scale=None if keys is GATED else 24**-0.5)
    assert theirs.generation == ours.generation
    assert (theirs.generation.prompt, theirs.generation.eos) == ((START,), (EOS,))


@pytest.mark.parametrize("keys", [{}, GATED])
def test_the_encoder_alone(tmp_path: Path, keys: Any):
    model = transformers.T5EncoderModel(transformers.T5Config(**SIZES, **keys))
    tensors = converted(tmp_path, model, gguf.MODEL_ARCH.T5ENCODER)
    _, theirs = same(tmp_path, gguf_writer.write(tmp_path / "x.gguf", "t5encoder", ENCODER, tensors))
    assert theirs.config.head == Pool("mean")
    assert theirs.generation.start is None


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Tensors]:
    """T5 1.0 in a directory, and its tensors."""
    folder = tmp_path_factory.mktemp("t5")
    return folder, converted(folder, V10(transformers.T5Config(**SIZES)), gguf.MODEL_ARCH.T5)


def test_what_older_checkpoints_hold_besides(plain: tuple[Path, Tensors], tmp_path: Path):
    """The one table under its second name, and a bias of cross-attention that was never used."""
    folder, tensors = plain
    more = {"output.weight": tensors["token_embd.weight"]}
    more["dec.blk.0.cross_attn_rel_b.weight"] = np.ones((8, 3), np.float32)
    same(folder, gguf_writer.write(tmp_path / "x.gguf", "t5", PAIR, tensors | more))


def test_the_first_token_of_a_text_is_the_beginning_of_all_texts_where_none_is_stated(
    plain: tuple[Path, Tensors], tmp_path: Path
):
    told = {key: value for key, value in PAIR.items() if key != "decoder_start_token_id"}
    for more, start in (({}, None), ({":tokenizer.ggml.bos_token_id": 5}, 5)):
        gguf_writer.write(tmp_path / "x.gguf", "t5", told | more, plain[1])
        assert open_checkpoint(tmp_path / "x.gguf").generation.start == start


BIAS = np.ones((8, 3), np.float32)


@pytest.mark.parametrize(
    ("arch", "metadata", "tensors", "words"),
    [
        ("t5", {"decoder_start_token_id": VOCABULARY}, {}, "decoder_start_token_id 0 60"),
        ("t5", {"decoder_start_token_id": "3"}, {}, "decoder_start_token_id"),
        ("t5", {"decoder_block_count": 3}, {}, "tensors 'dec.blk.3.attn_k.weight'"),
        ("t5", {"decoder_block_count": 5}, {}, "'dec.blk.4 missing"),
        ("t5", {"attention.value_length": 6}, {}, "attention.value_length 5"),
        ("t5", {"attention.layer_norm_epsilon": 0.5}, {}, "attention.layer_norm_rms_epsilon"),
        ("t5", {"attention.relative_buckets_count": 6}, {}, "attn_rel_b.weight'"),
        ("t5", {"pooling_type": 1}, {}, "'pooling_type'"),
        # UMT5 has biases of its own in each layer.
        ("t5", {}, {"dec.blk.1.attn_rel_b.weight": BIAS}, "'enc.blk.1.attn_rel_b.weight'"),
        ("t5", {}, {"enc.blk.1.attn_rel_b.weight": BIAS}, "'dec.blk.1.attn_rel_b.weight'"),
        ("t5", {}, {"output.weight": np.ones((VOCABULARY, 24), np.float32)}, "embedding.table"),
        ("t5", {}, {"dec.output_norm.weight": None}, "'dec.output_norm.weight'"),
        ("t5encoder", {"decoder_block_count": 4}, {}, "'decoder_block_count'"),
        ("t5encoder", {"decoder_start_token_id": 3}, {}, "'decoder_start_token_id'"),
        ("t5encoder", {}, {}, "tensors 'dec.blk.0.attn_k.weight'"),
    ],
)
def test_files_that_are_refused(
    plain: tuple[Path, Tensors], tmp_path: Path, arch: str, metadata: Any, tensors: Any, words: str
):
    told = (PAIR if arch == "t5" else ENCODER) | metadata
    held = {name: array for name, array in (plain[1] | tensors).items() if array is not None}
    gguf_writer.write(tmp_path / "x.gguf", arch, told, held)
    with refused(TfmError, *words.split()):
        open_checkpoint(tmp_path / "x.gguf")


def test_a_gated_mlp_without_a_table_of_its_own(tmp_path: Path):
    """Whether its logits are scaled, as T5's would be and mT5's not, isn't stated."""
    build = untied(V10)
    tensors = converted(tmp_path, build(transformers.T5Config(**SIZES, **GATED)), gguf.MODEL_ARCH.T5)
    del tensors["output.weight"]
    gguf_writer.write(tmp_path / "x.gguf", "t5", PAIR, tensors)
    with refused(TfmError, "'output.weight'", "missing", "head.table"):
        open_checkpoint(tmp_path / "x.gguf")
