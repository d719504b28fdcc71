"""Does tfm render chat templates as transformers does? For a folder of them, file by file.

    PYTHONPATH=tests python -m reports.chat_templates FOLDER

Each file of FOLDER is a template. It renders six conversations, with and without tools and the start of an
answer. What transformers renders must be rendered equally, where a developer's message is a system message to
templates that don't know that role, and a message a list of parts to those that show it in no other way;
exit code 1: something wasn't.
"""

# ruff: noqa: T201  (a script: what it prints is its result)

from __future__ import annotations

import functools
import itertools
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from helpers import text_strategies
from tfm.refimpl.checkpoint.tokenizer_files import with_special_tokens
from tfm.refimpl.errors import TfmError
from tfm.runtime.text.chat_template import ChatTemplate
from tfm.runtime.text.tokenizer import Tokenizer
from transformers import PreTrainedTokenizerFast

SPECIAL_TOKENS = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<|eot_id|>"}
USER = {"role": "user", "content": "  Wie spät\n ist es in <b>\"Oslo\"</b>, 'é😀'?\t"}
CALL = {
    "id": "call00001",
    "type": "function",
    "function": {"name": "get_time", "arguments": {"city": "Oslo", "offset": 1.0, "exact": True, "of": None}},
}
TOOL_ANSWER = {"role": "tool", "name": "get_time", "tool_call_id": "call00001", "content": '{"time": 12.0}'}
CONVERSATIONS: Mapping[str, list[dict[str, Any]]] = {
    "a question": [USER],
    "a system message": [{"role": "system", "content": "Be kind."}, USER],
    "a developer message": [{"role": "developer", "content": "Be kind."}, USER],
    "turns": [USER, {"role": "assistant", "content": "<think>\nhm\n</think>\n\nNoon. "}, USER],
    "a reason": [
        USER,
        {"role": "assistant", "content": "Noon.", "reasoning": "It is 12.", "name": None},
        USER,
    ],
    "a call": [USER, {"role": "assistant", "content": "", "tool_calls": [CALL]}, TOOL_ANSWER],
}
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "get_time",
            "description": "The time in a city, <now>.",
            "parameters": {
                "type": "object",
                "properties": {
                    "city": {"type": "string", "description": "its name", "enum": ["Oslo", "Rome"]},
                    "offset": {"type": "number", "default": 1.0, "minimum": -0.0, "maximum": 1e16},
                },
                "required": ["city"],
            },
        },
    }
]
LIBRARY = text_strategies.byte_level()
TOKENIZER = Tokenizer(LIBRARY.to_str(), LIBRARY.get_vocab_size())
REFERENCE = PreTrainedTokenizerFast(tokenizer_object=LIBRARY, **SPECIAL_TOKENS)


def reference(source: str, messages: list[dict[str, Any]], asked: Mapping[str, Any]) -> Any:
    """What transformers renders, None where it refuses."""
    try:
        return REFERENCE.apply_chat_template(messages, chat_template=source, tokenize=False, **asked)
    except Exception:  # whatever ends a template there
        return None


@functools.cache
def wants_parts(source: str) -> bool:
    """Whether a template shows a message only as a list of parts."""
    text, parts = (
        reference(source, [{"role": "user", "content": content}], {})
        for content in ("hi there", [{"type": "text", "text": "hi there"}])
    )
    return text is not None and "hi there" not in text and parts is not None and "hi there" in parts


def known(message: dict[str, Any], source: str) -> dict[str, Any]:
    """A message as a template knows it."""
    role = message["role"]
    role = "system" if role == "developer" and "developer" not in source else role
    content = [{"type": "text", "text": message["content"]}] if wants_parts(source) else message["content"]
    return {**message, "role": role, "content": content}


def compared(source: str) -> Iterator[tuple[str, str]]:
    """Each rendering of a template: what was asked, and `equal`, `refused by both`, `rendered by tfm alone`,
    or what tfm does instead of what transformers renders."""
    ours = ChatTemplate(with_special_tokens(source, SPECIAL_TOKENS), TOKENIZER)
    for (name, messages), tools, prompt in itertools.product(
        CONVERSATIONS.items(), (None, TOOLS), (False, True)
    ):
        asked: Any = {"tools": tools, "add_generation_prompt": prompt}
        want = reference(source, [known(one, source) for one in messages], asked)
        try:
            got = ours.render(messages, **asked)
        except TfmError as error:
            verdict = "refused by both" if want is None else f"refused: {error}"
        else:
            alone = "rendered by tfm alone" if want is None else f"different: {got!r} instead of {want!r}"
            verdict = "equal" if got == want else alone
        yield f"{name}, tools={tools is not None}, add_generation_prompt={prompt}", verdict


def main(folder: Path) -> int:
    counts: Counter[str] = Counter()
    for file in sorted(folder.iterdir()):
        for asked, verdict in compared(file.read_bytes().decode()):
            counts[verdict.partition(":")[0]] += 1
            if ":" in verdict:
                print(f"{file.name}: {asked}: {verdict:.400}")
    print(f"{len(list(folder.iterdir()))} templates:", dict(counts))
    return int(any(counts[verdict] for verdict in ("different", "refused")))


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
