"""Checkpoint -> bundle directory, all of it or nothing.

The weights are streamed leaf by leaf into model.onnx.data, then the graph is traced over their
shapes, so that memory stays at a few leaves whatever the model. Everything is written into a
directory beside the place, verified there by a process of its own, and renamed (`runtime.bundle.atomic_dir`).
"""

from __future__ import annotations

import errno
import hashlib
import json
import shutil
import signal
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ..refimpl.errors import ExportError, VerifyError
from ..refimpl.params.lazy import lazily
from ..runtime.bundle import manifest, weight_layout
from ..runtime.bundle.atomic_dir import replacing, sync
from ..runtime.bundle.graph_io import graphs
from ..runtime.bundle.manifest import (
    CERTIFICATE,
    DATA,
    GOLDEN,
    MANIFEST,
    TEMPLATE,
    TOKENIZER,
    File,
    Manifest,
    Source,
    Tensor,
)
from ..runtime.bundle.weight_layout import Group, Scheme
from ..runtime.verification.golden import golden
from ..runtime.verification.report import manifest_hash
from .quantization import plan
from .targets import target as targets

if TYPE_CHECKING:
    from ..refimpl.checkpoint.open import Checkpoint

PACKAGES = ("numpy", "torch", "onnx", "onnx-ir", "onnxscript")
VERIFY_S = 20  # how long an export is willing to look at its result; `tfm-cli verify` looks longer
SLACK = 4 * 2**20  # graph, golden inputs, manifest and certificate of any model


def export(
    checkpoint: Checkpoint,
    out: Path,
    *,
    target: str = "ort-cpu",
    quant: str | None = None,
    kv: Literal["float", "int8"] = "float",
    table_bits: int = 8,
    strict: bool = False,
    calibration: plan.Calibration | None = None,
    opset: int | None = None,
    verify: bool = True,
    progress: Callable[[str], None] = lambda _: None,
) -> None:
    """Write the bundle of a checkpoint to `out`, replacing a bundle that stands there.

    Without a `quant` it is `quantize.default`'s. With `kv` int8 keys and values are kept in 8 bits, whose
    scales come from the calibration's text, or from one of our own.
    Raises ExportError when the target can't have that quantization or cache, when `out` is something else
    than a bundle, is being written by another process, or there is no room; NumericError for a
    number that isn't finite; VerifyError when the result isn't what the specification says.
    """
    quant = plan.default(checkpoint.config, target) if quant is None else quant
    plan.check(quant, calibration, kv)
    plan.check_cache(checkpoint.config, kv, target)
    if kv == "int8":
        checkpoint = replace(checkpoint, config=checkpoint.config.keeping(kv))
    schemes = plan.plan(checkpoint, quant, table_bits, strict, target)
    groups = weight_layout.stored(checkpoint.config, schemes, target)
    dtype = plan.dtype(quant, target)
    tensors = manifest.arrange(groups, dtype)
    need = (
        manifest.size(tensors) + SLACK + len((checkpoint.tokenizer or "") + (checkpoint.chat_template or ""))
    )
    _replaceable(out)
    if kv == "int8":
        from .quantization.calibrate import cached

        checkpoint = cached(checkpoint, calibration.text if calibration else None, progress)
    chosen = chosen_for(checkpoint, quant, schemes, calibration, progress)
    with _stopping(), _writing(out, need), replacing(out) as new:
        if (free := shutil.disk_usage(new).free) < need:
            raise ExportError(
                f"{out}: needs {need} bytes, {free} are free: make room, or choose another place"
            )
        progress(f"writing {manifest.size(tensors) // 2**20} MB of weights")
        _weights(checkpoint, new / DATA, groups, tensors, schemes, dtype, chosen)
        progress("tracing the graph")
        made_for = targets.find(target)
        emits = made_for.emits(checkpoint.config)
        cache = "none" if checkpoint.config.decoder is None else emits.cache
        _graphs(checkpoint, new, groups, tensors, made_for, cache, dtype, opset)
        progress("computing golden outputs with the specification")
        own = lazily(schemes, lambda name: plan.leaf(checkpoint, name, schemes[name], dtype, chosen))
        quantized = None if quant == "fp32" else own
        said = golden(checkpoint.config, checkpoint.params, quantized, dtype, checkpoint.tokenizer)
        write_arrays(new / GOLDEN, said)
        for name, text in ((TOKENIZER, checkpoint.tokenizer), (TEMPLATE, checkpoint.chat_template)):
            if text is not None:
                (new / name).write_bytes(text.encode("utf-8"))
        files = {file.name: _describe(file) for file in sorted(new.iterdir())}
        made = Manifest(
            tfm=version("tfm-cli"),
            versions={name: version(name) for name in PACKAGES},
            config=checkpoint.config,
            target=target,  # pyright: ignore[reportArgumentType]
            quant=quant,
            dtype=dtype,
            cache=cache,
            schemes={name: scheme for name, scheme in schemes.items() if scheme is not None},
            tensors=tensors,
            refused=emits.refused,
            generation=checkpoint.generation,
            labels=checkpoint.labels,
            source=Source(**checkpoint.source),
            files=files,
        )
        (new / MANIFEST).write_text(manifest.dump(made), encoding="utf-8")
        if verify:
            progress("verifying against the specification")
            _verify(new, checkpoint.path)
        else:
            note = {
                "format": 1,
                "manifest": manifest_hash(new),
                "ok": None,
                "not_checked": ["all: --no-verify"],
            }
            (new / CERTIFICATE).write_text(json.dumps(note, indent=1) + "\n", encoding="utf-8")
        for file in new.iterdir():
            sync(file)


def _replaceable(out: Path) -> None:
    """Raise ExportError unless nothing is lost when `out` is replaced."""
    if not out.exists():
        return
    if not out.is_dir():
        raise ExportError(f"{out}: must be a directory to be, is a file; choose another place")
    # A verify that was killed may have left the beginning of a certificate.
    names = {p.name for p in out.iterdir() if not p.name.startswith(f".{CERTIFICATE}.")}
    if names and (MANIFEST not in names or names - set(manifest.NAMES)):
        odd = sorted(names - set(manifest.NAMES) or names)[0]
        raise ExportError(f"{out}: only a bundle is replaced, and here is {odd!r:.80}; choose another place")


def chosen_for(
    checkpoint: Checkpoint,
    quant: str,
    schemes: Mapping[str, Scheme | None],
    calibration: plan.Calibration | None,
    progress: Callable[[str], None],
) -> plan.Chosen:
    """What running the model has to say of its quantization: ranges, factors of smoothing, importance."""
    places = plan.smoothed(checkpoint.config, quant, schemes)
    if quant not in ("int4", "int8-static") and not places:
        return plan.NOTHING
    from .quantization.calibrate import choose, importance, smoothing

    if quant == "int8-static":
        assert calibration is not None, "quantize.check wants one"
        return choose(checkpoint, calibration, progress)
    if quant == "int4":
        return plan.Chosen({}, {}, importance(checkpoint, progress))
    return plan.Chosen({}, smoothing(checkpoint, places, progress))


def _weights(
    checkpoint: Checkpoint,
    path: Path,
    groups: Mapping[str, Group],
    tensors: Mapping[str, Tensor],
    schemes: Mapping[str, Scheme | None],
    dtype: str,
    chosen: plan.Chosen,
) -> None:
    with open(path, "wb") as file:
        for group in groups.values():
            leaves = {
                name: plan.leaf(checkpoint, name, schemes[name], dtype, chosen) for name in group.leaves
            }
            made = weight_layout.store(group, leaves)
            for name in weight_layout.specs(group, dtype):
                file.write(bytes(tensors[name].offset - file.tell()))
                file.write(made[name].reshape(-1).view(np.uint8).data)


def _graphs(
    checkpoint: Checkpoint,
    new: Path,
    groups: Mapping[str, Group],
    tensors: Mapping[str, Tensor],
    target: targets.Target,
    cache: str,
    dtype: str,
    opset: int | None,
) -> None:
    import onnx_ir

    from .graph.trace import build

    parts = graphs(checkpoint.config, cache == "windowed")
    if stray := [name for name in tensors if not any(part.owns(name) for part in parts)]:
        raise ExportError(f"stored weights that no graph uses: {', '.join(stray[:5])}")
    for part in parts:
        model = build(
            checkpoint.config, part, tensors, groups, target, data=new / DATA, dtype=dtype, opset=opset
        )
        onnx_ir.save(model, new / part.file)


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """An .npz file whose bytes depend on the arrays alone: `np.savez` would add the time."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as file:
        for name in sorted(arrays):
            info = zipfile.ZipInfo(f"{name}.npy", (1980, 1, 1, 0, 0, 0))
            info.create_system = 3
            with file.open(info, "w") as entry:
                np.lib.format.write_array(entry, np.asarray(arrays[name]), allow_pickle=False)


def _describe(path: Path) -> File:
    with open(path, "rb") as file:
        return File(path.stat().st_size, hashlib.file_digest(file, "sha256").hexdigest())


def _verify(path: Path, source: Path) -> None:
    """Verify a bundle in a process of its own: ours has torch in its memory."""
    command = [sys.executable, "-P", "-m", "tfm.runtime.verification.verify", str(path)]
    options = ["--source", str(source), "--seconds", str(VERIFY_S)]
    done = subprocess.run([*command, *options], capture_output=True, text=True)
    if done.returncode == 0:
        return
    why = (done.stderr.strip().splitlines() or [f"verify ended with code {done.returncode}"])[-1]
    if done.returncode == VerifyError.exit_code and done.stdout:
        row = next(row for row in json.loads(done.stdout)["rows"] if row["ok"] is False)
        why = f"{row['name']}: {row['figure']}, budget {row['budget']} {row['note']}".strip()
    raise VerifyError(f"the bundle isn't what the specification says, nothing is left of it: {why}")


@contextmanager
def _writing(out: Path, need: int) -> Iterator[None]:
    """A full disk, a quota or a limit on files as an ExportError with both numbers."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            free = shutil.disk_usage(out.resolve().parent).free
            why = (
                f"needs {need} bytes, {free} are free ({error.strerror}): make room, or choose another place"
            )
        else:
            why = f"can't be written: {error.strerror or error}"
        raise ExportError(f"{out}: {why}") from None


@contextmanager
def _stopping() -> Iterator[None]:
    """SIGTERM ends the block like Ctrl-C does, so that what was begun is cleaned up."""

    def stop(number: int, frame: Any) -> None:
        sys.exit(128 + number)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
