"""The command `tfm-cli generate`, which generates text with a model."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from .. import fleet as f
from .. import options as o
from ..console import answer_fields, line, out, out_answer, out_json, progress, say
from ..inputs import check_language, read, read_grammar, read_prompt, read_schema, read_tools

if TYPE_CHECKING:
    from ...refimpl.decoding.speculative import Drafter
    from ...runtime.tasks import Completion, Model

GROUP = "Write texts"
DRAFTS = ("none", "prompt", "mtp")  # what --draft names beside models


@o.grouped
def command(
    *,
    prompt: Annotated[
        str | None,
        typer.Argument(
            help="The prompt. If a text is piped, tfm adds this text to the prompt's end. Without PROMPT, "
            "tfm reads the prompt from --file or stdin."
        ),
    ] = None,
    file: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            exists=True,
            dir_okay=False,
            help="A file with the prompt, or with --batch one prompt on each line.",
        ),
    ] = None,
    model: o.Model = "smollm2-135m",
    system: o.System = None,
    options: o.TextOptions,
    json_schema: Annotated[
        str | None,
        typer.Option(
            metavar="FILE|{…}",
            help="Make the answer a JSON document that matches this schema: a file, or the schema itself.",
        ),
    ] = None,
    regex: Annotated[
        str | None,
        typer.Option(
            metavar="REGEX",
            help="Make the whole answer match this regular expression.",
        ),
    ] = None,
    grammar: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            exists=True,
            dir_okay=False,
            help="Make the answer match the grammar in this file, in llama.cpp's format (GBNF) or in Lark's.",
        ),
    ] = None,
    tools: o.Tools = None,
    thinking_token_budget: o.ThinkingTokenBudget = None,
    raw: Annotated[
        bool,
        typer.Option("--raw", help="Continue the prompt itself, without the model's chat template."),
    ] = False,
    control_tokens: Annotated[
        bool,
        typer.Option(
            "--control-tokens",
            help="With --raw: encode the name of a special token in the prompt, such as <fim_prefix>, as "
            "this token.",
        ),
    ] = False,
    as_json: o.AsJson = False,
    logprobs: Annotated[
        int | None,
        typer.Option(
            metavar="K",
            help="With --json: print the log-probability of each token, and the K likeliest tokens at each "
            "position as \\[id, log-probability]. Log-probabilities are computed before any sampling "
            "filter.",
        ),
    ] = None,
    no_escape: o.NoEscape = False,
    context: o.Context = None,
    running: o.Running,
    batch: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            help="Read one prompt from each line, and answer N prompts at a time. tfm prints each answer on "
            "one line, with escapes for line ends and control characters.",
            rich_help_panel=o.SPEED,
        ),
    ] = None,
    draft: o.Draft = None,
    prefix: o.Prefix = None,
    chat_template_kwargs: o.ChatTemplateKwargs = None,
    fleet: f.Fleet,
) -> None:
    """Generate text. The first run with a model fetches and exports the model. Later runs use the cache.

    If a chat model's files don't say how to choose tokens, tfm uses --temperature 0.2 --top-p 0.9
    --repetition-penalty 1.1. If you give --greedy, --beams or any option for sampling or penalties, tfm uses
    none of these three defaults.

    Example: tfm-cli generate "Explain self-attention to a child." --temperature 0.7 --seed 1

    Example: tfm-cli generate --file prompts.txt --batch 8 --max-new-tokens 50 --json

    Example: tfm-cli generate --ray local --file prompts.jsonl --out answers --max-new-tokens 50
    """
    if not (raw or fleet.asked):
        from ...runtime.text import template_process

        template_process.SHARED.start()  # it becomes ready while the rest is imported
    chosen = o.checked(
        options,
        logprobs=logprobs,
        thinking_token_budget=thinking_token_budget,
        json_schema=None if json_schema is None else read_schema(json_schema),
        regex=None if regex is None else check_language("regex", regex),
        grammar=None if grammar is None else read_grammar(grammar),
    )
    if fleet.asked:
        given = {name: value for name, value in chosen.items() if value is not None}
        f.on_fleet(
            "generate", fleet, running, model, file, context,
            options={**given, "raw": raw, "batch": 8 if batch is None else batch},
            refused={
                "PROMPT": prompt, "--json": as_json, "--logprobs": logprobs is not None, "--draft": draft,
                "--prefix": prefix, "--system": system, "--beams": options.get("beams"),
                "--length-penalty": options.get("length_penalty"),
                "--chat-template-kwargs": chat_template_kwargs, "--control-tokens": control_tokens,
                "--tools": tools,
            },
        )  # fmt: skip
        return
    if batch is None:
        prompts = [read_prompt(prompt, file, goes_on=True)]
        if file is not None and (count := len(prompts[0].split("\n"))) > 1:
            say(f"the {count} lines of {file} are read as one prompt: to answer each line, add --batch N")
    else:
        prompts = read(None if prompt is None else [prompt], file, "prompt")
    if logprobs is not None and not as_json:
        raise typer.BadParameter("--logprobs needs --json")
    searches = options.get("beams") is not None or options.get("length_penalty") is not None
    drafts = draft not in (None, "none")
    if drafts and searches:
        raise typer.BadParameter("--draft can't be used with --beams: beam search scores all tokens itself")
    if batch is not None and (searches or drafts or prefix is not None):
        raise typer.BadParameter(
            "--batch can't be used with --beams, --draft or --prefix, which are for a single text"
        )
    if control_tokens and not raw:
        raise typer.BadParameter(
            "--control-tokens needs --raw: in a chat, the chat template writes the special tokens"
        )
    if tools is not None and (raw or (batch is not None and not as_json)):
        raise typer.BadParameter("--tools can't be used with --raw, and --tools with --batch needs --json")
    functions = None if tools is None else read_tools(tools)
    from ..model_loading import computed_by, locate_weights

    begin = time.perf_counter()
    if draft not in (None, *DRAFTS):
        locate_weights(draft)  # before the model is exported: its name may be wrong
    loaded = running.load(model, "generate", context)
    if draft is not None:
        own = replace(running, adapter=None, no_adapter=False, ignore_key=None)
        chosen["draft"] = drafter(draft, loaded, model, lambda name: own.load(name, "generate", context))
    load_s = time.perf_counter() - begin
    chat: Any = {
        "raw": raw, "system": system, "chat_template_kwargs": chat_template_kwargs,
        "control_tokens": control_tokens, "tools": functions,
    }  # fmt: skip
    if batch is None:
        answer = loaded.generate(prompts[0], prefix=prefix, **chat, **chosen)
        out_answer(
            answer,
            as_json=as_json,
            no_escape=no_escape,
            load_s=load_s,
            by=computed_by(loaded),
            tools=tools is not None,
        )
        return
    answers = loaded.generate_many(prompts, batch=batch, progress=progress(), **chat, **chosen)
    if as_json:
        told = [answer_fields(one, tools=tools is not None) for one in answers]
        out_json([{"prompt": text, **one} for text, one in zip(prompts, told, strict=True)])
    else:
        for one in answers:
            out(line(one.text, no_escape))
    limit = loaded.options(raw=raw, **chosen).max_new_tokens
    say_ends(answers, limit, loaded.config.context, as_json=as_json)


def drafter(
    draft: str, model: Model, name: str, load_model: Callable[[str], Model]
) -> Drafter | Literal[False]:
    """Return the drafter that `--draft` asks for, for the model with the name `name`. Returns False for
    `--draft none`.
    """
    if draft == "none":
        return False
    if draft == "prompt":
        from ...refimpl.decoding.speculative import PromptLookup

        return PromptLookup()
    if draft == "mtp":
        from ..model_loading import module_of

        return module_of(model, name)
    from ...refimpl.errors import LimitError

    try:
        return model.drafter(load_model(draft))
    except LimitError as error:
        raise typer.BadParameter(str(error)) from None


def say_ends(answers: Sequence[Completion], limit: int, context: int, *, as_json: bool) -> None:
    """Print how many answers were cut at the end of the context, and how many after `limit` tokens."""
    cut = [len(one.tokens) for one in answers if one.finish_reason == "length"]
    if clipped := sum(count < limit for count in cut):
        say(
            f"clipped {clipped} of {len(answers)} answers, because the prompts leave fewer than {limit} "
            f"tokens of the context of {context} tokens"
        )
    if len(cut) > clipped and not as_json:
        share = f"{len(cut) - clipped} of {len(answers)} answers"
        say(f"{share} reached the limit of {limit} tokens: raise --max-new-tokens for longer answers")
