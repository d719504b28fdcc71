"""Chat templates: messages to token ids, with bounded work; no message can become markup.

minijinja renders: its fuel bounds the steps, and a template gets no Python object whose attributes it could
follow. The rest is as in transformers: trimmed blocks, `tojson`, `raise_exception`, `strftime_now`, and the
names of the special tokens.
"""

from __future__ import annotations

import datetime
import json
import re
import secrets
from collections.abc import Callable, Mapping, Sequence

import minijinja

from ...refimpl.errors import CheckpointError, LimitError
from .tokenizer import Tokenizer

LIMITS = {"template": 256 * 2**10, "output": 4 * 2**20, "fuel": 2_000_000}
ROLES = ("system", "user", "assistant", "tool")

# A block that marks the answers for training; its contents are rendered.
GENERATION = re.compile(r"\{%(-?)\s*(end)?generation\s*(-?)%\}")

Message = Mapping[str, str]


class ChatTemplate:
    """A chat template and the tokenizer for its text."""

    def __init__(
        self, source: str, tokenizer: Tokenizer, *, bos: int | None = None, eos: Sequence[int] = ()
    ) -> None:
        if len(source) > LIMITS["template"]:
            raise LimitError(f"chat template may have {LIMITS['template']} characters, it has {len(source)}")
        self._source = GENERATION.sub(_replace_generation, source)
        self._tokenizer = tokenizer
        self._special_tokens = {
            "bos_token": tokenizer.id_to_token(bos),
            "eos_token": tokenizer.id_to_token(eos[0] if eos else None),
        }

    def render(self, messages: Sequence[Message], *, add_generation_prompt: bool = True) -> str:
        """The text of a conversation; `add_generation_prompt` appends the start of the model's answer."""
        for i, message in enumerate(messages):
            if message["role"] not in ROLES:
                raise LimitError(
                    f"message {i}: role must be one of {', '.join(ROLES)}, got {message['role']!r:.40}"
                )
        reasons: list[str] = []

        def raise_exception(reason: str) -> str:
            reasons.append(reason)
            raise ValueError(reason)

        def strftime_now(format: str) -> str:
            return datetime.datetime.now().strftime(format)

        environment = minijinja.Environment(trim_blocks=True, lstrip_blocks=True, fuel=LIMITS["fuel"])
        # Messages are passed as a literal: a template could call methods of Python's lists and dicts, such as
        # `messages.extend(messages)`, whose work no fuel counts.
        environment.add_filter("tojson", _tojson)
        environment.add_global("raise_exception", raise_exception)
        environment.add_global("strftime_now", strftime_now)
        try:
            text = environment.render_str(
                f"{{% set messages = {_tojson([dict(m) for m in messages])} +%}}{self._source}",
                tools=None,
                documents=None,
                add_generation_prompt=add_generation_prompt,
                **self._special_tokens,
            )
        except (minijinja.TemplateError, ValueError) as error:
            cause = reasons[0] if reasons else str(error).splitlines()[0]
            raise CheckpointError(f"chat template can't render this conversation: {cause:.200}") from None
        if len(text) > LIMITS["output"]:
            raise LimitError(f"a chat may render to {LIMITS['output']} characters, this gave {len(text)}")
        return text

    def encode(self, messages: Sequence[Message], *, add_generation_prompt: bool = True) -> list[int]:
        """Token ids of a conversation.

        If no message contains a control token, the rendered text is encoded as it is. Otherwise the template
        is rendered with placeholders for the messages, and control tokens count only outside of these.
        """
        text = self.render(messages, add_generation_prompt=add_generation_prompt)
        if not any(self._tokenizer.has_control_tokens(message["content"]) for message in messages):
            return self._tokenizer.encode_template(text)
        placeholders = [f"\ue000{secrets.token_hex(8)}\ue001" for _ in messages]
        rendered = self.render(
            [{**message, "content": mark} for message, mark in zip(messages, placeholders, strict=True)],
            add_generation_prompt=add_generation_prompt,
        )
        pattern = "|".join(map(re.escape, placeholders))
        markup = re.split(pattern, rendered)
        order = [placeholders.index(mark) for mark in re.findall(pattern, rendered)]
        # Templates often trim messages; which way is found by comparing.
        trims: tuple[Callable[[str], str], ...] = (str, str.strip, str.lstrip, str.rstrip)
        for trim in trims:
            parts = [(markup[0], True)]
            for i, following in zip(order, markup[1:], strict=True):
                parts.append((trim(messages[i]["content"]), False))
                parts.append((following, True))
            if "".join(part for part, _ in parts) == text:
                return self._tokenizer.encode_parts(parts)
        raise LimitError(
            "a message must not contain a control token where the template rewrites messages, got one: "
            "remove it from the message"
        )


def _replace_generation(block: re.Match[str]) -> str:
    statement = "endif" if block[2] else "if true"
    return f"{{%{block[1]} {statement} {block[3]}%}}"


def _tojson(
    value: object,
    indent: int | None = None,
    ensure_ascii: bool = False,
    separators: Sequence[str] | None = None,
    sort_keys: bool = False,
) -> str:
    """The filter `tojson` of transformers, which doesn't escape for HTML."""
    pair = None if separators is None else (separators[0], separators[1])
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=pair, sort_keys=sort_keys)


def common_prefix(a: Sequence[int], b: Sequence[int]) -> int:
    """The length of the common prefix."""
    for i, (x, y) in enumerate(zip(a, b, strict=False)):
        if x != y:
            return i
    return min(len(a), len(b))
