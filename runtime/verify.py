"""A bundle against the specification: the ladder of equivalence, as far as this machine allows.

Each rung is a generator of rows. The golden inputs of the bundle stand for the specification, so
that a device needs neither torch nor the source; with the source, weights and predictions are
compared with it too. `python -m tfm.runtime.verify BUNDLE` prints the report as JSON.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..refimpl import params as trees
from ..refimpl.array_engine import NumpyEngine
from ..refimpl.calibrate import least_error, smooth
from ..refimpl.checkpoint import Checkpoint, open_checkpoint
from ..refimpl.config import Config
from ..refimpl.engine import Engine
from ..refimpl.errors import BundleError, CheckpointError, DeviceError, NumericError, TfmError, VerifyError
from ..refimpl.generate import Row as Text
from ..refimpl.generate import single
from ..refimpl.lazy import lazily
from ..refimpl.ops import quant
from ..refimpl.ops.quant import Blocks
from . import golden as goldens
from . import windows
from .bundle import Bundle, open_bundle
from .fidelity import fidelity, likeness
from .golden import Golden, Says, digest, largest, rms
from .layout import Scheme
from .manifest import CERTIFICATE, MANIFEST
from .report import Report, Row, certify, judged, manifest_hash
from .session import choose
from .specified import SEED, Given, Run, outputs
from .tokenizer import Tokenizer

if TYPE_CHECKING:
    from jaxtyping import Float
    from numpy import ndarray as Array

__all__ = ["Report", "Row", "fidelity", "verify"]

GREEDY = 32  # tokens of the greedy comparison
WINDOW = 512
LARGEST_TEXT = 16 * 2**20
PROSE = (
    "Water boils at one hundred degrees at sea level, and at a lower temperature on a mountain, "
    "because the air above it presses less. A kettle that sings in the valley is quiet longer up "
    "there, and an egg needs more time. People who live high up know this without a thermometer. "
    "They put a lid on the pot, wait a little longer, and talk about the weather, which changes "
    "quickly where the clouds pass through the village instead of over it. In the evening the wind "
    "turns, the smoke of the fires goes down the slope, and the first lights of the town below can "
    "be seen. Then somebody says that tomorrow will be clear, and most of the time this is true."
)


@dataclass
class Climb:
    """What the rungs share: the bundle, what it is compared with, and how much time is left."""

    bundle: Bundle
    source: Checkpoint | None
    text: str | None
    until: float
    device: str
    threads: int | None

    def late(self) -> bool:
        return time.monotonic() > self.until

    @cached_property
    def golden(self) -> Golden:
        return goldens.load(self.bundle.path, self.bundle.config)

    @cached_property
    def engine(self) -> Engine:
        from .engine import OrtEngine

        return OrtEngine(self.bundle, self.device, self.threads)


def files(climb: Climb) -> Iterator[Row]:
    """Every byte is the one that was exported."""
    bundle = climb.bundle
    bundle.check_hashes()
    yield Row("hashes of all files", len(bundle.manifest.files), unit="files", ok=True)
    if (bundle.path / CERTIFICATE).exists():
        try:
            named = json.loads((bundle.path / CERTIFICATE).read_bytes())["manifest"]
        except (ValueError, KeyError, TypeError):
            named = None
        same = named == manifest_hash(bundle.path)
        note = "" if same else f"{CERTIFICATE} names another {MANIFEST}: one of them was changed since"
        yield Row("certificate names the manifest", "yes" if same else "no", ok=same, note=note)


def weights(climb: Climb) -> Iterator[Row]:
    """The weights, restored from the file, are the quantized specification's, to the integer."""
    names = list(trees.shapes(climb.bundle.config))
    dtype = np.dtype(climb.bundle.dtype)
    wrong: list[str] = []
    for done, (name, wanted) in enumerate(zip(names, climb.golden.digests, strict=True)):
        if climb.late():
            yield Row("weights equal the specification's", done, unit="leaves", note="out of time")
            return
        leaf = climb.bundle.leaf(name)
        _finite(name, leaf)
        if digest(leaf, dtype) != wanted.tobytes():
            wrong.append(name)
    yield _equal("weights equal the specification's", len(names), wrong)


def _finite(name: str, leaf: Array | Blocks) -> None:
    for part in (leaf.scale, leaf.minimum) if isinstance(leaf, Blocks) else (leaf,):
        if part is not None and not np.isfinite(part).all():
            raise NumericError(f"{name} must be finite, it holds NaN or infinity: export the model again")


def _equal(name: str, total: int, wrong: list[str]) -> Row:
    note = f"different: {', '.join(wrong[:3])}" if wrong else ""
    return Row(name, total - len(wrong), total, "leaves", not wrong, note)


def source(climb: Climb) -> Iterator[Row]:
    """The weights are those of the source: quantized here again by the specification."""
    bundle, origin = climb.bundle, climb.source
    if origin is None:
        yield Row("weights equal the source's", note="no --source given")
        return
    names = list(trees.shapes(origin.config))  # a cache's scales come from a text, if not from the source
    wrong: list[str] = []
    factors = _factors(origin, bundle)
    for done, name in enumerate(names):
        if climb.late():
            yield Row("weights equal the source's", done, unit="leaves", note="out of time")
            return
        weight = smooth.apply(name, origin.leaf(name), factors)
        if not _from_source(origin, name, weight, bundle.manifest.schemes.get(name), bundle.leaf(name)):
            wrong.append(name)
    yield _equal("weights equal the source's", len(names), wrong)


def _factors(origin: Checkpoint, bundle: Bundle) -> dict[smooth.Place, Array]:
    """The factors that smoothing used, as products hold them or read off the leaves that it divided: powers
    of two, or none.

    Places are smoothed for 8-bit codes only, and where no leaf is a file's own.
    """
    found: dict[smooth.Place, Array] = {}
    schemes = bundle.manifest.schemes
    for place in smooth.streams(origin.config):
        for name in place.read:
            held = bundle.leaf(name) if name in schemes else None
            if isinstance(held, Blocks) and held.input_factor is not None:
                found[smooth.Place((), (name,))] = 1 / held.input_factor
    for place in smooth.places(origin.config):
        read = [schemes[name] for name in (*place.made, *place.read) if name in schemes]
        if not read or any(scheme.native or scheme.bits != 8 for scheme in read):
            continue
        s = np.ones(trees.shapes(bundle.config)[place.made[0]][-1], np.float32)
        for name in place.made:
            was, now = smooth.apply(name, origin.leaf(name), found), bundle.leaf(name)
            if isinstance(now, Blocks):
                was, now = _rounded(was, schemes[name], now.axis).scale, np.abs(now.scale).max(axis=0)
                was = np.abs(was).max(axis=0)
            was, now = was.astype(now.dtype).ravel(), now.ravel()
            ratio = np.divide(was, now, out=np.zeros_like(s), where=now != 0)
            s = np.where(np.frexp(ratio)[0] == 0.5, ratio, s)
        found[place] = s
    return found


def _rounded(weight: Array, scheme: Scheme, axis: int) -> Blocks:
    """A weight in a scheme that rounds to nearest."""
    if scheme.activations == "static":
        made = quant.quantize_columns(weight.T if axis == 1 else weight)
        return quant.transpose(made) if axis == 1 else made
    return quant.quantize(weight, bits=scheme.bits, block=scheme.block, axis=axis, symmetric=scheme.symmetric)


def _from_source(
    origin: Checkpoint, name: str, weight: Array, scheme: Scheme | None, held: Array | Blocks
) -> bool:
    if scheme is None or not isinstance(held, Blocks):
        return not isinstance(held, Blocks) and np.array_equal(weight.astype(held.dtype), held)
    if scheme.native:
        wanted = origin.native(name)
        if wanted is not None and wanted.minimum is not None:
            # d·q + m is kept as d·(q − middle) + (m + d·middle), see `export.quantize`.
            middle = np.float32(2 ** (wanted.bits - 1))
            wanted = replace(wanted, zero=None, minimum=wanted.minimum + middle * wanted.scale)
    elif scheme.bits == 4 and not scheme.symmetric:
        turn = held.axis == 1
        return least_error.could_be(weight.T if turn else weight, quant.transpose(held) if turn else held)
    else:
        wanted = _rounded(weight, scheme, held.axis)
    if wanted is None:
        return False
    for part in ("codes", "scale", "zero", "minimum"):
        a, b = getattr(wanted, part), getattr(held, part)
        if (a is None) != (b is None) or (a is not None and not np.array_equal(a.astype(b.dtype), b)):
            return False
    return True


def session(climb: Climb) -> Iterator[Row]:
    """The graph starts on the device that it was made for, and not on another one in silence."""
    engine = climb.engine
    provider = engine.session.get_providers()[0]  # pyright: ignore[reportAttributeAccessIssue]
    yield Row("ONNX Runtime starts on", provider, ok=True)


def sharp(climb: Climb) -> Iterator[Row]:
    """The same graph with products of blocks in float, where no code can flip: every digit counts."""
    from .engine import OrtEngine

    plain = climb.golden.plain
    if plain is None or choose(climb.device, climb.bundle.target) != "cpu":
        return
    engine = OrtEngine(climb.bundle, climb.device, climb.threads, plain=True)
    found = _whole(engine, climb.golden)
    yield from _errors("products in float", climb.golden.view(found), plain)


def numbers(climb: Climb) -> Iterator[Row]:
    """What is said of the golden tokens, whole, and however the tokens are handed over."""
    golden, engine = climb.golden, climb.engine
    length = golden.tokens.shape[1]
    whole = golden.view(_whole(engine, golden))
    yield from _errors("whole", whole, golden.own)
    if climb.bundle.manifest.schemes:
        for name, measure in (("largest", largest), ("RMS", rms)):
            figure = measure(whole, golden.floats)
            yield Row(f"against unquantized weights: {name} error", figure)
    if engine.config.decoder is None:
        yield _way(climb, "with more padding", _predict(engine, golden, padding=3))
    else:
        ways = {
            "cached, token by token": [golden.split] + [1] * (length - golden.split),
            "in chunks": [golden.split, length - golden.split] if length > 1 else [1],
        }
        for name, pieces in ways.items():
            yield _way(climb, name, _run(engine, golden, pieces))
    alone = [_whole(engine, golden, slice(row, row + 1)) for row in range(len(golden.tokens))]
    yield _way(climb, "each row alone", np.concatenate(alone))


def forgetting(climb: Climb) -> Iterator[Row]:
    """A cache that drops what its windows can't see any more says what one does that keeps all."""
    bundle, context = climb.bundle, climb.bundle.config.context
    if bundle.cache != "windowed":
        return
    name = "caches of windows, tokens dropped: largest error"
    kept = windows.places(max(windows.sizes(bundle.config)), context)
    # As many tokens again as a buffer takes in a run: then the next ones see none that was there at first.
    length = min(kept + windows.PIECE, context)
    ids = np.random.default_rng(SEED).integers(0, bundle.config.embedding.vocabulary, (1, length))
    from .engine import OrtEngine

    whole, said = OrtEngine(bundle, climb.device, climb.threads, piece=context), []
    for engine in (climb.engine, whole):
        cache, logits = engine.start(1), np.zeros((1, 1, 0))
        for first in range(0, length, windows.PIECE):
            if climb.late():
                yield Row(name, note=f"out of time: it takes twice {length} tokens")
                return
            logits, cache = engine.step(ids[:, first : first + windows.PIECE], cache)
        said.append(logits)
    yield judged(name, largest(*said), climb.golden.own.budget, note=f"after {length} tokens")


def _errors(name: str, found: Array, says: Says) -> Iterator[Row]:
    yield judged(f"{name}: largest error", largest(found, says.logits), says.budget)
    yield judged(f"{name}: RMS error", rms(found, says.logits), says.rms_budget)


def _way(climb: Climb, name: str, logits: Array) -> Row:
    golden = climb.golden
    error = largest(golden.view(logits), golden.own.logits)
    return judged(f"{name}: largest error", error, golden.own.budget)


def _whole(engine: Engine, golden: Golden, rows: slice = slice(None)) -> Float[Array, "M N"]:
    """What the model says of the golden tokens in one go."""
    if engine.config.decoder is None:
        return _predict(engine, golden, rows)
    return _run(engine, golden, [golden.tokens.shape[1]], rows)


def _predict(
    engine: Engine, golden: Golden, rows: slice = slice(None), padding: int = 0
) -> Float[Array, "M N"]:
    """What an encoder says at the real positions, some tokens more behind each row."""
    tokens, lengths, context = golden.tokens[rows], golden.lengths[rows], engine.config.context
    padding = min(padding, context - tokens.shape[1])
    wider = lambda a: np.concatenate([a, a[:, :padding]], axis=1)  # noqa: E731
    types = None if golden.types is None else wider(golden.types[rows])
    said = engine.predict(wider(tokens), lengths, types)
    if said.ndim == 2:
        return said
    return said[np.arange(said.shape[1])[None] < lengths[:, None]]


def _start(engine: Engine, golden: Golden, rows: slice) -> Any:
    """A cache for the rows, their encoder's text read where there is one."""
    count = len(golden.tokens[rows])
    if golden.source is None or golden.source_lengths is None:
        return engine.start(count)
    return engine.start(count, golden.source[rows], golden.source_lengths[rows])


def _run(engine: Engine, golden: Golden, pieces: list[int], rows: slice = slice(None)) -> Float[Array, "M N"]:
    """Logits at the real positions of the golden tokens, handed over in pieces of the given lengths."""
    tokens, lengths = golden.tokens[rows], golden.lengths[rows]
    cache, begin, made = _start(engine, golden, rows), 0, []
    for piece in pieces:
        part = tokens[:, begin : begin + piece]
        real = np.clip(lengths - begin, 0, piece)
        at = np.tile(np.arange(piece), (len(tokens), 1))
        logits, cache = engine.step(part, cache, real, at)
        made.append(logits)
        begin += piece
    logits = np.concatenate(made, axis=1)
    return logits[np.arange(begin)[None] < lengths[:, None]]


def greedy(climb: Climb) -> Iterator[Row]:
    """The tokens that the engine chooses are those that the specification would, given the same past."""
    golden, config = climb.golden, climb.bundle.config
    if config.decoder is None:
        return
    prompt = golden.tokens[0, : golden.split].tolist()
    text = Text(prompt, max_new_tokens=min(GREEDY, config.context - len(prompt)))
    first = slice(0, 1)
    chosen = list(single(climb.engine, text, _start(climb.engine, golden, first)))
    if not chosen:
        yield Row("greedy tokens equal the specification's", note="the context has no room")
        return
    ids = np.array([[*prompt, *chosen[:-1]]])
    read = () if golden.source is None else (golden.source[first], golden.source_lengths[first])  # pyright: ignore[reportOptionalSubscript]
    given, run = Given(ids, np.array([ids.shape[1]]), *read), Run(np.dtype(np.float32))
    truth = outputs(config, climb.bundle.params(), given, [run])[0][0, len(prompt) - 1 :]
    best = truth.argmax(-1)
    gaps = truth.max(-1) - truth[np.arange(len(chosen)), chosen]
    differ = np.flatnonzero(best != chosen)
    note = ""
    if len(differ):
        i = differ[0]
        note = f"token {i}: {chosen[i]} for {best[i]}, which the specification has {gaps[i]:.2g} ahead"
    # Two logits may each have moved by the budget.
    ok = bool(gaps.max() <= 2 * golden.own.budget)
    yield Row(
        "greedy tokens equal the specification's", len(chosen) - len(differ), len(chosen), "tokens", ok, note
    )


def prose(climb: Climb) -> Iterator[Row]:
    """What is said of a text, the text itself handed to both."""
    bundle, origin = climb.bundle, climb.source
    told, config = bundle.tokenizer, bundle.config
    what = "likeness over a text" if config.decoder is None else "KL divergence over a text"
    if told is None:
        yield Row(what, note="the bundle has no tokenizer")
        return
    if origin is None and bundle.dtype == "float16":
        yield Row(what, note="in float16 it needs --source")
        return
    if origin is None:
        truth, name = NumpyEngine(config, bundle.params()), "the bundle's weights"
    else:
        truth, name = NumpyEngine(origin.config, origin.params), "the source"
    tokenizer, text = Tokenizer(told, config.embedding.vocabulary), climb.text or PROSE
    exact = origin is None or (bundle.quant == "fp32" and origin.config == config)
    judge = _likeness if config.decoder is None else _predictions
    yield from judge(climb, truth, tokenizer, text, f"against the specification over {name}", exact)


def kept(climb: Climb) -> Iterator[Row]:
    """What keys and values in 8 bits cost: the specification over the same weights, with and without them.

    Products are in float, or codes of activations would flip and outweigh what the cache does.
    """
    bundle, name = climb.bundle, "KL divergence over a text, of the cache's rounding"
    if not bundle.config.rounds_cache:
        return
    if bundle.tokenizer is None:
        yield Row(name, note="the bundle has no tokenizer")
        return

    def plain(leaf: str) -> Array | Blocks:
        held = bundle.leaf(leaf)
        return replace(held, activations="none") if isinstance(held, Blocks) else held

    def engine(config: Config) -> NumpyEngine:
        return NumpyEngine(config, lazily(trees.shapes(config), plain))

    codes, floats = engine(bundle.config), engine(bundle.config.keeping("float"))
    ids = Tokenizer(bundle.tokenizer, codes.config.embedding.vocabulary).encode(climb.text or PROSE)
    found = fidelity(codes, floats, ids, min(WINDOW, codes.config.context), enough=climb.late)
    note = f"{found.positions} of {len(ids)} tokens, products in float"
    yield Row(name, found.kl, unit="nats", ok=None if np.isfinite(found.kl) else False, note=note)


def _predictions(
    climb: Climb, truth: Engine, tokenizer: Tokenizer, text: str, note: str, exact: bool
) -> Iterator[Row]:
    """Predictions of the next token."""
    ids = tokenizer.encode(text)
    if not ids:
        yield Row("KL divergence over a text", note="the text has no token")
        return
    found = fidelity(climb.engine, truth, ids, min(WINDOW, truth.config.context), enough=climb.late)
    note = f"{found.positions} of {len(ids)} tokens, {note}"
    yield _divergence(climb, found.kl, note, exact)
    yield Row("top-1 agreement", found.agreement)
    yield Row("perplexity", found.perplexity, note=f"the specification's is {found.reference_perplexity:.4g}")


def _divergence(climb: Climb, kl: float, note: str, exact: bool) -> Row:
    if exact:
        return judged("KL divergence over a text", kl, climb.golden.own.kl_budget, "nats", note)
    finite = None if np.isfinite(kl) else False
    return Row("KL divergence over a text", kl, unit="nats", ok=finite, note=note)


def _likeness(
    climb: Climb, truth: Engine, tokenizer: Tokenizer, text: str, note: str, exact: bool
) -> Iterator[Row]:
    """What an encoder's head says, sentence by sentence."""
    sentences = [s for s in re.split(r"(?<=[.!?])\s+", text) if s.strip()]
    texts = [tokenizer.encode(s, start=True)[: truth.config.context] for s in sentences]
    texts = [ids for ids in texts if ids]
    if not texts:
        yield Row("likeness over a text", note="the text has no token")
        return
    found = likeness(climb.engine, truth, texts, enough=climb.late)
    note = f"{found.texts} of {len(texts)} sentences, {note}"
    if exact:
        yield judged("RMS error over a text", found.rms, climb.golden.own.rms_budget, "", note)
    else:
        finite = None if np.isfinite(found.rms) else False
        yield Row("RMS error over a text", found.rms, ok=finite, note=note)
    yield Row("mean cosine over a text", found.cosine)
    yield Row("lowest cosine over a text", found.lowest)
    if found.kl is not None:
        yield _divergence(climb, found.kl, note, exact)
        yield Row("top-1 agreement", found.agreement)


RUNGS: dict[str, Callable[[Climb], Iterator[Row]]] = {
    "files": files,
    "weights": weights,
    "session": session,
    "sharp": sharp,
    "numbers": numbers,
    "greedy": greedy,
    "windows": forgetting,
    "source": source,
    "text": prose,
    "cache": kept,
}


def verify(
    bundle: Path | str,
    source: Path | str | None = None,
    text: Path | str | None = None,
    seconds: float = 60,
    progress: Callable[[str], None] | None = None,
    *,
    device: str = "auto",
    threads: int | None = None,
) -> Report:
    """Climb the ladder, and leave a certificate in the bundle if it held.

    A rung that can't be tried on this machine, or isn't reached in time, is a row that says so; one
    that breaks is a row whose `ok` is False. Raises BundleError where there is no bundle at all,
    CheckpointError for a source that can't be read or has another config.
    """
    begun = time.monotonic()
    path = Path(bundle)
    rows: list[Row] = []
    try:
        opened = open_bundle(path)
    except BundleError as error:
        if not (path / MANIFEST).is_file():
            raise
        rows.append(Row("files", "damaged", ok=False, note=str(error)))
        return Report(tuple(rows), time.monotonic() - begun, device, SEED)
    climb = Climb(
        bundle=opened,
        source=None if source is None else open_checkpoint(source).for_context(opened.config.context),
        text=None if text is None else _read(Path(text)),
        until=begun + seconds,
        device=device,
        threads=threads,
    )
    if climb.source is not None and climb.source.config.keeping("float") != opened.config.keeping("float"):
        raise CheckpointError(f"{source}: must be the source of {path}, its config is another one")
    for name, rung in RUNGS.items():
        if climb.late():
            rows.append(Row(name, note=f"not reached in {seconds:g} s"))
            continue
        if progress is not None:
            progress(f"verify: {name}")
        try:
            # What isn't finite is to show in the figures, not on the way to them.
            with np.errstate(all="ignore"):
                for row in rung(climb):
                    rows.append(row)
                    if climb.late():
                        break
        except DeviceError as error:
            rows.append(Row(name, note=str(error)))
        except TfmError as error:
            rows.append(Row(name, type(error).__name__, ok=False, note=str(error)))
        if name == "files" and rows[-1].ok is False:
            break  # of other bytes than those exported, nothing else need be known
    report = Report(tuple(rows), time.monotonic() - begun, device, SEED)
    if not report.failed:
        certify(path, report)
    return report


def _read(path: Path) -> str:
    try:
        if path.stat().st_size > LARGEST_TEXT:
            raise VerifyError(f"{path}: a text may have {LARGEST_TEXT} bytes, it has {path.stat().st_size}")
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise VerifyError(f"{path}: can't be read as UTF-8 text: {error}") from None
    if not text.strip():
        raise VerifyError(f"{path}: must hold a text to compare over, it is blank")
    return text


def main(arguments: list[str] | None = None) -> int:
    """The process that `export` starts: the report as JSON on stdout, an exit code as the CLI's."""
    parser = argparse.ArgumentParser(prog="python -m tfm.runtime.verify")
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--source", type=Path)
    parser.add_argument("--text", type=Path)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--device", default="auto")
    given = parser.parse_args(arguments)
    try:
        report = verify(**vars(given))
    except TfmError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    sys.stdout.write(json.dumps(report.to_json(), allow_nan=False) + "\n")
    return VerifyError.exit_code if report.failed else 0


if __name__ == "__main__":
    sys.exit(main())
