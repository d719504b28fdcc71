"""Each layer by itself is what is specified, and a bug is seen in its own layer alone."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from helpers import tiny_models
from helpers.exported import export_once, rehash
from helpers.onnx_nodes import run
from tfm.refimpl.config import Config
from tfm.refimpl.ops.activation import precise_sigmoid, sigmoid
from tfm.refimpl.ops.dispatch import body, use
from tfm.runtime.bundle.bundle import Bundle, open_bundle
from tfm.runtime.verification.between_layers import between_layers
from tfm.runtime.verification.checks.context import VerifyContext
from tfm.runtime.verification.checks.layers import check_layers
from tfm.runtime.verification.report import Row
from tfm.runtime.verification.streamed_reference import (
    COARSE,
    DISTURBED,
    TIE,
    _blocks_by_ties,
    _rows_by_ties,
)

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
def test_only_codes_next_to_a_tie_are_turned(block: int | None) -> None:
    """127 is the row's largest code, so numbers are codes; the second block has a scale of its own."""
    near, far = 2 * TIE / 3, 4 * TIE / 3
    x = np.array([[127, 5.5 - near, -5.5 + near, 5.5 + near, 127, 5.5 - far, -5.5 + far, 0.25]])
    codes, scale = _rows_by_ties(x) if block is None else _blocks_by_ties(x, block=block)
    assert (codes == [[127, 6, -6, 5, 127, 5, -5, 0]]).all()
    assert (scale == 1).all()
    zeros = np.zeros((1, 6))
    codes, _ = _rows_by_ties(zeros) if block is None else _blocks_by_ties(zeros, block=block)
    assert (codes == 0).all()


def test_a_disturbed_sigmoid_is_as_coarse_as_onnx_runtimes() -> None:
    x = np.linspace(-30, 30, 6000, dtype=np.float32)
    exact = sigmoid(x.astype(np.float64))
    (found,) = run("Sigmoid", [x])
    assert COARSE / 2 < np.abs(found - exact).max() < 2 * COARSE
    with use(DISTURBED):
        off = sigmoid(x.astype(np.float64)) - exact
        assert (precise_sigmoid(x) == body(sigmoid)(x)).all()
    np.testing.assert_allclose(off, np.tile([COARSE, -COARSE], 3000), rtol=1e-6)


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
