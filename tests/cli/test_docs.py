"""Pages and code agree: commands, options, exit codes and files."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import typer.main
from rich.text import Text
from tfm.cli import main
from tfm.cli.commands import generate
from tfm.refimpl import errors
from tfm.runtime.bundle.schemes import SCHEMES
from tfm.runtime.bundle.targets import TARGETS
from tfm.runtime.tasks.options import CHAT_SAMPLING

ROOT = Path(__file__).parents[2]
README, COMMANDS, ARCHITECTURE, GUIDE, QUANTIZATION = (
    (ROOT / f"{page}.md").read_text()
    for page in ("README", "docs/COMMANDS", "ARCHITECTURE", "docs/GUIDE", "docs/QUANTIZATION")
)
DOCS = ROOT / "docs"
PAGES = README + "".join(page.read_text() for page in (*DOCS.glob("*.md"), *DOCS.glob("tutorials/*.md")))


def options() -> dict[str, set[str]]:
    """Command -> its options, as typer has them."""
    group = typer.main.get_command(main.application())
    return {
        name: {o for p in command.params for o in (*p.opts, *p.secondary_opts)}
        for name, command in group.commands.items()  # type: ignore[attr-defined]
    }


def test_no_help_loses_its_brackets():
    """Rich takes words in brackets for markup, unless a backslash stands before them."""
    group = typer.main.get_command(main.application())
    helps = [p.help for c in group.commands.values() for p in c.params if p.help]  # type: ignore[attr-defined]
    assert any("\\[" in text for text in helps)
    assert [text for text in helps if Text.from_markup(text).plain != text.replace("\\[", "[")] == []


def section(page: str, title: str) -> str:
    return page.split(f"## {title}\n")[1].split("\n## ")[0]


def test_the_two_commands_stand_as_lines():
    lines = README.splitlines()
    assert (
        """    pip install '.[cpu,export]' && tfm-cli generate "Explain self-attention to a child.\""""
        in lines
    )
    assert "    pip install -e '.[export,test]' && pytest" in lines
    environment = "    git clone REPOSITORY tfm && cd tfm && python3 -m venv .venv && . .venv/bin/activate"
    assert lines.index(environment) < next(n for n, line in enumerate(lines) if "pip install" in line)


def test_every_command_is_in_the_table_and_no_other():
    named = re.findall(r"^\| `([a-z]+)[ A-Z]*` \|", section(COMMANDS, "Commands"), re.M)
    assert sorted(named) == sorted(options())


def test_the_options_that_are_named_exist():
    named = set(re.findall(r"`(--[a-z-]+)(?![a-z_-])", PAGES)) - {"--help"}
    assert named
    assert named <= set().union(*options().values())


def test_a_command_has_the_options_that_a_page_gives_it():
    known, lines = options(), re.findall(r"tfm-cli ([a-z]+) ([^`\n;&|#]*)", PAGES)
    assert {name for name, _ in lines} > {"chat", "serve", "export"}
    for name, rest in lines:
        assert set(re.findall(r"(?<!\S)--[a-z-]+", rest)) <= known.get(name, set()) or name == "tokenizer", (
            f"a page has `tfm-cli {name} {rest}`"
        )


@pytest.mark.parametrize(
    ("command", "wanted"),
    [
        (
            "generate",
            "--model --engine --quant --device --raw --greedy --temperature --max-new-tokens --seed --stop "
            "--json --file",
        ),
        ("chat", "--model --quant --device"),
        ("export", "--quant --kv --target --table --strict --opset --no-verify"),
        ("verify", "--source --text"),
        ("models", "--remove --json"),
        ("bench", "--model --quant --prompt-tokens --new-tokens --json"),
        ("inspect", "--json"),
        ("doctor", "--json"),
    ],
)
def test_the_names_that_others_script_against_stay(command, wanted):
    assert set(wanted.split()) <= options()[command]


def test_help_and_guide_state_how_a_chat_samples():
    stated = " ".join(f"--{name.replace('_', '-')} {value}" for name, value in CHAT_SAMPLING.items())
    for text in (GUIDE, generate.command.__doc__ or ""):
        assert stated in " ".join(text.split())


def test_exit_codes_are_those_of_the_errors():
    table = section(GUIDE, "Output, errors and exit codes")
    documented = {int(code) for code in re.findall(r"^\| (\d+) \|", table, re.M)}
    classes = {
        k.exit_code for k in vars(errors).values() if isinstance(k, type) and issubclass(k, errors.TfmError)
    }
    assert documented == classes | {1, 2, 130, 143}  # by the shell's rule, 128 and a signal's number


def test_the_cells_that_are_refused_say_so():
    (table, *_) = re.findall(r"^\| `--quant` .*?\n\n", QUANTIZATION, re.M | re.S)
    rows = [[c.strip(" `") for c in line.split("|")[1:-1]] for line in table.splitlines() if line]
    targets = [re.sub(r"`.*", "", cell) for cell in rows[0][1:]]
    cells = {
        (row[0].split("`")[0], t): cell for row in rows[2:] for t, cell in zip(targets, row[1:], strict=True)
    }
    assert {q for q, _ in cells} == set(SCHEMES)
    assert set(targets) == set(TARGETS)
    refused = {(scheme.name, target) for scheme in SCHEMES.values() for target in scheme.refused}
    assert {key for key, cell in cells.items() if cell.startswith("no: ")} == refused


def test_every_op_is_in_the_reading_order():
    named = re.findall(
        r"`([a-z0-9_]+)`",
        section(ARCHITECTURE, "Reading the specification")
        .split("In reading order:")[1]
        .split("Around them")[0],
    )
    files = sorted(p.stem for p in (ROOT / "refimpl" / "ops").glob("[!_]*.py"))
    assert sorted(named) == files
