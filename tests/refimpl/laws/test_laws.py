"""The specification keeps its laws, and the kit finds planted bugs in other kernels."""

from __future__ import annotations

import inspect
import re
import textwrap
from typing import Any

import numpy as np
import pytest
from helpers.refused import pattern, refused
from hypothesis import settings
from tfm.refimpl import laws
from tfm.refimpl.laws.kit.checking import EQUALS
from tfm.refimpl.laws.kit.declare import specified

SPEC = {name.split(".")[1]: function for name, function in specified().items()}
REGISTERED = [(name, law) for name, found in laws.names().items() for law in found if law != EQUALS]


def test_a_name_is_enough():
    """`check` takes the bare name of a function: no two files may use the same one."""
    assert len(SPEC) == len(specified())


@pytest.mark.parametrize("dtype", [np.float64, pytest.param(np.float32, marks=pytest.mark.long)])
@pytest.mark.parametrize(("name", "law"), REGISTERED, ids=lambda a: a.replace(" ", "_"))
def test_the_specification_keeps_its_laws(name: str, law: str, dtype: Any):
    """In float64 to rounding; in float32 within the budget that other kernels are given."""
    few = settings.default.max_examples // (4 if dtype == np.float64 else 5)  # pyright: ignore[reportOptionalMemberAccess]
    applied = laws.check(name, SPEC[name], dtype=dtype, quantized=True, only=law, examples=few)
    assert applied == (law,)


def example() -> dict[str, Any]:
    """The names that the example in the kit's documentation defines."""
    text = inspect.getdoc(laws)
    assert text is not None
    blocks = [b for b in text.split("\n\n") if b.startswith("    ")]
    code = "\n\n".join(b for b in blocks if b.lstrip().startswith(("from", "def causal_mask", "def test")))
    results: dict[str, Any] = {}
    exec(textwrap.dedent(code), results)
    return results


def test_the_example_finds_its_bug():
    """A window that is one key too wide: the smallest counterexample, with law and inputs."""
    with pytest.raises(laws.LawBroken) as error:
        example()["test_causal_mask"]()
    assert re.match(f'causal_mask breaks .* "{EQUALS}"', str(error.value))
    assert "window: 1" in str(error.value)
    assert "int64[1, " in str(error.value)


def overflowing(scores: Any, mask: Any = None) -> Any:
    """Softmax without the maximum taken off."""
    with np.errstate(all="ignore"):
        weights = np.exp(scores) if mask is None else np.where(mask, np.exp(scores), 0)
        total = weights.sum(-1, keepdims=True)
        return weights / np.where(total == 0, 1, total)


def test_a_softmax_that_overflows_is_found():
    # A broken law is told in several lines, so `refused` can't be used.
    with pytest.raises(laws.LawBroken, match=pattern("equals", "specification")):
        laws.check("softmax", overflowing)
    with pytest.raises(laws.LawBroken, match=pattern('"large scores do not overflow"')):
        laws.check("softmax", overflowing, only="large scores do not overflow")


def test_a_message_has_law_inputs_and_budget():
    def off(scores: Any, mask: Any = None) -> Any:
        return SPEC["softmax"](scores, mask) + np.float32(0.5)

    with pytest.raises(laws.LawBroken) as error:
        laws.check("softmax", off, mask=None)
    first, *lines = str(error.value).splitlines()
    assert re.match(f'softmax breaks .* "{EQUALS}": softmax out: .* 0.5, budget ', first)
    assert 0 < float(first.rsplit(" ", 1)[1]) < 1e-5
    assert any(line.strip().startswith("scores: float32[1, 1, 1] = [[[") for line in lines)


def test_what_a_kernel_does_not_take_stays_at_its_default():
    def few(q: Any, k: Any, v: Any, *, scale: Any = None) -> Any:
        return SPEC["attend"](q, k, v, scale=scale)

    applied = laws.check("attend", few, examples=5)
    assert EQUALS in applied
    assert "keys are a set" in applied
    assert "a forbidden key is as if absent" not in applied
    absent = {"a forbidden key is as if absent", "a sink is a key without a value"}
    assert set(applied) == set(laws.names()["attend"]) - absent


def test_settings_arrays_and_sizes_can_be_fixed():
    seen = []

    def spy(q: Any, k: Any, v: Any, mask: Any = None, bias: Any = None, *, scale: Any, softcap: Any) -> Any:
        seen.append((q.shape[3], mask is None, softcap))
        return SPEC["attend"](q, k, v, mask, bias, scale=scale, softcap=softcap)

    fixed = {"softcap": 2.0, "mask": True, "K": 8}
    laws.check("attend", spy, only=EQUALS, examples=20, **fixed)
    assert set(seen) == {(8, False, 2.0)}


def test_fields_of_structures_and_settings_can_be_fixed():
    """Limits of a kernel are named by the field, and its results may be plain tuples."""
    seen = []

    def spy(x: Any, cache: Any, past: Any, weights: Any, rotary: Any = None, *, settings: Any) -> Any:
        a = settings
        seen.append((a.head_size, a.softcap, a.window, a.qk_norm, "bq" in weights))
        y, new = SPEC["attention"](x, cache, past, weights, rotary, settings=settings)
        return y, (new.keys, new.values)

    fixed = {
        "softcap": None,
        "window": 3,
        "k_scale": None,
        "q_norm": None,
        "bare_norm": False,
        "sink_logits": None,
        "bq": True,
        "J": 32,
        "U": 0,
    }
    applied = laws.check("attention", spy, examples=10, **fixed)
    assert applied == laws.names()["attention"]
    assert set(seen) == {(64, None, 3, None, True)}
    with refused(TypeError, "attention", "'k_norn'"):
        laws.check("attention", spy, k_norn=None)


def test_arrays_are_converted_and_dtypes_kept():
    def kernel(x: Any) -> Any:
        assert isinstance(x, list)
        return np.maximum(np.array(x, np.float32), np.float32(0))

    assert laws.check("relu", kernel, arrays=lambda a: [*a], examples=5)
    with pytest.raises(laws.LawBroken, match=pattern("float64", "float32")):
        laws.check("relu", lambda x: np.maximum(x.astype(np.float64), 0))


def test_wrong_uses_are_errors():
    with refused(LookupError, "'atend'", "'attend'"):
        laws.check("atend", SPEC["attend"])
    with refused(LookupError, "attend", "'nothing'"):
        laws.check("attend", SPEC["attend"], only="nothing")
    with refused(TypeError, "attend", "'masc'"):
        laws.check("attend", SPEC["attend"], masc=None)
    with refused(TypeError, "rotate", "'K'"):
        laws.check("rotate", SPEC["rotate"], K=8)
    with refused(TypeError, "attend", "'v'", "test"):
        laws.check("attend", lambda q, k: q)


def changed(name: str, **arrays: Any) -> Any:
    """The specified function with changed arrays: a kernel with a known bug."""

    def kernel(*args: Any, **settings: Any) -> Any:
        names = list(inspect.signature(SPEC[name]).parameters)
        return SPEC[name](
            *(arrays.get(n, lambda a: a)(a) for n, a in zip(names, args, strict=False)), **settings
        )

    return kernel


# A law -> a kernel that breaks it; the equality with the specification isn't needed to see them.
BROKEN = {
    ("softmax", "weights are a distribution"): lambda s, mask=None: SPEC["softmax"](s, mask) * 1.001,
    ("softmax", "a shift of all scores changes nothing"): lambda s, mask=None: SPEC["softmax"](abs(s), mask),
    ("attend", "keys are a set"): changed("attend", v=lambda v: np.roll(v, 1, axis=1)),
    ("attend", "grouped heads are repeated heads"): lambda q, k, v: SPEC["attend"](
        q, *(np.tile(a, (1, 1, q.shape[2] // k.shape[2], 1)) for a in (k, v))
    ),
    ("attend", "a forbidden key is as if absent"): changed("attend", mask=lambda m: m | True),
    ("cached_attention", "any split of the tokens is one pass"): changed(
        "cached_attention", past=lambda p: p * 0
    ),
    ("cached_attention", "each token sees the past and itself"): changed(
        "cached_attention", v=lambda v: v[::-1]
    ),
    ("attention", "the sublayer is its parts"): changed(
        "attention", weights=lambda w: w | {"wk": w["wv"], "wv": w["wk"]}
    ),
    ("gated_mlp", "the gate multiplies the hidden units"): changed(
        "gated_mlp", weights=lambda w: w | {"gate": w["up"], "up": w["gate"]}
    ),
    ("layer_norm", "the mean is subtracted"): lambda x, weight, bias=None, *, eps: SPEC["rms_norm"](
        x, weight, eps=eps
    ),
    ("rms_norm", "the mean square is one"): lambda x, weight, *, eps: SPEC["rms_norm"](
        x, weight, eps=2 * eps
    ),
    ("rotate", "scores depend on distance only"): changed("rotate", sin=np.negative, cos=abs),
    ("rotate", "tokens do not depend on each other"): changed("rotate", cos=lambda c: c[:, ::-1]),
    ("append", "only its rows are written"): changed("append", start=lambda s: s * 0),
    ("linear", "a unit vector reads a row of the weight"): changed("linear", weight=lambda w: w[:, ::-1]),
    ("quantize_activations", "the largest of each block is 127"): lambda x, *, block: SPEC[
        "quantize_activations"
    ](x, block=block + 1),
    ("static_quantize", "codes quantize to themselves"): changed("static_quantize", zero=lambda z: z + 1),
    ("lstm", "any split of the tokens is one pass"): changed(
        "lstm", c0=lambda c: None if c is None else c * 0
    ),
}


@pytest.mark.parametrize(("name", "law"), BROKEN, ids=lambda a: a.replace(" ", "_"))
def test_a_law_finds_its_bug(name: str, law: str):
    with pytest.raises(laws.LawBroken, match=law):
        laws.check(name, BROKEN[name, law], only=law)
