"""Usage errors name the command that has an option, and where commands and options are listed."""

from __future__ import annotations

import pytest


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("generate --kv int8", "No such option: --kv (an option of export)"),
        ("pull --size 3", "No such option: --size (an option of tokenizer compare, tokenizer train)"),
        ("pull --json", "No such option: --json (an option of answer, attention, bench and "),
        ("generate --max-tokens 3", "No such option: --max-tokens (Possible options: --max-new-tokens)"),
        ("generate -v", "No such option: -v (`tfm-cli generate --help` lists the options)"),
        ("help", "No such command 'help'. (`tfm-cli --help` lists the commands)"),
        ("tokenizer", "Missing command. (compare, encode, train)"),
    ],
)
def test_a_wrong_option_or_command_is_explained(tfm, arguments, message):
    tfm(*arguments.split()).failed(2, message)
