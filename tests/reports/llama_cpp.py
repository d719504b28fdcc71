"""Rows of helpers/gguf_models.jsonl: logits as llama.cpp computes them, and new rows of its files.

    pip install llama-cpp-python                                            in an environment of its own
    PYTHONPATH=tests python -m reports.llama_cpp BIN [--add NAME=FILE.gguf]

BIN is that environment's Python. Without --add all rows get their logits again; a model that llama.cpp
doesn't read is an error. A file of the converter is added without its weights: `drawn` gives others.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import gguf
import numpy as np
import typer
from helpers.gguf_models import AT, FILE, MODELS, TOKENS, written

# What a converter computes of the config stands in tensors, too: the divisors of frequencies.
GIVEN = ("rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight")
OF_LLAMA_CPP = """
import sys, numpy, llama_cpp
tokens = [int(one) for one in sys.argv[1].split(",")]
for path in sys.argv[2:]:
    floats = {"type_k": 0, "type_v": 0, "flash_attn": False}  # no float16 in the cache
    model = llama_cpp.Llama(path, n_ctx=64, logits_all=True, verbose=False, **floats)
    model.eval(tokens)
    numpy.save(path + ".npy", numpy.array(model.scores[: len(tokens)], numpy.float32))
"""


def row(name: str, path: Path) -> dict[str, Any]:
    """A file's metadata and the shapes of its tensors."""
    file = gguf.GGUFReader(path)
    arch = file.fields["general.architecture"].contents()
    metadata = {
        key.removeprefix(f"{arch}.") if key.startswith(f"{arch}.") else f":{key}": field.contents()
        for key, field in file.fields.items()
        if not key.startswith(("GGUF.", "general.", "tokenizer."))
    }
    shapes = {tensor.name: [int(n) for n in tensor.shape[::-1]] for tensor in file.tensors}
    given = {
        tensor.name: tensor.data.tolist()
        for tensor in file.tensors
        # Rates that are stored as positive numbers: `drawn` gives negative ones.
        if tensor.name in GIVEN or (tensor.name.endswith("ssm_a") and (tensor.data > 0).all())
    }
    shapes = {tensor: shape for tensor, shape in shapes.items() if tensor not in given}
    return {"name": name, "arch": arch, "metadata": metadata, "tensors": shapes} | (
        {"given": given} if given else {}
    )


def logits(python: Path, names: Iterable[str]) -> dict[str, np.ndarray]:
    """What llama.cpp computes of the drawn models [positions of AT, vocabulary]."""
    with tempfile.TemporaryDirectory() as folder:
        paths = {name: written(Path(folder) / f"{name}.gguf", name) for name in names}
        tokens = ",".join(map(str, TOKENS))
        subprocess.run([python, "-c", OF_LLAMA_CPP, tokens, *paths.values()], check=True)
        return {name: np.load(f"{path}.npy")[list(AT)] for name, path in paths.items()}


def main(
    python: Path,
    add: Annotated[list[str] | None, typer.Option(help="A row more, or anew: NAME=FILE.")] = None,
) -> None:
    named = dict(one.split("=", 1) for one in add or ())
    MODELS.update({name: row(name, Path(path)) for name, path in named.items()})
    for name, computed in logits(python, named or MODELS).items():
        MODELS[name]["logits"] = [[float(f"{number:.7g}") for number in one] for one in computed]
    FILE.write_text("".join(f"{json.dumps(MODELS[name])}\n" for name in sorted(MODELS)))


if __name__ == "__main__":
    typer.run(main)
