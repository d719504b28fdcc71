"""Library errors name parameters; the command line shows their flags."""

from __future__ import annotations

import subprocess
import sys

import pytest
import typer.main
from tfm.cli import main
from tfm.cli.options import with_flags
from tfm.refimpl.decoding.options import TextOptions, options


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        ("quant must be one of fp32, got 'x'", "--quant must be one of fp32, got 'x'"),
        (
            "kv=int8 isn't supported for target=standard: no",
            "--kv int8 isn't supported for --target standard: no",
        ),
        ("use quant=fp32 or quant=int8", "use --quant fp32 or --quant int8"),
        ("strict=True can be used only with quant=keep", "--strict can be used only with --quant keep"),
        ("table_bits=4 needs quant=int4", "--table 4 needs --quant int4"),
        ("bits=4.5 needs quant=auto", "--bits 4.5 needs --quant auto"),
        ("calibration.alpha must be 0 to 1, got 2", "--smooth must be 0 to 1, got 2"),
        ("calibration.method must be one of minmax", "--ranges must be one of minmax"),
        (
            "quant=int8-static needs calibration: a text",
            "--quant int8-static needs --calibrate FILE: a text",
        ),
        ("calibration needs x", "--calibrate needs x"),
        ("x: quants must be y, sub_quant=3", "x: quants must be y, sub_quant=3"),
    ],
)
def test_flags_stand_for_parameters(message: str, shown: str):
    assert with_flags(message) == shown


def test_threads_are_limited_before_numpy_is_imported():
    code = (
        "import os, sys, importlib.abc\n"
        "class Watch(importlib.abc.MetaPathFinder):\n"
        "    def find_spec(self, name, path, target=None):\n"
        "        if name == 'numpy': print(os.environ.get('OMP_NUM_THREADS'))\n"
        "sys.meta_path.insert(0, Watch())\n"
        "from tfm.cli.main import main\n"
        "main(['generate', 'hi', '--engine', 'numpy', '--model', '/no/such', '--threads', '3'])\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert run.stdout.splitlines()[:1] == ["3"], run.stderr


@pytest.mark.parametrize("name", ["generate", "chat", "translate", "summarize"])
def test_a_command_that_writes_has_every_option_of_decoding(name: str):
    declared = {flag: one for flag, one in options(TextOptions).items() if one.metavar}
    command = typer.main.get_group(main.application([name, "doctor"])).commands[name]
    made = {one.name: one for one in command.params if one.name in declared}
    assert made.keys() == declared.keys() >= {"greedy", "temperature", "seed", "beams", "stop"}
    for flag, one in made.items():
        assert f"--{flag.replace('_', '-')}" in one.opts
        assert one.help.startswith(declared[flag].help.removesuffix("."))
        assert one.default in (None, False), "what is left out is as the model asks"
        least = declared[flag].values.least
        assert getattr(one.type, "min", None) == {"top_k": -1, "no_repeat_ngram": 0}.get(flag, least)
