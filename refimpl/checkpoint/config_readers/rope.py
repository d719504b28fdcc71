"""Read rotary positions from config.json, where rope_theta with rope_scaling states them, or rope_parameters.

In transformers the frequencies of two kinds depend on the length of the text so far: `dynamic` stretches them
past max_position_embeddings, and `longrope` changes its divisors past the original context. In tfm the
frequencies depend on the Config's context. A family therefore states `exact_context` as its context: every
text within this context is rotated as in transformers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from ...config import (
    LIMITS,
    DynamicNTK,
    LinearScaling,
    Llama3Scaling,
    LongRope,
    ProportionalScaling,
    Rope,
    Scaling,
    Yarn,
)
from ...errors import ConfigError
from .keys import Keys

ROPE_TYPES = {kind: kind for kind in ("default", "linear", "dynamic", "yarn", "longrope", "llama3")}
PROPORTIONAL = {**ROPE_TYPES, "proportional": "proportional"}
ORIGINAL = "original_max_position_embeddings"


def rope(
    keys: Keys,
    head_size: int,
    context: int,
    *,
    theta: float = 10_000.0,
    partial: float | None = None,
    original: int | None = None,
    kinds: Mapping[str, str] = ROPE_TYPES,
    names: tuple[str, str] = ("rope_theta", "partial_rotary_factor"),
) -> Rope:
    """Return the rotary positions of all layers, which rope_theta with rope_scaling states, or
    rope_parameters.

    `context` is max_position_embeddings. `theta`, `partial` and `original` (the trained context) are the
    family's defaults. Without `partial`, the family rotates whole heads. `names` are the keys of theta and of
    the partial factor outside rope_parameters. `kinds` maps the family's names of types to tfm's.
    """
    if keys.of_gguf:  # llama.cpp scales positions alike in all families
        kinds, original = ROPE_TYPES, None
    old, new = keys.get("rope_scaling", dict, None), keys.get("rope_parameters", dict, None)
    stated = new or old or {}
    if old and new:
        stated = _both(keys, old, new, theta if keys.get(names[0], float, None) is None else None)
    inner = Keys(stated, f"{keys.where}: {'rope_parameters' if new else 'rope_scaling'}")
    # Of two trained contexts the outer one counts, as in transformers.
    original = keys.size(ORIGINAL, original)
    theta = _one(keys.positive(names[0], None), inner, "rope_theta", theta)
    share = _one(keys.get(names[1], float, None), inner, "partial_rotary_factor", partial or 1.0)
    dims = _rotated(keys.where, names[1], head_size, share, partial)
    return _rope(inner, head_size, dims, theta, context, original, kinds)


def _rotated(where: str, key: str, head_size: int, share: float, partial: float | None) -> int:
    """Return how many elements of a head are rotated. `share` is the rotated share of a head, and must be 1
    for a family without `partial`.
    """
    if share != 1 if partial is None else not 0 < share <= 1:
        must = "1: heads are rotated whole" if partial is None else "above 0 and at most 1"
        raise ConfigError(f"{where}: {key} must be {must}, got {share!r:.80}")
    return head_size if share == 1 else int(min(head_size, LIMITS["width"]) * share)


def _both(
    keys: Keys, old: Mapping[str, Any], new: Mapping[str, Any], default: float | None
) -> dict[str, Any]:
    """Return what rope_scaling and rope_parameters state together. Both must state the same, except for the
    spelling of keys.

    Either may leave theta to the top-level key. If this key is missing too, transformers uses its `default`
    for rope_scaling. So a different theta in rope_parameters alone is refused.
    """
    one, other = (
        {"rope_type" if key == "type" else key: v for key, v in each.items()} for each in (old, new)
    )
    alone = (one.keys() ^ other.keys()) - {"rope_theta"}
    if alone or any(one[key] != other[key] for key in one.keys() & other.keys()):
        raise keys.fail("rope_parameters", "the same as rope_scaling if both are present")
    if default is not None and "rope_theta" not in one and other.get("rope_theta", default) != default:
        raise keys.fail("rope_parameters", "the same as rope_scaling, which has no rope_theta")
    return other | one


def ropes(
    keys: Keys,
    head_size: int,
    context: int,
    thetas: Mapping[str, tuple[str, float]],
    *,
    scaled: tuple[str, ...],
) -> dict[str, Rope]:
    """Return the rotary positions of each type of layer, for models like Gemma 3 and ModernBERT.

    For each type, `thetas` gives the older key of the type's theta and the family's default. rope_parameters
    contains a dict for each type. The older rope_scaling applies only to the types in `scaled`.
    """
    old, new = keys.get("rope_scaling", dict, None) or {}, keys.get("rope_parameters", dict, None) or {}
    if old and new:
        raise keys.fail("rope_scaling", "absent if rope_parameters is present")
    nested = Keys(new, f"{keys.where}: rope_parameters")
    by_type = {}
    for kind, (name, default) in thetas.items():
        parameters = nested.get(kind, dict, None)
        where = f"{keys.where}: {f'rope_parameters.{kind}' if parameters else 'rope_scaling'}"
        inner = Keys(parameters or (old if kind in scaled else {}), where)
        theta = _one(keys.positive(name, None), inner, "rope_theta", default)
        by_type[kind] = _of_type(inner, head_size, theta, context, ROPE_TYPES)
    nested.finish({})
    return by_type


def nested_ropes(
    keys: Keys,
    head_sizes: Mapping[str, int],
    context: int,
    defaults: Mapping[str, Mapping[str, Any]],
    *,
    theta: float = 10_000.0,
    partial: float | None = None,
) -> dict[str, Rope]:
    """Return the rotary positions of each type of layer, if each type has its own head size (Gemma 4).

    Only rope_parameters states these positions, with a dict for each type. `defaults` is used if a config has
    no rope_parameters. `theta` is used if a dict has no theta. `partial` is the rotated share of a head if a
    dict of the default kind states no share. With a `partial` of None, whole heads are rotated.
    """
    nested = Keys(keys.get("rope_parameters", dict, None) or defaults, f"{keys.where}: rope_parameters")
    by_type = {}
    for kind, size in head_sizes.items():
        inner = Keys(nested.get(kind, dict), f"{keys.where}: rope_parameters.{kind}")
        own = inner.positive("rope_theta", theta)
        by_type[kind] = _of_type(inner, size, own, context, PROPORTIONAL, partial)
    nested.unused(*defaults, ORIGINAL)  # Laguna XS.2 says its trained context here too, where nobody reads it
    nested.finish({})
    return by_type


def _of_type(
    inner: Keys,
    size: int,
    theta: float,
    context: int,
    kinds: Mapping[str, str],
    partial: float | None = None,
) -> Rope:
    """Return the rotary positions of one of several types of layers."""
    # transformers looks for it beside the types, where it isn't allowed.
    if not inner.get("truncate", bool, True):
        raise inner.fail("truncate", "true if the model has several types of layers")
    if inner.values.get("rope_type") == "proportional" and "proportional" in kinds:
        return _rope(inner, size, size, theta, context, None, kinds)
    usual = inner.values.get("rope_type", "default") == "default"
    share = inner.get("partial_rotary_factor", float, partial if usual and partial else 1.0)
    dims = _rotated(inner.where, "partial_rotary_factor", size, share, partial)
    return _rope(inner, size, dims, theta, context, None, kinds)


def exact_context(context: int, *ropes: Rope | None) -> int:
    """Return the length of the longest text for which transformers' frequencies don't depend on the length.

    `dynamic` changes nothing within `context`, which is max_position_embeddings. `longrope` uses its short
    divisors within the original context.
    """
    scalings = (rope.scaling for rope in ropes if rope is not None)
    return min([context, *(s.original_context for s in scalings if isinstance(s, LongRope))])


def _one(outer_value: Any, inner: Keys, key: str, default: Any) -> Any:
    """Return a number that may be stated in rope_parameters, outside of it, or in both with the same
    value.
    """
    inner_value = inner.positive(key, None)
    if inner_value is not None and outer_value is not None and inner_value != outer_value:
        raise inner.fail(key, f"the same as {key} at the top level ({outer_value})")
    return next((value for value in (inner_value, outer_value) if value is not None), default)


def _rope(
    inner: Keys,
    head_size: int,
    dims: int,
    theta: float,
    context: int,
    original: int | None,
    kinds: Mapping[str, str],
) -> Rope:
    kind, alias = inner.get("rope_type", str, None), inner.get("type", str, None)
    if kind and alias and kind != alias:
        raise inner.fail("type", f"the same as rope_type ({kind!r})")
    kind = kind or alias or "default"
    if kind not in kinds:
        raise ConfigError(f"{inner.where}: rope_type must be one of {', '.join(kinds)}, got {kind!r:.80}")
    if context > (limit := LIMITS["context"]):
        raise ConfigError(f"{inner.where}: the context must be at most {limit}, got {context!r:.40}")
    scaling = _scaling(inner, kinds[kind], context, original, dims)
    inner.finish({})
    if dims % 2 == 0 or dims == head_size:
        return Rope(theta, dims, scaling=scaling)
    # Of an odd number one dim more is rotated, by frequencies that are still theta^(-2j / odd number).
    if isinstance(scaling, Yarn):
        raise ConfigError(f"{inner.where}: rotary dims must be even with yarn, got {dims}")
    return Rope(theta * theta ** (1 / dims), dims + 1, scaling=scaling)


def _scaling(inner: Keys, kind: str, context: int, original: int | None, dims: int) -> Scaling | None:
    """Return the scaling of this kind; None for the default kind. Keys of other kinds are left unread."""
    match kind:
        case "default":
            return None
        case "linear":
            return LinearScaling(inner.positive("factor"))
        case "dynamic":
            return DynamicNTK(inner.positive("factor"), context)
        case "proportional":
            return _proportional(inner, dims)
    stated = inner.size(ORIGINAL, context)
    trained = stated if original is None else original
    match kind:
        case "yarn":
            return _yarn(inner, context, trained)
        case "longrope":
            return _longrope(inner, context, trained)
    factor, low = inner.positive("factor"), inner.positive("low_freq_factor")
    high = inner.positive("high_freq_factor")
    if high < low:
        raise inner.fail("high_freq_factor", f"at least low_freq_factor ({low})")
    return Llama3Scaling(factor, low, high, trained)


def _yarn(inner: Keys, context: int, original: int) -> Yarn:
    """Return YaRN's scaling. If the factor is null, it is the context divided by the original context. If
    both mscales are stated, the magnitude is the ratio of their magnitudes."""
    factor = inner.get("factor", float, null=True)
    factor = context / original if factor is None else inner.positive("factor")
    magnitude = inner.positive("attention_factor", None)
    scale, other = _mscale(inner, "mscale"), _mscale(inner, "mscale_all_dim")
    if magnitude is None and scale and other:
        magnitude = magnitude_ratio(factor, scale, other)
    return Yarn(
        factor,
        original,
        inner.positive("beta_fast", None) or 32.0,
        inner.positive("beta_slow", None) or 1.0,
        inner.get("truncate", bool, True),
        magnitude,
    )


def _proportional(inner: Keys, dims: int) -> ProportionalScaling:
    """Return the proportional scaling, which rotates only a share of a head's pairs. The share must be at
    least one pair.
    """
    share = inner.positive("partial_rotary_factor", 1.0)
    turned = int(min(share, 1.0) * min(dims, LIMITS["width"]) // 2)
    if share > 1 or not turned:
        raise inner.fail(
            "partial_rotary_factor",
            f"at most 1, and large enough to rotate a pair of the head's {dims!r:.40} elements",
        )
    return ProportionalScaling(turned, inner.positive("factor", 1.0))


def _mscale(inner: Keys, key: str) -> float | None:
    """Return the scale of a magnitude of YaRN. Return None if the key is missing or 0, which means that there
    is no scale.
    """
    return None if inner.get(key, float, None) == 0 else inner.positive(key, None)


def yarn_magnitude(factor: float, scale: float) -> float:
    """Return YaRN's magnitude, which config files call `attention_factor` or `mscale`: 1 + 0.1 · scale ·
    ln(factor). A factor below 1 counts as 1.
    """
    return 1 + 0.1 * scale * math.log(max(factor, 1.0))


def magnitude_ratio(factor: float, scale: float, other: float) -> float:
    """Return YaRN's magnitude for `scale` divided by YaRN's magnitude for `other`."""
    return yarn_magnitude(factor, scale) / yarn_magnitude(factor, other)


def _longrope(inner: Keys, context: int, original: int) -> LongRope:
    """Return LongRoPE's scaling. If no magnitude is stated, it is sqrt(1 + ln(factor) / ln(original)) (Ding
    et al. 2024)."""
    factor = inner.positive("factor", None) or context / original
    magnitude = inner.positive("attention_factor", None)
    if magnitude is None and factor > 1:
        if original == 1:
            raise ConfigError(f"{inner.where}: {ORIGINAL} must be greater than 1, got 1")
        magnitude = math.sqrt(1 + math.log(factor) / math.log(original))
    divisors = []
    for key in ("short_factor", "long_factor"):
        numbers = inner.get(key, list)
        if not all(type(n) in (int, float) and 0 < n < 2**53 for n in numbers):
            raise inner.fail(key, "a list of positive numbers")
        divisors.append(tuple(map(float, numbers)))
    return LongRope(divisors[0], divisors[1], original, magnitude or 1.0)
