"""The lines of PYTHON.md's section From Python, as they stand there."""

# pyright: basic
# ruff: noqa: E402, T201

import tfm

model = tfm.load("smollm2-135m")  # a name, a checkpoint, a .gguf file, or a bundle
for text in model.generate("Explain self-attention to a child."):
    print(text, end="", flush=True)

answer = model.chat("Why is the sky blue?", temperature=0.7, max_new_tokens=40, logprobs=3)
print(answer)  # the whole text, once it is complete
for token in answer.logprobs or []:
    print(token.logprob, token.top)  # ln p, and the three likeliest

talk = tfm.Conversation(model, "Answer in one sentence.")  # text that turns share is computed once
print(talk.say("Who was Ada Lovelace?"))
print(talk.say("When did she live?"))

from pydantic import BaseModel


class Reply(BaseModel):
    agrees: bool


reply = model.chat("Is water wet?", json_schema=Reply).parsed  # a Reply

labels = tfm.load("demo-tag").tag(["Ada Miller moved to Oslo."])  # and classify, fill, embed, rerank, answer

import asyncio


async def ask(model: tfm.Model) -> None:
    async with tfm.AsyncModel(model, slots=8, queue=32) as served:
        stream = await served.chat("Why is the sky blue?")  # QueueFullError if 32 wait already
        async for text in stream:
            print(text, end="", flush=True)
        stream = await served.chat("And at night?")
        print(await stream)  # the whole answer


asyncio.run(ask(model))
