"""Open a model by its name, on any of the three engines."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from .console import progress, say, size, work_in_one_line

if TYPE_CHECKING:
    from ..refimpl.checkpoint.formats.adapters import AdapterChoice
    from ..refimpl.checkpoint.open import Checkpoint
    from ..refimpl.checkpoint.tokenizers.tokenizer import Tokenizer
    from ..refimpl.config import Config
    from ..refimpl.decoding.mtp import MTPDrafter
    from ..refimpl.params.tree import Tree
    from ..runtime.bundle.bundle import Bundle
    from ..runtime.hub.model_names import LocatedModel
    from ..runtime.tasks import Model

EXPORT_PACKAGES = ("torch", "onnx", "onnx_ir", "onnxscript")


def load(
    name: str,
    engine: str,
    quant: str | None,
    device: str,
    threads: int | None,
    context: int | None = None,
    *,
    task: str | None,
    adapter: AdapterChoice = None,
    ignore_keys: Collection[str] = (),
) -> Model:
    """Load a model. If necessary, fetch the model, merge the adapter into its weights, and export it.

    ONNX Runtime always runs a bundle. The NumPy and torch engines run a bundle if `quant` is given, and
    otherwise compute with the checkpoint's own weights. The bundle comes from the cache if the cache contains
    it.

    `task` is the command that will use the model (see `runtime.tasks.base.check_task`). The task and the
    device are checked before any work begins. Without `task`, a model for any task is loaded.
    """
    from ..refimpl.errors import DeviceError

    if engine == "onnx":
        check_packages(name)  # before ONNX Runtime is imported: one line names all that is missing
        from ..runtime.tasks import load as load_bundle

        path = located_bundle(
            name, quant, device, context, task=task, adapter=adapter, ignore_keys=ignore_keys
        )
        return load_bundle(path, device, threads, say)
    if device == "cuda":
        raise DeviceError(f"the {engine} engine runs only on the CPU: remove --device, or use --engine onnx")
    if task is not None:
        check_catalogue(name, task)
    say_toy(name)
    return _on_arrays(locate_weights(name, adapter, ignore_keys), engine, quant, context, task)


def located_bundle(
    name: str,
    quant: str | None,
    device: str,
    context: int | None = None,
    *,
    task: str | None,
    adapter: AdapterChoice = None,
    ignore_keys: Collection[str] = (),
) -> Path:
    """Return the path of a model's bundle. If necessary, fetch and export the model first, as `load` does."""
    check_device(device)
    if task is not None:
        check_catalogue(name, task)
    check_packages(name)
    say_toy(name)
    return bundle(locate_weights(name, adapter, ignore_keys), quant, device, context, task)


def computed_by(model: Model) -> dict[str, str]:
    """Return the name of the code that computes the model, and whether a token's results have the same bits
    in any batch.

    The code is ONNX Runtime's operators, tfm's kernels, or another engine.
    """
    from ..runtime.ort.engine import OrtEngine

    path = model.engine.backend if isinstance(model.engine, OrtEngine) else type(model.engine).__name__
    return {"path": path, "same_bits": str(model.same_bits)}


def check_device(device: str) -> None:
    """Raise DeviceError if the device is CUDA and CUDA doesn't start. Call this function before an export,
    because an export takes minutes.
    """
    if device == "cuda":
        from ..runtime.ort.providers import startable

        startable(device)


def is_here(name: str) -> bool:
    """Return whether the model is already on this machine, so that it needn't be fetched."""
    from ..runtime.hub.locate import is_stored
    from ..runtime.hub.model_names import is_fetched

    return not is_fetched(name) or Path(name).exists() or is_stored(name)


def check_packages(name: str) -> None:
    """Raise ExportError if the model must be fetched and this machine lacks the packages for an export."""
    if not is_here(name):
        require_export(name)


def check_catalogue(name: str, task: str) -> None:
    """Raise ConfigError if the catalogue lists the model for another task. This check fetches nothing."""
    from ..refimpl.errors import ConfigError
    from ..runtime.hub.aliases import ALIASES
    from ..runtime.hub.model_names import CATALOGUE

    known = CATALOGUE.get(name) or ALIASES.get(name)
    if known is None or Path(name).exists():
        return
    from ..runtime.tasks.base import head_of

    if head_of(known.task) is not head_of(task):
        raise ConfigError(
            f"the model {name} can {known.task}, not {task}: `tfm-cli models` lists what each model can do"
        )


def say_toy(name: str) -> None:
    """Print a note if the model is one of tfm's own toy models."""
    from ..runtime.hub.model_names import packaged

    if packaged(name) is not None and not Path(name).exists():
        say(
            f"{name} is a toy model that comes with tfm: for real texts choose with --model a name, a "
            "directory, a .gguf file or hf:ORG/NAME"
        )


def locate_weights(
    name: str, adapter: AdapterChoice = None, ignore_keys: Collection[str] = ()
) -> LocatedModel:
    """Find the model with this name, and record its adapter and the keys to ignore.

    Raises CheckpointError for a config.json without weights.
    """
    from ..refimpl.checkpoint.formats.tensor_source import missing_weights
    from ..runtime.hub.locate import adapted, ignoring, locate

    source = locate(name, progress())
    if source.kind == "config":
        raise missing_weights(source.path)
    return ignoring(adapted(source, adapter), ignore_keys)


def specified(
    name: str, adapter: AdapterChoice = None, ignore_keys: Collection[str] = ()
) -> tuple[Config, Tree, Tokenizer]:
    """Return the parts of a model that the reference implementation needs: its Config, its lazily loaded
    weights and its tokenizer.
    """
    from ..refimpl.checkpoint.tokenizers.tokenizer import read
    from ..refimpl.errors import CheckpointError
    from ..runtime.bundle.bundle import open_bundle

    source = locate_weights(name, adapter, ignore_keys)
    if source.kind == "bundle":
        opened = open_bundle(source.path, check_hashes=True)
        params = opened.params()
    else:
        opened = with_notes(opened_at(source))
        params = opened.params
    say_replaced_code(opened.code_replaced_by)
    if opened.tokenizer is None:
        raise CheckpointError(f"the model {name} has no tokenizer.json, which this command needs")
    return opened.config, params, read(opened.tokenizer, name)


def bundle(
    source: LocatedModel,
    quant: str | None,
    device: str,
    context: int | None = None,
    task: str | None = None,
    *,
    bits: float | None = None,
) -> Path:
    """Return the bundle of a model. If the cache doesn't contain the bundle, export the model.

    `bits` is the maximum average number of bits per weight for quant=auto.

    If the bundle in the cache has an older format, the model is exported again, and the old bundle is
    removed. If another process is making the same bundle, this process waits for the bundle. A `task` is
    checked before an export. Raises BundleError if the model is itself a bundle with another quantization or
    context.
    """
    if source.kind == "bundle":
        if quant is not None or context is not None:
            from ..runtime.bundle.bundle import open_bundle

            expect(open_bundle(source.path), quant, context)
        return source.path
    from ..runtime.bundle.atomic_dir import BusyError, recover, wait_for
    from ..runtime.hub.cache_dir import bundle_path, is_outdated, remove_outdated, require_writable

    target = _target(device)
    quant = _default_quant(source, target, context) if quant is None else quant
    path = bundle_path(source, quant, target, context, bits)
    while True:
        recover(path)
        if path.exists() and not is_outdated(path):
            return path
        if wait_for(path, progress()):
            continue
        require_export(source.name)
        require_writable(path.parent)
        checkpoint = open_for_export(source, context, task)
        from ..export.bundle_writer import export  # seconds of torch, which a bad checkpoint needn't wait for
        from ..export.quantization.plan import Budget

        budget = None if bits is None else Budget(bits, "bits")
        try:
            stages = work_in_one_line(f"exporting {source.name} to {quant}, the first time only")
            export(checkpoint, path, target=target, quant=quant, budget=budget, progress=stages)
        except BusyError:
            continue  # another process began meanwhile
        for old in remove_outdated(path):
            say(f"removed {old}, because an older version of tfm wrote this bundle")
        say(f"saved {written(path)}; later runs load it from there")
        return path


def bundle_named(name: str) -> Path:
    """Return the bundle at a path, or the bundle in the cache for a model's name.

    Raises BundleError if no such bundle exists, and a usage error if the cache contains several.
    """
    if os.path.lexists(name):
        return Path(name)
    from ..refimpl.errors import BundleError
    from ..runtime.hub.cache_dir import bundles_of

    match bundles_of(name):
        case []:
            raise BundleError(
                f"no directory is named {name}, and the cache has no bundle of a model {name}: write a "
                "bundle with `tfm-cli export`"
            )
        case [path]:
            say(f"{name}: {path}")
            return path
        case several:
            raise typer.BadParameter(
                f"the cache has several bundles of {name}; give the path of one bundle: "
                f"{', '.join(map(str, several))}"
            )


def require_export(name: str) -> None:
    """Raise ExportError if the packages of the extra [export] aren't installed.

    Running a bundle doesn't need these packages. If ONNX Runtime is missing too, the error also names the
    extra for ONNX Runtime.
    """
    from importlib.util import find_spec

    from ..refimpl.errors import ExportError

    missing = [package for package in EXPORT_PACKAGES if find_spec(package) is None]
    if missing:
        extras = "export" if find_spec("onnxruntime") else "cpu,export"
        raise ExportError(
            f"{name} must be exported before its first use, and the export needs {', '.join(missing)}: "
            f"pip install 'tfm-cli[{extras}]'"
        )


def written(path: Path) -> str:
    """Describe a bundle that was just exported: its size, its quantization, its target and the result of its
    verification.
    """
    from ..runtime.bundle.bundle import open_bundle
    from ..runtime.hub.cache_dir import bytes_in
    from ..runtime.verification.certificate import recorded
    from ..runtime.verification.verdict import judgement, prediction_cost, vector_cost

    opened, report = open_bundle(path), recorded(path)
    facts = [f"{path}: {size(bytes_in(path))}, {opened.quant} for {opened.target}"]
    if report is None:
        facts.append("not verified")
    else:
        facts += [judgement(report), *filter(None, [vector_cost(report), prediction_cost(report)])]
        if not report.full:
            facts.append(f"`tfm-cli verify {path} --full` also runs the long checks")
    return ", ".join(facts)


def kept(path: Path, files: Iterable[Path]) -> str:
    """Describe how a bundle stores its weights: which formats were kept, which formats were rounded to, and
    the size of each.
    """
    from ..runtime.bundle.bundle import open_bundle
    from ..runtime.bundle.kept_weights import totals

    forms = totals(open_bundle(path, check_hashes=False).manifest)
    parts = [f"{count} x {form}, {size(stored)}" for form, (count, stored) in forms.items()]
    read = sum(file.stat().st_size for file in files)
    return f"weights: {'; '.join(parts)}; the checkpoint has {size(read)}"


def expect(opened: Bundle, quant: str | None, context: int | None) -> None:
    """Raise BundleError if the bundle has another quantization or context than the given one."""
    from ..refimpl.errors import BundleError

    for what, actual, expected in (
        ("the quantization", opened.quant, quant),
        ("the context length", opened.config.context, context),
    ):
        if expected not in (None, actual):
            raise BundleError(
                f"the bundle {opened.path} has {what} {actual}, but {expected} is asked for: export the "
                "checkpoint again"
            )


def opened_at(source: LocatedModel, *, mtp: bool = False) -> Checkpoint:
    """Open the checkpoint of a located model, with its adapter merged and the keys to ignore left out."""
    from ..refimpl.checkpoint.open import open_checkpoint

    return open_checkpoint(source.path, source.adapter, mtp=mtp, ignore_keys=source.ignore_keys)


def with_notes(checkpoint: Checkpoint) -> Checkpoint:
    """Print the checkpoint's notes for the user, and return the checkpoint."""
    for note in checkpoint.notes:
        say(f"note: {note}")
    return checkpoint


def open_for_export(
    source: LocatedModel, context: int | None = None, task: str | None = None, *, mtp: bool = False
) -> Checkpoint:
    """Open a checkpoint for an export, and check the checkpoint's task and tokenizer, which the export itself
    doesn't use.
    """
    from ..runtime.text.tokenizer import Tokenizer

    checkpoint = with_notes(opened_at(source, mtp=mtp)).for_context(context)
    if task is not None:
        require_task(task, checkpoint, source.name)
    for note in checkpoint.licence.left_out:
        say(f"note: {note}")
    if checkpoint.tokenizer is not None:
        Tokenizer(checkpoint.tokenizer, checkpoint.config.embedding.vocabulary)
    return checkpoint


def require_task(task: str, checkpoint: Checkpoint, name: str) -> None:
    """Check that the model is for this task. Raises the error of `runtime.tasks.base.check_task` with the
    model's name in the message.
    """
    from ..refimpl.errors import CheckpointError, ConfigError
    from ..runtime.tasks.base import check_task

    try:
        check_task(task, checkpoint.config, checkpoint)
    except (CheckpointError, ConfigError) as error:
        raise type(error)(f"{name}: {error}") from None


def module_of(model: Model, name: str) -> MTPDrafter:
    """Return the drafter for `--draft mtp`, which drafts with the model's own module for multi-token
    prediction.

    If the bundle contains no such module, raises a ConfigError that says what to do.
    """
    from ..refimpl.errors import ConfigError

    try:
        return model.mtp_drafter()
    except ConfigError:
        raise ConfigError(
            f"{name}: --draft mtp needs a bundle with a module for multi-token prediction (mtp): export a "
            "checkpoint that has an mtp module with `tfm-cli export MODEL OUT --mtp`"
        ) from None


def say_replaced_code(family: str) -> None:
    """If the model's repository contains code that a family of tfm replaces, print the family's name."""
    from ..refimpl.checkpoint.custom_code import describe

    if family:
        say(describe(family))


def _target(device: str) -> str:
    """Return the name of the export target for a device."""
    from ..runtime.bundle import targets

    if device == "auto":
        from ..runtime.ort.providers import startable

        device = startable(device)
    return targets.for_device("cuda" if device == "cuda" else "cpu").name


def _default_quant(source: LocatedModel, target: str, context: int | None) -> str:
    """Return the default scheme of a model, which follows from its Config. A bundle in the cache states the
    same Config, and opens faster than the checkpoint."""
    from ..runtime.bundle import schemes
    from ..runtime.bundle.bundle import open_bundle
    from ..runtime.bundle.targets import find
    from ..runtime.hub.cache_dir import bundle_path, is_outdated

    for quant in schemes.DEFAULTS:
        path = bundle_path(source, quant, target, context)
        if path.exists() and not is_outdated(path):
            config = open_bundle(path, check_hashes=False).config
            if schemes.default(config, find(target)).name == quant:
                return quant

    return schemes.default(opened_at(source).config, find(target)).name


def _on_arrays(
    source: LocatedModel, engine: str, quant: str | None, context: int | None, task: str | None
) -> Model:
    """Load a model on the NumPy or the torch engine, with the checkpoint's weights or exactly the bundle's
    weights.
    """
    from ..refimpl.checkpoint.open import materialize
    from ..runtime.bundle.bundle import open_bundle
    from ..runtime.tasks import Model

    if source.kind == "checkpoint" and quant is None:
        opened = with_notes(opened_at(source)).for_context(context)
        if task is not None:
            require_task(task, opened, source.name)
        params = materialize(opened.params)
    else:
        opened = open_bundle(bundle(source, quant, "cpu", context, task), check_hashes=True)
        params = materialize(opened.params())
    say_replaced_code(opened.code_replaced_by)
    if engine == "torch":
        from ..export.torch_engine import TorchEngine

        return Model(TorchEngine(opened.config, params), opened)
    from ..refimpl.engine.numpy_engine import NumpyEngine

    return Model(NumpyEngine(opened.config, params), opened)
