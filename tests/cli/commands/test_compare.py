"""`compare`: figures are those of the bundles, a second run goes on, beaten points aren't on the frontier."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime
import pytest
from helpers import text_strategies, tiny_models
from helpers.refused import refused
from tfm.cli.main import main
from tfm.export import bundle_writer
from tfm.refimpl.checkpoint.open import open_checkpoint, save_checkpoint
from tfm.refimpl.config import Pool
from tfm.refimpl.engine.numpy_engine import NumpyEngine
from tfm.refimpl.errors import LimitError
from tfm.refimpl.params.tree import flatten, unflatten
from tfm.runtime.analysis import frontier, speed
from tfm.runtime.analysis.frontier import Point
from tfm.runtime.bundle.bundle import open_bundle
from tfm.runtime.bundle.plan import end
from tfm.runtime.kernels import library
from tfm.runtime.ort import kernel_backend
from tfm.runtime.progress import silent
from tfm.runtime.tasks import load
from tfm.runtime.verification.metrics import fidelity, likeness

TOKENIZER = text_strategies.byte_level()
TEXT = "the quick brown fox jumps over the lazy dog, and then it sleeps"


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TFM_CACHE", str(tmp_path / "cache"))
    config = tiny_models.llama(vocabulary=TOKENIZER.get_vocab_size(), context=64)
    save_checkpoint(tmp_path / "model", config, tiny_models.weights(config), TOKENIZER.to_str())
    (tmp_path / "text.txt").write_text(TEXT)
    return tmp_path / "model"


def compared(model: Path, capsys: pytest.CaptureFixture[str], *options: str) -> dict[str, Any]:
    given = [str(model), "--text", str(model.parent / "text.txt"), "--repeats", "1", "--new-tokens", "4"]
    capsys.readouterr()
    assert main(["compare", *given, "--json", *options]) == 0
    return json.loads(capsys.readouterr().out)


def test_figures_are_those_of_bundles_and_are_kept(
    model: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    """A run that ends after one bundle goes on with the next one: nothing is made or measured twice."""
    asked = ("--quant", "int8", "--quant", "keep", "--quant", "auto", "--bits", "7")
    picture = model.parent / "frontier.svg"

    def interrupted(*_: Any) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        whole = speed.compare
        speeds = iter([whole, interrupted])
        patch.setattr(speed, "compare", lambda *given: next(speeds)(*given))
        assert main(["compare", str(model), "--text", str(model.parent / "text.txt"), "--repeats", "1",
                     "--new-tokens", "4", *asked]) == 130  # fmt: skip
    measured: list[Path] = []
    exported: list[str] = []
    export = bundle_writer.export
    with monkeypatch.context() as patch:
        patch.setattr(bundle_writer, "export", lambda *a, **o: exported.append(o["quant"]) or export(*a, **o))
        patch.setattr(speed, "compare", lambda path, *given: measured.append(path) or whole(path, *given))
        found = compared(model, capsys, *asked, "--plot", str(picture))
    assert len(measured) == 1
    assert exported == ["keep"], "which is refused again"
    assert [one["name"] for one in found["points"]] == ["int8", "auto 7 bits"]
    assert list(found["left_out"]) == ["keep"]
    assert found["loss"] == "KL"
    assert picture.read_text().startswith("<?xml")
    checkpoint = open_checkpoint(model)
    reference = NumpyEngine(checkpoint.config, checkpoint.params)
    ids = TOKENIZER.encode(TEXT, add_special_tokens=False).ids
    before = TOKENIZER.encode(TEXT).ids[: -len(ids)]
    assert before
    assert found["tokens"] == len(ids)
    bundles = sorted((model.parent / "cache" / "bundles").iterdir(), reverse=True)
    for one, path in zip(found["points"], bundles, strict=True):
        close = fidelity(load(path).engine, reference, ids, 64, before=before)
        assert one["loss"] == pytest.approx(close.kl, rel=0.1)
        assert one["perplexity"] == pytest.approx(close.perplexity, rel=1e-3)
        assert one["reference_perplexity"] == pytest.approx(close.reference_perplexity)
        opened = open_bundle(path)
        kernels = one["path"].startswith("kernels")
        assert one["bytes"] == opened.plan.size
        assert one["read_bytes"] == (end(opened.kernel_tensors) if kernels else one["bytes"])
        assert kernels == isinstance(kernel_backend.library_for(opened), library.Library)
        assert main(["inspect", str(path), "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["read_bytes"] == one["read_bytes"]
        assert one["tokens_per_s"] > 0
    assert main(["compare", str(model), "--text", str(model.parent / "text.txt"), "--repeats", "1",
                 "--new-tokens", "4", "--markdown", "--quant", "int8"]) == 0  # fmt: skip
    assert "| int8 |" in capsys.readouterr().out


def test_vectors_are_compared_by_cosines(model: Path, capsys: pytest.CaptureFixture[str]):
    config = tiny_models.encoder(vocabulary=TOKENIZER.get_vocab_size(), head=Pool("mean"))
    save_checkpoint(model.parent / "encoder", config, tiny_models.weights(config), TOKENIZER.to_str())
    found = compared(model.parent / "encoder", capsys, "--quant", "int8-dynamic")
    [one] = found["points"]
    assert found["loss"] == "1 - COSINE"
    assert 0 < one["loss"] < 0.01
    assert one["perplexity"] is None
    assert one["tokens_per_s"] > 0


def test_what_can_not_be_compared(model: Path, capsys: pytest.CaptureFixture[str]):
    for options, code in ((["--quant", "int3"], 7), (["--quant", "keep"], 7), (["--json", "--markdown"], 2)):
        assert main(["compare", str(model), "--new-tokens", "4", *options]) == code, options
    (model.parent / "empty.txt").write_text("")
    assert main(["compare", str(model), "--text", str(model.parent / "empty.txt")]) != 0
    assert "2 tokens" in capsys.readouterr().err


def test_what_has_no_room_or_hears_is_refused_before_it_is_exported(
    model: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    def exported(*_: Any, **__: Any) -> None:
        pytest.fail("it was exported")

    monkeypatch.setattr(bundle_writer, "export", exported)
    assert main(["compare", str(model), "--quant", "int8", "--new-tokens", "64"]) != 0
    assert re.search("--new-tokens .* 64 tokens, got 64", capsys.readouterr().err)
    config = tiny_models.hearing(vocabulary=TOKENIZER.get_vocab_size())
    save_checkpoint(model.parent / "hearing", config, tiny_models.weights(config), TOKENIZER.to_str())
    assert main(["compare", str(model.parent / "hearing"), "--quant", "int8"]) != 0
    assert "sounds" in capsys.readouterr().err
    with refused(LimitError, "context of 32", "32 special tokens"):
        frontier.check(tiny_models.encoder(), frontier.Text([5, 6], [1] * 32), 4)


def test_results_are_those_of_what_computes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Of a masked LM the loss is a KL divergence; other kernels or another runtime are measured anew."""
    monkeypatch.setenv("TFM_CACHE", str(tmp_path))
    (tmp_path / "tfm.json").write_text("{}")
    config = tiny_models.encoder()
    weights = dict(flatten(tiny_models.weights(config)))
    reference = NumpyEngine(config, unflatten(weights))
    name = "encoder.layers.0.mlp.up"
    rounded = NumpyEngine(config, unflatten(weights | {name: weights[name] * 0.9}))
    loaded: list[Path] = []
    monkeypatch.setattr(
        frontier, "load", lambda path, *_: loaded.append(path) or SimpleNamespace(engine=rounded)
    )
    files = {"model.onnx.data": SimpleNamespace(size=7)}
    opened = SimpleNamespace(manifest=SimpleNamespace(files=files), read_size=5)
    monkeypatch.setattr(frontier, "open_bundle", lambda _: opened)

    def measure() -> Point:
        text = frontier.Text([5, 6, 7], [1])
        return frontier.measure("it", tmp_path, reference, text, 1, 4, 1, silent)

    one = measure()
    assert (one.bytes, one.read_bytes) == (7, 7), "no kernels read fewer"
    assert one.loss == likeness(rounded, reference, [[1, 5, 6, 7]]).kl != 0
    for found in ("no kernels", "kernels"):
        monkeypatch.setattr(library, "find", lambda found=found: found)
        measure()
    monkeypatch.setattr(onnxruntime, "__version__", "0")
    again = measure()
    assert len(loaded) == 4
    assert measure() == again
    assert len(loaded) == 4


def test_the_frontier_has_what_nothing_beats():
    sizes = {"a": (1, 9.0), "b": (2, 9.0), "c": (3, 2.0), "d": (3, 3.0), "e": (5, 1.0), "f": (6, 1.5)}
    sizes["g"] = sizes["e"]
    points = [Point(name, 9 - size, size, loss, None, None, 1.0, "") for name, (size, loss) in sizes.items()]
    rng = np.random.default_rng(0)
    for order in (points, points[::-1], [points[i] for i in rng.permutation(len(points))]):
        assert sorted(one.name for one in frontier.frontier(order)) == ["a", "c", "e", "g"]
        assert [one.read_bytes for one in frontier.frontier(order)] == [1, 3, 5, 5]
