"""The on-disk format: what is written is read back, and all else is refused in one line."""

import hashlib
import itertools
import json
import os
import re
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from helpers import text_strategies, tiny_models
from hypothesis import given, settings
from hypothesis import strategies as st
from tfm.export import bundle_writer
from tfm.export.graph.write import GraphFiles
from tfm.export.layouts import hub_files
from tfm.export.tokenizer_text import quick_to_load
from tfm.refimpl.checkpoint.generation_config import Generation, read_generation
from tfm.refimpl.checkpoint.languages import Languages
from tfm.refimpl.checkpoint.open import open_checkpoint, save_checkpoint
from tfm.refimpl.config import to_json
from tfm.refimpl.errors import BundleError, NumericError
from tfm.refimpl.ops.quant import Blocks
from tfm.refimpl.params.parameter_shapes import ParameterShapes
from tfm.refimpl.params.shapes import parameter_shapes
from tfm.refimpl.params.tree import flatten
from tfm.refimpl.weights.left_out import LeftOut
from tfm.runtime.bundle import manifest, weight_layout
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
    restored, restore = [], weight_layout.restore

    def counted(group, tensors):
        restored.append(group.name)
        return restore(group, tensors)

    monkeypatch.setattr(weight_layout, "restore", counted)
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


def refused(path: Path, match: str, check_hashes: bool = False) -> None:
    with pytest.raises(BundleError, match=match) as caught:
        open_bundle(path, check_hashes)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("target", "quant"),
    [
        ("ort-cpu", "fp32"),
        ("ort-cpu", "int8-dynamic"),
        ("ort-cuda", "int4"),
        ("standard", "int4"),
        ("standard", "fp16"),
    ],
)
def test_the_tree_is_that_of_the_checkpoint_in_its_schemes(tmp_path, target, quant):
    from tfm.export import bundle_writer
    from tfm.export.quantization import plan
    from tfm.runtime.bundle import schemes, targets

    opened = open_bundle(make(tmp_path / "model", target, quant), check_hashes=True)
    checkpoint = open_checkpoint(tmp_path / "checkpoint")
    scheme, made_for = schemes.find(quant), targets.find(target)
    made = plan.plan(checkpoint, scheme, made_for)
    dtype = schemes.float_type(scheme, made_for)
    assert (opened.config, opened.target, opened.quant, opened.dtype) == (CONFIG, target, quant, dtype)
    assert opened.cache == ("copied" if target == "standard" else "shared")
    calibrated = bundle_writer.calibrate(checkpoint, scheme, made, None, silent)
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
    whole = replace(found, languages=Languages({"fra": 7}, "text"))
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
    refused(tmp_path / "none", "must be a bundle")
    refused(tmp_path, r"must be a bundle, .* tfm\.json")
    (tmp_path / "config.json").write_text("{}")
    refused(tmp_path, "must be a bundle, .* checkpoint")


@pytest.mark.parametrize(
    "name", ["model.onnx", "model.onnx.data", "golden/tokens.npy", "tokenizer.json", "chat_template.jinja"]
)
def test_one_flipped_bit(bundle, name):
    data = bytearray((bundle / name).read_bytes())
    data[len(data) // 2] ^= 1
    (bundle / name).write_bytes(data)
    if name == "model.onnx":
        refused(bundle, f"{name}: its bytes aren't those that were exported")
        return
    opened = open_bundle(bundle)
    with pytest.raises(BundleError, match=f"{name}: its bytes aren't those that were exported"):
        opened.check_hashes()
    wait = opened.checking()
    with pytest.raises(BundleError, match=name):
        wait()
    refused(bundle, name, check_hashes=True)


def test_checking_beside_other_work_passes(made):
    open_bundle(made).checking()()


def test_a_file_that_vanishes_while_it_is_checked(bundle):
    opened = open_bundle(bundle)
    (bundle / "golden/tokens.npy").unlink()
    with pytest.raises(BundleError, match=r"golden/tokens.npy: can't be opened"):
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
            with pytest.raises(NumericError, match=re.escape(f"model.onnx.data: {name} must be finite")):
                open_bundle(path, check_hashes=True)


def test_a_damaged_number_is_damage_first(bundle):
    """Bytes that the manifest doesn't know are said to be such, whatever number they make."""
    (bundle / "model.onnx.data").write_bytes(b"\xff" * (bundle / "model.onnx.data").stat().st_size)
    with pytest.raises(BundleError, match="its bytes aren't those that were exported"):
        open_bundle(bundle).check_hashes()


def test_weights_that_are_cut_short_while_they_are_read(bundle):
    opened = open_bundle(bundle)
    name = list(opened.manifest.tensors)[-1]
    opened.tensor(name)
    os.truncate(bundle / "model.onnx.data", 100)
    with pytest.raises(BundleError, match=r"model.onnx.data: must have \d+ bytes, it was cut short"):
        opened.tensor(name)


@pytest.mark.parametrize("name", ["tfm.json", "model.onnx", "model.onnx.data", "golden/tokens.npy"])
def test_missing_and_linked_files(bundle, name):
    moved = (bundle / name).rename(bundle.parent / "moved")
    refused(bundle, f"{name}: No such file")
    (bundle / name).symlink_to(moved)
    refused(bundle, f"{name}: must be a regular file")
    (bundle / name).unlink()
    (bundle / name).mkdir()
    refused(bundle, f"{name}: must be a regular file")


def test_a_linked_folder_is_refused(bundle):
    moved = (bundle / "golden").rename(bundle.parent / "moved")
    (bundle / "golden").symlink_to(moved)
    refused(bundle, r"golden/tokens\.npy: must be a regular file, no link")


def test_a_pipe_does_not_hang(bundle):
    (bundle / "tfm.json").unlink()
    os.mkfifo(bundle / "tfm.json")
    refused(bundle, "must be a regular file")


def test_truncated_and_padded_data(bundle):
    size = (bundle / "model.onnx.data").stat().st_size
    for length in (0, size - 1, size + 1):
        os.truncate(bundle / "model.onnx.data", length)
        refused(bundle, f"must have {size} bytes, has {length}")


def test_a_file_beyond_its_limit(bundle):
    os.truncate(bundle / "tfm.json", 2**26 + 1)
    refused(bundle, r"tfm.json: may have 67108864 bytes, has 67108865")


def test_files_that_the_manifest_does_not_know(bundle):
    (bundle / "encoder.onnx").write_bytes(b"graph")
    refused(bundle, r"encoder.onnx: the manifest doesn't know this file")
    (bundle / "encoder.onnx").unlink()
    (bundle / "certificate.json").unlink()
    (bundle / "certificate.json").symlink_to("/dev/zero")
    refused(bundle, r"certificate.json: must be a regular file")


def test_a_template_that_is_no_text(bundle):
    (bundle / "chat_template.jinja").write_bytes(b"\xff" * 14)
    with pytest.raises(BundleError, match="must be UTF-8"):
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
    with pytest.raises(BundleError, match="can't be windowed where a layer keeps a recurrence's state"):
        manifest.load(json.dumps(stated).encode(), "tfm.json")


WQKV, WQ = "decoder.layers.0.attn.wqkv", "decoder.layers.0.attn.wq"
NESTED = asdict(Generation(tasks={"b": Generation()}))
HOSTILE = [
    (("format",), 4, "of format 3, got 4: a newer tfm wrote it, update tfm$"),
    (
        ("format",),
        1,
        "got 1, which an older tfm wrote: .* `tfm-cli export MODEL OUT --quant int8`, .*made from$",
    ),
    (("format",), "3", "of format 3, got '3'"),
    (("format",), True, "of format 3"),
    (("unknown",), 1, r"manifest.unknown is unknown"),
    (("two\nlines",), 1, r"manifest.two lines is unknown"),
    (("tfm",), 3, r"manifest.tfm must be str, got 3"),
    (("versions", "numpy"), None, r"versions.numpy must be str"),
    (("config", "context"), 0, "context must be 1 to"),
    (("config", "extra"), 0, "unknown fields"),
    (("config",), [], "config must be"),
    (("target",), "ort-tpu", "target must be ort-cpu or ort-cuda or ort-web or standard"),
    (("target",), "standard", r"tensors.* must be"),
    (("dtype",), "float64", "dtype must be float32 or float16"),
    (("dtype",), "float16", "tensors.* must be"),
    (("cache",), ["shared"], "cache must be shared or windowed or copied"),
    (("cache",), "windowed", "cache can't be windowed: no layer"),
    (("refused",), "no", r"refused must be tuple"),
    (("refused",), [1], r"refused\[0\] must be str"),
    (("source", "sha256"), 5, r"source.sha256 must be str"),
    (("source", "path"), "x", r"source.path is unknown"),
    (("source", "code_replaced_by"), None, "source.code_replaced_by must be str"),
    (("source", "code_replaced_by"), "a\nb", "source.code_replaced_by must name a family"),
    (("source", "code_replaced_by"), "a" * 41, "source.code_replaced_by must name a family"),
    (("source", "licence"), "a\x1bb", "source.licence must be a printable line"),
    (("source", "licence"), "a" * 101, "source.licence must be a printable line"),
    (("source", "ignored_keys"), ["a\x1b"], "source.ignored_keys must be"),
    (("source", "left_out"), {"visual": {"tensors": 1}}, "source.left_out.visual.bytes is missing"),
    (("source", "left_out"), {"visual": 1}, "source.left_out.visual must be LeftOut"),
    (("source", "left_out"), {"a\x1b": {"tensors": 1, "bytes": 4}}, "source.left_out must map names"),
    (("source", "left_out"), {"v" * 81: {"tensors": 1, "bytes": 4}}, "source.left_out must map names"),
    (("files", "LICENSES"), {"size": 1, "sha256": "0"}, "files.LICENSES is unknown"),
    (("schemes", WQ, "bits"), 3, rf"schemes.{WQ} can't be"),
    (("schemes", WQ, "bits"), 4, "tensors.*must be"),
    (("schemes", WQ, "block"), 0, "can't be"),
    (("schemes", WQ, "block"), 2**50, "block must be a whole number"),
    (("schemes", WQ, "activations"), "row", "can't be"),
    (("schemes", WQ, "activations"), "tensor", "activations must be none or block or row"),
    (("schemes", WQ, "activation_bits"), 16, "can't be"),
    (("schemes", WQ, "activation_bits"), 12, "activation_bits must be 8 or 16"),
    (("schemes", WQ, "rounds_output"), True, "can't be"),
    (("schemes", WQ, "symmetric"), 1, "symmetric must be bool"),
    (("schemes", WQ, "source"), "Q5_0\x1b", f"schemes.{WQ}.source must name a type"),
    (("schemes", "decoder.norm.weight"), {"bits": 8, "block": 32, "activations": "none", "symmetric": True,
                                          "minimum": False, "native": False}, "isn't a matrix"),
    (("tensors", f"{WQKV}.packed", "offset"), 64, "tensors.*must be"),
    (("tensors", f"{WQKV}.packed", "offset"), -1, "offset must be a whole number from 0"),
    (("tensors", f"{WQKV}.packed", "length"), 2**47, "tensors.*must be"),
    (("tensors", f"{WQKV}.packed", "shape"), [1, 2.0], r"shape\[1\] must be a whole number"),
    (("tensors", f"{WQKV}.packed", "dtype"), "object", "tensors.*must be"),
    (("kernel_minima",), True, "kernel_minima must be absent where kernels have none"),
    (("half_scales",), [WQKV, WQKV], "half_scales must name weights of kernels in blocks, in order"),
    (("half_scales",), [WQ], "half_scales must name weights"),
    (("half_scales",), ["decoder.norm.weight"], "half_scales must name weights"),
    (("tensors", "more"), {"dtype": "uint8", "shape": [1], "offset": 0, "length": 1}, "more must be None"),
    (("tensors", f"{WQKV}.packed"), {}, "dtype is missing"),
    (("files", "../model.onnx"), {"size": 1, "sha256": "0"}, r"files.\.\./model.onnx is unknown"),
    (("files", "certificate.json"), {"size": 1, "sha256": "0"}, "files.certificate.json is unknown"),
    (("files", "model.onnx", "size"), 6, "must have 6 bytes, has 5"),
    (("files", "model.onnx", "sha256"), "0", "its bytes aren't those"),
    (("files", "model.onnx.data", "size"), 1, "by the tensors, files says 1"),
    (("generation", "bos"), 97, "below 97, got 97"),
    (("generation", "eos"), [1, 1000], "below 97, got 1000"),
    (("generation", "eos"), 1, "eos must be tuple"),
    (("generation", "mask"), 97, "below 97, got 97"),
    (("labels",), ["A"], "labels must be 0 different names"),
    (("generation", "defaults"), {"temperature": -1}, "temperature"),
    (("generation", "defaults"), {"heat": 1}, "heat"),
    (("generation", "defaults"), {"top_k": "many"}, "top_k|str"),
    (("generation", "defaults"), {"suppress_tokens": [97]}, "below 97, got 97"),
    (("generation", "defaults"), {"begin_suppress_tokens": [5, 97]}, "below 97, got 97"),
    (("generation", "defaults"), {"forced_tokens": [97]}, "below 97, got 97"),
    (("generation", "defaults"), {"forced_last": [97]}, "below 97, got 97"),
    (("generation", "defaults"), {"bad_words": [[5, 97]]}, "below 97, got 97"),
    (("generation", "defaults"), {"logit_bias": [[97, 1.0]]}, "below 97, got 97"),
    (("generation", "max_new_tokens"), 0, "max_new_tokens must be null or at least 1"),
    (("generation", "search"), {"beams": 65}, "beams must be 1 to 64, got 65"),
    (("generation", "stop"), [""], "generation.stop must be"),
    (("generation", "stop"), ["a"] * 17, "generation.stop must be"),
    (("generation", "left_out"), ["heat"], "left_out must name options, got 'heat'"),
    (("generation", "search"), {"beams": 2.5}, "beams must be 1 to 64, got 2.5"),
    (("generation", "tasks"), {"a": NESTED}, "tasks.a must have no tasks of its own"),
    (("generation", "start"), 97, "below 97, got 97"),
    (("generation", "search"), {"beams": 0}, "at least one beam"),
    (("generation", "search"), {"early_stopping": "soon"}, 'true, false or "never", got \'soon\''),
    (("generation", "search"), {"source": [1]}, "generation.search.source is unknown"),
    (("generation", "tasks"), {"a": {}}, "generation.tasks.a"),
    (("generation", "languages"), {"codes": {"fra": 97}, "place": "text"}, "below 97, got 97"),
    (("generation", "languages"), {"codes": {}, "place": "end"}, "place must be first or start or text"),
]  # fmt: skip


@pytest.mark.parametrize(("keys", "value", "match"), HOSTILE)
def test_hostile_manifest(bundle, keys, value, match):
    change(bundle, *keys, to=value)
    refused(bundle, match)


@pytest.mark.parametrize(
    "text", [b"", b"[]", b"{", b'{"format": 3, "format": 3}', b"[" * 10_000, b"\xff", b"{}"]
)
def test_a_manifest_that_is_none(bundle, text):
    (bundle / "tfm.json").write_bytes(text)
    refused(bundle, "tfm.json")


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
