"""The format of calls and thoughts is found from a template, by what it shows or what it says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from helpers import serving
from tfm.refimpl.errors import CheckpointError
from tfm.runtime.text.call_detection import ARGUMENTS, NAME, find_format, thoughts_of
from tfm.runtime.text.call_formats import BY_NAME, FORMATS
from tfm.runtime.text.call_writer import write_answer
from tfm.runtime.text.chat_template import ChatTemplate
from tfm.runtime.text.tokenizer import Tokenizer

TOKENIZER = Tokenizer(serving.TOKENIZER.to_str(), serving.TOKENIZER.get_vocab_size())


@pytest.mark.parametrize("most", [9, 1])
@pytest.mark.parametrize("name", BY_NAME)
def test_a_format_is_known_by_its_calls(name: str, most: int) -> None:
    """Also where a template refuses several calls."""

    def render(messages: Sequence[Mapping[str, Any]], variables: Mapping[str, Any]) -> str:
        assert variables["tools"]
        text = "[INST]hi[/INST]"
        for message in messages[1:]:
            if len(message["tool_calls"]) > most:
                raise CheckpointError("one call at a time")
            functions = [call["function"] for call in message["tool_calls"]]
            calls = [(each["name"], each["arguments"]) for each in functions]
            text += f"<begin>{write_answer(BY_NAME[name], '', '', calls)}<end>"
        return text + "<begin>" * variables.get("add_generation_prompt", False)

    several = [each.name for each in FORMATS if each.begin == BY_NAME[name].begin]
    found = find_format("tools", "", render).name
    # One call in this form looks alike.
    assert found == name or (most == 1 and {name, found} <= {"deepseek-v3.1", "glm-4.7", "glm-4.5"})
    assert found in several


# What a template shows of a call, or says, with the format that it means.
TEMPLATES = {
    "hermes": serving.TOOLS,
    "glm-4.7": """{{ tools }}{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% for c in m.tool_calls %}
        {{- '<tool_call>' ~ c.function.name }}{% for k, v in c.function.arguments.items() -%}
        <arg_key>{{ k }}</arg_key><arg_value>{{ v if v is string else v | tojson }}</arg_value>{% endfor -%}
        </tool_call>{% endfor %}{% endfor %}""",
    "qwen3-coder": """{{ tools }}{% for m in messages %}{{ m.content }}{% for c in m.tool_calls %}
<tool_call>
<function={{ c.function.name }}>
{% for k, v in c.function.arguments.items() %}<parameter={{ k }}>
{{ v if v is string else v | string }}
</parameter>
{% endfor %}</function>
</tool_call>{% endfor %}{% endfor %}""",
    "llama-3": """{{ tools }}{% for m in messages %}<|{{ m.role }}|>{% if m.tool_calls %}
        {%- if m.tool_calls | length != 1 %}{{ raise_exception('one call') }}{% endif %}
        {%- set f = m.tool_calls[0].function -%}
        {"name": "{{ f.name }}", "parameters": {{ f.arguments | tojson }}}
        {%- else %}{{ m.content }}{% endif %}{% endfor %}
        {%- if add_generation_prompt %}<|assistant|>{% endif %}""",
    "mistral": """{{ tools }}{% for m in messages %}{{ m.content }}{% if m.tool_calls %}[TOOL_CALLS] [
        {%- for c in m.tool_calls %}{"name": "{{ c.function.name }}", "arguments":
        {{- c.function.arguments | tojson }}{% if c.id | length != 9 %}{{ raise_exception('') }}{% endif %}
        {{- ', "id": "%s"}' % c.id }}
        {%- if not loop.last %}, {% endif %}{% endfor %}]{% endif %}{% endfor %}""",
    "granite-3": """{% if tools %}Answer with <|tool_call|> followed by a list.{{ tools | tojson }}{% endif %}
        {%- for m in messages %}{{ m.content }}{% endfor %}""",
    "lfm2": """{% if tools %}List of tools: <|tool_list_start|>{{ tools }}<|tool_list_end|>{% endif %}
        {%- for m in messages %}{{ m.content }}{% endfor %}""",
    "text": "{{ tools }}{% for m in messages %}{{ m.content }}{% endfor %}",
}


@pytest.mark.parametrize("name", TEMPLATES)
def test_the_format_of_a_template(name: str) -> None:
    assert ChatTemplate(TEMPLATES[name], TOKENIZER).answers.name == name


def test_calls_between_marks_that_are_not_known_are_not_read() -> None:
    """Though a list of objects is a format of its own."""
    calls = write_answer(BY_NAME["xlam"], "", "", [(NAME, each) for each in ARGUMENTS])
    template = f"{{{{ tools }}}}{{% for m in messages %}}<m>{{% if m.tool_calls %}}<calls>{calls}</calls>"
    assert ChatTemplate(template + "{% endif %}{% endfor %}", TOKENIZER).answers.name == "text"


def test_a_template_without_tools_has_no_calls() -> None:
    assert ChatTemplate(serving.CHAT, TOKENIZER).answers.name == "text"
    both = ChatTemplate(serving.CHAT, TOKENIZER, tool_use=TEMPLATES["glm-4.7"])
    assert both.answers.name == "glm-4.7"


@pytest.mark.parametrize(
    ("source", "begin"),
    [
        ("{% if enable_thinking %}<think>\n{% endif %}", None),
        ("{{ m.content.split('</think>')[-1] }}", "<think>\n"),
        ("<|channel|>analysis<|message|>", "<|channel|>analysis<|message|>"),
        ("<|user|>hi<|end|>", None),
        ("[THINK]a[/THINK]", "[THINK]"),
        ("<|channel>thought\n<channel|>", "<|channel>thought\n"),
    ],
)
def test_the_marks_of_thoughts(source: str, begin: str | None) -> None:
    found = thoughts_of(source)
    assert (found and found.begin) == begin
    assert ChatTemplate(source + "{{ messages[0].content }}", TOKENIZER).answers.thoughts == found


def test_of_special_tokens_a_text_shows_those_alone_that_are_asked_for() -> None:
    begin, end = (TOKENIZER.control_tokens[token] for token in ("<|im_start|>", "<|im_end|>"))
    ids = [begin, *TOKENIZER.encode("the cat"), end]
    assert TOKENIZER.decode(ids) == "the cat"
    assert TOKENIZER.decode(ids, {begin}) == "<|im_start|>the cat"
