"""Keys and values in 8 and 4 bits, calibrated, exported, verified, run; codes are the specification's."""

from __future__ import annotations

import json
import re
import tomllib
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from helpers import task_models, tiny_models
from helpers.refused import pattern, refused
from helpers.text_strategies import byte_tokenizer
from tfm.export.bundle_writer import export
from tfm.export.quantization import calibrate
from tfm.export.quantization.plan import Calibration
from tfm.export.torch_engine import TorchEngine
from tfm.refimpl.checkpoint.open import Checkpoint, materialize, open_checkpoint, save_checkpoint
from tfm.refimpl.config import Config
from tfm.refimpl.engine.cache_kinds import cache_kinds
from tfm.refimpl.engine.numpy_engine import NumpyEngine
from tfm.refimpl.errors import BundleError, ExportError
from tfm.refimpl.ops.quantized_cache import hadamard, round_by_channel, unpack_nibbles
from tfm.refimpl.params.shapes import parameter_shapes
from tfm.refimpl.params.tree import unflatten
from tfm.runtime.bundle import manifest, operator_limits
from tfm.runtime.bundle.bundle import open_bundle
from tfm.runtime.ort.engine import OrtEngine
from tfm.runtime.progress import silent
from tfm.runtime.text.tokenizer import Tokenizer
from tfm.runtime.verification.verify import verify

FULL, MIXED = tiny_models.llama(vocabulary=256, bias=True), tiny_models.mixed_windows(vocabulary=256)
COST = "KL divergence over a text, of the cache in int8"
TEXT = "A quick brown fox jumps over 13 lazy dogs, and nobody knows why. "


def saved(path: Path, config: Config) -> Checkpoint:
    if not path.exists():
        save_checkpoint(path, config, tiny_models.weights(config, 1), byte_tokenizer())
    return open_checkpoint(path)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint and its bundles of codes."""
    folder = tmp_path_factory.mktemp("kv")
    checkpoint = saved(folder / "model", FULL)
    for kv, name in (("int8", "bundle"), ("int4", "fours")):
        export(checkpoint, folder / name, quant="int8", kv=kv, verify=False)
    return folder


@pytest.mark.parametrize(("config", "quant"), [(FULL, "int8"), (MIXED, "fp32")], ids=["full", "windows"])
def test_kv_int8_end_to_end(config: Config, quant: str, tmp_path: Path):
    checkpoint, out = saved(tmp_path / "model", config), tmp_path / "bundle"
    stages: set[str] = set()
    export(
        checkpoint, out, quant=quant, kv="int8", progress=lambda stage, *_: stages.add(stage), verify=False
    )
    assert any(re.search(pattern("ranges", "keys", "values"), stage) for stage in stages)
    opened = open_bundle(out)
    assert opened.config == config.with_kv("int8")
    report = verify(out, source=checkpoint.path)
    assert not report.failed
    rows = {row.name: row for row in report.rows}
    assert rows["weights equal the source's"].figure == len(parameter_shapes(config))
    assert 1e-6 < rows[COST].figure < 1e-4
    held = json.loads((out / "certificate.json").read_bytes())
    assert COST in [row["name"] for row in held["rows"]]
    # The source's cache doesn't round, and only where weights do is it known what that may cost.
    assert (rows["KL divergence over a text"].budget is None) == (quant == "fp32")
    graph = onnx.load(out / "model.onnx", load_external_data=False).graph
    kinds = {v.name: v.type.tensor_type.elem_type for v in (*graph.input, *graph.output)}
    assert {kinds[n] for n in kinds if n.startswith(("k.", "v.", "k_out.", "v_out."))} == {
        onnx.TensorProto.INT8
    }


def test_without_the_source_the_bundles_own_rounding_is_the_truth(made: Path):
    rows = {row.name: row for row in verify(made / "bundle", full=True).rows}
    assert rows["KL divergence over a text"].ok
    assert rows[COST].figure > 3 * rows["KL divergence over a text"].figure


@pytest.mark.parametrize(("name", "bits"), [("bundle", 8), ("fours", 4)])
def test_all_engines_keep_the_same(made: Path, name: str, bits: int):
    """Logits and caches agree, after steps of several tokens (in chunks where ONNX Runtime reads codes)
    and of one."""
    opened = open_bundle(made / name)
    config, tree = opened.config, materialize(opened.params())
    ids = np.random.default_rng(0).integers(0, 256, (2, 9))
    runner, chunks = OrtEngine(opened, threads=1, chunk=3), []
    run = runner._run
    runner._run = lambda decoder, buffers, step: (
        chunks.append(step.tokens.shape[1]) or run(decoder, buffers, step)
    )
    engines = [NumpyEngine(config, tree), TorchEngine(config, tree), runner]
    said, caches = [], []
    for engine in engines:
        _, cache = engine.step(ids[:, :5], engine.start(2))
        logits, cache = engine.step(ids[:, 5:6], cache)
        said.append(logits)
        caches.append(cache.take())
    assert chunks == [3, 2], "a step of one token is no chunk"
    exact, mirrored, state = caches
    for i, buffer in enumerate(buffer for arrays in state.layers for buffer in arrays):
        layer, side = divmod(i, 2)
        scale = tree["decoder"]["layers"][layer]["attn"]["kv"[side] + "_scale"][:, None, :]
        codes = buffer.read()[:, :, :6]
        assert codes.dtype == (np.int8 if bits == 8 else np.uint8)
        codes = codes if bits == 8 else unpack_nibbles(codes)
        assert np.abs(codes).max() >= 2 ** (bits - 2), "most of the range is used"
        for held in (exact, mirrored):
            off = np.abs(codes - np.rint(held[layer][side] / scale))
            assert off.max() <= 1, "a number at the edge of two codes may fall to either side"
            assert (off > 0).mean() < 0.02
            np.testing.assert_array_equal(np.rint(held[layer][side] / scale) * scale, held[layer][side])
    for other in said[1:]:
        np.testing.assert_allclose(other, said[0], atol=0.01 if bits == 8 else 0.1)
    without = NumpyEngine(FULL, unflatten({name: opened.leaf(name) for name in parameter_shapes(FULL)}))
    _, cache = without.step(ids[:, :5], without.start(2))
    assert np.abs(without.step(ids[:, 5:6], cache)[0] - said[0]).max() > 0.01, "rounding shows"


@pytest.mark.parametrize("own", [True, False], ids=["ours", "calibrate"])
def test_scales_reach_half_as_far_again_as_the_text(own: bool, tmp_path: Path):
    """Scales cover 1.5 times the range of the specification's cache after the text, rotated keys included."""
    checkpoint, text = saved(tmp_path / "model", MIXED), tmp_path / "text.txt"
    text.write_text(TEXT)
    told = calibrate.TEXT.read_text() if own else TEXT
    found = calibrate.with_cache_scales(checkpoint, "int8", None if own else text, silent)
    assert found.config == MIXED.with_kv("int8")
    assert checkpoint.tokenizer is not None
    ids = np.array(Tokenizer(checkpoint.tokenizer, 256).encode(told))
    engine = NumpyEngine(MIXED, materialize(checkpoint.params))
    most: list[np.ndarray] = []
    for start in range(0, len(ids), MIXED.context):
        _, cache = engine.step(ids[None, start : start + MIXED.context], engine.start())
        here = [np.abs(side).max((0, 2)) for layer in cache.take() for side in (layer.keys, layer.values)]
        most = [np.maximum(a, b) for a, b in zip(most, here, strict=True)] if most else here
    names = [f"decoder.layers.{i}.attn.{side}_scale" for i in range(4) for side in "kv"]
    assert list(found.added) == names
    for name, largest in zip(names, most, strict=True):
        assert found.leaf(name).shape == parameter_shapes(found.config)[name]
        np.testing.assert_allclose(found.leaf(name), 1.5 * largest / 127, rtol=1e-4)


def test_4_bits_say_what_they_cost(made: Path, monkeypatch: pytest.MonkeyPatch):
    """The certificate has the figure, kernels have the specification's bits, and a cache has half the bytes;
    an export that costs more stops with the figure, and leaves nothing."""
    opened = open_bundle(made / "fours")
    report = verify(made / "fours")
    assert not report.failed
    rows = {row.name: row for row in report.rows}
    cost = rows["KL divergence over the text of its scales, of the cache in int4"]
    assert cost.figure == opened.manifest.cache_kl
    assert 1e-4 < cost.figure < cost.budget == manifest.CACHE_BUDGET
    eights, fours = (sum(k.nbytes(64, 4) for k in cache_kinds(FULL.with_kv(kv))) for kv in ("int8", "int4"))
    assert eights == 2 * fours
    monkeypatch.setattr(calibrate, "CACHE_BUDGET", cost.figure / 2)
    with refused(ExportError, "kv=int4", f"{cost.figure:.2g}", "kv=int8"):
        export(open_checkpoint(made / "model"), made / "other", quant="int8", kv="int4", verify=False)
    assert not (made / "other").exists()


def test_scales_of_4_bits_have_the_least_error(made: Path):
    """Of keys, and of values after their rotation: no other share of a channel's range has less."""
    found = calibrate.with_cache_scales(open_checkpoint(made / "model"), "int4", None, silent)
    x = np.random.default_rng(0).standard_normal((50, 2, 3)) * [1, 30, 1e-3]
    largest = np.abs(x).max(0)
    chosen = calibrate.least_scale(x, largest / 7)
    errors = lambda scale: np.square(round_by_channel(x[None], scale, bits=4)[0] - x).sum(0)  # noqa: E731
    assert all(
        (errors(chosen) <= (1 + 1e-6) * errors(share * largest / 7)).all() for share in calibrate.CACHE_SHARES
    )
    assert (errors(chosen) < errors(largest / 7)).any()
    engine = NumpyEngine(FULL, materialize(open_checkpoint(made / "model").params))
    assert open_checkpoint(made / "model").tokenizer is not None
    ids = Tokenizer(open_checkpoint(made / "model").tokenizer, 256).encode(calibrate.TEXT.read_text())
    sides: list[list[np.ndarray]] = [[], []]
    for start in range(0, len(ids), FULL.context):
        _, cache = engine.step(np.array([ids[start : start + FULL.context]]), engine.start())
        keys, values = cache.take()[0][:2]
        for side, part in zip(sides, (keys, hadamard(values)), strict=True):
            side.append(part[0].swapaxes(0, 1))
    for side, name in zip(sides, "kv", strict=True):
        x = np.concatenate(side)
        expected = calibrate.least_scale(x, np.abs(x).max(0) / 7)
        ratio = found.leaf(f"decoder.layers.0.attn.{name}_scale") / expected
        assert (np.abs(ratio - 1) < 1e-3).mean() > 0.9, (
            "shares whose errors are almost equal may change places"
        )


def test_scales_of_values_are_smoothed_with_them(made: Path):
    """A channel's scale is divided by the factor of its column of wv."""
    opened, checkpoint = open_bundle(made / "bundle"), open_checkpoint(made / "model")
    found = calibrate.with_cache_scales(checkpoint, "int8", None, silent)
    for name in found.added:
        kept, biases = opened.leaf(name), name.removesuffix("k_scale").removesuffix("v_scale") + "bv"
        ratio = found.leaf(name) / kept
        if name.endswith("k_scale"):
            assert (ratio == 1).all()
        else:
            assert (ratio != 1).any()
            np.testing.assert_array_equal(ratio.ravel(), checkpoint.leaf(biases) / opened.leaf(biases))


def test_a_checkpoint_may_have_scales_of_its_own(tmp_path: Path):
    config = FULL.with_kv("int8")
    checkpoint, out = saved(tmp_path / "model", config), tmp_path / "bundle"
    export(checkpoint, out, quant="int8", kv="int8", verify=False)
    report = verify(out, source=checkpoint.path)
    assert not report.failed
    rows = {row.name: row for row in report.rows}
    assert rows["weights equal the source's"].figure == len(parameter_shapes(config))
    with refused(ExportError, "kv=int8", "target=standard"):
        export(checkpoint, tmp_path / "other", target="standard", quant="int8")


def test_what_cannot_keep_codes_says_why(tmp_path: Path, made: Path):
    checkpoint, out = open_checkpoint(made / "model"), tmp_path / "bundle"
    (tmp_path / "text.txt").write_text(TEXT)
    text = tmp_path / "text.txt"

    def refuses(match: str, checkpoint: Checkpoint = checkpoint, **options) -> None:
        with refused(ExportError, *match.split()):
            export(checkpoint, out, **{"kv": "int8", **options})
        assert not out.exists()

    refuses("target=standard floats", target="standard")
    refuses("target=ort-cuda GPU", target="ort-cuda")
    refuses("kv float int8 int4 'int2'", kv="int2")
    for config, why in (
        (tiny_models.added_positions(), "bias Alibi"),
        (tiny_models.rare(head_size=12), "head size 16 12"),
    ):
        assert re.search(pattern(*why.split()), operator_limits.group_query(config)[0])
        refuses(f"fused layer 0: {why}", replace(checkpoint, config=config))
    sharing = replace(checkpoint, config=tiny_models.shared_kv())
    refuses("layers keys values", sharing)
    hearing = replace(checkpoint, config=tiny_models.hearing())
    for kv in ("int8", "int4"):
        refuses(f"kv={kv} sounds", hearing, kv=kv)
    encoder = saved(tmp_path / "encoder", task_models.config(tiny_models.WORDS))
    refuses("decoder", encoder)
    refuses("calibration tokenizer", replace(checkpoint, tokenizer=None))
    for options in ({"method": "entropy"}, {"alpha": 0.5}):
        refuses(
            "calibration.method calibration.alpha quant=int8-static w8a16",
            calibration=Calibration(text, **options),
        )


@pytest.mark.parametrize(("field", "value"), [("target", "ort-cuda"), ("cache", "copied")])
def test_a_manifest_cannot_ask_for_codes_elsewhere(field: str, value: str, made: Path, tmp_path: Path):
    (tmp_path / "tfm.json").write_text(
        json.dumps(json.loads((made / "bundle" / "tfm.json").read_bytes()) | {field: value})
    )
    with refused(BundleError, "kv", "int8", "cache"):
        open_bundle(tmp_path)


def test_no_more_than_a_layer_of_the_cache_is_held(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Ranges are taken layer by layer, and each layer's leaves are then released."""
    checkpoint, loaded = saved(tmp_path / "model", FULL), []
    monkeypatch.setattr(Checkpoint, "leaf", lambda self, name: loaded.append(name) or self.leaves.load(name))
    calibrate.with_cache_scales(checkpoint, "int8", None, silent)
    layers = [name.split(".")[2] for name in loaded if ".layers." in name]
    assert layers == sorted(layers)
    assert len(loaded) == len(set(loaded))


def test_the_text_ships():
    root = Path(__file__).parents[3]
    data = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    assert calibrate.TEXT.name in data["tfm.export.quantization"]
    assert (root / "export" / "quantization" / calibrate.TEXT.name).is_file()
