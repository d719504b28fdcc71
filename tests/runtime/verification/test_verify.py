"""verify accepts correct bundles and refuses each kind of damage, with renewed hashes too."""

import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import pytest
from helpers import text_strategies, tiny_models
from helpers.refused import pattern, refused
from tfm.export import bundle_writer
from tfm.refimpl.checkpoint.open import open_checkpoint, save_checkpoint
from tfm.refimpl.decoding.loop import GeneratedSequence, generate
from tfm.refimpl.engine.numpy_engine import NumpyEngine
from tfm.refimpl.error_budget import kl_budget
from tfm.refimpl.errors import BundleError, CheckpointError, DeviceError, VerifyError
from tfm.refimpl.params.shapes import parameter_shapes
from tfm.refimpl.params.tree import flatten, unflatten
from tfm.runtime.bundle import manifest
from tfm.runtime.bundle.bundle import manifest_hash, open_bundle
from tfm.runtime.ort import engine
from tfm.runtime.verification import certificate, report
from tfm.runtime.verification import verify as module
from tfm.runtime.verification.certificate import INT8_FLAGS, certify, recorded
from tfm.runtime.verification.checks import backends, greedy, logits, text
from tfm.runtime.verification.checks.context import VerifyContext
from tfm.runtime.verification.checks.source import WEIGHTS
from tfm.runtime.verification.checks.table import CHECKS
from tfm.runtime.verification.golden import load
from tfm.runtime.verification.report import NOT_REACHED, NOT_YET, CheckResult, Report, Row, judged
from tfm.runtime.verification.verify import verify
from threadpoolctl import threadpool_info, threadpool_limits

QUANTS = ("fp32", "int8", "int8-dynamic", "int4")
TOKENIZER = text_strategies.byte_level()
CONFIG = tiny_models.llama(vocabulary=TOKENIZER.get_vocab_size())


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    """The checkpoint that the bundles are made of."""
    path = tmp_path_factory.mktemp("made") / "checkpoint"
    save_checkpoint(path, CONFIG, tiny_models.weights(CONFIG), TOKENIZER.to_str())
    return path


@pytest.fixture(scope="module")
def exported(checkpoint: Path) -> Callable[[str], Path]:
    """The bundle of a quantization, exported once, when a test asks for it."""

    @cache
    def export(quant: str) -> Path:
        path = checkpoint.with_name(quant)
        bundle_writer.export(open_checkpoint(checkpoint), path, quant=quant, verify=False)
        (path / "certificate.json").unlink()
        return path

    return export


@pytest.fixture
def copy(exported: Callable[[str], Path], tmp_path: Path) -> Callable[[str], Path]:
    """Copies a bundle, so that a test can damage it."""
    return lambda quant: Path(shutil.copytree(exported(quant), tmp_path / quant))


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


def failing(found: Report) -> set[str]:
    """The checks with a row that failed, by their keys in CHECKS."""
    return {check.name for check in found.checks if any(row.ok is False for row in check.rows)}


def applicable(path: Path, full: bool) -> list[str]:
    """The checks of a bundle: the quick ones, or the long ones."""
    opened = open_bundle(path)
    return [name for name, check in CHECKS.items() if check.full == full and check.applies(opened)]


@pytest.mark.usefixtures("kernels_on")
@pytest.mark.parametrize("quant", QUANTS)
def test_a_correct_bundle_passes_every_check(copy, checkpoint, quant):
    path = copy(quant)
    messages = []
    found = verify(path, source=checkpoint, progress=lambda *report: messages.append(report))
    assert not found.failed, found.failed
    assert not found.unchecked, found.unchecked
    rows = {row.name: row for row in found.rows}
    sharp = found.check("sharp")
    assert sharp is not None
    assert len(sharp.rows) == (2 if quant in ("int8", "int4") else 0)
    assert ("against unquantized weights: RMS error" in rows) == (quant != "fp32")
    for name in ("whole: RMS", "cached, token by token: largest", "in chunks: largest"):
        assert 0 < rows[f"{name} error"].figure <= rows[f"{name} error"].budget
    assert rows["greedy tokens equal the specification's"].figure == greedy.GREEDY_TOKENS
    count = len(parameter_shapes(CONFIG))
    assert (rows[WEIGHTS].figure, rows[WEIGHTS].of) == (count, count)
    tokens = int(load(open_bundle(path)).lengths.sum())
    assert (rows["likeliest tokens equal"].figure, rows["likeliest tokens equal"].of) == (tokens, tokens)
    used = [
        rows[name].note
        for name in (logits.INTEGER_PRODUCTS + backends.KL, logits.ORT + backends.KL)
        if name in rows
    ]
    assert [note.partition(" likeliest")[0] for note in used] == [f"{tokens} of {tokens}"] * (quant != "fp32")
    assert 0 <= rows["KL divergence over a text"].figure < (0.5 if quant == "int4" else 0.05)
    if quant == "fp32":
        assert rows["KL divergence over a text"].budget == kl_budget(load(open_bundle(path)).own.budget)
    assert names(list(found.rows)).count(text.REFERENCE_PERPLEXITY) == 1
    over_kernels = [name for name in rows if name.startswith("kernels") and " text" in name]
    assert len(over_kernels) == (0 if quant == "fp32" else 3 + len(greedy.PROMPTS))
    for name, row in rows.items():
        assert row.ok or not name.endswith(text.KL), "every divergence over a text has a limit"
    quick, long = applicable(path, full=False), applicable(path, full=True)
    stages = [(module.QUICK_STAGE, done, len(quick)) for done in range(len(quick) + 1)]
    assert list(dict.fromkeys(messages))[: len(stages)] == stages
    rest = [message for message in messages if message not in stages]
    for name in long:
        told = [(done, total) for stage, done, total in rest if stage == CHECKS[name].subject]
        assert told[0] == (0, 1)
        assert told == sorted(told), "what is done grows"
        assert told[-1][0] == told[-1][1]
    assert (CHECKS["source"].subject, count - 1, count) in messages
    assert verify(path).failed == []  # with a certificate in the bundle too


def set_windows(path: Path, file: str, size: int) -> None:
    """All attentions of a graph see that many tokens."""
    model = onnx.load(path / file, load_external_data=False)
    for node in model.graph.node:
        if node.op_type in ("GroupQueryAttention", "Attention"):
            kept = [a for a in node.attribute if a.name != "local_window_size"]
            del node.attribute[:]
            node.attribute.extend([*kept, onnx.helper.make_attribute("local_window_size", size)])
    onnx.save(model, path / file)


@pytest.mark.usefixtures("kernels_on")
@pytest.mark.parametrize("file", ["model.onnx", "kernels.onnx"])
def test_predictions_over_a_text_see_a_wrong_graph(copy, file):
    """On the path that it computes alone: a window of 16, beyond the golden tokens."""
    path = copy("int8")
    set_windows(path, file, 16)
    rehash(path)
    context = VerifyContext(open_bundle(path), None, None, float("inf"), "cpu", 1)
    rows = [row for row in text.check_text(context) if row.name.endswith(text.KL)]
    right = {
        text.KL: file != "model.onnx",
        text.FLOAT_KL: file != "model.onnx",
        "kernels": file != "kernels.onnx",
    }
    assert {row.name.split(" (")[0]: row.ok for row in rows} == right


def greedy_row(path: Path, monkeypatch: pytest.MonkeyPatch, chosen: list[int], budget: float) -> Row:
    """What the check of greedy tokens says of an engine that chooses these, at this budget of logits."""
    opened = open_bundle(path)
    context = VerifyContext(opened, None, None, float("inf"), "cpu", 1)
    held = load(open_bundle(path))
    own = replace(held.own, maximum=np.array([budget / 4, 0.0, 0.0]))
    context.golden = replace(held, own=own)
    monkeypatch.setattr(greedy, "generate", lambda *_: iter(chosen))
    (row,) = greedy.check_greedy_tokens(context)
    return row


def test_another_greedy_token_may_be_two_budgets_behind(exported, monkeypatch):
    """The specification's second token for its first, at budgets just above and below half their distance."""
    path = exported("fp32")
    held = load(open_bundle(path))
    prompt = held.tokens[:1, : held.split]
    specification = NumpyEngine(CONFIG, open_bundle(path).params())
    logits = specification.step(prompt, specification.start())[0][0, 0]
    best, second = np.argsort(-logits)[:2].tolist()
    gap = float(logits[best] - logits[second])
    row = greedy_row(path, monkeypatch, [second], gap / 2 * 1.001)
    assert (row.figure, row.of, row.budget, row.ok) == (0, 1, None, True)
    assert row.note.startswith(f"token 0: {second} instead of {best}, ")
    assert f" {gap:.2g} logits " in row.note
    assert row.note.endswith(f" up to {gap * 1.001:.2g}")
    assert greedy_row(path, monkeypatch, [second], gap / 2 * 0.999).ok is False
    row = greedy_row(path, monkeypatch, [best], 0)
    assert (row.figure, row.ok, row.note) == (1, True, "")


def test_a_budget_of_greedy_tokens_that_is_too_small_is_measured_over_these_tokens(exported, monkeypatch):
    """The golden tokens' budget doesn't know a jump that only other tokens make."""
    golden = load(open_bundle(exported("int8-dynamic")))
    second = int(golden.best[golden.split - 1, 1])
    row = greedy_row(exported("int8-dynamic"), monkeypatch, [second], 0)
    assert row.ok, row.note
    assert row.note.startswith(f"token 0: {second} instead of ")
    assert not row.note.endswith("up to 0")


def test_another_likeliest_token_may_be_two_budgets_behind(exported):
    """Each golden token's second for its first, at budgets just above and below half the largest distance."""
    held = load(open_bundle(exported("fp32")))
    outputs = np.zeros((len(held.best), CONFIG.embedding.vocabulary))
    outputs[np.arange(len(outputs)), held.best[:, 1]] = 1
    gap = held.gap.max()
    for share, ok in ((1.001, True), (0.999, False)):
        own = replace(held.own, maximum=np.array([gap / 8 * share, 0.0, 0.0]))
        row = logits._best_tokens(outputs, replace(held, own=own))
        assert (row.figure, row.of, row.ok) == (0, len(outputs), ok)
        assert f"up to {gap:.2g} logits " in row.note


def test_products_do_not_depend_on_the_threads_that_a_process_has(copy):
    """BLAS, which rounds otherwise when threads share a product, has one during the checks."""

    def threads():
        return {library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"}

    seen = []
    with threadpool_limits(2, "blas"):
        verify(copy("fp32"), progress=lambda *_: seen.append(threads()))
        assert threads() == {2}
    assert seen
    assert all(found == {1} for found in seen)


@pytest.mark.usefixtures("kernels_on")
def test_the_quick_checks_leave_the_long_ones_to_a_full_run(copy, monkeypatch):
    path = copy("int8")

    def run(_):
        raise AssertionError("a quick run computes no long check")

    with monkeypatch.context() as patch:
        for name in applicable(path, full=True):
            patch.setitem(module.CHECKS, name, replace(CHECKS[name], run=run))
        found = verify(path)
    later = {CHECKS[name].subject: CHECKS[name].asked_by for name in applicable(path, full=True)}
    assert not found.failed
    assert not found.full
    assert names(found.unchecked) == [*later]
    assert {row.result for row in found.unchecked} == {NOT_YET}
    assert {"weights equal the specification's", "likeliest tokens equal"} <= set(names(list(found.rows)))
    held = json.loads((path / "certificate.json").read_bytes())
    assert held["not_checked"] == [f"{subject}: {option} checks it" for subject, option in later.items()]
    assert recorded(path) == found


def counted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the long checks that are run from now on; the third is interrupted the first time."""
    ran: list[str] = []

    def counting(name: str, run: Callable) -> Callable:
        def check(context: VerifyContext):
            ran.append(name)
            if len(ran) == 3:
                raise KeyboardInterrupt
            return run(context)

        return check

    for name, check in CHECKS.items():
        if check.full:
            monkeypatch.setitem(module.CHECKS, name, replace(check, run=counting(name, check.run)))
    return ran


@pytest.mark.usefixtures("kernels_on")
def test_an_interrupted_full_run_goes_on_where_it_was(copy, checkpoint, monkeypatch):
    path, source = copy("int8"), checkpoint
    long = applicable(path, full=True)
    ran = counted(monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        verify(path, source=source)
    assert ran == long[:3]
    assert not [p for p in path.iterdir() if p.name.startswith(".")]
    held = recorded(path)
    assert held is not None
    assert [check.name for check in held.checks if check.finished] == [
        *applicable(path, full=False),
        *long[:2],
    ]
    ran.clear()
    ran += ["", "", ""]  # past the interruption
    first = verify(path, source=source)
    assert ran[3:] == long[2:]
    assert [*first.failed, *first.unchecked] == []
    rows = {check.name: check for check in first.checks}
    assert [rows[name] for name in long[:2]] == [check for check in held.checks if check.name in long[:2]]
    # A quick run keeps what is known, a full run after a complete one computes all.
    assert verify(path).full
    assert ran[3:] == long[2:]
    verify(path, source=source)
    assert ran[3:] == [*long[2:], *long]


def test_what_was_computed_on_something_else_is_computed_again(copy, checkpoint, tmp_path, monkeypatch):
    path, source = copy("fp32"), checkpoint
    (tmp_path / "text").write_text("the cat sat on the mat")
    long = applicable(path, full=True)
    ran = counted(monkeypatch)

    def interrupt() -> None:
        with pytest.raises(KeyboardInterrupt):
            verify(path, source=source)

    def resumed(**options: object) -> list[str]:
        ran.clear()
        interrupt()
        verify(path, **options)
        return ran[3:]

    assert resumed(source=source, text=tmp_path / "text") == long
    assert resumed(full=True) == long
    assert resumed(source=source) == long[2:]
    ran.clear()
    interrupt()
    monkeypatch.setattr(certificate.hardware, "processor", lambda: "another")
    verify(path, source=source)
    assert ran[3:] == long


def test_a_failed_long_check_is_not_recorded(copy, monkeypatch):
    path = copy("fp32")
    verify(path)
    held = recorded(path)

    def fail(_):
        yield judged("x", 2.0, 1.0)

    first = applicable(path, full=True)[0]
    monkeypatch.setitem(module.CHECKS, first, replace(CHECKS[first], run=fail))
    assert names(verify(path, full=True).failed) == ["x"]
    assert recorded(path) == held


@pytest.mark.parametrize(
    "change",
    [
        {"rows": 1},
        {"date": "yesterday"},
        {"date": "2026-11-26T05:00:00"},
        {"seconds": "long"},
        {"seconds": 1e300},
        {"notes": [1]},
        {"checks": []},
        {"checks": [{"name": "files"}]},
        {"format": 1, "checks": None},
        {"seconds": 10**400},
    ],
    ids=str,
)
def test_a_certificate_that_verify_did_not_write_says_nothing(copy, change):
    path = copy("fp32")
    verify(path)
    held = json.loads((path / "certificate.json").read_bytes())
    (path / "certificate.json").write_text(json.dumps(held | change))
    assert recorded(path) is None
    assert not verify(path).failed
    assert recorded(path) is not None
    row = held["rows"][0]
    for key, value in (("figure", [1]), ("texts", [2]), ("name", None), ("ok", "yes"), ("odd", 1)):
        (path / "certificate.json").write_text(json.dumps(held | {"rows": [row | {key: value}]}))
        assert recorded(path) is None, key


def test_greedy_texts_stand_beside_the_specifications(copy, checkpoint):
    """The specification's text is what it writes alone, whatever the bundle drafts."""
    path = copy("int4")
    context = VerifyContext(open_bundle(path), open_checkpoint(checkpoint), None, float("inf"), "cpu", 1)
    rows = [row for row in greedy.check_greedy_texts(context) if row.name.startswith("greedy text")]
    assert [row.texts[0] for row in rows] == list(greedy.PROMPTS)
    tokenizer = text.bundle_tokenizer(context.bundle)
    for row in rows:
        ids = tokenizer.encode(row.texts[0])
        room = min(greedy.TEXT_TOKENS, CONFIG.context - len(ids))
        for engine_, written in (
            (text.reference_engine(context), row.texts[2]),
            (context.engine, row.texts[1]),
        ):
            sequence = GeneratedSequence(ids, max_new_tokens=room)
            assert tokenizer.decode(list(generate(engine_, sequence))) == written
        assert (row.figure == row.of) == (row.texts[1] == row.texts[2])
    assert any(row.figure < row.of for row in rows), "in 4 bits some token differs"


@pytest.mark.usefixtures("kernels_on")
def test_the_certificate_holds_the_report(copy):
    path = copy("int8")
    found = verify(path, full=True)
    held = json.loads((path / "certificate.json").read_bytes())
    assert held["manifest"] == manifest_hash(path)
    assert (held["quant"], held["target"], held["model"]) == ("int8", "ort-cpu", "checkpoint")
    assert report.moment(held["date"]) >= report.moment(held["checks"][0]["date"])
    assert held["ok"] is True
    assert [row["name"] for row in held["rows"]] == names(list(found.rows))
    [not_checked] = held["not_checked"]
    assert re.match(f"{WEIGHTS}: .*source", not_checked)
    assert held["machine"]["int8"] == certificate.int8_path()
    assert set(held["machine"]["flags"]) <= set(INT8_FLAGS)
    assert {"tfm", "python", "numpy", "onnxruntime"} == set(held["versions"])
    assert held["seed"] == module.SEED
    assert not [p for p in path.iterdir() if p.name.startswith(".")]


@pytest.mark.parametrize("name", ["model.onnx", "model.onnx.data", "golden/tokens.npy", "tokenizer.json"])
def test_a_flipped_bit_is_refused(copy, name):
    path = copy("int8")
    original = (path / name).read_bytes()
    for place in (0, 8 * len(original) // 2 + 3, 8 * len(original) - 1):
        data = bytearray(original)
        data[place // 8] ^= 1 << place % 8
        (path / name).write_bytes(data)
        began = time.monotonic()
        found = verify(path)
        assert 0 <= found.seconds <= time.monotonic() - began + 0.001  # it is rounded
        assert [check.name for check in found.checks] == ["files"]
        assert list(found.rows) == found.failed
        [row] = found.failed
        assert re.search(pattern(path / name, "SHA-256"), row.note)
        assert not (path / "certificate.json").exists()


@pytest.mark.parametrize("quant", ["int8", "int8-dynamic"])
def test_a_changed_scale_with_new_hashes_is_refused(copy, quant):
    path = copy(quant)

    def change(scale: np.ndarray) -> None:
        scale.reshape(-1)[3] *= 3

    write_tensor(path, "decoder.layers.1.mlp.down.scale", change)
    rehash(path)
    failed = failing(verify(path))
    assert "weights" in failed
    assert ("sharp" in failed) == (quant == "int8")
    assert not (path / "certificate.json").exists()


def test_a_changed_code_with_new_hashes_is_refused(copy, checkpoint):
    path = copy("int8")

    def change(codes: np.ndarray) -> None:
        codes.reshape(-1)[5] ^= 64

    write_tensor(path, "decoder.layers.0.attn.wqkv.packed", change)
    rehash(path)
    found = verify(path, source=checkpoint)
    assert {"weights", "source"} <= failing(found)
    assert WEIGHTS in names(found.failed)
    assert "decoder.layers.0.attn.wq" in found.failed[0].note


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
    assert (row.name, row.figure) == (CHECKS["files"].subject, "NumericError")
    assert tensor in row.note


@pytest.mark.parametrize("quant", QUANTS)
def test_a_bug_in_the_graph_with_new_hashes_is_refused(copy, quant):
    """One eps of the graph is wrong; all weights are right."""
    path = copy(quant)
    graph = onnx.load(path / "model.onnx", load_external_data=False)
    assert plant_eps(graph, 1e-2)
    onnx.save(graph, path / "model.onnx")
    rehash(path)
    failed = failing(verify(path))
    assert failed
    assert "weights" not in failed
    assert "numbers" in failed or quant != "fp32"
    assert "sharp" in failed or quant != "int8"


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
    save_checkpoint(tmp_path / "other", CONFIG, unflatten(other), TOKENIZER.to_str())
    row, outputs = verify(copy("int8"), source=tmp_path / "other").failed
    assert (row.name, row.note) == (WEIGHTS, "different: decoder.layers.1.attn.wo")
    assert re.match("golden .*source", outputs.name)
    capped = replace(CONFIG, head=replace(CONFIG.head, softcap=3.0))
    save_checkpoint(tmp_path / "capped", capped, tiny_models.weights(capped))
    with refused(CheckpointError, "configs", "differ"):
        verify(copy("fp32"), source=tmp_path / "capped")


def test_the_source_may_have_another_context(copy, tmp_path):
    longer = replace(CONFIG, context=64)
    save_checkpoint(tmp_path / "longer", longer, tiny_models.weights(longer), TOKENIZER.to_str())
    assert not verify(copy("fp32"), source=tmp_path / "longer").failed


def test_a_certificate_of_another_manifest_is_refused(copy):
    path = copy("fp32")
    verify(path)
    held = manifest.load((path / "tfm.json").read_bytes(), "tfm.json")
    changed = replace(held, generation=replace(held.generation, eos=(5,)))
    (path / "tfm.json").write_text(manifest.dump(changed))
    (row,) = verify(path).failed
    assert (row.name.partition(" ")[0], row.figure) == ("certificate", "no")
    assert re.search(r"certificate\.json .*tfm\.json", row.note)
    (path / "certificate.json").write_text("[]")
    assert verify(path).failed == [row]


def test_time_is_limited_and_unreached_checks_are_named(copy, monkeypatch):
    path = copy("int8")
    found = verify(path, seconds=0)
    assert not found.failed
    assert names(found.unchecked[:2]) == [CHECKS["files"].subject, CHECKS["weights"].subject]
    assert {row.result for row in found.rows} == {NOT_REACHED, NOT_YET}
    held = json.loads((path / "certificate.json").read_bytes())
    assert re.fullmatch(f"{CHECKS['files'].subject}: .*0 s", held["not_checked"][0])
    clock = iter(range(1000))
    monkeypatch.setattr(module.time, "monotonic", lambda: next(clock))
    found = verify(path, seconds=8, full=True)  # every call of the clock takes a second
    assert found.rows[0].result == "ok"
    assert CHECKS["text"].subject in names(found.unchecked)
    weights = found.row("weights equal the specification's")
    assert (weights.result, weights.of) == (NOT_REACHED, len(parameter_shapes(CONFIG)))
    assert 0 < weights.figure < weights.of


def test_a_missing_device_is_no_failure(copy, monkeypatch):
    def choose(*_):
        raise DeviceError("no CUDA")

    monkeypatch.setattr(engine, "choose", choose)
    monkeypatch.setattr(logits, "choose", choose)
    folder = copy("int8")
    found = verify(folder, full=True)
    assert not found.failed
    stored = load(open_bundle(folder))
    views = stored.floats.astype(np.float64), stored.own.logits.astype(np.float64)
    p, q = (np.exp(view[:, :-1] - view[:, -1:]) for view in views)
    p, q = (np.hstack([shares, 1 - shares.sum(1, keepdims=True)]) for shares in (p, q))
    [row] = found.check("backends").rows
    assert row.name == f"specification{backends.KL}"
    assert "no backend" in row.note
    assert row.figure == pytest.approx((p * np.log(p / q)).sum(1).mean(), rel=1e-6)
    assert row.figure > 1e-6
    rows = {check.name: check.rows[-1] for check in found.checks if not check.finished}
    assert set(rows) == {"session", "sharp", "numbers", "layers", "greedy", "text", "texts"}
    assert {(row.result, row.note) for row in rows.values()} == {("not checked", "no CUDA")}


def test_a_given_text_is_compared(copy, tmp_path):
    (tmp_path / "text").write_text("the cat sat on the mat")
    found = {row.name: row for row in verify(copy("int8"), text=tmp_path / "text").rows}
    assert re.match(r"(\d) of \1 tokens", found[text.KL].note)
    assert 0 <= found["KL divergence over a text"].figure < 0.05
    for content in (b"\xff", None):
        (tmp_path / "bad").unlink(missing_ok=True)
        if content is not None:
            (tmp_path / "bad").write_bytes(content)
        with refused(VerifyError, "UTF-8"):
            verify(copy("fp32") if content else tmp_path / "fp32", text=tmp_path / "bad")


def test_a_blank_text_is_refused(copy, tmp_path):
    (tmp_path / "text").write_text(" \n\t\n")
    with refused(VerifyError, "text", "blank"):
        verify(copy("int8"), text=tmp_path / "text")


def test_a_text_may_not_be_huge(copy, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "LARGEST_TEXT", 3)
    (tmp_path / "text").write_text("four")
    with refused(VerifyError, "3", "bytes"):
        verify(copy("fp32"), text=tmp_path / "text")


def test_without_golden_inputs_it_is_refused(copy):
    path = copy("fp32")
    (path / "golden/tokens.npy").write_bytes(b"PK")
    rehash(path)
    failed = verify(path).failed
    assert (failed[0].name, failed[0].figure) == (CHECKS["weights"].subject, "BundleError")
    assert re.search(r"golden/tokens\.npy: .*\.npy", failed[0].note)


def test_a_missing_bundle_is_an_error(tmp_path):
    with refused(BundleError, "bundle"):
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
    assert judged("x", float("nan"), 1.0).result == "FAILED"
    assert judged("x", 1.0, 1.0).result == "ok"
    assert (Row("x").result, Row("x", 1.0).result) == ("not checked", "measured")
    (tmp_path / "tfm.json").write_text("{}")
    nan = CheckResult("x", (judged("x", float("nan"), 1.0),))
    held = certify(tmp_path, Report((nan,), 0.1, "cpu", 1))
    rows = held["rows"]
    assert isinstance(rows, list)
    assert (held["ok"], rows[0]["figure"]) == (False, "nan")
