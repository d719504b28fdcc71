"""kill -9 at random moments of an export over a bundle: the old or the new one verifies, each time.

The exports are real but for the tracing: the graphs, which have the same bytes each time, are copied.
"""

import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from helpers import tiny_models
from tfm.export.bundle_writer import export
from tfm.refimpl.checkpoint.open import open_checkpoint, save_checkpoint
from tfm.runtime.bundle.bundle import manifest_hash
from tfm.runtime.verification.verify import verify

KILLS = 5
EXPORT = """
import shutil, sys
from contextlib import nullcontext
from pathlib import Path
from tfm.export import bundle_writer
from tfm.refimpl.checkpoint.open import open_checkpoint
checkpoint, ready, out = open_checkpoint(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3])
graphs = sorted(ready.glob("*.onnx"))
copied = lambda folder: [shutil.copy(graph, folder) for graph in graphs]
bundle_writer.writing = lambda files: nullcontext(lambda halved: copied(files.folder))
print("begun", flush=True)
bundle_writer.export(checkpoint, out, quant=ready.name, verify=False)
"""


@pytest.mark.long
def test_an_export_killed_at_any_moment_leaves_the_old_or_the_new(tmp_path: Path):
    config = tiny_models.llama(layers=12, vocabulary=2000)
    save_checkpoint(tmp_path / "checkpoint", config, tiny_models.weights(config))
    checkpoint, digests = open_checkpoint(tmp_path / "checkpoint"), {}
    for quant in ("fp32", "int8"):
        export(checkpoint, tmp_path / quant, quant=quant, verify=False)
        digests[manifest_hash(tmp_path / quant)] = quant
    out = tmp_path / "place" / "out"
    shutil.copytree(tmp_path / "fp32", out)

    def run(quant: str, after: float | None) -> float:
        """Seconds from the export's beginning to its end, or to its death."""
        command = [sys.executable, "-c", EXPORT, tmp_path / "checkpoint", tmp_path / quant, out]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
            assert child.stdout is not None
            assert child.stdout.readline() == "begun\n"
            begun = time.monotonic()
            try:
                assert child.wait(after) == 0
            except subprocess.TimeoutExpired:
                child.kill()
            return time.monotonic() - begun

    took, draw = run("int8", None), random.Random(7)
    assert digests[manifest_hash(out)] == "int8"
    seen = set()
    for i in range(KILLS):
        before = digests[manifest_hash(out)]
        run("fp32" if before == "int8" else "int8", draw.uniform(0, took))
        report = verify(out)
        assert not report.failed, (i, report.failed)
        seen.add(digests[manifest_hash(out)] == before)
        assert [p.name for p in out.parent.iterdir()] == ["out"], i
    assert True in seen  # some were killed before they had written all
