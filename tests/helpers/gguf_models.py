"""Tiny models as GGUF files: metadata and shapes are data, weights are drawn, logits are llama.cpp's.

`gguf_models.jsonl` has a row a model. Metadata and names of tensors are what llama.cpp's converter writes, or
older ones wrote; logits are llama.cpp's of the file that `written` writes (`reports/llama_cpp.py`).
"""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from helpers.gguf_writer import write

FILE = Path(__file__).with_name("gguf_models.jsonl")
MODELS: dict[str, dict[str, Any]] = {
    row["name"]: row for row in map(json.loads, FILE.read_text().splitlines())
}
TOKENS = (1, 5, 7, 2, 9, 3, 11, 8, 4, 6, 13, 21, 30, 17, 5, 5, 7, 19, 22, 10, 3, 12)
AT = (3, 12, 21)  # the positions whose logits are kept


def drawn(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Numbers that only the tensor's name decides: sixteenths between -15/32 and 15/32, of norms around 1."""
    raw = np.random.PCG64(zlib.crc32(name.encode())).random_raw(int(np.prod(shape)))
    numbers = ((raw % 16).astype(np.float32) / 16 - 15 / 32).reshape(shape)
    if name.endswith("norm.weight"):
        return (numbers + 1) / (
            8 if "q_norm" in name else 1
        )  # a softmax of all sizes, not of the largest alone
    if name.endswith("ssm_a"):
        return -abs(numbers)
    return numbers if len(shape) == 1 or name == "token_embd.weight" else numbers / 4


def tensors(name: str) -> dict[str, np.ndarray]:
    """A model's tensors by their names in GGUF."""
    row = MODELS[name]
    given = {tensor: np.array(numbers, np.float32) for tensor, numbers in row.get("given", {}).items()}
    return {tensor: drawn(tensor, tuple(shape)) for tensor, shape in row["tensors"].items()} | given


def written(
    path: Path, name: str, weights: dict[str, np.ndarray] | None = None, kind: str = "F32", **metadata: Any
) -> Path:
    """The model's file: with other tensors than the drawn ones, in blocks, with other metadata."""
    row, stored = MODELS[name], gguf.GGMLQuantizationType[kind]
    weights, kinds = tensors(name) if weights is None else dict(weights), {}
    for tensor, array in weights.items():
        if kind != "F32" and array.ndim > 1 and array.shape[-1] % 32 == 0:
            weights[tensor], kinds[tensor] = gguf.quants.quantize(array, stored), stored
    stated = {":tokenizer.ggml.model": "no_vocab", "vocab_size": 40} | row["metadata"] | metadata
    return write(path, row["arch"], stated, weights, kinds)
