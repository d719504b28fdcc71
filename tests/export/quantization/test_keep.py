"""`keep` of a GGUF file in many types: no weight changes, and each says in which form it is stored."""

import io
import json
import math
import re
from contextlib import redirect_stderr
from pathlib import Path

import gguf
import numpy as np
import pytest
from helpers import gguf_writer
from tfm.cli.main import main
from tfm.refimpl.checkpoint.formats.dtypes import KINDS, widen
from tfm.refimpl.checkpoint.open import open_checkpoint
from tfm.refimpl.ops.quant import Blocks, dequantize
from tfm.runtime.bundle.bundle import open_bundle
from tfm.runtime.bundle.kept_weights import by_weight, totals
from tfm.runtime.bundle.kernel_storage import KernelForm
from tfm.runtime.verification.checks.bits import EQUAL
from tfm.runtime.verification.checks.context import VerifyContext
from tfm.runtime.verification.checks.kernels import check_kernels
from tfm.runtime.verification.checks.weights import compare_weights
from tfm.runtime.verification.verify import verify

WIDTH, VOCABULARY = 256, 64
METADATA = {
    "block_count": 1, "context_length": 64, "embedding_length": WIDTH, "feed_forward_length": WIDTH,
    "attention.head_count": 4, "attention.head_count_kv": 4, "rope.dimension_count": 64,
    "attention.layer_norm_rms_epsilon": 1e-5, "vocab_size": VOCABULARY,
}  # fmt: skip
# Leaf, its tensor, the file's type, and the stored form.
WEIGHTS = [
    ("embedding.table", "token_embd", "Q6_K", "Q6_K widened to 8-bit blocks of 16"),
    ("decoder.layers.0.attn.wq", "blk.0.attn_q", "Q5_0", "Q5_0 widened to 8-bit blocks of 32"),
    ("decoder.layers.0.attn.wk", "blk.0.attn_k", "Q8_0", "Q8_0 kept in 8-bit blocks of 32"),
    ("decoder.layers.0.attn.wv", "blk.0.attn_v", "Q4_K", "Q4_K kept in 4-bit blocks of 32"),
    ("decoder.layers.0.attn.wo", "blk.0.attn_output", "IQ4_XS", "IQ4_XS widened to 8-bit blocks of 32"),
    ("decoder.layers.0.mlp.gate", "blk.0.ffn_gate", "Q5_K", "Q5_K widened to 8-bit blocks of 32"),
    ("decoder.layers.0.mlp.up", "blk.0.ffn_up", "Q2_K", "Q2_K widened to 4-bit blocks of 16"),
    ("decoder.layers.0.mlp.down", "blk.0.ffn_down", "F16", "F16 rounded to 8-bit blocks of 32"),
]


def stored(kind: str, rows: int, seed: int) -> np.ndarray:
    """Rows of the type as bytes [rows, …]: any codes, with the scale that makes a weight about 1/16."""
    rng = np.random.default_rng(seed)
    if kind == "F16":
        return (rng.standard_normal((rows, WIDTH)) / 16).astype(np.float16).view(np.uint8)
    record = KINDS[kind].record
    blocks = rng.integers(0, 256, rows * WIDTH // KINDS[kind].size * record.itemsize, np.uint8).view(record)
    share = rng.uniform(0.5, 1, len(blocks))
    fields = {"d", "m"} & set(record.names)
    for name in fields:
        blocks[name] = share
    spread = widen(blocks.view(np.uint8), kind, (rows, WIDTH)).std()
    for name in fields:
        blocks[name] = share / spread / 16
    return blocks.view(np.uint8).reshape(rows, -1)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tensors = {
        f"{tensor}.weight": stored(kind, VOCABULARY if "embd" in tensor else WIDTH, seed)
        for seed, (_, tensor, kind, _) in enumerate(WEIGHTS)
    }
    kinds = {f"{tensor}.weight": gguf.GGMLQuantizationType[kind] for _, tensor, kind, _ in WEIGHTS}
    ones = np.ones(WIDTH, np.float32)
    tensors |= {f"{name}.weight": ones for name in ("output_norm", "blk.0.attn_norm", "blk.0.ffn_norm")}
    path = tmp_path_factory.mktemp("keep") / "many.gguf"
    return gguf_writer.write(path, "llama", METADATA, tensors, kinds)


@pytest.fixture(scope="module")
def exported(file: Path) -> tuple[Path, str]:
    """The bundle, and what export said."""
    out, said = file.parent / "bundle", io.StringIO()
    with redirect_stderr(said):
        assert main(["export", str(file), str(out), "--quant", "keep", "--no-verify"]) == 0
    return out, said.getvalue()


@pytest.fixture
def bundle(exported: tuple[Path, str]) -> Path:
    return exported[0]


def test_no_weight_changes(file: Path, bundle: Path):
    """A minimum is rounded once where it moves to the middle: by an ulp of the block's largest number."""
    checkpoint, opened = open_checkpoint(file), open_bundle(bundle, check_hashes=True)
    for name, _, kind, _ in WEIGHTS:
        leaf, want = opened.leaf(name), checkpoint.leaf(name)
        assert isinstance(leaf, Blocks)
        got = dequantize(leaf)
        if kind == "F16":
            assert not np.array_equal(got, want), "rounded"
        elif leaf.minimum is None:
            np.testing.assert_array_equal(got, want, err_msg=name)
        else:
            assert np.abs(got - want).max() <= 2.0**-22 * np.abs(want).max(), name


def test_it_says_what_was_kept(file: Path, bundle: Path, capsys: pytest.CaptureFixture[str]):
    manifest = open_bundle(bundle, check_hashes=True).manifest
    forms = {name: form for name, _, _, form in WEIGHTS}
    floats = {name: "float32" for name in by_weight(manifest) if name not in forms}
    assert by_weight(manifest) == forms | floats
    assert len(floats) == 3
    stated = json.loads((bundle / "tfm.json").read_text())["schemes"]
    assert {name: one["source"] for name, one in stated.items()} == {n: kind for n, _, kind, _ in WEIGHTS}
    found = totals(manifest)
    assert {form: count for form, (count, _) in found.items()} == dict.fromkeys(forms.values(), 1) | {
        "float32": 3
    }
    square = WIDTH * WIDTH
    # Codes, and for each block a scale and where the file has one a minimum, of four bytes each.
    assert found["Q4_K kept in 4-bit blocks of 32"][1] == square // 2 + square // 32 * 8
    assert found["Q5_K widened to 8-bit blocks of 32"][1] == square + square // 32 * 8
    assert found["Q6_K widened to 8-bit blocks of 16"][1] == VOCABULARY * WIDTH * (1 + 4 / 16)
    capsys.readouterr()
    assert main(["inspect", str(bundle), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["weights"] == forms | floats
    assert main(["inspect", str(bundle)]) == 0
    assert "1 Q4_K kept" in capsys.readouterr().out


def test_the_bundle_is_the_specifications_and_the_files(file: Path, bundle: Path):
    assert not verify(bundle).failed
    context = VerifyContext(open_bundle(bundle), open_checkpoint(file), None, math.inf, "cpu", 1)
    [row] = compare_weights(context, "weights", context.source)
    assert (row.ok, row.figure, row.of) == (True, 11, 11)


@pytest.mark.usefixtures("kernels_on")
def test_kernels_read_the_bits_of_the_file(bundle: Path):
    """To the bit; a super-block's codes of 6 bits become bytes, and codes of 8 places in a table."""
    opened, layer = open_bundle(bundle), "decoder.layers.0"
    forms = {"embedding.table": KernelForm(6, "codes"), f"{layer}.attn.wv": KernelForm(4, "codes")}
    forms |= {f"{layer}.mlp.gate": KernelForm(5, "codes"), f"{layer}.mlp.up": KernelForm(2, "codes")}
    forms |= {f"{layer}.attn.wo": KernelForm(4, "codes", table=True)}
    forms |= {f"{layer}.attn.wq": KernelForm(5, "float16"), f"{layer}.attn.wk": KernelForm(8, "float16")}
    assert opened.manifest.kernel_forms == forms | {f"{layer}.mlp.down": KernelForm(8, "float16")}
    # For 4.5, 5.5 and 2.625 bits of the file; 6.5625 are its own.
    for name, bits in ((f"{layer}.attn.wv", 4.625), (f"{layer}.mlp.gate", 5.625), (f"{layer}.mlp.up", 3.125)):
        lengths = [t.length for key, t in opened.kernel_tensors.items() if key.startswith(f"{name}.")]
        assert sum(lengths) == WIDTH * WIDTH * bits / 8, name
    assert opened.kernel_tensors[f"{layer}.attn.wo.table"].shape == (16,)
    rows = [*check_kernels(VerifyContext(opened, None, None, math.inf, "cpu", 1))]
    equal = [row for row in rows if EQUAL in row.name]
    assert len(equal) == 2 * len({row.name.split(",")[0] for row in equal})
    assert all(row.ok for row in rows)


def test_export_says_what_was_kept(file: Path, exported: tuple[Path, str]):
    said = exported[1]
    assert re.search("; 1 x Q8_0 kept [^;]*8-bit [^;]*, 73.7 kB; ", said)
    assert re.search("1 x F16 rounded [^;]*8-bit [^;]*, 75.8 kB; ", said)
    assert f" {file.stat().st_size / 1000:.1f} kB\n" in said
