"""Exports are complete or absent, and the same inputs give the same bytes."""

import errno
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from helpers import tiny_models
from helpers.refused import refused
from tfm.export import bundle_writer, destination
from tfm.export.diagnose.locate import locate
from tfm.refimpl.checkpoint.open import Checkpoint, open_checkpoint, save_checkpoint
from tfm.refimpl.checkpoint.weights.loader import Leaves
from tfm.refimpl.errors import BundleError, ExportError, NumericError, VerifyError
from tfm.refimpl.ops import quant
from tfm.refimpl.ops.quant import Blocks
from tfm.refimpl.params.tree import flatten, unflatten
from tfm.runtime.bundle import manifest, weight_storage
from tfm.runtime.bundle.bundle import open_bundle
from tfm.runtime.verification.checks.table import CHECKS
from tfm.runtime.verification.report import CheckResult, Report, Row
from tfm.runtime.verification.verify import verify

CONFIG = tiny_models.llama(layers=1, bias=True)

# An export with stand-ins for graph and golden inputs, in a process of its own.
STUBBED = """
import os, signal, sys, time
from contextlib import nullcontext
from pathlib import Path
import numpy as np
from tfm.export import bundle_writer
from tfm.refimpl.checkpoint.open import open_checkpoint
def writing(files):
    return nullcontext(lambda _: (files.folder / "model.onnx").write_bytes(b"graph"))
bundle_writer.writing = writing
bundle_writer.golden = lambda *_, **__: {"tokens": np.zeros(3, np.int64)}
checkpoint, out = open_checkpoint(sys.argv[1]), Path(sys.argv[2])
"""


@pytest.fixture
def stubbed(monkeypatch):
    def writing(files):
        return nullcontext(lambda _: (files.folder / "model.onnx").write_bytes(b"graph"))

    monkeypatch.setattr(bundle_writer, "writing", writing)
    monkeypatch.setattr(bundle_writer, "golden", lambda *_, **__: {"tokens": np.zeros(3, np.int64)})


@pytest.fixture
def checkpoint(tmp_path) -> Checkpoint:
    return save(tmp_path / "checkpoint")


def save(path: Path, seed: int = 0, **changed) -> Checkpoint:
    leaves = dict(flatten(tiny_models.weights(CONFIG, seed))) | changed
    save_checkpoint(path, CONFIG, unflatten(leaves))
    return open_checkpoint(path)


def tree_hash(path: Path) -> dict[str, str]:
    files = sorted(p for p in path.rglob("*") if p.is_file())
    return {p.relative_to(path).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def child(code: str, *arguments) -> list[str]:
    return [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)]


def left(path: Path) -> list[str]:
    """The files beside the output, without the checkpoints."""
    return sorted(p.name for p in path.parent.iterdir() if p != path and not p.name.startswith("checkpoint"))


def test_a_bundle_is_written_and_replaced(stubbed, checkpoint, tmp_path):
    out, messages = tmp_path / "deep" / "out", []
    bundle_writer.export(checkpoint, out, verify=False, progress=lambda *report: messages.append(report))
    first = open_bundle(out, check_hashes=True).manifest
    assert first.source.sha256 == checkpoint.source["sha256"]
    for stage in ("calibrating", "writing"):
        shares = [done / total for name, done, total in messages if name.startswith(stage)]
        assert shares == sorted(set(shares))
        assert (shares[0], shares[-1]) == (0, 1)
    assert not any("replaced" in name for name, *_ in messages)
    for scheme, which in (("int4", "bundle of checkpoint in int8 there"), ("int8", "the bundle there")):
        messages.clear()
        bundle_writer.export(
            checkpoint, out, quant=scheme, verify=False, progress=lambda *report: messages.append(report)
        )
        [line] = [name for name, *_ in messages if "replaced" in name]
        assert line.startswith(f"{out}: ")
        assert which in line
        assert open_bundle(out, check_hashes=True).quant == scheme
        (out / "tfm.json").write_text("[]")  # of which nothing can be said
    assert left(out) == []


@pytest.mark.long
def test_same_inputs_same_bytes(tmp_path):
    """Whatever the order of sets, the paths and the threads: this model's products are large and odd enough
    that OpenBLAS rounds them otherwise with two threads."""
    config = tiny_models.llama(layers=1, width=128, mlp=509)
    save_checkpoint(tmp_path / "checkpoint", config, tiny_models.weights(config))
    code = """
    import sys
    from pathlib import Path
    from tfm.export.bundle_writer import export
    from tfm.refimpl.checkpoint.open import open_checkpoint
    export(open_checkpoint(sys.argv[1]), Path(sys.argv[2]), quant="int4", verify=False)
    """
    results = []
    for i, (seed, threads) in enumerate((("1", "1"), ("2", "2"))):
        out, cwd = tmp_path / f"out{i}", tmp_path / f"cwd{i}"
        cwd.mkdir()
        names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
        env = os.environ | {"PYTHONHASHSEED": seed} | dict.fromkeys(names, threads)
        path = tmp_path / "checkpoint"
        stated_path = os.path.relpath(path, cwd) if i else path
        subprocess.run(child(code, stated_path, out), env=env, cwd=cwd, check=True)
        results.append(tree_hash(out))
    assert results[0] == results[1]
    graphs, others = {"model.onnx", "kernels.onnx"}, {"tfm.json", "certificate.json"}
    golden = {name for name in results[0] if name.startswith("golden/")}
    assert set(results[0]) == graphs | {"model.onnx.data"} | others | golden
    assert "golden/own.logits.npy" in golden
    every = b"".join((tmp_path / "out0" / name).read_bytes() for name in results[0])
    assert str(tmp_path).encode() not in every


def test_weights_that_are_stored_otherwise_are_noticed(stubbed, checkpoint, tmp_path, monkeypatch):
    store = weight_storage.store

    def wrong_store(group, leaves):
        stored = store(group, leaves)
        if group.name == "decoder.layers.0.mlp.down":
            stored[f"{group.name}.packed"][0, 0, 0] ^= 1
        return stored

    monkeypatch.setattr(weight_storage, "store", wrong_store)
    with refused(ExportError, "decoder.layers.0.mlp.down"):
        bundle_writer.export(checkpoint, tmp_path / "out", quant="int8", verify=False)
    assert left(tmp_path / "out") == []


def test_golden_arrays_are_files_that_numpy_reads(tmp_path):
    given = {"best": np.asfortranarray([[1, 2, 3], [4, 5, 6]], ">i4"), "gap": np.float32([1.5])}
    bundle_writer.write_golden(tmp_path, given | {"digests": np.zeros((2, 32), np.uint8)})
    read = {path.stem: np.load(path) for path in (tmp_path / "golden").iterdir()}
    assert {name: array.dtype.str for name, array in read.items()} == {
        "best": "<i8",
        "gap": "<f8",
        "digests": "|u1",
    }
    assert read["best"].flags.c_contiguous
    for name, array in given.items():
        np.testing.assert_array_equal(read[name], array)


@pytest.mark.parametrize("quant", ["fp32", "int8"])
def test_a_nan_is_named_and_nothing_remains(stubbed, tmp_path, quant):
    weight = tiny_models.weights(CONFIG)["decoder"]["layers"][0]["mlp"]["down"].copy()
    weight[3, 7] = np.nan
    checkpoint = save(tmp_path / "checkpoint", **{"decoder.layers.0.mlp.down": weight})
    with refused(NumericError, "decoder.layers.0.mlp.down[3,", "7]"):
        bundle_writer.export(checkpoint, tmp_path / "out", quant=quant, verify=False)
    assert left(tmp_path / "out") == []
    assert not (tmp_path / "out").exists()


def test_only_bundles_are_replaced(stubbed, checkpoint, tmp_path):
    out = tmp_path / "out"
    out.write_text("mine")
    with refused(ExportError, "file"):
        bundle_writer.export(checkpoint, out, verify=False)
    assert out.read_text() == "mine"
    out.unlink()
    out.mkdir()
    (out / "golden").mkdir()
    (out / "golden" / "thesis.txt").write_text("mine")
    with refused(ExportError, "'golden/thesis.txt'"):
        bundle_writer.export(checkpoint, out, verify=False)
    shutil.rmtree(out / "golden")
    (out / "thesis.txt").write_text("mine")
    with refused(ExportError, "'thesis.txt'"):
        bundle_writer.export(checkpoint, out, verify=False)
    (out / "tfm.json").write_text("{}")
    with refused(ExportError, "'thesis.txt'"):
        bundle_writer.export(checkpoint, out, verify=False)
    (out / "thesis.txt").unlink()
    (out / ".certificate.json.12-ab").touch()
    bundle_writer.export(checkpoint, out, verify=False)
    open_bundle(out)


def test_a_bundle_carries_licence_and_card(stubbed, checkpoint, tmp_path):
    out, source = tmp_path / "out", checkpoint.path
    (source / "README.md").write_text("---\nlicense: mit\n---\n")
    (source / "LICENSE").write_text("do what you like")
    licensed = open_checkpoint(source)
    assert licensed.source == checkpoint.source  # the weights are the same
    for _ in range(2):  # it replaces its own files
        bundle_writer.export(licensed, out, quant="fp32", verify=False)
    stated = open_bundle(out, check_hashes=True).manifest
    assert (stated.source.licence, stated.notices) == ("mit", ["LICENSE", "README.md"])
    assert all((out / name).read_bytes() == (source / name).read_bytes() for name in stated.notices)
    (out / "NOTICE").write_text("mine")
    with refused(ExportError, "'NOTICE'"):
        bundle_writer.export(licensed, out, quant="fp32", verify=False)
    (out / "LICENSE").write_text("do what I like")
    with refused(BundleError, "LICENSE", "16", "bytes", "14"):
        open_bundle(out)
    many = dict.fromkeys([*stated.files, *(f"NOTICE.{i}" for i in range(16))], stated.files["LICENSE"])
    with refused(ValueError, "16", "licences", "18"):
        manifest._check(replace(stated, files=many | stated.files))


def test_a_full_disk_is_detected_before_writing(stubbed, checkpoint, tmp_path, monkeypatch):
    out = tmp_path / "out"
    bundle_writer.export(checkpoint, out, verify=False)
    before = tree_hash(out)
    monkeypatch.setattr(destination.shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    for step in ("calibrate", "_weights"):
        monkeypatch.setattr(bundle_writer, step, lambda *_: pytest.fail("worked"))
    with refused(ExportError, "needs", "MB", "0.0 MB"):
        bundle_writer.export(checkpoint, out, quant="fp32", verify=False)
    assert tree_hash(out) == before
    assert left(out) == []


def test_a_limit_on_files_is_named_and_nothing_remains(checkpoint, tmp_path):
    out = tmp_path / "out"
    code = STUBBED + textwrap.dedent("""
    from tfm.refimpl.errors import ExportError
    import resource
    for limit in (0, 1, 4096, 40_000):
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
        try:
            bundle_writer.export(checkpoint, out, verify=False)
        except ExportError as error:
            print(error, *os.listdir(out.parent), flush=True)
    """)
    done = subprocess.run(child(code, checkpoint.path, out), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for said in done.stdout.splitlines():
        assert re.search(f"needs .*ulimit -f.* {checkpoint.path.name}$", said)
    assert done.stdout.count("\n") == 4


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EACCES])
def test_failures_to_write_are_export_errors(stubbed, checkpoint, tmp_path, monkeypatch, code):
    def fail(*_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(bundle_writer, "_weights", fail)
    match = "Permission" if code == errno.EACCES else "MB free"
    with refused(ExportError, *match.split()):
        bundle_writer.export(checkpoint, tmp_path / "out", verify=False)
    assert left(tmp_path / "out") == []


@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_clean_up(checkpoint, tmp_path, number):
    out = tmp_path / "out"
    code = STUBBED + textwrap.dedent("""
    def slow(*_):
        print("ready", flush=True)
        time.sleep(60)
    bundle_writer._weights = slow
    bundle_writer.export(checkpoint, out, verify=False)
    """)
    process = subprocess.Popen(
        child(code, checkpoint.path, out), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        assert any("tfm-new" in name for name in left(out))
        process.send_signal(number)
        code = process.wait(timeout=30)
    assert code == (128 + number if number == signal.SIGTERM else -number)
    assert left(out) == []


def test_the_handler_of_sigterm_comes_back_and_threads_may_export(stubbed, checkpoint, tmp_path):
    before = signal.getsignal(signal.SIGTERM)
    bundle_writer.export(checkpoint, tmp_path / "out", verify=False)
    assert signal.getsignal(signal.SIGTERM) is before
    thread = threading.Thread(
        target=bundle_writer.export, args=(checkpoint, tmp_path / "other"), kwargs={"verify": False}
    )
    thread.start()
    thread.join()
    open_bundle(tmp_path / "other")


def test_a_second_export_to_the_same_place_is_refused(stubbed, checkpoint, tmp_path, monkeypatch):
    out = tmp_path / "out"
    real = bundle_writer._weights

    def meanwhile(*arguments):
        code = STUBBED + textwrap.dedent("""
        from tfm.refimpl.errors import TfmError
        try:
            bundle_writer.export(checkpoint, out, verify=False)
        except TfmError as error:
            sys.exit(str(error))
        """)
        done = subprocess.run(child(code, checkpoint.path, out), capture_output=True, text=True)
        assert re.search(f"{out}.*another process", done.stderr)
        return real(*arguments)

    monkeypatch.setattr(bundle_writer, "_weights", meanwhile)
    bundle_writer.export(checkpoint, out, verify=False)
    open_bundle(out, check_hashes=True)
    assert left(out) == []


ROWS = [Row("hashes", ok=True), Row("logits", 3.0, 0.1, "logits", ok=False, note="of a row")]
REPORT = Report((CheckResult("numbers", tuple(ROWS)),), 0.1, "cpu", 1)


@pytest.mark.parametrize(
    ("code", "out", "err", "match"),
    [
        (10, json.dumps(REPORT.to_json()), "", "logits 3 0.1 30"),
        (5, "", "noise\ntfm.json: odd\n", "tfm.json odd"),
        (-9, "", "", "verify -9"),
    ],
)
def test_a_bundle_that_fails_its_check_is_removed(
    stubbed, checkpoint, tmp_path, monkeypatch, code, out, err, match
):
    path, ran = tmp_path / "out", []
    bundle_writer.export(checkpoint, path, verify=False)
    before = tree_hash(path)

    def run(command, **_):
        ran.append(command)
        return subprocess.CompletedProcess(command, code, out, err)

    monkeypatch.setattr(bundle_writer.subprocess, "run", run)
    with refused(VerifyError, *match.split()):
        bundle_writer.export(checkpoint, path, quant="fp32")
    assert len(ran) == 1
    assert tree_hash(path) == before
    assert left(path) == []


def test_an_unverified_bundle_says_so(stubbed, checkpoint, tmp_path):
    bundle_writer.export(checkpoint, tmp_path / "out", verify=False)
    certificate = json.loads((tmp_path / "out" / "certificate.json").read_text())
    assert certificate["ok"] is None
    assert certificate["manifest"] == tree_hash(tmp_path / "out")["tfm.json"]
    assert certificate["not_checked"] == ["all: verify=False"]


@pytest.mark.usefixtures("kernels_on")
def test_an_export_is_verified_and_certified(checkpoint, tmp_path):
    bundle_writer.export(checkpoint, tmp_path / "out")
    certificate = json.loads((tmp_path / "out" / "certificate.json").read_text())
    assert certificate["ok"] is True
    assert certificate["not_checked"] == [
        f"{check.subject}: {check.asked_by} checks it"
        for name, check in CHECKS.items()
        if check.full and name in ("greedy", "layers", "source", "text", "bits_of_text", "texts")
    ]
    assert open_bundle(tmp_path / "out", check_hashes=True).refused == ()


def test_wrong_weights_are_refused(checkpoint, tmp_path, monkeypatch):
    """Two halves of a weight are swapped, with matching hashes in the manifest."""
    real = bundle_writer._weights

    def swapped(job, path, progress):
        forms = real(job, path, progress)
        data = bytearray(path.read_bytes())
        tensor = job.plan.tensors["decoder.layers.0.attn.wqkv"]
        half = tensor.length // 2
        at = slice(tensor.offset, tensor.offset + 2 * half)
        data[at] = data[at][half:] + data[at][:half]
        path.write_bytes(data)
        return forms

    monkeypatch.setattr(bundle_writer, "_weights", swapped)
    with refused(VerifyError, "removed"):
        bundle_writer.export(checkpoint, tmp_path / "out", quant="fp32")
    assert left(tmp_path / "out") == []


def q4_1(self: Leaves, name: str) -> Blocks | None:
    """Blocks as a GGUF file has them for Q4_1, for each matrix."""
    weight = self.load(name)
    if weight.ndim == 1:
        return None
    blocks = quant.quantize(weight, bits=4, block=32, axis=int(name.endswith(".table")))
    scale = np.abs(blocks.scale).astype(np.float16).astype(np.float32)
    return replace(blocks, scale=scale, zero=np.zeros(scale.shape, np.uint8), minimum=-8 * scale)


@pytest.mark.parametrize("target", ["ort-cpu", "ort-cuda", "standard"])
def test_kept_minima_give_a_graph_of_equal_types(checkpoint, tmp_path, monkeypatch, target):
    monkeypatch.setattr(Leaves, "native", q4_1)
    out = tmp_path / "out"
    bundle_writer.export(checkpoint, out, quant="keep", target=target, strict=True, verify=False)
    assert not verify(out).failed  # in this process, which knows the patched blocks
    opened = open_bundle(out, check_hashes=True)
    assert all(scheme.minimum for scheme in opened.manifest.schemes.values())
    model = onnx.load(out / "model.onnx", load_external_data=False)
    types = {v.name: v.type.tensor_type.elem_type for v in (*model.graph.input, *model.graph.value_info)}
    types |= {i.name: i.data_type for i in model.graph.initializer}
    one_type = {"MatMul": (0, 1), "Add": (0, 1), "Mul": (0, 1), "MatMulNBits": (0, 2)}
    products = [n for n in model.graph.node if n.op_type in one_type]
    assert products
    for node in products:
        input_types = {node.input[i]: types.get(node.input[i]) for i in one_type[node.op_type]}
        assert len(set(input_types.values()) - {None}) == 1, f"{node.op_type} of {input_types}"
    sums = [node for node in model.graph.node if node.op_type == "Sum"]
    assert {len(node.input) for node in sums} == ({3} if target == "ort-cpu" else set())
    parts = locate(opened, np.random.default_rng(5).integers(0, 50, (2, 7)))
    assert len(parts) > 3
    assert all(part.ok for part in parts)
