"""A model for agents: its engine writes what a script says, whatever a client puts into the prompt."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from tfm.refimpl.engine.numpy_engine import NumpyEngine
from tfm.runtime.tasks import Model
from tokenizers import Tokenizer

from helpers import serving, tiny_models

BEGINS = "<|im_start|>assistant\n"
RESULT = "<|im_start|>tool"
TEMPLATE = serving.TOOLS.replace(
    "{{ m.content }}",
    "{% if m.reasoning_content %}<think>\n{{ m.reasoning_content }}\n</think>\n\n{% endif %}{{ m.content }}",
)

# Two tools, one after the other, and what is said of both; the first with thoughts and a text before it.
CITY, ZONE = {"city": 'Oslo, "north" é'}, {"zone": "Europe/Oslo"}
THOUGHTS, BEFORE, AFTER = "I need the weather.", "Let me look.", "It is 7 degrees at 12:30 in Oslo."
CALL = '<tool_call>\n{"name": "%s", "arguments": %s}\n</tool_call>'
SCRIPT = {
    0: f"<think>\n{THOUGHTS}\n</think>\n\n{BEFORE}\n"
    + CALL % ("weather", json.dumps(CITY, ensure_ascii=False)),
    1: CALL % ("clock", json.dumps(ZONE)),
    2: AFTER,
}
WEATHER = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
    "additionalProperties": False,
}
CLOCK = {**WEATHER, "properties": {"zone": {"type": "string"}}, "required": ["zone"]}
RESULTS = {"weather": "7 degrees", "clock": "12:30"}
QUESTION = "How warm is it in Oslo, and how late?"


class Agent(NumpyEngine):
    """The NumPy engine, whose logits make it write `script[n]` after a prompt with n results of tools, one
    text at a time. `prompts` are what it was asked."""

    def __init__(self, script: Mapping[int, str], tokenizer: Tokenizer = serving.TOKENIZER) -> None:
        config = tiny_models.llama(vocabulary=tokenizer.get_vocab_size(), context=2**16, layers=1)
        super().__init__(config, tiny_models.weights(config, seed=3))
        self._text = tokenizer
        self._start, self._stop = (tokenizer.token_to_id(f"<|im_{which}|>") for which in ("start", "end"))
        self._answers = {n: [*self._ids(text), self._stop] for n, text in script.items()}
        self._begins = len(self._ids(BEGINS))
        self._read: list[int] = []
        self.prompts: list[str] = []

    def _ids(self, text: str) -> list[int]:
        return self._text.encode(text, add_special_tokens=False).ids

    def step(self, tokens: Any, cache: Any, lengths: Any = None, at: Any = None) -> Any:
        kept = int(cache.lengths[0])
        logits, cache = super().step(tokens, cache, lengths, at)
        self._read = self._read[:kept] + tokens[0].tolist()
        end = len(self._read) - self._read[::-1].index(self._start) - 1 + self._begins
        prompt = self._text.decode(self._read[:end], skip_special_tokens=False)
        if len(self._read) >= end and prompt.endswith(BEGINS):
            if len(self._read) == end:
                self.prompts.append(prompt)
            answer = self._answers[prompt.count(RESULT)]
            logits[0, -1, answer[len(self._read) - end]] += 1000
        return logits, cache


def agent(script: Mapping[int, str] = SCRIPT) -> Model:
    """A chat model that acts as a script says."""
    stop = serving.TOKENIZER.token_to_id("<|im_end|>")
    return serving.model(Agent(script), TEMPLATE, eos=(stop,))
