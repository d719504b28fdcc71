"""Declare the options that several commands share, and map the parameters in library errors to flags."""

from __future__ import annotations

import inspect
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

import typer

from ..refimpl.config import KVFormat
from ..refimpl.decoding.options import Option, TextOptions, options
from ..runtime.bundle.schemes import SCHEMES, SchemeName
from ..runtime.bundle.targets import TargetName
from .console import DETAIL

if TYPE_CHECKING:
    from ..export.layouts.layout import BundleLayout
    from ..refimpl.checkpoint.formats.adapters import AdapterChoice
    from ..runtime import tasks

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
    """Limit the number of threads that NumPy and torch use.

    Both libraries read the limit when they are imported, so call this function before importing them.
    """
    if count is not None:
        os.environ |= dict.fromkeys(THREAD_VARIABLES, str(count))
    return count


# What the OpenAI API calls our options.
ALIASES = {
    option.openai.replace("_", "-"): name.replace("_", "-")
    for name, option in options(TextOptions).items()
    if option.openai
}
CONTEXT = {"token_normalize_func": lambda name: ALIASES.get(name, name)}


def set_verbose(verbose: bool) -> bool:
    """Turn the additional messages of --verbose on or off."""
    DETAIL.verbose = verbose
    return verbose


def catalogue() -> list[str]:
    """Return the names that `tfm-cli models` lists. A shell completes model names from this list."""
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
        help="The model: a path, hf:ORG/NAME on the Hugging Face Hub, or a name that `tfm-cli models` lists.",
    ),
]
Engine = Annotated[
    EngineName,
    typer.Option(
        "--engine",
        help="The library that computes the model. onnx is ONNX Runtime. numpy is tfm's reference "
        "implementation in NumPy. torch is the same reference implementation on PyTorch tensors.",
        rich_help_panel=SPEED,
    ),
]
FixedBatch = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        help="With --time: the fixed batch size of the graph. The default is 1.",
        rich_help_panel=SHAPES,
    ),
]
FixedTime = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        help="Write a graph with fixed shapes, for NPUs and phones. The graph reads N tokens per run, and "
        "uses only standard ONNX operators (ai.onnx).",
        rich_help_panel=SHAPES,
    ),
]
FixedCapacity = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        help="With --time: the maximum number of tokens in the decoder's cache.",
        rich_help_panel=SHAPES,
    ),
]
LAYOUTS = "genai (onnxruntime-genai), transformers.js or optimum"
Quantization = Annotated[
    Quant | None,
    typer.Option(
        "--quant",
        metavar="SCHEME",
        help=f"The quantization of the weights when tfm exports a checkpoint: {', '.join(SCHEMES)}. "
        "The default is int8, or int8-dynamic for an encoder on the CPU.",
        rich_help_panel=WEIGHTS,
    ),
]
Device = Annotated[
    DeviceName,
    typer.Option(
        "--device",
        help="The device that runs the model. auto is CUDA if CUDA works here, otherwise the CPU.",
        rich_help_panel=SPEED,
    ),
]
Context = Annotated[
    int | None,
    typer.Option(
        "--context",
        metavar="N",
        min=1,
        help="For a checkpoint: the maximum length of a text in tokens. The default is the trained length, "
        "and N may be larger.",
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
        help="Merge a LoRA adapter into the checkpoint's weights. DIR is the directory in which the library "
        "PEFT saved the adapter.",
        rich_help_panel=WEIGHTS,
    ),
]
NoAdapter = Annotated[
    bool,
    typer.Option(
        "--no-adapter",
        help="Don't merge the LoRA adapter that is in the model's own directory.",
        rich_help_panel=WEIGHTS,
    ),
]
IgnoreKey = Annotated[
    list[str] | None,
    typer.Option(
        "--ignore-key",
        metavar="NAME",
        help="Ignore this key in the checkpoint's files, although tfm doesn't know the key. If the key "
        "changes what the model computes, the results are wrong. May be given several times.",
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
        help="The number of CPU threads, by default as many as this machine can use.",
        rich_help_panel=SPEED,
    ),
]
Texts = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="TEXT", help="The texts to process. Without TEXT, each line of --file or stdin is one text."
    ),
]
Lines = Annotated[
    Path | None,
    typer.Option(
        "--file",
        metavar="FILE",
        exists=True,
        dir_okay=False,
        help="Read the texts from this file, with one text on each line.",
    ),
]
Text = Annotated[
    str | None,
    typer.Argument(
        help="The text to process. Without this argument, tfm reads the text from --file or stdin."
    ),
]
TextFile = Annotated[
    Path | None,
    typer.Option("--file", metavar="FILE", exists=True, dir_okay=False, help="Read the text from this file."),
]
Batch = Annotated[
    int,
    typer.Option(
        "--batch",
        metavar="N",
        min=1,
        help="The batch size: the number of texts that the model processes at the same time.",
        rich_help_panel=SPEED,
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
NoEscape = Annotated[
    bool,
    typer.Option(
        "--no-escape",
        help="Don't escape control characters in the model's text.",
    ),
]
Verbose = Annotated[
    bool,
    typer.Option(
        "--verbose",
        callback=set_verbose,
        help="Print the model's speed and each stage of an export.",
    ),
]
System = Annotated[
    str | None,
    typer.Option(
        metavar="TEXT",
        help="A system message, which the model reads before the user's messages.",
    ),
]
Draft = Annotated[
    str | None,
    typer.Option(
        metavar="FROM",
        help="Speculative decoding: draft several tokens, then check them in one step. The drafts come from "
        "the text so far (prompt), the model's own module (mtp) or a smaller model (its name). none "
        "means no drafts.",
        rich_help_panel=SPEED,
    ),
]
Prefix = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        dir_okay=False,
        help="Save the cache of the prompt, or of a chat's beginning, in this file. A later run computes "
        "only the part of its prompt that differs. The file is as private as the prompt.",
        rich_help_panel=SPEED,
    ),
]


def json_object(text: str) -> dict[str, Any]:
    """Parse an argument as a JSON object. Raises a usage error for any other text."""
    from ..refimpl.checkpoint.formats.strict_json import parse
    from ..refimpl.errors import ArgumentError

    try:
        value = parse(text, "the value", ArgumentError)
    except ArgumentError as error:
        raise typer.BadParameter(str(error)) from None
    if not isinstance(value, dict):
        raise typer.BadParameter(
            f'the value must be a JSON object such as {{"enable_thinking": false}}, got {text:.60}'
        )
    return value


ChatTemplateKwargs = Annotated[
    dict[str, Any] | None,
    typer.Option(
        metavar="JSON",
        parser=json_object,
        help="Variables for the model's chat template, such as '{\"enable_thinking\": false}'. tfm refuses a "
        "variable that the template doesn't use.",
    ),
]


ThinkingTokenBudget = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        min=0,
        help="Limit a chat model's thinking to N tokens. tfm then adds the tokens that end the thinking.",
    ),
]


Tools = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        exists=True,
        dir_okay=False,
        help="A JSON file with the functions that the model may call, in the OpenAI API's format. tfm "
        "prints each call on its own line. In `chat`, type the result of each call as your next "
        "message. `generate --json` lists the calls under `calls`.",
    ),
]


def adapter_choice(adapter: Path | None, no_adapter: bool) -> AdapterChoice:
    """Return the adapter to merge according to --adapter and --no-adapter: a directory, False for none, or
    None for the default.
    """
    if adapter is not None and no_adapter:
        raise typer.BadParameter("--adapter and --no-adapter contradict each other: remove one option")
    return False if no_adapter else adapter


@dataclass
class Running:
    """The options of a command that runs a model. They say how and on which device to load the model."""

    quant: Quantization = None
    adapter: Adapter = None
    no_adapter: NoAdapter = False
    ignore_key: IgnoreKey = None
    verbose: Verbose = False
    device: Device = "cpu"
    threads: Threads = None
    engine: Engine = "onnx"

    def __post_init__(self) -> None:
        self.merged: AdapterChoice = adapter_choice(self.adapter, self.no_adapter)

    def load(self, name: str, task: str, context: int | None = None) -> tasks.Model:
        """Load the model with this name for a task."""
        from .model_loading import load

        return load(
            name, self.engine, self.quant, self.device, self.threads, context,
            task=task, adapter=self.merged, ignore_keys=self.ignore_key or (),
        )  # fmt: skip


def grouped(command: Callable[..., None]) -> Callable[..., None]:
    """Make each field of a command's dataclass parameters, or of `TextOptions`, an option of the command."""
    own = inspect.signature(command, eval_str=True).parameters
    parts = {name: _parts(one.annotation) for name, one in own.items()}

    def run(**given: Any) -> None:
        for name, part in parts.items():
            if part:
                given[name] = own[name].annotation(**{one.name: given.pop(one.name) for one in part})
        command(**given)

    parameters = [one for name in own for one in parts[name] or [own[name]]]
    shown: Any = run
    shown.__signature__ = inspect.Signature([one.replace(kind=one.KEYWORD_ONLY) for one in parameters])
    run.__doc__ = command.__doc__
    return run


def _parts(group: Any) -> list[inspect.Parameter]:
    """Return the options that a parameter's type declares, or an empty list if it declares none."""
    if hasattr(group, "__dataclass_fields__"):
        return [*inspect.signature(group, eval_str=True).parameters.values()]
    if group is TextOptions:
        return [_parameter(name, one) for name, one in options(TextOptions).items() if one.metavar]
    return []


def _parameter(name: str, option: Option) -> inspect.Parameter:
    """Return a decoding option as a command's parameter. The default is left to the model or the library."""
    kind, words = option.type, option.help
    if bool in get_args(kind):
        kind = bool
    elif Sequence[str] in get_args(kind):
        kind, words = list[str] | None, f"{words} May be given several times."
    info = typer.Option(
        *(option.flags or (f"--{name.replace('_', '-')}",)),
        metavar=None if kind is bool else option.metavar,
        min=None if option.values.least is None else min((option.values.least, *option.switches)),
        max=option.values.most,
        help=words,
        rich_help_panel=option.panel,
    )
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY,
        default=False if kind is bool else None, annotation=Annotated[kind, info],
    )  # fmt: skip


# How library errors name parameters, and the flags of the command line for these.
FLAGS = {
    "full=True": "--full",
    "source=": "--source ",
    "context=": "--context ",
    "adapter=False": "--no-adapter",
    "adapter=": "--adapter ",
    "ignore_keys=": "--ignore-key ",
    "ignore_keys can": "--ignore-key can",
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
    "combined with regex": "combined with --regex",
    "combined with grammar": "combined with --grammar",
    "strict=True": "--strict",
    "raw=True": "--raw",
    "system needs": "--system needs",
    "chat_template_kwargs": "--chat-template-kwargs",
    "budget=": "--budget ",
    "budget must": "--budget must",
    "bits=": "--bits ",
    "bits must": "--bits must",
    "new_tokens must": "--new-tokens must",
    "calibration.method": "--ranges",
    "calibration.alpha": "--smooth",
    "calibration needs": "--calibrate needs",
    "calibration can": "--calibrate can",
    "calibration:": "--calibrate FILE:",
}
PARAMETERS = re.compile("|".join(rf"(?<![\w.]){re.escape(name)}" for name in FLAGS))


def with_flags(message: str) -> str:
    """Return a library's message with flags of the command line instead of the library's parameters."""
    return PARAMETERS.sub(lambda match: FLAGS[match[0]], message)


def checked(given: TextOptions, **more: Any) -> tasks.GenerateOptions:
    """Check the options of generation before a model is fetched or loaded, and return the options.

    Raises a usage error if an option is refused.
    """
    from ..refimpl.errors import LimitError
    from ..runtime.tasks.options import check

    chosen: Any = {**given, **more}
    try:
        check(**chosen)
    except LimitError as error:
        raise typer.BadParameter(str(error)) from None
    return chosen


def static_layout(
    layout: LayoutName | None, batch: int | None, time: int | None, capacity: int | None
) -> BundleLayout | str | None:
    """Return the layout that the user asked for by its name or by the sizes of fixed shapes. Returns None if
    neither is given.
    """
    if time is None:
        if batch is not None or capacity is not None:
            raise typer.BadParameter(
                "--batch and --capacity need --time N: add --time, or remove --batch and --capacity"
            )
        return layout
    if layout is not None:
        raise typer.BadParameter(
            f"--time asks for fixed shapes, which --layout {layout} doesn't have: remove --time or --layout"
        )
    from ..export.layouts import static

    return static.layout(static.Sizes(1 if batch is None else batch, time, capacity))
