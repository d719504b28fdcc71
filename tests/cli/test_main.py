"""Ends of commands: exit codes, one line on stderr, no raw control characters on a terminal, Ctrl-C."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys

import pytest
from helpers.refused import refused
from tfm.cli import console, main
from tfm.cli.commands import models
from tfm.refimpl import errors

# Names that others script against: they stay, and new ones may come.
COMMANDS = ("generate", "chat", "export", "verify", "inspect", "pull", "models", "doctor", "bench")
COMMANDS += ("attention", "context", "scaling", "classify", "tag", "fill", "embed", "answer")
COMMANDS += ("translate", "summarize")


def raising(monkeypatch, error):
    """Make `tfm-cli doctor` fail with this."""
    from tfm.cli.commands import doctor

    def report():
        raise error

    monkeypatch.setattr(doctor, "report", report)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.TfmError("said"), 1),
        (errors.CheckpointError("said"), 3),
        (errors.ConfigError("said"), 4),
        (errors.BundleError("said"), 5),
        (errors.DeviceError("said"), 6),
        (errors.ExportError("said"), 7),
        (errors.NumericError("said"), 8),
        (errors.LimitError("said"), 9),
        (errors.VerifyError("said"), 10),
        (OSError(errno.ENOSPC, "said"), 7),
        (PermissionError(errno.EACCES, "said"), 1),
        (RecursionError("said"), 1),
        (type("PanicException", (BaseException,), {})("said"), 1),
        (ModuleNotFoundError("said", name="torch"), 1),
        (ModuleNotFoundError("said", name="matplotlib"), 1),
    ],
    ids=lambda value: type(value).__name__,
)
def test_each_failure_is_a_line_and_a_code(tfm, monkeypatch, error, code):
    raising(monkeypatch, error)
    extra = {"torch": "export]", "matplotlib": "plot]"}
    tfm("doctor").failed(code, extra[error.name] if isinstance(error, ImportError) else "said")


def test_every_class_of_error_has_its_code():
    classes = [k for k in vars(errors).values() if isinstance(k, type) and issubclass(k, errors.TfmError)]
    assert {k.exit_code for k in classes} == set(range(1, 11))
    own = [k for k in classes if "exit_code" in vars(k)]
    assert len(own) == 10  # no two share a code; a narrower class has that of its base


@pytest.mark.parametrize(
    ("terminal", "said"), [(False, "tfm-cli: stopped\n"), (True, "\ntfm-cli: stopped\n")]
)
def test_ctrl_c_is_130_and_one_line_below_what_a_terminal_shows_of_it(tfm, monkeypatch, terminal, said):
    raising(monkeypatch, KeyboardInterrupt())
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal)
    ran = tfm("doctor")
    assert (ran.code, ran.out, ran.err) == (130, "", said)


def test_tfm_raise_shows_the_traceback(tfm, monkeypatch):
    raising(monkeypatch, errors.BundleError("said"))
    monkeypatch.setenv("TFM_RAISE", "1")
    with pytest.raises(errors.BundleError):
        tfm("doctor")


@pytest.mark.parametrize(
    "arguments",
    [
        ("frobnicate",),
        ("generate", "--frob"),
        ("generate", "hi", "--engine", "llama"),
        ("generate", "hi", "--max-new-tokens", "0"),
        ("generate", "hi", "--max-new-tokens", "many"),
        ("generate", "hi", "--temperature", "-1"),
        ("generate", "hi", "--temperature", "nan"),
        ("generate", "hi", "--top-p", "1.5"),
        ("generate", "hi", "--repetition-penalty", "-1"),
        ("generate", "hi", "--greedy", "--temperature", "1"),
        ("generate", "hi", "--typical-p", "0"),
        ("generate", "hi", "--presence-penalty", "nan"),
        ("generate", "hi", "--beams", "0"),
        ("generate", "hi", "--beams", "2", "--typical-p", "0.5"),
        ("generate", "hi", "--beams", "2", "--length-penalty", "inf"),
        ("generate", "hi", "--beams", "2", "--draft", "prompt"),
        ("generate", "hi", "--stop", ""),
        ("generate", "hi", "--seed", "-1"),
        ("generate", "hi", "--threads", "0"),
        ("generate", ""),
        ("generate", "  "),
        ("generate",),
        ("generate", "hi", "--file", "/no/such/file"),
        ("generate", "hi", "--file", __file__),
        ("export", "only-one"),
        ("export", "a", "b", "--quant", "int3"),
        ("pull",),
        ("verify",),
        ("bench", "--repeats", "0"),
    ],
    ids=" ".join,
)
def test_usage_is_2_before_anything_is_fetched(tfm, tmp_path, arguments):
    tfm(*arguments).failed(2)
    assert not (tmp_path / "cache").exists()


def test_a_prompt_that_is_no_utf8_is_usage(tfm):
    tfm("generate", stdin=b"\xff\xfe").failed(2, "UTF-8")


@pytest.mark.parametrize(
    ("command", "what"),
    [(("generate",), "the prompt"), (("classify", "the cat"), "text 2"), (("fill",), "text 1")],
)
def test_an_argument_that_is_no_utf8_is_usage(tfm, command, what):
    """Python gives such bytes as surrogates."""
    tfm(*command, "ab\udcff", "--model", "minilm-l6").failed(2, what, "UTF-8", "character", "3")


@pytest.mark.parametrize(
    ("command", "closed", "code", "out", "err"),
    [
        ("models", "<&- 2>&-", 0, "CATALOGUE", ""),
        ("models", ">&-", 2, "", "tfm-cli: stdout must be open, because tfm writes results"),
        ("models", "<&- >&- 2>&-", 2, "", ""),
        ("generate", "<&-", 2, "", "tfm-cli: Invalid value: the prompt is empty"),
    ],
)
def test_closed_streams(tmp_path, command, closed, code, out, err):
    script = f'"$0" -m tfm.cli {command} {closed}'
    env = os.environ | {"TFM_CACHE": str(tmp_path)}
    run = subprocess.run(["sh", "-c", script, sys.executable], capture_output=True, text=True, env=env)
    assert run.returncode == code, run.stderr
    assert run.stdout.startswith(out)
    assert bool(run.stdout) == bool(out)
    assert run.stderr.startswith(err)
    assert run.stderr.count("\n") == bool(err)


@pytest.mark.parametrize("command", ["", *main.COMMANDS])
def test_help(tfm, command):
    ran = tfm(*command.split(), "--help")
    assert ran.code == 0
    assert ran.err == ""
    assert "Usage" in ran.out


def test_the_list_of_commands_breaks_lines_at_its_own_width():
    """It would keep a line's end of a docstring's first paragraph."""
    for command in main.application().registered_commands:
        assert command.callback is not None
        summary, *_ = (command.callback.__doc__ or "").split("\n\n")
        assert summary, command.name
        assert "\n" not in summary.strip(), command.name


def test_the_help_of_generate_is_short_and_in_panels(tfm, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    ran = tfm("generate", "--help")
    panels = ("Options", "Choosing tokens", "Weights", "Speed")
    positions = [ran.out.index(f"─ {panel} ─") for panel in panels]
    assert positions == sorted(positions)
    assert ran.out.index("--max-new-tokens  ") < positions[1]
    assert ran.out.count("Example: ") == 3
    assert len(ran.out.splitlines()) < 200


def test_without_arguments_there_is_help(tfm):
    ran = tfm()
    assert ran.code == 0
    assert all(command in ran.out for command in main.COMMANDS)


@pytest.mark.parametrize(
    ("words", "completed"),
    [
        ("tfm-cli sca", {"scaling"}),
        ("tfm-cli bench --mark", {"--markdown"}),
        ("tfm-cli generate --model smollm2-1", {"smollm2-135m", "smollm2-1.7b"}),
        ("tfm-cli context minil", {"minilm-l6"}),
        ("tfm-cli export m out --quant int8-", {"int8-dynamic", "int8-static"}),
    ],
)
def test_a_shell_completes_commands_options_and_models(tfm, monkeypatch, capsys, words, completed):
    monkeypatch.setenv("_TFM_CLI_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", words)
    monkeypatch.setenv("COMP_CWORD", str(len(words.split()) - 1))
    with refused(SystemExit, 0):
        tfm()
    assert set(capsys.readouterr().out.split()) == completed


def test_the_help_names_completion(tfm):
    assert "--install-completion" in tfm("--help").out


def test_control_characters_of_a_name_are_spelt_out(tfm):
    tfm("inspect", "a\x1b]0;title\x07\n\x9bb\u202e").failed(3, "a\\x1b]0;title\\x07\\n\\x9bb\\u202e")


def test_a_line_can_be_read_back():
    text = "a\\n\n\\\x1b\u202e\\"
    spelt = console.line(text, raw=False)
    assert "\n" not in spelt
    assert spelt.encode().decode("unicode_escape") == text
    assert console.line(text, raw=True) == text


def test_generated_text_is_escaped_only_where_a_terminal_would_act(monkeypatch):
    text = "a\tb\n\x1b[31m\x85é\u2066"
    assert console.generated(text, raw=False) == text
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    assert console.generated(text, raw=False) == "a\tb\n\\x1b[31m\\x85é\\u2066"
    assert console.generated(text, raw=True) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (134_515_008, "134.5 MB"),
        (2e12, "2.0 TB"),
        (5e15, "5000.0 TB"),
    ],
)
def test_sizes(count, text):
    assert console.size(count) == text


def test_a_table_aligns_numbers_to_the_right(capsys):
    console.table(("NAME", "N"), [("a", 5), ("long\x1b", "1,000")])
    assert capsys.readouterr().out == "NAME          N\na             5\nlong\\x1b  1,000\n"


def talk(bundle, tmp_path, *more: str, **streams) -> subprocess.Popen:
    """A long generation in another process."""
    command = [
        sys.executable,
        "-m",
        "tfm.cli.main",
        "generate",
        "hi",
        "--model",
        str(bundle),
        "--max-new-tokens",
        "16000",
    ]
    environment = os.environ | {"TFM_CACHE": str(tmp_path)}
    return subprocess.Popen([*command, *more], stderr=subprocess.PIPE, env=environment, **streams)


@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize(
    ("number", "code", "said"), [(signal.SIGINT, 130, b"tfm-cli: stopped\n"), (signal.SIGTERM, 143, b"")]
)
def test_a_signal_ends_a_generation_at_once(bundle, tmp_path, number, code, said):
    with talk(bundle, tmp_path, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.read(1)
        process.send_signal(number)
        _, err = process.communicate(timeout=10)
        assert (process.returncode, err) == (code, said)


# Sends Ctrl-C to itself where the first module of a name is imported, or, with "exit" before the name, in a
# function that this import leaves for the interpreter's end; then it is the console script.
INTERRUPTED_AT = """
import atexit, os, signal, sys
class Finder:
    def find_spec(self, name, *_):
        if name == where[-1]:
            sys.meta_path.remove(self)
            atexit.register(interrupt) if where[0] == "exit" else interrupt()
def interrupt():
    os.kill(os.getpid(), signal.SIGINT)
where = sys.argv.pop(1).split()
if where == ["exit"]:
    atexit.register(interrupt)
sys.meta_path.insert(0, Finder())
from tfm.cli.__main__ import run
sys.exit(run())
"""


@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize("where", ["tfm.cli.main", "typer", "numpy", "exit numpy"])
def test_ctrl_c_before_and_after_a_command_is_one_line(bundle, tmp_path, where):
    command = [sys.executable, "-c", INTERRUPTED_AT, where, "verify", str(bundle)]
    ran = subprocess.run(
        command, capture_output=True, text=True, env=os.environ | {"TFM_CACHE": str(tmp_path)}
    )
    assert ran.returncode == 130, ran
    assert ran.stderr.removeprefix("checking the bundle\n") == "tfm-cli: stopped\n"


@pytest.mark.usefixtures("interruptible")
def test_ctrl_c_changes_nothing_once_the_process_only_ends(tmp_path):
    command = [sys.executable, "-c", INTERRUPTED_AT, "exit", "--version"]
    ran = subprocess.run(
        command, capture_output=True, text=True, env=os.environ | {"TFM_CACHE": str(tmp_path)}
    )
    assert (ran.returncode, ran.stderr) == (0, "")
    assert ran.stdout.startswith("tfm-cli ")


def test_ctrl_c_that_a_shell_ignores_stays_ignored():
    """As behind & in a script."""
    code = f"import signal, sys; signal.signal(signal.SIGINT, signal.SIG_IGN); exec({INTERRUPTED_AT!r})"
    ran = subprocess.run([sys.executable, "-c", code, "typer", "--version"], capture_output=True, text=True)
    assert (ran.returncode, ran.stderr) == (0, "")


def test_a_closed_pipe_ends_it_quietly(bundle, tmp_path):
    with talk(bundle, tmp_path, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.read(1)
        process.stdout.close()
        assert process.wait(timeout=20) == 141
        assert process.stderr is not None
        assert process.stderr.read() == b""


def test_commands_are_the_ones_that_others_script_against():
    assert set(main.COMMANDS) >= {*COMMANDS, "tokenizer"}
    assert models.command.__doc__
