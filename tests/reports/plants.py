"""The power of `verify`: drawn plants in bundles, all hashed again, and which of its runs sees each.

    PYTHONPATH=tests python -m reports.plants FOLDER [--count 320] [--seeds 1 2] [--only PART ...]

A plant is one change of one part of one tiny model's bundle. FOLDER keeps the sound bundles and what was
found, so that a run goes on where it was, and several may divide the parts. The quick checks run; where they
see nothing, those of `--full` and those of `--source` run too. KL of a plant that the quick ones don't see is
from the sound bundle's predictions over drawn tokens, in nats a token, on the worst of the paths that run
here; plants in texts and settings change no prediction. At the end SECURITY.md's tables are printed.
"""

# ruff: noqa: T201  (a script: what it prints is its result)

from __future__ import annotations

import argparse
import json
import math
import shutil
import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from helpers import text_strategies, tiny_models
from helpers.exported import rehash
from tfm.export import bundle_writer
from tfm.refimpl.checkpoint.open import open_checkpoint, save_checkpoint
from tfm.refimpl.config import Config, Encoder, EncoderDecoder
from tfm.refimpl.errors import TfmError
from tfm.runtime.bundle import golden_files
from tfm.runtime.bundle.bundle import open_bundle
from tfm.runtime.ort.engine import OrtEngine
from tfm.runtime.ort.session import ORT_ERRORS
from tfm.runtime.progress import silent
from tfm.runtime.verification import verify as module
from tfm.runtime.verification.checks.context import VerifyContext
from tfm.runtime.verification.checks.kernels import all_backends
from tfm.runtime.verification.checks.table import CHECKS
from tfm.runtime.verification.golden import golden as golden_outputs
from tfm.runtime.verification.leaf_digest import digest
from tfm.runtime.verification.metrics import kl_divergence, log_softmax
from tfm.runtime.verification.report import CheckResult

Rng = np.random.Generator
TOKENIZER = text_strategies.byte_level()
SIZE = TOKENIZER.get_vocab_size()
TEMPLATE = "{% for m in messages %}<|im_start|>{{ m.content }}<|im_end|>{% endfor %}"
FAMILIES: dict[str, tuple[Config, str, str]] = {
    "llama": (tiny_models.llama(vocabulary=SIZE, layers=3), "int8", "ort-cpu"),
    "windows": (tiny_models.mixed_windows(vocabulary=SIZE), "int4", "ort-cpu"),
    "mixture": (tiny_models.mixture(SIZE), "int8", "ort-cpu"),
    "gated delta": (tiny_models.gated_deltas(vocabulary=SIZE), "int8", "ort-cpu"),
    "shared keys": (tiny_models.shared_kv(vocabulary=SIZE), "fp32", "standard"),
    "encoder": (tiny_models.encoder(vocabulary=SIZE), "int8-dynamic", "ort-cpu"),
    "encoder-decoder": (tiny_models.encoder_decoder(vocabulary=SIZE), "int8", "ort-cpu"),
}
RUNS = ("quick", "only `--full`", "only `--source`", "nobody")
COUNTS = ("drawn", "change nothing", *RUNS, "largest KL unseen")
QUICK, FULL, SOURCE = "quick", "--full", "--source"
NOTHING = 1e-9  # nats a token: such a plant is another way to write the same graph


class NoPlaceError(Exception):
    """The bundle has no place for a plant of the class."""


@dataclass(frozen=True)
class Found:
    """A plant, what it is, the rows that see it by the run that has them, and what it changes."""

    part: str
    family: str
    what: str
    seen: dict[str, list[str]]
    kl: float | None


def make(family: str, folder: Path) -> None:
    """Write a family's checkpoint and its bundle."""
    config, quant, target = FAMILIES[family]
    generation = {"eos_token_id": [2, 3], "bos_token_id": 1, "temperature": 0.6, "do_sample": True}
    source = folder / "model"
    save_checkpoint(
        source, config, tiny_models.weights(config), TOKENIZER.to_str(), TEMPLATE, generation=generation
    )
    (source / "LICENSE").write_text("Do as you like.")
    bundle_writer.export(open_checkpoint(source), folder / "bundle", quant=quant, target=target, verify=False)
    (folder / "bundle" / "certificate.json").unlink()


def pick(rng: Rng, values: Any) -> Any:
    """One of the values."""
    if not (values := list(values)):
        raise NoPlaceError
    return values[int(rng.integers(len(values)))]


# Plants in graphs


def graph(change: Callable[[Rng, onnx.GraphProto], str]) -> Callable[[Rng, Path], str]:
    """A change of one of a bundle's graphs."""

    def plant(rng: Rng, path: Path) -> str:
        file = pick(rng, sorted(path.glob("*.onnx")))
        model = onnx.load(file, load_external_data=False)
        what = change(rng, model.graph)
        onnx.save(model, file)
        return f"{file.name}: {what}"

    return plant


def attribute(rng: Rng, drawn: onnx.GraphProto) -> str:
    numbers = {onnx.AttributeProto.FLOAT, onnx.AttributeProto.INT, onnx.AttributeProto.INTS}
    node, one = pick(rng, ((n, a) for n in drawn.node for a in n.attribute if a.type in numbers))
    if one.type == onnx.AttributeProto.FLOAT:
        one.f = other(rng, one.f)
        value: Any = one.f
    elif one.type == onnx.AttributeProto.INT:
        one.i = 1 - one.i if one.i in (0, 1) else one.i + int(rng.choice([-1, 1]))
        value = one.i
    else:
        one.ints[int(rng.integers(len(one.ints)))] += int(rng.choice([-1, 1]))
        value = list(one.ints)
    return f"{one.name} of {node.op_type} {node.output[0]} is {value}"


def other(rng: Rng, value: float) -> float:
    return float(value * rng.choice([0.9, 1.02, 2.0])) if value else 0.01


def constant(rng: Rng, drawn: onnx.GraphProto) -> str:
    kinds = (onnx.TensorProto.FLOAT, onnx.TensorProto.INT64, onnx.TensorProto.INT32)
    inside = (v for v in drawn.initializer if not v.external_data and v.data_type in kinds)
    value = pick(rng, (v for v in inside if onnx.numpy_helper.to_array(v).size))
    array = onnx.numpy_helper.to_array(value).copy()
    place = int(rng.integers(array.size))
    old = array.reshape(-1)[place]
    array.reshape(-1)[place] = other(rng, old) if array.dtype.kind == "f" else old + rng.choice([-1, 1])
    value.CopyFrom(onnx.numpy_helper.from_array(array, value.name))
    readers = ", ".join({n.op_type for n in drawn.node if value.name in n.input})
    return f"{old} is {array.reshape(-1)[place]} for {readers} ({value.name})"


def edge(rng: Rng, drawn: onnx.GraphProto) -> str:
    """A node reads what another node of its kind reads in that place, or its own two inputs the other way."""
    known: set[str] = {v.name for v in (*drawn.input, *drawn.initializer)}
    by_kind: dict[str, list[onnx.NodeProto]] = defaultdict(list)
    places = []
    for node in drawn.node:
        for i, name in enumerate(node.input):
            there = (n.input[i] for n in by_kind[node.op_type] if len(n.input) > i)
            places += [(node, i, new) for new in {*there} if new and name and new != name]
        by_kind[node.op_type].append(node)
        known.update(node.output)
        if len(node.input) > 1 and node.input[0] != node.input[1]:
            places.append((node, -1, ""))
    node, i, new = pick(rng, sorted(places, key=lambda p: (p[0].output[0], p[1], p[2])))
    if i < 0:
        node.input[0], node.input[1] = node.input[1], node.input[0]
        return f"{node.op_type} {node.output[0]} has its inputs the other way"
    old, node.input[i] = node.input[i], new
    return f"{node.op_type} {node.output[0]} reads {new} for {old}"


# Plants in weights; the digests of the specification's follow


def tensors(*, suffixes: tuple[str, ...] = ("",), tables: bool | None = False) -> Callable[[Rng, Path], str]:
    """One number of a stored tensor whose name ends so, of a table or of another one."""

    def plant(rng: Rng, path: Path) -> str:
        bundle = open_bundle(path)
        held = bundle.manifest.tensors
        in_tables = {n: n.startswith(("embedding.", "head.")) for n in held}
        names = [n for n in held if n.endswith(suffixes) and tables in (None, in_tables[n])]
        name = pick(rng, names)
        entry = held[name]
        data = np.memmap(path / "model.onnx.data", np.uint8, "r+")
        raw = data[entry.offset : entry.offset + entry.length]
        if entry.dtype in ("float32", "float16"):
            values = raw.view(entry.dtype)
            place = int(rng.integers(len(values)))
            values[place] = other(rng, float(values[place]))
        else:
            place = int(rng.integers(len(raw)))
            raw[place] ^= 1 << int(rng.integers(8))
        data.flush()
        dtype, shapes = np.dtype(bundle.dtype), bundle.plan.shapes
        digests = np.array(
            [np.frombuffer(digest(open_bundle(path).leaf(n), dtype), np.uint8) for n in shapes]
        )
        np.save(path / golden_files.file_of("digests"), digests)
        return f"{name}[{place}]"

    return plant


def rewritten(rng: Rng, path: Path) -> str:
    """One number of any stored tensor, and golden outputs that follow."""
    what = tensors(tables=None)(rng, path)
    bundle, source = open_bundle(path), open_checkpoint(path.parent / "model")
    halved = bundle.manifest.halved
    arrays = golden_outputs(
        bundle.config, source.params, bundle.params(), bundle.dtype, bundle.tokenizer, halved=halved
    )
    for name, array in arrays.items():
        np.save(
            path / golden_files.file_of(name), np.asarray(array, golden_files.TYPES[array.dtype.kind], "C")
        )
    return what


# Plants in what a bundle says


def stated(rng: Rng, path: Path, *keys: str) -> str:
    """A number or a flag below a key of the manifest."""
    manifest = json.loads((path / "tfm.json").read_text())
    top = manifest
    for key in keys:
        top = top[key]
    holder, key = pick(rng, leaves(top))
    old = holder[key]
    if isinstance(old, bool):
        holder[key] = not old
    elif isinstance(old, int):
        holder[key] = max(0, old + int(rng.choice([-1, 1, old])))
    elif isinstance(old, float):
        holder[key] = other(rng, old)
    else:
        holder[key] = old[:-1] if old else "x"
    (path / "tfm.json").write_text(json.dumps(manifest))
    return f"{'.'.join(keys)} {key}: {holder[key]} for {old}"


def leaves(value: Any) -> Iterator[tuple[Any, Any]]:
    """Where the single values below a value are."""
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, one in pairs:
        if isinstance(one, dict | list):
            yield from leaves(one)
        elif one is not None:
            yield value, key


def config(rng: Rng, path: Path) -> str:
    return stated(rng, path, "config")


def generation(rng: Rng, path: Path) -> str:
    return stated(rng, path, "generation")


def about(rng: Rng, path: Path) -> str:
    return stated(rng, path, pick(rng, ["dtype", "schemes", "tensors", "cache", "source"]))


def tokenizer(rng: Rng, path: Path) -> str:
    file = path / "tokenizer.json"
    held = json.loads(file.read_text())
    model, kind = held["model"], int(rng.integers(5))
    if kind == 0:
        one, two = (pick(rng, model["vocab"]) for _ in range(2))
        model["vocab"][one], model["vocab"][two] = model["vocab"][two], model["vocab"][one]
        what = f"ids of {one!r} and {two!r} swapped"
    elif kind == 1:
        place = int(rng.integers(len(model["merges"]) - 1))
        model["merges"][place : place + 2] = model["merges"][place : place + 2][::-1]
        what = f"merges {place} and {place + 1} swapped"
    elif kind == 2:
        held["normalizer"] = {"type": str(rng.choice(["NFC", "NFKC", "Lowercase", "StripAccents"]))}
        what = f"normalizer {held['normalizer']}"
    elif kind == 3:
        token = pick(rng, held["added_tokens"])
        flag = pick(rng, ["special", "lstrip", "rstrip", "normalized", "single_word"])
        token[flag] = not token[flag]
        what = f"{flag} of {token['content']!r}"
    else:
        part = pick(rng, [name for name in ("pre_tokenizer", "post_processor", "decoder") if held[name]])
        if part == "post_processor":
            held[part] = None
        else:
            flag = pick(rng, [name for name, value in held[part].items() if isinstance(value, bool)])
            held[part][flag] = not held[part][flag]
        what = part
    file.write_text(json.dumps(held))
    return what


def text(name: str) -> Callable[[Rng, Path], str]:
    def plant(rng: Rng, path: Path) -> str:
        held = (path / name).read_text()
        place = int(rng.integers(len(held)))
        (path / name).write_text(held[:place] + held[place + 1 :])
        return f"{name} without its character {place}"

    return plant


def golden(rng: Rng, path: Path) -> str:
    file = pick(rng, sorted((path / "golden").glob("*.npy")))
    array = np.load(file)
    place = int(rng.integers(array.size))
    flat = array.reshape(-1)
    flat[place] = other(rng, float(flat[place])) if array.dtype.kind == "f" else flat[place] ^ 1
    np.save(file, array)
    return f"{file.name}[{place}]"


PARTS: dict[str, tuple[Callable[[Rng, Path], str], int]] = {  # and how many of a hundred
    "attributes of graphs": (graph(attribute), 12),
    "constants of graphs": (graph(constant), 12),
    "edges of graphs": (graph(edge), 12),
    "codes": (tensors(suffixes=("packed", "codes", "weight_q")), 7),
    "scales": (tensors(suffixes=("scale",)), 5),
    "zero points": (tensors(suffixes=("zero", "zeros")), 4),
    "norms, biases, float weights": (tensors(suffixes=("norm", "bias", "weight", "pre", "post")), 5),
    "tables": (tensors(tables=True), 6),
    "any weight, with golden outputs": (rewritten, 7),
    "config": (config, 8),
    "tokenizer": (tokenizer, 6),
    "template": (text("chat_template.jinja"), 3),
    "generation": (generation, 4),
    "golden arrays": (golden, 6),
    "manifest": (about, 3),
}


def predictions(path: Path) -> dict[str, np.ndarray]:
    """Log-probabilities of drawn tokens on each path that runs here."""
    bundle = open_bundle(path)
    rng, count = np.random.default_rng(0), min(96, bundle.config.context)
    tokens = rng.integers(0, SIZE, (1, count))
    context = VerifyContext(bundle, None, None, math.inf, "cpu", 1)
    found = {}
    for name, (engine, _) in all_backends(context).items():
        found[name] = log_softmax(run(engine, tokens)[0])
    return found


def run(engine: OrtEngine, tokens: np.ndarray) -> np.ndarray:
    lengths = np.array([tokens.shape[1]])
    if isinstance(engine.config, Encoder):
        return engine.predict(tokens, lengths)
    reads = isinstance(engine.config, EncoderDecoder)
    kept = engine.start(1, tokens[:, ::-1], lengths) if reads else engine.start(1)
    return engine.step(tokens, kept, at=np.arange(tokens.shape[1])[None])[0]


@cache
def sound(bundle: Path) -> dict[str, np.ndarray]:
    return predictions(bundle)


def divergence(bundle: Path, path: Path) -> float:
    """KL from the sound bundle's predictions on the worst path; infinite if none runs."""
    try:
        planted = predictions(path)
    except (TfmError, *ORT_ERRORS):
        return math.inf
    pairs = [(truth, planted[name]) for name, truth in sound(bundle).items() if name in planted]
    kls = [kl_divergence(truth, own) / len(truth) for truth, own in pairs]
    return max((kl if np.isfinite(kl) else math.inf for kl in kls), default=math.inf)


def failed(result: CheckResult) -> list[str]:
    return [f"{row.name}: {row.note}" for row in result.rows if row.ok is False]


def who_sees(source: Path, path: Path) -> dict[str, list[str]]:
    """The rows that see the plant: those of the quick run, else those of the long ones."""
    try:
        context = VerifyContext(open_bundle(path), None, None, math.inf, "auto", 1)
        results = module._run_checks(context, False, math.inf, silent)
        if rows := next(filter(None, map(failed, results)), None):
            return {QUICK: rows}
    except TfmError as error:
        return {QUICK: [str(error)]}
    seen: dict[str, list[str]] = {}
    long = [name for name, check in CHECKS.items() if check.full and check.applies(context.bundle)]
    for run, names in {FULL: [name for name in long if name != "source"], SOURCE: ["source"]}.items():
        try:
            opened = module._open_source(source, None, open_bundle(path)) if run == SOURCE else None
        except TfmError as error:
            seen[run] = [str(error)]
            continue
        context = VerifyContext(open_bundle(path), opened, None, math.inf, "cpu", 1)
        results = (module._run_check(name, context, module.Basis()) for name in names)
        if rows := next(filter(None, map(failed, results)), None):
            seen[run] = rows
    return seen


def draw(home: Path, seed: int, part: str, number: int) -> Found | None:
    """One plant; None where the drawn family has no place for it."""
    rng = np.random.default_rng([seed, [*PARTS].index(part), number])
    family = pick(rng, FAMILIES)
    sound_one = home / family
    if not (sound_one / "bundle").exists():
        make(family, sound_one)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(shutil.copytree(sound_one / "bundle", Path(folder) / "bundle"))
        (Path(folder) / "model").symlink_to((sound_one / "model").absolute())
        try:
            what = PARTS[part][0](rng, path)
        except NoPlaceError:
            return None
        rehash(path)
        seen = who_sees(sound_one / "model", path)
        numeric = QUICK not in seen and part not in ("tokenizer", "template", "generation", "golden arrays")
        return Found(part, family, what, seen, divergence(sound_one / "bundle", path) if numeric else None)


def found_of(file: Path) -> list[Found | None]:
    """What was found of one part, a line each draw."""
    lines = file.read_text().splitlines() if file.exists() else []
    return [None if (held := json.loads(line)) is None else Found(**held) for line in lines]


def run_part(home: Path, seed: int, part: str, count: int) -> None:
    """Draw as many plants of a part."""
    file = home / f"{part}-{seed}.jsonl"
    while sum(one is not None for one in found_of(file)) < count:
        found = draw(home, seed, part, len(found_of(file)))
        with file.open("a") as lines:
            lines.write(json.dumps(found and vars(found)) + "\n")


def table(head: str, all_found: list[Found], group: Callable[[Found], str]) -> str:
    """A row for each group: which run saw how many."""
    rows = []
    for name in dict.fromkeys(map(group, all_found)):
        found = [one for one in all_found if group(one) == name]
        nothing = [one for one in found if not one.seen and one.kl is not None and one.kl <= NOTHING]
        only = Counter(min(one.seen, key=[QUICK, FULL, SOURCE].index) for one in found if one.seen)
        nobody = [one for one in found if not one.seen and one not in nothing]
        worst = max((one.kl for one in nobody if one.kl is not None), default=None)
        shown = "" if worst is None else f"{worst:.0e}"
        counts = (only[run] for run in (QUICK, FULL, SOURCE))
        rows.append((name, len(found), len(nothing), *counts, len(nobody), shown))
    lines = [(head, *COUNTS), ("---",) * (1 + len(COUNTS)), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines).replace("|  |", "| |")


def of_family(found: Found) -> str:
    _, quant, target = FAMILIES[found.family]
    return f"{found.family}, {quant}, {target}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--count", type=int, default=320)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--only", nargs="*", choices=PARTS, metavar="PART")
    options = parser.parse_args()
    options.folder.mkdir(exist_ok=True)
    for seed, part in product(options.seeds, options.only or PARTS):
        run_part(options.folder, seed, part, max(1, round(PARTS[part][1] * options.count / 100)))
    files = (options.folder / f"{part}-{seed}.jsonl" for part in PARTS for seed in options.seeds)
    found = [one for file in files for one in found_of(file) if one is not None]
    print(table("plants in", found, lambda one: one.part), table("bundle", found, of_family), sep="\n\n")


if __name__ == "__main__":
    main()
