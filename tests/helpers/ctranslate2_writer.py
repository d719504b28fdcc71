"""model.bin as CTranslate2's converter writes it, of a Whisper's state_dict or of drawn numbers."""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

TYPES = {"<f4": 0, "|i1": 1, "<i2": 2, "<i4": 3, "<f2": 4}
SETTINGS = {"activation": 3, "pre_norm": 1, "scale_embeddings": 0, "start_from_zero_embedding": 0, "alibi": 0}
SPECIAL = (
    "endoftext", "startoftranscript", "en", "de", "translate", "transcribe", "startofprev", "nospeech",
    "notimestamps",
)  # fmt: skip


def text(value: str) -> bytes:
    return struct.pack("<H", len(value) + 1) + value.encode() + b"\0"


def variable(name: str, array: np.ndarray) -> bytes:
    head = struct.pack(f"<B{array.ndim}I", array.ndim, *array.shape)
    return text(name) + head + struct.pack("<BI", TYPES[array.dtype.str], array.nbytes) + array.tobytes()


def file(variables: Mapping[str, np.ndarray], aliases: Mapping[str, str], name: str = "WhisperSpec") -> bytes:
    data = struct.pack("<I", 6) + text(name) + struct.pack("<II", 3, len(variables))
    data += b"".join(variable(*pair) for pair in sorted(variables.items()))
    data += struct.pack("<I", len(aliases))
    return data + b"".join(text(alias) + text(target) for alias, target in sorted(aliases.items()))


def of_state(state: Mapping[str, np.ndarray], heads: Mapping[str, int]) -> dict[str, np.ndarray]:
    """The variables of transformers' Whisper, with so many `heads` on each side, in float32."""
    found: dict[str, Any] = {f"decoder/{key}": np.array(value, np.int8) for key, value in SETTINGS.items()}
    found |= {f"{side}/num_heads": np.array(count, np.int16) for side, count in heads.items()}
    for key, value in {"alignment_layer": -1, "alignment_heads": 1}.items():
        found[f"decoder/{key}"] = np.array(value, np.int16)
    for name, tensor in state.items():
        if ".k_proj." in name or ".v_proj." in name or name == "proj_out.weight":
            continue
        module, _, leaf = name.removeprefix("model.").rpartition(".")
        if module.endswith("norm"):
            leaf = {"weight": "gamma", "bias": "beta"}[leaf]
        if module.endswith("q_proj"):
            k, v = (name.replace(".q_", f".{which}_") for which in "kv")
            keys = state[k] if k in state else np.zeros_like(tensor)
            if "encoder_attn" in module:
                place = _place(module).replace("linear_0", "linear_1")
                found[f"{place}/{leaf}"] = np.concatenate([keys, state[v]])
            else:
                tensor = np.concatenate([tensor, keys, state[v]])
        leaf = "encodings" if module.endswith("embed_positions") else leaf
        found[f"{_place(module)}/{leaf}"] = tensor
    found["decoder/projection/weight"] = state["proj_out.weight"]
    return found


def _place(module: str) -> str:
    module = re.sub(r"layers\.(\d+)\.", r"layer_\1/", module.replace("coder.", "coder/"))
    for theirs, ours in {
        "self_attn.q_proj": "self_attention/linear_0", "self_attn.out_proj": "self_attention/linear_1",
        "encoder_attn.q_proj": "attention/linear_0", "encoder_attn.out_proj": "attention/linear_2",
        "self_attn_layer_norm": "self_attention/layer_norm", "final_layer_norm": "ffn/layer_norm",
        "encoder_attn_layer_norm": "attention/layer_norm", "fc1": "ffn/linear_0", "fc2": "ffn/linear_1",
        "embed_tokens": "embeddings", "embed_positions": "position_encodings",
    }.items():  # fmt: skip
        module = module.replace(theirs, ours)
    return module


def stored(variables: Mapping[str, np.ndarray], kind: str) -> dict[str, np.ndarray]:
    """The same in float32, float16, or matrices in int8 or int16, as the converter rounds them."""
    found = {}
    for name, array in variables.items():
        if array.dtype != np.float32 or kind == "float32":
            found[name] = array
        elif kind == "float16":
            found[name] = array.astype(np.float16)
        elif not name.endswith("/weight"):
            found[name] = array
        elif kind == "int16":
            scale = np.float32(1024 / np.abs(array).max())
            found |= {name: np.rint(array * scale).astype(np.int16), f"{name}_scale": np.array(scale)}
        else:
            largest = np.abs(array).reshape(len(array), -1).max(axis=1)
            scale = (127 / np.where(largest == 0, 127, largest)).astype(np.float32)
            codes = np.rint(array * scale.reshape(-1, *(1,) * (array.ndim - 1)))
            found |= {name: codes.astype(np.int8), f"{name}_scale": scale}
    return found


def write(folder: Path, data: bytes, tokens: int) -> None:
    """A directory with this model.bin; special tokens follow the first `tokens` of its vocabulary."""
    folder.mkdir(exist_ok=True)
    (folder / "model.bin").write_bytes(data)
    ids = {name: tokens + i for i, name in enumerate(SPECIAL)}
    stated = {
        "lang_ids": [ids["en"], ids["de"]], "suppress_ids": [4, tokens + 1, tokens + 7],
        "suppress_ids_begin": [5, tokens], "alignment_heads": [[0, 1]],
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(stated))
    flags = dict.fromkeys(("lstrip", "rstrip", "normalized", "single_word"), False)
    added = [{"id": id, "content": f"<|{name}|>", "special": True, **flags} for name, id in ids.items()]
    words = {"type": "BPE", "vocab": {f"w{i}": i for i in range(tokens)}, "merges": []}
    parts = dict.fromkeys(
        ("truncation", "padding", "normalizer", "pre_tokenizer", "post_processor", "decoder")
    )
    definition = {"version": "1.0", **parts, "added_tokens": added, "model": words}
    (folder / "tokenizer.json").write_text(json.dumps(definition))


def drawn() -> bytes:
    """A Whisper of one layer on each side, of drawn numbers, with 20 tokens beside the special ones."""
    rng, width, vocabulary = np.random.default_rng(0), 8, 20 + len(SPECIAL) + 4
    shapes: dict[str, tuple[int, ...]] = {
        "model.encoder.conv1.weight": (width, 6, 3), "model.encoder.conv1.bias": (width,),
        "model.encoder.conv2.weight": (width, width, 3), "model.encoder.conv2.bias": (width,),
        "model.decoder.embed_tokens.weight": (vocabulary, width), "proj_out.weight": (vocabulary, width),
    }  # fmt: skip
    for side, positions in (("encoder", 3), ("decoder", 12)):
        sublayers = ["self_attn"] + ["encoder_attn"] * (side == "decoder")
        layer = f"model.{side}.layers.0."
        shapes[f"model.{side}.embed_positions.weight"] = (positions, width)
        for norm in (f"model.{side}.layer_norm", *(f"{layer}{s}_layer_norm" for s in [*sublayers, "final"])):
            shapes |= {f"{norm}.weight": (width,), f"{norm}.bias": (width,)}
        for linear in (f"{layer}{s}.{p}_proj" for s in sublayers for p in ("q", "k", "v", "out")):
            shapes[f"{linear}.weight"] = (width, width)
            shapes |= {} if linear.endswith(".k_proj") else {f"{linear}.bias": (width,)}
        shapes |= {f"{layer}fc1.weight": (12, width), f"{layer}fc1.bias": (12,)}
        shapes |= {f"{layer}fc2.weight": (width, 12), f"{layer}fc2.bias": (width,)}
    state = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    return file(stored(of_state(state, {"encoder": 2, "decoder": 4}), "int8"), {})
