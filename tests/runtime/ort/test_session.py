"""Sessions: the device that was asked for or an error, threads that exist, packed weights that are right."""

from __future__ import annotations

import ctypes
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from helpers import tiny_models
from helpers.exported import exported
from helpers.refused import refused
from onnx import helper
from tfm import runtime
from tfm.refimpl.errors import BundleError, DeviceError, TfmError
from tfm.runtime import hardware
from tfm.runtime.bundle.bundle import open_bundle
from tfm.runtime.ort import prepacked_weights, providers, session
from tfm.runtime.ort.engine import OrtEngine

# Sizes whose packed weights ONNX Runtime reads back rightly, and such that it doesn't.
SOUND = {"width": 128, "mlp": 256, "heads": 8, "vocabulary": 128}
CONFIG = tiny_models.llama(context=40, **SOUND)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exported(tmp_path_factory.mktemp("session"), CONFIG, target="ort-cpu", quant="int8").path


def logits(engine: Any) -> np.ndarray:
    return engine.step(np.array([[1, 2, 3]]), engine.start(1))[0]


def test_steps_of_other_sizes_leave_nothing_behind(bundle: Path) -> None:
    """A step's tokens and logits lie where those of the one before were, if it had as many."""
    engine = OrtEngine(open_bundle(bundle))
    cache, other = engine.start(1), engine.start(1)
    given = []
    for tokens in ([[1]], [[2, 3, 4]], [[5]], [[6]], [[7, 8]], [[9, 10]], [[11]]):
        at = np.arange(len(tokens[0]))[None]
        now, cache = engine.step(np.array(tokens), cache, at=at)
        alone, other = engine.step(np.array(tokens), other.copy(0), at=at)  # nothing is bound for a copy
        np.testing.assert_array_equal(now, alone)
        given.append((now, now.copy()))
    for now, then in given:
        np.testing.assert_array_equal(now, then)


def test_device_is_what_was_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    monkeypatch.setattr(session, "missing_for_cuda", lambda: ["libcuda.so.1 (the NVIDIA driver)"])
    assert session.choose("cpu", "standard") == session.choose("cpu", "ort-cpu") == "cpu"
    assert session.choose("auto", "standard", told.append) == "cpu"
    assert [line.split()[-1] for line in told] == ["cpu"]
    with refused(DeviceError, "libcuda.so.1", "NVIDIA"):
        session.choose("cuda", "standard")
    with refused(DeviceError, "libcuda.so.1"):
        session.choose("auto", "ort-cuda")
    with refused(BundleError, "target=ort-cuda"):
        session.choose("cuda", "ort-cpu")
    with refused(BundleError, "target=ort-cpu"):
        session.choose("cpu", "ort-cuda")
    with refused(DeviceError, "cpu", "cuda", "auto", "'tpu'"):
        session.choose("tpu", "standard")
    monkeypatch.setattr(session, "missing_for_cuda", list)
    assert session.choose("auto", "standard", told.append) == session.choose("cuda", "ort-cuda") == "cuda"
    assert [line.split()[-1] for line in told] == ["cpu", "cuda"]


def test_what_cuda_lacks_is_named(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    installed = {"libcudart.so.13"}

    def load(name: str | None) -> None:
        if name not in installed:
            raise OSError(name)

    monkeypatch.setattr(ort, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    monkeypatch.setattr(ctypes, "CDLL", load)
    assert session.missing_for_cuda() == ["libcuda.so.1 (the NVIDIA driver)"]  # the others wouldn't help
    installed.add("libcuda.so.1")
    lacking = session.missing_for_cuda()
    assert re.fullmatch(r"libcublasLt\.so\.13 \(pip install .*nvidia-cublas\)", lacking[0])
    assert not any("cudart" in name for name in lacking)
    monkeypatch.setattr(ort, "get_available_providers", lambda: ["CPUExecutionProvider"])
    [build] = session.missing_for_cuda()
    assert re.search(r"pip uninstall onnxruntime, .*pip install 'tfm-cli\[cuda\]'", build)
    assert capfd.readouterr() == ("", "")


def test_cuda_is_started_before_there_is_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(providers, "missing_for_cuda", lambda: ["libcuda.so.1"])
    assert providers.startable("cpu") == providers.startable("auto") == "cpu"
    with refused(DeviceError, "libcuda.so.1", "device=cpu"):
        providers.startable("cuda")
    monkeypatch.setattr(providers, "missing_for_cuda", list)
    monkeypatch.setattr(providers, "_try", lambda _: "falls back to CPU, missing: a GPU")
    assert providers.startable("auto") == "cpu"
    with refused(DeviceError, "CPU", "GPU", "device=cpu"):
        providers.startable("cuda")
    monkeypatch.setattr(providers, "_try", lambda _: "starts")
    assert providers.startable("auto") == providers.startable("cuda") == "cuda"


def test_onnx_runtimes_own_warnings_are_not_seen(tmp_path: Path) -> None:
    """ONNX Runtime warns as it is imported, for example of a card without a vendor in /sys."""
    (tmp_path / "onnxruntime.py").write_text(
        "import os\nos.write(2, b'[W:onnxruntime] GPU device discovery failed')\n"
        "def set_default_logger_severity(level): print(level)\n"
    )
    code = "import os, tfm.runtime.ort; os.write(2, b'heard')"
    env = os.environ | {"PYTHONPATH": str(tmp_path)}
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env)
    assert (run.returncode, run.stdout, run.stderr) == (0, "4\n", "heard")


def test_silent_fallback_is_an_error(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "missing_for_cuda", lambda: ["libcublasLt.so.13"])

    class Fallen:
        def __init__(self, *_: Any, **__: Any) -> None: ...

        def get_providers(self) -> list[str]:
            return ["CPUExecutionProvider"]

    monkeypatch.setattr(ort, "InferenceSession", Fallen)
    with refused(DeviceError, "CPUExecutionProvider", "libcublasLt.so.13"):
        session.open_session(bundle / "model.onnx", "cuda", session.options())


def test_runtime_errors_are_one_line(bundle: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "model.onnx").write_bytes(b"no graph")
    with refused(BundleError, "model.onnx", "opened", "ONNX"):
        session.open_session(tmp_path / "model.onnx", "cpu", session.options(1))
    engine = OrtEngine(open_bundle(bundle), threads=1)
    engine.dtype = np.dtype(np.float16)  # another type than the graph's
    cache = engine.start(1)
    with refused(BundleError, "run", "ONNX", "float16"):
        engine.step(np.array([[1]]), cache)
    assert capfd.readouterr() == ("", "")


def test_a_large_graph_is_opened_without_a_search_for_memory_to_use_again(tmp_path: Path) -> None:
    for size, searches in ((2**20 - 1, True), (2**20, False)):
        (tmp_path / "model.onnx").write_bytes(bytes(size))
        assert session.options(1, tmp_path / "model.onnx").enable_mem_reuse is searches
    assert session.options(1).enable_mem_reuse


def test_options(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "saturates", lambda: True)
    made = session.options(3)
    assert (made.intra_op_num_threads, made.inter_op_num_threads) == (3, 1)
    assert made.get_session_config_entry("session.x64quantprecision") == "1"
    monkeypatch.setattr(hardware, "threads", lambda: 7)
    assert session.options().intra_op_num_threads == 7


def test_fusions_that_slow_a_cpu_are_off(tmp_path: Path) -> None:
    """An Add and a norm, an Add and Gelu stay as they are; ONNX Runtime by itself joins each pair."""
    floats = lambda name, *shape: helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)  # noqa: E731
    nodes = [
        helper.make_node("Add", ["x", "y"], ["sum"]),
        helper.make_node("LayerNormalization", ["sum", "w", "w"], ["norm"]),
        helper.make_node("Add", ["norm", "w"], ["more"]),
        helper.make_node("Gelu", ["more"], ["z"]),
    ]
    weights = [onnx.numpy_helper.from_array(np.ones(8, np.float32), "w")]
    shape = (2, 3, 8)
    graph = helper.make_graph(
        nodes, "g", [floats("x", *shape), floats("y", *shape)], [floats("z", *shape)], weights
    )
    opsets = [helper.make_opsetid("", 23)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), tmp_path / "model.onnx")

    def kinds(opened: Callable[[ort.SessionOptions], Any]) -> list[str]:
        made = session.options(1)
        made.optimized_model_filepath = str(tmp_path / "optimized.onnx")
        opened(made)
        return [node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node]

    path = tmp_path / "model.onnx"
    fused = kinds(lambda made: ort.InferenceSession(path, made, providers=["CPUExecutionProvider"]))
    assert fused == ["SkipLayerNormalization", "BiasGelu"]
    own = kinds(lambda made: session.open_session(path, "cpu", made))
    assert own == ["Add", "LayerNormalization", "Add", "Gelu"]


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Packing for a model of any size, into a cache of this test."""
    monkeypatch.setattr(prepacked_weights, "SMALLEST", 0)
    monkeypatch.setenv("TFM_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "prepacked"


def test_packed_weights_compute_the_same(bundle: Path, small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    want = logits(OrtEngine(open_bundle(bundle), threads=1))
    opened: list[Path] = []
    real = prepacked_weights.open_session
    monkeypatch.setattr(
        prepacked_weights, "open_session", lambda path, *rest: opened.append(path) or real(path, *rest)
    )
    for _ in range(3):
        assert np.array_equal(logits(OrtEngine(open_bundle(bundle), threads=1, prepack=True)), want)
    (place,) = small.iterdir()
    assert opened == [bundle.resolve() / "model.onnx", place / "model.onnx", place / "model.onnx"]
    # Another key, or a file of another size, and it is written anew.
    note = json.loads((place / "key.json").read_text())
    (place / "key.json").write_text(json.dumps(note | {"key": "0"}))
    assert np.array_equal(logits(OrtEngine(open_bundle(bundle), threads=1, prepack=True)), want)
    (place / "model.onnx.data").write_bytes(b"short")
    assert np.array_equal(logits(OrtEngine(open_bundle(bundle), threads=1, prepack=True)), want)
    assert opened[3:] == [bundle.resolve() / "model.onnx"] * 2
    assert json.loads((place / "key.json").read_text()) == note


def test_unsound_packed_weights_are_dropped_for_good(
    bundle: Path, small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    want = logits(OrtEngine(open_bundle(bundle), threads=1, prepack=True))
    (place,) = small.iterdir()
    data = place / "model.onnx.data"
    data.write_bytes(b"\x7f" * data.stat().st_size)
    for _ in range(2):
        assert np.array_equal(logits(OrtEngine(open_bundle(bundle), threads=1, prepack=True)), want)
        assert [file.name for file in place.iterdir()] == ["key.json"]


def test_a_shape_that_is_packed_wrongly_still_computes_right(tmp_path: Path, small: Path) -> None:
    config = tiny_models.llama(context=40, **SOUND | {"vocabulary": 97})
    bundle = exported(tmp_path, config, quant="int8")
    want = logits(OrtEngine(bundle, threads=1))
    for _ in range(3):
        assert np.array_equal(
            logits(OrtEngine(open_bundle(tmp_path / "bundle"), threads=1, prepack=True)), want
        )


def test_a_cache_that_fails_is_no_error(bundle: Path, small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    want = logits(OrtEngine(open_bundle(bundle), threads=1))
    monkeypatch.setattr(prepacked_weights.shutil, "disk_usage", lambda _: SimpleNamespace(free=0))
    assert np.array_equal(logits(OrtEngine(open_bundle(bundle), threads=1, prepack=True)), want)
    assert not small.exists()
    monkeypatch.undo()
    monkeypatch.setattr(prepacked_weights, "SMALLEST", 0)
    monkeypatch.setattr(prepacked_weights, "cache_dir", lambda: Path("/proc/nowhere"))
    assert np.array_equal(logits(OrtEngine(open_bundle(bundle), threads=1, prepack=True)), want)


def test_a_graph_of_anyones_in_the_cache_is_no_error(bundle: Path, small: Path) -> None:
    """One that starts, of the size that is noted, and whose input no graph of ours has."""
    want = logits(OrtEngine(open_bundle(bundle), threads=1, prepack=True))
    (place,) = small.iterdir()
    a, b = (onnx.helper.make_tensor_value_info(name, onnx.TensorProto.BOOL, ["odd"]) for name in "ab")
    graph = onnx.helper.make_graph([onnx.helper.make_node("Not", ["a"], ["b"])], "g", [a], [b])
    opsets = [onnx.helper.make_opsetid("", 21)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opsets, ir_version=10), place / "model.onnx")
    note = json.loads((place / "key.json").read_text())
    note["sizes"]["model.onnx"] = (place / "model.onnx").stat().st_size
    (place / "key.json").write_text(json.dumps(note))
    assert np.array_equal(logits(OrtEngine(open_bundle(bundle), threads=1, prepack=True)), want)


def test_packed_weights_of_a_bundle_that_is_gone_are_dropped(bundle: Path, small: Path) -> None:
    gone = small / "gone-000000000000"
    gone.mkdir(parents=True)
    (gone / "key.json").write_text(json.dumps({"bundle": str(bundle / "gone")}))
    (small / "odd").mkdir()
    (small / "odd/key.json").write_text("[" * 100_000)
    OrtEngine(open_bundle(bundle), threads=1, prepack=True)
    assert sorted(p.name.rsplit("-", 1)[0] for p in small.glob("[!.]*")) == ["bundle", "odd"]


def test_load(bundle: Path, tmp_path: Path) -> None:
    model = runtime.load(bundle, threads=1)
    ids = model.generate_ids([1, 2, 3], max_new_tokens=5)
    cache = model.start(1)
    first, _ = model.step(np.array([[1, 2, 3]]), cache)
    assert ids[0] == int(first[0, 0].argmax()) == int(model.logits([1, 2, 3])[-1].argmax())
    assert model.config == CONFIG
    with pytest.raises(BundleError):
        runtime.load(tmp_path)
    with refused(DeviceError, "cpu", "cuda", "auto"):
        runtime.load(bundle, device="tpu")


def test_a_flipped_bit_is_refused(bundle: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(bundle, copy)
    runtime.load(copy, threads=1)
    data = bytearray((copy / "model.onnx.data").read_bytes())
    data[1000] ^= 1
    (copy / "model.onnx.data").write_bytes(data)
    with refused(BundleError, "model.onnx.data", "bytes"):
        runtime.load(copy, threads=1)


def test_an_engine_keeps_its_error_for_a_dead_cache(bundle: Path) -> None:
    engine = OrtEngine(open_bundle(bundle), threads=1)
    cache = engine.start(2)
    cache.select(np.array([1, 0]))
    with refused(TfmError, "cache", "used"):
        engine.step(np.array([[1], [2]]), cache)


def test_logits_that_a_caller_holds_are_not_written_again(bundle: Path) -> None:
    engine = OrtEngine(open_bundle(bundle))
    cache, held, copies = engine.start(1), [], []
    for token in range(6):
        logits, cache = engine.step(np.array([[token]]), cache)
        held.append(logits[0, 0])
        copies.append(logits[0, 0].copy())
        del logits
    for kept, copy in zip(held, copies, strict=True):
        np.testing.assert_array_equal(kept, copy)
