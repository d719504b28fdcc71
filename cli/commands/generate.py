"""`tfm-cli generate`: text from a model."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .. import options as o
from ..console import generated, line, out, out_json, progress, say
from ..inputs import read, whole

if TYPE_CHECKING:
    from ...runtime.tasks import TextStream

GROUP = "Write texts"


def command(
    prompt: Annotated[str | None, typer.Argument(help="The text to answer; else --file or stdin.")] = None,
    file: Annotated[
        Path | None,
        typer.Option(
            exists=True, dir_okay=False, help="Read the prompt from a file; with --batch one from each line."
        ),
    ] = None,
    batch: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            help="Answer many prompts, a line each, of which N are on their way at a time. An answer is a "
            r"line, too, where \n, \t, \\ and other control characters are spelt out, unless --no-escape is "
            "given.",
        ),
    ] = None,
    model: o.Model = "smollm2-135m",
    engine: o.Engine = "onnx",
    quant: o.Quantization = None,
    device: o.Device = "cpu",
    threads: o.Threads = None,
    context: o.Context = None,
    raw: Annotated[bool, typer.Option(help="No chat template: the model goes on with the text.")] = False,
    greedy: o.Greedy = False,
    temperature: o.Temperature = None,
    top_k: o.TopK = None,
    top_p: o.TopP = None,
    min_p: o.MinP = None,
    typical_p: o.TypicalP = None,
    repetition_penalty: o.RepetitionPenalty = None,
    presence_penalty: o.PresencePenalty = None,
    frequency_penalty: o.FrequencyPenalty = None,
    no_repeat_ngram: o.NoRepeatNgram = None,
    beams: o.Beams = None,
    length_penalty: o.LengthPenalty = None,
    draft: o.Draft = None,
    max_new_tokens: o.MaxNewTokens = None,
    seed: o.Seed = 0,
    stop: o.Stop = None,
    as_json: o.AsJson = False,
    no_escape: o.NoEscape = False,
) -> None:
    """Generate text; a model is fetched and exported on its first use and runs from the cache afterwards."""
    texts = (
        [read_prompt(prompt, file)]
        if batch is None
        else read(None if prompt is None else [prompt], file, "prompt")
    )
    given = o.checked(
        greedy=greedy, temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p,
        typical_p=typical_p, repetition_penalty=repetition_penalty, presence_penalty=presence_penalty,
        frequency_penalty=frequency_penalty, no_repeat_ngram=no_repeat_ngram,
        beams=beams, length_penalty=length_penalty,
        max_new_tokens=max_new_tokens, seed=seed, stop=tuple(stop or ()),
    )  # fmt: skip
    searched = beams is not None or length_penalty is not None
    if draft is not None and searched:
        raise typer.BadParameter("--draft takes no --beams, whose steps judge every token already")
    if batch is not None and (searched or draft is not None):
        raise typer.BadParameter("--batch takes no --beams and no --draft: they are for one text")
    from ..model_loading import load

    begin = time.perf_counter()
    loaded = load(model, engine, quant, device, threads, context)
    if draft == "prompt":
        from ...refimpl.decoding.speculative import PromptLookup

        given["draft"] = PromptLookup()
    elif draft is not None:
        given["draft"] = loaded.drafter(load(draft, engine, quant, device, threads, context))
    load_s = time.perf_counter() - begin
    if batch is not None:
        found = loaded.generate_many(texts, raw=raw, batch=batch, progress=progress(), **given)
        if as_json:
            out_json([{"prompt": text, **one._asdict()} for text, one in zip(texts, found, strict=True)])
        for one in () if as_json else found:
            out(line(one.text, no_escape))
        most = loaded.options(**given).max_new_tokens
        if clipped := sum(one.finish_reason == "length" and len(one.tokens) < most for one in found):
            say(
                f"clipped {clipped} of {len(found)} answers: their prompts leave no {most} tokens of the "
                f"context of {loaded.config.context}"
            )
        return
    answer = loaded.generate(texts[0], raw=raw, **given)
    give(answer, as_json=as_json, no_escape=no_escape, load_s=load_s)
    made, context = len(answer.tokens), loaded.config.context
    if answer.finish_reason == "length" and made < loaded.options(**given).max_new_tokens:
        say(f"clipped to {made} tokens: the prompt leaves no more of the context of {context}")


def give(answer: TextStream, *, as_json: bool, no_escape: bool, load_s: float) -> None:
    """An answer as it comes, or at its end as one JSON object."""
    for piece in answer:
        if not as_json:
            out(generated(piece, no_escape), end="")
    if not as_json:
        out()
        return
    out_json(
        {
            "tokens": answer.tokens,
            "text": answer.text,
            "finish_reason": answer.finish_reason,
            "timings": {"load_s": load_s, **answer.timings},
        }
    )


def read_prompt(prompt: str | None, file: Path | None) -> str:
    """The prompt from where it was given."""
    if prompt is not None and file is not None:
        raise typer.BadParameter("give the prompt as argument or as --file, not both")
    text = whole(file, "prompt") if prompt is None else prompt
    if not text.strip():
        raise typer.BadParameter("the prompt is empty")
    return text
