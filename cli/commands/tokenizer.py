"""The command `tfm-cli tokenizer`, which trains tokenizers, encodes text, writes tokens' bytes and compares
vocabularies.
"""

from __future__ import annotations

import io
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from .. import options as o
from ..console import out, out_json, progress, table
from ..plot import Plot, draw

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ...refimpl.checkpoint.tokenizers.tokenizer import Tokenizer
    from ...runtime.analysis.vocabularies import Vocabulary

Method = Annotated[
    Literal["bpe", "unigram"],
    typer.Option(
        "--method",
        help="The kind of tokenizer to train: bpe is byte-level BPE, as in GPT-2, and unigram "
        "is a unigram model, as in T5.",
    ),
]
Files = Annotated[
    list[Path], typer.Argument(exists=True, dir_okay=False, help="The text files to train on, in UTF-8.")
]
TEXT_BYTES = 2**30
SIZES = (1000, 4000, 10_000, 32_000, 64_000)
HELD_OUT = 10  # one line in so many isn't trained on, where no file to measure on is named

GROUP = "Look inside"
command = typer.Typer(
    help="Train a tokenizer, encode a text, write the bytes of each token to a file, or compare vocabulary "
    "sizes."
)


@command.command("train")
def train(
    files: Annotated[list[Path], typer.Argument(help="The text files to train on, in UTF-8.")],
    path: Annotated[
        Path,
        typer.Option(
            "--out",
            dir_okay=False,
            help="The file to write the trained tokenizer to, in the format of tokenizer.json.",
        ),
    ],
    method: Method = "bpe",
    size: Annotated[
        int,
        typer.Option("--size", min=1, max=2**20, help="The maximum number of tokens in the vocabulary."),
    ] = 32_000,
    special: Annotated[
        list[str] | None,
        typer.Option(
            "--special",
            metavar="TOKEN",
            help="Add this special token to the vocabulary. May be given several times.",
        ),
    ] = None,
    min_frequency: Annotated[
        int,
        typer.Option(
            min=0,
            help="The minimum number of times that a pair of tokens must occur before "
            "training merges the pair into one token.",
        ),
    ] = 2,
    as_json: o.AsJson = False,
) -> None:
    """Train a tokenizer on text files and write the tokenizer as a tokenizer.json.

    If the training fails, tfm writes no file.

    Example: tfm-cli tokenizer train book.txt --out tokenizer.json --size 8000 --special "<s>"
    """
    for file in files:
        if not file.is_file():
            raise typer.BadParameter(
                f"{file} must be an existing text file (give the file to write as --out)"
            )
    from ...refimpl.checkpoint.tokenizers import training
    from ...refimpl.checkpoint.tokenizers.tokenizer import save

    begin = time.perf_counter()
    words = training.count_words(_lines(files), method, progress())
    trained = training.train(
        words, method, size, special_tokens=special or (), min_frequency=min_frequency, progress=progress()
    )
    save(trained, path)
    facts = {
        "path": str(path),
        "method": method,
        "vocabulary": len(trained.vocabulary),
        "words": words.total(),
        "different_words": len(words),
        "seconds": round(time.perf_counter() - begin, 1),
    }
    if as_json:
        out_json(facts)
        return
    for name, value in facts.items():
        out(f"{name.replace('_', ' '):16}{value}")


@command.command("encode")
def encode(
    text: Annotated[
        str | None,
        typer.Argument(help="The text to encode. Without TEXT, tfm reads the text from --file or stdin."),
    ] = None,
    file: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="Read the text from this file.")
    ] = None,
    model: Annotated[
        str,
        typer.Option(
            "--model",
            "-m",
            metavar="MODEL",
            help="The tokenizer to use: the name or path of a model, or a tokenizer.json.",
        ),
    ] = "smollm2-135m",
    bare: Annotated[
        bool,
        typer.Option("--bare", help="Don't add the special tokens that the tokenizer puts around a text."),
    ] = False,
    as_json: o.AsJson = False,
) -> None:
    """Show the tokens of a text: each token's id, its text in the vocabulary, and the characters it covers.

    tfm computes the tokens with its own reference implementation.

    Example: tfm-cli tokenizer encode "Ada lives in London" -m minilm-l6
    """
    from .generate import read_prompt

    text = read_prompt(text, file)
    tokenizer = _tokenizer(model)
    encoding = tokenizer.encode(text, add_special_tokens=not bare)
    rows = list(zip(encoding.ids, encoding.tokens, encoding.offsets, strict=True))
    if as_json:
        tokens = [{"id": i, "piece": piece, "start": start, "end": end} for i, piece, (start, end) in rows]
        out_json({"tokens": tokens, "decoded": tokenizer.decode(encoding.ids)})
        return
    table(
        ("ID", "PIECE", "FROM", "TO", "TEXT"),
        [(i, piece, start, end, repr(text[start:end])) for i, piece, (start, end) in rows],
    )
    out(f"{len(rows)} tokens of {len(text)} characters")


@command.command("bytes")
def write_bytes(
    path: Annotated[Path, typer.Argument(dir_okay=False, help="The file to write the bytes to.")],
    model: Annotated[
        str,
        typer.Option(
            "--model",
            "-m",
            metavar="MODEL",
            help="The tokenizer to use: the name or path of a model, or a tokenizer.json.",
        ),
    ] = "smollm2-135m",
) -> None:
    """Write the bytes of each token to a file, so that a program without a tokenizer can convert ids to text.

    The example client in C reads these bytes from the file token_bytes in the bundle.

    Example: tfm-cli tokenizer bytes bundle/token_bytes -m bundle
    """
    from ...refimpl.checkpoint.formats.whole_file import write_whole
    from ...refimpl.checkpoint.tokenizers.token_bytes import to_file, token_bytes

    data = to_file(token_bytes(_tokenizer(model)))
    write_whole(path, data)
    out(f"{path}: {len(data)} bytes")


@command.command("compare")
def compare(
    files: Files,
    held_out: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            dir_okay=False,
            help="A text file on which to measure the tokenizers. Without this option, tfm trains on nine "
            "lines of ten of FILES and measures on every tenth line.",
        ),
    ] = None,
    method: Method = "bpe",
    sizes: Annotated[
        list[int] | None,
        typer.Option(
            "--size",
            min=257,
            max=2**20,
            help="Compare a tokenizer with this vocabulary size, in tokens. May be given several times.",
        ),
    ] = None,
    width: Annotated[
        int,
        typer.Option(
            min=1,
            help="The number of parameters in one token's embedding. tfm multiplies "
            "the vocabulary size by this width.",
        ),
    ] = 768,
    plot: Plot = None,
    as_json: o.AsJson = False,
) -> None:
    """Compare vocabulary sizes by tokens per word, unknown tokens and embedding parameters.

    tfm trains one tokenizer for each vocabulary size.

    Example: tfm-cli tokenizer compare book.txt --size 1000 --size 8000 --plot sizes.png
    """
    from ...runtime.analysis import vocabularies

    lines = _lines(files)
    if held_out is None:
        measured = lines[::HELD_OUT]
        lines = [line for i, line in enumerate(lines) if i % HELD_OUT]
    else:
        measured = _lines([held_out])
    rows = vocabularies.compare(lines, measured, method, sorted(set(sizes or SIZES)), progress())
    if plot is not None:
        draw(plot, 7, 5, lambda figure: picture(figure, rows))
    if as_json:
        with_embedding = [{**asdict(row), "embedding_parameters": row.vocabulary * width} for row in rows]
        out_json({"method": method, "width": width, "rows": with_embedding})
        return
    table(
        ("VOCABULARY", "PIECES", "TOKENS A WORD", "UNKNOWN", "UNKNOWN SHARE", f"EMBEDDING AT {width}"),
        [
            (row.name, row.vocabulary, f"{row.tokens_per_word:.3f}", row.unknown,
             f"{row.unknown / max(row.tokens, 1):.3%}", f"{row.vocabulary * width:,}")
            for row in rows
        ],
    )  # fmt: skip


def picture(figure: Figure, rows: Sequence[Vocabulary]) -> None:
    """Draw the vocabulary size against the tokens per word. Characters as tokens have a line of their own."""
    axes = figure.subplots()
    characters, *trained = rows
    sizes = [row.vocabulary for row in trained]
    axes.semilogx(sizes, [row.tokens_per_word for row in trained], "o-", label="trained tokens")
    axes.axhline(characters.tokens_per_word, ls="--", c="gray", label=f"{characters.vocabulary:,} characters")
    axes.set(xlabel="tokens in the vocabulary", ylabel="tokens a word")
    axes.set_ylim(bottom=0)
    axes.legend()


def _tokenizer(name: str) -> Tokenizer:
    """Return the tokenizer of a file or of a model."""
    from ...refimpl.checkpoint.tokenizers.tokenizer import load, read
    from ...refimpl.errors import CheckpointError

    if name.endswith(".json"):
        return load(name)
    from ...refimpl.checkpoint.formats.model_directory import Directory
    from ...refimpl.checkpoint.open import open_checkpoint
    from ...refimpl.checkpoint.tokenizer_files import read_tokenizer
    from ...runtime.bundle.bundle import open_bundle
    from ...runtime.hub.locate import locate

    source = locate(name, progress())
    if source.kind != "bundle" and source.path.is_dir():  # its weights aren't needed
        directory = Directory(source.path)
        files = [directory.object(file) or {} for file in ("tokenizer_config.json", "config.json")]
        if (applied := read_tokenizer(directory, *files)) is not None:
            return read(applied.text, name)
    # An adapter changes no tokenizer.
    is_bundle = source.kind == "bundle"
    opened = open_bundle(source.path) if is_bundle else open_checkpoint(source.path, adapter=False)
    if opened.tokenizer is None:
        raise CheckpointError(f"the model {name} has no tokenizer.json, which this command needs")
    return read(opened.tokenizer, name)


def _lines(files: Sequence[Path]) -> list[str]:
    """Yield the lines of files with their line ends. Raises CheckpointError for text that isn't UTF-8."""
    from ...refimpl.checkpoint.formats.file_bytes import read_file
    from ...refimpl.errors import CheckpointError

    lines: list[str] = []
    for file in files:
        try:
            lines += io.StringIO(read_file(file, TEXT_BYTES).decode(), newline="\n")
        except UnicodeDecodeError as error:
            raise CheckpointError(
                f"{file}: must be UTF-8, but the byte at offset {error.start} isn't"
            ) from None
    return lines
