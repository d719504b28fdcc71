"""What a user's text may spell of the added tokens of twenty tokenizers, and what it may not.

Through what a user reaches: a message of a chat, a text to continue, a text to embed. transformers lets a
text spell everything, so its ids count where no control token is among them.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from helpers import tiny_models
from helpers.task_models import ModelFiles
from helpers.user_tokenizers import TEXTS, UserTokenizer, tokenizers
from tfm.refimpl.checkpoint.formats.model_directory import Directory
from tfm.refimpl.checkpoint.generation_config import Generation
from tfm.refimpl.checkpoint.tokenizer_files import read_tokenizer, with_special_tokens
from tfm.runtime.tasks.base import TaskModel
from tfm.runtime.tasks.encoder_batches import encoded
from tfm.runtime.tasks.generate import prompt_ids
from tfm.runtime.text import tokenizer as module
from tfm.runtime.text.text_pieces import is_blank, text_pieces
from transformers import AutoTokenizer

MADE = tokenizers()


@dataclass(frozen=True)
class Both:
    """Our model and transformers' tokenizer of a directory."""

    made: UserTokenizer
    model: TaskModel
    theirs: Any

    def paths(self) -> dict[str, tuple[Callable[[str], list[int]], Callable[[str], list[int]]]]:
        """What a user reaches: ours, and transformers'."""
        found = {
            "raw": (lambda text: prompt_ids(self.model, text, raw=True), self._ids),
            "embed": (lambda text: encoded(self.model, text)[0].ids, self._ids),
        }
        if self.made.template is not None:
            found["message"] = (lambda text: prompt_ids(self.model, text), self._chat)
        return found

    def _ids(self, text: str) -> list[int]:
        return self.theirs(text)["input_ids"]

    def _chat(self, text: str) -> list[int]:
        options: Any = {"chat_template": self.made.template, "tokenize": True, "return_dict": False}
        return self.theirs.apply_chat_template([{"role": "user", "content": text}], **options)

    def check(self) -> None:
        """Each text, each path: transformers' ids, or no control token more than a harmless text has."""
        names = {self.theirs.convert_tokens_to_ids(token): token for token in self.made.control}
        assert {id: self.theirs.convert_ids_to_tokens(id) for id in names} == names, "it has all of them"
        control = {*names}
        spelled: set[int] = set()
        for name, (ours, theirs) in self.paths().items():
            harmless = [id for id in theirs("a") if id in control]
            for text in TEXTS:
                if not (want := theirs(text)) and name == "embed":
                    continue  # there is nothing to embed
                got = ours(text)
                if [id for id in want if id in control] == harmless:
                    spelled.update(want)
                    assert got == want, (name, text)
                else:
                    assert [id for id in got if id in control] == harmless, (name, text)
        assert {self.theirs.convert_tokens_to_ids(token) for token in self.made.text} <= spelled, (
            "no text had it"
        )


def both(name: str, folder: Path) -> Both:
    made = MADE[name]
    directory = Directory(made.write(folder / "model"))
    theirs = AutoTokenizer.from_pretrained(directory.path)
    about, config_json = (directory.object(file) or {} for file in ("tokenizer_config.json", "config.json"))
    applied = read_tokenizer(directory, about, config_json)
    assert applied is not None
    template = made.template and with_special_tokens(made.template, applied.special_tokens)
    source = SimpleNamespace(
        tokenizer=applied.text, chat_template=template, tool_use_template=None, labels=(),
        generation=Generation(eos=tuple(theirs.convert_tokens_to_ids(list(made.eos)))),
    )  # fmt: skip
    config = tiny_models.llama()
    config = replace(config, context=1000, embedding=replace(config.embedding, vocabulary=50_000))
    return Both(made, TaskModel(SimpleNamespace(config=config), source), theirs)


@pytest.mark.parametrize("name", MADE)
def test_a_user_s_text_has_the_ids_of_transformers_and_no_control_token(name: str, tmp_path: Path) -> None:
    both(name, tmp_path).check()


RULES = {
    "special alone": lambda pieces, unused: {*unused, *filter(is_blank, pieces)},
    "white space to Python": lambda pieces, unused: {piece for piece in pieces if not piece.strip()},
    "a tag alone": lambda pieces, unused: text_pieces(pieces, [*unused, "<s>"]),
}


@pytest.mark.parametrize(
    ("rule", "name"),
    [
        *(("special alone", name) for name in ("gemma", "llama", "phi3", "qwen", "starcoder", "t5")),
        *(("white space to Python", name) for name in ("gemma", "llama", "gpt2", "deepseek coder", "bert")),
        ("a tag alone", "phi3"),
    ],
)  # fmt: skip
def test_another_rule_is_seen(rule: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "text_pieces", RULES[rule])
    with pytest.raises(AssertionError):
        both(name, tmp_path).check()


def test_what_the_model_uses_is_control(tmp_path: Path) -> None:
    """The template, the settings, and what is put around a text; a tag with its other one."""
    model = both("gemma", tmp_path).model
    text = model.text
    code = text.token_to_id("<code>")
    around = json.loads(text.to_json())
    around["post_processor"] = {
        "type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<code>", "type_id": 0}}],
        "pair": [], "special_tokens": {"<code>": {"id": "<code>", "ids": [code], "tokens": ["<code>"]}},
    }  # fmt: skip
    source = ModelFiles(text.to_json(), generation=Generation(eos=(code,)))
    for one in (
        module.Tokenizer(text.to_json(), 50_000, template="{{ x }}<code>"),
        module.read_tokenizer(source, model.config),
        module.Tokenizer(json.dumps(around), 50_000),
        module.read_tokenizer(ModelFiles(text.to_json(), tool_use_template="<code>"), model.config),
    ):
        assert one is not None
        assert one.control_tokens.keys() - text.control_tokens.keys() == {"<code>", "</code>"}


def test_pieces_of_a_text_keep_their_ids_beside_a_mark(tmp_path: Path) -> None:
    found = both("gemma", tmp_path)
    for ours, _ in found.paths().values():
        tokens = found.theirs.convert_ids_to_tokens(ours("a  b<end_of_turn><code>c    d</code>"))
        assert [token for token in tokens if token in found.made.text] == ["▁▁", "<code>", "▁▁▁▁"]


def test_there_are_twenty_and_forty_three() -> None:
    assert (len(MADE), len(set(TEXTS))) == (20, 43)
