"""Options that several commands share, each stated once."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

Quant = Literal["fp32", "fp16", "int8", "int8-dynamic", "int4", "keep"]
Target = Literal["ort-cpu", "ort-cuda", "standard"]
Device = Literal["cpu", "cuda", "auto"]
EngineName = Literal["numpy", "torch", "onnx"]

Model = Annotated[
    str, typer.Option("--model", "-m", metavar="MODEL", help="A path, pypi:NAME, hf:ORG/NAME, or a name that `models` lists.")
]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object.")]
OnDevice = Annotated[Device, typer.Option("--device", help="Where to run.")]
Threads = Annotated[
    int | None, typer.Option("--threads", min=1, max=1024, help="Threads; by default as many as help on this machine.")
]
