"""quant=auto: losses are those of changed models, budgets hold, and the same input gives the same plan."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import kept_blocks, text_strategies, tiny_models
from helpers.refused import refused
from tfm.cli.main import main
from tfm.export.bundle_writer import export
from tfm.export.quantization import auto, calibrate, plan
from tfm.export.quantization.plan import Budget, CalibrationResult
from tfm.export.quantization.sensitivity import losses
from tfm.refimpl.calibrate.budget import Option, cheapest
from tfm.refimpl.checkpoint.open import Checkpoint, open_checkpoint, save_checkpoint
from tfm.refimpl.config import Config, Decoder, Pool
from tfm.refimpl.engine.numpy_engine import NumpyEngine
from tfm.refimpl.errors import BundleError, ExportError
from tfm.refimpl.ops.quant import dequantize
from tfm.refimpl.params.tree import flatten, unflatten
from tfm.runtime.bundle import feedback, manifest, schemes
from tfm.runtime.bundle.bundle import open_bundle
from tfm.runtime.bundle.targets import TARGETS
from tfm.runtime.progress import silent
from tfm.runtime.verification.checks.context import VerifyContext
from tfm.runtime.verification.checks.weights import compare_weights
from tfm.runtime.verification.metrics import log_softmax

AUTO = schemes.find("auto")
TOKENIZER = text_strategies.byte_level()
MODELS: dict[str, Config] = {
    "decoder": tiny_models.llama(layers=3, bias=True),
    "mixture": tiny_models.mixture(),
    "encoder": tiny_models.encoder(),
    "pair": tiny_models.encoder_decoder(),
}


def outputs(config: Config, params: dict[str, Any], rows: np.ndarray) -> np.ndarray:
    """What the engine of the specification gives for each row alone."""
    engine, found = NumpyEngine(config, params), []
    for row in rows[:, None]:
        if isinstance(config, Decoder):
            found.append(engine.step(row, engine.start(), at=np.arange(row.shape[1])[None])[0])
        elif "decoder" in config.stacks:
            found.append(engine.step(row, engine.start(1, row), at=np.arange(row.shape[1])[None])[0])
        else:
            found.append(engine.predict(row))
    y = np.concatenate(found).astype(np.float64)
    return y.reshape(-1, y.shape[-1])


class Leaves:
    def __init__(self, config: Config) -> None:
        self.config, self.leaves = config, dict(flatten(tiny_models.weights(config)))
        self.asked: list[str] = []

    def leaf(self, name: str) -> np.ndarray:
        self.asked.append(name)
        return self.leaves[name]


@pytest.mark.parametrize("kind", MODELS)
def test_a_loss_is_that_of_the_model_with_one_unit_changed(kind: str):
    """Against the engine run once for each unit, row by row: nothing of another unit's pass is seen."""
    config = MODELS[kind]
    source = Leaves(config)
    rows = np.random.default_rng(3).integers(0, config.embedding.vocabulary, (2, 9))
    matrices = [name for name, leaf in source.leaves.items() if leaf.ndim == 2]
    units = {name: {name: lambda name=name: source.leaves[name] * 0.9} for name in matrices}
    units["two"] = {name: lambda name=name: source.leaves[name] * 0.9 for name in matrices[-2:]}
    units["none"] = {}
    layers: list[tuple[int, int]] = []
    found = losses(source, rows, units, lambda *at: layers.append(at))  # pyright: ignore[reportArgumentType]
    truth = outputs(config, unflatten(source.leaves), rows)
    assert layers[-1] == (len(layers), len(layers))
    assert list(found) == list(units)
    for unit, changed in units.items():
        leaves = source.leaves | {name: make() for name, make in changed.items()}
        got = outputs(config, unflatten(leaves), rows)
        p, q = log_softmax(truth), log_softmax(got)
        want = (np.exp(p) * (p - q)).sum(1).mean()
        assert found[unit] == pytest.approx(want, rel=2e-2, abs=1e-8), unit
    assert found["none"] == 0
    assert sum(value > 1e-7 for value in found.values()) > len(matrices) / 2


def test_vectors_lose_what_their_squares_say():
    config = tiny_models.encoder(head=Pool("mean"))
    source, rows = Leaves(config), np.array([[3, 5, 7, 9]])
    name = "encoder.layers.0.mlp.up"
    found = losses(source, rows, {"up": {name: lambda: source.leaves[name] * 0.5}}, silent_layers)  # pyright: ignore[reportArgumentType]
    truth = outputs(config, unflatten(source.leaves), rows)
    got = outputs(config, unflatten(source.leaves | {name: source.leaves[name] * 0.5}), rows)
    assert found["up"] == pytest.approx(np.square(got - truth).sum() / np.square(truth).sum(), rel=1e-3)


def silent_layers(done: int, total: int) -> None:
    """Shows nothing."""


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    config = tiny_models.llama(vocabulary=TOKENIZER.get_vocab_size(), width=128, heads=8, mlp=256)
    path = tmp_path_factory.mktemp("auto") / "model"
    save_checkpoint(path, config, tiny_models.weights(config), TOKENIZER.to_str())
    return open_checkpoint(path)


def offers(checkpoint: Checkpoint, target: str = "ort-cpu") -> auto.Offers:
    return auto.offers(checkpoint, plan.each(checkpoint, AUTO, TARGETS[target]), silent)


@pytest.fixture(scope="module")
def choices(checkpoint: Checkpoint) -> auto.Choices:
    rows = np.random.default_rng(0).integers(0, checkpoint.config.embedding.vocabulary, (2, 16))
    return auto.choices(checkpoint, offers(checkpoint), auto.Texts(rows, None), silent)


def test_each_unit_has_all_formats_and_finer_ones_lose_less(choices: auto.Choices):
    """Joined matrices are one unit. Losses go with Σ(ŵ − w)², the coarsest one is measured."""
    assert {name for name in choices.options if ".0." in name} == {
        f"decoder.layers.0.{name}" for name in ("attn.wqkv", "attn.wo", "mlp.gate_up", "mlp.down")
    }
    for unit, options in choices.options.items():
        forms = [
            tuple({(f.code_bits or f.bits, f.block) for f in one.values()}) for one in choices.formats[unit]
        ]
        short = [((bits, 32),) for bits in (4, 5, 6)]
        want = [*short, ((8, 32),)] if unit == "embedding.table" else [
            ((4, 128),), ((4, 64),), *short, ((8, 64),), ((8, 32),)]  # fmt: skip
        assert forms == want
        assert [one.bytes for one in options] == sorted(one.bytes for one in options)
        assert all(a.loss > b.loss > 0 for a, b in pairwise(options)), unit
        assert all(one.loss == float(f"{one.loss:.2e}") for one in options)
        assert options[0].loss > 30 * options[-1].loss
    assert choices.plan.formats == choices.with_formats(cheapest(choices.options)).formats


@pytest.mark.parametrize("unit", ["decoder.layers.1.attn.wqkv", "embedding.table"])
def test_losses_are_those_of_rounding_with_feedback(
    checkpoint: Checkpoint, choices: auto.Choices, unit: str, monkeypatch: pytest.MonkeyPatch
):
    """As shares of the first format, to nearest; the sampled columns are all of them here."""
    monkeypatch.setattr(auto, "SAMPLED", 1000)
    vocabulary = checkpoint.config.embedding.vocabulary
    text, measured = (np.random.default_rng(seed).integers(0, vocabulary, (9, 40)) for seed in (1, 2))
    alone = auto.choices(checkpoint, offers(checkpoint), auto.Texts(measured, None), silent)
    found = auto.choices(checkpoint, offers(checkpoint), auto.Texts(measured, text), silent)
    inputs: dict[str, feedback.Inputs] = {}
    feedback.measure(checkpoint, text, choices.plan.formats.keys(), lambda new, *_: inputs.update(new))

    def lost(formats: Mapping[str, Any], known: Mapping[str, feedback.Inputs]) -> float:
        total = 0.0
        for name, form in formats.items():
            compensated = known if form.searched else {}
            rounded = plan.leaf(
                checkpoint, name, form, "float32", CalibrationResult(compensations=compensated)
            )
            off = dequantize(rounded).astype(np.float64) - checkpoint.leaf(name)
            off = off.T if name.endswith("table") else off
            total += np.einsum("df,de,ef->", off, inputs[name].total, off)
        return total

    nearest = lost(found.formats[unit][0], {})
    for formats, option, plain in zip(
        found.formats[unit], found.options[unit], alone.options[unit], strict=True
    ):
        want = alone.options[unit][0].loss * lost(formats, inputs) / nearest
        assert option.loss == pytest.approx(want, rel=0.02)
        assert option.bytes == plain.bytes
    assert found.options[unit][0].loss < 0.9 * alone.options[unit][0].loss


@pytest.mark.parametrize("target", ["standard", "ort-cuda"])
def test_other_targets_have_no_narrow_codes(checkpoint: Checkpoint, target: str):
    """Nothing reads them in fewer bits there, and bytes are those of model.onnx.data."""
    found = offers(checkpoint, target)
    assert not any(form.code_bits for own in found.formats.values() for one in own for form in one.values())
    least = found.size(dict.fromkeys(found.formats, 0))
    assert least == found.plan.size
    with refused(ExportError, "budget", f"{math.ceil(least / 1000)}kB"):
        found.require_room(Budget(least - 1))


def test_scales_that_are_no_halves_are_counted(checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch):
    """One row of tiny numbers, and the kernels read all scales of the table in 32 bits."""
    before, table = offers(checkpoint), "embedding.table"
    tiny = np.array(checkpoint.leaf(table))
    tiny[3] *= np.float32(1e-9)
    own = Checkpoint.leaf
    monkeypatch.setattr(Checkpoint, "leaf", lambda self, name: tiny if name == table else own(self, name))
    after = offers(checkpoint)
    scales = -(-len(tiny) // 16) * 16 * tiny.shape[1] // 32
    assert [b - a for a, b in zip(before.bytes[table], after.bytes[table], strict=True)] == [2 * scales] * 4
    assert after.bytes["decoder.layers.0.mlp.down"] == before.bytes["decoder.layers.0.mlp.down"]


def test_bytes_are_those_of_the_plan(choices: auto.Choices):
    """What a unit's options say they take is what kernels.data has of them, but for aligned tensors."""
    for chosen in (cheapest(choices.options), choices.finest):
        made = choices.with_formats(chosen)
        stated = sum(choices.options[unit][k].bytes for unit, k in chosen.items())
        floats = sum(4 * math.prod(shape) for name, shape in made.shapes.items() if name not in made.formats)
        assert stated + floats <= choices.size(chosen) <= stated + floats + 64 * len(made.tensors)
        assert choices.size(chosen) < made.size


def test_a_budget_of_bytes_holds_to_the_byte(choices: auto.Choices):
    least, most = choices.size(cheapest(choices.options)), choices.size(choices.finest)
    sizes = []
    for budget in (*range(least, most, (most - least) // 9), most, 10 * most):
        sizes.append(choices.size(choices.within(Budget(budget))))
        assert sizes[-1] <= budget
    assert sizes == sorted(sizes)
    assert (sizes[0], sizes[-1]) == (least, most)
    numbers = choices.plan.shapes.numbers
    assert choices.within(Budget(8 * sizes[4] / numbers, "bits")) == choices.within(Budget(sizes[4]))
    assert Budget(math.nextafter(8 * least / numbers, 0), "bits").room(numbers) == least - 1, "whole bytes"
    for budget, number in ((Budget(least - 1), r"(\d+kB)"), (Budget(1.0, "bits"), r"([\d.]+) for")):
        with pytest.raises(ExportError) as error:
            choices.within(budget)
        [stated] = re.findall(f"at least {number}", str(error.value))
        told = Budget.of(stated) if budget.kind == "bytes" else Budget(float(stated), "bits")
        assert choices.within(told) == cheapest(choices.options), "it is enough"
        assert told.room(numbers) < 1.02 * least


def measured_as(choices: auto.Choices, share: float) -> Any:
    """What `fitted` is given: units lose a share of what was measured, and tries are counted."""
    tries: list[tuple[float, dict[str, int]]] = []

    def written(chosen: dict[str, int]) -> tuple[float, dict[str, int]]:
        loss = share * sum(choices.options[unit][k].loss for unit, k in chosen.items())
        tries.append((loss, chosen))
        return tries[-1]

    return tries, written


@pytest.mark.parametrize("share", [0.2, 0.5, 1.0, 3.0])
def test_a_budget_of_loss_holds_for_the_whole(choices: auto.Choices, share: float):
    """Whatever feedback wins back, or units lose together: and little of the budget is left."""
    tries, written = measured_as(choices, share)
    alone = sum(choices.options[unit][k].loss for unit, k in cheapest(choices.options).items())
    budget = Budget(share * alone / 4, "kl")
    loss, chosen = auto.fitted(choices, budget, written, lambda made: made[0])
    assert 0.6 * budget.amount <= loss <= budget.amount
    assert chosen == tries[-1][1]
    assert len(tries) <= 4
    generous = Budget(10 * share * alone, "kl")
    assert auto.fitted(choices, generous, written, lambda made: made[0])[1] == cheapest(choices.options)
    least = share * sum(choices.options[unit][k].loss for unit, k in choices.finest.items())
    with pytest.raises(ExportError) as error:
        auto.fitted(choices, Budget(least / 2, "kl"), written, lambda made: made[0])
    told = Budget.of(str(error.value).split()[5])
    assert least < told.amount < 1.03 * least


def test_a_choice_that_fits_is_kept(choices: auto.Choices):
    """Where the next step is too coarse, or was tried, what fits is written last, and not the finest."""
    tries: list[dict[str, int]] = []
    first, second = [name for name in choices.options if ".0." in name][:2]
    coarse = {first: [Option(100, 100.0), Option(200, 0.1)], second: [Option(100, 0.2), Option(200, 0.0)]}

    def written(chosen: Mapping[str, int]) -> Mapping[str, int]:
        tries.append(dict(chosen))
        return tries[-1]

    auto.fitted(replace(choices, options=coarse), Budget(1.0, "kl"), written, lambda _: 0.3)
    assert tries == [{first: 1, second: 0}], "the same options aren't written twice"
    tries.clear()
    amount = sum(choices.options[unit][k].loss for unit, k in cheapest(choices.options).items()) / 4
    found = auto.fitted(
        choices,
        Budget(amount, "kl"),
        written,
        lambda chosen: amount * (0.3 if chosen == tries[0] else 1.1),
    )
    assert found == tries[0] == tries[-1] != choices.finest
    assert len(tries) > 2


def test_what_never_fits_ends_in_the_finest(choices: auto.Choices):
    """A loss that doesn't follow its parts: after some tries comes the finest."""
    finest, tries = choices.finest, []

    def written(chosen: dict[str, int]) -> float:
        tries.append(chosen)
        return 0.5 if chosen == finest else 2.0

    assert auto.fitted(choices, Budget(1.0, "kl"), written, lambda loss: loss) == 0.5
    assert tries[-1] == finest
    assert len(tries) <= auto.MOST_TRIES + 1


@pytest.fixture(scope="module")
def exported(checkpoint: Checkpoint) -> Path:
    out = checkpoint.path.parent / "bundle"
    assert main(["export", str(checkpoint.path), str(out), "--quant", "auto", "--bits", "5.2"]) == 0
    return out


def test_the_bundle_is_within_its_budget_and_the_sources(checkpoint: Checkpoint, exported: Path):
    """Two widths at least are chosen; `verify --source` judges each as it does with int4 and int8."""
    opened = open_bundle(exported, check_hashes=True)
    chosen = opened.manifest.chosen
    assert chosen is not None
    assert 5.0 < 8 * opened.plan.read_size(opened.manifest.forms) / opened.plan.shapes.numbers <= 5.2
    assert {4, 5} <= {form.code_bits or form.bits for form in opened.manifest.schemes.values()}
    for group in opened.plan.groups.values():
        if group.format is not None and group.format.code_bits:
            assert opened.manifest.forms[group.name].bits == group.format.code_bits, "read so by the kernels"
    assert 0 < chosen.measured < sum(chosen.losses.values())
    context = VerifyContext(opened, checkpoint, None, math.inf, "cpu", 1)
    [row] = compare_weights(context, "weights", checkpoint)
    assert row.ok, row.note
    measured, rounded = (
        auto.texts(checkpoint, None, "", 1, silent).__dict__[k] for k in ("measured", "rounded")
    )
    assert chosen.tokens == measured.size
    text = np.load(exported / "golden" / "rounding.npy")
    np.testing.assert_array_equal(text, rounded)


def test_the_same_input_gives_the_same_plan(checkpoint: Checkpoint, exported: Path, tmp_path: Path):
    """Bit for bit, whatever number of threads computes."""
    again = tmp_path / "again"
    export(checkpoint, again, quant="auto", budget=Budget(5.2, "bits"), verify=False)
    for name in ("tfm.json", "model.onnx.data"):
        assert (again / name).read_bytes() == (exported / name).read_bytes(), name


def test_inspect_prints_the_plan(exported: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["inspect", str(exported), "--json"]) == 0
    chosen = json.loads(capsys.readouterr().out)["chosen"]
    assert chosen["budget"] == "5.2 bits"
    assert list(chosen["units"])[:2] == ["embedding.table", "decoder.layers.0.attn.wqkv"]
    assert (
        sum(one["bytes"] for one in chosen["units"].values()) < (exported / "model.onnx.data").stat().st_size
    )
    assert main(["inspect", str(exported)]) == 0
    said = capsys.readouterr().out
    assert re.search("^chosen .* 5.2 bits;", said, re.MULTILINE)
    for name, one in chosen["units"].items():
        assert any(name in line and one["format"] in line for line in said.splitlines())


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda c: c["losses"].pop("embedding.table"), "losses"),
        (lambda c: c.update(measured=-1.0), "measured"),
        (lambda c: c.update(tokens=0), "tokens"),
        (lambda c: c.update(budget="\x1b[31m"), "budget"),
        (lambda c: c["losses"].update({"embedding.table": -1e-9}), "losses"),
    ],
)
def test_a_manifest_that_states_other_things_is_refused(exported: Path, change: Any, match: str):
    stated = json.loads((exported / "tfm.json").read_text())
    change(stated["chosen"])
    with refused(BundleError, f"chosen.{match}"):
        manifest.load(json.dumps(stated).encode(), "tfm.json")


def test_only_auto_states_what_it_chose_by(exported: Path):
    stated = json.loads((exported / "tfm.json").read_text()) | {"quant": "int8"}
    with refused(BundleError, "chosen", "quant int8"):
        manifest.load(json.dumps(stated).encode(), "tfm.json")
    opened = open_bundle(exported).manifest
    assert opened.chosen is not None
    nothing = replace(opened, schemes={}, chosen=replace(opened.chosen, losses={}))
    manifest._check_chosen(nothing)  # pyright: ignore[reportPrivateUsage]


@pytest.mark.parametrize(
    ("text", "budget"),
    [
        ("700MB", Budget(7e8)),
        ("1.5GB", Budget(1.5e9)),
        ("20kb", Budget(2e4)),
        ("12345", Budget(12345.0)),
        ("5B", Budget(5.0)),
        ("kl=0.01", Budget(0.01, "kl")),
    ],
)
def test_budgets_as_people_write_them(text: str, budget: Budget):
    assert Budget.of(text) == budget


@pytest.mark.parametrize(
    "text", ["", "MB", "7 apples", "kl=", "kl=-1", "0", "nan", "inf", "-3MB", "kl=nan", "1e400"]
)
def test_what_is_no_budget(text: str):
    with refused(ExportError, "budget", text):
        Budget.of(text)


def test_options_that_do_not_go_together(checkpoint: Checkpoint, tmp_path: Path):
    def tried(model: Checkpoint = checkpoint, **options: Any) -> None:
        export(model, tmp_path / "out", verify=False, **options)

    with refused(ExportError, "quant=auto", "budget"):
        tried(quant="auto")
    with refused(ExportError, "budget=kl=0.1", "quant=int4"):
        tried(quant="int4", budget=Budget(0.1, "kl"))
    with refused(ExportError, "bits=4.5", "quant=int8"):
        tried(quant="int8", budget=Budget(4.5, "bits"))
    with refused(ExportError, "bits", "-1"):
        Budget(-1, "bits")
    with refused(ExportError, "quant=auto", "mtp"):
        plan.check_budget(AUTO, Budget(1e9), tiny_models.with_module(tiny_models.llama()))
    with refused(ExportError, "table_bits=4", "auto"):
        tried(quant="auto", budget=Budget(1e9), table_bits=4)
    vectors = tiny_models.encoder(head=Pool("mean"))
    for config, match in ((tiny_models.hearing(), "sounds"), (vectors, "budget=kl=0.1")):
        save_checkpoint(tmp_path / match, config, tiny_models.weights(config))
        with refused(ExportError, *match.split("\n")):
            tried(open_checkpoint(tmp_path / match), quant="auto", budget=Budget(0.1, "kl"))


def test_where_texts_come_from(checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The rows that are measured and those that are rounded over are others, if there are enough."""
    file = tmp_path / "text.txt"
    file.write_text("the quick brown fox jumps over the lazy dog " * 400)
    given = calibrate.rounding_text(checkpoint, file, silent)
    found = auto.texts(checkpoint, file, "", 1, silent)
    np.testing.assert_array_equal(found.measured, given[: len(found.measured)])
    assert found.rounded is not None
    np.testing.assert_array_equal(found.rounded, given[len(found.measured) :])
    assert found.measured.size <= auto.MEASURED_TOKENS
    few = auto.texts(checkpoint, file, "", auto.MOST_PRODUCTS, silent)
    assert len(few.measured) == 1
    without = auto.texts(checkpoint, file, "a mixture", 1, silent)
    assert without.rounded is None
    assert np.isin(without.measured, given).all()
    nothing = auto.texts(replace(checkpoint, tokenizer=None), None, "a mixture", 1, silent)
    assert nothing.measured.shape[1] <= checkpoint.config.context
    monkeypatch.setattr(calibrate, "DRAWN_TOKENS", calibrate.DRAWN_LENGTH)
    one = auto.texts(checkpoint, file, "", 1, silent)
    np.testing.assert_array_equal(one.measured, one.rounded)


def test_blocks_of_a_file_lose_nothing(checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch):
    """They are one more format, and the plan states their types."""
    monkeypatch.setattr(Checkpoint, "native", kept_blocks.natives({"down": (False, 4)}))
    rows = np.random.default_rng(0).integers(0, 97, (1, 8))
    found = auto.choices(checkpoint, offers(checkpoint), auto.Texts(rows, rows), silent)
    unit = "decoder.layers.0.mlp.down"
    k = next(k for k, one in enumerate(found.formats[unit]) if one[unit].native)
    assert found.options[unit][k].loss == 0
    assert found.within(Budget(1e9))[unit] == found.finest[unit] == k
    made = plan.with_sources(found.with_formats(found.finest), checkpoint)
    assert {form.source for form in made.formats.values()} == {"F32"}
    assert found.plan == plan.with_sources(found.plan, checkpoint), "none is kept there"
