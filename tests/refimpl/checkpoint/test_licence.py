"""What a model's source states of its licence, and the files that go with its weights."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.refused import refused
from tfm.refimpl.checkpoint import licence
from tfm.refimpl.checkpoint.licence import is_notice, read_licence
from tfm.refimpl.errors import CheckpointError

CARD = "---\nlanguage: en\nlicense: {}\ntags:\n- x\n---\n# A model\nlicense: no\n"
WHEEL = "Metadata-Version: 2.4\nName: pkg\n{}\n\nLicense-Expression: no\n"


@pytest.mark.parametrize(
    ("name", "text", "stated"),
    [
        ("README.md", CARD.format("apache-2.0"), "apache-2.0"),
        ("README.md", CARD.format('"mit"').replace("\n", "\r\n"), "mit"),
        ("README.md", CARD.format("\n- cc-by-4.0"), "cc-by-4.0"),
        (
            "README.md",
            CARD.format("other\nlicense_name: acme\nlicense_link: https://acme.org"),
            "other, acme, https://acme.org",
        ),
        ("README.md", "# A model\nlicense: mit\n", ""),
        ("README.md", CARD.format("x" * 101), ""),
        ("README.md", "---" + "\n" * 2**19, ""),  # a search that looks back would take hours
        ("README.md", CARD.format("a\x1b[2Jb"), ""),
        ("METADATA", WHEEL.format("License-Expression: MIT\nLicense: x"), "MIT"),
        ("METADATA", WHEEL.format("License: Apache 2.0"), "Apache 2.0"),
        ("METADATA", WHEEL.format("Classifier: License :: OSI Approved :: BSD License"), "BSD License"),
        ("METADATA", WHEEL.format("License: " + "the whole text " * 20), ""),
        ("LICENSE", "MIT License", ""),
    ],
)
def test_what_is_stated_is_read(tmp_path: Path, name: str, text: str, stated: str):
    (tmp_path / name).write_bytes(text.encode())
    found = read_licence(tmp_path, {})
    assert (found.stated, found.files) == (stated, {name: text.encode()})


def test_a_gguf_files_own_word_comes_first(tmp_path: Path):
    (tmp_path / "README.md").write_text(CARD.format("mit"))
    (tmp_path / "m.gguf").touch()
    stated = {"general.license": "other", "general.license.name": "acme", "general.license.link": 7}
    assert read_licence(tmp_path / "m.gguf", stated).stated == "other, acme"
    assert read_licence(tmp_path / "m.gguf", {}).stated == "mit"
    # Among other things, a card may be of those.
    (tmp_path / "thesis.tex").touch()
    assert read_licence(tmp_path / "m.gguf", {}) == licence.Licence()


def test_names_of_notices():
    names = ("LICENSE", "LICENCE.txt", "license-mit", "COPYING", "NOTICE.md", "README.md", "METADATA")
    assert all(map(is_notice, names))
    others = ("LICENSED", "model.LICENSE", "LICENSE/x", "README", "tfm.json", "LICENSE" + "." * 62)
    assert not any(map(is_notice, others))


def test_files_are_bounded_and_lie_in_the_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    model = tmp_path / "model"
    model.mkdir()
    monkeypatch.setattr(licence, "MOST", 2)
    for name, size in (
        ("COPYING", licence.LARGEST + 1),
        ("LICENSE", licence.LARGEST),
        ("NOTICE", 1),
        ("README.md", 1),
    ):
        (model / name).write_bytes(b"x" * size)
    (model / "LICENSE.d").mkdir()
    found = read_licence(model, {})
    assert [*found.files] == ["LICENSE", "NOTICE"]
    assert [note.split()[0] for note in found.left_out] == ["COPYING", "README.md"]
    (model / "COPYING").unlink()
    (tmp_path / "secret").touch()
    (model / "COPYING").symlink_to(tmp_path / "secret")
    with refused(CheckpointError, "link", "directory"):
        read_licence(model, {})
