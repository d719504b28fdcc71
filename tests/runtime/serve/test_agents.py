"""Agents by other people's clients, each in an environment of its own: a loop of two tools, streamed and not.

The engine writes what a script says (`helpers.agents`), so all of the server is tried but the model's wit.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers import agents, peers, serving

COMMON = '''
import asyncio, json, sys

given = json.load(sys.stdin)
url, question = given["url"], given["question"]
called = []


def weather(city: str) -> str:
    """The weather of a city."""
    called.append(["weather", {"city": city}])
    return "7 degrees"


def clock(zone: str) -> str:
    """The time of a zone."""
    called.append(["clock", {"zone": zone}])
    return "12:30"


def run(name, arguments):
    return {"weather": weather, "clock": clock}[name](**arguments)


def tell(ask):
    for stream in (False, True):
        called.clear()
        print(json.dumps([ask(stream), list(called)]))


'''

OPENAI = """
from openai import OpenAI

client = OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
tools = [{"type": "function", "function": {**one, "strict": True}} for one in given["functions"]]


def ask(stream):
    messages = [{"role": "user", "content": question}]
    while True:
        asked = {"model": "agent", "messages": messages, "tools": tools}
        if stream:
            with client.chat.completions.stream(**asked) as events:
                for _ in events:
                    pass
                answer = events.get_final_completion()
        else:
            answer = client.chat.completions.create(**asked)
        message = answer.choices[0].message
        messages.append(message.model_dump())
        if not message.tool_calls:
            return message.content
        for call in message.tool_calls:
            result = run(call.function.name, json.loads(call.function.arguments))
            messages.append({"role": "tool", "tool_call_id": call.id, "content": result})


tell(ask)
"""

AGENTS = """
from agents import Agent, AsyncOpenAI, OpenAIChatCompletionsModel, OpenAIResponsesModel, Runner
from agents import function_tool, set_tracing_disabled

set_tracing_disabled(True)


async def asked(agent, stream):
    if not stream:
        return (await Runner.run(agent, question)).final_output
    run = Runner.run_streamed(agent, question)
    async for _ in run.stream_events():
        pass
    return run.final_output


for kind in (OpenAIResponsesModel, OpenAIChatCompletionsModel):

    async def ask(stream):
        client = AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
        tools = [function_tool(weather), function_tool(clock)]
        model = kind(model="agent", openai_client=client)
        return await asked(Agent(name="one", instructions="be kind", tools=tools, model=model), stream)

    tell(lambda stream: asyncio.run(ask(stream)))
"""

ANTHROPIC = """
from anthropic import Anthropic
from anthropic.types import Message, RawMessageStreamEvent
from pydantic import TypeAdapter

client = Anthropic(base_url=url, api_key="none", max_retries=0)
events = TypeAdapter(RawMessageStreamEvent)
tools = [
    {"name": one["name"], "description": "", "input_schema": one["parameters"]}
    for one in given["functions"]
]


def ask(stream):
    messages = [{"role": "user", "content": question}]
    while True:
        asked = {"model": "agent", "messages": messages, "tools": tools, "system": "be kind"}
        counted = client.messages.count_tokens(**asked).input_tokens
        if stream:
            with client.messages.stream(**asked, max_tokens=300) as run:
                for _ in run:
                    pass
                answer = run.get_final_message()
            for event in client.messages.create(**asked, max_tokens=300, stream=True):
                events.validate_python(event.model_dump())
        else:
            answer = client.messages.create(**asked, max_tokens=300)
            Message.model_validate(answer.model_dump())
        assert answer.usage.input_tokens == counted
        messages.append({"role": "assistant", "content": answer.content})
        if answer.stop_reason != "tool_use":
            return answer.content[-1].text
        results = [
            {"type": "tool_result", "tool_use_id": one.id, "content": run_(one)}
            for one in answer.content
            if one.type == "tool_use"
        ]
        messages.append({"role": "user", "content": results})


def run_(block):
    return run(block.name, block.input)


tell(ask)
"""

LANGCHAIN = """
from langchain.agents import create_agent
from langchain_anthropic import ChatAnthropic
from langchain_openai import ChatOpenAI

for model in (
    ChatOpenAI(model="agent", base_url=f"{url}/v1", api_key="none", max_retries=0),
    ChatOpenAI(model="agent", base_url=f"{url}/v1", api_key="none", max_retries=0, use_responses_api=True),
    ChatAnthropic(model="agent", base_url=url, api_key="none", max_retries=0, max_tokens=300),
):
    agent = create_agent(model, [weather, clock])
    asked = {"messages": [{"role": "user", "content": question}]}

    def ask(stream):
        if not stream:
            return agent.invoke(asked)["messages"][-1].text
        texts = {}
        for message, _ in agent.stream(asked, stream_mode="messages"):
            if message.type != "tool":
                texts[message.id] = texts.get(message.id, "") + message.text
        return list(texts.values())[-1]

    tell(ask)
"""

PYDANTIC_AI = """
from pydantic_ai import Agent
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.openai import OpenAIProvider

for kind in (OpenAIChatModel, OpenAIResponsesModel):

    async def ask(stream):
        model = kind("agent", provider=OpenAIProvider(base_url=f"{url}/v1", api_key="none"))
        agent = Agent(model, tools=[weather, clock])
        if not stream:
            return (await agent.run(question)).output
        async with agent.run_stream_events(question) as events:
            *_, last = [event async for event in events]
        return last.result.output

    tell(lambda stream: asyncio.run(ask(stream)))
"""

LLAMA_INDEX = """
from llama_index.core import set_global_tokenizer
from llama_index.core.agent.workflow import FunctionAgent
from llama_index.llms.openai_like import OpenAILike

set_global_tokenizer(str.split)  # its own would be fetched


async def ask(stream):
    model = OpenAILike(
        model="agent", api_base=f"{url}/v1", api_key="none", context_window=60000, max_retries=0,
        is_chat_model=True, is_function_calling_model=True,
    )
    agent = FunctionAgent(tools=[weather, clock], llm=model, streaming=stream)
    return str(await agent.run(question))


tell(lambda stream: asyncio.run(ask(stream)))
"""

LITELLM = """
import litellm

tools = [{"type": "function", "function": one} for one in given["functions"]]
for model, base in (("openai/agent", f"{url}/v1"), ("anthropic/agent", url)):

    def ask(stream):
        messages = [{"role": "user", "content": question}]
        while True:
            asked = {"model": model, "api_base": base, "api_key": "none", "max_tokens": 300}
            answer = litellm.completion(**asked, messages=messages, tools=tools, stream=stream)
            if stream:
                answer = litellm.stream_chunk_builder(list(answer))
            message = answer.choices[0].message
            messages.append(message.model_dump())
            if not message.tool_calls:
                return message.content
            for call in message.tool_calls:
                result = run(call.function.name, json.loads(call.function.arguments))
                messages.append({"role": "tool", "tool_call_id": call.id, "content": result})

    tell(ask)
"""

INSTRUCTOR = """
import instructor
from openai import OpenAI
from pydantic import BaseModel

client = OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)


class Weather(BaseModel):
    city: str


for mode, model in (("TOOLS", "forced"), ("JSON_SCHEMA", "document")):
    patched = instructor.from_openai(client, mode=instructor.Mode[mode])
    asked = {
        "model": model, "response_model": Weather, "messages": [{"role": "user", "content": question}],
        "max_retries": 0,
    }

    def ask(stream):
        # The function of a call that comes in parts has another name, which the script doesn't know.
        parts = stream and mode == "JSON_SCHEMA"
        answer = patched.create_partial(**asked) if parts else [patched.create(**asked)]
        *_, last = answer
        return last.city

    tell(ask)
"""

OLLAMA = """
from ollama import Client

client = Client(host=url)
assert "tools" in client.show("agent").capabilities
assert "agent" in [one.model for one in client.list().models]
assert "agent" in [one.model for one in client.ps().models]


def ask(stream):
    messages = [{"role": "user", "content": question}]
    while True:
        asked = {"messages": messages, "tools": [weather, clock], "think": True}
        answer = client.chat(model="agent", **asked, stream=stream)
        parts = [one.message for one in (answer if stream else [answer])]
        calls = [call for part in parts for call in part.tool_calls or ()]
        text = "".join(part.content or "" for part in parts)
        thoughts = "".join(part.thinking or "" for part in parts)
        messages.append({"role": "assistant", "content": text, "thinking": thoughts, "tool_calls": calls})
        if not calls:
            return text
        for call in calls:
            result = run(call.function.name, call.function.arguments)
            messages.append({"role": "tool", "tool_name": call.function.name, "content": result})


tell(ask)
"""

CLIENTS = {
    "openai-agents": (("openai-agents",), AGENTS),
    "anthropic": (("anthropic",), ANTHROPIC),
    "langchain": (("langchain", "langchain-openai", "langchain-anthropic"), LANGCHAIN),
    "pydantic-ai": (("pydantic-ai-slim[openai]",), PYDANTIC_AI),
    "llama-index": (("llama-index-llms-openai-like",), LLAMA_INDEX),
    "litellm": (("litellm",), LITELLM),
    "ollama": (("ollama",), OLLAMA),
}
FUNCTIONS = [{"name": name, "parameters": getattr(agents, name.upper())} for name in agents.RESULTS]
LOOP = [agents.AFTER, [["weather", agents.CITY], ["clock", agents.ZONE]]]


@pytest.fixture(scope="module")
def given() -> Iterator[dict[str, Any]]:
    city = json.dumps({"city": "Oslo"})
    models = {
        "agent": agents.agent(),
        "forced": agents.agent({0: agents.CALL % ("Weather", city)}),
        "document": agents.agent({0: city}),
    }
    with serving.running(models, prefix_bytes=0, slots=1) as (url, _):
        yield {"url": url, "question": agents.QUESTION, "functions": FUNCTIONS}


def told(command: list[Any], given: dict[str, Any]) -> list[Any]:
    """What a client's script prints of each of its loops, beside what the client itself prints."""
    return [json.loads(line) for line in peers.run(command, given).splitlines() if line.startswith("[")]


def test_openai(given: dict[str, Any]) -> None:
    assert told([sys.executable, "-c", COMMON + OPENAI], given) == [LOOP] * 2


@pytest.mark.peers
@pytest.mark.parametrize("client", CLIENTS)
def test_an_agent(
    client: str, given: dict[str, Any], uv: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # else it is fetched
    packages, script = CLIENTS[client]
    python = peers.python_by_uv(uv, tmp_path / "env", *packages)
    loops = told([python, "-c", COMMON + script], given)
    assert loops
    assert loops == [LOOP] * len(loops)


@pytest.mark.peers
def test_instructor(given: dict[str, Any], uv: Path, tmp_path: Path) -> None:
    """A call that is asked for, and a document."""
    python = peers.python_by_uv(uv, tmp_path / "env", "instructor")
    assert told([python, "-c", COMMON + INSTRUCTOR], given) == [["Oslo", []]] * 4


NODE_COMMON = """
import { readFileSync } from "node:fs";

const { url, question, functions } = JSON.parse(readFileSync(0, "utf8"));
const called = [];
const run = (name, result) => (given) => { called.push([name, given]); return result; };
const results = { weather: "7 degrees", clock: "12:30" };
const tell = async (ask) => {
  for (const stream of [false, true]) {
    called.length = 0;
    const text = await ask(stream);
    console.log(JSON.stringify([text, called]));
  }
};
"""

NODE_OPENAI = """
import OpenAI from "openai";

const client = new OpenAI({ baseURL: `${url}/v1`, apiKey: "none", maxRetries: 0 });
const tools = functions.map((one) => ({ type: "function", function: {
  ...one, parse: JSON.parse, function: run(one.name, results[one.name]) } }));
await tell(async (stream) => {
  const messages = [{ role: "user", content: question }];
  return await client.chat.completions.runTools({ model: "agent", messages, tools, stream }).finalContent();
});
"""

NODE_AI = """
import { createAnthropic } from "@ai-sdk/anthropic";
import { createOpenAI } from "@ai-sdk/openai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { generateText, jsonSchema, stepCountIs, streamText, tool } from "ai";

const tools = Object.fromEntries(functions.map((one) => [one.name, tool({
  description: one.name, inputSchema: jsonSchema(one.parameters),
  execute: run(one.name, results[one.name]) })]));
const settings = { baseURL: `${url}/v1`, apiKey: "none" };
for (const model of [
  createOpenAICompatible({ name: "here", ...settings })("agent"),
  createOpenAI(settings).responses("agent"),
  createAnthropic(settings)("agent"),
]) {
  const asked = { model, tools, stopWhen: stepCountIs(5), prompt: question, maxRetries: 0 };
  await tell(async (stream) => {
    if (!stream) return (await generateText(asked)).text;
    const streamed = streamText(asked);
    await streamed.consumeStream();
    return await streamed.text;
  });
}
"""


@pytest.mark.peers
@pytest.mark.parametrize(
    ("packages", "script"),
    [
        (("openai",), NODE_OPENAI),
        (("ai", "@ai-sdk/openai-compatible", "@ai-sdk/openai", "@ai-sdk/anthropic"), NODE_AI),
    ],
)
def test_an_agent_of_node(packages: Any, script: str, given: dict[str, Any], tmp_path: Path) -> None:
    folder = peers.node_modules(tmp_path / "node", *packages)
    (folder / "ask.mjs").write_text(NODE_COMMON + script)
    loops = told(["node", folder / "ask.mjs"], given)
    assert loops
    assert loops == [LOOP] * len(loops)
