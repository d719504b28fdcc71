"""The command `tfm-cli summarize`, which summarizes a text."""

from __future__ import annotations

import time

from .. import options as o
from ..console import out_answer
from ..inputs import read_prompt

GROUP = "Write texts"


@o.grouped
def command(
    *,
    model: o.Model = "demo-summarize",
    text: o.Text = None,
    file: o.TextFile = None,
    options: o.TextOptions,
    running: o.Running,
    as_json: o.AsJson = False,
    no_escape: o.NoEscape = False,
) -> None:
    """Summarize a text, with the prefix and the options for summaries from the model's files.

    Example: tfm-cli summarize --file report.txt --model my-model --max-new-tokens 60
    """
    from ..model_loading import computed_by

    text = read_prompt(text, file)
    chosen = o.checked(options)
    begin = time.perf_counter()
    loaded = running.load(model, "summarize")
    load_s = time.perf_counter() - begin
    answer = loaded.summarize(text, **chosen)
    out_answer(answer, as_json=as_json, no_escape=no_escape, load_s=load_s, by=computed_by(loaded))
