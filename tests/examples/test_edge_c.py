"""The client in C: tfm's greedy tokens over ONNX Runtime's C interface, and the golden check without tfm."""

from __future__ import annotations

import fnmatch
import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from helpers import gcc, peers, tiny_models
from helpers.exported import exported
from helpers.layout_models import greedy
from tfm.refimpl.checkpoint.tokenizers.token_bytes import to_file
from tfm.runtime.bundle.bundle import open_bundle
from tfm.runtime.verification.certificate import recorded

pytestmark = pytest.mark.gcc
SOURCE = Path(__file__).with_name("edge") / "client.c"
ROOT = Path(__file__).parents[2]
COMMANDS = ROOT / "docs" / "COMMANDS.md"
PROMPT = [3, 41, 59, 26, 5]
VERSION = onnxruntime.__version__
Client = Callable[..., subprocess.CompletedProcess[Any]]


def library() -> Path:
    """ONNX Runtime's library, of pip's package."""
    return Path(onnxruntime.__file__).with_name("capi") / f"libonnxruntime.so.{VERSION}"


def compiled(compiler: str, library: Path, folder: Path) -> Path:
    """The program, which finds a wheel's library by the name that it asks for."""
    for name in ("libonnxruntime.so", "libonnxruntime.so.1"):
        (folder / name).symlink_to(library)
    options = ["-std=c11", "-Wall", "-Wextra", "-Werror", "-O2", f"-I{gcc.HEADERS}"]
    links = [f"-L{folder}", f"-Wl,-rpath,{folder}", "-lonnxruntime", "-lm", "-o", folder / "client"]
    subprocess.run([compiler, *options, "-x", "c", SOURCE, "-x", "none", *links], check=True)
    return folder / "client"


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Client:
    program = compiled(gcc.required().compiler, library(), tmp_path_factory.mktemp("client"))
    return lambda *words, text=True: subprocess.run(
        [program, *map(str, words)], capture_output=True, text=text
    )


def bundle(folder: Path, quant: str) -> Path:
    return exported(folder, tiny_models.llama(), seed=11, quant=quant, verify=True).path


@pytest.mark.parametrize("quant", ["int8", pytest.param("fp32", marks=pytest.mark.long)])
def test_tokens_and_golden_check(client: Client, tmp_path: Path, quant: str):
    path = bundle(tmp_path, quant)
    opened = open_bundle(path)
    shown = client(path, 24, *PROMPT)
    assert [int(token) for token in shown.stdout.split()] == greedy(opened, [PROMPT], 24)[0], shown.stderr

    checked = client(path, "check")
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert "\nRight: " in checked.stdout
    shown_rows = judged_rows(checked.stdout)
    assert [*shown_rows] == [*(["products in float"] if quant == "int8" else []), "whole"]
    rows = {row.name: row for row in recorded(path).rows}
    for name, (found, stated, _) in shown_rows.items():
        figure = rows[f"{name}: largest error"].figure
        assert stated == pytest.approx(figure, rel=1e-5)
        assert found == pytest.approx(figure, rel=0.1)  # a few last digits, of some processors' int8 more

    norm = next(t for name, t in opened.manifest.tensors.items() if name.startswith("decoder.norm"))
    data = np.memmap(path / "model.onnx.data", np.uint8, "r+")
    values = data[norm.offset : norm.offset + norm.length].view(norm.dtype)
    for factor in (1.01, -1 / 1.01):
        values *= factor
        data.flush()
        checked = client(path, "check")
        assert (checked.returncode, "\nWRONG: " in checked.stdout) == (1, True)
        within = {name: found <= budget for name, (found, _, budget) in judged_rows(checked.stdout).items()}
        assert within == {name: factor > 0 and quant == "int8" and name == "whole" for name in shown_rows}


def judged_rows(output: str) -> dict[str, tuple[float, ...]]:
    """By a row's name what the client found, what the certificate has, and the budget."""
    lines = re.findall(r'"(.*): largest error" (\S+), in the certificate (\S+), budget (\S+)\n', output)
    return {name: tuple(map(float, numbers)) for name, *numbers in lines}


def test_tokens_are_text_where_their_bytes_are(client: Client, tmp_path: Path):
    """Also parts of a character, and an id that the tokenizer hasn't."""
    path = bundle(tmp_path, "int8")
    ids = greedy(open_bundle(path), [PROMPT], 24)[0]
    spelled = [bytes([200 - i, i][: i % 3]) for i in range(max(ids))]  # all but the last one
    (path / "token_bytes").write_bytes(to_file(spelled))
    shown = client(path, 24, *PROMPT, text=False)
    assert shown.stdout == b"".join(spelled[id] for id in ids if id < len(spelled)) + b"\n"


@pytest.mark.parametrize(
    "stated", ["", '"cache": "copied"', '"cache": "shared", "scaling": {', '"shared" "kv": "int8"']
)
def test_what_it_does_not_know_is_said(client: Client, tmp_path: Path, stated: str):
    (tmp_path / "tfm.json").write_text(stated)
    done = client(tmp_path, 4, 1)
    assert (done.returncode, done.stdout) == (1, "")
    assert re.search(f"{tmp_path} .*ort-cpu", done.stderr)
    assert re.match(f"{tmp_path} .*golden", client(tmp_path, "check").stderr)
    assert client(tmp_path).stderr.startswith("usage: ")
    assert client(tmp_path, 4).stderr.startswith("usage: ")


def test_an_error_of_onnx_runtime_says_which_one(client: Client, tmp_path: Path):
    (tmp_path / "tfm.json").write_text('"cache": "shared"')
    done = client(tmp_path, 4, 1)
    assert done.returncode == 1
    assert done.stderr.startswith(f"ONNX Runtime {VERSION}: ")


def test_the_commands_of_the_documents_build_it(tmp_path: Path):
    """Also where two packages, onnxruntime and onnxruntime-gpu, have their libraries in one folder."""
    gcc.required()
    commands = re.findall(r"^    ((?:ln -s|cc) .*)", (ROOT / "docs" / "RUNTIMES.md").read_text(), re.M)
    package = tmp_path / "onnxruntime"
    (package / "capi").mkdir(parents=True)
    (package / "__init__.py").write_text(f"__version__ = {VERSION!r}\n")
    for version in ("1.0.0", VERSION):
        (package / "capi" / f"libonnxruntime.so.{version}").symlink_to(library())
    (tmp_path / "tests").symlink_to(ROOT / "tests")
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
    subprocess.run(
        ["bash", "-ec", "\n".join(commands)], cwd=tmp_path, env=os.environ | {"PATH": path}, check=True
    )
    done = subprocess.run([tmp_path / "client"], capture_output=True, text=True)
    assert done.stderr.startswith("usage: ")


@pytest.mark.peers
def test_golden_check_on_an_emulated_arm(tmp_path: Path):
    """By the row of the products that ONNX Runtime has for each processor: of integers where there is the dot
    product of bytes, of floats where there is none. Emulated: what real ones run is not checked."""
    tools = gcc.required()
    wheel = ["--only-binary", ":all:", "--platform", "manylinux_2_28_aarch64", "--dest", tmp_path / "wheel"]
    peers.run([sys.executable, "-m", "pip", "download", "-q", "--no-deps", *wheel, f"onnxruntime=={VERSION}"])
    (path,) = (tmp_path / "wheel").iterdir()
    with zipfile.ZipFile(path) as file:
        (name,) = fnmatch.filter(file.namelist(), "onnxruntime/capi/libonnxruntime.so.*")
        program = compiled(tools.arm_compiler, Path(file.extract(name, tmp_path)), tmp_path)
    made = bundle(tmp_path / "tiny", "int8")
    command = [tools.emulator, "-L", "/usr/aarch64-linux-gnu", "-cpu"]
    for processor, row in (("max", "whole"), ("cortex-a57", "products in float")):
        rows = judged_rows(peers.run([*command, processor, program, made, "check"]))
        assert [*rows][-1] == row


def test_it_is_short_and_linked():
    assert len(SOURCE.read_text().splitlines()) < 140
    assert "(../tests/examples/edge/client.c)" in COMMANDS.read_text()
