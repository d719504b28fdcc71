"""A Whisper as whisper.cpp reads it: a directory in CTranslate2's form as a .bin with matrices in Q8_0.

    PYTHONPATH=tests python tests/bench/whisper_cpp.py CT2 OUT.bin

The form is whisper.cpp's own: sizes, mel filters, tokens, then each tensor under OpenAI's name. Its quantizer
rounds the same tensors so.
"""

from __future__ import annotations

import json
import re
import struct
from pathlib import Path

import numpy as np
import typer
from tfm.refimpl.checkpoint.ctranslate2 import as_transformers
from tfm.refimpl.checkpoint.formats.model_directory import Directory
from tfm.refimpl.checkpoint.tokenizers.normalizers import bytes_to_unicode
from tfm.refimpl.engine import sound

MAGIC, Q8_0_FILE = 0x67676D6C, 7
F32, F16, Q8_0 = 0, 1, 8
BLOCK = 32
NAMES = {
    r"^model\.": "", r"\.layers\.": ".blocks.", r"encoder_attn": "cross_attn", r"self_attn": "attn",
    r"attn_layer_norm": "attn_ln", r"final_layer_norm": "mlp_ln", r"encoder\.layer_norm": "encoder.ln_post",
    r"decoder\.layer_norm": "decoder.ln", r"q_proj": "query", r"k_proj": "key", r"v_proj": "value",
    r"out_proj": "out", r"fc1": "mlp.0", r"fc2": "mlp.2", r"embed_tokens": "token_embedding",
    r"embed_positions\.weight": "positional_embedding",
}  # fmt: skip


def openai_name(name: str) -> str:
    """The name of a tensor that transformers calls `name`."""
    for pattern, other in NAMES.items():
        name = re.sub(pattern, other, name)
    return name


def q8_0(values: np.ndarray) -> bytes:
    """Blocks of 32 numbers: a float16 scale, and codes from -127 to 127."""
    blocks = values.astype(np.float32).reshape(-1, BLOCK)
    scales = np.abs(blocks).max(1, keepdims=True) / 127
    codes = np.round(np.divide(blocks, scales, out=np.zeros_like(blocks), where=scales > 0)).astype(np.int8)
    return np.concatenate([scales.astype("<f2").view(np.uint8), codes.view(np.uint8)], 1).tobytes()


def stored(name: str, values: np.ndarray) -> tuple[np.ndarray, int, bytes]:
    """A tensor with the shape, the type and the bytes that it has in the file."""
    if values.ndim == 3:
        return values, F16, values.astype("<f2").tobytes()
    if values.ndim == 2 and "positional" not in name:
        return values, Q8_0, q8_0(values)
    shaped = values[:, None] if re.search(r"conv.\.bias", name) else values
    return shaped, F32, shaped.astype("<f4").tobytes()


def tokens(folder: Path) -> list[bytes]:
    """The bytes of each token of texts; whisper.cpp names the others itself."""
    vocabulary = json.loads((folder / "tokenizer.json").read_text("utf-8"))["model"]["vocab"]
    of = {character: byte for byte, character in bytes_to_unicode().items()}
    texts = sorted(vocabulary, key=lambda token: vocabulary[token])
    return [bytes(of[character] for character in text) for text in texts if set(text) <= of.keys()]


def main(folder: Path, out: Path) -> None:
    """Write the file."""
    directory = Directory(folder)
    config, _, tensors = as_transformers(directory, json.loads((folder / "config.json").read_text()))
    bands, width = config["num_mel_bins"], config["d_model"]
    sizes = [
        config["vocab_size"],
        config["max_source_positions"], width, config["encoder_attention_heads"], config["encoder_layers"],
        config["max_target_positions"], width, config["decoder_attention_heads"], config["decoder_layers"],
        bands, Q8_0_FILE,
    ]  # fmt: skip
    filters = sound._filters(bands).T.astype("<f4")
    texts = tokens(folder)
    with open(out, "wb") as file:
        file.write(struct.pack("<12i2i", MAGIC, *sizes, *filters.shape) + filters.tobytes())
        file.write(struct.pack("<i", len(texts)))
        for text in texts:
            file.write(struct.pack("<I", len(text)) + text)
        for name in tensors.names:
            openai = openai_name(name)
            if openai.endswith("key.bias") or openai.startswith("proj_out"):
                continue  # zeros, and the embedding again
            values, kind, data = stored(openai, tensors.load(name))
            file.write(struct.pack("<3i", values.ndim, len(openai), kind))
            file.write(struct.pack(f"<{values.ndim}i", *values.shape[::-1]) + openai.encode() + data)


if __name__ == "__main__":
    typer.run(main)
