"""Options that several commands share, and the flags for the parameters that library errors name."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, Unpack

import typer

from ..refimpl.config import KVFormat
from ..runtime.bundle.schemes import SchemeName
from ..runtime.bundle.targets import TargetName

if TYPE_CHECKING:
    from ..refimpl.formats.adapters import AdapterChoice
    from ..runtime.tasks import GenerateOptions

Quant = SchemeName
Kv = KVFormat
Ranges = Literal["minmax", "percentile", "entropy"]
Target = TargetName
DeviceName = Literal["cpu", "cuda", "auto"]
EngineName = Literal["numpy", "torch", "onnx"]

THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def limit_threads(count: int | None) -> int | None:
    """Limit the threads of NumPy and torch; they read the limit when they are imported, which must come
    later."""
    if count is not None:
        os.environ |= dict.fromkeys(THREAD_VARIABLES, str(count))
    return count


Model = Annotated[
    str,
    typer.Option(
        "--model",
        "-m",
        metavar="MODEL",
        help="A path, pypi:NAME, hf:ORG/NAME, or a name that `tfm-cli models` lists.",
    ),
]
Engine = Annotated[
    EngineName,
    typer.Option(
        "--engine",
        help="The engine: numpy is the specification, torch its mirror, onnx ONNX Runtime.",
    ),
]
Quantization = Annotated[
    Quant | None,
    typer.Option(
        "--quant",
        help="How weights are stored, where a checkpoint has to be exported. By default int8; int8-dynamic "
        "for an encoder on the CPU.",
    ),
]
Device = Annotated[
    DeviceName, typer.Option("--device", help="Where to run; auto takes CUDA if it starts, else the CPU.")
]
Context = Annotated[
    int | None,
    typer.Option(
        "--context",
        metavar="N",
        min=1,
        help="Export a checkpoint for texts of up to N tokens. Past the trained context, LongRoPE uses its "
        "long divisors and dynamic NTK a larger theta, for texts of any length; transformers does so only "
        "once a text is long.",
    ),
]
Adapter = Annotated[
    Path | None,
    typer.Option(
        "--adapter",
        metavar="DIR",
        exists=True,
        file_okay=False,
        help="Merge the LoRA adapter in this directory, as the peft library saves it, into the weights of a "
        "checkpoint.",
    ),
]
NoAdapter = Annotated[
    bool, typer.Option("--no-adapter", help="Take the model alone, where an adapter lies beside it.")
]
Threads = Annotated[
    int | None,
    typer.Option(
        "--threads",
        min=1,
        max=1024,
        callback=limit_threads,
        help="Threads; by default as many as this machine can use.",
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
    int, typer.Option("--batch", metavar="N", min=1, help="How many texts are computed at a time.")
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
        metavar="N",
        min=1,
        help="The most tokens of the answer; by default as many as the model asks for, or 256.",
    ),
]
Seed = Annotated[
    int,
    typer.Option(
        "--seed",
        min=0,
        help="Seed of the random numbers; the same seed, options and machine give the same text.",
    ),
]
Stop = Annotated[
    list[str] | None,
    typer.Option("--stop", metavar="TEXT", help="End the answer before this text; may be repeated."),
]
Greedy = Annotated[
    bool,
    typer.Option("--greedy", help="Take the likeliest token each time, even if the model asks for sampling."),
]
Temperature = Annotated[
    float | None,
    typer.Option(help="Sample; above 1 the distribution is flatter, below 1 sharper."),
]
TopK = Annotated[int | None, typer.Option(help="Sample among the k likeliest tokens.")]
TopP = Annotated[
    float | None,
    typer.Option(help="Sample among the fewest likeliest tokens that have this probability together."),
]
MinP = Annotated[
    float | None,
    typer.Option(help="Sample tokens with at least this share of the likeliest token's probability."),
]
RepetitionPenalty = Annotated[
    float | None,
    typer.Option(help="Above 1, tokens of the prompt and the answer become less likely."),
]
TypicalP = Annotated[
    float | None,
    typer.Option(
        help="Locally typical sampling: keep the tokens whose surprise is closest to the entropy, up to this "
        "much probability."
    ),
]
PresencePenalty = Annotated[
    float | None, typer.Option(help="Subtracted from the logit of each token that the answer has.")
]
FrequencyPenalty = Annotated[
    float | None,
    typer.Option(help="Subtracted from the logit of a token for each time that the answer has it."),
]
NoRepeatNgram = Annotated[
    int | None, typer.Option(metavar="N", help="No run of N tokens occurs twice, the prompt included.")
]
Beams = Annotated[
    int | None,
    typer.Option(
        "--beams",
        metavar="N",
        help="Search with N beams for the likeliest whole text; it is printed once it is complete.",
    ),
]
LengthPenalty = Annotated[
    float | None,
    typer.Option(
        help="With --beams, log-probability / length^P ranks the texts; a larger P favours long ones, 0 "
        "ignores the length."
    ),
]
Draft = Annotated[
    str | None,
    typer.Option(
        metavar="prompt|MODEL",
        help="Speculative decoding: tokens are proposed from the text so far (prompt) or by a smaller model "
        "of the same tokenizer, and several are checked in one step. Greedy text stays the same, and "
        "sampled text keeps its distribution, up to rounding: several tokens at once are rounded otherwise "
        "than one, most of all in int8 and int4, so that the other of two nearly tied tokens may win.",
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
    "adapter=False": "--no-adapter",
    "adapter=": "--adapter ",
    "quant=": "--quant ",
    "quant must": "--quant must",
    "target=": "--target ",
    "target must": "--target must",
    "kv=": "--kv ",
    "kv must": "--kv must",
    "table_bits=": "--table ",
    "table_bits must": "--table must",
    "strict=True": "--strict",
    "raw=True": "--raw",
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
