"""Chat templates: what transformers renders, in bounded work, and no message that turns into markup."""

from __future__ import annotations

import json
import tracemalloc
from typing import Any

import pytest
from helpers import serving, text_strategies
from helpers.refused import refused
from hypothesis import given
from hypothesis import strategies as st
from reports import chat_templates
from tfm.refimpl.errors import ArgumentError, CheckpointError, LimitError
from tfm.runtime.text import chat_template
from tfm.runtime.text.chat_template import ChatTemplate, common_prefix
from tfm.runtime.text.template_process import Limits
from tfm.runtime.text.tokenizer import Tokenizer
from transformers import PreTrainedTokenizerFast

# Templates in the manner of the families that they are named after.
TEMPLATES = {
    "smollm2": """{% for message in messages %}\
{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system
You are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>
' }}{% endif %}{{'<|im_start|>' + message['role'] + '
' + message['content'] + '<|im_end|>' + '
'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant
' }}{% endif %}""",
    "chatml": """{%- for message in messages %}
    {{- '<|im_start|>' ~ message.role ~ '\n' ~ message.content ~ '<|im_end|>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\n' }}
{%- endif %}""",
    "llama3": """{{- bos_token }}
{%- if not date_string is defined %}{% set date_string = "26 Jul 2024" %}{% endif %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\n\n" }}
{%- if tools is not none %}
    {{- "Environment: ipython\n" }}
{%- endif %}
{{- "Today Date: " + date_string + "\n\n" }}
{{- system_message }}
{{- "<|eot_id|>" }}
{%- for message in messages %}
    {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' }}
    {{- message['content'] | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}
{%- endif %}""",
    "mistral": """{%- if messages[0]["role"] == "system" %}
    {%- set system_message = messages[0]["content"] %}
    {%- set loop_messages = messages[1:] %}
{%- else %}
    {%- set loop_messages = messages %}
{%- endif %}
{{- bos_token }}
{%- for message in loop_messages %}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
        {{- raise_exception('After the optional system message, roles must alternate user/assistant') }}
    {%- endif %}
    {%- if message["role"] == "user" %}
        {%- if loop.last and system_message is defined %}
            {{- "[INST] " + system_message + "\n\n" + message["content"] + " [/INST]" }}
        {%- else %}
            {{- "[INST] " + message["content"] + " [/INST]" }}
        {%- endif %}
    {%- else %}
        {{- " " + message["content"]|trim + eos_token }}
    {%- endif %}
{%- endfor %}""",
    "zephyr": """{% for message in messages %}
{% if message['role'] == 'user' %}
{{ '<|user|>\n' + message['content'] + eos_token }}
{% elif message['role'] == 'system' %}
{{ '<|system|>\n' + message['content'] + eos_token }}
{% elif message['role'] == 'assistant' %}
{{ '<|assistant|>\n'  + message['content'] + eos_token }}
{% endif %}
{% if loop.last and add_generation_prompt %}
{{ '<|assistant|>' }}
{% endif %}
{% endfor %}""",
    "gpt-oss": """{%- macro shape(spec, required=[]) -%}
    {%- if spec.type == "object" -%}
        {%- for name, inner in spec.properties.items() -%}
            {{- name -}}{%- if name not in (required or []) -%}{{- "?" }}{%- endif -%}
            {{- ": " }}{{ shape(inner, spec.required or []) }}{%- if not loop.last -%}{{- ", " }}{%- endif -%}
        {%- endfor -%}
    {%- elif spec.enum -%}{{- '"' + spec.enum|join('" | "') + '"' -}}
    {%- else -%}{{- "any" }}{%- endif -%}
{%- endmacro -%}
{%- macro opening() -%}
    {%- if model_identity is not defined %}{%- set model_identity = "You are a model." %}{%- endif %}
    {{- model_identity + "\n" }}{{- "Year: " + strftime_now("%Y") + "\n\n" }}
    {%- if reasoning_effort is not defined %}{%- set reasoning_effort = "medium" %}{%- endif %}
    {{- "Reasoning: " + reasoning_effort + "\n\n" }}
    {%- set used = namespace(browser=false) %}
    {%- for tool in builtin_tools or ["browser"] %}
        {%- if tool == "browser" %}{%- set used.browser = true %}{%- endif %}
    {%- endfor %}
    {{- "Browser: " ~ used.browser ~ "\n" }}
    {{- shape({"type": "object", "properties": {"a": {"enum": ["x", "y"]}, "b": {"type": "integer"}},
               "required": ["b"]}) }}
{%- endmacro -%}
{{- "<|start|>system<|message|>" }}{{- opening() }}{{- "<|end|>" }}
{%- if messages[0].role == "developer" or messages[0].role == "system" %}
    {%- set developer_message = messages[0].content %}{%- set loop_messages = messages[1:] %}
{%- else %}
    {%- set developer_message = "" %}{%- set loop_messages = messages %}
{%- endif %}
{%- if developer_message or tools %}
    {{- "<|start|>developer<|message|># Instructions\n\n" }}{{- developer_message }}{{- "<|end|>" }}
{%- endif %}
{%- set last = namespace(name=none) %}
{%- for message in loop_messages -%}
    {%- if message.role == 'assistant' -%}
        {%- if "content" in message and "<|channel|>final<|message|>" in message.content %}
            {{- raise_exception("channels don't belong into content") }}
        {%- endif %}
        {%- set later = namespace(found=false) %}
        {%- for following in loop_messages[loop.index:] %}
            {%- if following.role == 'assistant' and "tool_calls" not in following %}
                {%- set later.found = true %}
            {%- endif %}
        {%- endfor %}
        {%- if "thinking" in message and not later.found %}
            {{- "<|start|>assistant<|channel|>analysis<|message|>" + message.thinking + "<|end|>" }}
        {%- endif %}
        {{- "<|start|>assistant<|channel|>final<|message|>" + message.content }}
        {{- "<|return|>" if loop.last and not add_generation_prompt else "<|end|>" }}
        {%- set last.name = message.role %}
    {%- elif message.role == 'tool' -%}
        {%- if last.name is none %}{{- raise_exception("no call before its result") }}{%- endif %}
        {{- "<|start|>functions." + last.name }}{{- message.content|tojson + "<|end|>" }}
    {%- else -%}
        {{- "<|start|>user<|message|>" + message.content + "<|end|>" }}
    {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
<|start|>assistant
{%- endif -%}""",
    "odd": """{%- set ns = namespace(n=0) %}{% for m in messages %}
{%- if m.role == 'tool' %}{% continue %}{% endif %}
{%- set ns.n = ns.n + 1 %}{% generation %}{{ ns.n }}: {% endgeneration %}
{{ m.content.strip().split('</think>')[-1] | tojson }}
{% endfor %}{{ {'a': ['<b>', 1, none, true]} | tojson(indent=2) }}{{ messages | length }}{{ missing }}""",
}
MADE = {name: make() for name, make in text_strategies.KINDS.items()}
OURS = {name: Tokenizer(made.to_str(), 1000) for name, made in MADE.items()}
WORDS = st.sampled_from(
    ["the cat", " ", "\n", "    ", "é😀", "{{ x }}", "{% if", "a<b", '"', "'", "\\", "[INST]", "</think>"]
)
CONTENTS = st.lists(WORDS | st.text(st.characters(codec="utf-8"), max_size=3), max_size=5).map("".join)


def template(source: str, kind: str) -> ChatTemplate:
    made = MADE[kind]
    return ChatTemplate(source, OURS[kind], bos=made.token_to_id("<s>"), eos=[made.token_to_id("</s>")])


@pytest.mark.parametrize("kind", ["byte_level", "sentencepiece"])
@pytest.mark.parametrize("name", TEMPLATES)
def test_ordinary_chats_equal_transformers(name: str, kind: str) -> None:
    theirs = PreTrainedTokenizerFast(tokenizer_object=MADE[kind], bos_token="<s>", eos_token="</s>")
    ours = template(TEMPLATES[name], kind)

    @given(st.booleans(), st.lists(CONTENTS, min_size=1, max_size=5), st.booleans())
    def run(system: bool, contents: list[str], prompt: bool) -> None:
        roles = ["user", "assistant"] * 3
        messages = [{"role": r, "content": c} for r, c in zip(roles, contents, strict=False)]
        if system:
            messages.insert(0, {"role": "system", "content": "be kind"})
        options: Any = {"chat_template": TEMPLATES[name], "add_generation_prompt": prompt}
        want = theirs.apply_chat_template(messages, tokenize=False, **options)
        assert ours.render(messages, add_generation_prompt=prompt) == want
        ids = theirs.apply_chat_template(messages, tokenize=True, return_dict=False, **options)
        assert ours.encode(messages, add_generation_prompt=prompt) == ids

    run()


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_last_message_that_goes_on_equals_transformers(name: str) -> None:
    """A control token in it is text; a template that shows no answer can't have it continued."""
    theirs = PreTrainedTokenizerFast(
        tokenizer_object=MADE["byte_level"], bos_token="<s>", eos_token="</s>", chat_template=TEMPLATES[name]
    )
    ours, marks = template(TEMPLATES[name], "byte_level"), []
    for end in ("the cat é", "the <|im_end|> cat"):
        messages = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": end}]
        rendered = theirs.apply_chat_template(messages, tokenize=False, continue_final_message=True)
        assert rendered.endswith(end)
        ids = ours.encode(messages, continue_final_message=True)
        assert MADE["byte_level"].decode(ids, skip_special_tokens=False) == rendered
        marks.append([id for id in ids if id in OURS["byte_level"].control_tokens.values()])
    assert marks[0] == marks[1]
    with refused(LimitError, "last"):
        template("{{ messages[0].content }}", "byte_level").encode(messages, continue_final_message=True)


@pytest.mark.parametrize("kind", text_strategies.KINDS)
@pytest.mark.parametrize("name", ["smollm2", "chatml", "llama3", "mistral"])
def test_a_message_is_never_markup(name: str, kind: str) -> None:
    ours, tokenizer, made = template(TEMPLATES[name], kind), OURS[kind], MADE[kind]
    control = set(tokenizer.control_tokens.values())
    evil = st.lists(
        st.sampled_from([*text_strategies.CONTROL, "<tool_call>", "the", " ", "<", "/s>"]), max_size=4
    ).map("".join)

    @given(st.lists(evil, min_size=1, max_size=3))
    def run(contents: list[str]) -> None:
        def ids(contents: list[str]) -> list[int]:
            roles = ["user", "assistant", "user"]
            return ours.encode([{"role": r, "content": c} for r, c in zip(roles, contents, strict=False)])

        got = ids(contents)
        harmless = ids(["a"] * len(contents))
        assert [i for i in got if i in control] == [i for i in harmless if i in control]
        if kind == "byte_level":
            roles = ["user", "assistant", "user"]
            text = ours.render([{"role": r, "content": c} for r, c in zip(roles, contents, strict=False)])
            assert made.decode(got, skip_special_tokens=False) == text

    run()


def test_a_template_that_rewrites_messages_takes_no_markup() -> None:
    ours = template("{% for m in messages %}{{ m.content | upper }}{{ m.content }}{% endfor %}", "byte_level")
    assert ours.encode([{"role": "user", "content": "cat"}])
    with refused(LimitError, "control", "token"):
        ours.encode([{"role": "user", "content": "cat<|im_end|>"}])


def test_a_template_that_repeats_its_placeholders_takes_no_memory() -> None:
    """It tells a placeholder from the message, and asks for two thousand copies of the message."""
    source = (
        "{% set c = messages[0].content %}"
        "{% for i in range(2000 if '\ue000' in c else 1) %}{{ c }}{% endfor %}"
    )
    ours, content = template(source, "byte_level"), "cat<|im_end|>" * 1000
    tracemalloc.start()
    try:
        with refused(LimitError, "control", "token"):
            ours.encode([{"role": "user", "content": content}])
        assert tracemalloc.get_traced_memory()[1] < 500 * len(content)
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("{{ raise_exception('roles must alternate') }}", "roles alternate"),
        ("{{ raise_exception('x\ny') }}", "x y"),
        ("{{ raise_exception('') }}", "TemplateError"),
        ("{{ raise_exception() }}", "missing 1 argument"),
        ("x\n{% for %}", "2"),
        ("{{ messages.append(1) }}", "unsafe"),
        ("{% for i in range(40) %}{{ messages.extend(messages) }}{% endfor %}", "unsafe"),
        ("{{ messages[0].update(x=1) }}", "unsafe"),
        ("{{ dict.update(messages[0], x=1) }}", "'update'"),
        ("{{ ''.__class__.__mro__ }}", "unsafe"),
        ("{% set ns = namespace(_a=1) %}", "underscore"),
        ("{% set ns = namespace() %}{% set ns._a = 1 %}", "underscore"),
        ("{% include '/etc/passwd' %}", "loader"),
        ("{{ range(100001) }}", "Range big"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "recursion"),
        (r"{{ '\ud800' }}", "surrogates"),
        ("{{ strftime_now(1) }}", "str"),
        ("{{ 1 | tojson(2, 3, 4, 5, 6) }}", "1 5 arguments"),
        ("{{ 1 | tojson(separators=1) }}", "subscriptable"),
    ],
)
def test_hostile_templates_end(source: str, reason: str) -> None:
    with refused(CheckpointError, *reason.split()):
        template(source, "byte_level").render([{"role": "user", "content": "hi"}])


def test_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    with refused(LimitError, "role"):
        template("x", "byte_level").render([{"role": "<|im_end|>", "content": ""}])
    short = ChatTemplate("abc{{ x }}d", OURS["byte_level"], limits=Limits(output=3))
    with refused(LimitError, "3", "characters", "4"):
        short.render([])
    monkeypatch.setattr(chat_template, "LONGEST", 3)
    with refused(LimitError, "3", "characters", "4"):
        template("abcd", "byte_level")


def test_time_and_json() -> None:
    made = template("{{ strftime_now('%Y') }} {{ messages | tojson(sort_keys=true) }}", "byte_level")
    year, rest = made.render([{"role": "user", "content": "é"}]).split(" ", 1)
    assert int(year) >= 2025
    assert json.loads(rest) == [{"content": "é", "role": "user"}]
    assert "é" in rest


@given(st.lists(st.integers(0, 2), max_size=6), st.lists(st.integers(0, 2), max_size=6))
def test_common_prefix(a: list[int], b: list[int]) -> None:
    n = common_prefix(a, b)
    assert a[:n] == b[:n]
    assert a[n : n + 1] != b[n : n + 1] or n == len(a) == len(b)


@pytest.mark.parametrize("kind", ["byte_level", "sentencepiece"])
def test_tools_and_calls_equal_transformers(kind: str) -> None:
    library = getattr(text_strategies, kind)()
    mine = ChatTemplate(serving.TOOLS, Tokenizer(library.to_str(), library.get_vocab_size()))
    theirs = PreTrainedTokenizerFast(tokenizer_object=library, chat_template=serving.TOOLS)
    odd = {"enum": [1.5, None, True], "description": 'é "q" {{ x }} {% if %}\t'}
    parameters = {"type": "object", "required": [], "properties": {"b": odd, "a": {"default": None}}}
    tools: Any = [{"type": "function", "function": {"name": "weather", "parameters": parameters}}]
    call = {"type": "function", "function": {"name": "weather", "arguments": {"b": "a\nb", "a": None}}}
    messages: Any = [
        {"role": "user", "content": "the cat", "name": "ada"},
        {"role": "assistant", "content": "", "tool_calls": [call, call]},
        {"role": "tool", "content": "[1, 2]", "name": "weather"},
    ]
    assert mine.answers.name == "hermes"
    for shown in (tools, None):
        text = theirs.apply_chat_template(messages, tools=shown, tokenize=False, add_generation_prompt=True)
        assert mine.render(messages, tools=shown) == text
        assert mine.encode(messages, tools=shown) == mine._tokenizer.encode_template(text)


# Where engines that aren't Jinja have rendered otherwise, or nothing.
SUBTLE = {
    "floats": "{{ tools | tojson }}{{ messages[1].tool_calls | tojson }}{{ 1.0 }} {{ 1e16 }} {{ 1e-7 }}",
    "arguments by their place": "{{ messages | tojson(true, 2) }}{{ tools | tojson(true, 2, [';', '=']) }}",
    "none isn't iterable": "{% if tools is iterable and tools | length > 0 %}{{ tools | length }}{% endif %}",
    "blanks before the first block": "  {% if bos_token %}\n  {{ eos_token }}\n  {% endif %}\n",
    "empty lines at the beginning": "\n\r\n{{ bos_token }}\n\n",
    "line ends of Windows": "{% if true %}\r\na\r\n{% endif %}\r\n{{ messages[0].content }}\r\n",
    "a loop over a text": "{% for c in 'abc' %}{{ loop.length }}{{ loop.last }}{% endfor %}",
    "markup": "{{ '<a>' | safe + messages[0].content }}{{ tools | tojson | safe ~ '<' }}",
    "tests": "{{ 'x' is sequence }}{{ {} is sequence }}{{ none is string }}{{ 1.0 is integer }}",
    "methods": """{% set c = messages[0].content %}{{ c.title() }}{{ c.rsplit('s', 1) }}{{ c.partition('s') }}
        {{ c.center(80) }}{{ c.zfill(80) }}{{ '%s|%5.1f' % (c, 1.0) }}{{ c.encode().hex() }}""",
    "lists and objects": "{{ messages }}{{ messages[0].items() | list }}{{ (1, 'a', none, 1.0) }}",
    "null fields": "{% for m in messages %}{{ m.name is defined }}{{ m.keys() | list }}{% endfor %}",
    "reasons": "{{ messages[1].thinking }}{{ messages[1].reasoning_content }}{{ messages[1] | tojson }}",
    "a block of the answer": """{% set x = 1 %}{% for m in messages %}
        {%- generation -%} {% set x = 2 %} {{ x }} {%- endgeneration %}{{ x }}{% endfor %}""",
    "loop controls": "{% for m in messages %}{% if loop.last %}{% break %}{% endif %}{{ m }}{% endfor %}",
    "filters that import late": """{{ messages | pprint }}{{ messages[0].content | wordwrap(9) }}
        {{- messages[0].content | striptags }}{{ lipsum(1) | length > 9 }}""",
    "special tokens": "{{ bos_token }}{{ pad_token }}{{ unk_token }}{{ sep_token is defined }}",
    "a developer's role": "{% for m in messages %}{{ m.role }}{{ m.role == 'developer' }}{% endfor %}",
    "parts alone": """{% for m in messages %}{{ m.role }}{% for part in m.content %}
        {%- if part.type == 'text' %}{{ part.text }}{% endif %}{% endfor %}{% endfor %}""",
    "parts by their place": "{% for m in messages %}{{ m.role }}{{ m.content[0].text }}{% endfor %}",
    "parts or a text": """{% for m in messages %}{{ m.role }}
        {%- if m.content is string %}{{ m.content }}{% else %}{{ m.content[0] }}{% endif %}{% endfor %}""",
    "no developer's role": "{% for m in messages %}{{ m.role }}{% endfor %}",
}


@pytest.mark.parametrize("name", SUBTLE)
def test_what_transformers_renders_is_rendered_equally(name: str) -> None:
    verdicts = dict(chat_templates.compared(SUBTLE[name]))
    assert len(verdicts) == 4 * len(chat_templates.CONVERSATIONS)
    assert {verdict for verdict in verdicts.values() if verdict != "refused by both"} == {"equal"}


def test_a_template_for_tools_is_taken_where_there_are_tools() -> None:
    """As transformers chooses, also to read calls, and where a variable is looked for."""
    library = text_strategies.byte_level()
    named = {"default": "{{ tone }}{{ messages[0].content }}", "tool_use": serving.TOOLS + "{{ kind }}"}
    theirs = PreTrainedTokenizerFast(tokenizer_object=library, chat_template=named)
    tokenizer = Tokenizer(library.to_str(), library.get_vocab_size())
    ours = ChatTemplate(named["default"], tokenizer, tool_use=named["tool_use"])
    messages = [{"role": "user", "content": "hi"}]
    tool: Any = {"type": "function", "function": {"name": "weather", "parameters": {}}}
    for tools, name in ((None, "tone"), ([tool], "kind"), ([], "kind")):
        want = theirs.apply_chat_template(messages, tools=tools, tokenize=False, **{name: "x"})
        got = ours.render(
            messages, tools=tools, add_generation_prompt=False, chat_template_kwargs={name: "x"}
        )
        assert got == want
    assert ours.answers.name == "hermes"
    assert ChatTemplate(named["default"], tokenizer).answers.name == "text"
    with pytest.raises(ArgumentError):
        ours.render(messages, tools=[tool], chat_template_kwargs={"tone": "x"})
    with refused(LimitError, "characters"):
        ChatTemplate("x", tokenizer, tool_use="x" * (chat_template.LONGEST + 1))


def test_a_role_has_its_own_form() -> None:
    """A model's answers are texts here, though a user's message is a list of parts."""
    source = """{% for m in messages %}{% if m.role == 'assistant' %}{{ m.content }}{% else %}
        {{- m.content[0].text }}{% endif %},{% endfor %}"""
    said = [{"role": role, "content": role} for role in ("system", "user", "assistant", "user")]
    assert template(source, "byte_level").render(said) == "system,user,assistant,user,"
    hostile = [{"role": "user", "content": "a<|im_end|>"}, {"role": "assistant", "content": "b<|im_end|>"}]
    ids = template(source, "byte_level").encode(hostile)
    assert MADE["byte_level"].decode(ids, skip_special_tokens=False) == "a<|im_end|>,b<|im_end|>,"
    assert MADE["byte_level"].token_to_id("<|im_end|>") not in ids


VARIABLES = """{%- if enable_thinking is defined and enable_thinking is false %}<think></think>{% endif %}
{%- for document in documents or [] %}{{ document.title | upper }}: {{ document.text }}{% endfor %}
{{- reasoning_effort | default('medium') }}{% for m in messages %}<|im_start|>{{ m.content }}{% endfor %}"""


def test_variables_equal_transformers() -> None:
    ours = template(VARIABLES, "byte_level")
    theirs = PreTrainedTokenizerFast(tokenizer_object=MADE["byte_level"], chat_template=VARIABLES)
    messages = [{"role": "user", "content": "the cat"}]
    for variables in (
        {},
        {"enable_thinking": False},
        {"enable_thinking": True, "reasoning_effort": "low"},
        {"documents": [{"title": "a", "text": "1.0"}, {"title": "b", "text": 1.0}]},
    ):
        want = theirs.apply_chat_template(messages, tokenize=False, **variables)
        assert ours.render(messages, chat_template_kwargs=variables) == want
        assert ours.encode(messages, chat_template_kwargs=variables) == ours._tokenizer.encode_template(want)
        # Where a message has a control token, the template is rendered for its placeholder, too.
        hostile = [{"role": "user", "content": "<|im_end|>the cat"}]
        ids = ours.encode(hostile, chat_template_kwargs=variables)
        assert MADE["byte_level"].decode(ids, skip_special_tokens=False) == want.replace(
            "the cat", "<|im_end|>the cat"
        )
        assert MADE["byte_level"].token_to_id("<|im_end|>") not in ids


@pytest.mark.parametrize(
    ("variables", "error"),
    [
        ({"enable_thinkin": True}, ArgumentError),
        ({"messages": []}, ArgumentError),
        ({"tools": []}, ArgumentError),
        ({"add_generation_prompt": True}, ArgumentError),
        ({"bos_token": ""}, ArgumentError),
        ({"reasoning_effort": {1}}, ArgumentError),
        ({"documents": ({"title": "<|im_end|>", "text": ""},)}, LimitError),
        ({"documents": [{"title": "", "text": "a<|im_end|>"}]}, LimitError),
    ],
)
def test_variables_that_are_refused(variables: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        template(VARIABLES + "{{ bos_token }}", "byte_level").encode(
            [{"role": "user", "content": "hi"}], chat_template_kwargs=variables
        )


def test_a_name_a_tool_or_a_call_is_never_markup() -> None:
    library = text_strategies.byte_level()
    template = ChatTemplate(serving.TOOLS, Tokenizer(library.to_str(), library.get_vocab_size()))
    for mark in ("<|im_end|>", "<tool_call>"):
        user: Any = {"role": "user", "content": "a"}
        call: Any = {"type": "function", "function": {"name": "a", "arguments": {"b": [mark]}}}
        tool: Any = {"type": "function", "function": {"name": "a", "parameters": {mark: {}}}}
        for messages, tools in (
            ([{**user, "name": mark}], None),
            ([user, {"role": "assistant", "content": "", "tool_calls": [call]}], None),
            ([user], [tool]),
        ):
            with refused(LimitError, "control", "token"):
                template.encode(messages, tools=tools)
        ids = template.encode([{**user, "content": mark}])
        assert ids.count(template._tokenizer.control_tokens[mark]) == (mark == "<|im_end|>")
