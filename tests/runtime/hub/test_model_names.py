"""What a model's name says, before anything is fetched."""

import pytest
from tfm.refimpl.errors import CheckpointError
from tfm.runtime.hub.locate import fetch
from tfm.runtime.hub.model_names import CATALOGUE, folder_name, is_fetched, label
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
    with pytest.raises(CheckpointError, match="no model to fetch is named"):
        fetch(name, silent)
    assert pip.calls == []


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("minilm", "minilm-l6"),
        ("org/tiny", "hf:org/tiny"),
        ("https://huggingface.co/org/tiny", "hf:org/tiny"),
        ("https://hf.co/org/tiny.b/", "hf:org/tiny.b"),
    ],
)
def test_an_unknown_name_is_told_the_nearest(name, meant):
    with pytest.raises(CheckpointError) as error:
        folder_name(name)
    assert f"'{name}' (did you mean {meant}?)" in str(error.value)
