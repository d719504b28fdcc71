"""Each layer by itself is what is specified, and a bug is seen in its own layer alone."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

import numpy as np
import onnx
import pytest
from helpers import kept_blocks, text_strategies, tiny_models
from helpers.exported import export_once, rehash
from helpers.onnx_nodes import run
from tfm.export.bundle_writer import export
from tfm.refimpl.checkpoint.open import Checkpoint, open_checkpoint, save_checkpoint
from tfm.refimpl.config import Config
from tfm.refimpl.ops.activation import precise_sigmoid, sigmoid, silu
from tfm.refimpl.ops.dispatch import body, use
from tfm.refimpl.ops.quant import quantize_activations, quantize_rows
from tfm.runtime.bundle.bundle import Bundle, open_bundle
from tfm.runtime.verification.between_layers import between_layers
from tfm.runtime.verification.checks.context import VerifyContext
from tfm.runtime.verification.checks.layers import check_layers
from tfm.runtime.verification.report import Row
from tfm.runtime.verification.streamed_reference import COARSE, DISTURBED, TIE

CONFIGS: dict[str, Config] = {
    "llama": tiny_models.llama(bias=True),
    "state spaces": tiny_models.state_spaces(),
    "gated deltas": tiny_models.gated_deltas(),
    "keys of other layers": tiny_models.shared_kv(),
    "positions": tiny_models.added_positions(),
    "norms behind": tiny_models.normed_outputs(),
    "encoder": tiny_models.encoder(),
    "distances": tiny_models.distant(),
    "lightning": tiny_models.ling(),
    "sound": tiny_models.hearing(),
    "samples": tiny_models.writing(),
    "read again": tiny_models.reading_decoder(),
    "sums of blocks": tiny_models.summarized(),
    "nearly closed gates": tiny_models.closed_gates(),
}
RARE = [
    ("state spaces", "int8"), ("gated deltas", "int4"),
    ("keys of other layers", "fp32"), ("positions", "int8"),
    ("norms behind", "int8"), ("encoder", "int8-dynamic"), ("distances", "int8"),
    ("samples", "int8"), ("read again", "int8"), ("sums of blocks", "int8-dynamic"),
    ("nearly closed gates", "fp32"),
]  # fmt: skip
CASES = [
    ("lightning", "int8"),
    ("sound", "int8"),
    *(pytest.param(*case, marks=pytest.mark.long) for case in RARE),
]

pytestmark = pytest.mark.usefixtures("kernels_on")


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str, str], Bundle]:
    return export_once(tmp_path_factory.mktemp("layers"), CONFIGS)


def rows(path: Path) -> list[Row]:
    return [*check_layers(VerifyContext(open_bundle(path), None, None, float("inf"), "cpu", 1))]


@pytest.mark.parametrize(("name", "quant"), CASES)
def test_each_layer_is_what_is_specified(bundles, name: str, quant: str) -> None:
    bundle = bundles(name, "ort-cpu", quant)
    found = rows(bundle.path)
    paths = {row.name.startswith("kernels") for row in found}
    assert len(found) == len(paths) * sum(len(stack.layers) for stack in bundle.config.stacks.values())
    assert not [row for row in found if not row.ok]
    # What promises the same bits has no such rows.
    over_kernels = name in ("lightning", "samples", "sums of blocks")
    assert len(paths) == 1 + over_kernels
    assert all(row.figure or row.budget for row in found)


def test_a_small_bug_is_seen_though_codes_may_flip(bundles, tmp_path: Path) -> None:
    """A norm's eps is twice what it was, which changes less than one code's flip may."""
    bundle = bundles("lightning", "ort-cpu", "int8")
    path = shutil.copytree(bundle.path, tmp_path / "bundle")
    data = (path / "model.onnx").read_bytes()
    value = between_layers(data, bundle.config, bundle.manifest.tensors)["decoder", 1].name
    model = onnx.load(path / "model.onnx", load_external_data=False)
    norm = next(n for n in model.graph.node if value in n.input and "Norm" in n.op_type)
    (eps,) = (one for one in norm.attribute if one.name == "epsilon")
    eps.f *= 2
    onnx.save(model, path / "model.onnx")
    rehash(path)
    assert [row.name.partition(" by")[0] for row in rows(path) if row.ok is False] == ["layer 1"]


@pytest.mark.parametrize("block", [None, 4])
@pytest.mark.parametrize(
    ("disturbed", "expected"),
    [
        ("codes", [127, 6, -6, 5, 127, 5, -5, 0]),
        ("even codes", [127, 5, -6, 6, 127, 5, -5, 0]),
        ("odd codes", [127, 6, -5, 5, 127, 5, -5, 0]),
    ],
)
def test_only_codes_next_to_a_tie_are_turned(block: int | None, disturbed: str, expected: list[int]) -> None:
    """127 is the row's largest code, so numbers are codes; the second block has a scale of its own."""

    def quantized(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        with use(DISTURBED[disturbed]):
            return quantize_rows(x) if block is None else quantize_activations(x, block=block)

    near, far = 2 * TIE / 3, 4 * TIE / 3
    x = np.array([[127, 5.5 - near, -5.5 + near, 5.5 + near, 127, 5.5 - far, -5.5 + far, 0.25]])
    codes, scale = quantized(x)
    assert (codes == [expected]).all()
    assert (scale == 1).all()
    zeros = np.zeros((1, 6))
    codes, _ = quantized(zeros)
    assert (codes == 0).all()


def test_a_disturbed_sigmoid_is_as_coarse_as_onnx_runtimes() -> None:
    x = np.linspace(-30, 30, 6000, dtype=np.float32)
    exact = sigmoid(x.astype(np.float64))
    (found,) = run("Sigmoid", [x])
    assert COARSE / 2 < np.abs(found - exact).max() < 2 * COARSE
    with use(DISTURBED["sigmoids"]):
        off = sigmoid(x.astype(np.float64)) - exact
        assert (precise_sigmoid(x) == body(sigmoid)(x)).all()
    np.testing.assert_allclose(off, np.tile([COARSE, -COARSE], 3000), rtol=1e-6)


def test_a_code_is_turned_though_a_coarse_sigmoid_passes_its_tie() -> None:
    """With both disturbances in one run, a code whose number has passed its tie would be turned back."""
    tie = 10.500289049  # its silu is 10.5; sigmoids of even columns are too large, others too small
    x = np.array([[tie - 3e-7, 127], [127, tie + 3e-7]])

    def codes(disturbed: str | None) -> list[list[int]]:
        with use(DISTURBED[disturbed] if disturbed else {}):
            return quantize_rows(silu(x))[0].tolist()

    assert codes(None) == [[10, 127], [127, 11]]
    assert codes("sigmoids") == codes("codes") == [[11, 127], [127, 10]]


@pytest.mark.long
def test_a_soft_cap_is_seen_where_a_tie_and_a_sigmoid_meet(tmp_path: Path) -> None:
    """In blocks of GGUF, whose seed 0 has a number of layer 2 that a coarse sigmoid moves over its tie."""
    kept = kept_blocks.natives({"wq": (False, 4), "wo": (True, 4), "gate": (False, 4), "down": (True, 4)})
    tokenizer, path = text_strategies.byte_level(), tmp_path / "bundle"
    config = tiny_models.mixed_windows(vocabulary=tokenizer.get_vocab_size())
    save_checkpoint(tmp_path / "model", config, tiny_models.weights(config), tokenizer.to_str())
    with patch.object(Checkpoint, "native", kept):
        export(open_checkpoint(tmp_path / "model"), path, quant="keep", verify=False)
    assert [row.ok for row in rows(path)] == [True] * 4
    model = onnx.load(path / "model.onnx", load_external_data=False)
    (cap,) = (one for node in model.graph.node for one in node.attribute if one.name == "softcap" and one.f)
    cap.f *= 1.001
    onnx.save(model, path / "model.onnx")
    rehash(path)
    assert [row.name.partition(" by")[0] for row in rows(path) if row.ok is False] == ["layer 2"]


@pytest.mark.parametrize(
    ("name", "file", "end"),
    [
        ("lightning", "model.onnx", ("decoder", 2)),
        ("lightning", "kernels.onnx", ("decoder", 2)),
        ("sound", "model.onnx", ("decoder", 2)),
        ("sound", "encoder.onnx", ("encoder", 2)),
    ],
)
def test_a_bug_is_seen_in_its_layer_alone(
    bundles, tmp_path: Path, name: str, file: str, end: tuple[str, int]
) -> None:
    """The last sum of layer 1 takes one of its two numbers twice."""
    path = shutil.copytree(bundles(name, "ort-cpu", "int8").path, tmp_path / "bundle")
    bundle = open_bundle(path)
    tensors = bundle.kernel_tensors if file == "kernels.onnx" else bundle.manifest.tensors
    given = between_layers((path / file).read_bytes(), bundle.config, tensors)[end].name
    model = onnx.load(path / file, load_external_data=False)
    (node,) = (node for node in model.graph.node if given in node.output)
    node.input[1] = node.input[0]
    onnx.save(model, path / file)
    rehash(path)
    of = "kernels" if file == "kernels.onnx" else f"{end[0]} layer 1" if name == "sound" else "layer 1"
    (failed,) = (row.name for row in rows(path) if row.ok is False)
    assert "layer 1 by itself" in failed
    assert failed.startswith(of)


def test_a_layer_reads_what_the_encoder_gives(bundles, tmp_path: Path) -> None:
    """The keys of layer 1 are those of layer 2, and the other way."""
    path = shutil.copytree(bundles("sound", "ort-cpu", "int8").path, tmp_path / "bundle")
    model = onnx.load(path / "encoder.onnx", load_external_data=False)
    names = {"encoder_k.1": "encoder_k.2", "encoder_k.2": "encoder_k.1"}
    for node in model.graph.node:
        node.output[:] = [names.get(name, name) for name in node.output]
    onnx.save(model, path / "encoder.onnx")
    rehash(path)
    failed = [row.name.partition(" by")[0] for row in rows(path) if row.ok is False]
    assert failed == ["decoder layer 1", "decoder layer 2"]
