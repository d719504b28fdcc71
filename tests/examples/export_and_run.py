"""Make a tiny model, export it to ONNX with proof, and run it with ONNX Runtime.

    python tests/examples/export_and_run.py OUT

The model has random weights and reads bytes, so its text means nothing. A real checkpoint goes the same way.
"""

# ruff: noqa: T201  (a script: what it prints is its result)

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import tfm.runtime
from tfm.export.bundle_writer import export
from tfm.refimpl.checkpoint.open import open_checkpoint, save_checkpoint
from tfm.refimpl.config import LM, Attention, Decoder, Embedding, Gated, Layer, RMSNorm, Rope, Stack
from tfm.refimpl.params.random_weights import random_weights
from tokenizers import Tokenizer, decoders, models, pre_tokenizers


def byte_tokenizer() -> str:
    """Every byte is a token."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({byte: i for i, byte in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer.to_str()


def main(out: Path) -> None:
    norm = RMSNorm(1e-5)
    attention = Attention(heads=4, kv_heads=2, head_size=16, position=Rope(10_000.0, 16), pre=norm)
    layer = Layer(attention, Gated(128, "silu", pre=norm))
    config = Decoder(Embedding(256, 64), Stack((layer, layer), norm), LM(tied=True), context=256)
    weights = random_weights(config, np.random.default_rng(0))
    save_checkpoint(out / "checkpoint", config, weights, byte_tokenizer())

    export(open_checkpoint(out / "checkpoint"), out / "bundle", quant="int8")
    certificate = json.loads((out / "bundle" / "certificate.json").read_text())
    print(f"verified: {certificate['ok']}, {len(certificate['rows'])} figures")

    model = tfm.runtime.load(out / "bundle")
    print("text:", ascii("".join(model.generate("Hello", max_new_tokens=16, greedy=True))))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path, metavar="OUT")
    main(parser.parse_args().out)
