"""The on-disk format: what is written is read back, and all else is refused in one line."""

import hashlib
import itertools
import json
import os
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from helpers import text_strategies, tiny_models
from helpers.refused import refused
from hypothesis import given, settings
from hypothesis import strategies as st
from tfm.export import bundle_writer
from tfm.export.graph.write import GraphFiles
from tfm.export.layouts import hub_files
from tfm.export.tokenizer_text import quick_to_load
from tfm.refimpl.checkpoint.generation_config import Generation, read_generation
from tfm.refimpl.checkpoint.languages import Languages
from tfm.refimpl.checkpoint.open import open_checkpoint, save_checkpoint
from tfm.refimpl.checkpoint.weights.left_out import LeftOut
from tfm.refimpl.config import to_json
from tfm.refimpl.decoding.speech import SpeechTokens
from tfm.refimpl.errors import BundleError, NumericError
from tfm.refimpl.ops.quant import Blocks
from tfm.refimpl.params.parameter_shapes import ParameterShapes
from tfm.refimpl.params.shapes import parameter_shapes
from tfm.refimpl.params.tree import flatten
from tfm.runtime.bundle import manifest, weight_storage
from tfm.runtime.bundle.bundle import open_bundle
from tfm.runtime.progress import silent

CONFIG = tiny_models.llama(layers=1, bias=True)
TOKENIZER = text_strategies.wordpiece().to_str()


def stand_in(files: GraphFiles) -> AbstractContextManager[Callable[[bool], int]]:
    return nullcontext(lambda _: (files.folder / "model.onnx").write_bytes(b"graph"))


def make(path: Path, target: str = "ort-cpu", quant: str = "int8") -> Path:
    """A bundle whose graph and golden inputs are stand-ins: these tests run no graph."""
    checkpoint = path.parent / "checkpoint"
    if not checkpoint.exists():
        save_checkpoint(checkpoint, CONFIG, tiny_models.weights(CONFIG), TOKENIZER, "{{ messages }}")
        (checkpoint / "additional_chat_templates").mkdir()
        (checkpoint / "additional_chat_templates" / "tool_use.jinja").write_text("{{ tools }}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bundle_writer, "writing", stand_in)
        patch.setattr(bundle_writer, "golden", lambda *_, **__: {"tokens": np.zeros(3, np.int64)})
        bundle_writer.export(open_checkpoint(checkpoint), path, target=target, quant=quant, verify=False)
    return path


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    return make(tmp_path_factory.mktemp("made") / "model")


@pytest.fixture
def bundle(made, tmp_path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "model"))


def test_joined_leaves_are_restored_once(bundle, monkeypatch):
    restored, restore = [], weight_storage.restore

    def counted(group, tensors):
        restored.append(group.name)
        return restore(group, tensors)

    monkeypatch.setattr(weight_storage, "restore", counted)
    opened = open_bundle(bundle)
    leaves = [opened.leaf(name) for name in parameter_shapes(CONFIG)]
    assert sorted(restored) == sorted(opened.plan.groups)
    assert [leaf.shape for leaf in leaves] == [*parameter_shapes(CONFIG).values()]


def change(path: Path, *keys, to) -> None:
    """Set one value of the manifest."""
    value = json.loads((path / "tfm.json").read_text())
    level = value
    for key in keys[:-1]:
        level = level[key]
    level[keys[-1]] = to
    (path / "tfm.json").write_text(json.dumps(value))


def refuses(path: Path, match: str, check_hashes: bool = False) -> None:
    with refused(BundleError, *match.split()) as caught:
        open_bundle(path, check_hashes)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("target", "quant"),
    [
        ("ort-cpu", "fp32"),
        ("ort-cpu", "int8-dynamic"),
        ("ort-cuda", "int4"),
        ("standard", "fp16"),
    ],
)
def test_the_tree_is_that_of_the_checkpoint_in_its_schemes(tmp_path, target, quant):
    from tfm.export import bundle_writer
    from tfm.export.quantization import plan
    from tfm.runtime.bundle import feedback, schemes, targets

    opened = open_bundle(make(tmp_path / "model", target, quant), check_hashes=True)
    checkpoint = open_checkpoint(tmp_path / "checkpoint")
    scheme, made_for = schemes.find(quant), targets.find(target)
    made = plan.plan(checkpoint, scheme, made_for)
    dtype = schemes.float_type(scheme, made_for)
    assert (opened.config, opened.target, opened.quant, opened.dtype) == (CONFIG, target, quant, dtype)
    assert opened.cache == ("copied" if target == "standard" else "shared")
    calibrated, inputs = bundle_writer.calibrate(checkpoint, scheme, made, None, silent), {}
    if quant == "int4":
        names = feedback.compensated(made.formats)
        feedback.measure(checkpoint, calibrated.text, names, lambda found, *_: inputs.update(found))
        calibrated = replace(calibrated, compensations=inputs)
    tree = dict(flatten(opened.params()))
    assert list(tree) == list(made.shapes)
    for name, got in tree.items():
        want = plan.leaf(checkpoint, name, made.formats.get(name), dtype, calibrated)
        for field in ("codes", "scale") if isinstance(want, Blocks) else (None,):
            a, b = (got, want) if field is None else (getattr(got, field), getattr(want, field))
            np.testing.assert_array_equal(a, b, err_msg=name)
            assert a.dtype == (np.uint8 if field == "codes" else np.float32), name


def test_what_is_written_is_read(made):
    opened = open_bundle(made)
    assert (opened.chat_template, opened.tool_use_template) == ("{{ messages }}", "{{ tools }}")
    stated = hub_files.tokenizer_config(opened)
    assert stated is not None
    named = {item["name"]: item["template"] for item in stated["chat_template"]}
    assert named == {"default": "{{ messages }}", "tool_use": "{{ tools }}"}
    assert opened.tokenizer == quick_to_load(TOKENIZER)
    assert opened.generation == open_checkpoint(made.parent / "checkpoint").generation
    assert manifest.load((made / "tfm.json").read_bytes(), "x") == opened.manifest
    assert manifest.dump(opened.manifest) == (made / "tfm.json").read_text()


def test_how_a_model_wants_to_be_run_is_kept_whole(made):
    stated = {"task_specific_params": {"summarization": {"num_beams": 4, "prefix": "summarize: "}}}
    ids = {"decoder_start_token_id": 2, "forced_eos_token_id": 3, "bad_words_ids": [[4], [5, 6]]}
    ids |= {"stop_strings": ["###"], "guidance_scale": 1.5}
    found = read_generation(stated, ids | {"length_penalty": 2}, tiny_models.encoder_decoder(), "g.json")
    speech = SpeechTokens(8, {"en": 9}, {"transcribe": 10}, previous=11, language="en")
    whole = replace(found, languages=Languages({"fra": 7}, "text"), speech=speech)
    kept = replace(open_bundle(made).manifest, generation=whole)
    assert manifest.load(manifest.dump(kept).encode(), "x").generation == whole
    assert whole.tasks["summarization"].prefix == "summarize: "
    assert (whole.stop, whole.left_out) == (("###",), ("guidance_scale",))


def test_large_tensors_stand_on_pages():
    config = tiny_models.llama(layers=1, vocabulary=9000, tied=False)
    from tfm.runtime.bundle import targets
    from tfm.runtime.bundle.plan import Plan

    tensors = Plan(ParameterShapes(config), targets.find("ort-cpu"), "float32", {}).tensors
    large = [t.offset for t in tensors.values() if t.length >= 2**20]
    assert len(large) == 2
    assert {offset % 4096 for offset in large} == {0}
    assert {t.offset % 64 for t in tensors.values()} == {0}
    ends = [(t.offset, t.offset + t.length) for t in tensors.values()]
    assert all(end <= start for (_, end), (start, _) in itertools.pairwise(ends))


def test_the_certificate_may_stand_there_and_other_files_are_not_read(bundle):
    (bundle / "certificate.json").write_text("{}")
    (bundle / "README").write_text("notes")
    open_bundle(bundle, check_hashes=True)


def test_a_path_without_a_bundle(tmp_path):
    refuses(tmp_path / "none", "bundle")
    refuses(tmp_path, "bundle tfm.json")
    (tmp_path / "config.json").write_text("{}")
    refuses(tmp_path, "bundle checkpoint")


@pytest.mark.parametrize(
    "name", ["model.onnx", "model.onnx.data", "golden/tokens.npy", "tokenizer.json", "chat_template.jinja"]
)
def test_one_flipped_bit(bundle, name):
    data = bytearray((bundle / name).read_bytes())
    data[len(data) // 2] ^= 1
    (bundle / name).write_bytes(data)
    if name == "model.onnx":
        refuses(bundle, f"{name} bytes")
        return
    opened = open_bundle(bundle)
    with refused(BundleError, name, "bytes"):
        opened.check_hashes()
    wait = opened.checking()
    with refused(BundleError, name):
        wait()
    refuses(bundle, name, check_hashes=True)


def test_checking_beside_other_work_passes(made):
    open_bundle(made).checking()()


def test_a_file_that_vanishes_while_it_is_checked(bundle):
    opened = open_bundle(bundle)
    (bundle / "golden/tokens.npy").unlink()
    with refused(BundleError, "golden/tokens.npy", "opened"):
        opened.check_hashes()


@pytest.mark.parametrize(
    ("target", "quant"), [("ort-cpu", "int8"), ("ort-cpu", "int8-dynamic"), ("standard", "fp16")]
)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_number_that_is_not_finite_is_refused_whatever_the_hash(tmp_path, target, quant, value):
    """In the first and the last float of each tensor: weights, scales, norms and factors."""
    path = make(tmp_path / "model", target, quant)
    tensors = open_bundle(path).manifest.tensors
    floats = {name: tensor for name, tensor in tensors.items() if tensor.dtype.startswith("float")}
    assert len(floats) >= 9
    data, stated = (path / "model.onnx.data").read_bytes(), json.loads((path / "tfm.json").read_text())
    for name, tensor in floats.items():
        for at in (0, tensor.length - np.dtype(tensor.dtype).itemsize):
            changed = bytearray(data)
            np.frombuffer(changed, tensor.dtype, 1, tensor.offset + at)[0] = value
            (path / "model.onnx.data").write_bytes(changed)
            stated["files"]["model.onnx.data"]["sha256"] = hashlib.sha256(changed).hexdigest()
            (path / "tfm.json").write_text(json.dumps(stated))
            with refused(NumericError, "model.onnx.data", name, "finite"):
                open_bundle(path, check_hashes=True)


def test_a_damaged_number_is_damage_first(bundle):
    """Bytes that the manifest doesn't know are said to be such, whatever number they make."""
    (bundle / "model.onnx.data").write_bytes(b"\xff" * (bundle / "model.onnx.data").stat().st_size)
    with refused(BundleError, "bytes", "exported"):
        open_bundle(bundle).check_hashes()


def test_weights_that_are_cut_short_while_they_are_read(bundle):
    opened = open_bundle(bundle)
    name = list(opened.manifest.tensors)[-1]
    opened.tensor(name)
    os.truncate(bundle / "model.onnx.data", 100)
    with refused(BundleError, "model.onnx.data", "bytes", "shorter"):
        opened.tensor(name)


@pytest.mark.parametrize("name", ["tfm.json", "model.onnx", "model.onnx.data", "golden/tokens.npy"])
def test_missing_and_linked_files(bundle, name):
    moved = (bundle / name).rename(bundle.parent / "moved")
    refuses(bundle, f"{name} file")
    (bundle / name).symlink_to(moved)
    refuses(bundle, f"{name} regular file")
    (bundle / name).unlink()
    (bundle / name).mkdir()
    refuses(bundle, f"{name} regular file")


def test_a_linked_folder_is_refused(bundle):
    moved = (bundle / "golden").rename(bundle.parent / "moved")
    (bundle / "golden").symlink_to(moved)
    refuses(bundle, "golden/tokens.npy regular link")


def test_a_pipe_does_not_hang(bundle):
    (bundle / "tfm.json").unlink()
    os.mkfifo(bundle / "tfm.json")
    refuses(bundle, "tfm.json regular file")


def test_truncated_and_padded_data(bundle):
    size = (bundle / "model.onnx.data").stat().st_size
    for length in (0, size - 1, size + 1):
        os.truncate(bundle / "model.onnx.data", length)
        refuses(bundle, f"model.onnx.data {size} bytes {length}")


def test_a_file_beyond_its_limit(bundle):
    os.truncate(bundle / "tfm.json", 2**26 + 1)
    refuses(bundle, "tfm.json 67108864 67108865")


def test_files_that_the_manifest_does_not_know(bundle):
    (bundle / "encoder.onnx").write_bytes(b"graph")
    refuses(bundle, "encoder.onnx manifest")
    (bundle / "encoder.onnx").unlink()
    (bundle / "certificate.json").unlink()
    (bundle / "certificate.json").symlink_to("/dev/zero")
    refuses(bundle, "certificate.json regular file")


def test_a_template_that_is_no_text(bundle):
    (bundle / "chat_template.jinja").write_bytes(b"\xff" * 14)
    with refused(BundleError, "UTF-8"):
        _ = open_bundle(bundle).chat_template


def test_which_family_stands_for_a_repositorys_code_is_stated_where_there_is_code(made, tmp_path):
    assert open_bundle(made).manifest.source.code_replaced_by == ""
    assert set(json.loads((made / "tfm.json").read_text())["source"]) == {"name", "sha256"}
    config = shutil.copytree(made.parent / "checkpoint", tmp_path / "checkpoint") / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"auto_map": {"AutoModel": "own.Model"}}))
    bundle = open_bundle(make(tmp_path / "model"))
    assert bundle.code_replaced_by == "tfm"
    text = (bundle.path / "tfm.json").read_text()
    assert json.loads(text)["source"]["code_replaced_by"] == "tfm"
    assert manifest.dump(bundle.manifest) == text


def test_parts_that_are_left_out_are_stated_where_there_are_any(made):
    whole = open_bundle(made).manifest
    parts = {"vision_tower": LeftOut(tensors=437, bytes=832_000_000)}
    stated = replace(whole, source=replace(whole.source, left_out=parts, ignored_keys=("odd",)))
    text = manifest.dump(stated)
    assert json.loads(text)["source"]["ignored_keys"] == ["odd"]
    assert json.loads(text)["source"]["left_out"] == {"vision_tower": {"tensors": 437, "bytes": 832_000_000}}
    assert manifest.load(text.encode(), "tfm.json") == stated


def test_no_cache_of_windows_stands_beside_a_state(made):
    stated = json.loads((made / "tfm.json").read_text())
    stated |= {"config": to_json(tiny_models.recurrent()), "cache": "windowed"}
    with refused(BundleError, "windowed", "recurrent"):
        manifest.load(json.dumps(stated).encode(), "tfm.json")


WQKV, WQ = "decoder.layers.0.attn.wqkv", "decoder.layers.0.attn.wq"
SPEECH = asdict(SpeechTokens(8))
NESTED = asdict(Generation(tasks={"b": Generation()}))
HOSTILE = [
    (("format",), 4, "3 4"),
    (
        ("format",),
        1,
        "1 `tfm-cli export MODEL OUT --quant int8`",
    ),
    (("format",), "3", "3 '3'"),
    (("format",), True, "3 True"),
    (("unknown",), 1, "manifest.unknown"),
    (("two\nlines",), 1, "manifest.two"),
    (("tfm",), 3, "manifest.tfm 3"),
    (("versions", "numpy"), None, "versions.numpy"),
    (("config", "context"), 0, "context 1 0"),
    (("config", "extra"), 0, "config.extra unknown"),
    (("config",), [], "config []"),
    (("target",), "ort-tpu", "ort-cpu ort-cuda ort-web"),
    (("target",), "standard", "tensors.embedding.table.codes"),
    (("dtype",), "float64", "float32 float16"),
    (("dtype",), "float16", "tensors.embedding.table.scale"),
    (("cache",), ["shared"], "cache shared windowed copied"),
    (("cache",), "windowed", "cache windowed layer"),
    (("refused",), "no", "refused 'no'"),
    (("refused",), [1], "refused[0] 1"),
    (("source", "sha256"), 5, "source.sha256 5"),
    (("source", "path"), "x", "source.path"),
    (("source", "code_replaced_by"), None, "source.code_replaced_by"),
    (("source", "code_replaced_by"), "a\nb", "source.code_replaced_by"),
    (("source", "code_replaced_by"), "a" * 41, "source.code_replaced_by"),
    (("source", "licence"), "a\x1bb", "source.licence"),
    (("source", "licence"), "a" * 101, "source.licence"),
    (("source", "ignored_keys"), ["a\x1b"], "source.ignored_keys"),
    (("source", "left_out"), {"visual": {"tensors": 1}}, "source.left_out.visual.bytes"),
    (("source", "left_out"), {"visual": 1}, "source.left_out.visual 1"),
    (("source", "left_out"), {"a\x1b": {"tensors": 1, "bytes": 4}}, "source.left_out"),
    (("source", "left_out"), {"v" * 81: {"tensors": 1, "bytes": 4}}, "source.left_out"),
    (("files", "LICENSES"), {"size": 1, "sha256": "0"}, "files.LICENSES"),
    (("schemes", WQ, "bits"), 3, f"schemes.{WQ} bits=3"),
    (("schemes", WQ, "bits"), 4, f"tensors.{WQ}.packed"),
    (("schemes", WQ, "block"), 0, f"schemes.{WQ} block=0"),
    (("schemes", WQ, "block"), 2**50, "block whole number"),
    (("schemes", WQ, "activations"), "row", f"schemes.{WQ} activations='row'"),
    (("schemes", WQ, "activations"), "tensor", "activations none block row"),
    (("schemes", WQ, "activation_bits"), 16, f"schemes.{WQ} activation_bits=16"),
    (("schemes", WQ, "activation_bits"), 12, "activation_bits 8 16"),
    (("schemes", WQ, "rounds_output"), True, f"schemes.{WQ} rounds_output=True"),
    (("schemes", WQ, "code_bits"), 6, f"schemes.{WQ} code_bits=6"),
    (("schemes", WQ, "code_bits"), 4, "code_bits 0 5 6"),
    (("schemes", WQ, "symmetric"), 1, "symmetric 1"),
    (("schemes", WQ, "source"), "Q5_0\x1b", f"schemes.{WQ}.source type"),
    (("schemes", "decoder.norm.weight"), {"bits": 8, "block": 32, "activations": "none", "symmetric": True,
                                          "minimum": False, "native": False}, "matrix"),
    (("tensors", f"{WQKV}.packed", "offset"), 64, f"tensors.{WQKV}.packed"),
    (("tensors", f"{WQKV}.packed", "offset"), -1, "offset 0 -1"),
    (("tensors", f"{WQKV}.packed", "length"), 2**47, f"tensors.{WQKV}.packed"),
    (("tensors", f"{WQKV}.packed", "shape"), [1, 2.0], "shape[1] 2.0"),
    (("tensors", f"{WQKV}.packed", "dtype"), "object", f"tensors.{WQKV}.packed"),
    (("kernel_minima",), True, "kernel_minima"),
    (("half_scales",), [WQKV, WQKV], "half_scales"),
    (("half_scales",), [WQ], "half_scales"),
    (("half_scales",), ["decoder.norm.weight"], "half_scales"),
    (("kernel_forms",), {WQ: {"bits": 5, "scales": "float16"}}, "kernel_forms"),
    (("kernel_forms",), {WQKV: {"bits": 3, "scales": "float16"}}, f"kernel_forms.{WQKV} bits=3"),
    (("kernel_forms",), {WQKV: {"bits": 8, "scales": "codes"}}, f"kernel_forms.{WQKV} codes"),
    (("tensors", "more"), {"dtype": "uint8", "shape": [1], "offset": 0, "length": 1}, "more None"),
    (("tensors", f"{WQKV}.packed"), {}, "dtype missing"),
    (("files", "../model.onnx"), {"size": 1, "sha256": "0"}, "files.../model.onnx"),
    (("files", "certificate.json"), {"size": 1, "sha256": "0"}, "files.certificate.json"),
    (("files", "model.onnx", "size"), 6, "model.onnx 6 bytes 5"),
    (("files", "model.onnx", "sha256"), "0", "model.onnx bytes"),
    (("files", "model.onnx.data", "size"), 1, "model.onnx.data tensors 1"),
    (("generation", "bos"), 97, "generation's ids 97"),
    (("generation", "eos"), [1, 1000], "generation's ids 97 1000"),
    (("generation", "eos"), 1, "eos 1"),
    (("generation", "mask"), 97, "generation's ids 97"),
    (("labels",), ["A"], "labels 0 ['A']"),
    (("generation", "defaults"), {"temperature": -1}, "temperature"),
    (("generation", "defaults"), {"heat": 1}, "heat"),
    (("generation", "defaults"), {"top_k": "many"}, "top_k"),
    (("generation", "defaults"), {"suppress_tokens": [97]}, "generation's ids 97"),
    (("generation", "defaults"), {"begin_suppress_tokens": [5, 97]}, "generation's ids 97"),
    (("generation", "defaults"), {"forced_tokens": [97]}, "generation's ids 97"),
    (("generation", "defaults"), {"forced_last": [97]}, "generation's ids 97"),
    (("generation", "defaults"), {"bad_words": [[5, 97]]}, "generation's ids 97"),
    (("generation", "defaults"), {"logit_bias": [[97, 1.0]]}, "generation's ids 97"),
    (("generation", "max_new_tokens"), 0, "max_new_tokens 1"),
    (("generation", "search"), {"beams": 65}, "generation.search.beams 1 64 65"),
    (("generation", "stop"), [""], "generation.stop"),
    (("generation", "stop"), ["a"] * 17, "generation.stop"),
    (("generation", "left_out"), ["heat"], "left_out 'heat'"),
    (("generation", "speech"), SPEECH | {"no_timestamps": 96}, "generation's ids 97 97"),
    (("generation", "speech"), SPEECH | {"no_timestamps": 0}, "generation.speech silence"),
    (("generation", "speech"), SPEECH | {"latest_first": -1}, "speech.latest_first 0 -1"),
    (("generation", "speech"), SPEECH | {"alignment_heads": [[0, 0]]}, "generation.speech.alignment_heads"),
    (("generation", "speech"), SPEECH | {"languages": {"en": 97}}, "generation's ids 97"),
    (("generation", "speech"), SPEECH | {"tasks": {"transcribe": 97}}, "generation's ids 97"),
    (("generation", "search"), {"beams": 2.5}, "generation.search.beams 1 64 2.5"),
    (("generation", "tasks"), {"a": NESTED}, "generation.tasks.a tasks"),
    (("generation", "start"), 97, "generation's ids 97"),
    (("generation", "search"), {"beams": 0}, "generation.search.beams 64 0"),
    (("generation", "search"), {"early_stopping": "soon"}, "early_stopping 'soon'"),
    (("generation", "search"), {"source": [1]}, "generation.search.source"),
    (("generation", "tasks"), {"a": {}}, "generation.tasks.a.bos"),
    (("generation", "languages"), {"codes": {"fra": 97}, "place": "text"}, "generation's ids 97"),
    (("generation", "languages"), {"codes": {}, "place": "end"}, "place first start text"),
]  # fmt: skip


@pytest.mark.parametrize(("keys", "value", "match"), HOSTILE)
def test_hostile_manifest(bundle, keys, value, match):
    change(bundle, *keys, to=value)
    refuses(bundle, match)


@pytest.mark.parametrize(("key", "value"), [("symmetric", False), ("minimum", True)])
def test_a_column_has_a_scale_alone(tmp_path, key, value):
    path = make(tmp_path / "model", quant="int8-dynamic")
    change(path, "schemes", WQ, key, to=value)
    refuses(path, f"schemes.{WQ} {key}={value}")


@pytest.mark.parametrize(
    "text", [b"", b"[]", b"{", b'{"format": 3, "format": 3}', b"[" * 10_000, b"\xff", b"{}"]
)
def test_a_manifest_that_is_none(bundle, text):
    (bundle / "tfm.json").write_bytes(text)
    refuses(bundle, "tfm.json")


def paths(value, at=()):
    """Every place in a JSON value."""
    yield at
    for key, item in (
        value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    ):
        yield from paths(item, (*at, key))


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@settings(max_examples=300)
@given(data=st.data())
def test_any_value_anywhere_is_read_or_refused(made, data):
    value = json.loads((made / "tfm.json").read_text())
    *keys, last = data.draw(st.sampled_from([p for p in paths(value) if p]), label="place")
    level = value
    for key in keys:
        level = level[key]
    level[last] = data.draw(JSON, label="value")
    text = json.dumps(value)
    message = complaint(text.encode())
    assert "\n" not in message
    assert len(message) < 1000
    if not message:
        assert json.loads(manifest.dump(manifest.load(text.encode(), "tfm.json"))) == value


def complaint(data: bytes) -> str:
    try:
        manifest.load(data, "tfm.json")
    except BundleError as error:
        return str(error)
    return ""
