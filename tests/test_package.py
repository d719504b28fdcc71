"""The package as installed: its version, and the command line as a module."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import tfm
from helpers.refused import refused
from tfm.cli.main import main

ROOT = Path(__file__).parents[1]


def test_the_version_is_that_of_pyproject():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert tfm.__version__ == project["version"]


def test_the_command_line_prints_it(capsys: pytest.CaptureFixture[str]):
    assert main(["--version"]) == 0
    assert capsys.readouterr() == (f"tfm-cli {tfm.__version__}\n", "")


def test_what_the_wheel_holds_has_an_origin_and_a_licence():
    """What a wheel holds beside the sources was made for tfm, but for two libraries of the server's page.

    Another file needs a line here with its origin, and a licence in `license-files` if it is somebody else's.
    """
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text())
    settings, project = pyproject["tool"]["setuptools"], pyproject["project"]
    licences = [file for pattern in project["license-files"] for file in ROOT.glob(pattern)]
    assert {file.name for file in licences} == {"LICENSE", "LICENSE.marked", "LICENSE.dompurify"}
    assert project["license"] == "Apache-2.0 AND MIT"
    data = {
        f"{package}: {pattern}"
        for package, patterns in settings["package-data"].items()
        for pattern in patterns
    }
    assert data == {
        *(f"tfm.{folder}: py.typed" for folder in ("refimpl", "runtime", "export", "cli")),
        "tfm.export.quantization: calibration.txt",  # a text written for it
        "tfm.runtime.verification: golden_sound.wav",  # a sentence of its own that espeak-ng speaks
        "tfm.runtime.hub: demos/*/*",  # trained by tests/train/demo.py on texts that it draws
        "tfm.runtime.serve: static/*",  # written for it, but for two libraries, which its README names
        *(f"tfm.runtime.kernels: source/*.{kind}" for kind in ("h", "cpp")),
        "tfm.cli: examples/*.json",  # sizes of a public model, which are facts
    }


def test_onnx_runtime_comes_with_an_extra_in_one_build():
    """[cpu] and [cuda] bring builds that fill one folder, so nothing else may, but for the tests."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    brings = {name for name, needed in extras.items() if any("onnxruntime" in one for one in needed)}
    assert brings == {"cpu", "cuda"}
    assert not any("onnxruntime" in one for one in project["dependencies"])
    assert {name for name in extras if any("[c" in one for one in extras[name])} == {"test"}


@pytest.mark.parametrize("there", ["None", "types.ModuleType('onnxruntime')"])
def test_without_onnx_runtime_one_sentence_says_what_to_install(there: str, tmp_path: Path):
    """Also where its folder has what is left of two builds after one was uninstalled."""
    started = f"import sys, types; sys.modules['onnxruntime'] = {there}; from tfm.cli.main import main"
    for command in ("generate hi --model demo-answer", "doctor"):
        run = subprocess.run(
            [sys.executable, "-c", f"{started}; sys.exit(main({command.split()}))"],
            capture_output=True,
            text=True,
            env={**os.environ, "TFM_CACHE": str(tmp_path)},
        )
        assert (run.returncode, run.stderr.count("\n")) == (6, 1)
        told = run.stderr
        if command == "doctor":  # which reports what else is there
            told = re.search("(?m)^problems +(.*)", run.stdout)[1]  # pyright: ignore[reportOptionalSubscript]
            assert run.stdout.startswith("works      nothing")
            assert re.search("(?m)^versions .*python", run.stdout)
        else:
            assert run.stdout == ""
        assert re.search("ONNX Runtime .*imported", told)
        assert "pip install 'tfm-cli[cpu]', or 'tfm-cli[cuda]'" in told
        uninstalled = re.findall("pip uninstall ([a-z -]+)", told)
        assert uninstalled == ["onnxruntime onnxruntime-gpu"] * (there != "None")
    assert list(tmp_path.iterdir()) == []


def test_other_attributes_are_missing():
    with refused(AttributeError, "'tfm'", "'nothing'"):
        _ = tfm.nothing  # pyright: ignore[reportAttributeAccessIssue]


def test_the_package_is_a_module_to_run():
    run = subprocess.run([sys.executable, "-m", "tfm.cli", "--help"], capture_output=True, text=True)
    assert (run.returncode, run.stderr) == (0, "")
    assert "Usage: tfm-cli" in run.stdout
