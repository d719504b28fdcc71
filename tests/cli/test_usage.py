"""Usage errors say what is missing, whose an option is, and where commands and options are listed."""

from __future__ import annotations

import pytest


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("generate --kv int8", "No such option: --kv (an option of export)"),
        ("pull --size 3", "No such option: --size (an option of tokenizer compare, tokenizer train)"),
        ("pull --json", "No such option: --json (an option of answer, attention, bench, classify and "),
        (
            "generate --maximal-tokens 3",
            "No such option: --maximal-tokens (Possible options: --control-tokens, --max-new-tokens)",
        ),
        ("generate -v", "No such option: -v (`tfm-cli generate --help` lists the options)"),
        ("help", "No such command 'help'. (`tfm-cli --help` lists the commands)"),
        ("run x", "No such command 'run'. (did you mean `tfm-cli chat`? `tfm-cli --help` lists"),
        ("context x", "Missing option '--text'. (The text to read)"),
        (
            "export a",
            "Missing argument 'OUT'. (The directory of the bundle; a bundle that is there is ",
        ),
        ("tokenizer", "Missing command. (bytes, compare, encode, train)"),
    ],
)
def test_a_wrong_option_or_command_is_explained(tfm, arguments, message):
    tfm(*arguments.split()).failed(2, message)
