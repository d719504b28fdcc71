"""verify accepts correct bundles and refuses each kind of damage, with renewed hashes too."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from helpers import text_strategies, tiny_models
from tfm.export import bundle_writer
from tfm.refimpl.checkpoint.open import open_checkpoint, save_checkpoint
from tfm.refimpl.engine.numpy_engine import NumpyEngine
from tfm.refimpl.error_budget import kl_budget
from tfm.refimpl.errors import BundleError, CheckpointError, DeviceError, VerifyError
from tfm.refimpl.params.shapes import parameter_shapes
from tfm.refimpl.params.tree import flatten, unflatten
from tfm.runtime.bundle import manifest
from tfm.runtime.bundle.bundle import open_bundle
from tfm.runtime.ort import engine
from tfm.runtime.verification import report
from tfm.runtime.verification import verify as module
from tfm.runtime.verification.checks import greedy, logits
from tfm.runtime.verification.checks.context import VerifyContext
from tfm.runtime.verification.golden import load
from tfm.runtime.verification.report import INT8_FLAGS, Row, certify, judged
from tfm.runtime.verification.verify import verify

QUANTS = ("fp32", "int8", "int8-dynamic", "int4")
TOKENIZER = text_strategies.byte_level()
CONFIG = tiny_models.llama(vocabulary=TOKENIZER.get_vocab_size())


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A checkpoint and its bundles, by quantization."""
    path = tmp_path_factory.mktemp("made")
    save_checkpoint(path / "checkpoint", CONFIG, tiny_models.weights(CONFIG), TOKENIZER.to_str())
    for quant in QUANTS:
        bundle_writer.export(open_checkpoint(path / "checkpoint"), path / quant, quant=quant, verify=False)
        (path / quant / "certificate.json").unlink()
    return path


@pytest.fixture
def copy(made: Path, tmp_path: Path) -> Callable[[str], Path]:
    """Copies a bundle, so that a test can damage it."""
    return lambda quant: Path(shutil.copytree(made / quant, tmp_path / quant))


def rehash(path: Path) -> None:
    """Renew the manifest's hashes after files were changed."""
    held = manifest.load((path / "tfm.json").read_bytes(), "tfm.json")
    files = {name: bundle_writer._describe(path / name) for name in held.files}
    (path / "tfm.json").write_text(manifest.dump(replace(held, files=files)))


def write_tensor(path: Path, name: str, change: Callable[[np.ndarray], None]) -> None:
    entry = open_bundle(path).manifest.tensors[name]
    data = np.memmap(path / "model.onnx.data", np.uint8, "r+")
    change(data[entry.offset : entry.offset + entry.length].view(entry.dtype).reshape(entry.shape))
    data.flush()


def names(rows: list[Row]) -> list[str]:
    return [row.name for row in rows]


@pytest.mark.parametrize("quant", QUANTS)
def test_a_correct_bundle_passes_every_check(copy, made, quant):
    path = copy(quant)
    messages = []
    found = verify(path, source=made / "checkpoint", progress=lambda *report: messages.append(report))
    assert not found.failed, found.failed
    assert not found.unchecked, found.unchecked
    rows = {row.name: row for row in found.rows}
    assert ("products in float: largest error" in rows) == (quant in ("int8", "int4"))
    assert ("against unquantized weights: RMS error" in rows) == (quant != "fp32")
    for name in ("whole: RMS error", "cached, token by token: largest error", "in chunks: largest error"):
        assert 0 < rows[name].figure <= rows[name].budget
    assert rows["greedy tokens equal the specification's"].figure == greedy.GREEDY_TOKENS
    assert rows["weights equal the source's"].figure == len(parameter_shapes(CONFIG))
    assert 0 <= rows["KL divergence over a text"].figure < (0.5 if quant == "int4" else 0.05)
    budget = kl_budget(load(path, CONFIG).own.budget) if quant == "fp32" else None
    assert rows["KL divergence over a text"].budget == budget
    count = len(module.CHECKS)
    assert messages == [("checking the bundle", done, count) for done in range(count + 1)]
    assert verify(path).failed == []  # with a certificate in the bundle too


def greedy_row(path: Path, monkeypatch: pytest.MonkeyPatch, chosen: list[int], budget: float) -> Row:
    """What the check of greedy tokens says of an engine that chooses these, at this budget of logits."""
    opened = open_bundle(path)
    context = VerifyContext(opened, None, None, float("inf"), "cpu", 1)
    held = load(path, CONFIG)
    own = replace(held.own, maximum=np.array([budget / 4, 0.0, 0.0]))
    context.golden = replace(held, own=own)
    monkeypatch.setattr(greedy, "generate", lambda *_: iter(chosen))
    (row,) = greedy.check_greedy_tokens(context)
    return row


def test_another_greedy_token_may_be_two_budgets_behind(made, monkeypatch):
    """The specification's second token for its first, at budgets just above and below half their distance."""
    path = made / "fp32"
    held = load(path, CONFIG)
    prompt = held.tokens[:1, : held.split]
    specification = NumpyEngine(CONFIG, open_bundle(path).params())
    logits = specification.step(prompt, specification.start())[0][0, 0]
    best, second = np.argsort(-logits)[:2].tolist()
    gap = float(logits[best] - logits[second])
    row = greedy_row(path, monkeypatch, [second], gap / 2 * 1.001)
    assert (row.figure, row.budget, row.ok) == (0, 1, True)
    assert row.note == f"token 0: {second} for {best}, which the specification has {gap:.2g} ahead"
    assert greedy_row(path, monkeypatch, [second], gap / 2 * 0.999).ok is False
    row = greedy_row(path, monkeypatch, [best], 0)
    assert (row.figure, row.ok, row.note) == (1, True, "")


def test_the_certificate_holds_the_report(copy):
    path = copy("int8")
    found = verify(path)
    held = json.loads((path / "certificate.json").read_bytes())
    assert held["manifest"] == report.manifest_hash(path)
    assert held["ok"] is True
    assert [row["name"] for row in held["rows"]] == names(list(found.rows))
    assert held["not_checked"] == ["weights equal the source's: no source given"]
    assert held["machine"]["int8"] == report.int8_path()
    assert set(held["machine"]["flags"]) <= set(INT8_FLAGS)
    assert {"tfm", "python", "numpy", "onnxruntime"} == set(held["versions"])
    assert held["seed"] == module.SEED
    assert not [p for p in path.iterdir() if p.name.startswith(".")]


@pytest.mark.parametrize("name", ["model.onnx", "model.onnx.data", "golden.npz", "tokenizer.json"])
def test_a_flipped_bit_is_refused(copy, name):
    path = copy("int8")
    original = (path / name).read_bytes()
    for place in (0, 8 * len(original) // 2 + 3, 8 * len(original) - 1):
        data = bytearray(original)
        data[place // 8] ^= 1 << place % 8
        (path / name).write_bytes(data)
        found = verify(path)
        assert names(list(found.rows)) == names(found.failed) == ["files"]
        assert f"{name}: its bytes aren't those that were exported" in found.failed[0].note
        assert not (path / "certificate.json").exists()


@pytest.mark.parametrize("quant", ["int8", "int8-dynamic"])
def test_a_changed_scale_with_new_hashes_is_refused(copy, quant):
    path = copy(quant)

    def change(scale: np.ndarray) -> None:
        scale.reshape(-1)[3] *= 3

    write_tensor(path, "decoder.layers.1.mlp.down.scale", change)
    rehash(path)
    failed = names(verify(path).failed)
    assert "weights equal the specification's" in failed
    assert ("products in float: largest error" in failed) == (quant == "int8")
    assert not (path / "certificate.json").exists()


def test_a_changed_code_with_new_hashes_is_refused(copy, made):
    path = copy("int8")

    def change(codes: np.ndarray) -> None:
        codes.reshape(-1)[5] ^= 64

    write_tensor(path, "decoder.layers.0.attn.wqkv.packed", change)
    rehash(path)
    failed = verify(path, source=made / "checkpoint").failed
    assert {"weights equal the specification's", "weights equal the source's"} <= set(names(failed))
    assert "decoder.layers.0.attn.wq" in failed[0].note


@pytest.mark.parametrize(
    ("quant", "tensor"), [("fp32", "decoder.layers.0.mlp.down"), ("int8", "decoder.layers.0.mlp.down.scale")]
)
def test_nan_with_new_hashes_is_refused(copy, quant, tensor):
    path = copy(quant)

    def change(values: np.ndarray) -> None:
        values.reshape(-1)[0] = np.nan

    write_tensor(path, tensor, change)
    rehash(path)
    (row,) = verify(path).failed
    assert (row.name, row.figure) == ("files", "NumericError")
    assert tensor in row.note


@pytest.mark.parametrize("quant", QUANTS)
def test_a_bug_in_the_graph_with_new_hashes_is_refused(copy, quant):
    """One eps of the graph is wrong; all weights are right."""
    path = copy(quant)
    graph = onnx.load(path / "model.onnx", load_external_data=False)
    assert plant_eps(graph, 1e-2)
    onnx.save(graph, path / "model.onnx")
    rehash(path)
    failed = names(verify(path).failed)
    assert "weights equal the specification's" not in failed
    assert "whole: largest error" in failed or quant != "fp32"
    assert "products in float: RMS error" in failed or quant != "int8"
    assert failed


def plant_eps(model: onnx.ModelProto, eps: float) -> bool:
    """Change the eps of the first norm, an attribute or an initializer of the graph."""
    for node in model.graph.node:
        for attribute in node.attribute:
            if attribute.name == "epsilon":
                attribute.f = eps
                return True
    for value in model.graph.initializer:
        if value.data_location != onnx.TensorProto.EXTERNAL and value.data_type == onnx.TensorProto.FLOAT:
            array = onnx.numpy_helper.to_array(value)
            if array.size == 1 and 0 < float(array.reshape(-1)[0]) < 1e-4:
                value.CopyFrom(onnx.numpy_helper.from_array(np.full_like(array, eps), value.name))
                return True
    return False


def test_another_source_is_refused(copy, tmp_path):
    other = dict(flatten(tiny_models.weights(CONFIG)))
    other["decoder.layers.1.attn.wo"] = other["decoder.layers.1.attn.wo"] * np.float32(1.1)
    save_checkpoint(tmp_path / "other", CONFIG, unflatten(other))
    (row,) = verify(copy("int8"), source=tmp_path / "other").failed
    assert row.name == "weights equal the source's"
    assert row.note == "different: decoder.layers.1.attn.wo"
    capped = replace(CONFIG, head=replace(CONFIG.head, softcap=3.0))
    save_checkpoint(tmp_path / "capped", capped, tiny_models.weights(capped))
    with pytest.raises(CheckpointError, match="its config is another one"):
        verify(copy("fp32"), source=tmp_path / "capped")


def test_the_source_may_have_another_context(copy, tmp_path):
    longer = replace(CONFIG, context=64)
    save_checkpoint(tmp_path / "longer", longer, tiny_models.weights(longer))
    assert not verify(copy("fp32"), source=tmp_path / "longer").failed


def test_a_certificate_of_another_manifest_is_refused(copy):
    path = copy("fp32")
    verify(path)
    held = manifest.load((path / "tfm.json").read_bytes(), "tfm.json")
    changed = replace(held, generation=replace(held.generation, eos=(5,)))
    (path / "tfm.json").write_text(manifest.dump(changed))
    (row,) = verify(path).failed
    assert row.name == "certificate names the manifest"
    (path / "certificate.json").write_text("[]")
    assert names(verify(path).failed) == ["certificate names the manifest"]


def test_time_is_limited_and_unreached_checks_are_named(copy, monkeypatch):
    path = copy("int8")
    found = verify(path, seconds=0)
    assert not found.failed
    assert names(found.unchecked) == list(module.CHECKS)
    assert (
        json.loads((path / "certificate.json").read_bytes())["not_checked"][0] == "files: not reached in 0 s"
    )
    clock = iter(range(1000))
    monkeypatch.setattr(module.time, "monotonic", lambda: next(clock))
    found = verify(path, seconds=8)  # every call of the clock takes a second
    assert "hashes of all files" in names(list(found.rows))
    assert "text" in names(found.unchecked)
    weights = next(row for row in found.rows if row.name == "weights equal the specification's")
    assert weights.note == "out of time"


def test_a_missing_device_is_no_failure(copy, monkeypatch):
    def choose(*_):
        raise DeviceError("CUDA can't start here")

    monkeypatch.setattr(engine, "choose", choose)
    monkeypatch.setattr(logits, "choose", choose)
    found = verify(copy("int8"))
    assert not found.failed
    assert {"session", "sharp", "numbers", "greedy", "text"} <= set(names(found.unchecked))
    assert {row.note for row in found.unchecked if row.name == "session"} == {"CUDA can't start here"}


def test_a_given_text_is_compared(copy, tmp_path):
    (tmp_path / "text").write_text("the cat sat on the mat")
    found = {row.name: row for row in verify(copy("int8"), text=tmp_path / "text").rows}
    assert re.match(r"(\d) of \1 tokens", found["KL divergence over a text"].note)
    assert 0 <= found["KL divergence over a text"].figure <= found["KL divergence over a text"].budget
    for content in (b"\xff", None):
        (tmp_path / "bad").unlink(missing_ok=True)
        if content is not None:
            (tmp_path / "bad").write_bytes(content)
        with pytest.raises(VerifyError, match="UTF-8"):
            verify(copy("fp32") if content else tmp_path / "fp32", text=tmp_path / "bad")


def test_a_blank_text_is_refused(copy, tmp_path):
    (tmp_path / "text").write_text(" \n\t\n")
    with pytest.raises(VerifyError, match="must hold a text to compare over, it is blank"):
        verify(copy("int8"), text=tmp_path / "text")


def test_a_text_may_not_be_huge(copy, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "LARGEST_TEXT", 3)
    (tmp_path / "text").write_text("four")
    with pytest.raises(VerifyError, match="may have 3 bytes, it has more"):
        verify(copy("fp32"), text=tmp_path / "text")


def test_without_golden_inputs_it_is_refused(copy):
    path = copy("fp32")
    (path / "golden.npz").write_bytes(b"PK")
    rehash(path)
    failed = verify(path).failed
    assert (failed[0].name, failed[0].figure) == ("weights", "BundleError")
    assert "golden.npz: must be a whole .npz file" in failed[0].note


def test_a_missing_bundle_is_an_error(tmp_path):
    with pytest.raises(BundleError, match="must be a bundle"):
        verify(tmp_path / "nothing")


def test_the_process_prints_json(copy, capsys):
    path = copy("fp32")
    ran = subprocess.run(
        [sys.executable, "-m", "tfm.runtime.verification.verify", str(path)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(ran.stdout)["ok"] is True
    assert ran.stderr == ""
    (path / "model.onnx").write_bytes(b"other")
    assert module.main([str(path)]) == VerifyError.exit_code
    assert json.loads(capsys.readouterr().out)["rows"][0]["ok"] is False
    assert module.main([str(path / "nothing")]) == BundleError.exit_code
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("stated", [manifest.FORMAT - 1, manifest.FORMAT + 1])
def test_a_bundle_of_another_format_is_not_called_damaged(tmp_path, capsys, stated):
    """It is the error, with the advice, that every other command gives."""
    (tmp_path / "tfm.json").write_text(json.dumps({"format": stated}))
    with pytest.raises(BundleError) as opening:
        open_bundle(tmp_path)
    assert module.main([str(tmp_path)]) == BundleError.exit_code
    assert capsys.readouterr().err == f"{opening.value}\n"


def test_nan_is_out_of_any_budget(tmp_path):
    assert judged("x", float("nan"), 1.0).result == "OUT"
    assert judged("x", 1.0, 1.0).result == "ok"
    assert (Row("x").result, Row("x", 1.0).result) == ("not checked", "measured")
    (tmp_path / "tfm.json").write_text("{}")
    held = certify(tmp_path, report.Report((judged("x", float("nan"), 1.0),), 0.1, "cpu", 1))
    rows = held["rows"]
    assert isinstance(rows, list)
    assert (held["ok"], rows[0]["figure"]) == (False, "nan")
