"""The cells of the tutorials run one after the other, in one folder, and print what the pages say."""

from __future__ import annotations

import doctest
import re
import shlex
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from helpers import hearing_models
from tfm.cli.main import main

FOLDER = Path(__file__).parents[1] / "docs" / "tutorials"
# The first one makes the files that the others read.
PAGES = (
    "find_a_bug", "quantize", "serve", "open_webui", "read_the_specification", "add_a_family",
    "c_and_browser", "transcribe",
)  # fmt: skip
FETCHED = "whisper-tiny.en"  # in whose place a drawn model stands, with a sound to hear
CELL = re.compile(r"^```(python|sh)\n(.*?)^```\n(?:\n```text\n(.*?)^```\n)?", re.M | re.S)
LENIENT = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
HEALTH = "http://127.0.0.1:8765/health"


def shell(lines: str, started: list[subprocess.Popen[bytes]]) -> None:
    """Run lines of a shell: `tfm-cli` in this process, or beside it where a line ends in &, and `echo $?`."""
    code = 0
    for line in lines.splitlines():
        program, *arguments = shlex.split(line, comments=True)
        if [program, *arguments] == ["echo", "$?"]:
            print(code)  # noqa: T201  (what the shell prints)
            code = 0
            continue
        assert (program, code) == ("tfm-cli", 0), f"{line}: after exit code {code}"
        if arguments[-1] == "&":
            started.append(subprocess.Popen([sys.executable, "-m", "tfm.cli", *arguments[:-1]]))
            wait_for_server(started[-1])
        else:
            code = main(arguments)
    assert code == 0, f"exit code {code}"


def wait_for_server(process: subprocess.Popen[bytes]) -> None:
    while process.poll() is None:
        try:
            urllib.request.urlopen(HEALTH).close()
            return
        except urllib.error.URLError:
            time.sleep(0.2)
    raise AssertionError(f"the server ended with {process.returncode}")


@pytest.mark.long
def test_the_cells_print_what_the_pages_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    assert set(PAGES) == {path.stem for path in FOLDER.glob("*.md")}
    monkeypatch.chdir(tmp_path)
    started: list[subprocess.Popen[bytes]] = []
    hearing_models.write(tmp_path / "drawn", 2, multilingual=False)
    (tmp_path / "talk.wav").write_bytes(hearing_models.wav(hearing_models.sound(1, 3 * hearing_models.SIZE)))
    capsys.readouterr()
    try:
        for page in (PAGES[0], *PAGES):  # the first one twice: a reader may begin again
            names: dict[str, Any] = {}
            cells = CELL.findall((FOLDER / f"{page}.md").read_text().replace(FETCHED, "drawn"))
            assert cells
            for kind, code, printed in cells:
                if kind == "sh":
                    shell(code, started)
                else:
                    exec(compile(code, f"{page}.md", "exec"), names)
                found = capsys.readouterr().out
                assert doctest.OutputChecker().check_output(printed, found, LENIENT), (
                    f"{page}.md: this cell\n{code}\nmust print\n{printed}\nit printed\n{found}"
                )
    finally:
        for process in started:
            process.terminate()
            process.wait()
