"""A GGUF file by gguf's own writer: metadata under an architecture's name, tensors as they stand."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np

# Lists of 64-bit numbers, as llama.cpp's converter writes them.
LONG = ("ple.layer_multipliers", "ple.head_offsets", "ple.head_vocab_sizes")


def write(
    path: Path,
    arch: str,
    metadata: Mapping[str, Any],
    tensors: Mapping[str, np.ndarray],
    kinds: Mapping[str, gguf.GGMLQuantizationType] | None = None,
) -> Path:
    """Keys with a colon in front are written as they are; a tensor with a kind is given as its bytes."""
    writer = gguf.GGUFWriter(path, arch)
    add = {
        int: lambda key, value: (writer.add_int32 if value < 0 else writer.add_uint32)(key, value),
        float: writer.add_float32, bool: writer.add_bool, str: writer.add_string, list: writer.add_array,
    }  # fmt: skip
    for key, value in metadata.items():
        name = key[1:] if key.startswith(":") else f"{arch}.{key}"
        if key in LONG:
            writer.add_key_value(name, value, gguf.GGUFValueType.ARRAY, gguf.GGUFValueType.UINT64)
        else:
            add[type(value)](name, value)
    for name, array in tensors.items():
        writer.add_tensor(name, np.ascontiguousarray(array), raw_dtype=(kinds or {}).get(name))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def renamed(
    arch: gguf.MODEL_ARCH, tensors: Mapping[str, np.ndarray], layers: int = 9
) -> dict[str, np.ndarray]:
    """The tensors under the names of gguf's own table, which must know each."""
    names = gguf.get_tensor_name_map(arch, layers)
    by_name = {names.get_name(name, (".weight", ".bias")): array for name, array in tensors.items()}
    assert None not in by_name, tensors.keys()
    assert len(by_name) == len(tensors), tensors.keys()
    return {str(name): array for name, array in by_name.items()}
