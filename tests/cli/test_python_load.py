"""`tfm.load`: names, checkpoints and bundles alike, exported where it has to be."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import sys

import tfm as package
from helpers.refused import refused
from tfm.refimpl import errors
from tfm.refimpl.errors import BundleError, CheckpointError, ExportError, TfmError

GREEDY = {"greedy": True, "max_new_tokens": 6}


def test_bundles_and_checkpoints_load_alike(tfm, bundle, checkpoint, monkeypatch, capsys):
    """A checkpoint is exported once; the bundle then needs no package of the extra [export]."""
    exported = []

    def export(opened, path, *, progress, **_):
        progress("tracing", 0, 0)
        exported.append(path)
        shutil.copytree(bundle, path)

    monkeypatch.setattr("tfm.export.bundle_writer.export", export)
    expected = tfm("generate", "hello", "--model", bundle, "--greedy", "--max-new-tokens", 6).out
    for model in (bundle, str(bundle), checkpoint):
        assert str(package.load(model).generate("hello", **GREEDY)) + "\n" == expected
    assert len(exported) == 1
    said = capsys.readouterr().err
    assert f"exporting {checkpoint} to int8" in said
    assert str(exported[0]) in said
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    # Reading a checkpoint takes time, which a start from the cache saves.
    monkeypatch.delattr("tfm.refimpl.checkpoint.open.open_checkpoint")
    assert package.load(checkpoint, threads=1).generate_ids([1], **GREEDY)
    assert len(exported) == 1


def test_without_the_extra_a_line_says_what_is_missing(tfm, checkpoint, monkeypatch):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *more: None if name == "torch" else find_spec(name, *more)
    )
    words = "must be exported before its first use, and the export needs torch: pip install 'tfm-cli[export]'"
    with refused(ExportError, "torch") as caught:
        package.load(checkpoint)
    assert str(caught.value) == f"{checkpoint} {words}"
    tfm("generate", "hi", "--model", checkpoint).failed(7, *words.split())


def test_what_cannot_be_loaded_is_a_named_error(tfm, checkpoint, bundle, tmp_path):
    for wrong, kind, words in (
        ({"model": "nothing-there"}, CheckpointError, "'nothing-there'"),
        ({"model": bundle, "quant": "int4"}, BundleError, "int8 int4"),
        ({"model": checkpoint, "quant": "int5"}, TfmError, "quant"),
        ({"model": bundle, "device": "gpu"}, TfmError, "device"),
    ):
        with refused(kind, *words.split()):
            package.load(**wrong)
    from tfm.runtime import load

    for no_bundle in (checkpoint, "smollm2-135m"):
        with refused(BundleError, "tfm.load"):
            load(no_bundle)


def test_the_package_offers_its_names_and_no_others():
    """Without importing what they are in: a start would pay for it."""
    script = "import sys, tfm; print([m for m in sys.modules if m.startswith('tfm.')], dir(tfm))"
    shown = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert shown.startswith("[] ")
    assert set(dir(package)) == {*package.__all__, "__version__", "cli", "export", "refimpl", "runtime"}
    offered: dict[str, object] = {}
    exec("from tfm import *", offered)
    assert set(package.__all__) == offered.keys() - {"__builtins__"}
    kinds = {one for one in vars(errors).values() if isinstance(one, type) and issubclass(one, TfmError)}
    named = {one for one in offered.values() if isinstance(one, type) and issubclass(one, TfmError)}
    assert named == kinds | {package.QueueFullError}
    assert package.Error is TfmError
    with refused(AttributeError, "nothing"):
        _ = package.nothing


def test_a_loaded_model_is_named_as_it_was_asked_for(bundle):
    assert re.match(f"<Model {bundle}, .*int8 ", repr(package.load(bundle)))
    from tfm.runtime import load

    assert load(bundle).name == bundle.name
