"""Write a checkpoint as a bundle directory, completely or not at all.

The weights are streamed one parameter at a time into model.onnx.data. The graph is traced from the
parameters' shapes alone. So only a few parameters are in memory at a time, whatever the size of the model.

Everything is written into a temporary directory, verified there by another process, and then renamed
(`runtime.bundle.atomic_dir`).
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import IO

import numpy as np
from threadpoolctl import threadpool_limits

from ..refimpl.checkpoint.protocol import ExportSource
from ..refimpl.config import KVFormat
from ..refimpl.engine.cache_kinds import Halved
from ..refimpl.errors import ExportError, VerifyError
from ..refimpl.ops.block import MixerCache
from ..refimpl.ops.cache import KVCache
from ..refimpl.ops.cross_attention import EncoderKV
from ..refimpl.ops.quant import Blocks
from ..refimpl.params.tree import Tree
from ..runtime.bundle import (
    feedback,
    golden_files,
    kernel_storage,
    manifest,
    operator_limits,
    schemes,
    targets,
    weight_storage,
)
from ..runtime.bundle.atomic_dir import sync
from ..runtime.bundle.bundle import Bundle, manifest_hash
from ..runtime.bundle.kernel_storage import InKernels, KernelForm
from ..runtime.bundle.manifest import (
    CERTIFICATE,
    DATA,
    MANIFEST,
    TEMPLATE,
    TOKENIZER,
    TOOL_USE,
    Chosen,
    File,
    Manifest,
    MergedAdapter,
    SourceCheckpoint,
)
from ..runtime.bundle.plan import Plan
from ..runtime.bundle.schemes import Scheme
from ..runtime.bundle.weight_storage import Group
from ..runtime.kernels import library
from ..runtime.kernels.build import building
from ..runtime.progress import Progress, silent
from ..runtime.verification import certificate
from ..runtime.verification.golden import golden
from ..runtime.verification.report import Report
from ..runtime.verification.streamed_reference import TABLES
from ..runtime.verification.verdict import sentence
from .destination import new_bundle, replaced
from .graph.write import GraphFiles, properties, writing
from .quantization import plan as plans
from .quantization.plan import Budget, Calibration, CalibrationResult
from .tokenizer_text import quick_to_load

PACKAGES = ("numpy", "torch", "onnx", "onnx-ir", "onnxscript")
# Of keys and values on the golden tokens, so that those of other texts stay below 65520 too.
SAFE_IN_FLOAT16 = 3e4
ROWS = 4096  # rows of matrices that are compared at a time
OVERHEAD_BYTES = 4 * 2**20  # graph, golden inputs, manifest and certificate of any model


@dataclass(frozen=True)
class _Export:
    """The state of one export: the checkpoint, and everything that the export's options decide."""

    checkpoint: ExportSource
    plan: Plan
    scheme: Scheme
    source: SourceCheckpoint
    calibrated: CalibrationResult = plans.NOT_CALIBRATED
    cache_kl: float | None = None  # what keys and values in 4 bits cost
    float32_cache: str = ""  # why kernels keep keys and values in float32, not in float16
    # Groups that kernels have in another form; None until the weights are written.
    forms: Mapping[str, KernelForm] | None = None
    chosen: Chosen | None = None  # what a budget chose the formats by

    @property
    def halved(self) -> Halved:
        """Return which keys and values tfm's kernels keep in float16."""
        return "" if self.float32_cache else self.plan.may_halve(self.plan.cache)

    @property
    def needed_bytes(self) -> int:
        model = self.checkpoint
        texts = (model.tokenizer, model.chat_template, model.tool_use_template)
        others = sum(len(text or "") for text in (*texts, *model.licence.files.values()))
        return self.plan.size + OVERHEAD_BYTES + others

    def leaf(self, name: str) -> np.ndarray | Blocks:
        return plans.leaf(
            self.checkpoint, name, self.plan.formats.get(name), self.plan.dtype, self.calibrated
        )


def export(
    checkpoint: ExportSource,
    out: Path,
    *,
    target: str = "ort-cpu",
    quant: str | None = None,
    kv: KVFormat = "float",
    table_bits: int = 8,
    strict: bool = False,
    calibration: Calibration | None = None,
    budget: Budget | None = None,
    opset: int | None = None,
    verify: bool = True,
    progress: Progress = silent,
) -> None:
    """Write the bundle of a checkpoint to `out`. A bundle that already exists at `out` is replaced.

    `target` is the name of a record in `runtime.bundle.targets`, and `quant` is the name of a record in
    `runtime.bundle.schemes`. Without a `quant`, the scheme is `schemes.default`. With quant="auto", a
    `budget` chooses the format of each matrix.

    With `kv` int8 or int4, keys and values are kept in 8 or 4 bits. The scales of keys and values come from
    the calibration's text, or otherwise from a text that comes with tfm. With int4, the KL divergence over
    this text may be at most 0.05 nats per token.

    If `verify` is true, the quick checks of `runtime.verification` run. The certificate states that the long
    checks haven't been run yet.

    Raises ExportError if the target doesn't support that quantization or cache, if `out` is something other
    than a bundle, if another process is writing to `out`, or if the disk is too full. Raises NumericError if
    a weight isn't finite, and VerifyError if the bundle's outputs differ from those of the specification.
    """
    target_record = targets.find(target)
    if quant is None:
        scheme = schemes.default(checkpoint.config, target_record)
    else:
        scheme = schemes.find(quant)
    plans.check_calibration(scheme, calibration, kv)
    plans.check_cache(checkpoint.config, kv, target_record)
    plans.check_budget(scheme, budget, checkpoint.config)
    if kv != "float":
        checkpoint = checkpoint.with_kv(kv)
    plan = plans.plan(checkpoint, scheme, target_record, table_bits=table_bits, strict=strict)
    source = SourceCheckpoint(
        **checkpoint.source,
        code_replaced_by=checkpoint.code_replaced_by,
        licence=checkpoint.licence.stated,
        left_out=dict(checkpoint.left_out),
        ignored_keys=checkpoint.ignored_keys,
    )
    job = _Export(checkpoint, plan, scheme, source)
    # The place is taken first: minutes of calibration must not end at a full disk or at another process.
    with new_bundle(out, job.needed_bytes) as folder:
        if line := replaced(out):
            progress(line, 0, 0)
        text = calibration.text if calibration else None
        if kv != "float":
            from .quantization.calibrate import with_cache_scales

            checkpoint = with_cache_scales(checkpoint, kv, text, progress)
        if checkpoint.config.kv == "int4":
            from .quantization.calibrate import cache_kl

            job = replace(job, cache_kl=cache_kl(checkpoint, text, progress))
        job = replace(job, checkpoint=checkpoint)
        if budget is not None:
            job = _within(job, budget, text, folder / DATA, progress)
            plan = job.plan
        about = properties(source, scheme.name, version("tfm-cli"))
        graph_files = GraphFiles(plan, opset, folder.resolve(), about)
        # The graphs need no weight, those of a large model are traced meanwhile; the kernels need no model.
        with writing(graph_files) as write_graphs, _kernels(plan, progress) as wait_for_kernels:
            if budget is None:
                calibrated = calibrate(checkpoint, scheme, plan, calibration, progress)
                job = replace(job, calibrated=calibrated)
            _write(job, folder, write_graphs, progress)
            wait_for_kernels()
        if verify:
            progress("checking the bundle against the specification", 0, 0)
            _verify(folder)
        else:
            _write_uncertified(folder)
        for file in folder.rglob("*"):
            sync(file)


def calibrate(
    checkpoint: ExportSource,
    scheme: Scheme,
    plan: Plan,
    calibration: Calibration | None,
    progress: Progress,
) -> CalibrationResult:
    """Run the model on a text, and return the measurements that a scheme needs: ranges, smoothing factors or
    importances.

    If the scheme needs none, the model isn't run.
    """
    sites = plans.smoothed_sites(scheme, plan)
    if not (scheme.calibrated or scheme.searches or sites):
        return plans.NOT_CALIBRATED
    from .quantization.calibrate import smoothing_factors, static_scales

    if scheme.calibrated:
        assert calibration is not None, "check_calibration wants one"
        return static_scales(checkpoint, plan, calibration, scheme, progress)
    if scheme.searches:
        return _searched(checkpoint, plan, calibration.text if calibration else None, progress)
    return CalibrationResult(factors=smoothing_factors(checkpoint, sites, progress))


def _searched(
    checkpoint: ExportSource, plan: Plan, given: Path | None, progress: Progress
) -> CalibrationResult:
    """Return the text over which matrices of fewer than 8 bits are rounded with feedback, or the importance
    of each matrix's inputs if there can't be feedback.

    Without feedback, the result also states the reason. Raises ExportError if the user gave a text that would
    then have no use.
    """
    from .quantization.calibrate import importance, rounding_text, without_feedback

    left = {name for name, one in plan.formats.items() if one.searched}
    names = feedback.compensated(plan.formats)
    why = (
        without_feedback(checkpoint, given) if names else "the weights keep the quantized blocks of the file"
    )
    if why and given is not None and not checkpoint.config.rounds_cache:
        raise ExportError(f"calibration can't be used with quant=int4: {why}")
    if why:
        progress(f"rounding without feedback: {why}", 0, 0)
        result = CalibrationResult(without_feedback=why)
    else:
        result, left = CalibrationResult(text=rounding_text(checkpoint, given, progress)), left - names
    return replace(result, importance=importance(checkpoint, progress)) if left else result


def _within(job: _Export, budget: Budget, given: Path | None, path: Path, progress: Progress) -> _Export:
    """Choose the format of each unit within a budget, write the weights in these formats, and return the
    export with both.

    The loss of each unit is an estimate, and the loss of the whole model is more or less than the sum of
    these losses. So with a budget of KL divergence, the formats are chosen again after the loss of the whole
    model has been measured.
    """
    from .quantization import auto
    from .quantization.calibrate import importance, without_feedback

    checkpoint = job.checkpoint
    each = plans.each(checkpoint, job.scheme, job.plan.target)
    offers = auto.offers(checkpoint, each, progress)
    offers.require_room(budget)
    why = without_feedback(checkpoint, given)
    products = checkpoint.shapes.numbers * (len(each[0].units) + 1) // 2
    texts = auto.texts(checkpoint, given, why, products, progress)
    choices = auto.choices(checkpoint, offers, texts, progress)
    mean_squares: dict[str, np.ndarray] = {}

    def chosen(formats: Mapping[str, int]) -> _Export:
        plan = plans.with_sources(choices.with_formats(formats), checkpoint)
        compensated = feedback.compensated(plan.formats)
        alone = {name for name, one in plan.formats.items() if one.searched}
        if not mean_squares and alone - (frozenset() if why else compensated):
            mean_squares.update(importance(checkpoint, progress))
        made = CalibrationResult(
            importance=mean_squares,
            text=texts.rounded if compensated else None,
            without_feedback=why if compensated else "",
        )
        new = replace(job, plan=plan, calibrated=made)
        with threadpool_limits(1, "blas"):
            new = replace(new, forms=_weights(new, path, progress))
        size = plan.read_size(new.forms or {})
        if budget.kind != "kl" and size > budget.room(plan.shapes.numbers):
            raise ExportError(
                f"{budget.option} is below the {size} bytes that the weights need, because some scales "
                "don't fit float16 and are stored in float32; give a larger budget"
            )
        bundle = Bundle(path.parent, _manifest(new, {}))
        measured = auto.whole(checkpoint, plan.formats, bundle.leaf, texts.measured, progress)
        losses = {unit: choices.options[unit][k].loss for unit, k in formats.items()}
        return replace(new, chosen=Chosen(str(budget), losses, measured, texts.measured.size))

    def loss(made: _Export) -> float:
        assert made.chosen is not None
        return made.chosen.measured

    return auto.fitted(choices, budget, chosen, loss)


def _write(job: _Export, folder: Path, write_graphs: Callable[[InKernels], None], progress: Progress) -> None:
    """Write all files of the bundle except the certificate. The manifest is written last."""
    checkpoint = job.checkpoint
    # Products are rounded otherwise when threads share them, and a bundle's bytes must not follow that.
    with threadpool_limits(1, "blas"):
        forms = _weights(job, folder / DATA, progress) if job.forms is None else job.forms
        job = replace(job, forms=forms)
        plan, exact = job.plan, job.plan.dtype == "float32" and not job.plan.formats
        quantized = None if exact else _stored(job, folder)
        largest: list[tuple[float, str]] = []
        arrays = golden(
            checkpoint.config,
            _source(checkpoint),
            quantized,
            plan.dtype,
            checkpoint.tokenizer,
            progress,
            partial(_note_largest, largest),
            halved=job.halved,
        )
    job = replace(job, float32_cache=_why_float32(job, largest))
    if not job.halved:
        arrays.pop(golden_files.HALF, None)
    if job.calibrated.text is not None:
        arrays[golden_files.ROUNDING] = job.calibrated.text
    write_golden(folder, arrays)
    progress("building the ONNX graph", 0, 0)
    write_graphs(InKernels(job.halved, forms))
    write_texts(folder, checkpoint.tokenizer, checkpoint.chat_template, checkpoint.tool_use_template)
    for name, data in checkpoint.licence.files.items():
        (folder / name).write_bytes(data)
    written = sorted(file for file in folder.rglob("*") if file.is_file())
    files = {file.relative_to(folder).as_posix(): _describe(file) for file in written}
    (folder / MANIFEST).write_text(manifest.dump(_manifest(job, files)), encoding="utf-8")


def _note_largest(largest: list[tuple[float, str]], layer: int, cache: MixerCache | EncoderKV) -> None:
    """Append the largest magnitude of a layer's keys, and the largest of its values, to the list `largest`.
    Each number comes with a text that names the layer.

    Caches of other kinds than keys and values add nothing.
    """
    if isinstance(cache, KVCache | EncoderKV):
        sides, what = (("key", cache.keys), ("value", cache.values)), "has a"
        if isinstance(cache, EncoderKV):
            what = "reads an encoder's"
        largest += ((float(np.abs(side).max()), f"layer {layer} {what} {name}") for name, side in sides)


def _why_float32(job: _Export, largest: list[tuple[float, str]]) -> str:
    """Return the reason why keys and values would be too large for float16. Return "" if they fit float16, or
    if the kernels don't keep them in float16 anyway.
    """
    number, what = max(largest, default=(0.0, ""))
    if not job.halved or number < SAFE_IN_FLOAT16:
        return ""
    return (
        f"a cache of float16 in tfm's kernels needs keys and values below {SAFE_IN_FLOAT16:.0f}, but "
        f"{what} of {number:.2g}"
    )


@contextmanager
def _kernels(plan: Plan, progress: Progress) -> Iterator[Callable[[], None]]:
    """Compile the kernels' library for this machine while a `with` block runs. The block gets a function that
    waits for the library.

    So the bundle can be checked with these kernels, and run with them at once. If compiling fails, the
    function reports the error, and ONNX Runtime's operators are used instead of the kernels."""
    if not plan.has_kernels or library.is_off():
        yield lambda: None
        return

    def finish() -> None:
        try:
            wait()
        except ExportError as error:
            again = "`tfm-cli doctor --build-kernels` builds the kernels again, and waits longer"
            progress(
                f"{error}; the bundle gets ONNX Runtime's operators instead of tfm's kernels: {again}", 0, 0
            )

    with building(progress) as wait:
        yield finish


def write_texts(
    folder: Path, tokenizer: str | None, template: str | None, tool_use: str | None = None
) -> None:
    """Write tokenizer.json and the chat templates to the bundle, if the checkpoint has them."""
    quick = None if tokenizer is None else quick_to_load(tokenizer)
    for name, text in ((TOKENIZER, quick), (TEMPLATE, template), (TOOL_USE, tool_use)):
        if text is not None:
            (folder / name).write_bytes(text.encode("utf-8"))


def _manifest(job: _Export, files: dict[str, File]) -> Manifest:
    checkpoint, plan = job.checkpoint, job.plan
    return Manifest(
        tfm=version("tfm-cli"),
        versions={name: version(name) for name in PACKAGES},
        config=checkpoint.config,
        target=plan.target.name,
        quant=job.scheme.name,
        dtype=plan.dtype,
        cache=plan.cache,
        schemes=dict(plan.formats),
        tensors=plan.tensors,
        refused=(
            *operator_limits.refusals(plan.target, checkpoint.config),
            *([job.float32_cache] if job.float32_cache else []),
            *([f"rounding with feedback: {why}"] if (why := job.calibrated.without_feedback) else []),
        ),
        generation=checkpoint.generation,
        labels=checkpoint.labels,
        source=job.source,
        files=files,
        cache_kl=job.cache_kl,
        kernel_cache="float16" if job.halved else None,
        kernel_encoder="float16" if job.halved == "all" else None,
        kernel_minima=plan.has_minima,
        kernel_forms=dict(job.forms or {}),
        chosen=job.chosen,
        adapter=None if (merged := checkpoint.adapter_source) is None else MergedAdapter(**merged),
    )


def _source(checkpoint: ExportSource) -> Tree:
    """Return the checkpoint's weights, each loaded when it is read.

    Only some rows of a token table are read at a time. So a token table stays in the checkpoint's own blocks
    if the checkpoint stores blocks.
    """

    def load(name: str) -> np.ndarray | Blocks:
        blocks = checkpoint.native(name) if name in TABLES else None
        return checkpoint.leaf(name) if blocks is None else replace(blocks, activations="none")

    return checkpoint.shapes.lazily(load)


def _stored(job: _Export, folder: Path) -> Tree:
    """Return the weights as the bundle stores them. Quantized weights are read from the data file, because
    quantizing them again would take longer.
    """
    bundle = Bundle(folder, _manifest(job, {}))

    def load(name: str) -> np.ndarray | Blocks:
        return bundle.leaf(name) if name in job.plan.formats else job.leaf(name)

    return job.plan.shapes.lazily(load)


def _weights(job: _Export, path: Path, progress: Progress) -> dict[str, KernelForm]:
    """Write the data file, and return the form of each group that the kernels read in another form than the
    stored one.

    Raises ExportError if a quantized parameter can't be restored exactly from its stored tensors.
    """
    plan, text = job.plan, job.calibrated.text
    left, forms = dict(plan.groups), dict[str, KernelForm]()

    def write(file: IO[bytes], group: Group, compensations: Mapping[str, feedback.Inputs]) -> None:
        made = replace(job, calibrated=replace(job.calibrated, compensations=compensations))
        stored = _stored_group(made, group)
        for name in weight_storage.specs(group, plan.dtype):
            file.seek(plan.tensors[name].offset)
            file.write(stored[name].reshape(-1).view(np.uint8).data)
        if plan.has_kernels and kernel_storage.has_scales(group):
            forms[group.name] = kernel_storage.form(group, stored)

    with open(path, "wb") as file:
        if text is not None:
            stage = f"rounding matrices over {text.size} tokens"
            progress(stage, 0, 1)

            def layer_read(found: Mapping[str, feedback.Inputs], done: int, total: int) -> None:
                for group in [group for group in left.values() if not found.keys().isdisjoint(group.leaves)]:
                    write(file, left.pop(group.name), found)
                progress(stage, done, total)

            feedback.measure(job.checkpoint, text, feedback.compensated(plan.formats), layer_read)
        stage = f"writing {plan.size / 1e6:.1f} MB of weights"
        progress(stage, 0, len(left))
        for done, group in enumerate(left.values(), 1):
            write(file, group, {})
            progress(stage, done, len(left))
    forms = {name: forms[name] for name in plan.groups if name in forms}
    alike, as_stored = kernel_storage.alike(forms), kernel_storage.stored_form
    return {name: one for name, one in alike.items() if one != as_stored(plan.groups[name])}


def _stored_group(job: _Export, group: Group) -> dict[str, np.ndarray]:
    """Return the tensors that store a group of parameters. The parameters themselves are freed on return,
    because a table may take gigabytes.

    Raises ExportError if the parameters can't be restored exactly from the tensors.
    """
    leaves = {name: job.leaf(name) for name in group.leaves}
    stored = weight_storage.store(group, leaves)
    for name, leaf in weight_storage.restore(group, stored).items():
        if not _same_blocks(leaf, leaves[name]):
            raise ExportError(
                f"the weight {name} must be stored without loss, but the stored numbers differ: please "
                "report this"
            )
    return stored


def _same_blocks(restored: np.ndarray | Blocks, leaf: np.ndarray | Blocks) -> bool:
    """Return whether two quantized parameters have equal codes, scales, zero points and minima. If a
    parameter isn't quantized, only the types of both are compared.
    """
    if not isinstance(restored, Blocks) or not isinstance(leaf, Blocks):
        return type(restored) is type(leaf)
    return all(
        _equal(getattr(restored, part), getattr(leaf, part)) for part in ("codes", "scale", "zero", "minimum")
    )


def _equal(a: np.ndarray | None, b: np.ndarray | None) -> bool:
    """Return whether two matrices are equal. A few rows are compared at a time, to save memory."""
    if a is None or b is None or a.shape != b.shape:
        return a is b
    rows = range(0, len(a), ROWS)
    return all(np.array_equal(a[start : start + ROWS], b[start : start + ROWS]) for start in rows)


def _write_uncertified(folder: Path) -> None:
    """Write a certificate which states that nothing was checked."""
    stated = {"format": certificate.FORMAT, "manifest": manifest_hash(folder)}
    note = {**stated, "ok": None, "not_checked": ["all: verify=False"]}
    (folder / CERTIFICATE).write_text(json.dumps(note, indent=1) + "\n", encoding="utf-8")


def write_golden(folder: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write each golden array to its file, row by row, in the type that the bundle format prescribes."""
    (folder / golden_files.FOLDER).mkdir()
    for name, array in arrays.items():
        values = np.asarray(array, golden_files.TYPES[array.dtype.kind], "C")
        with open(folder / golden_files.file_of(name), "wb") as file:
            np.lib.format.write_array(file, values, version=(1, 0), allow_pickle=False)


def _describe(path: Path) -> File:
    with open(path, "rb") as file:
        return File(path.stat().st_size, hashlib.file_digest(file, "sha256").hexdigest())


def _verify(path: Path) -> None:
    """Run the quick checks of a bundle in another process, which doesn't have torch in its memory as this
    process does.

    Raises VerifyError if a check fails.
    """
    command = [sys.executable, "-P", "-m", "tfm.runtime.verification.verify", str(path)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode == 0:
        return
    why = (
        done.stderr.strip().splitlines()
        or [f"the process that verifies the bundle ended with exit code {done.returncode}"]
    )[-1]
    if done.returncode == VerifyError.exit_code and done.stdout:
        why = sentence(Report.from_json(json.loads(done.stdout)).failed[0])
    raise VerifyError(f"the exported bundle failed `verify` against the specification and was removed: {why}")
