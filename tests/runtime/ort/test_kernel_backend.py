"""Bundles over tfm's own kernels: outputs within their budgets, and weights that are as they were written."""

from __future__ import annotations

import gc
import json
import re
import shutil
import subprocess
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import onnxruntime
import pytest
from helpers import kept_blocks, tiny_models
from helpers.kernels import available, load
from helpers.refused import pattern, refused
from helpers.text_strategies import byte_tokenizer
from tfm import runtime
from tfm.cli.main import main
from tfm.export import bundle_writer
from tfm.export.bundle_writer import export
from tfm.refimpl.checkpoint.open import open_checkpoint, save_checkpoint
from tfm.refimpl.checkpoint.weights.loader import Leaves
from tfm.refimpl.config import Config
from tfm.refimpl.decoding.loop import GeneratedSequence
from tfm.refimpl.engine.numpy_engine import NumpyEngine
from tfm.refimpl.errors import BundleError, DeviceError, NumericError
from tfm.runtime.bundle import kernel_storage, weight_storage
from tfm.runtime.bundle.atomic_dir import replacing
from tfm.runtime.bundle.bundle import open_bundle
from tfm.runtime.bundle.same_bits import SameBits
from tfm.runtime.hub import checked_bundles
from tfm.runtime.hub.cache_dir import cache_dir
from tfm.runtime.kernels import compilers
from tfm.runtime.kernels.library import INSTRUCTION_SETS, Library, Unavailable, find
from tfm.runtime.kernels.platforms import Platform
from tfm.runtime.ort import kernel_backend
from tfm.runtime.ort.engine import OrtEngine
from tfm.runtime.ort.kernel_backend import KernelBackend
from tfm.runtime.ort.kv_cache import flat
from tfm.runtime.verification.certificate import recorded
from tfm.runtime.verification.checks import backends
from tfm.runtime.verification.checks import kernels as check
from tfm.runtime.verification.checks.bits import EQUAL
from tfm.runtime.verification.report import NOT_HERE
from tfm.runtime.verification.verify import verify

CONFIGS: dict[str, Callable[[], Config]] = {
    "biases, odd sizes": lambda: tiny_models.llama(bias=True, vocabulary=101, mlp=79, context=40),
    "an output matrix of its own": lambda: tiny_models.llama(tied=False, context=40),
    "a mixture": tiny_models.mixture,
    "clamped experts": tiny_models.sinks,
    "an encoder": tiny_models.encoder,
    "an encoder and a decoder": tiny_models.encoder_decoder,
    "convolutions": tiny_models.convolutions,
    "gated deltas": tiny_models.gated_deltas,
    "state spaces": tiny_models.state_spaces,
    "selective scans": tiny_models.selective_scans,
    "windows, one without rotation": lambda: tiny_models.mixed_windows(context=200),
}
RECURRENT = ("convolutions", "gated deltas", "state spaces", "selective scans")
CASES = [
    *(("biases, odd sizes", quant) for quant in ("int8", "int4", "keep")),
    ("an encoder", "int8-dynamic"),
    ("gated deltas", "int8"),
    *(
        pytest.param(name, "int8", marks=pytest.mark.long)
        for name in (
            "state spaces",
            "selective scans",
            "a mixture",
            "clamped experts",
            "an encoder",
            "an encoder and a decoder",
        )
    ),
    pytest.param("an output matrix of its own", "keep", marks=pytest.mark.long),
]
# What keep finds: 4 bits with minima, as of Q4_1, and 8, whose lowest numbers float16 can't hold.
KEPT = dict.fromkeys(("table", "wq", "wk", "wv", "gate", "up"), (True, 4)) | {
    "wo": (True, 8),
    "down": (False, 8),
}


@pytest.fixture(autouse=True)
def own_cache(monkeypatch: pytest.MonkeyPatch, kernels_on: Path, tmp_path: Path) -> None:
    """Weights go to a cache of this test, which needs no library of its own: compiling one takes 10 s."""
    library = find()
    assert isinstance(library, Library), library
    monkeypatch.setattr(kernel_backend, "find", lambda *_: library)
    monkeypatch.setattr(bundle_writer, "building", lambda _: nullcontext(lambda: kernels_on))
    monkeypatch.setenv("TFM_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Path]:
    """The bundle of a config in a quantization, made once."""
    folder = tmp_path_factory.mktemp("kernels")

    def made(name: str, quant: str) -> Path:
        path = folder / name / quant
        if not path.exists():
            config = CONFIGS[name]()
            save_checkpoint(folder / name / "model", config, tiny_models.weights(config))
            with pytest.MonkeyPatch.context() as patch:
                if quant == "keep":
                    patch.setattr(Leaves, "native", kept_blocks.natives(KEPT))
                export(open_checkpoint(folder / name / "model"), path, quant=quant, verify=False)
        return path

    return made


def operators(path: Path) -> list[str]:
    return [node.op_type for node in onnx.load(path, load_external_data=False).graph.node]


def lookups(path: Path) -> int:
    """How many nodes look rows of blocks up, by Gather where a product reads the table too."""
    nodes = onnx.load(path, load_external_data=False).graph.node
    kinds = "GatherBlockQuantized", "Gather"
    return sum(node.op_type in kinds and ".packed" in node.input[0] for node in nodes)


@pytest.mark.parametrize(("name", "quant"), CASES)
def test_outputs_are_within_their_budgets(bundles, name: str, quant: str) -> None:
    path = bundles(name, quant)
    for graph, over_kernels in kernel_storage.GRAPHS.items():
        if not (path / graph).exists():
            continue
        plain, own = operators(path / graph), operators(path / over_kernels)
        blocks = own.count("BlockLinear") + own.count("BlockSwiGLU")
        if name in ("a mixture", "clamped experts"):
            # Two layers, of three and of four experts or of four, with two products each.
            blocks += 14 if name == "a mixture" else 16
            assert [op for op in own if op.startswith("Expert")] == ["ExpertLinear", "ExpertSum"] * 2
            assert not {"NonZero", "ScatterND"} & set(own)
        products = blocks, own.count("RowLinear")
        assert (plain.count("MatMulNBits"), plain.count("MatMulIntegerToFloat")) == products
        assert any(products)
        assert lookups(path / graph) == own.count("BlockGather")
        assert plain.count("GroupQueryAttention") == own.count("Attention") - plain.count("Attention")
        replaced = {"MatMulNBits", "GatherBlockQuantized", "GroupQueryAttention", "LayerNormalization"}
        assert not replaced & set(own)
        if name in RECURRENT:
            states = len(CONFIGS[name]().layers) - (name != "state spaces")
            rules = 0 if name == "convolutions" else states
            nodes = onnx.load(path / over_kernels, load_external_data=False).graph.node
            kernels = [node.op_type for node in nodes if node.domain == "tfm"]
            assert (kernels.count("CausalConv"), kernels.count("LinearAttention")) == (states, rules)
            convolutions = [node for node in nodes if node.op_type == "CausalConv"]
            activated = {onnx.helper.get_node_attr_value(node, "silu") for node in convolutions}
            assert activated == {name != "convolutions"}
            assert plain.count("GatherElements") == own.count("GatherElements") + states
        if name == "an encoder":
            layers = len(CONFIGS[name]().stacks["encoder"].layers)
            assert (own.count("TextAttention"), own.count("MultiHeadAttention")) == (layers, 0)
            if quant == "int8-dynamic":
                assert not {"QuantizeLinear", "MatMulIntegerToFloat", "Gelu", "Split"} & set(own)
                assert own.count("AddLayerNorm") == 2 * layers
        if name == "an output matrix of its own":
            layers = len(CONFIGS[name]().layers)
            assert (own.count("BlockSwiGLU"), own.count("SwiGLU")) == (layers, 0)
        if quant == "keep":
            assert {"MatMul", "Sum"} <= set(plain)
            assert not {"MatMul", "Sum", "Reshape", "Slice", "Pad"} & set(own)
        if "biases" in name:  # its gates don't fill tiles
            layers = len(CONFIGS[name]().layers)
            assert (own.count("SwiGLU"), own.count("AddRMSNorm")) == (layers, 2 * layers - 1)
            assert (own.count("RMSNorm"), own.count("RMSNormalization")) == (2, 0)
            graph_over_kernels = onnx.load(path / over_kernels, load_external_data=False).graph
            nodes = graph_over_kernels.node
            # of queries, keys and values together, of gate and up together, and of both outputs
            biased = [node for node in nodes if node.op_type == "BlockLinear" and any(node.input[4:5])]
            assert len(biased) == 4 * layers
            # Its last block is filled up to 64; ONNX Runtime gives memory of the stated size to later values.
            (gather,) = (node for node in nodes if node.op_type == "BlockGather")
            (stated,) = (info for info in graph_over_kernels.value_info if info.name == gather.output[0])
            assert stated.type.tensor_type.shape.dim[-1].dim_value == 48
    report = verify(path)
    rows = [row for row in report.rows if row.name.startswith("kernels (")]
    assert not report.failed
    ends = {row.name.partition(": ")[2] for row in rows}
    if any(row.figure == "not promised" for row in rows):
        assert {"whole: largest error", "whole: RMS error"} <= ends
    else:
        assert f"{EQUAL} over {62 if name.startswith('an encoder') else 64} tokens" in ends
    assert all(row.ok is not False for row in rows)
    assert len([*(cache_dir() / "prepacked").glob("[!.]*")]) == 1  # as runs find it


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.long] * (n != "gated deltas")) for n in RECURRENT]
)
def test_states_are_the_same_however_a_text_is_read(bundles, kernels_on: Path, name: str) -> None:
    """At once, in steps, token by token, and in a batch of rows of other lengths, which begin anew."""
    bundle = open_bundle(bundles(name, "int8"))
    over = kernel_backend.choose(bundle)
    assert isinstance(over, KernelBackend)
    engine = OrtEngine(bundle, "cpu", threads=2, kernels=over)
    ids, every = np.random.default_rng(0).integers(0, 97, (1, 30)), np.arange(30)[None]

    def read(sizes: list[int]) -> np.ndarray:
        cache, results = engine.start(1), []
        for stop, size in zip(np.cumsum(sizes), sizes, strict=True):
            part, cache = engine.step(ids[:, stop - size : stop], cache, at=every[:, :size])
            results.append(part)
        return np.concatenate(results, axis=1)

    whole = read([30])
    near = 1e-2 * whole.std()
    for sizes in ([1, 20, 2, 7], [1] * 30):
        assert np.abs(read(sizes) - whole).max() < near
    rows = np.concatenate([ids[:, ::-1], ids, ids[:, ::-1]])
    logits, cache = engine.step(rows, engine.start(3), np.array([7, 30, 0]), every.repeat(3, axis=0))
    assert np.abs(logits[1] - whole[0]).max() < near
    logits, _ = engine.step(ids.repeat(3, 0), cache.truncate(np.zeros(3, int)), at=every.repeat(3, axis=0))
    assert np.abs(logits - whole).max() < near


def test_the_certificate_has_a_row_for_each_path(
    bundles, kernels_on: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sets = list(available(load(kernels_on)))

    def found(_: object, name: str = sets[0]) -> Library | Unavailable:
        return Library(kernels_on, name) if name in sets else Unavailable("not here")

    monkeypatch.setattr(kernel_backend, "find", found)
    path = bundles("biases, odd sizes", "int8")
    assert not verify(path).failed
    report = recorded(path)
    assert report is not None
    check = report.check("backends")
    assert check is not None
    ran = {row.name.removesuffix(backends.KL): row for row in check.rows if row.figure is not None}
    over_kernels = [f"kernels ({name}, cache in float16)" for name in sets]
    with_ort = {f"ONNX Runtime, products {how}" for how in ("in float", "of integers")}
    assert set(ran) == {*over_kernels, *with_ort}
    missing = {row.name: row.result for row in check.rows if row.name not in {r.name for r in ran.values()}}
    others = [name for name in INSTRUCTION_SETS if name not in sets]
    assert missing == {f"kernels ({name})": NOT_HERE for name in others}
    assert not any(row.missing == NOT_HERE for row in report.unchecked)
    assert all(0 < row.figure < 1e-2 for row in ran.values())
    assert all(re.match("[0-9]+ of [0-9]+ likeliest ", row.note) for row in ran.values())
    assert len({ran[name].note for name in over_kernels}) == 1  # their bits are one
    assert len({row.note for row in ran.values()}) == 3
    assert main(["inspect", str(path), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["same_bits"] == f"promised by {', '.join(INSTRUCTION_SETS)}"
    assert f"; {EQUAL} over 64 tokens: kernels (" in told["verified"]
    shown = told["backends"]
    assert set(shown) == {row.name for row in check.rows}
    assert list(shown.values()).count(NOT_HERE) == len(missing)


def test_a_wrong_weight_is_seen(bundles, monkeypatch: pytest.MonkeyPatch) -> None:
    """The row of `verify` can fail: with the halves of all tiles exchanged it does."""
    real = kernel_storage.store

    def exchanged(group, stored, forms):
        tensors = real(group, stored, forms)
        packed = {name: array for name, array in tensors.items() if name.endswith(".packed")}
        return tensors | {name: np.ascontiguousarray(array[..., ::-1]) for name, array in packed.items()}

    monkeypatch.setattr(kernel_storage, "store", exchanged)
    failed = [row.name for row in verify(bundles("biases, odd sizes", "int8")).failed]
    assert failed
    assert all(name.startswith("kernels (") for name in failed)


def logits_of(engine: OrtEngine) -> np.ndarray:
    return engine.step(np.array([[1, 2, 3]]), engine.start(1))[0]


def over_kernels(path: Path) -> np.ndarray:
    bundle = open_bundle(path)
    chosen = kernel_backend.choose(bundle)
    assert isinstance(chosen, KernelBackend), chosen
    engine = OrtEngine(bundle, threads=1, kernels=chosen)
    assert engine.backend == f"kernels ({chosen.library.instruction_set}, cache in {chosen.cache})"
    return logits_of(engine)


@pytest.mark.parametrize(
    ("name", "quant", "count"),
    [
        *(("biases, odd sizes", quant, 38) for quant in ("int8", "int4", "keep")),
        ("windows, one without rotation", "int8", 190),  # so many that tokens are dropped
    ],
)
def test_a_token_has_the_same_bits_whatever_is_computed_beside_it(
    bundles, name: str, quant: str, count: int
) -> None:
    """In chunks of any length, alone or in a batch, with one thread or two."""
    bundle = open_bundle(bundles(name, quant))
    chosen = kernel_backend.choose(bundle)
    assert isinstance(chosen, KernelBackend)
    ids = np.random.default_rng(0).integers(0, bundle.config.embedding.vocabulary, (3, count))

    def stepwise(engine: OrtEngine, rows: np.ndarray, chunk: int) -> np.ndarray:
        cache, parts = engine.start(len(rows)), []
        for first in range(0, rows.shape[1], chunk):
            tokens = rows[:, first : first + chunk]
            at = np.tile(np.arange(tokens.shape[1]), (len(rows), 1))
            part, cache = engine.step(tokens, cache, at=at)
            parts.append(part)
        return np.concatenate(parts, axis=1)

    engines = [OrtEngine(bundle, threads=threads, kernels=chosen) for threads in (1, 2)]
    expected = stepwise(engines[0], ids, count)
    for engine in engines:
        for chunk in (1, 3, 7, count // 2, count):
            assert np.array_equal(stepwise(engine, ids, chunk), expected), chunk
            for row in range(3):
                alone = stepwise(engine, ids[row : row + 1], chunk)
                assert np.array_equal(alone, expected[row : row + 1]), (chunk, row)


@pytest.mark.parametrize(
    "name",
    [
        "biases, odd sizes",
        pytest.param("a mixture", marks=pytest.mark.long),
        pytest.param("an encoder and a decoder", marks=pytest.mark.long),
    ],
)
def test_what_a_bundle_promises(bundles, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    path = bundles(name, "int8")
    model = runtime.load(path)
    assert isinstance(model.engine, OrtEngine)
    assert model.same_bits == model.engine.same_bits == kernel_backend.same_bits(open_bundle(path))
    assert model.same_bits == SameBits()
    monkeypatch.setattr(kernel_backend, "find", find)
    monkeypatch.setenv("TFM_KERNELS", "0")
    assert runtime.load(path).same_bits == SameBits("ONNX Runtime's operators compute this bundle")
    assert kernel_backend.same_bits(open_bundle(path)) == SameBits("no kernels compute it here")


@pytest.mark.parametrize("planted", ["MatMul", "Softmax"])
def test_an_operator_of_onnx_runtime_breaks_the_promise(bundles, tmp_path: Path, planted: str) -> None:
    shutil.copytree(bundles("biases, odd sizes", "int8"), tmp_path / "bundle")
    bundle = open_bundle(tmp_path / "bundle")
    chosen = kernel_backend.choose(bundle)
    assert isinstance(chosen, KernelBackend)
    assert OrtEngine(bundle, threads=1, kernels=chosen).same_bits
    graph = onnx.load(bundle.path / "kernels.onnx", load_external_data=False)
    (logits,) = (node for node in graph.graph.node if "logits" in node.output)
    logits.output[0] = "planted"
    inputs = ["planted"]
    if planted == "MatMul":
        size = bundle.config.embedding.vocabulary
        graph.graph.initializer.append(onnx.numpy_helper.from_array(np.eye(size, dtype=np.float32), "one"))
        inputs.append("one")
    graph.graph.node.append(onnx.helper.make_node(planted, inputs, ["logits"]))
    (bundle.path / "kernels.onnx").write_bytes(graph.SerializeToString())
    engine = OrtEngine(bundle, threads=1, kernels=chosen)
    assert logits_of(engine).shape[-1] == bundle.config.embedding.vocabulary
    assert engine.same_bits == SameBits(f"{planted} of ONNX Runtime")


def test_an_instruction_set_by_name(bundles, kernels_on: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is what the session's nodes take; what they compute is the same with all."""
    path, loaded = bundles("biases, odd sizes", "int8"), load(kernels_on)
    fastest = kernel_backend.find()
    made = []
    for name in [*reversed(available(loaded)), fastest.instruction_set]:
        monkeypatch.setattr(kernel_backend, "find", lambda *_, name=name: Library(kernels_on, name))
        model = runtime.load(path, threads=1)
        assert isinstance(model.engine, OrtEngine)
        assert model.engine.backend.startswith(f"kernels ({name},")
        assert loaded.tfm_instruction_set().decode() == name
        made.append(logits_of(model.engine))
    assert all(np.array_equal(one, made[0]) for one in made)
    monkeypatch.setenv("TFM_KERNELS", "avx2")
    monkeypatch.setattr(kernel_backend, "find", lambda *_: Unavailable("this processor lacks avx2"))
    with refused(DeviceError, "TFM_KERNELS=avx2", "processor", "avx2"):
        runtime.load(path)


@pytest.mark.parametrize(
    ("source", "says"),
    [
        (
            'extern "C" { bool tfm_use(const char *) { return true; } bool tfm_has_api() { return false; }'
            " void *RegisterCustomOps(void *, void *) { return nullptr; } }",
            f"{onnxruntime.__version__} 17",
        ),
        (
            'extern "C" { bool tfm_use(const char *) { return true; } bool tfm_has_api() { return true; } }',
            "RegisterCustomOps",
        ),
        (
            'extern "C" { bool tfm_use(const char *) { return false; } bool tfm_has_api() { return true; } }',
            "library avx2",
        ),
        ("int nothing;", "library tfm_use"),
    ],
)
def test_operators_that_onnx_runtime_refuses_are_its_own(
    bundles, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, source: str, says: str
) -> None:
    """Its own operators compute then, unless an instruction set was asked for."""
    (tmp_path / "a.cpp").write_text(source)
    command = [*compilers.available(Platform.here())[0].command, "-shared", "-fPIC", "-o", "a.so", "a.cpp"]
    subprocess.run(command, cwd=tmp_path, check=True)
    path = bundles("biases, odd sizes", "int8")
    monkeypatch.setattr(kernel_backend, "find", lambda *_: Library(tmp_path / "a.so", "avx2"))
    assert re.search(pattern(*says.split()), str(kernel_backend.choose(open_bundle(path))))
    assert runtime.load(path).engine.backend == "ONNX Runtime"
    monkeypatch.setenv("TFM_KERNELS", "avx2")
    with refused(DeviceError, "TFM_KERNELS=avx2", *says.split()):
        runtime.load(path)


def test_weights_are_written_once_and_again_if_they_changed(bundles, monkeypatch: pytest.MonkeyPatch) -> None:
    path = bundles("biases, odd sizes", "int8")
    told: list[str] = []
    chosen = kernel_backend.choose(open_bundle(path), told.append)
    assert isinstance(chosen, KernelBackend)
    assert len(told) == 1
    assert "the first time only" in told[0]
    expected = over_kernels(path)
    with monkeypatch.context() as patch:
        patch.setattr(kernel_backend, "write", lambda *_: pytest.fail("they are there"))
        assert np.array_equal(over_kernels(path), expected)
    data, key = chosen.weights / kernel_storage.DATA, chosen.weights / "key.json"
    sound, stated = data.read_bytes(), json.loads(key.read_text())
    monkeypatch.setattr(checked_bundles, "TICK_NS", -(2**62))  # files of this moment count as old
    assert np.array_equal(over_kernels(path), expected)
    with monkeypatch.context() as patch:
        patch.setattr(kernel_backend, "FileBytes", lambda *_: pytest.fail("it was hashed before"))
        assert np.array_equal(over_kernels(path), expected)
    for damage in (sound[:-1], bytes([sound[0] ^ 1]) + sound[1:], b""):
        data.write_bytes(damage)
        assert np.array_equal(over_kernels(path), expected)
        assert data.read_bytes() == sound
    for text in (json.dumps(stated | {"key": "0"}), "[" * 100_000, "[]", ""):
        key.write_text(text)
        assert np.array_equal(over_kernels(path), expected)
        assert json.loads(key.read_text()) == stated


def test_what_an_export_checks_is_what_its_first_run_reads(
    bundles, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A check reads the bundle under another name, and leaves weights for the name that it will have."""
    with replacing(tmp_path / "out") as new:
        shutil.copytree(bundles("biases, odd sizes", "int8"), new, dirs_exist_ok=True)
        assert not verify(new).failed
    monkeypatch.setattr(kernel_backend, "write", lambda *_: pytest.fail("they are there"))
    assert isinstance(kernel_backend.choose(open_bundle(tmp_path / "out")), KernelBackend)


def test_a_cache_without_room_is_a_reason(bundles, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    bundle = open_bundle(bundles("biases, odd sizes", "int8"))
    library = kernel_backend.find()
    assert isinstance(library, Library)
    monkeypatch.setattr(kernel_backend.shutil, "disk_usage", lambda _: SimpleNamespace(free=1))
    reason = kernel_backend.choose(bundle)
    assert isinstance(reason, str)
    assert "bytes, but 1 bytes are free" in reason
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TFM_CACHE", str(tmp_path / "file"))
    reason = kernel_backend.choose(bundle)
    assert isinstance(reason, str)
    assert f"cache {tmp_path / 'file'} " in reason
    monkeypatch.setenv("TFM_KERNELS", library.instruction_set)
    with refused(DeviceError, "cache", "weights"):
        kernel_backend.choose(bundle)


def test_bundles_without_kernels_say_why(bundles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = open_checkpoint(bundles("biases, odd sizes", "int8").parent / "model")
    export(checkpoint, tmp_path / "fp32", quant="fp32", verify=False)
    assert not (tmp_path / "fp32" / "kernels.onnx").exists()
    reason = kernel_backend.choose(open_bundle(tmp_path / "fp32"))
    assert isinstance(reason, str)
    assert re.search("ort-cpu .*blocks", reason)
    # One as an older tfm wrote it.
    export(checkpoint, tmp_path / "old", quant="int8", verify=False)
    for name in ("kernels.onnx", "certificate.json"):
        (tmp_path / "old" / name).unlink()
    manifest = json.loads((tmp_path / "old" / "tfm.json").read_text())
    del manifest["files"]["kernels.onnx"]
    (tmp_path / "old" / "tfm.json").write_text(json.dumps(manifest))
    bundle = open_bundle(tmp_path / "old")
    assert re.search(r"older tfm .*lacks kernels\.onnx", str(kernel_backend.choose(bundle)))
    assert runtime.load(tmp_path / "old").engine.backend == "ONNX Runtime"
    assert not verify(tmp_path / "old").failed
    # Who names an instruction set gets it or an error; where there is none for anyone, nothing is asked.
    monkeypatch.setenv("TFM_KERNELS", "avx2")
    with refused(DeviceError, "TFM_KERNELS=avx2", "older", "bundle"):
        kernel_backend.choose(bundle)
    assert kernel_backend.choose(open_bundle(tmp_path / "fp32")) == reason


def test_an_older_bundle_with_minima_says_why_it_has_no_kernels(bundles, tmp_path: Path) -> None:
    """Its graph over kernels reads minima as they are stored."""
    shutil.copytree(bundles("biases, odd sizes", "keep"), tmp_path / "old")
    bundle = open_bundle(tmp_path / "old")
    assert isinstance(kernel_backend.choose(bundle), KernelBackend)
    halves = {
        name for name in bundle.plan.groups if name.rsplit(".", 1)[1] in ("table", "wqkv", "gate_up", "down")
    }
    forms = bundle.manifest.forms
    assert {name for name, form in forms.items() if form.scales == "float16"} == halves
    kept = {
        name.rsplit(".", 2)[1]: t.dtype
        for name, t in bundle.kernel_tensors.items()
        if name.endswith("minimum")
    }
    assert kept == {"table": "float16", "wqkv": "float16", "gate_up": "float16", "wo": "float32"}
    manifest = json.loads((tmp_path / "old" / "tfm.json").read_text())
    assert manifest.pop("kernel_minima") is True
    (tmp_path / "old" / "tfm.json").write_text(json.dumps(manifest))
    reason = kernel_backend.choose(open_bundle(tmp_path / "old"))
    assert re.search(r"older tfm .*kernels\.onnx", str(reason))
    assert runtime.load(tmp_path / "old").engine.backend == "ONNX Runtime"


def test_load_takes_kernels(bundles, monkeypatch: pytest.MonkeyPatch) -> None:
    path = bundles("biases, odd sizes", "int8")
    assert runtime.load(path).engine.backend.startswith("kernels (")
    monkeypatch.setattr(kernel_backend, "find", find)
    monkeypatch.setenv("TFM_KERNELS", "0")
    assert runtime.load(path).engine.backend == "ONNX Runtime"
    (row,) = (row for row in verify(path).rows if row.name == check.SUBJECT)
    assert (row.result, row.note.partition(" ")[0]) == ("not checked", "TFM_KERNELS=0")


def test_a_cache_is_float16_unless_numbers_are_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tiny_models.llama(bias=True, context=40)
    params = tiny_models.weights(config)
    params["decoder"]["layers"][1]["attn"]["bk"][3] = 7e4
    save_checkpoint(tmp_path / "model", config, params)
    checkpoint = open_checkpoint(tmp_path / "model")
    export(checkpoint, tmp_path / "large", quant="int8")  # verified, in float32
    bundle = open_bundle(tmp_path / "large")
    reason = (
        "a cache of float16 in tfm's kernels needs keys and values below 30000, but layer 1 has a "
        "key of 7e+04"
    )
    assert (bundle.manifest.kernel_cache, bundle.refused) == (None, (reason,))
    assert runtime.load(bundle.path).engine.backend.endswith(" float32)")
    monkeypatch.setattr(bundle_writer, "SAFE_IN_FLOAT16", np.inf)
    export(checkpoint, tmp_path / "half", quant="int8", verify=False)
    model = runtime.load(tmp_path / "half")
    buffers = flat(model.start().take().layers)
    assert {buffer.dtype for buffer in buffers} == {np.dtype(np.float16)}
    with refused(NumericError, "key", "value", "cache", "TFM_KERNELS=0"):
        model.step(np.array([[1, 2, 3]]), model.start())


def test_a_refused_draft_that_does_not_fit_the_cache_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A token has a channel of its own, which the first layer's norm makes too large for float16."""
    unfit, channel = 5, 3
    config = tiny_models.llama(context=40)
    params = tiny_models.weights(config)
    params["embedding"]["table"][:, channel] = 0
    params["embedding"]["table"][unfit, channel] = 1
    params["decoder"]["layers"][0]["attn_pre"]["weight"][channel] = 1e8
    params["decoder"]["norm"]["weight"][channel] = 0  # it isn't chosen for that
    save_checkpoint(tmp_path / "model", config, params)
    monkeypatch.setattr(bundle_writer, "SAFE_IN_FLOAT16", np.inf)
    export(open_checkpoint(tmp_path / "model"), tmp_path / "half", quant="int8", verify=False)
    model = runtime.load(tmp_path / "half")
    with refused(NumericError, "key", "value", "cache"):
        model.step(np.array([[1, unfit]]), model.start())
    proposed: list[list[int]] = []

    class Unfit:
        def propose(self, sequence: GeneratedSequence, count: int) -> list[int]:
            proposed.append([unfit, 1][:count])
            return proposed[-1]

    wanted = model.generate_ids([1, 2, 3], max_new_tokens=9, draft=False)
    assert unfit not in wanted
    assert model.generate_ids([1, 2, 3], max_new_tokens=9, draft=Unfit()) == wanted
    assert proposed == [[unfit, 1]], "none follows"


def test_codes_are_the_kernels_too(tmp_path: Path) -> None:
    """With `kv` int8 they have the codes and scales that the specification has."""
    config = tiny_models.llama(vocabulary=256, bias=True, context=60)
    save_checkpoint(tmp_path / "model", config, tiny_models.weights(config), byte_tokenizer())
    export(open_checkpoint(tmp_path / "model"), tmp_path / "codes", quant="int8", kv="int8", verify=False)
    report = verify(tmp_path / "codes")
    assert not report.failed
    compared = [row.name for row in report.rows if row.name.startswith("kernels (") and ": " in row.name]
    assert compared
    assert all(" int8): " in name for name in compared)
    own = operators(tmp_path / "codes" / "kernels.onnx")
    assert own.count("Attention") == len(config.layers)
    assert "GroupQueryAttention" not in own
    model, bundle = runtime.load(tmp_path / "codes"), open_bundle(tmp_path / "codes")
    assert model.engine.same_bits
    assert not model.engine._in_chunks, "kernels read codes of a long text as fast in one run"
    ids = np.arange(40)[None]
    _, cache = model.step(ids, model.start())
    codes = cache.take().layers[0][1].read()[:, :, :40]
    params = bundle.params()
    specification = NumpyEngine(bundle.config, params)
    _, expected = specification.step(ids, specification.start())
    scale = params["decoder"]["layers"][0]["attn"]["v_scale"]
    error = np.abs(codes - expected.layers[0].values / scale[None, :, None])
    # An activation's code may flip before, which moves a value a little.
    assert error.max() < 1.01
    assert (error < 0.01).mean() > 0.9


@pytest.mark.parametrize("change", ["operator", "place", "size"])
def test_a_hostile_graph_is_refused(bundles, change: str) -> None:
    bundle = open_bundle(bundles("biases, odd sizes", "int8"))
    path = bundle.path / "kernels.onnx"
    sound = path.read_bytes()
    model = onnx.load(path, load_external_data=False)
    weight = next(i for i in model.graph.initializer if i.name.endswith(".packed"))
    if change == "operator":
        model.graph.node[0].op_type = "Loop"
    elif change == "place":
        weight.external_data[0].value = "../kernels.data"
    else:
        weight.dims[0] += 1
    try:
        path.write_bytes(model.SerializeToString())
        chosen = kernel_backend.choose(bundle)
        assert isinstance(chosen, KernelBackend)
        with refused(BundleError, "graph", "export"):
            OrtEngine(bundle, threads=1, kernels=chosen)
    finally:
        path.write_bytes(sound)


def test_scales_that_float16_has_no_room_for_stay_float32(tmp_path: Path) -> None:
    """Those of one product; the others are kept in two bytes. The export is verified over both."""
    config = tiny_models.llama(bias=True, context=40)
    params = tiny_models.weights(config)
    params["decoder"]["layers"][1]["attn"]["wo"][:, 3] *= 1e-7
    save_checkpoint(tmp_path / "model", config, params)
    export(open_checkpoint(tmp_path / "model"), tmp_path / "bundle", quant="int8")
    bundle = open_bundle(tmp_path / "bundle")
    in_blocks = {name for name, group in bundle.plan.groups.items() if kernel_storage.has_scales(group)}
    wide = "decoder.layers.1.attn.wo"
    assert in_blocks - bundle.manifest.forms.keys() == {wide}
    kept = {tensor.dtype for name, tensor in bundle.kernel_tensors.items() if name == f"{wide}.scale"}
    assert kept == {"float32"}
    assert runtime.load(bundle.path).engine.backend.startswith("kernels (")


def test_weights_are_one_mapping_for_as_long_as_the_session(bundles) -> None:
    path = bundles("biases, odd sizes", "int8")
    bundle = open_bundle(path)
    chosen = kernel_backend.choose(bundle)
    assert isinstance(chosen, KernelBackend)

    def mappings() -> int:
        return Path("/proc/self/maps").read_text(encoding="utf-8").count(kernel_storage.DATA)

    gc.collect()
    before = mappings()
    engine = OrtEngine(bundle, threads=1, kernels=chosen)
    expected = logits_of(engine)
    gc.collect()
    assert mappings() == before + 1
    assert np.array_equal(logits_of(engine), expected)
    del engine
    gc.collect()
    assert mappings() == before


def test_weights_are_written_page_by_page(bundles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = open_bundle(bundles("biases, odd sizes", "int4"))
    for page in (64, 4096, 2**21):
        monkeypatch.setattr(kernel_backend, "HUGE_PAGE", page)
        kernel_backend.write(bundle, tmp_path)
        data, places = (tmp_path / kernel_storage.DATA).read_bytes(), bundle.kernel_tensors
        assert len(data) == max(at.offset + at.length for at in places.values())
        for group in bundle.plan.groups.values():
            names = weight_storage.specs(group, bundle.dtype)
            stored = {name: bundle.tensor(name) for name in names}
            for name, array in kernel_storage.store(group, stored, bundle.manifest.forms).items():
                at = places[name]
                assert data[at.offset : at.offset + at.length] == array.tobytes(), (page, name)
