"""The formats in which models write tool calls and thoughts, one record for each format.

The same record drives the parser (`call_parser`) and the writer (`call_writer`). The writer writes the blanks
in a mark, but the parser also accepts a text without them. Each format comes from the models' own chat
template or documentation, which a comment beside the format names.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from types import MappingProxyType
from typing import Literal, TypedDict, Unpack


@dataclass(frozen=True)
class Values:
    """How values are written: as JSON, except for what these fields change.

    `quotes` are the marks that begin and end a text; the writer uses the first one. `words` maps the
    notation's words for true, false and null to JSON's words.
    """

    quotes: tuple[str, ...] = ('"',)
    escapes: Literal["json", "python"] | None = "json"  # what follows a backslash
    bare_keys: bool = False  # whether a key of an object has no quotes
    words: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))


JSON = Values()
PYTHON = Values(
    quotes=('"', "'"),
    escapes="python",
    words=MappingProxyType({"True": "true", "False": "false", "None": "null"}),
)


@dataclass(frozen=True)
class Keywords:
    """Arguments written as keyword arguments in Python: `city="Oslo", days=2`."""

    values: Values = PYTHON


@dataclass(frozen=True)
class Parameters:
    """Arguments that are each written between marks. A text is written without quotes, any other value as
    JSON.

    With `value_middle`, the mark before a value shows whether the value is a text. Without `value_middle`,
    the function's schema decides.
    """

    before: str
    middle: str
    after: str
    value_middle: str | None = None


@dataclass(frozen=True)
class Item:
    """A call written as a JSON object with its name and arguments. The keys may come in any order, and the
    keys in `others` may come too.
    """

    name: str = "name"
    arguments: str = "arguments"
    others: tuple[str, ...] = ("id", "type")


@dataclass(frozen=True)
class Marked:
    """A call with its name and arguments between marks.

    One of `asides` follows the name, before `middle`. The writer uses the first aside. In an aside, `{index}`
    means the call's number, and `{id}` means nine letters and digits.
    """

    before: str
    middle: str
    arguments: Values | Keywords | Parameters
    after: str
    asides: tuple[str, ...] = ("",)


@dataclass(frozen=True)
class Thoughts:
    """The marks around a model's thoughts, and the text `then` after them. `anywhere` says that thoughts may
    also come after the beginning of an answer."""

    begin: str
    end: str
    then: str = ""
    anywhere: bool = False


@dataclass(frozen=True)
class CallFormat:
    """A format in which a model writes tool calls, text and thoughts.

    - `begin`: marks that each begin calls. If one of the marks is empty, an answer may begin with calls
      without a mark.
    - `opening`, `separator`, `closing`: texts before, between and after the calls of one mark. Without a
      separator, each call has a mark of its own.
    - `end`: the mark after the calls. An answer may lack this mark.
    - `gap`: the text between the answer's text and the calls, and between calls with marks of their own.
    - `text`: marks that are written before and after a text.
    - `silent`: marks that never belong to the text.
    - `signs`: texts by which a template is recognized if it doesn't show a call in a conversation.
    """

    name: str
    begin: tuple[str, ...]
    call: Item | Marked
    opening: str = ""
    separator: str | None = None
    closing: str = ""
    end: str = ""
    gap: str = ""
    text: tuple[str, str] = ("", "")
    silent: tuple[str, ...] = ()
    thoughts: Thoughts | None = None
    signs: tuple[str, ...] = ()

    def tokens_of(self, known: Mapping[str, int]) -> dict[str, int]:
        """Return the tokens of `known` that occur in the format's marks, with their ids."""
        marks = [*_texts(self)]
        return {token: id for token, id in known.items() if any(token in mark for mark in marks)}


def _texts(value: object) -> Iterator[str]:
    match value:
        case str():
            yield value
        case tuple():
            for item in value:
                yield from _texts(item)
        case CallFormat() | Marked() | Parameters() | Keywords() | Values() | Thoughts():
            for each in fields(value):
                if each.name not in ("name", "signs", "words"):
                    yield from _texts(getattr(value, each.name))


THINK = Thoughts("<think>\n", "\n</think>", "\n\n")
HARMONY = Thoughts("<|channel|>analysis<|message|>", "<|end|>", "<|start|>assistant", anywhere=True)
# In the order in which a template is asked for their marks.
THOUGHTS = (
    HARMONY,
    Thoughts("<|START_THINKING|>", "<|END_THINKING|>"),
    Thoughts("<|channel>thought\n", "\n<channel|>"),
    Thoughts("<seed:think>", "</seed:think>", "\n"),
    Thoughts("[THINK]", "[/THINK]"),
    THINK,
)

DSML = "｜DSML｜"


def _dsml(name: str, tag: str) -> CallFormat:
    parameter = f'<{DSML}parameter name="'
    arguments = Parameters(
        parameter, '" string="true">', f"</{DSML}parameter>\n", value_middle='" string="false">'
    )
    call = Marked(f'<{DSML}invoke name="', '">\n', arguments, f"</{DSML}invoke>")
    begin = f"<{DSML}{tag}>"
    return CallFormat(
        name, (begin,), call, "\n", "\n", "\n", f"</{DSML}{tag}>", gap="\n\n", thoughts=THINK, signs=(begin,)
    )


def _functions(name: str, mark: str, pad: str, thoughts: Thoughts) -> CallFormat:
    """Return a format in which each call is `<function=…>` with `<parameter=…>` in it, between marks."""
    arguments = Parameters("<parameter=", f">{pad}", f"{pad}</parameter>\n")
    call = Marked("<function=", ">\n", arguments, "</function>")
    return CallFormat(
        name, (f"<{mark}>",), call, "\n", None, "\n", f"</{mark}>", gap="\n", thoughts=thoughts,
        signs=(f"<{mark}>\n<function=",),
    )  # fmt: skip


def _keyed(name: str, pad: str) -> CallFormat:
    """Return a format of GLM, in which each argument is a key and a value between marks."""
    arguments = Parameters("<arg_key>", f"</arg_key>{pad}<arg_value>", f"</arg_value>{pad}")
    call = Marked("", pad, arguments, "</tool_call>")
    return CallFormat(
        name, ("<tool_call>",), call, gap=pad, thoughts=THINK,
        signs=(f"<tool_call>{{function-name}}{pad}<arg_key>",),
    )  # fmt: skip


class _Listed(TypedDict, total=False):
    thoughts: Thoughts | None
    silent: tuple[str, ...]
    signs: tuple[str, ...]


def _listed(name: str, begin: str, end: str, gap: str, **more: Unpack[_Listed]) -> CallFormat:
    """Return a format in which the calls are a list of JSON objects between marks."""
    return CallFormat(name, (begin,), Item(), "[", ", ", "]", end, gap, **more)


FORMATS = (
    # openai-harmony's guide (github.com/openai/harmony, docs/format.md) and gpt-oss' template.
    CallFormat(
        "harmony", ("<|channel|>commentary to=functions.", " to=functions."),
        Marked("", "<|message|>", JSON, "", asides=(" <|constrain|>json", "<|channel|>commentary json", "")),
        end="<|call|>", gap="<|start|>assistant", text=("<|channel|>final<|message|>", "<|end|>"),
        silent=("<|channel|>final<|message|>", "<|channel|>commentary<|message|>", "<|start|>assistant",
                "<|end|>", "<|return|>"),
        thoughts=HARMONY, signs=("to=functions.",),
    ),
    # The templates of Gemma 4, and of FunctionGemma (ai.google.dev/gemma/docs/functiongemma).
    CallFormat(
        "gemma-4", ("<|tool_call>",),
        Marked("call:", "", Values(('<|"|>',), escapes=None, bare_keys=True), ""),
        end="<tool_call|>", thoughts=Thoughts("<|channel>thought\n", "\n<channel|>"), signs=("<|tool_call>",),
    ),
    CallFormat(
        "function-gemma", ("<start_function_call>",),
        Marked("call:", "", Values(("<escape>",), escapes=None, bare_keys=True), ""),
        end="<end_function_call>", signs=("<start_function_call>",),
    ),
    # ai.google.dev/gemma/docs/capabilities/function-calling, for Gemma 3.
    CallFormat(
        "gemma-3", ("```tool_code",), Marked("", "(", Keywords(), ")"), "\n", "\n", "\n", "```", gap="\n",
        signs=("```tool_code",),
    ),
    # Templates of DeepSeek-V3.2 and V4, V3.1, and of V3 and R1.
    _dsml("deepseek-v3.2", "function_calls"),
    _dsml("deepseek-v4", "tool_calls"),
    CallFormat(
        "deepseek-v3", ("<｜tool▁calls▁begin｜>",),
        Marked("<｜tool▁call▁begin｜>function<｜tool▁sep｜>", "\n```json\n", JSON,
               "\n```<｜tool▁call▁end｜>"),
        separator="\n", end="<｜tool▁calls▁end｜>", thoughts=THINK,
        signs=("<｜tool▁call▁begin｜>function", "['type'] + '<｜tool▁sep｜>'"),
    ),
    CallFormat(
        "deepseek-v3.1", ("<｜tool▁calls▁begin｜>",),
        Marked("<｜tool▁call▁begin｜>", "<｜tool▁sep｜>", JSON, "<｜tool▁call▁end｜>"),
        separator="", end="<｜tool▁calls▁end｜>", thoughts=THINK, signs=("<｜tool▁calls▁begin｜>",),
    ),
    # huggingface.co/moonshotai/Kimi-K2-Instruct, docs/tool_call_guidance.md.
    CallFormat(
        "kimi-k2", ("<|tool_calls_section_begin|>",),
        Marked("<|tool_call_begin|>functions.", "<|tool_call_argument_begin|>", JSON, "<|tool_call_end|>",
               asides=(":{index}", "")),
        separator="", end="<|tool_calls_section_end|>", thoughts=THINK, signs=("<|tool_call_begin|>",),
    ),
    # huggingface.co/MiniMaxAI/MiniMax-M2, docs/tool_calling_guide.md.
    CallFormat(
        "minimax-m2", ("<minimax:tool_call>",),
        Marked('<invoke name="', '">\n', Parameters('<parameter name="', '">', "</parameter>\n"),
               "</invoke>"),
        "\n", "\n", "\n", "</minimax:tool_call>", gap="\n", thoughts=THINK, signs=("<minimax:tool_call>",),
    ),
    # Templates of GLM-4.5 and 4.6, and of GLM-4.7 to 5.2.
    _keyed("glm-4.5", "\n"),
    _keyed("glm-4.7", ""),
    # Templates of Qwen3-Coder, Qwen 3.5, Nemotron 3 and Step 3.5, and of Seed-OSS.
    _functions("qwen3-coder", "tool_call", "\n", THINK),
    _functions("seed-oss", "seed:tool_call", "", Thoughts("<seed:think>", "</seed:think>", "\n")),
    # docs.mistral.ai, mistral-common's InstructTokenizerV13, V11, and V3 to V7 (github.com/mistralai).
    CallFormat(
        "mistral-v13", ("[TOOL_CALLS]",), Marked("", "[ARGS]", JSON, ""),
        thoughts=Thoughts("[THINK]", "[/THINK]"), signs=("[ARGS]",),
    ),
    CallFormat(
        "mistral-v11", ("[TOOL_CALLS]",), Marked("", "[ARGS]", JSON, "", asides=("[CALL_ID]{id}", "")),
        thoughts=THINK, signs=("[CALL_ID]",),
    ),
    CallFormat("mistral", ("[TOOL_CALLS]",), Item(), "[", ", ", "]", thoughts=THINK, signs=("[TOOL_CALLS]",)),
    # docs.cohere.com, tool use; the templates of Command R7B and Command A, and of Command R.
    CallFormat(
        "command-a", ("<|START_ACTION|>",), Item("tool_name", "parameters", ("tool_call_id",)),
        "[\n    ", ",\n    ", "\n]", "<|END_ACTION|>", text=("<|START_RESPONSE|>", "<|END_RESPONSE|>"),
        silent=("<|START_RESPONSE|>", "<|END_RESPONSE|>"),
        thoughts=Thoughts("<|START_THINKING|>", "<|END_THINKING|>"), signs=("<|START_ACTION|>",),
    ),
    CallFormat(
        "command-r", ("Action:",), Item("tool_name", "parameters", ()), "```json\n[\n    ", ",\n    ",
        "\n]", "```", gap="\n", signs=("Action:\n```json",),
    ),
    # huggingface.co/microsoft/Phi-4-mini-instruct, and llama.cpp's template for it.
    _listed("phi-4-mini", "<|tool_call|>", "<|/tool_call|>", "", signs=("<|tool_call|>[",)),
    CallFormat("phi-4-mini-single", ("<|tool_call|>",), Item(), end="<|/tool_call|>"),
    # ibm.com/granite/docs, Granite 3; Granite 4 has the format hermes.
    _listed("granite-3", "<|tool_call|>", "", "", thoughts=THINK, signs=("<|tool_call|> followed",)),
    # docs.liquid.ai/lfm, tool use.
    CallFormat(
        "lfm2", ("<|tool_call_start|>",), Marked("", "(", Keywords(), ")"), "[", ", ", "]",
        "<|tool_call_end|>", thoughts=THINK,
        signs=("<|tool_call_start|>", "<|tool_list_start|>", "List of tools: ["),
    ),
    # huggingface.co/allenai/Olmo-3-7B-Instruct; vLLM's olmo3 parser.
    CallFormat(
        "olmo-3", ("<function_calls>",), Marked("", "(", Keywords(), ")"), separator="\n",
        end="</function_calls>", gap="\n", thoughts=THINK, signs=("<function_calls>",),
    ),
    # Templates of Nemotron Nano v2 and of Llama-Nemotron.
    _listed("nemotron-2", "<TOOLCALL>", "</TOOLCALL>", "\n", thoughts=THINK, signs=("<TOOLCALL>[",)),
    # vLLM's hunyuan_a13b parser; Jamba's and Apriel's templates.
    _listed(
        "hunyuan-a13b", "<tool_calls>", "</tool_calls>", "\n", thoughts=THINK,
        silent=("<answer>", "</answer>"), signs=("<tool_calls>[",),
    ),
    # The template of Hunyuan's dense models.
    CallFormat(
        "hunyuan", ("<tool_calls>",), Marked("<tool_call>", "\n```json\n", JSON, "\n```\n</tool_call>"),
        separator="", end="</tool_calls>", thoughts=THINK, silent=("<answer>", "</answer>"),
        signs=("<tool_calls><tool_call>",),
    ),
    # The template of Apertus.
    CallFormat(
        "apertus", ("<|tools_prefix|>",), Marked('{"', '": ', JSON, "}"), "[", ", ", "]", "<|tools_suffix|>",
        signs=("<|tools_prefix|>",),
    ),
    # The template of GigaChat 3.1; internlm.readthedocs.io for InternLM 2.
    CallFormat("gigachat", ("<|function_call|>",), Item(), signs=("<|function_call|>",)),
    CallFormat(
        "internlm-2", ("<|action_start|><|plugin|>",), Item("name", "parameters", ()), opening="\n",
        closing="\n", end="<|action_end|>", signs=("<|plugin|>",),
    ),
    # github.com/NousResearch/Hermes-Function-Calling; the templates of Qwen 2.5 and 3, SmolLM3, Granite 4.
    CallFormat(
        "hermes", ("<tool_call>",), Item(), "\n", None, "\n", "</tool_call>", gap="\n", thoughts=THINK,
        signs=('<tool_call>\n{"name"', '<tool_call>{"name"'),
    ),
    # The format of Llama 3.1 for functions of one's own, and functionary 3.1's (github.com/MeetKai).
    CallFormat("llama-3-tags", ("<function=",), Marked("", ">", JSON, "</function>"), signs=("<function=",)),
    # llama.com, Llama 3.1 to 3.3: JSON; Llama 3.2 and 4: Python.
    CallFormat(
        "llama-3", ("", "<|python_tag|>"), Item("name", "parameters", ("type",)), separator="; ",
        signs=('{"name": function name, "parameters"',),
    ),
    CallFormat(
        "llama-pythonic", ("", "<|python_start|>"), Marked("", "(", Keywords(), ")"), "[", ", ", "]",
        "<|python_end|>", signs=("[func_name1(",),
    ),
    # github.com/SalesforceAIResearch/xLAM.
    CallFormat("xlam", ("",), Item(), "[", ", ", "]"),
)  # fmt: skip
BY_NAME = {each.name: each for each in FORMATS}
# Of a template that tfm finds no calls in.
TEXT = CallFormat("text", (), Item())
