"""Check which options of an export can be combined, plan the format of each parameter, and convert each
parameter to its format.

`runtime.bundle.schemes` defines the schemes; `runtime.bundle.rounding` rounds weights.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from ...refimpl.calibrate import smooth
from ...refimpl.checkpoint.protocol import ExportSource
from ...refimpl.config import Config, KVFormat, has_mtp
from ...refimpl.engine.cache_kinds import cache_kinds, recurrent
from ...refimpl.errors import ExportError, NumericError
from ...refimpl.ops.quant import Blocks
from ...runtime.bundle import feedback, operator_limits, rounding, weight_formats
from ...runtime.bundle.plan import Plan
from ...runtime.bundle.schemes import SCHEMES, Scheme, check_target, float_type
from ...runtime.bundle.targets import Target
from ...runtime.bundle.weight_formats import WeightFormat, is_table

Method = Literal["minmax", "percentile", "entropy"]
SIZES = ("B", "kB", "MB", "GB")


@dataclass(frozen=True)
class Calibration:
    """The user's options for measuring the ranges of activations: the text, the method, and the alpha of
    smoothing.
    """

    text: Path
    method: Method = "minmax"
    alpha: float | None = None

    def __post_init__(self) -> None:
        if self.method not in get_args(Method):
            raise ExportError(
                f"calibration.method must be one of {', '.join(get_args(Method))}, got {self.method!r:.40}"
            )
        if self.alpha is not None and not 0 <= self.alpha <= 1:
            raise ExportError(f"calibration.alpha must be 0 to 1, got {self.alpha}")


@dataclass(frozen=True)
class Budget:
    """The user's limit for quant=auto: the bytes of the weights, their bits per number, or the model's KL
    divergence.
    """

    amount: float
    kind: Literal["bytes", "bits", "kl"] = "bytes"

    def __post_init__(self) -> None:
        if not 0 < self.amount < 2**63:
            name = "bits" if self.kind == "bits" else "budget"
            raise ExportError(f"{name} must be a positive number, got {self.amount}")

    @staticmethod
    def of(text: str) -> Budget:
        """Parse a budget such as 700MB, 1.5GB or kl=0.01. Raises ExportError for any other text."""
        number, factor, kind = text, 1, "bytes"
        if text.startswith("kl="):
            number, kind = text.removeprefix("kl="), "kl"
        else:
            unit = next((u for u in reversed(SIZES) if text.lower().endswith(u.lower())), None)
            if unit is not None:
                number, factor = text[: -len(unit)], 10 ** (3 * SIZES.index(unit))
        try:
            return Budget(float(number) * factor, kind)
        except (ValueError, ExportError):
            raise ExportError(
                f"budget must be bytes such as 700MB, or a loss such as kl=0.01, got {text!r:.40}"
            ) from None

    def room(self, numbers: int) -> int:
        """Return how many whole bytes the budget allows for a model with `numbers` numbers. For a budget of
        KL divergence, the result has no meaning.
        """
        return int(self.amount * numbers / 8 if self.kind == "bits" else self.amount)

    @property
    def option(self) -> str:
        """Return the name and value of the option that sets the budget, such as bits=4.5."""
        return f"bits={self.amount:g}" if self.kind == "bits" else f"budget={self}"

    def __str__(self) -> str:
        if self.kind == "kl":
            return f"kl={self.amount:g}"
        if self.kind == "bits":
            return f"{self.amount:g} bits"
        return f"{int(self.amount)} bytes"


@dataclass(frozen=True)
class CalibrationResult:
    """What was measured by running the model.

    - `inputs` and `outputs`: the scale and zero point of each product's input, and of its output if the
      output is rounded.
    - `factors`: the smoothing factors.
    - `importance`: the mean square of each coordinate of a product's input.
    - `text` [R, T]: the tokens over which weights of 4, 5 and 6 bits are rounded with feedback, one layer
      at a time. `compensations` are the statistics of the current layer's inputs.
    - `without_feedback`: the reason why weights can't be rounded with feedback, or "" if they can.
    """

    inputs: Mapping[str, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)
    factors: Mapping[smooth.SmoothingSite, np.ndarray] = field(default_factory=dict)
    importance: Mapping[str, np.ndarray] = field(default_factory=dict)
    text: np.ndarray | None = None
    compensations: Mapping[str, feedback.Inputs] = field(default_factory=dict)
    without_feedback: str = ""
    outputs: Mapping[str, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)


NOT_CALIBRATED = CalibrationResult()


def check_calibration(scheme: Scheme, calibration: Calibration | None, kv: str = "float") -> None:
    """Raise ExportError if a scheme needs a calibration and there is none, or if there is one that the scheme
    doesn't use.
    """
    if scheme.calibrated and calibration is None:
        raise ExportError(
            f"quant={scheme.name} needs calibration: give a text like the texts that the model will read, "
            "so that tfm can measure each activation's range"
        )
    if scheme.calibrated or calibration is None:
        return
    calibrated = _names(scheme for scheme in SCHEMES.values() if scheme.calibrated)
    if kv == "float" and not scheme.searches:
        takers = _names(scheme for scheme in SCHEMES.values() if scheme.calibrated or scheme.searches)
        raise ExportError(
            f"calibration can be used only with kv=int8, kv=int4 or quant={takers}, "
            f"got quant={scheme.name} kv={kv}"
        )
    if (calibration.method, calibration.alpha) != ("minmax", None):
        raise ExportError(
            f"calibration.method and calibration.alpha can be used only with quant={calibrated}, got "
            f"quant={scheme.name}"
        )


def check_budget(scheme: Scheme, budget: Budget | None, config: Config) -> None:
    """Raise ExportError if a scheme needs a budget and there is none, if the scheme doesn't use a budget, or
    if the budget can't be measured for this model.
    """
    if (budget is None) == bool(scheme.finer):
        takers = _names(other for other in SCHEMES.values() if other.finer)
        if budget is not None:
            raise ExportError(
                f"{budget.option} can be used only with quant={takers}, got quant={scheme.name}"
            )
        raise ExportError(f"quant={scheme.name} needs a budget: bytes, bits per parameter, or kl")
    if budget is None:
        return
    if config.sound_shape is not None:
        raise ExportError(
            f"quant={scheme.name} measures a model's loss on a text, but this model reads sounds; use "
            "quant=int8"
        )
    if has_mtp(config):
        raise ExportError(
            f"quant={scheme.name} measures a model's loss on a text, but the module for drafts (mtp) doesn't "
            "read texts: export the model without mtp, or use quant=int4"
        )
    if budget.kind == "kl" and not config.head.predicts_tokens:
        raise ExportError(
            f"budget={budget} needs a model that predicts tokens: give a budget in bytes or bits"
        )


def check_cache(config: Config, kv: str, target: Target) -> None:
    """Raise ExportError if a decoder's keys and values can't be kept in the requested format."""
    if kv not in get_args(KVFormat):
        raise ExportError(f"kv must be {' or '.join(get_args(KVFormat))}, got {kv!r:.40}")
    if kv != "float" and "decoder" not in config.stacks:
        raise ExportError(f"kv={kv} stores a decoder's keys and values, but this model has no decoder")
    if kv == "float":
        kv = config.kv
    if kv != "float":
        if config.stem is not None:
            raise ExportError(f"kv={kv} measures scales on a text, but this model reads sounds: use kv=float")
        if target.float_cache is not None:
            raise ExportError(f"kv={kv} isn't supported for target={target.name}: {target.float_cache}")
        if reasons := operator_limits.group_query(config):
            raise ExportError(
                f"kv={kv} needs the fused attention operator, which can't run this model: {reasons[0]}"
            )
        if recurrent(cache_kinds(config)):
            raise ExportError(f"kv={kv} isn't supported for models with recurrent layers")
        if any(layer.kv_layer is not None for layer in config.layers):
            raise ExportError(
                f"kv={kv} isn't supported for layers that read another layer's keys and values, "
                "because GroupQueryAttention would copy quantized keys and values for each of these "
                "layers: use kv=float"
            )


def plan(
    checkpoint: ExportSource, scheme: Scheme, target: Target, *, table_bits: int = 8, strict: bool = False
) -> Plan:
    """Return the plan of an export: the format of each parameter. Raises ExportError if the target or the
    model doesn't support a format.

    `table_bits` is the number of bits for token tables. With `strict`, every matrix must keep the
    checkpoint's own blocks.
    """
    check_target(scheme, target)
    config = checkpoint.config
    if has_mtp(config) and (scheme.calibrated or config.rounds_cache):
        got = f"quant={scheme.name}" if scheme.calibrated else f"kv={config.kv}"
        raise ExportError(
            f"{got} measures scales on a text, but nothing runs the module for drafts "
            "(mtp) on a text: export the model without mtp, or choose another quant and kv"
        )
    floats = float_type(scheme, target)
    if reason := operator_limits.no_bundle(target, config, floats):
        raise ExportError(f"quant={scheme.name} isn't possible for target={target.name}: {reason}")
    if table_bits not in (4, 8):
        raise ExportError(f"table_bits must be 4 or 8, got {table_bits!r:.40}")
    if not scheme.takes_table_bits(table_bits):
        takers = _names(other for other in SCHEMES.values() if other.takes_table_bits(table_bits))
        raise ExportError(
            f"table_bits={table_bits} can be used only with quant={takers}, got quant={scheme.name}"
        )
    if strict and not scheme.keeps_blocks:
        keepers = _names(other for other in SCHEMES.values() if other.keeps_blocks)
        raise ExportError(f"strict=True can be used only with quant={keepers}, got quant={scheme.name}")
    if scheme.keeps_blocks and (changed := checkpoint.changed):
        raise ExportError(
            f"quant={scheme.name} keeps a file's own blocks, but the adapter changes {len(changed)} weights, "
            f"the first is {changed[0]}: use quant=int8"
        )
    if scheme.finer:  # a budget will choose, at most the largest
        return max(each(checkpoint, scheme, target), key=lambda one: one.size)
    scheme = scheme.with_table_bits(table_bits)
    made = Plan.of(checkpoint.shapes, scheme, target, _keepable(checkpoint, scheme, target))
    if _is_mostly_kept(made, scheme):
        keepable = _keepable(checkpoint, scheme, target, all_matrices=True)
        made = Plan.of(checkpoint.shapes, scheme, target, keepable)
    made = with_sources(made, checkpoint)
    if not scheme.keeps_blocks:
        return made
    rounded = [name for name, one in made.formats.items() if not one.native]
    if strict and rounded:
        raise ExportError(
            f"strict=True needs quantized blocks for all weights, but the checkpoint stores {rounded[0]} as "
            f"{checkpoint.kind(rounded[0])}; without strict=True, this weight gets 8-bit blocks"
        )
    if len(rounded) == len(made.formats):
        raise ExportError(
            f"quant={scheme.name} needs a file with blocks that can be kept: GGUF's quantized types, or "
            "GPTQ, AWQ and other integers with a scale for neighbouring inputs; use quant=int8"
        )
    return made


def with_sources(made: Plan, checkpoint: ExportSource) -> Plan:
    """Return the plan with the type in which the checkpoint stores each parameter. If no blocks of the
    checkpoint are kept, the plan stays unchanged."""
    if not any(one.native for one in made.formats.values()):
        return made
    formats = {name: replace(one, source=checkpoint.kind(name)) for name, one in made.formats.items()}
    return replace(made, formats=formats)


def each(checkpoint: ExportSource, scheme: Scheme, target: Target) -> list[Plan]:
    """Return one plan for each format that a budget can choose. The plan with the fewest bytes comes
    first.
    """
    made = []
    for one in (scheme, *scheme.finer):
        native = (_keepable(checkpoint, one, target),) if one.keeps_blocks else ()
        made.append(Plan.of(checkpoint.shapes, one, target, *native))
    return made


def smoothed_sites(scheme: Scheme, made: Plan) -> tuple[smooth.SmoothingSite, ...]:
    """Return the places in the model at which activations are smoothed in a plan. If the scheme doesn't
    smooth, there are none.
    """
    return (*made.smoothable, *made.divided) if scheme.smooths else ()


def leaf(
    checkpoint: ExportSource,
    name: str,
    weight_format: WeightFormat | None,
    dtype: str,
    calibrated: CalibrationResult = NOT_CALIBRATED,
) -> np.ndarray | Blocks:
    """Return one parameter of the checkpoint in its planned format. Raises NumericError if a number doesn't
    fit `dtype`.
    """
    if weight_format is not None and weight_format.native:
        native_blocks = _centered(checkpoint, name)
        assert native_blocks is not None, f"{name} was planned from its own blocks"
        scale = _cast(native_blocks.scale, dtype, f"scale of {name}")
        return replace(native_blocks, scale=scale, activations=weight_format.activations)
    weight = smooth.smooth_leaf(name, checkpoint.leaf(name), calibrated.factors)
    if weight_format is None:
        return _cast(weight, dtype, name)
    inputs, importance = calibrated.compensations.get(name), None
    if weight_format.searched:
        importance = calibrated.importance.get(name) if inputs is None else inputs.importance
    axis = 1 if is_table(name) else 0
    blocks = rounding.rounded(weight, weight_format, axis=axis, importance=importance)
    if weight_format.activations == "static":
        scale, zero = calibrated.inputs[name]
        blocks = replace(blocks, input_scale=scale, input_zero=zero)
        if not weight_format.rounds_output:
            return blocks
        scale, zero = calibrated.outputs[name]
        return replace(blocks, output_scale=scale, output_zero=zero)
    blocks = replace(blocks, scale=_cast(blocks.scale, dtype, f"scale of {name}"))
    if inputs is not None:
        return feedback.compensating(weight, blocks, inputs, weight_format)
    if weight_format.activations == "smoothed":
        [factors] = [
            s for site, s in calibrated.factors.items() if not site.producers and name in site.consumers
        ]
        return replace(blocks, input_factor=(1 / factors).astype(dtype))
    return blocks


def _centered(checkpoint: ExportSource, name: str) -> Blocks | None:
    """Return the checkpoint's own blocks of a parameter, with zero points in the middle of the codes' range.
    Return None if the checkpoint doesn't store blocks.
    """
    native_blocks = checkpoint.native(name)
    return None if native_blocks is None else rounding.centered(native_blocks)


def _is_mostly_kept(made: Plan, scheme: Scheme) -> bool:
    """Return whether a plan for 4 bits keeps the file's own blocks for most numbers of the matrices.

    The other matrices of such a file have more bits because they matter more. For example, in Qwen2.5-Coder
    1.5B in Q4_K_M they are an eighth of the numbers, and rounding only these to 4 bits gives a KL divergence
    of 0.012.
    """
    sizes = {True: 0, False: 0}
    for name, one in made.formats.items():
        if not is_table(name):
            sizes[one.native] += math.prod(made.shapes[name])
    return scheme.fewest_bits == 4 and sizes[True] > sizes[False]


def _keepable(
    checkpoint: ExportSource, scheme: Scheme, target: Target, *, all_matrices: bool = False
) -> weight_formats.NativeBlocks:
    """Return a function that returns a parameter's own blocks in the checkpoint if the scheme may keep them,
    and None otherwise.

    Blocks that would be widened, or that have more bits than the scheme gives the parameter, are kept only by
    the scheme `keep` or with `all_matrices`. Other schemes use longer blocks, which are faster. One exception
    are the types in `LOOKED_UP`, which schemes of 4 bits keep on ort-cpu. Blocks with two scales, such as
    Q4_K, aren't kept in float16, because the product of the scales would be rounded.
    """
    dtype = float_type(scheme, target)

    def native(name: str, most: int) -> Blocks | None:
        kind, keeps = checkpoint.kind(name), scheme.keeps_blocks or (all_matrices and not is_table(name))
        if not keeps and weight_formats.is_widened(scheme.fewest_bits, kind):
            return None
        blocks = _centered(checkpoint, name)
        if blocks is None:
            return None
        fits = scheme.fewest_bits <= blocks.bits <= most and not weight_formats.is_widened(blocks.bits, kind)
        looked_up = kind in weight_formats.LOOKED_UP and scheme.fewest_bits == 4 and target.name == "ort-cpu"
        if not (fits or looked_up or keeps):
            return None
        with np.errstate(over="ignore"):
            stays = dtype == "float32" or np.array_equal(blocks.scale, blocks.scale.astype(dtype))
        return blocks if stays else None

    return native


def _names(schemes: Iterable[Scheme]) -> str:
    return " or ".join(scheme.name for scheme in schemes)


def _cast(array: np.ndarray, dtype: str, name: str) -> np.ndarray:
    """Convert an array to the bundle's float type. Raises NumericError if a finite number is too large for
    float16.
    """
    with np.errstate(over="ignore"):
        cast = array.astype(dtype, copy=False)
    if dtype == "float16" and np.isinf(cast).any():
        index = tuple(int(i) for i in np.argwhere(np.isinf(cast))[0])
        raise NumericError(
            f"the weight {name}{list(index)} must fit float16, but it is {array[index]}; use quant=fp32"
        )
    return cast
