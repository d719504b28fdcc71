"""Options that several commands share, and the flags for the parameters that library errors name."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Unpack

import typer

from ..refimpl.config import KVFormat
from ..runtime.bundle.schemes import SCHEMES, SchemeName
from ..runtime.bundle.targets import TargetName
from .console import DETAIL

if TYPE_CHECKING:
    from ..export.layouts.layout import BundleLayout
    from ..refimpl.formats.adapters import AdapterChoice
    from ..runtime.tasks import GenerateOptions

Quant = SchemeName
Kv = KVFormat
Ranges = Literal["minmax", "percentile", "entropy"]
Target = TargetName
DeviceName = Literal["cpu", "cuda", "auto"]
EngineName = Literal["numpy", "torch", "onnx"]
# The names in export.layouts, whose packages not every install has.
LayoutName = Literal["genai", "transformers.js", "optimum"]

# Panels of the help; what isn't in one of them is in the first, "Options".
TOKENS, WEIGHTS, SPEED, SHAPES = "Choosing tokens", "Weights", "Speed", "Fixed shapes"

THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def limit_threads(count: int | None) -> int | None:
    """Limit the threads of NumPy and torch; they read the limit when they are imported, which must come
    later."""
    if count is not None:
        os.environ |= dict.fromkeys(THREAD_VARIABLES, str(count))
    return count


# What the OpenAI API calls one of our options.
CONTEXT = {"token_normalize_func": lambda name: {"max-tokens": "max-new-tokens"}.get(name, name)}


def set_verbose(verbose: bool) -> bool:
    """Say more beside results, or not."""
    DETAIL.verbose = verbose
    return verbose


def catalogue() -> list[str]:
    """The names that `tfm-cli models` lists, for a shell that completes a model's name."""
    from ..runtime.hub.aliases import ALIASES
    from ..runtime.hub.model_names import CATALOGUE

    return [*CATALOGUE, *ALIASES]


Model = Annotated[
    str,
    typer.Option(
        "--model",
        "-m",
        metavar="MODEL",
        autocompletion=catalogue,
        help="A path, hf:ORG/NAME, or a name that `tfm-cli models` lists.",
    ),
]
Engine = Annotated[
    EngineName,
    typer.Option(
        "--engine",
        help="numpy is the specification, torch the same over tensors, onnx ONNX Runtime.",
        rich_help_panel=SPEED,
    ),
]
FixedBatch = Annotated[
    int | None,
    typer.Option(
        metavar="N", help="Rows of a graph with fixed shapes; 1 without it.", rich_help_panel=SHAPES
    ),
]
FixedTime = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        help="Tokens a run: writes a graph of target standard with fixed shapes, for NPUs and mobile.",
        rich_help_panel=SHAPES,
    ),
]
FixedCapacity = Annotated[
    int | None,
    typer.Option(
        metavar="N", help="Tokens that the cache of its decoder has room for.", rich_help_panel=SHAPES
    ),
]
LAYOUTS = "genai is onnxruntime-genai, the others have their names"
Quantization = Annotated[
    Quant | None,
    typer.Option(
        "--quant",
        metavar="SCHEME",
        help=f"How weights are stored, where a checkpoint has to be exported: {', '.join(SCHEMES)}. By "
        "default int8; int8-dynamic for an encoder on the CPU.",
        rich_help_panel=WEIGHTS,
    ),
]
Device = Annotated[
    DeviceName,
    typer.Option(
        "--device",
        help="Where to run; auto takes CUDA if it starts, else the CPU.",
        rich_help_panel=SPEED,
    ),
]
Context = Annotated[
    int | None,
    typer.Option(
        "--context",
        metavar="N",
        min=1,
        help="Prepare a checkpoint for texts of up to N tokens, also past the trained length.",
        rich_help_panel=WEIGHTS,
    ),
]
Adapter = Annotated[
    Path | None,
    typer.Option(
        "--adapter",
        metavar="DIR",
        exists=True,
        file_okay=False,
        help="Merge the LoRA adapter in this directory, as peft saves it, into a checkpoint's weights.",
        rich_help_panel=WEIGHTS,
    ),
]
NoAdapter = Annotated[
    bool,
    typer.Option(
        "--no-adapter",
        help="Take the model alone, where an adapter lies beside it.",
        rich_help_panel=WEIGHTS,
    ),
]
IgnoreKey = Annotated[
    list[str] | None,
    typer.Option(
        "--ignore-key",
        metavar="NAME",
        help="Read a checkpoint as if its files hadn't this key, which tfm doesn't know; may be repeated. A "
        "key that changes what the model computes makes it another one.",
        rich_help_panel=WEIGHTS,
    ),
]
Threads = Annotated[
    int | None,
    typer.Option(
        "--threads",
        metavar="N",
        min=1,
        max=1024,
        callback=limit_threads,
        help="Threads; by default as many as this machine can use.",
        rich_help_panel=SPEED,
    ),
]
Texts = Annotated[
    list[str] | None,
    typer.Argument(metavar="TEXT", help="The texts; without any, the lines of --file or stdin are read."),
]
Lines = Annotated[
    Path | None,
    typer.Option(
        "--file", metavar="FILE", exists=True, dir_okay=False, help="A file with one text on each line."
    ),
]
Text = Annotated[str | None, typer.Argument(help="The text; without it all of --file or stdin is read.")]
TextFile = Annotated[
    Path | None,
    typer.Option("--file", metavar="FILE", exists=True, dir_okay=False, help="A file with the text."),
]
Batch = Annotated[
    int,
    typer.Option(
        "--batch",
        metavar="N",
        min=1,
        help="How many texts are computed at a time.",
        rich_help_panel=SPEED,
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
NoEscape = Annotated[
    bool,
    typer.Option("--no-escape", help="Print control characters of the model's text as they are."),
]
MaxNewTokens = Annotated[
    int | None,
    typer.Option(
        "--max-new-tokens",
        "-n",
        metavar="N",
        min=1,
        help="The most tokens of the answer; by default as many as the model asks for, or 256.",
    ),
]
Verbose = Annotated[
    bool,
    typer.Option(
        "--verbose",
        callback=set_verbose,
        help="Show speed and stages of exports.",
    ),
]
System = Annotated[str | None, typer.Option(metavar="TEXT", help="A system message, read first.")]
Seed = Annotated[
    int,
    typer.Option(
        "--seed",
        metavar="N",
        min=0,
        help="Seed of the random numbers; the same seed, options and machine give the same text.",
        rich_help_panel=TOKENS,
    ),
]
Stop = Annotated[
    list[str] | None,
    typer.Option("--stop", metavar="TEXT", help="End the answer before this text; may be repeated."),
]
Greedy = Annotated[
    bool,
    typer.Option(
        "--greedy",
        help="Take the likeliest token each time, even if the model asks for sampling.",
        rich_help_panel=TOKENS,
    ),
]
Temperature = Annotated[
    float | None,
    typer.Option(
        metavar="T",
        help="Sample: above 1 the distribution is flatter, below 1 sharper, 0 is greedy.",
        rich_help_panel=TOKENS,
    ),
]
TopK = Annotated[
    int | None,
    typer.Option(metavar="K", help="Sample among the K likeliest tokens.", rich_help_panel=TOKENS),
]
TopP = Annotated[
    float | None,
    typer.Option(
        metavar="P",
        help="Sample among the fewest likeliest tokens with probability P together.",
        rich_help_panel=TOKENS,
    ),
]
MinP = Annotated[
    float | None,
    typer.Option(
        metavar="P",
        help="Sample tokens with at least P times the likeliest token's probability.",
        rich_help_panel=TOKENS,
    ),
]
RepetitionPenalty = Annotated[
    float | None,
    typer.Option(
        metavar="X",
        help="Above 1, tokens of the prompt and the answer become less likely.",
        rich_help_panel=TOKENS,
    ),
]
TypicalP = Annotated[
    float | None,
    typer.Option(
        metavar="P",
        help="Locally typical sampling: keep the tokens whose surprise is closest to the entropy, up to "
        "probability P together.",
        rich_help_panel=TOKENS,
    ),
]
PresencePenalty = Annotated[
    float | None,
    typer.Option(
        metavar="X",
        help="Subtract X from the logit of each token that the answer has.",
        rich_help_panel=TOKENS,
    ),
]
FrequencyPenalty = Annotated[
    float | None,
    typer.Option(
        metavar="X",
        help="Subtract X from a token's logit for each time that the answer has it.",
        rich_help_panel=TOKENS,
    ),
]
NoRepeatNgram = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        help="No run of N tokens occurs twice, the prompt included.",
        rich_help_panel=TOKENS,
    ),
]
Beams = Annotated[
    int | None,
    typer.Option(
        "--beams",
        metavar="N",
        help="Search with N beams for the likeliest whole text.",
        rich_help_panel=TOKENS,
    ),
]
LengthPenalty = Annotated[
    float | None,
    typer.Option(
        metavar="P",
        help="With --beams, rank texts by log-probability / length^P: a larger P favours long ones.",
        rich_help_panel=TOKENS,
    ),
]
Draft = Annotated[
    str | None,
    typer.Option(
        metavar="FROM",
        help="Speculative decoding: guess tokens from the text so far (prompt), by the model's own module "
        "(mtp) or by a smaller MODEL, and check several in a step; none switches it off.",
        rich_help_panel=SPEED,
    ),
]
Prefix = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        dir_okay=False,
        help="Keep in this file what the model computes of the prompt, or of a chat's beginning: a later one "
        "that begins alike is read from there on. The file is as private as the prompt.",
        rich_help_panel=SPEED,
    ),
]


def json_object(text: str) -> dict[str, Any]:
    """The JSON object that an argument states; a usage error for another text."""
    from ..refimpl.errors import ArgumentError
    from ..refimpl.formats.strict_json import parse

    try:
        value = parse(text, "it", ArgumentError)
    except ArgumentError as error:
        raise typer.BadParameter(str(error)) from None
    if not isinstance(value, dict):
        raise typer.BadParameter(
            f'it must be a JSON object such as {{"enable_thinking": false}}, got {text:.60}'
        )
    return value


ChatTemplateKwargs = Annotated[
    dict[str, Any] | None,
    typer.Option(
        metavar="JSON",
        parser=json_object,
        help="Variables of the model's chat template, such as '{\"enable_thinking\": false}'; one that it "
        "doesn't have is an error.",
    ),
]


def adapter_choice(adapter: Path | None, no_adapter: bool) -> AdapterChoice:
    """What --adapter and --no-adapter say together."""
    if adapter is not None and no_adapter:
        raise typer.BadParameter("--adapter and --no-adapter contradict each other: give one of them")
    return False if no_adapter else adapter


# How library errors name parameters, and the flags of the command line for these.
FLAGS = {
    "full=True": "--full",
    "source=": "--source ",
    "context=": "--context ",
    "adapter=False": "--no-adapter",
    "adapter=": "--adapter ",
    "ignore_keys=": "--ignore-key ",
    "for ignore_keys": "for --ignore-key",
    "device=": "--device ",
    "quant=": "--quant ",
    "quant must": "--quant must",
    "target=": "--target ",
    "target must": "--target must",
    "kv=": "--kv ",
    "kv must": "--kv must",
    "table_bits=": "--table ",
    "table_bits must": "--table must",
    "json_schema": "--json-schema",
    "regex can't": "--regex can't",
    "regex may": "--regex may",
    "grammar can't": "--grammar can't",
    "grammar may": "--grammar may",
    "takes no regex": "takes no --regex",
    "takes no grammar": "takes no --grammar",
    "strict=True": "--strict",
    "raw=True": "--raw",
    "system is": "--system is",
    "chat_template_kwargs": "--chat-template-kwargs",
    "calibration.method": "--ranges",
    "calibration.alpha": "--smooth",
    "calibration goes": "--calibrate goes",
    "calibration:": "--calibrate FILE:",
}
PARAMETERS = re.compile("|".join(rf"(?<![\w.]){re.escape(name)}" for name in FLAGS))


def with_flags(message: str) -> str:
    """A library's message with flags in place of the parameters that it names."""
    return PARAMETERS.sub(lambda match: FLAGS[match[0]], message)


def checked(**options: Unpack[GenerateOptions]) -> GenerateOptions:
    """The options of generation, checked before a model is fetched or loaded; refused ones are usage
    errors."""
    from ..refimpl.errors import LimitError
    from ..runtime.tasks.options import check

    try:
        check(**options)
    except LimitError as error:
        raise typer.BadParameter(str(error)) from None
    return options


def static_layout(
    layout: LayoutName | None, batch: int | None, time: int | None, capacity: int | None
) -> BundleLayout | str | None:
    """The layout that is asked for: by its name, or by the sizes of fixed shapes; None without either."""
    if time is None:
        if batch is not None or capacity is not None:
            raise typer.BadParameter("--batch and --capacity go with --time N")
        return layout
    if layout is not None:
        raise typer.BadParameter(f"--time gives fixed shapes, which {layout} has none of: leave one out")
    from ..export.layouts import static

    return static.layout(static.Sizes(1 if batch is None else batch, time, capacity))
