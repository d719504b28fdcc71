"""The files that the pages name exist, and README.md links the pages."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from reports import pictures

ROOT = Path(__file__).parents[1]
PAGES = (
    "README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "SECURITY.md",
    *sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").glob("*.md")),
)  # fmt: skip

TUTORIALS = tuple(sorted(f"docs/tutorials/{path.name}" for path in (ROOT / "docs/tutorials").glob("*.md")))


def test_files_that_pages_name_exist():
    inside = r"[`(](?:\.\./)*((?:refimpl|runtime|export|cli|tests|\.ci|\.github)/[\w./*-]*)"
    named = [
        (page, name)
        for page in (*PAGES, *TUTORIALS)
        for name in re.findall(inside, (ROOT / page).read_text())
    ]
    assert {page for page, _ in named} >= {"README.md", "ARCHITECTURE.md", "docs/GUIDE.md", *TUTORIALS[:1]}
    for page, name in named:
        pattern = name.replace("NAME", "*").rstrip("/")
        assert any(ROOT.glob(pattern)), f"{page} names {name}, which isn't there"


@pytest.mark.parametrize("page", [*PAGES, *TUTORIALS, "CHANGELOG.md"])
def test_links_lead_to_files_and_headings(page: str):
    links = re.findall(r"\]\(([^)#\s]*)(?:#([^)\s]*))?\)", (ROOT / page).read_text())
    for path, anchor in links:
        if "://" not in path:
            file = ROOT / page if not path else (ROOT / page).parent / path
            assert file.exists(), f"{page} links {path}, which isn't there"
            assert not anchor or anchor in headings(file), (
                f"{page} links #{anchor}, no heading of {file.name}"
            )


def headings(page: Path) -> set[str]:
    """The anchors of a page's headings: small letters, hyphens for spaces, no other signs."""
    titles = re.findall(r"^#+ (.*)$", page.read_text(), re.M)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


def test_every_room_is_in_the_architecture():
    rooms = {
        file.parent.relative_to(ROOT).as_posix()
        for folder in ("refimpl", "refimpl/checkpoint", "runtime", "export")
        for file in (ROOT / folder).glob("*/__init__.py")
    }
    listed = re.findall(r"^\| `([\w/]+)` \|", (ROOT / "ARCHITECTURE.md").read_text(), re.M)
    assert rooms <= set(listed), rooms - set(listed)


def test_the_index_of_tests_is_whole():
    """tests/README.md has a line for each file of the folders that test nothing, and no other."""
    text = (ROOT / "tests" / "README.md").read_text()
    listed = re.findall(r"^\| `([\w/.]+)` \|", text, re.M)
    folders = ("helpers", "meta", "reports", "train", "train/demos", "bench")
    files = {
        f.relative_to(ROOT / "tests") for folder in folders for f in (ROOT / "tests" / folder).glob("*.py")
    }
    assert sorted(listed) == sorted(str(file) for file in files if file.stem != "__init__")


def test_pictures_are_those_of_what_stands_beside_them():
    """`python -m reports.pictures` makes them anew."""
    readme, recorded = (ROOT / "README.md").read_text(), pictures.RECORDED.read_text()
    assert pictures.SPEED.read_text() == pictures.speed(readme)
    assert pictures.RECORDING.read_text() == pictures.recording(recorded)
    assert json.loads(recorded.splitlines()[0])["command"] == pictures.command(readme)


def test_readmes_first_paragraphs_state_the_range_of_its_table():
    readme = (ROOT / "README.md").read_text()
    table = readme.split("## Speed\n")[1].split("\n## ")[0]
    columns = zip(*re.findall(r"^\| .+? \| ?([\d.]*) ?\| ?([\d.]*) ?\|$", table, re.M), strict=True)
    read, made = (sorted(filter(None, column), key=float) for column in columns)
    stated = f"reads prompts {read[0]} to {read[-1]} times and generates text {made[0]} to {made[-1]} times"
    assert stated in " ".join(readme.split())


def test_readme_links_the_pages():
    readme = (ROOT / "README.md").read_text()
    for page in (*PAGES[1:], *TUTORIALS):
        assert f"({page})" in readme, f"README.md must link {page}"
