"""Usage errors say what is missing, whose an option is, and where commands and options are listed."""

from __future__ import annotations

import pytest


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("generate --kv int8", "--kv export)"),
        ("pull --size 3", "--size tokenizer compare train)"),
        ("pull --json", "--json answer attention bench classify"),
        (
            "generate --maximal-tokens 3",
            "--maximal-tokens --control-tokens --max-new-tokens",
        ),
        ("generate -v", "-v `tfm-cli generate --help`"),
        ("help", "'help' `tfm-cli --help`"),
        ("run x", "'run' `tfm-cli chat`? --help`"),
        ("rm x", "'rm' `tfm-cli models --remove NAME`? --help`"),
        ("version", "'version' `tfm-cli --version`? --help`"),
        ("serve -m x", "-m argument: `tfm-cli serve [NAME=]MODEL`)"),
        ("serve --model x", "--model argument: `tfm-cli serve [NAME=]MODEL`)"),
        ("generate x --n-predict 4", "--n-predict mean --max-new-tokens?)"),
        ("generate x --repeat-penalty 4", "--repeat-penalty mean --repetition-penalty?)"),
        ("context x", "'--text' read: `tfm-cli context MODEL --text FILE`"),
        ("tokenizer train x", "'--out' `tfm-cli tokenizer train FILES --out PATH`"),
        ("context --model x", "--model argument: `tfm-cli context MODEL`)"),
        ("generate x y", "(y) quotes, --model: `tfm-cli generate PROMPT --model MODEL`)"),
        ("generate --prompt=x", "--prompt argument: `tfm-cli generate PROMPT`)"),
        ("chat x y", "(y) write `tfm-cli chat [MODEL]`)"),
        ("doctor x", "(x) write `tfm-cli doctor`)"),
        ("export a", "'OUT' directory bundle `tfm-cli export MODEL OUT`"),
        ("tokenizer", "command bytes compare encode train)"),
    ],
)
def test_a_wrong_option_or_command_is_explained(tfm, arguments, message):
    tfm(*arguments.split()).failed(2, *message.split())
