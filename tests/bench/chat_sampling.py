"""Which sampling suits a small chat model that states none: its answers to a hundred prompts, by setting.

    python tests/bench/chat_sampling.py BUNDLE --judge LARGER_BUNDLE

`tfm.runtime.tasks.options.CHAT_SAMPLING` was chosen by its table. Of the answers to chat_prompts.txt, by the
random numbers of seed 0:

    loops        how many hold some run of four words (or marks) three times or more
    distinct-N   different runs of N words over all runs of N words, the mean over answers
    ended        how many end by themselves within `--tokens`
    perplexity   of the first `--scored` answers under a larger model that is asked the same

A loop is predictable, so a low perplexity alone says nothing: of the settings with few loops the one with the
lowest is wanted.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from tfm import runtime
from tfm.runtime.tasks import GenerateOptions, Model
from tfm.runtime.verification.metrics import log_softmax

PROMPTS = Path(__file__).with_name("chat_prompts.txt")
SETTINGS: dict[str, GenerateOptions] = {
    "greedy": {"greedy": True},
    "greedy, repetition 1.1": {"greedy": True, "repetition_penalty": 1.1},
    "T 0.2, top-p 0.9": {"temperature": 0.2, "top_p": 0.9},
    "T 0.2, top-p 0.9, repetition 1.1": {"temperature": 0.2, "top_p": 0.9, "repetition_penalty": 1.1},
    "T 0.5, top-p 0.9, repetition 1.05": {"temperature": 0.5, "top_p": 0.9, "repetition_penalty": 1.05},
    "T 0.5, top-p 0.9, repetition 1.1": {"temperature": 0.5, "top_p": 0.9, "repetition_penalty": 1.1},
    "T 0.5, top-p 0.9, frequency 0.2": {"temperature": 0.5, "top_p": 0.9, "frequency_penalty": 0.2},
    "T 0.7, min-p 0.1, repetition 1.05": {"temperature": 0.7, "min_p": 0.1, "repetition_penalty": 1.05},
}
LOOP_WORDS, LOOP_TIMES = 4, 3


def runs(text: str, n: int) -> list[tuple[str, ...]]:
    """All runs of n words or marks, in lower case."""
    words = re.findall(r"\w+|[^\w\s]", text.lower())
    return [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]


def loops(text: str) -> bool:
    """Whether some run of LOOP_WORDS words occurs LOOP_TIMES or more."""
    return max(Counter(runs(text, LOOP_WORDS)).values(), default=0) >= LOOP_TIMES


def distinct(text: str, n: int) -> float:
    """The share of runs of n words that differ; 1 where there are none."""
    found = runs(text, n)
    return len(set(found)) / len(found) if found else 1.0


def losses(judge: Model, prompt: str, answer: str) -> np.ndarray:
    """−log p in nats of each token of an answer, by one pass of the judge."""
    asked, ids = judge.prompt(prompt), judge.text.encode(answer)
    at = np.arange(len(asked) - 1, len(asked) + len(ids) - 1)
    logits, _ = judge.engine.step(np.array([[*asked, *ids]]), judge.engine.start(1), at=at[None])
    return -log_softmax(logits[0])[np.arange(len(ids)), ids]


def main(
    bundle: Path,
    judge: Annotated[Path | None, typer.Option(help="The bundle of a larger chat model.")] = None,
    scored: Annotated[int, typer.Option(help="Answers of each setting that the judge reads.")] = 100,
    tokens: int = 96,
    batch: int = 10,
    threads: int = 1,
    json_out: Annotated[Path | None, typer.Option("--json", help="Write figures and answers here.")] = None,
) -> None:
    """Answer, judge, and print the table."""
    prompts = PROMPTS.read_text().splitlines()
    model, results = runtime.load(bundle, threads=threads), {}
    for name, options in SETTINGS.items():
        answers = model.generate_many(prompts, batch=batch, max_new_tokens=tokens, seed=0, **options)
        texts = [answer.text for answer in answers]
        results[name] = {
            "loops": sum(map(loops, texts)),
            **{f"distinct-{n}": float(np.mean([distinct(text, n) for text in texts])) for n in (2, 4)},
            "ended": sum(answer.finish_reason == "stop" for answer in answers),
            "tokens": float(np.mean([len(answer.tokens) for answer in answers])),
            "answers": texts,
        }
        _print(name, results[name])
    if judge is not None:
        larger = runtime.load(judge, threads=threads)
        for name, result in results.items():
            pairs = zip(prompts[:scored], result["answers"], strict=False)
            nats = np.concatenate([losses(larger, prompt, text) for prompt, text in pairs if text])
            result["perplexity"] = math.exp(nats.mean())
            typer.echo(f"{name:36} perplexity {result['perplexity']:.3f}")
    if json_out is not None:
        json_out.write_text(json.dumps(results, indent=1) + "\n")


def _print(name: str, result: dict) -> None:
    shown = (f"{key} {result[key]:.3f}" for key in ("distinct-2", "distinct-4"))
    typer.echo(
        f"{name:36} loops {result['loops']:3}  {'  '.join(shown)}  ended {result['ended']:3}  "
        f"tokens {result['tokens']:.1f}"
    )


if __name__ == "__main__":
    typer.run(main)
