"""Rotary positions as config.json states them, in either spelling."""

from __future__ import annotations

from .config import LinearScaling, Llama3Scaling, Rope
from .errors import ConfigError
from .keys import Keys


def rope(keys: Keys, dims: int) -> Rope:
    """Rotary positions from either spelling: rope_theta with rope_scaling, or rope_parameters."""
    old = keys.get("rope_scaling", dict, None)
    new = keys.get("rope_parameters", dict, None)
    if old and new and old != new:
        raise keys.fail("rope_parameters", "the same as rope_scaling where both stand")
    inner = Keys(new or old or {}, f"{keys.where}: {'rope_parameters' if new else 'rope_scaling'}")
    theta, own = keys.positive("rope_theta", None), inner.positive("rope_theta", None)
    if theta is not None and own is not None and theta != own:
        raise keys.fail("rope_theta", f"the same as in rope_parameters, {own}")
    kind, alias = inner.get("rope_type", str, None), inner.get("type", str, None)
    if kind and alias and kind != alias:
        raise inner.fail("type", f"the same as rope_type, {kind!r}")
    scaling: LinearScaling | Llama3Scaling | None = None
    match kind or alias or "default":
        case "default":
            pass
        case "linear":
            scaling = LinearScaling(inner.positive("factor"))
        case "llama3":
            scaling = Llama3Scaling(
                inner.positive("factor"),
                inner.positive("low_freq_factor"),
                inner.positive("high_freq_factor"),
                inner.size("original_max_position_embeddings"),
            )
            if scaling.high_freq_factor <= scaling.low_freq_factor:
                raise inner.fail(
                    "high_freq_factor", f"greater than low_freq_factor, {scaling.low_freq_factor}"
                )
        case other:
            raise ConfigError(
                f"{inner.where}: rope_type must be one of default, linear, llama3, got {other!r:.80}"
            )
    inner.finish({"partial_rotary_factor": (1.0,)})
    return Rope(theta or own or 10_000.0, dims, scaling=scaling)
