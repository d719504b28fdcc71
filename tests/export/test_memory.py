"""Writing streams the weights: private memory is bounded by the sizes on disk, whatever the model."""

import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from helpers import tiny_models
from tfm.refimpl.checkpoint.open import save_checkpoint

# Tracing is left out: it knows shapes only. torch is there from the start, or its import, which takes 150 MB
# for a moment, would hide what the weights need.
EXPORT = """
import sys
import torch
from contextlib import nullcontext
from pathlib import Path
from tfm.export import bundle_writer
from tfm.refimpl.checkpoint.open import open_checkpoint
write = lambda files: (files.folder / "model.onnx").write_bytes(b"g")
bundle_writer.writing = lambda files: nullcontext(lambda halved: write(files))
bundle_writer.export(open_checkpoint(sys.argv[1]), Path(sys.argv[2]), quant=sys.argv[3], verify=False)
"""
ONE = {"OPENBLAS_NUM_THREADS": "1"}  # many small products: threads would only wait for each other


def peak(command: list[str]) -> int:
    """The most private memory that a process used."""
    most = 0
    with subprocess.Popen(command, stderr=subprocess.PIPE, env=os.environ | ONE) as child:
        seen = psutil.Process(child.pid)
        while child.poll() is None:
            try:
                memory = seen.memory_info()
            except psutil.NoSuchProcess:
                break
            most = max(most, memory.rss - getattr(memory, "shared", 0))
            time.sleep(0.002)
        assert child.wait() == 0, child.stderr and child.stderr.read().decode()
    return most


@pytest.mark.long
@pytest.mark.parametrize("quant", ["int8", "fp32"])
def test_no_copy_of_the_model_is_kept_in_memory(tmp_path: Path, quant: str):
    config = tiny_models.llama(
        layers=16, vocabulary=2000, width=384, heads=6, kv_heads=2, head_size=64, mlp=1024
    )
    small = tiny_models.llama()
    for name, model_config in (("small", small), ("large", config)):
        save_checkpoint(tmp_path / name, model_config, tiny_models.weights(model_config))
    run = lambda name: peak(  # noqa: E731
        [sys.executable, "-c", EXPORT, str(tmp_path / name), str(tmp_path / f"{name}-out"), quant]
    )
    size = (tmp_path / "large" / "model.safetensors").stat().st_size
    used = run("large") - run("small")
    # One of 16 layers in float64, its codes and its products are a quarter, two layers as they were read an
    # eighth. A copy of the model in int8 would be another quarter.
    assert used < 0.5 * size, f"{used / size:.2f} of the checkpoint's {size} bytes"
