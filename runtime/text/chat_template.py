"""Chat templates: messages to ids, with bounded work, and without a message turning into markup.

Rendering is minijinja's: its fuel bounds the steps, and a template gets no Python object to reach
further from. The rest is as transformers does it: blocks trimmed, `tojson`, `raise_exception`,
`strftime_now`, the names of the special tokens.
"""

from __future__ import annotations

import datetime
import json
import re
import secrets
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import minijinja

from ...refimpl.errors import CheckpointError, LimitError
from .tokenizer import Tokenizer

LIMITS = {"template": 256 * 2**10, "output": 4 * 2**20, "fuel": 2_000_000}
ROLES = ("system", "user", "assistant", "tool")

# A block that only training reads: what it encloses is rendered.
GENERATION = re.compile(r"\{%(-?)\s*(end)?generation\s*(-?)%\}")

Message = Mapping[str, str]


class ChatTemplate:
    """A template and the tokenizer that its text is for."""

    def __init__(
        self, source: str, tokenizer: Tokenizer, *, bos: int | None = None, eos: Sequence[int] = ()
    ) -> None:
        if len(source) > LIMITS["template"]:
            raise LimitError(f"chat template may have {LIMITS['template']} characters, it has {len(source)}")
        self._source = GENERATION.sub(
            lambda m: f"{{%{m[1]} {'endif' if m[2] else 'if true'} {m[3]}%}}", source
        )
        self._tokenizer = tokenizer
        self._names = {"bos_token": tokenizer.token(bos), "eos_token": tokenizer.token(next(iter(eos), None))}

    def render(self, messages: Sequence[Message], *, prompt: bool = True) -> str:
        """The text of a conversation; `prompt` opens the answer that the model shall write."""
        for i, message in enumerate(messages):
            if message["role"] not in ROLES:
                raise LimitError(
                    f"message {i}: role must be one of {', '.join(ROLES)}, got {message['role']!r:.40}"
                )
        said: list[str] = []

        def refuse(reason: str) -> str:
            said.append(reason)
            raise ValueError(reason)

        environment = minijinja.Environment(trim_blocks=True, lstrip_blocks=True, fuel=LIMITS["fuel"])
        # Messages come as a literal: of Python's own lists and dicts a template could call methods,
        # `messages.extend(messages)` among them, which no fuel counts.
        environment.add_filter("tojson", _tojson)
        environment.add_global("raise_exception", refuse)
        environment.add_global("strftime_now", lambda form: datetime.datetime.now().strftime(form))
        try:
            text = environment.render_str(
                f"{{% set messages = {_tojson([dict(m) for m in messages])} +%}}{self._source}",
                tools=None,
                documents=None,
                add_generation_prompt=prompt,
                **self._names,
            )
        except (minijinja.TemplateError, ValueError) as error:
            cause = said[0] if said else str(error).splitlines()[0]
            raise CheckpointError(f"chat template can't render this conversation: {cause:.200}") from None
        if len(text) > LIMITS["output"]:
            raise LimitError(f"a chat may render to {LIMITS['output']} characters, this gave {len(text)}")
        return text

    def encode(self, messages: Sequence[Message], *, prompt: bool = True) -> list[int]:
        """Ids of a conversation.

        Where no message holds the name of a control token, the rendered text is encoded as it is,
        as everyone does. Otherwise the template is rendered about placeholders, and control tokens
        are read only outside of them.
        """
        text = self.render(messages, prompt=prompt)
        if not any(self._tokenizer.holds_control(message["content"]) for message in messages):
            return self._tokenizer.encode_template(text)
        marks = [f"\ue000{secrets.token_hex(8)}\ue001" for _ in messages]
        about = self.render(
            [{**message, "content": mark} for message, mark in zip(messages, marks, strict=True)],
            prompt=prompt,
        )
        parts = re.split("|".join(map(re.escape, marks)), about)
        order = [marks.index(mark) for mark in re.findall("|".join(map(re.escape, marks)), about)]
        trims: tuple[Callable[[str], str], ...] = (str, str.strip, str.lstrip, str.rstrip)
        for trim in trims:
            pieces = [(parts[0], True)]
            for number, part in zip(order, parts[1:], strict=True):
                pieces += [(trim(messages[number]["content"]), False), (part, True)]
            if "".join(piece for piece, _ in pieces) == text:
                return self._tokenizer.encode_marked(pieces)
        raise LimitError(
            "a message holds the name of a control token, and this template rewrites messages, "
            "so it can't be kept apart: leave the name out"
        )


def _tojson(
    value: Any,
    indent: int | None = None,
    ensure_ascii: bool = False,
    separators: Sequence[str] | None = None,
    sort_keys: bool = False,
) -> str:
    """JSON as transformers' templates know it: not escaped for HTML."""
    between = None if separators is None else (separators[0], separators[1])
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=between, sort_keys=sort_keys
    )


def common_prefix(a: Sequence[int], b: Sequence[int]) -> int:
    """How many first ids are the same."""
    for i, (x, y) in enumerate(zip(a, b, strict=False)):
        if x != y:
            return i
    return min(len(a), len(b))
