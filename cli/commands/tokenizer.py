"""`tfm-cli tokenizer`: train one, look at what one does, and compare sizes of vocabularies."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from .. import options as o
from ..console import out, out_json, say, table
from ..plot import Plot, draw

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ...refimpl.tokenizers.tokenizer import Tokenizer

Method = Annotated[
    Literal["bpe", "unigram"],
    typer.Option("--method", help="Byte-level BPE as GPT-2's, or a unigram model as T5's."),
]
Files = Annotated[list[Path], typer.Argument(exists=True, dir_okay=False, help="Text in UTF-8.")]
TEXT_BYTES = 2**30
SIZES = (1000, 4000, 10_000, 32_000, 64_000)
HELD_OUT = 10  # one line in so many is kept from training, where no file is named

GROUP = "Look inside"
command = typer.Typer(help="Train a tokenizer, look at what one does, compare sizes of vocabularies.")


@command.command("train")
def train(
    files: Files,
    path: Annotated[Path, typer.Option("--out", dir_okay=False, help="The tokenizer.json to write.")],
    method: Method = "bpe",
    size: Annotated[int, typer.Option("--size", min=1, max=2**20, help="The most pieces.")] = 32_000,
    special: Annotated[
        list[str] | None, typer.Option("--special", metavar="TOKEN", help="A special token; may be repeated.")
    ] = None,
    min_frequency: Annotated[int, typer.Option(min=0, help="The least count of a pair that is joined.")] = 2,
    as_json: o.AsJson = False,
) -> None:
    """Train a tokenizer on files and write its tokenizer.json, whole or not at all."""
    from ...refimpl.tokenizers import training
    from ...refimpl.tokenizers.tokenizer import save

    begin = time.perf_counter()
    words = training.count_words(_lines(files), method, _progress())
    made = training.train(
        words, method, size, special_tokens=special or (), min_frequency=min_frequency, progress=_progress()
    )
    save(made, path)
    facts = {"path": str(path), "method": method, "vocabulary": len(made.vocabulary), "words": words.total()}
    facts |= {"different_words": len(words), "seconds": round(time.perf_counter() - begin, 1)}
    if as_json:
        out_json(facts)
        return
    for name, value in facts.items():
        out(f"{name.replace('_', ' '):16}{value}")


@command.command("encode")
def encode(
    text: Annotated[str | None, typer.Argument(help="The text; else --file or stdin.")] = None,
    file: Annotated[Path | None, typer.Option(exists=True, dir_okay=False, help="Read the text.")] = None,
    model: Annotated[
        str, typer.Option("--model", "-m", metavar="MODEL", help="A model, or a tokenizer.json.")
    ] = "smollm2-135m",
    bare: Annotated[bool, typer.Option("--bare", help="Without the tokens around a text.")] = False,
    as_json: o.AsJson = False,
) -> None:
    """The tokens of a text by the specification: id, piece, and the characters that each stands for."""
    from .generate import read_prompt

    given = read_prompt(text, file)
    found = _tokenizer(model)
    made = found.encode(given, add_special_tokens=not bare)
    rows = list(zip(made.ids, made.tokens, made.offsets, strict=True))
    if as_json:
        tokens = [{"id": i, "piece": piece, "start": a, "end": b} for i, piece, (a, b) in rows]
        out_json({"tokens": tokens, "decoded": found.decode(made.ids)})
        return
    table(
        ("ID", "PIECE", "FROM", "TO", "TEXT"),
        [(i, piece, a, b, repr(given[a:b])) for i, piece, (a, b) in rows],
    )
    out(f"{len(rows)} tokens of {len(given)} characters")


@command.command("compare")
def compare(
    files: Files,
    held_out: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, help="Text to measure on; else every tenth line."),
    ] = None,
    method: Method = "bpe",
    sizes: Annotated[
        list[int] | None, typer.Option("--size", min=257, max=2**20, help="A size; may be repeated.")
    ] = None,
    width: Annotated[int, typer.Option(min=1, help="Numbers in an embedding.")] = 768,
    plot: Plot = None,
    as_json: o.AsJson = False,
) -> None:
    """Size of a vocabulary against tokens a word, unknown tokens and embedding parameters."""
    lines = _lines(files)
    rest = _lines([held_out]) if held_out else lines[::HELD_OUT]
    if not held_out:
        lines = [line for i, line in enumerate(lines) if i % HELD_OUT]
    rows = measure(lines, rest, method, sorted(set(sizes or SIZES)), _progress)
    for row in rows:
        row["embedding_parameters"] = row["vocabulary"] * width
    if plot is not None:
        draw(plot, 7, 5, lambda figure: picture(figure, rows))
    if as_json:
        out_json({"method": method, "width": width, "rows": rows})
        return
    table(
        ("VOCABULARY", "PIECES", "TOKENS A WORD", "UNKNOWN", "UNKNOWN SHARE", f"EMBEDDING AT {width}"),
        [
            (r["name"], r["vocabulary"], f"{r['tokens_per_word']:.3f}", r["unknown"],
             f"{r['unknown'] / max(r['tokens'], 1):.3%}", f"{r['embedding_parameters']:,}")
            for r in rows
        ],
    )  # fmt: skip


def measure(
    lines: Sequence[str], rest: Sequence[str], method: Any, sizes: Sequence[int], progress: Callable[[], Any]
) -> list[dict[str, Any]]:
    """A row for characters and one for each size, as far as the text carries; measured on `rest`."""
    from ...refimpl.errors import LimitError
    from ...refimpl.tokenizers import training

    count = sum(len(line.split()) for line in rest)
    if count == 0:
        raise LimitError("the held-out text must have at least one word")
    known = set().union(*lines)
    tokens, unknown = sum(map(len, rest)), sum(c not in known for line in rest for c in line)

    def row(name: str, vocabulary: int, tokens: int, unknown: int) -> dict[str, Any]:
        return {"name": name, "vocabulary": vocabulary, "tokens": tokens, "words": count,
                "tokens_per_word": tokens / count, "unknown": unknown}  # fmt: skip

    rows = [row("characters", len(known) + 1, tokens, unknown)]
    words, others = (training.count_words(part, method, progress()) for part in (lines, rest))
    # BPE's smaller vocabularies are beginnings of its largest: it is trained once.
    longest = training.train(words, method, sizes[-1], progress=progress()) if method == "bpe" else None
    for size in sizes:
        made = (
            training.truncate_vocabulary(longest, size)
            if longest is not None
            else training.train(words, method, size, progress=progress())
        )
        rows.append(row(f"{size:,}", len(made.vocabulary), *training.count_tokens(made, others)))
        if len(made.vocabulary) < size:
            break
    return rows


def picture(figure: Figure, rows: Sequence[dict[str, Any]]) -> None:
    """Pieces of a vocabulary against tokens a word, and characters as a line of their own."""
    axes, (letters, *trained) = figure.subplots(), rows
    sizes, tokens = ([row[what] for row in trained] for what in ("vocabulary", "tokens_per_word"))
    axes.semilogx(sizes, tokens, "o-", label="trained pieces")
    axes.axhline(letters["tokens_per_word"], ls="--", c="gray", label=f"{letters['vocabulary']:,} characters")
    axes.set(xlabel="pieces in the vocabulary", ylabel="tokens a word")
    axes.set_ylim(bottom=0)
    axes.legend()


def _tokenizer(name: str) -> Tokenizer:
    """The tokenizer of a file or of a model."""
    from ...refimpl.errors import CheckpointError
    from ...refimpl.tokenizers.tokenizer import load, read

    if name.endswith(".json"):
        return load(name)
    from ...refimpl.checkpoint.open import open_checkpoint
    from ...runtime.bundle.bundle import open_bundle
    from ...runtime.hub.locate import locate

    source = locate(name, say)
    if (source.path / "tokenizer.json").is_file():
        return load(source.path)
    opened = open_bundle(source.path) if source.kind == "bundle" else open_checkpoint(source.path)
    if opened.tokenizer is None:
        raise CheckpointError(f"{name} must have a tokenizer")
    return read(opened.tokenizer, name)


def _lines(files: Sequence[Path]) -> list[str]:
    """The lines of files with their ends; CheckpointError for what isn't UTF-8."""
    from ...refimpl.errors import CheckpointError
    from ...refimpl.formats.mapped_file import read_file

    found: list[str] = []
    for file in files:
        try:
            found += io.StringIO(read_file(file, TEXT_BYTES).decode(), newline="\n")
        except UnicodeDecodeError as error:
            raise CheckpointError(f"{file}: must be UTF-8, byte {error.start} isn't") from None
    return found


def _progress() -> Callable[[str, int, int], None]:
    """Says how far a stage is, at most once in two seconds."""
    last = time.monotonic()

    def progress(stage: str, done: int, total: int) -> None:
        nonlocal last
        if (now := time.monotonic()) - last >= 2:
            last = now
            say(f"{stage}: {done:,} of {total:,}")

    return progress
