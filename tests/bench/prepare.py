"""Models for the peers, made from one GGUF file: each command runs in the Python of the peer it names.

    llama/bin/python prepare.py gguf MODEL.gguf Q8_0.gguf           re-quantized (Q8_0 and Q4_0)
    ct2/bin/python   prepare.py transformers MODEL.gguf HF_DIR      its numbers as float32 safetensors
    genai/bin/python -m onnxruntime_genai.models.builder -m HF_DIR -o GENAI_DIR -p int4 -e cpu -c CACHE \\
        --extra_options hf_token=false
    ct2/bin/ct2-transformers-converter --model HF_DIR --output_dir CT2_DIR --quantization int8

peers.py says how the peers are installed.
"""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path


def gguf(source: Path, out: Path) -> None:
    """Round to another type, named by the file: Q8_0.gguf, Q4_0.gguf. A Q4_1 source is rounded twice."""
    import llama_cpp  # pyright: ignore[reportMissingImports]

    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype = getattr(llama_cpp, f"LLAMA_FTYPE_MOSTLY_{out.stem}")
    params.allow_requantize = True
    if llama_cpp.llama_model_quantize(str(source).encode(), str(out).encode(), ctypes.byref(params)):
        sys.exit(f"{source} couldn't be quantized to {out.stem}")


def transformers(source: Path, out: Path) -> None:
    """The file's numbers in a model that can be saved: to transformers, one read from GGUF is quantized."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    where = {"pretrained_model_name_or_path": source.parent, "gguf_file": source.name}
    read = AutoModelForCausalLM.from_pretrained(**where, dtype=torch.float32)
    vars(read.config).pop("quantization_config", None)  # which some of its versions state
    model = AutoModelForCausalLM.from_config(read.config, dtype=torch.float32)
    model.load_state_dict(read.state_dict())
    model.save_pretrained(out)
    AutoTokenizer.from_pretrained(**where).save_pretrained(out)


if __name__ == "__main__":
    what, source, out = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    {"gguf": gguf, "transformers": transformers}[what](source, out)
